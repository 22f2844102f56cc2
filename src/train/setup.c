/* Everything up to the first step, so that what is wrong is told before hours of encoding. */
#include "train/profile.h"
#include "train/trainer.h"

#include <math.h>

sara_status sara_trainer_set_checkpointing(trainer *t)
{
    const sara_train_options *o = &t->options;
    int levels = t->model->denoiser->info.denoiser.levels;
    if (o->gradient_checkpointing_levels > levels)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--gradient_checkpointing_levels %d: the U-Net has %d resolutions",
                         o->gradient_checkpointing_levels, levels);
    t->checkpoint_levels = o->gradient_checkpointing ? levels : 0;
    if (o->gradient_checkpointing_levels)
        t->checkpoint_levels = o->gradient_checkpointing_levels;
    t->model->denoiser->checkpoint_levels = t->checkpoint_levels;
    return SARA_OK;
}

static sara_status check_validation(const trainer *t)
{
    int side = t->options.resolution;
    sara_status status;
    TRY(sara_scheduler_config_check_sampling(t->ctx, &t->model->scheduler, "--validation_prompt"));
    if (side && !t->model->denoiser->info.denoiser.sample_width)
        TRY(sara_model_check_size(t->ctx, t->model, side, side, "--resolution"));
    else
        TRY(sara_model_check_sample_size(t->ctx, t->model, "--resolution"));
    TRY(sara_run_check_drawing(t->ctx, t->model, &t->options));
done:
    return status;
}

static sara_status load_model(trainer *t)
{
    const sara_train_options *o = &t->options;
    sara_model_options options = {.size = sizeof(options),
                                  .variant = o->variant,
                                  .unet_only = o->unet_only != NULL,
                                  .prediction_type = o->prediction_type,
                                  .model_config = o->model_config,
                                  .tokenizer = o->tokenizer,
                                  .vae = o->vae,
                                  .use_ema_weights = o->use_ema_weights,
                                  .weight_dtype = o->weight_dtype};
    const char *path = o->unet_only ? o->unet_only : o->pretrained_model_name_or_path;
    const sara_base *base;
    sara_status status;
    TRY(sara_model_load(t->ctx, &t->model, path, &options));
    if (o->validation_prompt_count > 0)
        TRY(check_validation(t));
    TRY(sara_model_base(t->ctx, &base, t->model));
    TRY(sara_objective_new(t->ctx, &t->objective, &t->model->scheduler));
    TRY(sara_trainer_set_checkpointing(t));
done:
    return status;
}

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

sara_status sara_trainer_make_optimizer(trainer *t)
{
    const sara_train_options *o = &t->options;
    sara_params *params = &t->model->denoiser->params;
    sara_budget budget = {SARA_BUDGET_THRESHOLD, o->threshold};
    sara_selection selection = {0};
    sara_trainables trainables = {.ctx = t->ctx};
    double factor;
    sara_status status;
    if (o->threshold <= 0)
        TRY(sara_budget_parse(t->ctx, &budget, o->trainable ? o->trainable : "5.8%"));
    status = t->origin.is ? sara_select_adapter(t->ctx, &selection, params, &t->origin.adapter,
                                                t->origin.threshold)
                          : sara_select(t->ctx, &selection, params, &budget);
    TRY(sara_model_tell_not_finite(t->model, status));
    TRY(sara_trainer_check_selection(t, &selection));
    t->threshold = selection.threshold;
    t->selected = selection.total;
    t->parameters = sara_params_entries(params);
    t->learning_rate = o->learning_rate;
    if (t->learning_rate <= 0)
        TRY(default_learning_rate(t));
    TRY(sara_lr_factor(t->ctx, &factor, o, t->learning_rate, 0, t->steps));
    const sara_optimizer_options options = {.beta1 = o->adam_beta1,
                                            .beta2 = o->adam_beta2,
                                            .epsilon = o->adam_epsilon,
                                            .weight_decay = o->adam_weight_decay,
                                            .max_grad_norm = o->max_grad_norm};
    const sara_adaptation_options adaptation = {.threshold = t->threshold,
                                                .lambda_rank = o->lambda_rank,
                                                .progressive_iter = t->progressive_iter,
                                                .seed = o->seed};
    TRY(sara_trainables_select(t->ctx, &trainables, &selection));
    if (t->origin.is)
        TRY(sara_trainables_start(&trainables, &t->origin.adapter, t->origin.strength));
    TRY(sara_optimizer_new(t->ctx, &t->optimizer, &trainables, &options));
    TRY(sara_adaptation_new(t->ctx, &t->adaptation, t->optimizer, &adaptation));
    sara_adapter_free(&t->origin.adapter);
done:
    sara_trainables_free(&trainables);
    sara_selection_free(t->ctx, &selection);
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
    int64_t items = sara_batches_items(t->batches), per_step = o->gradient_accumulation_steps;
    int64_t names = sara_batches_rank_names(t->batches);
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
    int64_t items = sara_batches_items(t->batches);
    int64_t samples = (int64_t)o->gradient_accumulation_steps * o->train_batch_size;
    if (o->num_train_epochs > INT64_MAX / 2 / items)
        return sara_fail(t->ctx, SARA_ERROR_USAGE, "--num_train_epochs %lld: too many",
                         (long long)o->num_train_epochs);
    t->steps = (o->num_train_epochs * items + samples - 1) / samples;
    return SARA_OK;
}

