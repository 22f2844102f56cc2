/* What drawing takes, in the plan of memory: a validation picture, and class images, which are
 * drawn before there is anything else. */
#include "models/vae.h"
#include "train/memory.h"

static sara_status draw_step(sara_tape *tape, const sara_model *model, const sara_batch *of,
                             const sara_shape *shape, int64_t length)
{
    const sara_tensor sample = {SARA_F32, *shape, NULL};
    sara_batch batch = sara_batch_shape_of(of, shape->dims[0]);
    sara_var *out;
    sara_status status;
    batch.condition[SARA_CONDITION_STATES].shape.dims[1] = length;
    TRY(sara_denoiser_predict(tape, &out, model->denoiser, &sample, NULL, batch.condition));
done:
    sara_tape_reset(tape);
    return status;
}

static sara_status draw_pixels(sara_tape *tape, const sara_model *model, sara_shape shape)
{
    sara_var *sample, *out;
    sara_status status;
    shape.dims[0] = 1;
    TRY(sara_tape_leaf(tape, &sample, &shape, NULL, false));
    TRY(sara_vae_decode(tape, &out, model->vae, sample));
done:
    sara_tape_reset(tape);
    return status;
}

static sara_status dry_tape(const sara_model *model, sara_device **device, sara_tape **tape)
{
    sara_status status;
    TRY(sara_nn_device_open_dry(model->ctx, device, model->device));
    TRY(sara_tape_new(model->ctx, tape, *device));
    sara_tape_in_pieces(*tape); /* as sara_generate() has it */
    sara_tape_record(*tape, false);
done:
    return status;
}

/* ------------------------------------------------------------------------ a validation picture */

/* The denoiser with and without the prompt, then the decoder. */
static sara_status plan_draw(const trainer *t, sara_tape *tape)
{
    const sara_batch *batch = &t->source->shapes[0];
    const int64_t length = batch->condition[SARA_CONDITION_STATES].shape.dims[1];
    const sara_denoiser_info *info = &t->model->denoiser->info.denoiser;
    sara_shape shape = sara_shape4(2, info->in_channels, info->sample_height, info->sample_width);
    sara_status status;
    if (!info->sample_width) {
        int width, height;
        sara_train_options_sides(&t->options, &width, &height);
        shape.dims[2] = height / t->model->vae->info.vae.factor;
        shape.dims[3] = width / t->model->vae->info.vae.factor;
    }
    TRY(draw_step(tape, t->model, batch, &shape, length));
    shape.dims[0] = 1;
    if (t->prompt_length > length) /* it goes through the denoiser alone */
        TRY(draw_step(tape, t->model, batch, &shape, t->prompt_length));
    TRY(draw_pixels(tape, t->model, shape));
done:
    return status;
}

sara_status sara_memory_pictures(const trainer *t, size_t *out)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_status status = SARA_OK;
    *out = 0;
    if (!t->options.validation_prompt_count || !t->model->vae)
        return SARA_OK;
    TRY(dry_tape(t->model, &device, &tape));
    TRY(plan_draw(t, tape));
    *out = sara_tape_reached(tape) + sara_nn_device_kept(device) +
           sara_memory_stage_bytes(t->model, SARA_STAGE_DECODE, sara_trainer_stages(t));
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

/* -------------------------------------------------------------------------------- class images */

/* In bytes, what their steps take. */
typedef struct class_plan {
    size_t denoise, decode, both; /* activations: of the denoiser, of the decoder, of one tape */
    size_t text, decoder;         /* values */
} class_plan;

