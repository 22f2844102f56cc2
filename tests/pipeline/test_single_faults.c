/* Single files that are wrong or hold less: each is told by the names and shapes that it has. */
#include "support_single.h"

#define UNET "model.diffusion_model."

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
        const char *path = test_single_variant(pipe, test_text(pipe, "other-%zu.safetensors", i),
                                               cases[i].tensor, cases[i].other, NULL);
        test_single_refuse(pipe, SARA_ERROR_INPUT, cases[i].error, path, TEST_BASE);
    }
    const sara_shape nine = sara_shape4(64, 9, 3, 3);
    const char *path =
        test_single_variant(pipe, "inpainting.safetensors", UNET "input_blocks.0.0.weight",
                            UNET "input_blocks.0.0.weight", &nine);
    test_single_refuse(pipe, SARA_ERROR_INPUT, "an inpainting model", path, NULL);
    test_single_refuse(pipe, SARA_ERROR_INPUT,
                       UNET
                       "input_blocks.0.0.weight takes 9 channels, expected 4: an inpainting model",
                       path, TEST_BASE);
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
        const char *path =
            test_single_variant(pipe, test_text(pipe, "fault-%zu.safetensors", i), f->tensor,
                                f->other, f->shape.rank ? &f->shape : NULL);
        test_single_refuse(pipe, SARA_ERROR_INPUT, f->error, path, config);
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
    const char *folder = test_single_open_clip(pipe);
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
    test_single_save(pipe, model, "source.safetensors", NULL);
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
    test_single_variant(pipe, "any.safetensors", NULL, NULL, NULL);
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
    test_single_refuse(
        pipe, SARA_ERROR_INPUT,
        "wrong.safetensors: metadata modelspec.prediction_type: prediction_type \"velocity\"",
        described(pipe, "wrong.safetensors", &wrong, 1), NULL);
    sara_model_free(test_single_load(pipe, test_path(pipe, "wrong.safetensors"), "epsilon", NULL));
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
    sara_model *model = test_single_load(pipe, path, "v_prediction", NULL);
    sara_safetensors *file = NULL;
    assert_ok(pipe->ctx,
              sara_safetensors_open(pipe->ctx, &file,
                                    test_single_save(pipe, model, "new.safetensors", NULL)));
    assert_metadata(file, "modelspec.title", "Mine");
    assert_metadata(file, "other", "kept");
    assert_metadata(file, "modelspec.prediction_type", "v");
    assert_metadata(file, "modelspec.hash_sha256", NULL);
    assert_metadata(file, "sshs_model_hash", NULL);
    assert_metadata(file, "sshs_legacy_hash", NULL);
    sara_safetensors_close(file);
    sara_model_free(model);
}

static void test_what_the_file_does_not_hold(void **state)
{
    test_pipe *pipe = *state;
    const char *bare = test_single_variant(pipe, "bare.safetensors", NULL, NULL, NULL);
    test_single_refuse(pipe, SARA_ERROR_INPUT, "cross attention of width 128, expected 768", bare,
                       NULL);
    const sara_model_options configured = {.model_config = TEST_BASE};
    sara_model *model = NULL, *folder = test_model(pipe, TEST_BASE, false);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, bare, &configured));
    test_single_same_base(pipe, model, folder);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_refused),
        TEST_CASE(test_tensors_are_named),
        TEST_CASE(test_packed_tensors_are_named),
        TEST_CASE(test_unknown_prediction_type),
        TEST_CASE(test_metadata_of_others),
        TEST_CASE(test_what_the_file_does_not_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
