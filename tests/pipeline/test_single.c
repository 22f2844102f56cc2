/* Single-file checkpoints: written from a folder and read back, to the same bits. */
#include "support_single.h"

static void assert_same_file(test_pipe *pipe, const char *a, const char *b)
{
    char one[65], two[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, one, a));
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, two, b));
    if (strcmp(one, two) != 0)
        fail_msg("%s and %s differ", a, b);
}

/* folder -> file -> folder -> file: the same bits each time. */
static void there_and_back(test_pipe *pipe, const char *source)
{
    static const char *const weights[] = {"unet/diffusion_pytorch_model.safetensors",
                                          "vae/diffusion_pytorch_model.safetensors",
                                          "text_encoder/model.safetensors"};
    sara_model *model = test_model(pipe, source, false);
    const char *copy = test_single_save(pipe, model, "copy", NULL);
    const char *file = test_single_save(pipe, model, "model.safetensors", NULL);
    sara_model *single = test_single_load(pipe, file, NULL, NULL);
    test_single_same_base(pipe, model, single);
    const char *back = test_single_save(pipe, single, "back", NULL);
    assert_same_file(pipe, test_single_save(pipe, single, "again.safetensors", NULL), file);
    for (size_t i = 0; i < sizeof(weights) / sizeof(*weights); i++)
        assert_same_file(pipe, test_text(pipe, "%s/%s", back, weights[i]),
                         test_text(pipe, "%s/%s", copy, weights[i]));
    sara_model_free(single);
    sara_model *folder = test_model(pipe, back, false);
    test_single_same_base(pipe, model, folder);
    assert_same_file(pipe, test_single_save(pipe, folder, "third.safetensors", NULL), file);
    sara_model_free(folder);
    sara_model_free(model);
}

static void test_there_and_back(void **state)
{
    there_and_back(*state, TEST_BASE);
}

/* As SD2 has it: OpenCLIP's names, query, key and value in one tensor, a layer more. */
static void test_open_clip(void **state)
{
    test_pipe *pipe = *state;
    there_and_back(pipe, test_single_open_clip(pipe));
    sara_safetensors *file = NULL;
    assert_ok(pipe->ctx,
              sara_safetensors_open(pipe->ctx, &file, test_path(pipe, "model.safetensors")));
    const sara_tensor_info *fused = sara_safetensors_find(
        file, "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight");
    assert_non_null(fused);
    assert_int_equal(fused->shape.dims[0], 3 * fused->shape.dims[1]);
    assert_non_null(
        sara_safetensors_find(file, "cond_stage_model.model.transformer.resblocks.4.ln_1.weight"));
    assert_null(
        sara_safetensors_find(file, "cond_stage_model.model.transformer.resblocks.5.ln_1.weight"));
    sara_safetensors_close(file);
}

static void draw(test_pipe *pipe, sara_model *model, const char *latents)
{
    sara_generate_options options;
    sara_image *images = NULL;
    int count;
    sara_generate_options_init(&options);
    options.prompt = "cat";
    options.steps = 2;
    options.save_latents = latents;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    sara_images_free(pipe->ctx, images, count);
}

static void test_draws_the_same(void **state)
{
    test_pipe *pipe = *state;
    sara_model *folder = test_model(pipe, TEST_BASE, false);
    sara_model *single = test_single_load(
        pipe, test_single_save(pipe, folder, "model.safetensors", NULL), NULL, NULL);
    draw(pipe, folder, test_path(pipe, "a.safetensors"));
    draw(pipe, single, test_path(pipe, "b.safetensors"));
    assert_same_file(pipe, test_path(pipe, "a.safetensors"), test_path(pipe, "b.safetensors"));
    sara_model_free(folder);
    sara_model_free(single);
}

/* An adapter of the folder merges into the file as into the folder; 16-bit files are other
 * bases. */
static void test_adapters(void **state)
{
    test_pipe *pipe = *state;
    sara_model *folder = test_model(pipe, TEST_BASE, false);
    const char *file = test_single_save(pipe, folder, "model.safetensors", "fp32");
    const char *half = test_single_save(pipe, folder, "half.safetensors", "bf16");
    sara_model *single = test_single_load(pipe, file, NULL, NULL);
    sara_model *other = test_single_load(pipe, half, NULL, NULL);
    const char *adapter = test_adapter(pipe, "adapter.safetensors", folder, 31, 0.02f);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, folder, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, single, adapter, 1, false));
    assert_same_file(pipe, test_single_save(pipe, folder, "merged-a.safetensors", "fp32"),
                     test_single_save(pipe, single, "merged-b.safetensors", "fp32"));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "base",
                   sara_model_apply(pipe->ctx, other, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, other, adapter, 1, true));
    sara_model_free(folder);
    sara_model_free(single);
    sara_model_free(other);
}

