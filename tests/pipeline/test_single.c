/* Single-file checkpoints: written from a folder, read back, told from other files. */
#include "support_pipeline.h"

#include <stdlib.h>
#include <unistd.h>

#define TOKENIZER TEST_BASE "/tokenizer"

static sara_model *load_with(test_pipe *pipe, const char *path, const char *prediction_type,
                             const char *weight_dtype)
{
    const sara_model_options options = {
        .tokenizer = TOKENIZER, .prediction_type = prediction_type, .weight_dtype = weight_dtype};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    return model;
}

static const char *save(test_pipe *pipe, const sara_model *model, const char *name,
                        const char *dtype)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, dtype));
    return path;
}

static void assert_same_file(test_pipe *pipe, const char *a, const char *b)
{
    char one[65], two[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, one, a));
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, two, b));
    if (strcmp(one, two) != 0)
        fail_msg("%s and %s differ", a, b);
}

static void assert_same_base(test_pipe *pipe, sara_model *a, sara_model *b)
{
    const char *one, *two;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &one, a));
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &two, b));
    assert_string_equal(one, two);
}

/* folder -> file -> folder -> file: the same bits each time. */
static void there_and_back(test_pipe *pipe, const char *source)
{
    static const char *const weights[] = {"unet/diffusion_pytorch_model.safetensors",
                                          "vae/diffusion_pytorch_model.safetensors",
                                          "text_encoder/model.safetensors"};
    sara_model *model = test_model(pipe, source, false);
    const char *copy = save(pipe, model, "copy", NULL);
    const char *file = save(pipe, model, "model.safetensors", NULL);
    sara_model *single = load_with(pipe, file, NULL, NULL);
    assert_same_base(pipe, model, single);
    const char *back = save(pipe, single, "back", NULL);
    assert_same_file(pipe, save(pipe, single, "again.safetensors", NULL), file);
    for (size_t i = 0; i < sizeof(weights) / sizeof(*weights); i++)
        assert_same_file(pipe, test_text(pipe, "%s/%s", back, weights[i]),
                         test_text(pipe, "%s/%s", copy, weights[i]));
    sara_model_free(single);
    sara_model *folder = test_model(pipe, back, false);
    assert_same_base(pipe, model, folder);
    assert_same_file(pipe, save(pipe, folder, "third.safetensors", NULL), file);
    sara_model_free(folder);
    sara_model_free(model);
}

static void test_there_and_back(void **state)
{
    there_and_back(*state, TEST_BASE);
}

/* A folder whose single file has OpenCLIP's names. */
static const char *open_clip_folder(test_pipe *pipe)
{
    const char *folder = test_linked_model(pipe, "gelu");
    const char *text = test_text(pipe, "%s/text_encoder", folder);
    json_t *object = NULL;
    assert_int_equal(unlink(text), 0);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, text));
    assert_int_equal(symlink(TEST_BASE "/text_encoder/model.safetensors",
                             test_text(pipe, "%s/model.safetensors", text)),
                     0);
    assert_ok(pipe->ctx,
              sara_json_load(pipe->ctx, &object, TEST_BASE "/text_encoder/config.json", true));
    json_object_set_new(object, "hidden_act", json_string("gelu"));
    char *dump = json_dumps(object, 0);
    test_write(pipe, test_text(pipe, "%s/config.json", text), dump);
    free(dump);
    json_decref(object);
    return folder;
}

