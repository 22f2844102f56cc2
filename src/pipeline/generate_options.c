/* Options of a generation: their defaults, what is wrong with them, the sampler they lead to. */
#include "pipeline/pipeline.h"

#include "pipeline/save.h"

#include <math.h>
#include <stdio.h>

static const sara_options_type generate_options_type =
    SARA_OPTIONS_TYPE(sara_generate_options, long_prompt);
static const sara_generate_options generate_defaults = {
    .steps = 20, .guidance_scale = SARA_OF_MODEL, .seed = 42, .batch_count = 1};

void sara_generate_options_init_sized(sara_generate_options *options, size_t size)
{
    sara_options_init(options, size, &generate_defaults, &generate_options_type);
}

sara_status sara_generate_options_read(sara_context *ctx, sara_generate_options *out,
                                       const sara_generate_options *given)
{
    *out = generate_defaults;
    return sara_options_read(ctx, out, &generate_options_type, given);
}

sara_status sara_generate_options_settle(sara_context *ctx, sara_generate_options *out,
                                         const sara_generate_options *given,
                                         const sara_model *model)
{
    sara_status status = sara_generate_options_read(ctx, out, given);
    if (status == SARA_OK && out->guidance_scale == SARA_OF_MODEL)
        out->guidance_scale = model->family->guidance_scale;
    return status;
}

static sara_status check_generation_prompts(sara_context *ctx, const sara_generate_options *options,
                                            bool tell)
{
    const char *negative = options->negative_prompt ? options->negative_prompt : "";
    sara_writer *writer = NULL;
    sara_prompts prompts;
    if (!options->prompt)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no prompt given");
    if (!sara_text_is_utf8(options->prompt, strlen(options->prompt)) ||
        !sara_text_is_utf8(negative, strlen(negative)))
        return sara_fail(ctx, SARA_ERROR_USAGE, "prompt %s%s%s: is no valid UTF-8", options->prompt,
                         *negative ? ", negative prompt " : "", negative);
    sara_status status = sara_prompts_read(ctx, &prompts, options);
    if (status == SARA_OK && tell)
        status = sara_prompts_check_embeddings(ctx, &prompts, options);
    if (status == SARA_OK && tell)
        sara_prompts_tell(ctx, &prompts, options->long_prompt);
    sara_prompts_free(ctx, &prompts);
    if (status == SARA_OK && options->save_latents) {
        status = sara_writer_open(ctx, &writer, options->save_latents);
        sara_writer_abort(&writer);
    }
    return status;
}

sara_status sara_generate_check(sara_context *ctx, const sara_generate_options *given)
{
    sara_generate_options options;
    sara_status status;
    TRY(sara_generate_options_read(ctx, &options, given));
    TRY(check_generation_prompts(ctx, &options, true));
done:
    return status;
}

/* What is read is not written to; init_latents may be, which are in memory by then. */
static sara_status check_save_latents(sara_context *ctx, const sara_model *model,
                                      const sara_generate_options *options)
{
    const char *const inputs[] = {model->path, model->vae_path};
    bool inside;
    sara_status status = SARA_OK;
    for (size_t i = 0; options->save_latents && i < sizeof(inputs) / sizeof(*inputs); i++) {
        if (!inputs[i])
            continue;
        TRY(sara_path_is_within(ctx, &inside, options->save_latents, inputs[i]));
        if (inside)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "save_latents %s: is within the model %s; name a file elsewhere",
                             options->save_latents, inputs[i]);
    }
done:
    return status;
}

/* ------------------------------------------------------------------- what the denoiser is told */

typedef struct told_sizes {
    const char *names[3];
    const int *pairs[3]; /* original size, crop, target size */
} told_sizes;

static void sizes_told(told_sizes out[2], const sara_generate_options *o)
{
    out[0] = (told_sizes){
        {"negative_original_size", "negative_crops_coords_top_left", "negative_target_size"},
        {o->negative_original_size, o->negative_crops_coords_top_left, o->negative_target_size}};
    out[1] = (told_sizes){{"original_size", "crops_coords_top_left", "target_size"},
                          {o->original_size, o->crops_coords_top_left, o->target_size}};
}

static bool is_pair_given(const int *pair)
{
    return pair[0] != 0 || pair[1] != 0;
}

static bool is_any_given(const told_sizes *told)
{
    return is_pair_given(told->pairs[0]) || is_pair_given(told->pairs[1]) ||
           is_pair_given(told->pairs[2]);
}

void sara_generate_time_ids(float out[2][SARA_TIME_IDS], const sara_generate_options *options,
                            bool guided, int height, int width)
{
    const int own[3][2] = {{height, width}, {0, 0}, {height, width}};
    told_sizes told[2];
    sizes_told(told, options);
    for (int i = 0; i < 2; i++) {
        const told_sizes *t = i == 0 && guided && is_any_given(&told[0]) ? &told[0] : &told[1];
        for (int k = 0; k < 3; k++)
            for (int axis = 0; axis < 2; axis++)
                out[i][2 * k + axis] =
                    (float)(is_pair_given(t->pairs[k]) ? t->pairs[k] : own[k])[axis];
    }
}

