/* Which entries SaRA trains: --mask. */
#include "train/methods/sara.h"

#include <math.h>

#define LIFT_RANK 128

bool sara_mask_is_smallest(const trainer *t)
{
    return strcmp(t->options.mask, "smallest") == 0;
}

static int lift_rank(const trainer *t)
{
    return t->options.rank ? t->options.rank : LIFT_RANK;
}

/* What --mask asks for; scores: the sums of gradients. */
static sara_status mask_rule(const trainer *t, sara_mask_rule *out, const float *scores)
{
    const sara_train_options *o = &t->options;
    bool lift = strcmp(o->mask, "lift") == 0;
    *out = (sara_mask_rule){.seed = o->seed, .rank = lift ? lift_rank(t) : 0, .scores = scores};
    return sara_mask_parse(t->ctx, &out->kind, o->mask);
}

/* Those of the checkpoint take the place of as many of the smallest, whose threshold they keep. */
static sara_status take_resumed(const trainer *t, sara_selection *smallest)
{
    sara_mask_kind kind;
    sara_selection chosen = {0};
    sara_status status;
    TRY(sara_mask_parse(t->ctx, &kind, t->options.mask));
    int64_t most = sara_mask_entries(&t->model->denoiser->params, kind);
    TRY(sara_selective_resumed(t, &chosen, smallest->total < most ? smallest->total : most));
    chosen.threshold = smallest->threshold;
    sara_selection_free(t->ctx, smallest);
    *smallest = chosen;
done:
    return status;
}

static sara_status mask_budget(const trainer *t, sara_budget *out)
{
    const sara_train_options *o = &t->options;
    *out = (sara_budget){SARA_BUDGET_THRESHOLD, o->threshold};
    return o->threshold > 0
               ? SARA_OK
               : sara_budget_parse(t->ctx, out, o->trainable ? o->trainable : SARA_DEFAULT_BUDGET);
}

sara_status sara_mask_threshold(const trainer *t, double *out)
{
    sara_budget budget;
    sara_status status;
    *out = selective_of(t)->start_threshold;
    if (selective_of(t)->origin.is)
        return SARA_OK;
    TRY(mask_budget(t, &budget));
    status = sara_budget_resolve(t->ctx, out, &t->model->denoiser->params, &budget);
    TRY(sara_model_tell_not_finite(t->model, status));
done:
    return status;
}

/* The entries, with the threshold that the budget comes to. */
static sara_status select_entries(trainer *t, sara_selection *out, const sara_mask_rule *rule)
{
    const sara_params *params = &t->model->denoiser->params;
    sara_budget budget;
    sara_status status;
    TRY(mask_budget(t, &budget));
    status = sara_select_masked(t->ctx, out, params, &budget, rule);
    TRY(sara_model_tell_not_finite(t->model, status));
    if (t->checkpoint.folder && !sara_mask_is_smallest(t))
        TRY(take_resumed(t, out));
done:
    return status;
}

/* The gradients are there once the micro-batches are: until then the smallest stand for as many. */
sara_status sara_mask_select(trainer *t, sara_selection *out, const float *scores)
{
    sara_mask_rule rule;
    sara_status status;
    if (selective_of(t)->origin.is)
        return sara_selective_start(t, out);
    TRY(mask_rule(t, &rule, scores));
    if ((rule.kind == SARA_MASK_GRADIENT && !scores) || t->checkpoint.folder)
        rule.kind = SARA_MASK_SMALLEST;
    TRY(select_entries(t, out, &rule));
done:
    return status;
}

/* JSON has no infinity, the threshold where all is trained, and no NaN, where there is none. */
static json_t *threshold_json(double threshold)
{
    if (isnan(threshold))
        return json_null();
    return isfinite(threshold) ? json_real(threshold) : json_string("inf");
}

/* What the mask goes by. "5.8%" and the threshold it stands for are one run; where entries are not
 * chosen by it, their number stands for both. */
sara_status sara_mask_resolve(const trainer *t, json_t *run)
{
    const sara_train_options *o = &t->options;
    bool gradient = strcmp(o->mask, "gradient") == 0, lift = strcmp(o->mask, "lift") == 0;
    int steps, failed = 0;
    sara_status status;
    TRY(sara_gradient_steps(t, &steps));
    json_object_del(run, "trainable");
    json_object_del(run, sara_mask_is_smallest(t) ? "mask" : "threshold");
    if (!gradient)
        json_object_del(run, "mask_steps");
    if (!lift)
        json_object_del(run, "rank");
    if (sara_mask_is_smallest(t))
        failed |= json_object_set_new(run, "threshold", threshold_json(t->threshold));
    if (gradient)
        failed |= json_object_set_new(run, "mask_steps", json_integer(steps));
    if (lift)
        failed |= json_object_set_new(run, "rank", json_integer(lift_rank(t)));
    if (failed)
        status = sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
done:
    return status;
}

void sara_mask_describe(const trainer *t, sara_method_text *out)
{
    const sara_train_options *o = &t->options;
    int steps = 0;
    if (strcmp(o->mask, "lift") == 0)
        snprintf(out->entries, sizeof(out->entries),
                 "the largest of matrices' best approximations of rank %d", lift_rank(t));
    else if (strcmp(o->mask, "gradient") == 0 && sara_gradient_steps(t, &steps) == SARA_OK)
        snprintf(out->entries, sizeof(out->entries),
                 "those of the largest gradients over %d micro-batches", steps);
    else
        snprintf(out->entries, sizeof(out->entries), "--mask %s", o->mask);
}
