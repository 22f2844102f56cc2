#include "support_models.h"

#include <math.h>
#include <stdlib.h>
#include <stdio.h>

#define SD1 SARA_TEST_GOLDEN "/unet_sd1"
#define SD2 SARA_TEST_GOLDEN "/unet_sd2"
#define PIPELINE SARA_TEST_GOLDEN "/pipeline" /* SD1.x's shape at 18x22, 9x11 and 5x6 */

/* A U-Net and what diffusers computed with it. */
typedef struct run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_unet *unet;
    sara_params *params;
    sara_safetensors *golden;
    float *sample, *context, *target;
    double timesteps[8];
    sara_var *output, *loss;
} run;

static void load_timesteps(run *r)
{
    sara_tensor tensor;
    sara_shape any = sara_shape1(-1);
    assert_ok(r->ctx, sara_safetensors_load(r->golden, &tensor, "timestep", SARA_I64, &any));
    assert_true(tensor.shape.dims[0] <= 8);
    for (int64_t i = 0; i < tensor.shape.dims[0]; i++)
        r->timesteps[i] = (double)((int64_t *)tensor.data)[i];
    sara_tensor_free(r->ctx, &tensor);
}

static run run_open_stored(const char *folder, const char *device, sara_storage storage)
{
    run r = {.ctx = test_context()};
    char *path;
    size_t count;
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_unet_load(r.ctx, &r.unet, folder, NULL, storage));
    r.params = sara_unet_params(r.unet);
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, folder, "golden.safetensors"));
    r.golden = test_open(r.ctx, path);
    sara_free(r.ctx, path);
    r.sample = test_load_f32(r.ctx, r.golden, "sample", &count);
    r.context = test_load_f32(r.ctx, r.golden, "encoder_hidden_states", &count);
    r.target = test_load_f32(r.ctx, r.golden, "target", &count);
    load_timesteps(&r);
    return r;
}

static run run_open(const char *folder, const char *device)
{
    return run_open_stored(folder, device, SARA_STORE_F32);
}

static void run_close(run *r)
{
    for (size_t i = 0; i < r->params->count; i++)
        sara_free(r->ctx, r->params->items[i].grad);
    sara_free(r->ctx, r->sample);
    sara_free(r->ctx, r->context);
    sara_free(r->ctx, r->target);
    sara_safetensors_close(r->golden);
    sara_unet_free(r->unet);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

static void want_dense(run *r)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        size_t count = (size_t)sara_shape_count(&p->value.shape);
        p->want = SARA_GRAD_DENSE;
        assert_ok(r->ctx, sara_alloc_zero(r->ctx, &p->grad, count, sizeof(float)));
    }
}

static void run_forward(run *r)
{
    sara_var *sample, *context;
    assert_ok(r->ctx,
              sara_tape_leaf(r->tape, &sample, &sara_safetensors_find(r->golden, "sample")->shape,
                             r->sample, false));
    assert_ok(r->ctx,
              sara_tape_leaf(r->tape, &context,
                             &sara_safetensors_find(r->golden, "encoder_hidden_states")->shape,
                             r->context, false));
    assert_ok(r->ctx,
              sara_unet_forward(r->tape, &r->output, r->unet, sample, r->timesteps, context));
}

static void run_step(run *r)
{
    sara_tape_record(r->tape, true);
    run_forward(r);
    assert_ok(r->ctx, sara_nn_mse_loss(r->tape, &r->loss, r->output, r->target));
    assert_ok(r->ctx, sara_tape_backward(r->tape, r->loss, 1));
}

/* ------------------------------------------------------------------------------------ gradients */

static double norm_of(const float *x, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

static double distance(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum);
}

static double norm_of_all(const run *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->params->count; i++) {
        const sara_param *p = &r->params->items[i];
        double norm = norm_of(p->grad, (size_t)sara_shape_count(&p->value.shape));
        sum += norm * norm;
    }
    return sqrt(sum);
}

/* Of each how-many-th entry the golden file holds a gradient: tests/golden/thin_golden.py. */
static size_t stride_of(const run *r, size_t count)
{
    const char *stride = sara_safetensors_metadata(r->golden, "gradient_stride");
    const char *large = sara_safetensors_metadata(r->golden, "gradient_large");
    return stride && large && count > (size_t)atol(large) ? (size_t)atol(stride) : 1;
}

/* Every stride-th entry, moved to the front of a copy; sara_free(). */
static float *thinned(run *r, const float *grad, size_t count, size_t stride)
{
    float *kept;
    assert_ok(r->ctx, sara_alloc(r->ctx, &kept, (count + stride - 1) / stride, sizeof(*kept)));
    for (size_t i = 0; i < count; i += stride)
        kept[i / stride] = grad[i];
    return kept;
}

