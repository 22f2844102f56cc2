/* Low-rank changes of weights that are written in several blocks of rows, against plain loops in
 * double; with any number of threads to the same bits. */
#include "sparse/applied.h"
#include "sparse/support_sparse.h"

#include <math.h>

#define OUT  30
#define IN   100
#define AREA 9
#define COLS (IN * AREA)
#define RANK 3

static const test_tensor tensors[] = {{"w", OUT, COLS, NULL}};

static float wave(size_t i, double by)
{
    return (float)sin(by * (double)(i + 1));
}

static float *new_array(sara_arena *arena, size_t count, double by)
{
    float *values;
    assert_int_equal(sara_arena_alloc(arena, &values, count, sizeof(*values)), SARA_OK);
    for (size_t i = 0; i < count; i++)
        values[i] = wave(i, by);
    return values;
}

typedef struct kind_of_low {
    bool mid, magnitude, of_inputs;
} kind_of_low;

/* One layer of a convolution [30,100,3,3]. */
static sara_lora_file make_low(sara_context *ctx, const kind_of_low *kind)
{
    sara_lora_file file = {.count = 1};
    sara_lora_layer *layer;
    sara_arena_init(&file.arena, ctx);
    assert_int_equal(sara_arena_alloc(&file.arena, &file.layers, 1, sizeof(*file.layers)), SARA_OK);
    layer = file.layers;
    *layer = (sara_lora_layer){.name = "w", .rank = RANK, .out = OUT, .in = IN, .kh = 3, .kw = 3};
    layer->scale = 0.75;
    layer->magnitude_of_inputs = kind->of_inputs;
    layer->down = new_array(&file.arena, (size_t)RANK * (kind->mid ? IN : COLS), 0.37);
    layer->up = new_array(&file.arena, (size_t)OUT * RANK, 0.91);
    if (kind->mid)
        layer->mid = new_array(&file.arena, (size_t)RANK * RANK * AREA, 1.3);
    if (kind->magnitude)
        layer->magnitude = new_array(&file.arena, kind->of_inputs ? IN : OUT, 0.53);
    return file;
}

static double change_at(const sara_lora_layer *low, size_t row, size_t col)
{
    double sum = 0;
    for (size_t q = 0; q < RANK; q++) {
        double down = low->mid ? 0 : (double)low->down[q * COLS + col];
        for (size_t p = 0; low->mid && p < RANK; p++)
            down += (double)low->mid[(q * RANK + p) * AREA + col % AREA] *
                    (double)low->down[p * IN + col / AREA];
        sum += (double)low->up[row * RANK + q] * down;
    }
    return low->scale * sum;
}

/* out [OUT][COLS]: the new weight. */
static void expect_low(double *out, const float *original, const sara_lora_layer *low)
{
    double squares[IN > OUT ? IN : OUT] = {0};
    for (size_t i = 0; i < (size_t)OUT * COLS; i++) {
        size_t group = low->magnitude_of_inputs ? i % COLS / AREA : i / COLS;
        out[i] = (double)original[i] + change_at(low, i / COLS, i % COLS);
        squares[group] += out[i] * out[i];
    }
    for (size_t i = 0; low->magnitude && i < (size_t)OUT * COLS; i++) {
        size_t group = low->magnitude_of_inputs ? i % COLS / AREA : i / COLS;
        out[i] *= (double)low->magnitude[group] / sqrt(squares[group]);
    }
}

/* values [OUT][COLS]: what the parameter becomes at strength 0.4. */
static void apply_low(float *values, double *error, const kind_of_low *kind, int threads)
{
    const sara_context_options options = {.threads = threads};
    static double expected[OUT * COLS];
    sara_context *ctx;
    sara_applied *applied;
    size_t count;
    assert_int_equal(sara_context_new(&ctx, &options), SARA_OK);
    sara_params params = test_params(ctx, tensors, 1);
    float *original = test_snapshot(ctx, &params, &count);
    sara_lora_file file = make_low(ctx, kind);
    expect_low(expected, original, file.layers);
    assert_ok(ctx, sara_applied_new(ctx, &applied, &params, NULL));
    assert_ok(ctx, sara_applied_add_low_rank(applied, &file, 0.4));
    memcpy(values, params.items[0].value.data, count * sizeof(*values));
    *error = 0;
    for (size_t i = 0; i < count; i++)
        *error = fmax(*error, fabs((double)values[i] - (double)original[i] -
                                   0.4 * (expected[i] - (double)original[i])));
    assert_ok(ctx, sara_applied_remove(applied));
    assert_memory_equal(params.items[0].value.data, original, count * sizeof(*original));
    sara_applied_free(applied);
    sara_free(ctx, original);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void rows_of_many_blocks(void **state)
{
    static const kind_of_low kinds[] = {
        {false, false, false}, {true, false, false}, {false, true, false}, {true, true, true}};
    static float first[OUT * COLS], values[OUT * COLS];
    (void)state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++)
        for (int threads = 1; threads <= 3; threads++) {
            double error;
            apply_low(threads == 1 ? first : values, &error, &kinds[k], threads);
            assert_close(error, 2e-6, "low-rank change");
            if (threads > 1)
                assert_memory_equal(values, first, sizeof(first));
        }
}

/* Changes so large that the order of a sum in double shows. */
static void equal_strengths_in_any_order(void **state)
{
    static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                    {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const float changes[] = {1e17f, 1, -1e17f};
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    sara_applied *applied;
    float first = 0;
    (void)state;
    assert_ok(ctx, sara_applied_new(ctx, &applied, &params, NULL));
    for (int o = 0; o < 6; o++) {
        for (int i = 0; i < 3; i++) {
            sara_lora_file file = make_low(ctx, &(kind_of_low){false, false, false});
            file.layers->whole = new_array(&file.arena, (size_t)OUT * COLS, 1);
            file.layers->whole[0] = changes[orders[o][i]];
            assert_ok(ctx, sara_applied_add_low_rank(applied, &file, 1));
        }
        float value = sara_param_get(&params.items[0], 0);
        first = o == 0 ? value : first;
        assert_true(value == first);
        assert_ok(ctx, sara_applied_remove(applied));
    }
    sara_applied_free(applied);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Of a square weight, magnitudes of inputs make another layer than those of outputs. */
static void test_compared(void **state)
{
    float values[2] = {1, 2};
    sara_lora_layer outputs = {.name = "w", .rank = 1, .out = 2, .in = 2, .kh = 1, .kw = 1};
    outputs.down = outputs.up = outputs.magnitude = values;
    sara_lora_layer inputs = outputs;
    inputs.magnitude_of_inputs = true;
    sara_applied_entry a = {.low = &outputs}, b = {.low = &inputs};
    const sara_applied_layer x = {.entries = &a, .count = 1}, y = {.entries = &b, .count = 1};
    (void)state;
    assert_int_equal(sara_applied_layer_compare(&x, &x), 0);
    assert_int_equal(sara_applied_layer_compare(&x, &y), -sara_applied_layer_compare(&y, &x));
    assert_int_not_equal(sara_applied_layer_compare(&x, &y), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_many_blocks),
                                       cmocka_unit_test(equal_strengths_in_any_order),
                                       cmocka_unit_test(test_compared)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
