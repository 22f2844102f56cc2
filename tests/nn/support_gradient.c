#include "nn/support_gradient.h"

#include <math.h>
#include <stdlib.h>

#define STEP      1e-2f
#define TOLERANCE 2e-3

typedef struct run {
    test_nn nn;
    const test_graph *graph;
    float *in[TEST_GRAPH_MAX], *weights; /* weights: the projection of y */
    sara_param params[TEST_GRAPH_MAX], *pointers[TEST_GRAPH_MAX];
} run;

static size_t elements(const sara_shape *shape)
{
    return (size_t)sara_shape_count(shape);
}

static sara_var *build(run *r, sara_var **leaves, bool requires_grad)
{
    sara_var *y;
    for (int i = 0; i < r->graph->in_count; i++)
        assert_ok(r->nn.ctx, sara_tape_leaf(r->nn.tape, &leaves[i], &r->graph->in[i], r->in[i],
                                            requires_grad));
    assert_ok(r->nn.ctx, r->graph->build(r->nn.tape, &y, leaves, r->pointers));
    if (!r->weights)
        r->weights = test_nn_random(elements(&y->shape), 99);
    return y;
}

static double project(run *r)
{
    sara_var *leaves[TEST_GRAPH_MAX];
    double sum = 0;
    sara_tape_record(r->nn.tape, false);
    const sara_var *y = build(r, leaves, false);
    for (size_t i = 0; i < elements(&y->shape); i++)
        sum += (double)y->data[i] * r->weights[i];
    sara_tape_record(r->nn.tape, true);
    sara_tape_reset(r->nn.tape);
    return sum;
}

static void check_differences(run *r, float *data, const float *gradient, size_t count)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        float kept = data[i], up = kept + STEP, down = kept - STEP;
        data[i] = up;
        double above = project(r);
        data[i] = down;
        double below = project(r);
        data[i] = kept;
        double expected = (above - below) / ((double)up - down), d = gradient[i] - expected;
        error += d * d;
        norm += expected * expected;
    }
    assert_close(sqrt(error / (norm > 0 ? norm : 1)), TOLERANCE, r->graph->name);
}

/* One backward pass; *in_grads are copies. */
static void backward(run *r, float **in_grads)
{
    sara_var *leaves[TEST_GRAPH_MAX], *loss;
    sara_var *y = build(r, leaves, true);
    test_nn_project(&r->nn, &loss, y, r->weights);
    assert_ok(r->nn.ctx, sara_tape_backward(r->nn.tape, loss, 1));
    for (int i = 0; i < r->graph->in_count; i++) {
        assert_non_null(leaves[i]->grad);
        in_grads[i] = test_nn_copy(leaves[i]->grad, elements(&leaves[i]->shape));
    }
    sara_tape_reset(r->nn.tape);
}

static void free_grads(float **grads, int count)
{
    for (int i = 0; i < count; i++)
        free(grads[i]);
}

/* Of one parameter while the others want nothing. */
static void check_sampled(run *r, sara_param *param)
{
    float *dense = param->grad;
    float *ins[TEST_GRAPH_MAX];
    param->grad = NULL;
    test_nn_want_sampled(param, 0.4);
    backward(r, ins);
    for (size_t i = 0; i < param->selected; i++)
        assert_close(fabs((double)param->grad[i] - dense[param->positions[i]]),
                     1e-6 + 1e-5 * fabs((double)dense[param->positions[i]]), "sampled gradient");
    param->want = SARA_GRAD_NONE;
    free_grads(ins, r->graph->in_count);
    free(dense);
}

/* The inputs' gradients are the same when no parameter wants one. */
static void check_none(run *r, float **dense)
{
    float *ins[TEST_GRAPH_MAX];
    backward(r, ins);
    for (int i = 0; i < r->graph->in_count; i++)
        assert_memory_equal(ins[i], dense[i], elements(&r->graph->in[i]) * sizeof(float));
    free_grads(ins, r->graph->in_count);
}

/* Nothing is recorded when nobody wants a gradient. */
static void check_unrecorded(run *r)
{
    sara_var *leaves[TEST_GRAPH_MAX];
    assert_false(build(r, leaves, false)->requires_grad);
    sara_tape_reset(r->nn.tape);
}

static void check_on(const test_graph *graph, const char *device)
{
    run r = {.nn = test_nn_open(device), .graph = graph};
    float *ins[TEST_GRAPH_MAX];
    for (int i = 0; i < graph->in_count; i++)
        r.in[i] = test_nn_random(elements(&graph->in[i]), (uint64_t)i + 1);
    for (int i = 0; i < graph->param_count; i++) {
        r.params[i] = test_nn_param(&r.nn, "p", graph->params[i], (uint64_t)i + 11);
        r.pointers[i] = &r.params[i];
        test_nn_want_dense(&r.params[i]);
    }
    backward(&r, ins);
    for (int i = 0; i < graph->in_count; i++)
        check_differences(&r, r.in[i], ins[i], elements(&graph->in[i]));
    for (int i = 0; i < graph->param_count; i++)
        check_differences(&r, r.params[i].value.data, r.params[i].grad,
                          elements(&graph->params[i]));
    for (int i = 0; i < graph->param_count; i++)
        r.params[i].want = SARA_GRAD_NONE;
    check_none(&r, ins);
    for (int i = 0; i < graph->param_count; i++)
        check_sampled(&r, &r.params[i]);
    check_unrecorded(&r);
    free_grads(ins, graph->in_count);
    for (int i = 0; i < graph->param_count; i++)
        test_nn_param_free(&r.nn, &r.params[i]);
    for (int i = 0; i < graph->in_count; i++)
        free(r.in[i]);
    free(r.weights);
    test_nn_close(&r.nn);
}

void test_graph_check(const test_graph *graph)
{
    check_on(graph, "cpu");
    check_on(graph, "cpu-plain");
}
