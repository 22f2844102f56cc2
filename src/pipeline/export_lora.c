/* Approximations of a rank: of each layer's change the truncated singular value decomposition. */
#include "pipeline/export.h"

#include "core/trace.h"

#include <math.h>
#include <stdio.h>

typedef struct low_rank {
    sara_export *e;
    sara_arena arena;
    sara_low_rank_layer *layers;
    size_t count;
    double kept2; /* sum of the squared singular values */
} low_rank;

static void report_progress(const low_rank *l, size_t done, double start)
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
        l->kept2 += singular[k] * singular[k];
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
        report_progress(l, i + 1, start);
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

/* alpha is the same for all layers, since diffusers 0.42 takes another than most have for that of
 * most; where the rank was cut, the layer's scale alpha / rank is made up for. */
static void scale_cut_layers(const low_rank *l)
{
    for (size_t i = 0; i < l->count; i++) {
        sara_low_rank_layer *layer = &l->layers[i];
        float scale = (float)layer->rank / (float)l->e->rank;
        for (int64_t j = 0; layer->rank < l->e->rank && j < sara_shape_count(&layer->up_shape); j++)
            layer->up[j] *= scale;
    }
}

static void fill(const void *user, size_t index, void *data)
{
    const writing *w = user;
    const sara_low_rank_layer *layer = &w->l->layers[index / 3];
    const float alpha = (float)w->l->e->rank, *values[] = {layer->down, layer->up, &alpha};
    sara_convert_from_f32(data, w->tensors[index].dtype, values[index % 3],
                          (size_t)sara_shape_count(&w->tensors[index].shape));
}

static sara_status describe(writing *w, size_t index)
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
    scale_cut_layers(l);
    TRY(sara_arena_alloc(&w.arena, &w.tensors, 3 * l->count, sizeof(*w.tensors)));
    for (size_t i = 0; i < l->count; i++)
        TRY(describe(&w, i));
    TRY(sara_export_metadata(&list, e, "networks.lora", e->rank, args));
    TRY(sara_safetensors_save_made(e->ctx, e->out, w.tensors, 3 * l->count, list.items, list.count,
                                   fill, &w));
done:
    sara_metadata_list_free(&list);
    sara_arena_free(&w.arena);
    return status;
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
    e->report.kept = fmin(1, sqrt(l.kept2 / e->changes.sum2));
    e->report.error = sqrt(1 - e->report.kept * e->report.kept);
done:
    sara_arena_free(&l.arena);
    return status;
}
