#include "tensors/support_tensors.h"

#include <stdlib.h>

void *test_memory(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

void *test_values(const char *dtype, size_t count, uint64_t seed, float scale)
{
    float *values = test_memory(count, sizeof(*values));
    sara_draw_normal(values, count, seed, SARA_DRAW_TEST, 0);
    for (size_t i = 0; i < count; i++)
        values[i] *= scale;
    if (strcmp(dtype, "F32") == 0)
        return values;
    uint16_t *halves = test_memory(count, sizeof(*halves));
    for (size_t i = 0; i < count; i++)
        halves[i] = dtype[0] == 'B' ? sara_f32_to_bf16(values[i]) : sara_f32_to_f16(values[i]);
    free(values);
    return halves;
}

float test_value(const char *dtype, const void *data, size_t index)
{
    if (strcmp(dtype, "F32") == 0)
        return ((const float *)data)[index];
    uint16_t half = ((const uint16_t *)data)[index];
    return dtype[0] == 'B' ? sara_bf16_to_f32(half) : sara_f16_to_f32(half);
}

uint32_t *test_positions(size_t count, size_t first, size_t stride, size_t *selected)
{
    uint32_t *positions = test_memory(count, sizeof(*positions));
    *selected = 0;
    for (size_t i = first; i < count; i += stride)
        positions[(*selected)++] = (uint32_t)i;
    return positions;
}

sara_tensor_view test_view(const char *name, const char *dtype, const void *data, size_t count)
{
    return (sara_tensor_view){name, dtype, (void *)(uintptr_t)data, (int64_t)count};
}
