/* What makes one set of parameters another: the entries of an adapter between two models. */
#include "sparse/magnitude.h"

#include <math.h>

typedef struct pair {
    const sara_params *base, *tuned;
} pair;

/* ---------------------------------------------------------------------------------- measuring */

/* A 1x1 convolution's weight and a matrix hold the same entries in the same order. */
static bool same_entries(const sara_shape *a, const sara_shape *b)
{
    for (int i = 0; i < SARA_MAX_RANK; i++)
        if ((i < a->rank ? a->dims[i] : 1) != (i < b->rank ? b->dims[i] : 1))
            return false;
    return true;
}

static sara_status check_pair(sara_context *ctx, const sara_params *base, const sara_params *tuned)
{
    sara_shape_text a, b;
    for (size_t i = 0, j = 0; i < base->count || j < tuned->count; i++, j++) {
        int order = i == base->count    ? 1
                    : j == tuned->count ? -1
                                        : strcmp(base->items[i].name, tuned->items[j].name);
        if (order != 0)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: only the %s has it; the two are of different architectures",
                             order < 0 ? base->items[i].name : tuned->items[j].name,
                             order < 0 ? "base" : "tuned model");
        const sara_tensor *x = &base->items[i].value, *y = &tuned->items[j].value;
        if (!same_entries(&x->shape, &y->shape))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: shape %s in the base, %s in the tuned "
                             "model", base->items[i].name, sara_shape_format(&a, &x->shape),
                             sara_shape_format(&b, &y->shape));
    }
    return SARA_OK;
}

static bool difference_differs(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) != 0;
}

/* What one parameter adds; finite tells whether all of its changes are. */
typedef struct measure {
    sara_difference_size size;
    bool finite;
} measure;

static void measure_block(measure *out, const float *base, const float *tuned, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!difference_differs(base[i], tuned[i]))
            continue;
        double change = (double)tuned[i] - (double)base[i];
        out->finite &= isfinite(change);
        out->size.differing++;
        out->size.sum2 += change * change;
        out->size.largest = fmaxf(out->size.largest, (float)fabs(change));
    }
}

static measure measure_param(const sara_param *base, const sara_param *tuned)
{
    size_t count = (size_t)sara_shape_count(&base->value.shape);
    float a[SARA_PARAM_BLOCK], b[SARA_PARAM_BLOCK];
    measure result = {.finite = true};
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        measure_block(&result, sara_param_block(base, a, at, part),
                      sara_param_block(tuned, b, at, part), part);
    }
    return result;
}

static sara_status fail_not_finite(sara_context *ctx, const sara_param *base,
                                   const sara_param *tuned)
{
    size_t i = 0;
    while (!difference_differs(sara_param_get(base, i), sara_param_get(tuned, i)) ||
           isfinite((double)sara_param_get(tuned, i) - (double)sara_param_get(base, i)))
        i++;
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: entry %zu is %g in the base and %g in the tuned "
                     "model", base->name, i, (double)sara_param_get(base, i),
                     (double)sara_param_get(tuned, i));
}

sara_status sara_difference_measure(sara_context *ctx, sara_difference_size *out,
                                    const sara_params *base, const sara_params *tuned)
{
    sara_status status;
    sara_difference_size sum = {0, 0, 0};
    sara_params a = {0}, b = {0};
    measure *parts = NULL;
    int threads = sara_threads(ctx);
    TRY(check_pair(ctx, base, tuned));
    TRY(sara_params_read(ctx, &a, base));
    TRY(sara_params_read(ctx, &b, tuned));
    TRY(sara_alloc(ctx, &parts, base->count, sizeof(*parts)));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < base->count; i++)
        parts[i] = measure_param(&a.items[i], &b.items[i]);
    for (size_t i = 0; i < base->count; i++) {
        if (!parts[i].finite)
            TRY(fail_not_finite(ctx, &a.items[i], &b.items[i]));
        sum.differing += parts[i].size.differing;
        sum.sum2 += parts[i].size.sum2;
        sum.largest = fmaxf(sum.largest, parts[i].size.largest);
    }
    *out = sum;
done:
    sara_free(ctx, parts);
    sara_params_read_end(ctx, &b, tuned);
    sara_params_read_end(ctx, &a, base);
    return status;
}

/* ------------------------------------------------------------------------------------ keeping */

/* A rule resolved: of changes with the magnitude `limit` only the first are kept. */
typedef struct test {
    double tolerance;
    bool ranked;
    uint32_t limit;
} test;

/* Of one parameter. */
typedef struct tally {
    int64_t kept, equal; /* without and of those at the limit */
    int64_t taken;       /* of the latter */
    double left_out2;
} tally;

/* *equal: how many more may be taken at the limit. */
static bool difference_is_kept(const test *t, float base, float tuned, int64_t *equal)
{
    if (!difference_differs(base, tuned))
        return false;
    if (!t->ranked)
        return fabs((double)tuned - (double)base) > t->tolerance;
    uint32_t magnitude = sara_magnitude(tuned - base);
    if (magnitude == t->limit)
        return (*equal)-- > 0;
    return magnitude > t->limit;
}

static void difference_count_block(tally *out, const test *t, const float *base, const float *tuned,
                                   size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int64_t one = 1;
        bool kept = difference_is_kept(t, base[i], tuned[i], &one);
        out->kept += kept && one == 1;
        out->equal += one == 0;
    }
}

