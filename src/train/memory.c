/* The plan of memory: what a run will need, known before its first step. */
#include "models/vae.h"
#include "train/memory.h"

#include <math.h>

/* What oneDNN compiles for gradients. */
#define GRADIENT_BYTES ((size_t)3 << 20)

static bool may_narrow(const sara_param *param)
{
    return param->value.shape.rank > 1 && param->value.dtype == SARA_F32;
}

size_t sara_memory_weights(const sara_model *model, bool narrow, bool offload)
{
    const sara_network *denoiser = model->denoiser;
    return (size_t)sara_network_bytes_as(denoiser, offload || denoiser->offloaded, narrow);
}

size_t sara_memory_stage_bytes(const sara_model *model, unsigned stage, unsigned others)
{
    int64_t bytes = 0;
    for (int i = 0; i < model->family->part_count; i++) {
        unsigned stages = model->family->parts[i].stages;
        if (model->parts[i].network && (stages & stage) && !(stages & others))
            bytes += sara_network_bytes(model->parts[i].network);
    }
    return (size_t)bytes;
}

bool sara_memory_narrow_helps(const trainer *t, int64_t trained)
{
    size_t saved =
        sara_memory_weights(t->model, false, false) - sara_memory_weights(t->model, true, false);
    return saved > (size_t)trained * sizeof(float);
}

/* Whether it is the denoiser's, not one of the method's own. */
static bool is_weight(const sara_model *model, const sara_param *param)
{
    return sara_params_find(&model->denoiser->params, param->name) == param;
}

/* Whether it would have masters of its own, and has none: of 16 bits, or away. */
static bool comes_to_masters(const trainer *t, const sara_param *param,
                             const sara_memory_setting *s)
{
    if (sara_param_has_masters(param) || !is_weight(t->model, param))
        return false;
    return (s->narrow && may_narrow(param)) ||
           (s->offload && sara_network_lends(t->model->denoiser, param));
}

static size_t optimizer_bytes(const trainer *t, const sara_memory_setting *s)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    size_t bytes = sara_trainables_bytes(trainables);
    bytes += t->method->bytes ? t->method->bytes(t) : 0;
    for (size_t i = 0; i < trainables->count; i++) {
        const sara_trainable *item = &trainables->items[i];
        bytes += comes_to_masters(t, item->param, s) ? item->count * sizeof(float) : 0;
    }
    return s->share < 1 ? (size_t)((double)bytes * s->share) : bytes;
}

/* ---------------------------------------------------------------- passes without arithmetic */

static sara_status pass(const trainer *t, sara_tape *tape, const sara_batch *of,
                        const sara_memory_setting *s)
{
    sara_batch batch = sara_batch_shape_of(of, s->size ? s->size : of->latents.shape.dims[0]);
    sara_shape *latents = &batch.latents.shape;
    sara_var *loss;
    sara_status status;
    if (s->side)
        latents->dims[latents->rank - 1] = latents->dims[latents->rank - 2] = s->side;
    sara_tape_record(tape, t->optimizer != NULL);
    TRY(sara_batch_loss(tape, &loss, t->model->denoiser, &t->objective, &batch));
    if (t->optimizer)
        TRY(sara_tape_backward(tape, loss, 1));
done:
    sara_tape_reset(tape);
    return status;
}

/* What a parameter is, for plan_restore(). */
typedef struct real {
    sara_dtype dtype;
    size_t selected;
    sara_grad_kind want;
    bool away;
} real;

static size_t share_of(const sara_param *param, double share)
{
    return (size_t)ceil((double)sara_shape_count(&param->value.shape) * share);
}

/* As if the weights were 16-bit and fewer entries selected, which a pass without arithmetic does
 * not notice. */
static sara_status pretend(const trainer *t, real **was, const sara_memory_setting *s)
{
    sara_params *params = &t->model->denoiser->params;
    sara_status status;
    TRY(sara_alloc(t->ctx, was, params->count, sizeof(**was)));
    for (size_t i = 0; i < params->count; i++) {
        sara_param *param = &params->items[i];
        (*was)[i] = (real){param->value.dtype, param->selected, param->want, param->away};
        if (s->dense)
            param->want = SARA_GRAD_DENSE;
        if (s->later > 0) {
            param->want = SARA_GRAD_SAMPLED;
            param->selected = share_of(param, s->later);
        }
        if (s->narrow && may_narrow(param))
            param->value.dtype = SARA_BF16;
        if (s->offload)
            param->away = sara_network_lends(t->model->denoiser, param);
        if (s->share < 1)
            param->selected = (size_t)ceil((double)param->selected * s->share);
    }
done:
    return status;
}

static void plan_restore(const trainer *t, real *was)
{
    sara_params *params = &t->model->denoiser->params;
    for (size_t i = 0; was && i < params->count; i++) {
        params->items[i].value.dtype = was[i].dtype;
        params->items[i].selected = was[i].selected;
        params->items[i].want = was[i].want;
        params->items[i].away = was[i].away;
    }
    sara_free(t->ctx, was);
}

