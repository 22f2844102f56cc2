/* Low-rank branches beside linear layers and convolutions, on the tape. */
#include "nn/support_gradient.h"

#include <math.h>
#include <stdlib.h>

#include "nn/bf16.h"

static const sara_conv2d_options uneven = {2, 1, 0, 2, 1};

/* ------------------------------------------------------------------------- finite differences */

/* Lives as long as the tape needs it. */
static sara_branch beside;

static sara_status apply(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                         sara_param *bias)
{
    return x->shape.rank == 4 ? sara_nn_conv2d(tape, y, x, weight, bias, &uneven)
                              : sara_nn_linear(tape, y, x, weight, bias);
}

/* params: weight, bias, down, up */
static sara_status build_low_rank(sara_tape *tape, sara_var **y, sara_var *const *in,
                                  sara_param *const *params)
{
    beside = (sara_branch){
        .kind = SARA_BRANCH_LOW_RANK, .down = params[2], .up = params[3], .scale = 0.7f};
    params[0]->branch = &beside;
    return apply(tape, y, in[0], params[0], params[1]);
}

static void test_low_rank(void **state)
{
    (void)state;
    static const test_graph graphs[] = {
        {"linear",
         build_low_rank,
         {{3, {2, 3, 5}}},
         1,
         {{2, {4, 5}}, {1, {4}}, {2, {2, 5}}, {2, {4, 2}}},
         4},
        {"rank above both sides",
         build_low_rank,
         {{2, {3, 5}}},
         1,
         {{2, {4, 5}}, {1, {4}}, {2, {7, 5}}, {2, {4, 7}}},
         4},
        {"linear of a convolution's weight",
         build_low_rank,
         {{3, {1, 3, 5}}},
         1,
         {{4, {4, 5, 1, 1}}, {1, {4}}, {4, {2, 5, 1, 1}}, {4, {4, 2, 1, 1}}},
         4},
        {"convolution",
         build_low_rank,
         {{4, {2, 5, 4, 3}}},
         1,
         {{4, {4, 3, 3, 3}}, {1, {4}}, {4, {2, 3, 3, 3}}, {4, {4, 2, 1, 1}}},
         4}};
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

/* The norm depends on none of these. params: magnitude, bias */
static sara_param frozen[3]; /* weight, down, up */

static sara_status build_magnitude(sara_tape *tape, sara_var **y, sara_var *const *in,
                                   sara_param *const *params)
{
    beside = (sara_branch){.kind = SARA_BRANCH_LOW_RANK,
                           .down = &frozen[1],
                           .up = &frozen[2],
                           .magnitude = params[0],
                           .scale = 0.7f};
    frozen[0].branch = &beside;
    return apply(tape, y, in[0], &frozen[0], params[1]);
}

static void check_magnitude(const test_graph *graph, const sara_shape shapes[3])
{
    test_nn nn = test_nn_open("cpu");
    for (int i = 0; i < 3; i++)
        frozen[i] = test_nn_param(&nn, "frozen", shapes[i], (uint64_t)i + 31);
    test_graph_check(graph);
    for (int i = 0; i < 3; i++)
        test_nn_param_free(&nn, &frozen[i]);
    test_nn_close(&nn);
}

static void test_magnitude(void **state)
{
    (void)state;
    static const test_graph linear = {"linear", build_magnitude,      {{3, {2, 3, 5}}},
                                      1,        {{1, {4}}, {1, {4}}}, 2};
    static const test_graph convolution = {
        "convolution", build_magnitude, {{4, {2, 5, 4, 3}}}, 1, {{1, {4}}, {1, {4}}}, 2};
    check_magnitude(&linear, (const sara_shape[]){{2, {4, 5}}, {2, {2, 5}}, {2, {4, 2}}});
    check_magnitude(&convolution,
                    (const sara_shape[]){{4, {4, 3, 3, 3}}, {4, {2, 3, 3, 3}}, {4, {4, 2, 1, 1}}});
}

/* ------------------------------------------------------------------------------- whole layers */

/* A layer with its branch, and what comes of a pass. */
typedef struct layer {
    test_nn nn;
    sara_param weight, bias, down, up, magnitude;
    sara_branch branch;
    sara_shape in;
    float *x, *projection, *y, *dx;
} layer;

static layer layer_open(const char *device, sara_shape in, sara_shape weight, int64_t rank,
                        float scale, bool magnitude)
{
    layer l = {.nn = test_nn_open(device), .in = in};
    sara_shape down = weight, up = weight;
    down.dims[0] = up.dims[1] = rank;
    for (int i = 2; i < up.rank; i++)
        up.dims[i] = 1;
    l.weight = test_nn_param(&l.nn, "weight", weight, 1);
    l.bias = test_nn_param(&l.nn, "bias", sara_shape1(weight.dims[0]), 2);
    l.down = test_nn_param(&l.nn, "down", down, 3);
    l.up = test_nn_param(&l.nn, "up", up, 4);
    l.magnitude = test_nn_param(&l.nn, "magnitude", sara_shape1(weight.dims[0]), 5);
    l.branch = (sara_branch){.kind = SARA_BRANCH_LOW_RANK, .scale = scale};
    l.x = test_nn_random((size_t)sara_shape_count(&in), 6);
    test_nn_want_dense(&l.down);
    test_nn_want_dense(&l.up);
    test_nn_want_dense(&l.magnitude);
    if (!magnitude)
        l.magnitude.want = SARA_GRAD_NONE;
    return l;
}

/* Where the layer now lies. */
static void layer_attach(layer *l)
{
    l->branch.down = &l->down;
    l->branch.up = &l->up;
    l->branch.magnitude = l->magnitude.want == SARA_GRAD_NONE ? NULL : &l->magnitude;
    l->weight.branch = &l->branch;
}

static sara_status layer_build(sara_tape *tape, sara_var **y, sara_var *const *in,
                               const void *argument)
{
    layer *l = *(layer *const *)argument;
    return apply(tape, y, in[0], &l->weight, &l->bias);
}

/* Forward and backward, of a region that is computed again or of itself. */
static void layer_run(layer *l, bool checkpointed)
{
    sara_var *x, *y, *loss;
    size_t scope;
    layer_attach(l);
    assert_ok(l->nn.ctx, sara_tape_leaf(l->nn.tape, &x, &l->in, l->x, true));
    scope = sara_tape_open(l->nn.tape);
    assert_ok(l->nn.ctx,
              checkpointed ? sara_tape_checkpoint(l->nn.tape, &y, layer_build, &x, 1, &l, sizeof(l))
                           : layer_build(l->nn.tape, &y, &x, &l));
    size_t ny = (size_t)sara_shape_count(&y->shape), nx = (size_t)sara_shape_count(&x->shape);
    l->projection = test_nn_random(ny, 7);
    l->y = test_nn_copy(y->data, ny);
    test_nn_project(&l->nn, &loss, y, l->projection);
    sara_tape_close(l->nn.tape, scope, &loss, 1);
    assert_ok(l->nn.ctx, sara_tape_backward(l->nn.tape, loss, 1));
    l->dx = test_nn_copy(x->grad, nx);
    sara_tape_reset(l->nn.tape);
}

static void layer_close(layer *l)
{
    sara_param *params[] = {&l->weight, &l->bias, &l->down, &l->up, &l->magnitude};
    for (size_t i = 0; i < sizeof(params) / sizeof(*params); i++)
        test_nn_param_free(&l->nn, params[i]);
    free(l->x);
    free(l->projection);
    free(l->y);
    free(l->dx);
    test_nn_close(&l->nn);
}

static size_t entries(const sara_param *param)
{
    return (size_t)sara_shape_count(&param->value.shape);
}

static size_t outputs(const layer *l)
{
    const sara_shape *in = &l->in;
    sara_shape out = *in;
    if (in->rank == 4) {
        out.dims[1] = (in->dims[1] + uneven.pad_top + uneven.pad_bottom - 3) / uneven.stride + 1;
        out.dims[2] = (in->dims[2] + uneven.pad_left + uneven.pad_right - 3) / uneven.stride + 1;
    }
    out.dims[out.rank - 1] = l->weight.value.shape.dims[0];
    return (size_t)sara_shape_count(&out);
}

static void compare(const layer *l, const layer *expected, double tolerance)
{
    size_t nx = (size_t)sara_shape_count(&l->in);
    assert_close(test_relative_l2(l->y, expected->y, outputs(l)), tolerance, "y");
    assert_close(test_relative_l2(l->dx, expected->dx, nx), tolerance, "dx");
    assert_close(test_relative_l2(l->down.grad, expected->down.grad, entries(&l->down)), tolerance,
                 "down");
    assert_close(test_relative_l2(l->up.grad, expected->up.grad, entries(&l->up)), tolerance, "up");
    if (l->magnitude.want == SARA_GRAD_DENSE)
        assert_close(
            test_relative_l2(l->magnitude.grad, expected->magnitude.grad, entries(&l->magnitude)),
            tolerance, "magnitude");
}

typedef struct problem {
    sara_shape in, weight;
    int64_t rank;
} problem;
static const problem problems[] = {{{3, {2, 600, 48}}, {2, {72, 48}}, 8},
                                   {{2, {3, 32}}, {2, {16, 32}}, 40},
                                   {{4, {2, 17, 12, 20}}, {4, {36, 20, 3, 3}}, 5}};
#define PROBLEMS (sizeof(problems) / sizeof(*problems))

static layer run_problem(const problem *p, const char *device, bool magnitude, bool checkpointed)
{
    layer l = layer_open(device, p->in, p->weight, p->rank, 0.4f, magnitude);
    layer_run(&l, checkpointed);
    return l; /* to be attached anew */
}

/* Also in 16 bits, where the processor can. */
static void test_fast(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * PROBLEMS; i++) {
        layer plain = run_problem(&problems[i / 2], "cpu-plain", i % 2, false);
        layer fast = run_problem(&problems[i / 2], "cpu", i % 2, false);
        compare(&fast, &plain, 1e-5);
        layer_close(&fast);
        if (!sara_bf16_lacks()) {
            layer narrow = run_problem(&problems[i / 2], "cpu-bf16", i % 2, false);
            compare(&narrow, &plain, 2e-2);
            layer_close(&narrow);
        }
        layer_close(&plain);
    }
}

