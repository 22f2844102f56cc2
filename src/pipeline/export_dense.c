/* Whole changes: <layer>.diff of a weight, <layer>.diff_b of a bias, as LyCORIS names them. A1111
 * knows a .diff_b only beside a .diff, which may be zero. */
#include "pipeline/export.h"

typedef struct dense {
    const sara_export *e;
    sara_arena arena; /* names */
    sara_tensor_source *tensors;
    const sara_change **changes; /* of each tensor; NULL: zeros */
    size_t count;
} dense;

static void dense_fill(const void *user, size_t index, void *data)
{
    const dense *d = user;
    const sara_change *change = d->changes[index];
    size_t size = sara_dtype_size(d->e->dtype);
    memset(data, 0, (size_t)sara_shape_count(&d->tensors[index].shape) * size);
    for (size_t i = 0; change && change->positions && i < change->count; i++)
        sara_convert_from_f32((char *)data + change->positions[i] * size, d->e->dtype,
                              &change->values[i], 1);
    if (change && !change->positions)
        sara_convert_from_f32(data, d->e->dtype, change->values, change->count);
}

static sara_status dense_add(dense *d, const char *name, const char *end, const sara_shape *shape,
                             const sara_change *change)
{
    sara_status status;
    sara_tensor_source *tensor = &d->tensors[d->count];
    char *key = NULL;
    *tensor = (sara_tensor_source){NULL, d->e->dtype, *shape, NULL};
    TRY(sara_format(d->e->ctx, &key, "%s%s", name, end));
    TRY(sara_arena_strdup(&d->arena, &tensor->name, key));
    d->changes[d->count++] = change;
done:
    sara_free(d->e->ctx, key);
    return status;
}

/* The weight that a bias belongs to, unless it is changed too and so among the next ones. */
static sara_status add_zero(dense *d, const char *name, const char *layer, size_t next, int part)
{
    const sara_changes *changes = &d->e->changes;
    const sara_params *params = &d->e->model->parts[part].network->params;
    const sara_param *weight = NULL;
    char *key = NULL;
    sara_status status;
    TRY(sara_format(d->e->ctx, &key, "%s.weight", layer));
    for (size_t i = next; i < changes->count; i++)
        if (changes->items[i].part == part && strcmp(changes->items[i].param->name, key) == 0)
            goto done;
    weight = sara_params_find(params, key);
    if (weight)
        TRY(dense_add(d, name, ".diff", &weight->value.shape, NULL));
done:
    sara_free(d->e->ctx, key);
    return status;
}

/* Names ascend, so that a layer's bias comes before its weight. */
static sara_status list_tensors(dense *d, int64_t *layers)
{
    const sara_changes *changes = &d->e->changes;
    const char *layer, *name, *last = "";
    sara_ldm_shape shape = {.part = SARA_LDM_UNET};
    bool is_bias, comfyui = d->e->format == SARA_EXPORT_COMFYUI;
    sara_status status;
    if (comfyui)
        TRY(sara_network_ldm_shape(d->e->model->denoiser, &shape));
    TRY(sara_arena_alloc(&d->arena, &d->tensors, 2 * changes->count, sizeof(*d->tensors)));
    TRY(sara_arena_alloc(&d->arena, &d->changes, 2 * changes->count, sizeof(sara_change *)));
    for (size_t i = 0; i < changes->count; i++) {
        const sara_change *change = &changes->items[i];
        TRY(sara_export_layer(&d->arena, &layer, &is_bias, change->param->name));
        TRY(comfyui && change->part == 0
                ? sara_export_ldm_name(&d->arena, &name, layer, &shape)
                : sara_export_kohya_name(&d->arena, &name, layer, d->e->model, change->part));
        TRY(dense_add(d, name, is_bias ? ".diff_b" : ".diff", &change->param->value.shape, change));
        if (is_bias && d->e->format == SARA_EXPORT_A1111)
            TRY(add_zero(d, name, layer, i + 1, change->part));
        *layers += strcmp(layer, last) != 0;
        last = layer;
    }
done:
    return status;
}

sara_status sara_export_dense(sara_export *e)
{
    dense d = {.e = e};
    sara_metadata_list list;
    sara_status status;
    sara_arena_init(&d.arena, e->ctx);
    sara_metadata_list_init(&list, e->ctx);
    TRY(list_tensors(&d, &e->report.layers));
    TRY(sara_export_metadata(&list, e, "lycoris.kohya", 1,
                             "{\"algo\": \"full\", \"preset\": \"full\"}"));
    TRY(sara_safetensors_save_made(e->ctx, e->out, d.tensors, d.count, list.items, list.count,
                                   dense_fill, &d));
done:
    sara_metadata_list_free(&list);
    sara_arena_free(&d.arena);
    return status;
}
