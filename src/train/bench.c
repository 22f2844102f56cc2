/* Timing: the trainer's own steps on random micro-batches. */
#include "train/bench.h"
#include "train/profile.h"

#include <math.h>
#include <sys/resource.h>
#include <time.h>

#define CLIP_LENGTH 77
#define FORWARD     "forward"

/* No method of a run: passes without gradients. */
static const sara_method forward_alone = {.name = FORWARD,
                                          .title = "a forward pass",
                                          .options = (const char *const[]){"disk_offload", NULL}};

static const sara_options_type bench_options_type = SARA_OPTIONS_TYPE(sara_bench_options, profile);
static const sara_bench_options bench_defaults = {.method = "sara",
                                                  .latent = 64,
                                                  .batch = 1,
                                                  .steps = 3,
                                                  .lambda_rank = 5e-4,
                                                  .seed = 42,
                                                  .mixed_precision = "no"};

void sara_bench_options_init_sized(sara_bench_options *options, size_t size)
{
    sara_options_init(options, size, &bench_defaults, &bench_options_type);
}

/* ------------------------------------------------------------------------------------ options */

static sara_status check_number(const bench *b, const char *name, int value, int high)
{
    if (value >= 1 && value <= high)
        return SARA_OK;
    return sara_fail(b->ctx, SARA_ERROR_USAGE, "--%s %d: expected a whole number, 1 to %d", name,
                     value, high);
}

static sara_status check_source(const bench *b)
{
    const sara_bench_options *o = b->options;
    if (!o->shape && !o->model)
        return sara_fail(
            b->ctx, SARA_ERROR_USAGE,
            "no model given: -m DIR names a folder, --shape sd15 takes random weights");
    if (o->shape && o->model)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--model %s and --shape %s: give one of them",
                         o->model, o->shape);
    if (o->shape && o->use_ema_weights)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--use_ema_weights: goes with --model");
    if (o->shape && o->model_config)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--model_config %s: goes with --model",
                         o->model_config);
    if (o->shape && o->disk_offload)
        return sara_fail(b->ctx, SARA_ERROR_USAGE,
                         "--disk_offload: goes with --model; random weights lie in no file");
    if (o->shape && o->variant)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--variant %s: goes with --model", o->variant);
    return SARA_OK;
}

/* What a benchmark and a run have in common. */
static void take_train_options(sara_train_options *out, const sara_bench_options *o)
{
    sara_train_options_init(out);
    out->trainable = o->trainable;
    out->lambda_rank = o->lambda_rank;
    out->seed = o->seed;
    out->mixed_precision = o->mixed_precision;
    out->device = o->device;
    out->gradient_checkpointing = o->gradient_checkpointing;
    out->gradient_checkpointing_levels = o->gradient_checkpointing_levels;
    out->disk_offload = o->disk_offload;
    out->rank = o->method_rank;
    out->mask = o->mask ? o->mask : out->mask;
    out->mask_steps = o->mask_steps;
    out->lora_alpha = o->lora_alpha;
    out->lora_targets = o->lora_targets;
    out->adapter_width = o->adapter_width;
    out->adapter_scale = o->adapter_scale != 0 ? o->adapter_scale : out->adapter_scale;
}

/* What the trainer's options check would find of those that a benchmark has. */
static sara_status check_method(bench *b)
{
    const sara_bench_options *o = b->options;
    sara_train_options options, defaults;
    const sara_method *method = &forward_alone;
    sara_status status = SARA_OK;
    sara_train_options_init(&defaults);
    take_train_options(&options, o);
    if (o->lambda_rank == 0) /* no low-rank term is what methods without it have */
        options.lambda_rank = defaults.lambda_rank;
    if (!(o->lambda_rank >= 0 && o->lambda_rank <= 1e6))
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--lambda_rank %g: expected a number, 0 to 1e6",
                         o->lambda_rank);
    if (!o->method)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--method: a value is missing");
    if (strcmp(o->method, FORWARD) != 0)
        TRY(sara_method_find(b->ctx, &method, o->method, FORWARD));
    options.method = o->method;
    TRY(sara_train_options_check_values(b->ctx, &options));
    TRY(sara_train_options_check_method(b->ctx, &options));
    TRY(sara_method_check_options(b->ctx, method, &options));
    if (method != &forward_alone)
        TRY(sara_method_start(&b->t, method));
    if (o->rank && (!method->time_term || o->lambda_rank == 0))
        status = sara_fail(b->ctx, SARA_ERROR_USAGE,
                           "--time_rank_term: --method %s with --lambda_rank %g has no low-rank "
                           "term",
                           o->method, o->lambda_rank);
done:
    return status;
}

