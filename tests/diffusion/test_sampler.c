/* Samplers' bounds, order, restarts and failures. */
#include "diffusion/support_diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SD \
    "\"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, \"beta_end\": 0.012"
#define CLASS(name) "{\"_class_name\": \"" name "\", " SD

static void test_steps_refused(void **state)
{
    static const struct {
        const char *text;
        int steps;
        sara_status status;
        const char *message;
    } cases[] = {
        {CLASS("DDIMScheduler") "}", 0, SARA_ERROR_USAGE, "steps 0, expected 1..1000"},
        {CLASS("DDIMScheduler") "}", -5, SARA_ERROR_USAGE, "steps -5"},
        {CLASS("DDIMScheduler") "}", 1001, SARA_ERROR_USAGE, "steps 1001"},
        {CLASS("DDIMScheduler") "}", INT32_MAX, SARA_ERROR_USAGE, "steps 2147483647"},
        {CLASS("PNDMScheduler") "}", 3, SARA_ERROR_USAGE, "steps 3, expected 4..1000"},
        {CLASS("DDIMScheduler") ", \"steps_offset\": 1}", 1000, SARA_ERROR_INPUT,
         "timestep 1000 lies outside 0..999 (steps_offset 1)"},
        {CLASS("PNDMScheduler") ", \"steps_offset\": 1, \"skip_prk_steps\": true}", 1000,
         SARA_ERROR_INPUT, "timestep 1000 lies outside 0..999 (steps_offset 1)"},
        {CLASS("DDIMScheduler") ", \"rescale_betas_zero_snr\": true,"
                                " \"timestep_spacing\": \"trailing\"}",
         10, SARA_ERROR_INPUT, "step 1 at timestep 999 is not finite with prediction_type epsilon"},
        {CLASS("DDPMScheduler") ", \"rescale_betas_zero_snr\": true,"
                                " \"timestep_spacing\": \"trailing\"}",
         10, SARA_ERROR_INPUT, "not finite with prediction_type epsilon"},
        {CLASS("DPMSolverMultistepScheduler") "}", 1000, SARA_ERROR_INPUT, "is not finite"},
        {CLASS("DPMSolverMultistepScheduler") ", \"timestep_spacing\": \"leading\"}", 1000,
         SARA_ERROR_INPUT, "is not finite"},
        {CLASS("DPMSolverMultistepScheduler") ", \"lambda_min_clipped\": 100.0}", 10,
         SARA_ERROR_INPUT, "lambda_min_clipped 100 leaves no timestep"},
    };
    sara_context *ctx = test_context();
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sara_sampler *sampler = NULL;
        sara_scheduler_config config;
        assert_ok(ctx, test_config_parse(ctx, &config, cases[i].text));
        assert_refused(ctx, cases[i].status, cases[i].message,
                       sara_sampler_new(ctx, &sampler, &config, cases[i].steps));
        assert_null(sampler);
    }
    sara_context_free(ctx);
}

/* Karras sigmas and prediction types that were set by hand. */
static void test_options_refused(void **state)
{
    static const char *const without[] = {"ddim", "ddpm", "pndm", "euler_a"};
    sara_context *ctx = test_context();
    sara_scheduler_config config, base;
    sara_sampler *sampler = NULL;
    char message[64];
    (void)state;
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &base, NULL, "none", NULL));
    for (size_t i = 0; i < 4; i++) {
        config = base;
        config.use_karras_sigmas = true;
        assert_ok(ctx, sara_scheduler_config_switch(ctx, &config, without[i]));
        snprintf(message, sizeof(message), "sampler %s has no Karras sigmas", without[i]);
        assert_refused(ctx, SARA_ERROR_USAGE, message,
                       sara_sampler_new(ctx, &sampler, &config, 10));
    }
    config = base;
    config.prediction_type = SARA_PREDICT_FLOW;
    assert_refused(ctx, SARA_ERROR_INPUT, "prediction_type \"flow_prediction\"",
                   sara_sampler_new(ctx, &sampler, &config, 10));
    assert_ok(ctx, test_config_parse(ctx, &config,
                                     "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}"));
    config.prediction_type = SARA_PREDICT_EPSILON;
    assert_refused(ctx, SARA_ERROR_USAGE, "prediction_type epsilon does not go with",
                   sara_sampler_new(ctx, &sampler, &config, 10));
    sara_context_free(ctx);
}

