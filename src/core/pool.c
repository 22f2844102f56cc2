#include "core/pool.h"

#define LINE      ((size_t)64) /* sizes are multiples of it */
#define CHUNK_MIN ((size_t)4096)

/* A piece of a chunk, between its neighbours; described outside of the memory itself. */
typedef struct sara_pool_block {
    uintptr_t start;
    size_t bytes;
    struct sara_pool_chunk *chunk;
    struct sara_pool_block *below, *above; /* NULL: the chunk's ends */
    struct sara_pool_block *next, *previous; /* of the bin or, next alone, of the table's chain */
    bool free;
} block;

/* Blocks lie from start up to top without gaps; the topmost is taken. */
typedef struct sara_pool_chunk {
    struct sara_pool_chunk *next;
    void *memory;
    uintptr_t start;
    size_t bytes, top, reached;
    block *last;
} chunk;

void sara_pool_init(sara_pool *pool, sara_device *device)
{
    memset(pool, 0, sizeof(*pool));
    pool->device = device;
    sara_arena_init(&pool->structs, device->ctx);
}

static void free_chunk(sara_pool *pool, chunk *c)
{
    sara_device_free(pool->device, c->memory);
    sara_free(pool->device->ctx, c);
}

void sara_pool_free(sara_pool *pool)
{
    while (pool->chunks) {
        chunk *c = pool->chunks;
        pool->chunks = c->next;
        free_chunk(pool, c);
    }
    sara_arena_free(&pool->structs);
    memset(pool, 0, sizeof(*pool));
}

/* ------------------------------------------------------------------------------------- chunks */

static sara_status add_chunk(sara_pool *pool, size_t bytes)
{
    chunk *c = NULL, **at = &pool->chunks;
    sara_status status;
    TRY(sara_alloc_zero(pool->device->ctx, &c, 1, sizeof(*c)));
    TRY(sara_device_alloc(pool->device, &c->memory, bytes, 1));
    c->start = (uintptr_t)c->memory;
    c->bytes = bytes;
    while (*at)
        at = &(*at)->next;
    *at = c;
    c = NULL;
done:
    sara_free(pool->device->ctx, c);
    return status;
}

void sara_pool_trim(sara_pool *pool)
{
    for (chunk **at = &pool->chunks; *at;) {
        chunk *c = *at;
        if (c->top > 0) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        pool->reached_bytes -= c->reached;
        free_chunk(pool, c);
    }
}

/* As large as all before, so that chunks are few; what is not used of one is never touched. */
static sara_status grow(sara_pool *pool, size_t bytes)
{
    size_t wanted = CHUNK_MIN;
    sara_status status;
    if (pool->device->dry && !pool->in_pieces)
        return add_chunk(pool, SIZE_MAX / 2);
    for (const chunk *c = pool->chunks; c; c = c->next)
        wanted += c->bytes;
    status = add_chunk(pool, wanted < bytes ? bytes : wanted);
    if (status == SARA_ERROR_MEMORY) { /* what is kept for reuse may be what is missing */
        sara_pool_trim(pool);
        status = add_chunk(pool, bytes);
    }
    return status;
}

static chunk *find_room(const sara_pool *pool, size_t bytes)
{
    for (chunk *c = pool->chunks; c; c = c->next)
        if (c->bytes - c->top >= bytes)
            return c;
    return NULL;
}

sara_status sara_pool_reserve(sara_pool *pool, size_t bytes)
{
    bytes = (bytes + LINE - 1) / LINE * LINE;
    return pool->device->dry || find_room(pool, bytes) ? SARA_OK : add_chunk(pool, bytes);
}

/* ------------------------------------------------------------------------------------- blocks */

/* So that the next two blocks need no memory. */
static sara_status make_spares(sara_pool *pool)
{
    enum { BATCH = 64 };
    block *more;
    sara_status status = SARA_OK;
    if (pool->spare && pool->spare->next)
        return SARA_OK;
    TRY(sara_arena_alloc(&pool->structs, &more, BATCH, sizeof(*more)));
    for (int i = 0; i < BATCH; i++) {
        more[i].next = pool->spare;
        pool->spare = &more[i];
    }
done:
    return status;
}

static block *new_block(sara_pool *pool, chunk *c, uintptr_t start, size_t bytes)
{
    block *b = pool->spare;
    pool->spare = b->next;
    *b = (block){.start = start, .bytes = bytes, .chunk = c};
    return b;
}

static void retire(sara_pool *pool, block *b)
{
    b->next = pool->spare;
    pool->spare = b;
}

static block **bin_of(sara_pool *pool, size_t bytes)
{
    return &pool->bins[63 - __builtin_clzll((unsigned long long)bytes)];
}

static void bin_add(sara_pool *pool, block *b)
{
    block **bin = bin_of(pool, b->bytes);
    b->free = true;
    b->previous = NULL;
    b->next = *bin;
    if (*bin)
        (*bin)->previous = b;
    *bin = b;
}

