#include "train/replay.h"

#include <math.h>
#include <stdio.h>

#define LATENTS "latents"

/* What a part of the file is checked against. */
typedef struct replay_source {
    const sara_safetensors *file;
    const char *path;
    const sara_network *denoiser;
    const char *suffix; /* of the part's tensors' names: ".3", or "" where all are stacked */
    bool flow;          /* noise levels are of a flow */
    int last;           /* timestep */
} replay_source;

void sara_replay_free(sara_replay *replay)
{
    if (!replay)
        return;
    for (size_t i = 0; replay->parts && i < replay->part_count; i++)
        sara_batch_clear(replay->ctx, &replay->parts[i]);
    sara_free(replay->ctx, replay->parts);
    sara_free(replay->ctx, replay->shapes);
    json_decref(replay->rank_names);
    sara_free(replay->ctx, replay);
}

/* ------------------------------------------------------------------------------------- reading */

static sara_status read_rank_names(sara_replay *replay, const sara_safetensors *file)
{
    const char *text = sara_safetensors_metadata(file, "rank_names");
    const char *path = sara_safetensors_path(file);
    sara_status status = SARA_OK;
    if (!text)
        return SARA_OK;
    TRY(sara_json_parse(replay->ctx, &replay->rank_names, text, strlen(text), path, false));
    if (!json_is_array(replay->rank_names))
        return sara_fail(replay->ctx, SARA_ERROR_INPUT, "%s: rank_names: expected a list of names",
                         path);
    for (size_t i = 0; i < json_array_size(replay->rank_names); i++)
        if (!json_is_string(json_array_get(replay->rank_names, i)))
            return sara_fail(replay->ctx, SARA_ERROR_INPUT, "%s: rank_names[%zu]: expected a name",
                             path, i);
done:
    return status;
}

/* out [like's first axes, ...] of this rank in all. */
static sara_status load_array(const replay_source *s, sara_tensor *out, const char *name,
                              sara_dtype dtype, int rank, const sara_shape *like, int axes)
{
    sara_shape shape = {.rank = rank};
    for (int i = 0; i < rank; i++)
        shape.dims[i] = i < axes ? like->dims[i] : -1;
    return sara_safetensors_load(s->file, out, sara_name_of("%s%s", name, s->suffix).text, dtype,
                                 &shape);
}

/* I64 or F32; a flow's may be any number. */
static sara_status load_timesteps(sara_context *ctx, sara_batch *part, const replay_source *s,
                                  int rank)
{
    const char *name = sara_name_of("timesteps%s", s->suffix).text;
    const sara_tensor_info *info = sara_safetensors_find(s->file, name);
    const bool is_float = info && info->dtype == SARA_F32;
    sara_tensor numbers;
    size_t count;
    sara_status status;
    TRY(load_array(s, &numbers, "timesteps", is_float ? SARA_F32 : SARA_I64, rank,
                   &part->latents.shape, rank));
    count = (size_t)sara_shape_count(&numbers.shape);
    TRY(sara_alloc(ctx, &part->timesteps, count, sizeof(double)));
    for (size_t i = 0; i < count; i++) {
        double t = is_float ? (double)((const float *)numbers.data)[i]
                            : (double)((const int64_t *)numbers.data)[i];
        part->timesteps[i] = t;
        if (!(t >= 0 && t <= s->last) || (!s->flow && t != floor(t)))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                          "%s: timesteps%s[%zu] is %.15g, expected %s0 to %d", s->path, s->suffix,
                          i, t, t >= 0 && t <= s->last ? "a whole number, " : "", s->last));
    }
done:
    sara_tensor_free(ctx, &numbers);
    return status;
}

/* The noise levels, where the file has them; else timesteps tell them. */
static sara_status load_sigmas(sara_context *ctx, sara_batch *part, const replay_source *s,
                               int rank)
{
    const char *name = sara_name_of("sigmas%s", s->suffix).text;
    sara_tensor sigmas;
    sara_status status;
    if (!sara_safetensors_find(s->file, name))
        return SARA_OK;
    if (!s->flow)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %s: goes with models of flow matching, whose noise levels they are",
                         s->path, name);
    TRY(load_array(s, &sigmas, "sigmas", SARA_F32, rank, &part->latents.shape, rank));
    part->sigmas = sigmas.data;
    for (int64_t i = 0; i < sara_shape_count(&sigmas.shape); i++)
        if (!(part->sigmas[i] >= 0 && part->sigmas[i] <= 1))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s[%lld] is %.9g, expected 0 to 1", s->path,
                          name, (long long)i, (double)part->sigmas[i]));
