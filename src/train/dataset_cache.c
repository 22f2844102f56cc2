/* Images and captions, encoded once: latents' mean and log-variance (also of the flipped image) and
 * text states. Where the crop is random the pixels are encoded anew each time. */
#include "train/train.h"

#include "core/trace.h"
#include "models/vae.h"

#include <math.h>
#include <stdio.h>

struct sara_dataset_cache {
    sara_context *ctx;
    sara_model *model;
    sara_dataset dataset;
    /* Of each image [1 or 2][2][channels][height][width]: mean, log-variance; as is, flipped. NULL:
     * drawn anew. */
    float **moments;
    int64_t *ends;         /* of an item's elements in an epoch, counted from its start */
    const char **captions; /* the distinct ones; text_of: which of them an image has */
    size_t *text_of;
    sara_text_states *texts; /* of those */
    size_t text_count;
    sara_image_sizes *sizes; /* of each image */
    bool center_crop, random_flip;
    uint64_t seed;
    int64_t channels, side, size; /* of a latent; size in floats */
    int64_t length;               /* states of a caption */
    sara_tape *tape;
    float *pixels; /* [3][resolution][resolution] */
    float *fresh;  /* [2][size]: moments of an image that is not cached */
    sara_source source;
};

/* A square's crop is no choice. */
static bool encodes_anew(const sara_dataset_cache *cache, size_t index)
{
    const sara_image_sizes *sizes = &cache->sizes[index];
    return sizes->resized_width != sizes->resized_height && !cache->center_crop;
}

const sara_source *sara_dataset_cache_source(const sara_dataset_cache *cache)
{
    return &cache->source;
}

sara_batch sara_dataset_cache_shape(const sara_dataset_cache *cache, int64_t samples)
{
    return sara_batch_shape_for(&cache->model->denoiser->info.denoiser,
                                sara_shape4(samples, cache->channels, cache->side, cache->side),
                                cache->length);
}

void sara_dataset_cache_free(sara_dataset_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; cache->moments && i < cache->dataset.count; i++)
        sara_free(cache->ctx, cache->moments[i]);
    for (size_t i = 0; cache->texts && i < cache->text_count; i++)
        sara_text_states_free(cache->ctx, &cache->texts[i]);
    sara_free(cache->ctx, cache->moments);
    sara_free(cache->ctx, cache->ends);
    sara_free(cache->ctx, cache->sizes);
    sara_free(cache->ctx, cache->captions);
    sara_free(cache->ctx, cache->text_of);
    sara_free(cache->ctx, cache->texts);
    sara_free(cache->ctx, cache->pixels);
    sara_free(cache->ctx, cache->fresh);
    sara_tape_free(cache->tape);
    sara_dataset_free(&cache->dataset);
    sara_free(cache->ctx, cache);
}

/* -------------------------------------------------------------------------------------- pixels */

/* torchvision's CenterCrop. */
static int cache_center(int whole, int side)
{
    return (int)lrint((whole - side) / 2.0);
}

/* out [2][size]: mean and log-variance of the cropped pixels. */
static sara_status encode_pixels(const sara_dataset_cache *cache, float *out)
{
    sara_shape shape = sara_shape4(1, 3, cache->source.resolution, cache->source.resolution);
    const float *values;
    sara_var *image, *mean, *logvar;
    size_t bytes = (size_t)cache->size * sizeof(*out);
    sara_status status;
    TRY(sara_model_need(cache->model, SARA_STAGE_IMAGES));
    TRY(sara_tape_leaf(cache->tape, &image, &shape, cache->pixels, false));
    TRY(sara_vae_encode(cache->tape, &mean, &logvar, cache->model->vae, image));
    TRY(sara_tape_read(cache->tape, &values, mean));
    memcpy(out, values, bytes);
    TRY(sara_tape_read(cache->tape, &values, logvar));
    memcpy(out + cache->size, values, bytes);
done:
    sara_tape_reset(cache->tape);
    return status;
}

static void cache_report(const sara_dataset_cache *cache, size_t done, double started)
{
    double seconds = sara_clock() - started;
    double rate = (double)done / (seconds + 1e-9);
    sara_progress progress = {"cache",
                              (int64_t)done,
                              (int64_t)cache->dataset.count,
                              NAN,
                              NAN,
                              rate,
                              (double)(cache->dataset.count - done) / rate};
    sara_report_progress(cache->ctx, &progress);
}

