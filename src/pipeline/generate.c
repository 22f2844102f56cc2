/* Text to image: classifier-free guidance around a sampler (Ho & Salimans 2022). */
#include "pipeline/pipeline.h"

#include "core/trace.h"
#include "models/vae.h"
#include "nn/nn.h"

#include <math.h>
#include <stdio.h>

typedef struct generation {
    sara_context *ctx;
    sara_model *model;
    const sara_generate_options *options;
    sara_prompts prompts;
    sara_scheduler_config scheduler;
    bool guided;
    int count;                             /* images */
    int64_t channels, height, width, size; /* of a latent; size in floats */
    sara_prompt_states states;
    float time_ids[2][SARA_TIME_IDS]; /* as the states: [0] without the prompt if it is guided */
    float *latents;                /* [count][channels][height][width] */
    float *input, *output, *noise; /* [1 or 2][size], [1 or 2][size], [size] */
    sara_tape *tape;
    double started;
} generation;

static sara_status read_start(generation *g)
{
    const char *path = g->options->init_latents;
    sara_safetensors *file = NULL;
    sara_tensor tensor = {0};
    sara_shape any = sara_shape4(-1, g->channels, -1, -1);
    sara_status status;
    TRY(sara_safetensors_open(g->ctx, &file, path));
    TRY(sara_safetensors_load(file, &tensor, "latents", SARA_F32, &any));
    const int64_t *dims = tensor.shape.dims;
    int factor = g->model->vae->info.vae.factor;
    if (dims[0] < 1 || dims[0] > SARA_MAX_START_LATENTS || dims[2] > 16384 || dims[3] > 16384) {
        sara_shape_text text;
        status = sara_fail(g->ctx, SARA_ERROR_INPUT, "%s: latents: shape %s is empty or too large",
                           path, sara_shape_format(&text, &tensor.shape));
        goto done;
    }
    TRY(sara_model_check_size(g->ctx, g->model, (int)dims[3] * factor, (int)dims[2] * factor,
                              path));
    if ((g->options->width && g->options->width != dims[3] * factor) ||
        (g->options->height && g->options->height != dims[2] * factor)) {
        status =
            sara_fail(g->ctx, SARA_ERROR_USAGE, "%s: latents are for %lldx%lld, asked for %dx%d",
                      path, (long long)dims[3] * factor, (long long)dims[2] * factor,
                      g->options->width, g->options->height);
        goto done;
    }
    if (g->options->batch_count != 1 && g->options->batch_count != dims[0]) {
        status = sara_fail(g->ctx, SARA_ERROR_USAGE, "%s: holds %lld latents, batch_count is %d",
                           path, (long long)dims[0], g->options->batch_count);
        goto done;
    }
    g->count = (int)dims[0];
    g->height = dims[2];
    g->width = dims[3];
    g->size = g->channels * g->height * g->width;
    g->latents = tensor.data;
    tensor.data = NULL;
done:
    sara_tensor_free(g->ctx, &tensor);
    sara_safetensors_close(file);
    return status;
}

static sara_status draw_start(generation *g)
{
    int factor = g->model->vae->info.vae.factor;
    const sara_denoiser_info *info = &g->model->denoiser->info.denoiser;
    int width = g->options->width ? g->options->width : info->sample_width * factor;
    int height = g->options->height ? g->options->height : info->sample_height * factor;
    sara_status status;
    if (!g->options->width || !g->options->height)
        TRY(sara_model_check_sample_size(g->ctx, g->model, "width and height"));
    TRY(sara_model_check_size(g->ctx, g->model, width, height, "size"));
    g->count = g->options->batch_count;
    g->height = height / factor;
    g->width = width / factor;
    g->size = g->channels * g->height * g->width;
    TRY(sara_alloc(g->ctx, &g->latents, (size_t)g->count, (size_t)g->size * sizeof(float)));
    for (int i = 0; i < g->count; i++)
        sara_draw_normal(g->latents + i * g->size, (size_t)g->size, g->options->seed + (uint64_t)i,
                         SARA_DRAW_LATENT, 0);
done:
    return status;
}

