/* A safetensors file: whatever opens can be read, and written again to a file that opens. */
#include "fuzz/fuzz.h"

#include <stdlib.h>

static bool is_float(sara_dtype dtype)
{
    return dtype == SARA_F64 || dtype == SARA_F32 || dtype == SARA_F16 || dtype == SARA_BF16;
}

/* As stored; *out: free(). */
static void *read_tensor(sara_context *ctx, const sara_safetensors *file,
                         const sara_tensor_info *info)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    float *floats = malloc(count * sizeof(*floats) + 1);
    void *data = malloc((size_t)info->size + 1);
    fuzz_assert(floats && data);
    fuzz_assert(sara_safetensors_read(file, data, info) == SARA_OK);
    sara_status status = sara_safetensors_read_f32(file, floats, info);
    fuzz_assert((status == SARA_OK) == is_float(info->dtype));
    if (is_float(info->dtype))
        fuzz_assert(sara_safetensors_read_as(file, floats, SARA_BF16, info) == SARA_OK);
    status = sara_safetensors_read_as(file, floats, SARA_F16, info);
    fuzz_assert(status == SARA_OK || *sara_context_error(ctx));
    free(floats);
    return data;
}

static void write_again(sara_context *ctx, const sara_safetensors *file)
{
    char path[256];
    size_t count = sara_safetensors_count(file), metadata_count, same;
    const sara_metadata *metadata = sara_safetensors_metadata_all(file, &metadata_count);
    sara_tensor_source *sources = calloc(count + 1, sizeof(*sources));
    sara_safetensors *again = NULL;
    fuzz_assert(sources != NULL);
    fuzz_path(path, "again.safetensors");
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        sources[i] = (sara_tensor_source){info->name, info->dtype, info->shape,
                                          read_tensor(ctx, file, info)};
    }
    fuzz_assert(sara_safetensors_save(ctx, path, sources, count, metadata, metadata_count) ==
                SARA_OK);
    fuzz_assert(sara_safetensors_open(ctx, &again, path) == SARA_OK);
    fuzz_assert(sara_safetensors_count(again) == count);
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(again, i);
        fuzz_assert(strcmp(info->name, sources[i].name) == 0);
        fuzz_assert(info->dtype == sources[i].dtype);
        fuzz_assert(sara_shape_equal(&info->shape, &sources[i].shape));
        void *data = read_tensor(ctx, again, info);
        fuzz_assert(memcmp(data, sources[i].data, (size_t)info->size) == 0);
        free(data);
        free((void *)(uintptr_t)sources[i].data);
    }
    metadata = sara_safetensors_metadata_all(again, &same);
    fuzz_assert(same == metadata_count);
    sara_safetensors_close(again);
    free(sources);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sara_context *ctx = fuzz_context();
    sara_safetensors *file = NULL;
    char path[256];
    fuzz_put("model.safetensors", data, size);
    sara_status status = sara_safetensors_open(ctx, &file, fuzz_path(path, "model.safetensors"));
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
    fuzz_assert((status == SARA_OK) == (file != NULL));
    if (file)
        write_again(ctx, file);
    sara_safetensors_close(file);
    sara_context_free(ctx);
    return 0;
}