static sara_status bench_check_options(bench *b)
{
    const sara_bench_options *o = b->options;
    sara_storage storage;
    sara_status status;
    TRY(sara_storage_parse(b->ctx, &storage, o->weight_dtype, "--weight_dtype"));
    TRY(sara_nn_device_check(b->ctx, o->device, "--device"));
    TRY(check_source(b));
    TRY(check_method(b));
    TRY(check_number(b, "latent", o->latent, 4096));
    if (o->text_length) /* 0: not given */
        TRY(check_number(b, "text_length", o->text_length, 4096));
    TRY(check_number(b, "batch", o->batch, 1024));
    TRY(check_number(b, "steps", o->steps, 1000));
    if (o->gradient_checkpointing_levels) /* 0: not given */
        TRY(check_number(b, "gradient_checkpointing_levels", o->gradient_checkpointing_levels,
                         SARA_MAX_LEVELS));
    if (!o->mixed_precision)
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--mixed_precision: a value is missing");
done:
    return status;
}

/* ------------------------------------------------------------------------------------- set-up */

/* The folder of the denoiser: the model's own or, in a pipeline's folder, that of its part. *out:
 * sara_free(). */
static sara_status find_denoiser_folder(const bench *b, char **out)
{
    const char *model = b->options->model;
    const sara_family *family;
    json_t *entries = NULL;
    char *index = NULL;
    sara_status status;
    TRY(sara_path_join(b->ctx, &index, model, "model_index.json"));
    if (sara_path_exists(index)) {
        TRY(sara_family_of_folder(b->ctx, &family, &entries, model));
        TRY(sara_path_join(b->ctx, out, model, family->parts[0].folder));
    } else {
        TRY(sara_strdup(b->ctx, out, model));
    }
done:
    json_decref(entries);
    sara_free(b->ctx, index);
    return status;
}

/* A variant that other parts of the folder alone have is no slip: the plain denoiser is read. */
static sara_status choose_bench_variant(bench *b, const char **out, const char *denoiser)
{
    const sara_bench_options *o = b->options;
    bool own = true, others = false;
    sara_status status = SARA_OK;
    *out = o->variant;
    if (!denoiser || !o->variant || !*o->variant)
        return SARA_OK;
    TRY(sara_model_has_variant(b->ctx, &own, denoiser, true, o->variant));
    TRY(sara_model_has_variant(b->ctx, &others, o->model, false, o->variant));
    *out = !own && others ? NULL : o->variant;
done:
    return status;
}

static sara_status bench_load(bench *b)
{
    const sara_bench_options *o = b->options;
    sara_model_options options = {.size = sizeof(options),
                                  .model_config = o->model_config,
                                  .use_ema_weights = o->use_ema_weights,
                                  .weight_dtype = o->weight_dtype,
                                  .device = o->device};
    double begun = sara_clock();
    char *denoiser = NULL;
    sara_status status;
    if (o->model)
        TRY(find_denoiser_folder(b, &denoiser));
    TRY(choose_bench_variant(b, &options.variant, denoiser));
    if (o->profile)
        TRY(sara_profile_open(b->ctx, &b->t.profile, o->profile, &o->model, 1));
    if (denoiser)
        TRY(sara_trainer_load(&b->t, denoiser, &options, true));
    else
        TRY(sara_model_new_random(b->ctx, &b->t.model, o->shape, o->seed, o->weight_dtype,
                                  o->device));
    TRY(sara_trainer_set_checkpointing(&b->t));
    b->load_seconds = sara_clock() - begun;
done:
    sara_free(b->ctx, denoiser);
    return status;
}

int64_t sara_bench_text_length(const bench *b)
{
    const int t5 = b->t.method ? SARA_CAPTION_LENGTH : SARA_SEQUENCE_LENGTH;
    if (b->options->text_length)
        return b->options->text_length;
    return CLIP_LENGTH + (b->t.model->family->without ? t5 : 0);
}

static sara_status make_batches(bench *b)
{
    const sara_bench_options *o = b->options;
    const sara_denoiser_info *info = &b->t.model->denoiser->info.denoiser;
    const sara_batch shape =
        sara_batch_shape_for(info, sara_shape4(o->batch, info->in_channels, o->latent, o->latent),
                             sara_bench_text_length(b));
    if (!sara_denoiser_takes_side(info, o->latent))
        return sara_fail(b->ctx, SARA_ERROR_USAGE, "--latent %d: the %s takes %s", o->latent,
                         b->t.model->denoiser->class->title, sara_denoiser_sides(info).text);
    return sara_batches_random(b->ctx, &b->t.batches, b->t.model, &shape, b->t.steps, o->seed,
                               &b->t.objective);
}

/* What comes of it is timed. */
static bool has_first_phase(const bench *b)
{
    return b->t.method && b->t.method->turn;
}