/* As SD2 has it: OpenCLIP's names, query, key and value in one tensor, a layer more. */
static void test_open_clip(void **state)
{
    test_pipe *pipe = *state;
    there_and_back(pipe, open_clip_folder(pipe));
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
    sara_model *single = load_with(pipe, save(pipe, folder, "model.safetensors", NULL), NULL, NULL);
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
    const char *file = save(pipe, folder, "model.safetensors", "fp32");
    const char *half = save(pipe, folder, "half.safetensors", "bf16");
    sara_model *single = load_with(pipe, file, NULL, NULL);
    sara_model *other = load_with(pipe, half, NULL, NULL);
    const char *adapter = test_adapter(pipe, "adapter.safetensors", folder, 31, 0.02f);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, folder, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, single, adapter, 1, false));
    assert_same_file(pipe, save(pipe, folder, "merged-a.safetensors", "fp32"),
                     save(pipe, single, "merged-b.safetensors", "fp32"));
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
    const char *file = save(pipe, folder, "model.safetensors", "fp32");
    sara_model *single = load_with(pipe, file, NULL, NULL);
    sara_model *rounded = load_with(pipe, file, NULL, "bf16");
    assert_same_base(pipe, single, rounded);
    sara_model_free(folder);
    sara_model_free(single);
    sara_model_free(rounded);
}

static void refuse_prediction(test_pipe *pipe, const char *path, const char *type,
                              const char *error)
{
    const bool is_file = strstr(path, ".safetensors") != NULL;
    const sara_model_options options = {.tokenizer = is_file ? TOKENIZER : NULL,
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
    const char *file = save(pipe, folder, "model.safetensors", NULL);
    sara_model *single = load_with(pipe, file, NULL, NULL);
    assert_int_equal(single->scheduler.prediction_type, own);
    test_assert_contains(pipe->log, "from the file's metadata", __FILE__, __LINE__);
    sara_model_free(single);
    refuse_prediction(pipe, file, "flow_prediction", "does not go with the model's");
    sara_model_free(load_with(pipe, file, "sample", NULL));
    single = load_with(pipe, file, "v", NULL);
    assert_int_equal(single->scheduler.prediction_type, SARA_PREDICT_V);
    test_assert_contains(pipe->log, "v_prediction (as asked for)", __FILE__, __LINE__);
    const char *v = save(pipe, single, "v.safetensors", NULL);
    sara_model_free(single);
    single = load_with(pipe, v, NULL, NULL);
    assert_int_equal(single->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(single);
    sara_model_free(folder);
}

/* ------------------------------------------------------------------------------- other files */

/* The base as a file, with one tensor named or shaped otherwise, or left out (name NULL), and
 * without metadata. */
static const char *variant(test_pipe *pipe, const char *name, const char *tensor, const char *other,
                           const sara_shape *shape)
{
    const char *path = test_path(pipe, name), *source = test_path(pipe, "source.safetensors");
    sara_safetensors *file = NULL;
    sara_tensor_source *sources = NULL;
    size_t used = 0;
    if (!sara_path_exists(source)) {
        sara_model *model = test_model(pipe, TEST_BASE, false);
        save(pipe, model, "source.safetensors", NULL);
        sara_model_free(model);
    }
    assert_ok(pipe->ctx, sara_safetensors_open(pipe->ctx, &file, source));
    size_t count = sara_safetensors_count(file);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &sources, count, sizeof(*sources)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        bool changed = tensor && strcmp(info->name, tensor) == 0;
        void *data = NULL;
        if (changed && !other)
            continue;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, 9 * (size_t)info->size, 1));
        memset(data, 0, 9 * (size_t)info->size);
        assert_ok(pipe->ctx, sara_safetensors_read(file, data, info));
        sources[used++] =
            (sara_tensor_source){test_text(pipe, "%s", changed ? other : info->name), info->dtype,
                                 changed && shape ? *shape : info->shape, data};
    }
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, sources, used, NULL, 0));
    sara_safetensors_close(file);
    return path;
}

#define UNET "model.diffusion_model."

static void refuse(test_pipe *pipe, sara_status status, const char *error, const char *path,
                   const char *model_config)
{
    const sara_model_options options = {.tokenizer = TOKENIZER, .model_config = model_config};
    sara_model *model = NULL;
    assert_refused(pipe->ctx, status, error, sara_model_load(pipe->ctx, &model, path, &options));
    assert_null(model);
}

