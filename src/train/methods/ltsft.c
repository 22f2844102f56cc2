/* LT-SFT (Ansell et al. 2022): all entries are trained, those that moved most are kept, all go back
 * to the base, and the kept ones are trained from there with a fresh optimiser. */
#include "train/methods/ltsft.h"

#include "train/checkpoint.h"
#include "train/methods/size.h"

#include <math.h>

/* ------------------------------------------------------------------------------ what is trained */

/* As given, as the run that goes on has it, or half of the steps. */
static sara_status choose_steps(trainer *t)
{
    ltsft *l = ltsft_of(t);
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    l->steps = t->options.ltsft_steps;
    if (!l->steps && run)
        l->steps = json_integer_value(json_object_get(run, "ltsft_steps"));
    if (!l->steps)
        l->steps = t->steps > 1 ? t->steps / 2 : 1;
    if (l->steps < t->steps)
        return SARA_OK;
    return sara_fail(
        t->ctx, SARA_ERROR_USAGE,
        "--method ltsft: the first phase has %lld %s%s, and %lld in all leave none for "
        "the second",
        (long long)l->steps, l->steps == 1 ? "step" : "steps",
        t->options.ltsft_steps ? " (--ltsft_steps)" : "", (long long)t->steps);
}

static sara_status choose_size(trainer *t)
{
    const double entries = (double)sara_params_entries(&t->model->denoiser->params);
    double count;
    sara_status status;
    TRY(sara_size_entries(t, &count, SARA_DEFAULT_BUDGET));
    count = fmax(1, rint(count));
    if (count > entries)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE, "--trainable %s: the model has %.0f entries",
                           t->options.trainable, entries);
    t->selected = (int64_t)count;
done:
    return status;
}

static sara_status use_kept(trainer *t, sara_selection *selection)
{
    const sara_adaptation_options options = {
        .threshold = NAN, .progressive_iter = -1, .seed = t->options.seed};
    return sara_selective_use(t, selection, &options);
}

/* Of all parameters, one's values after the other's. */
static sara_status keep_base(const trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    size_t next = 0;
    sara_param copy = {0};
    sara_status status;
    TRY(sara_alloc(t->ctx, &ltsft_of(t)->base, (size_t)sara_params_entries(params), sizeof(float)));
    for (size_t i = 0; i < params->count; i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        TRY(sara_param_read(t->ctx, &copy, &params->items[i]));
        for (size_t k = 0; k < count; k++)
            ltsft_of(t)->base[next++] = sara_param_get(&copy, k);
        sara_param_read_end(t->ctx, &copy, &params->items[i]);
    }
done:
    return status;
}

/* Entries that are known from the start: an adapter's, from which on there is one phase, or those
 * of a checkpoint of the second. */
static sara_status find_entries_kept(trainer *t, sara_selection *out, bool *found)
{
    sara_status status;
    *found = ltsft_of(t)->selected.origin.is;
    if (*found)
        return sara_selective_start(t, out);
    TRY(choose_steps(t));
    TRY(choose_size(t));
    *found = sara_ltsft_has_kept(t);
    if (*found)
        TRY(sara_selective_resumed(t, out, t->selected));
done:
    return status;
}

static sara_status ltsft_prepare(trainer *t)
{
    sara_selection selection = {0};
    bool kept;
    sara_status status;
    TRY(find_entries_kept(t, &selection, &kept));
    if (kept)
        TRY(use_kept(t, &selection));
    else
        TRY(sara_whole_use(t, &t->model->denoiser->params));
done:
    sara_selection_free(t->ctx, &selection);
    return status;
}

/* Before the first phase, or what is left of it, changes the base's values. */
static sara_status ltsft_settle(trainer *t)
{
    return ltsft_of(t)->selected.adaptation ? sara_selective_settle(t) : keep_base(t);
}

/* ------------------------------------------------------------------------------- between phases */

/* Gives the parameters the base's values, to the bits, whose place their changes take. */
static sara_status rewind_all(trainer *t)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    float *base = ltsft_of(t)->base, *now = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < trainables->count; base += trainables->items[i++].count) {
        const sara_trainable *item = &trainables->items[i];
        sara_trainable_values values;
        TRY(sara_alloc(t->ctx, &now, item->count, sizeof(*now)));
        TRY(sara_trainable_read(trainables, &values, item));
        for (size_t k = 0; k < item->count; k++)
            now[k] = sara_trainable_value(&values, k);
        sara_trainable_read_end(trainables, &values);
        TRY(sara_trainable_write(trainables, item, base));
        for (size_t k = 0; k < item->count; k++)
            base[k] = now[k] - base[k];
        sara_free(t->ctx, now);
        now = NULL;
    }
