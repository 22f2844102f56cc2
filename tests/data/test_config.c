/* kohya's files of several data sets. */
#include "support_data.h"

#include <string.h>

static sara_image_set set_defaults(void)
{
    return (sara_image_set){.buckets = {64, 64, false, false, 256, 1024, 64}, .batch_size = 4};
}

static sara_subset subset_defaults(void)
{
    return (sara_subset){.num_repeats = 1, .captions = {.separator = ","}};
}

static sara_status read_config(data_test *test, sara_data_config *out, const char *name,
                               const char *content)
{
    const sara_image_set set = set_defaults();
    const sara_subset subset = subset_defaults();
    data_put(test, name, content);
    return sara_data_config_read(test->ctx, out, data_path(test, name), &set, &subset);
}

static const char whole[] = "[general]\n"
                            "shuffle_caption = true\n"
                            "caption_extension = '.txt'\n"
                            "keep_tokens = 2\n"
                            "batch_size = 3\n"
                            "\n"
                            "[[datasets]]\n"
                            "resolution = 512\n"
                            "enable_bucket = true\n"
                            "min_bucket_reso = 128\n"
                            "keep_tokens = 1\n"
                            "  [[datasets.subsets]]\n"
                            "  image_dir = 'a b'\n"
                            "  num_repeats = 10\n"
                            "  class_tokens = \"sks girl\"\n"
                            "  keep_tokens = 0\n"
                            "  [[datasets.subsets]]\n"
                            "  image_dir = 'reg'\n"
                            "  is_reg = true\n"
                            "  caption_dropout_rate = 0.1\n"
                            "  flip_aug = true\n"
                            "\n"
                            "[[datasets]]\n"
                            "resolution = [768, 512]\n"
                            "batch_size = 2\n"
                            "  [[datasets.subsets]]\n"
                            "  image_dir = 'c'\n"
                            "  caption_prefix = 'p'\n"
                            "  shuffle_caption = false\n";

/* The innermost table that has a key gives its value. */
static void test_levels(void **state)
{
    data_test *test = *state;
    sara_data_config c;
    assert_ok(test->ctx, read_config(test, &c, "a.toml", whole));
    assert_int_equal(c.set_count, 2);
    assert_int_equal(c.subset_count, 3);
    const sara_bucket_options first = {512, 512, true, false, 128, 1024, 64};
    const sara_bucket_options second = {768, 512, false, false, 256, 1024, 64};
    assert_memory_equal(&c.sets[0].buckets.width, &first.width, 2 * sizeof(int));
    assert_true(c.sets[0].buckets.enabled && !c.sets[1].buckets.enabled);
    assert_int_equal(c.sets[0].buckets.least, first.least);
    assert_int_equal(c.sets[1].buckets.least, second.least);
    assert_memory_equal(&c.sets[1].buckets.width, &second.width, 2 * sizeof(int));
    assert_int_equal(c.sets[0].batch_size, 3);
    assert_int_equal(c.sets[1].batch_size, 2);
    const sara_subset *s = c.subsets;
    assert_string_equal(s[0].image_dir, "a b");
    assert_string_equal(s[0].class_tokens, "sks girl");
    assert_int_equal(s[0].num_repeats, 10);
    assert_int_equal(s[1].num_repeats, 1);
    assert_true(s[0].captions.keep_tokens == 0 && s[1].captions.keep_tokens == 1 &&
                s[2].captions.keep_tokens == 2);
    assert_true(s[0].captions.shuffle && s[1].captions.shuffle && !s[2].captions.shuffle);
    assert_true(!s[0].is_reg && s[1].is_reg && s[1].flip_aug && !s[0].flip_aug);
    assert_true(s[1].captions.dropout_rate == 0.1);
    assert_string_equal(s[2].captions.prefix, "p");
    assert_string_equal(s[2].caption_extension, ".txt");
    assert_true(s[0].set == 0 && s[1].set == 0 && s[2].set == 1);
    sara_data_config_free(&c);
}

static void test_json(void **state)
{
    data_test *test = *state;
    sara_data_config c;
    assert_ok(test->ctx, read_config(test, &c, "a.JSON",
                                     "{\"datasets\": [{\"batch_size\": 7, \"subsets\": "
                                     "[{\"image_dir\": \"x\"}]}]}"));
    assert_int_equal(c.sets[0].batch_size, 7);
    assert_string_equal(c.subsets[0].image_dir, "x");
    sara_data_config_free(&c);
}

static void test_refused(void **state)
{
    static const struct {
        const char *content, *message;
    } bad[] = {
        {"[[datasets]\n", "a.toml: line 1: "},
        {"x = 1\n", "a.toml: x: no such table; expected [general] and [[datasets]]"},
        {"[general]\n", "a.toml: no data set: expected at least one [[datasets]]"},
        {"[[datasets]]\nbatch_size = 1\n",
         "a.toml: datasets[0]: expected at least one [[datasets.subsets]]"},
        {"[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1\n",
         "a.toml: datasets[0].subsets[0]: image_dir is missing"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 3\n",
         "a.toml: datasets[0].subsets[0]: image_dir"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeat = 1\n",
         "a.toml: datasets[0].subsets[0]: num_repeat: no such key"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 0\n",
         "datasets[0].subsets[0]: num_repeats: 0, expected"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nbatch_size = 2\n",
         "batch_size: belongs into [[datasets]] or [general]"},
        {"[general]\nimage_dir = 'a'\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n",
         "general: image_dir: belongs into [[datasets.subsets]]"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nmetadata_file = 'm.json'\n",
         "metadata_file: sara does not have it: captions come from"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nface_crop_aug_range = [1.0, 2.0]\n",
         "face_crop_aug_range: sara does not have it"},
        {"[[datasets]]\nresolution = [1, 2, 3]\n[[datasets.subsets]]\nimage_dir = 'a'\n",
         "datasets[0]: resolution"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\ncaption_separator = ''\n",
         "caption_separator is empty"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nalpha_mask = true\n"
         "conditioning_data_dir = 'm'\n",
         "alpha_mask and conditioning_data_dir: choose one"},
    };
    data_test *test = *state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        sara_data_config c;
        assert_refused(test->ctx, SARA_ERROR_INPUT, bad[i].message,
                       read_config(test, &c, "a.toml", bad[i].content));
        sara_data_config_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_levels),
        DATA_TEST(test_json),
        DATA_TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
