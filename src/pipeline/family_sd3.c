/* Stable Diffusion 3 and 3.5 (Esser et al. 2024), with T5 among their text encoders or without. */
#include "pipeline/family_sd3.h"

#include "models/clip.h"
#include "models/mmdit.h"
#include "models/t5.h"
#include "models/vae.h"
#include "pipeline/family_sd.h"
#include "pipeline/pipeline.h"

/* Those without T5 lack the last. */
enum { DENOISER, VAE, TEXT, TEXT_2, TEXT_3, PARTS };

static const sara_single_place denoiser_places[] = {
    {"model.diffusion_model.", "", SARA_LDM_MMDIT, false},
    {"", "", SARA_LDM_MMDIT, false},
    {NULL, NULL, SARA_LDM_MMDIT, false},
};
static const sara_single_place text_places[] = {
    {"text_encoders.clip_l.transformer.", "text_model.", SARA_LDM_CLIP, false},
    {"text_encoders.clip_l.transformer.", "", SARA_LDM_CLIP, false},
    {NULL, NULL, SARA_LDM_CLIP, false},
};
static const sara_single_place text_2_places[] = {
    {"text_encoders.clip_g.transformer.", "text_model.", SARA_LDM_CLIP, false},
    {"text_encoders.clip_g.transformer.", "", SARA_LDM_CLIP, false},
    {NULL, NULL, SARA_LDM_CLIP, false},
};
static const sara_single_place text_3_places[] = {
    {"text_encoders.t5xxl.transformer.", "", SARA_LDM_T5, false},
    {NULL, NULL, SARA_LDM_T5, false},
};

static const sara_family_part sd3_parts[PARTS] = {
    [DENOISER] = {.folder = "transformer",
                  .class = &sara_mmdit_class,
                  .stages = SARA_STAGE_DENOISE,
                  .places = denoiser_places},
    [VAE] = {.folder = "vae",
             .class = &sara_vae_class,
             .stages = SARA_STAGE_IMAGES | SARA_STAGE_DECODE,
             .places = sara_sd_vae_places},
    [TEXT] = {.folder = "text_encoder",
              .class = &sara_clip_text_projection_class,
              .stages = SARA_STAGE_TEXT,
              .tokenizer = "tokenizer",
              .places = text_places},
    [TEXT_2] = {.folder = "text_encoder_2",
                .class = &sara_clip_text_projection_class,
                .stages = SARA_STAGE_TEXT,
                .tokenizer = "tokenizer_2",
                .second_padding = true,
                .places = text_2_places},
    [TEXT_3] = {.folder = "text_encoder_3",
                .class = &sara_t5_class,
                .stages = SARA_STAGE_TEXT,
                .tokenizer = "tokenizer_3",
                .t5_tokenizer = true,
                .places = text_3_places},
};

/* ---------------------------------------------------------------------------------- recognition */

static bool has_t5(const json_t *index)
{
    return json_is_string(json_array_get(json_object_get(index, "text_encoder_3"), 1));
}

static bool is_sd3_pipeline(const char *class_name)
{
    static const char start[] = "StableDiffusion3";
    return strncmp(class_name, start, strlen(start)) == 0;
}

static bool is_sd3_index(const char *class_name, const json_t *index)
{
    return is_sd3_pipeline(class_name) && has_t5(index);
}

static bool is_sd3_index_without(const char *class_name, const json_t *index)
{
    return is_sd3_pipeline(class_name) && !has_t5(index);
}

static bool sd3_is_file(const sara_single_file *single)
{
    return sara_family_file_has(single, "joint_blocks.");
}

static bool is_sd3_class(const json_t *config)
{
    const char *kind = json_string_value(json_object_get(config, "_class_name"));
    return kind && strcmp(kind, sara_mmdit_class.value) == 0;
}

static bool has_qk_norm(const json_t *config)
{
    return json_is_string(json_object_get(config, "qk_norm"));
}

static bool has_dual_layers(const json_t *config)
{
    return json_array_size(json_object_get(config, "dual_attention_layers")) > 0;
}

static bool sd3_is_denoiser(const json_t *config)
{
    return is_sd3_class(config) && !has_qk_norm(config);
}

static bool sd35_medium_is_denoiser(const json_t *config)
{
    return is_sd3_class(config) && has_qk_norm(config) && has_dual_layers(config);
}

static bool sd35_large_is_denoiser(const json_t *config)
{
    return is_sd3_class(config) && has_qk_norm(config) && !has_dual_layers(config);
}

