/* Plain convolution kernels in double against finite differences. */
#include "nn/support_fd.h"
#include "nn/support_nn.h"

#include <math.h>
#include <stdlib.h>

typedef struct problem {
    sara_kernel_env env;
    sara_conv_shape shape;
    double *x, *w, *b;
    size_t nx, nw, ny;
} problem;

static void forward(void *data, double *y)
{
    problem *p = data;
    const sara_weight_view w = {p->w, SARA_F64, NULL};
    assert_ok(p->env.ctx,
              KERNEL(conv_forward)(&p->env, y, p->x, &w, p->b, &p->shape));
}

/* pads: top, left, bottom, right */
static problem problem_new(int64_t n, int64_t h, int64_t w, int64_t in, int64_t out, int64_t k,
                           int stride, const int pads[4])
{
    problem p = {.env = {.ctx = test_context()},
                 .shape = {.n = n, .h = h, .w = w, .in = in, .out = out, .kh = k, .kw = k,
                           .stride = stride, .pad_top = pads[0], .pad_left = pads[1],
                           .pad_bottom = pads[2], .pad_right = pads[3]}};
    p.shape.oh = (h + pads[0] + pads[2] - k) / stride + 1;
    p.shape.ow = (w + pads[1] + pads[3] - k) / stride + 1;
    p.nx = (size_t)(n * h * w * in);
    p.nw = (size_t)(out * in * k * k);
    p.ny = (size_t)(n * p.shape.oh * p.shape.ow * out);
    p.x = test_fd_random(p.nx, 1);
    p.w = test_fd_random(p.nw, 2);
    p.b = test_fd_random((size_t)out, 3);
    return p;
}

static void problem_free(problem *p)
{
    free(p->x);
    free(p->w);
    free(p->b);
    sara_context_free(p->env.ctx);
}

static void check(int64_t n, int64_t h, int64_t width, int64_t in, int64_t out, int64_t k,
                  int stride, const int pads[4])
{
    problem p = problem_new(n, h, width, in, out, k, stride, pads);
    double *dy = test_fd_random(p.ny, 4), *dx = test_fd_random(p.nx, 5), *dw = test_fd_zeros(p.nw);
    const sara_weight_view w = {p.w, SARA_F64, NULL};
    assert_ok(p.env.ctx, KERNEL(conv_dx)(&p.env, dx, dy, &w, &p.shape, false));
    assert_ok(p.env.ctx, KERNEL(conv_dw)(&p.env, dw, dy, p.x, &p.shape, true));
    const test_fd_input inputs[] = {{"x", p.x, dx, p.nx}, {"w", p.w, dw, p.nw}};
    test_fd_check(forward, &p, p.ny, dy, inputs, 2);
    free(dy);
    free(dx);
    free(dw);
    problem_free(&p);
}

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1}, after[4] = {0, 0, 1, 1};
static const int uneven[4] = {2, 0, 1, 3}, wide[4] = {4, 4, 4, 4};

static void test_gradients(void **state)
{
    (void)state;
    check(2, 5, 7, 3, 5, 1, 1, none);
    check(2, 5, 7, 3, 5, 3, 1, same);
    check(2, 5, 7, 3, 5, 3, 2, same);
    check(2, 5, 7, 3, 5, 3, 2, after); /* the VAE's downsampling */
    check(1, 5, 7, 3, 2, 3, 1, uneven);
    check(1, 5, 7, 2, 2, 3, 2, uneven);
    check(1, 5, 7, 2, 2, 1, 2, none);
    check(1, 1, 1, 1, 1, 3, 1, same);
}

/* Outputs whose kernel covers only padding have the bias alone and give no gradient. */
static void test_padding_alone(void **state)
{
    (void)state;
    problem p = problem_new(1, 2, 2, 2, 1, 3, 1, wide);
    double *y = test_fd_zeros(p.ny);
    forward(&p, y);
    assert_true(y[0] == p.b[0] && y[p.ny - 1] == p.b[0]);
    free(y);
    problem_free(&p);
    check(1, 2, 2, 2, 1, 3, 1, wide);
    check(1, 2, 3, 2, 1, 3, 3, wide);
}

/* Accumulating adds to what was there; sampled entries equal the dense ones. */
static void test_accumulate_and_sampled(void **state)
{
    (void)state;
    problem p = problem_new(2, 4, 3, 2, 3, 3, 2, same);
    const uint32_t positions[] = {0, 7, 30, 53};
    double sampled[4] = {10, 20, 30, 40}, *dw = test_fd_zeros(p.nw);
    double *dy = test_fd_random(p.ny, 4), *dx = test_fd_zeros(p.nx), *twice = test_fd_zeros(p.nx);
    const sara_weight_view w = {p.w, SARA_F64, NULL};
    assert_ok(p.env.ctx, KERNEL(conv_dx)(&p.env, dx, dy, &w, &p.shape, false));
    memcpy(twice, dx, p.nx * sizeof(*dx));
    assert_ok(p.env.ctx, KERNEL(conv_dx)(&p.env, twice, dy, &w, &p.shape, true));
    for (size_t i = 0; i < p.nx; i++)
        assert_close(fabs(twice[i] - 2 * dx[i]), 1e-12, "accumulated dx");
    assert_ok(p.env.ctx, KERNEL(conv_dw)(&p.env, dw, dy, p.x, &p.shape, true));
    assert_ok(p.env.ctx,
              KERNEL(conv_dw_sampled)(&p.env, sampled, dy, p.x, positions, 4, &p.shape));
    for (int i = 0; i < 4; i++)
        assert_true(sampled[i] == 10.0 * (i + 1) + dw[positions[i]]);
    free(dw);
    free(dy);
    free(dx);
    free(twice);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_padding_alone),
        cmocka_unit_test(test_accumulate_and_sampled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