static void check_gradients(run *r)
{
    double all = norm_of_all(r);
    char name[256];
    for (size_t i = 0; i < r->params->count; i++) {
        const sara_param *p = &r->params->items[i];
        size_t whole = (size_t)sara_shape_count(&p->value.shape), count;
        size_t stride = stride_of(r, whole);
        snprintf(name, sizeof(name), "grad.%s", p->name);
        float *expected = test_load_f32(r->ctx, r->golden, name, &count);
        float *ours = thinned(r, p->grad, whole, stride);
        assert_int_equal(count, (whole + stride - 1) / stride);
        assert_close(distance(ours, expected, count),
                     5e-5 * norm_of(expected, count) + 1e-7 * all, name);
        sara_free(r->ctx, expected);
        sara_free(r->ctx, ours);
    }
}

static void check_golden(const char *folder, const char *device, int levels)
{
    run r = run_open(folder, device);
    size_t count;
    float *loss = test_load_f32(r.ctx, r.golden, "loss", &count);
    want_dense(&r);
    sara_unet_checkpointing(r.unet, levels);
    run_step(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-4, "output");
    assert_close(fabs((double)r.loss->data[0] - loss[0]), 1e-5 * fabs((double)loss[0]), "loss");
    check_gradients(&r);
    sara_free(r.ctx, loss);
    run_close(&r);
}

static void test_equals_diffusers(void **state)
{
    (void)state;
    static const char *const folders[] = {SD1, SD2, VARIANTS "/unet_lists", VARIANTS "/unet_odd",
                                          VARIANTS "/unet_tiny", VARIANTS "/unet_quiet",
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
        run kept = run_open(folders[f], "cpu");
        size_t most = SIZE_MAX;
        want_dense(&kept);
        run_step(&kept);
        for (int levels = 0; levels <= sara_unet_info_of(kept.unet)->levels; levels++) {
            run again = run_open(folders[f], "cpu");
            want_dense(&again);
            sara_unet_checkpointing(again.unet, levels);
            run_step(&again);
            check_gradients(&again);
            for (size_t i = 0; i < kept.params->count; i++) {
                const sara_param *a = &again.params->items[i], *b = &kept.params->items[i];
                size_t count = (size_t)sara_shape_count(&a->value.shape);
                if (memcmp(a->grad, b->grad, count * sizeof(*a->grad)) != 0)
                    fail_msg("%s: the gradients differ with %d levels", a->name, levels);
            }
            assert_true(sara_tape_peak(again.tape) < most);
            most = sara_tape_peak(again.tape);
            run_close(&again);
        }
        run_close(&kept);
    }
}

/* A third of the parameters want nothing, the others the entries at random positions. */
static void want_sampled(run *r, uint32_t **positions)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        size_t count = (size_t)sara_shape_count(&p->value.shape);
        float *draw;
        positions[i] = NULL;
        if (sara_draw_below(3, 1, SARA_DRAW_TEST, 0, i) == 0)
            continue;
        assert_ok(r->ctx, sara_alloc(r->ctx, &draw, count, sizeof(*draw)));
        assert_ok(r->ctx, sara_alloc(r->ctx, &positions[i], count, sizeof(**positions)));
        sara_draw_uniform(draw, count, 2, SARA_DRAW_TEST, i);
        for (size_t j = 0; j < count; j++)
            if (draw[j] < 0.06f)
                positions[i][p->selected++] = (uint32_t)j;
        p->want = SARA_GRAD_SAMPLED;
        p->positions = positions[i];
        assert_ok(r->ctx, sara_alloc_zero(r->ctx, &p->grad, p->selected, sizeof(float)));
        sara_free(r->ctx, draw);
    }
}

/* One parameter: grad[i] is the dense gradient's entry positions[i]. */
static void check_sampled(sara_context *ctx, const sara_param *sampled, const float *dense,
                          double all)
{
    float *gathered;
    assert_ok(ctx, sara_alloc_zero(ctx, &gathered, sampled->selected + 1, sizeof(float)));
    for (size_t j = 0; j < sampled->selected; j++)
        gathered[j] = dense[sampled->positions[j]];
    assert_close(distance(sampled->grad, gathered, sampled->selected),
                 1e-5 * norm_of(gathered, sampled->selected) + 1e-7 * all, sampled->name);
    sara_free(ctx, gathered);
}

