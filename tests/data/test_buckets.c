/* Buckets and which of them images get, against what kohya's sd-scripts give: make_buckets.py. */
#include "support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void take_setting(data_test *test, sara_buckets *buckets, const char *line)
{
    sara_bucket_options o = {.enabled = true};
    int no_upscale, count;
    assert_int_equal(sscanf(line, "setting %d %d %d %d %d %d %d", &o.width, &o.height, &o.least,
                            &o.most, &o.steps, &no_upscale, &count),
                     7);
    o.no_upscale = no_upscale != 0;
    sara_buckets_free(test->ctx, buckets);
    assert_ok(test->ctx, sara_buckets_make(test->ctx, buckets, &o));
    assert_int_equal(buckets->count, count);
}

static void check_bucket(const sara_buckets *buckets, const char *line, size_t index)
{
    int width, height;
    assert_int_equal(sscanf(line, "bucket %d %d", &width, &height), 2);
    assert_in_range(index, 0, buckets->count - 1);
    assert_int_equal(buckets->sizes[index].width, width);
    assert_int_equal(buckets->sizes[index].height, height);
}

static void test_recorded(void **state)
{
    data_test *test = *state;
    sara_buckets buckets = {0};
    size_t images = 0, settings = 0, sizes = 0, size;
    char *text = NULL, *rest, *line;
    assert_ok(test->ctx,
              sara_file_read(test->ctx, &text, &size, SARA_TEST_DATA "/buckets.txt", 1 << 20));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        int image[2], expected[4];
        sara_fit fit;
        if (strncmp(line, "setting", 7) == 0) {
            take_setting(test, &buckets, line);
            settings++;
            sizes = 0;
            continue;
        }
        if (strncmp(line, "bucket", 6) == 0) {
            check_bucket(&buckets, line, sizes++);
            continue;
        }
        assert_int_equal(sizes, buckets.count);
        assert_int_equal(sscanf(line, "%d %d %d %d %d %d", &image[0], &image[1], &expected[0],
                                &expected[1], &expected[2], &expected[3]),
                         6);
        assert_ok(test->ctx,
                  sara_buckets_fit(test->ctx, &fit, &buckets, "a.png", image[0], image[1]));
        const int got[4] = {fit.width, fit.height, fit.resized_width, fit.resized_height};
        if (memcmp(got, expected, sizeof(got)) != 0)
            fail_msg("%s: got %d %d %d %d", line, got[0], got[1], got[2], got[3]);
        images++;
    }
    assert_int_equal(settings, 6);
    assert_int_equal(images, 6 * 200);
    sara_buckets_free(test->ctx, &buckets);
    sara_free(test->ctx, text);
}

/* Limits become multiples of the steps, which is told. */
static void test_limits(void **state)
{
    data_test *test = *state;
    sara_bucket_options o = {512, 512, true, false, 300, 1000, 64};
    sara_buckets buckets;
    assert_ok(test->ctx, sara_buckets_make(test->ctx, &buckets, &o));
    assert_int_equal(buckets.options.least, 256);
    assert_int_equal(buckets.options.most, 1024);
    assert_non_null(strstr(test->log, "warning: min_bucket_reso 300 becomes 256, a multiple of "
                                      "bucket_reso_steps 64"));
    assert_non_null(strstr(test->log, "warning: max_bucket_reso 1000 becomes 1024"));
    sara_buckets_free(test->ctx, &buckets);
    o = (sara_bucket_options){512, 448, true, false, 512, 1024, 64};
    assert_refused(test->ctx, SARA_ERROR_USAGE,
                   "min_bucket_reso 512: is above the resolution's 448",
                   sara_buckets_make(test->ctx, &buckets, &o));
    o = (sara_bucket_options){512, 448, true, false, 256, 448, 64};
    assert_refused(test->ctx, SARA_ERROR_USAGE,
                   "max_bucket_reso 448: is below the resolution's 512",
                   sara_buckets_make(test->ctx, &buckets, &o));
    o = (sara_bucket_options){512, 448, true, false, 32, 1024, 64};
    assert_refused(test->ctx, SARA_ERROR_USAGE,
                   "min_bucket_reso 32: expected at least bucket_reso_steps 64",
                   sara_buckets_make(test->ctx, &buckets, &o));
}

static void test_too_small(void **state)
{
    data_test *test = *state;
    const sara_bucket_options o = {512, 512, true, true, 256, 1024, 64};
    sara_buckets buckets;
    sara_fit fit;
    assert_ok(test->ctx, sara_buckets_make(test->ctx, &buckets, &o));
    assert_ok(test->ctx, sara_buckets_fit(test->ctx, &fit, &buckets, "a.png", 64, 64));
    assert_refused(test->ctx, SARA_ERROR_INPUT,
                   "a.png: 63x900 is too small for a bucket in steps of 64",
                   sara_buckets_fit(test->ctx, &fit, &buckets, "a.png", 63, 900));
    assert_refused(test->ctx, SARA_ERROR_INPUT, "a.png: 1x30000 is too small",
                   sara_buckets_fit(test->ctx, &fit, &buckets, "a.png", 1, 30000));
    sara_buckets_free(test->ctx, &buckets);
}

/* Without buckets a resolution that is no square is covered as by its one bucket. */
static void test_one_shape(void **state)
{
    data_test *test = *state;
    const sara_bucket_options o = {96, 64, false, false, 0, 0, 0};
    sara_buckets buckets;
    sara_fit fit;
    assert_ok(test->ctx, sara_buckets_make(test->ctx, &buckets, &o));
    assert_ok(test->ctx, sara_buckets_fit(test->ctx, &fit, &buckets, "a.png", 100, 100));
    const sara_fit expected = {96, 64, 96, 96};
    assert_memory_equal(&fit, &expected, sizeof(fit));
    sara_buckets_free(test->ctx, &buckets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_recorded),
        DATA_TEST(test_limits),
        DATA_TEST(test_too_small),
        DATA_TEST(test_one_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