static tally count_param(const test *t, const sara_param *base, const sara_param *tuned)
{
    size_t count = (size_t)sara_shape_count(&base->value.shape);
    float a[SARA_PARAM_BLOCK], b[SARA_PARAM_BLOCK];
    tally result = {0, 0, 0, 0};
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        difference_count_block(&result, t, sara_param_block(base, a, at, part),
                               sara_param_block(tuned, b, at, part), part);
    }
    return result;
}

static void fill_block(sara_adapter_entry *entry, size_t *used, tally *counts, int64_t *equal,
                       const test *t, const float *base, const float *tuned, size_t first,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (difference_is_kept(t, base[i], tuned[i], equal)) {
            entry->positions[*used] = (uint32_t)(first + i);
            entry->values[(*used)++] = tuned[i];
        } else if (difference_differs(base[i], tuned[i])) {
            double change = (double)tuned[i] - (double)base[i];
            counts->left_out2 += change * change;
        }
    }
}

static void fill_param(sara_adapter_entry *entry, tally *counts, const test *t,
                       const sara_param *base, const sara_param *tuned)
{
    size_t count = (size_t)sara_shape_count(&base->value.shape), used = 0;
    float a[SARA_PARAM_BLOCK], b[SARA_PARAM_BLOCK];
    int64_t equal = counts->taken;
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        fill_block(entry, &used, counts, &equal, t, sara_param_block(base, a, at, part),
                   sara_param_block(tuned, b, at, part), at, part);
    }
}

static const float *change_block(const void *user, float *buffer, const sara_param *param,
                                 size_t index, size_t first, size_t count)
{
    const pair *p = user;
    float other[SARA_PARAM_BLOCK], own[SARA_PARAM_BLOCK];
    const float *a = sara_param_block(param, other, first, count);
    const float *b = sara_param_block(&p->tuned->items[index], own, first, count);
    for (size_t i = 0; i < count; i++)
        buffer[i] = b[i] - a[i];
    return buffer;
}

static sara_status difference_resolve(sara_context *ctx, test *out, const pair *p,
                                      const sara_difference_rule *rule)
{
    int64_t entries = sara_params_entries(p->base);
    *out = (test){.tolerance = rule->tolerance, .ranked = rule->most > 0};
    if (!out->ranked || rule->most >= entries)
        return SARA_OK;
    const sara_ranking changes = {.params = p->base, .block = change_block, .user = p};
    return sara_magnitude_select(ctx, &out->limit, &changes, entries - rule->most);
}

/* Room for what was counted; of those at the limit, the first in the order of names. */
static sara_status difference_reserve(sara_context *ctx, sara_difference *result, tally *tallies,
                                      const sara_params *base, int64_t most)
{
    sara_status status = SARA_OK;
    int64_t left = most;
    for (size_t i = 0; i < base->count; i++)
        left -= tallies[i].kept;
    for (size_t i = 0; i < base->count; i++) {
        sara_adapter_entry *entry = &result->entries[i];
        int64_t taken = tallies[i].equal < left ? tallies[i].equal : left;
        tallies[i].taken = taken > 0 ? taken : 0;
        left -= tallies[i].taken;
        entry->name = base->items[i].name;
        entry->count = (size_t)(tallies[i].kept + tallies[i].taken);
        result->kept += (int64_t)entry->count;
        TRY(sara_alloc(ctx, &entry->positions, entry->count, sizeof(*entry->positions)));
        TRY(sara_alloc(ctx, &entry->values, entry->count, sizeof(*entry->values)));
    }
done:
    return status;
}

sara_status sara_difference_new(sara_context *ctx, sara_difference *out, const sara_params *base,
                                const sara_params *tuned, const sara_difference_rule *rule)
{
    sara_status status;
    sara_params a = {0}, b = {0};
    const pair p = {&a, &b};
    sara_difference result = {NULL, 0, 0, 0};
    tally *tallies = NULL;
    test t;
    int threads = sara_threads(ctx);
    memset(out, 0, sizeof(*out));
    TRY(sara_params_read(ctx, &a, base));
    TRY(sara_params_read(ctx, &b, tuned));
    TRY(difference_resolve(ctx, &t, &p, rule));
    TRY(sara_alloc(ctx, &tallies, base->count, sizeof(*tallies)));
    TRY(sara_alloc_zero(ctx, &result.entries, base->count, sizeof(*result.entries)));
    result.count = base->count;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < base->count; i++)
        tallies[i] = count_param(&t, &a.items[i], &b.items[i]);
    TRY(difference_reserve(ctx, &result, tallies, base, rule->most));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < base->count; i++)
        fill_param(&result.entries[i], &tallies[i], &t, &a.items[i], &b.items[i]);
    for (size_t i = 0; i < base->count; i++)
        result.left_out2 += tallies[i].left_out2;
    *out = result;
    memset(&result, 0, sizeof(result));
done:
    sara_params_read_end(ctx, &b, tuned);
    sara_params_read_end(ctx, &a, base);
    sara_free(ctx, tallies);
    sara_difference_free(ctx, &result);
    return status;
}

void sara_difference_free(sara_context *ctx, sara_difference *difference)
{
    for (size_t i = 0; i < difference->count; i++) {
        sara_free(ctx, difference->entries[i].positions);
        sara_free(ctx, difference->entries[i].values);
    }
    sara_free(ctx, difference->entries);
    memset(difference, 0, sizeof(*difference));
}
