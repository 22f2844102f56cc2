#include "sparse/optimizer.h"

#include <math.h>

/* ------------------------------------------------------------------------------- construction */

static sara_status check_option(sara_context *ctx, const char *name, double value, double low,
                                double below)
{
    if (value >= low && value < below)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "%s: %g, expected at least %g and less than %g", name,
                     value, low, below);
}

static sara_status optimizer_check_options(sara_context *ctx, const sara_optimizer_options *options)
{
    sara_status status;
    TRY(check_option(ctx, "adam_beta1", options->beta1, 0, 1));
    TRY(check_option(ctx, "adam_beta2", options->beta2, 0, 1));
    TRY(check_option(ctx, "adam_epsilon", options->epsilon, 1e-37, INFINITY)); /* not 0 in float */
    TRY(check_option(ctx, "adam_weight_decay", options->weight_decay, 0, INFINITY));
    TRY(check_option(ctx, "max_grad_norm", options->max_grad_norm, 0, INFINITY));
    TRY(check_option(ctx, "lambda_rank", options->lambda_rank, 0, 1e30));
    if (options->progressive_iter < -1)
        status = sara_fail(ctx, SARA_ERROR_USAGE, "progressive_iter: %lld, expected at least -1",
                           (long long)options->progressive_iter);
done:
    return status;
}

static void ask_nothing(sara_param *param)
{
    param->want = SARA_GRAD_NONE;
    param->positions = NULL;
    param->selected = 0;
    param->grad = NULL;
}

/* Has the ops compute the gradient of the active entries. */
static void ask_gradient(sara_optimizer_part *part)
{
    sara_optimizer_item *item = &part->item;
    if (item->active_count == 0) {
        ask_nothing(item->param);
        return;
    }
    item->param->want = SARA_GRAD_SAMPLED;
    item->param->positions = item->active ? part->active_positions : item->all_positions;
    item->param->selected = item->active_count;
    item->param->grad = item->grad;
}

static sara_status part_init(sara_context *ctx, sara_optimizer_part *part,
                             const sara_selected *selected)
{
    sara_status status;
    sara_optimizer_item *item = &part->item;
    size_t count = selected->count;
    item->param = selected->param;
    item->all_positions = selected->positions;
    item->all_count = item->active_count = count;
    if (item->param->value.dtype != SARA_F32)
        TRY(sara_alloc(ctx, &item->masters, count, sizeof(float)));
    TRY(sara_alloc_zero(ctx, &item->moment1, count, sizeof(float)));
    TRY(sara_alloc_zero(ctx, &item->moment2, count, sizeof(float)));
    TRY(sara_alloc_zero(ctx, &item->grad, count, sizeof(float)));
    for (size_t i = 0; item->masters && i < count; i++)
        item->masters[i] = sara_param_get(item->param, selected->positions[i]);
done:
    return status;
}

sara_status sara_optimizer_new(sara_context *ctx, sara_optimizer **out, sara_params *params,
                               sara_selection *selection, const sara_optimizer_options *options)
{
    sara_status status;
    sara_optimizer *result = NULL;
    *out = NULL;
    TRY(optimizer_check_options(ctx, options));
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    result->ctx = ctx;
    result->options = *options;
    sara_arena_init(&result->work, ctx);
    TRY(sara_alloc_zero(ctx, &result->parts, selection->item_count, sizeof(*result->parts)));
    for (size_t i = 0; i < selection->item_count; i++)
        if (selection->items[i].count > 0)
            TRY(part_init(ctx, &result->parts[result->count++], &selection->items[i]));
    result->params = params;
    for (size_t i = 0; i < params->count; i++)
        ask_nothing(&params->items[i]);
    for (size_t i = 0; i < result->count; i++)
        ask_gradient(&result->parts[i]);
    result->selection = *selection;
    memset(selection, 0, sizeof(*selection));
    *out = result;
    result = NULL;
done:
    sara_optimizer_free(result);
    return status;
}

void sara_optimizer_free(sara_optimizer *optimizer)
{
    if (!optimizer)
        return;
    sara_context *ctx = optimizer->ctx;
    for (size_t i = 0; i < optimizer->count; i++) {
        sara_optimizer_part *part = &optimizer->parts[i];
        if (optimizer->params)
            ask_nothing(part->item.param);
        sara_free(ctx, part->item.masters);
        sara_free(ctx, part->item.active);
        sara_free(ctx, part->active_positions);
        sara_free(ctx, part->item.moment1);
        sara_free(ctx, part->item.moment2);
        sara_free(ctx, part->item.grad);
    }
    sara_arena_free(&optimizer->work);
    sara_selection_free(ctx, &optimizer->selection);
    sara_free(ctx, optimizer->parts);
    sara_free(ctx, optimizer);
}

float sara_optimizer_master(const sara_optimizer_item *item, size_t index)
{
    return *sara_item_master(item, index);
}

void sara_optimizer_set_master(sara_optimizer_item *item, size_t index, float value)
{
    *sara_item_master(item, index) = value;
}

size_t sara_optimizer_bytes(const sara_optimizer *optimizer)
{
    bool will_reselect = optimizer->steps <= optimizer->options.progressive_iter;
    size_t bytes = 0;
    for (size_t i = 0; i < optimizer->count; i++) {
        const sara_optimizer_item *item = &optimizer->parts[i].item;
        /* positions, two moments, gradient, masters; of a subset its indices and positions */
        size_t floats = item->masters ? 4 : 3;
        bytes += item->all_count * (sizeof(uint32_t) + floats * sizeof(float));
        if (item->active || will_reselect)
            bytes += item->active_count * 2 * sizeof(uint32_t);
    }
    return bytes;
}

