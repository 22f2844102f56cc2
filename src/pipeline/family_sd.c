#include "pipeline/family_sd.h"

#include "models/clip.h"
#include "models/unet.h"
#include "models/vae.h"
#include "pipeline/pipeline.h"

/* Widths of the text states: of CLIP, of OpenCLIP. */
#define SD1_WIDTH 768
#define SD2_WIDTH 1024

#define SD2_HEAD 64 /* channels of a head */

enum { DENOISER, VAE, TEXT, PARTS };

/* -------------------------------------------------------------------------------------- parts */

const sara_single_place sara_sd_denoiser_places[] = {
    {"model.diffusion_model.", "", SARA_LDM_UNET, false},
    {"", "", SARA_LDM_UNET, false},
    {NULL, NULL, SARA_LDM_UNET, false},
};
/* LDM writes the names of averages without their dots. */
const sara_single_place sara_sd_denoiser_averages[] = {
    {"model_ema.diffusion_model.", "", SARA_LDM_UNET, false},
    {"model_ema.diffusion_model", "", SARA_LDM_UNET, true},
    {NULL, NULL, SARA_LDM_UNET, false},
};
const sara_single_place sara_sd_vae_places[] = {
    {"first_stage_model.", "", SARA_LDM_VAE, false},
    {"vae.", "", SARA_LDM_VAE, false},
    {NULL, NULL, SARA_LDM_VAE, false},
};
static const sara_single_place text_places[] = {
    {"cond_stage_model.transformer.", "text_model.", SARA_LDM_CLIP, false},
    {"cond_stage_model.transformer.", "", SARA_LDM_CLIP, false},
    {"cond_stage_model.model.", "", SARA_LDM_OPEN_CLIP, false},
    {NULL, NULL, SARA_LDM_CLIP, false},
};

#define SD_PARTS(second)                                                                           \
    {                                                                                              \
        [DENOISER] = {.folder = "unet",                                                            \
                      .class = &sara_unet_class,                                                   \
                      .stages = SARA_STAGE_DENOISE,                                                \
                      .places = sara_sd_denoiser_places,                                           \
                      .averages = sara_sd_denoiser_averages},                                      \
        [VAE] = {.folder = "vae",                                                                  \
                 .class = &sara_vae_class,                                                         \
                 .stages = SARA_STAGE_IMAGES | SARA_STAGE_DECODE,                                  \
                 .places = sara_sd_vae_places},                                                    \
        [TEXT] = {.folder = "text_encoder",                                                        \
                  .class = &sara_clip_text_class,                                                  \
                  .stages = SARA_STAGE_TEXT,                                                       \
                  .tokenizer = "tokenizer",                                                        \
                  .second_padding = (second),                                                      \
                  .places = text_places},                                                          \
    }
static const sara_family_part sd_parts[PARTS] = SD_PARTS(false), sd2_parts[PARTS] = SD_PARTS(true);

/* ---------------------------------------------------------------------------------- recognition */

static bool sd_is_index(const char *class_name, const json_t *index)
{
    return strncmp(class_name, "StableDiffusion", 15) == 0 && !strstr(class_name, "XL") &&
           !json_object_get(index, "text_encoder_2") && !json_object_get(index, "transformer");
}

/* What is wrong with other files is told as if they were to be these, but for transformers. */
static bool sd_is_file(const sara_single_file *single)
{
    return !sara_family_file_has(single, "joint_blocks.");
}

/* A list has a number for each level. */
static json_int_t width_of(const json_t *config)
{
    const json_t *width = json_object_get(config, "cross_attention_dim");
    size_t levels = json_array_size(width);
    return json_integer_value(levels ? json_array_get(width, levels - 1) : width);
}

/* It takes a text's states alone, not what SDXL adds to the timesteps. */
static bool sd_is_denoiser(const json_t *config)
{
    const json_t *addition = json_object_get(config, "addition_embed_type");
    return !addition || json_is_null(addition);
}

static bool sd1_is_denoiser(const json_t *config)
{
    return width_of(config) == SD1_WIDTH && sd_is_denoiser(config);
}

static bool sd2_is_denoiser(const json_t *config)
{
    return width_of(config) == SD2_WIDTH && sd_is_denoiser(config);
}

/* ------------------------------------------------------------- what single files do not tell */

static sara_status tell(const sara_single_file *single, const sara_single_part *part,
                        const char *key, json_t *value)
{
    return json_object_set_new(part->config, key, value) == 0
               ? SARA_OK
               : sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                           single->path);
}

static sara_status tell_vae(const sara_single_file *single, const sara_single_part *part)
{
    sara_status status;
    TRY(tell(single, part, "sample_size", json_integer(512)));
    TRY(tell(single, part, "scaling_factor", json_real(0.18215)));
done:
    return status;
}

