/* Moments of images' latents: in memory, in files, or encoded at each step where the crop is
 * drawn. */
#include "train/dataset_cache.h"

#include "core/trace.h"
#include "models/vae.h"

#include <math.h>

bool sara_dataset_crops_anew(const sara_dataset_cache *cache, size_t index)
{
    const sara_image_sizes *sizes = &cache->sizes[index]; /* a square's crop is no choice */
    return sizes->resized_width != sizes->resized_height && !cache->center_crop;
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

/* ---------------------------------------------------------------------------- latents in files */

static const char moments_key[] = "moments";

static sara_tensor_source moments_tensor(const sara_dataset_cache *cache, const float *moments)
{
    return (sara_tensor_source){moments_key, SARA_F32,
                                sara_shape4(2, cache->channels, cache->side, cache->side), moments};
}

static sara_status name_moments(const sara_dataset_cache *cache, char name[65], size_t index,
                                int flip)
{
    const sara_name key = sara_name_of("%s %d %s", cache->contents[index], cache->source.resolution,
                                       flip ? "flipped" : "");
    return sara_cache_files_name(&cache->files, name, key.text);
}

/* *there: of all that are wanted of the image. */
static sara_status find_moments(sara_dataset_cache *cache, bool *there, size_t index)
{
    const sara_tensor_source tensor = moments_tensor(cache, NULL);
    char name[65];
    sara_status status = SARA_OK;
    *there = cache->files.folder != NULL;
    for (int flip = 0; *there && flip <= cache->random_flip; flip++) {
        TRY(name_moments(cache, name, index, flip));
        TRY(sara_cache_files_find(&cache->files, there, name, &tensor, 1));
    }
done:
    return status;
}

/* moments [1 or 2][2][size], of the image as it is and flipped */
static sara_status write_moments(sara_dataset_cache *cache, const float *moments, size_t index)
{
    char name[65];
    sara_status status = SARA_OK;
    for (int flip = 0; flip <= cache->random_flip; flip++) {
        const sara_tensor_source tensor = moments_tensor(cache, moments + flip * 2 * cache->size);
        TRY(name_moments(cache, name, index, flip));
        TRY(sara_cache_files_write(&cache->files, name, &tensor, 1));
    }
done:
    return status;
}

/* To cache->fresh. */
static sara_status load_moments(const sara_dataset_cache *cache, size_t index, bool flip)
{
    char name[65];
    sara_status status;
    TRY(name_moments(cache, name, index, flip));
    TRY(sara_cache_files_read(&cache->files, name, moments_key, cache->fresh,
                              2 * (size_t)cache->size));
done:
    return status;
}

/* ------------------------------------------------------------------------------- once for all */

static sara_status cache_image(sara_dataset_cache *cache, size_t index)
{
    sara_image image = {0};
    const int copies = cache->random_flip ? 2 : 1, side = cache->source.resolution;
    float *moments = NULL;
    bool there;
    sara_status status;
    if (sara_dataset_crops_anew(cache, index))
        return SARA_OK;
    TRY(find_moments(cache, &there, index));
    if (there)
        return SARA_OK;
    TRY(sara_dataset_image_load(cache->ctx, &image, cache->dataset.items[index].path, side));
    TRY(sara_alloc(cache->ctx, &moments, (size_t)copies * 2,
                   (size_t)cache->size * sizeof(*moments)));
    for (int flip = 0; flip < copies; flip++) {
        sara_dataset_image_crop(cache->pixels, &image, side, cache_center(image.width, side),
                                cache_center(image.height, side), flip != 0);
        TRY(encode_pixels(cache, moments + flip * 2 * cache->size));
    }
    if (cache->files.folder) {
        TRY(write_moments(cache, moments, index));
    } else {
        cache->moments[index] = moments;
        moments = NULL;
    }
done:
    sara_free(cache->ctx, moments);
    sara_image_clear(cache->ctx, &image);
    return status;
}

sara_status sara_dataset_moments_fill(sara_dataset_cache *cache)
{
    sara_status status = SARA_OK;
    size_t uncached = 0;
    double started = sara_clock();
    for (size_t i = 0; i < cache->dataset.count; i++) {
        if (sara_interrupted(cache->ctx))
            return sara_fail(cache->ctx, SARA_INTERRUPTED, "interrupted before the first step");
        TRY(cache_image(cache, i));
        uncached += sara_dataset_crops_anew(cache, i);
        cache_report(cache, i + 1, started);
    }
    sara_cache_files_tell(&cache->files, "latents");
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

/* ------------------------------------------------------------------------------ of an element */

static bool draws_flip(const sara_dataset_cache *cache, int64_t element)
{
    return cache->random_flip &&
           sara_draw_below(2, cache->seed, SARA_DRAW_FLIP, (uint64_t)element, 0) == 1;
}

/* *out: in memory, or read or encoded to cache->fresh. */
sara_status sara_dataset_moments_of(sara_dataset_cache *cache, const float **out, size_t index,
                                    int64_t element)
{
    bool flip = draws_flip(cache, element);
    sara_status status = SARA_OK;
    *out = cache->fresh;
    if (cache->moments[index])
        *out = cache->moments[index] + (flip ? 2 * cache->size : 0);
    else if (sara_dataset_crops_anew(cache, index))
        TRY(encode_fresh(cache, index, element, flip));
    else
        TRY(load_moments(cache, index, flip));
done:
    return status;
}

void sara_dataset_time_ids_of(const sara_dataset_cache *cache, float out[SARA_TIME_IDS],
                              size_t index, int64_t element)
{
    const sara_image_sizes *sizes = &cache->sizes[index];
    const int side = cache->source.resolution, wide = sizes->resized_width;
    const int high = sizes->resized_height;
    const bool drawn = sara_dataset_crops_anew(cache, index);
    int left = drawn ? draw_crop(cache, wide, element, 0) : cache_center(wide, side);
    int top = drawn ? draw_crop(cache, high, element, 1) : cache_center(high, side);
    if (draws_flip(cache, element))
        left = wide - side - left;
    const int ids[SARA_TIME_IDS] = {sizes->height, sizes->width, top, left, side, side};
    for (int i = 0; i < SARA_TIME_IDS; i++)
        out[i] = (float)ids[i];
}
