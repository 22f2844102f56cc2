/* Parsing scheduler configs, switching classes, and what is refused. */
#include "diffusion/support_diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CLASS(name) "{\"_class_name\": \"" name "\""

static void test_class_defaults(void **state)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("DDIMScheduler") "}"));
    assert_int_equal(c.kind, SARA_SAMPLER_DDIM);
    assert_true(c.clip_sample && c.set_alpha_to_one && c.clip_sample_range == 1.0);
    assert_int_equal(c.spacing, SARA_SPACING_LEADING);
    assert_int_equal(c.beta_schedule, SARA_BETAS_LINEAR);
    assert_true(c.beta_start == 0.0001 && c.beta_end == 0.02 && c.num_train_timesteps == 1000);
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("PNDMScheduler") "}"));
    assert_false(c.skip_prk_steps || c.set_alpha_to_one);
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("EulerDiscreteScheduler") "}"));
    assert_int_equal(c.spacing, SARA_SPACING_LINSPACE);
    assert_int_equal(c.final_sigmas_type, SARA_FINAL_ZERO);
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("DPMSolverMultistepScheduler") "}"));
    assert_true(c.lower_order_final && !c.euler_at_final && c.solver_order == 2);
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("FlowMatchEulerDiscreteScheduler") "}"));
    assert_int_equal(c.prediction_type, SARA_PREDICT_FLOW);
    assert_true(c.shift == 1.0);
    assert_ok(ctx,
              test_config_parse(
                  ctx, &c,
                  CLASS("FlowMatchEulerDiscreteScheduler") ", \"prediction_type\": \"epsilon\"}"));
    assert_int_equal(c.prediction_type, SARA_PREDICT_FLOW);
    sara_context_free(ctx);
}

/* No file: SD's schedule under sara's default class; stays SD's when switched. */
static void test_no_config(void **state)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    (void)state;
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &c, NULL, "none", NULL));
    assert_int_equal(c.kind, SARA_SAMPLER_DDPM);
    for (int i = 0; i < 2; i++) {
        assert_true(c.beta_start == 0.00085 && c.beta_end == 0.012);
        assert_int_equal(c.beta_schedule, SARA_BETAS_SCALED_LINEAR);
        assert_int_equal(c.prediction_type, SARA_PREDICT_EPSILON);
        assert_false(c.clip_sample);
        assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "ddim"));
    }
    sara_context_free(ctx);
}

static void test_values(void **state)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    json_t *object = NULL;
    const char *text =
        CLASS("DPMSolverMultistepScheduler") ", \"lambda_min_clipped\": -Infinity, "
                                             "\"trained_betas\": null, \"solver_type\": \"heun\","
                                             " \"prediction_type\": \"v_prediction\", "
                                             "\"final_sigmas_type\": \"sigma_min\","
                                             " \"use_karras_sigmas\": true, \"variance_type\": "
                                             "null, \"unknown_key\": [1]}";
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &c, text));
    assert_true(isinf(c.lambda_min_clipped) && c.lambda_min_clipped < 0);
    assert_int_equal(c.solver_type, SARA_SOLVER_HEUN);
    assert_int_equal(c.prediction_type, SARA_PREDICT_V);
    assert_int_equal(c.final_sigmas_type, SARA_FINAL_SIGMA_MIN);
    assert_true(c.use_karras_sigmas);
    assert_true(isnan(c.sigma_min) && isnan(c.sigma_max));
    /* The caller's class name wins, as model_index.json's does. */
    assert_ok(ctx, sara_json_parse(ctx, &object, text, strlen(text), "config", true));
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &c, object, "config", "DDIMScheduler"));
    assert_int_equal(c.kind, SARA_SAMPLER_DDIM);
    assert_false(c.use_karras_sigmas);
    json_decref(object);
    sara_context_free(ctx);
}

#define STATED                                                                                     \
    ", \"beta_start\": 0.00085, \"beta_end\": 0.012, \"beta_schedule\": \"scaled_linear\""
#define FLOW ", \"use_flow_sigmas\": true, \"prediction_type\": \"flow_prediction\""

typedef struct refused_config {
    const char *text, *message;
} refused_config;

static void check_refused_configs(const refused_config *cases, size_t count)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    for (size_t i = 0; i < count; i++)
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].message,
                       test_config_parse(ctx, &c, cases[i].text));
    sara_context_free(ctx);
}