static sara_status cache_image(sara_dataset_cache *cache, size_t index)
{
    sara_image image = {0};
    const int copies = cache->random_flip ? 2 : 1, side = cache->source.resolution;
    float *moments = NULL;
    sara_status status;
    if (encodes_anew(cache, index))
        return SARA_OK;
    TRY(sara_dataset_image_load(cache->ctx, &image, cache->dataset.items[index].path, side));
    TRY(sara_alloc(cache->ctx, &moments, (size_t)copies * 2,
                   (size_t)cache->size * sizeof(*moments)));
    for (int flip = 0; flip < copies; flip++) {
        sara_dataset_image_crop(cache->pixels, &image, side, cache_center(image.width, side),
                                cache_center(image.height, side), flip != 0);
        TRY(encode_pixels(cache, moments + flip * 2 * cache->size));
    }
    cache->moments[index] = moments;
    moments = NULL;
done:
    sara_free(cache->ctx, moments);
    sara_image_clear(cache->ctx, &image);
    return status;
}

static sara_status cache_images(sara_dataset_cache *cache)
{
    sara_status status = SARA_OK;
    size_t uncached = 0;
    double started = sara_clock();
    for (size_t i = 0; i < cache->dataset.count; i++) {
        if (sara_interrupted(cache->ctx))
            return sara_fail(cache->ctx, SARA_INTERRUPTED, "interrupted before the first step");
        TRY(cache_image(cache, i));
        uncached += encodes_anew(cache, i);
        cache_report(cache, i + 1, started);
    }
    if (uncached)
        sara_log(cache->ctx, SARA_LOG_INFO,
                 "%zu of %zu images are cropped at random and encoded at each step; --center_crop "
                 "is faster",
                 uncached, cache->dataset.count);
done:
    return status;
}

/* Where the crop begins that is drawn for an element, on an axis: 0 across, 1 down. */
static int draw_crop(const sara_dataset_cache *cache, int whole, int64_t element, uint32_t axis)
{
    uint64_t places = (uint64_t)(whole - cache->source.resolution) + 1;
    return (int)sara_draw_below(places, cache->seed, SARA_DRAW_CROP, (uint64_t)element, axis);
}

/* The moments of an element whose crop is drawn. */
static sara_status encode_fresh(sara_dataset_cache *cache, size_t index, int64_t element, bool flip)
{
    sara_image image = {0};
    sara_status status;
    TRY(sara_dataset_image_load(cache->ctx, &image, cache->dataset.items[index].path,
                                cache->source.resolution));
    sara_dataset_image_crop(cache->pixels, &image, cache->source.resolution,
                            draw_crop(cache, image.width, element, 0),
                            draw_crop(cache, image.height, element, 1), flip);
    TRY(encode_pixels(cache, cache->fresh));
done:
    sara_image_clear(cache->ctx, &image);
    return status;
}

/* ---------------------------------------------------------------------------------------- text */

/* Known without the text encoder: their hash, and how many are cut. */
static sara_status read_tokens(sara_dataset_cache *cache)
{
    const sara_tokenizer *tokenizer = sara_model_tokenizer(cache->model);
    size_t length = (size_t)sara_tokenizer_length(tokenizer);
    size_t cut_captions = 0, cut;
    sara_sha256 *hash = NULL;
    int32_t *ids = NULL;
    sara_status status;
    TRY(sara_sha256_new(cache->ctx, &hash));
    TRY(sara_alloc(cache->ctx, &ids, length, sizeof(*ids)));
    for (size_t i = 0; i < cache->text_count; i++) {
        TRY(sara_tokenizer_pad(tokenizer, ids, &cut, cache->captions[i]));
        TRY(sara_sha256_add(hash, ids, length * sizeof(*ids)));
        cut_captions += cut > 0;
    }
    TRY(sara_sha256_end(&hash, cache->source.tokens_sha256));
    if (cut_captions)
        sara_log(cache->ctx, SARA_LOG_WARNING,
                 "%zu captions are longer than %zu tokens and were cut", cut_captions, length);
done:
    sara_sha256_abort(&hash);
    sara_free(cache->ctx, ids);
    return status;
}

static sara_status cache_texts(sara_dataset_cache *cache)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < cache->text_count; i++) {
        if (sara_interrupted(cache->ctx))
            return sara_fail(cache->ctx, SARA_INTERRUPTED, "interrupted before the first step");
        TRY(sara_model_encode_text(cache->ctx, &cache->texts[i], cache->model, cache->captions[i]));
    }
