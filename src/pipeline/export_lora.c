/* Approximations of a rank: of each layer's change the truncated singular value decomposition. */
#include "pipeline/export.h"

#include "core/trace.h"
#include "pipeline/lora_write.h"

#include <math.h>
#include <stdio.h>

#define NOTABLE 0.01 /* share of the change that rounding may lose without a word */

typedef struct low_rank {
    sara_export *e;
    sara_lora_file lora[SARA_MOST_PARTS];
    size_t layers;
    double exact2, kept2; /* squared norms of what is held: without rounding, and as written */
    double other2;        /* of other models' changes, which are none of the file's */
} low_rank;

static void lora_report_progress(const low_rank *l, size_t done, double start)
{
    size_t all = l->e->changes.count;
    double rate = (double)done / fmax(sara_clock() - start, 1e-9);
    const sara_progress progress = {.phase = "export",
                                    .step = (int64_t)done,
                                    .total = (int64_t)all,
                                    .loss = (double)NAN,
                                    .learning_rate = (double)NAN,
                                    .steps_per_second = rate,
                                    .seconds_left = (double)(all - done) / rate};
    sara_report_progress(l->e->ctx, &progress);
}

static float lora_largest(const float *values, int64_t count)
{
    float result = 0;
    for (int64_t i = 0; i < count; i++)
        result = fmaxf(result, fabsf(values[i]));
    return result;
}

/* alpha is the same for all layers, since diffusers 0.42 takes another than most have for that of
 * most; where the rank was cut, the layer's scale alpha / rank is made up for: by a power of two in
 * the first factor, the rest in the second, so that both have about the same magnitude and neither
 * comes below what fp16 holds well. */
static void scale_cut_layer(const low_rank *l, sara_lora_layer *layer)
{
    int64_t ups = layer->out * layer->rank;
    int64_t downs = layer->rank * layer->in * layer->kh * layer->kw;
    double scale = (double)layer->rank / (double)l->e->rank;
    double up = (double)lora_largest(layer->up, ups),
           down = (double)lora_largest(layer->down, downs);
    if (!(up > 0 && down > 0) || layer->rank == l->e->rank)
        return;
    double power = exp2(rint(log2(scale * up / down) / 2));
    for (int64_t i = 0; i < downs; i++)
        layer->down[i] = (float)(layer->down[i] * power);
    for (int64_t i = 0; i < ups; i++)
        layer->up[i] = (float)(layer->up[i] * (scale / power));
}

/* As the file will have it. */
static sara_status round_factor(const low_rank *l, float *values, int64_t count, const char *name)
{
    sara_dtype dtype = l->e->dtype;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        float value = values[i];
        sara_convert_from_f32(&bits, dtype, &value, 1);
        sara_convert_to_f32(&values[i], &bits, dtype, 1);
        if (!isfinite(values[i]))
            return sara_fail(l->e->ctx, SARA_ERROR_USAGE, "%s: %g of a factor is not finite in %s",
                             name, (double)value, sara_dtype_name(dtype));
    }
    return SARA_OK;
}

/* Rounds both factors and finds what they then hold of the change. */
static sara_status finish_layer(low_rank *l, sara_lora_layer *layer, const sara_change *change)
{
    const sara_shape *shape = &change->param->value.shape;
    int64_t rows = shape->dims[0], cols = sara_shape_count(shape) / rows;
    bool kohya = l->e->format == SARA_EXPORT_LORA && !l->e->model->family->lora_of_diffusers;
    double gain;
    sara_status status;
    layer->scale = kohya ? (double)l->e->rank / (double)layer->rank : 1;
    if (kohya)
        scale_cut_layer(l, layer);
    TRY(round_factor(l, layer->up, rows * layer->rank, change->param->name));
    TRY(round_factor(l, layer->down, layer->rank * cols, change->param->name));
    TRY(sara_product_gain(l->e->ctx, &gain, layer->up, layer->down, layer->scale, rows, cols,
                          layer->rank, change->positions, change->values, change->count));
    l->kept2 += gain;
done:
    return status;
}

