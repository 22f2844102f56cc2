/* The entries of a denoiser by kind of layer and by block. */
#include "eval/analyze.h"

#include "sparse/magnitude.h"

#include <math.h>

static const double analysis_budgets[] = {0.006, 0.023, 0.058},
                    analysis_round[] = {2e-4, 8e-4, 2e-3};
const char *const sara_analysis_names[SARA_ANALYSIS_THRESHOLDS] = {"0.6 %", "2.3 %", "5.8 %",
                                                                   "2e-4",  "8e-4",  "2e-3"};

/* What each pass needs to sort an entry. */
typedef struct analysis_edges {
    uint32_t bins[SARA_ANALYSIS_BINS + 1], thresholds[SARA_ANALYSIS_THRESHOLDS], within;
} analysis_edges;

double sara_analysis_edge(int bin)
{
    return pow(10, (bin - 64) / 8.0);
}

double sara_analysis_deviation(const sara_analysis_group *group)
{
    return sqrt(group->m2 / (double)group->count);
}

double sara_analysis_kurtosis(const sara_analysis_group *group)
{
    return group->m2 > 0 ? (double)group->count * group->m4 / (group->m2 * group->m2) - 3
                         : (double)NAN;
}

int sara_analysis_used(const sara_analysis_group **out, const sara_analysis_group *groups,
                       int count)
{
    int used = 0;
    for (int i = 0; i < count; i++)
        if (groups[i].count > 0)
            out[used++] = &groups[i];
    return used;
}

/* The bin whose edge is the last that is not above. */
static int analysis_bin(const analysis_edges *edges, uint32_t magnitude)
{
    int low = 0, high = SARA_ANALYSIS_BINS;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (magnitude < edges->bins[middle])
            high = middle;
        else
            low = middle;
    }
    return low;
}

/* ------------------------------------------------------------------------------- one parameter */

static void analysis_count_values(sara_analysis_group *g, const analysis_edges *edges,
                                  const float *values, size_t count)
{
    double sum = 0, magnitudes = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = sara_magnitude(values[i]);
        sum += values[i];
        magnitudes += fabs((double)values[i]);
        g->histogram[analysis_bin(edges, magnitude)]++;
        g->within += magnitude < edges->within;
        for (int t = 0; t < SARA_ANALYSIS_THRESHOLDS; t++)
            g->selected[t] += magnitude < edges->thresholds[t];
    }
    g->mean += sum;
    g->magnitude += magnitudes;
}

static void add_powers(sara_analysis_group *g, const float *values, size_t count)
{
    double m2 = 0, m3 = 0, m4 = 0;
    for (size_t i = 0; i < count; i++) {
        double away = values[i] - g->mean, square = away * away;
        m2 += square;
        m3 += square * away;
        m4 += square * square;
    }
    g->m2 += m2;
    g->m3 += m3;
    g->m4 += m4;
}

static void analyze_param(sara_analysis_group *g, const analysis_edges *edges,
                          const sara_param *param)
{
    float buffer[SARA_PARAM_BLOCK];
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    g->tensors = 1;
    g->count = (int64_t)count;
    for (size_t at = 0; at < count; at += SARA_PARAM_BLOCK) {
        size_t part = sara_param_part(count, at);
        analysis_count_values(g, edges, sara_param_block(param, buffer, at, part), part);
    }
    g->mean /= (double)count;
    g->magnitude /= (double)count;
    for (size_t at = 0; at < count; at += SARA_PARAM_BLOCK) {
        size_t part = sara_param_part(count, at);
        add_powers(g, sara_param_block(param, buffer, at, part), part);
    }
}

/* ------------------------------------------------------------------------------------ of groups */

/* Moments of both together (Pebay, SAND2008-6212). */
static void analysis_add_group(sara_analysis_group *to, const sara_analysis_group *from)
{
    double a = (double)to->count, b = (double)from->count, n = a + b;
    double d = from->mean - to->mean, ab = a * b / n;
    to->m4 += from->m4 + d * d * d * d * ab * (a * a - a * b + b * b) / (n * n) +
              6 * d * d * (a * a * from->m2 + b * b * to->m2) / (n * n) +
              4 * d * (a * from->m3 - b * to->m3) / n;
    to->m3 += from->m3 + d * d * d * ab * (a - b) / n + 3 * d * (a * from->m2 - b * to->m2) / n;
    to->m2 += from->m2 + d * d * ab;
    to->mean += d * b / n;
    to->magnitude += (from->magnitude - to->magnitude) * b / n;
    to->tensors += from->tensors;
    to->count += from->count;
    to->within += from->within;
    for (int i = 0; i < SARA_ANALYSIS_THRESHOLDS; i++)
        to->selected[i] += from->selected[i];
    for (int i = 0; i < SARA_ANALYSIS_BINS; i++)
        to->histogram[i] += from->histogram[i];
}

