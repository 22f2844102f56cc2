/* What diffusers' StableDiffusionPipeline makes right in the configs of the parts that it is put
 * together from. Scheduler and denoiser read alone obey their configs, and what is saved keeps the
 * files' own words. */
#include "pipeline/pipeline.h"

#include <stdio.h>
#include <stdlib.h>

#define STEPS_OFFSET       1
#define SAMPLE_SIZE        64
#define SOUND_SAMPLE_SIZES 9 /* diffusers 0.9 and later write the sample size that holds */

/* was: the value that counted so far */
static void tell_correction(const sara_model *model, const char *source, const char *key,
                            const char *was, const char *now)
{
    sara_log(model->ctx, SARA_LOG_INFO,
             "%s: %s %s: the config is outdated; %s is taken, as StableDiffusionPipeline does",
             source, key, was, now);
}

/* ----------------------------------------------------------------------------------- scheduler */

static bool can_clip(sara_sampler_kind kind)
{
    return kind == SARA_SAMPLER_DDIM || kind == SARA_SAMPLER_DDPM;
}

sara_status sara_model_correct_scheduler(sara_model *model, const char *source)
{
    sara_scheduler_config *config = &model->scheduler;
    bool states_clip = sara_scheduler_config_states(config, "clip_sample");
    char offset[80];
    sara_status status = SARA_OK;
    if (sara_scheduler_is_flow(config)) /* which has neither */
        return SARA_OK;
    TRY(sara_strdup(model->ctx, &model->scheduler_source, source));
    snprintf(offset, sizeof(offset), "%d%s", config->steps_offset,
             sara_scheduler_config_states(config, "steps_offset") ? "" : " (not stated)");
    if (config->steps_offset != STEPS_OFFSET)
        tell_correction(model, source, "steps_offset", offset, "1");
    if (config->clip_sample && (states_clip || can_clip(config->kind)))
        tell_correction(model, source, "clip_sample", states_clip ? "true" : "true (not stated)",
                        "false");
    model->clip_untold = !states_clip && !can_clip(config->kind);
    sara_scheduler_config_set_latent(config, STEPS_OFFSET);
done:
    return status;
}

void sara_model_tell_clip(sara_model *model, sara_sampler_kind kind)
{
    if (!model->clip_untold || !can_clip(kind))
        return;
    tell_correction(model, model->scheduler_source, "clip_sample", "true (not stated)", "false");
    model->clip_untold = false;
}

/* --------------------------------------------------------------------------------- sample size */

/* Whether the version is of an older release, by PEP 440: an epoch is newer, and what follows the
 * release does not count. *known: whether the text begins with a release. */
static bool is_outdated(const char *version, bool *known)
{
    const char *text = version + strspn(version, " \t\n\r\f\v");
    char *end;
    text += *text == 'v' || *text == 'V';
    *known = *text >= '0' && *text <= '9';
    unsigned long major = strtoul(text, &end, 10), minor = 0;
    if (*end == '!' && major > 0)
        return false;
    if (*end == '!')
        major = strtoul(end + 1, &end, 10);
    if (end[0] == '.' && end[1] >= '0' && end[1] <= '9')
        minor = strtoul(end + 1, NULL, 10);
    return *known && major == 0 && minor < SOUND_SAMPLE_SIZES;
}

void sara_model_correct_denoiser(sara_model *model, const sara_component *component)
{
    const json_t *size = json_object_get(component->config, "sample_size");
    const json_t *version = json_object_get(component->config, "_diffusers_version");
    const char *text = json_is_string(version) ? json_string_value(version) : "";
    char was[128];
    bool known;
    if (!json_is_integer(size) || json_integer_value(size) >= SAMPLE_SIZE || !version ||
        json_is_null(version))
        return;
    bool outdated = is_outdated(text, &known);
    int side = (int)json_integer_value(size);
    if (!known)
        sara_log(model->ctx, SARA_LOG_WARNING,
                 "%s: _diffusers_version \"%.40s\" is no version; sample_size %d is taken as it is",
                 component->source, text, side);
    snprintf(was, sizeof(was), "%d (_diffusers_version %.40s, before 0.9)", side, text);
    if (!outdated)
        return;
    tell_correction(model, component->source, "sample_size", was, "64");
    model->denoiser->info.denoiser.sample_height = SAMPLE_SIZE;
    model->denoiser->info.denoiser.sample_width = SAMPLE_SIZE;
}
