/* Images and captions, encoded once: latents' mean and log-variance (also of the flipped image) and
 * text states. Where crops or colours are drawn the pixels are encoded anew each time, where
 * captions vary those of the next steps are. */
#include "train/dataset_cache.h"

#include "models/vae.h"

#include <math.h>
#include <stdio.h>

#define MOST_NAMED   8    /* shapes in a line of the log */
#define MOST_STRETCH 4096 /* micro-batches whose captions are encoded ahead */

void sara_dataset_cache_free(sara_dataset_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; cache->moments && i < cache->data.count; i++)
        sara_free(cache->ctx, cache->moments[i]);
    for (size_t i = 0; cache->masks && i < cache->data.count; i++)
        sara_free(cache->ctx, cache->masks[i]);
    sara_free(cache->ctx, cache->moments);
    sara_free(cache->ctx, cache->masks);
    sara_dataset_texts_free(&cache->texts);
    sara_cache_files_close(&cache->files);
    sara_free(cache->ctx, cache->elements);
    sara_free(cache->ctx, cache->pixels);
    sara_free(cache->ctx, cache->fresh);
    sara_free(cache->ctx, cache->fresh_mask);
    sara_free(cache->ctx, cache->shapes);
    sara_tape_free(cache->tape);
    sara_data_free(&cache->data);
    sara_data_config_free(&cache->config);
    sara_free(cache->ctx, cache);
}

const sara_subset *sara_dataset_subset(const sara_dataset_cache *cache, size_t image)
{
    return &cache->config.subsets[cache->data.images[image].subset];
}

static const sara_data_group *cache_group(const sara_dataset_cache *cache, sara_dataset_part part)
{
    return part == SARA_DATASET_INSTANCE ? &cache->data.instance : &cache->data.class;
}

/* --------------------------------------------------------------------------------------- shapes */

/* Of `samples` images of a shape. */
static sara_batch batch_of(const sara_dataset_cache *cache, const sara_data_shape *shape,
                           int64_t samples)
{
    const int height = shape->height / cache->factor, width = shape->width / cache->factor;
    sara_batch batch = sara_batch_shape_for(&cache->model->denoiser->info.denoiser,
                                            sara_shape4(samples, cache->channels, height, width),
                                            cache->texts.length);
    if (cache->masked)
        batch.mask = (sara_tensor){SARA_F32, sara_shape4(samples, 1, height, width), NULL};
    return batch;
}

/* Whether subject and class have one shape alone, which both share. */
static bool is_one_shape(const sara_data *data)
{
    const sara_data_shape *a = data->instance.shapes, *b = data->class.shapes;
    return data->instance.order.shape_count == 1 && data->class.order.shape_count == 1 &&
           a->width == b->width && a->height == b->height && a->batch == b->batch;
}

/* The shapes that micro-batches have, the largest first, of subject and class. */
static sara_status list_data_shapes(sara_dataset_cache *cache)
{
    const sara_data *data = &cache->data;
    const size_t counts[] = {data->instance.order.shape_count, data->class.order.shape_count};
    size_t count = 0, largest = 0;
    int64_t most = 0;
    sara_status status;
    cache->together = is_one_shape(data);
    TRY(sara_alloc(cache->ctx, &cache->shapes, counts[0] + counts[1], sizeof(*cache->shapes)));
    for (int part = 0; part < (cache->together ? 1 : SARA_DATASET_PARTS); part++)
        for (size_t i = 0; i < counts[part]; i++) {
            const sara_data_shape *shape = &cache_group(cache, (sara_dataset_part)part)->shapes[i];
            cache->shapes[count] = batch_of(cache, shape, shape->batch * (cache->together ? 2 : 1));
            cache->most = shape->batch > cache->most ? shape->batch : cache->most;
            const int64_t size = sara_shape_count(&cache->shapes[count].latents.shape);
            if (size > most) {
                most = size;
                largest = count;
            }
            count++;
        }
    const sara_batch first = cache->shapes[0];
    cache->shapes[0] = cache->shapes[largest];
    cache->shapes[largest] = first;
    cache->source.shapes = cache->shapes;
    cache->source.shape_count = count;
    TRY(sara_alloc(cache->ctx, &cache->elements, (size_t)cache->most, sizeof(*cache->elements)));
done:
    return status;
}

