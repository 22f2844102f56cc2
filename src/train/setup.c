/* Everything up to the first step, so that what is wrong is told before hours of encoding. */
#include "train/checkpoint.h"
#include "train/class_images.h"
#include "train/trainer.h"

#include <math.h>

sara_status sara_trainer_set_checkpointing(trainer *t)
{
    const sara_train_options *o = &t->options;
    int levels = t->model->denoiser->info.denoiser.levels;
    if (o->gradient_checkpointing_levels > levels)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--gradient_checkpointing_levels %d: the %s has %d resolutions",
                         o->gradient_checkpointing_levels, t->model->denoiser->class->title,
                         levels);
    if (o->disk_offload && o->gradient_checkpointing_levels)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--gradient_checkpointing_levels %d: --disk_offload recomputes all "
                         "levels; leave one of them out",
                         o->gradient_checkpointing_levels);
    if (o->disk_offload && !o->gradient_checkpointing)
        sara_log(t->ctx, SARA_LOG_INFO, "--disk_offload: gradient checkpointing is on");
    t->checkpoint_levels = o->gradient_checkpointing || o->disk_offload ? levels : 0;
    if (o->gradient_checkpointing_levels)
        t->checkpoint_levels = o->gradient_checkpointing_levels;
    t->model->denoiser->checkpoint_levels = t->checkpoint_levels;
    return SARA_OK;
}

static sara_status check_validation(const trainer *t)
{
    int width, height;
    sara_status status;
    sara_train_options_sides(&t->options, &width, &height);
    TRY(sara_scheduler_config_check_sampling(t->ctx, &t->model->scheduler, "--validation_prompt"));
    if (width && !t->model->denoiser->info.denoiser.sample_width)
        TRY(sara_model_check_size(t->ctx, t->model, width, height, "--resolution"));
    else
        TRY(sara_model_check_sample_size(t->ctx, t->model, "--resolution"));
    TRY(sara_run_check_prompts(t->ctx, t->model, &t->options));
done:
    return status;
}

/* Weights that memory cannot hold may still be trained from their files. */
static sara_status advise_offload(trainer *t, const char *path, const sara_model_options *options,
                                  bool alone)
{
    char *told = NULL;
    sara_status status;
    TRY(sara_strdup(t->ctx, &told, sara_context_error(t->ctx)));
    status = sara_model_load_offloaded(t->ctx, &t->model, path, options, alone);
    status = sara_fail(t->ctx, SARA_ERROR_MEMORY, "%s%s", told,
                       status == SARA_OK ? "; --disk_offload needs less" : "");
done:
    sara_free(t->ctx, told);
    return status;
}

sara_status sara_trainer_load(trainer *t, const char *path, const sara_model_options *options,
                              bool alone)
{
    const char *method = t->method ? t->method->name : NULL;
    sara_status status;
    t->flags.offload = !t->options.disk_offload &&
                       (!method || sara_train_option_goes_with("disk_offload", method));
    if (t->options.disk_offload)
        return sara_model_load_offloaded(t->ctx, &t->model, path, options, alone);
    status = alone ? sara_model_load_denoiser(t->ctx, &t->model, path, options)
                   : sara_model_load(t->ctx, &t->model, path, options);
    if (status == SARA_ERROR_MEMORY && t->flags.offload)
        status = advise_offload(t, path, options, alone);
    return status;
}

static sara_status load_model(trainer *t)
{
    const sara_train_options *o = &t->options;
    const sara_model_options options = sara_train_model_options(o);
    bool alone;
    const char *path = sara_train_options_model(o, &alone);
    const sara_base *base;
    sara_status status;
    TRY(sara_trainer_load(t, path, &options, alone));
    if (o->replay && !o->validation_prompt_count) /* nothing is encoded before it */
        TRY(sara_model_need(t->model, SARA_STAGE_DENOISE));
    if (o->max_sequence_length && !t->model->family->without)
        TRY(sara_fail(t->ctx, SARA_ERROR_USAGE,
                      "--max_sequence_length %d: %s has no T5 text encoder; that goes with SD3 and "
                      "SD3.5",
                      o->max_sequence_length, path));
    t->model->caption_length = o->max_sequence_length;
    if (o->validation_prompt_count > 0)
        TRY(check_validation(t));
    TRY(sara_model_base(t->ctx, &base, t->model));
    TRY(t->model->family->objective(t->ctx, &t->objective, &t->model->scheduler));
    TRY(sara_trainer_set_weighting(t));
    TRY(sara_trainer_set_checkpointing(t));
done:
    return status;
}

