#include "core/context.h"

#include <stdio.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Every block starts on a cache line; the pointer before it leads back to the allocation. */
#define ALIGNMENT ((size_t)64)

sara_status sara_alloc(sara_context *ctx, void *out, size_t count, size_t size)
{
    void *result = NULL;
    size_t bytes;
    memcpy(out, &result, sizeof(result));
    if (count == 0 || size == 0)
        return SARA_OK;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 2 * ALIGNMENT)
        return sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: %zu x %zu bytes", count, size);
    char *raw = ctx->allocator.allocate(ctx->allocator.user, bytes + ALIGNMENT + sizeof(void *));
    if (!raw)
        return sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: %zu bytes", bytes);
    uintptr_t start =
        ((uintptr_t)raw + sizeof(void *) + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1);
    memcpy((void *)(start - sizeof(void *)), &raw, sizeof(raw));
    result = (void *)start;
    memcpy(out, &result, sizeof(result));
    return SARA_OK;
}

sara_status sara_alloc_zero(sara_context *ctx, void *out, size_t count, size_t size)
{
    void *memory;
    sara_status status = sara_alloc(ctx, out, count, size);
    memcpy(&memory, out, sizeof(memory));
    if (memory)
        memset(memory, 0, count * size);
    return status;
}

void sara_free(sara_context *ctx, void *memory)
{
    void *raw;
    if (!memory)
        return;
    memcpy(&raw, (char *)memory - sizeof(void *), sizeof(raw));
    ctx->allocator.release(ctx->allocator.user, raw);
}

void sara_memory_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

sara_status sara_grow(sara_context *ctx, void *array, size_t *capacity, size_t needed, size_t size)
{
    void *old, *fresh;
    if (needed <= *capacity)
        return SARA_OK;
    size_t wanted = *capacity > SIZE_MAX / 2 ? needed : *capacity * 2;
    wanted = wanted < needed ? needed : wanted;
    wanted = wanted < 16 ? 16 : wanted;
    sara_status status = sara_alloc(ctx, &fresh, wanted, size);
    if (status != SARA_OK)
        return status;
    memcpy(&old, array, sizeof(old));
    if (old)
        memcpy(fresh, old, *capacity * size);
    sara_free(ctx, old);
    memcpy(array, &fresh, sizeof(fresh));
    *capacity = wanted;
    return SARA_OK;
}

sara_status sara_strdup(sara_context *ctx, char **out, const char *text)
{
    size_t size = strlen(text) + 1;
    sara_status status = sara_alloc(ctx, out, size, 1);
    if (status == SARA_OK)
        memcpy(*out, text, size);
    return status;
}

sara_status sara_format(sara_context *ctx, char **out, const char *format, ...)
{
    va_list args, again;
    *out = NULL;
    va_start(args, format);
    va_copy(again, args);
    int length = sara_print_args(NULL, 0, format, args);
    va_end(args);
    sara_status status = length < 0
                             ? sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: \"%s\"", format)
                             : sara_alloc(ctx, out, (size_t)length + 1, 1);
    if (status == SARA_OK)
        sara_print_args(*out, (size_t)length + 1, format, again);
    va_end(again);
    return status;
}

sara_name sara_name_of(const char *format, ...)
{
    sara_name name;
    va_list args;
    va_start(args, format);
    sara_print_args(name.text, sizeof(name.text), format, args);
    va_end(args);
    return name;
}

sara_status sara_path_join(sara_context *ctx, char **out, const char *directory, const char *name)
{
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    return sara_format(ctx, out, "%s%s%s", directory, slash, name);
}

uint64_t sara_hash_bytes(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}
