#include "io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

/* The largest published checkpoints have some thousand tensors with names of some hundred bytes. */
#define MOST_TENSORS  250000
#define MOST_METADATA 65536
#define LONGEST_NAME  65535
#define LONGEST_DTYPE 32

/* An object of strings, or null, as the safetensors library reads it. */
static sara_status read_metadata(sara_scan *scan, sara_safetensors *file)
{
    bool more, none;
    sara_status status;
    scan->field = "__metadata__";
    TRY(sara_scan_null(scan, &none));
    if (none)
        goto done;
    TRY(sara_scan_expect(scan, '{'));
    for (bool first = true;; first = false) {
        sara_metadata entry = {NULL, NULL};
        TRY(sara_scan_more(scan, &more, first, '}'));
        if (!more)
            break;
        if (file->metadata_count == MOST_METADATA)
            return sara_scan_fail(scan, "more than %d entries", MOST_METADATA);
        TRY(sara_scan_string(scan, LONGEST_NAME));
        TRY(sara_arena_strdup(&file->arena, &entry.key, scan->text.data));
        TRY(sara_scan_expect(scan, ':'));
        TRY(sara_scan_string(scan, SARA_SAFETENSORS_LONGEST_HEADER));
        TRY(sara_arena_strdup(&file->arena, &entry.value, scan->text.data));
        TRY(sara_grow(file->ctx, &file->metadata, &file->metadata_capacity,
                      file->metadata_count + 1, sizeof(*file->metadata)));
        file->metadata[file->metadata_count++] = entry;
    }
done:
    if (status == SARA_OK)
        scan->field = NULL;
    return status;
}

static sara_status read_dtype(sara_scan *scan, sara_tensor_info *info)
{
    sara_status status;
    TRY(sara_scan_string(scan, LONGEST_DTYPE));
    for (int i = 0; i < SARA_DTYPE_COUNT; i++) {
        if (strcmp(scan->text.data, sara_dtype_name((sara_dtype)i)) == 0) {
            info->dtype = (sara_dtype)i;
            return SARA_OK;
        }
    }
    status = sara_scan_fail(scan,
                            "\"%s\" is not supported, expected F64, F32, F16, BF16, C64, F8_*, "
                            "I*, U* or BOOL",
                            scan->text.data);
done:
    return status;
}

static sara_status read_shape(sara_scan *scan, sara_tensor_info *info)
{
    bool more;
    int64_t entries = 1;
    sara_shape *shape = &info->shape;
    sara_status status;
    shape->rank = 0;
    TRY(sara_scan_expect(scan, '['));
    for (bool first = true;; first = false) {
        uint64_t size = 0;
        TRY(sara_scan_more(scan, &more, first, ']'));
        if (!more)
            break;
        if (shape->rank == SARA_MAX_RANK)
            return sara_scan_fail(scan, "more than %d dimensions", SARA_MAX_RANK);
        TRY(sara_scan_integer(scan, &size));
        /* A dimension of 0 does not excuse the others: any product of them must be safe. */
        if (size > INT64_MAX ||
            __builtin_mul_overflow(entries, size > 0 ? (int64_t)size : 1, &entries))
            return sara_scan_fail(scan, "more than 2^63-1 entries");
        shape->dims[shape->rank++] = (int64_t)size;
    }
done:
    return status;
}

/* Leaves begin and end, from the start of the data, in info. */
static sara_status read_offsets(sara_scan *scan, sara_tensor_info *info, uint64_t data_size)
{
    uint64_t bounds[2] = {0, 0};
    sara_status status;
    TRY(sara_scan_expect(scan, '['));
    TRY(sara_scan_integer(scan, &bounds[0]));
    TRY(sara_scan_expect(scan, ','));
    TRY(sara_scan_integer(scan, &bounds[1]));
    if (bounds[0] > bounds[1])
        return sara_scan_fail(scan, "begin %llu is after end %llu", (unsigned long long)bounds[0],
                              (unsigned long long)bounds[1]);
    if (bounds[1] > data_size)
        return sara_scan_fail(scan, "end %llu, but there are %llu bytes of data",
                              (unsigned long long)bounds[1], (unsigned long long)data_size);
    TRY(sara_scan_expect(scan, ']'));
    info->offset = bounds[0];
    info->size = bounds[1] - bounds[0];
done:
    return status;
}

static sara_status check_size(sara_scan *scan, const sara_tensor_info *info)
{
    sara_shape_text text;
    uint64_t size;
    if (__builtin_mul_overflow((uint64_t)sara_shape_count(&info->shape),
                               (uint64_t)sara_dtype_size(info->dtype), &size) ||
        size != info->size)
        return sara_scan_fail(scan, "%s of shape %s does not take %llu bytes",
                              sara_dtype_name(info->dtype), sara_shape_format(&text, &info->shape),
                              (unsigned long long)info->size);
    return SARA_OK;
}

