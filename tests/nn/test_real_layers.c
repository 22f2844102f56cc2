/* The layers of Stable Diffusion 1.5 at 512x512 pixels: the fast kernels on all of each layer, the
 * plain ones on two parts of its result, which are problems of their own by the definition of the
 * op: some channels of all pixels, and some pixels with all their channels. A linear layer is
 * written as a 1x1 convolution of an image one pixel wide. */
#include "nn/bf16.h"
#include "nn/support_parts.h"
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#define TOLERANCE 1e-5
#define PART_DW   ((int64_t)4 << 20) /* multiplications of the plain kernel */

typedef struct problem {
    sara_conv_shape shape;
    const char *device;
    sara_weight_view view; /* what the fast kernels get */
    uint16_t *halves;
    float *x, *dy, *w, *b;
    test_part y[2], dx[2];
} problem;

/* Of weights in 16 bits the types take turns: their conversion is proven by itself. */
static sara_dtype half_of(size_t layer)
{
    return layer % 2 ? SARA_F16 : SARA_BF16;
}

/* ------------------------------------------------------------------------------------ operands */

static void round_to(float *values, size_t count, sara_dtype dtype)
{
    uint16_t half;
    for (size_t i = 0; dtype != SARA_F32 && i < count; i++) {
        sara_convert_from_f32(&half, dtype, &values[i], 1);
        sara_convert_to_f32(&values[i], &half, dtype, 1);
    }
}

/* Even numbers in [-1,1), which for so many take less time to draw than normal ones. */
static float *draw_even(size_t count, uint32_t seed)
{
    float *values = test_nn_zeros(count);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        values[i] = (float)(int32_t)seed * 0x1p-31f;
    }
    return values;
}

/* For a device that multiplies bf16 the operands are such numbers, whose products are exact. */
static float *operand(const problem *p, size_t count, uint32_t seed)
{
    float *values = draw_even(count, seed);
    round_to(values, count, strcmp(p->device, "cpu-bf16") == 0 ? SARA_BF16 : SARA_F32);
    return values;
}

static problem start(const sara_conv_shape *s, const char *device, sara_dtype dtype)
{
    problem p = {.shape = *s, .device = device};
    size_t count = test_conv_w(s);
    p.x = operand(&p, test_conv_x(s), 1);
    p.w = operand(&p, count, 2);
    p.dy = operand(&p, test_conv_y(s), 3);
    p.b = test_nn_random((size_t)s->out, 4);
    round_to(p.w, count, dtype);
    p.view = (sara_weight_view){p.w, SARA_F32, NULL};
    if (dtype != SARA_F32) {
        p.halves = calloc(count, sizeof(*p.halves));
        assert_non_null(p.halves);
        sara_convert_from_f32(p.halves, dtype, p.w, count);
        p.view = (sara_weight_view){p.halves, dtype, NULL};
    }
    return p;
}

static void finish(problem *p)
{
    float *all[] = {p->x,
                    p->dy,
                    p->w,
                    p->b,
                    p->y[0].expected,
                    p->y[1].expected,
                    p->dx[0].expected,
                    p->dx[1].expected};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
    free(p->halves);
}

/* -------------------------------------------------------------------------------------- kernels */

static bool is_linear(const sara_conv_shape *s)
{
    return s->kh == 1 && s->w == 1;
}

static sara_linear_shape linear_of(const sara_conv_shape *s)
{
    return (sara_linear_shape){s->h, s->in, s->out};
}

static void forward(const sara_kernel_env *env, float *y, const float *x, const sara_weight_view *w,
                    const float *b, const sara_conv_shape *s)
{
    const sara_linear_shape linear = linear_of(s);
    assert_ok(env->ctx, is_linear(s) ? sara_kernel_linear_forward(env, y, x, w, b, &linear)
                                     : sara_kernel_conv_forward(env, y, x, w, b, s));
}