size_t sara_optimizer_count(const sara_optimizer *optimizer)
{
    return optimizer->count;
}

sara_optimizer_item *sara_optimizer_at(sara_optimizer *optimizer, size_t index)
{
    return &optimizer->parts[index].item;
}

int64_t sara_optimizer_steps(const sara_optimizer *optimizer)
{
    return optimizer->steps;
}

int64_t sara_optimizer_adam_steps(const sara_optimizer *optimizer)
{
    return optimizer->adam_steps;
}

uint32_t sara_optimizer_limit(const sara_optimizer *optimizer)
{
    return sara_threshold_magnitude(optimizer->selection.threshold);
}

/* --------------------------------------------------------------------------- the active set */

typedef struct subset {
    uint32_t *active, *positions;
    size_t count;
} subset;

static sara_status subset_alloc(sara_context *ctx, subset *set, size_t count)
{
    sara_status status;
    set->count = count;
    /* An empty subset is not NULL, which would mean all. */
    TRY(sara_alloc(ctx, &set->active, count > 0 ? count : 1, sizeof(*set->active)));
    TRY(sara_alloc(ctx, &set->positions, count > 0 ? count : 1, sizeof(*set->positions)));
done:
    return status;
}

static void subset_free(sara_context *ctx, subset *set)
{
    sara_free(ctx, set->active);
    sara_free(ctx, set->positions);
}

/* Makes the subset, which is taken over, the active one; the gradients are the caller's affair. */
static void use_subset(sara_context *ctx, sara_optimizer_part *part, subset *set)
{
    sara_optimizer_item *item = &part->item;
    for (size_t i = 0; i < set->count; i++)
        set->positions[i] = item->all_positions[set->active[i]];
    sara_free(ctx, item->active);
    sara_free(ctx, part->active_positions);
    item->active = set->active;
    item->active_count = set->count;
    part->active_positions = set->positions;
    memset(set, 0, sizeof(*set));
    memset(item->moment1, 0, item->active_count * sizeof(float));
    memset(item->moment2, 0, item->active_count * sizeof(float));
    ask_gradient(part);
}

size_t sara_item_count_live(const sara_optimizer_item *item, uint32_t limit)
{
    size_t count = 0;
    if (limit == UINT32_MAX)
        return item->active_count;
    for (size_t i = 0; i < item->active_count; i++)
        count += sara_item_live(item, i, limit);
    return count;
}

/* Fills the subset with the entries below the limit and moves their gradients to the front. */
static void collect_live(sara_optimizer_item *item, subset *set, uint32_t limit)
{
    size_t next = 0;
    for (size_t i = 0; i < item->active_count; i++) {
        if (!sara_item_live(item, i, limit))
            continue;
        set->active[next] = (uint32_t)sara_item_index(item, i);
        item->grad[next++] = item->grad[i];
    }
    memset(item->grad + next, 0, (item->active_count - next) * sizeof(float));
}

sara_status sara_optimizer_reselect(sara_optimizer *optimizer)
{
    sara_status status;
    sara_context *ctx = optimizer->ctx;
    uint32_t limit = sara_optimizer_limit(optimizer);
    subset *sets = NULL;
    TRY(sara_alloc_zero(ctx, &sets, optimizer->count, sizeof(*sets)));
    for (size_t i = 0; i < optimizer->count; i++)
        TRY(subset_alloc(ctx, &sets[i], sara_item_count_live(&optimizer->parts[i].item, limit)));
    for (size_t i = 0; i < optimizer->count; i++) {
        collect_live(&optimizer->parts[i].item, &sets[i], limit);
        use_subset(ctx, &optimizer->parts[i], &sets[i]);
    }
    optimizer->adam_steps = 0;
done:
    for (size_t i = 0; sets && i < optimizer->count; i++)
        subset_free(ctx, &sets[i]);
    sara_free(ctx, sets);
    return status;
}

sara_status sara_optimizer_set_active(sara_optimizer *optimizer, size_t index,
                                      const uint32_t *active, size_t active_count)
{
    sara_status status;
    sara_context *ctx = optimizer->ctx;
    sara_optimizer_part *part = &optimizer->parts[index];
    subset set = {NULL, NULL, 0};
    for (size_t i = 0; i < active_count; i++)
        if (active[i] >= part->item.all_count || (i > 0 && active[i] <= active[i - 1]))
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: active entry %zu is %u, expected ascending indices below %zu",
                             part->item.param->name, i, (unsigned)active[i], part->item.all_count);
    TRY(subset_alloc(ctx, &set, active_count));
    if (active_count > 0)
        memcpy(set.active, active, active_count * sizeof(*active));
    use_subset(ctx, part, &set);
    memset(part->item.grad, 0, part->item.all_count * sizeof(float));
done:
    subset_free(ctx, &set);
    return status;
}

sara_status sara_optimizer_restore(sara_optimizer *optimizer, int64_t steps, int64_t adam_steps)
{
    if (steps < 0 || adam_steps < 0 || adam_steps > steps)
        return sara_fail(optimizer->ctx, SARA_ERROR_INPUT,
                         "%lld Adam steps of %lld steps, expected at least 0 and at most all",
                         (long long)adam_steps, (long long)steps);
    optimizer->steps = steps;
    optimizer->adam_steps = adam_steps;
    for (size_t i = 0; i < optimizer->count; i++) {
        const sara_optimizer_item *item = &optimizer->parts[i].item;
        for (size_t k = 0; item->masters && k < item->all_count; k++)
            sara_param_set(item->param, item->all_positions[k], item->masters[k]);
        item->param->version++;
    }
    return SARA_OK;
}
