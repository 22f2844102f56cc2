#include "train/dataset_texts.h"

#include <stdio.h>

/* ----------------------------------------------------------------------------------------- ids */

/* The image whose caption it is. */
static const char *captioned_image(const sara_dataset_texts *texts, const sara_dataset *dataset,
                                   size_t caption)
{
    size_t i = 0;
    while (texts->of[i] != caption)
        i++;
    return dataset->items[i].path;
}

static sara_status tell_cut_captions(const sara_dataset_texts *texts, const sara_dataset *dataset,
                                     bool t5)
{
    size_t cut = 0, first = 0, longest = 0, count, most = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < texts->count; i++) {
        TRY(sara_model_count_ids(texts->model, &count, &most, t5, texts->captions[i]));
        first = cut == 0 ? i : first;
        cut += count > most;
        longest = count > longest ? count : longest;
    }
    if (cut)
        sara_log(texts->ctx, SARA_LOG_WARNING,
                 "captions are cut at %zu tokens for %s: %zu of %zu, the longest of %zu; the first "
                 "is that of %s%s",
                 most, t5 ? "T5" : "CLIP", cut, texts->count, longest,
                 captioned_image(texts, dataset, first),
                 t5 && most < SARA_MOST_SEQUENCE ? "; --max_sequence_length takes more" : "");
done:
    return status;
}

/* Known without the text encoder. */
static sara_status hash_tokens(sara_dataset_texts *texts)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(texts->ctx, &hash));
    for (size_t i = 0; i < texts->count; i++)
        TRY(sara_model_hash_ids(texts->model, hash, texts->captions[i]));
    TRY(sara_sha256_end(&hash, texts->sha256));
done:
    sara_sha256_abort(&hash);
    return status;
}

sara_status sara_dataset_texts_open(sara_dataset_texts *texts, sara_model *model,
                                    const sara_dataset *dataset)
{
    sara_context *ctx = model->ctx;
    sara_status status;
    *texts = (sara_dataset_texts){.ctx = ctx, .model = model};
    TRY(sara_model_text_length(ctx, &texts->length, model));
    TRY(sara_alloc(ctx, &texts->captions, dataset->count, sizeof(*texts->captions)));
    TRY(sara_alloc(ctx, &texts->of, dataset->count, sizeof(*texts->of)));
    TRY(sara_captions_number(ctx, texts->of, texts->captions, &texts->count, dataset));
    TRY(hash_tokens(texts));
    TRY(tell_cut_captions(texts, dataset, false));
    TRY(tell_cut_captions(texts, dataset, true));
done:
    return status;
}

void sara_dataset_texts_free(sara_dataset_texts *texts)
{
    if (!texts->ctx)
        return;
    for (size_t i = 0; texts->states && i < texts->count; i++)
        sara_text_states_free(texts->ctx, &texts->states[i]);
    sara_text_states_free(texts->ctx, &texts->read);
    sara_free(texts->ctx, texts->states);
    sara_free(texts->ctx, texts->names);
    sara_free(texts->ctx, texts->captions);
    sara_free(texts->ctx, texts->of);
    sara_cache_files_close(&texts->files);
    *texts = (sara_dataset_texts){.ctx = NULL};
}

/* -------------------------------------------------------------------------------------- states */

/* The text and what tells its ids: captions of one text have other ids with another tokenizer. */
static sara_status name_text_file(sara_dataset_texts *texts, size_t i)
{
    char *key = NULL, digits[65];
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(texts->ctx, &hash));
    TRY(sara_model_hash_ids(texts->model, hash, texts->captions[i]));
    TRY(sara_sha256_end(&hash, digits));
    TRY(sara_format(texts->ctx, &key, "%s %lld %s", digits, (long long)texts->length,
                    texts->captions[i]));
    TRY(sara_cache_files_name(&texts->files, texts->names[i], key));
done:
    sara_sha256_abort(&hash);
    sara_free(texts->ctx, key);
    return status;
}

static sara_status encode_caption(sara_dataset_texts *texts, size_t i)
{
    sara_text_states *states = &texts->states[i];
    bool there = false;
    sara_status status;
    if (texts->files.folder) {
        TRY(name_text_file(texts, i));
        TRY(sara_cache_states_find(&texts->files, &there, texts->names[i], texts->model,
                                   texts->length));
        if (there)
            return SARA_OK;
    }
    TRY(sara_model_encode_text(texts->ctx, states, texts->model, texts->captions[i]));
    if (texts->files.folder) {
        TRY(sara_cache_states_write(&texts->files, texts->names[i], texts->model, states));
        sara_text_states_free(texts->ctx, states);
    }
done:
    return status;
}

sara_status sara_dataset_texts_fill(sara_dataset_texts *texts)
{
    sara_status status;
    TRY(sara_alloc_zero(texts->ctx, &texts->states, texts->count, sizeof(*texts->states)));
    TRY(sara_alloc_zero(texts->ctx, &texts->names, texts->count, sizeof(*texts->names)));
    for (size_t i = 0; i < texts->count; i++) {
        if (sara_interrupted(texts->ctx))
            return sara_fail(texts->ctx, SARA_INTERRUPTED, "interrupted before the first step");
        TRY(encode_caption(texts, i));
    }
    sara_cache_files_tell(&texts->files, "captions' states");
done:
    return status;
}

size_t sara_dataset_texts_bytes(const sara_dataset_texts *texts, bool on_disk)
{
    const int *widths = texts->model->denoiser->info.denoiser.widths;
    return (on_disk ? 1 : texts->count) * sizeof(float) *
           (size_t)(texts->length * widths[SARA_CONDITION_STATES] + widths[SARA_CONDITION_POOLED]);
}

sara_status sara_dataset_texts_get(sara_dataset_texts *texts, const sara_text_states **out,
                                   size_t image)
{
    const size_t i = texts->of[image];
    *out = &texts->states[i];
    if (texts->states[i].states)
        return SARA_OK;
    *out = &texts->read;
    texts->read.length = texts->length;
    return sara_cache_states_read(&texts->files, texts->names[i], texts->model, &texts->read);
}
