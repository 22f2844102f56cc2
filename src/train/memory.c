/* The plan of memory: what a run will need, known before its first step. */
#include "train/trainer.h"

/* The program, its libraries and what oneDNN compiles, for forward and for gradients. */
#define BASE_BYTES ((size_t)18 << 20)
#define GRADIENT_BYTES ((size_t)3 << 20)
/* What is available changes by a little from run to run: flags that would fit by less than such a
 * part of it are not recommended. */
#define MARGIN 50

/* What memory depends on and an option may change. */
typedef struct setting {
    int64_t size; /* of a micro-batch */
    int levels;   /* checkpointed */
    bool narrow;  /* 16-bit weights instead of float32 ones */
} setting;

/* In bytes. */
typedef struct plan {
    size_t weights, optimizer, activations, pictures, other, peak;
} plan;

static bool may_narrow(const sara_param *param)
{
    return param->value.shape.rank > 1 && param->value.dtype == SARA_F32;
}

static size_t weights_bytes(const sara_model *model, bool narrow)
{
    const sara_params *params = sara_unet_params(model->unet);
    int64_t bytes = sara_params_bytes(params);
    for (size_t i = 0; narrow && i < params->count; i++)
        if (may_narrow(&params->items[i]))
            bytes -= 2 * sara_shape_count(&params->items[i].value.shape);
    if (model->vae)
        bytes += sara_params_bytes(sara_vae_params(model->vae));
    if (model->text)
        bytes += sara_params_bytes(sara_clip_text_params(model->text));
    return (size_t)bytes;
}

/* 16-bit weights need masters of their own. */
static size_t optimizer_bytes(sara_optimizer *optimizer, bool narrow)
{
    size_t bytes = sara_optimizer_bytes(optimizer);
    for (size_t i = 0; narrow && i < sara_optimizer_count(optimizer); i++) {
        const sara_optimizer_item *item = sara_optimizer_at(optimizer, i);
        bytes += may_narrow(item->param) ? item->all_count * sizeof(float) : 0;
    }
    return bytes;
}

/* ---------------------------------------------------------------- passes without arithmetic */

static sara_status pass(const trainer *t, sara_tape *tape, int64_t size)
{
    const sara_batch *batch = sara_batches_shape(t->batches);
    const sara_shape shape = sara_shape4(size, batch->channels, batch->height, batch->width);
    const sara_shape state_shape = sara_shape3(size, batch->length, batch->hidden);
    sara_var *sample, *states, *prediction, *loss;
    sara_status status;
    sara_tape_record(tape, t->optimizer != NULL);
    TRY(sara_tape_leaf(tape, &sample, &shape, NULL, false));
    TRY(sara_tape_leaf(tape, &states, &state_shape, NULL, false));
    TRY(sara_unet_forward(tape, &prediction, t->model->unet, sample, NULL, states));
    TRY(sara_nn_mse_loss(tape, &loss, prediction, NULL));
    if (t->optimizer)
        TRY(sara_tape_backward(tape, loss, 1));
done:
    return status;
}

/* As if the weights were 16-bit, which a pass without arithmetic does not notice. *was: what they
 * are, for restore_dtypes(). */
static sara_status narrow_dtypes(const trainer *t, sara_dtype **was)
{
    sara_params *params = sara_unet_params(t->model->unet);
    sara_status status;
    TRY(sara_alloc(t->ctx, was, params->count, sizeof(**was)));
    for (size_t i = 0; i < params->count; i++) {
        sara_param *param = &params->items[i];
        (*was)[i] = param->value.dtype;
        param->value.dtype = may_narrow(param) ? SARA_BF16 : param->value.dtype;
    }
done:
    return status;
}

static void restore_dtypes(const trainer *t, sara_dtype *was)
{
    sara_params *params = sara_unet_params(t->model->unet);
    for (size_t i = 0; was && i < params->count; i++)
        params->items[i].value.dtype = was[i];
    sara_free(t->ctx, was);
}

static bool is_bf16(const trainer *t)
{
    return strcmp(sara_trainer_device(t)->name, "cpu-bf16") == 0;
}

/* *kept: what the device has for the steps that follow. */
static sara_status activations(const trainer *t, size_t *out, size_t *kept, const setting *s)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_dtype *was = NULL;
    sara_status status;
    TRY(sara_nn_device_open(t->ctx, &device, is_bf16(t) ? "dry-bf16" : "dry"));
    TRY(sara_tape_new(t->ctx, &tape, device));
    sara_unet_checkpointing(t->model->unet, s->levels);
    if (s->narrow)
        TRY(narrow_dtypes(t, &was));
    TRY(pass(t, tape, s->size));
    *out = sara_tape_reached(tape);
    *kept = sara_nn_device_kept(device);