/* *kept: what the device has for the steps that follow. */
static sara_status activations(const trainer *t, size_t *out, size_t *kept,
                               const sara_memory_setting *s)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    real *was = NULL;
    sara_status status;
    TRY(sara_nn_device_open_dry(t->ctx, &device, sara_trainer_device(t)));
    TRY(sara_tape_new(t->ctx, &tape, device));
    t->model->denoiser->checkpoint_levels = s->levels;
    TRY(pretend(t, &was, s));
    for (size_t i = 0; i < t->source->shape_count; i++)
        TRY(pass(t, tape, &t->source->shapes[i], s));
    *out = sara_tape_reached(tape);
    *kept = sara_nn_device_kept(device);
done:
    plan_restore(t, was);
    t->model->denoiser->checkpoint_levels = t->checkpoint_levels;
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

/* An image through the VAE's encoder: before the steps, or within each where crops are drawn. */
static sara_status encoder(const trainer *t, size_t *out, const sara_memory_setting *s)
{
    int width = t->source->width, height = t->source->height;
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_var *image, *mean, *logvar;
    sara_status status = SARA_OK;
    *out = 0;
    if (width == 0)
        return SARA_OK;
    if (s->side)
        width = height = (int)s->side * t->model->vae->info.vae.factor;
    const sara_shape shape = sara_shape4(1, 3, height, width);
    TRY(sara_nn_device_open_dry(t->ctx, &device, t->model->device));
    TRY(sara_tape_new(t->ctx, &tape, device));
    TRY(sara_tape_leaf(tape, &image, &shape, NULL, false));
    TRY(sara_vae_encode(tape, &mean, &logvar, t->model->vae, image));
    *out = sara_tape_reached(tape) + sara_nn_device_kept(device) +
           sara_memory_stage_bytes(t->model, SARA_STAGE_IMAGES, sara_trainer_stages(t));
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

/* Where a method's begin() makes passes: they, and the gradients. */
static sara_status beginning(const trainer *t, size_t *out, const sara_memory_setting *s)
{
    size_t bytes = t->optimizer && t->method->begin_bytes ? t->method->begin_bytes(t) : 0, kept;
    sara_memory_setting dense = *s;
    sara_status status = SARA_OK;
    *out = 0;
    if (bytes == 0)
        return SARA_OK;
    dense.dense = true;
    TRY(activations(t, out, &kept, &dense));
    *out += bytes;
done:
    return status;
}

/* Where a method's turn() comes to train others, as if of each parameter the same share. */
static sara_status turning(const trainer *t, size_t *out, const sara_memory_setting *s)
{
    const sara_params *params = &t->model->denoiser->params;
    int64_t entries = t->optimizer && t->method->turns_to ? t->method->turns_to(t) : 0;
    sara_memory_setting then = *s;
    size_t kept;
    sara_status status = SARA_OK;
    *out = 0;
    if (entries == 0)
        return SARA_OK;
    then.later = (double)entries / (double)sara_params_entries(params);
    TRY(activations(t, out, &kept, &then));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t masters = comes_to_masters(t, param, s) ? sizeof(float) : 0;
        *out += share_of(param, then.later) * (sara_trainable_entry_bytes(param, true) + masters);
    }
done:
    return status;
}