static void test_checkpointed(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * PROBLEMS; i++) {
        layer once = run_problem(&problems[i / 2], "cpu", i % 2, false);
        layer again = run_problem(&problems[i / 2], "cpu", i % 2, true);
        compare(&again, &once, 0);
        layer_close(&once);
        layer_close(&again);
    }
}

/* |W| is a constant to down and up: their gradients are those without a magnitude of a projection
 * that is scaled by magnitude / |W|. */
static void check_detached(const problem *p)
{
    layer with = run_problem(p, "cpu-plain", true, false);
    layer without = layer_open("cpu-plain", p->in, p->weight, p->rank, 0.4f, false);
    int64_t out = p->weight.dims[0], in = sara_shape_count(&p->weight) / out;
    const float *w = with.weight.value.data, *down = with.down.value.data;
    const float *up = with.up.value.data, *magnitude = with.magnitude.value.data;
    float *factor = test_nn_zeros((size_t)out);
    for (int64_t o = 0; o < out; o++) {
        double sum = 0;
        for (int64_t i = 0; i < in; i++) {
            double value = w[o * in + i];
            for (int64_t r = 0; r < p->rank; r++)
                value += 0.4 * up[o * p->rank + r] * down[r * in + i];
            sum += value * value;
        }
        factor[o] = (float)(magnitude[o] / sqrt(sum));
    }
    sara_var *x, *y, *loss;
    layer_attach(&without);
    assert_ok(without.nn.ctx, sara_tape_leaf(without.nn.tape, &x, &p->in, without.x, true));
    assert_ok(without.nn.ctx, apply(without.nn.tape, &y, x, &without.weight, NULL));
    for (size_t i = 0; i < outputs(&with); i++) {
        float scaled = y->data[i] * factor[i % (size_t)out];
        y->data[i] = scaled + ((const float *)with.bias.value.data)[i % (size_t)out];
        with.projection[i] *= factor[i % (size_t)out];
    }
    without.y = test_nn_copy(y->data, outputs(&with));
    test_nn_project(&without.nn, &loss, y, with.projection);
    assert_ok(without.nn.ctx, sara_tape_backward(without.nn.tape, loss, 1));
    without.dx = test_nn_copy(x->grad, (size_t)sara_shape_count(&p->in));
    with.magnitude.want = SARA_GRAD_NONE;
    compare(&with, &without, 1e-5);
    free(factor);
    layer_close(&with);
    layer_close(&without);
}