static sara_status analyze_all(sara_context *ctx, sara_analysis *out, const sara_network *network,
                               const analysis_edges *edges)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < network->params.count; i++) {
        const sara_param *param = &network->params.items[i];
        sara_analysis_group one = {0};
        sara_param copy;
        const char *title;
        if (sara_shape_count(&param->value.shape) == 0)
            continue;
        TRY(sara_param_read(ctx, &copy, param));
        analyze_param(&one, edges, &copy);
        sara_param_read_end(ctx, &copy, param);
        int kind = sara_layer_kind_of(network->class->kinds, param->name, &title);
        sara_analysis_group *block =
            &out->blocks[sara_block_place(network->class->blocks, param->name, &one.name)];
        block->name = one.name;
        out->kinds[kind].name = sara_name_of("%s", title);
        analysis_add_group(&out->whole, &one);
        analysis_add_group(&out->kinds[kind], &one);
        analysis_add_group(block, &one);
    }
done:
    return status;
}

/* The histogram of p, which needs its mean and deviation. */
static sara_status analysis_count_parts(sara_context *ctx, sara_analysis *out,
                                        const sara_params *params)
{
    float buffer[SARA_PARAM_BLOCK];
    double deviation = sara_analysis_deviation(&out->whole), from = out->whole.mean - 5 * deviation;
    double scale = SARA_ANALYSIS_PARTS / (10 * deviation);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < params->count && deviation > 0; i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        sara_param copy;
        TRY(sara_param_read(ctx, &copy, &params->items[i]));
        for (size_t at = 0, part; at < count; at += part) {
            part = sara_param_part(count, at);
            const float *values = sara_param_block(&copy, buffer, at, part);
            for (size_t j = 0; j < part; j++) {
                double place = floor((values[j] - from) * scale);
                if (place >= 0 && place < SARA_ANALYSIS_PARTS)
                    out->parts[(int)place]++;
            }
        }
        sara_param_read_end(ctx, &copy, &params->items[i]);
    }
done:
    return status;
}

static sara_status find_thresholds(sara_context *ctx, sara_analysis *out, analysis_edges *edges,
                                   const sara_model *model)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_ANALYSIS_BUDGETS; i++) {
        const sara_budget budget = {SARA_BUDGET_FRACTION, analysis_budgets[i]};
        TRY(sara_model_tell_not_finite(
            model,
            sara_budget_resolve(ctx, &out->thresholds[i], &model->denoiser->params, &budget)));
        out->thresholds[SARA_ANALYSIS_BUDGETS + i] = analysis_round[i];
    }
    for (int i = 0; i < SARA_ANALYSIS_THRESHOLDS; i++)
        edges->thresholds[i] = sara_threshold_magnitude(out->thresholds[i]);
    for (int i = 0; i <= SARA_ANALYSIS_BINS; i++)
        edges->bins[i] = sara_threshold_magnitude(sara_analysis_edge(i));
    edges->within = sara_threshold_magnitude(1e-3);
done:
    return status;
}

sara_status sara_analyze(sara_context *ctx, char **report, const sara_model *model,
                         const char *page)
{
    sara_analysis *analysis = NULL;
    analysis_edges edges;
    sara_status status;
    *report = NULL;
    TRY(sara_alloc_zero(ctx, &analysis, 1, sizeof(*analysis)));
    analysis->title = model->denoiser->class->title;
    TRY(sara_model_need_part(model, 0)); /* it is gone over again and again */
    TRY(find_thresholds(ctx, analysis, &edges, model));
    TRY(analyze_all(ctx, analysis, model->denoiser, &edges));
    TRY(analysis_count_parts(ctx, analysis, &model->denoiser->params));
    TRY(sara_analysis_json(ctx, report, analysis));
    TRY(page ? sara_analysis_page(ctx, analysis, page) : SARA_OK);
done:
    if (status != SARA_OK) {
        sara_free(ctx, *report);
        *report = NULL;
    }
    sara_free(ctx, analysis);
    return status;
}