static void test_refused(void **state)
{
    static const struct {
        const char *tensor, *other, *error;
    } cases[] = {
        {UNET "out.2.bias", UNET "label_emb.0.0.weight", "a checkpoint with class embeddings"},
        {UNET "out.2.bias", "conditioner.embedders.0.model.x", "SDXL's refiner"},
        {UNET "out.2.bias", "model.diffusion_model.double_blocks.0.x", "a FLUX checkpoint"},
        {UNET "out.2.bias", "lora_unet_mid_block.lora_down.weight", "a LoRA"},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *path = variant(pipe, test_text(pipe, "other-%zu.safetensors", i),
                                   cases[i].tensor, cases[i].other, NULL);
        refuse(pipe, SARA_ERROR_INPUT, cases[i].error, path, TEST_BASE);
    }
    const sara_shape nine = sara_shape4(64, 9, 3, 3);
    const char *path = variant(pipe, "inpainting.safetensors", UNET "input_blocks.0.0.weight",
                               UNET "input_blocks.0.0.weight", &nine);
    refuse(pipe, SARA_ERROR_INPUT, "an inpainting model", path, NULL);
    refuse(pipe, SARA_ERROR_INPUT,
           UNET "input_blocks.0.0.weight takes 9 channels, expected 4: an inpainting model", path,
           TEST_BASE);
}

/* A tensor that is missing, another name, or another shape (rank 0: its own), and what is said. */
typedef struct fault {
    const char *tensor, *other;
    sara_shape shape;
    const char *error;
} fault;

static void refuse_faults(test_pipe *pipe, const fault *faults, size_t count, const char *config)
{
    for (size_t i = 0; i < count; i++) {
        const fault *f = &faults[i];
        const char *path = variant(pipe, test_text(pipe, "fault-%zu.safetensors", i), f->tensor,
                                   f->other, f->shape.rank ? &f->shape : NULL);
        refuse(pipe, SARA_ERROR_INPUT, f->error, path, config);
    }
}

#define VAE  "first_stage_model."
#define CLIP "cond_stage_model.transformer.text_model."
#define OPEN "cond_stage_model.model."

/* Names and shapes are the file's. */
static void test_tensors_are_named(void **state)
{
    const sara_shape own = {0}, three = sara_shape1(3), square = sara_shape4(32, 32, 1, 1);
    const fault faults[] = {
        {UNET "out.2.bias", NULL, own, "config: 1 missing (" UNET "out.2.bias)"},
        {UNET "input_blocks.0.0.weight", NULL, own, "1 missing (" UNET "input_blocks.0.0.weight)"},
        {UNET "input_blocks.1.0.in_layers.0.weight", NULL, own,
         "1 missing (" UNET "input_blocks.1.0.in_layers.0.weight)"},
        {UNET "out.2.bias", UNET "out.3.bias", own,
         "1 missing (" UNET "out.2.bias); 1 not expected (" UNET "out.3.bias)"},
        {UNET "out.2.bias", UNET "conv_out.weight", own,
         "1 missing (" UNET "out.2.bias); 1 not expected (" UNET},
        {UNET "out.2.bias", UNET "out.2.bias", three,
         "1 misshapen (" UNET "out.2.bias: shape [3], expected [4])"},
        {VAE "decoder.conv_in.weight", NULL, own, "1 missing (" VAE "decoder.conv_in.weight)"},
        {VAE "encoder.mid.attn_1.q.weight", VAE "encoder.mid.attn_1.q.weight", square,
         "1 misshapen (" VAE
         "encoder.mid.attn_1.q.weight: shape [32,32,1,1], expected [96,96,1,1])"},
        {VAE "decoder.up.1.block.0.norm1.weight", VAE "decoder.up.7.x", own,
         "1 missing (" VAE "decoder.up.1.block.0.norm1.weight); 1 not expected (" VAE
         "decoder.up.7.x)"},
        {CLIP "final_layer_norm.weight", NULL, own, "1 missing (" CLIP "final_layer_norm.weight)"},
    };
    refuse_faults(*state, faults, sizeof(faults) / sizeof(*faults), TEST_BASE);
}

