/* The U-Net's gradients at given positions, what a dry pass counts, and weights of 16 bits: against
 * dense gradients of float32. */
#include "support_unet.h"

#include <math.h>

static void sampled_equals_dense(const char *folder, const char *device, int levels)
{
    unet_run dense = unet_run_open(folder, device), sampled = unet_run_open(folder, device);
    uint32_t **positions;
    size_t selected = 0;
    assert_ok(sampled.ctx,
              sara_alloc(sampled.ctx, &positions, sampled.params->count, sizeof(*positions)));
    unet_run_want_dense(&dense);
    unet_run_want_sampled(&sampled, positions);
    sampled.unet->checkpoint_levels = levels;
    unet_run_step(&dense);
    unet_run_step(&sampled);
    double all = unet_run_norm(&dense);
    for (size_t i = 0; i < sampled.params->count; i++) {
        test_check_sampled(sampled.ctx, &sampled.params->items[i], dense.params->items[i].grad,
                           all);
        selected += sampled.params->items[i].selected;
        sara_free(sampled.ctx, positions[i]);
    }
    assert_true(selected > 100);
    sara_free(sampled.ctx, positions);
    unet_run_close(&dense);
    unet_run_close(&sampled);
}

static void test_sampled_gradients_equal_dense_ones(void **state)
{
    (void)state;
    sampled_equals_dense(SD1, "cpu-plain", 0);
    sampled_equals_dense(SD1, "cpu", 0);
    sampled_equals_dense(SD2, "cpu", SARA_MAX_LEVELS);
    sampled_equals_dense(VARIANTS "/unet_odd", "cpu", 0);
    sampled_equals_dense(PIPELINE "/unet", "cpu", SARA_MAX_LEVELS);
    sampled_equals_dense(MMDIT, "cpu-plain", 0);
    sampled_equals_dense(SD35, "cpu", 2);
    sampled_equals_dense(SDXL, "cpu", 1);
}

/* What a dry pass counts is what a real one takes, the kernels' scratch included. */
static void check_dry(const char *folder, int levels, const char *device, const char *dry)
{
    unet_run runs[] = {unet_run_open(folder, device), unet_run_open(folder, dry)};
    double reached[2];
    for (int k = 0; k < 2; k++) {
        unet_run *r = &runs[k];
        uint32_t **positions;
        assert_ok(r->ctx, sara_alloc(r->ctx, &positions, r->params->count, sizeof(*positions)));
        unet_run_want_sampled(r, positions);
        r->unet->checkpoint_levels = levels;
        assert_ok(r->ctx, sara_tape_reserve(r->tape, (size_t)256 << 20));
        unet_run_step(r);
        reached[k] = (double)sara_tape_reached(r->tape);
        for (size_t i = 0; i < r->params->count; i++)
            sara_free(r->ctx, positions[i]);
        sara_free(r->ctx, positions);
        unet_run_close(r);
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
        check_dry(SD35, levels, "cpu", "dry");
        check_dry(SDXL, levels, "cpu", "dry");
    }
    sara_context *ctx = test_context();
    sara_device *narrow = NULL;
    if (sara_nn_device_open(ctx, &narrow, "cpu-bf16") == SARA_OK)
        check_dry(SD1, 0, "cpu-bf16", "dry-bf16");
    sara_nn_device_close(narrow);
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------- weights of 16 bits */

/* Rounds the weights as the storage does, and leaves them floats. */
static void round_weights(unet_run *r, sara_dtype dtype)
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
    unet_run wide = unet_run_open(SD1, device), narrow = unet_run_open_stored(SD1, device, storage);
    sara_dtype dtype = storage == SARA_STORE_F16 ? SARA_F16 : SARA_BF16;
    uint32_t **positions = NULL;
    assert_int_equal(sara_params_find(narrow.params, "conv_in.weight")->value.dtype, dtype);
    assert_ok(narrow.ctx,
              sara_alloc_zero(narrow.ctx, &positions, narrow.params->count, sizeof(*positions)));
    unet_run_want_dense(&wide);
    if (sampled)
        unet_run_want_sampled(&narrow, positions);
    else
        unet_run_want_dense(&narrow);
    round_weights(&wide, dtype);
    unet_run_step(&wide);
    unet_run_step(&narrow);
    double all = unet_run_norm(&wide);
    size_t outputs = (size_t)sara_shape_count(&wide.output->shape);
    assert_close(test_relative_l2(narrow.output->data, wide.output->data, outputs), tolerance,
                 "output");
    for (size_t i = 0; i < narrow.params->count; i++) {
        const sara_param *a = &narrow.params->items[i], *b = &wide.params->items[i];
        size_t count = (size_t)sara_shape_count(&a->value.shape);
        if (sampled)
            test_check_sampled(narrow.ctx, a, b->grad, all);
        else
            assert_close(test_distance(a->grad, b->grad, count),
                         tolerance * test_norm(b->grad, count) + tolerance / 100 * all, a->name);
        sara_free(narrow.ctx, positions[i]);
    }
    sara_free(narrow.ctx, positions);
    unet_run_close(&wide);
    unet_run_close(&narrow);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampled_gradients_equal_dense_ones),
        cmocka_unit_test(test_dry_pass_foretells),
        cmocka_unit_test(test_weights_of_16_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
