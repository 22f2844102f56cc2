/* What people try that is no model of these families: single files by the names that their tensors
 * have where they are published, folders by the class of their index or config. Each is refused in
 * a line that says what it is and what to use instead. */
#include "support_pipeline.h"

#include <stdio.h>

#define LDM       "model.diffusion_model."
#define SUPPORTED "; SD1.x, SD2.x, SDXL, SD3 and SD3.5 are supported (it holds "

typedef struct other_file {
    const char *what;       /* in the error */
    const char *tensors[3]; /* of such a file */
} other_file;

/* As ComfyUI's detection and diffusers' loading of single files tell them apart. */
static const other_file checkpoints[] = {
    {"a FLUX checkpoint",
     {LDM "double_blocks.0.img_attn.norm.key_norm.scale", LDM "img_in.weight"}},
    {"a FLUX checkpoint", {"double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"}},
    {"a FLUX.2 checkpoint",
     {"double_blocks.0.img_attn.norm.key_norm.scale", "double_stream_modulation_img.lin.weight"}},
    {"a FLUX or AuraFlow transformer in diffusers' layout",
     {"transformer_blocks.0.attn.add_q_proj.weight",
      "single_transformer_blocks.0.norm.linear.bias"}},
    {"a Chroma checkpoint",
     {"double_blocks.0.img_attn.norm.key_norm.scale", "distilled_guidance_layer.in_proj.bias"}},
    {"a HunyuanVideo checkpoint",
     {"double_blocks.0.img_attn_qkv.weight",
      "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias"}},
    {"a HiDream checkpoint", {"double_stream_blocks.0.block.adaLN_modulation.1.bias"}},
    {"a PixArt checkpoint", {"t_block.1.weight", "y_embedder.y_embedding"}},
    {"a Sana checkpoint",
     {"t_block.1.weight", "attention_y_norm.weight", "blocks.0.cross_attn.q_linear.weight"}},
    {"a Wan checkpoint", {LDM "head.modulation", LDM "blocks.0.self_attn.q.weight"}},
    {"an AuraFlow checkpoint",
     {"model.cond_seq_linear.weight", "model.double_layers.0.attn.w1q.weight"}},
    {"a HunyuanDiT checkpoint", {"mlp_t5.0.weight", "x_embedder.proj.weight"}},
    {"an LTX-Video checkpoint",
     {LDM "patchify_proj.weight", LDM "adaln_single.emb.timestep_embedder.linear_1.bias"}},
    {"a Qwen-Image checkpoint",
     {"txt_norm.weight", "transformer_blocks.0.attn.add_q_proj.weight", "img_in.weight"}},
    {"a Z-Image checkpoint", {"cap_embedder.1.weight", "layers.0.adaLN_modulation.0.weight"}},
    {"a Lumina checkpoint", {"cap_embedder.1.weight", "layers.0.adaLN_modulation.1.weight"}},
    {"a Mochi checkpoint", {"t5_yproj.weight", "blocks.0.attn.qkv_x.weight"}},
    {"a Cosmos checkpoint",
     {"net.x_embedder.proj.1.weight", "net.blocks.0.self_attn.q_proj.weight"}},
    {"a Stable Cascade checkpoint", {"clf.1.weight", "clip_txt_mapper.weight"}},
    {"a Stable Video Diffusion checkpoint",
     {LDM "input_blocks.0.0.weight", LDM "input_blocks.1.1.time_stack.0.attn1.to_q.weight"}},
    {"a checkpoint with class embeddings (unCLIP)",
     {LDM "label_emb.0.0.weight", "cond_stage_model.model.positional_embedding"}},
    {"a checkpoint of EDM's noise levels (Playground v2.5)",
     {"edm_mean", LDM "label_emb.0.0.bias"}},
};

