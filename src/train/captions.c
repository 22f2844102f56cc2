/* The distinct captions of a data set: each is encoded once. */
#include "train/train.h"

/* The slot of the caption, or the free one where it belongs. slots [mask + 1]: 1 + a number; 0:
 * free */
static size_t find_caption(const size_t *slots, size_t mask, const char *const *distinct,
                           const char *caption)
{
    size_t at = (size_t)sara_hash_bytes(caption, strlen(caption)) & mask;
    while (slots[at] && strcmp(distinct[slots[at] - 1], caption) != 0)
        at = (at + 1) & mask;
    return at;
}

sara_status sara_captions_number(sara_context *ctx, size_t *numbers, const char **distinct,
                                 size_t *distinct_count, const sara_dataset *dataset)
{
    size_t mask = 1, *slots = NULL;
    sara_status status;
    *distinct_count = 0;
    while (mask < 2 * dataset->count) /* at most half of the slots are taken */
        mask = 2 * mask + 1;
    TRY(sara_alloc_zero(ctx, &slots, mask + 1, sizeof(*slots)));
    for (size_t i = 0; i < dataset->count; i++) {
        const char *caption = dataset->items[i].caption;
        size_t at = find_caption(slots, mask, distinct, caption);
        if (!slots[at]) {
            distinct[*distinct_count] = caption;
            slots[at] = ++*distinct_count;
        }
        numbers[i] = slots[at] - 1;
    }
done:
    sara_free(ctx, slots);
    return status;
}
