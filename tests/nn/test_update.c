/* The fast kernels of an optimiser against the plain ones, to the bit. */
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#define ITEMS 9
#define DRAWS 8191

/* Sums are many times longer than what is summed at once, and parts end within parameters. */
static const size_t counts[ITEMS] = {1, 0, 7, 1024, 1029, 70001, 33, 2049, 3};

/* Parameters that lie one after the other, nothing aligned; what lies between belongs to none. */
typedef struct update_world {
    float *floats; /* of all arrays of floats */
    uint16_t *values;
    uint32_t *positions;
    size_t float_count, value_count;
    sara_update items[ITEMS];
} update_world;

static float *repeat_draws(size_t count, uint64_t seed)
{
    float *draws = test_nn_random(DRAWS, seed), *out = test_nn_zeros(count);
    for (size_t i = 0; i < count; i++)
        out[i] = draws[i % DRAWS];
    free(draws);
    return out;
}

static float *take_floats(float **next, size_t count)
{
    float *taken = *next + 1;
    *next = taken + count;
    return taken;
}

/* The same draws for the same seed. */
static void world_open(update_world *w, sara_dtype dtype, bool sampled, bool added)
{
    size_t total = 0, words = dtype == SARA_F32 ? 2 : 1, stride = sampled ? 3 : 1;
    for (size_t i = 0; i < ITEMS; i++)
        total += counts[i];
    w->float_count = 5 * (total + ITEMS) + 1;
    w->value_count = (stride * total + 3 * ITEMS) * words;
    w->floats = repeat_draws(w->float_count, 1);
    float *drawn = repeat_draws(w->value_count / words, 2), *next = w->floats;
    w->values = calloc(w->value_count + 1, sizeof(*w->values));
    w->positions = calloc(total + 1, sizeof(*w->positions));
    sara_convert_from_f32(w->values, dtype, drawn, w->value_count / words);
    free(drawn);
    size_t entry = 0, value = words;
    for (size_t i = 0; i < ITEMS; i++) {
        size_t n = counts[i];
        sara_update *u = &w->items[i];
        *u = (sara_update){.value = w->values + value, .dtype = dtype, .count = n};
        u->positions = sampled ? w->positions + entry : NULL;
        for (size_t k = 0; k < n; k++)
            w->positions[entry + k] = (uint32_t)(3 * k + (k * k + i) % 3);
        u->masters = dtype == SARA_F32 ? NULL : take_floats(&next, n);
        u->gradient = take_floats(&next, n);
        u->moment1 = take_floats(&next, n);
        u->moment2 = take_floats(&next, n);
        u->added = added && i % 2 ? take_floats(&next, n) : NULL;
        for (size_t k = 0; k < n; k++)
            u->moment2[k] = u->moment2[k] * u->moment2[k];
        entry += n;
        value += (stride * n + 1) * words;
    }
}

static void world_close(update_world *w)
{
    free(w->floats);
    free(w->values);
    free(w->positions);
}

/* What is not finite, or less than any normal float, in each of the arrays. */
static void put_edges(update_world *w)
{
    const float edges[] = {NAN, INFINITY, -INFINITY, -0.0f, 0, 1e-42f, 3e38f};
    const size_t edge_count = sizeof(edges) / sizeof(*edges);
    for (size_t i = 0; i < ITEMS; i++) {
        const sara_update *u = &w->items[i];
        float *const arrays[] = {u->gradient, u->moment1, u->moment2, u->masters};
        for (size_t k = 0; k < 4 * edge_count; k++)
            if (arrays[k % 4] && k / 2 * 31 % 97 < u->count)
                arrays[k % 4][k / 2 * 31 % 97] = edges[k / 4];
    }
}

/* A NaN is one whatever its bits. */
static void assert_same_floats(const float *got, const float *expected, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!isnan(got[i]) || !isnan(expected[i]))
            assert_memory_equal(&got[i], &expected[i], sizeof(*got));
}

