/* Status, memory, strings, random numbers, 16-bit conversions. */
#include "support/support.h"
#include "f8_values.h"

#include "draws.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void test_errors_are_escaped(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    assert_int_equal(sara_fail(ctx, SARA_ERROR_INPUT, "a\033[31m\n\x80 %s", "caf\xc3\xa9"),
                     SARA_ERROR_INPUT);
    assert_string_equal(sara_context_error(ctx), "a\\x1b[31m\\x0a\\x80 caf\xc3\xa9");
    assert_int_equal(sara_fail_in(ctx, SARA_ERROR_IO, "file\r"), SARA_ERROR_IO);
    assert_string_equal(sara_context_error(ctx), "file\\x0d: a\\x1b[31m\\x0a\\x80 caf\xc3\xa9");
    static const struct {
        const char *raw, *shown;
    } cases[] = {
        {"\xc2\x9f\xc2\xa0", "\\xc2\\x9f\xc2\xa0"}, /* the last C1 control, and what follows it */
        {"\xed\x9f\xbf\xed\xa0\x80", "\xed\x9f\xbf\\xed\\xa0\\x80"}, /* a surrogate */
        {"\xf4\x8f\xbf\xbf\xf4\x90\x80\x80", "\xf4\x8f\xbf\xbf\\xf4\\x90\\x80\\x80"}, /* the end */
        {"\xe0\xa0\x80\xe0\x9f\xbf", "\xe0\xa0\x80\\xe0\\x9f\\xbf"}, /* overlong */
        {"\xc0\xaf", "\\xc0\\xaf"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_fail(ctx, SARA_ERROR_INPUT, "%s", cases[i].raw);
        assert_string_equal(sara_context_error(ctx), cases[i].shown);
    }
    sara_context_free(ctx);
    assert_string_equal(sara_context_error(NULL), "out of memory");
}

static void test_long_error_is_cut(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char text[5000];
    memset(text, '\001', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(sara_fail(ctx, SARA_ERROR_IO, "%s", text), SARA_ERROR_IO);
    assert_in_range(strlen(sara_context_error(ctx)), 1000, 2047);
    sara_context_free(ctx);
}

static void test_sizes_are_checked(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    void *memory = ctx;
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_alloc(ctx, &memory, SIZE_MAX / 2, 3));
    assert_null(memory);
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_alloc(ctx, &memory, SIZE_MAX - 8, 1));
    sara_tensor tensor;
    sara_shape huge = sara_shape3(INT64_MAX / 2, 3, 1);
    assert_refused(ctx, SARA_ERROR_MEMORY, "too large",
                   sara_tensor_new(ctx, &tensor, SARA_F32, &huge));
    assert_ok(ctx, sara_alloc(ctx, &memory, 0, 8));
    assert_null(memory);
    assert_ok(ctx, sara_alloc_zero(ctx, &memory, 3, 5));
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (int i = 0; i < 15; i++)
        assert_int_equal(((char *)memory)[i], 0);
    sara_free(ctx, memory);
    sara_context_free(ctx);
}

static void test_grow_and_arena(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    int *numbers = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_ok(ctx, sara_grow(ctx, &numbers, &capacity, i + 1, sizeof(*numbers)));
        numbers[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++)
        assert_int_equal(numbers[i], i);
    sara_free(ctx, numbers);

    sara_arena arena;
    sara_arena_init(&arena, ctx);
    const char *copies[300];
    for (int i = 0; i < 300; i++) {
        char text[1000];
        snprintf(text, sizeof(text), "%0*d", i * 3 + 1, i);
        assert_ok(ctx, sara_arena_strdup(&arena, &copies[i], text));
    }
    for (int i = 0; i < 300; i++)
        assert_int_equal(atoi(copies[i]), i);
    char *big;
    assert_ok(ctx, sara_arena_alloc(&arena, &big, 1 << 20, 1));
    memset(big, 1, 1 << 20);
    char *again;
    sara_arena_reset(&arena); /* the same memory serves again */
    assert_ok(ctx, sara_arena_reserve(&arena, 1 << 20));
    assert_ok(ctx, sara_arena_alloc(&arena, &again, 1 << 20, 1));
    assert_ptr_equal(again, big);
    sara_arena_free(&arena);

    char *path;
    assert_ok(ctx, sara_path_join(ctx, &path, "a/", "b"));
    assert_string_equal(path, "a/b");
    sara_free(ctx, path);
    sara_context_free(ctx);
}

/* Known answers of the Random123 distribution for philox4x32-10. */
static void test_philox_known_answers(void **state)
{
    (void)state;
    const uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    const uint32_t expected_zero[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    const uint32_t expected_ones[4] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu};
    const uint32_t pi[4] = {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u};
    const uint32_t key[2] = {0xa4093822u, 0x299f31d0u};
    const uint32_t expected_pi[4] = {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u};
    uint32_t out[4];
    sara_philox(out, pi, key);
    assert_memory_equal(out, expected_pi, sizeof(out));
    sara_philox(out, zero, zero);
    assert_memory_equal(out, expected_zero, sizeof(out));
    sara_philox(out, ones, ones);
    assert_memory_equal(out, expected_ones, sizeof(out));
}