done:
    sara_free(t->ctx, now);
    return status;
}

/* The first step after the first phase begins with this. */
static sara_status ltsft_turn(trainer *t)
{
    ltsft *l = ltsft_of(t);
    sara_selection selection = {0};
    sara_status status;
    if (l->selected.adaptation || t->optimizer->steps < l->steps)
        return SARA_OK;
    const int64_t steps = t->optimizer->steps;
    TRY(rewind_all(t));
    sara_selective_drop(t);
    TRY(sara_select_scored(t->ctx, &selection, &t->model->denoiser->params, l->base, t->selected));
    sara_free(t->ctx, l->base);
    l->base = NULL;
    TRY(use_kept(t, &selection));
    TRY(sara_optimizer_restore(t->optimizer, steps, 0));
done:
    sara_selection_free(t->ctx, &selection);
    return status;
}

/* Each phase has the whole schedule. */
static void ltsft_schedule(const trainer *t, int64_t *step, int64_t *steps)
{
    const int64_t first = ltsft_of(t)->steps;
    bool second = *step >= first;
    *steps = second ? *steps - first : first;
    *step -= second ? first : 0;
}

static sara_status tell_kept(void *method, sara_step_report *report)
{
    (void)method;
    report->reselected = true;
    return SARA_OK;
}

static sara_step_hooks ltsft_hooks(const trainer *t)
{
    const int64_t first = ltsft_of(t)->steps;
    bool turned = first > 0 && t->optimizer->steps == first;
    return (sara_step_hooks){.before_update = turned ? tell_kept : NULL};
}

static size_t ltsft_bytes(const trainer *t)
{
    size_t entries = (size_t)sara_params_entries(&t->model->denoiser->params);
    return ltsft_of(t)->selected.adaptation ? sara_selective_bytes(t) : entries * sizeof(float);
}

static int64_t ltsft_turns_to(const trainer *t)
{
    return ltsft_of(t)->selected.adaptation ? 0 : t->selected;
}

/* ---------------------------------------------------------------------------- what the run is */

static sara_status ltsft_resolve(const trainer *t, json_t *run)
{
    const sara_origin *origin = &ltsft_of(t)->selected.origin;
    json_object_del(run, "trainable");
    if (origin->is)
        return sara_origin_resolve(t, origin, run);
    return json_object_set_new(run, "ltsft_steps", json_integer(ltsft_of(t)->steps)) == 0
               ? SARA_OK
               : sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
}

static void ltsft_describe(const trainer *t, sara_method_text *out)
{
    const long long first = (long long)ltsft_of(t)->steps, second = (long long)t->steps - first;
    if (ltsft_of(t)->selected.origin.is) {
        sara_selective_describe_start(t, out);
        return;
    }
    snprintf(out->entries, sizeof(out->entries),
             "those that move most while all are trained for %lld step%s", first,
             first == 1 ? "" : "s");
    snprintf(out->course, sizeof(out->course), "%lld of the first phase, %lld of the second", first,
             second);
    out->default_rate = "of LT-SFT";
}

static sara_status ltsft_finish(const trainer *t)
{
    if (ltsft_of(t)->selected.adaptation)
        return sara_selective_finish(t);
    return sara_fail(t->ctx, SARA_ERROR_INPUT,
                     "%s: was used up in the first phase, as steps were skipped; there is no "
                     "result",
                     t->options.replay);
}

static void ltsft_close(trainer *t)
{
    sara_free(t->ctx, ltsft_of(t)->base);
    sara_selective_close(t);
}

const sara_method sara_method_ltsft = {
    .name = "ltsft",
    .title = "LT-SFT",
    .state_size = sizeof(ltsft),
    .options = (const char *const[]){"adapter", "trainable", "ltsft_steps", "track_drift", NULL},
    .files = (const char *const[]){SARA_CHECKPOINT_ADAPTER, SARA_CHECKPOINT_STATE, NULL},
    .other_files =
        (const char *const[]){SARA_WHOLE_FILE, SARA_WHOLE_CONFIG, SARA_CHECKPOINT_STATE, NULL},
    .result = "adapter.safetensors",
    .entry_bytes = sizeof(float),
    .learning_rate = 1e-4,
    .open = sara_selective_open,
    .check = sara_selective_check,
    .prepare = ltsft_prepare,
    .settle = ltsft_settle,
    .turn = ltsft_turn,
    .turns_to = ltsft_turns_to,
    .schedule = ltsft_schedule,
    .resolve = ltsft_resolve,
    .describe = ltsft_describe,
    .bytes = ltsft_bytes,
    .hooks = ltsft_hooks,
    .save = sara_ltsft_save,
    .load = sara_ltsft_load,
    .finish = ltsft_finish,
    .close = ltsft_close,
};
