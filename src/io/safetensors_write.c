#include "io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are written as they are");

static sara_status append_number(sara_buffer *out, uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number);
    return sara_buffer_put(out, digits);
}

static sara_status append_string(sara_buffer *out, const char *string)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char code[8];
    sara_status status;
    if (!sara_text_is_utf8(string, strlen(string)))
        return sara_fail(out->ctx, SARA_ERROR_USAGE, "\"%.200s\" is not UTF-8", string);
    TRY(sara_buffer_put(out, "\""));
    for (const char *at = string; *at; at++) {
        const char *found = strchr(escaped, *at);
        if (found)
            snprintf(code, sizeof(code), "\\%c", letters[found - escaped]);
        else if ((unsigned char)*at < 0x20)
            snprintf(code, sizeof(code), "\\u%04x", (unsigned)*at);
        else
            snprintf(code, sizeof(code), "%c", *at);
        TRY(sara_buffer_put(out, code));
    }
    TRY(sara_buffer_put(out, "\""));
done:
    return status;
}

static sara_status append_metadata(sara_buffer *out, const sara_metadata **metadata, size_t count)
{
    sara_status status;
    TRY(sara_buffer_put(out, "\"__metadata__\":{"));
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && strcmp(metadata[i - 1]->key, metadata[i]->key) == 0)
            return sara_fail(out->ctx, SARA_ERROR_USAGE, "duplicate metadata key %.200s",
                             metadata[i]->key);
        TRY(sara_buffer_put(out, i > 0 ? "," : ""));
        TRY(append_string(out, metadata[i]->key));
        TRY(sara_buffer_put(out, ":"));
        TRY(append_string(out, metadata[i]->value));
    }
    TRY(sara_buffer_put(out, "}"));
done:
    return status;
}

/* Not checked for overflow: the data is in memory. */
static size_t byte_size(const sara_tensor_source *tensor)
{
    return (size_t)sara_shape_count(&tensor->shape) * sara_dtype_size(tensor->dtype);
}

static sara_status append_tensor(sara_buffer *out, const sara_tensor_source *tensor,
                                 uint64_t *offset)
{
    sara_status status;
    TRY(append_string(out, tensor->name));
    TRY(sara_buffer_put(out, ":{\"dtype\":\""));
    TRY(sara_buffer_put(out, sara_dtype_name(tensor->dtype)));
    TRY(sara_buffer_put(out, "\",\"shape\":["));
    for (int i = 0; i < tensor->shape.rank; i++) {
        TRY(sara_buffer_put(out, i > 0 ? "," : ""));
        TRY(append_number(out, (uint64_t)tensor->shape.dims[i]));
    }
    TRY(sara_buffer_put(out, "],\"data_offsets\":["));
    TRY(append_number(out, *offset));
    TRY(sara_buffer_put(out, ","));
    *offset += byte_size(tensor);
    TRY(append_number(out, *offset));
    TRY(sara_buffer_put(out, "]}"));
done:
    return status;
}

static sara_status build_header(sara_buffer *out, const sara_tensor_source **tensors, size_t count,
                                const sara_metadata **metadata, size_t metadata_count)
{
    uint64_t offset = 0;
    sara_status status;
    TRY(sara_buffer_put(out, "{"));
    if (metadata_count > 0)
        TRY(append_metadata(out, metadata, metadata_count));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_buffer_put(out, i > 0 || metadata_count > 0 ? "," : ""));
        TRY(append_tensor(out, tensors[i], &offset));
    }
    TRY(sara_buffer_put(out, "}"));
    while (out->length % 8 != 0)
        TRY(sara_buffer_put(out, " "));
    if (out->length > SARA_SAFETENSORS_LONGEST_HEADER)
        status = sara_fail(out->ctx, SARA_ERROR_USAGE, "a header of %zu bytes, expected at most %d",
                           out->length, SARA_SAFETENSORS_LONGEST_HEADER);
done:
    return status;
}

/* The safetensors library's order of dtypes; descending, so that wider ones come first. */
static int dtype_rank(sara_dtype dtype)
{
    static const int ranks[SARA_DTYPE_COUNT] = {
        [SARA_U64] = 16,    [SARA_I64] = 15,    [SARA_F64] = 14, [SARA_C64] = 13,
        [SARA_F32] = 12,    [SARA_U32] = 11,    [SARA_I32] = 10, [SARA_BF16] = 9,
        [SARA_F16] = 8,     [SARA_U16] = 7,     [SARA_I16] = 6,  [SARA_F8_E8M0] = 5,
        [SARA_F8_E4M3] = 4, [SARA_F8_E5M2] = 3, [SARA_I8] = 2,   [SARA_U8] = 1,
        [SARA_BOOL] = 0,
    };
    return ranks[dtype];
}

static int compare_places(const void *a, const void *b)
{
    const sara_tensor_source *x = *(const sara_tensor_source *const *)a;
    const sara_tensor_source *y = *(const sara_tensor_source *const *)b;
    int order = dtype_rank(y->dtype) - dtype_rank(x->dtype);
    return order != 0 ? order : strcmp(x->name, y->name);
}