/* How many steps there are, from what was given. */
static sara_status count_steps(trainer *t)
{
    const sara_train_options *o = &t->options;
    sara_status status = SARA_OK;
    if (sara_batches_is_replay(t->batches))
        TRY(count_replayed_steps(t));
    else if (o->num_train_epochs)
        TRY(count_epochs_steps(t));
    else
        t->steps = given_steps(t) ? given_steps(t) : 5000;
    TRY(sara_trainer_check_length(t, o->num_train_epochs ? "--num_train_epochs" : "the replay",
                                  t->steps));
    t->progressive_iter = o->progressive_iter;
    if (o->progressive_iter < 0)
        t->progressive_iter = t->origin.is ? 0 : t->steps / 2;
    if (t->progressive_iter == 0)
        t->progressive_iter = -1;
    sara_trainer_move_reselection(t);
done:
    return status;
}

sara_status sara_trainer_open_device(trainer *t)
{
    const char *type = t->options.mixed_precision;
    sara_status status = SARA_OK;
    if (strcmp(type, "no") == 0)
        return SARA_OK;
    if (strcmp(type, "bf16") != 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE, "--mixed_precision %s: expected no or bf16%s",
                         type, strcmp(type, "fp16") == 0 ? ", which needs no loss scaling" : "");
    status = sara_nn_device_open(t->ctx, &t->device, "cpu-bf16");
    return status == SARA_OK ? status : sara_fail_in(t->ctx, status, "--mixed_precision bf16");
}

sara_device *sara_trainer_device(const trainer *t)
{
    return t->device ? t->device : t->model->device;
}

sara_status sara_trainer_make_buffers(trainer *t)
{
    const sara_batch *shape = sara_batches_shape(t->batches);
    size_t count = (size_t)(shape->size * shape->channels * shape->height * shape->width);
    sara_status status;
    TRY(sara_alloc(t->ctx, &t->noisy, count, sizeof(float)));
    TRY(sara_alloc(t->ctx, &t->target, count, sizeof(float)));
    TRY(sara_tape_new(t->ctx, &t->tape, sara_trainer_device(t)));
    TRY(sara_tape_reserve(t->tape, t->activations));
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
            status = sara_adaptation_check_matrix(t->adaptation, name);
        if (status != SARA_OK)
            return sara_fail_in(t->ctx, status, t->options.replay);
    }
    return status;
}

static sara_status resume(trainer *t)
{
    sara_status status = SARA_OK;
    if (t->checkpoint.folder) {
        TRY(sara_checkpoint_check_run(t->ctx, &t->checkpoint, t->identity,
                                      t->reselection_moves));
        TRY(sara_checkpoint_take(t->ctx, &t->checkpoint, t->optimizer, t->adaptation,
                                 &t->state));
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

static void setup_announce(const trainer *t)
{
    const sara_train_options *o = &t->options;
    char which[80];
    if (t->origin.is)
        sara_print(which, sizeof(which), "those of the adapter, from strength %g on",
                   t->origin.told_strength);
    else
        sara_print(which, sizeof(which), "|p| < %.6g", t->threshold);
    sara_log(t->ctx, SARA_LOG_INFO,
             "training %lld of %lld parameters (%.2f %%), %s; learning rate %.3g%s",
             (long long)t->selected, (long long)t->parameters,
             100.0 * (double)t->selected / (double)t->parameters, which, t->learning_rate,
             o->learning_rate > 0 ? "" : " (by the formula)");
    char reselect[64] = "no reselection";
    if (t->progressive_iter > 0)
        snprintf(reselect, sizeof(reselect), "reselection after step %lld",
                 (long long)t->progressive_iter);
    char repeats[64] = "";
    int64_t items = sara_batches_items(t->batches), images = sara_batches_images(t->batches);
    if (images && images != items)
        snprintf(repeats, sizeof(repeats), ", %lld with repeats", (long long)items);
    sara_log(t->ctx, SARA_LOG_INFO, "%lld steps of %lld x %d samples from %lld %s%s; %s",
             (long long)t->steps, (long long)sara_batches_shape(t->batches)->size,
             o->gradient_accumulation_steps, (long long)(images ? images : items),
             images ? "images" : "recorded micro-batches", repeats, reselect);
}

/* What the steps train on; nothing is encoded yet. */
static sara_status open_batches(trainer *t)
{
    sara_status status;
    TRY(sara_batches_open(t->ctx, &t->batches, t->model, &t->options,
                          t->objective.num_train_timesteps));
    t->flags.entries = !t->origin.is;
    if (!sara_batches_is_replay(t->batches)) {
        t->flags.size = "train_batch_size";
        t->flags.side = "resolution";
        t->flags.pixels = t->model->vae->info.vae.factor;
    }
done:
    return status;
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
    TRY(sara_trainer_check_origin(t));
    TRY(open_batches(t));
    TRY(count_steps(t));
    TRY(sara_trainer_make_optimizer(t));
    TRY(check_rank_names(t));
    TRY(sara_trainer_identify(t));
    TRY(resume(t));
    setup_announce(t);
    TRY(sara_trainer_plan_memory(t));
    TRY(sara_trainer_check_space(t));
    TRY(sara_batches_fill(t->batches));
    TRY(sara_run_log_open(&t->run, t->started_at, t->state.skipped_in_row));
    TRY(sara_trainer_make_buffers(t));
done:
    return status;
}

void sara_trainer_close(trainer *t)
{
    json_decref(t->identity);
    sara_checkpoint_clear(t->ctx, &t->checkpoint);
    sara_adapter_free(&t->origin.adapter);
    sara_metadata_list_free(&t->metadata);
    sara_trace_stop(t->ctx);
    sara_writer_abort(&t->profile);
    sara_tape_free(t->tape);
    sara_adaptation_free(t->adaptation);
    sara_optimizer_free(t->optimizer);
    sara_batches_free(t->batches);
    sara_objective_free(&t->objective);
    sara_model_free(t->model);
    sara_nn_device_close(t->device);
    sara_free(t->ctx, t->noisy);
    sara_free(t->ctx, t->target);
    if (t->run_open)
        sara_run_close(&t->run);
}
