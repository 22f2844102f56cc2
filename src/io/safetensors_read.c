#include "io/safetensors.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are read as they are stored");

#define CONVERT_ENTRIES ((size_t)32 * 1024)

#define SAVE_AS "load it with diffusers and call save_pretrained(folder, safe_serialization=True)"

/* Formats that people have under this extension. */
static const struct {
    const char *start;
    size_t size;
    const char *hint;
} others[] = {
    {"PK\x03\x04", 4, "a zip archive as PyTorch saves it (.bin, .ckpt, .pt); to convert, " SAVE_AS},
    {"PK\x05\x06", 4, "an empty zip archive"},
    {"GGUF", 4, "a GGUF file; take the safetensors file that it was made from"},
    {"version ", 8, SARA_LFS_HINT},
};

/* The hint for a file whose first bytes are no safetensors header; NULL: unknown. */
static const char *other_format(const unsigned char *start, size_t size)
{
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (size >= others[i].size && memcmp(start, others[i].start, others[i].size) == 0)
            return others[i].hint;
    /* PROTO 2..5, then an opcode, of which none is 0 as in the length of a short header. */
    if (size >= 3 && start[0] == 0x80 && start[1] >= 2 && start[1] <= 5 && start[2] != 0)
        return "a Python pickle (.bin, .ckpt, .pt); to convert, " SAVE_AS;
    return NULL;
}

static sara_status read_header_length(sara_safetensors *file)
{
    unsigned char start[SARA_SAFETENSORS_PREAMBLE + 1] = {0};
    char *reason = NULL;
    uint64_t length = 0;
    size_t size = file->size < sizeof(start) ? (size_t)file->size : sizeof(start);
    sara_status status;
    TRY(sara_file_pread(file->ctx, file->fd, start, size, 0, file->path));
    for (int i = SARA_SAFETENSORS_PREAMBLE - 1; i >= 0; i--)
        length = length << 8 | start[i];
    if (size < SARA_SAFETENSORS_PREAMBLE)
        TRY(sara_format(file->ctx, &reason, "a file of %zu bytes", size));
    else if (length == 0 || length > SARA_SAFETENSORS_LONGEST_HEADER ||
             length > file->size - SARA_SAFETENSORS_PREAMBLE)
        TRY(sara_format(file->ctx, &reason, "header length %llu in a file of %llu bytes",
                        (unsigned long long)length, (unsigned long long)file->size));
    else if (start[SARA_SAFETENSORS_PREAMBLE] != '{')
        TRY(sara_format(file->ctx, &reason, "header starts with byte 0x%02x, not '{'",
                        start[SARA_SAFETENSORS_PREAMBLE]));
    if (reason) {
        const char *other = other_format(start, size);
        status = sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: byte 0: not safetensors: %s",
                           file->path, other ? other : reason);
    }
    file->data = SARA_SAFETENSORS_PREAMBLE + length;
done:
    sara_free(file->ctx, reason);
    return status;
}

sara_status sara_safetensors_open(sara_context *ctx, sara_safetensors **out, const char *path)
{
    sara_safetensors *file = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &file, 1, sizeof(*file)));
    file->ctx = ctx;
    file->fd = -1;
    sara_arena_init(&file->arena, ctx);
    TRY(sara_strdup(ctx, &file->path, path));
    TRY(sara_file_open(ctx, &file->fd, &file->size, path));
    if (fstat(file->fd, &file->opened) != 0)
        TRY(sara_fail_errno(ctx, path, "cannot stat"));
    TRY(read_header_length(file));
    TRY(sara_safetensors_parse(file));
    TRY(sara_safetensors_arrange(file));
    *out = file;
    file = NULL;
done:
    sara_safetensors_close(file);
    return status;
}

void sara_safetensors_close(sara_safetensors *file)
{
    if (!file)
        return;
    sara_context *ctx = file->ctx;
    if (file->fd >= 0)
        close(file->fd);
    sara_arena_free(&file->arena);
    sara_free(ctx, file->infos);
    sara_free(ctx, file->metadata);
    sara_free(ctx, file->path);
    sara_free(ctx, file);
}

