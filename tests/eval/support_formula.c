#include "eval/support_formula.h"

float test_formula(uint32_t i, uint32_t stream)
{
    uint32_t x = i * 2654435761u + stream * 40503u + 1u;
    x ^= x >> 16;
    x *= 2246822519u;
    x ^= x >> 13;
    x *= 3266489917u;
    x ^= x >> 16;
    return (float)(x >> 8) / 16777216.0f;
}

void test_fill(float *out, size_t count, uint32_t stream, float offset, float scale)
{
    for (size_t i = 0; i < count; i++)
        out[i] = offset + scale * test_formula((uint32_t)i, stream);
}
