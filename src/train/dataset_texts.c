#include "train/dataset_texts.h"

#include <stdio.h>

/* ----------------------------------------------------------------------------------------- ids */

/* The image whose caption it is. */
static const char *captioned_image(const sara_dataset_texts *texts, size_t caption)
{
    size_t i = 0;
    while (texts->of[i] != caption)
        i++;
    return texts->data->images[i].path;
}

static sara_status tell_cut_captions(const sara_dataset_texts *texts, bool t5)
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
                 captioned_image(texts, first),
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

/* Numbers the captions, and which of them is just what an image has. */
static sara_status number_captions(sara_dataset_texts *texts)
{
    const sara_data *data = texts->data;
    const char **all = NULL;
    sara_status status;
    TRY(sara_alloc(texts->ctx, &all, data->count, sizeof(*all)));
    TRY(sara_alloc(texts->ctx, &texts->captions, data->count, sizeof(*texts->captions)));
    TRY(sara_alloc(texts->ctx, &texts->of, data->count, sizeof(*texts->of)));
    TRY(sara_alloc_zero(texts->ctx, &texts->fixed, data->count, sizeof(*texts->fixed)));
    for (size_t i = 0; i < data->count; i++)
        all[i] = data->images[i].caption;
    TRY(sara_captions_number(texts->ctx, texts->of, texts->captions, &texts->count, all,
                             data->count));
    for (size_t i = 0; i < data->count; i++)
        if (!data->images[i].varies)
            texts->fixed[texts->of[i]] = true;
done:
    sara_free(texts->ctx, all);
    return status;
}

sara_status sara_dataset_texts_open(sara_dataset_texts *texts, sara_model *model,
                                    const sara_data *data)
{
    const int *widths = model->denoiser->info.denoiser.widths;
    sara_status status;
    *texts = (sara_dataset_texts){.ctx = model->ctx, .model = model, .data = data};
    TRY(sara_model_text_length(model->ctx, &texts->length, model));
    texts->bytes = sizeof(float) * (size_t)(texts->length * widths[SARA_CONDITION_STATES] +
                                            widths[SARA_CONDITION_POOLED]);
    TRY(number_captions(texts));
    TRY(hash_tokens(texts));
    TRY(tell_cut_captions(texts, false));
    TRY(tell_cut_captions(texts, true));
done:
    return status;
}

void sara_dataset_texts_free(sara_dataset_texts *texts)
{
    if (!texts->ctx)
        return;
    sara_dataset_texts_forget(texts);
    sara_free(texts->ctx, texts->stretch.captions);
    sara_free(texts->ctx, texts->stretch.states);
    sara_free(texts->ctx, texts->stretch.slots);
    for (size_t i = 0; texts->states && i < texts->count; i++)
        sara_text_states_free(texts->ctx, &texts->states[i]);
    sara_text_states_free(texts->ctx, &texts->read);
    sara_free(texts->ctx, texts->states);
    sara_free(texts->ctx, texts->names);
    sara_free(texts->ctx, texts->captions);
    sara_free(texts->ctx, texts->fixed);
    sara_free(texts->ctx, texts->of);
    sara_cache_files_close(&texts->files);
    *texts = (sara_dataset_texts){.ctx = NULL};
}

/* -------------------------------------------------------------------------------------- states */

/* The text and what tells its ids: captions of one text have other ids with another tokenizer. */
static sara_status name_text_file(sara_dataset_texts *texts, const char *caption, char name[65])
{
    char *key = NULL, digits[65];
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(texts->ctx, &hash));
    TRY(sara_model_hash_ids(texts->model, hash, caption));
    TRY(sara_sha256_end(&hash, digits));
    TRY(sara_format(texts->ctx, &key, "%s %lld %s", digits, (long long)texts->length, caption));
    TRY(sara_cache_files_name(&texts->files, name, key));
done:
    sara_sha256_abort(&hash);
    sara_free(texts->ctx, key);
    return status;
}

sara_status sara_dataset_texts_encode(sara_dataset_texts *texts, sara_text_states *states,
                                      const char *caption, char name[65], bool keep)
{
    const bool on_disk = texts->files.folder != NULL;
    bool there = false;
    sara_status status = SARA_OK;
    if (on_disk) {
        TRY(name_text_file(texts, caption, name));
        TRY(sara_cache_states_find(&texts->files, &there, name, texts->model, texts->length));
    }
    states->length = texts->length;
    if (there)
        return keep ? sara_cache_states_read(&texts->files, name, texts->model, states) : SARA_OK;
    TRY(sara_model_encode_text(texts->ctx, states, texts->model, caption));
    if (on_disk) {
        TRY(sara_cache_states_write(&texts->files, name, texts->model, states));
        if (!keep)
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
        if (texts->fixed[i])
            TRY(sara_dataset_texts_encode(texts, &texts->states[i], texts->captions[i],
                                          texts->names[i], false));
    }
    sara_cache_files_tell(&texts->files, "captions' states");
done:
    return status;
}

/* Of an image whose caption never varies. */
static sara_status get_fixed(sara_dataset_texts *texts, const sara_text_states **out, size_t image)
{
    const size_t i = texts->of[image];
    *out = &texts->states[i];
    if (texts->states[i].states)
        return SARA_OK;
    *out = &texts->read;
    texts->read.length = texts->length;
    return sara_cache_states_read(&texts->files, texts->names[i], texts->model, &texts->read);
}

sara_status sara_dataset_texts_get(sara_dataset_texts *texts, const sara_text_states **out,
                                   size_t image, uint64_t number, uint64_t epoch)
{
    return texts->data->images[image].varies
               ? sara_dataset_texts_find(texts, out, image, number, epoch)
               : get_fixed(texts, out, image);
}