/* The scheduler, and sizes with the start noise. */
static sara_status choose_generation(generation *g)
{
    sara_status status;
    g->guided = sara_generate_is_guided(g->options);
    g->channels = g->model->denoiser->info.denoiser.in_channels;
    TRY(sara_generate_scheduler(g->ctx, &g->scheduler, g->model, g->options));
    if (g->options->init_latents)
        TRY(read_start(g));
    else
        TRY(draw_start(g));
    sara_generate_time_ids(g->time_ids, g->options, g->guided,
                           (int)g->height * g->model->vae->info.vae.factor,
                           (int)g->width * g->model->vae->info.vae.factor);
done:
    return status;
}

static sara_status prepare(generation *g)
{
    size_t copies;
    sara_status status;
    TRY(choose_generation(g));
    copies = g->guided ? 2 : 1;
    const sara_text_source source = {.long_prompt = g->options->long_prompt,
                                     .sequence = g->options->max_sequence_length};
    TRY(sara_prompts_encode(g->ctx, &g->states, g->model, &g->prompts, g->guided, &source));
    if (g->options->release_parts)
        sara_model_give_back(g->model, SARA_STAGE_DENOISE);
    TRY(sara_model_need(g->model, SARA_STAGE_DENOISE));
    TRY(sara_alloc(g->ctx, &g->input, copies * (size_t)g->size, sizeof(float)));
    TRY(sara_alloc(g->ctx, &g->output, copies * (size_t)g->size, sizeof(float)));
    TRY(sara_alloc(g->ctx, &g->noise, (size_t)g->size, sizeof(float)));
    TRY(sara_tape_new(g->ctx, &g->tape, g->model->device));
    g->started = sara_clock();
done:
    return status;
}

/* output of the copies from `first` on = their predictions for input[0 .. copies * size]. */
static sara_status forward(generation *g, int64_t first, int64_t copies, double timestep)
{
    double timesteps[2] = {timestep, timestep};
    const sara_prompt_states *s = &g->states;
    const sara_tensor sample = {SARA_F32, sara_shape4(copies, g->channels, g->height, g->width),
                                g->input};
    sara_tensor condition[SARA_CONDITION_KINDS] = {
        [SARA_CONDITION_STATES] = {SARA_F32, sara_shape3(copies, s->lengths[first], s->width),
                                   s->data + (first > 0 ? s->lengths[0] * s->width : 0)}};
    const float *values;
    sara_var *out;
    sara_status status;
    if (s->pooled)
        condition[SARA_CONDITION_POOLED] = (sara_tensor){
            SARA_F32, sara_shape2(copies, s->pooled_width), s->pooled + first * s->pooled_width};
    if (g->model->denoiser->info.denoiser.widths[SARA_CONDITION_TIME_IDS])
        condition[SARA_CONDITION_TIME_IDS] =
            (sara_tensor){SARA_F32, sara_shape2(copies, SARA_TIME_IDS), g->time_ids[first]};
    TRY(sara_denoiser_predict(g->tape, &out, g->model->denoiser, &sample, timesteps, condition));
    TRY(sara_tape_read(g->tape, &values, out));
    memcpy(g->output + first * g->size, values, (size_t)(copies * g->size) * sizeof(*values));
done:
    sara_tape_reset(g->tape);
    return status;
}

/* output [size] = the guided prediction for input[0 .. size]. Prompts of as many chunks go through
 * the denoiser together. */
static sara_status predict(generation *g, double timestep)
{
    bool together = g->guided && g->states.lengths[0] == g->states.lengths[1];
    float scale = (float)g->options->guidance_scale;
    sara_status status;
    if (together)
        memcpy(g->input + g->size, g->input, (size_t)g->size * sizeof(float));
    TRY(forward(g, 0, together ? 2 : 1, timestep));
    if (g->guided && !together)
        TRY(forward(g, 1, 1, timestep));
    for (int64_t i = 0; g->guided && i < g->size; i++) {
        float without = g->output[i], with = g->output[i + g->size];
        g->output[i] = without + scale * (with - without);
    }
done:
    return status;
}

