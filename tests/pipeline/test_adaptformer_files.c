/* AdaptFormers on a model, against PyTorch (tests/golden/make_adaptformer.py). */
#include "support_pipeline.h"

#include <math.h>

#define START SARA_TEST_GOLDEN "/adaptformer_%s_start.safetensors"

/* The U-Net's output for the golden sample; lives as long as the test. */
static float *output_of(test_pipe *pipe, sara_model *model, const char *kind, size_t *count)
{
    sara_safetensors *golden = test_open(
        pipe->ctx, test_text(pipe, "%s/unet_%s/golden.safetensors", SARA_TEST_GOLDEN, kind));
    sara_condition condition = {{NULL}};
    sara_tensor times = {0};
    sara_tape *tape = NULL;
    sara_var *sample, *out;
    const sara_shape any = sara_shape1(-1);
    double timesteps[8];
    const float *data;
    float *copy;
    size_t size;
    float *x = test_load_f32(pipe->ctx, golden, "sample", &size);
    float *states = test_load_f32(pipe->ctx, golden, "encoder_hidden_states", &size);
    assert_ok(pipe->ctx, sara_safetensors_load(golden, &times, "timestep", SARA_I64, &any));
    for (int64_t i = 0; i < times.shape.dims[0]; i++)
        timesteps[i] = (double)((int64_t *)times.data)[i];
    assert_ok(pipe->ctx, sara_tape_new(pipe->ctx, &tape, model->device));
    assert_ok(pipe->ctx, sara_tape_leaf(tape, &sample,
                                        &sara_safetensors_find(golden, "sample")->shape, x, false));
    assert_ok(pipe->ctx,
              sara_tape_leaf(tape, &condition.of[SARA_CONDITION_STATES],
                             &sara_safetensors_find(golden, "encoder_hidden_states")->shape, states,
                             false));
    assert_ok(pipe->ctx,
              sara_denoiser_forward(tape, &out, model->denoiser, sample, timesteps, &condition));
    assert_ok(pipe->ctx, sara_tape_read(tape, &data, out));
    *count = (size_t)sara_shape_count(&out->shape);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &copy, *count, sizeof(*copy)));
    memcpy(copy, data, *count * sizeof(*copy));
    sara_tensor_free(pipe->ctx, &times);
    sara_free(pipe->ctx, x);
    sara_free(pipe->ctx, states);
    sara_tape_free(tape);
    sara_safetensors_close(golden);
    return copy;
}

static sara_model *model_of(test_pipe *pipe, const char *kind)
{
    return test_model(pipe, test_text(pipe, "%s/unet_%s", SARA_TEST_GOLDEN, kind), true);
}

static void apply(test_pipe *pipe, sara_model *model, const char *kind, double strength)
{
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, model, test_text(pipe, START, kind), strength, false));
}

static void check_recorded(test_pipe *pipe, sara_model *model, const char *kind,
                           const char *strength)
{
    sara_safetensors *file = test_open(
        pipe->ctx, test_text(pipe, "%s/adaptformer_%s.safetensors", SARA_TEST_GOLDEN, kind));
    size_t count, expected_count;
    float *expected =
        test_load_f32(pipe->ctx, file, test_text(pipe, "output_%s", strength), &expected_count);
    const float *got = output_of(pipe, model, kind, &count);
    double error = 0, norm = 0;
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count; i++) {
        error += pow((double)got[i] - expected[i], 2);
        norm += pow((double)expected[i], 2);
    }
    assert_close(sqrt(error / norm), 1e-5, strength);
    sara_free(pipe->ctx, expected);
    sara_safetensors_close(file);
}

/* At a strength, several together, and taken off again, to the bit. */
static void check_kind(test_pipe *pipe, const char *kind)
{
    sara_model *model = model_of(pipe, kind);
    size_t count;
    const float *base = output_of(pipe, model, kind, &count);
    apply(pipe, model, kind, 1);
    check_recorded(pipe, model, kind, "1");
    assert_ok(pipe->ctx, sara_model_remove(model));
    assert_memory_equal(output_of(pipe, model, kind, &count), base, count * sizeof(*base));
    apply(pipe, model, kind, 0.5);
    check_recorded(pipe, model, kind, "0.5");
    const float *half = output_of(pipe, model, kind, &count);
    apply(pipe, model, kind, 0.25);
    apply(pipe, model, kind, 0.25);
    check_recorded(pipe, model, kind, "1");
    assert_ok(pipe->ctx, sara_model_truncate(model, 1));
    assert_memory_equal(output_of(pipe, model, kind, &count), half, count * sizeof(*half));
    apply(pipe, model, kind, 0.25);
    const float *one = output_of(pipe, model, kind, &count);
    assert_ok(pipe->ctx, sara_model_remove(model));
    apply(pipe, model, kind, 0.25);
    apply(pipe, model, kind, 0.5);
    assert_memory_equal(output_of(pipe, model, kind, &count), one, count * sizeof(*one));
    sara_model_free(model);
}

static void test_against_pytorch(void **state)
{
    check_kind(*state, "sd1");
    check_kind(*state, "sd2");
}

static void test_refused(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = model_of(pipe, "sd1"), *other = model_of(pipe, "sd2");
    sara_export_options options;
    const char *start = test_text(pipe, START, "sd1");
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "made for the base ",
                   sara_model_apply(pipe->ctx, other, start, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, other, start, 1, true));
    apply(pipe, model, "sd1", 1);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE,
                   "adaptformer_sd1_start: is an AdaptFormer, which stands beside",
                   sara_model_save(pipe->ctx, NULL, model, test_path(pipe, "merged"), NULL));
    sara_export_options_init(&options);
    options.format = "comfyui";
    assert_refused(
        pipe->ctx, SARA_ERROR_USAGE, "no change of their weights",
        sara_model_export(pipe->ctx, NULL, model, test_path(pipe, "x.safetensors"), &options));
    assert_ok(pipe->ctx, sara_model_remove(model));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, test_path(pipe, "merged"), NULL));
    sara_model_free(model);
    sara_model_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_against_pytorch),
        TEST_CASE(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
