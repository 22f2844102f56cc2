/* Float buffers that come and go with every pass, carved from a few large chunks of a device's
 * memory: a freed buffer joins its free neighbours, and a new one takes the smallest gap that fits,
 * untouched memory last. Passes after the first need nothing from the allocator, and equal passes
 * get equal addresses.
 *
 * On a dry device it hands out addresses of memory that does not exist, by the same rules: what a
 * pass will need can be known before it runs.
 */
#ifndef SARA_CORE_POOL_H
#define SARA_CORE_POOL_H

#include "core/core.h"

#define SARA_POOL_BINS  64   /* of free blocks: by the bits of their size */
#define SARA_POOL_TABLE 1024 /* of taken blocks: by address */

typedef struct sara_pool {
    sara_device *device;
    struct sara_pool_chunk *chunks;
    struct sara_pool_block *bins[SARA_POOL_BINS];
    struct sara_pool_block *table[SARA_POOL_TABLE];
    struct sara_pool_block *spare; /* structs without a block */
    sara_arena structs;
    size_t used_bytes, peak_bytes; /* of taken buffers */
    bool in_pieces;                /* on a dry device too */
    size_t reached_bytes;          /* of memory ever handed out, gaps included */
} sara_pool;

void sara_pool_init(sara_pool *pool, sara_device *device);
void sara_pool_free(sara_pool *pool);
/* Makes sure that `bytes` lie in one piece, for what is not taken yet. */
SARA_NODISCARD sara_status sara_pool_reserve(sara_pool *pool, size_t bytes);
/* count floats, uninitialised, aligned to 64; count 0 gives a valid empty buffer. */
SARA_NODISCARD sara_status sara_pool_take(sara_pool *pool, float **out, size_t count);
void sara_pool_give(sara_pool *pool, float *data); /* NULL is fine */
void sara_pool_give_all(sara_pool *pool);          /* whatever is still taken */
void sara_pool_trim(sara_pool *pool); /* gives the chunks that hold nothing back to the device */

#endif
