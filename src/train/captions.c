/* The distinct captions of a data set: each is encoded once. */
#include "train/dataset_texts.h"

size_t sara_captions_find(const size_t *slots, size_t mask, const char *const *distinct,
                          const char *caption)
{
    size_t at = (size_t)sara_hash_bytes(caption, strlen(caption)) & mask;
    while (slots[at] && strcmp(distinct[slots[at] - 1], caption) != 0)
        at = (at + 1) & mask;
    return at;
}

sara_status sara_captions_number(sara_context *ctx, size_t *numbers, const char **distinct,
                                 size_t *distinct_count, const char *const *captions, size_t count)
{
    size_t mask = 1, *slots = NULL;
    sara_status status;
    *distinct_count = 0;
    while (mask < 2 * count) /* at most half of the slots are taken */
        mask = 2 * mask + 1;
    TRY(sara_alloc_zero(ctx, &slots, mask + 1, sizeof(*slots)));
    for (size_t i = 0; i < count; i++) {
        size_t at = sara_captions_find(slots, mask, distinct, captions[i]);
        if (!slots[at]) {
            distinct[*distinct_count] = captions[i];
            slots[at] = ++*distinct_count;
        }
        numbers[i] = slots[at] - 1;
    }
done:
    sara_free(ctx, slots);
    return status;
}
