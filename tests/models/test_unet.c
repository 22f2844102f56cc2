/* The U-Net against diffusers, in training and without. */
#include "support_unet.h"

#include <math.h>

/* Of gradients. */
#define RELATIVE 5e-5
#define FLOOR    1e-7

static void check_golden(const char *folder, const char *device, int levels)
{
    unet_run r = unet_run_open(folder, device);
    size_t count;
    float *loss = test_load_f32(r.ctx, r.golden, "loss", &count);
    unet_run_want_dense(&r);
    r.unet->checkpoint_levels = levels;
    unet_run_step(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-4, "output");
    assert_close(fabs((double)r.loss->data[0] - loss[0]), 1e-5 * fabs((double)loss[0]), "loss");
    unet_run_check_gradients(&r, RELATIVE, FLOOR);
    sara_free(r.ctx, loss);
    unet_run_close(&r);
}

static void test_equals_diffusers(void **state)
{
    (void)state;
    static const char *const folders[] = {SD1,
                                          SD2,
                                          VARIANTS "/unet_lists",
                                          VARIANTS "/unet_odd",
                                          VARIANTS "/unet_tiny",
                                          VARIANTS "/unet_quiet",
                                          PIPELINE "/unet"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        check_golden(folders[i], "cpu-plain", 0);
        check_golden(folders[i], "cpu", 0);
    }
}

/* Of the first levels, each one more: the same bits, and less memory each time. */
static void test_checkpointing_gives_the_same(void **state)
{
    (void)state;
    static const char *const folders[] = {SD1, VARIANTS "/unet_lists"};
    for (int f = 0; f < 2; f++) {
        unet_run kept = unet_run_open(folders[f], "cpu");
        size_t most = SIZE_MAX;
        unet_run_want_dense(&kept);
        unet_run_step(&kept);
        for (int levels = 0; levels <= kept.unet->info.denoiser.levels; levels++) {
            unet_run again = unet_run_open(folders[f], "cpu");
            unet_run_want_dense(&again);
            again.unet->checkpoint_levels = levels;
            unet_run_step(&again);
            unet_run_check_gradients(&again, RELATIVE, FLOOR);
            for (size_t i = 0; i < kept.params->count; i++) {
                const sara_param *a = &again.params->items[i], *b = &kept.params->items[i];
                size_t count = (size_t)sara_shape_count(&a->value.shape);
                if (memcmp(a->grad, b->grad, count * sizeof(*a->grad)) != 0)
                    fail_msg("%s: the gradients differ with %d levels", a->name, levels);
            }
            assert_true(sara_tape_peak(again.tape) < most);
            most = sara_tape_peak(again.tape);
            unet_run_close(&again);
        }
        unet_run_close(&kept);
    }
}

static size_t count_events(const sara_context *ctx, const char *kind)
{
    size_t count, found = 0;
    const sara_trace_event *events = sara_trace_events(ctx, &count);
    for (size_t i = 0; i < count; i++)
        found += strcmp(events[i].kind, kind) == 0;
    return found;
}

/* Where the last layer alone is trained, backward computes nothing in what lies before it, whether
 * activations are recomputed or not. */
static void test_checkpointing_leaves_what_is_frozen(void **state)
{
    (void)state;
    static const char *const kinds[] = {"conv2d",    "conv2d dx", "linear",
                                        "linear dx", "attention", "attention grad"};
    size_t counts[2][6];
    for (int levels = 0; levels < 2; levels++) {
        unet_run r = unet_run_open(VARIANTS "/unet_tiny", "cpu");
        sara_param *last = sara_params_find(r.params, "conv_out.weight");
        size_t count = (size_t)sara_shape_count(&last->value.shape);
        r.unet->checkpoint_levels = levels ? r.unet->info.denoiser.levels : 0;
        last->want = SARA_GRAD_DENSE;
        assert_ok(r.ctx, sara_alloc_zero(r.ctx, &last->grad, count, sizeof(float)));
        assert_ok(r.ctx, sara_trace_start(r.ctx));
        unet_run_step(&r);
        for (int k = 0; k < 6; k++)
            counts[levels][k] = count_events(r.ctx, kinds[k]);
        assert_int_equal(count_events(r.ctx, "conv2d dw"), 1);
        unet_run_close(&r);
    }
    for (int k = 0; k < 6; k++)
        assert_int_equal(counts[1][k], counts[0][k]);
    assert_int_equal(counts[0][1], 0);
}

static void test_gradients_add_up_over_passes(void **state)
{
    (void)state;
    unet_run r = unet_run_open(VARIANTS "/unet_tiny", "cpu");
    unet_run_want_dense(&r);
    unet_run_step(&r);
    sara_tape_reset(r.tape);
    unet_run_step(&r);
    for (size_t i = 0; i < r.params->count; i++)
        for (int64_t j = 0; j < sara_shape_count(&r.params->items[i].value.shape); j++)
            r.params->items[i].grad[j] /= 2;
    unet_run_check_gradients(&r, RELATIVE, FLOOR);
    unet_run_close(&r);
}

/* Without recording nothing but the output stays. */
static void test_inference(void **state)
{
    (void)state;
    unet_run r = unet_run_open(SD1, "cpu"), recorded = unet_run_open(SD1, "cpu");
    unet_run_want_dense(&r);
    unet_run_want_dense(&recorded);
    unet_run_forward(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-4, "output");
    assert_false(r.output->requires_grad);
    unet_run_step(&recorded);
    assert_true(2 * sara_tape_peak(r.tape) < sara_tape_peak(recorded.tape));
    unet_run_close(&r);
    unet_run_close(&recorded);
}

