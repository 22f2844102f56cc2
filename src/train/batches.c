/* Micro-batches from images, from a replay file or, for timing, at random. */
#include "train/train.h"

struct sara_batches {
    sara_context *ctx;
    sara_dataset_cache *cache; /* NULL for a replay and for random ones */
    const sara_family *family;
    const sara_objective *objective;
    uint64_t seed;
    bool is_random;
    int64_t items;    /* of an epoch, or micro-batches of a replay */
    sara_batch shape; /* without the arrays */
    /* All micro-batches of a replay; else the present one, from the first that is asked for. */
    float *latents, *noise, *states, *pooled; /* pooled NULL: there are none */
    double *timesteps;
    int64_t *elements;
    json_t *rank_names; /* NULL: none */
    char sha256[65];
};

int64_t sara_batches_items(const sara_batches *batches)
{
    return batches->items;
}

int64_t sara_batches_images(const sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_images(batches->cache) : 0;
}

size_t sara_batches_bytes(const sara_batches *batches)
{
    const sara_batch *s = &batches->shape;
    int64_t kept = sara_batches_is_replay(batches) ? batches->items : 1;
    int64_t floats =
        2 * s->channels * s->height * s->width + s->length * s->hidden + s->pooled_width;
    size_t own = (size_t)(kept * s->size * floats) * sizeof(float);
    return own + (batches->cache ? sara_dataset_cache_bytes(batches->cache) : 0);
}

int sara_batches_resolution(const sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_resolution(batches->cache) : 0;
}

bool sara_batches_encodes_anew(const sara_batches *batches)
{
    return batches->cache && sara_dataset_cache_encodes_anew(batches->cache);
}

bool sara_batches_is_replay(const sara_batches *batches)
{
    return !batches->cache && !batches->is_random;
}

const char *sara_batches_sha256(const sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_sha256(batches->cache) : batches->sha256;
}

const char *sara_batches_tokens_sha256(const sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_tokens_sha256(batches->cache) : NULL;
}

const sara_batch *sara_batches_shape(const sara_batches *batches)
{
    return &batches->shape;
}

int64_t sara_batches_rank_names(const sara_batches *batches)
{
    return (int64_t)json_array_size(batches->rank_names);
}

const char *sara_batches_rank_name(const sara_batches *batches, int64_t step)
{
    return json_string_value(json_array_get(batches->rank_names, (size_t)step));
}

static void free_arrays(sara_batches *batches)
{
    sara_free(batches->ctx, batches->latents);
    sara_free(batches->ctx, batches->noise);
    sara_free(batches->ctx, batches->states);
    sara_free(batches->ctx, batches->pooled);
    sara_free(batches->ctx, batches->timesteps);
    sara_free(batches->ctx, batches->elements);
    batches->latents = batches->noise = batches->states = batches->pooled = NULL;
    batches->timesteps = NULL;
    batches->elements = NULL;
}

void sara_batches_free(sara_batches *batches)
{
    if (!batches)
        return;
    sara_dataset_cache_free(batches->cache);
    free_arrays(batches);
    json_decref(batches->rank_names);
    sara_free(batches->ctx, batches);
}

/* -------------------------------------------------------------------------------------- replay */

static sara_status read_rank_names(sara_batches *batches, const sara_safetensors *file)
{
    const char *text = sara_safetensors_metadata(file, "rank_names");
    const char *path = sara_safetensors_path(file);
    size_t index;
    json_t *name;
    sara_status status = SARA_OK;
    if (!text)
        return SARA_OK;
    TRY(sara_json_parse(batches->ctx, &batches->rank_names, text, strlen(text), path, false));
    if (!json_is_array(batches->rank_names))
        return sara_fail(batches->ctx, SARA_ERROR_INPUT, "%s: rank_names: expected a list of names",
                         path);
    json_array_foreach(
        batches->rank_names, index,
        name) if (!json_is_string(name)) return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                                                          "%s: rank_names[%zu]: expected a name",
                                                          path, index);
done:
    return status;
}

static sara_status load_array(const sara_safetensors *file, void *out, sara_shape *shape,
                              const char *name, sara_dtype dtype)
{
    sara_tensor tensor;
    sara_status status = sara_safetensors_load(file, &tensor, name, dtype, shape);
    if (status == SARA_OK) {
        memcpy(out, &tensor.data, sizeof(tensor.data));
        *shape = tensor.shape;
    }
    return status;
}

static sara_status load_timesteps(sara_batches *batches, const sara_safetensors *file,
                                  sara_shape *shape)
{
    int64_t *numbers = NULL, count;
    sara_status status;
    TRY(load_array(file, &numbers, shape, "timesteps", SARA_I64));
    count = sara_shape_count(shape);
    TRY(sara_alloc(batches->ctx, &batches->timesteps, (size_t)count, sizeof(double)));
    for (int64_t i = 0; i < count; i++)
        batches->timesteps[i] = (double)numbers[i];
done:
    sara_free(batches->ctx, numbers);
    return status;
}

