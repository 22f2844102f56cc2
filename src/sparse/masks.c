/* Masks other than SaRA's own: entries ranked by a magnitude that belongs to each. */
#include "sparse/magnitude.h"

#include <math.h>

static const char *const mask_names[] = {
    [SARA_MASK_SMALLEST] = "smallest", [SARA_MASK_LARGEST] = "largest",
    [SARA_MASK_RANDOM] = "random",     [SARA_MASK_GRADIENT] = "gradient",
    [SARA_MASK_LIFT] = "lift",
};

sara_status sara_mask_parse(sara_context *ctx, sara_mask_kind *out, const char *name)
{
    for (size_t i = 0; i < sizeof(mask_names) / sizeof(*mask_names); i++)
        if (strcmp(mask_names[i], name) == 0) {
            *out = (sara_mask_kind)i;
            return SARA_OK;
        }
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "--mask %s: expected smallest, largest, random, gradient or lift", name);
}

/* ------------------------------------------------------------------------------ what is ranked */

/* The parameters `first` .. of a set, with what their entries are ranked by. */
typedef struct ranking {
    const sara_params *params; /* those parameters */
    size_t first;              /* the index in the set of the first of them */
    uint64_t seed;
    const float *scores; /* of these parameters' entries */
    size_t *offsets;     /* [params->count]: where each one's scores begin; NULL: at 0 */
    sara_block_fn block;
} ranking;

static const float *value_block(const void *user, float *buffer, size_t param, size_t first,
                                size_t count)
{
    const ranking *r = user;
    return sara_param_block(&r->params->items[param], buffer, first, count);
}

/* 30 bits are finite as a float32's. */
static const float *random_block(const void *user, float *buffer, size_t param, size_t first,
                                 size_t count)
{
    const ranking *r = user;
    uint32_t bits[SARA_PARAM_BLOCK];
    sara_draw_bits(bits, count, r->seed, SARA_DRAW_MASK, r->first + param, first);
    for (size_t i = 0; i < count; i++)
        buffer[i] = sara_magnitude_value(bits[i] >> 2);
    return buffer;
}

static const float *score_block(const void *user, float *buffer, size_t param, size_t first,
                                size_t count)
{
    const ranking *r = user;
    (void)buffer;
    (void)count;
    return r->scores + (r->offsets ? r->offsets[param] : 0) + first;
}

/* ------------------------------------------------------------------------------ the first ones */

/* Of one parameter: entries above the limit, and at it. */
typedef struct rank_count {
    size_t above, equal;
} rank_count;

static rank_count count_ranked(const ranking *r, size_t param, uint32_t limit)
{
    size_t count = (size_t)sara_shape_count(&r->params->items[param].value.shape);
    float buffer[SARA_PARAM_BLOCK];
    rank_count found = {0, 0};
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        const float *values = r->block(r, buffer, param, at, part);
        for (size_t i = 0; i < part; i++) {
            found.above += sara_magnitude(values[i]) > limit;
            found.equal += sara_magnitude(values[i]) == limit;
        }
    }
    return found;
}

/* Those above the limit and the first `equal` at it. */
static void collect_ranked(sara_selected *item, const ranking *r, size_t param, uint32_t limit,
                           size_t equal)
{
    size_t count = (size_t)sara_shape_count(&r->params->items[param].value.shape), next = 0;
    float buffer[SARA_PARAM_BLOCK];
    for (size_t at = 0, part; at < count && next < item->count; at += part) {
        part = sara_param_part(count, at);
        const float *values = r->block(r, buffer, param, at, part);
        for (size_t i = 0; i < part; i++) {
            uint32_t magnitude = sara_magnitude(values[i]);
            if (magnitude < limit || (magnitude == limit && equal == 0))
                continue;
            equal -= magnitude == limit;
            item->positions[next++] = (uint32_t)(at + i);
        }
    }
    SARA_ASSERT(next == item->count); /* as many as were counted */
}

/* The largest `most` of all; result's items are zero. */
static sara_status select_ranked(sara_context *ctx, sara_selection *result, const ranking *r,
                                 int64_t most)
{
    const size_t params = r->params->count;
    size_t left = (size_t)most;
    int threads = sara_threads(ctx);
    rank_count *counts = NULL;
    uint32_t limit;
    sara_status status;
    TRY(sara_magnitude_select(ctx, &limit, r->params, sara_params_entries(r->params) - most,
                              r->block, r));
    TRY(sara_alloc(ctx, &counts, params, sizeof(*counts)));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < params; i++)
        counts[i] = count_ranked(r, i, limit);
    for (size_t i = 0; i < params; i++)
        left -= counts[i].above;
    for (size_t i = 0; i < params; i++) {
        counts[i].equal = counts[i].equal < left ? counts[i].equal : left;
        left -= counts[i].equal;
        result->items[i].count = counts[i].above + counts[i].equal;
    }
    result->total = most;
    TRY(sara_selection_alloc(ctx, result));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < params; i++)
        collect_ranked(&result->items[i], r, i, limit, counts[i].equal);
