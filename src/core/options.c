#include "core/core.h"

void sara_options_init(void *options, size_t size, const void *defaults,
                       const sara_options_type *type)
{
    memset(options, 0, size);
    memcpy(options, defaults, size < type->size ? size : type->size);
    *(size_t *)options = size;
}

static bool is_zero(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i])
            return false;
    return true;
}

sara_status sara_options_read(sara_context *ctx, void *full, const sara_options_type *type,
                              const void *given)
{
    size_t size = *(const size_t *)given;
    if (size == 0)
        size = type->first_size;
    if (size < type->first_size || size > SARA_LARGEST_OPTIONS)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s.size is %zu, expected 0 or at least %zu; %s_init() sets it",
                         type->name, size, type->first_size, type->name);
    if (size > type->size && !is_zero((const char *)given + type->size, size - type->size))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: %zu bytes, of which this library (sara %s) knows %zu; the others ask "
                         "for what it does not have",
                         type->name, size, sara_version(), type->size);
    memcpy(full, given, size < type->size ? size : type->size);
    *(size_t *)full = type->size;
    return SARA_OK;
}

void sara_sized_write(void *out, size_t out_size, const void *full, size_t full_size)
{
    if (out)
        memcpy(out, full, out_size < full_size ? out_size : full_size);
}
