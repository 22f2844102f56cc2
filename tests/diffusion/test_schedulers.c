/* Whole trajectories of every scheduler against diffusers' own. */
#include "diffusion/support_diffusion.h"

#include "diffusion/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void check_one(sara_context *ctx, const sara_safetensors *file,
                      const sara_scheduler_config *config, int steps, const char *what,
                      const char *const names[3])
{
    size_t size = 0, count = 0, trail_count = 0, noise_count = 0;
    float *start = test_load_f32(ctx, file, "start", &size), *noise = NULL;
    float *timesteps = test_load_named(ctx, file, names[0], "", &count);
    float *trail = test_load_named(ctx, file, names[1], "", &trail_count);
    assert_int_equal(trail_count, (count + 1) * size);
    if (sara_safetensors_find(file, names[2])) {
        noise = test_load_named(ctx, file, names[2], "", &noise_count);
        assert_int_equal(noise_count, count * size);
    }
    test_trajectory(ctx, config, steps, what, start, size, timesteps, count, trail, noise);
    sara_free(ctx, start);
    sara_free(ctx, timesteps);
    sara_free(ctx, trail);
    sara_free(ctx, noise);
}

static void check_golden(const char *name)
{
    static const int steps[] = {10, 25};
    char text[3][64], path[512];
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    snprintf(path, sizeof(path), "%s/scheduler_%s.safetensors", SARA_TEST_GOLDEN, name);
    sara_safetensors *file = test_open(ctx, path);
    const char *stated = sara_safetensors_metadata(file, "scheduler_config");
    assert_non_null(stated);
    assert_ok(ctx, test_config_parse(ctx, &config, stated));
    for (int i = 0; i < 2; i++) {
        snprintf(text[0], sizeof(text[0]), "timesteps_%d", steps[i]);
        snprintf(text[1], sizeof(text[1]), "trail_%d", steps[i]);
        snprintf(text[2], sizeof(text[2]), "noise_%d", steps[i]);
        check_one(ctx, file, &config, steps[i], name,
                  (const char *const[]){text[0], text[1], text[2]});
    }
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

static void test_golden(void **state)
{
    static const char *const names[] = {
        "ddim",    "ddim_v",         "ddim_cosine",     "ddim_linear", "ddim_trailing_zero_snr",
        "ddpm",    "pndm",           "euler",           "euler_v",     "euler_karras",
        "dpmpp2m", "dpmpp2m_karras", "euler_ancestral", "flow_euler"};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_golden(names[i]);
}

/* Timesteps and noise levels of the pipelines that families' pictures were drawn with. */
static void check_family(const char *name)
{
    size_t count = 0, sigma_count = 0;
    sara_context *ctx = test_context();
    sara_scheduler_config config;
    schedule points = {0};
    sara_safetensors *file = test_open(ctx, test_family(name).text);
    const char *steps = sara_safetensors_metadata(file, "steps");
    float *timesteps = test_load_named(ctx, file, "", "timesteps", &count);
    float *sigmas = test_load_named(ctx, file, "", "sigmas", &sigma_count);
    assert_non_null(steps);
    assert_ok(ctx,
              test_config_parse(ctx, &config, sara_safetensors_metadata(file, "scheduler_config")));
    assert_ok(ctx, schedule_new(ctx, &points, &config, atoi(steps)));
    assert_int_equal(points.count, count);
    assert_int_equal(sigma_count, count + 1);
    for (size_t i = 0; i < sigma_count; i++) {
        if (i < count)
            assert_close(fabs(points.timesteps[i] - timesteps[i]), 1e-4, name);
        assert_close(fabs(points.sigmas[i] - sigmas[i]), 2e-7 * fabs(sigmas[i]), name);
    }
    schedule_free(&points);
    sara_free(ctx, timesteps);
    sara_free(ctx, sigmas);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

static void test_families(void **state)
{
    static const char *const names[] = {"sdxl/expected/euler.safetensors",
                                        "sdxl/expected/dpmpp2m_karras.safetensors",
                                        "sdxl/expected/euler_zero_negative.safetensors",
                                        "sd3/expected/flow_euler.safetensors",
                                        "sd3/expected/flow_euler_empty_negative.safetensors",
                                        "sd35_medium/expected/flow_euler.safetensors"};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && test_families_whole(); i++)
        check_family(names[i]);
}

static void check_case(sara_context *ctx, const sara_safetensors *file, const json_t *entry,
                       size_t index)
{
    char text[3][64], what[600];
    sara_scheduler_config config;
    int steps = (int)json_integer_value(json_object_get(entry, "steps"));
    const char *method = json_string_value(json_object_get(entry, "method"));
    char *stated = json_dumps(json_object_get(entry, "config"), JSON_COMPACT);
    snprintf(what, sizeof(what), "%s, %d steps, as %s", stated, steps, method ? method : "it is");
    assert_ok(ctx, test_config_parse(ctx, &config, stated));
    if (method)
        assert_ok(ctx, sara_scheduler_config_switch(ctx, &config, method));
    snprintf(text[0], sizeof(text[0]), "%zu.timesteps", index);
    snprintf(text[1], sizeof(text[1]), "%zu.trail", index);
    snprintf(text[2], sizeof(text[2]), "%zu.noise", index);
    check_one(ctx, file, &config, steps, what, (const char *const[]){text[0], text[1], text[2]});
    free(stated);
}

static void test_options(void **state)
{
    size_t index;
    json_t *cases = NULL, *entry;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, TEST_SCHEDULES);
    const char *text = sara_safetensors_metadata(file, "cases");
    (void)state;
    assert_non_null(text);
    assert_ok(ctx, sara_json_parse(ctx, &cases, text, strlen(text), "cases", true));
    assert_true(json_array_size(cases) > 80);
    json_array_foreach(cases, index, entry) check_case(ctx, file, entry, index);
    json_decref(cases);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

static void test_alphas(void **state)
{
    const char *key;
    json_t *all = NULL, *entry;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, TEST_SCHEDULES);
    const char *text = sara_safetensors_metadata(file, "alphas");
    (void)state;
    assert_non_null(text);
    assert_ok(ctx, sara_json_parse(ctx, &all, text, strlen(text), "alphas", true));
    json_object_foreach(all, key, entry)
    {
        /* Bit for bit; but the rescaling takes 1000 square roots, where torch's are up to an ulp
         * off, and their 1000 ratios are rounded anew. */
        double tolerance = strcmp(key, "zero_snr") == 0 ? 1e-6 : 0;
        size_t count = 0;
        double *got = NULL;
        sara_scheduler_config config;
        float *expected = test_load_named(ctx, file, "alphas.", key, &count);
        assert_ok(ctx, sara_scheduler_config_parse(ctx, &config, entry, key, "DDPMScheduler"));
        assert_int_equal(config.num_train_timesteps, count);
        assert_ok(ctx, sara_alphas_cumprod(ctx, &got, &config));
        for (size_t i = 0; i < count; i++)
            assert_close(fabs(got[i] - expected[i]), tolerance, key);
        sara_free(ctx, got);
        sara_free(ctx, expected);
    }
    json_decref(all);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_alphas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
