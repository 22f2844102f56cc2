#include "sparse/varint.h"

static uint32_t gap(const uint32_t *positions, size_t i)
{
    return i == 0 ? positions[0] : positions[i] - positions[i - 1] - 1;
}

size_t sara_positions_size(const uint32_t *positions, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t value = gap(positions, i);
        size++;
        while (value >>= 7)
            size++;
    }
    return size;
}

void sara_positions_encode(uint8_t *out, const uint32_t *positions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t value = gap(positions, i);
        for (; value >= 0x80; value >>= 7)
            *out++ = (uint8_t)(value | 0x80);
        *out++ = (uint8_t)value;
    }
}

/* Reads one varint at *at; NULL or what is wrong. */
static const char *read_varint(uint64_t *value, const uint8_t *in, size_t size, size_t *at)
{
    *value = 0;
    for (int shift = 0;; shift += 7) {
        if (*at == size)
            return "varint cut off by the end";
        uint8_t byte = in[(*at)++];
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return byte == 0 && shift > 0 ? "varint longer than needed" : NULL;
        if (shift == 28)
            return "varint of more than 5 bytes";
    }
}

sara_positions_fault sara_positions_decode(uint32_t *positions, size_t count, const uint8_t *in,
                                           size_t size)
{
    size_t at = 0;
    uint64_t next = 0; /* the smallest possible position */
    for (size_t i = 0; i < count; i++) {
        size_t start = at;
        uint64_t value;
        if (at == size)
            return (sara_positions_fault){"fewer positions than values", at};
        const char *what = read_varint(&value, in, size, &at);
        if (!what && next + value > UINT32_MAX)
            what = "position beyond 4294967295";
        if (what)
            return (sara_positions_fault){what, start};
        positions[i] = (uint32_t)(next + value);
        next += value + 1;
    }
    return (sara_positions_fault){at < size ? "more positions than values" : NULL, at};
}
