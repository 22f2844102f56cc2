#include "io/weights.h"

#include <stdlib.h>

sara_status sara_weights_own(sara_weights *weights, sara_safetensors *file)
{
    sara_status status;
    TRY(sara_grow(weights->ctx, &weights->files, &weights->file_capacity, weights->file_count + 1,
                  sizeof(sara_safetensors *)));
    weights->files[weights->file_count++] = file;
    file = NULL;
done:
    sara_safetensors_close(file);
    return status;
}

sara_status sara_weights_add(sara_weights *weights, sara_safetensors *file)
{
    size_t count = sara_safetensors_count(file);
    sara_status status;
    TRY(sara_weights_own(weights, file));
    TRY(sara_grow(weights->ctx, &weights->items, &weights->capacity, weights->count + count,
                  sizeof(*weights->items)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        weights->items[weights->count++] =
            (sara_weight){.info = *info, .stored = info, .file = file};
    }
done:
    return status;
}

static int compare_items(const void *a, const void *b)
{
    return strcmp(((const sara_weight *)a)->info.name, ((const sara_weight *)b)->info.name);
}

sara_status sara_weights_new(sara_context *ctx, sara_weights **out)
{
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, 1, sizeof(**out)));
    (*out)->ctx = ctx;
    sara_arena_init(&(*out)->names, ctx);
done:
    return status;
}

void sara_weights_sort(sara_weights *weights)
{
    if (weights->count > 1)
        qsort(weights->items, weights->count, sizeof(*weights->items), compare_items);
}

sara_status sara_weights_open(sara_context *ctx, sara_weights **out, const char *folder,
                              const char *stem, const char *variant)
{
    sara_weights *weights = NULL;
    sara_safetensors *file = NULL;
    bool sharded = false;
    sara_status status;
    *out = NULL;
    TRY(sara_weights_new(ctx, &weights));
    TRY(sara_weights_find_place(ctx, &weights->path, &sharded, folder, stem, variant));
    if (sharded) {
        TRY(sara_weights_add_shards(weights, folder));
    } else {
        TRY(sara_safetensors_open(ctx, &file, weights->path));
        TRY(sara_weights_add(weights, file));
    }
    sara_weights_sort(weights);
    TRY(sara_weights_take_scales(weights));
    *out = weights;
    weights = NULL;
done:
    sara_weights_close(weights);
    return status;
}

sara_status sara_weights_open_file(sara_context *ctx, sara_weights **out, const char *path)
{
    sara_weights *weights = NULL;
    sara_safetensors *file = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_weights_new(ctx, &weights));
    TRY(sara_strdup(ctx, &weights->path, path));
    TRY(sara_safetensors_open(ctx, &file, path));
    TRY(sara_weights_add(weights, file));
    TRY(sara_weights_take_scales(weights));
    *out = weights;
    weights = NULL;
done:
    sara_weights_close(weights);
    return status;
}

void sara_weights_close(sara_weights *weights)
{
    if (!weights)
        return;
    sara_context *ctx = weights->ctx;
    for (size_t i = 0; i < weights->file_count; i++)
        sara_safetensors_close(weights->files[i]);
    sara_arena_free(&weights->names);
    sara_free(ctx, weights->files);
    sara_free(ctx, weights->items);
    sara_free(ctx, weights->scales);
    sara_free(ctx, weights->prefix);
    sara_free(ctx, weights->path);
    sara_free(ctx, weights);
}

size_t sara_weights_count(const sara_weights *weights)
{
    return weights->count;
}

const sara_tensor_info *sara_weights_at(const sara_weights *weights, size_t index)
{
    return &weights->items[index].info;
}

static int weights_compare_name(const void *name, const void *item)
{
    return strcmp(name, ((const sara_weight *)item)->info.name);
}

static const sara_weight *find_item(const sara_weights *weights, const char *name)
{
    if (weights->count == 0)
        return NULL;
    return bsearch(name, weights->items, weights->count, sizeof(*weights->items),
                   weights_compare_name);
}

const sara_tensor_info *sara_weights_find(const sara_weights *weights, const char *name)
{
    const sara_weight *item = find_item(weights, name);
    return item ? &item->info : NULL;
}