static sara_status check_replay(const sara_batches *batches, const sara_model *model,
                                const char *path)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const char *title = model->denoiser->class->title;
    const int last = batches->objective->num_train_timesteps - 1;
    const sara_batch *b = &batches->shape;
    if (b->size < 1 || b->height < 1 || b->width < 1 || b->length < 1)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                         "%s: latents or encoder_hidden_states are empty", path);
    if (b->channels != info->in_channels)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                         "%s: latents: %lld channels, the %s takes %d", path,
                         (long long)b->channels, title, info->in_channels);
    if (b->height < info->least_side || b->width < info->least_side)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                         "%s: latents: %lldx%lld, the %s takes %d or more", path,
                         (long long)b->height, (long long)b->width, title, info->least_side);
    if (b->hidden != info->state_width)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                         "%s: encoder_hidden_states: width %lld, the %s takes %d", path,
                         (long long)b->hidden, title, info->state_width);
    if (b->pooled_width != info->pooled_width)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT, "%s: pooled: width %lld, the %s takes %d",
                         path, (long long)b->pooled_width, title, info->pooled_width);
    for (int64_t i = 0; i < batches->items * b->size; i++)
        if (batches->timesteps[i] < 0 || batches->timesteps[i] > last)
            return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                             "%s: timesteps[%lld] is %.15g, expected 0 to %d", path, (long long)i,
                             batches->timesteps[i], last);
    return SARA_OK;
}

static sara_status open_replay(sara_batches *batches, const sara_model *model, const char *path)
{
    sara_safetensors *file = NULL;
    sara_shape latents = {5, {-1, -1, -1, -1, -1}}, states = {4, {-1, -1, -1, -1}}, timesteps,
               pooled = {3, {-1, -1, -1}};
    sara_status status;
    TRY(sara_safetensors_open(batches->ctx, &file, path));
    TRY(load_array(file, &batches->latents, &latents, "latents", SARA_F32));
    TRY(load_array(file, &batches->noise, &latents, "noise", SARA_F32));
    timesteps = sara_shape2(latents.dims[0], latents.dims[1]);
    TRY(load_timesteps(batches, file, &timesteps));
    states.dims[0] = latents.dims[0];
    states.dims[1] = latents.dims[1];
    TRY(load_array(file, &batches->states, &states, "encoder_hidden_states", SARA_F32));
    pooled.dims[0] = latents.dims[0];
    pooled.dims[1] = latents.dims[1];
    if (model->denoiser->info.denoiser.pooled_width)
        TRY(load_array(file, &batches->pooled, &pooled, "pooled", SARA_F32));
    batches->items = latents.dims[0];
    batches->shape = (sara_batch){.size = latents.dims[1],
                                  .channels = latents.dims[2],
                                  .height = latents.dims[3],
                                  .width = latents.dims[4],
                                  .length = states.dims[2],
                                  .hidden = states.dims[3],
                                  .pooled_width = batches->pooled ? pooled.dims[2] : 0};
    TRY(check_replay(batches, model, path));
    TRY(read_rank_names(batches, file));
    TRY(sara_sha256_file(batches->ctx, batches->sha256, path));
done:
    sara_safetensors_close(file);
    return status;
}

static sara_status get_replayed(const sara_batches *batches, sara_batch *out, int64_t index)
{
    const sara_batch *s = &batches->shape;
    int64_t latent = s->size * s->channels * s->height * s->width;
    if (index >= batches->items)
        return sara_fail(batches->ctx, SARA_ERROR_INPUT,
                         "the replay file holds %lld micro-batches, number %lld is needed",
                         (long long)batches->items, (long long)index + 1);
    *out = *s;
    out->latents = batches->latents + index * latent;
    out->noise = batches->noise + index * latent;
    out->timesteps = batches->timesteps + index * s->size;
    out->states = batches->states + index * s->size * s->length * s->hidden;
    out->pooled = batches->pooled ? batches->pooled + index * s->size * s->pooled_width : NULL;
    return SARA_OK;
}

/* ----------------------------------------------------------------------- one at a time, random */

/* Not before the plan of memory, which a shape may be too large for. */
static sara_status make_arrays(sara_batches *batches)
{
    sara_context *ctx = batches->ctx;
    const sara_batch *s = &batches->shape;
    size_t size = (size_t)s->size, latent = (size_t)(s->channels * s->height * s->width);
    sara_status status = SARA_OK;
    if (batches->elements)
        return SARA_OK;
    TRY(sara_alloc(ctx, &batches->latents, size, latent * sizeof(float)));
    TRY(sara_alloc(ctx, &batches->noise, size, latent * sizeof(float)));
    TRY(sara_alloc(ctx, &batches->states, size, (size_t)(s->length * s->hidden) * sizeof(float)));
    if (s->pooled_width)
        TRY(sara_alloc(ctx, &batches->pooled, size, (size_t)s->pooled_width * sizeof(float)));
    TRY(sara_alloc(ctx, &batches->timesteps, size, sizeof(double)));
    TRY(sara_alloc(ctx, &batches->elements, size, sizeof(int64_t)));
done:
    if (status != SARA_OK)
        free_arrays(batches);
    return status;
}

