/* Conversions between f32 and the 16-bit storage types, and from 8-bit ones: IEEE 754 round to
 * nearest even. */
#include "core/core.h"

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* Without branches, so that loops over them become vector code. */
static inline float f16_to_f32(uint16_t h)
{
    const uint32_t smallest = 113u << 23; /* 2^-14 */
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, bits = (uint32_t)(h & 0x7FFF) << 13;
    /* of a subnormal: 2^-14 (1 + fraction) less 2^-14, and so no subnormal float */
    uint32_t subnormal = bits_of(float_of(bits + smallest) - float_of(smallest));
    uint32_t normal = bits + (112u << 23), infinite = bits + (224u << 23);
    uint32_t value = bits >= 0x7C00u << 13 ? infinite : normal;
    return float_of(sign | (bits < 0x0400u << 13 ? subnormal : value));
}

static inline uint16_t f32_to_f16(float f)
{
    uint32_t bits = bits_of(f), magnitude = bits & 0x7FFFFFFFu;
    /* below 2^-14: the spacing of 0.5 is 2^-24, as f16's here */
    uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
    uint32_t value = magnitude < 0x38800000u ? small : normal;
    value = magnitude >= 0x477FF000u ? 0x7C00 : value; /* 65520 and above round to infinity */
    value = magnitude > 0x7F800000u ? 0x7E00 : value;
    return (uint16_t)((bits >> 16 & 0x8000) | value);
}

/* f16 without its lower half. */
static inline float f8_e5m2_to_f32(uint8_t h)
{
    return f16_to_f32((uint16_t)(h << 8));
}

/* f16's exponent has a bias of 15, this one 7; all bits set is the one NaN. */
static inline float f8_e4m3_to_f32(uint8_t h)
{
    uint32_t sign = (uint32_t)(h & 0x80) << 24;
    float magnitude = f16_to_f32((uint16_t)((h & 0x7F) << 7)) * 256.0f;
    return float_of(sign | ((h & 0x7F) == 0x7F ? 0x7FC00000u : bits_of(magnitude)));
}

static inline float bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t bits = bits_of(f), rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return (uint16_t)(((bits & 0x7FFFFFFFu) > 0x7F800000u ? bits | 0x400000u : rounded) >> 16);
}

float sara_f16_to_f32(uint16_t h)
{
    return f16_to_f32(h);
}

uint16_t sara_f32_to_f16(float f)
{
    return f32_to_f16(f);
}

float sara_bf16_to_f32(uint16_t h)
{
    return bf16_to_f32(h);
}

uint16_t sara_f32_to_bf16(float f)
{
    return f32_to_bf16(f);
}

void sara_convert_to_f32(float *out, const void *in, sara_dtype dtype, size_t count)
{
    const uint16_t *halves = in;
    const double *doubles = in;
    const uint8_t *bytes = in;
    if (count == 0)
        return;
    switch (dtype) {
    case SARA_F32:
        memcpy(out, in, count * sizeof(*out));
        break;
    case SARA_F16:
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            out[i] = f16_to_f32(halves[i]);
        break;
    case SARA_BF16:
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_to_f32(halves[i]);
        break;
    case SARA_F64:
        for (size_t i = 0; i < count; i++)
            out[i] = (float)doubles[i];
        break;
    case SARA_F8_E4M3:
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            out[i] = f8_e4m3_to_f32(bytes[i]);
        break;
    case SARA_F8_E5M2:
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            out[i] = f8_e5m2_to_f32(bytes[i]);
        break;
    default: /* callers check the dtype */
        break;
    }
}

void sara_convert_from_f32(void *out, sara_dtype dtype, const float *in, size_t count)
{
    uint16_t *halves = out;
    if (count == 0)
        return;
    if (dtype == SARA_F32)
        memcpy(out, in, count * sizeof(*in));
    else if (dtype == SARA_F16)
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            halves[i] = f32_to_f16(in[i]);
    else if (dtype == SARA_BF16)
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            halves[i] = f32_to_bf16(in[i]);
}
