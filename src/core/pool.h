/* Float buffers that come and go with every pass: given back ones are kept and handed out again,
 * so that passes after the first need nothing from the allocator. */
#ifndef SARA_CORE_POOL_H
#define SARA_CORE_POOL_H

#include "core/core.h"

typedef struct sara_pool_bucket {
    size_t bytes;
    struct sara_pool_block *free;
} sara_pool_bucket;

typedef struct sara_pool {
    sara_context *ctx;
    sara_pool_bucket *buckets; /* ascending by bytes */
    size_t bucket_count, bucket_capacity;
    struct sara_pool_block *used; /* doubly linked */
    size_t used_bytes, peak_bytes;
} sara_pool;

void sara_pool_init(sara_pool *pool, sara_context *ctx);
void sara_pool_free(sara_pool *pool);
/* count floats, uninitialised; count 0 gives a valid empty buffer. */
SARA_NODISCARD sara_status sara_pool_take(sara_pool *pool, float **out, size_t count);
void sara_pool_give(sara_pool *pool, float *data); /* NULL is fine */
void sara_pool_give_all(sara_pool *pool);          /* whatever is still taken */

#endif
