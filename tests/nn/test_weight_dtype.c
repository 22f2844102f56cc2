/* Weights of 16 bits against the same values as floats, on every instruction set. */
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/simd/simd.h"

#define TOLERANCE 1e-5 /* against the plain kernels */
#define SUMS      2e-6 /* against the fast ones in floats: sums in another order */

static const sara_dtype dtypes[] = {SARA_F16, SARA_BF16};

/* Values that the dtype holds exactly, both ways. */
typedef struct rounded {
    uint16_t *halves;
    float *floats;
    sara_weight_view narrow, wide;
} rounded;

static rounded rounded_new(size_t count, sara_dtype dtype)
{
    rounded w = {.floats = test_nn_random(count, 2), .halves = calloc(count, sizeof(uint16_t))};
    assert_non_null(w.halves);
    for (size_t i = 0; i < count; i += 5)
        w.floats[i] *= 1e-6f; /* subnormal in F16 */
    sara_convert_from_f32(w.halves, dtype, w.floats, count);
    sara_convert_to_f32(w.floats, w.halves, dtype, count);
    w.narrow = (sara_weight_view){w.halves, dtype, NULL};
    w.wide = (sara_weight_view){w.floats, SARA_F32, NULL};
    return w;
}

static void rounded_free(rounded *w)
{
    free(w->halves);
    free(w->floats);
}

/* ------------------------------------------------------------------------------------- widening */

static void check_widen(void *argument)
{
    const sara_simd *simd = sara_simd_best();
    uint16_t *all = calloc(65536 + 3, sizeof(*all));
    float *out = test_nn_zeros(65536 + 3);
    (void)argument;
    assert_non_null(all);
    for (uint32_t h = 0; h < 65536 + 3; h++)
        all[h] = (uint16_t)h;
    for (int i = 0; i < 2; i++) {
        simd->widen(out, all, 65536 + 3, dtypes[i]);
        for (uint32_t h = 0; h < 65536 + 3; h++) {
            float expected = dtypes[i] == SARA_F16 ? sara_f16_to_f32(all[h])
                                                   : sara_bf16_to_f32(all[h]);
            if (isnan(expected))
                assert_true(isnan(out[h]));
            else
                assert_memory_equal(&out[h], &expected, sizeof(expected));
        }
    }
    free(all);
    free(out);
}

/* Every value there is, subnormal ones too. */
static void test_widen(void **state)
{
    (void)state;
    test_simd_each(check_widen, NULL);
}

/* --------------------------------------------------------------------------------------- linear */

static void check_linear(test_pair *b, const sara_linear_shape *s, sara_dtype dtype, bool option)
{
    size_t nx = (size_t)(s->rows * s->in), ny = (size_t)(s->rows * s->out);
    rounded w = rounded_new((size_t)(s->out * s->in), dtype);
    float *x = test_nn_random(nx, 1), *dy = test_nn_random(ny, 4);
    float *c = test_nn_random((size_t)s->out, 3), *bias = option ? c : NULL;
    float *y = test_nn_zeros(ny), *expected = test_nn_zeros(ny);
    float *dx = test_nn_random(nx, 5), *expected_dx = test_nn_random(nx, 5);
    assert_ok(b->fe.ctx, sara_kernel_linear_forward(&b->fe, y, x, &w.narrow, bias, s));
    assert_ok(b->fe.ctx, sara_kernel_linear_forward(&b->fe, expected, x, &w.wide, bias, s));
    assert_close(test_relative_l2(y, expected, ny), SUMS, "forward");
    const sara_param exact = {.as_floats = true};
    w.narrow.param = &exact;
    assert_ok(b->fe.ctx, sara_kernel_linear_forward(&b->fe, y, x, &w.narrow, bias, s));
    assert_memory_equal(y, expected, ny * sizeof(*y));
    w.narrow.param = NULL;
    assert_ok(b->fe.ctx, sara_kernel_linear_dx(&b->fe, dx, dy, &w.narrow, s, option));
    assert_ok(b->fe.ctx, sara_kernel_linear_dx(&b->fe, expected_dx, dy, &w.wide, s, option));
    assert_close(test_relative_l2(dx, expected_dx, nx), SUMS, "dx");
    free(x);
    free(dy);
    free(c);
    free(y);
    free(expected);
    free(dx);
    free(expected_dx);
    rounded_free(&w);
}

