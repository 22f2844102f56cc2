/* SaRA: the entries of small magnitude are trained, their changes kept of low rank, and after half
 * of the steps those that are still small. */
#include "train/methods/sara.h"

#include "train/checkpoint.h"

#include <math.h>

/* ------------------------------------------------------------------------------ what is trained */

/* The formula is the paper's, for thresholds far below 0.1. */
static sara_status default_learning_rate(trainer *t)
{
    t->learning_rate = sara_default_learning_rate(t->threshold);
    if (t->learning_rate >= 1e-12)
        return SARA_OK;
    if (isinf(t->threshold))
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--learning_rate is missing: all entries are selected, by no threshold "
                         "that the formula could take");
    return sara_fail(t->ctx, SARA_ERROR_USAGE,
                     "--learning_rate is missing: the formula gives %.3g for a threshold of %.6g",
                     t->learning_rate, t->threshold);
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

static sara_status use_selection(trainer *t, sara_selection *selection)
{
    const selective *s = selective_of(t);
    const sara_adaptation_options options = {.threshold = t->threshold,
                                             .lambda_rank = t->options.lambda_rank,
                                             .progressive_iter = s->progressive_iter,
                                             .seed = t->options.seed};
    return sara_selective_use(t, selection, &options);
}

static sara_status sara_prepare(trainer *t)
{
    selective *s = selective_of(t);
    sara_selection selection = {0};
    int steps;
    sara_status status;
    sara_reselection_place(t);
    t->flags.entries = !s->origin.is;
    TRY(sara_gradient_steps(t, &steps));
    TRY(sara_mask_select(t, &selection, NULL));
    t->threshold = selection.threshold;
    if (t->learning_rate <= 0)
        TRY(default_learning_rate(t));
    if (!sara_mask_is_smallest(t))
        t->threshold = NAN;
    TRY(use_selection(t, &selection));
    TRY(check_rank_names(t));
done:
    sara_selection_free(t->ctx, &selection);
    return status;
}

static bool is_gradient(const trainer *t)
{
    return strcmp(t->options.mask, "gradient") == 0 && !t->checkpoint.folder &&
           !selective_of(t)->origin.is;
}

static sara_status sara_begin(trainer *t)
{
    sara_selection selection = {0};
    float *sums = NULL;
    sara_status status = SARA_OK;
    if (!is_gradient(t))
        return SARA_OK;
    sara_selective_drop(t);
    TRY(sara_gradient_sums(t, &sums));
    TRY(sara_mask_select(t, &selection, sums));
    sara_free(t->ctx, sums);
    sums = NULL;
    TRY(use_selection(t, &selection));
    TRY(check_rank_names(t));
    TRY(sara_tape_reserve(t->tape, t->activations));
done:
    sara_free(t->ctx, sums);
    sara_selection_free(t->ctx, &selection);
    return status;
}

static int64_t sara_begin_micro_batches(const trainer *t)
{
    int steps;
    return is_gradient(t) && sara_gradient_steps(t, &steps) == SARA_OK ? steps : 0;
}

static size_t sara_begin_bytes(const trainer *t)
{
    size_t entries = (size_t)sara_params_entries(&t->model->denoiser->params);
    return is_gradient(t) ? entries * sizeof(float) : 0;
}

/* ---------------------------------------------------------------------------- what the run is */

static sara_status sara_resolve(const trainer *t, json_t *run)
{
    const selective *s = selective_of(t);
    json_t *at = json_integer(s->progressive_iter);
    sara_status status;
    if (json_object_set_new(run, "progressive_iter", at) != 0)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    TRY(sara_mask_resolve(t, run));
    TRY(sara_origin_resolve(t, &s->origin, run));
done:
    return status;
}

static sara_status sara_note(const trainer *t, json_t *run)
{
    json_t *automatic = json_boolean(t->options.progressive_iter < 0);
    if (json_object_set_new(run, SARA_RESELECTION_KEY, automatic) != 0)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}

static void sara_describe(const trainer *t, sara_method_text *out)
{
    const selective *s = selective_of(t);
    if (s->origin.is)
        sara_selective_describe_start(t, out);
    else if (sara_mask_is_smallest(t))
        sara_print(out->entries, sizeof(out->entries), "|p| < %.6g", t->threshold);
    else
        sara_mask_describe(t, out);
    snprintf(out->course, sizeof(out->course), "no reselection");
    if (s->progressive_iter > 0)
        snprintf(out->course, sizeof(out->course), "reselection after step %lld",
                 (long long)s->progressive_iter);
    out->default_rate = "by the formula";
}

/* ------------------------------------------------------------------------------------ the steps */

static size_t sara_step_bytes(const trainer *t)
{
    return sara_adaptation_step_bytes(selective_of(t)->adaptation);
}

static sara_step_hooks sara_hooks(const trainer *t)
{
    const char *matrix = sara_batches_rank_name(t->batches, t->optimizer->steps);
    return sara_adaptation_hooks(selective_of(t)->adaptation, matrix);
}

/* Over all matrices that it is drawn from. */
static sara_status sara_time_term(const trainer *t, double *seconds)
{
    double begun = sara_clock();
    int terms;
    sara_status status;
    TRY(sara_adaptation_try_terms(selective_of(t)->adaptation, &terms));
    *seconds = terms ? (sara_clock() - begun) / terms : 0;
done:
    return status;
}

const sara_method sara_method_sara = {
    .name = "sara",
    .title = "SaRA",
    .state_size = sizeof(selective),
    .options = (const char *const[]){"adapter", "mask", "mask_steps", "rank", "threshold",
                                     "trainable", "lambda_rank", "progressive_iter", "disk_offload",
                                     "track_drift", NULL},
    .files = (const char *const[]){SARA_CHECKPOINT_ADAPTER, SARA_CHECKPOINT_STATE, NULL},
    .result = "adapter.safetensors",
    .entry_bytes = 5, /* a value and its position */
    .open = sara_selective_open,
    .check = sara_selective_check,
    .small = sara_mask_threshold,
    .prepare = sara_prepare,
    .settle = sara_selective_settle,
    .begin = sara_begin,
    .begin_micro_batches = sara_begin_micro_batches,
    .begin_bytes = sara_begin_bytes,
    .resolve = sara_resolve,
    .note = sara_note,
    .changing = sara_reselection_changing,
    .tell_length = sara_reselection_tell,
    .describe = sara_describe,
    .bytes = sara_selective_bytes,
    .step_bytes = sara_step_bytes,
    .hooks = sara_hooks,
    .time_term = sara_time_term,
    .save = sara_selective_save,
    .load = sara_selective_load,
    .finish = sara_selective_finish,
    .close = sara_selective_close,
};