done:
    restore_dtypes(t, was);
    sara_unet_checkpointing(t->model->unet, t->checkpoint_levels);
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

/* A validation picture: the U-Net with and without the prompt, then the decoder. */
static sara_status draw(const trainer *t, sara_tape *tape)
{
    const sara_batch *batch = sara_batches_shape(t->batches);
    const sara_unet_info *info = sara_unet_info_of(t->model->unet);
    sara_shape shape = sara_shape4(2, info->in_channels, info->sample_height, info->sample_width);
    const sara_shape state_shape = sara_shape3(2, batch->length, batch->hidden);
    sara_var *sample, *states, *out;
    sara_status status;
    sara_tape_record(tape, false);
    TRY(sara_tape_leaf(tape, &sample, &shape, NULL, false));
    TRY(sara_tape_leaf(tape, &states, &state_shape, NULL, false));
    TRY(sara_unet_forward(tape, &out, t->model->unet, sample, NULL, states));
    sara_tape_reset(tape);
    shape.dims[0] = 1;
    TRY(sara_tape_leaf(tape, &sample, &shape, NULL, false));
    TRY(sara_vae_decode(tape, &out, t->model->vae, sample));
done:
    return status;
}

/* While pictures are drawn, the memory of training's activations is given back. */
static sara_status pictures(const trainer *t, size_t *out)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_status status = SARA_OK;
    *out = 0;
    if (!t->options.validation_prompt_count || !t->model->vae)
        return SARA_OK;
    TRY(sara_nn_device_open(t->ctx, &device, "dry"));
    TRY(sara_tape_new(t->ctx, &tape, device));
    TRY(draw(t, tape));
    *out = sara_tape_reached(tape);
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

static sara_status make_plan(const trainer *t, plan *out, const setting *s)
{
    plan p = {.weights = weights_bytes(t->model, s->narrow),
              .other = BASE_BYTES + sara_batches_bytes(t->batches)};
    size_t kept = 0;
    sara_status status;
    if (t->optimizer) {
        p.optimizer = optimizer_bytes(t->optimizer, s->narrow);
        p.other += GRADIENT_BYTES + sara_optimizer_step_bytes(t->optimizer);
    }
    TRY(activations(t, &p.activations, &kept, s));
    p.other += kept;
    TRY(pictures(t, &p.pictures));
    p.peak = p.weights + p.optimizer + p.other;
    p.peak += p.activations > p.pictures ? p.activations : p.pictures;
    *out = p;
done:
    return status;
}

/* Moments and gradients are zeroed, which takes their memory, before a plan can be made. */
sara_status sara_trainer_check_selection(const trainer *t, const sara_selection *selection)
{
    uint64_t need = weights_bytes(t->model, false), limit = sara_memory_limit(t->ctx);
    bool wide = false;
    sara_bytes_text needed, there;
    for (size_t i = 0; i < selection->item_count; i++) {
        const sara_selected *item = &selection->items[i];
        bool masters = item->param->value.dtype != SARA_F32;
        need += item->count * (sizeof(uint32_t) + (masters ? 4 : 3) * sizeof(float));
        wide |= may_narrow(item->param);
    }
    if (need <= limit)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_MEMORY,
                     "training %lld entries needs more than %s of memory, %s are available; fewer "
                     "entries (--trainable)%s need less",
                     (long long)selection->total, sara_bytes_format(&needed, need),
                     sara_bytes_format(&there, limit), wide ? " or --weight_dtype bf16" : "");
}

/* ------------------------------------------------------------------------------ what would fit */

typedef struct advice {
    const trainer *t;
    setting now;
    char text[320]; /* " --flag N (size) or --flag N (size)" */
} advice;

/* Whether the run fits, and with what peak. */
static sara_status probe(const advice *a, bool *fits, size_t *peak, const setting *s)
{
    uint64_t limit = sara_memory_limit(a->t->ctx);
    plan p;
    sara_status status;
    TRY(make_plan(a->t, &p, s));
    *peak = p.peak;
    *fits = p.peak <= limit - limit / MARGIN;
done:
    return status;
}