static void sampled_equals_dense(const char *folder, const char *device, int levels)
{
    run dense = run_open(folder, device), sampled = run_open(folder, device);
    uint32_t **positions;
    size_t selected = 0;
    assert_ok(sampled.ctx,
              sara_alloc(sampled.ctx, &positions, sampled.params->count, sizeof(*positions)));
    want_dense(&dense);
    want_sampled(&sampled, positions);
    sara_unet_checkpointing(sampled.unet, levels);
    run_step(&dense);
    run_step(&sampled);
    double all = norm_of_all(&dense);
    for (size_t i = 0; i < sampled.params->count; i++) {
        check_sampled(sampled.ctx, &sampled.params->items[i], dense.params->items[i].grad, all);
        selected += sampled.params->items[i].selected;
        sara_free(sampled.ctx, positions[i]);
    }
    assert_true(selected > 100);
    sara_free(sampled.ctx, positions);
    run_close(&dense);
    run_close(&sampled);
}

/* What a dry pass counts is what a real one takes, the kernels' scratch included. */
static void check_dry(const char *folder, int levels, const char *device, const char *dry)
{
    run runs[] = {run_open(folder, device), run_open(folder, dry)};
    double reached[2];
    for (int k = 0; k < 2; k++) {
        run *r = &runs[k];
        uint32_t **positions;
        assert_ok(r->ctx, sara_alloc(r->ctx, &positions, r->params->count, sizeof(*positions)));
        want_sampled(r, positions);
        sara_unet_checkpointing(r->unet, levels);
        assert_ok(r->ctx, sara_tape_reserve(r->tape, (size_t)256 << 20));
        run_step(r);
        reached[k] = (double)sara_tape_reached(r->tape);
        for (size_t i = 0; i < r->params->count; i++)
            sara_free(r->ctx, positions[i]);
        sara_free(r->ctx, positions);
        run_close(r);
    }
    assert_true(reached[0] > 100000);
    assert_close(fabs(reached[1] / reached[0] - 1), 0.05, folder);
}

static void test_dry_pass_foretells(void **state)
{
    (void)state;
    for (int levels = 0; levels <= 2; levels++) {
        check_dry(SD1, levels, "cpu", "dry");
        check_dry(SD2, levels, "cpu", "dry");
        check_dry(VARIANTS "/unet_odd", levels, "cpu", "dry");
        check_dry(PIPELINE "/unet", levels, "cpu", "dry");
    }
    sara_context *ctx = test_context();
    sara_device *narrow = NULL;
    if (sara_nn_device_open(ctx, &narrow, "cpu-bf16") == SARA_OK)
        check_dry(SD1, 0, "cpu-bf16", "dry-bf16");
    sara_nn_device_close(narrow);
    sara_context_free(ctx);
}

static void test_sampled_gradients_equal_dense_ones(void **state)
{
    (void)state;
    sampled_equals_dense(SD1, "cpu-plain", 0);
    sampled_equals_dense(SD1, "cpu", 0);
    sampled_equals_dense(SD2, "cpu", SARA_MAX_LEVELS);
    sampled_equals_dense(VARIANTS "/unet_odd", "cpu", 0);
    sampled_equals_dense(PIPELINE "/unet", "cpu", SARA_MAX_LEVELS);
}

/* ------------------------------------------------------------------------- weights of 16 bits */

/* Rounds the weights as the storage does, and leaves them floats. */
static void round_weights(run *r, sara_dtype dtype)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_tensor *value = &r->params->items[i].value;
        size_t count = (size_t)sara_shape_count(&value->shape);
        uint16_t *halves;
        if (value->shape.rank == 1)
            continue;
        assert_ok(r->ctx, sara_alloc(r->ctx, &halves, count, sizeof(*halves)));
        sara_convert_from_f32(halves, dtype, value->data, count);
        sara_convert_to_f32(value->data, halves, dtype, count);
        sara_free(r->ctx, halves);
    }
}

/* Against the same values as floats, whose gradients are dense; a plain kernel gives the same
 * bits. */
static void check_narrow(const char *device, sara_storage storage, bool sampled, double tolerance)
{
    run wide = run_open(SD1, device), narrow = run_open_stored(SD1, device, storage);
    sara_dtype dtype = storage == SARA_STORE_F16 ? SARA_F16 : SARA_BF16;
    uint32_t **positions = NULL;
    assert_int_equal(sara_params_find(narrow.params, "conv_in.weight")->value.dtype, dtype);
    assert_ok(narrow.ctx,
              sara_alloc_zero(narrow.ctx, &positions, narrow.params->count, sizeof(*positions)));
    want_dense(&wide);
    if (sampled)
        want_sampled(&narrow, positions);
    else
        want_dense(&narrow);
    round_weights(&wide, dtype);
    run_step(&wide);
    run_step(&narrow);
    double all = norm_of_all(&wide);
    size_t outputs = (size_t)sara_shape_count(&wide.output->shape);
    assert_close(test_relative_l2(narrow.output->data, wide.output->data, outputs), tolerance,
                 "output");
    for (size_t i = 0; i < narrow.params->count; i++) {
        const sara_param *a = &narrow.params->items[i], *b = &wide.params->items[i];
        size_t count = (size_t)sara_shape_count(&a->value.shape);
        if (sampled)
            check_sampled(narrow.ctx, a, b->grad, all);
        else
            assert_close(distance(a->grad, b->grad, count),
                         tolerance * norm_of(b->grad, count) + tolerance / 100 * all, a->name);
        sara_free(narrow.ctx, positions[i]);
    }
    sara_free(narrow.ctx, positions);
    run_close(&wide);
    run_close(&narrow);
}

