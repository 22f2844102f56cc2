#include "core/context.h"

#include <stdio.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[SARA_DTYPE_COUNT] = {
    [SARA_F64] = {"F64", 8},         [SARA_F32] = {"F32", 4},
    [SARA_F16] = {"F16", 2},         [SARA_BF16] = {"BF16", 2},
    [SARA_I64] = {"I64", 8},         [SARA_I32] = {"I32", 4},
    [SARA_I16] = {"I16", 2},         [SARA_I8] = {"I8", 1},
    [SARA_U8] = {"U8", 1},           [SARA_BOOL] = {"BOOL", 1},
    [SARA_U16] = {"U16", 2},         [SARA_U32] = {"U32", 4},
    [SARA_U64] = {"U64", 8},         [SARA_C64] = {"C64", 8},
    [SARA_F8_E5M2] = {"F8_E5M2", 1}, [SARA_F8_E4M3] = {"F8_E4M3", 1},
    [SARA_F8_E8M0] = {"F8_E8M0", 1},
};

const char *sara_dtype_name(sara_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t sara_dtype_size(sara_dtype dtype)
{
    return dtypes[dtype].size;
}

bool sara_dtype_is_float(sara_dtype dtype)
{
    return dtype == SARA_F32 || dtype == SARA_F16 || dtype == SARA_BF16 || dtype == SARA_F64 ||
           dtype == SARA_F8_E4M3 || dtype == SARA_F8_E5M2;
}

sara_dtype sara_dtype_widened(sara_dtype dtype)
{
    return dtype == SARA_F8_E4M3 || dtype == SARA_F8_E5M2 ? SARA_F16 : dtype;
}

bool sara_dtype_parse(sara_dtype *out, const char *name)
{
    static const struct {
        const char *name;
        sara_dtype dtype;
    } known[] = {{"fp32", SARA_F32},  {"f32", SARA_F32},      {"float32", SARA_F32},
                 {"fp16", SARA_F16},  {"f16", SARA_F16},      {"float16", SARA_F16},
                 {"bf16", SARA_BF16}, {"bfloat16", SARA_BF16}};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].dtype;
            return true;
        }
    return false;
}

sara_shape sara_shape1(int64_t a)
{
    return (sara_shape){1, {a}};
}

sara_shape sara_shape2(int64_t a, int64_t b)
{
    return (sara_shape){2, {a, b}};
}

sara_shape sara_shape3(int64_t a, int64_t b, int64_t c)
{
    return (sara_shape){3, {a, b, c}};
}

sara_shape sara_shape4(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (sara_shape){4, {a, b, c, d}};
}

bool sara_shape_equal(const sara_shape *a, const sara_shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

int64_t sara_shape_count(const sara_shape *shape)
{
    int64_t count = 1;
    for (int i = 0; i < shape->rank; i++)
        count *= shape->dims[i];
    return count;
}

const char *sara_shape_format(sara_shape_text *buffer, const sara_shape *shape)
{
    size_t used = 0, size = sizeof(buffer->text);
    buffer->text[used++] = '[';
    for (int i = 0; i < shape->rank; i++)
        used += (size_t)snprintf(buffer->text + used, size - used, "%s%lld", i ? "," : "",
                                 (long long)shape->dims[i]);
    buffer->text[used++] = ']';
    buffer->text[used] = '\0';
    return buffer->text;
}

sara_status sara_shape_elements(sara_context *ctx, size_t *out, const sara_shape *shape)
{
    int64_t count = 1;
    sara_shape_text text;
    for (int i = 0; i < shape->rank; i++)
        if (shape->dims[i] < 0 || __builtin_mul_overflow(count, shape->dims[i], &count))
            return sara_fail(ctx, SARA_ERROR_MEMORY, "a tensor of shape %s is too large",
                             sara_shape_format(&text, shape));
    *out = (size_t)count;
    return SARA_OK;
}

sara_status sara_tensor_new(sara_context *ctx, sara_tensor *out, sara_dtype dtype,
                            const sara_shape *shape)
{
    size_t count;
    sara_status status;
    memset(out, 0, sizeof(*out));
    TRY(sara_shape_elements(ctx, &count, shape));
    TRY(sara_alloc(ctx, &out->data, count, sara_dtype_size(dtype)));
    out->dtype = dtype;
    out->shape = *shape;
done:
    return status;
}

void sara_tensor_free(sara_context *ctx, sara_tensor *tensor)
{
    sara_free(ctx, tensor->data);
    memset(tensor, 0, sizeof(*tensor));
}

void sara_transpose(void *out, const void *in, int64_t rows, int64_t cols, size_t size)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            memcpy((char *)out + (size_t)(col * rows + row) * size,
                   (const char *)in + (size_t)(row * cols + col) * size, size);
}