static sara_status check_told_sizes(sara_context *ctx, const sara_model *model,
                                    const sara_generate_options *options)
{
    const bool taken = model->denoiser->info.denoiser.widths[SARA_CONDITION_TIME_IDS] > 0;
    told_sizes told[2];
    sizes_told(told, options);
    for (int i = 0; i < 6; i++) {
        const int *pair = told[i / 3].pairs[i % 3], least = i % 3 == 1 ? 0 : 1;
        const char *name = told[i / 3].names[i % 3];
        if (is_pair_given(pair) && !taken)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "%s %d,%d: the %s is told no sizes; leave it out (SDXL's is)", name,
                             pair[0], pair[1], model->family->parts[0].class->title);
        if (is_pair_given(pair) && (pair[0] < least || pair[1] < least))
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s %d,%d: expected two numbers, at least %d",
                             name, pair[0], pair[1], least);
    }
    return SARA_OK;
}

/* --------------------------------------------------------------------------------- all of them */

static sara_status check_sequence(sara_context *ctx, const sara_model *model,
                                  const sara_generate_options *options)
{
    const int length = options->max_sequence_length;
    if (length < 0 || length > SARA_MOST_SEQUENCE)
        return sara_fail(ctx, SARA_ERROR_USAGE, "max_sequence_length %d: expected 1 to %d", length,
                         SARA_MOST_SEQUENCE);
    if (length && !model->family->without)
        return sara_fail(
            ctx, SARA_ERROR_USAGE,
            "max_sequence_length %d: %s has no T5 text encoder; that goes with SD3 and "
            "SD3.5",
            length, model->path);
    return SARA_OK;
}

sara_status sara_generate_options_check(sara_context *ctx, const sara_model *model,
                                        const sara_generate_options *options)
{
    sara_status status;
    if (!model->vae)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: a bare %s/ folder cannot generate; a whole model folder is needed",
                         model->path, model->family->parts[0].folder);
    TRY(check_generation_prompts(ctx, options, false));
    if (options->steps < 1 || options->steps > model->scheduler.num_train_timesteps)
        return sara_fail(ctx, SARA_ERROR_USAGE, "steps %d: expected 1 to %d", options->steps,
                         model->scheduler.num_train_timesteps);
    if (options->batch_count < 1)
        return sara_fail(ctx, SARA_ERROR_USAGE, "batch_count %d: expected at least 1",
                         options->batch_count);
    TRY(check_sequence(ctx, model, options));
    TRY(check_save_latents(ctx, model, options));
    TRY(check_told_sizes(ctx, model, options));
    if (!isfinite(options->guidance_scale) || options->guidance_scale < 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "guidance_scale %g: expected a finite number, at least 0",
                         options->guidance_scale);
done:
    return status;
}

bool sara_generate_is_guided(const sara_generate_options *options)
{
    return options->guidance_scale > 1.0;
}

/* What the model's own class lacks, and the way around it. */
static sara_status check_own_sampler(sara_context *ctx, const sara_model *model)
{
    const char *const *methods = sara_sampling_methods();
    char *reason = NULL, list[512];
    size_t used = 0;
    sara_status status = sara_scheduler_config_check_sampling(ctx, &model->scheduler, model->path);
    if (status != SARA_ERROR_INPUT || sara_scheduler_is_flow(&model->scheduler))
        return status;
    for (int i = 0; methods[i] && used < sizeof(list); i++)
        if (!sara_text_ends_with(methods[i], "Scheduler") &&
            !sara_sampling_method_is_of_flows(methods[i]))
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
                                     methods[i]);
    TRY(sara_format(ctx, &reason, "%s", sara_context_error(ctx)));
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s; --sampling-method NAME picks another: %s",
                       reason, list);
done:
    sara_free(ctx, reason);
    return status;
}

sara_status sara_generate_scheduler(sara_context *ctx, sara_scheduler_config *out,
                                    const sara_model *model, const sara_generate_options *options)
{
    sara_status status = SARA_OK;
    *out = model->scheduler;
    if (options->sampling_method)
        TRY(sara_scheduler_config_switch(ctx, out, options->sampling_method));
    else
        TRY(check_own_sampler(ctx, model));
    if (!options->karras)
        return SARA_OK;
    if (sara_scheduler_is_flow(out) ||
        (out->kind != SARA_SAMPLER_EULER && out->kind != SARA_SAMPLER_DPMPP_2M))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "sampling method %s%s has no Karras sigmas; euler and dpm++2m have",
                         sara_sampler_kind_name(out->kind),
                         sara_scheduler_is_flow(out) ? " of a flow" : "");
    out->use_karras_sigmas = true;
done:
    return status;
}
