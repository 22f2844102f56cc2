/* What training is given: noisy latents and targets, against diffusers' add_noise and get_velocity.
 */
#include "diffusion/support_diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void check_objective(sara_context *ctx, const sara_safetensors *file, const char *prefix,
                            const char *zero_snr)
{
    enum { BATCH = 5, SIZE = 12, ALL = BATCH * SIZE };
    char text[256];
    float noisy[ALL], target[ALL];
    double timesteps[BATCH];
    size_t count = 0;
    sara_scheduler_config config;
    sara_objective objective;
    float *x = test_load_f32(ctx, file, "objective.latents", &count);
    float *noise = test_load_f32(ctx, file, "objective.noise", &count);
    float *t = test_load_named(ctx, file, "objective.", "timesteps", &count);
    float *want = test_load_named(ctx, file, prefix, ".noisy", &count);
    float *velocity = test_load_named(ctx, file, prefix, ".velocity", &count);
    assert_int_equal(count, ALL);
    for (int i = 0; i < BATCH; i++)
        timesteps[i] = t[i];
    for (int p = SARA_PREDICT_EPSILON; p <= SARA_PREDICT_SAMPLE; p++) {
        snprintf(text, sizeof(text),
                 "{\"_class_name\": \"DDPMScheduler\", \"beta_schedule\": \"scaled_linear\","
                 " \"beta_start\": 0.00085, \"beta_end\": 0.012,"
                 " \"rescale_betas_zero_snr\": %s, \"prediction_type\": \"%s\"}",
                 zero_snr, sara_prediction_name((sara_prediction)p));
        const float *goal = p == SARA_PREDICT_V ? velocity : p == SARA_PREDICT_SAMPLE ? x : noise;
        assert_ok(ctx, test_config_parse(ctx, &config, text));
        assert_ok(ctx, sara_objective_new(ctx, &objective, &config));
        assert_ok(ctx, sara_objective_apply(&objective, noisy, target, x, noise, timesteps, NULL,
                                            BATCH, SIZE));
        for (int b = 0; b < BATCH; b++) {
            assert_close(test_relative_l2(noisy + b * SIZE, want + b * SIZE, SIZE), 1e-6, text);
            assert_close(test_relative_l2(target + b * SIZE, goal + b * SIZE, SIZE), 1e-6, text);
        }
        sara_objective_free(&objective);
    }
    sara_free(ctx, x);
    sara_free(ctx, noise);
    sara_free(ctx, t);
    sara_free(ctx, want);
    sara_free(ctx, velocity);
}

static void test_objective(void **state)
{
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, TEST_SCHEDULES);
    (void)state;
    check_objective(ctx, file, "objective.scaled_linear", "false");
    check_objective(ctx, file, "objective.zero_snr", "true");
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* add_noise and get_velocity of the golden DDIM, one latent under three timesteps. */
static void test_objective_golden(void **state)
{
    static const double timesteps[3] = {3, 500, 999};
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    sara_objective objective;
    size_t size = 0, count = 0;
    (void)state;
    sara_safetensors *file = test_open(ctx, SARA_TEST_GOLDEN "/scheduler_ddim_v.safetensors");
    float *x = test_load_f32(ctx, file, "start", &size);
    float *noise = test_load_f32(ctx, file, "add_noise.noise", &count);
    float *want = test_load_f32(ctx, file, "add_noise.out", &count);
    float *velocity = test_load_f32(ctx, file, "velocity", &count);
    float *noisy = calloc(size, sizeof(*noisy)), *target = calloc(size, sizeof(*target));
    assert_int_equal(count, 3 * size);
    assert_ok(ctx,
              test_config_parse(ctx, &config, sara_safetensors_metadata(file, "scheduler_config")));
    assert_ok(ctx, sara_objective_new(ctx, &objective, &config));
    for (size_t i = 0; i < 3; i++) {
        assert_ok(ctx, sara_objective_apply(&objective, noisy, target, x, noise, &timesteps[i],
                                            NULL, 1, (int64_t)size));
        assert_close(test_relative_l2(noisy, want + i * size, size), 1e-6, "add_noise");
        assert_close(test_relative_l2(target, velocity + i * size, size), 1e-6, "velocity");
    }
    sara_objective_free(&objective);
    free(noisy);
    free(target);
    sara_free(ctx, x);
    sara_free(ctx, noise);
    sara_free(ctx, want);
    sara_free(ctx, velocity);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

static void test_objective_flow(void **state)
{
    const float x[4] = {1, -2, 3, 0.5f}, noise[4] = {0.5f, 1, -1, 2};
    const double timesteps[2] = {62.5, 1000}, wrong[2] = {0, 1001};
    float noisy[4], target[4];
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    sara_objective objective;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &config,
                                     "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}"));
    assert_ok(ctx, sara_objective_new(ctx, &objective, &config));
    assert_ok(ctx,
              sara_objective_apply(&objective, noisy, target, x, noise, timesteps, NULL, 2, 2));
    for (int i = 0; i < 4; i++) {
        double s = i < 2 ? 0.0625 : 1;
        assert_close(fabs(noisy[i] - ((1 - s) * x[i] + s * noise[i])), 1e-7, "noisy");
        assert_close(fabs(target[i] - (noise[i] - x[i])), 0, "target");
    }
    assert_refused(ctx, SARA_ERROR_INPUT, "timestep 1001 of sample 1, expected 0..1000",
                   sara_objective_apply(&objective, noisy, target, x, noise, wrong, NULL, 2, 2));
    sara_objective_free(&objective);
    config.prediction_type = SARA_PREDICT_EPSILON;
    assert_refused(ctx, SARA_ERROR_USAGE, "prediction_type epsilon does not go with",
                   sara_objective_new(ctx, &objective, &config));
    sara_context_free(ctx);
}

static void test_objective_range(void **state)
{
    const float x[2] = {1, 2};
    const double low[1] = {-1}, high[1] = {1000}, between[1] = {3.5}, none[1] = {NAN};
    float noisy[2] = {7, 7}, target[2];
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    sara_objective objective;
    (void)state;
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &config, NULL, "none", NULL));
    assert_ok(ctx, sara_objective_new(ctx, &objective, &config));
    assert_refused(ctx, SARA_ERROR_INPUT, "timestep -1 of sample 0, expected 0..999",
                   sara_objective_apply(&objective, noisy, target, x, x, low, NULL, 1, 2));
    assert_refused(ctx, SARA_ERROR_INPUT, "timestep 1000 of sample 0, expected 0..999",
                   sara_objective_apply(&objective, noisy, target, x, x, high, NULL, 1, 2));
    assert_refused(ctx, SARA_ERROR_INPUT, "timestep 3.5 of sample 0, expected 0..999",
                   sara_objective_apply(&objective, noisy, target, x, x, between, NULL, 1, 2));
    assert_refused(ctx, SARA_ERROR_INPUT, "timestep nan of sample 0, expected 0..999",
                   sara_objective_apply(&objective, noisy, target, x, x, none, NULL, 1, 2));
    assert_true(noisy[0] == 7);
    sara_objective_free(&objective);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objective),
        cmocka_unit_test(test_objective_golden),
        cmocka_unit_test(test_objective_flow),
        cmocka_unit_test(test_objective_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
