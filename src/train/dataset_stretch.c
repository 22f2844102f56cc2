/* Captions that vary: what the next micro-batches have is encoded at once, as many as some memory
 * holds, and forgotten for the next stretch. */
#include "train/dataset_texts.h"

#define STRETCH_BYTES ((size_t)64 << 20)
#define LEAST_STRETCH 64 /* captions, however long they are */

static size_t stretch_limit(const sara_dataset_texts *texts)
{
    const size_t fit = STRETCH_BYTES / texts->bytes;
    return fit > LEAST_STRETCH ? fit : LEAST_STRETCH;
}

size_t sara_dataset_texts_bytes(const sara_dataset_texts *texts, bool on_disk)
{
    size_t fixed = 0, varying = 0;
    for (size_t i = 0; i < texts->count; i++)
        fixed += texts->fixed[i];
    for (size_t i = 0; i < texts->data->count && !varying; i++)
        varying = texts->data->images[i].varies ? stretch_limit(texts) : 0;
    return (varying + (on_disk ? 1 : fixed)) * texts->bytes;
}

void sara_dataset_texts_forget(sara_dataset_texts *texts)
{
    sara_text_stretch *s = &texts->stretch;
    for (size_t i = 0; i < s->count; i++) {
        sara_free(texts->ctx, s->captions[i]);
        sara_text_states_free(texts->ctx, &s->states[i]);
    }
    s->count = 0;
    if (s->slots)
        memset(s->slots, 0, (s->mask + 1) * sizeof(*s->slots));
}

bool sara_dataset_texts_full(const sara_dataset_texts *texts)
{
    return texts->stretch.count >= stretch_limit(texts);
}

/* Twice as many slots, at most half of which are taken. */
static sara_status grow_stretch(sara_dataset_texts *texts)
{
    sara_text_stretch *s = &texts->stretch;
    const size_t mask = s->slots ? 2 * s->mask + 1 : 255;
    size_t *slots;
    sara_status status = SARA_OK;
    TRY(sara_grow(texts->ctx, &s->captions, &s->capacity, s->count + 1, sizeof(*s->captions)));
    TRY(sara_grow(texts->ctx, &s->states, &s->states_capacity, s->count + 1, sizeof(*s->states)));
    if (s->slots && 2 * (s->count + 1) <= s->mask)
        return SARA_OK;
    TRY(sara_alloc_zero(texts->ctx, &slots, mask + 1, sizeof(*slots)));
    for (size_t i = 0; i < s->count; i++)
        slots[sara_captions_find(slots, mask, (const char *const *)s->captions, s->captions[i])] =
            i + 1;
    sara_free(texts->ctx, s->slots);
    s->slots = slots;
    s->mask = mask;
done:
    return status;
}

sara_status sara_dataset_texts_want(sara_dataset_texts *texts, size_t image, uint64_t number,
                                    uint64_t epoch)
{
    sara_text_stretch *s = &texts->stretch;
    char *caption = NULL;
    sara_status status;
    if (!texts->data->images[image].varies)
        return SARA_OK;
    TRY(sara_data_caption(texts->data, &caption, image, number, epoch));
    TRY(grow_stretch(texts));
    const size_t at =
        sara_captions_find(s->slots, s->mask, (const char *const *)s->captions, caption);
    if (!s->slots[at]) {
        s->states[s->count] = (sara_text_states){0};
        s->captions[s->count] = caption;
        caption = NULL;
        s->slots[at] = ++s->count;
    }
done:
    sara_free(texts->ctx, caption);
    return status;
}

sara_status sara_dataset_texts_encode_wanted(sara_dataset_texts *texts, bool *whole, size_t least)
{
    sara_text_stretch *s = &texts->stretch;
    char name[65];
    size_t i = 0;
    sara_status status = SARA_OK;
    for (; i < s->count && (i < least || !sara_interrupted(texts->ctx)); i++)
        TRY(sara_dataset_texts_encode(texts, &s->states[i], s->captions[i], name, true));
    *whole = i == s->count;
done:
    return status;
}

sara_status sara_dataset_texts_find(const sara_dataset_texts *texts, const sara_text_states **out,
                                    size_t image, uint64_t number, uint64_t epoch)
{
    const sara_text_stretch *s = &texts->stretch;
    char *caption;
    const sara_status status = sara_data_caption(texts->data, &caption, image, number, epoch);
    if (status != SARA_OK)
        return status;
    const size_t at =
        sara_captions_find(s->slots, s->mask, (const char *const *)s->captions, caption);
    *out = &s->states[s->slots[at] - 1];
    sara_free(texts->ctx, caption);
    return SARA_OK;
}
