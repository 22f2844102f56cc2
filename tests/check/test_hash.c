/* Perceptual hashes against those that imagehash made (hashes.txt, by make_hashes.py). */
#include "support/support.h"

#include "check/check.h"

#include <stdio.h>
#include <string.h>

static void test_recorded(void **state)
{
    sara_context *ctx = test_context();
    FILE *list = fopen(SARA_TEST_CHECK "/hashes.txt", "r");
    char name[64], digits[17];
    int count = 0;
    (void)state;
    assert_non_null(list);
    for (; fscanf(list, "%63s %16s", name, digits) == 2; count++) {
        char *path = NULL, made[17];
        sara_image image = {0};
        uint64_t hash;
        bool is_hashed;
        assert_ok(ctx, sara_path_join(ctx, &path, SARA_TEST_EMOJI "/ink", name));
        assert_ok(ctx, sara_image_read(ctx, &image, path));
        assert_ok(ctx, sara_perceptual_hash(ctx, &hash, &is_hashed, &image));
        snprintf(made, sizeof(made), "%016llx", (unsigned long long)hash);
        if (strcmp(made, digits) != 0)
            fail_msg("%s: %s, expected %s", name, made, digits);
        assert_true(is_hashed);
        sara_image_clear(ctx, &image);
        sara_free(ctx, path);
    }
    assert_true(count > 25);
    fclose(list);
    sara_context_free(ctx);
}

/* An image of one colour is like any other: it has no hash. */
static void test_flat(void **state)
{
    static uint8_t pixels[64 * 48 * 3];
    const sara_image image = {64, 48, pixels};
    sara_context *ctx = test_context();
    uint64_t hash;
    bool is_hashed = true;
    (void)state;
    memset(pixels, 90, sizeof(pixels));
    assert_ok(ctx, sara_perceptual_hash(ctx, &hash, &is_hashed, &image));
    assert_false(is_hashed);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded),
                                       cmocka_unit_test(test_flat)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