static void backward(const sara_kernel_env *env, float *dx, const float *dy,
                     const sara_weight_view *w, const sara_conv_shape *s, bool accumulate)
{
    const sara_linear_shape linear = linear_of(s);
    assert_ok(env->ctx, is_linear(s) ? sara_kernel_linear_dx(env, dx, dy, w, &linear, accumulate)
                                     : sara_kernel_conv_dx(env, dx, dy, w, s, accumulate));
}

/* ---------------------------------------------------------------------------------------- parts */

static void make_y(const problem *p, const test_nn *plain, test_part *to)
{
    const sara_kernel_env env = sara_tape_env(plain->tape);
    const sara_conv_shape *s = &p->shape;
    sara_conv_shape t = *s;
    test_span rows = test_span_inputs(&t.pad_top, to->rows, s->kh, s->stride, s->h);
    test_span columns = test_span_inputs(&t.pad_left, to->columns, s->kw, s->stride, s->w);
    t.h = rows.count, t.w = columns.count;
    t.oh = to->rows.count, t.ow = to->columns.count, t.out = to->channels.count;
    float *x = test_part_crop(p->x, s->w, s->in, rows, columns, (test_span){0, s->in});
    const float *weights = p->w + to->channels.first * s->in * s->kh * s->kw;
    const sara_weight_view w = {weights, SARA_F32, NULL};
    to->expected = test_nn_zeros(test_conv_y(&t));
    forward(&env, to->expected, x, &w, p->b + to->channels.first, &t);
    free(x);
}

static void make_dx(const problem *p, const test_nn *plain, test_part *to)
{
    const sara_kernel_env env = sara_tape_env(plain->tape);
    const sara_conv_shape *s = &p->shape;
    int64_t taps = s->kh * s->kw;
    sara_conv_shape t = *s;
    test_span rows = test_span_outputs(&t.pad_top, to->rows, s->kh, s->stride, s->oh);
    test_span columns = test_span_outputs(&t.pad_left, to->columns, s->kw, s->stride, s->ow);
    t.oh = rows.count, t.ow = columns.count;
    t.h = to->rows.count, t.w = to->columns.count, t.in = to->channels.count;
    float *dy = test_part_crop(p->dy, s->ow, s->out, rows, columns, (test_span){0, s->out});
    float *weights =
        test_columns(p->w, s->out, s->in * taps, to->channels.first * taps, t.in * taps);
    const sara_weight_view w = {weights, SARA_F32, NULL};
    to->expected = test_nn_zeros(test_conv_x(&t));
    backward(&env, to->expected, dy, &w, &t, false);
    free(dy);
    free(weights);
}

static void make_parts(problem *p, const test_nn *plain)
{
    const sara_conv_shape *s = &p->shape;
    test_part_cut(p->y, s->oh, s->ow, s->out, s->in * s->kh * s->kw);
    test_part_cut(p->dx, s->h, s->w, s->in, s->out * s->kh * s->kw);
    for (int i = 0; i < 2; i++) {
        if (i == 0 || p->y[0].channels.count < s->out)
            make_y(p, plain, &p->y[i]);
        if (i == 0 || p->dx[0].channels.count < s->in)
            make_dx(p, plain, &p->dx[i]);
    }
}

/* --------------------------------------------------------------------------------------- checks */

static float *nans(size_t count)
{
    float *values = test_nn_zeros(count);
    for (size_t i = 0; i < count; i++)
        values[i] = NAN;
    return values;
}

