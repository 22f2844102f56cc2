#include "sparse/magnitude.h"

#include <float.h>
#include <math.h>
#include <omp.h>

double sara_default_learning_rate(double threshold)
{
    return 1e-3 * exp(-350.0 * threshold);
}

uint32_t sara_threshold_magnitude(double threshold)
{
    return sara_magnitude(threshold > (double)FLT_MAX ? INFINITY : (float)threshold);
}

/* ---------------------------------------------------------------------------------- the text */

/* What a suffix multiplies by; 0 if it is none. */
static double suffix_factor(const char *suffix)
{
    static const struct {
        const char *text;
        double factor;
    } suffixes[] = {{"", 1}, {"%", 0.01}, {"k", 1e3}, {"K", 1e3}, {"m", 1e6}, {"M", 1e6}};
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++)
        if (strcmp(suffix, suffixes[i].text) == 0)
            return suffixes[i].factor;
    return 0;
}

static sara_status budget_read_number(sara_context *ctx, double *number, const char **rest,
                                      const char *text)
{
    char *end;
    size_t length = strspn(text, "0123456789.eE+-");
    *number = sara_parse_double(text, &end);
    /* It also knows white space, "0x" and "nan". */
    if (length == 0 || end == text || end > text + length)
        return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: \"%.100s\" is no number", text);
    if (!isfinite(*number) || *number <= 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: %.100s, expected more than 0", text);
    *rest = end;
    return SARA_OK;
}

/* A multiple like 20.3M need not be whole in binary. */
static sara_status whole_count(sara_context *ctx, double *count, double value, const char *text)
{
    double nearest = rint(value);
    if (nearest < 1 || nearest > 9e15 || fabs(value - nearest) > 1e-9 * nearest)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "trainable: %.100s is no whole number of entries, no fraction below 1 and "
                         "no percentage", text);
    *count = nearest;
    return SARA_OK;
}

sara_status sara_budget_parse(sara_context *ctx, sara_budget *out, const char *text)
{
    sara_status status;
    const char *suffix = "";
    double number = 0;
    sara_budget result = {SARA_BUDGET_FRACTION, 0};
    TRY(budget_read_number(ctx, &number, &suffix, text));
    double factor = suffix_factor(suffix);
    if (factor == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "trainable: \"%.100s\": \"%.20s\" after the number, expected %%, k or M",
                         text, suffix);
    if (*suffix == '%' && number > 100)
        return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: %.100s, at most 100%%", text);
    if (*suffix == '%') {
        result.value = number / 100;
    } else if (!*suffix && number < 1) {
        result.value = number;
    } else {
        result.kind = SARA_BUDGET_COUNT;
        TRY(whole_count(ctx, &result.value, number * factor, text));
    }
    *out = result;
done:
    return status;
}

/* ------------------------------------------------------------------------ the k-th magnitude */

/* The 31 bits of a magnitude are counted in two passes, the upper 16 first. */
#define LOW_BITS 15
#define BINS 65536
#define MOST_THREADS 16 /* each counts in bins of its own */
typedef int64_t bins[BINS];

static void budget_count_block(int64_t *own, const float *values, size_t count,
                               const uint32_t *prefix)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = sara_magnitude(values[i]);
        if (!prefix)
            own[bits >> LOW_BITS]++;
        else if (bits >> LOW_BITS == *prefix)
            own[bits & ((1u << LOW_BITS) - 1)]++;
    }
}

static const float *own_block(const void *user, float *buffer, const sara_param *param,
                              size_t index, size_t first, size_t count)
{
    (void)user;
    (void)index;
    return sara_param_block(param, buffer, first, count);
}

sara_ranking sara_ranking_of_values(const sara_params *params)
{
    return (sara_ranking){.params = params, .reads = true, .block = own_block};
}

sara_status sara_ranking_read(sara_context *ctx, sara_params *copy, const sara_ranking *ranking,
                              size_t first)
{
    if (ranking->reads)
        return sara_params_read_from(ctx, copy, ranking->params, first);
    *copy = (sara_params){.items = ranking->params->items + first,
                          .count = ranking->params->count - first};
    return SARA_OK;
}

void sara_ranking_read_end(sara_context *ctx, sara_params *copy, const sara_ranking *ranking,
                           size_t first)
{
    if (ranking->reads)
        sara_params_read_from_end(ctx, copy, ranking->params, first);
    *copy = (sara_params){0};
}

sara_status sara_ranking_each(sara_context *ctx, const sara_ranking *ranking, sara_ranking_fn fn,
                              void *user)
{
    int threads = sara_threads(ctx);
    sara_params part;
    sara_status status = SARA_OK;
    for (size_t first = 0, next; first < ranking->params->count; first = next) {
        TRY(sara_ranking_read(ctx, &part, ranking, first));
        next = first + part.count;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (size_t i = 0; i < part.count; i++)
            fn(user, &part.items[i], first + i);
        sara_ranking_read_end(ctx, &part, ranking, first);
    }
done:
    return status;
}