static void test_step_order(void **state)
{
    float x[4] = {1, 2, 3, 4}, m[4] = {0};
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    sara_sampler *sampler = NULL;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &config, CLASS("DDPMScheduler") "}"));
    assert_ok(ctx, sara_sampler_new(ctx, &sampler, &config, 5));
    assert_refused(ctx, SARA_ERROR_USAGE, "no noise, expected 4 values",
                   sara_sampler_step(sampler, 0, x, m, NULL, 4));
    assert_refused(ctx, SARA_ERROR_USAGE, "step 3, expected 0 or 0 of 5",
                   sara_sampler_step(sampler, 3, x, m, m, 4));
    assert_ok(ctx, sara_sampler_step(sampler, 0, x, m, m, 4));
    assert_refused(ctx, SARA_ERROR_USAGE, "3 values, expected 4",
                   sara_sampler_step(sampler, 1, x, m, m, 3));
    assert_refused(ctx, SARA_ERROR_USAGE, "step -1", sara_sampler_step(sampler, -1, x, m, m, 4));
    for (int i = 1; i < 5; i++)
        assert_ok(ctx, sara_sampler_step(sampler, i, x, m, m, 4));
    assert_refused(ctx, SARA_ERROR_USAGE, "step 5, expected 0 or 5 of 5",
                   sara_sampler_step(sampler, 5, x, m, m, 4));
    sara_sampler_free(sampler);
    sara_context_free(ctx);
}

static void run(sara_context *ctx, sara_sampler *sampler, float *x, int from, int to, size_t count)
{
    float m[6] = {0};
    for (int i = from; i < to; i++) {
        sara_sampler_scale_input(sampler, i, m, x, count);
        for (size_t k = 0; k < count; k++)
            m[k] = sinf(m[k]) + 0.001f * (float)sara_sampler_timestep(sampler, i);
        assert_ok(ctx, sara_sampler_step(sampler, i, x, m, m, count));
    }
}

static const char *const methods[] = {"ddim",    "ddpm",    "pndm",    "euler",
                                      "euler_a", "dpm++2m", "pndm-prk"};
enum { METHOD_COUNT = sizeof(methods) / sizeof(methods[0]) };

static void method_config(sara_context *ctx, sara_scheduler_config *config, const char *method)
{
    assert_ok(ctx, sara_scheduler_config_parse(ctx, config, NULL, "none", NULL));
    assert_ok(ctx, sara_scheduler_config_switch(ctx, config,
                                                strcmp(method, "pndm-prk") == 0 ? "pndm" : method));
    if (strcmp(method, "pndm-prk") == 0)
        config->skip_prk_steps = false;
}

/* A second trajectory knows nothing of the first, whole or broken off, nor of its size. */
static void test_restart(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (int i = 0; i < METHOD_COUNT; i++) {
        float first[4] = {1, -2, 0.5f, 3}, second[4], other[6] = {9, NAN, INFINITY, 7, 6, 5};
        float lost[4] = {NAN, NAN, NAN, NAN};
        sara_scheduler_config config;
        sara_sampler *sampler = NULL;
        method_config(ctx, &config, methods[i]);
        assert_ok(ctx, sara_sampler_new(ctx, &sampler, &config, 8));
        int all = sara_sampler_evaluations(sampler);
        memcpy(second, first, sizeof(second));
        run(ctx, sampler, first, 0, all, 4);
        run(ctx, sampler, other, 0, 5, 6);
        run(ctx, sampler, lost, 0, 5, 4);
        run(ctx, sampler, second, 0, all, 4);
        assert_memory_equal(first, second, sizeof(first));
        for (int k = 0; k < 4; k++)
            assert_true(isfinite(first[k]));
        sara_sampler_free(sampler);
    }
    sara_context_free(ctx);
}

/* A NaN of the model stays visible, also where samples are clipped, and spreads to no neighbour. */
static void test_nan(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (int i = 0; i < METHOD_COUNT; i++) {
        float x[3] = {1, NAN, 3};
        sara_scheduler_config config;
        sara_sampler *sampler = NULL;
        method_config(ctx, &config, methods[i]);
        config.clip_sample = true;
        assert_ok(ctx, sara_sampler_new(ctx, &sampler, &config, 8));
        run(ctx, sampler, x, 0, sara_sampler_evaluations(sampler), 3);
        assert_true(isfinite(x[0]) && isnan(x[1]) && isfinite(x[2]));
        sara_sampler_free(sampler);
    }
    sara_context_free(ctx);
}

