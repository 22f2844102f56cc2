/* Images and captions, encoded once: latents' mean and log-variance (also of the flipped image) and
 * text states. Where the crop is random the pixels are encoded anew each time. */
#include "train/dataset_cache.h"

#include "models/vae.h"

#include <math.h>
#include <stdio.h>

const sara_source *sara_dataset_cache_source(const sara_dataset_cache *cache)
{
    return &cache->source;
}

sara_batch sara_dataset_cache_shape(const sara_dataset_cache *cache, int64_t samples)
{
    return sara_batch_shape_for(&cache->model->denoiser->info.denoiser,
                                sara_shape4(samples, cache->channels, cache->side, cache->side),
                                cache->texts.length);
}

void sara_dataset_cache_free(sara_dataset_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; cache->moments && i < cache->dataset.count; i++)
        sara_free(cache->ctx, cache->moments[i]);
    sara_free(cache->ctx, cache->moments);
    sara_free(cache->ctx, cache->ends);
    sara_free(cache->ctx, cache->sizes);
    sara_free(cache->ctx, cache->contents);
    sara_dataset_texts_free(&cache->texts);
    sara_cache_files_close(&cache->files);
    sara_free(cache->ctx, cache->pixels);
    sara_free(cache->ctx, cache->fresh);
    sara_tape_free(cache->tape);
    sara_dataset_free(&cache->dataset);
    sara_free(cache->ctx, cache);
}

/* --------------------------------------------------------------------------------------- cache */

static sara_status choose_resolution(sara_dataset_cache *cache, const sara_train_options *options)
{
    const sara_denoiser_info *info = &cache->model->denoiser->info.denoiser;
    int factor = cache->model->vae->info.vae.factor;
    int sample =
        info->sample_height > info->sample_width ? info->sample_height : info->sample_width;
    sara_status status = SARA_OK;
    cache->source.resolution = options->resolution ? options->resolution : sample * factor;
    cache->side = cache->source.resolution / factor;
    cache->channels = info->in_channels;
    cache->size = cache->channels * cache->side * cache->side;
    if (!options->resolution)
        TRY(sara_model_check_sample_size(cache->ctx, cache->model, "--resolution"));
    TRY(sara_model_check_size(cache->ctx, cache->model, cache->source.resolution,
                              cache->source.resolution, "--resolution"));
done:
    return status;
}

static sara_status count_elements(sara_dataset_cache *cache)
{
    int64_t end = 0;
    sara_status status;
    TRY(sara_alloc(cache->ctx, &cache->ends, cache->dataset.count, sizeof(*cache->ends)));
    for (size_t i = 0; i < cache->dataset.count; i++)
        cache->ends[i] = end += cache->dataset.items[i].repeats;
done:
    return status;
}

/* What is kept of images and texts, and what is not. */
static void fill_source(sara_dataset_cache *cache, const sara_train_options *options)
{
    size_t copies = options->cache_latents_to_disk ? 0 : cache->random_flip ? 2 : 1, floats = 0;
    cache->source.images = (int64_t)cache->dataset.count;
    cache->source.items = cache->ends[cache->dataset.count - 1];
    for (size_t i = 0; i < cache->dataset.count; i++)
        if (sara_dataset_crops_anew(cache, i))
            cache->source.encodes_anew = true;
        else
            floats += copies * 2 * (size_t)cache->size;
    cache->source.bytes =
        floats * sizeof(float) +
        sara_dataset_texts_bytes(&cache->texts, options->cache_text_encoder_outputs_to_disk);
    memcpy(cache->source.tokens_sha256, cache->texts.sha256, sizeof(cache->texts.sha256));
}

static sara_status open_dataset(sara_dataset_cache *cache, const sara_train_options *options)
{
    const sara_dataset_options source = {.folder = options->train_data_dir,
                                         .caption_column = options->caption_column,
                                         .caption_prefix = options->caption_prefix,
                                         .caption_extension = options->caption_extension,
                                         .instance_prompt = options->instance_prompt,
                                         .output_dir = options->output_dir};
    size_t count;
    sara_status status;
    TRY(choose_resolution(cache, options));
    TRY(sara_dataset_scan(cache->ctx, &cache->dataset, &source));
    count = cache->dataset.count;
    TRY(count_elements(cache));
    TRY(sara_alloc(cache->ctx, &cache->sizes, count, sizeof(*cache->sizes)));
    TRY(sara_dataset_check_images(cache->ctx, cache->sizes, &cache->dataset,
                                  cache->source.resolution));
    TRY(sara_alloc_zero(cache->ctx, &cache->moments, count, sizeof(*cache->moments)));
    TRY(sara_alloc(cache->ctx, &cache->contents, count, sizeof(*cache->contents)));
    TRY(sara_dataset_texts_open(&cache->texts, cache->model, &cache->dataset));
    TRY(sara_dataset_hash(cache->ctx, cache->source.sha256, cache->contents, &cache->dataset));
    fill_source(cache, options);
done:
    return status;
}