/* Of parameters from `from` on, counts the magnitudes by their upper bits; or, if prefix is given,
 * those whose upper bits it is by their lower bits. To be called by a team of threads. */
static void count_share(int64_t *own, const sara_params *part, size_t from, const uint32_t *prefix,
                        const sara_ranking *r)
{
    float buffer[SARA_PARAM_BLOCK];
    for (size_t p = 0; p < part->count; p++) {
        const sara_param *param = &part->items[p];
        size_t count = (size_t)sara_shape_count(&param->value.shape);
#pragma omp for schedule(static) nowait
        for (size_t at = 0; at < count; at += SARA_PARAM_BLOCK) {
            size_t size = sara_param_part(count, at);
            budget_count_block(own, r->block(r->user, buffer, param, from + p, at, size), size,
                               prefix);
        }
    }
}

/* The sums are in counts[0] afterwards. */
static sara_status count_magnitudes(sara_context *ctx, bins *counts, int threads,
                                    const sara_ranking *r, const uint32_t *prefix)
{
    sara_params part;
    sara_status status = SARA_OK;
    memset(counts, 0, (size_t)threads * sizeof(*counts));
    for (size_t first = 0, next; first < r->params->count; first = next) {
        TRY(sara_ranking_read(ctx, &part, r, first));
        next = first + part.count;
#pragma omp parallel num_threads(threads)
        count_share(counts[omp_get_thread_num()], &part, first, prefix, r);
        sara_ranking_read_end(ctx, &part, r, first);
    }
    for (int t = 1; t < threads; t++)
        for (size_t i = 0; i < BINS; i++)
            counts[0][i] += counts[t][i];
done:
    return status;
}

/* The bin that holds the element of this rank; *rank becomes its rank within the bin. */
static uint32_t find_bin(const int64_t *counts, int64_t *rank)
{
    uint32_t bin = 0;
    while (*rank >= counts[bin])
        *rank -= counts[bin++];
    return bin;
}

static sara_status check_all_finite(sara_context *ctx, const sara_params *params)
{
    sara_status status = SARA_OK;
    for (size_t p = 0; p < params->count; p++)
        TRY(sara_param_check_finite(ctx, &params->items[p]));
done:
    return status;
}

sara_status sara_magnitude_select(sara_context *ctx, uint32_t *magnitude,
                                  const sara_ranking *ranking, int64_t rank)
{
    sara_status status;
    bins *counts = NULL;
    int threads = sara_threads(ctx) < MOST_THREADS ? sara_threads(ctx) : MOST_THREADS;
    TRY(sara_alloc(ctx, &counts, (size_t)threads, sizeof(*counts)));
    TRY(count_magnitudes(ctx, counts, threads, ranking, NULL));
    for (uint32_t i = SARA_MAGNITUDE_INFINITY >> LOW_BITS; i < BINS; i++)
        if (counts[0][i] > 0)
            TRY(check_all_finite(ctx, ranking->params));
    uint32_t high = find_bin(counts[0], &rank);
    TRY(count_magnitudes(ctx, counts, threads, ranking, &high));
    *magnitude = high << LOW_BITS | find_bin(counts[0], &rank);
done:
    sara_free(ctx, counts);
    return status;
}

/* ----------------------------------------------------------------------------------- resolving */

static sara_status check_budget(sara_context *ctx, const sara_budget *budget)
{
    double value = budget->value;
    switch (budget->kind) {
    case SARA_BUDGET_THRESHOLD:
        if (isfinite(value) && value > 0)
            return SARA_OK;
        return sara_fail(ctx, SARA_ERROR_USAGE, "threshold: %g, expected a finite number above 0",
                         value);
    case SARA_BUDGET_FRACTION:
        if (value > 0 && value <= 1)
            return SARA_OK;
        return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: %g of the entries, expected more than "
                         "0 and at most 1", value);
    case SARA_BUDGET_COUNT:
        if (value >= 1 && value <= 9e15 && value == rint(value))
            return SARA_OK;
        return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: %g entries, expected a whole number of "
                         "at least 1", value);
    }
    return sara_fail(ctx, SARA_ERROR_USAGE, "trainable: unknown kind %d", (int)budget->kind);
}

sara_status sara_budget_resolve(sara_context *ctx, double *threshold, const sara_params *params,
                                const sara_budget *budget)
{
    sara_status status;
    uint32_t magnitude = SARA_MAGNITUDE_INFINITY;
    const sara_ranking values = sara_ranking_of_values(params);
    double total = (double)sara_params_entries(params);
    TRY(check_budget(ctx, budget));
    if (budget->kind == SARA_BUDGET_THRESHOLD) {
        *threshold = budget->value;
        goto done;
    }
    double count = budget->kind == SARA_BUDGET_FRACTION ? rint(budget->value * total)
                                                        : budget->value;
    if (count < total)
        TRY(sara_magnitude_select(ctx, &magnitude, &values, (int64_t)count));
    *threshold = (double)sara_magnitude_value(magnitude);
done:
    return status;
}
