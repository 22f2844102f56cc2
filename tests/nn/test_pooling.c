/* Pooling against torch and finite differences. */
#include "nn/support_gradient.h"

#include <math.h>

#include "nn/recorded_pooling.h"

#define POOL(name, op, ...)                                                                        \
    static sara_status name(sara_tape *tape, sara_var **y, sara_var *const *in,                    \
                            sara_param *const *params)                                             \
    {                                                                                              \
        (void)params;                                                                              \
        return op(tape, y, in[0], &(sara_pooling_options){__VA_ARGS__});                           \
    }

POOL(max_padded, sara_nn_max_pool, 3, 3, 1, 1)
POOL(max_strided, sara_nn_max_pool, 3, 2, 2, 0)
POOL(average_padded, sara_nn_average_pool, 3, 3, 1, 1)
POOL(average_strided, sara_nn_average_pool, 2, 3, 2, 1)
POOL(average_whole, sara_nn_average_pool, 5, 4, 1, 0)

/* What is pooled is given back, and made again for what saved it. */
static sara_status twice(sara_tape *tape, sara_var **y, sara_var *const *in,
                         sara_param *const *params)
{
    const sara_pooling_options options = {2, 2, 1, 0};
    sara_var *h;
    sara_status status;
    size_t scope = sara_tape_open(tape);
    (void)params;
    TRY(sara_nn_average_pool(tape, &h, in[0], &options));
    TRY(sara_nn_max_pool(tape, &h, h, &options));
    TRY(sara_nn_activate(tape, y, h, SARA_SILU));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape image = sara_shape4(2, 5, 4, 3);
    const sara_shape few = sara_shape4(2, 3, 4, 1); /* no two nearly as large as each other */
    const test_graph graphs[] = {
        {.name = "max pool, padded", .build = max_padded, .in = {few}, .in_count = 1},
        {.name = "max pool, strided", .build = max_strided, .in = {few}, .in_count = 1},
        {.name = "average pool, padded", .build = average_padded, .in = {image}, .in_count = 1},
        {.name = "average pool, strided", .build = average_strided, .in = {image}, .in_count = 1},
        {.name = "average pool of all", .build = average_whole, .in = {image}, .in_count = 1},
        {.name = "both", .build = twice, .in = {few}, .in_count = 1},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

static void test_recorded(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(recorded) / sizeof(*recorded); i++) {
        test_nn nn = test_nn_open("cpu");
        const int n = recorded[i].n, h = recorded[i].h, w = recorded[i].w, c = recorded[i].c;
        const sara_shape shape = sara_shape4(n, h, w, c);
        const sara_shape expected = sara_shape4(n, recorded[i].oh, recorded[i].ow, c);
        float data[128];
        sara_var *x, *most, *mean;
        for (int k = 0; k < n * h * w * c; k++)
            data[k] = (float)((k * 37 + 11) % 64);
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
        assert_ok(nn.ctx, sara_nn_max_pool(nn.tape, &most, x, &recorded[i].options));
        assert_ok(nn.ctx, sara_nn_average_pool(nn.tape, &mean, x, &recorded[i].options));
        assert_true(sara_shape_equal(&most->shape, &expected));
        assert_true(sara_shape_equal(&mean->shape, &expected));
        for (int64_t k = 0; k < sara_shape_count(&expected); k++) {
            assert_close(fabs((double)most->data[k] - recorded[i].max[k]), 0, recorded[i].name);
            assert_close(fabs((double)mean->data[k] - recorded[i].average[k]), 1e-5,
                         recorded[i].name);
        }
        test_nn_close(&nn);
    }
}

/* NaN stays wherever it stands in a window; of equal ones the first gets the gradient. */
static void test_special_values(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_pooling_options pair = {1, 2, 1, 0};
    const sara_shape shape = sara_shape4(1, 1, 6, 1), one = sara_shape1(1);
    const float data[] = {1, NAN, -INFINITY, -INFINITY, 2, 2}, zeros[5] = {0};
    sara_var *x, *y, *sum;
    sara_tape_record(nn.tape, true);
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, true));
    assert_ok(nn.ctx, sara_nn_max_pool(nn.tape, &y, x, &pair));
    assert_true(isnan(y->data[0]) && isnan(y->data[1]));
    assert_true(y->data[2] == -INFINITY && y->data[3] == 2 && y->data[4] == 2);
    assert_ok(nn.ctx, sara_tape_view(nn.tape, &y, y, &(const sara_shape){1, {5}}));
    assert_ok(nn.ctx, sara_nn_slice(nn.tape, &y, y, 4, 1));
    assert_ok(nn.ctx, sara_nn_mse_loss(nn.tape, &sum, y, zeros, NULL, NULL));
    assert_true(sara_shape_equal(&sum->shape, &one));
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, sum, 1));
    assert_true(x->grad[4] == 4 && x->grad[5] == 0 && x->grad[0] == 0);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape image = sara_shape4(1, 2, 3, 4), flat = sara_shape2(6, 4);
    const struct {
        sara_pooling_options options;
        const char *text;
    } wrong[] = {
        {{0, 3, 1, 0}, "max_pool: a window of 0 x 3, stride 1, padding 0"},
        {{2, 2, 0, 0}, "stride 0"},
        {{2, 2, 1, -1}, "padding -1"},
        {{3, 3, 1, 2}, "padding 2"},
        {{3, 3, 1, 0}, "max_pool: a window of 3 x 3 in shape [1,2,3,4]"},
        {{2, 4, 1, 0}, "max_pool: a window of 2 x 4 in shape [1,2,3,4]"},
    };
    float data[24] = {0};
    sara_var *x, *y;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &image, data, false));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_refused(nn.ctx, SARA_ERROR_INPUT, wrong[i].text,
                       sara_nn_max_pool(nn.tape, &y, x, &wrong[i].options));
    assert_null(y);
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &flat, data, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "average_pool: a window of 1 x 1 in shape [6,4]",
                   sara_nn_average_pool(nn.tape, &y, x, &(sara_pooling_options){1, 1, 1, 0}));
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