sara_status sara_dataset_cache_new(sara_context *ctx, sara_dataset_cache **out, sara_model *model,
                                   const sara_train_options *options)
{
    sara_dataset_cache *cache = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &cache, 1, sizeof(*cache)));
    cache->ctx = ctx;
    cache->model = model;
    cache->center_crop = options->center_crop;
    cache->random_flip = options->random_flip;
    cache->seed = options->seed;
    TRY(open_dataset(cache, options));
    *out = cache;
    return SARA_OK;
done:
    sara_dataset_cache_free(cache);
    return status;
}

sara_status sara_dataset_cache_open_files(sara_dataset_cache *cache,
                                          const sara_train_options *options, const json_t *identity)
{
    char *folder = NULL;
    sara_status status = SARA_OK;
    if (!options->cache_latents_to_disk && !options->cache_text_encoder_outputs_to_disk)
        return SARA_OK;
    TRY(sara_cache_folder(cache->ctx, &folder, options));
    if (options->cache_latents_to_disk)
        TRY(sara_cache_files_open(&cache->files, folder, "latents", cache->model, SARA_STAGE_IMAGES,
                                  identity));
    if (options->cache_text_encoder_outputs_to_disk)
        TRY(sara_cache_files_open(&cache->texts.files, folder, "states", cache->model,
                                  SARA_STAGE_TEXT, identity));
done:
    sara_free(cache->ctx, folder);
    return status;
}

sara_status sara_dataset_cache_fill(sara_dataset_cache *cache)
{
    size_t pixels = (size_t)cache->source.resolution * (size_t)cache->source.resolution;
    sara_status status;
    TRY(sara_alloc(cache->ctx, &cache->pixels, pixels, 3 * sizeof(float)));
    TRY(sara_alloc(cache->ctx, &cache->fresh, (size_t)cache->size, 2 * sizeof(float)));
    TRY(sara_tape_new(cache->ctx, &cache->tape, cache->model->device));
    TRY(sara_dataset_texts_fill(&cache->texts));
    sara_model_give_back(cache->model, ~(unsigned)SARA_STAGE_TEXT);
    TRY(sara_dataset_moments_fill(cache));
    sara_tape_trim(cache->tape);
done:
    return status;
}

/* The image whose elements the place in an epoch, not shuffled, belongs to. */
static size_t find_image(const sara_dataset_cache *cache, int64_t place)
{
    size_t low = 0, high = cache->dataset.count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cache->ends[middle] <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The image of an element of the endless sequence of epochs. */
static size_t image_of(const sara_dataset_cache *cache, int64_t element)
{
    const uint64_t count = (uint64_t)cache->source.items;
    return find_image(cache, (int64_t)sara_epoch_place(cache->seed, count, (uint64_t)element));
}

/* latents [size] = (mean + exp(logvar / 2) * noise - shift) * scaling factor; noise is in latents.
 */
static void sample_posterior(const sara_dataset_cache *cache, float *latents, const float *moments)
{
    const sara_vae_info *info = &cache->model->vae->info.vae;
    for (int64_t i = 0; i < cache->size; i++) {
        float deviation = expf(0.5f * moments[cache->size + i]);
        float sample = moments[i] + deviation * latents[i];
        latents[i] = (float)((sample - info->shift_factor) * info->scaling_factor);
    }
}

/* sample's values of an array of the batch = values */
static void set_sample(const sara_tensor *array, int64_t sample, const float *values)
{
    if (array->shape.rank) {
        size_t count = (size_t)(sara_shape_count(&array->shape) / array->shape.dims[0]);
        memcpy((float *)array->data + (size_t)sample * count, values, count * sizeof(*values));
    }
}

sara_status sara_dataset_cache_get(sara_dataset_cache *cache, const sara_batch *batch,
                                   int64_t first)
{
    float time_ids[SARA_TIME_IDS];
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < batch->latents.shape.dims[0]; i++) {
        const int64_t element = first + i;
        float *latents = (float *)batch->latents.data + i * cache->size;
        const sara_text_states *text;
        const float *moments;
        size_t index = image_of(cache, element);
        TRY(sara_dataset_moments_of(cache, &moments, index, element));
        sara_draw_normal(latents, (size_t)cache->size, cache->seed, SARA_DRAW_POSTERIOR,
                         (uint64_t)element);
        sample_posterior(cache, latents, moments);
        TRY(sara_dataset_texts_get(&cache->texts, &text, index));
        set_sample(&batch->condition[SARA_CONDITION_STATES], i, text->states);
        set_sample(&batch->condition[SARA_CONDITION_POOLED], i, text->pooled);
        sara_dataset_time_ids_of(cache, time_ids, index, element);
        set_sample(&batch->condition[SARA_CONDITION_TIME_IDS], i, time_ids);
    }
done:
    return status;
}
