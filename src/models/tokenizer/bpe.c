#include "models/tokenizer/tokenizer.h"

#define NONE SIZE_MAX

/* A piece of the word; pieces form a list, of which merged ones drop out. */
struct sara_symbol {
    int32_t id; /* -1: dropped out */
    size_t previous, next;
};

/* A pair that could be merged, unless its pieces have changed meanwhile. */
struct sara_candidate {
    uint32_t rank;
    int32_t merged;
    size_t at; /* of the left piece */
};

sara_status sara_merges_new(sara_arena *arena, sara_merges *out, size_t count)
{
    size_t slots = 16;
    while (slots / 2 < count)
        slots *= 2;
    sara_status status = sara_arena_alloc(arena, &out->slots, slots, sizeof(*out->slots));
    if (status != SARA_OK)
        return status;
    for (size_t i = 0; i < slots; i++)
        out->slots[i].left = -1;
    out->mask = slots - 1;
    return SARA_OK;
}

/* The pair's slot or the empty one where it belongs. */
static sara_merge *slot_of(const sara_merges *merges, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u;
    key ^= key >> 29;
    key *= 0xBF58476D1CE4E5B9u;
    for (size_t at = (size_t)(key >> 32) & merges->mask;; at = (at + 1) & merges->mask) {
        sara_merge *slot = &merges->slots[at];
        if (slot->left < 0 || (slot->left == left && slot->right == right))
            return slot;
    }
}

void sara_merges_put(sara_merges *merges, const sara_merge *merge)
{
    *slot_of(merges, merge->left, merge->right) = *merge;
}

const sara_merge *sara_merges_find(const sara_merges *merges, int32_t left, int32_t right)
{
    const sara_merge *slot = slot_of(merges, left, right);
    return slot->left < 0 ? NULL : slot;
}

sara_status sara_token_encoder_push(sara_token_encoder *encoder, int32_t id)
{
    sara_status status = sara_grow(encoder->tokenizer->ctx, &encoder->ids, &encoder->capacity,
                                   encoder->count + 1, sizeof(*encoder->ids));
    if (status == SARA_OK)
        encoder->ids[encoder->count++] = id;
    return status;
}

/* ------------------------------------------------------------------------------------- heap */

static bool before(const struct sara_candidate *a, const struct sara_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct sara_candidate *heap, size_t *count, struct sara_candidate item)
{
    size_t at = (*count)++;
    while (at > 0 && before(&item, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static struct sara_candidate heap_pop(struct sara_candidate *heap, size_t *count)
{
    struct sara_candidate top = heap[0], last = heap[--*count];
    size_t at = 0;
    for (size_t child = 1; child < *count; child = 2 * at + 1) {
        if (child + 1 < *count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* ------------------------------------------------------------------------------------- word */

/* Notes that the piece at `at` and the next one can be merged, if they can. */
static void consider(sara_token_encoder *encoder, size_t *waiting, size_t at)
{
    const struct sara_symbol *symbol = &encoder->symbols[at];
    if (symbol->next == NONE)
        return;
    const sara_merge *merge = sara_merges_find(&encoder->tokenizer->merges, symbol->id,
                                               encoder->symbols[symbol->next].id);
    if (merge)
        heap_push(encoder->heap, waiting, (struct sara_candidate){merge->rank, merge->merged, at});
}

/* Merges by rank, then from left to right. A candidate is stale unless its pieces would still
 * give the same token; this is the tokenizers library's rule, which odd vocabularies can tell
 * from merging every occurrence of one pair at a time. */
static void merge_all(sara_token_encoder *encoder, size_t waiting)
{
    struct sara_symbol *symbols = encoder->symbols;
    while (waiting > 0) {
        struct sara_candidate top = heap_pop(encoder->heap, &waiting);
        struct sara_symbol *left = &symbols[top.at];
        if (left->id < 0 || left->next == NONE)
            continue;
        struct sara_symbol *right = &symbols[left->next];
        const sara_merge *merge =
            sara_merges_find(&encoder->tokenizer->merges, left->id, right->id);
        if (!merge || merge->merged != top.merged)
            continue;
        left->id = top.merged;
        right->id = -1;
        left->next = right->next;
        if (left->next != NONE)
            symbols[left->next].previous = top.at;
        if (left->previous != NONE)
            consider(encoder, &waiting, left->previous);
        consider(encoder, &waiting, top.at);
    }
}

sara_status sara_token_encoder_word(sara_token_encoder *encoder, const char *word, size_t size)
{
    const sara_tokenizer *tokenizer = encoder->tokenizer;
    size_t waiting = 0;
    sara_status status = SARA_OK;
    if (size > SIZE_MAX / 2)
        return sara_fail(tokenizer->ctx, SARA_ERROR_MEMORY, "out of memory: a word of %zu bytes",
                         size);
    TRY(sara_grow(tokenizer->ctx, &encoder->symbols, &encoder->symbols_capacity, size,
                  sizeof(*encoder->symbols)));
    /* One candidate per pair at first; each merge takes one out and puts at most two in. */
    TRY(sara_grow(tokenizer->ctx, &encoder->heap, &encoder->heap_capacity, 2 * size,
                  sizeof(*encoder->heap)));
    for (size_t i = 0; i < size; i++)
        encoder->symbols[i] =
            (struct sara_symbol){tokenizer->bytes[i + 1 == size][(unsigned char)word[i]],
                                 i == 0 ? NONE : i - 1, i + 1 == size ? NONE : i + 1};
    for (size_t i = 0; i < size; i++)
        consider(encoder, &waiting, i);
    merge_all(encoder, waiting);
    for (size_t i = 0; i != NONE; i = encoder->symbols[i].next)
        TRY(sara_token_encoder_push(encoder, encoder->symbols[i].id));
done:
    return status;
}