static const other_file adapters[] = {
    {"a LoRA, not a checkpoint; give it with --adapter",
     {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"}},
    {"a LoRA, not a checkpoint; give it with --adapter",
     {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight"}},
    {"an IP-Adapter, not a checkpoint; use a model without it",
     {"ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"}},
    {"a textual inversion, not a checkpoint; give its folder with --embedding-dir", {"emb_params"}},
    {"a ControlNet, not a checkpoint; use a model without it",
     {"control_model.input_blocks.0.0.weight", "control_model.input_hint_block.0.weight"}},
    {"a ControlNet, not a checkpoint; use a model without it",
     {"controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"}},
    {"a ControlNet, not a checkpoint; use a model without it",
     {"controlnet_blocks.0.weight", "transformer_blocks.0.attn.add_q_proj.weight"}},
    {"a T2I-Adapter, not a checkpoint; use a model without it",
     {"adapter.body.0.block1.weight", "conv_in.weight"}},
    {"a T2I-Adapter, not a checkpoint; use a model without it",
     {"body.0.in_conv.weight", "body.0.resnets.0.block1.weight"}},
    {"an AnimateDiff module, not a checkpoint; use a model without it",
     {"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias"}},
    {"SDXL's refiner, which goes over what another model has drawn; use the base model",
     {"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias",
      LDM "label_emb.0.0.weight"}},
    {"SD2's upscaler, which is given a picture too; use a model of text to image",
     {LDM "label_emb.weight", "cond_stage_model.model.positional_embedding"}},
    {"a transformer in diffusers' layout; put it into its folder with its config.json",
     {"transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"}},
    {"a module in diffusers' layout; put it into its folder with its config.json",
     {"down_blocks.0.resnets.0.conv1.weight"}},
};

static void refuse_other(test_pipe *pipe, const char *path, const char *error)
{
    sara_model *model = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, error,
                   sara_model_load(pipe->ctx, &model, path, NULL));
    assert_null(model);
}

static void refuse_file(test_pipe *pipe, const other_file *file, const char *rest)
{
    static const float zero = 0;
    sara_tensor_source tensors[3];
    size_t count = 0;
    const char *path = test_path(pipe, "other.safetensors");
    for (; count < 3 && file->tensors[count]; count++)
        tensors[count] =
            (sara_tensor_source){file->tensors[count], SARA_F32, sara_shape1(1), &zero};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, count, NULL, 0));
    refuse_other(pipe, path, test_text(pipe, "%s: is %s%s", path, file->what, rest));
}

static void test_checkpoints(void **state)
{
    for (size_t i = 0; i < sizeof(checkpoints) / sizeof(*checkpoints); i++)
        refuse_file(*state, &checkpoints[i], SUPPORTED);
}

static void test_parts_of_others(void **state)
{
    for (size_t i = 0; i < sizeof(adapters) / sizeof(*adapters); i++)
        refuse_file(*state, &adapters[i], " (it holds ");
}

static void test_pipelines(void **state)
{
    static const char *const classes[] = {
        "FluxPipeline",          "Flux2Pipeline",       "PixArtSigmaPipeline",
        "WanPipeline",           "AuraFlowPipeline",    "HunyuanDiTPipeline",
        "SanaPipeline",          "LTXPipeline",         "ChromaPipeline",
        "QwenImagePipeline",     "ZImagePipeline",      "Lumina2Pipeline",
        "StableCascadePipeline", "KolorsPipeline",      "HiDreamImagePipeline",
        "KandinskyV22Pipeline",  "StableAudioPipeline", "StableVideoDiffusionPipeline",
        "HunyuanVideoPipeline",  "MochiPipeline",       "CogView4Pipeline"};
    test_pipe *pipe = *state;
    const char *folder = test_path(pipe, "folder");
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    for (size_t i = 0; i < sizeof(classes) / sizeof(*classes); i++) {
        test_write(pipe, test_text(pipe, "%s/model_index.json", folder),
                   test_text(pipe, "{\"_class_name\": \"%s\"}", classes[i]));
        refuse_other(pipe, folder,
                     test_text(pipe,
                               "model_index.json: _class_name %s is not supported; expected "
                               "StableDiffusionPipeline, StableDiffusionXLPipeline or "
                               "StableDiffusion3Pipeline (SD1.x, SD2.x, SDXL, SD3, SD3.5)",
                               classes[i]));
    }
}

/* A folder of a denoiser, or of what goes with one. */
static void test_components_of_others(void **state)
{
    static const char *const classes[] = {"FluxTransformer2DModel",
                                          "PixArtTransformer2DModel",
                                          "WanTransformer3DModel",
                                          "AuraFlowTransformer2DModel",
                                          "HunyuanDiT2DModel",
                                          "SanaTransformer2DModel",
                                          "LTXVideoTransformer3DModel",
                                          "ChromaTransformer2DModel",
                                          "QwenImageTransformer2DModel",
                                          "ZImageTransformer2DModel",
                                          "Lumina2Transformer2DModel",
                                          "ControlNetModel",
                                          "SD3ControlNetModel",
                                          "T2IAdapter",
                                          "MotionAdapter",
                                          "UNetSpatioTemporalConditionModel"};
    test_pipe *pipe = *state;
    sara_model *model = NULL;
    const char *folder = test_path(pipe, "part");
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    for (size_t i = 0; i < sizeof(classes) / sizeof(*classes); i++) {
        test_write(pipe, test_text(pipe, "%s/config.json", folder),
                   test_text(pipe, "{\"_class_name\": \"%s\"}", classes[i]));
        assert_refused(
            pipe->ctx, SARA_ERROR_INPUT,
            test_text(pipe,
                      "config.json: _class_name: \"%s\", expected "
                      "\"UNet2DConditionModel\" or \"SD3Transformer2DModel\"",
                      classes[i]),
            sara_model_load(pipe->ctx, &model, folder, &(sara_model_options){.unet_only = true}));
        assert_null(model);
    }
}

/* By the channels that the first convolution takes; zeros of its shape beside the file's others. */
static void refuse_channels(test_pipe *pipe, const char *family, const char *conv, int64_t channels,
                            const char *error)
{
    const char *source = test_path(pipe, "source.safetensors");
    const char *path = test_path(pipe, "channels.safetensors");
    remove(source);
    sara_model *model = test_model(pipe, family, false);
    sara_tensor_source *tensors = NULL;
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, source, NULL));
    sara_model_free(model);
    sara_safetensors *file = test_open(pipe->ctx, source);
    const size_t count = sara_safetensors_count(file);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &tensors, count, sizeof(*tensors)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        void *data;
        tensors[i] = (sara_tensor_source){info->name, info->dtype, info->shape, NULL};
        if (strcmp(info->name, conv) == 0)
            tensors[i].shape.dims[1] = channels;
        const size_t size = (size_t)sara_shape_count(&tensors[i].shape) * sizeof(double);
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, size, 1));
        memset(data, 0, size);
        tensors[i].data = data;
    }
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, count, NULL, 0));
    sara_safetensors_close(file);
    refuse_other(pipe, path, error);
}