static void test_detached(void **state)
{
    (void)state;
    for (size_t i = 0; i < PROBLEMS; i++)
        check_detached(&problems[i]);
}

/* ------------------------------------------------------------------------------------ memory */

/* Most bytes alive in a pass on another tape. */
static size_t alive(layer *l, sara_device *device, bool training)
{
    sara_tape *tape;
    sara_var *x, *y, *loss;
    float *zeros = test_nn_zeros(outputs(l));
    assert_ok(l->nn.ctx, sara_tape_new(l->nn.ctx, &tape, device));
    sara_tape_record(tape, training);
    assert_ok(l->nn.ctx, sara_tape_leaf(tape, &x, &l->in, l->x, true));
    size_t scope = sara_tape_open(tape);
    assert_ok(l->nn.ctx, apply(tape, &y, x, &l->weight, &l->bias));
    if (training) {
        assert_ok(l->nn.ctx, sara_nn_mse_loss(tape, &loss, y, zeros, NULL, NULL));
        sara_tape_close(tape, scope, &loss, 1);
        assert_ok(l->nn.ctx, sara_tape_backward(tape, loss, 1));
    }
    size_t peak = sara_tape_peak(tape);
    free(zeros);
    sara_tape_free(tape);
    return peak;
}

/* What the dry device counts is what the real one takes. */
static void test_dry(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * PROBLEMS; i++) {
        layer l = run_problem(&problems[i / 2], "cpu-plain", i % 2, false);
        sara_device *dry;
        layer_attach(&l);
        assert_ok(l.nn.ctx, sara_nn_device_open_dry(l.nn.ctx, &dry, l.nn.device));
        assert_int_equal(alive(&l, dry, true), alive(&l, l.nn.device, true));
        assert_int_equal(alive(&l, dry, false), alive(&l, l.nn.device, false));
        sara_nn_device_close(dry);
        layer_close(&l);
    }
}