static bool is_same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

sara_status sara_safetensors_check_unchanged(const sara_safetensors *file)
{
    const struct stat *then = &file->opened;
    struct stat now, named;
    bool same = fstat(file->fd, &now) == 0 && now.st_size == then->st_size &&
                is_same_time(now.st_mtim, then->st_mtim);
    bool replaced = stat(file->path, &named) == 0 &&
                    (named.st_dev != then->st_dev || named.st_ino != then->st_ino);
    if (same && !replaced)
        return SARA_OK;
    return sara_fail(file->ctx, SARA_ERROR_IO, "%s: was %s since it was opened", file->path,
                     replaced ? "replaced" : "changed");
}

size_t sara_safetensors_count(const sara_safetensors *file)
{
    return file->count;
}

const sara_tensor_info *sara_safetensors_at(const sara_safetensors *file, size_t index)
{
    return &file->infos[index];
}

static int compare_tensor_name(const void *name, const void *info)
{
    return strcmp(name, ((const sara_tensor_info *)info)->name);
}

const sara_tensor_info *sara_safetensors_find(const sara_safetensors *file, const char *name)
{
    if (file->count == 0)
        return NULL;
    return bsearch(name, file->infos, file->count, sizeof(*file->infos), compare_tensor_name);
}

const sara_metadata *sara_safetensors_metadata_all(const sara_safetensors *file, size_t *count)
{
    *count = file->metadata_count;
    return file->metadata;
}

const char *sara_safetensors_metadata(const sara_safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0)
            return file->metadata[i].value;
    return NULL;
}

const char *sara_safetensors_path(const sara_safetensors *file)
{
    return file->path;
}

uint64_t sara_safetensors_size(const sara_safetensors *file)
{
    return file->size;
}

sara_status sara_safetensors_read(const sara_safetensors *file, void *out,
                                  const sara_tensor_info *info)
{
    return sara_file_pread(file->ctx, file->fd, out, (size_t)info->size, info->offset, file->path);
}

/* Reading with a conversion: each thread takes parts of CONVERT_ENTRIES through buffers of its
 * own. */
typedef struct conversion {
    const sara_safetensors *file;
    const sara_tensor_info *info;
    char *out;
    sara_dtype dtype;
    size_t count;
    char *stored; /* of each thread */
    float *values;
} conversion;

/* An entry beyond what F16 holds would become infinite. */
static bool all_fit(const float *values, size_t count, sara_dtype dtype)
{
    bool fit = true;
    for (size_t i = 0; dtype == SARA_F16 && i < count; i++)
        fit &= !(fabsf(values[i]) >= 65520.0f && fabsf(values[i]) <= FLT_MAX);
    return fit;
}

static size_t part_at(const conversion *c, size_t at)
{
    return c->count - at < CONVERT_ENTRIES ? c->count - at : CONVERT_ENTRIES;
}

static char *stored_of(const conversion *c, int thread)
{
    return c->stored + (size_t)thread * CONVERT_ENTRIES * sara_dtype_size(c->info->dtype);
}

/* What the thread has read of the part. false: an entry does not fit. */
static bool convert_part(const conversion *c, size_t at, int thread)
{
    size_t part = part_at(c, at);
    float *values = c->values + (size_t)thread * CONVERT_ENTRIES;
    sara_convert_to_f32(values, stored_of(c, thread), c->info->dtype, part);
    sara_convert_from_f32(c->out + at * sara_dtype_size(c->dtype), c->dtype, values, part);
    return all_fit(values, part, c->dtype);
}

/* *fit, or false: something could not be read. */
static bool convert_quietly(const conversion *c, bool *fit, int threads)
{
    size_t width = sara_dtype_size(c->info->dtype);
    bool complete = true, all = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : complete, all)
    for (size_t at = 0; at < c->count; at += CONVERT_ENTRIES) {
        int thread = omp_get_thread_num();
        complete = complete &&
                   sara_file_pread_quietly(c->file->fd, stored_of(c, thread),
                                           part_at(c, at) * width, c->info->offset + at * width);
        all = all && (!complete || convert_part(c, at, thread));
    }
    *fit = all;
    return complete;
}