static sara_status plan_class_image(const sara_model *model, class_plan *out,
                                    const sara_shape *shape, int64_t length)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const sara_batch batch = sara_batch_shape_for(info, *shape, length);
    sara_device *device = NULL;
    sara_tape *tape = NULL, *alone = NULL;
    sara_status status;
    TRY(dry_tape(model, &device, &tape));
    TRY(draw_step(tape, model, &batch, shape, length));
    out->denoise = sara_tape_reached(tape) + sara_nn_device_kept(device);
    TRY(draw_pixels(tape, model, *shape));
    out->both = sara_tape_reached(tape) + sara_nn_device_kept(device);
    TRY(sara_tape_new(model->ctx, &alone, device));
    sara_tape_in_pieces(alone);
    sara_tape_record(alone, false);
    TRY(draw_pixels(alone, model, *shape));
    out->decode = sara_tape_reached(alone) + sara_nn_device_kept(device);
    out->text = sara_memory_stage_bytes(model, SARA_STAGE_TEXT, 0);
    out->decoder = sara_memory_stage_bytes(model, SARA_STAGE_DECODE, 0);
done:
    sara_tape_free(alone);
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

static size_t more_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Of the process. The decoder takes the denoiser's place where there is none beside it, as
 * sara_generate() has it. */
static size_t class_peak(const sara_model *model, const class_plan *p, bool narrow, bool offload)
{
    const size_t weights = sara_memory_weights(model, narrow, offload);
    const bool beside = weights + p->decoder + p->decode <= sara_memory_limit(model->ctx);
    const size_t drawn = beside ? weights + p->decoder + p->both
                                : more_of(weights + p->denoise, p->decoder + p->decode);
    return SARA_MEMORY_BASE + more_of(drawn, p->text);
}

/* The flags with which class images fit that do not. */
static sara_status refuse_class_images(const sara_model *model, const class_plan *p, size_t need,
                                       const sara_train_options *o)
{
    const bool begins = !o->resume_from_checkpoint;
    const bool away = !o->disk_offload && sara_train_option_goes_with("disk_offload", o->method);
    const struct {
        bool may, narrow, offload;
        const char *flags;
    } rows[] = {{begins, true, false, "--weight_dtype bf16"},
                {away, false, true, "--disk_offload"},
                {begins && away, true, true, "--weight_dtype bf16 --disk_offload"}};
    const uint64_t limit = sara_memory_limit(model->ctx);
    sara_bytes_text needed, there, less;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const size_t peak = class_peak(model, p, rows[i].narrow, rows[i].offload);
        if (rows[i].may && peak < need && peak <= limit - limit / SARA_MEMORY_MARGIN)
            return sara_fail(model->ctx, SARA_ERROR_MEMORY,
                             "drawing class images needs %s of memory, %s are available; it fits "
                             "with %s (%s)",
                             sara_bytes_format(&needed, need), sara_bytes_format(&there, limit),
                             rows[i].flags, sara_bytes_format(&less, peak));
    }
    return sara_fail(model->ctx, SARA_ERROR_MEMORY,
                     "drawing class images needs %s of memory, %s are available; those that lie "
                     "in %s already are not drawn",
                     sara_bytes_format(&needed, need), sara_bytes_format(&there, limit),
                     o->class_data_dir);
}

sara_status sara_memory_class_images(sara_context *ctx, size_t *out, sara_model *model,
                                     const sara_generate_options *options,
                                     const sara_train_options *o)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const int factor = model->vae->info.vae.factor;
    const int64_t height = options->height ? options->height / factor : info->sample_height;
    const int64_t width = options->width ? options->width / factor : info->sample_width;
    const sara_shape shape = sara_shape4(2, info->in_channels, height, width);
    class_plan plan;
    sara_bytes_text text;
    int64_t length;
    sara_status status;
    TRY(sara_prompt_length(ctx, &length, model, options));
    TRY(plan_class_image(model, &plan, &shape, length));
    *out = class_peak(model, &plan, false, false);
    sara_log(ctx, SARA_LOG_INFO, "class images: peak %s of memory", sara_bytes_format(&text, *out));
    if (*out > sara_memory_limit(ctx))
        status = refuse_class_images(model, &plan, *out, o);
done:
    return status;
}