/* Of captions and prompts; what else a text takes is small. */
static size_t texts(const trainer *t)
{
    bool any = t->source->images || t->options.validation_prompt_count;
    return any ? sara_memory_stage_bytes(t->model, SARA_STAGE_TEXT, sara_trainer_stages(t)) : 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void sara_memory_find_peak(sara_memory_plan *p)
{
    const size_t steps = p->weights + p->optimizer;
    const struct {
        size_t bytes;
        const char *name;
    } stages[] = {{steps + p->activations, "in training"},
                  {p->optimizer + p->texts, "while texts are encoded"},
                  {p->optimizer + p->encoder, "while images are encoded"},
                  {steps + p->pictures, "while pictures are drawn"},
                  {p->begin ? p->weights + p->begin : 0, "while entries are chosen"},
                  {p->later ? p->weights + p->later : 0, "in the second phase"}};
    size_t most = 0;
    for (size_t i = 1; i < sizeof(stages) / sizeof(*stages); i++)
        if (stages[i].bytes > stages[most].bytes)
            most = i;
    p->stage = stages[most].name;
    p->peak = stages[most].bytes + p->other;
}

sara_status sara_memory_make_plan(const trainer *t, sara_memory_plan *out,
                                  const sara_memory_setting *s)
{
    unsigned stages = sara_trainer_stages(t);
    sara_memory_plan p = {.weights = sara_memory_weights(t->model, s->narrow, s->offload) +
                                     sara_memory_stage_bytes(t->model, stages, SARA_STAGE_DENOISE),
                          .other = SARA_MEMORY_BASE + t->source->bytes + sara_drift_bytes(t),
                          .texts = texts(t)};
    size_t kept = 0;
    sara_status status;
    if (t->optimizer) {
        p.optimizer = optimizer_bytes(t, s);
        p.other += GRADIENT_BYTES + (t->method->step_bytes ? t->method->step_bytes(t) : 0);
    }
    TRY(activations(t, &p.activations, &kept, s));
    p.other += kept;
    TRY(sara_memory_pictures(t, &p.pictures));
    TRY(encoder(t, &p.encoder, s));
    if (t->source->encodes_anew) {
        p.other += p.encoder;
        p.encoder = 0;
    }
    if (t->source->texts_anew) {
        p.other += p.texts;
        p.texts = 0;
    }
    TRY(beginning(t, &p.begin, s));
    TRY(turning(t, &p.later, s));
    sara_memory_find_peak(&p);
    *out = p;
done:
    return status;
}

/* What would need less of so many trained entries; "" if nothing would. */
static sara_status less_for_entries(const trainer *t, sara_buffer *text, int64_t entries)
{
    const bool begins = !t->options.resume_from_checkpoint;
    const size_t saved =
        sara_memory_weights(t->model, false, false) - sara_memory_weights(t->model, false, true);
    const bool away = t->flags.offload && saved > (size_t)entries * sizeof(float);
    const char *const names[] = {
        t->flags.entries && begins ? "fewer entries (--trainable)" : NULL,
        begins && sara_memory_narrow_helps(t, entries) ? "--weight_dtype bf16" : NULL,
        away ? "--disk_offload" : NULL};
    size_t count = 0, index = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < 3; i++)
        count += names[i] != NULL;
    for (size_t i = 0; i < 3; i++)
        if (names[i])
            TRY(sara_buffer_put_choice(text, names[i], index++, count));
done:
    return status;
}

sara_status sara_memory_check_trainables(const trainer *t, int64_t entries, uint64_t bytes)
{
    const uint64_t need = sara_memory_weights(t->model, false, false) + bytes;
    const uint64_t limit = sara_memory_limit(t->ctx);
    sara_buffer less = {.ctx = t->ctx};
    sara_bytes_text needed, there;
    sara_status status = SARA_OK;
    if (need <= limit)
        return SARA_OK;
    TRY(less_for_entries(t, &less, entries));
    status = sara_fail(t->ctx, SARA_ERROR_MEMORY,
                       "training %lld entries needs more than %s of memory, %s are available%s%s%s",
                       (long long)entries, sara_bytes_format(&needed, need),
                       sara_bytes_format(&there, limit), less.data ? "; " : "",
                       less.data ? less.data : "", less.data ? " need less" : "");
done:
    sara_buffer_free(&less);
    return status;
}

static void plan_announce(const trainer *t, const sara_memory_plan *p)
{
    sara_bytes_text texts[6], chosen;
    char choosing[96] = "";
    size_t encoding = larger(p->encoder, p->texts), steps = p->weights + p->activations;
    bool encodes = encoding > larger(steps, p->weights + p->pictures);
    bool draws = !encodes && p->pictures > p->activations;
    const char *instead = encodes ? ", instead of weights and activations for encoding "
                          : draws ? ", instead of activations for pictures "
                                  : "";
    if (p->begin)
        snprintf(choosing, sizeof(choosing),
                 ", instead of optimizer and activations for choosing entries %s",
                 sara_bytes_format(&chosen, p->begin));
    if (p->later)
        snprintf(choosing, sizeof(choosing),
                 ", instead of optimizer and activations in the second phase %s",
                 sara_bytes_format(&chosen, p->later));
    sara_log(t->ctx, SARA_LOG_INFO,
             "memory: weights %s, optimizer %s, activations %s, other %s%s%s%s, peak %s %s",
             sara_bytes_format(&texts[0], p->weights), sara_bytes_format(&texts[1], p->optimizer),
             sara_bytes_format(&texts[2], p->activations), sara_bytes_format(&texts[3], p->other),
             instead,
             *instead ? sara_bytes_format(&texts[4], encodes ? encoding : p->pictures) : "",
             choosing, sara_bytes_format(&texts[5], p->peak), p->stage);
}

sara_status sara_trainer_plan_memory(trainer *t)
{
    const int64_t *dims = t->source->shapes[0].latents.shape.dims;
    const sara_memory_setting now = {.size = t->flags.size ? dims[0] : 0,
                                     .levels = t->checkpoint_levels,
                                     .side = t->flags.side ? dims[3] : 0, /* of squares */
                                     .share = 1};
    sara_memory_plan p;
    size_t need;
    sara_status status;
    TRY(sara_memory_make_plan(t, &p, &now));
    t->activations = p.activations;
    need = p.peak;
    if (t->class_bytes > p.peak) { /* that is over, and had room */
        p.peak = t->class_bytes;
        p.stage = "while class images are drawn";
    }
    t->planned_bytes = p.peak;
    plan_announce(t, &p);
    if (need > sara_memory_limit(t->ctx))
        return sara_memory_refuse(t, &now, need);
done:
    return status;
}
