/* One step of the method: reselect, clip, low-rank term, AdamW with decoupled weight decay. */
#include "core/trace.h"
#include "sparse/adamw.h"
#include "sparse/optimizer.h"

#include <math.h>

/* Sum of squares of the scaled gradients of entries below the limit; not finite if any active
 * entry's gradient is not. */
static double step_square_sum(const sara_optimizer_item *item, float scale, uint32_t limit)
{
    double sum = 0;
    for (size_t i = 0; i < item->active_count; i++) {
        double gradient = (double)(item->grad[i] * scale);
        sum += gradient * (sara_item_live(item, i, limit) ? gradient : 0);
    }
    return sum;
}

/* The parts' sums are added in their order, so that the number of threads does not matter. */
static sara_status gradient_norm(sara_optimizer *optimizer, double *norm, double scale,
                                 uint32_t limit)
{
    sara_status status;
    double *sums = NULL, total = 0;
    int threads = sara_threads(optimizer->ctx);
    TRY(sara_arena_alloc(&optimizer->work, &sums, optimizer->count, sizeof(*sums)));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < optimizer->count; i++)
        sums[i] = step_square_sum(&optimizer->parts[i].item, (float)scale, limit);
    for (size_t i = 0; i < optimizer->count; i++)
        total += sums[i];
    *norm = sqrt(total);
done:
    return status;
}

static void zero_gradients(sara_optimizer *optimizer)
{
    for (size_t i = 0; i < optimizer->count; i++) {
        sara_optimizer_item *item = &optimizer->parts[i].item;
        memset(item->grad, 0, item->active_count * sizeof(float));
    }
}

static sara_adamw adamw_step(const sara_optimizer *optimizer, double learning_rate, double scale,
                             double norm)
{
    const sara_optimizer_options *o = &optimizer->options;
    const sara_adamw_options options = {.learning_rate = learning_rate,
                                        .beta1 = o->beta1,
                                        .beta2 = o->beta2,
                                        .epsilon = o->epsilon,
                                        .weight_decay = o->weight_decay,
                                        .scale = scale,
                                        .clip = sara_clip_factor(norm, o->max_grad_norm),
                                        .step = optimizer->adam_steps + 1};
    return sara_adamw_numbers(&options);
}

/* rank: the low-rank gradient of the active entries or NULL. The parameter gets the masters,
 * rounded to what it stores. Gradients are zero afterwards. */
static void step_update(sara_optimizer_item *item, const float *rank, const sara_adamw *a)
{
    const uint32_t *positions = item->param->positions;
    for (size_t i = 0; i < item->active_count; i++) {
        float *master = sara_item_master(item, sara_item_index(item, i));
        float p = sara_adamw_entry(a, *master, item->grad[i], rank ? rank[i] : 0.0f,
                                   &item->moment1[i], &item->moment2[i]);
        *master = p;
        if (item->masters)
            sara_param_set(item->param, positions[i], p);
        item->grad[i] = 0;
    }
    item->param->version += item->active_count > 0;
}

static void update_all(sara_optimizer *optimizer, const sara_rank_term *term, const sara_adamw *a)
{
    int threads = sara_threads(optimizer->ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < optimizer->count; i++) {
        sara_optimizer_item *item = &optimizer->parts[i].item;
        step_update(item, item == term->item ? term->gradient : NULL, a);
    }
    optimizer->steps++;
    optimizer->adam_steps++;
}

static int64_t count_active(const sara_optimizer *optimizer)
{
    int64_t active = 0;
    for (size_t i = 0; i < optimizer->count; i++)
        active += (int64_t)optimizer->parts[i].item.active_count;
    return active;
}

static sara_status check_arguments(sara_context *ctx, double learning_rate, double grad_scale)
{
    if (!(learning_rate >= 0 && isfinite(learning_rate)))
        return sara_fail(ctx, SARA_ERROR_USAGE, "learning rate %g, expected at least 0",
                         learning_rate);
    if (!(grad_scale > 0 && isfinite(grad_scale)))
        return sara_fail(ctx, SARA_ERROR_USAGE, "gradient scale %g, expected more than 0",
                         grad_scale);
    return SARA_OK;
}

/* What may fail or turn out not finite comes first, seen as after the reselection. */
sara_status sara_optimizer_step(sara_optimizer *optimizer, sara_step_report *report,
                                double learning_rate, double grad_scale, const char *rank_name,
                                bool loss_finite)
{
    sara_status status;
    sara_context *ctx = optimizer->ctx;
    bool due = optimizer->steps == optimizer->options.progressive_iter;
    uint32_t limit = due ? sara_optimizer_limit(optimizer) : UINT32_MAX;
    sara_rank_term term = {NULL, NULL, 0};
    sara_step_report result = {.rank_name = "", .reselected = due};
    TRY(check_arguments(ctx, learning_rate, grad_scale));
    TRY(SARA_TRACED(ctx, "grad norm", 0,
                    gradient_norm(optimizer, &result.grad_norm, grad_scale, limit)));
    result.skipped = !loss_finite || !isfinite(result.grad_norm);
    if (!result.skipped) {
        TRY(SARA_TRACED(ctx, "low-rank term", 0,
                        sara_rank_term_compute(optimizer, &term, rank_name, limit)));
        result.rank_loss = term.loss;
        result.rank_name = term.item ? term.item->param->name : "";
        result.skipped = !isfinite(term.loss);
    }
    if (result.skipped) {
        zero_gradients(optimizer);
        result.reselected = false;
    } else {
        if (due)
            TRY(sara_optimizer_reselect(optimizer));
        sara_adamw a = adamw_step(optimizer, learning_rate, grad_scale, result.grad_norm);
        TRY(SARA_TRACED_VOID(ctx, "adamw", update_all(optimizer, &term, &a)));
    }
    result.active = count_active(optimizer);
    *report = result;
done:
    sara_arena_reset(&optimizer->work);
    return status;
}