/* In order, for the error's line. */
static sara_status convert_in_order(const conversion *c, bool *fit)
{
    size_t width = sara_dtype_size(c->info->dtype);
    sara_status status = SARA_OK;
    *fit = true;
    for (size_t at = 0; at < c->count; at += CONVERT_ENTRIES) {
        TRY(sara_file_pread(c->file->ctx, c->file->fd, c->stored, part_at(c, at) * width,
                            c->info->offset + at * width, c->file->path));
        *fit &= convert_part(c, at, 0);
    }
done:
    return status;
}

sara_status sara_safetensors_check_dtype(const sara_safetensors *file, const sara_tensor_info *info)
{
    if (sara_dtype_is_float(info->dtype))
        return SARA_OK;
    return sara_fail(
        file->ctx, SARA_ERROR_INPUT,
        "%s: tensor %.200s: dtype %s, expected F32, F16, BF16, F64, F8_E4M3 or F8_E5M2", file->path,
        info->name, sara_dtype_name(info->dtype));
}

sara_status sara_safetensors_read_as(const sara_safetensors *file, void *out, sara_dtype dtype,
                                     const sara_tensor_info *info)
{
    size_t width = sara_dtype_size(info->dtype);
    conversion c = {file, info, out, dtype, (size_t)info->size / width, NULL, NULL};
    int threads = c.count > CONVERT_ENTRIES ? sara_threads(file->ctx) : 1;
    bool fit;
    sara_status status;
    TRY(sara_safetensors_check_dtype(file, info));
    if (info->dtype == dtype)
        return sara_safetensors_read(file, out, info);
    TRY(sara_alloc(file->ctx, &c.stored, (size_t)threads * CONVERT_ENTRIES, width));
    TRY(sara_alloc(file->ctx, &c.values, (size_t)threads * CONVERT_ENTRIES, sizeof(*c.values)));
    if (!convert_quietly(&c, &fit, threads))
        TRY(convert_in_order(&c, &fit));
    if (!fit)
        status = sara_fail(file->ctx, SARA_ERROR_INPUT,
                           "%s: tensor %.200s: holds values beyond 65504, where fp16 ends; bf16 "
                           "can hold them",
                           file->path, info->name);
done:
    sara_free(file->ctx, c.stored);
    sara_free(file->ctx, c.values);
    return status;
}

sara_status sara_safetensors_read_f32(const sara_safetensors *file, float *out,
                                      const sara_tensor_info *info)
{
    return sara_safetensors_read_as(file, out, SARA_F32, info);
}

static bool shape_matches(const sara_shape *shape, const sara_shape *wanted)
{
    if (shape->rank != wanted->rank)
        return false;
    for (int i = 0; i < shape->rank; i++)
        if (wanted->dims[i] != -1 && wanted->dims[i] != shape->dims[i])
            return false;
    return true;
}

sara_status sara_safetensors_load(const sara_safetensors *file, sara_tensor *out, const char *name,
                                  sara_dtype dtype, const sara_shape *shape)
{
    sara_shape_text has, wanted;
    sara_tensor tensor = {.data = NULL};
    sara_status status;
    const sara_tensor_info *info = sara_safetensors_find(file, name);
    memset(out, 0, sizeof(*out));
    if (!info)
        return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: no tensor %.200s", file->path, name);
    if (info->dtype != dtype)
        return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: tensor %.200s: dtype %s, expected %s",
                         file->path, name, sara_dtype_name(info->dtype), sara_dtype_name(dtype));
    if (!shape_matches(&info->shape, shape))
        return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: tensor %.200s: shape %s, expected %s",
                         file->path, name, sara_shape_format(&has, &info->shape),
                         sara_shape_format(&wanted, shape));
    TRY(sara_tensor_new(file->ctx, &tensor, dtype, &info->shape));
    TRY(sara_safetensors_read(file, tensor.data, info));
    *out = tensor;
    tensor.data = NULL;
done:
    sara_tensor_free(file->ctx, &tensor);
    return status;
}
