/* Ascending positions as LEB128 varints: the first as it is, each next as its distance to the one
 * before minus 1. Each varint has its shortest form, so that equal positions give equal bytes. */
#ifndef SARA_SPARSE_VARINT_H
#define SARA_SPARSE_VARINT_H

#include "core/core.h"

/* Bytes of the encoding of count ascending positions. */
size_t sara_positions_size(const uint32_t *positions, size_t count);
void sara_positions_encode(uint8_t *out, const uint32_t *positions, size_t count);

/* What is wrong with encoded positions, and at which byte. */
typedef struct sara_positions_fault {
    const char *what; /* NULL: nothing */
    size_t offset;
} sara_positions_fault;
/* Exactly count positions in exactly size bytes. */
sara_positions_fault sara_positions_decode(uint32_t *positions, size_t count, const uint8_t *in,
                                           size_t size);

#endif
