/* U-Nets of families after SD1.x and SD2.x against diffusers. */
#include "support_unet.h"

#include <math.h>

static const char *const models[] = {"sdxl/unet"};

static void check_model(const char *name, const char *device, sara_storage storage, int levels)
{
    unet_run r = unet_run_open_stored(test_family(name).text, device, storage);
    size_t count;
    float *loss = test_load_f32(r.ctx, r.golden, "loss", &count);
    unet_run_want_dense(&r);
    r.unet->checkpoint_levels = levels;
    unet_run_step(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-5, "output");
    assert_close(fabs((double)r.loss->data[0] - loss[0]), 1e-5 * fabs((double)loss[0]), "loss");
    unet_run_check_gradients(&r, 1e-4, 0);
    sara_free(r.ctx, loss);
    unet_run_close(&r);
}

/* Their weights are float16's numbers. */
static void test_equals_diffusers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        check_model(models[i], "cpu-plain", SARA_STORE_F32, 0);
        check_model(models[i], "cpu", SARA_STORE_F32, 0);
        check_model(models[i], "cpu", SARA_STORE_F32, 1);
        check_model(models[i], "cpu", SARA_STORE_F16, SARA_MAX_LEVELS);
    }
}

/* What is added is of all six numbers, and of the pooled text. */
static void test_every_number_counts(void **state)
{
    (void)state;
    unet_run r = unet_run_open(test_family("sdxl/unet").text, "cpu");
    for (int i = 0; i < SARA_TIME_IDS + 1; i++) {
        float *number = i < SARA_TIME_IDS ? r.condition[SARA_CONDITION_TIME_IDS] + i
                                          : r.condition[SARA_CONDITION_POOLED];
        float was = *number;
        *number += 8;
        unet_run_forward(&r);
        assert_true(test_var_error(r.ctx, r.output, r.golden, "output") > 1e-4);
        *number = was;
        sara_tape_reset(r.tape);
    }
    unet_run_close(&r);
}

/* Without one of its conditions, and with another width. */
static void test_conditions_that_lack(void **state)
{
    (void)state;
    unet_run r = unet_run_open(test_family("sdxl/unet").text, "cpu");
    float *const ids = r.condition[SARA_CONDITION_TIME_IDS];
    sara_condition condition = {{NULL}};
    const sara_shape sample_shape = sara_shape4(2, 4, 4, 4), states = sara_shape3(2, 3, 56);
    const sara_shape pooled = sara_shape2(2, 28), five = sara_shape2(2, 5);
    sara_var *sample, *out;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample, &sample_shape, r.sample, false));
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_STATES], &states,
                                    r.condition[SARA_CONDITION_STATES], false));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "pooled is missing, expected [2,28]",
                   sara_denoiser_forward(r.tape, &out, r.unet, sample, r.timesteps, &condition));
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_POOLED], &pooled,
                                    r.condition[SARA_CONDITION_POOLED], false));
    assert_ok(r.ctx,
              sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_TIME_IDS], &five, ids, false));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "time_ids [2,5], expected [2,6]",
                   sara_denoiser_forward(r.tape, &out, r.unet, sample, r.timesteps, &condition));
    unet_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_diffusers),
        cmocka_unit_test(test_every_number_counts),
        cmocka_unit_test(test_conditions_that_lack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