/* Where the tensor is; *as: under the file's name, for errors. */
static sara_status owner(const sara_weights *weights, const sara_weight **out, sara_tensor_info *as,
                         const sara_tensor_info *info)
{
    const sara_weight *item = find_item(weights, info->name);
    sara_name name;
    sara_status status = SARA_OK;
    if (!item) {
        TRY(sara_weights_name_in_file(weights, &name, info->name));
        return sara_fail(weights->ctx, SARA_ERROR_INPUT, "%s: no tensor %s", weights->path,
                         name.text);
    }
    *as = *info;
    as->name = item->stored->name;
    as->dtype = item->stored->dtype;
    *out = item;
done:
    return status;
}

/* A matrix of this shape, which is there transposed. */
static sara_status turn(sara_context *ctx, void *data, size_t size, const sara_shape *shape)
{
    size_t count = (size_t)sara_shape_count(shape);
    void *copy = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &copy, count, size));
    memcpy(copy, data, count * size);
    sara_transpose(data, copy, shape->dims[1], shape->dims[0], size);
done:
    sara_free(ctx, copy);
    return status;
}

/* Changes the halves of a tensor that is read. */
static void swap_halves(void *data, const sara_weight *item, sara_dtype dtype)
{
    const sara_shape *shape = &item->info.shape;
    size_t half = (size_t)sara_shape_count(shape) * sara_dtype_size(dtype) / 2;
    char *first = data, *second = first + half;
    for (size_t i = 0; item->swapped && i < half; i++) {
        const char was = first[i];
        first[i] = second[i];
        second[i] = was;
    }
}

static sara_status make_identity(void *out, sara_dtype dtype, const sara_shape *shape)
{
    const size_t side = (size_t)shape->dims[0], size = sara_dtype_size(dtype);
    const float one = 1;
    memset(out, 0, side * side * size);
    for (size_t i = 0; i < side; i++)
        sara_convert_from_f32((char *)out + i * (side + 1) * size, dtype, &one, 1);
    return SARA_OK;
}

sara_status sara_weights_read_as(const sara_weights *weights, void *out, sara_dtype dtype,
                                 const sara_tensor_info *info)
{
    const sara_weight *item = NULL;
    sara_tensor_info as;
    sara_status status;
    TRY(owner(weights, &item, &as, info));
    if (item->identity)
        return make_identity(out, dtype, &info->shape);
    TRY(item->scale ? sara_weights_read_scaled(weights, out, dtype, item, &as)
                    : sara_safetensors_read_as(item->file, out, dtype, &as));
    if (item->transposed)
        TRY(turn(weights->ctx, out, sara_dtype_size(dtype), &info->shape));
    swap_halves(out, item, dtype);
done:
    return status;
}

sara_status sara_weights_read_f32(const sara_weights *weights, float *out,
                                  const sara_tensor_info *info)
{
    return sara_weights_read_as(weights, out, SARA_F32, info);
}

sara_status sara_weights_read(const sara_weights *weights, void *out, const sara_tensor_info *info)
{
    const sara_weight *item = NULL;
    sara_tensor_info as;
    sara_status status;
    TRY(owner(weights, &item, &as, info));
    if (item->identity)
        return make_identity(out, info->dtype, &info->shape);
    TRY(item->scale ? sara_weights_read_scaled(weights, out, SARA_F32, item, &as)
                    : sara_safetensors_read(item->file, out, &as));
    if (item->transposed)
        TRY(turn(weights->ctx, out, sara_dtype_size(info->dtype), &info->shape));
    swap_halves(out, item, item->scale ? SARA_F32 : as.dtype);
done:
    return status;
}

sara_status sara_weights_check(const sara_weights *weights, const sara_tensor_info *info)
{
    const sara_weight *item = NULL;
    sara_tensor_info as;
    sara_status status;
    TRY(owner(weights, &item, &as, info));
    if (item->identity)
        return SARA_OK;
    TRY(item->scale ? sara_weights_check_scales(weights, item)
                    : sara_safetensors_check_dtype(item->file, &as));
done:
    return status;
}

sara_status sara_weights_check_unchanged(const sara_weights *weights)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < weights->file_count; i++)
        TRY(sara_safetensors_check_unchanged(weights->files[i]));
done:
    return status;
}

const char *sara_weights_path(const sara_weights *weights)
{
    return weights->path;
}