static void generate_report(const generation *g, int image, int step, int steps)
{
    double done = (double)image * steps + step, total = (double)g->count * steps;
    double rate = done / (sara_clock() - g->started + 1e-9);
    sara_progress progress = {"generate",
                              (int64_t)done,
                              (int64_t)total,
                              NAN,
                              NAN,
                              rate,
                              rate > 0 ? (total - done) / rate : 0};
    sara_report_progress(g->ctx, &progress);
}

static sara_status check_sample(const generation *g, const float *sample, int image)
{
    for (int64_t i = 0; i < g->size; i++)
        if (!isfinite(sample[i]))
            return sara_fail(g->ctx, SARA_ERROR_INPUT,
                             "the sample of image %d is not finite; are the weights or an "
                             "adapter's strength sound?",
                             image);
    return SARA_OK;
}

static sara_status denoise(generation *g, int image)
{
    sara_sampler *sampler = NULL;
    float *sample = g->latents + image * g->size;
    sara_status status;
    TRY(sara_sampler_new(g->ctx, &sampler, &g->scheduler, g->options->steps));
    float sigma = (float)sara_sampler_init_noise_sigma(sampler);
    for (int64_t i = 0; i < g->size; i++)
        sample[i] *= sigma;
    int evaluations = sara_sampler_evaluations(sampler);
    for (int i = 0; i < evaluations; i++) {
        if (sara_interrupted(g->ctx)) {
            status = sara_fail(g->ctx, SARA_INTERRUPTED, "interrupted");
            goto done;
        }
        const float *noise = sara_sampler_needs_noise(sampler) ? g->noise : NULL;
        sara_sampler_scale_input(sampler, i, g->input, sample, (size_t)g->size);
        TRY(predict(g, sara_sampler_timestep(sampler, i)));
        if (noise)
            sara_draw_normal(g->noise, (size_t)g->size, g->options->seed + (uint64_t)image,
                             SARA_DRAW_SAMPLER, (uint64_t)i);
        TRY(sara_sampler_step(sampler, i, sample, g->output, noise, (size_t)g->size));
        generate_report(g, image, i + 1, evaluations);
    }
    TRY(check_sample(g, sample, image));
done:
    sara_sampler_free(sampler);
    return status;
}

/* Whether the decoder, with what its pass takes, has room beside the denoiser. */
static sara_status decoder_has_room(const generation *g, bool *out)
{
    const sara_model *model = g->model;
    const sara_shape shape = sara_shape4(1, g->channels, g->height, g->width);
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_var *leaf, *pixels;
    sara_status status;
    TRY(sara_nn_device_open_dry(g->ctx, &device, model->device));
    TRY(sara_tape_new(g->ctx, &tape, device));
    TRY(sara_tape_leaf(tape, &leaf, &shape, NULL, false));
    TRY(sara_vae_decode(tape, &pixels, model->vae, leaf));
    uint64_t needed = sara_tape_reached(tape) + sara_nn_device_kept(device);
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_model_part *part = &model->parts[i];
        bool there = part->network->there || part->network == model->vae;
        int copies = part->applied && sara_applied_count(part->applied) > 0 ? 2 : 1; /* at most */
        needed += there ? (uint64_t)sara_network_bytes(part->network) * copies : 0;
    }
    *out = needed <= sara_memory_limit(g->ctx);
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

/* The decoder takes the denoiser's place, where that is wanted or there is none beside it. */
static sara_status begin_decoding(generation *g)
{
    bool beside = false;
    sara_status status;
    if (!g->options->release_parts)
        TRY(decoder_has_room(g, &beside));
    if (!beside) {
        sara_tape_trim(g->tape);
        sara_model_give_back(g->model, SARA_STAGE_DECODE);
    }
    TRY(sara_model_need(g->model, SARA_STAGE_DECODE));
done:
    return status;
}