static void test_refusals(void **state)
{
    static const refused_config cases[] = {
        {"{}", "_class_name \"\", expected one of DDIMScheduler, "},
        {CLASS("LMSDiscreteScheduler") "}", "LMSDiscreteScheduler states no beta_start"},
        {CLASS("LMSDiscreteScheduler") STATED ", \"trained_betas\": [0.1]}", "trained_betas"},
        {CLASS("LMSDiscreteScheduler") ", \"beta_start\": 0.1, \"beta_end\": 0.2, "
                                       "\"beta_schedule\": \"curly\"}",
         "beta_schedule \"curly\", LMSDiscreteScheduler supports linear"},
        {CLASS("EDMEulerScheduler") STATED "}", "\"EDMEulerScheduler\", expected one of"},
        {CLASS("FlowMatchLCMScheduler") STATED "}", "expected one of"},
        {CLASS("Sampler") STATED "}", "\"Sampler\", expected one of"},
        {"{\"_class_name\": 7}", "_class_name"},
        {"[]", "not a JSON object"},
        {CLASS("DDIMScheduler") ", \"beta_schedule\": \"sigmoid\"}",
         "beta_schedule \"sigmoid\", DDIMScheduler supports linear, scaled_linear, "
         "squaredcos_cap_v2"},
        {CLASS("DDIMScheduler") ", \"beta_schedule\": \"curly\"}", "beta_schedule \"curly\""},
        {CLASS("DDIMScheduler") ", \"beta_schedule\": 3}", "beta_schedule"},
        {CLASS("DDIMScheduler") ", \"trained_betas\": [0.1, 0.2]}", "trained_betas"},
        {CLASS("DDIMScheduler") ", \"prediction_type\": \"v\"}",
         "prediction_type \"v\", DDIMScheduler supports epsilon, v_prediction, sample"},
        {CLASS("DDIMScheduler") ", \"prediction_type\": \"flow_prediction\"}",
         "supports epsilon, v_prediction, sample"},
        {CLASS("DDIMScheduler") ", \"num_train_timesteps\": 0}", "num_train_timesteps"},
        {CLASS("DDIMScheduler") ", \"num_train_timesteps\": 1e9}", "num_train_timesteps"},
        {CLASS("DDIMScheduler") ", \"beta_start\": 0}", "beta_start"},
        {CLASS("DDIMScheduler") ", \"beta_end\": NaN}", "beta_end"},
        {CLASS("DDIMScheduler") ", \"steps_offset\": -1}", "steps_offset"},
        {CLASS("DDIMScheduler") ", \"clip_sample\": \"yes\"}", "clip_sample"},
        {CLASS("PNDMScheduler") ", \"prediction_type\": \"sample\"}",
         "prediction_type \"sample\", PNDMScheduler supports epsilon, v_prediction"},
        {CLASS("EulerAncestralDiscreteScheduler") ", \"prediction_type\": \"sample\"}",
         "prediction_type \"sample\""},
        {CLASS("DDIMScheduler") ", \"timestep_spacing\": \"even\"}", "timestep_spacing \"even\""},
        {CLASS("EulerDiscreteScheduler") ", \"final_sigmas_type\": \"half\"}",
         "final_sigmas_type \"half\""},
        {CLASS("EulerDiscreteScheduler") ", \"interpolation_type\": \"cubic\"}",
         "interpolation_type \"cubic\""},
        {CLASS("DPMSolverMultistepScheduler") ", \"solver_type\": \"rk4\"}", "solver_type \"rk4\""},
    };
    (void)state;
    check_refused_configs(cases, sizeof(cases) / sizeof(*cases));
}

static void test_flow_refusals(void **state)
{
    static const refused_config cases[] = {
        {CLASS("DPMSolverMultistepScheduler") ", \"prediction_type\": \"flow_prediction\"}",
         "has it with use_flow_sigmas alone"},
        {CLASS("DPMSolverMultistepScheduler") FLOW ", \"use_dynamic_shifting\": true}",
         "use_dynamic_shifting true"},
        {CLASS("DPMSolverMultistepScheduler") FLOW ", \"final_sigmas_type\": \"sigma_min\"}",
         "final_sigmas_type \"sigma_min\" with use_flow_sigmas"},
        {CLASS("DPMSolverMultistepScheduler") FLOW ", \"flow_shift\": 0}", "flow_shift"},
        {CLASS("FlowMatchEulerDiscreteScheduler") ", \"use_dynamic_shifting\": true}",
         "use_dynamic_shifting true"},
        {CLASS("FlowMatchEulerDiscreteScheduler") ", \"invert_sigmas\": true}", "invert_sigmas"},
        {CLASS("FlowMatchEulerDiscreteScheduler") ", \"stochastic_sampling\": true}",
         "stochastic_sampling"},
        {CLASS("FlowMatchEulerDiscreteScheduler") ", \"shift_terminal\": 0.1}",
         "shift_terminal 0.1"},
        {CLASS("FlowMatchEulerDiscreteScheduler") ", \"shift\": 0}", "shift"},
    };
    (void)state;
    check_refused_configs(cases, sizeof(cases) / sizeof(*cases));
}