static const char *sd3_unsupported(const json_t *config)
{
    const json_t *in = json_object_get(config, "in_channels");
    const json_t *out = json_object_get(config, "out_channels");
    if (json_is_integer(out) && json_integer_value(in) > json_integer_value(out))
        return "an inpainting, edit or depth model of SD3, whose transformer is given a picture "
               "too; use the model that it was made of";
    return NULL;
}

/* -------------------------------------------------------------- what single files do not tell */

static int tell_sd3_vae(json_t *config)
{
    return json_object_set_new(config, "sample_size", json_integer(1024)) |
           json_object_set_new(config, "scaling_factor", json_real(1.5305)) |
           json_object_set_new(config, "shift_factor", json_real(0.0609)) |
           json_object_set_new(config, "force_upcast", json_true());
}

static int tell_sd3_text(json_t *config, bool second)
{
    return json_object_set_new(config, "hidden_act", json_string(second ? "gelu" : "quick_gelu")) |
           json_object_set_new(config, "pad_token_id", json_integer(1));
}

static sara_status sd3_tell(const sara_single_file *single, sara_single_part *part)
{
    int failed = 0;
    if (part->class == &sara_vae_class)
        failed = tell_sd3_vae(part->config);
    else if (part->class == &sara_clip_text_projection_class)
        failed = tell_sd3_text(part->config, strcmp(part->name, sd3_parts[TEXT_2].folder) == 0);
    return failed ? sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                              single->path)
                  : SARA_OK;
}

static sara_status sd3_guess(const sara_model *model, const char **prediction, const char **reason)
{
    (void)model;
    *prediction = "flow_prediction";
    *reason = "as SD3 has it";
    return SARA_OK;
}

static const char sd3_scheduler[] =
    "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"num_train_timesteps\": 1000, "
    "\"shift\": 3.0}";

/* ---------------------------------------------------------------------------------------- texts */

/* The states before the last layer of each side by side, filled up with zeros; both are pooled. */
static const sara_clip_use sd3_texts[] = {{TEXT, 1, true}, {TEXT_2, 1, true}};
#define TEXTS (int)(sizeof(sd3_texts) / sizeof(*sd3_texts))

static bool family_has_t5(const sara_model *model)
{
    return model->family->part_count > TEXT_3;
}

static sara_status sd3_check_texts(const sara_model *model)
{
    const int width = model->denoiser->info.denoiser.widths[SARA_CONDITION_STATES];
    sara_status status;
    TRY(sara_clip_check(model, sd3_texts, TEXTS, true));
    if (!family_has_t5(model))
        return SARA_OK;
    const int hidden = model->parts[TEXT_3].network->info.text.hidden_size;
    if (hidden != width)
        TRY(sara_fail(
            model->ctx, SARA_ERROR_INPUT,
            "%s: text_encoder_3 d_model %d, transformer joint_attention_dim %d: they must "
            "agree",
            model->path, hidden, width));
    TRY(sara_clip_check_ids(model, TEXT_3));
done:
    return status;
}

static sara_status sd3_measure(sara_context *ctx, int64_t *length, const sara_model *model,
                               const sara_prompt *prompt, const sara_text_source *source)
{
    sara_status status;
    TRY(sara_clip_measure(ctx, length, model, sd3_texts, TEXTS, prompt, source));
    *length += sara_text_sequence(source); /* T5's, of which there are zeros without it */
done:
    return status;
}

/* rows [count][width], T5's states of the text, padding included */
static sara_status encode_t5(sara_context *ctx, float *rows, const sara_model *model,
                             const sara_prompt *prompt, const sara_text_source *source)
{
    const sara_model_part *part = &model->parts[TEXT_3];
    const size_t count = (size_t)sara_text_sequence(source);
    sara_tape *tape = NULL;
    int32_t *ids = NULL;
    char *text = NULL;
    const float *values;
    sara_var *states;
    sara_status status;
    TRY(sara_alloc(ctx, &ids, count, sizeof(*ids)));
    TRY(sara_prompt_t5_text(ctx, &text, prompt));
    TRY(sara_tokenizer_pad_to(part->tokenizer, ids, count, NULL, text));
    TRY(sara_tape_new(ctx, &tape, model->device));
    TRY(sara_t5_forward(tape, &states, part->network, ids, 1, (int64_t)count));
    TRY(sara_tape_read(tape, &values, states));
    memcpy(rows, values, (size_t)sara_shape_count(&states->shape) * sizeof(*rows));
done:
    sara_tape_free(tape);
    sara_free(ctx, text);
    sara_free(ctx, ids);
    return status;
}

