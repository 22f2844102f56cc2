/* Micro-batches from images, from a replay file or, for timing, at random. */
#include "train/dataset_cache.h"
#include "train/replay.h"

struct sara_batches {
    sara_context *ctx;
    sara_dataset_cache *cache; /* NULL for a replay and for random ones */
    sara_replay *replay;       /* NULL for others */
    const sara_family *family;
    const sara_objective *objective;
    uint64_t seed;
    sara_source source;
    /* Of images and random ones: the present micro-batch, with arrays from the first that is asked
     * for. */
    sara_batch present;
    sara_batch also; /* class images whose shape is another */
    double prior_loss_weight;
};

const sara_source *sara_batches_source(const sara_batches *batches)
{
    return &batches->source;
}

const char *sara_batches_rank_name(const sara_batches *batches, int64_t step)
{
    return json_string_value(json_array_get(batches->source.rank_names, (size_t)step));
}

void sara_batches_free(sara_batches *batches)
{
    if (!batches)
        return;
    sara_dataset_cache_free(batches->cache);
    sara_replay_free(batches->replay);
    sara_batch_clear(batches->ctx, &batches->present);
    sara_batch_clear(batches->ctx, &batches->also);
    sara_free(batches->ctx, batches);
}

/* ------------------------------------------------------------------------------------ at random */

static sara_status batches_new(sara_context *ctx, sara_batches **out, const sara_model *model,
                               uint64_t seed, const sara_objective *objective)
{
    sara_status status = sara_alloc(ctx, out, 1, sizeof(**out));
    if (status == SARA_OK)
        **out = (sara_batches){
            .ctx = ctx, .family = model->family, .objective = objective, .seed = seed};
    return status;
}

/* All micro-batches are of this one. */
static void take_shape(sara_batches *batches, const sara_batch *shape)
{
    batches->present = *shape;
    batches->source.shapes = &batches->present;
    batches->source.shape_count = 1;
    batches->source.bytes += sara_batch_bytes(shape);
}

sara_status sara_batches_random(sara_context *ctx, sara_batches **out, const sara_model *model,
                                const sara_batch *shape, int64_t count, uint64_t seed,
                                const sara_objective *objective)
{
    sara_status status = batches_new(ctx, out, model, seed, objective);
    if (status == SARA_OK) {
        (*out)->source.items = count;
        take_shape(*out, shape);
    }
    return status;
}

static void draw_array(const sara_batches *batches, const sara_tensor *array, sara_purpose purpose,
                       int64_t index)
{
    if (array->shape.rank)
        sara_draw_normal(array->data, (size_t)sara_shape_count(&array->shape), batches->seed,
                         purpose, (uint64_t)index);
}

/* The timesteps of `count` samples of a batch from `first` on, the first one's number in the run
 * being `number`. */
static void draw_timesteps(const sara_batches *batches, const sara_batch *batch, int64_t first,
                           int64_t count, uint64_t number)
{
    for (int64_t i = 0; i < count; i++)
        batch->timesteps[first + i] =
            batches->family->draw_timestep(batches->objective, batches->seed, number + (uint64_t)i);
}

static sara_status get_random(sara_batches *batches, sara_batch *out, int64_t index)
{
    const sara_batch *b = &batches->present;
    const int64_t samples = b->latents.shape.dims[0];
    sara_status status = SARA_OK;
    if (!b->timesteps) /* not before the plan of memory, for which it may be too much */
        TRY(sara_batch_alloc(batches->ctx, &batches->present));
    const sara_tensor noise = {SARA_F32, b->latents.shape, b->noise};
    draw_timesteps(batches, b, 0, samples, (uint64_t)(index * samples));
    draw_array(batches, &b->latents, SARA_DRAW_LATENT, index);
    draw_array(batches, &noise, SARA_DRAW_NOISE, index);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        draw_array(batches, &b->condition[i], SARA_DRAW_STATE, index);
    *out = *b;
done:
    return status;
}

/* --------------------------------------------------------------------------------------- images */

static sara_status open_images(sara_batches *batches, sara_model *model,
                               const sara_train_options *options)
{
    sara_status status;
    TRY(sara_dataset_cache_new(batches->ctx, &batches->cache, model, options));
    batches->source = batches->cache->source;
    batches->prior_loss_weight = options->prior_loss_weight;
done:
    return status;
}

/* Arrays of this shape, weights too where samples differ in them. */
static sara_status shape_batch(sara_batches *batches, sara_batch *batch, const sara_batch *shape,
                               bool weighs)
{
    sara_status status = SARA_OK;
    if (batch->timesteps && sara_batch_same_shape(batch, shape))
        return SARA_OK;
    sara_batch_clear(batches->ctx, batch);
    *batch = *shape;
    TRY(sara_batch_alloc(batches->ctx, batch));
    if (weighs)
        TRY(sara_alloc(batches->ctx, &batch->weights, (size_t)shape->latents.shape.dims[0],
                       sizeof(float)));
done:
    return status;
}