/* At least as many layers as are in use of the published encoder of these widths, so that the last
 * are missed where they are missing; of others the file alone tells. */
static sara_status tell_layers(const sara_single_file *single, const sara_single_part *part)
{
    static const struct {
        json_int_t hidden, inner, layers;
    } published[] = {{SD1_WIDTH, 3072, 12}, {SD2_WIDTH, 4096, 23}};
    json_int_t hidden = json_integer_value(json_object_get(part->config, "hidden_size"));
    json_int_t inner = json_integer_value(json_object_get(part->config, "intermediate_size"));
    json_int_t layers = json_integer_value(json_object_get(part->config, "num_hidden_layers"));
    for (size_t i = 0; i < sizeof(published) / sizeof(*published); i++)
        if (published[i].hidden == hidden && published[i].inner == inner)
            return layers >= published[i].layers
                       ? SARA_OK
                       : tell(single, part, "num_hidden_layers", json_integer(published[i].layers));
    sara_log(single->ctx, SARA_LOG_INFO,
             "%s: text encoder of %lld layers, as many as the file holds (no published one has its "
             "widths, %lld and %lld)",
             single->path, (long long)layers, (long long)hidden, (long long)inner);
    return SARA_OK;
}

/* OpenCLIP's may be under either names. */
static sara_status tell_text(const sara_single_file *single, const sara_single_part *part)
{
    json_int_t hidden = json_integer_value(json_object_get(part->config, "hidden_size"));
    bool second = part->shape.part == SARA_LDM_OPEN_CLIP || hidden == SD2_WIDTH;
    sara_status status;
    TRY(tell(single, part, "hidden_act", json_string(second ? "gelu" : "quick_gelu")));
    TRY(tell(single, part, "pad_token_id", json_integer(second ? 0 : 1)));
    TRY(tell_layers(single, part));
done:
    return status;
}

/* heads: of every level; 0: heads are so many channels wide */
static sara_status tell_denoiser(const sara_single_file *single, const sara_single_part *part,
                                 int heads)
{
    const json_t *channels = json_object_get(part->config, "block_out_channels");
    json_t *list = json_array();
    sara_status status;
    for (size_t i = 0; i < json_array_size(channels); i++) {
        json_int_t width = json_integer_value(json_array_get(channels, i));
        json_array_append_new(list, json_integer(heads ? heads : width / SD2_HEAD));
    }
    TRY(tell(single, part, "attention_head_dim", list));
    TRY(tell(single, part, "sample_size", json_integer(64)));
done:
    return status;
}

static sara_status sd1_tell(const sara_single_file *single, sara_single_part *part)
{
    return part->class == &sara_vae_class    ? tell_vae(single, part)
           : part->class == &sara_unet_class ? tell_denoiser(single, part, 8)
                                             : tell_text(single, part);
}

static sara_status sd2_tell(const sara_single_file *single, sara_single_part *part)
{
    return part->class == &sara_vae_class    ? tell_vae(single, part)
           : part->class == &sara_unet_class ? tell_denoiser(single, part, 0)
                                             : tell_text(single, part);
}

static sara_status sd_tell(const sara_single_file *single, sara_single_part *part)
{
    if (part->class != &sara_unet_class)
        return sd1_tell(single, part);
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: cross attention of width %lld, expected %d (SD1.x) or %d (SD2.x); the "
                     "number of heads is not in the file: --model_config DIR names a diffusers "
                     "folder that tells it",
                     single->path, (long long)width_of(part->config), SD1_WIDTH, SD2_WIDTH);
}

/* As in the published folders, sampled by DDIM. */
static const char scheduler[] =
    "{\"_class_name\": \"DDIMScheduler\", \"beta_start\": 0.00085, \"beta_end\": 0.012, "
    "\"beta_schedule\": \"scaled_linear\", \"num_train_timesteps\": 1000, "
    "\"prediction_type\": \"epsilon\", \"clip_sample\": false, \"set_alpha_to_one\": false, "
    "\"steps_offset\": 1, \"timestep_spacing\": \"leading\"}";

static sara_status sd1_guess(const sara_model *model, const char **prediction, const char **reason)
{
    (void)model;
    *prediction = "epsilon";
    *reason = "as SD1.x has it";
    return SARA_OK;
}

/* The mean of output - sample where the sample is 0.5 everywhere, timestep 999, and the text's
 * states are 0.5: a U-Net that predicts v at almost pure noise predicts about -x0, which lies well
 * below; one that predicts the noise returns about the sample. */