sara_status sara_trainer_use(trainer *t, sara_trainables *trainables)
{
    const sara_train_options *o = &t->options;
    const sara_optimizer_options options = {.beta1 = o->adam_beta1,
                                            .beta2 = o->adam_beta2,
                                            .epsilon = o->adam_epsilon,
                                            .weight_decay = o->adam_weight_decay,
                                            .max_grad_norm = o->max_grad_norm};
    return sara_optimizer_new(t->ctx, &t->optimizer, trainables, &options);
}

sara_status sara_trainer_make_optimizer(trainer *t)
{
    double factor;
    sara_status status;
    t->threshold = NAN;
    t->learning_rate =
        t->options.learning_rate > 0 ? t->options.learning_rate : t->method->learning_rate;
    TRY(t->method->prepare(t));
    if (!t->selected)
        t->selected = sara_trainables_total(&t->optimizer->trainables);
    t->parameters = sara_params_entries(&t->model->denoiser->params);
    TRY(sara_trainer_lr_factor(t, &factor, 0, t->steps));
done:
    return status;
}

/* As given; a run that goes on has its own length unless another is. */
static int64_t given_steps(const trainer *t)
{
    const sara_train_options *o = &t->options;
    return o->max_train_steps ? o->max_train_steps : sara_trainer_past_length(t);
}

static sara_status count_replayed_steps(trainer *t)
{
    const sara_train_options *o = &t->options;
    int64_t items = t->source->items, per_step = o->gradient_accumulation_steps;
    int64_t names = (int64_t)json_array_size(t->source->rank_names);
    t->steps = given_steps(t) ? given_steps(t) : items / per_step;
    if (t->steps < 1 || t->steps > items / per_step)
        return sara_fail(t->ctx, SARA_ERROR_INPUT,
                         "%s: holds %lld micro-batches, too few for %lld steps of %lld each",
                         o->replay, (long long)items, (long long)(t->steps > 0 ? t->steps : 1),
                         (long long)per_step);
    if (names && names < t->steps)
        return sara_fail(t->ctx, SARA_ERROR_INPUT, "%s: rank_names: %lld names, %lld steps",
                         o->replay, (long long)names, (long long)t->steps);
    return SARA_OK;
}

static sara_status count_epochs_steps(trainer *t)
{
    const sara_train_options *o = &t->options;
    const int64_t parts = o->gradient_accumulation_steps;
    if (o->num_train_epochs > INT64_MAX / 2 / t->source->items)
        return sara_fail(t->ctx, SARA_ERROR_USAGE, "--num_train_epochs %lld: too many",
                         (long long)o->num_train_epochs);
    t->steps = (sara_order_length(t->source->order, o->num_train_epochs) + parts - 1) / parts;
    return SARA_OK;
}

/* How many steps there are, from what was given. */
static sara_status count_steps(trainer *t)
{
    const sara_train_options *o = &t->options;
    sara_status status = SARA_OK;
    if (t->source->is_replay)
        TRY(count_replayed_steps(t));
    else if (o->num_train_epochs)
        TRY(count_epochs_steps(t));
    else
        t->steps = given_steps(t) ? given_steps(t) : 5000;
    TRY(sara_trainer_check_length(t, o->num_train_epochs ? "--num_train_epochs" : "the replay",
                                  t->steps));
done:
    return status;
}

