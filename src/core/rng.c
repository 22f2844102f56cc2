#include "core/core.h"

#include <math.h>

void sara_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The counter is (block of the draw, index), the key is (seed, purpose) mixed: the seed's halves,
 * the purpose in the top bits of the block's upper word, which no draw reaches. */
static void philox_block(uint32_t out[4], uint64_t block, uint64_t seed, sara_purpose purpose,
                         uint64_t index)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)block,
                                 (uint32_t)(block >> 32) ^ ((uint32_t)purpose << 24),
                                 (uint32_t)index, (uint32_t)(index >> 32)};
    sara_philox(out, counter, key);
}

/* (0, 1]: the logarithm is finite. */
static double unit_open(uint32_t bits)
{
    return (bits + 1.0) * (1.0 / 4294967296.0);
}

void sara_draw_normal(float *out, size_t count, uint64_t seed, sara_purpose purpose, uint64_t index)
{
    for (size_t i = 0; i < count; i += 4) {
        uint32_t bits[4];
        philox_block(bits, i / 4, seed, purpose, index);
        for (size_t j = 0; j < 4 && i + j < count; j += 2) {
            double radius = sqrt(-2.0 * log(unit_open(bits[j])));
            double angle = 2.0 * 3.14159265358979323846 * (bits[j + 1] * (1.0 / 4294967296.0));
            out[i + j] = (float)(radius * cos(angle));
            if (i + j + 1 < count)
                out[i + j + 1] = (float)(radius * sin(angle));
        }
    }
}

void sara_draw_uniform(float *out, size_t count, uint64_t seed, sara_purpose purpose,
                       uint64_t index)
{
    for (size_t i = 0; i < count; i += 4) {
        uint32_t bits[4];
        philox_block(bits, i / 4, seed, purpose, index);
        for (size_t j = 0; j < 4 && i + j < count; j++)
            out[i + j] = (float)(bits[j] >> 8) * (1.0f / 16777216.0f);
    }
}

void sara_draw_bits(uint32_t *out, size_t count, uint64_t seed, sara_purpose purpose,
                    uint64_t index, uint64_t first)
{
    for (size_t i = 0; i < count; i += 4) {
        uint32_t bits[4];
        philox_block(bits, (first + i) / 4, seed, purpose, index);
        memcpy(out + i, bits, (count - i < 4 ? count - i : 4) * sizeof(*bits));
    }
}

uint64_t sara_draw_below(uint64_t bound, uint64_t seed, sara_purpose purpose, uint64_t index,
                         uint64_t element)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound; /* a multiple of bound */
    for (uint64_t attempt = 0;; attempt++) {
        uint32_t bits[4];
        philox_block(bits, element + (attempt << 48), seed, purpose, index);
        uint64_t value = (uint64_t)bits[1] << 32 | bits[0];
        if (value < limit)
            return value % bound;
    }
}