static sara_status tell_shapes(const sara_dataset_cache *cache)
{
    const sara_data_group *group = &cache->data.instance;
    const size_t count = group->order.shape_count;
    sara_buffer text = {.ctx = cache->ctx};
    sara_status status = SARA_OK;
    if (count == 1)
        return SARA_OK;
    for (size_t i = 0; i < count && i < MOST_NAMED; i++) {
        char one[64];
        snprintf(one, sizeof(one), "%s%dx%d %zu", i ? ", " : "", group->shapes[i].width,
                 group->shapes[i].height, group->order.shapes[i].count);
        TRY(sara_buffer_put(&text, one));
    }
    sara_log(cache->ctx, SARA_LOG_INFO, "%zu shapes with their numbers of images: %s%s", count,
             text.data, count > MOST_NAMED ? ", ..." : "");
done:
    sara_buffer_free(&text);
    return status;
}

/* -------------------------------------------------------------------------------------- opening */

int64_t sara_dataset_latent_size(const sara_dataset_cache *cache, size_t image)
{
    const sara_fit *fit = &cache->data.images[image].fit;
    return cache->channels * (fit->width / cache->factor) * (fit->height / cache->factor);
}

/* What is kept of images and texts, and what is not. */
static void fill_source(sara_dataset_cache *cache, const sara_train_options *options)
{
    sara_source *source = &cache->source;
    size_t floats = 0;
    source->images = (int64_t)cache->data.instance.count;
    source->class_images = (int64_t)cache->data.class.count;
    source->order = &cache->data.instance.order;
    source->items = source->order->elements;
    source->folder = cache->config.subsets[0].image_dir;
    for (size_t i = 0; i < cache->data.count; i++) {
        const sara_data_image *image = &cache->data.images[i];
        const size_t copies = sara_dataset_subset(cache, i)->flip_aug ? 2 : 1;
        if ((int64_t)image->fit.width * image->fit.height >
            (int64_t)source->width * source->height) {
            source->width = image->fit.width;
            source->height = image->fit.height;
        }
        const size_t size = (size_t)sara_dataset_latent_size(cache, i);
        const size_t positions = image->mask ? size / (size_t)cache->channels : 0;
        source->texts_anew = source->texts_anew || image->varies;
        if (sara_dataset_encodes_anew(cache, i))
            source->encodes_anew = true;
        else if (!options->cache_latents_to_disk)
            floats += copies * (2 * size + positions);
    }
    source->bytes =
        floats * sizeof(float) +
        sara_dataset_texts_bytes(&cache->texts, options->cache_text_encoder_outputs_to_disk);
    for (size_t i = 0; i < source->shape_count && i < 2; i++)
        source->bytes += sara_batch_bytes(&source->shapes[i]);
    memcpy(source->sha256, cache->data.sha256, sizeof(source->sha256));
    memcpy(source->tokens_sha256, cache->texts.sha256, sizeof(source->tokens_sha256));
}

