#include "diffusion/support_diffusion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

sara_status test_config_parse(sara_context *ctx, sara_scheduler_config *out, const char *text)
{
    json_t *object = NULL;
    assert_ok(ctx, sara_json_parse(ctx, &object, text, strlen(text), "config", true));
    sara_status status = sara_scheduler_config_parse(ctx, out, object, "config", NULL);
    json_decref(object);
    return status;
}

float *test_load_named(sara_context *ctx, const sara_safetensors *file, const char *prefix,
                       const char *name, size_t *count)
{
    char key[128];
    snprintf(key, sizeof(key), "%s%s", prefix, name);
    const sara_tensor_info *info = sara_safetensors_find(file, key);
    if (!info || info->dtype != SARA_I64)
        return test_load_f32(ctx, file, key, count);
    sara_tensor whole = {0};
    float *out = NULL;
    assert_ok(ctx, sara_safetensors_load(file, &whole, key, SARA_I64, &info->shape));
    *count = (size_t)sara_shape_count(&info->shape);
    assert_ok(ctx, sara_alloc(ctx, &out, *count, sizeof(*out)));
    for (size_t i = 0; i < *count; i++)
        out[i] = (float)((const int64_t *)whole.data)[i];
    sara_tensor_free(ctx, &whole);
    return out;
}

static void compare_row(const float *got, const float *expected, size_t size, const char *what,
                        int row)
{
    char text[256];
    snprintf(text, sizeof(text), "%s, row %d", what, row);
    assert_close(test_relative_l2(got, expected, size), 1e-5, text);
}

void test_trajectory(sara_context *ctx, const sara_scheduler_config *config, int steps,
                     const char *what, const float *start, size_t size, const float *timesteps,
                     size_t timestep_count, const float *trail, const float *noise)
{
    sara_sampler *sampler = NULL;
    float *x = calloc(size, sizeof(*x)), *m = calloc(size, sizeof(*m));
    assert_ok(ctx, sara_sampler_new(ctx, &sampler, config, steps));
    if ((size_t)sara_sampler_evaluations(sampler) != timestep_count)
        fail_msg("%s: %d evaluations, expected %zu", what, sara_sampler_evaluations(sampler),
                 timestep_count);
    assert_int_equal(sara_sampler_needs_noise(sampler), noise != NULL);
    for (size_t k = 0; k < size; k++)
        x[k] = (float)(start[k] * sara_sampler_init_noise_sigma(sampler));
    compare_row(x, trail, size, what, 0);
    for (int i = 0; i < (int)timestep_count; i++) {
        double t = sara_sampler_timestep(sampler, i);
        if (!(fabs(t - timesteps[i]) <= 1e-5 * fabs((double)timesteps[i])))
            fail_msg("%s: timestep %d is %.9g, expected %.9g", what, i, t, timesteps[i]);
        sara_sampler_scale_input(sampler, i, m, x, size);
        for (size_t k = 0; k < size; k++)
            m[k] = sinf(2 * m[k]) * 0.7f + 0.1f * cosf((float)t / 100);
        assert_ok(ctx, sara_sampler_step(sampler, i, x, m, noise ? noise + i * size : NULL, size));
        compare_row(x, trail + (i + 1) * size, size, what, i + 1);
    }
    sara_sampler_free(sampler);
    free(x);
    free(m);
}