/* What only sampling needs is read, and refused by the sampler; a switch leaves it behind. */
static void test_no_sampler(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {CLASS("LMSDiscreteScheduler") STATED "}", "no sampler for LMSDiscreteScheduler"},
        {CLASS("UniPCMultistepScheduler") STATED ", \"thresholding\": true}",
         "no sampler for UniPCMultistepScheduler"},
        {CLASS("DDIMScheduler") ", \"thresholding\": true}", "thresholding true"},
        {CLASS("DDPMScheduler") ", \"variance_type\": \"learned_range\"}",
         "variance_type \"learned_range\""},
        {CLASS("DDPMScheduler") ", \"variance_type\": \"fixed_large_log\"}", "fixed_large_log"},
        {CLASS("EulerDiscreteScheduler") ", \"use_exponential_sigmas\": true}",
         "use_exponential_sigmas true"},
        {CLASS("EulerDiscreteScheduler") ", \"use_beta_sigmas\": true}", "use_beta_sigmas true"},
        {CLASS("EulerDiscreteScheduler") ", \"timestep_type\": \"continuous\"}",
         "timestep_type \"continuous\""},
        {CLASS("DPMSolverMultistepScheduler") ", \"algorithm_type\": \"sde-dpmsolver++\"}",
         "algorithm_type \"sde-dpmsolver++\", DPMSolverMultistepScheduler supports dpmsolver++"},
        {CLASS("DPMSolverMultistepScheduler") ", \"solver_order\": 3}",
         "solver_order 3, 1 and 2 are supported"},
        {CLASS("DPMSolverMultistepScheduler") ", \"use_lu_lambdas\": true}", "use_lu_lambdas true"},
        {CLASS("DPMSolverMultistepScheduler") ", \"use_flow_sigmas\": true}",
         "use_flow_sigmas true"},
        {CLASS("DPMSolverMultistepScheduler") ", \"variance_type\": \"learned\"}", "\"learned\""},
    };
    sara_context *ctx = test_context();
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sara_scheduler_config c;
        sara_sampler *sampler = NULL;
        assert_ok(ctx, test_config_parse(ctx, &c, cases[i].text));
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].message,
                       sara_sampler_new(ctx, &sampler, &c, 10));
        assert_ok(ctx, sara_scheduler_config_check(ctx, &c, "config"));
    }
    sara_context_free(ctx);
}

/* The schedule of a class without a sampler is that of its betas, and so is what it is switched to.
 */
static void test_other_schedule(void **state)
{
    static const char *const own = CLASS("DEISMultistepScheduler") STATED
        ", "
        "\"prediction_type\": \"v_prediction\", \"steps_offset\": 1}";
    static const char *const ddpm =
        CLASS("DDPMScheduler") STATED ", "
                                      "\"prediction_type\": \"v_prediction\", \"steps_offset\": 1}";
    sara_context *ctx = test_context();
    sara_scheduler_config a, b;
    double *got = NULL, *want = NULL;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &a, own));
    assert_ok(ctx, test_config_parse(ctx, &b, ddpm));
    assert_int_equal(a.prediction_type, SARA_PREDICT_V);
    assert_ok(ctx, sara_alphas_cumprod(ctx, &got, &a));
    assert_ok(ctx, sara_alphas_cumprod(ctx, &want, &b));
    assert_memory_equal(got, want, 1000 * sizeof(*got));
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &a, "ddim"));
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &b, "ddim"));
    assert_memory_equal(&a, &b, sizeof(a));
    sara_free(ctx, got);
    sara_free(ctx, want);
    sara_context_free(ctx);
}

