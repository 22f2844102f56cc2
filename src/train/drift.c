/* --track_drift: which of the small weights stay small, and which of the large ones become it
 * (figure 3 of arXiv 2409.06633). */
#include "nn/nn.h"
#include "sparse/lora.h"
#include "sparse/magnitude.h"
#include "train/trainer.h"

#include <math.h>

#define ROWS 8 /* of a weight with a branch, that are computed together */

typedef struct sara_drift {
    uint64_t *small; /* [words] a bit for each entry, of each parameter from a new word on */
    size_t words;
    uint32_t below;    /* what is small has a smaller magnitude */
    int64_t counts[2]; /* of the base's large entries, and of its small ones */
} sara_drift;

static size_t words_of(const sara_param *param)
{
    return ((size_t)sara_shape_count(&param->value.shape) + 63) / 64;
}

/* ------------------------------------------------------------------------------------ the base */

static void mark_block(uint64_t *words, const float *values, size_t count, uint32_t below)
{
    for (size_t i = 0; i < count; i++)
        words[i / 64] |= (uint64_t)(sara_magnitude(values[i]) < below) << i % 64;
}

static void mark_param(sara_drift *d, uint64_t *words, const sara_param *param, int threads)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    int64_t small = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : small)
    for (size_t at = 0; at < count; at += SARA_PARAM_BLOCK) {
        float buffer[SARA_PARAM_BLOCK];
        size_t part = sara_param_part(count, at);
        mark_block(words + at / 64, sara_param_block(param, buffer, at, part), part, d->below);
        for (size_t i = at / 64; i < (at + part + 63) / 64; i++)
            small += __builtin_popcountll(words[i]);
    }
    d->counts[1] += small;
    d->counts[0] += (int64_t)count - small;
}

static sara_status mark_all(const trainer *t, sara_drift *d)
{
    const sara_params *params = &t->model->denoiser->params;
    uint64_t *words = d->small;
    sara_param copy = {0};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < params->count; i++) {
        TRY(sara_param_read(t->ctx, &copy, &params->items[i]));
        mark_param(d, words, &copy, sara_threads(t->ctx));
        sara_param_read_end(t->ctx, &copy, &params->items[i]);
        words += words_of(&params->items[i]);
    }
done:
    return status;
}

/* The method's threshold, else that of the default budget. */
static sara_status find_threshold(const trainer *t, double *out)
{
    sara_budget budget;
    sara_status status;
    *out = NAN;
    if (t->method->small)
        TRY(t->method->small(t, out));
    if (!isnan(*out))
        return SARA_OK;
    TRY(sara_budget_parse(t->ctx, &budget, SARA_DEFAULT_BUDGET));
    status = sara_budget_resolve(t->ctx, out, &t->model->denoiser->params, &budget);
    TRY(sara_model_tell_not_finite(t->model, status));
done:
    return status;
}

sara_status sara_drift_start(trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    double threshold;
    sara_status status;
    if (t->options.track_drift == 0)
        return SARA_OK;
    TRY(find_threshold(t, &threshold));
    TRY(sara_alloc_zero(t->ctx, &t->drift, 1, sizeof(*t->drift)));
    t->drift->below = sara_threshold_magnitude(threshold);
    for (size_t i = 0; i < params->count; i++)
        t->drift->words += words_of(&params->items[i]);
    TRY(sara_alloc_zero(t->ctx, &t->drift->small, t->drift->words, sizeof(uint64_t)));
    TRY(mark_all(t, t->drift));
    sara_log(t->ctx, SARA_LOG_INFO, "drift: %lld of %lld entries are small at first, |p| < %.6g",
             (long long)t->drift->counts[1], (long long)sara_params_entries(params), threshold);
done:
    return status;
}

void sara_drift_free(trainer *t)
{
    if (t->drift)
        sara_free(t->ctx, t->drift->small);
    sara_free(t->ctx, t->drift);
    t->drift = NULL;
}

/* --------------------------------------------------------------------------------- measurement */

/* Adds the small entries among `count` values from `first` on, to those of the base's kind. */
static void count_values(int64_t now[2], const uint64_t *words, const float *values, size_t first,
                         size_t count, uint32_t below)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = first + i;
        now[words[at / 64] >> at % 64 & 1] += sara_magnitude(values[i]) < below;
    }
}

static void count_plain(int64_t now[2], const sara_drift *d, const uint64_t *words,
                        const sara_param *param, int threads)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    int64_t large = 0, small = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : large, small)
    for (size_t at = 0; at < count; at += SARA_PARAM_BLOCK) {
        float buffer[SARA_PARAM_BLOCK];
        size_t part = sara_param_part(count, at);
        int64_t own[2] = {0, 0};
        count_values(own, words, sara_param_block(param, buffer, at, part), at, part, d->below);
        large += own[0];
        small += own[1];
    }
    now[0] += large;
    now[1] += small;
}

/* A weight and the branch of low rank beside it, in the host's memory. */
typedef struct merged {
    sara_param weight, down, up, magnitude;
    sara_lora_layer layer;
} merged;