done:
    return status;
}

static sara_status check_replayed(sara_context *ctx, const sara_shape *shape,
                                  const replay_source *s, int lead)
{
    const sara_denoiser_info *info = &s->denoiser->info.denoiser;
    const char *title = s->denoiser->class->title;
    const int64_t channels = shape->dims[lead + 1];
    const int64_t *sides = shape->dims + shape->rank - 2; /* of images and frames */
    if (sara_shape_count(shape) == 0)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: latents%s are empty", s->path, s->suffix);
    if (channels != info->in_channels)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: latents%s: %lld channels, the %s takes %d",
                         s->path, s->suffix, (long long)channels, title, info->in_channels);
    for (int i = 0; i < 2 && info->rank > 3; i++)
        if (!sara_denoiser_takes_side(info, sides[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: latents%s: %lldx%lld, the %s takes %s",
                             s->path, s->suffix, (long long)sides[0], (long long)sides[1], title,
                             sara_denoiser_sides(info).text);
    return SARA_OK;
}

static sara_status load_condition(sara_context *ctx, sara_batch *part, const replay_source *s,
                                  int lead)
{
    const sara_network *denoiser = s->denoiser;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_CONDITION_KINDS; i++) {
        const sara_condition_kind *kind = &sara_condition_kinds[i];
        const sara_shape *shape = &part->condition[i].shape;
        int width = denoiser->info.denoiser.widths[i];
        if (width == 0)
            continue;
        TRY(load_array(s, &part->condition[i], kind->name, SARA_F32, lead + kind->rank,
                       &part->latents.shape, lead + 1));
        if (shape->dims[shape->rank - 1] != width)
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s%s: width %lld, the %s takes %d", s->path,
                          kind->name, s->suffix, (long long)shape->dims[shape->rank - 1],
                          denoiser->class->title, width));
        if (sara_shape_count(shape) == 0)
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s%s are empty", s->path, kind->name,
                          s->suffix));
    }
done:
    return status;
}

static sara_status replay_part(sara_replay *replay, sara_batch *part, const replay_source *s)
{
    const int lead = replay->stacked ? 1 : 0, rank = s->denoiser->info.denoiser.rank + lead;
    sara_tensor noise;
    sara_status status;
    TRY(load_array(s, &part->latents, LATENTS, SARA_F32, rank, NULL, 0));
    TRY(load_array(s, &noise, "noise", SARA_F32, rank, &part->latents.shape, rank));
    part->noise = noise.data;
    TRY(check_replayed(replay->ctx, &part->latents.shape, s, lead));
    TRY(load_condition(replay->ctx, part, s, lead));
    TRY(load_timesteps(replay->ctx, part, s, lead + 1));
    TRY(load_sigmas(replay->ctx, part, s, lead + 1));
done:
    return status;
}

static sara_status count_parts(sara_replay *replay, const replay_source *s)
{
    bool stacked = sara_safetensors_find(s->file, LATENTS) != NULL;
    for (size_t i = 0; i < sara_safetensors_count(s->file); i++) {
        const char *name = sara_safetensors_at(s->file, i)->name;
        if (strncmp(name, LATENTS ".", strlen(LATENTS ".")) != 0)
            continue;
        const char *number = name + strlen(LATENTS ".");
        if (stacked || number[strspn(number, "0123456789")] != '\0')
            return sara_fail(replay->ctx, SARA_ERROR_INPUT,
                             "%s: holds %s: expected " LATENTS " of all micro-batches, or " LATENTS
                             ".0, " LATENTS ".1, ... alone",
                             s->path, name);
        replay->part_count++;
    }
    return SARA_OK;
}

