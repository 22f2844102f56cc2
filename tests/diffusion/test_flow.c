/* How a flow's noise levels are drawn and weighed, against diffusers' functions for SD3. */
#include "diffusion/support_diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { DRAWS = 6 };

static double number(const json_t *of, const char *name)
{
    const json_t *value = json_object_get(of, name);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static double number_at(const json_t *of, const char *name, size_t index)
{
    const json_t *value = json_array_get(json_object_get(of, name), index);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static sara_objective open_objective(sara_context *ctx, double shift, int count)
{
    char text[160];
    sara_scheduler_config config;
    sara_objective objective;
    snprintf(text, sizeof(text),
             "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": %g, "
             "\"num_train_timesteps\": %d}",
             shift, count);
    assert_ok(ctx, test_config_parse(ctx, &config, text));
    assert_ok(ctx, sara_flow_objective_new(ctx, &objective, &config));
    return objective;
}

/* precondition: the loss of x0 is the velocity's times sigma squared. */
static void check_weights(sara_context *ctx, sara_objective *objective, const json_t *entry,
                          const char *what, bool precondition)
{
    double timesteps[DRAWS];
    float sigmas[DRAWS], weights[DRAWS];
    for (size_t i = 0; i < DRAWS; i++) {
        timesteps[i] = number_at(entry, "timesteps", i);
        sigmas[i] = (float)number_at(entry, "sigmas", i);
    }
    objective->weighting.precondition_outputs = precondition;
    for (int given = 0; given < 2; given++) {
        assert_ok(
            ctx, sara_objective_weigh(objective, weights, timesteps, given ? sigmas : NULL, DRAWS));
        for (size_t i = 0; i < DRAWS; i++) {
            double want = number_at(entry, "weights", i);
            if (precondition)
                want *= (double)sigmas[i] * sigmas[i];
            assert_close(fabs(weights[i] / want - 1), 1e-6, what);
        }
    }
}

static void check_case(sara_context *ctx, const json_t *entry)
{
    const char *what = json_string_value(json_object_get(entry, "scheme"));
    int count = (int)number(entry, "num_train_timesteps");
    sara_objective objective = open_objective(ctx, number(entry, "shift"), count);
    sara_weighting *w = &objective.weighting;
    assert_ok(ctx, sara_weighting_parse(ctx, &w->scheme, what, "--weighting_scheme"));
    assert_string_equal(sara_weighting_name(w->scheme), what);
    w->logit_mean = number(entry, "logit_mean");
    w->logit_std = number(entry, "logit_std");
    w->mode_scale = number(entry, "mode_scale");
    assert_int_equal(json_array_size(json_object_get(entry, "drawn")), DRAWS);
    for (size_t i = 0; i < DRAWS; i++) {
        double t = sara_flow_timestep(&objective, number_at(entry, "drawn", i));
        double want = number_at(entry, "timesteps", i);
        assert_close(fabs(t / want - 1), 2e-7, what);
    }
    bool weighs = strcmp(what, "sigma_sqrt") == 0 || strcmp(what, "cosmap") == 0;
    assert_int_equal(sara_objective_weighs(&objective), weighs);
    check_weights(ctx, &objective, entry, what, false);
    check_weights(ctx, &objective, entry, what, true);
    assert_true(sara_objective_weighs(&objective));
    sara_objective_free(&objective);
}

static void test_recorded(void **state)
{
    sara_context *ctx = test_context();
    size_t index;
    json_t *entry;
    json_t *cases = json_load_file(SARA_TEST_GOLDEN "/../diffusion/flow_training.json", 0, NULL);
    (void)state;
    assert_int_equal(json_array_size(cases), 7);
    json_array_foreach(cases, index, entry) check_case(ctx, entry);
    json_decref(cases);
    sara_context_free(ctx);
}

/* The defaults, and draws that depend on seed and element alone. */
static void test_draws(void **state)
{
    enum { MANY = 20000 };
    sara_context *ctx = test_context();
    sara_objective objective = open_objective(ctx, 3, 1000);
    double below = 0;
    (void)state;
    assert_int_equal(objective.weighting.scheme, SARA_WEIGHTING_LOGIT_NORMAL);
    assert_true(objective.weighting.logit_mean == 0 && objective.weighting.logit_std == 1);
    assert_true(objective.weighting.mode_scale == 1.29);
    assert_false(sara_objective_weighs(&objective));
    for (uint64_t i = 0; i < MANY; i++)
        below += sara_flow_draw_timestep(&objective, 7, i) < 750; /* u > 1/2: sigma below f(1/2) */
    assert_close(fabs(below / MANY - 0.5), 0.015, "the median of logit_normal");
    assert_true(sara_flow_draw_timestep(&objective, 7, 5) !=
                sara_flow_draw_timestep(&objective, 8, 5));
    assert_true(sara_flow_draw_timestep(&objective, 7, 5) ==
                sara_flow_draw_timestep(&objective, 7, 5));
    objective.weighting.scheme = SARA_WEIGHTING_NONE;
    below = 0;
    for (uint64_t i = 0; i < MANY; i++)
        below += sara_flow_draw_timestep(&objective, 7, i) < 500; /* sigma f(1/4) */
    assert_close(fabs(below / MANY - 0.25), 0.015, "a quartile of none");
    /* Both ends are in the table. */
    assert_true(sara_flow_timestep(&objective, 1.0) == sara_flow_timestep(&objective, 0.9999));
    assert_true(sara_flow_timestep(&objective, 0) == 1000);
    sara_objective_free(&objective);
    sara_context_free(ctx);
}

static void test_refused(void **state)
{
    const double timesteps[1] = {0};
    const float x[2] = {1, 2}, high[1] = {1.5f};
    float weight[1], noisy[2], target[2];
    sara_context *ctx = test_context();
    sara_objective objective = open_objective(ctx, 1, 1000), none;
    sara_scheduler_config config;
    (void)state;
    assert_refused(
        ctx, SARA_ERROR_USAGE,
        "--weighting_scheme sigma: expected logit_normal, mode, sigma_sqrt, cosmap, none "
        "or uniform",
        sara_weighting_parse(ctx, &objective.weighting.scheme, "sigma", "--weighting_scheme"));
    assert_ok(ctx, sara_weighting_parse(ctx, &objective.weighting.scheme, "uniform", "it"));
    assert_int_equal(objective.weighting.scheme, SARA_WEIGHTING_NONE);
    objective.weighting.scheme = SARA_WEIGHTING_SIGMA_SQRT;
    assert_refused(ctx, SARA_ERROR_INPUT,
                   "sigma 0 of sample 0, which the weighting scheme sigma_sqrt",
                   sara_objective_weigh(&objective, weight, timesteps, NULL, 1));
    assert_refused(ctx, SARA_ERROR_INPUT, "sigma 1.5 of sample 0, expected 0..1",
                   sara_objective_apply(&objective, noisy, target, x, x, timesteps, high, 1, 2));
    sara_objective_free(&objective);
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &config, NULL, "none", NULL));
    assert_refused(ctx, SARA_ERROR_INPUT, "the scheduler is DDPMScheduler, expected one of a flow",
                   sara_flow_objective_new(ctx, &none, &config));
    sara_context_free(ctx);
}

/* Noise levels that are given rule, whatever the timestep. */
static void test_sigmas(void **state)
{
    const float x[2] = {1, -2}, noise[2] = {0.5f, 1}, sigmas[1] = {0.25f};
    const double timesteps[1] = {999};
    float noisy[2], target[2];
    sara_context *ctx = test_context();
    sara_objective objective = open_objective(ctx, 3, 1000);
    (void)state;
    assert_ok(ctx,
              sara_objective_apply(&objective, noisy, target, x, noise, timesteps, sigmas, 1, 2));
    for (int i = 0; i < 2; i++)
        assert_close(fabs(noisy[i] - (0.75 * x[i] + 0.25 * noise[i])), 1e-7, "noisy");
    sara_objective_free(&objective);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sigmas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
