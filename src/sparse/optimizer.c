#include "sparse/optimizer.h"

#include "core/trace.h"
#include "sparse/adamw.h"

#include <math.h>

#define PART ((size_t)1 << 16) /* entries that a thread updates at a time */

/* -------------------------------------------------------------------------------- construction */

sara_status sara_optimizer_check_option(sara_context *ctx, const char *name, double value,
                                        double low, double below)
{
    if (value >= low && value < below)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "%s: %g, expected at least %g and less than %g", name,
                     value, low, below);
}

static sara_status optimizer_check_options(sara_context *ctx, const sara_optimizer_options *o)
{
    sara_status status;
    TRY(sara_optimizer_check_option(ctx, "adam_beta1", o->beta1, 0, 1));
    TRY(sara_optimizer_check_option(ctx, "adam_beta2", o->beta2, 0, 1));
    TRY(sara_optimizer_check_option(ctx, "adam_epsilon", o->epsilon, 1e-37,
                                    INFINITY)); /* not 0 in float */
    TRY(sara_optimizer_check_option(ctx, "adam_weight_decay", o->weight_decay, 0, INFINITY));
    TRY(sara_optimizer_check_option(ctx, "max_grad_norm", o->max_grad_norm, 0, INFINITY));
done:
    return status;
}

sara_status sara_optimizer_new(sara_context *ctx, sara_optimizer **out,
                               sara_trainables *trainables, const sara_optimizer_options *options)
{
    sara_status status;
    sara_optimizer *result = NULL;
    *out = NULL;
    TRY(optimizer_check_options(ctx, options));
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    TRY(sara_alloc(ctx, &result->sums, trainables->count, sizeof(*result->sums)));
    result->ctx = ctx;
    result->options = *options;
    result->trainables = *trainables;
    *trainables = (sara_trainables){.ctx = ctx};
    *out = result;
    result = NULL;
done:
    sara_free(ctx, result);
    return status;
}

void sara_optimizer_free(sara_optimizer *optimizer)
{
    if (!optimizer)
        return;
    sara_trainables_free(&optimizer->trainables);
    sara_free(optimizer->ctx, optimizer->sums);
    sara_free(optimizer->ctx, optimizer);
}

sara_status sara_optimizer_restore(sara_optimizer *optimizer, int64_t steps, int64_t adam_steps)
{
    if (steps < 0 || adam_steps < 0 || adam_steps > steps)
        return sara_fail(optimizer->ctx, SARA_ERROR_INPUT,
                         "%lld Adam steps of %lld steps, expected at least 0 and at most all",
                         (long long)adam_steps, (long long)steps);
    optimizer->steps = steps;
    optimizer->adam_steps = adam_steps;
    return SARA_OK;
}

/* ---------------------------------------------------------------------------------------- norm */

static double step_square_sum(const sara_trainable *item, float scale)
{
    double sum = 0;
    for (size_t i = 0; i < item->count; i++) {
        double gradient = (double)(item->gradient[i] * scale);
        sum += gradient * gradient;
    }
    return sum;
}

/* The items' sums are added in their order, so that the number of threads does not matter. */
static void gradient_norm(sara_optimizer *optimizer, double *norm, double scale)
{
    const sara_trainables *t = &optimizer->trainables;
    double total = 0;
    int threads = sara_threads(optimizer->ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < t->count; i++)
        optimizer->sums[i] = step_square_sum(&t->items[i], (float)scale);
    for (size_t i = 0; i < t->count; i++)
        total += optimizer->sums[i];
    *norm = sqrt(total);
}

/* -------------------------------------------------------------------------------------- update */

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

/* Entries first .. end - 1. added: a gradient of the item that is not clipped, or NULL. The
 * parameter gets the masters, rounded to what it stores. Gradients are zero afterwards. */
static void update_entries(const sara_trainable *item, const float *added, const sara_adamw *a,
                           size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        float *master = sara_trainable_at(item, i);
        float value = sara_adamw_entry(a, *master, item->gradient[i], added ? added[i] : 0.0f,
                                       &item->moment1[i], &item->moment2[i]);
        sara_trainable_set(item, i, value);
        item->gradient[i] = 0;
    }
}

/* Of the entries of all items together those from `from` on, at most PART. */
static void update_part(const sara_trainables *t, const sara_step_term *term, const sara_adamw *a,
                        size_t from)
{
    size_t to = from + PART, at = 0;
    for (size_t i = 0; i < t->count && at < to; i++) {
        const sara_trainable *item = &t->items[i];
        size_t first = from > at ? from - at : 0;
        size_t end = to - at < item->count ? to - at : item->count;
        if (first < end)
            update_entries(item, item == term->item ? term->gradient : NULL, a, first, end);
        at += item->count;
    }
}

static void update_all(sara_optimizer *optimizer, const sara_step_term *term, const sara_adamw *a)
{
    const sara_trainables *t = &optimizer->trainables;
    size_t total = (size_t)sara_trainables_total(t);
    int threads = sara_threads(optimizer->ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t from = 0; from < total; from += PART)
        update_part(t, term, a, from);
    for (size_t i = 0; i < t->count; i++)
        t->items[i].param->version += t->items[i].count > 0;
    optimizer->steps++;
    optimizer->adam_steps++;
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

/* What may fail or turn out not finite comes first. */
sara_status sara_optimizer_step(sara_optimizer *optimizer, sara_step_report *report,
                                double learning_rate, double grad_scale, bool loss_finite,
                                const sara_step_hooks *hooks)
{
    const sara_step_hooks h = hooks ? *hooks : (sara_step_hooks){0};
    sara_context *ctx = optimizer->ctx;
    sara_trainables *t = &optimizer->trainables;
    sara_step_term term = {0};
    sara_step_report result = {.term_name = ""};
    sara_status status;
    TRY(check_arguments(ctx, learning_rate, grad_scale));
    if (h.before_step)
        TRY(h.before_step(h.method));
    TRY(SARA_TRACED_VOID(ctx, "grad norm",
                         gradient_norm(optimizer, &result.grad_norm, grad_scale)));
    result.skipped = !loss_finite || !isfinite(result.grad_norm);
    if (!result.skipped && h.regularise) {
        TRY(h.regularise(h.method, &term));
        result.term_loss = term.loss;
        result.term_name = term.item ? term.item->param->name : "";
        result.skipped = !isfinite(term.loss);
    }
    if (!result.skipped && h.before_update)
        TRY(h.before_update(h.method, &result));
    if (result.skipped) {
        memset(t->gradients, 0, t->entries * sizeof(*t->gradients));
    } else {
        sara_adamw a = adamw_step(optimizer, learning_rate, grad_scale, result.grad_norm);
        TRY(SARA_TRACED_VOID(ctx, "adamw", update_all(optimizer, &term, &a)));
    }
    result.active = sara_trainables_total(t);
    *report = result;
done:
    if (h.after_step)
        h.after_step(h.method);
    return status;
}