static sara_status sd3_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                              const sara_prompt *prompt, const sara_text_source *source)
{
    const int64_t width = model->denoiser->info.denoiser.widths[SARA_CONDITION_STATES];
    sara_text_states clip = {.states = NULL};
    int64_t narrow = 0;
    sara_status status;
    for (int i = 0; i < TEXTS; i++)
        narrow += model->parts[sd3_texts[i].part].network->info.text.hidden_size;
    TRY(sara_clip_encode(ctx, &clip, model, sd3_texts, TEXTS, prompt, source));
    out->length = clip.length + sara_text_sequence(source);
    out->warned = clip.warned;
    TRY(sara_alloc_zero(ctx, &out->states, (size_t)out->length, (size_t)width * sizeof(float)));
    for (int64_t i = 0; i < clip.length; i++)
        memcpy(out->states + i * width, clip.states + i * narrow,
               (size_t)narrow * sizeof(*clip.states));
    if (family_has_t5(model))
        TRY(encode_t5(ctx, out->states + clip.length * width, model, prompt, source));
    out->pooled = clip.pooled;
    clip.pooled = NULL;
done:
    sara_text_states_free(ctx, &clip);
    return status;
}

/* ---------------------------------------------------------------------------------- the records */

#define SD3_COMMON                                                                                 \
    .pipeline = "StableDiffusion3Pipeline", .parts = sd3_parts, .scheduler = sd3_scheduler,        \
    .is_file = sd3_is_file, .unsupported = sd3_unsupported, .tell = sd3_tell, .guess = sd3_guess,  \
    .check_texts = sd3_check_texts, .measure = sd3_measure, .encode = sd3_encode,                  \
    .objective = sara_flow_objective_new, .draw_timestep = sara_flow_draw_timestep,                \
    .sample_size = 128, .guidance_scale = 7.0, .target = "transformer", .lora_of_diffusers = true
#define WITHOUT_T5                                                                                 \
    .part_count = TEXT_3, .is_index = is_sd3_index_without,                                        \
    .index = "{\"feature_extractor\": [null, null], \"image_encoder\": [null, null], "             \
             "\"text_encoder_3\": [null, null], \"tokenizer_3\": [null, null]}"
#define WITH_T5                                                                                    \
    .part_count = PARTS, .is_index = is_sd3_index,                                                 \
    .index = "{\"feature_extractor\": [null, null], \"image_encoder\": [null, null]}"

#define SD3_MEDIUM                                                                                 \
    SD3_COMMON, .name = "SD3", .product = "Stable Diffusion 3", .is_denoiser = sd3_is_denoiser,    \
                .architecture = {"stable-diffusion-v3-medium", "stable-diffusion-v3-medium"},      \
                .kohya = {"sd3-3-medium", "sd3-3-medium"}
#define SD35_MEDIUM                                                                                \
    SD3_COMMON, .name = "SD3.5", .product = "Stable Diffusion 3.5",                                \
                .is_denoiser = sd35_medium_is_denoiser,                                            \
                .architecture = {"stable-diffusion-v3.5-medium", "stable-diffusion-v3.5-medium"},  \
                .kohya = {"sd3-3-5-medium", "sd3-3-5-medium"}
#define SD35_LARGE                                                                                 \
    SD3_COMMON, .name = "SD3.5", .product = "Stable Diffusion 3.5",                                \
                .is_denoiser = sd35_large_is_denoiser,                                             \
                .architecture = {"stable-diffusion-v3.5-large", "stable-diffusion-v3.5-large"},    \
                .kohya = {"sd3-3-5-large", "sd3-3-5-large"}

const sara_family sara_family_sd3_without = {SD3_MEDIUM, WITHOUT_T5,
                                             .without = &sara_family_sd3_without};
const sara_family sara_family_sd35_medium_without = {SD35_MEDIUM, WITHOUT_T5,
                                                     .without = &sara_family_sd35_medium_without};
const sara_family sara_family_sd35_large_without = {SD35_LARGE, WITHOUT_T5,
                                                    .without = &sara_family_sd35_large_without};
const sara_family sara_family_sd3 = {SD3_MEDIUM, WITH_T5, .without = &sara_family_sd3_without};
const sara_family sara_family_sd35_medium = {SD35_MEDIUM, WITH_T5,
                                             .without = &sara_family_sd35_medium_without};
const sara_family sara_family_sd35_large = {SD35_LARGE, WITH_T5,
                                            .without = &sara_family_sd35_large_without};