static void assert_same(const update_world *got, const update_world *expected, sara_dtype dtype)
{
    assert_same_floats(got->floats, expected->floats, got->float_count);
    if (dtype == SARA_F32)
        assert_same_floats((const float *)(const void *)got->values,
                           (const float *)(const void *)expected->values, got->value_count / 2);
    else
        assert_memory_equal(got->values, expected->values, got->value_count * sizeof(*got->values));
}

static void assert_all_zero(const update_world *w)
{
    for (size_t i = 0; i < ITEMS; i++)
        for (size_t k = 0; k < counts[i]; k++)
            assert_true(w->items[i].gradient[k] == 0);
}

static const sara_adamw numbers = {.scale = 0.37f,
                                   .clip = 0.81f,
                                   .beta1 = 0.9f,
                                   .beta1_rest = 0.1f,
                                   .beta2 = 0.99f,
                                   .beta2_rest = 0.01f,
                                   .correction2 = 0.3f,
                                   .epsilon = 1e-8f,
                                   .decay = 0.99f,
                                   .rate = -0.01f};

static void compare_step(test_pair *pair, sara_dtype dtype, bool sampled, bool added, bool edges)
{
    update_world fast, plain;
    double sums[ITEMS + 1] = {0}, expected[ITEMS + 1] = {0};
    world_open(&fast, dtype, sampled, added);
    world_open(&plain, dtype, sampled, added);
    if (edges) {
        put_edges(&fast);
        put_edges(&plain);
    }
    const sara_updates f = {fast.items, ITEMS}, p = {plain.items, ITEMS};
    sums[ITEMS] = expected[ITEMS] = 5;
    assert_ok(pair->fe.ctx, sara_kernel_square_sums(&pair->fe, sums, &f, 0.37f));
    assert_ok(pair->pe.ctx, sara_kernel_square_sums(&pair->pe, expected, &p, 0.37f));
    for (size_t i = 0; i <= ITEMS; i++)
        if (!isnan(sums[i]) || !isnan(expected[i]))
            assert_memory_equal(&sums[i], &expected[i], sizeof(*sums));
    assert_true(edges || sums[5] > 0);
    for (int step = 0; step < 2; step++) { /* the second one's gradients are zero */
        assert_ok(pair->fe.ctx, sara_kernel_adamw(&pair->fe, &f, &numbers));
        assert_ok(pair->pe.ctx, sara_kernel_adamw(&pair->pe, &p, &numbers));
        assert_same(&fast, &plain, dtype);
        assert_all_zero(&plain);
    }
    world_close(&fast);
    world_close(&plain);
}

static void check_steps(void *argument)
{
    const sara_dtype dtypes[] = {SARA_F32, SARA_F16, SARA_BF16};
    for (size_t i = 0; i < 3; i++)
        for (int choice = 0; choice < 8; choice++)
            compare_step(argument, dtypes[i], choice & 1, choice & 2, choice & 4);
}

static void test_steps(void **state)
{
    (void)state;
    test_pair pair = test_pair_open();
    test_simd_each(check_steps, &pair);
    test_pair_close(&pair);
}

/* Each is of its own update, whatever thread has which; of none nothing is read. */
static void test_sums(void **state)
{
    (void)state;
    enum { MANY = 100 };
    sara_update items[MANY];
    double sums[MANY];
    float *gradients = test_nn_random(MANY, 3);
    for (int threads = 1; threads <= 5; threads += 2) {
        sara_kernel_env env = test_simd_env(threads);
        for (size_t count = 0; count <= MANY; count += 3) {
            for (size_t i = 0; i < count; i++)
                items[i] = (sara_update){.gradient = gradients, .count = i};
            const sara_updates updates = {items, count};
            assert_ok(env.ctx, sara_kernel_square_sums(&env, sums, &updates, 2));
            double sum = 0;
            for (size_t i = 0; i < count; i++) {
                assert_true(sums[i] == sum);
                sum += (double)(2 * gradients[i]) * (double)(2 * gradients[i]);
            }
        }
        test_simd_env_free(&env);
    }
    free(gradients);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps), cmocka_unit_test(test_sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