/* The last ones take several blocks. */
static const sara_linear_shape linears[] = {
    {1, 1, 1}, {3, 5, 7}, {77, 96, 160}, {1037, 17, 9}, {0, 8, 8}, {5, 1100, 2003}, {2, 3000, 705},
};

static void check_linears(void *argument)
{
    test_pair *b = argument;
    for (size_t i = 0; i < sizeof(linears) / sizeof(*linears); i++)
        for (int option = 0; option < 4; option++)
            check_linear(b, &linears[i], dtypes[option / 2], option % 2);
}

static void test_linear(void **state)
{
    (void)state;
    test_pair b = test_pair_open();
    test_simd_each(check_linears, &b);
    test_pair_close(&b);
}

/* ---------------------------------------------------------------------------------- convolution */

static void check_conv(test_pair *b, const sara_conv_shape *s, sara_dtype dtype, bool option)
{
    size_t nx = test_conv_x(s), ny = test_conv_y(s);
    rounded w = rounded_new(test_conv_w(s), dtype);
    float *x = test_nn_random(nx, 1), *dy = test_nn_random(ny, 4);
    float *c = test_nn_random((size_t)s->out, 3), *bias = option ? c : NULL;
    float *y = test_nn_zeros(ny), *expected = test_nn_zeros(ny);
    float *dx = test_nn_random(nx, 5), *expected_dx = test_nn_random(nx, 5);
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, y, x, &w.narrow, bias, s));
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, expected, x, &w.wide, bias, s));
    assert_memory_equal(y, expected, ny * sizeof(*y));
    assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, dx, dy, &w.narrow, s, option));
    assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, expected_dx, dy, &w.wide, s, option));
    assert_memory_equal(dx, expected_dx, nx * sizeof(*dx));
    free(x);
    free(dy);
    free(c);
    free(y);
    free(expected);
    free(dx);
    free(expected_dx);
    rounded_free(&w);
}

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1}, skewed[4] = {2, 0, 1, 2};

/* Not 1x1, which is a linear layer: the same bits. */
static void check_convs(void *argument)
{
    const sara_conv_shape shapes[] = {
        test_conv_shape(2, 8, 8, 64, 48, 3, 1, same), /* Winograd's */
        test_conv_shape(1, 7, 5, 70, 17, 3, 1, same),
        test_conv_shape(1, 9, 9, 16, 16, 3, 1, skewed),
        test_conv_shape(1, 16, 16, 4, 32, 3, 1, same),
        test_conv_shape(1, 32, 33, 8, 20, 3, 1, same), /* dx as a forward convolution */
        test_conv_shape(2, 8, 8, 32, 32, 3, 2, same),
        test_conv_shape(1, 28, 28, 3, 32, 14, 14, none),
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (int option = 0; option < 4; option++)
            check_conv(argument, &shapes[i], dtypes[option / 2], option % 2);
}

static void test_conv(void **state)
{
    (void)state;
    test_pair b = test_pair_open();
    test_simd_each(check_convs, &b);
    test_pair_close(&b);
}

/* -------------------------------------------------------------------------------------- devices */

static sara_param narrow_param(test_nn *nn, sara_shape shape, sara_dtype dtype)
{
    sara_param param = test_nn_param(nn, "w", shape, 7);
    sara_tensor narrow;
    assert_ok(nn->ctx, sara_tensor_new(nn->ctx, &narrow, dtype, &shape));
    sara_convert_from_f32(narrow.data, dtype, param.value.data, (size_t)sara_shape_count(&shape));
    sara_tensor_free(nn->ctx, &param.value);
    param.value = narrow;
    return param;
}

static void check_plain(test_pair *b, const sara_conv_shape *s, sara_dtype dtype)
{
    size_t nx = test_conv_x(s), ny = test_conv_y(s);
    rounded w = rounded_new(test_conv_w(s), dtype);
    const sara_linear_shape l = {s->n * s->h * s->w, s->in, s->out};
    float *x = test_nn_random(nx, 1), *y = test_nn_zeros(ny), *expected = test_nn_zeros(ny);
    float *dx = test_nn_zeros(nx), *expected_dx = test_nn_zeros(nx);
    for (int wide = 0; wide < 2; wide++) { /* the plain kernels give the same bits for both */
        const sara_weight_view *view = wide ? &w.wide : &w.narrow;
        float *to = wide ? expected : y, *to_dx = wide ? expected_dx : dx;
        assert_ok(b->pe.ctx, sara_kernel_conv_forward(&b->pe, to, x, view, NULL, s));
        assert_ok(b->pe.ctx, sara_kernel_conv_dx(&b->pe, to_dx, to, view, s, false));
    }
    assert_memory_equal(y, expected, ny * sizeof(*y));
    assert_memory_equal(dx, expected_dx, nx * sizeof(*dx));
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, y, x, &w.narrow, NULL, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "forward");
    assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, dx, expected, &w.narrow, s, false));
    assert_close(test_relative_l2(dx, expected_dx, nx), TOLERANCE, "dx");
    if (s->kh == 1) {
        assert_ok(b->pe.ctx, sara_kernel_linear_forward(&b->pe, y, x, &w.narrow, NULL, &l));
        assert_ok(b->pe.ctx, sara_kernel_linear_dx(&b->pe, dx, y, &w.narrow, &l, false));
        assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "linear forward");
        assert_close(test_relative_l2(dx, expected_dx, nx), TOLERANCE, "linear dx");
    }
    free(x);
    free(y);
    free(expected);
    free(dx);
    free(expected_dx);
    rounded_free(&w);
}

