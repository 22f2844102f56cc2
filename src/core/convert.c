/* Conversions between f32 and the 16-bit storage types, IEEE 754 round to nearest even. */
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

float sara_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3FF;
    if (exponent == 31)
        return float_of(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t sara_f32_to_f16(float f)
{
    uint32_t bits = bits_of(f), magnitude = bits & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7F800000u)
        return sign | 0x7E00;
    if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
        return sign | 0x7C00;
    if (magnitude < 0x38800000u) { /* below 2^-14: the spacing of 0.5 is 2^-24, as f16's here */
        uint32_t sum = bits_of(float_of(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3F000000u));
    }
    uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

float sara_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t sara_f32_to_bf16(float f)
{
    uint32_t bits = bits_of(f);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

void sara_convert_to_f32(float *out, const void *in, sara_dtype dtype, size_t count)
{
    const uint16_t *halves = in;
    const double *doubles = in;
    if (count == 0)
        return;
    switch (dtype) {
    case SARA_F32:
        memcpy(out, in, count * sizeof(*out));
        break;
    case SARA_F16:
        for (size_t i = 0; i < count; i++)
            out[i] = sara_f16_to_f32(halves[i]);
        break;
    case SARA_BF16:
        for (size_t i = 0; i < count; i++)
            out[i] = sara_bf16_to_f32(halves[i]);
        break;
    case SARA_F64:
        for (size_t i = 0; i < count; i++)
            out[i] = (float)doubles[i];
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
        for (size_t i = 0; i < count; i++)
            halves[i] = sara_f32_to_f16(in[i]);
    else if (dtype == SARA_BF16)
        for (size_t i = 0; i < count; i++)
            halves[i] = sara_f32_to_bf16(in[i]);
}
