#include "sparse/optimizer.h"

#include "core/trace.h"
#include "nn/kernels.h"
#include "sparse/adamw.h"

#include <math.h>

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
    result->ctx = ctx;
    result->options = *options;
    TRY(sara_alloc(ctx, &result->sums, trainables->count, sizeof(*result->sums)));
    TRY(sara_alloc(ctx, &result->updates, trainables->count, sizeof(*result->updates)));
    TRY(sara_device_alloc(trainables->device, &result->device_sums, trainables->count,
                          sizeof(*result->device_sums)));
    result->trainables = *trainables;
    *trainables = (sara_trainables){.ctx = ctx};
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
    sara_device_free(optimizer->trainables.device, optimizer->device_sums);
    sara_trainables_free(&optimizer->trainables);
    sara_free(optimizer->ctx, optimizer->updates);
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

static sara_kernel_env env_of_step(const sara_optimizer *optimizer)
{
    return (sara_kernel_env){.ctx = optimizer->ctx, .device = optimizer->trainables.device};
}

/* What the kernels work on; added: a gradient of one item on the device. */
static sara_updates list_updates(sara_optimizer *optimizer, const sara_trainable *with,
                                 const float *added)
{
    const sara_trainables *t = &optimizer->trainables;
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        optimizer->updates[i] = (sara_update){.value = item->param->value.data,
                                              .dtype = item->param->value.dtype,
                                              .positions = item->param->positions,
                                              .count = item->count,
                                              .masters = item->masters,
                                              .gradient = item->gradient,
                                              .moment1 = item->moment1,
                                              .moment2 = item->moment2,
                                              .added = item == with ? added : NULL};
    }
    return (sara_updates){optimizer->updates, t->count};
}

/* The items' sums are added in their order, so that the number of threads does not matter. */
static sara_status gradient_norm(sara_optimizer *optimizer, double *norm, double scale)
{
    const sara_kernel_env env = env_of_step(optimizer);
    const sara_updates updates = list_updates(optimizer, NULL, NULL);
    size_t count = updates.count;
    double total = 0;
    sara_status status;
    TRY(sara_kernel_square_sums(&env, optimizer->device_sums, &updates, (float)scale));
    TRY(sara_device_copy_out(env.device, optimizer->sums, optimizer->device_sums,
                             count * sizeof(*optimizer->sums)));
    for (size_t i = 0; i < count; i++)
        total += optimizer->sums[i];
    *norm = sqrt(total);
done:
    return status;
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

static sara_status update_all(sara_optimizer *optimizer, const sara_step_term *term,
                              const sara_adamw *a)
{
    const sara_kernel_env env = env_of_step(optimizer);
    const sara_trainables *t = &optimizer->trainables;
    size_t bytes = term->item ? term->item->count * sizeof(*term->gradient) : 0;
    float *copy = NULL; /* of the term's gradient, on the device */
    sara_status status = SARA_OK;
    if (!sara_device_is_host(env.device)) {
        TRY(sara_device_alloc(env.device, &copy, bytes, 1));
        TRY(sara_device_copy_in(env.device, copy, term->gradient, bytes));
    }
    const sara_updates updates = list_updates(optimizer, term->item, copy ? copy : term->gradient);
    TRY(sara_kernel_adamw(&env, &updates, a));
    for (size_t i = 0; i < t->count; i++)
        t->items[i].param->version += t->items[i].count > 0;
    optimizer->steps++;
    optimizer->adam_steps++;
done:
    sara_device_free(env.device, copy);
    return status;
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
    TRY(SARA_TRACED(ctx, "grad norm", 0, gradient_norm(optimizer, &result.grad_norm, grad_scale)));
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
        TRY(sara_device_fill(t->device, t->gradients, 0, t->entries * sizeof(*t->gradients)));
    } else {
        sara_adamw a = adamw_step(optimizer, learning_rate, grad_scale, result.grad_norm);
        TRY(SARA_TRACED(ctx, "adamw", 0, update_all(optimizer, &term, &a)));
    }
    result.active = sara_trainables_total(t);
    *report = result;
done:
    if (h.after_step)
        h.after_step(h.method);
    return status;
}