done:
    sara_free(ctx, counts);
    return status;
}

/* The largest ones of the one parameter that is ranked, as many as the item has room for. */
static sara_status select_in_one(sara_context *ctx, sara_selected *item, const ranking *r)
{
    int64_t entries = sara_params_entries(r->params);
    uint32_t limit;
    sara_status status;
    if (item->count == 0)
        return SARA_OK;
    TRY(sara_magnitude_select(ctx, &limit, r->params, entries - (int64_t)item->count, r->block, r));
    collect_ranked(item, r, 0, limit, item->count - count_ranked(r, 0, limit).above);
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- lift */

/* |up down| of row i, rounded to float32: up [rows][rank], down [rank][cols]. */
static void approximate_row(float *out, double *sums, const float *up, const float *down,
                            int64_t cols, int64_t rank)
{
    memset(sums, 0, (size_t)cols * sizeof(*sums));
    for (int64_t k = 0; k < rank; k++) {
        const double factor = (double)up[k];
        const float *row = down + k * cols;
        for (int64_t j = 0; j < cols; j++)
            sums[j] += factor * (double)row[j];
    }
    for (int64_t j = 0; j < cols; j++)
        out[j] = (float)sums[j];
}

static sara_status approximate_rows(sara_context *ctx, float *out, const float *up,
                                    const float *down, int64_t rows, int64_t cols, int64_t rank)
{
    int threads = sara_threads(ctx);
    double *sums = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &sums, (size_t)threads, (size_t)cols * sizeof(*sums)));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = thread; i < rows; i += threads)
            approximate_row(out + i * cols, sums + thread * cols, up + i * rank, down, cols, rank);
done:
    sara_free(ctx, sums);
    return status;
}

/* out [rows][cols]: the best approximation of a rank. */
static sara_status approximate_param(sara_context *ctx, float *out, const sara_param *param,
                                     int most)
{
    const int64_t count = sara_shape_count(&param->value.shape), rows = param->value.shape.dims[0];
    const int64_t cols = count / rows, side = rows < cols ? rows : cols;
    const int64_t rank = most < side ? most : side;
    float *up = NULL, *down = NULL;
    double *singular = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &up, (size_t)rows, (size_t)rank * sizeof(*up)));
    TRY(sara_alloc(ctx, &down, (size_t)rank, (size_t)cols * sizeof(*down)));
    TRY(sara_alloc(ctx, &singular, (size_t)rank, sizeof(*singular)));
    for (int64_t i = 0; i < count; i++)
        out[i] = sara_param_get(param, (size_t)i);
    TRY(sara_truncated_svd(ctx, up, down, singular, rows, cols, rank, NULL, out, (size_t)count));
    TRY(approximate_rows(ctx, out, up, down, rows, cols, rank));
done:
    sara_free(ctx, up);
    sara_free(ctx, down);
    sara_free(ctx, singular);
    return status;
}

int64_t sara_mask_entries(const sara_params *params, sara_mask_kind kind)
{
    int64_t entries = 0;
    for (size_t i = 0; i < params->count; i++)
        if (kind != SARA_MASK_LIFT || params->items[i].value.shape.rank > 1)
            entries += sara_shape_count(&params->items[i].value.shape);
    return entries;
}

/* Shares in whole entries, each at most its parameter's: what is left of one goes to the next. */
static void share_budget(sara_selection *result, const sara_params *params, int64_t most)
{
    const int64_t entries = sara_mask_entries(params, SARA_MASK_LIFT);
    int64_t left = 0;
    result->total = most < entries ? most : entries;
    for (size_t i = 0; i < params->count; i++) {
        if (params->items[i].value.shape.rank < 2)
            continue;
        left += sara_shape_count(&params->items[i].value.shape) * result->total;
        result->items[i].count = (size_t)(left / entries);
        left %= entries;
    }
}

static sara_status select_lifted(sara_context *ctx, sara_selection *result,
                                 const sara_params *params, int rank, int64_t most)
{
    float *scores = NULL;
    sara_status status;
    share_budget(result, params, most);
    TRY(sara_selection_alloc(ctx, result));
    for (size_t i = 0; i < params->count; i++) {
        const sara_params one = {.items = &params->items[i], .count = 1};
        if (result->items[i].count == 0)
            continue;
        if (sara_interrupted(ctx))
            TRY(sara_fail(ctx, SARA_INTERRUPTED, "interrupted while entries were chosen"));
        TRY(sara_alloc(ctx, &scores, (size_t)sara_params_entries(&one), sizeof(*scores)));
        TRY(approximate_param(ctx, scores, one.items, rank));
        TRY(select_in_one(ctx, &result->items[i],
                          &(ranking){.params = &one, .scores = scores, .block = score_block}));
        sara_free(ctx, scores);
        scores = NULL;
    }
done:
    sara_free(ctx, scores);
    return status;
}