/* 16-bit weights in memory: the hash is read from the file again. */
static void test_rounded(void **state)
{
    test_pipe *pipe = *state;
    sara_model *folder = test_model(pipe, TEST_BASE, false);
    const char *file = test_single_save(pipe, folder, "model.safetensors", "fp32");
    sara_model *single = test_single_load(pipe, file, NULL, NULL);
    sara_model *rounded = test_single_load(pipe, file, NULL, "bf16");
    test_single_same_base(pipe, single, rounded);
    sara_model_free(folder);
    sara_model_free(single);
    sara_model_free(rounded);
}

static void refuse_prediction(test_pipe *pipe, const char *path, const char *type,
                              const char *error)
{
    const bool is_file = strstr(path, ".safetensors") != NULL;
    const sara_model_options options = {.tokenizer = is_file ? TEST_SINGLE_TOKENIZER : NULL,
                                        .prediction_type = type};
    sara_model *model = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, error,
                   sara_model_load(pipe->ctx, &model, path, &options));
    assert_null(model);
}

static void test_prediction_type(void **state)
{
    test_pipe *pipe = *state;
    sara_model *folder = test_model(pipe, TEST_BASE, false);
    sara_prediction own = folder->scheduler.prediction_type;
    const char *file = test_single_save(pipe, folder, "model.safetensors", NULL);
    sara_model *single = test_single_load(pipe, file, NULL, NULL);
    assert_int_equal(single->scheduler.prediction_type, own);
    test_assert_contains(pipe->log, "from the file's metadata", __FILE__, __LINE__);
    sara_model_free(single);
    refuse_prediction(pipe, file, "flow_prediction", "does not go with the model's");
    sara_model_free(test_single_load(pipe, file, "sample", NULL));
    single = test_single_load(pipe, file, "v", NULL);
    assert_int_equal(single->scheduler.prediction_type, SARA_PREDICT_V);
    test_assert_contains(pipe->log, "v_prediction (as asked for)", __FILE__, __LINE__);
    const char *v = test_single_save(pipe, single, "v.safetensors", NULL);
    sara_model_free(single);
    single = test_single_load(pipe, v, NULL, NULL);
    assert_int_equal(single->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(single);
    sara_model_free(folder);
}

/* A folder's prediction type that an option overruled is that of what is written. */
static void test_prediction_type_of_folders(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options options = {.prediction_type = "v"};
    sara_model *model = NULL, *again = test_model(pipe, TEST_BASE, false);
    assert_int_not_equal(again->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(again);
    refuse_prediction(pipe, TEST_BASE, "flow_prediction", "does not go with the model's");
    refuse_prediction(pipe, TEST_BASE, "velocity", "prediction_type \"velocity\", expected one of");
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, TEST_BASE, &options));
    again = test_model(pipe, test_single_save(pipe, model, "folder", NULL), false);
    assert_int_equal(again->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(again);
    again =
        test_single_load(pipe, test_single_save(pipe, model, "file.safetensors", NULL), NULL, NULL);
    assert_int_equal(again->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(again);
    sara_model_free(model);
}

/* diffusers' PNDM has no prediction of the sample: such a folder or file could not be read
 * again. */
static void test_prediction_type_is_writable(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options options = {.prediction_type = "sample"};
    sara_save_report report;
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, TEST_BASE, &options));
    model->scheduler.kind = SARA_SAMPLER_PNDM;
    for (int i = 0; i < 2; i++) {
        const char *out = test_path(pipe, i ? "sample.safetensors" : "sample");
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, "prediction_type \"sample\", PNDMScheduler",
                       sara_model_save(pipe->ctx, &report, model, out, NULL));
        assert_false(sara_path_exists(out));
    }
    model->scheduler.kind = SARA_SAMPLER_DDIM;
    test_single_save(pipe, model, "sample", NULL);
    sara_model_free(model);
}

static void test_unet_alone(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options alone = {.unet_only = true};
    sara_model *folder = test_model(pipe, TEST_BASE "/unet", true), *single = NULL;
    const char *file = test_single_save(pipe, folder, "unet.safetensors", NULL);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &single, file, &alone));
    test_single_same_base(pipe, folder, single);
    const char *back = test_single_save(pipe, single, "unet", NULL);
    sara_model_free(single);
    single = test_model(pipe, back, true);
    test_single_same_base(pipe, folder, single);
    sara_model_free(single);
    sara_model_free(folder);
}

static void test_output_exists(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const char *file = test_single_save(pipe, model, "model.safetensors", NULL);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "exists; name a new file",
                   sara_model_save(pipe->ctx, NULL, model, file, NULL));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_there_and_back),
        TEST_CASE(test_open_clip),
        TEST_CASE(test_draws_the_same),
        TEST_CASE(test_adapters),
        TEST_CASE(test_rounded),
        TEST_CASE(test_prediction_type),
        TEST_CASE(test_prediction_type_of_folders),
        TEST_CASE(test_prediction_type_is_writable),
        TEST_CASE(test_unet_alone),
        TEST_CASE(test_output_exists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