done:
    return status;
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
static void fill_source(sara_dataset_cache *cache)
{
    const int *widths = cache->model->denoiser->info.denoiser.widths;
    size_t floats = cache->text_count * (size_t)(cache->length * widths[SARA_CONDITION_STATES] +
                                                 widths[SARA_CONDITION_POOLED]);
    cache->source.images = (int64_t)cache->dataset.count;
    cache->source.items = cache->ends[cache->dataset.count - 1];
    for (size_t i = 0; i < cache->dataset.count; i++)
        if (encodes_anew(cache, i))
            cache->source.encodes_anew = true;
        else
            floats += (cache->random_flip ? 4 : 2) * (size_t)cache->size;
    cache->source.bytes = floats * sizeof(float);
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
    TRY(sara_alloc(cache->ctx, &cache->captions, count, sizeof(*cache->captions)));
    TRY(sara_alloc(cache->ctx, &cache->text_of, count, sizeof(*cache->text_of)));
    TRY(sara_captions_number(cache->ctx, cache->text_of, cache->captions, &cache->text_count,
                             &cache->dataset));
    TRY(read_tokens(cache));
    TRY(sara_dataset_hash(cache->ctx, cache->source.sha256, &cache->dataset));
    fill_source(cache);
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
    TRY(sara_model_text_length(ctx, &cache->length, model));
    TRY(open_dataset(cache, options));
    *out = cache;
    return SARA_OK;
done:
    sara_dataset_cache_free(cache);
    return status;
}

sara_status sara_dataset_cache_fill(sara_dataset_cache *cache)
{
    size_t pixels = (size_t)cache->source.resolution * (size_t)cache->source.resolution;
    sara_status status;
    TRY(sara_alloc_zero(cache->ctx, &cache->texts, cache->text_count, sizeof(*cache->texts)));
    TRY(sara_alloc(cache->ctx, &cache->pixels, pixels, 3 * sizeof(float)));
    TRY(sara_alloc(cache->ctx, &cache->fresh, (size_t)cache->size, 2 * sizeof(float)));
    TRY(sara_tape_new(cache->ctx, &cache->tape, cache->model->device));
    TRY(cache_texts(cache));
    sara_model_give_back(cache->model, ~(unsigned)SARA_STAGE_TEXT);
    TRY(cache_images(cache));
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

static bool draws_flip(const sara_dataset_cache *cache, int64_t element)
{
    return cache->random_flip &&
           sara_draw_below(2, cache->seed, SARA_DRAW_FLIP, (uint64_t)element, 0) == 1;
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

/* What an element's picture is, as diffusers' train_text_to_image_sdxl.py tells it: where its crop
 * lies after it was resized, and mirrored if it is. */
static void tell_picture(const sara_dataset_cache *cache, float *out, size_t index, int64_t element,
                         bool flip)
{
    const sara_image_sizes *sizes = &cache->sizes[index];
    const int side = cache->source.resolution, wide = sizes->resized_width;
    const int high = sizes->resized_height;
    const bool drawn = encodes_anew(cache, index);
    int left = drawn ? draw_crop(cache, wide, element, 0) : cache_center(wide, side);
    int top = drawn ? draw_crop(cache, high, element, 1) : cache_center(high, side);
    if (flip)
        left = wide - side - left;
    const int ids[SARA_TIME_IDS] = {sizes->height, sizes->width, top, left, side, side};
    for (int i = 0; i < SARA_TIME_IDS; i++)
        out[i] = (float)ids[i];
}

sara_status sara_dataset_cache_get(sara_dataset_cache *cache, const sara_batch *batch,
                                   int64_t first)
{
    float time_ids[SARA_TIME_IDS];
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < batch->latents.shape.dims[0]; i++) {
        const int64_t element = first + i;
        float *latents = (float *)batch->latents.data + i * cache->size;
        size_t index = image_of(cache, element);
        bool flip = draws_flip(cache, element);
        const float *moments = cache->fresh;
        if (cache->moments[index])
            moments = cache->moments[index] + (flip ? 2 * cache->size : 0);
        else
            TRY(encode_fresh(cache, index, element, flip));
        sara_draw_normal(latents, (size_t)cache->size, cache->seed, SARA_DRAW_POSTERIOR,
                         (uint64_t)element);
        sample_posterior(cache, latents, moments);
        const sara_text_states *text = &cache->texts[cache->text_of[index]];
        set_sample(&batch->condition[SARA_CONDITION_STATES], i, text->states);
        set_sample(&batch->condition[SARA_CONDITION_POOLED], i, text->pooled);
        tell_picture(cache, time_ids, index, element, flip);
        set_sample(&batch->condition[SARA_CONDITION_TIME_IDS], i, time_ids);
    }
done:
    return status;
}