static void test_start(void **state)
{
    float x[2] = {4, 8}, scaled[2];
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    sara_sampler *sampler = NULL;
    (void)state;
    assert_ok(ctx, test_config_parse(
                       ctx, &config,
                       CLASS("EulerDiscreteScheduler") ", \"rescale_betas_zero_snr\": true,"
                                                       " \"timestep_spacing\": \"trailing\"}"));
    assert_ok(ctx, sara_sampler_new(ctx, &sampler, &config, 10));
    assert_close(fabs(sara_sampler_init_noise_sigma(sampler) - 4096), 1e-3, "init_noise_sigma");
    assert_true(sara_sampler_timestep(sampler, 0) == 999);
    sara_sampler_scale_input(sampler, 0, scaled, x, 2);
    assert_close(fabs(scaled[1] - 8 / sqrt(4096.0 * 4096 + 1)), 1e-9, "scaled");
    sara_sampler_scale_input(sampler, 0, x, x, 2);
    assert_memory_equal(x, scaled, sizeof(x));
    sara_sampler_free(sampler);
    sara_context_free(ctx);
}

/* An allocator that fails from its budget on, and counts what is out. */
typedef struct budget {
    long left, out;
} budget;

static void *budget_allocate(void *user, size_t size)
{
    budget *b = user;
    if (b->left-- <= 0)
        return NULL;
    b->out++;
    return malloc(size);
}

static void budget_release(void *user, void *memory)
{
    if (memory)
        ((budget *)user)->out--;
    free(memory);
}

static sara_status whole_run(sara_context *ctx, const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    sara_sampler *sampler = NULL;
    sara_objective objective = {0};
    float x[2] = {1, 2}, noise[2] = {0.5f, 0.25f};
    TRY(sara_sampler_new(ctx, &sampler, config, 4));
    TRY(sara_objective_new(ctx, &objective, config));
    for (int i = 0; i < sara_sampler_evaluations(sampler); i++)
        TRY(sara_sampler_step(sampler, i, x, noise, noise, 2));
done:
    sara_objective_free(&objective);
    sara_sampler_free(sampler);
    return status;
}

static void test_allocation_failures(void **state)
{
    (void)state;
    for (int i = 0; i < METHOD_COUNT; i++) {
        budget b = {.left = 1000000};
        sara_allocator allocator = {budget_allocate, budget_release, &b};
        sara_context_options options = {.allocator = &allocator, .threads = 1};
        sara_context *ctx = NULL;
        sara_scheduler_config config;
        sara_status status = SARA_ERROR_MEMORY;
        assert_ok(ctx, sara_context_new(&ctx, &options));
        method_config(ctx, &config, methods[i]);
        long out = b.out, failures = 0;
        for (; status != SARA_OK && failures < 100; failures++) {
            b.left = failures;
            status = whole_run(ctx, &config);
            assert_int_equal(status, b.left < 0 ? SARA_ERROR_MEMORY : SARA_OK);
            assert_int_equal(b.out, out);
        }
        assert_int_equal(status, SARA_OK);
        assert_true(failures > 5);
        sara_context_free(ctx);
        assert_int_equal(b.out, 0);
    }
}

/* No step but the first allocates. */
static void test_steps_do_not_allocate(void **state)
{
    (void)state;
    for (int i = 0; i < METHOD_COUNT; i++) {
        budget b = {.left = 1000000};
        sara_allocator allocator = {budget_allocate, budget_release, &b};
        sara_context_options options = {.allocator = &allocator, .threads = 1};
        sara_context *ctx = NULL;
        sara_scheduler_config config;
        sara_sampler *sampler = NULL;
        float x[3] = {1, 2, 3};
        assert_ok(ctx, sara_context_new(&ctx, &options));
        method_config(ctx, &config, methods[i]);
        assert_ok(ctx, sara_sampler_new(ctx, &sampler, &config, 8));
        run(ctx, sampler, x, 0, 1, 3);
        b.left = 0;
        run(ctx, sampler, x, 1, sara_sampler_evaluations(sampler), 3);
        sara_sampler_free(sampler);
        sara_context_free(ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_refused),
        cmocka_unit_test(test_options_refused),
        cmocka_unit_test(test_step_order),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_steps_do_not_allocate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