/* The trainer without a run folder. */
static sara_status open_trainer(bench *b)
{
    const sara_bench_options *o = b->options;
    trainer *t = &b->t;
    sara_status status;
    t->steps = o->steps + (has_first_phase(b) ? 1 : 0);
    sara_metadata_list_init(&t->metadata, b->ctx);
    take_train_options(&t->options, o);
    t->options.progressive_iter = 0; /* never */
    t->options.learning_rate = 1e-5; /* any; the formula has none for all entries */
    t->options.gradient_accumulation_steps = 1;
    t->options.ltsft_steps = has_first_phase(b) ? 1 : 0;
    TRY(sara_trainer_open_device(t));
    TRY(bench_load(b));
    TRY(t->model->family->objective(b->ctx, &t->objective, &t->model->scheduler));
    t->flags.size = "batch";
    t->flags.side = "latent";
    t->flags.pixels = 1;
    TRY(make_batches(b));
    t->source = sara_batches_source(t->batches);
    if (t->method) {
        TRY(sara_trainer_make_optimizer(t));
        TRY(sara_trainer_settle(t));
    }
    TRY(sara_trainer_plan_memory(t));
    TRY(sara_trainer_make_tape(t));
    if (t->method && t->method->begin)
        TRY(t->method->begin(t));
done:
    return status;
}

/* -------------------------------------------------------------------------------------- steps */

static sara_status compute_step(bench *b, double *loss)
{
    sara_step_report report;
    double lr;
    sara_status status;
    if (b->t.optimizer) {
        TRY(sara_trainer_step(&b->t, loss, &report, &lr));
        if (report.skipped)
            *loss = NAN;
    } else {
        TRY(sara_trainer_micro_batch(&b->t, loss));
        b->t.state.micro_batches++;
    }
done:
    return status;
}

/* They tell the work of a step where other programs take turns with it. */
static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static sara_status time_step(bench *b, int index)
{
    bench_step *step = &b->steps[index];
    const sara_trace_event *events;
    double loss = 0, start = processor_seconds();
    sara_status status;
    if (sara_interrupted(b->ctx)) {
        sara_interrupt_clear(b->ctx);
        return sara_fail(b->ctx, SARA_INTERRUPTED, "interrupted after step %d of %d", index,
                         b->options->steps);
    }
    sara_trace_events(b->ctx, &step->first);
    TRY(SARA_TRACED(b->ctx, SARA_BENCH_STEP, 0, compute_step(b, &loss)));
    step->processor_seconds = processor_seconds() - start;
    events = sara_trace_events(b->ctx, &step->end);
    step->seconds = events[step->end - 1].seconds; /* so that the kinds' add up to it */
    if (step->seconds < b->steps[b->best].seconds)
        b->best = index;
    sara_log(b->ctx, SARA_LOG_INFO, "step %d of %d: %.3f s, loss %.4f", index + 1,
             b->options->steps, step->seconds, loss);
    if (!isfinite(loss))
        status = sara_fail(b->ctx, SARA_ERROR_DIVERGED, "step %d: loss or gradient is not finite",
                           index + 1);
done:
    return status;
}

/* Of one step, and what turns it into the second, neither of them timed. */
static sara_status pass_first_phase(bench *b)
{
    double loss;
    sara_status status;
    TRY(compute_step(b, &loss));
    TRY(b->t.method->turn(&b->t));
done:
    return status;
}

static int64_t peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

static sara_status bench_run(bench *b)
{
    sara_status status;
    TRY(bench_check_options(b));
    TRY(open_trainer(b));
    TRY(sara_alloc_zero(b->ctx, &b->steps, (size_t)b->options->steps, sizeof(*b->steps)));
    if (has_first_phase(b))
        TRY(pass_first_phase(b));
    TRY(sara_trace_start(b->ctx));
    for (int i = 0; i < b->options->steps; i++)
        TRY(time_step(b, i));
    b->peak_bytes = peak_bytes();
    if (b->t.profile)
        TRY(sara_profile_save(b->ctx, &b->t.profile));
    if (b->options->rank)
        TRY(b->t.method->time_term(&b->t, &b->rank_seconds));
    b->peak_flops = sara_nn_peak_flops(b->ctx); /* of the processor as warm as the steps made it */
done:
    return status;
}

sara_status sara_bench(sara_context *ctx, char **report, const sara_bench_options *given)
{
    sara_bench_options options = bench_defaults;
    bench b = {.ctx = ctx, .options = &options, .t = {.ctx = ctx}, .rank_seconds = NAN};
    sara_status status;
    *report = NULL;
    TRY(sara_options_read(ctx, &options, &bench_options_type, given));
    TRY(bench_run(&b));
    TRY(sara_bench_report(&b, report));
done:
    sara_free(ctx, b.steps);
    sara_trainer_close(&b.t);
    return status;
}
