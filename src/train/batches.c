/* Micro-batches from images, from a replay file or, for timing, at random. */
#include "train/replay.h"
#include "train/train.h"

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

static void draw_timesteps(sara_batches *batches, int64_t first)
{
    for (int64_t i = 0; i < batches->present.latents.shape.dims[0]; i++)
        batches->present.timesteps[i] = batches->family->draw_timestep(
            batches->objective, batches->seed, (uint64_t)(first + i));
}

static sara_status get_random(sara_batches *batches, int64_t index)
{
    const sara_batch *b = &batches->present;
    const sara_tensor noise = {SARA_F32, b->latents.shape, b->noise};
    draw_array(batches, &b->latents, SARA_DRAW_LATENT, index);
    draw_array(batches, &noise, SARA_DRAW_NOISE, index);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        draw_array(batches, &b->condition[i], SARA_DRAW_STATE, index);
    return SARA_OK;
}

/* --------------------------------------------------------------------------------------- images */

static sara_status open_images(sara_batches *batches, sara_model *model,
                               const sara_train_options *options)
{
    sara_status status;
    TRY(sara_dataset_cache_new(batches->ctx, &batches->cache, model, options));
    batches->source = *sara_dataset_cache_source(batches->cache);
    const sara_batch shape = sara_dataset_cache_shape(batches->cache, options->train_batch_size);
    take_shape(batches, &shape);
done:
    return status;
}

static sara_status get_images(sara_batches *batches, int64_t first)
{
    const sara_batch *b = &batches->present;
    const int64_t samples = b->latents.shape.dims[0];
    const int64_t size = sara_shape_count(&b->latents.shape) / samples;
    for (int64_t i = 0; i < samples; i++)
        sara_draw_normal(b->noise + i * size, (size_t)size, batches->seed, SARA_DRAW_NOISE,
                         (uint64_t)(first + i));
    return sara_dataset_cache_get(batches->cache, b, first);
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

sara_status sara_batches_fill(sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_fill(batches->cache) : SARA_OK;
}

/* Of others than replays, micro-batch i takes the elements i * batch ... of an endless sequence. */
sara_status sara_batches_get(sara_batches *batches, sara_batch *out, int64_t index)
{
    int64_t first = index * batches->present.latents.shape.dims[0];
    sara_status status = SARA_OK;
    if (batches->replay)
        return sara_replay_get(batches->replay, out, index);
    if (!batches->present
             .timesteps) /* not before the plan of memory, for which it may be too much */
        TRY(sara_batch_alloc(batches->ctx, &batches->present));
    draw_timesteps(batches, first);
    TRY(batches->cache ? get_images(batches, first) : get_random(batches, index));
    *out = batches->present;
done:
    return status;
}