/* Adds the flags that lead to s if the run fits with them; *fits: whether it does. */
static sara_status suggest(advice *a, bool *fits, const setting *s)
{
    int levels = sara_unet_info_of(a->t->model->unet)->levels;
    size_t used = strlen(a->text), room = sizeof(a->text), peak;
    sara_bytes_text bytes;
    sara_status status;
    TRY(probe(a, fits, &peak, s));
    if (!*fits)
        goto done;
    used += (size_t)snprintf(a->text + used, room - used, "%s", used ? " or" : "");
    if (s->narrow != a->now.narrow)
        used += (size_t)snprintf(a->text + used, room - used, " --weight_dtype bf16");
    if (s->levels == levels && s->levels != a->now.levels)
        used += (size_t)snprintf(a->text + used, room - used, " --gradient_checkpointing");
    else if (s->levels != a->now.levels)
        used += (size_t)snprintf(a->text + used, room - used, " --gradient_checkpointing_levels %d",
                                 s->levels);
    if (s->size != a->now.size)
        used += (size_t)snprintf(a->text + used, room - used, " --train_batch_size %d",
                                 (int)s->size);
    snprintf(a->text + used, room - used, " (%s)", sara_bytes_format(&bytes, peak));
done:
    return status;
}

/* A run that goes on keeps what decides its result. */
static bool is_resumed(const advice *a)
{
    return a->t->options.resume_from_checkpoint != NULL;
}

/* The largest batch below the setting's with which the run fits, by halving. The file of a replay
 * says itself how large it is. */
static sara_status suggest_size(advice *a, bool *fits, setting s)
{
    int64_t too_large = s.size;
    size_t peak;
    sara_status status = SARA_OK;
    *fits = false;
    if (is_resumed(a) || sara_batches_is_replay(a->t->batches))
        return SARA_OK;
    for (int64_t fitting = 0; too_large - fitting > 1;) {
        bool fit;
        s.size = fitting + (too_large - fitting) / 2;
        TRY(probe(a, &fit, &peak, &s));
        if (fit)
            fitting = s.size;
        else
            too_large = s.size;
    }
    s.size = too_large - 1;
    if (s.size > 0)
        TRY(suggest(a, fits, &s));
done:
    return status;
}

/* The flags of which each alone would make the run fit, as few levels and as large a batch as do;
 * if none does, all of them together. */
static sara_status suggest_flags(advice *a)
{
    int levels = sara_unet_info_of(a->t->model->unet)->levels;
    bool wide = !is_resumed(a) &&
                weights_bytes(a->t->model, true) != weights_bytes(a->t->model, false);
    bool fits = false;
    setting s = a->now;
    sara_status status = SARA_OK;
    while (!fits && ++s.levels <= levels)
        TRY(suggest(a, &fits, &s));
    s = a->now;
    s.narrow = wide;
    if (wide)
        TRY(suggest(a, &fits, &s));
    TRY(suggest_size(a, &fits, a->now));
    s.levels = levels;
    if (!*a->text)
        TRY(suggest(a, &fits, &s));
    if (!*a->text)
        TRY(suggest_size(a, &fits, s));
done:
    return status;
}

static sara_status refuse(const trainer *t, const setting *now, size_t need)
{
    advice a = {.t = t, .now = *now};
    uint64_t limit = sara_memory_limit(t->ctx);
    sara_bytes_text needed, there;
    sara_status status;
    TRY(suggest_flags(&a));
    status =
        sara_fail(t->ctx, SARA_ERROR_MEMORY, "training needs %s of memory, %s are available; %s%s",
                  sara_bytes_format(&needed, need), sara_bytes_format(&there, limit),
                  *a.text ? "it fits with" : "no flags make it fit", a.text);
done:
    return status;
}

static void announce(const trainer *t, const plan *p)
{
    sara_bytes_text texts[6];
    bool drawn = p->pictures > p->activations;
    sara_log(t->ctx, SARA_LOG_INFO,
             "memory: weights %s, optimizer %s, activations %s, other %s%s%s, peak %s",
             sara_bytes_format(&texts[0], p->weights), sara_bytes_format(&texts[1], p->optimizer),
             sara_bytes_format(&texts[2], p->activations), sara_bytes_format(&texts[3], p->other),
             drawn ? ", instead of activations for pictures " : "",
             drawn ? sara_bytes_format(&texts[4], p->pictures) : "",
             sara_bytes_format(&texts[5], p->peak));
}

sara_status sara_trainer_plan_memory(trainer *t)
{
    const setting now = {sara_batches_shape(t->batches)->size, t->checkpoint_levels, false};
    plan p;
    sara_status status;
    TRY(make_plan(t, &p, &now));
    t->activations = p.activations;
    t->planned_bytes = p.peak;
    announce(t, &p);
    if (p.peak > sara_memory_limit(t->ctx))
        return refuse(t, &now, p.peak);
done:
    return status;
}
