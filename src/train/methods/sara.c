/* SaRA: the entries of small magnitude are trained, their changes kept of low rank, and after half
 * of the steps those that are still small. */
#include "train/methods/sara.h"

#include "train/checkpoint.h"
#include "train/memory.h"

#include <math.h>

/* ------------------------------------------------------------------------------ what is trained */

/* The formula is the paper's, for thresholds far below 0.1. */
static sara_status default_learning_rate(trainer *t)
{
    t->learning_rate = sara_default_learning_rate(t->threshold);
    if (t->learning_rate >= 1e-12)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_USAGE,
                     "--learning_rate is missing: the formula gives %.3g for a threshold of %.6g",
                     t->learning_rate, t->threshold);
}

/* Refuses a selection whose optimiser and the weights alone are more than there is. */
static sara_status check_room(const trainer *t, const sara_selection *selection)
{
    const sara_adapter *adapter = &selective_of(t)->start;
    uint64_t bytes = 0;
    for (size_t i = 0; i < selection->item_count; i++) {
        const sara_selected *item = &selection->items[i];
        bytes += item->count * sara_trainable_entry_bytes(item->param, true);
    }
    for (size_t i = 0; i < adapter->count; i++)
        bytes += adapter->entries[i].count * (sizeof(uint32_t) + sizeof(float));
    return sara_memory_check_trainables(t, selection->total, bytes);
}

static sara_status select_entries(trainer *t, sara_selection *out)
{
    const sara_train_options *o = &t->options;
    const selective *s = selective_of(t);
    const sara_params *params = &t->model->denoiser->params;
    sara_budget budget = {SARA_BUDGET_THRESHOLD, o->threshold};
    sara_status status;
    if (o->threshold <= 0)
        TRY(sara_budget_parse(t->ctx, &budget, o->trainable ? o->trainable : "5.8%"));
    status = s->origin.is ? sara_select_adapter(t->ctx, out, params, &s->start, s->start_threshold)
                          : sara_select(t->ctx, out, params, &budget);
    TRY(sara_model_tell_not_finite(t->model, status));
    TRY(check_room(t, out));
done:
    return status;
}

/* Those of a replay's matrices for the low-rank term that the steps will take. */
static sara_status check_rank_names(const trainer *t)
{
    sara_status status = SARA_OK;
    for (int64_t step = 0; t->options.lambda_rank > 0 && step < t->steps; step++) {
        const char *name = sara_batches_rank_name(t->batches, step);
        if (name && *name)
            status = sara_adaptation_check_matrix(selective_of(t)->adaptation, name);
        if (status != SARA_OK)
            return sara_fail_in(t->ctx, status, t->options.replay);
    }
    return status;
}

static sara_status selective_prepare(trainer *t)
{
    selective *s = selective_of(t);
    sara_selection selection = {0};
    sara_trainables trainables = {.ctx = t->ctx};
    sara_status status;
    sara_reselection_place(t);
    t->flags.entries = !s->origin.is;
    TRY(select_entries(t, &selection));
    t->threshold = selection.threshold;
    if (t->learning_rate <= 0)
        TRY(default_learning_rate(t));
    TRY(sara_trainables_select(t->ctx, &trainables, &selection));
    if (s->origin.is)
        TRY(sara_trainables_start(&trainables, &s->start, s->origin.strength));
    sara_adapter_free(&s->start);
    TRY(sara_trainer_use(t, &trainables));
    const sara_adaptation_options options = {.threshold = t->threshold,
                                             .lambda_rank = t->options.lambda_rank,
                                             .progressive_iter = s->progressive_iter,
                                             .seed = t->options.seed};
    TRY(sara_adaptation_new(t->ctx, &s->adaptation, t->optimizer, &options));
    TRY(check_rank_names(t));
done:
    sara_trainables_free(&trainables);
    sara_selection_free(t->ctx, &selection);
    return status;
}

static void selective_close(trainer *t)
{
    selective *s = selective_of(t);
    sara_origin_close(t, &s->origin);
    sara_adapter_free(&s->start);
    sara_adaptation_free(s->adaptation);
}

/* ---------------------------------------------------------------------------- what the run is */

