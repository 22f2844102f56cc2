/* Stable Diffusion XL (Podell et al. 2023). */
#include "pipeline/family_sd.h"

#include "models/clip.h"
#include "models/unet.h"
#include "models/vae.h"
#include "pipeline/pipeline.h"

#define HEAD       64  /* channels of an attention's head */
#define TIME_WIDTH 256 /* of the sinusoids of a size */

enum { DENOISER, VAE, TEXT, TEXT_2, PARTS };

static const sara_single_place text_places[] = {
    {"conditioner.embedders.0.transformer.", "text_model.", SARA_LDM_CLIP, false},
    {"conditioner.embedders.0.transformer.", "", SARA_LDM_CLIP, false},
    {NULL, NULL, SARA_LDM_CLIP, false},
};
static const sara_single_place text_2_places[] = {
    {"conditioner.embedders.1.model.", "", SARA_LDM_OPEN_CLIP, false},
    {NULL, NULL, SARA_LDM_OPEN_CLIP, false},
};

static const sara_family_part sdxl_parts[PARTS] = {
    [DENOISER] = {.folder = "unet",
                  .class = &sara_unet_class,
                  .stages = SARA_STAGE_DENOISE,
                  .places = sara_sd_denoiser_places,
                  .averages = sara_sd_denoiser_averages},
    [VAE] = {.folder = "vae",
             .class = &sara_vae_class,
             .stages = SARA_STAGE_IMAGES | SARA_STAGE_DECODE,
             .places = sara_sd_vae_places},
    [TEXT] = {.folder = "text_encoder",
              .class = &sara_clip_text_class,
              .stages = SARA_STAGE_TEXT,
              .tokenizer = "tokenizer",
              .places = text_places},
    [TEXT_2] = {.folder = "text_encoder_2",
                .class = &sara_clip_text_projection_class,
                .stages = SARA_STAGE_TEXT,
                .tokenizer = "tokenizer_2",
                .second_padding = true,
                .places = text_2_places},
};

/* ---------------------------------------------------------------------------------- recognition */

static bool sdxl_is_index(const char *class_name, const json_t *index)
{
    static const char start[] = "StableDiffusionXL";
    (void)index;
    return strncmp(class_name, start, strlen(start)) == 0;
}

/* By the embedding of pooled text and sizes, which may stand behind any prefix. */
static bool sdxl_is_file(const sara_single_file *single)
{
    return sara_family_file_has(single, "label_emb");
}

static bool sdxl_is_denoiser(const json_t *config)
{
    const char *addition = json_string_value(json_object_get(config, "addition_embed_type"));
    return addition && strcmp(addition, "text_time") == 0;
}

/* The refiner is told five numbers beside bigG's pooled states, which are as wide as its states. */
static bool is_refiner(const json_t *config)
{
    json_int_t time = json_integer_value(json_object_get(config, "addition_time_embed_dim"));
    json_int_t all =
        json_integer_value(json_object_get(config, "projection_class_embeddings_input_dim"));
    json_int_t states = json_integer_value(json_object_get(config, "cross_attention_dim"));
    return states > 0 && all - 5 * time == states;
}

static const char *sdxl_unsupported(const json_t *config)
{
    if (is_refiner(config))
        return "SDXL's refiner, which goes over what another model has drawn; use the base model";
    return NULL;
}

/* ------------------------------------------------------------- what single files do not tell */

static int tell_xl_unet(json_t *config)
{
    const json_t *channels = json_object_get(config, "block_out_channels");
    json_t *heads = json_array();
    for (size_t i = 0; i < json_array_size(channels); i++)
        json_array_append_new(heads,
                              json_integer(json_integer_value(json_array_get(channels, i)) / HEAD));
    return json_object_set_new(config, "attention_head_dim", heads) |
           json_object_set_new(config, "addition_time_embed_dim", json_integer(TIME_WIDTH)) |
           json_object_set_new(config, "sample_size", json_integer(128));
}