/* What a device derived from a model's weights is not taken for another model's, though that may
 * lie where the first one lay. */
static void test_one_model_after_another(void **state)
{
    (void)state;
    unet_run r = unet_run_open(SD2, "cpu");
    for (int i = 0; i < 2; i++) {
        sara_network_free(r.unet);
        assert_ok(r.ctx, sara_network_load(r.device, &r.unet, &sara_unet_class, i ? SD2 : SD1, NULL,
                                           SARA_STORE_F32));
        r.params = &r.unet->params;
        unet_run_forward(&r);
        double error = test_var_error(r.ctx, r.output, r.golden, "output");
        if (i)
            assert_close(error, 1e-4, "output");
        else
            assert_true(error > 0.1);
        sara_tape_reset(r.tape);
    }
    unet_run_close(&r);
}

static void test_inputs_of_other_shapes_are_refused(void **state)
{
    (void)state;
    unet_run r = unet_run_open(VARIANTS "/unet_tiny", "cpu");
    sara_shape latents = sara_shape4(2, 4, 4, 4), context = sara_shape3(2, 2, 3);
    static const struct {
        sara_shape sample, context;
        const char *error;
    } cases[] = {
        {{4, {2, 3, 4, 4}}, {3, {2, 2, 3}}, "sample [2,3,4,4], expected [N,4,H,W]"},
        {{3, {4, 4, 8}}, {3, {2, 2, 3}}, "sample [4,4,8], expected [N,4,H,W]"},
        {{4, {2, 4, 4, 4}}, {3, {2, 1, 6}}, "encoder_hidden_states [2,1,6], expected [2,T,3]"},
        {{4, {2, 4, 4, 4}}, {3, {1, 4, 3}}, "encoder_hidden_states [1,4,3], expected [2,T,3]"},
    };
    assert_true(sara_shape_count(&latents) == 128 && sara_shape_count(&context) == 12);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sara_var *sample, *output = NULL;
        sara_condition condition = {{NULL}};
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample, &cases[i].sample, r.sample, false));
        assert_ok(r.ctx,
                  sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_STATES], &cases[i].context,
                                 r.condition[SARA_CONDITION_STATES], false));
        assert_refused(
            r.ctx, SARA_ERROR_INPUT, cases[i].error,
            sara_denoiser_forward(r.tape, &output, r.unet, sample, r.timesteps, &condition));
        sara_tape_reset(r.tape);
    }
    unet_run_close(&r);
}

/* ---------------------------------------------------------------------------------- allocations */

static sara_status train_once(sara_context *ctx, sara_tape *tape, sara_network *unet)
{
    static float latents[64], text[6], target[64];
    static const double timesteps[] = {500};
    sara_shape shape = sara_shape4(1, 4, 4, 4), context_shape = sara_shape3(1, 2, 3);
    sara_params *params = &unet->params;
    sara_var *sample, *output, *loss;
    sara_condition condition = {{NULL}};
    float *grads = NULL, *next;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &grads, (size_t)sara_params_entries(params), sizeof(*grads)));
    next = grads;
    for (size_t i = 0; i < params->count; i++) {
        params->items[i].want = SARA_GRAD_DENSE;
        params->items[i].grad = next;
        next += sara_shape_count(&params->items[i].value.shape);
    }
    sara_tape_record(tape, true);
    TRY(sara_tape_leaf(tape, &sample, &shape, latents, false));
    TRY(sara_tape_leaf(tape, &condition.of[SARA_CONDITION_STATES], &context_shape, text, false));
    TRY(sara_denoiser_forward(tape, &output, unet, sample, timesteps, &condition));
    TRY(sara_nn_mse_loss(tape, &loss, output, target, NULL, NULL));
    TRY(sara_tape_backward(tape, loss, 1));
done:
    sara_tape_reset(tape);
    sara_free(ctx, grads);
    return status;
}

static sara_status load_and_train_on(sara_context *ctx, const char *name)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_network *unet = NULL;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, name));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, VARIANTS "/unet_tiny",
                          NULL, SARA_STORE_F32));
    TRY(train_once(ctx, tape, unet));
    unet->checkpoint_levels = SARA_MAX_LEVELS;
    TRY(train_once(ctx, tape, unet));
done:
    sara_network_free(unet);
    sara_tape_free(tape);
    if (device)
        sara_nn_device_close(device);
    return status;
}

static sara_status load_and_train(sara_context *ctx)
{
    return load_and_train_on(ctx, "cpu-plain");
}

static sara_status load_and_train_fast(sara_context *ctx)
{
    return load_and_train_on(ctx, "cpu");
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    test_allocation_failures(load_and_train);
    test_allocation_failures(load_and_train_fast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_diffusers),
        cmocka_unit_test(test_checkpointing_gives_the_same),
        cmocka_unit_test(test_checkpointing_leaves_what_is_frozen),
        cmocka_unit_test(test_gradients_add_up_over_passes),
        cmocka_unit_test(test_inference),
        cmocka_unit_test(test_one_model_after_another),
        cmocka_unit_test(test_inputs_of_other_shapes_are_refused),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
