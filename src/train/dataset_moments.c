/* Moments of images' latents: in memory, in files, or encoded at each step where crops or colours
 * are drawn. */
#include "train/dataset_cache.h"

#include "core/trace.h"
#include "models/vae.h"

#include <math.h>

bool sara_dataset_encodes_anew(const sara_dataset_cache *cache, size_t image)
{
    const sara_subset *subset = sara_dataset_subset(cache, image);
    const sara_fit *fit = &cache->data.images[image].fit; /* one that fits leaves no choice */
    const bool choice = fit->resized_width != fit->width || fit->resized_height != fit->height;
    return subset->color_aug || (subset->random_crop && choice);
}

/* ---------------------------------------------------------------------------------------- crops */

/* Where the crop of an image begins that lies in the middle. */
static sara_dataset_crop center_crop(const sara_fit *fit, bool flip)
{
    return (sara_dataset_crop){sara_fit_center(fit->resized_width, fit->width),
                               sara_fit_center(fit->resized_height, fit->height), flip};
}

/* On an axis: 0 across, 1 down. */
static int draw_crop(const sara_dataset_cache *cache, int whole, int side, uint64_t number,
                     uint32_t axis)
{
    return (int)sara_draw_below((uint64_t)(whole - side) + 1, cache->seed, SARA_DRAW_CROP, number,
                                axis);
}

sara_dataset_crop sara_dataset_crop_of(const sara_dataset_cache *cache,
                                       const sara_dataset_sample *sample)
{
    const sara_subset *subset = sara_dataset_subset(cache, sample->image);
    const sara_fit *fit = &cache->data.images[sample->image].fit;
    const bool flip =
        subset->flip_aug && sara_draw_below(2, cache->seed, SARA_DRAW_FLIP, sample->number, 0) == 1;
    if (!subset->random_crop)
        return center_crop(fit, flip);
    return (sara_dataset_crop){
        draw_crop(cache, fit->resized_width, fit->width, sample->number, 0),
        draw_crop(cache, fit->resized_height, fit->height, sample->number, 1), flip};
}

void sara_dataset_time_ids_of(const sara_dataset_cache *cache, float out[SARA_TIME_IDS],
                              const sara_dataset_sample *sample)
{
    const sara_data_image *image = &cache->data.images[sample->image];
    const sara_fit *fit = &image->fit;
    sara_dataset_crop crop = sara_dataset_crop_of(cache, sample);
    if (crop.flip)
        crop.left = fit->resized_width - fit->width - crop.left;
    const int ids[SARA_TIME_IDS] = {image->height, image->width, crop.top,
                                    crop.left,     fit->height,  fit->width};
    for (int i = 0; i < SARA_TIME_IDS; i++)
        out[i] = (float)ids[i];
}

/* ------------------------------------------------------------------------------------- encoding */

/* out [2][size]: mean and log-variance of the cropped pixels. */
static sara_status encode_pixels(const sara_dataset_cache *cache, float *out, size_t index)
{
    const sara_fit *fit = &cache->data.images[index].fit;
    const int64_t size = sara_dataset_latent_size(cache, index);
    const sara_shape shape = sara_shape4(1, 3, fit->height, fit->width);
    const float *values;
    sara_var *image, *mean, *logvar;
    size_t bytes = (size_t)size * sizeof(*out);
    sara_status status;
    TRY(sara_model_need(cache->model, SARA_STAGE_IMAGES));
    TRY(sara_tape_leaf(cache->tape, &image, &shape, cache->pixels, false));
    TRY(sara_vae_encode(cache->tape, &mean, &logvar, cache->model->vae, image));
    TRY(sara_tape_read(cache->tape, &values, mean));
    memcpy(out, values, bytes);
    TRY(sara_tape_read(cache->tape, &values, logvar));
    memcpy(out + size, values, bytes);
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
                              (int64_t)cache->data.count,
                              NAN,
                              NAN,
                              rate,
                              (double)(cache->data.count - done) / rate};
    sara_report_progress(cache->ctx, &progress);
}

/* ---------------------------------------------------------------------------- latents in files */

static const char moments_key[] = "moments", mask_key[] = "mask";