static sara_status generate_decode(generation *g, sara_image *out, int image)
{
    const sara_vae_info *info = &g->model->vae->info.vae;
    const float *latent = g->latents + image * g->size;
    sara_shape shape = sara_shape4(1, g->channels, g->height, g->width);
    const float *values;
    sara_var *leaf, *pixels;
    sara_status status;
    for (int64_t i = 0; i < g->size; i++)
        g->input[i] = (float)(latent[i] / info->scaling_factor + info->shift_factor);
    TRY(sara_tape_leaf(g->tape, &leaf, &shape, g->input, false));
    TRY(sara_vae_decode(g->tape, &pixels, g->model->vae, leaf));
    TRY(sara_tape_read(g->tape, &values, pixels));
    TRY(sara_floats_to_image(g->ctx, out, values, (int)g->width * info->factor,
                             (int)g->height * info->factor));
done:
    sara_tape_reset(g->tape);
    return status;
}

static sara_status save_latents(const generation *g)
{
    sara_tensor_source source = {
        "latents", SARA_F32, sara_shape4(g->count, g->channels, g->height, g->width), g->latents};
    return sara_safetensors_save(g->ctx, g->options->save_latents, &source, 1, NULL, 0);
}

static sara_status check_loras(const generation *g, sara_model *model)
{
    const sara_generate_options *options = g->options;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < g->prompts.count && !options->lora_ignore; i++)
        TRY(sara_model_check_adapter(g->ctx, model, g->prompts.loras[i].path,
                                     options->lora_force));
done:
    return status;
}

sara_status sara_generate_check_model(sara_context *ctx, sara_model *model,
                                      const sara_generate_options *given)
{
    sara_generate_options own, *options = &own;
    generation g = {.ctx = ctx, .model = model, .options = options};
    sara_sampler *sampler = NULL;
    sara_status status;
    TRY(sara_generate_options_settle(ctx, options, given, model));
    TRY(sara_generate_options_check(ctx, model, options));
    TRY(sara_prompts_read(ctx, &g.prompts, options));
    TRY(sara_prompts_embed(ctx, model, &g.prompts, options, true));
    TRY(check_loras(&g, model));
    TRY(choose_generation(&g));
    TRY(sara_sampler_new(ctx, &sampler, &g.scheduler, options->steps));
done:
    sara_sampler_free(sampler);
    sara_prompts_free(ctx, &g.prompts);
    sara_free(ctx, g.latents);
    return status;
}

sara_status sara_generate(sara_context *ctx, sara_image **images, int *count, sara_model *model,
                          const sara_generate_options *given)
{
    sara_generate_options own, *options = &own;
    generation g = {.ctx = ctx, .model = model, .options = options};
    size_t applied = model->adapter_count;
    sara_image *result = NULL;
    sara_status status;
    *images = NULL;
    *count = 0;
    TRY(sara_generate_options_settle(ctx, options, given, model));
    TRY(sara_generate_options_check(ctx, model, options));
    TRY(sara_prompts_read(ctx, &g.prompts, options));
    TRY(sara_prompts_embed(ctx, model, &g.prompts, options, false));
    TRY(sara_prompts_apply(ctx, model, &g.prompts, options, ~0U)); /* until the images are there */
    TRY(prepare(&g));
    sara_model_tell_clip(model, g.scheduler.kind);
    TRY(sara_alloc_zero(ctx, &result, (size_t)g.count, sizeof(*result)));
    TRY(sara_model_check_files(model, SARA_STAGE_DECODE));
    for (int i = 0; i < g.count; i++)
        TRY(denoise(&g, i));
    if (options->save_latents)
        TRY(save_latents(&g));
    TRY(begin_decoding(&g));
    for (int i = 0; i < g.count; i++)
        TRY(generate_decode(&g, &result[i], i));
    TRY(sara_model_truncate(model, applied));
    *images = result;
    *count = g.count;
    result = NULL;
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    sara_model_untag(model, status, applied);
    sara_prompts_free(ctx, &g.prompts);
    sara_images_free(ctx, result, g.count);
    sara_tape_free(g.tape);
    sara_free(ctx, g.states.data);
    sara_free(ctx, g.states.pooled);
    sara_free(ctx, g.latents);
    sara_free(ctx, g.input);
    sara_free(ctx, g.output);
    sara_free(ctx, g.noise);
    return status;
}