static sara_status read_tensor(sara_scan *scan, sara_tensor_info *info, uint64_t data_size)
{
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    bool more, seen[3] = {false, false, false};
    sara_status status;
    TRY(sara_scan_expect(scan, '{'));
    for (bool first = true;; first = false) {
        int which = 0;
        TRY(sara_scan_more(scan, &more, first, '}'));
        if (!more)
            break;
        TRY(sara_scan_string(scan, LONGEST_NAME));
        while (which < 3 && strcmp(scan->text.data, fields[which]) != 0)
            which++;
        if (which == 3 || seen[which])
            return sara_scan_fail(scan, "%s field \"%.100s\"", which == 3 ? "unknown" : "duplicate",
                                  scan->text.data);
        seen[which] = true;
        TRY(sara_scan_expect(scan, ':'));
        scan->field = fields[which];
        TRY(which == 0   ? read_dtype(scan, info)
            : which == 1 ? read_shape(scan, info)
                         : read_offsets(scan, info, data_size));
        scan->field = NULL;
    }
    for (int i = 0; i < 3; i++)
        if (!seen[i])
            return sara_scan_fail(scan, "no field %s", fields[i]);
    TRY(check_size(scan, info));
done:
    return status;
}

static sara_status read_members(sara_scan *scan, sara_safetensors *file)
{
    bool more, metadata = false;
    sara_status status;
    TRY(sara_scan_expect(scan, '{'));
    for (bool first = true;; first = false) {
        sara_tensor_info info = {.name = NULL};
        TRY(sara_scan_more(scan, &more, first, '}'));
        if (!more)
            break;
        TRY(sara_scan_string(scan, LONGEST_NAME));
        bool special = strcmp(scan->text.data, "__metadata__") == 0;
        if (special && metadata)
            return sara_scan_fail(scan, "duplicate __metadata__");
        if (!special && file->count == MOST_TENSORS)
            return sara_scan_fail(scan, "more than %d tensors", MOST_TENSORS);
        if (!special)
            TRY(sara_arena_strdup(&file->arena, &info.name, scan->text.data));
        TRY(sara_scan_expect(scan, ':'));
        if (special) {
            TRY(read_metadata(scan, file));
            metadata = true;
            continue;
        }
        scan->tensor = info.name;
        TRY(read_tensor(scan, &info, file->size - file->data));
        scan->tensor = NULL;
        info.offset += file->data;
        TRY(sara_grow(file->ctx, &file->infos, &file->capacity, file->count + 1,
                      sizeof(*file->infos)));
        file->infos[file->count++] = info;
    }
    TRY(sara_scan_end(scan));
done:
    return status;
}

sara_status sara_safetensors_parse(sara_safetensors *file)
{
    sara_scan scan;
    sara_status status;
    TRY(sara_scan_open(&scan, file));
    TRY(read_members(&scan, file));
done:
    sara_scan_close(&scan);
    return status;
}

static int header_compare_names(const void *a, const void *b)
{
    return strcmp(((const sara_tensor_info *)a)->name, ((const sara_tensor_info *)b)->name);
}

static int header_compare_keys(const void *a, const void *b)
{
    return strcmp(((const sara_metadata *)a)->key, ((const sara_metadata *)b)->key);
}

/* An empty tensor comes before the one that begins where it does. */
static int compare_offsets(const void *a, const void *b)
{
    const sara_tensor_info *x = *(const sara_tensor_info *const *)a;
    const sara_tensor_info *y = *(const sara_tensor_info *const *)b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->size != y->size ? (x->size < y->size ? -1 : 1) : strcmp(x->name, y->name);
}

static sara_status sort_names(sara_safetensors *file)
{
    if (file->count > 1)
        qsort(file->infos, file->count, sizeof(*file->infos), header_compare_names);
    for (size_t i = 1; i < file->count; i++)
        if (header_compare_names(&file->infos[i - 1], &file->infos[i]) == 0)
            return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: duplicate tensor %.200s", file->path,
                             file->infos[i].name);
    if (file->metadata_count > 1)
        qsort(file->metadata, file->metadata_count, sizeof(*file->metadata), header_compare_keys);
    for (size_t i = 1; i < file->metadata_count; i++)
        if (header_compare_keys(&file->metadata[i - 1], &file->metadata[i]) == 0)
            return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: __metadata__: duplicate key %.200s",
                             file->path, file->metadata[i].key);
    return SARA_OK;
}

static sara_status check_layout(const sara_safetensors *file, const sara_tensor_info *const *order)
{
    uint64_t end = file->data;
    const char *before = "the header";
    for (size_t i = 0; i < file->count; i++) {
        const sara_tensor_info *info = order[i];
        if (info->offset != end)
            return sara_fail(file->ctx, SARA_ERROR_INPUT,
                             "%s: tensor %.200s: data_offsets: begins at byte %llu of the file, "
                             "expected %llu: %s %.200s",
                             file->path, info->name, (unsigned long long)info->offset,
                             (unsigned long long)end,
                             info->offset < end ? "overlaps" : "a hole after", before);
        end = info->offset + info->size;
        before = info->name;
    }
    if (end != file->size)
        return sara_fail(file->ctx, SARA_ERROR_INPUT,
                         "%s: %llu bytes, but the tensors' data ends at byte %llu", file->path,
                         (unsigned long long)file->size, (unsigned long long)end);
    return SARA_OK;
}

sara_status sara_safetensors_arrange(sara_safetensors *file)
{
    const sara_tensor_info **order = NULL;
    sara_status status;
    TRY(sort_names(file));
    TRY(sara_alloc(file->ctx, &order, file->count, sizeof(const sara_tensor_info *)));
    for (size_t i = 0; i < file->count; i++)
        order[i] = &file->infos[i];
    if (file->count > 1)
        qsort(order, file->count, sizeof(const sara_tensor_info *), compare_offsets);
    TRY(check_layout(file, order));
done:
    sara_free(file->ctx, order);
    return status;
}