static void check_fast(void *argument)
{
    const problem *p = argument;
    const sara_conv_shape *s = &p->shape;
    test_nn nn = test_nn_open(p->device);
    const sara_kernel_env env = sara_tape_env(nn.tape);
    float *y = nans(test_conv_y(s)), *dx = nans(test_conv_x(s));
    forward(&env, y, p->x, &p->view, p->b, s);
    test_part_compare(p->y, y, NULL, s->ow, s->out, TOLERANCE, "forward");
    backward(&env, dx, p->dy, &p->view, s, false);
    test_part_compare(p->dx, dx, NULL, s->w, s->in, TOLERANCE, "dx");
    memcpy(dx, p->x, test_conv_x(s) * sizeof(*dx));
    backward(&env, dx, p->dy, &p->view, s, true);
    test_part_compare(p->dx, dx, p->x, s->w, s->in, TOLERANCE, "accumulated dx");
    free(y);
    free(dx);
    test_nn_close(&nn);
}

/* The dense gradient, at entries spread over channels and taps. */
static void check_dw(const problem *p, const test_nn *plain)
{
    const sara_conv_shape *s = &p->shape;
    const sara_linear_shape linear = linear_of(s);
    test_nn nn = test_nn_open(p->device);
    const sara_kernel_env fe = sara_tape_env(nn.tape), pe = sara_tape_env(plain->tape);
    size_t entries = test_conv_w(s), count = (size_t)(PART_DW / (s->oh * s->ow));
    count = count < entries / 10 ? count : entries / 10;
    size_t step = entries / count;
    float *dw = test_nn_copy(p->w, entries), *got = test_nn_zeros(count);
    float *expected = test_nn_zeros(count);
    uint32_t *positions = calloc(count, sizeof(*positions));
    assert_non_null(positions);
    for (size_t i = 0; i < count; i++) {
        positions[i] = (uint32_t)(i * step + i * 7 % step);
        expected[i] = dw[positions[i]];
    }
    assert_ok(nn.ctx, is_linear(s) ? sara_kernel_linear_dw(&fe, dw, p->dy, p->x, &linear)
                                   : sara_kernel_conv_dw(&fe, dw, p->dy, p->x, s, true));
    assert_ok(plain->ctx, is_linear(s) ? sara_kernel_linear_dw_sampled(&pe, expected, p->dy, p->x,
                                                                       positions, count, &linear)
                                       : sara_kernel_conv_dw_sampled(&pe, expected, p->dy, p->x,
                                                                     positions, count, s));
    for (size_t i = 0; i < count; i++)
        got[i] = dw[positions[i]];
    assert_close(test_relative_l2(got, expected, count), TOLERANCE, "dw");
    free(dw);
    free(got);
    free(expected);
    free(positions);
    test_nn_close(&nn);
}

static void check_bias(const problem *p, const test_nn *plain)
{
    const sara_conv_shape *s = &p->shape;
    test_nn nn = test_nn_open(p->device);
    const sara_kernel_env fe = sara_tape_env(nn.tape), pe = sara_tape_env(plain->tape);
    size_t out = (size_t)s->out;
    float *db = test_nn_random(out, 5), *expected = test_nn_random(out, 5);
    assert_ok(nn.ctx, sara_kernel_bias_grad(&fe, db, p->dy, s->oh * s->ow, s->out));
    assert_ok(plain->ctx, sara_kernel_bias_grad(&pe, expected, p->dy, s->oh * s->ow, s->out));
    assert_close(test_relative_l2(db, expected, out), TOLERANCE, "db");
    free(db);
    free(expected);
    test_nn_close(&nn);
}

static void check(const sara_conv_shape *s, const char *device, sara_dtype dtype)
{
    test_nn plain = test_nn_open("cpu-plain");
    problem p = start(s, device, dtype);
    make_parts(&p, &plain);
    if (strcmp(device, "cpu") == 0)
        test_simd_each(check_fast, &p);
    else
        check_fast(&p);
    if (dtype == SARA_F32 && strcmp(device, "cpu") == 0) {
        check_dw(&p, &plain);
        check_bias(&p, &plain);
    }
    finish(&p);
    test_nn_close(&plain);
}

/* --------------------------------------------------------------------------------------- layers */

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1};

static sara_conv_shape linear_layer(int64_t rows, int64_t in, int64_t out)
{
    return test_conv_shape(1, rows, 1, in, out, 1, 1, none);
}