static sara_status test_forward(double *mean, const sara_model *model)
{
    sara_context *ctx = model->ctx;
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const double timestep = 999;
    sara_tensor sample = {.shape = sara_shape4(1, info->in_channels, info->factor, info->factor)};
    sara_tensor condition[SARA_CONDITION_KINDS] = {
        [SARA_CONDITION_STATES].shape = sara_shape3(1, 2, info->widths[SARA_CONDITION_STATES])};
    size_t count = (size_t)sara_shape_count(&sample.shape);
    size_t states = (size_t)sara_shape_count(&condition[SARA_CONDITION_STATES].shape);
    size_t most = count > states ? count : states;
    sara_tape *tape = NULL;
    float *halves = NULL;
    const float *values;
    sara_var *out;
    sara_status status;
    TRY(sara_tape_new(ctx, &tape, model->device));
    TRY(sara_alloc(ctx, &halves, most, sizeof(*halves)));
    for (size_t i = 0; i < most; i++)
        halves[i] = 0.5f;
    sample.data = condition[SARA_CONDITION_STATES].data = halves;
    sara_tape_record(tape, false);
    TRY(sara_denoiser_predict(tape, &out, model->denoiser, &sample, &timestep, condition));
    TRY(sara_tape_read(tape, &values, out));
    *mean = 0;
    for (size_t i = 0; i < count; i++)
        *mean += ((double)values[i] - 0.5) / (double)count;
done:
    sara_tape_free(tape);
    sara_free(ctx, halves);
    return status;
}

static sara_status sd2_guess(const sara_model *model, const char **prediction, const char **reason)
{
    double mean = 0;
    sara_status status;
    TRY(sara_model_need_part(model, 0));
    TRY(test_forward(&mean, model));
    *prediction = mean < -1 ? "v_prediction" : "epsilon";
    *reason = "by a test forward";
    sara_network_release(model->denoiser); /* all else comes before it */
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- texts */

static const sara_clip_use sd_texts[] = {{TEXT, 0, false}};

static sara_status sd_check_texts(const sara_model *model)
{
    return sara_clip_check(model, sd_texts, 1, false);
}

static sara_status sd_measure(sara_context *ctx, int64_t *length, const sara_model *model,
                              const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_measure(ctx, length, model, sd_texts, 1, prompt, source);
}

static sara_status sd_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                             const sara_prompt *prompt, const sara_text_source *source)
{
    return sara_clip_encode(ctx, out, model, sd_texts, 1, prompt, source);
}

/* ------------------------------------------------------------------------------------- training */

double sara_sd_draw_timestep(const sara_objective *objective, uint64_t seed, uint64_t element)
{
    return (double)sara_draw_below((uint64_t)objective->num_train_timesteps, seed,
                                   SARA_DRAW_TIMESTEP, element, 0);
}

#define SD_COMMON                                                                                  \
    .product = "Stable Diffusion", .pipeline = "StableDiffusionPipeline",                          \
    .index = "{\"feature_extractor\": [null, null], \"safety_checker\": [null, null], "            \
             "\"requires_safety_checker\": false}",                                                \
    .part_count = PARTS, .is_index = sd_is_index, .is_file = sd_is_file, .scheduler = scheduler,   \
    .check_texts = sd_check_texts, .correct_scheduler = sara_model_correct_scheduler,              \
    .correct_denoiser = sara_model_correct_denoiser, .measure = sd_measure, .encode = sd_encode,   \
    .objective = sara_objective_new, .draw_timestep = sara_sd_draw_timestep, .sample_size = 64,    \
    .guidance_scale = 7.0, .target = "unet"

const sara_family sara_family_sd1 = {
    SD_COMMON,
    .name = "SD1.x",
    .parts = sd_parts,
    .is_denoiser = sd1_is_denoiser,
    .tell = sd1_tell,
    .guess = sd1_guess,
    .architecture = {"stable-diffusion-v1", "stable-diffusion-v1"},
    .kohya = {"sd_v1", "sd_v1_v"},
};

const sara_family sara_family_sd2 = {
    SD_COMMON,
    .name = "SD2.x",
    .parts = sd2_parts,
    .is_denoiser = sd2_is_denoiser,
    .tell = sd2_tell,
    .guess = sd2_guess,
    .v_sample_size = 96, /* they draw 768 pixels */
    .architecture = {"stable-diffusion-v2-512", "stable-diffusion-v2-768-v"},
    .kohya = {"sd_v2", "sd_v2_v"},
    .kohya_v2 = true,
};

const sara_family sara_family_sd = {
    SD_COMMON,
    .parts = sd_parts,
    .is_denoiser = sd_is_denoiser,
    .tell = sd_tell,
    .guess = sd1_guess,
    .architecture = {"stable-diffusion", "stable-diffusion"},
    .kohya = {"sd_v1", "sd_v1_v"},
};