sara_status sara_trainer_open_device(trainer *t)
{
    const char *type = t->options.mixed_precision, *device = t->options.device;
    sara_status status = SARA_OK;
    if (strcmp(type, "no") == 0)
        return SARA_OK;
    if (strcmp(type, "bf16") != 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE, "--mixed_precision %s: expected no or bf16%s",
                         type, strcmp(type, "fp16") == 0 ? ", which needs no loss scaling" : "");
    if (device && strcmp(device, "cpu") != 0) /* whose memory "cpu-bf16" shares */
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--mixed_precision bf16: goes with --device cpu, not %s", device);
    status = sara_nn_device_open(t->ctx, &t->device, "cpu-bf16");
    return status == SARA_OK ? status : sara_fail_in(t->ctx, status, "--mixed_precision bf16");
}

sara_device *sara_trainer_device(const trainer *t)
{
    return t->device ? t->device : t->model->device;
}

sara_status sara_trainer_make_tape(trainer *t)
{
    sara_status status;
    TRY(sara_tape_new(t->ctx, &t->tape, sara_trainer_device(t)));
    TRY(sara_tape_reserve(t->tape, t->activations));
done:
    return status;
}

/* What the checkpoint's files hold comes later, with the denoiser's values. */
static sara_status resume(trainer *t)
{
    sara_status status = SARA_OK;
    if (t->checkpoint.folder) {
        TRY(sara_checkpoint_check_run(
            t->ctx, &t->checkpoint, t->identity,
            t->method->changing ? t->method->changing(t) : (const char *const[]){NULL}));
        TRY(sara_checkpoint_count(t));
    }
    t->started_at = t->optimizer->steps;
    if (t->checkpoint.folder)
        sara_log(t->ctx, SARA_LOG_INFO, "resuming after step %lld of %lld",
                 (long long)t->started_at, (long long)t->steps);
    else if (t->options.resume_from_checkpoint)
        sara_log(t->ctx, SARA_LOG_INFO, "%s: no checkpoint yet; starting from the first step",
                 t->run.folder);
    TRY(sara_trainer_tell_length(t));
done:
    return status;
}

static int64_t most_samples(const trainer *t)
{
    int64_t most = 0;
    for (size_t i = 0; i < t->source->shape_count; i++) {
        int64_t samples = t->source->shapes[i].latents.shape.dims[0];
        most = samples > most ? samples : most;
    }
    return most;
}

static void setup_announce(const trainer *t)
{
    const sara_train_options *o = &t->options;
    bool given = o->learning_rate > 0;
    sara_method_text text = {"", "", NULL};
    t->method->describe(t, &text);
    sara_log(t->ctx, SARA_LOG_INFO,
             "training %lld of %lld parameters (%.2f %%), %s; learning rate %.3g%s%s%s",
             (long long)t->selected, (long long)t->parameters,
             100.0 * (double)t->selected / (double)t->parameters, text.entries, t->learning_rate,
             given ? "" : " (", given ? "" : text.default_rate, given ? "" : ")");
    char repeats[64] = "", classes[64] = "";
    int64_t items = t->source->items, images = t->source->images;
    if (images && images != items)
        snprintf(repeats, sizeof(repeats), ", %lld with repeats", (long long)items);
    if (t->source->class_images)
        snprintf(classes, sizeof(classes), " and %lld class images",
                 (long long)t->source->class_images);
    sara_log(t->ctx, SARA_LOG_INFO, "%lld steps of %s%lld x %d samples from %lld %s%s%s%s%s",
             (long long)t->steps, t->source->shape_count > 1 ? "up to " : "",
             (long long)most_samples(t), o->gradient_accumulation_steps,
             (long long)(images ? images : items), images ? "images" : "recorded micro-batches",
             repeats, classes, *text.course ? "; " : "", text.course);
}

/* What the steps train on; nothing is encoded yet. */
static sara_status open_batches(trainer *t)
{
    sara_status status;
    TRY(sara_batches_open(t->ctx, &t->batches, t->model, &t->options, &t->objective));
    t->source = sara_batches_source(t->batches);
    const bool alone = !t->source->class_images && !t->options.dataset_config;
    if (!t->source->is_replay && t->source->shape_count == 1 && alone) {
        t->flags.size = "train_batch_size";
        const bool square = !t->options.enable_bucket && t->source->width == t->source->height;
        t->flags.side = square ? "resolution" : NULL;
        t->flags.pixels = t->model->vae->info.vae.factor;
    }
done:
    return status;
}

