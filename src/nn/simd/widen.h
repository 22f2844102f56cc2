/* 16-bit weights to floats, for instruction sets that load them as such. */
FN void widen(float *out, const uint16_t *in, int64_t count, sara_dtype dtype)
{
    int64_t i = 0;
    if (dtype == SARA_BF16)
        for (; i + W <= count; i += W)
            vstore(out + i, vload_bf16(in + i));
    else
        for (; i + W <= count; i += W)
            vstore(out + i, vload_f16(in + i));
    sara_convert_to_f32(out + i, in + i, dtype, (size_t)(count - i));
}