static void start_layer(const low_rank *l, sara_lora_layer *layer, const sara_change *change)
{
    const sara_shape *shape = &change->param->value.shape;
    int64_t rows = shape->dims[0], cols = sara_shape_count(shape) / rows;
    int64_t shorter = rows < cols ? rows : cols;
    *layer = (sara_lora_layer){.name = change->param->name,
                               .rank = l->e->rank < shorter ? l->e->rank : shorter,
                               .out = rows,
                               .in = shape->dims[1],
                               .kh = shape->rank > 2 ? shape->dims[2] : 1,
                               .kw = shape->rank > 3 ? shape->dims[3] : 1};
}

static sara_status add_layer(low_rank *l, const sara_change *change)
{
    sara_lora_file *lora = &l->lora[change->part];
    sara_lora_layer *layer = &lora->layers[lora->count];
    const sara_shape *shape = &change->param->value.shape;
    int64_t rows = shape->dims[0], cols = sara_shape_count(shape) / rows;
    double *singular = NULL;
    sara_status status;
    start_layer(l, layer, change);
    TRY(sara_alloc(l->e->ctx, &singular, (size_t)layer->rank, sizeof(*singular)));
    TRY(sara_arena_alloc(&lora->arena, &layer->up, (size_t)(rows * layer->rank), sizeof(float)));
    TRY(sara_arena_alloc(&lora->arena, &layer->down, (size_t)(layer->rank * cols), sizeof(float)));
    status = sara_truncated_svd(l->e->ctx, layer->up, layer->down, singular, rows, cols,
                                layer->rank, change->positions, change->values, change->count);
    if (status != SARA_OK) {
        sara_fail_in(l->e->ctx, status, change->param->name);
        goto done;
    }
    for (int64_t k = 0; k < layer->rank; k++)
        l->exact2 += singular[k] * singular[k];
    TRY(finish_layer(l, layer, change));
    lora->count++;
    l->layers++;
done:
    sara_free(l->e->ctx, singular);
    return status;
}

/* Biases and norms have no rank, embeddings no layer of a LoRA, and a PEFT folder is of the
 * denoiser alone. */
static bool is_held(const low_rank *l, const sara_change *change)
{
    return change->param->value.shape.rank > 1 &&
           (change->part == 0 ||
            (l->e->format == SARA_EXPORT_LORA && !strstr(change->param->name, "embedding")));
}

static sara_status approximate_change(low_rank *l, const sara_change *change)
{
    sara_change open;
    sara_status status;
    TRY(sara_change_open(l->e->ctx, &open, &l->e->changes, change));
    status = add_layer(l, &open);
    sara_change_close(l->e->ctx, &open, change);
done:
    return status;
}

static sara_status leave_change_out(low_rank *l, const sara_change *change)
{
    sara_change open;
    sara_status status = SARA_OK;
    *(change->part > 0 ? &l->e->text_left_out : &l->e->report.left_out) += change->differing;
    if (change->part == 0 || l->e->format == SARA_EXPORT_LORA)
        return SARA_OK;
    TRY(sara_change_open(l->e->ctx, &open, &l->e->changes, change));
    for (size_t i = 0; i < open.count; i++)
        l->other2 += (double)open.values[i] * (double)open.values[i];
    sara_change_close(l->e->ctx, &open, change);
done:
    return status;
}

static sara_status refuse_empty(const low_rank *l)
{
    if (l->e->text_left_out > 0 && l->e->report.left_out == 0 && l->e->format == SARA_EXPORT_PEFT)
        return sara_fail(l->e->ctx, SARA_ERROR_USAGE,
                         "the adapters change the text encoder alone, which a folder for PEFT, of "
                         "the denoiser, cannot hold; format lora can");
    return sara_fail(l->e->ctx, SARA_ERROR_USAGE,
                     "the adapters change biases and norms alone, which a LoRA cannot hold");
}