static void merged_close(sara_context *ctx, merged *m, const sara_param *weight)
{
    const sara_branch *branch = weight->branch;
    sara_param_read_end(ctx, &m->weight, weight);
    sara_param_read_end(ctx, &m->down, branch->down);
    sara_param_read_end(ctx, &m->up, branch->up);
    if (branch->magnitude)
        sara_param_read_end(ctx, &m->magnitude, branch->magnitude);
}

static sara_status merged_open(sara_context *ctx, merged *m, const sara_param *weight)
{
    const sara_branch *branch = weight->branch;
    const sara_shape *shape = &weight->value.shape;
    sara_status status;
    TRY(sara_param_read(ctx, &m->weight, weight));
    TRY(sara_param_read(ctx, &m->down, branch->down));
    TRY(sara_param_read(ctx, &m->up, branch->up));
    if (branch->magnitude)
        TRY(sara_param_read(ctx, &m->magnitude, branch->magnitude));
    m->layer = (sara_lora_layer){.rank = branch->down->value.shape.dims[0],
                                 .out = shape->dims[0],
                                 .in = shape->dims[1],
                                 .kh = shape->rank == 4 ? shape->dims[2] : 1,
                                 .kw = shape->rank == 4 ? shape->dims[3] : 1,
                                 .down = m->down.value.data,
                                 .up = m->up.value.data,
                                 .magnitude = m->magnitude.value.data,
                                 .scale = (double)branch->scale};
done:
    return status;
}

/* room: of each thread [2][ROWS][columns of the widest weight]. */
static void count_merged(int64_t now[2], const sara_drift *d, const uint64_t *words,
                         const merged *m, float *room, int threads)
{
    const int64_t rows = m->layer.out, cols = m->layer.in * m->layer.kh * m->layer.kw;
    const sara_tensor *weight = &m->weight.value;
    size_t bytes = sara_dtype_size(weight->dtype);
    int64_t large = 0, small = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : large, small)
    for (int t = 0; t < threads; t++) {
        float *original = room + t * 2 * ROWS * cols, *values = original + ROWS * cols;
        int64_t own[2] = {0, 0};
        for (int64_t first = t * ROWS; first < rows; first += (int64_t)threads * ROWS) {
            int64_t part = rows - first < ROWS ? rows - first : ROWS;
            size_t from = (size_t)(first * cols), count = (size_t)(part * cols);
            sara_convert_to_f32(original, (const char *)weight->data + from * bytes, weight->dtype,
                                count);
            sara_lora_rows(values, &m->layer, original, first, part);
            count_values(own, words, values, from, count, d->below);
        }
        large += own[0];
        small += own[1];
    }
    now[0] += large;
    now[1] += small;
}

/* In floats: for the widest weight that has a branch. */
static size_t room_size(const trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    int64_t most = 0;
    for (size_t i = 0; i < params->count; i++) {
        const sara_shape *shape = &params->items[i].value.shape;
        int64_t cols = params->items[i].branch ? sara_shape_count(shape) / shape->dims[0] : 0;
        most = cols > most ? cols : most;
    }
    return (size_t)(most * 2 * ROWS * sara_threads(t->ctx));
}

size_t sara_drift_bytes(const trainer *t)
{
    return t->drift ? t->drift->words * sizeof(uint64_t) + room_size(t) * sizeof(float) : 0;
}

static sara_status count_one(const trainer *t, int64_t now[2], const uint64_t *words,
                             const sara_param *param, float *room)
{
    int threads = sara_threads(t->ctx);
    merged m = {0};
    sara_param copy = {0};
    sara_status status;
    if (param->branch) {
        TRY(merged_open(t->ctx, &m, param));
        count_merged(now, t->drift, words, &m, room, threads);
    } else {
        TRY(sara_param_read(t->ctx, &copy, param));
        count_plain(now, t->drift, words, &copy, threads);
    }
done:
    if (param->branch)
        merged_close(t->ctx, &m, param);
    else
        sara_param_read_end(t->ctx, &copy, param);
    return status;
}

static double share_of_all(int64_t part, int64_t all)
{
    return all ? (double)part / (double)all : NAN;
}

sara_status sara_drift_measure(const trainer *t, sara_drift_shares *out)
{
    const sara_params *params = &t->model->denoiser->params;
    const sara_drift *d = t->drift;
    const uint64_t *words = d->small;
    int64_t now[2] = {0, 0};
    float *room = NULL;
    sara_status status;
    TRY(sara_alloc(t->ctx, &room, room_size(t), sizeof(*room)));
    for (size_t i = 0; i < params->count; i++) {
        TRY(count_one(t, now, words, &params->items[i], room));
        words += words_of(&params->items[i]);
    }
    *out =
        (sara_drift_shares){share_of_all(now[1], d->counts[1]), share_of_all(now[0], d->counts[0])};
done:
    sara_free(t->ctx, room);
    return status;
}