/* --------------------------------------------------------------------------------- selections */

/* A selection of nothing yet, and the values for the host. */
static sara_status begin_selection(sara_context *ctx, sara_selection *result, sara_params *copy,
                                   const sara_params *params, double threshold)
{
    sara_status status;
    *result = (sara_selection){.item_count = params->count, .threshold = threshold};
    TRY(sara_alloc_zero(ctx, &result->items, params->count, sizeof(*result->items)));
    for (size_t i = 0; i < params->count; i++)
        result->items[i].param = &params->items[i];
    TRY(sara_params_read(ctx, copy, params));
done:
    return status;
}

static sara_status check_scores(sara_context *ctx, const sara_params *params, const float *scores)
{
    for (size_t i = 0; i < params->count; i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        for (size_t k = 0; k < count; k++)
            if (!isfinite(scores[k]))
                return sara_fail(ctx, SARA_ERROR_DIVERGED, "%s: what entry %zu is ranked by is %g",
                                 params->items[i].name, k, (double)scores[k]);
        scores += count;
    }
    return SARA_OK;
}

static sara_status find_offsets(sara_context *ctx, size_t **out, const sara_params *params)
{
    size_t next = 0;
    sara_status status;
    TRY(sara_alloc(ctx, out, params->count, sizeof(**out)));
    for (size_t i = 0; i < params->count; i++) {
        (*out)[i] = next;
        next += (size_t)sara_shape_count(&params->items[i].value.shape);
    }
done:
    return status;
}

static sara_status select_all(sara_context *ctx, sara_selection *result, const sara_params *params,
                              const sara_mask_rule *rule, int64_t most)
{
    ranking r = {.params = params, .seed = rule->seed, .scores = rule->scores};
    sara_status status;
    switch (rule->kind) {
    case SARA_MASK_LIFT:
        return select_lifted(ctx, result, params, rule->rank, most);
    case SARA_MASK_RANDOM:
        r.block = random_block;
        break;
    case SARA_MASK_GRADIENT:
        r.block = score_block;
        TRY(check_scores(ctx, params, r.scores));
        TRY(find_offsets(ctx, &r.offsets, params));
        break;
    default:
        r.block = value_block;
    }
    TRY(select_ranked(ctx, result, &r, most));
done:
    sara_free(ctx, r.offsets);
    return status;
}

static sara_status select_by_rule(sara_context *ctx, sara_selection *out, const sara_params *params,
                                  const sara_mask_rule *rule, int64_t most, double threshold)
{
    sara_selection result = {0};
    sara_params copy = {0};
    sara_status status;
    *out = (sara_selection){0};
    TRY(begin_selection(ctx, &result, &copy, params, threshold));
    TRY(select_all(ctx, &result, &copy, rule, most));
    *out = result;
    result = (sara_selection){0};
done:
    sara_params_read_end(ctx, &copy, params);
    sara_selection_free(ctx, &result);
    return status;
}

sara_status sara_select_masked(sara_context *ctx, sara_selection *out, const sara_params *params,
                               const sara_budget *budget, const sara_mask_rule *rule)
{
    sara_selection smallest;
    sara_status status;
    TRY(sara_select(ctx, &smallest, params, budget));
    if (rule->kind == SARA_MASK_SMALLEST) {
        *out = smallest;
        return SARA_OK;
    }
    int64_t most = smallest.total;
    double threshold = smallest.threshold;
    sara_selection_free(ctx, &smallest);
    status = select_by_rule(ctx, out, params, rule, most, threshold);
done:
    return status;
}

sara_status sara_select_scored(sara_context *ctx, sara_selection *out, const sara_params *params,
                               const float *scores, int64_t most)
{
    const sara_mask_rule rule = {.kind = SARA_MASK_GRADIENT, .scores = scores};
    return select_by_rule(ctx, out, params, &rule, most, NAN);
}

sara_status sara_select_random(sara_context *ctx, sara_selection *out, const sara_params *params,
                               const size_t *counts, uint64_t seed)
{
    sara_selection result = {0};
    sara_params copy = {0};
    sara_status status;
    *out = (sara_selection){0};
    TRY(begin_selection(ctx, &result, &copy, params, NAN));
    for (size_t i = 0; i < params->count; i++) {
        result.items[i].count = counts[i];
        result.total += (int64_t)counts[i];
    }
    TRY(sara_selection_alloc(ctx, &result));
    for (size_t i = 0; i < params->count; i++) {
        const sara_params one = {.items = &copy.items[i], .count = 1};
        TRY(select_in_one(
            ctx, &result.items[i],
            &(ranking){.params = &one, .first = i, .seed = seed, .block = random_block}));
    }
    *out = result;
    result = (sara_selection){0};
done:
    sara_params_read_end(ctx, &copy, params);
    sara_selection_free(ctx, &result);
    return status;
}