static size_t lines(size_t floats)
{
    return (floats * sizeof(float) + 63) / 64 * 64;
}

/* Beside the layer's own result: h alone and the scaled factor, and in backward h's gradient. */
static void test_lean(void **state)
{
    (void)state;
    const problem *p = &problems[0];
    layer l = run_problem(p, "cpu-plain", false, false);
    layer_attach(&l);
    size_t h = lines(1200 * 8), up = lines(72 * 8), with = alive(&l, l.nn.device, false);
    size_t trained = alive(&l, l.nn.device, true);
    l.weight.branch = NULL;
    size_t without = alive(&l, l.nn.device, false), frozen_trained = alive(&l, l.nn.device, true);
    assert_int_equal(with, without + h + up);
    assert_in_range(trained, frozen_trained + h, frozen_trained + 2 * h + 2 * up);
    layer_close(&l);
}

static void test_refusals(void **state)
{
    (void)state;
    layer l = run_problem(&problems[1], "cpu", false, false);
    sara_param other = test_nn_param(&l.nn, "other", sara_shape2(40, 31), 1);
    sara_var *x, *y;
    layer_attach(&l);
    assert_ok(l.nn.ctx, sara_tape_leaf(l.nn.tape, &x, &l.in, l.x, true));
    l.branch.down = &other;
    assert_refused(l.nn.ctx, SARA_ERROR_INPUT, "linear: other: shape [40,31], expected [40,32]",
                   sara_nn_linear(l.nn.tape, &y, x, &l.weight, NULL));
    l.branch.down = &l.down;
    l.branch.up = &other;
    assert_refused(l.nn.ctx, SARA_ERROR_INPUT, "linear: other: shape [40,31], expected [16,40]",
                   sara_nn_linear(l.nn.tape, &y, x, &l.weight, NULL));
    l.branch.up = &l.up;
    l.branch.magnitude = &other;
    assert_refused(l.nn.ctx, SARA_ERROR_INPUT, "linear: other: shape [40,31], expected [16]",
                   sara_nn_linear(l.nn.tape, &y, x, &l.weight, NULL));
    test_nn_param_free(&l.nn, &other);
    layer_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_low_rank), cmocka_unit_test(test_magnitude),
        cmocka_unit_test(test_fast),     cmocka_unit_test(test_checkpointed),
        cmocka_unit_test(test_detached), cmocka_unit_test(test_dry),
        cmocka_unit_test(test_lean),     cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
