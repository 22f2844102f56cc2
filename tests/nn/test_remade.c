/* Every op whose result the tape makes again: the same bits of every gradient, in less memory. */
#include "nn/support_nn.h"

#include <stdlib.h>

enum { C = 32, SIDE = 8, PARAMS = 6 };

typedef struct layers {
    sara_param norm_w, norm_b, conv, wide, narrow, mix;
} layers;

/* An upsampling, a concatenation and a feed-forward, with the norms before them: [1,S,S,C]. */
static sara_status block(sara_tape *tape, sara_var **y, layers *l, sara_var *x)
{
    const sara_conv2d_options same = {1, 1, 1, 1, 1}, half = {2, 1, 1, 1, 1};
    size_t scope = sara_tape_open(tape);
    sara_var *h, *skip;
    sara_status status;
    TRY(sara_nn_group_norm(tape, &h, x, &l->norm_w, &l->norm_b, 8, 1e-5f, SARA_SILU));
    TRY(sara_nn_conv2d(tape, &skip, h, &l->conv, NULL, &half));
    TRY(sara_nn_upsample(tape, &h, skip, SIDE, SIDE));
    TRY(sara_nn_conv2d(tape, &h, h, &l->conv, NULL, &same));
    TRY(sara_nn_concat(tape, &h, h, x));
    TRY(sara_nn_linear(tape, &h, h, &l->mix, NULL));
    TRY(sara_nn_layer_norm(tape, &h, h, &l->norm_w, &l->norm_b, 1e-5f));
    TRY(sara_nn_linear(tape, &h, h, &l->wide, NULL));
    TRY(sara_nn_geglu(tape, &h, h));
    TRY(sara_nn_linear(tape, &h, h, &l->narrow, NULL));
    TRY(sara_nn_activate(tape, &h, h, SARA_GELU));
    TRY(sara_nn_rms_norm(tape, &skip, h, &l->norm_w, 1e-6f));
    TRY(sara_nn_gated_gelu(tape, &h, h, skip));
    TRY(sara_nn_linear(tape, &h, h, &l->narrow, NULL));
    TRY(sara_nn_add(tape, y, h, x));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_param *param_at(layers *l, int i)
{
    sara_param *const params[PARAMS] = {&l->norm_w, &l->norm_b, &l->conv,
                                        &l->wide,   &l->narrow, &l->mix};
    return params[i];
}

static layers make_layers(test_nn *nn)
{
    layers l = {.norm_w = test_nn_param(nn, "norm.weight", sara_shape1(C), 1),
                .norm_b = test_nn_param(nn, "norm.bias", sara_shape1(C), 2),
                .conv = test_nn_param(nn, "conv", sara_shape4(C, C, 3, 3), 3),
                .wide = test_nn_param(nn, "wide", sara_shape2(2 * C, C), 4),
                .narrow = test_nn_param(nn, "narrow", sara_shape2(C, C), 5),
                .mix = test_nn_param(nn, "mix", sara_shape2(C, 2 * C), 6)};
    for (int i = 0; i < PARAMS; i++)
        test_nn_want_sampled(param_at(&l, i), 0.3);
    return l;
}

/* Two blocks; returns the most memory, dx is malloc'd. */
static size_t run(test_nn *nn, layers *l, float **dx, bool remaking)
{
    const sara_shape shape = sara_shape4(1, SIDE, SIDE, C);
    size_t count = (size_t)sara_shape_count(&shape);
    float *x = test_nn_random(count, 7), *target = test_nn_random(count, 8);
    sara_var *leaf, *y, *loss;
    sara_tape_remaking(nn->tape, remaking);
    assert_ok(nn->ctx, sara_tape_leaf(nn->tape, &leaf, &shape, x, true));
    assert_ok(nn->ctx, block(nn->tape, &y, l, leaf));
    assert_ok(nn->ctx, block(nn->tape, &y, l, y));
    assert_ok(nn->ctx, sara_nn_mse_loss(nn->tape, &loss, y, target, NULL, NULL));
    assert_ok(nn->ctx, sara_tape_backward(nn->tape, loss, 1));
    *dx = test_nn_copy(leaf->grad, count);
    free(target);
    free(x);
    return sara_tape_peak(nn->tape);
}

static void check(const char *device)
{
    test_nn kept_nn = test_nn_open(device), made_nn = test_nn_open(device);
    layers kept = make_layers(&kept_nn), made = make_layers(&made_nn);
    float *kept_dx, *made_dx;
    size_t kept_peak = run(&kept_nn, &kept, &kept_dx, false);
    size_t made_peak = run(&made_nn, &made, &made_dx, true);
    assert_true(made_peak < kept_peak);
    assert_memory_equal(made_dx, kept_dx, SIDE * SIDE * C * sizeof(float));
    for (int i = 0; i < PARAMS; i++) {
        sara_param *a = param_at(&made, i), *b = param_at(&kept, i);
        assert_true(b->selected > 1 && b->grad[1] != 0);
        assert_memory_equal(a->grad, b->grad, a->selected * sizeof(float));
        test_nn_param_free(&made_nn, a);
        test_nn_param_free(&kept_nn, b);
    }
    free(kept_dx);
    free(made_dx);
    test_nn_close(&kept_nn);
    test_nn_close(&made_nn);
}

static void test_same_bits(void **state)
{
    (void)state;
    check("cpu");
    check("cpu-plain");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