/* Counters, keys and retries are those of another implementation: a run's numbers hang on them. */
static void test_draws_are_as_ever(void **state)
{
    (void)state;
    float normals[11], uniforms[11];
    for (uint64_t i = 0; i < 16; i++) {
        assert_true(sara_draw_below(DRAW_BOUND, DRAW_SEED, SARA_DRAW_TEST, DRAW_INDEX, i) ==
                    drawn_below[i]);
        assert_true(sara_draw_below(7, DRAW_SEED, SARA_DRAW_STATE, DRAW_INDEX, i) ==
                    drawn_below_7[i]);
    }
    sara_draw_normal(normals, 11, DRAW_SEED, SARA_DRAW_TEST, DRAW_INDEX);
    sara_draw_uniform(uniforms, 11, DRAW_SEED, SARA_DRAW_TEST, DRAW_INDEX);
    for (int i = 0; i < 11; i++) {
        assert_close(fabs(normals[i] - drawn_normals[i]), 1e-6 * fabs(drawn_normals[i]), "normal");
        assert_true(uniforms[i] == drawn_uniforms[i]);
    }
}

static void test_draws(void **state)
{
    (void)state;
    enum { COUNT = 200001 };
    float *a = malloc(COUNT * sizeof(*a)), *b = malloc(COUNT * sizeof(*b));
    sara_draw_normal(a, COUNT, 7, SARA_DRAW_NOISE, 3);
    sara_draw_normal(b, 11, 7, SARA_DRAW_NOISE, 3);
    assert_memory_equal(a, b, 11 * sizeof(*a)); /* a prefix does not depend on the length */
    sara_draw_normal(b, COUNT, 7, SARA_DRAW_LATENT, 3);
    double mean = 0, square = 0, fourth = 0, product = 0;
    for (int i = 0; i < COUNT; i++) {
        mean += a[i] / COUNT;
        square += (double)a[i] * a[i] / COUNT;
        fourth += pow(a[i], 4) / COUNT;
        product += (double)a[i] * b[i] / COUNT;
    }
    assert_close(fabs(mean), 0.01, "mean");
    assert_close(fabs(square - 1), 0.015, "variance");
    assert_close(fabs(fourth - 3), 0.1, "fourth moment");
    assert_close(fabs(product), 0.01, "correlation of purposes");
    sara_draw_uniform(a, COUNT, 7, SARA_DRAW_FLIP, 0);
    mean = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(a[i] >= 0 && a[i] < 1);
        mean += a[i] / COUNT;
    }
    assert_close(fabs(mean - 0.5), 0.005, "uniform mean");
    int seen[7] = {0};
    for (uint64_t i = 0; i < 7000; i++)
        seen[sara_draw_below(7, 1, SARA_DRAW_ORDER, 5, i)]++;
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 850, 1150);
    free(a);
    free(b);
}

static void check_f8(sara_dtype dtype, const uint32_t *expected)
{
    uint8_t codes[256];
    float values[256], again[256];
    uint16_t halves[256];
    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    sara_convert_to_f32(values, codes, dtype, 256);
    /* What is written anew holds them all. */
    assert_int_equal(sara_dtype_widened(dtype), SARA_F16);
    sara_convert_from_f32(halves, SARA_F16, values, 256);
    sara_convert_to_f32(again, halves, SARA_F16, 256);
    for (int i = 0; i < 256; i++) {
        float wanted;
        memcpy(&wanted, &expected[i], sizeof(wanted));
        assert_true(isnan(wanted) ? isnan(values[i])
                                  : memcmp(&values[i], &wanted, sizeof(wanted)) == 0);
        assert_true(isnan(wanted) || memcmp(&again[i], &wanted, sizeof(wanted)) == 0);
    }
}

/* Every code of the 8-bit types is what PyTorch reads in it. */
static void test_f8(void **state)
{
    (void)state;
    check_f8(SARA_F8_E4M3, f8_e4m3);
    check_f8(SARA_F8_E5M2, f8_e5m2);
    assert_true(sara_dtype_is_float(SARA_F8_E4M3) && sara_dtype_is_float(SARA_F8_E5M2));
    assert_false(sara_dtype_is_float(SARA_F8_E8M0));
}