/* "latents" of all micro-batches, or "latents.0", "latents.1", ... */
static sara_status replay_parts(sara_replay *replay, replay_source *s)
{
    sara_status status;
    TRY(count_parts(replay, s));
    replay->stacked = replay->part_count == 0; /* or "latents" is what is missed */
    if (replay->stacked)
        replay->part_count = 1;
    TRY(sara_alloc_zero(replay->ctx, &replay->parts, replay->part_count, sizeof(sara_batch)));
    for (size_t i = 0; i < replay->part_count; i++) {
        sara_name suffix = sara_name_of(".%zu", i);
        s->suffix = replay->stacked ? "" : suffix.text;
        TRY(replay_part(replay, &replay->parts[i], s));
        replay->source.bytes += sara_batch_bytes(&replay->parts[i]);
    }
    replay->source.items =
        replay->stacked ? replay->parts[0].latents.shape.dims[0] : (int64_t)replay->part_count;
done:
    return status;
}

/* ------------------------------------------------------------------------------ micro-batches */

/* The entry of an array of all, which loses its first axis. */
static sara_tensor entry_of(const sara_tensor *all, int64_t index)
{
    sara_tensor entry = {.dtype = all->dtype};
    if (all->shape.rank == 0)
        return entry;
    entry.shape.rank = all->shape.rank - 1;
    memcpy(entry.shape.dims, all->shape.dims + 1, sizeof(*all->shape.dims) * (SARA_MAX_RANK - 1));
    entry.data = (float *)all->data + index * sara_shape_count(&entry.shape);
    return entry;
}

static sara_batch micro_batch(const sara_replay *replay, int64_t index)
{
    const sara_batch *part = &replay->parts[replay->stacked ? 0 : index];
    sara_batch out = *part;
    if (!replay->stacked)
        return out;
    out.latents = entry_of(&part->latents, index);
    out.noise += index * sara_shape_count(&out.latents.shape);
    out.timesteps += index * out.latents.shape.dims[0];
    if (out.sigmas)
        out.sigmas += index * out.latents.shape.dims[0];
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        out.condition[i] = entry_of(&part->condition[i], index);
    return out;
}

sara_status sara_replay_get(const sara_replay *replay, sara_batch *out, int64_t index)
{
    if (index >= replay->source.items)
        return sara_fail(replay->ctx, SARA_ERROR_INPUT,
                         "the replay file holds %lld micro-batches, number %lld is needed",
                         (long long)replay->source.items, (long long)index + 1);
    *out = micro_batch(replay, index);
    return SARA_OK;
}

static sara_status list_shapes(sara_replay *replay)
{
    size_t count = 0;
    sara_batch *shapes;
    sara_status status;
    TRY(sara_alloc(replay->ctx, &replay->shapes, replay->part_count, sizeof(*shapes)));
    shapes = replay->shapes;
    for (size_t i = 0; i < replay->part_count; i++) {
        sara_batch batch = micro_batch(replay, (int64_t)i);
        batch = sara_batch_shape_of(&batch, batch.latents.shape.dims[0]);
        size_t at = 0;
        while (at < count && !sara_batch_same_shape(&batch, &shapes[at]))
            at++;
        if (at < count)
            continue;
        if (at > 0 &&
            sara_shape_count(&batch.latents.shape) > sara_shape_count(&shapes[0].latents.shape)) {
            shapes[at] = shapes[0];
            at = 0;
        }
        shapes[at] = batch;
        count++;
    }
    replay->source.shapes = shapes;
    replay->source.shape_count = count;
done:
    return status;
}

sara_status sara_replay_open(sara_context *ctx, sara_replay **out, const sara_model *model,
                             const sara_objective *objective, const char *path)
{
    const bool flow = objective->prediction == SARA_PREDICT_FLOW;
    replay_source source = {.path = path,
                            .denoiser = model->denoiser,
                            .flow = flow,
                            .last = objective->num_train_timesteps - (flow ? 0 : 1)};
    sara_safetensors *file = NULL;
    sara_replay *replay = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &replay, 1, sizeof(*replay)));
    replay->ctx = ctx;
    TRY(sara_safetensors_open(ctx, &file, path));
    source.file = file;
    TRY(replay_parts(replay, &source));
    TRY(list_shapes(replay));
    TRY(read_rank_names(replay, file));
    TRY(sara_sha256_file(ctx, replay->source.sha256, path));
    replay->source.rank_names = replay->rank_names;
    replay->source.is_replay = true;
    *out = replay;
    replay = NULL;
done:
    sara_safetensors_close(file);
    sara_replay_free(replay);
    return status;
}