/* What the file of an image holds; returns how many tensors. */
static size_t kept_tensors(const sara_dataset_cache *cache, sara_tensor_source out[2], size_t index,
                           const float *moments, const float *mask)
{
    const sara_data_image *image = &cache->data.images[index];
    const int height = image->fit.height / cache->factor, width = image->fit.width / cache->factor;
    out[0] = (sara_tensor_source){moments_key, SARA_F32,
                                  sara_shape4(2, cache->channels, height, width), moments};
    out[1] = (sara_tensor_source){mask_key, SARA_F32, sara_shape2(height, width), mask};
    return image->mask ? 2 : 1;
}

/* By the content, and how it is resized, cropped and mirrored. */
static sara_status name_moments(const sara_dataset_cache *cache, char name[65], size_t index,
                                int flip)
{
    const sara_data_image *image = &cache->data.images[index];
    const sara_fit *fit = &image->fit;
    const char *flipped = flip ? "flipped" : "";
    const char *masked = !image->mask ? "" : image->mask == image->path ? " alpha" : " mask";
    const sara_name key =
        sara_name_of("%s %dx%d of %dx%d %s%s", image->sha256, fit->width, fit->height,
                     fit->resized_width, fit->resized_height, flipped, masked);
    return sara_cache_files_name(&cache->files, name, key.text);
}

/* *there: of all that are wanted of the image. Each is looked at, so that what is damaged is told.
 */
static sara_status find_moments(sara_dataset_cache *cache, bool *there, size_t index)
{
    sara_tensor_source tensors[2];
    const size_t count = kept_tensors(cache, tensors, index, NULL, NULL);
    const int copies = sara_dataset_subset(cache, index)->flip_aug ? 2 : 1;
    char name[65];
    bool one;
    sara_status status = SARA_OK;
    *there = cache->files.folder != NULL;
    for (int flip = 0; cache->files.folder && flip < copies; flip++) {
        TRY(name_moments(cache, name, index, flip));
        TRY(sara_cache_files_find(&cache->files, &one, name, tensors, count));
        *there = *there && one;
    }
done:
    return status;
}

/* moments [1 or 2][2][size], mask [1 or 2][size / channels]: of the image as it is and flipped */
static sara_status write_moments(sara_dataset_cache *cache, const float *moments,
                                 const float *masks, size_t index)
{
    const int64_t size = sara_dataset_latent_size(cache, index);
    sara_tensor_source tensors[2];
    char name[65];
    sara_status status = SARA_OK;
    for (int flip = 0; flip <= sara_dataset_subset(cache, index)->flip_aug; flip++) {
        const float *mask = masks ? masks + flip * (size / cache->channels) : NULL;
        const size_t count = kept_tensors(cache, tensors, index, moments + flip * 2 * size, mask);
        TRY(name_moments(cache, name, index, flip));
        TRY(sara_cache_files_write(&cache->files, name, tensors, count));
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
                              2 * (size_t)sara_dataset_latent_size(cache, index)));
done:
    return status;
}

/* ------------------------------------------------------------------------------- once for all */

static sara_status cache_image(sara_dataset_cache *cache, size_t index)
{
    const sara_data_image *of = &cache->data.images[index];
    const int copies = sara_dataset_subset(cache, index)->flip_aug ? 2 : 1;
    const int64_t size = sara_dataset_latent_size(cache, index);
    const int64_t positions = size / cache->channels;
    sara_image image = {0};
    float *moments = NULL, *masks = NULL;
    bool there;
    sara_status status;
    if (sara_dataset_encodes_anew(cache, index))
        return SARA_OK;
    TRY(find_moments(cache, &there, index));
    if (there)
        return SARA_OK;
    TRY(sara_data_image_load(cache->ctx, &image, of));
    TRY(sara_alloc(cache->ctx, &moments, (size_t)copies * 2, (size_t)size * sizeof(*moments)));
    if (of->mask)
        TRY(sara_alloc(cache->ctx, &masks, (size_t)copies, (size_t)positions * sizeof(*masks)));
    for (int flip = 0; flip < copies; flip++) {
        const sara_dataset_crop crop = center_crop(&of->fit, flip != 0);
        sara_dataset_crop_pixels(cache->pixels, &image, &of->fit, &crop);
        TRY(encode_pixels(cache, moments + flip * 2 * size, index));
        if (masks)
            TRY(sara_dataset_mask_make(cache, masks + flip * positions, index, &crop));
    }
    TRY(sara_data_image_check(cache->ctx, of));
    if (cache->files.folder) {
        TRY(write_moments(cache, moments, masks, index));
    } else {
        cache->moments[index] = moments;
        cache->masks[index] = masks;
        moments = masks = NULL;
    }
done:
    sara_free(cache->ctx, moments);
    sara_free(cache->ctx, masks);
    sara_image_clear(cache->ctx, &image);
    return status;
}

