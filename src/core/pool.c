#include "core/pool.h"

/* Sits before the data, as long as a cache line so that the data stays aligned. */
struct sara_pool_block {
    struct sara_pool_block *next, *previous;
    size_t bytes; /* of the data */
};
#define HEADER ((size_t)64)

void sara_pool_init(sara_pool *pool, sara_context *ctx)
{
    memset(pool, 0, sizeof(*pool));
    pool->ctx = ctx;
}

static void trim(sara_pool *pool)
{
    for (size_t i = 0; i < pool->bucket_count; i++)
        while (pool->buckets[i].free) {
            struct sara_pool_block *block = pool->buckets[i].free;
            pool->buckets[i].free = block->next;
            sara_free(pool->ctx, block);
        }
}

void sara_pool_free(sara_pool *pool)
{
    sara_pool_give_all(pool);
    trim(pool);
    sara_free(pool->ctx, pool->buckets);
    memset(pool, 0, sizeof(*pool));
}

/* Index of the first bucket of at least `bytes`. */
static size_t bucket_at_least(const sara_pool *pool, size_t bytes)
{
    size_t low = 0, high = pool->bucket_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (pool->buckets[middle].bytes < bytes)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The bucket is made when a block is, so that giving back cannot fail. */
static sara_status make_bucket(sara_pool *pool, size_t bytes)
{
    size_t at = bucket_at_least(pool, bytes);
    if (at < pool->bucket_count && pool->buckets[at].bytes == bytes)
        return SARA_OK;
    sara_status status = sara_grow(pool->ctx, &pool->buckets, &pool->bucket_capacity,
                                   pool->bucket_count + 1, sizeof(*pool->buckets));
    if (status != SARA_OK)
        return status;
    memmove(pool->buckets + at + 1, pool->buckets + at,
            (pool->bucket_count - at) * sizeof(*pool->buckets));
    pool->buckets[at] = (sara_pool_bucket){bytes, NULL};
    pool->bucket_count++;
    return SARA_OK;
}

/* A kept block may be up to a quarter larger than asked for: shapes that nearly agree share. */
static struct sara_pool_block *reuse(sara_pool *pool, size_t bytes)
{
    for (size_t i = bucket_at_least(pool, bytes);
         i < pool->bucket_count && pool->buckets[i].bytes <= bytes + bytes / 4; i++) {
        struct sara_pool_block *block = pool->buckets[i].free;
        if (block) {
            pool->buckets[i].free = block->next;
            return block;
        }
    }
    return NULL;
}

sara_status sara_pool_take(sara_pool *pool, float **out, size_t count)
{
    struct sara_pool_block *block = NULL;
    *out = NULL;
    if (count > (SIZE_MAX - 2 * HEADER) / sizeof(float))
        return sara_fail(pool->ctx, SARA_ERROR_MEMORY, "out of memory: %zu floats", count);
    size_t bytes = (count * sizeof(float) + HEADER - 1) / HEADER * HEADER;
    block = reuse(pool, bytes);
    if (!block) {
        sara_status status = make_bucket(pool, bytes);
        if (status == SARA_OK)
            status = sara_alloc(pool->ctx, &block, 1, HEADER + bytes);
        if (status == SARA_ERROR_MEMORY) { /* what is kept for reuse may be what is missing */
            trim(pool);
            status = make_bucket(pool, bytes);
            if (status == SARA_OK)
                status = sara_alloc(pool->ctx, &block, 1, HEADER + bytes);
        }
        if (status != SARA_OK)
            return status;
        block->bytes = bytes;
    }
    block->previous = NULL;
    block->next = pool->used;
    if (pool->used)
        pool->used->previous = block;
    pool->used = block;
    pool->used_bytes += block->bytes;
    if (pool->used_bytes > pool->peak_bytes)
        pool->peak_bytes = pool->used_bytes;
    *out = (float *)(void *)((char *)block + HEADER);
    return SARA_OK;
}

void sara_pool_give(sara_pool *pool, float *data)
{
    if (!data)
        return;
    struct sara_pool_block *block = (void *)((char *)data - HEADER);
    if (block->previous)
        block->previous->next = block->next;
    else
        pool->used = block->next;
    if (block->next)
        block->next->previous = block->previous;
    pool->used_bytes -= block->bytes;
    sara_pool_bucket *bucket = &pool->buckets[bucket_at_least(pool, block->bytes)];
    block->next = bucket->free;
    bucket->free = block;
}

void sara_pool_give_all(sara_pool *pool)
{
    while (pool->used)
        sara_pool_give(pool, (float *)(void *)((char *)pool->used + HEADER));
}