static void test_plain(void **state)
{
    (void)state;
    test_pair b = test_pair_open();
    const sara_conv_shape three = test_conv_shape(1, 6, 5, 20, 18, 3, 1, same);
    const sara_conv_shape one = test_conv_shape(1, 6, 5, 20, 18, 1, 1, none);
    for (int i = 0; i < 2; i++) {
        check_plain(&b, &three, dtypes[i]);
        check_plain(&b, &one, dtypes[i]);
    }
    test_pair_close(&b);
}

/* A frozen parameter's copy in oneDNN's layout follows its version. */
static void check_versions(test_nn *nn, sara_dtype dtype)
{
    const sara_kernel_env env = sara_tape_env(nn->tape);
    const sara_conv_shape s = test_conv_shape(1, 8, 8, 32, 16, 3, 2, same);
    sara_param param = narrow_param(nn, sara_shape4(16, 32, 3, 3), dtype);
    float *x = test_nn_random(test_conv_x(&s), 1), *bare = test_nn_zeros(test_conv_y(&s));
    float *cached = test_nn_zeros(test_conv_y(&s));
    for (int i = 0; i < 4; i++) {
        sara_weight_view w = sara_weight_of(&param);
        assert_ok(nn->ctx, sara_kernel_conv_forward(&env, cached, x, &w, NULL, &s));
        w.param = NULL;
        assert_ok(nn->ctx, sara_kernel_conv_forward(&env, bare, x, &w, NULL, &s));
        assert_memory_equal(cached, bare, test_conv_y(&s) * sizeof(*bare));
        if (i == 1) {
            sara_param_set(&param, 100, 50);
            param.version++;
        }
    }
    free(x);
    free(bare);
    free(cached);
    test_nn_param_free(nn, &param);
}

static void test_versions(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    check_versions(&nn, SARA_F16);
    check_versions(&nn, SARA_BF16);
    test_nn_close(&nn);
}

/* The ops of tables: rows and positions of 16 bits. */
static void check_tables(const char *device, sara_dtype dtype)
{
    test_nn nn = test_nn_open(device);
    sara_param table = narrow_param(&nn, sara_shape2(6, 5), dtype);
    const int32_t ids[] = {4, 0, 4};
    const sara_shape shape = sara_shape3(2, 3, 5);
    float *data = test_nn_random(30, 3);
    sara_var *rows, *x, *y;
    assert_ok(nn.ctx, sara_nn_embed(nn.tape, &rows, &table, ids, 3));
    for (int i = 0; i < 15; i++)
        assert_true(rows->data[i] == sara_param_get(&table, (size_t)(ids[i / 5] * 5 + i % 5)));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
    assert_ok(nn.ctx, sara_nn_add_positions(nn.tape, &y, x, &table));
    for (int i = 0; i < 30; i++)
        assert_true(y->data[i] == data[i] + sara_param_get(&table, (size_t)(i % 15)));
    sara_tape_reset(nn.tape);
    test_nn_param_free(&nn, &table);
    free(data);
    test_nn_close(&nn);
}

static void test_tables(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        check_tables("cpu", dtypes[i]);
        check_tables("cpu-plain", dtypes[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widen),    cmocka_unit_test(test_linear),
        cmocka_unit_test(test_conv),     cmocka_unit_test(test_plain),
        cmocka_unit_test(test_versions), cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