/* Of what is packed in one tensor that one is told of, once. */
static void test_packed_tensors_are_named(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = open_clip_folder(pipe);
    sara_model *model = test_model(pipe, folder, false);
    const sara_shape own = {0}, half = sara_shape2(192, 64), odd = sara_shape2(100, 128);
    const fault faults[] = {
        {OPEN "positional_embedding", NULL, own, "1 missing (" OPEN "positional_embedding)"},
        {OPEN "transformer.resblocks.2.attn.in_proj_weight", NULL, own,
         "1 missing (" OPEN "transformer.resblocks.2.attn.in_proj_weight)"},
        {OPEN "transformer.resblocks.0.attn.in_proj_weight",
         OPEN "transformer.resblocks.0.attn.in_proj_weight", half,
         "1 misshapen (" OPEN
         "transformer.resblocks.0.attn.in_proj_weight: shape [192,64], expected [384,128])"},
        {OPEN "transformer.resblocks.0.attn.in_proj_weight",
         OPEN "transformer.resblocks.0.attn.in_proj_weight", odd,
         OPEN "transformer.resblocks.0.attn.in_proj_weight: shape [100,128], expected a first "
              "dimension that is a multiple of 3"},
        {OPEN "ln_final.bias", OPEN "ln_final.biases", own,
         "1 missing (" OPEN "ln_final.bias); 1 not expected (" OPEN "ln_final.biases)"},
    };
    save(pipe, model, "source.safetensors", NULL);
    sara_model_free(model);
    refuse_faults(pipe, faults, sizeof(faults) / sizeof(*faults), folder);
}

/* The base as a file with sara's configs in its metadata, but for the scheduler's, and these. */
static const char *described(test_pipe *pipe, const char *name, const sara_metadata *more,
                             size_t more_count)
{
    const char *path = test_path(pipe, name);
    sara_safetensors *file = NULL;
    sara_tensor_source *sources = NULL;
    sara_metadata *all = NULL;
    size_t own_count, used = 0;
    variant(pipe, "any.safetensors", NULL, NULL, NULL);
    assert_ok(pipe->ctx,
              sara_safetensors_open(pipe->ctx, &file, test_path(pipe, "source.safetensors")));
    size_t count = sara_safetensors_count(file);
    const sara_metadata *own = sara_safetensors_metadata_all(file, &own_count);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &sources, count, sizeof(*sources)));
    assert_ok(pipe->ctx,
              sara_arena_alloc(&pipe->strings, &all, own_count + more_count, sizeof(*all)));
    for (size_t i = 0; i < own_count; i++)
        if (strncmp(own[i].key, "sara.config.", 12) == 0 && !strstr(own[i].key, "scheduler"))
            all[used++] = own[i];
    for (size_t i = 0; i < more_count; i++)
        all[used++] = more[i];
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        void *data = NULL;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, (size_t)info->size, 1));
        assert_ok(pipe->ctx, sara_safetensors_read(file, data, info));
        sources[i] = (sara_tensor_source){info->name, info->dtype, info->shape, data};
    }
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, sources, count, all, used));
    sara_safetensors_close(file);
    return path;
}

static void test_unknown_prediction_type(void **state)
{
    test_pipe *pipe = *state;
    const sara_metadata wrong = {"modelspec.prediction_type", "velocity"};
    refuse(pipe, SARA_ERROR_INPUT,
           "wrong.safetensors: metadata modelspec.prediction_type: prediction_type \"velocity\"",
           described(pipe, "wrong.safetensors", &wrong, 1), NULL);
    sara_model_free(load_with(pipe, test_path(pipe, "wrong.safetensors"), "epsilon", NULL));
}

static void assert_metadata(const sara_safetensors *file, const char *key, const char *value)
{
    const char *got = sara_safetensors_metadata(file, key);
    if (!value)
        assert_null(got);
    else
        assert_string_equal(got, value);
}

