#include "nn/support_nn.h"

#include <stdlib.h>

test_nn test_nn_open(const char *device)
{
    test_nn nn = {.ctx = test_context()};
    assert_ok(nn.ctx, sara_nn_device_open(nn.ctx, &nn.device, device));
    assert_ok(nn.ctx, sara_tape_new(nn.ctx, &nn.tape, nn.device));
    sara_tape_record(nn.tape, true);
    return nn;
}

void test_nn_close(test_nn *nn)
{
    sara_tape_free(nn->tape);
    sara_nn_device_close(nn->device);
    sara_context_free(nn->ctx);
}

test_pair test_pair_open(void)
{
    test_pair pair = {.fast = test_nn_open("cpu"), .plain = test_nn_open("cpu-plain")};
    pair.fe = sara_tape_env(pair.fast.tape);
    pair.pe = sara_tape_env(pair.plain.tape);
    return pair;
}

void test_pair_close(test_pair *pair)
{
    test_nn_close(&pair->fast);
    test_nn_close(&pair->plain);
}

sara_conv_shape test_conv_shape(int64_t n, int64_t h, int64_t w, int64_t in, int64_t out, int64_t k,
                                int stride, const int pads[4])
{
    return (sara_conv_shape){.n = n, .h = h, .w = w, .in = in, .out = out, .kh = k, .kw = k,
                             .oh = (h + pads[0] + pads[2] - k) / stride + 1,
                             .ow = (w + pads[1] + pads[3] - k) / stride + 1,
                             .stride = stride, .pad_top = pads[0], .pad_left = pads[1],
                             .pad_bottom = pads[2], .pad_right = pads[3]};
}

size_t test_conv_x(const sara_conv_shape *s)
{
    return (size_t)(s->n * s->h * s->w * s->in);
}

size_t test_conv_w(const sara_conv_shape *s)
{
    return (size_t)(s->out * s->in * s->kh * s->kw);
}

size_t test_conv_y(const sara_conv_shape *s)
{
    return (size_t)(s->n * s->oh * s->ow * s->out);
}

float *test_nn_zeros(size_t count)
{
    float *data = calloc(count ? count : 1, sizeof(*data));
    assert_non_null(data);
    return data;
}

float *test_nn_random(size_t count, uint64_t seed)
{
    float *data = test_nn_zeros(count);
    sara_draw_normal(data, count, seed, SARA_DRAW_TEST, 0);
    return data;
}

float *test_nn_copy(const float *data, size_t count)
{
    float *copy = test_nn_zeros(count);
    memcpy(copy, data, count * sizeof(*copy));
    return copy;
}

sara_param test_nn_param(test_nn *nn, const char *name, sara_shape shape, uint64_t seed)
{
    sara_param param = {.name = name, .stored = SARA_F32};
    assert_ok(nn->ctx, sara_tensor_new(nn->ctx, &param.value, SARA_F32, &shape));
    sara_draw_normal(param.value.data, (size_t)sara_shape_count(&shape), seed, SARA_DRAW_TEST, 0);
    return param;
}

void test_nn_param_free(test_nn *nn, sara_param *param)
{
    sara_tensor_free(nn->ctx, &param->value);
    free(param->grad);
    free((void *)(uintptr_t)param->positions);
}

void test_nn_want_dense(sara_param *param)
{
    param->want = SARA_GRAD_DENSE;
    param->grad = test_nn_zeros((size_t)sara_shape_count(&param->value.shape));
}

void test_nn_want_sampled(sara_param *param, double density)
{
    size_t entries = (size_t)sara_shape_count(&param->value.shape);
    param->want = SARA_GRAD_SAMPLED;
    param->positions = test_nn_positions(&param->selected, entries, density, entries);
    param->grad = test_nn_zeros(param->selected);
}

uint32_t *test_nn_positions(size_t *count, size_t entries, double density, uint64_t seed)
{
    uint32_t *positions = calloc(entries ? entries : 1, sizeof(*positions));
    float *draws = test_nn_zeros(entries);
    assert_non_null(positions);
    sara_draw_uniform(draws, entries, seed, SARA_DRAW_TEST, 1);
    *count = 0;
    for (size_t i = 0; i < entries; i++)
        if (draws[i] < density)
            positions[(*count)++] = (uint32_t)i;
    free(draws);
    return positions;
}

static sara_status project_backward(sara_tape *tape, sara_node *node)
{
    const float *const *weights = node->attributes;
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    for (int64_t i = 0; i < sara_shape_count(&node->in[0]->shape); i++)
        dx[i] += node->out->grad[0] * (*weights)[i];
done:
    return status;
}

void test_nn_project(test_nn *nn, sara_var **loss, sara_var *y, const float *weights)
{
    const sara_shape one = sara_shape1(1);
    double sum = 0;
    assert_ok(nn->ctx, sara_tape_var(nn->tape, loss, &one));
    for (int64_t i = 0; i < sara_shape_count(&y->shape); i++)
        sum += (double)y->data[i] * weights[i];
    (*loss)->data[0] = (float)sum;
    sara_node node = {.op = "project", .backward = project_backward, .in = {y}, .out = *loss,
                      .attributes = &weights};
    assert_ok(nn->ctx, sara_tape_add(nn->tape, &node, sizeof(weights)));
}
