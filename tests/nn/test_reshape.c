/* Ops that move data, on the tape. */
#include "nn/support_gradient.h"

#define BUILD(name, call)                                                                          \
    static sara_status name(sara_tape *tape, sara_var **y, sara_var *const *in,                    \
                            sara_param *const *params)                                             \
    {                                                                                              \
        (void)params;                                                                              \
        return call;                                                                               \
    }

BUILD(build_concat, sara_nn_concat(tape, y, in[0], in[1]))
BUILD(build_twice, sara_nn_concat(tape, y, in[0], in[0]))
BUILD(build_several, sara_nn_concat_all(tape, y, in, 4))
BUILD(build_alone, sara_nn_concat_all(tape, y, in, 1))
BUILD(build_double_size, sara_nn_upsample(tape, y, in[0], 4, 6))
BUILD(build_odd_size, sara_nn_upsample(tape, y, in[0], 5, 7))
BUILD(build_smaller, sara_nn_upsample(tape, y, in[0], 1, 2))
BUILD(build_slice, sara_nn_slice(tape, y, in[0], 1, 3))
BUILD(build_last, sara_nn_to_channels_last(tape, y, in[0]))
BUILD(build_first, sara_nn_to_channels_first(tape, y, in[0]))

/* A row may be taken twice. */
static sara_status build_rows(sara_tape *tape, sara_var **y, sara_var *const *in,
                              sara_param *const *params)
{
    const int64_t rows[] = {4, 0, 4, 5, 11};
    (void)params;
    return sara_nn_take_rows(tape, y, in[0], rows, 5);
}

/* A gradient that comes twice is added to itself. */
static sara_status build_last_twice(sara_tape *tape, sara_var **y, sara_var *const *in,
                                    sara_param *const *params)
{
    sara_var *a, *b;
    sara_status status;
    (void)params;
    TRY(sara_nn_to_channels_last(tape, &a, in[0]));
    TRY(sara_nn_to_channels_last(tape, &b, in[0]));
    TRY(sara_nn_add(tape, y, a, b));
done:
    return status;
}

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape image = sara_shape4(2, 2, 3, 5);
    const test_graph graphs[] = {
        {.name = "slice", .build = build_slice, .in = {sara_shape3(2, 3, 5)}, .in_count = 1},
        {.name = "take_rows", .build = build_rows, .in = {sara_shape3(4, 3, 5)}, .in_count = 1},
        {.name = "concat",
         .build = build_concat,
         .in = {image, sara_shape4(2, 2, 3, 1)},
         .in_count = 2},
        {.name = "concat of one", .build = build_twice, .in = {image}, .in_count = 1},
        {.name = "concat of four",
         .build = build_several,
         .in = {sara_shape2(3, 2), sara_shape2(3, 1), sara_shape2(3, 4), sara_shape2(3, 2)},
         .in_count = 4},
        {.name = "concat, alone", .build = build_alone, .in = {image}, .in_count = 1},
        {.name = "upsample", .build = build_double_size, .in = {image}, .in_count = 1},
        {.name = "upsample, odd", .build = build_odd_size, .in = {image}, .in_count = 1},
        {.name = "upsample, smaller", .build = build_smaller, .in = {image}, .in_count = 1},
        {.name = "to_channels_last", .build = build_last, .in = {image}, .in_count = 1},
        {.name = "twice to_channels_last", .build = build_last_twice, .in = {image}, .in_count = 1},
        {.name = "to_channels_first", .build = build_first, .in = {image}, .in_count = 1},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

static void test_values(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    float data[] = {1, 2, 3, 4, 5, 6};
    const float swapped[] = {1, 4, 2, 5, 3, 6};
    const sara_shape first = sara_shape4(1, 2, 1, 3), last = sara_shape4(1, 1, 3, 2);
    sara_var *x, *y, *z;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &first, data, false));
    assert_ok(nn.ctx, sara_nn_to_channels_last(nn.tape, &y, x));
    assert_true(sara_shape_equal(&y->shape, &last));
    assert_memory_equal(y->data, swapped, sizeof(swapped));
    assert_ok(nn.ctx, sara_nn_to_channels_first(nn.tape, &z, y));
    assert_true(sara_shape_equal(&z->shape, &first));
    assert_memory_equal(z->data, data, sizeof(data));
    test_nn_close(&nn);
}

