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

/* What entries are ranked by that are not ranked by values. */
typedef struct entry_scores {
    uint64_t seed;
    size_t first;        /* the index in the whole set of the first parameter that is ranked */
    const float *values; /* of these parameters' entries */
    size_t *offsets;     /* [params]: where each one's values begin; NULL: at 0 */
} entry_scores;

/* 30 bits are finite as a float32's. */
static const float *random_block(const void *user, float *buffer, const sara_param *param,
                                 size_t index, size_t first, size_t count)
{
    const entry_scores *s = user;
    uint32_t bits[SARA_PARAM_BLOCK];
    (void)param;
    sara_draw_bits(bits, count, s->seed, SARA_DRAW_MASK, s->first + index, first);
    for (size_t i = 0; i < count; i++)
        buffer[i] = sara_magnitude_value(bits[i] >> 2);
    return buffer;
}

static const float *score_block(const void *user, float *buffer, const sara_param *param,
                                size_t index, size_t first, size_t count)
{
    const entry_scores *s = user;
    (void)buffer;
    (void)param;
    (void)count;
    return s->values + (s->offsets ? s->offsets[index] : 0) + first;
}

/* ------------------------------------------------------------------------------ the first ones */

/* Of one parameter: entries above the limit, and at it. */
typedef struct rank_count {
    size_t above, equal;
} rank_count;

static rank_count count_ranked(const sara_ranking *r, const sara_param *param, size_t index,
                               uint32_t limit)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    rank_count found = {0, 0};
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        const float *values = r->block(r->user, buffer, param, index, at, part);
        for (size_t i = 0; i < part; i++) {
            found.above += sara_magnitude(values[i]) > limit;
            found.equal += sara_magnitude(values[i]) == limit;
        }
    }
    return found;
}

