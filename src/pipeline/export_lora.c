/* Approximations of a rank: of each layer's change the truncated singular value decomposition. */
#include "pipeline/export.h"

#include "core/trace.h"

#include <math.h>
#include <stdio.h>

#define NOTABLE 0.01 /* share of the change that rounding may lose without a word */

typedef struct low_rank {
    sara_export *e;
    sara_arena arena;
    sara_low_rank_layer *layers;
    size_t count;
    double exact2, kept2; /* squared norms of what is held: without rounding, and as written */
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

/* Of a matrix or a convolution [out][in][height][width], whose first factor convolves and whose
 * second mixes channels. */
static void set_shapes(sara_low_rank_layer *layer, const sara_shape *shape)
{
    layer->down_shape = *shape;
    layer->down_shape.dims[0] = layer->rank;
    layer->up_shape = *shape;
    for (int i = 1; i < shape->rank; i++)
        layer->up_shape.dims[i] = i == 1 ? layer->rank : 1;
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
static void scale_cut_layer(const low_rank *l, sara_low_rank_layer *layer)
{
    int64_t ups = sara_shape_count(&layer->up_shape), downs = sara_shape_count(&layer->down_shape);
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
static sara_status finish_layer(low_rank *l, sara_low_rank_layer *layer, const sara_change *change)
{
    const sara_shape *shape = &change->param->value.shape;
    int64_t rows = shape->dims[0], cols = sara_shape_count(shape) / rows;
    bool kohya = l->e->format == SARA_EXPORT_LORA;
    double gain, scale = kohya ? (double)l->e->rank / (double)layer->rank : 1;
    sara_status status;
    if (kohya)
        scale_cut_layer(l, layer);
    TRY(round_factor(l, layer->up, rows * layer->rank, change->param->name));
    TRY(round_factor(l, layer->down, layer->rank * cols, change->param->name));
    TRY(sara_product_gain(l->e->ctx, &gain, layer->up, layer->down, scale, rows, cols, layer->rank,
                          change->positions, change->values, change->count));
    l->kept2 += gain;
done:
    return status;
}

static sara_status add_layer(low_rank *l, const sara_change *change)
{
    sara_low_rank_layer *layer = &l->layers[l->count];
    const sara_shape *shape = &change->param->value.shape;
    int64_t rows = shape->dims[0], cols = sara_shape_count(shape) / rows;
    int64_t shorter = rows < cols ? rows : cols;
    bool is_bias;
    double *singular = NULL;
    sara_status status;
    layer->rank = l->e->rank < shorter ? l->e->rank : shorter;
    set_shapes(layer, shape);
    TRY(sara_export_layer(&l->arena, &layer->name, &is_bias, change->param->name));
    TRY(sara_alloc(l->e->ctx, &singular, (size_t)layer->rank, sizeof(*singular)));
    TRY(sara_arena_alloc(&l->arena, &layer->up, (size_t)(rows * layer->rank), sizeof(float)));
    TRY(sara_arena_alloc(&l->arena, &layer->down, (size_t)(layer->rank * cols), sizeof(float)));
    status = sara_truncated_svd(l->e->ctx, layer->up, layer->down, singular, rows, cols,
                                layer->rank, change->positions, change->values, change->count);
    if (status != SARA_OK) {
        sara_fail_in(l->e->ctx, status, change->param->name);
        goto done;
    }
    for (int64_t k = 0; k < layer->rank; k++)
        l->exact2 += singular[k] * singular[k];
    TRY(finish_layer(l, layer, change));
    l->count++;
done:
    sara_free(l->e->ctx, singular);
    return status;
}

/* Biases and norms have no rank. */
static sara_status approximate(low_rank *l)
{
    const sara_changes *changes = &l->e->changes;
    double start = sara_clock();
    sara_status status;
    TRY(sara_arena_alloc(&l->arena, &l->layers, changes->count, sizeof(*l->layers)));
    for (size_t i = 0; i < changes->count; i++) {
        const sara_change *change = &changes->items[i];
        if (sara_interrupted(l->e->ctx))
            return sara_fail(l->e->ctx, SARA_INTERRUPTED, "interrupted; nothing is written");
        if (change->param->value.shape.rank > 1)
            TRY(add_layer(l, change));
        else
            l->e->report.left_out += (int64_t)change->count;
        lora_report_progress(l, i + 1, start);
    }
    if (l->count == 0)
        status = sara_fail(l->e->ctx, SARA_ERROR_USAGE,
                           "the adapters change biases and norms alone, which a LoRA cannot hold");
done:
    return status;
}

/* --------------------------------------------------------------------------------------- kohya */

typedef struct writing {
    const low_rank *l;
    sara_arena arena;
    sara_tensor_source *tensors; /* of each layer down, up and alpha */
} writing;

static void lora_fill(const void *user, size_t index, void *data)
{
    const writing *w = user;
    const sara_low_rank_layer *layer = &w->l->layers[index / 3];
    const float alpha = (float)w->l->e->rank, *values[] = {layer->down, layer->up, &alpha};
    sara_convert_from_f32(data, w->tensors[index].dtype, values[index % 3],
                          (size_t)sara_shape_count(&w->tensors[index].shape));
}

static sara_status lora_describe(writing *w, size_t index)
{
    static const char *const ends[] = {".lora_down.weight", ".lora_up.weight", ".alpha"};
    const sara_low_rank_layer *layer = &w->l->layers[index];
    const sara_shape *shapes[] = {&layer->down_shape, &layer->up_shape, &(sara_shape){.rank = 0}};
    const char *name;
    char *key = NULL;
    sara_status status;
    TRY(sara_export_kohya_name(&w->arena, &name, layer->name));
    for (size_t i = 0; i < 3; i++) {
        sara_tensor_source *tensor = &w->tensors[3 * index + i];
        *tensor = (sara_tensor_source){NULL, i < 2 ? w->l->e->dtype : SARA_F32, *shapes[i], NULL};
        TRY(sara_format(w->l->e->ctx, &key, "%s%s", name, ends[i]));
        TRY(sara_arena_strdup(&w->arena, &tensor->name, key));
        sara_free(w->l->e->ctx, key);
        key = NULL;
    }
done:
    sara_free(w->l->e->ctx, key);
    return status;
}

static sara_status write_kohya(const low_rank *l)
{
    const sara_export *e = l->e;
    writing w = {.l = l};
    sara_metadata_list list;
    char args[80];
    sara_status status;
    sara_arena_init(&w.arena, e->ctx);
    sara_metadata_list_init(&list, e->ctx);
    snprintf(args, sizeof(args), "{\"conv_dim\": \"%d\", \"conv_alpha\": \"%d\"}", e->rank,
             e->rank);
    TRY(sara_arena_alloc(&w.arena, &w.tensors, 3 * l->count, sizeof(*w.tensors)));
    for (size_t i = 0; i < l->count; i++)
        TRY(lora_describe(&w, i));
    TRY(sara_export_metadata(&list, e, "networks.lora", e->rank, args));
    TRY(sara_safetensors_save_made(e->ctx, e->out, w.tensors, 3 * l->count, list.items, list.count,
                                   lora_fill, &w));
done:
    sara_metadata_list_free(&list);
    sara_arena_free(&w.arena);
    return status;
}

/* What is held and what is not are the sides of a right triangle, as for the truncated
 * decomposition itself. */
static void lora_fill_report(sara_export *e, const low_rank *l)
{
    double all = e->changes.sum2, rounding = (l->exact2 - l->kept2) / all;
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
    sara_arena_init(&l.arena, e->ctx);
    TRY(approximate(&l));
    TRY(e->format == SARA_EXPORT_PEFT ? sara_export_peft(e, l.layers, l.count) : write_kohya(&l));
    e->report.layers = (int64_t)l.count;
    e->report.inexact = 0;
    lora_fill_report(e, &l);
done:
    sara_arena_free(&l.arena);
    return status;
}