/* JSON has no infinity, the threshold where all is trained, and no NaN, where there is none. */
static json_t *threshold_json(double threshold)
{
    if (isnan(threshold))
        return json_null();
    return isfinite(threshold) ? json_real(threshold) : json_string("inf");
}

/* "5.8%" and the threshold it stands for are one run. */
static sara_status selective_resolve(const trainer *t, json_t *run)
{
    const selective *s = selective_of(t);
    json_t *at = json_integer(s->progressive_iter);
    int failed = json_object_set_new(run, "threshold", threshold_json(t->threshold)) |
                 json_object_set_new(run, "progressive_iter", at);
    json_object_del(run, "trainable");
    if (strcmp(t->options.mask, "smallest") == 0)
        json_object_del(run, "mask"); /* what earlier versions had */
    if (!t->options.mask_steps)
        json_object_del(run, "mask_steps");
    if (!t->options.rank)
        json_object_del(run, "rank");
    return failed ? sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options")
                  : sara_origin_resolve(t, &s->origin, run);
}

static sara_status selective_note(const trainer *t, json_t *run)
{
    json_t *automatic = json_boolean(t->options.progressive_iter < 0);
    if (json_object_set_new(run, SARA_RESELECTION_KEY, automatic) != 0)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}

static void selective_describe(const trainer *t, sara_method_text *out)
{
    const selective *s = selective_of(t);
    if (s->origin.is)
        sara_print(out->entries, sizeof(out->entries),
                   "those of the adapter, from strength %g on", s->origin.told_strength);
    else
        sara_print(out->entries, sizeof(out->entries), "|p| < %.6g", t->threshold);
    snprintf(out->course, sizeof(out->course), "no reselection");
    if (s->progressive_iter > 0)
        snprintf(out->course, sizeof(out->course), "reselection after step %lld",
                 (long long)s->progressive_iter);
    out->default_rate = "by the formula";
}

/* ------------------------------------------------------------------------------------ the steps */

static size_t selective_bytes(const trainer *t)
{
    return sara_adaptation_bytes(selective_of(t)->adaptation);
}

static size_t selective_step_bytes(const trainer *t)
{
    return sara_adaptation_step_bytes(selective_of(t)->adaptation);
}

static sara_step_hooks selective_hooks(const trainer *t)
{
    const char *matrix = sara_batches_rank_name(t->batches, t->optimizer->steps);
    return sara_adaptation_hooks(selective_of(t)->adaptation, matrix);
}

/* Over all matrices that it is drawn from. */
static sara_status selective_time_term(const trainer *t, double *seconds)
{
    double begun = sara_clock();
    int terms;
    sara_status status;
    TRY(sara_adaptation_try_terms(selective_of(t)->adaptation, &terms));
    *seconds = terms ? (sara_clock() - begun) / terms : 0;
done:
    return status;
}

static sara_status selective_finish(const trainer *t)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, t->run.folder, sara_method_sara.result));
    TRY(sara_adaptation_save(selective_of(t)->adaptation, path, t->metadata.items,
                             t->metadata.count, SARA_F32));
done:
    sara_free(t->ctx, path);
    return status;
}

const sara_method sara_method_sara = {
    .name = "sara",
    .title = "SaRA",
    .state_size = sizeof(selective),
    .options = (const char *const[]){"adapter", "mask", "mask_steps", "rank", "threshold",
                                     "trainable", "lambda_rank", "progressive_iter", NULL},
    .files = (const char *const[]){SARA_CHECKPOINT_ADAPTER, SARA_CHECKPOINT_STATE, NULL},
    .result = "adapter.safetensors",
    .entry_bytes = 5, /* a value and its position */
    .open = sara_selective_open,
    .check = sara_selective_check,
    .prepare = selective_prepare,
    .resolve = selective_resolve,
    .note = selective_note,
    .changing = sara_reselection_changing,
    .tell_length = sara_reselection_tell,
    .describe = selective_describe,
    .bytes = selective_bytes,
    .step_bytes = selective_step_bytes,
    .hooks = selective_hooks,
    .time_term = selective_time_term,
    .save = sara_selective_save,
    .load = sara_selective_load,
    .finish = selective_finish,
    .close = selective_close,
};