static void tell_left_out(const low_rank *l)
{
    int64_t text = l->e->text_left_out;
    if (text > 0)
        sara_log(l->e->ctx, SARA_LOG_WARNING,
                 "%lld changed entries of the text encoder are left out, which %s", (long long)text,
                 l->e->format == SARA_EXPORT_LORA ? "a LoRA cannot hold"
                                                  : "a folder for PEFT, of one model, cannot hold");
}

static sara_status approximate(low_rank *l)
{
    const sara_changes *changes = &l->e->changes;
    double start = sara_clock();
    sara_status status;
    for (int part = 0; part < SARA_MOST_PARTS; part++)
        TRY(sara_arena_alloc(&l->lora[part].arena, &l->lora[part].layers, changes->count,
                             sizeof(*l->lora[part].layers)));
    for (size_t i = 0; i < changes->count; i++) {
        const sara_change *change = &changes->items[i];
        if (sara_interrupted(l->e->ctx))
            return sara_fail(l->e->ctx, SARA_INTERRUPTED, "interrupted; nothing is written");
        TRY(is_held(l, change) ? approximate_change(l, change) : leave_change_out(l, change));
        lora_report_progress(l, i + 1, start);
    }
    if (l->layers == 0)
        return refuse_empty(l);
    tell_left_out(l);
done:
    return status;
}

/* ------------------------------------------------------------------------------------ the file */

static sara_status write_lora(const low_rank *l)
{
    const sara_export *e = l->e;
    sara_lora_output output = {.path = e->out,
                               .lora = &l->lora[0],
                               .params = &e->model->denoiser->params,
                               .dtype = e->dtype,
                               .rank = e->rank,
                               .alpha = e->rank,
                               .model = e->model,
                               .texts = l->lora,
                               .text_params = e->text_params};
    sara_metadata_list list;
    char args[80];
    sara_status status;
    if (e->format == SARA_EXPORT_PEFT)
        return sara_lora_write_peft(e->ctx, &output);
    sara_metadata_list_init(&list, e->ctx);
    snprintf(args, sizeof(args), "{\"conv_dim\": \"%d\", \"conv_alpha\": \"%d\"}", e->rank,
             e->rank);
    TRY(sara_export_metadata(&list, e, "networks.lora", e->rank, args));
    output.metadata = list.items;
    output.metadata_count = list.count;
    TRY(sara_lora_write_kohya(e->ctx, &output));
done:
    sara_metadata_list_free(&list);
    return status;
}

/* What is held and what is not are the sides of a right triangle, as for the truncated
 * decomposition itself. */
static void lora_fill_report(sara_export *e, const low_rank *l)
{
    double all = e->changes.sum2 - l->other2, rounding = (l->exact2 - l->kept2) / all;
    e->report.kept = sqrt(fmin(1, fmax(0, l->kept2 / all)));
    e->report.error = sqrt(fmax(0, 1 - l->kept2 / all));
    if (rounding > NOTABLE * NOTABLE)
        sara_log(e->ctx, SARA_LOG_WARNING,
                 "rounding the factors to %s loses %.3g of the change (relative L2); "
                 "save_precision fp32 keeps it",
                 sara_precision_name(e->dtype), sqrt(rounding));
}

sara_status sara_export_low_rank(sara_export *e)
{
    low_rank l = {.e = e};
    sara_status status;
    for (int part = 0; part < SARA_MOST_PARTS; part++)
        sara_arena_init(&l.lora[part].arena, e->ctx);
    TRY(approximate(&l));
    TRY(write_lora(&l));
    e->report.layers = (int64_t)l.layers;
    e->report.inexact = 0;
    lora_fill_report(e, &l);
done:
    for (int part = 0; part < SARA_MOST_PARTS; part++)
        sara_arena_free(&l.lora[part].arena);
    return status;
}