static sara_conv_shape square(int64_t side, int64_t in, int64_t out, int stride)
{
    return test_conv_shape(1, side, side, in, out, 3, stride, same);
}

static sara_conv_shape shortcut(int64_t side, int64_t in, int64_t out)
{
    return test_conv_shape(1, side, side, in, out, 1, 1, none);
}

static void test_linear(void **state)
{
    (void)state;
    const sara_conv_shape layers[] = {
        linear_layer(4096, 320, 320),   linear_layer(4096, 320, 2560), /* GEGLU's */
        linear_layer(4096, 1280, 320),  linear_layer(1024, 640, 640),
        linear_layer(256, 1280, 10240), linear_layer(64, 1280, 1280),
        linear_layer(77, 768, 320),                                 /* text */
        linear_layer(1, 1280, 1280),    linear_layer(1, 320, 1280), /* time */
    };
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        check(&layers[i], "cpu", SARA_F32);
}

static void test_convolutions(void **state)
{
    (void)state;
    const sara_conv_shape layers[] = {
        square(64, 320, 320, 1),   square(32, 640, 640, 1),
        square(16, 1280, 1280, 1), square(8, 1280, 1280, 1),
        square(8, 2560, 1280, 1),  square(16, 2560, 1280, 1), /* of the decoding half */
        square(32, 1920, 640, 1),  square(64, 960, 320, 1),
        square(64, 320, 320, 2),   square(16, 1280, 1280, 2), /* downsampling */
        square(64, 4, 320, 1),     square(64, 320, 4, 1),     /* conv_in, conv_out */
        square(64, 512, 512, 1),                              /* the VAE's */
    };
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        check(&layers[i], "cpu", SARA_F32);
}

static void test_shortcuts(void **state)
{
    (void)state;
    const sara_conv_shape layers[] = {shortcut(64, 960, 320), shortcut(32, 320, 640),
                                      shortcut(8, 2560, 1280)};
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        check(&layers[i], "cpu", SARA_F32);
}

static void test_weights_of_16_bits(void **state)
{
    (void)state;
    const sara_conv_shape layers[] = {
        linear_layer(4096, 320, 2560), linear_layer(256, 1280, 10240), linear_layer(77, 768, 320),
        linear_layer(1, 1280, 1280),   square(64, 960, 320, 1),        square(8, 1280, 1280, 1),
        square(16, 1280, 1280, 2),     shortcut(8, 2560, 1280),
    };
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        check(&layers[i], "cpu", half_of(i));
}

/* One of two, as in test_bf16: it computes right, or says what the processor lacks. */
static void test_mixed_precision(void **state)
{
    (void)state;
    const sara_conv_shape layers[] = {
        linear_layer(4096, 320, 2560), linear_layer(1, 1280, 1280), square(64, 320, 320, 1),
        square(32, 1920, 640, 1),      square(8, 1280, 1280, 1),    square(16, 1280, 1280, 2),
        shortcut(32, 320, 640),
    };
    sara_context *ctx = test_context();
    sara_device *device = NULL;
    sara_status status = sara_nn_device_open(ctx, &device, "cpu-bf16");
    if (sara_bf16_lacks())
        assert_refused(ctx, SARA_ERROR_DEVICE, "AVX512-BF16", status);
    else
        assert_ok(ctx, status);
    sara_nn_device_close(device);
    sara_context_free(ctx);
    for (size_t i = 0; i < (sara_bf16_lacks() ? 0 : sizeof(layers) / sizeof(*layers)); i++) {
        check(&layers[i], "cpu-bf16", SARA_F32);
        check(&layers[i], "cpu-bf16", half_of(i));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),          cmocka_unit_test(test_convolutions),
        cmocka_unit_test(test_shortcuts),       cmocka_unit_test(test_weights_of_16_bits),
        cmocka_unit_test(test_mixed_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
