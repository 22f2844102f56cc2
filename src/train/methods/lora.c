/* LoRA and DoRA: the denoiser stays as it is, and branches of low rank beside its weights are
 * trained. */
#include "train/methods/lora.h"

#include "train/checkpoint.h"
#include "train/methods/size.h"
#include "train/methods/whole.h"

/* ------------------------------------------------------------------------------ what is trained */

static bool has_magnitudes(const trainer *t)
{
    return t->method == &sara_method_dora;
}

static sara_status lora_open(trainer *t)
{
    return sara_origin_open(t, &lora_run_of(t)->origin, SARA_LORA_RESULT);
}

static sara_status lora_check(const trainer *t)
{
    sara_lora_run *run = lora_run_of(t);
    const char *targets = t->options.lora_targets;
    sara_lora_targets is;
    sara_status status;
    if (run->origin.is) {
        if (has_magnitudes(t) && run->origin.strength != 1)
            return sara_fail(t->ctx, SARA_ERROR_USAGE,
                             "--adapter %s: a DoRA is no DoRA at another strength; leave it out",
                             t->options.adapter);
        return sara_lora_run_read(t, &run->start, run->origin.path);
    }
    TRY(sara_lora_targets_parse(t->ctx, &is, targets));
    if (sara_loras_size_of(&t->model->denoiser->params, is).count == 0)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE, "--lora_targets %s: the %s has no such layer",
                           targets ? targets : "attention", t->model->denoiser->class->title);
done:
    return status;
}

static sara_status choose_rank(const trainer *t, int64_t *out, sara_lora_targets targets)
{
    const sara_loras_size size = sara_loras_size_of(&t->model->denoiser->params, targets);
    const sara_size_unit unit = {.given = t->options.rank,
                                 .automatic = SARA_METHOD_RANK,
                                 .entries = size.per_rank,
                                 .fixed = has_magnitudes(t) ? size.outputs : 0};
    return sara_size_choose(t, out, &unit);
}

static sara_status prepare_new(const trainer *t)
{
    sara_lora_run *run = lora_run_of(t);
    const sara_params *params = &t->model->denoiser->params;
    sara_loras_options options = {.magnitudes = has_magnitudes(t), .seed = t->options.seed};
    sara_status status;
    TRY(sara_lora_targets_parse(t->ctx, &options.targets, t->options.lora_targets));
    TRY(choose_rank(t, &run->rank, options.targets));
    run->alpha = t->options.lora_alpha > 0 ? t->options.lora_alpha : (double)run->rank;
    options.rank = run->rank;
    options.alpha = run->alpha;
    TRY(sara_loras_new(t->ctx, &run->loras, params, &options));
done:
    return status;
}

static sara_status prepare_start(const trainer *t)
{
    sara_lora_run *run = lora_run_of(t);
    const sara_lora_file *file = &run->start.parts[0];
    sara_status status;
    TRY(sara_loras_like(t->ctx, &run->loras, &t->model->denoiser->params, file));
    TRY(sara_loras_take(t->ctx, &run->loras, file, run->origin.strength));
    sara_lora_set_free(&run->start);
done:
    return status;
}

static sara_status lora_prepare(trainer *t)
{
    sara_lora_run *run = lora_run_of(t);
    sara_status status;
    TRY(run->origin.is ? prepare_start(t) : prepare_new(t));
    TRY(sara_loras_check(t->ctx, &run->loras));
    TRY(sara_whole_use(t, &run->loras.params));
done:
    return status;
}

static void lora_close(trainer *t)
{
    sara_lora_run *run = lora_run_of(t);
    sara_origin_close(t, &run->origin);
    sara_lora_set_free(&run->start);
    sara_loras_free(t->ctx, &run->loras);
}

/* ---------------------------------------------------------------------------- what the run is */

/* "20M" and the rank it stands for are one run. */
static sara_status lora_resolve(const trainer *t, json_t *run)
{
    const sara_lora_run *own = lora_run_of(t);
    const char *targets = t->options.lora_targets ? t->options.lora_targets : "attention";
    const char *format = t->options.save_as ? t->options.save_as : "kohya";
    json_object_del(run, "trainable");
    if (json_object_set_new(run, "save_as", json_string(format)))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    if (own->origin.is)
        return sara_origin_resolve(t, &own->origin, run);
    if (json_object_set_new(run, "rank", json_integer(own->rank)) |
        json_object_set_new(run, "lora_alpha", json_real(own->alpha)) |
        json_object_set_new(run, "lora_targets", json_string(targets)))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}

static void lora_describe(const trainer *t, sara_method_text *out)
{
    const sara_lora_run *run = lora_run_of(t);
    if (run->origin.is)
        sara_print(out->entries, sizeof(out->entries),
                   "beside the adapter's %zu layers, from strength %g on", run->loras.count,
                   run->origin.told_strength);
    else
        sara_print(out->entries, sizeof(out->entries), "beside %zu layers, rank %lld, alpha %g",
                   run->loras.count, (long long)run->rank, run->alpha);
    out->default_rate = has_magnitudes(t) ? "of DoRA" : "of LoRA";
}

/* Small ones have names and structures that are not much less. */
static size_t lora_bytes(const trainer *t)
{
    const sara_loras *loras = &lora_run_of(t)->loras;
    size_t bytes = (size_t)sara_params_bytes(&loras->params);
    for (size_t i = 0; i < loras->params.count; i++)
        bytes += sizeof(*loras->params.items) + strlen(loras->params.items[i].name) + 1;
    return bytes + loras->count * sizeof(*loras->layers);
}

#define SHARED                                                                                     \
    .state_size = sizeof(sara_lora_run),                                                           \
    .options = (const char *const[]){"adapter",      "trainable",    "rank",                       \
                                     "lora_alpha",   "lora_targets", "save_as",                    \
                                     "disk_offload", "track_drift",  NULL},                        \
    .files = (const char *const[]){SARA_LORA_RESULT, SARA_CHECKPOINT_STATE, NULL},                 \
    .result = SARA_LORA_RESULT, .peft_result = "lora", .entry_bytes = sizeof(float),               \
    .learning_rate = 1e-4, .open = lora_open, .check = lora_check, .prepare = lora_prepare,        \
    .resolve = lora_resolve, .describe = lora_describe, .bytes = lora_bytes,                       \
    .save = sara_lora_run_save, .load = sara_lora_run_load, .finish = sara_lora_run_finish,        \
    .close = lora_close

const sara_method sara_method_lora = {.name = "lora", .title = "LoRA", SHARED};
const sara_method sara_method_dora = {.name = "dora", .title = "DoRA", SHARED};