static int compare_source_names(const void *a, const void *b)
{
    const sara_tensor_source *x = *(const sara_tensor_source *const *)a;
    const sara_tensor_source *y = *(const sara_tensor_source *const *)b;
    return strcmp(x->name, y->name);
}

static int compare_source_keys(const void *a, const void *b)
{
    const sara_metadata *x = *(const sara_metadata *const *)a;
    const sara_metadata *y = *(const sara_metadata *const *)b;
    return strcmp(x->key, y->key);
}

static sara_status check_names(sara_context *ctx, const sara_tensor_source **tensors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool reserved = strcmp(tensors[i]->name, "__metadata__") == 0;
        bool duplicate = i > 0 && strcmp(tensors[i - 1]->name, tensors[i]->name) == 0;
        if (reserved || duplicate)
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s tensor name %.200s",
                             reserved ? "reserved" : "duplicate", tensors[i]->name);
    }
    return SARA_OK;
}

static sara_status sort_tensors(sara_context *ctx, const sara_tensor_source ***out,
                                const sara_tensor_source *tensors, size_t count)
{
    const sara_tensor_source **order = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &order, count, sizeof(const sara_tensor_source *)));
    for (size_t i = 0; i < count; i++)
        order[i] = &tensors[i];
    if (count > 1)
        qsort(order, count, sizeof(const sara_tensor_source *), compare_source_names);
    TRY(check_names(ctx, order, count));
    if (count > 1)
        qsort(order, count, sizeof(const sara_tensor_source *), compare_places);
    *out = order;
    order = NULL;
done:
    sara_free(ctx, order);
    return status;
}

static sara_status sort_metadata(sara_context *ctx, const sara_metadata ***out,
                                 const sara_metadata *metadata, size_t count)
{
    const sara_metadata **order = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &order, count, sizeof(const sara_metadata *)));
    for (size_t i = 0; i < count; i++)
        order[i] = &metadata[i];
    if (count > 1)
        qsort(order, count, sizeof(const sara_metadata *), compare_source_keys);
    *out = order;
done:
    return status;
}

/* How the data of tensors without any is made; fill NULL: there are none. */
typedef struct maker {
    const sara_tensor_source *tensors; /* in the caller's order */
    sara_tensor_fill_fn fill;
    const void *user;
} maker;

static sara_status write_tensor(sara_context *ctx, sara_writer *writer, const maker *make,
                                const sara_tensor_source *tensor)
{
    size_t size = byte_size(tensor);
    void *buffer = NULL;
    sara_status status;
    if (tensor->data || !make->fill || size == 0)
        return sara_writer_write(writer, tensor->data, size);
    TRY(sara_alloc(ctx, &buffer, size, 1));
    TRY(make->fill(make->user, (size_t)(tensor - make->tensors), buffer));
    TRY(sara_writer_write(writer, buffer, size));
done:
    sara_free(ctx, buffer);
    return status;
}

static sara_status write_file(sara_context *ctx, const char *path, const sara_buffer *header,
                              const sara_tensor_source **tensors, size_t count, const maker *make)
{
    sara_writer *writer = NULL;
    uint64_t length = header->length;
    sara_status status;
    TRY(sara_writer_open(ctx, &writer, path));
    TRY(sara_writer_write(writer, &length, sizeof(length)));
    TRY(sara_writer_write(writer, header->data, header->length));
    for (size_t i = 0; i < count; i++)
        TRY(write_tensor(ctx, writer, make, tensors[i]));
    TRY(sara_writer_commit(&writer));
done:
    sara_writer_abort(&writer);
    return status;
}

sara_status sara_safetensors_save_made(sara_context *ctx, const char *path,
                                       const sara_tensor_source *tensors, size_t count,
                                       const sara_metadata *metadata, size_t metadata_count,
                                       sara_tensor_fill_fn fill, const void *user)
{
    const maker make = {tensors, fill, user};
    const sara_tensor_source **order = NULL;
    const sara_metadata **entries = NULL;
    sara_buffer header = {.ctx = ctx};
    sara_status status;
    TRY(sort_tensors(ctx, &order, tensors, count));
    TRY(sort_metadata(ctx, &entries, metadata, metadata_count));
    TRY(build_header(&header, order, count, entries, metadata_count));
    TRY(write_file(ctx, path, &header, order, count, &make));
done:
    if (status == SARA_ERROR_USAGE)
        status = sara_fail_in(ctx, status, path);
    sara_buffer_free(&header);
    sara_free(ctx, entries);
    sara_free(ctx, order);
    return status;
}

sara_status sara_safetensors_save(sara_context *ctx, const char *path,
                                  const sara_tensor_source *tensors, size_t count,
                                  const sara_metadata *metadata, size_t metadata_count)
{
    return sara_safetensors_save_made(ctx, path, tensors, count, metadata, metadata_count, NULL,
                                      NULL);
}