static sara_status open_dataset(sara_dataset_cache *cache, const sara_train_options *options)
{
    const sara_data_options source = {.output_dir = options->output_dir,
                                      .dataset_config = options->dataset_config,
                                      .masked_loss = options->masked_loss,
                                      .seed = options->seed};
    int width, height;
    sara_status status;
    cache->factor = cache->model->vae->info.vae.factor;
    cache->channels = cache->model->denoiser->info.denoiser.in_channels;
    TRY(sara_dataset_resolution(cache->model, options, &width, &height));
    TRY(sara_dataset_config(cache->ctx, &cache->config, options, width, height));
    TRY(sara_dataset_check_sizes(cache->model, &cache->config, NULL, options));
    TRY(sara_data_open(cache->ctx, &cache->data, &cache->config, &source));
    TRY(sara_dataset_check_sizes(cache->model, &cache->config, &cache->data, options));
    TRY(sara_alloc_zero(cache->ctx, &cache->moments, cache->data.count, sizeof(*cache->moments)));
    TRY(sara_alloc_zero(cache->ctx, &cache->masks, cache->data.count, sizeof(*cache->masks)));
    for (size_t i = 0; i < cache->data.count; i++)
        cache->masked = cache->masked || cache->data.images[i].mask;
    TRY(sara_dataset_texts_open(&cache->texts, cache->model, &cache->data));
    TRY(list_data_shapes(cache));
    TRY(tell_shapes(cache));
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
    TRY(sara_cache_folder(cache->ctx, &folder, options, cache->source.folder));
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

/* -------------------------------------------------------------------------------- micro-batches */

/* The images of a part of a micro-batch, to cache->elements, by their numbers in the data set. */
static size_t take_elements(sara_dataset_cache *cache, size_t *shape, sara_dataset_part part,
                            int64_t index)
{
    const sara_data_group *group = cache_group(cache, part);
    if (!group->count)
        return 0;
    const size_t count = sara_order_get(&group->order, cache->elements, shape, index);
    for (size_t i = 0; i < count; i++)
        cache->elements[i].image = group->images[cache->elements[i].image];
    return count;
}

sara_batch sara_dataset_cache_shape(sara_dataset_cache *cache, sara_dataset_part part,
                                    int64_t index)
{
    size_t shape, count = take_elements(cache, &shape, part, index);
    if (!count)
        return (sara_batch){0};
    return batch_of(cache, &cache_group(cache, part)->shapes[shape], (int64_t)count);
}

uint64_t sara_dataset_cache_number(const sara_dataset_cache *cache, sara_dataset_part part,
                                   int64_t index)
{
    const uint64_t most = (uint64_t)cache->most, parts = cache->data.class.count ? 2 : 1;
    return ((uint64_t)index * parts + (part == SARA_DATASET_CLASS)) * most;
}

/* latents [size] = (mean + exp(logvar / 2) * noise - shift) * scaling factor; noise is in latents.
 */
static void sample_posterior(const sara_dataset_cache *cache, float *latents, const float *moments,
                             int64_t size)
{
    const sara_vae_info *info = &cache->model->vae->info.vae;
    for (int64_t i = 0; i < size; i++) {
        float deviation = expf(0.5f * moments[size + i]);
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

static sara_status get_sample(sara_dataset_cache *cache, const sara_batch *batch, int64_t at,
                              const sara_dataset_sample *sample, uint64_t epoch)
{
    const int64_t size = sara_dataset_latent_size(cache, sample->image);
    float *latents = (float *)batch->latents.data + at * size;
    const sara_text_states *text;
    const float *moments, *mask;
    float time_ids[SARA_TIME_IDS];
    sara_status status;
    TRY(sara_dataset_moments_of(cache, &moments, sample));
    sara_draw_normal(latents, (size_t)size, cache->seed, SARA_DRAW_POSTERIOR, sample->number);
    sample_posterior(cache, latents, moments, size);
    TRY(sara_dataset_texts_get(&cache->texts, &text, sample->image, sample->number, epoch));
    set_sample(&batch->condition[SARA_CONDITION_STATES], at, text->states);
    set_sample(&batch->condition[SARA_CONDITION_POOLED], at, text->pooled);
    sara_dataset_time_ids_of(cache, time_ids, sample);
    set_sample(&batch->condition[SARA_CONDITION_TIME_IDS], at, time_ids);
    if (cache->masked) {
        TRY(sara_dataset_mask_of(cache, &mask, sample));
        set_sample(&batch->mask, at, mask);
    }
done:
    return status;
}

static sara_status want_captions(sara_dataset_cache *cache, int64_t index)
{
    size_t shape;
    sara_status status = SARA_OK;
    for (int part = 0; part < SARA_DATASET_PARTS; part++) {
        const size_t count = take_elements(cache, &shape, (sara_dataset_part)part, index);
        const uint64_t number = sara_dataset_cache_number(cache, (sara_dataset_part)part, index);
        for (size_t i = 0; i < count; i++)
            TRY(sara_dataset_texts_want(&cache->texts, cache->elements[i].image, number + i,
                                        cache->elements[i].epoch));
    }
done:
    return status;
}

/* The captions that vary of micro-batches from `first` on: as many as are kept at once, of no
 * micro-batch behind the last that is known to come. Interrupted, those alone that are needed now,
 * which are the first one's, or none. */
static sara_status encode_stretch(sara_dataset_cache *cache, int64_t first, bool now)
{
    const int64_t known = first < cache->end ? cache->end - first : 1;
    const int64_t most = known < MOST_STRETCH ? known : MOST_STRETCH;
    int64_t index = first;
    size_t least = 0;
    bool whole;
    sara_status status = SARA_OK;
    sara_dataset_texts_forget(&cache->texts);
    cache->stretch_first = cache->stretch_end = 0;
    for (; index < first + most && !sara_dataset_texts_full(&cache->texts); index++) {
        TRY(want_captions(cache, index));
        if (now && index == first)
            least = cache->texts.stretch.count;
    }
    TRY(sara_dataset_texts_encode_wanted(&cache->texts, &whole, least));
    sara_model_give_back(cache->model, ~(unsigned)SARA_STAGE_TEXT);
    cache->stretch_first = first;
    cache->stretch_end = whole ? index : first + now;
done:
    return status;
}

sara_status sara_dataset_cache_get(sara_dataset_cache *cache, const sara_batch *batch,
                                   int64_t first, sara_dataset_part part, int64_t index)
{
    const uint64_t number = sara_dataset_cache_number(cache, part, index);
    size_t shape, count;
    sara_status status = SARA_OK;
    if (cache->source.texts_anew && (index < cache->stretch_first || index >= cache->stretch_end))
        TRY(encode_stretch(cache, index, true));
    count = take_elements(cache, &shape, part, index);
    for (size_t i = 0; i < count; i++) {
        const sara_dataset_sample sample = {cache->elements[i].image, number + i};
        TRY(get_sample(cache, batch, first + (int64_t)i, &sample, cache->elements[i].epoch));
    }
done:
    return status;
}

sara_status sara_dataset_cache_fill(sara_dataset_cache *cache, int64_t first, int64_t end)
{
    const size_t pixels = (size_t)cache->source.width * (size_t)cache->source.height;
    const size_t factor = (size_t)cache->factor;
    sara_status status;
    TRY(sara_alloc(cache->ctx, &cache->pixels, pixels, 3 * sizeof(float)));
    TRY(sara_alloc(cache->ctx, &cache->fresh, pixels / (factor * factor) * (size_t)cache->channels,
                   2 * sizeof(float)));
    TRY(sara_alloc(cache->ctx, &cache->fresh_mask, pixels / (factor * factor), sizeof(float)));
    TRY(sara_tape_new(cache->ctx, &cache->tape, cache->model->device));
    cache->end = end;
    TRY(sara_dataset_texts_fill(&cache->texts));
    if (cache->source.texts_anew && first < end)
        TRY(encode_stretch(cache, first, false));
    sara_model_give_back(cache->model, ~(unsigned)SARA_STAGE_TEXT);
    TRY(sara_dataset_moments_fill(cache));
    sara_tape_trim(cache->tape);
done:
    return status;
}