static void test_channels(void **state)
{
    static const struct {
        int64_t channels;
        const char *error;
    } cases[] = {
        {9, "takes 9 channels, expected 4: an inpainting model, which is given a mask and a "
            "picture too; use the model that it was made of"},
        {8, "takes 8 channels, expected 4: an edit model (InstructPix2Pix), which is given a "
            "picture too; use the model that it was made of"},
        {5, "takes 5 channels, expected 4: a depth model, which is given depths too; use the "
            "model that it was made of"},
    };
    const char *families[] = {TEST_BASE, SARA_TEST_GOLDEN "/families/sdxl"};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int f = 0; f < 2; f++)
            refuse_channels(*state, families[f], LDM "input_blocks.0.0.weight", cases[i].channels,
                            cases[i].error);
}

/* A transformer that takes more channels than it gives. */
static void test_sd3_channels(void **state)
{
    static const float zeros[192 * 64] = {0};
    const sara_tensor_source tensors[] = {
        {LDM "x_embedder.proj.weight", SARA_F32, sara_shape4(64, 33, 2, 2), zeros},
        {LDM "pos_embed", SARA_F32, sara_shape3(1, 4, 64), zeros},
        {LDM "context_embedder.weight", SARA_F32, sara_shape2(64, 16), zeros},
        {LDM "y_embedder.mlp.0.weight", SARA_F32, sara_shape2(64, 8), zeros},
        {LDM "joint_blocks.0.x_block.attn.qkv.weight", SARA_F32, sara_shape2(192, 64), zeros},
        {LDM "final_layer.linear.weight", SARA_F32, sara_shape2(64, 64), zeros},
    };
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "sd3.safetensors");
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors,
                                               sizeof(tensors) / sizeof(*tensors), NULL, 0));
    refuse_other(pipe, path,
                 "is of an inpainting, edit or depth model of SD3, whose transformer is given a "
                 "picture too; use the model that it was made of");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_checkpoints), TEST_CASE(test_parts_of_others),
        TEST_CASE(test_pipelines),   TEST_CASE(test_components_of_others),
        TEST_CASE(test_channels),    TEST_CASE(test_sd3_channels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