/* `count` samples of the batch from `first` on: those of a part of the micro-batch. */
static sara_status fill_part(const sara_batches *batches, const sara_batch *b, int64_t first,
                             int64_t count, sara_dataset_part part, int64_t index)
{
    const uint64_t number = sara_dataset_cache_number(batches->cache, part, index);
    const int64_t size = sara_shape_count(&b->latents.shape) / b->latents.shape.dims[0];
    draw_timesteps(batches, b, first, count, number);
    for (int64_t i = 0; i < count; i++)
        sara_draw_normal(b->noise + (first + i) * size, (size_t)size, batches->seed,
                         SARA_DRAW_NOISE, number + (uint64_t)i);
    return sara_dataset_cache_get(batches->cache, b, first, part, index);
}

static void weigh_part(const sara_batch *b, int64_t first, int64_t count, double weight)
{
    for (int64_t i = 0; i < count; i++)
        b->weights[first + i] = (float)weight;
}

/* Subject and class as one batch: the mean over both halves, each twice. */
static sara_status get_together(sara_batches *batches, const sara_batch *shape, int64_t index)
{
    sara_batch *b = &batches->present;
    const int64_t count = shape->latents.shape.dims[0];
    const sara_batch both = sara_batch_shape_of(shape, 2 * count);
    sara_status status;
    TRY(shape_batch(batches, b, &both, true));
    weigh_part(b, 0, count, 2);
    weigh_part(b, count, count, 2 * batches->prior_loss_weight);
    TRY(fill_part(batches, b, 0, count, SARA_DATASET_INSTANCE, index));
    TRY(fill_part(batches, b, count, count, SARA_DATASET_CLASS, index));
done:
    return status;
}

/* The class images beside the present ones, where their shape is another. */
static sara_status get_also(sara_batches *batches, int64_t index)
{
    const sara_batch shape = sara_dataset_cache_shape(batches->cache, SARA_DATASET_CLASS, index);
    const int64_t count = shape.latents.shape.dims[0];
    sara_status status = SARA_OK;
    batches->present.also = NULL;
    if (!shape.latents.shape.rank)
        return SARA_OK;
    TRY(shape_batch(batches, &batches->also, &shape, true));
    weigh_part(&batches->also, 0, count, batches->prior_loss_weight);
    TRY(fill_part(batches, &batches->also, 0, count, SARA_DATASET_CLASS, index));
    batches->present.also = &batches->also;
done:
    return status;
}

static sara_status get_images(sara_batches *batches, sara_batch *out, int64_t index)
{
    const sara_batch shape = sara_dataset_cache_shape(batches->cache, SARA_DATASET_INSTANCE, index);
    sara_status status;
    if (batches->cache->together) {
        TRY(get_together(batches, &shape, index));
    } else {
        TRY(shape_batch(batches, &batches->present, &shape, false));
        TRY(fill_part(batches, &batches->present, 0, shape.latents.shape.dims[0],
                      SARA_DATASET_INSTANCE, index));
        TRY(get_also(batches, index));
    }
    *out = batches->present;
done:
    return status;
}

sara_status sara_batches_open(sara_context *ctx, sara_batches **out, sara_model *model,
                              const sara_train_options *options, const sara_objective *objective)
{
    sara_batches *batches = NULL;
    sara_status status;
    *out = NULL;
    TRY(batches_new(ctx, &batches, model, options->seed, objective));
    if (options->replay) {
        TRY(sara_replay_open(ctx, &batches->replay, model, objective, options->replay));
        batches->source = batches->replay->source;
    } else {
        TRY(open_images(batches, model, options));
    }
    *out = batches;
    return SARA_OK;
done:
    sara_batches_free(batches);
    return status;
}

sara_status sara_batches_open_files(sara_batches *batches, const sara_train_options *options,
                                    const json_t *identity)
{
    return batches->cache ? sara_dataset_cache_open_files(batches->cache, options, identity)
                          : SARA_OK;
}

sara_status sara_batches_fill(sara_batches *batches, int64_t first, int64_t end)
{
    return batches->cache ? sara_dataset_cache_fill(batches->cache, first, end) : SARA_OK;
}

sara_status sara_batches_get(sara_batches *batches, sara_batch *out, int64_t index)
{
    if (batches->replay)
        return sara_replay_get(batches->replay, out, index);
    return batches->cache ? get_images(batches, out, index) : get_random(batches, out, index);
}