/* Every f16 and bf16 converts to f32 and back to itself; halfway cases go to even. */
static void test_conversions(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = sara_f16_to_f32((uint16_t)h);
        if (f == f)
            assert_int_equal(sara_f32_to_f16(f), h);
        else
            assert_true(sara_f16_to_f32(sara_f32_to_f16(f)) != f);
        f = sara_bf16_to_f32((uint16_t)h);
        if (f == f)
            assert_int_equal(sara_f32_to_bf16(f), h);
    }
    for (uint32_t h = 0; h < 0x7BFF; h++) { /* halfway of neighbours, just below, just above */
        float low = sara_f16_to_f32((uint16_t)h), high = sara_f16_to_f32((uint16_t)(h + 1));
        float middle = low + (high - low) / 2;
        assert_int_equal(sara_f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(sara_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(sara_f32_to_f16(-nextafterf(middle, INFINITY)), 0x8000 | (h + 1));
    }
    assert_int_equal(sara_f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(sara_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(sara_f32_to_bf16(1.00390625f), 0x3F80);
    assert_int_equal(sara_f32_to_bf16(1.01171875f), 0x3F82);
    assert_true(isnan(sara_bf16_to_f32(sara_f32_to_bf16(NAN))));
    const uint32_t nans[] = {0x7F800001u, 0xFF800001u, 0x7FFFFFFFu}; /* the last bits say it */
    for (int i = 0; i < 3; i++) {
        float nan;
        memcpy(&nan, &nans[i], sizeof(nan));
        assert_true(isnan(sara_bf16_to_f32(sara_f32_to_bf16(nan))));
        assert_true(isnan(sara_f16_to_f32(sara_f32_to_f16(nan))));
    }
}

/* Whole arrays as the single values; parameters of each dtype. */
static void test_conversions_of_arrays(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    const sara_dtype dtypes[] = {SARA_F16, SARA_BF16, SARA_F32};
    const sara_shape shape = sara_shape2(16, 4099);
    size_t count = (size_t)sara_shape_count(&shape);
    float *values = malloc(count * sizeof(*values)), buffer[SARA_PARAM_BLOCK];
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) { /* all exponents, and fractions that need rounding */
        uint32_t bits = (uint32_t)i * 2654435761u;
        memcpy(&values[i], &bits, sizeof(bits));
    }
    for (int d = 0; d < 3; d++) {
        sara_param param = {.name = "p"};
        assert_ok(ctx, sara_tensor_new(ctx, &param.value, dtypes[d], &shape));
        sara_convert_from_f32(param.value.data, dtypes[d], values, count);
        for (size_t at = 0, part; at < count; at += part) {
            part = sara_param_part(count, at);
            const float *block = sara_param_block(&param, buffer, at, part);
            for (size_t i = 0; i < part; i++) {
                float kept = sara_param_get(&param, at + i), set;
                sara_param_set(&param, at + i, values[at + i]);
                set = sara_param_get(&param, at + i);
                assert_true(isnan(kept) ? isnan(set) && isnan(block[i])
                                        : kept == set && kept == block[i]);
            }
        }
        sara_tensor_free(ctx, &param.value);
    }
    free(values);
    sara_context_free(ctx);
}

static void test_params_find(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_params params;
    const char *names[] = {"a.bias", "a.weight", "b.weight"};
    assert_ok(ctx, sara_params_new(ctx, &params, 3));
    for (int i = 0; i < 3; i++) {
        sara_shape shape = sara_shape2(2, 3);
        char *name;
        assert_ok(ctx, sara_strdup(ctx, &name, names[i]));
        params.items[i].name = name;
        assert_ok(ctx, sara_tensor_new(ctx, &params.items[i].value, SARA_F32, &shape));
    }
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(sara_params_find(&params, names[i]), &params.items[i]);
    assert_null(sara_params_find(&params, "a"));
    assert_null(sara_params_find(&params, "c"));
    assert_int_equal(sara_params_entries(&params), 18);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Bytes of the process that are in memory. */
static long resident(void)
{
    long all = 0, here = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &all, &here), 2);
    fclose(file);
    return here * sysconf(_SC_PAGESIZE);
}

/* What lies below something that stays goes back to the system as well. */
static void test_trim(void **state)
{
    (void)state;
    enum { COUNT = 32, SIZE = 2 << 20 };
    sara_context *ctx = test_context();
    char *blocks[COUNT], *large = NULL, *stays = NULL;
    assert_ok(ctx, sara_alloc(ctx, &large, 24 << 20, 1)); /* from now on such come from the heap */
    sara_free(ctx, large);
    for (int i = 0; i < COUNT; i++) {
        assert_ok(ctx, sara_alloc(ctx, &blocks[i], SIZE, 1));
        memset(blocks[i], 1, SIZE);
    }
    assert_ok(ctx, sara_alloc(ctx, &stays, 1 << 20, 1));
    long before = resident();
    for (int i = 0; i < COUNT; i++)
        sara_free(ctx, blocks[i]);
    sara_memory_trim();
#ifndef __SANITIZE_ADDRESS__ /* which has an allocator of its own, that keeps what is freed */
    assert_true(before - resident() > (COUNT - 4) * (long)SIZE);
#endif
    sara_free(ctx, stays);
    sara_context_free(ctx);
    (void)before;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f8),
        cmocka_unit_test(test_errors_are_escaped),
        cmocka_unit_test(test_long_error_is_cut),
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_grow_and_arena),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_draws_are_as_ever),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_conversions_of_arrays),
        cmocka_unit_test(test_params_find),
        cmocka_unit_test(test_trim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