static void batches_publish(const sara_batches *batches, sara_batch *out)
{
    *out = batches->shape;
    out->latents = batches->latents;
    out->noise = batches->noise;
    out->timesteps = batches->timesteps;
    out->states = batches->states;
    out->pooled = batches->pooled;
}

sara_status sara_batches_random(sara_context *ctx, sara_batches **out, const sara_model *model,
                                const sara_batch *shape, int64_t count, uint64_t seed,
                                const sara_objective *objective)
{
    sara_batches *batches = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &batches, 1, sizeof(*batches)));
    batches->ctx = ctx;
    batches->is_random = true;
    batches->shape = *shape;
    batches->items = count;
    batches->seed = seed;
    batches->family = model->family;
    batches->objective = objective;
    *out = batches;
done:
    return status;
}

static sara_status get_random(sara_batches *batches, sara_batch *out, int64_t index)
{
    const sara_batch *s = &batches->shape;
    const uint64_t seed = batches->seed, number = (uint64_t)index;
    sara_status status;
    TRY(make_arrays(batches));
    size_t latent = (size_t)(s->size * s->channels * s->height * s->width);
    sara_draw_normal(batches->latents, latent, seed, SARA_DRAW_LATENT, number);
    sara_draw_normal(batches->noise, latent, seed, SARA_DRAW_NOISE, number);
    sara_draw_normal(batches->states, (size_t)(s->size * s->length * s->hidden), seed,
                     SARA_DRAW_STATE, number);
    sara_draw_normal(batches->pooled, (size_t)(s->size * s->pooled_width), seed, SARA_DRAW_STATE,
                     number);
    for (int64_t i = 0; i < s->size; i++)
        batches->timesteps[i] = batches->family->draw_timestep(batches->objective, seed,
                                                               (uint64_t)(index * s->size + i));
    batches_publish(batches, out);
done:
    return status;
}

/* --------------------------------------------------------------------------------------- images */

static sara_status open_images(sara_batches *batches, const sara_model *model,
                               const sara_train_options *options)
{
    sara_status status;
    TRY(sara_dataset_cache_new(batches->ctx, &batches->cache, model, options));
    batches->items = sara_dataset_cache_items(batches->cache);
    sara_dataset_cache_shape(batches->cache, &batches->shape);
    batches->shape.size = options->train_batch_size;
done:
    return status;
}

/* Micro-batch i takes the elements i * batch ... of the endless sequence of epochs. */
static sara_status get_images(sara_batches *batches, sara_batch *out, int64_t index)
{
    const sara_batch *s = &batches->shape;
    int64_t latent = s->channels * s->height * s->width;
    sara_status status;
    TRY(make_arrays(batches));
    for (int64_t i = 0; i < s->size; i++) {
        uint64_t element = (uint64_t)(index * s->size + i);
        batches->elements[i] = (int64_t)element;
        batches->timesteps[i] =
            batches->family->draw_timestep(batches->objective, batches->seed, element);
        sara_draw_normal(batches->noise + i * latent, (size_t)latent, batches->seed,
                         SARA_DRAW_NOISE, element);
    }
    TRY(sara_dataset_cache_get(batches->cache, batches->latents, batches->states, batches->pooled,
                               batches->elements, s->size));
    batches_publish(batches, out);
done:
    return status;
}

sara_status sara_batches_open(sara_context *ctx, sara_batches **out, const sara_model *model,
                              const sara_train_options *options, const sara_objective *objective)
{
    sara_batches *batches = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &batches, 1, sizeof(*batches)));
    batches->ctx = ctx;
    batches->seed = options->seed;
    batches->family = model->family;
    batches->objective = objective;
    if (options->replay)
        TRY(open_replay(batches, model, options->replay));
    else
        TRY(open_images(batches, model, options));
    *out = batches;
    return SARA_OK;
done:
    sara_batches_free(batches);
    return status;
}

sara_status sara_batches_fill(sara_batches *batches)
{
    return batches->cache ? sara_dataset_cache_fill(batches->cache) : SARA_OK;
}

sara_status sara_batches_get(sara_batches *batches, sara_batch *out, int64_t index)
{
    if (batches->is_random)
        return get_random(batches, out, index);
    return batches->cache ? get_images(batches, out, index) : get_replayed(batches, out, index);
}

sara_status sara_batch_condition(sara_tape *tape, sara_condition *out, const sara_batch *batch)
{
    const sara_shape shape = sara_shape3(batch->size, batch->length, batch->hidden);
    const sara_shape pooled = sara_shape2(batch->size, batch->pooled_width);
    sara_status status;
    *out = (sara_condition){NULL, NULL};
    TRY(sara_tape_leaf(tape, &out->encoder_hidden_states, &shape, (float *)(uintptr_t)batch->states,
                       false));
    if (batch->pooled_width)
        TRY(sara_tape_leaf(tape, &out->pooled, &pooled, (float *)(uintptr_t)batch->pooled, false));
done:
    return status;
}
