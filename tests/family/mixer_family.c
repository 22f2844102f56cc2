#include "mixer.h"

#include "models/clip.h"
#include "models/vae.h"
#include "pipeline/pipeline.h"

enum { DENOISER, VAE, TEXT, PARTS };

static const sara_family_part mixer_parts[PARTS] = {
    [DENOISER] = {.folder = "mixer", .class = &test_mixer_class, .stages = SARA_STAGE_DENOISE},
    [VAE] = {.folder = "vae",
             .class = &sara_vae_class,
             .stages = SARA_STAGE_IMAGES | SARA_STAGE_DECODE},
    [TEXT] = {.folder = "text_encoder",
              .class = &sara_clip_text_class,
              .stages = SARA_STAGE_TEXT,
              .tokenizer = "tokenizer"},
};

static bool mixer_is_index(const char *class_name, const json_t *index)
{
    (void)index;
    return strcmp(class_name, "TestMixerPipeline") == 0;
}

static bool mixer_is_denoiser(const json_t *config)
{
    const char *kind = json_string_value(json_object_get(config, "_class_name"));
    return kind && strcmp(kind, "TestMixer") == 0;
}

static sara_status mixer_check_texts(const sara_model *model)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    int hidden = model->parts[TEXT].network->info.text.hidden_size;
    if (hidden == info->widths[SARA_CONDITION_STATES] &&
        hidden == info->widths[SARA_CONDITION_POOLED])
        return SARA_OK;
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: text_encoder hidden_size %d, mixer %d and %d", model->path, hidden,
                     info->widths[SARA_CONDITION_STATES], info->widths[SARA_CONDITION_POOLED]);
}

static const sara_clip_use mixer_texts[] = {{TEXT, 0, true}};

static sara_status mixer_measure(sara_context *ctx, int64_t *length, const sara_model *model,
                                 const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_measure(ctx, length, model, mixer_texts, 1, prompt, source);
}

static sara_status mixer_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                                const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_encode(ctx, out, model, mixer_texts, 1, prompt, source);
}

const sara_family test_mixer_family = {
    .name = "Mixer",
    .product = "Mixer",
    .pipeline = "TestMixerPipeline",
    .parts = mixer_parts,
    .part_count = PARTS,
    .is_index = mixer_is_index,
    .is_denoiser = mixer_is_denoiser,
    .scheduler = "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}",
    .check_texts = mixer_check_texts,
    .measure = mixer_measure,
    .encode = mixer_encode,
    .objective = sara_flow_objective_new,
    .draw_timestep = sara_flow_draw_timestep,
    .sample_size = 16,
    .guidance_scale = 3.0,
    .target = "mixer",
    .architecture = {"test-mixer", "test-mixer"},
    .kohya = {"test_mixer", "test_mixer_v"},
};