/* What others wrote stays, unless it is not so of the new file. */
static void test_metadata_of_others(void **state)
{
    test_pipe *pipe = *state;
    static const sara_metadata own[] = {
        {"modelspec.title", "Mine"},       {"modelspec.prediction_type", "epsilon"},
        {"modelspec.hash_sha256", "0x12"}, {"sshs_model_hash", "34"},
        {"sshs_legacy_hash", "56"},        {"other", "kept"}};
    const char *path = described(pipe, "own.safetensors", own, sizeof(own) / sizeof(*own));
    sara_model *model = load_with(pipe, path, "v_prediction", NULL);
    sara_safetensors *file = NULL;
    assert_ok(pipe->ctx,
              sara_safetensors_open(pipe->ctx, &file, save(pipe, model, "new.safetensors", NULL)));
    assert_metadata(file, "modelspec.title", "Mine");
    assert_metadata(file, "other", "kept");
    assert_metadata(file, "modelspec.prediction_type", "v");
    assert_metadata(file, "modelspec.hash_sha256", NULL);
    assert_metadata(file, "sshs_model_hash", NULL);
    assert_metadata(file, "sshs_legacy_hash", NULL);
    sara_safetensors_close(file);
    sara_model_free(model);
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
    again = test_model(pipe, save(pipe, model, "folder", NULL), false);
    assert_int_equal(again->scheduler.prediction_type, SARA_PREDICT_V);
    sara_model_free(again);
    again = load_with(pipe, save(pipe, model, "file.safetensors", NULL), NULL, NULL);
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
    save(pipe, model, "sample", NULL);
    sara_model_free(model);
}

static void test_what_the_file_does_not_hold(void **state)
{
    test_pipe *pipe = *state;
    const char *bare = variant(pipe, "bare.safetensors", NULL, NULL, NULL);
    refuse(pipe, SARA_ERROR_INPUT, "cross attention of width 128, expected 768", bare, NULL);
    const sara_model_options configured = {.model_config = TEST_BASE};
    sara_model *model = NULL, *folder = test_model(pipe, TEST_BASE, false);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, bare, &configured));
    assert_same_base(pipe, model, folder);
    assert_int_equal(model->denoiser->info.denoiser.sample_width, 16);
    sara_model_free(model);
    sara_model_free(folder);
    model = NULL;
    bool builtin = sara_tokenizer_has_builtin(); /* whose ids are beyond this model's */
    assert_refused(pipe->ctx, builtin ? SARA_ERROR_INPUT : SARA_ERROR_USAGE,
                   builtin ? "vocab_size 3208, the tokenizer has ids up to 49407; --tokenizer"
                           : "holds no vocabulary",
                   sara_model_load(pipe->ctx, &model, test_path(pipe, "source.safetensors"), NULL));
}

static void test_unet_alone(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options alone = {.unet_only = true};
    sara_model *folder = test_model(pipe, TEST_BASE "/unet", true), *single = NULL;
    const char *file = save(pipe, folder, "unet.safetensors", NULL);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &single, file, &alone));
    assert_same_base(pipe, folder, single);
    const char *back = save(pipe, single, "unet", NULL);
    sara_model_free(single);
    single = test_model(pipe, back, true);
    assert_same_base(pipe, folder, single);
    sara_model_free(single);
    sara_model_free(folder);
}

static void test_output_exists(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const char *file = save(pipe, model, "model.safetensors", NULL);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "exists; name a new file",
                   sara_model_save(pipe->ctx, NULL, model, file, NULL));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_there_and_back),
                                       TEST_CASE(test_open_clip),
                                       TEST_CASE(test_draws_the_same),
                                       TEST_CASE(test_adapters),
                                       TEST_CASE(test_rounded),
                                       TEST_CASE(test_prediction_type),
                                       TEST_CASE(test_unknown_prediction_type),
                                       TEST_CASE(test_metadata_of_others),
                                       TEST_CASE(test_prediction_type_of_folders),
                                       TEST_CASE(test_prediction_type_is_writable),
                                       TEST_CASE(test_refused),
                                       TEST_CASE(test_tensors_are_named),
                                       TEST_CASE(test_packed_tensors_are_named),
                                       TEST_CASE(test_what_the_file_does_not_hold),
                                       TEST_CASE(test_unet_alone),
                                       TEST_CASE(test_output_exists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
