/* SHiRA (arXiv 2406.13175): random entries of linear layers, in each as many as a LoRA of a rank
 * would have. */
#include "train/checkpoint.h"
#include "train/methods/lora.h"
#include "train/methods/selective.h"
#include "train/methods/size.h"

#include <math.h>

typedef struct shira_run {
    selective selected; /* what methods share that train entries at positions */
    int64_t rank;
    bool all; /* entries that the layers have */
} shira_run;

static shira_run *shira_of(const trainer *t)
{
    return t->method_state;
}

/* ------------------------------------------------------------------------------ what is trained */

static const char *shira_targets(const trainer *t)
{
    return t->options.lora_targets ? t->options.lora_targets : "linear";
}

/* Entries of a rank: 0 where the parameter is no linear layer's weight, or none of the targets. */
static int64_t entries_of_rank(const sara_param *param, sara_lora_targets targets, int64_t rank)
{
    const sara_shape *shape = &param->value.shape;
    if (shape->rank != 2 || !targets(param))
        return 0;
    int64_t entries = rank * (shape->dims[0] + shape->dims[1]), all = sara_shape_count(shape);
    return entries < all ? entries : all;
}

static int64_t count_drawn(const sara_params *params, sara_lora_targets targets, int64_t rank)
{
    int64_t total = 0;
    for (size_t i = 0; i < params->count; i++)
        total += entries_of_rank(&params->items[i], targets, rank);
    return total;
}

static sara_status shira_check(const trainer *t)
{
    const char *name = shira_targets(t);
    sara_lora_targets targets;
    sara_status status;
    if (shira_of(t)->selected.origin.is)
        return sara_selective_check(t);
    TRY(sara_lora_targets_parse(t->ctx, &targets, name));
    if (strcmp(name, "all") == 0)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE,
                           "--lora_targets all: SHiRA has no convolutions; expected attention or "
                           "linear");
    else if (count_drawn(&t->model->denoiser->params, targets, 1) == 0)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE, "--lora_targets %s: the %s has no such layer",
                           name, t->model->denoiser->class->title);
done:
    return status;
}

/* As given, or the one that comes nearest to the size. */
static sara_status choose_shira_rank(const trainer *t, sara_lora_targets targets)
{
    const sara_params *params = &t->model->denoiser->params;
    double entries, best = INFINITY;
    sara_status status;
    shira_of(t)->rank = t->options.rank ? t->options.rank : SARA_METHOD_RANK;
    if (!t->options.trainable)
        return SARA_OK;
    TRY(sara_size_entries(t, &entries, NULL));
    for (int64_t rank = 1, before = 0, now;; rank++, before = now) {
        now = count_drawn(params, targets, rank);
        double miss = fabs((double)now - entries);
        if (now == before || miss >= best)
            break;
        shira_of(t)->rank = rank;
        best = miss;
    }
done:
    return status;
}

static sara_status draw_entries(const trainer *t, sara_selection *out, sara_lora_targets targets)
{
    const sara_params *params = &t->model->denoiser->params;
    size_t *counts = NULL;
    sara_status status;
    TRY(sara_alloc(t->ctx, &counts, params->count, sizeof(*counts)));
    for (size_t i = 0; i < params->count; i++)
        counts[i] = (size_t)entries_of_rank(&params->items[i], targets, shira_of(t)->rank);
    TRY(sara_select_random(t->ctx, out, params, counts, t->options.seed));
done:
    sara_free(t->ctx, counts);
    return status;
}

static sara_status choose_entries(trainer *t, sara_selection *out)
{
    const sara_params *params = &t->model->denoiser->params;
    shira_run *run = shira_of(t);
    sara_lora_targets targets;
    sara_status status;
    TRY(sara_lora_targets_parse(t->ctx, &targets, shira_targets(t)));
    TRY(choose_shira_rank(t, targets));
    run->all =
        count_drawn(params, targets, run->rank) == count_drawn(params, targets, SARA_SIZE_HIGHEST);
    TRY(draw_entries(t, out, targets));
done:
    return status;
}

static sara_status shira_prepare(trainer *t)
{
    const sara_adaptation_options options = {
        .threshold = NAN, .progressive_iter = -1, .seed = t->options.seed};
    sara_selection selection = {0};
    const bool starts = shira_of(t)->selected.origin.is;
    sara_status status;
    t->flags.entries = !starts;
    TRY(starts ? sara_selective_start(t, &selection) : choose_entries(t, &selection));
    TRY(sara_selective_use(t, &selection, &options));
done:
    sara_selection_free(t->ctx, &selection);
    return status;
}

/* ---------------------------------------------------------------------------- what the run is */

/* A size and the rank that it comes to are one run. */
static sara_status shira_resolve(const trainer *t, json_t *run)
{
    json_object_del(run, "trainable");
    if (shira_of(t)->selected.origin.is)
        return sara_origin_resolve(t, &shira_of(t)->selected.origin, run);
    if (json_object_set_new(run, "rank", json_integer(shira_of(t)->rank)) |
        json_object_set_new(run, "lora_targets", json_string(shira_targets(t))))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}

static void shira_describe(const trainer *t, sara_method_text *out)
{
    const shira_run *run = shira_of(t);
    const char *targets = shira_targets(t);
    if (run->selected.origin.is)
        sara_selective_describe_start(t, out);
    else if (run->all)
        snprintf(out->entries, sizeof(out->entries), "all that there are; targets %s", targets);
    else
        snprintf(out->entries, sizeof(out->entries),
                 "at random, as many as rank %lld has; targets %s", (long long)run->rank, targets);
    out->default_rate = "of SHiRA";
}

const sara_method sara_method_shira = {
    .name = "shira",
    .title = "SHiRA",
    .state_size = sizeof(shira_run),
    .options = (const char *const[]){"adapter", "rank", "lora_targets", "trainable", "disk_offload",
                                     "track_drift", NULL},
    .files = (const char *const[]){SARA_CHECKPOINT_ADAPTER, SARA_CHECKPOINT_STATE, NULL},
    .result = "adapter.safetensors",
    .entry_bytes = 5, /* a value and its position */
    .learning_rate = 1e-4,
    .open = sara_selective_open,
    .check = shira_check,
    .prepare = shira_prepare,
    .settle = sara_selective_settle,
    .resolve = shira_resolve,
    .describe = shira_describe,
    .bytes = sara_selective_bytes,
    .save = sara_selective_save,
    .load = sara_selective_load,
    .finish = sara_selective_finish,
    .close = sara_selective_close,
};