/* Those above the limit and the first `equal` at it. */
static void collect_ranked(sara_selected *item, const sara_ranking *r, const sara_param *param,
                           size_t index, uint32_t limit, size_t equal)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape), next = 0;
    float buffer[SARA_PARAM_BLOCK];
    for (size_t at = 0, part; at < count && next < item->count; at += part) {
        part = sara_param_part(count, at);
        const float *values = r->block(r->user, buffer, param, index, at, part);
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

/* What is counted, then collected. */
typedef struct ranked {
    const sara_ranking *ranking;
    rank_count *counts;
    sara_selected *items;
    uint32_t limit;
} ranked;

static void count_one_ranked(void *user, const sara_param *param, size_t index)
{
    const ranked *r = user;
    r->counts[index] = count_ranked(r->ranking, param, index, r->limit);
}

static void collect_one_ranked(void *user, const sara_param *param, size_t index)
{
    const ranked *r = user;
    collect_ranked(&r->items[index], r->ranking, param, index, r->limit, r->counts[index].equal);
}

/* The largest `most` of all; result's items are zero. */
static sara_status select_ranked(sara_context *ctx, sara_selection *result, const sara_ranking *r,
                                 int64_t most)
{
    const size_t params = r->params->count;
    size_t left = (size_t)most;
    rank_count *counts = NULL;
    ranked all = {.ranking = r, .items = result->items};
    sara_status status;
    TRY(sara_magnitude_select(ctx, &all.limit, r, sara_params_entries(r->params) - most));
    TRY(sara_alloc(ctx, &counts, params, sizeof(*counts)));
    all.counts = counts;
    TRY(sara_ranking_each(ctx, r, count_one_ranked, &all));
    for (size_t i = 0; i < params; i++)
        left -= counts[i].above;
    for (size_t i = 0; i < params; i++) {
        counts[i].equal = counts[i].equal < left ? counts[i].equal : left;
        left -= counts[i].equal;
        result->items[i].count = counts[i].above + counts[i].equal;
    }
    result->total = most;
    TRY(sara_selection_alloc(ctx, result));
    TRY(sara_ranking_each(ctx, r, collect_one_ranked, &all));
done:
    sara_free(ctx, counts);
    return status;
}

/* The largest ones of the one parameter that is ranked, as many as the item has room for, by what
 * is no value of its own. */
static sara_status select_in_one(sara_context *ctx, sara_selected *item, const sara_ranking *r)
{
    const sara_param *param = r->params->items;
    int64_t entries = sara_params_entries(r->params);
    uint32_t limit;
    sara_status status;
    if (item->count == 0)
        return SARA_OK;
    TRY(sara_magnitude_select(ctx, &limit, r, entries - (int64_t)item->count));
    collect_ranked(item, r, param, 0, limit,
                   item->count - count_ranked(r, param, 0, limit).above);
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
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    TRY(sara_alloc(ctx, &up, (size_t)rows, (size_t)rank * sizeof(*up)));
    TRY(sara_alloc(ctx, &down, (size_t)rank, (size_t)cols * sizeof(*down)));
    TRY(sara_alloc(ctx, &singular, (size_t)rank, sizeof(*singular)));
    for (int64_t i = 0; i < count; i++)
        out[i] = sara_param_get(&copy, (size_t)i);
    TRY(sara_truncated_svd(ctx, up, down, singular, rows, cols, rank, NULL, out, (size_t)count));
    TRY(approximate_rows(ctx, out, up, down, rows, cols, rank));
done:
    sara_param_read_end(ctx, &copy, param);
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
    float *lifted = NULL;
    sara_status status;
    share_budget(result, params, most);
    TRY(sara_selection_alloc(ctx, result));
    for (size_t i = 0; i < params->count; i++) {
        const sara_params one = {.items = &params->items[i], .count = 1};
        if (result->items[i].count == 0)
            continue;
        if (sara_interrupted(ctx))
            TRY(sara_fail(ctx, SARA_INTERRUPTED, "interrupted while entries were chosen"));
        TRY(sara_alloc(ctx, &lifted, (size_t)sara_params_entries(&one), sizeof(*lifted)));
        TRY(approximate_param(ctx, lifted, one.items, rank));
        const entry_scores by = {.values = lifted};
        TRY(select_in_one(
            ctx, &result->items[i],
            &(sara_ranking){.params = &one, .block = score_block, .user = &by}));
        sara_free(ctx, lifted);
        lifted = NULL;
    }
done:
    sara_free(ctx, lifted);
    return status;
}

/* --------------------------------------------------------------------------------- selections */

/* A selection of nothing yet. */
static sara_status begin_selection(sara_context *ctx, sara_selection *result,
                                   const sara_params *params, double threshold)
{
    sara_status status;
    *result = (sara_selection){.item_count = params->count, .threshold = threshold};
    TRY(sara_alloc_zero(ctx, &result->items, params->count, sizeof(*result->items)));
    for (size_t i = 0; i < params->count; i++)
        result->items[i].param = &params->items[i];
done:
    return status;
}

static sara_status check_scores(sara_context *ctx, const sara_params *params, const float *values)
{
    for (size_t i = 0; i < params->count; i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        for (size_t k = 0; k < count; k++)
            if (!isfinite(values[k]))
                return sara_fail(ctx, SARA_ERROR_DIVERGED, "%s: what entry %zu is ranked by is %g",
                                 params->items[i].name, k, (double)values[k]);
        values += count;
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
    entry_scores by = {.seed = rule->seed, .values = rule->scores};
    sara_ranking r = {.params = params, .user = &by};
    sara_status status;
    switch (rule->kind) {
    case SARA_MASK_LIFT:
        return select_lifted(ctx, result, params, rule->rank, most);
    case SARA_MASK_RANDOM:
        r.block = random_block;
        break;
    case SARA_MASK_GRADIENT:
        r.block = score_block;
        TRY(check_scores(ctx, params, by.values));
        TRY(find_offsets(ctx, &by.offsets, params));
        break;
    default:
        r = sara_ranking_of_values(params);
    }
    TRY(select_ranked(ctx, result, &r, most));
done:
    sara_free(ctx, by.offsets);
    return status;
}

static sara_status select_by_rule(sara_context *ctx, sara_selection *out, const sara_params *params,
                                  const sara_mask_rule *rule, int64_t most, double threshold)
{
    sara_selection result = {0};
    sara_status status;
    *out = (sara_selection){0};
    TRY(begin_selection(ctx, &result, params, threshold));
    TRY(select_all(ctx, &result, params, rule, most));
    *out = result;
    result = (sara_selection){0};
done:
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
    sara_status status;
    *out = (sara_selection){0};
    TRY(begin_selection(ctx, &result, params, NAN));
    for (size_t i = 0; i < params->count; i++) {
        result.items[i].count = counts[i];
        result.total += (int64_t)counts[i];
    }
    TRY(sara_selection_alloc(ctx, &result));
    for (size_t i = 0; i < params->count; i++) {
        const sara_params one = {.items = &params->items[i], .count = 1};
        const entry_scores by = {.first = i, .seed = seed};
        TRY(select_in_one(
            ctx, &result.items[i],
            &(sara_ranking){.params = &one, .block = random_block, .user = &by}));
    }
    *out = result;
    result = (sara_selection){0};
done:
    sara_selection_free(ctx, &result);
    return status;
}