sara_status sara_dataset_moments_fill(sara_dataset_cache *cache)
{
    sara_status status = SARA_OK;
    size_t cropped = 0, coloured = 0;
    double started = sara_clock();
    for (size_t i = 0; i < cache->data.count; i++) {
        const bool anew = sara_dataset_encodes_anew(cache, i);
        if (sara_interrupted(cache->ctx))
            return sara_fail(cache->ctx, SARA_INTERRUPTED, "interrupted before the first step");
        TRY(cache_image(cache, i));
        coloured += sara_dataset_subset(cache, i)->color_aug;
        cropped += anew && !sara_dataset_subset(cache, i)->color_aug;
        cache_report(cache, i + 1, started);
    }
    sara_cache_files_tell(&cache->files, "latents");
    if (cropped)
        sara_log(cache->ctx, SARA_LOG_INFO,
                 "%zu of %zu images are cropped at random and encoded at each step; --center_crop "
                 "is faster",
                 cropped, cache->data.count);
    if (coloured)
        sara_log(cache->ctx, SARA_LOG_INFO,
                 "%zu of %zu images change their colours and are encoded at each step", coloured,
                 cache->data.count);
done:
    return status;
}

/* ------------------------------------------------------------------------------ of a sample */

/* To cache->fresh. */
static sara_status encode_fresh(sara_dataset_cache *cache, const sara_dataset_sample *sample,
                                const sara_dataset_crop *crop)
{
    const sara_data_image *of = &cache->data.images[sample->image];
    sara_image image = {0};
    sara_status status;
    TRY(sara_data_image_load(cache->ctx, &image, of));
    if (sara_dataset_subset(cache, sample->image)->color_aug)
        sara_dataset_color_pixels(&image, cache->seed, sample->number);
    sara_dataset_crop_pixels(cache->pixels, &image, &of->fit, crop);
    TRY(encode_pixels(cache, cache->fresh, sample->image));
done:
    sara_image_clear(cache->ctx, &image);
    return status;
}

/* *out: in memory, or read or encoded to cache->fresh. */
sara_status sara_dataset_moments_of(sara_dataset_cache *cache, const float **out,
                                    const sara_dataset_sample *sample)
{
    const int64_t size = sara_dataset_latent_size(cache, sample->image);
    const sara_dataset_crop crop = sara_dataset_crop_of(cache, sample);
    sara_status status = SARA_OK;
    *out = cache->fresh;
    if (cache->moments[sample->image])
        *out = cache->moments[sample->image] + (crop.flip ? 2 * size : 0);
    else if (sara_dataset_encodes_anew(cache, sample->image))
        TRY(encode_fresh(cache, sample, &crop));
    else
        TRY(load_moments(cache, sample->image, crop.flip));
done:
    return status;
}

/* *out: in memory, or read or made to cache->fresh_mask. */
sara_status sara_dataset_mask_of(sara_dataset_cache *cache, const float **out,
                                 const sara_dataset_sample *sample)
{
    const size_t index = sample->image;
    const int64_t positions = sara_dataset_latent_size(cache, index) / cache->channels;
    const sara_dataset_crop crop = sara_dataset_crop_of(cache, sample);
    char name[65];
    sara_status status = SARA_OK;
    *out = cache->fresh_mask;
    if (cache->masks[index]) {
        *out = cache->masks[index] + (crop.flip ? positions : 0);
    } else if (!cache->data.images[index].mask || sara_dataset_encodes_anew(cache, index)) {
        TRY(sara_dataset_mask_make(cache, cache->fresh_mask, index, &crop));
    } else {
        TRY(name_moments(cache, name, index, crop.flip));
        TRY(sara_cache_files_read(&cache->files, name, mask_key, cache->fresh_mask,
                                  (size_t)positions));
    }
done:
    return status;
}