/* Row by row, what torch.nn.functional.interpolate(mode="nearest") takes its pixels from. */
static void test_nearest(void **state)
{
    (void)state;
    const struct {
        int in, out;
        int source[12];
    } rows[] = {
        {3, 7, {0, 0, 0, 1, 1, 2, 2}},
        {5, 12, {0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4}},
        {9, 4, {0, 2, 4, 6}},
        {4, 8, {0, 0, 1, 1, 2, 2, 3, 3}},
        {1, 3, {0, 0, 0}},
    };
    for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
        test_nn nn = test_nn_open("cpu");
        const sara_shape shape = sara_shape4(1, 1, rows[k].in, 1);
        float data[16];
        sara_var *x, *y;
        for (int i = 0; i < rows[k].in; i++)
            data[i] = (float)i;
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
        assert_ok(nn.ctx, sara_nn_upsample(nn.tape, &y, x, 2, rows[k].out));
        for (int i = 0; i < 2 * rows[k].out; i++)
            assert_int_equal((int)y->data[i], rows[k].source[i % rows[k].out]);
        test_nn_close(&nn);
    }
}

static void test_parts(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cpu-plain"};
    const sara_shape shape = sara_shape3(2, 3, 5);
    const int64_t rows[] = {5, 0, 5};
    const int columns[] = {3, 4, 0, 1, 2, 3, 4, 3, 4};
    float data[30];
    for (int i = 0; i < 30; i++)
        data[i] = (float)i;
    for (int d = 0; d < 2; d++) {
        test_nn nn = test_nn_open(devices[d]);
        sara_var *x, *y;
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
        assert_ok(nn.ctx, sara_nn_slice(nn.tape, &y, x, 3, 2));
        for (int i = 0; i < 12; i++)
            assert_true(y->data[i] == data[i / 2 * 5 + 3 + i % 2]);
        assert_ok(nn.ctx, sara_nn_concat_all(nn.tape, &y, (sara_var *const[]){y, x, y}, 3));
        for (int i = 0; i < 54; i++)
            assert_true(y->data[i] == data[i / 9 * 5 + columns[i % 9]]);
        assert_ok(nn.ctx, sara_nn_take_rows(nn.tape, &y, x, rows, 3));
        for (int i = 0; i < 15; i++)
            assert_true(y->data[i] == data[rows[i / 5] * 5 + i % 5]);
        test_nn_close(&nn);
    }
}

/* Where the same function of torch, which multiplies by a rounded quotient, is one pixel short. */
static void test_nearest_of_rounded_quotients(void **state)
{
    (void)state;
    static const int rows[][4] = {{26, 44, 22, 12},
                                  {14, 46, 23, 6},
                                  {28, 46, 23, 13}, /* in, out, */
                                  {30, 58, 29, 14},
                                  {14, 46, 46 - 1, 13}}; /* place, source */
    for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
        test_nn nn = test_nn_open("cpu");
        const sara_shape shape = sara_shape4(1, 1, rows[k][0], 1);
        float data[32];
        sara_var *x, *y;
        for (int i = 0; i < rows[k][0]; i++)
            data[i] = (float)i;
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
        assert_ok(nn.ctx, sara_nn_upsample(nn.tape, &y, x, 1, rows[k][1]));
        assert_int_equal((int)y->data[rows[k][2]], rows[k][3]);
        test_nn_close(&nn);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shapes[] = {
        sara_shape3(2, 3, 5), sara_shape3(2, 4, 5), sara_shape4(1, 2, 3, 5), {.rank = 0}};
    float data[40] = {0};
    sara_var *v[4], *y;
    for (int i = 0; i < 4; i++)
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v[i], &shapes[i], data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "concat: b: shape [2,4,5], expected [2,3,5]",
                   sara_nn_concat(nn.tape, &y, v[0], v[1]));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "concat: a: shape [] has no last axis",
                   sara_nn_concat(nn.tape, &y, v[3], v[3]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "concat: c: shape [2,4,5], expected [2,3,5]",
                   sara_nn_concat_all(nn.tape, &y, (sara_var *const[]){v[0], v[0], v[1]}, 3));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "concat: 7 parts, at most 6",
                   sara_nn_concat_all(nn.tape, &y, v, 7));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "slice: 3 .. 5 of shape [2,3,5]",
                   sara_nn_slice(nn.tape, &y, v[0], 3, 3));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "slice: 1 .. 0 of shape [2,3,5]",
                   sara_nn_slice(nn.tape, &y, v[0], 1, 0));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "take_rows: row 6, expected 0..5",
                   sara_nn_take_rows(nn.tape, &y, v[0], (const int64_t[]){5, 6}, 2));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "upsample: shape [2,3,5] cannot become [N,6,6,C]",
                   sara_nn_upsample(nn.tape, &y, v[0], 6, 6));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "upsample: shape [1,2,3,5] cannot become [N,0,6,C]",
                   sara_nn_upsample(nn.tape, &y, v[2], 0, 6));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "to_channels_last: shape [2,3,5], expected [N,C,H,W]",
                   sara_nn_to_channels_last(nn.tape, &y, v[0]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "to_channels_first: shape [2,3,5], expected [N,H,W,C]",
                   sara_nn_to_channels_first(nn.tape, &y, v[0]));
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_values),
        cmocka_unit_test(test_nearest),   cmocka_unit_test(test_nearest_of_rounded_quotients),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
