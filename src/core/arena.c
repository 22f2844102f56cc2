#include "core/core.h"

#define BLOCK_SIZE ((size_t)64 * 1024)

struct sara_arena_block {
    struct sara_arena_block *next;
    size_t used, size;
    char *memory;
};

void sara_arena_init(sara_arena *arena, sara_context *ctx)
{
    arena->ctx = ctx;
    arena->head = arena->spare = NULL;
}

static void put_on(struct sara_arena_block **list, struct sara_arena_block *block)
{
    block->next = *list;
    *list = block;
}

static struct sara_arena_block *take_off(struct sara_arena_block **list)
{
    struct sara_arena_block *block = *list;
    *list = block->next;
    return block;
}

/* A spare one, or a new one. */
static sara_status add_block(sara_arena *arena, size_t bytes)
{
    struct sara_arena_block *block = NULL, **spare = &arena->spare;
    size_t size = bytes > BLOCK_SIZE ? bytes : BLOCK_SIZE;
    sara_status status;
    while (*spare && (*spare)->size < bytes)
        spare = &(*spare)->next;
    if (*spare) {
        put_on(&arena->head, take_off(spare));
        return SARA_OK;
    }
    TRY(sara_alloc(arena->ctx, &block, 1, sizeof(*block)));
    TRY(sara_alloc(arena->ctx, &block->memory, size, 1));
    block->used = 0;
    block->size = size;
    put_on(&arena->head, block);
    return SARA_OK;
done:
    sara_free(arena->ctx, block);
    return status;
}

sara_status sara_arena_reserve(sara_arena *arena, size_t bytes)
{
    bool there = arena->head && arena->head->size - arena->head->used >= bytes;
    return there ? SARA_OK : add_block(arena, bytes);
}

sara_status sara_arena_alloc(sara_arena *arena, void *out, size_t count, size_t size)
{
    void *result = NULL;
    size_t bytes;
    memcpy(out, &result, sizeof(result));
    if (count == 0 || size == 0)
        return SARA_OK;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 16)
        return sara_fail(arena->ctx, SARA_ERROR_MEMORY, "out of memory: %zu x %zu bytes", count,
                         size);
    bytes = (bytes + 15) & ~(size_t)15;
    sara_status status = sara_arena_reserve(arena, bytes);
    if (status != SARA_OK)
        return status;
    result = arena->head->memory + arena->head->used;
    arena->head->used += bytes;
    SARA_ASSERT(arena->head->used <= arena->head->size);
    memcpy(out, &result, sizeof(result));
    return SARA_OK;
}

sara_status sara_arena_strdup(sara_arena *arena, const char **out, const char *text)
{
    char *copy;
    size_t size = strlen(text) + 1;
    sara_status status = sara_arena_alloc(arena, &copy, size, 1);
    if (status == SARA_OK)
        memcpy(copy, text, size);
    *out = copy;
    return status;
}

void sara_arena_reset(sara_arena *arena)
{
    while (arena->head) {
        arena->head->used = 0;
        put_on(&arena->spare, take_off(&arena->head));
    }
}

void sara_arena_free(sara_arena *arena)
{
    sara_arena_reset(arena);
    while (arena->spare) {
        struct sara_arena_block *block = take_off(&arena->spare);
        sara_free(arena->ctx, block->memory);
        sara_free(arena->ctx, block);
    }
}