/* Every listed name works on a model of its family and leads to a kind of that name. */
static void test_methods(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (const char *const *name = sara_sampling_methods(); *name; name++) {
        sara_scheduler_config c;
        bool flow = sara_sampling_method_is_of_flows(*name);
        assert_ok(ctx, test_config_parse(ctx, &c,
                                         flow ? CLASS("FlowMatchEulerDiscreteScheduler") "}"
                                              : CLASS("PNDMScheduler") "}"));
        assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, *name));
        if (strcmp(*name, "ddim_trailing") == 0)
            assert_int_equal(c.spacing, SARA_SPACING_TRAILING);
        else if (!strstr(*name, "Scheduler") && strcmp(*name, "heun") != 0)
            assert_string_equal(sara_sampler_kind_name(c.kind), *name);
        assert_int_equal(sara_scheduler_is_flow(&c), flow);
    }
    sara_context_free(ctx);
}

static void test_switch(void **state)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c, before;
    (void)state;
    /* Options that another class ignores come back; fields it does not state get its defaults. */
    assert_ok(ctx,
              test_config_parse(ctx, &c,
                                CLASS("DPMSolverMultistepScheduler") ", \"use_karras_sigmas\": "
                                                                     "true, \"steps_offset\": 1}"));
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "ddim"));
    assert_false(c.use_karras_sigmas);
    assert_int_equal(c.spacing, SARA_SPACING_LEADING);
    assert_int_equal(c.steps_offset, 1);
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "EulerDiscreteScheduler"));
    assert_true(c.use_karras_sigmas);
    assert_int_equal(c.spacing, SARA_SPACING_LINSPACE);
    /* What was set by hand stays. */
    c.prediction_type = SARA_PREDICT_V;
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "ddpm"));
    assert_int_equal(c.prediction_type, SARA_PREDICT_V);
    c.prediction_type = SARA_PREDICT_SAMPLE;
    before = c;
    assert_refused(ctx, SARA_ERROR_INPUT, "prediction_type \"sample\", PNDMScheduler supports",
                   sara_scheduler_config_switch(ctx, &c, "pndm"));
    assert_memory_equal(&before, &c, sizeof(c));
    /* An option is refused once its class is asked for. */
    assert_ok(ctx, test_config_parse(ctx, &c,
                                     CLASS("PNDMScheduler") ", \"algorithm_type\": \"dpmsolver\","
                                                            " \"thresholding\": true}"));
    assert_refused(ctx, SARA_ERROR_INPUT, "thresholding true",
                   sara_scheduler_config_switch(ctx, &c, "dpm++2m"));
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "euler"));
    assert_ok(ctx, test_config_parse(
                       ctx, &c, CLASS("PNDMScheduler") ", \"algorithm_type\": \"dpmsolver\"}"));
    assert_refused(ctx, SARA_ERROR_INPUT, "algorithm_type \"dpmsolver\"",
                   sara_scheduler_config_switch(ctx, &c, "dpm++2m"));
    sara_context_free(ctx);
}

static void test_switch_refused(void **state)
{
    static const char *const lacking[] = {
        "dpm2", "dpm++2s_a", "dpm++2mv2", "ipndm", "lcm", "tcd", "", "UniPCMultistepScheduler"};
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("PNDMScheduler") "}"));
    for (size_t i = 0; i < sizeof(lacking) / sizeof(lacking[0]); i++) {
        assert_refused(ctx, SARA_ERROR_USAGE, lacking[i],
                       sara_scheduler_config_switch(ctx, &c, lacking[i]));
        for (const char *const *name = sara_sampling_methods(); *name; name++)
            assert_non_null(strstr(sara_context_error(ctx), *name));
    }
    assert_refused(ctx, SARA_ERROR_USAGE, "\"flow_euler\" does not go with the model's PNDM",
                   sara_scheduler_config_switch(ctx, &c, "flow_euler"));
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("FlowMatchEulerDiscreteScheduler") "}"));
    assert_refused(ctx, SARA_ERROR_USAGE, "expected euler, heun or dpm++2m",
                   sara_scheduler_config_switch(ctx, &c, "ddim"));
    sara_context_free(ctx);
}