unsigned sara_trainer_stages(const trainer *t)
{
    return SARA_STAGE_DENOISE | (t->source->encodes_anew ? SARA_STAGE_IMAGES : 0);
}

/* Behind the last micro-batch of the run, skipped steps left out. */
static int64_t end_of_micro_batches(const trainer *t)
{
    const int64_t steps = t->steps - t->optimizer->steps;
    const int64_t end = t->state.micro_batches + steps * t->options.gradient_accumulation_steps;
    const int64_t chosen = t->method->begin_micro_batches ? t->method->begin_micro_batches(t) : 0;
    return end > chosen ? end : chosen;
}

/* Texts, then images; each part of the model goes after its last use, and the denoiser comes
 * last. */
static sara_status encode(trainer *t)
{
    sara_status status;
    TRY(sara_batches_open_files(t->batches, &t->options, t->identity));
    TRY(sara_run_encode_prompts(t->ctx, t->model, &t->options, t->source->folder, t->identity));
    TRY(sara_batches_fill(t->batches, t->state.micro_batches, end_of_micro_batches(t)));
    sara_model_give_back(t->model, sara_trainer_stages(t));
    TRY(sara_model_need(t->model, sara_trainer_stages(t)));
    sara_network_close_files(t->model->denoiser); /* its values are about to be trained */
done:
    return status;
}

sara_status sara_trainer_settle(trainer *t)
{
    sara_status status = SARA_OK;
    if (t->method->settle)
        TRY(t->method->settle(t));
    if (t->checkpoint.folder)
        TRY(t->method->load(t, t->checkpoint.folder));
done:
    return status;
}

/* Not where no step is left to do. */
static sara_status open_events(trainer *t)
{
    const sara_train_options *o = &t->options;
    if (!o->report_to || strcmp(o->report_to, "none") == 0 || t->started_at >= t->steps)
        return SARA_OK;
    return sara_run_events_open(&t->run, o->logging_dir ? o->logging_dir : "logs",
                                t->started_at + 1);
}

sara_status sara_trainer_open(trainer *t, const sara_train_options *options)
{
    sara_status status;
    t->saved_at = -1;
    sara_metadata_list_init(&t->metadata, t->ctx);
    TRY(sara_train_options_read(t->ctx, &t->options, options));
    TRY(sara_trainer_start(t));
    TRY(load_model(t));
    TRY(sara_run_prompt_length(t->ctx, &t->prompt_length, t->model, &t->options));
    if (t->method->check)
        TRY(t->method->check(t));
    TRY(sara_class_images_draw(t->ctx, &t->class_bytes, t->model, &t->options));
    TRY(open_batches(t));
    TRY(count_steps(t));
    TRY(sara_drift_start(t));
    TRY(sara_trainer_make_optimizer(t));
    TRY(sara_trainer_identify(t));
    TRY(resume(t));
    setup_announce(t);
    TRY(sara_trainer_plan_memory(t));
    TRY(sara_trainer_check_space(t));
    TRY(encode(t));
    TRY(sara_trainer_settle(t));
    TRY(sara_run_log_open(&t->run, t->started_at, t->state.skipped_in_row));
    TRY(open_events(t));
    TRY(sara_trainer_make_tape(t));
    if (t->method->begin)
        TRY(t->method->begin(t));
done:
    return status;
}

void sara_trainer_close(trainer *t)
{
    json_decref(t->identity);
    sara_checkpoint_clear(t->ctx, &t->checkpoint);
    sara_metadata_list_free(&t->metadata);
    sara_trace_stop(t->ctx);
    sara_writer_abort(&t->profile);
    sara_tape_free(t->tape);
    sara_drift_free(t);
    sara_optimizer_free(t->optimizer); /* of parameters that may be the method's own */
    sara_method_close(t);
    sara_batches_free(t->batches);
    sara_objective_free(&t->objective);
    sara_model_free(t->model);
    sara_nn_device_close(t->device);
    if (t->run_open)
        sara_run_close(&t->run);
}