static void test_weights_of_16_bits(void **state)
{
    (void)state;
    check_narrow("cpu-plain", SARA_STORE_BF16, false, 0);
    check_narrow("cpu", SARA_STORE_BF16, false, 1e-5);
    check_narrow("cpu", SARA_STORE_F16, false, 1e-5);
    check_narrow("cpu", SARA_STORE_BF16, true, 1e-5);
    check_narrow("cpu", SARA_STORE_F16, true, 1e-5);
}

static void test_gradients_add_up_over_passes(void **state)
{
    (void)state;
    run r = run_open(VARIANTS "/unet_tiny", "cpu");
    want_dense(&r);
    run_step(&r);
    sara_tape_reset(r.tape);
    run_step(&r);
    for (size_t i = 0; i < r.params->count; i++)
        for (int64_t j = 0; j < sara_shape_count(&r.params->items[i].value.shape); j++)
            r.params->items[i].grad[j] /= 2;
    check_gradients(&r);
    run_close(&r);
}

/* Without recording nothing but the output stays. */
static void test_inference(void **state)
{
    (void)state;
    run r = run_open(SD1, "cpu"), recorded = run_open(SD1, "cpu");
    want_dense(&r);
    want_dense(&recorded);
    run_forward(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-4, "output");
    assert_false(r.output->requires_grad);
    run_step(&recorded);
    assert_true(2 * sara_tape_peak(r.tape) < sara_tape_peak(recorded.tape));
    run_close(&r);
    run_close(&recorded);
}

/* What a device derived from a model's weights is not taken for another model's, though that may
 * lie where the first one lay. */
static void test_one_model_after_another(void **state)
{
    (void)state;
    run r = run_open(SD2, "cpu");
    for (int i = 0; i < 2; i++) {
        sara_unet_free(r.unet);
        assert_ok(r.ctx, sara_unet_load(r.ctx, &r.unet, i ? SD2 : SD1, NULL, SARA_STORE_F32));
        r.params = sara_unet_params(r.unet);
        run_forward(&r);
        double error = test_var_error(r.ctx, r.output, r.golden, "output");
        if (i)
            assert_close(error, 1e-4, "output");
        else
            assert_true(error > 0.1);
        sara_tape_reset(r.tape);
    }
    run_close(&r);
}

static void test_inputs_of_other_shapes_are_refused(void **state)
{
    (void)state;
    run r = run_open(VARIANTS "/unet_tiny", "cpu");
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
        sara_var *sample, *states, *output = NULL;
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample, &cases[i].sample, r.sample, false));
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &states, &cases[i].context, r.context, false));
        assert_refused(r.ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_unet_forward(r.tape, &output, r.unet, sample, r.timesteps, states));
        sara_tape_reset(r.tape);
    }
    run_close(&r);
}

/* ---------------------------------------------------------------------------------- allocations */

static sara_status train_once(sara_context *ctx, sara_tape *tape, sara_unet *unet)
{
    static float latents[64], text[6], target[64];
    static const double timesteps[] = {500};
    sara_shape shape = sara_shape4(1, 4, 4, 4), context_shape = sara_shape3(1, 2, 3);
    sara_params *params = sara_unet_params(unet);
    sara_var *sample, *context, *output, *loss;
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
    TRY(sara_tape_leaf(tape, &context, &context_shape, text, false));
    TRY(sara_unet_forward(tape, &output, unet, sample, timesteps, context));
    TRY(sara_nn_mse_loss(tape, &loss, output, target));
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
    sara_unet *unet = NULL;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, name));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(sara_unet_load(ctx, &unet, VARIANTS "/unet_tiny", NULL, SARA_STORE_F32));
    TRY(train_once(ctx, tape, unet));
    sara_unet_checkpointing(unet, SARA_MAX_LEVELS);
    TRY(train_once(ctx, tape, unet));
done:
    sara_unet_free(unet);
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
        cmocka_unit_test(test_dry_pass_foretells),
        cmocka_unit_test(test_sampled_gradients_equal_dense_ones),
        cmocka_unit_test(test_weights_of_16_bits),
        cmocka_unit_test(test_gradients_add_up_over_passes),
        cmocka_unit_test(test_inference),
        cmocka_unit_test(test_one_model_after_another),
        cmocka_unit_test(test_inputs_of_other_shapes_are_refused),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