static int tell_xl_vae(json_t *config)
{
    return json_object_set_new(config, "sample_size", json_integer(1024)) |
           json_object_set_new(config, "scaling_factor", json_real(0.13025)) |
           json_object_set_new(config, "force_upcast", json_true());
}

static int tell_xl_text(json_t *config, bool second)
{
    return json_object_set_new(config, "hidden_act", json_string(second ? "gelu" : "quick_gelu")) |
           json_object_set_new(config, "pad_token_id", json_integer(1));
}

static sara_status sdxl_tell(const sara_single_file *single, sara_single_part *part)
{
    int failed = part->class == &sara_unet_class ? tell_xl_unet(part->config)
                 : part->class == &sara_vae_class
                     ? tell_xl_vae(part->config)
                     : tell_xl_text(part->config, part->shape.projection);
    return failed ? sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                              single->path)
                  : SARA_OK;
}

static const char v_marker[] = "v_pred";

static sara_status sdxl_guess(const sara_model *model, const char **prediction, const char **reason)
{
    bool marked = sara_safetensors_find(model->single->file, v_marker) != NULL;
    *prediction = marked ? "v_prediction" : "epsilon";
    *reason = marked ? "as its tensor v_pred says" : "as SDXL has it";
    return SARA_OK;
}

/* As in the published folder. */
static const char sdxl_scheduler[] =
    "{\"_class_name\": \"EulerDiscreteScheduler\", \"beta_start\": 0.00085, \"beta_end\": 0.012, "
    "\"beta_schedule\": \"scaled_linear\", \"num_train_timesteps\": 1000, "
    "\"prediction_type\": \"epsilon\", \"interpolation_type\": \"linear\", "
    "\"use_karras_sigmas\": false, \"steps_offset\": 1, \"timestep_spacing\": \"leading\"}";

/* ---------------------------------------------------------------------------------------- texts */

/* The states before the last layer of each, and what the second one's projection makes of all. */
static const sara_clip_use sdxl_texts[] = {{TEXT, 1, false}, {TEXT_2, 1, true}};
#define TEXTS (int)(sizeof(sdxl_texts) / sizeof(*sdxl_texts))

static sara_status sdxl_check_texts(const sara_model *model)
{
    return sara_clip_check(model, sdxl_texts, TEXTS, false);
}

static sara_status sdxl_measure(sara_context *ctx, int64_t *length, const sara_model *model,
                                const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_measure(ctx, length, model, sdxl_texts, TEXTS, prompt, source);
}

static sara_status sdxl_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                               const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_encode(ctx, out, model, sdxl_texts, TEXTS, prompt, source);
}

const sara_family sara_family_sdxl = {
    .name = "SDXL",
    .product = "Stable Diffusion XL",
    .pipeline = "StableDiffusionXLPipeline",
    .index = "{\"feature_extractor\": [null, null], \"image_encoder\": [null, null], "
             "\"force_zeros_for_empty_prompt\": true}",
    .parts = sdxl_parts,
    .part_count = PARTS,
    .is_index = sdxl_is_index,
    .is_file = sdxl_is_file,
    .is_denoiser = sdxl_is_denoiser,
    .unsupported = sdxl_unsupported,
    .tell = sdxl_tell,
    .guess = sdxl_guess,
    .v_marker = v_marker,
    .zero_snr_marker = "ztsnr",
    .scheduler = sdxl_scheduler,
    .zero_negative = true,
    .check_texts = sdxl_check_texts,
    .measure = sdxl_measure,
    .encode = sdxl_encode,
    .objective = sara_objective_new,
    .draw_timestep = sara_sd_draw_timestep,
    .sample_size = 128,
    .guidance_scale = 5.0,
    .target = "unet",
    .architecture = {"stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base"},
    .kohya = {"sdxl_base_v1-0", "sdxl_base_v1-0"},
    .kohya_single = true,
};