static void bin_remove(sara_pool *pool, block *b)
{
    if (b->previous)
        b->previous->next = b->next;
    else
        *bin_of(pool, b->bytes) = b->next;
    if (b->next)
        b->next->previous = b->previous;
    b->free = false;
}

/* The smallest free block that holds `bytes`, the lowest of equals; NULL: none. */
static block *best_fit(sara_pool *pool, size_t bytes)
{
    block *best = NULL;
    for (block **bin = bin_of(pool, bytes); !best && bin < pool->bins + SARA_POOL_BINS; bin++)
        for (block *b = *bin; b; b = b->next)
            if (b->bytes >= bytes &&
                (!best || b->bytes < best->bytes ||
                 (b->bytes == best->bytes && b->start < best->start)))
                best = b;
    return best;
}

/* Takes the lower part of a free block. */
static void pool_cut(sara_pool *pool, block *b, size_t bytes)
{
    SARA_ASSERT(b->free && b->above && b->bytes >= bytes);
    bin_remove(pool, b);
    if (b->bytes == bytes)
        return;
    block *rest = new_block(pool, b->chunk, b->start + bytes, b->bytes - bytes);
    rest->below = b;
    rest->above = b->above; /* not NULL: the topmost block is taken */
    rest->above->below = rest;
    b->above = rest;
    b->bytes = bytes;
    bin_add(pool, rest);
}

/* A new block on top of a chunk. */
static block *stack(sara_pool *pool, chunk *c, size_t bytes)
{
    SARA_ASSERT(c->bytes - c->top >= bytes);
    block *b = new_block(pool, c, c->start + c->top, bytes);
    b->below = c->last;
    if (c->last)
        c->last->above = b;
    c->last = b;
    c->top += bytes;
    if (c->top > c->reached) {
        pool->reached_bytes += c->top - c->reached;
        c->reached = c->top;
    }
    return b;
}

static block **chain_of(sara_pool *pool, uintptr_t start)
{
    return &pool->table[(start / LINE * 0x9e3779b97f4a7c15u >> 32) % SARA_POOL_TABLE];
}

sara_status sara_pool_take(sara_pool *pool, float **out, size_t count)
{
    sara_status status;
    *out = NULL;
    if (count > (SIZE_MAX / 4) / sizeof(float))
        return sara_fail(pool->device->ctx, SARA_ERROR_MEMORY, "out of memory: %zu floats", count);
    size_t bytes = (count * sizeof(float) + LINE - 1) / LINE * LINE;
    bytes = bytes ? bytes : LINE;
    TRY(make_spares(pool));
    block *b = best_fit(pool, bytes);
    if (b) {
        pool_cut(pool, b, bytes);
    } else {
        if (!find_room(pool, bytes))
            TRY(grow(pool, bytes));
        b = stack(pool, find_room(pool, bytes), bytes);
    }
    block **chain = chain_of(pool, b->start);
    b->next = *chain;
    *chain = b;
    pool->used_bytes += bytes;
    if (pool->used_bytes > pool->peak_bytes)
        pool->peak_bytes = pool->used_bytes;
    *out = (float *)b->start;
done:
    return status;
}

/* Joins a block, which no bin and no chain holds, with the free one above it. */
static void join_above(sara_pool *pool, block *b)
{
    block *above = b->above;
    if (!above || !above->free)
        return;
    bin_remove(pool, above);
    b->bytes += above->bytes;
    b->above = above->above;
    b->above->below = b;
    retire(pool, above);
}

/* Takes the topmost block off, and the free one that then comes to light. */
static void unstack(sara_pool *pool, block *b)
{
    chunk *c = b->chunk;
    block *below = b->below;
    c->top -= b->bytes;
    retire(pool, b);
    if (below && below->free) {
        bin_remove(pool, below);
        c->top -= below->bytes;
        b = below;
        below = b->below;
        retire(pool, b);
    }
    c->last = below;
    if (below)
        below->above = NULL;
}

void sara_pool_give(sara_pool *pool, float *data)
{
    uintptr_t start = (uintptr_t)data;
    if (!data)
        return;
    block **at = chain_of(pool, start);
    while ((*at)->start != start) {
        at = &(*at)->next;
        SARA_ASSERT(*at); /* it was taken from here and not given back yet */
    }
    block *b = *at;
    *at = b->next;
    pool->used_bytes -= b->bytes;
    if (!b->above) {
        unstack(pool, b);
        return;
    }
    join_above(pool, b);
    if (b->below && b->below->free) {
        block *below = b->below;
        bin_remove(pool, below);
        below->bytes += b->bytes;
        below->above = b->above;
        b->above->below = below;
        retire(pool, b);
        b = below;
    }
    bin_add(pool, b);
}

void sara_pool_give_all(sara_pool *pool)
{
    for (chunk *c = pool->chunks; c; c = c->next) {
        for (block *b = c->last; b;) {
            block *below = b->below;
            retire(pool, b);
            b = below;
        }
        c->last = NULL;
        c->top = 0;
    }
    memset(pool->bins, 0, sizeof(pool->bins));
    memset(pool->table, 0, sizeof(pool->table));
    pool->used_bytes = 0;
}
