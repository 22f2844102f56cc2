/* Whole changes: <layer>.diff of a weight, <layer>.diff_b of a bias, as LyCORIS names them. A1111
 * knows a .diff_b only beside a .diff, which may be zero. */
#include "pipeline/export.h"

/* What a tensor of the file is made of. */
typedef struct dense_made {
    int count;                     /* changes of it, one below the other: 1, or 3 of fused ones */
    const sara_change *changes[3]; /* NULL: zeros */
    bool swapped;                  /* its halves are the other way round in the file */
} dense_made;

typedef struct dense {
    const sara_export *e;
    sara_arena arena; /* names */
    sara_tensor_source *tensors;
    dense_made *made; /* of each tensor */
    size_t count;
} dense;

static void put_dense_change(char *data, sara_dtype dtype, const sara_change *change)
{
    size_t size = sara_dtype_size(dtype);
    for (size_t i = 0; change && change->positions && i < change->count; i++)
        sara_convert_from_f32(data + change->positions[i] * size, dtype, &change->values[i], 1);
    if (change && !change->positions)
        sara_convert_from_f32(data, dtype, change->values, change->count);
}

static sara_status dense_fill(const void *user, size_t index, void *data)
{
    const dense *d = user;
    const dense_made *made = &d->made[index];
    size_t bytes =
        (size_t)sara_shape_count(&d->tensors[index].shape) * sara_dtype_size(d->e->dtype);
    char *values = data;
    memset(values, 0, bytes);
    for (int i = 0; i < made->count; i++)
        put_dense_change(values + (size_t)i * (bytes / (size_t)made->count), d->e->dtype,
                         made->changes[i]);
    for (size_t i = 0; made->swapped && i < bytes / 2; i++) {
        const char first = values[i];
        values[i] = values[bytes / 2 + i];
        values[bytes / 2 + i] = first;
    }
    return SARA_OK;
}

/* third: which of a fused tensor's, of which the others may be there already; -1: it is none. */
static sara_status dense_add(dense *d, const char *name, const char *end, const sara_shape *shape,
                             const sara_change *change, int third)
{
    sara_tensor_source *tensor = &d->tensors[d->count];
    char *key = NULL;
    sara_status status;
    TRY(sara_format(d->e->ctx, &key, "%s%s", name, end));
    for (size_t i = 0; third >= 0 && i < d->count; i++)
        if (strcmp(d->tensors[i].name, key) == 0) {
            d->made[i].changes[third] = change;
            goto done;
        }
    *tensor = (sara_tensor_source){NULL, d->e->dtype, *shape, NULL};
    TRY(sara_arena_strdup(&d->arena, &tensor->name, key));
    d->made[d->count] = (dense_made){.count = third < 0 ? 1 : 3};
    d->made[d->count].changes[third < 0 ? 0 : third] = change;
    tensor->shape.dims[0] *= d->made[d->count].count;
    d->count++;
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
        TRY(dense_add(d, name, ".diff", &weight->value.shape, NULL, -1));
done:
    sara_free(d->e->ctx, key);
    return status;
}

/* Under ComfyUI's names: those of single files, where three of diffusers' tensors may be one. */
static sara_status dense_add_ldm(dense *d, const char *layer, bool is_bias,
                                 const sara_change *change, const sara_ldm_shape *shape)
{
    const char *own = change->param->name, *name;
    sara_name thirds[3];
    size_t before = d->count;
    sara_status status;
    TRY(sara_export_ldm_name(&d->arena, &name, layer, shape));
    TRY(dense_add(d, name, is_bias ? ".diff_b" : ".diff", &change->param->value.shape, change,
                  sara_ldm_third(shape, thirds, own)));
    if (d->count > before)
        d->made[before].swapped = sara_ldm_is_swapped(shape, own);
done:
    return status;
}

/* Under kohya's; A1111 has a bias beside a weight alone. */
static sara_status dense_add_kohya(dense *d, const char *layer, bool is_bias, size_t index)
{
    const sara_change *change = &d->e->changes.items[index];
    const char *name;
    sara_status status;
    TRY(sara_export_kohya_name(&d->arena, &name, layer, d->e->model, change->part));
    TRY(dense_add(d, name, is_bias ? ".diff_b" : ".diff", &change->param->value.shape, change, -1));
    if (is_bias && d->e->format == SARA_EXPORT_A1111)
        TRY(add_zero(d, name, layer, index + 1, change->part));
done:
    return status;
}

/* Names ascend, so that a layer's bias comes before its weight. */
static sara_status list_tensors(dense *d, int64_t *layers)
{
    const sara_changes *changes = &d->e->changes;
    const char *layer, *last = "";
    sara_ldm_shape shape = {.part = SARA_LDM_UNET};
    bool is_bias, comfyui = d->e->format == SARA_EXPORT_COMFYUI;
    sara_status status;
    if (comfyui)
        TRY(sara_network_ldm_shape(d->e->model->denoiser, &shape));
    TRY(sara_arena_alloc(&d->arena, &d->tensors, 2 * changes->count, sizeof(*d->tensors)));
    TRY(sara_arena_alloc(&d->arena, &d->made, 2 * changes->count, sizeof(*d->made)));
    for (size_t i = 0; i < changes->count; i++) {
        const sara_change *change = &changes->items[i];
        TRY(sara_export_layer(&d->arena, &layer, &is_bias, change->param->name));
        TRY(comfyui && change->part == 0 ? dense_add_ldm(d, layer, is_bias, change, &shape)
                                         : dense_add_kohya(d, layer, is_bias, i));
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