/* Between a flow's classes its shift goes along, and it stays a flow. */
static void test_switch_flow(void **state)
{
    static const struct {
        const char *name;
        sara_sampler_kind kind;
    } ways[] = {{"heun", SARA_SAMPLER_FLOW_HEUN},
                {"dpm++2m", SARA_SAMPLER_DPMPP_2M},
                {"euler", SARA_SAMPLER_FLOW_EULER},
                {"DPMSolverMultistepScheduler", SARA_SAMPLER_DPMPP_2M},
                {"FlowMatchHeunDiscreteScheduler", SARA_SAMPLER_FLOW_HEUN}};
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    sara_sampler *sampler = NULL;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("PNDMScheduler") "}"));
    assert_refused(ctx, SARA_ERROR_USAGE,
                   "\"heun\" does not go with the model's PNDMScheduler, expected ddim, "
                   "ddim_trailing, ddpm, pndm, euler, euler_a or dpm++2m",
                   sara_scheduler_config_switch(ctx, &c, "heun"));
    assert_ok(ctx, test_config_parse(ctx, &c,
                                     CLASS("FlowMatchEulerDiscreteScheduler") ", \"shift\": 3.0}"));
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, ways[i].name));
        assert_int_equal(c.kind, ways[i].kind);
        assert_true(sara_scheduler_is_flow(&c) && c.prediction_type == SARA_PREDICT_FLOW);
        assert_true((c.kind == SARA_SAMPLER_DPMPP_2M ? c.flow_shift : c.shift) == 3.0);
    }
    assert_ok(ctx, sara_scheduler_config_switch(ctx, &c, "dpm++2m"));
    c.use_karras_sigmas = true;
    assert_refused(ctx, SARA_ERROR_USAGE, "sampler dpm++2m of a flow has no Karras sigmas",
                   sara_sampler_new(ctx, &sampler, &c, 10));
    sara_context_free(ctx);
}

static void count_warning(void *user, sara_log_level level, const char *line)
{
    if (level == SARA_LOG_WARNING && strstr(line, "use_karras_sigmas is ignored"))
        ++*(int *)user;
}

static void test_karras_ignored(void **state)
{
    int warnings = 0;
    sara_context *ctx = NULL;
    sara_context_options options = {.log = count_warning, .user = &warnings};
    sara_scheduler_config c;
    (void)state;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_ok(ctx, test_config_parse(
                       ctx, &c,
                       CLASS("EulerAncestralDiscreteScheduler") ", \"use_karras_sigmas\": true}"));
    assert_false(c.use_karras_sigmas);
    assert_int_equal(warnings, 1);
    sara_context_free(ctx);
}

static void test_prediction_names(void **state)
{
    sara_context *ctx = test_context();
    sara_prediction got;
    (void)state;
    for (int i = SARA_PREDICT_EPSILON; i <= SARA_PREDICT_FLOW; i++) {
        assert_ok(ctx, sara_prediction_parse(ctx, &got, sara_prediction_name((sara_prediction)i)));
        assert_int_equal(got, i);
    }
    assert_string_equal(sara_prediction_name(SARA_PREDICT_V), "v_prediction");
    assert_ok(ctx, sara_prediction_parse(ctx, &got, "v"));
    assert_int_equal(got, SARA_PREDICT_V);
    assert_refused(ctx, SARA_ERROR_USAGE,
                   "prediction_type \"V\", expected one of epsilon, v_prediction, sample, "
                   "flow_prediction, v",
                   sara_prediction_parse(ctx, &got, "V"));
    sara_context_free(ctx);
}

/* Flow and the schedules with betas have no type in common; "v" is no name in a config file. */
static void test_predict(void **state)
{
    sara_context *ctx = test_context();
    sara_scheduler_config c;
    (void)state;
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("PNDMScheduler") "}"));
    assert_ok(ctx, sara_scheduler_config_predict(ctx, &c, "v"));
    assert_int_equal(c.prediction_type, SARA_PREDICT_V);
    assert_ok(ctx, sara_scheduler_config_predict(ctx, &c, "sample"));
    assert_refused(ctx, SARA_ERROR_USAGE,
                   "prediction_type flow_prediction does not go with the model's PNDMScheduler",
                   sara_scheduler_config_predict(ctx, &c, "flow_prediction"));
    assert_int_equal(c.prediction_type, SARA_PREDICT_SAMPLE);
    assert_ok(ctx, test_config_parse(ctx, &c, CLASS("FlowMatchEulerDiscreteScheduler") "}"));
    assert_ok(ctx, sara_scheduler_config_predict(ctx, &c, "flow_prediction"));
    assert_refused(ctx, SARA_ERROR_USAGE, "prediction_type v_prediction does not go with",
                   sara_scheduler_config_predict(ctx, &c, "v"));
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_class_defaults), cmocka_unit_test(test_no_config),
        cmocka_unit_test(test_values),         cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_flow_refusals),  cmocka_unit_test(test_no_sampler),
        cmocka_unit_test(test_other_schedule), cmocka_unit_test(test_methods),
        cmocka_unit_test(test_switch),         cmocka_unit_test(test_switch_refused),
        cmocka_unit_test(test_karras_ignored), cmocka_unit_test(test_prediction_names),
        cmocka_unit_test(test_predict),        cmocka_unit_test(test_switch_flow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
