/* The training loop: micro-batches through the denoiser, one update a step. */
#include "train/checkpoint.h"
#include "train/trainer.h"

#include "core/trace.h"

#include "train/profile.h"

#include <math.h>

/* *loss grows by the batch's. */
static sara_status one_pass(trainer *t, double *loss, const sara_batch *batch, bool record)
{
    const float *result;
    sara_var *value;
    sara_status status;
    sara_tape_record(t->tape, record);
    TRY(sara_batch_loss(t->tape, &value, t->model->denoiser, &t->objective, batch));
    TRY(sara_tape_read(t->tape, &result, value));
    *loss += *result;
    if (record && isfinite(*loss))
        TRY(sara_tape_backward(t->tape, value, 1.0f));
done:
    sara_tape_reset(t->tape);
    return status;
}

static sara_status all_passes(trainer *t, double *loss, int64_t index, bool record)
{
    sara_batch batch;
    sara_status status;
    *loss = 0;
    TRY(sara_batches_get(t->batches, &batch, index));
    for (const sara_batch *b = &batch; b; b = b->also)
        TRY(one_pass(t, loss, b, record));
done:
    return status;
}

sara_status sara_trainer_micro_batch(trainer *t, double *loss)
{
    return all_passes(t, loss, t->state.micro_batches, t->optimizer != NULL);
}

sara_status sara_trainer_gradients(trainer *t, double *loss, int64_t index)
{
    return all_passes(t, loss, index, true);
}

sara_status sara_trainer_lr_factor(const trainer *t, double *out, int64_t step, int64_t steps)
{
    if (t->method->schedule)
        t->method->schedule(t, &step, &steps);
    return sara_lr_factor(t->ctx, out, &t->options, t->learning_rate, step, steps);
}

sara_status sara_trainer_step(trainer *t, double *loss, sara_step_report *report, double *lr)
{
    int64_t step = t->optimizer->steps;
    int parts = t->options.gradient_accumulation_steps;
    double factor;
    sara_status status = SARA_OK;
    *loss = 0;
    if (t->method->turn)
        TRY(t->method->turn(t));
    for (int i = 0; i < parts; i++) {
        double part = 0;
        TRY(sara_trainer_micro_batch(t, &part));
        *loss += part / parts;
        t->state.micro_batches++;
    }
    TRY(sara_trainer_lr_factor(t, &factor, step, t->steps));
    *lr = t->learning_rate * factor;
    const sara_step_hooks hooks =
        t->method->hooks ? t->method->hooks(t) : (sara_step_hooks){0};
    TRY(sara_optimizer_step(t->optimizer, report, *lr, 1.0 / parts, isfinite(*loss), &hooks));
done:
    return status;
}

static json_t *share_json(double share)
{
    return isnan(share) ? json_null() : json_real(share);
}

/* Of --track_drift, in the step's own line. */
static sara_status add_drift(const trainer *t, json_t *line)
{
    sara_drift_shares shares;
    sara_status status = SARA_OK;
    if (!t->drift || t->optimizer->steps % t->options.track_drift != 0)
        return SARA_OK;
    TRY(sara_drift_measure(t, &shares));
    if (json_object_set_new(line, "small_still_small", share_json(shares.small_still_small)) |
        json_object_set_new(line, "large_now_small", share_json(shares.large_now_small)))
        status = sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: a line of the log");
done:
    return status;
}

static sara_status log_step(trainer *t, double loss, const sara_step_report *report, double lr,
                            double seconds)
{
    json_int_t step = t->optimizer->steps;
    json_t *line = NULL;
    sara_status status = SARA_OK;
    if (report->reselected)
        TRY(sara_run_log(&t->run, json_pack("{s:s,s:I,s:I}", "event", "reselect", "before_step",
                                            step, "active", (json_int_t)report->active)));
    line = json_pack("{s:I,s:f,s:f,s:o*,s:f,s:f}", "step", step, "loss", loss, "grad_norm",
                     report->grad_norm, "rank_loss",
                     t->method->time_term ? json_real(report->term_loss) : NULL, "lr", lr,
                     "seconds", seconds);
    TRY(add_drift(t, line));
    TRY(sara_run_log(&t->run, json_incref(line)));
    sara_run_events_scalars(&t->run, line);
done:
    json_decref(line);
    return status;
}

/* A step that was not finite changed nothing; ten in a row and the run is lost. */
static sara_status note_skip(trainer *t)
{
    int64_t step = t->optimizer->steps;
    sara_status status;
    t->state.skipped++;
    t->state.skipped_in_row++;
    TRY(sara_run_log(&t->run,
                     json_pack("{s:s,s:I}", "event", "skipped", "after_step", (json_int_t)step)));
    sara_log(t->ctx, SARA_LOG_WARNING,
             "after step %lld: loss or gradient is not finite; the step is skipped",
             (long long)step);
    if (t->state.skipped_in_row >= SARA_SKIPS_IN_ROW)
        status = sara_fail(t->ctx, SARA_ERROR_DIVERGED,
                           "diverged: %d steps in a row were not finite after step %lld; try a "
                           "smaller --learning_rate",
                           SARA_SKIPS_IN_ROW, (long long)step);
done:
    return status;
}

static void note_loss(trainer *t, double loss)
{
    if (t->losses < SARA_LOSS_WINDOW)
        t->first[t->losses] = loss;
    t->last[t->losses % SARA_LOSS_WINDOW] = loss;
    t->losses++;
}

static void trainer_report_progress(const trainer *t, double loss, double lr)
{
    int64_t step = t->optimizer->steps;
    double rate = (double)(step - t->started_at) / (sara_clock() - t->started + 1e-9);
    sara_progress progress = {
        "train", step, t->steps, loss, lr, rate, rate > 0 ? (double)(t->steps - step) / rate : 0};
    sara_report_progress(t->ctx, &progress);
}

static sara_status save_checkpoint(trainer *t)
{
    sara_status status = SARA_OK;
    if (t->saved_at == t->state.micro_batches)
        return SARA_OK; /* the last step was just saved */
    TRY(sara_checkpoint_save(t));
    t->saved_at = t->state.micro_batches;
done:
    return status;
}

/* A picture that cannot be drawn or written, for want of memory too, is no reason to lose what was
 * trained. */
static sara_status validate(trainer *t, int64_t step)
{
    sara_tape_trim(t->tape); /* drawing needs memory of its own */
    sara_status status = sara_run_validate(&t->run, t->model, &t->options, step);
    sara_model_give_back(t->model, sara_trainer_stages(t));
    if (status == SARA_INTERRUPTED)
        return status;
    if (status != SARA_OK)
        sara_log(t->ctx, SARA_LOG_WARNING, "validation after step %lld: %s", (long long)step,
                 sara_context_error(t->ctx));
    return step < t->steps ? sara_tape_reserve(t->tape, t->activations) : SARA_OK;
}

/* The trace of the steps so far, as wanted by --profile; nothing is traced any more. One that
 * cannot be written is no reason to lose what was trained. */
static void save_profile(trainer *t)
{
    if (t->profile && sara_profile_save(t->ctx, &t->profile) != SARA_OK)
        sara_log(t->ctx, SARA_LOG_WARNING, "--profile: %s", sara_context_error(t->ctx));
    sara_writer_abort(&t->profile);
    sara_trace_stop(t->ctx);
}

/* One step with what belongs to it. */
static sara_status trainer_advance(trainer *t)
{
    sara_step_report report = {0};
    double loss, lr, begun = sara_clock();
    sara_status status;
    TRY(sara_trainer_step(t, &loss, &report, &lr));
    if (report.skipped)
        return note_skip(t);
    t->state.skipped_in_row = 0;
    note_loss(t, loss);
    TRY(log_step(t, loss, &report, lr, sara_clock() - begun));
    trainer_report_progress(t, loss, lr);
    int64_t step = t->optimizer->steps;
    if (step % t->options.checkpointing_steps == 0)
        TRY(save_checkpoint(t));
    if (t->options.validation_prompt_count &&
        (step % t->options.validation_steps == 0 || step == t->steps))
        TRY(validate(t, step));
done:
    return status;
}

/* Skipped steps use a replay up before the last step. */
static bool is_done(const trainer *t)
{
    bool used_up =
        t->source->is_replay &&
        t->state.micro_batches + t->options.gradient_accumulation_steps > t->source->items;
    return t->optimizer->steps >= t->steps || used_up;
}

static sara_status stop_saved(trainer *t)
{
    int64_t step = t->optimizer->steps;
    sara_status status;
    TRY(save_checkpoint(t));
    status = sara_fail(t->ctx, SARA_INTERRUPTED,
                       "interrupted after step %lld of %lld and saved; continue with "
                       "--resume_from_checkpoint latest",
                       (long long)step, (long long)t->steps);
done:
    return status;
}

static sara_status finish(trainer *t)
{
    sara_status status = SARA_OK;
    if (t->optimizer->steps > t->started_at)
        TRY(save_checkpoint(t));
    TRY(t->method->finish(t));
    const sara_run_facts facts = {t->identity, t->options.validation_prompts,
                                  t->options.validation_prompt_count,
                                  sara_method_result(t->method, t->model->family, &t->options)};
    TRY(sara_run_report(&t->run, &facts));
done:
    return status;
}

static double mean(const double *values, int64_t count)
{
    double sum = 0;
    int64_t used = count < SARA_LOSS_WINDOW ? count : SARA_LOSS_WINDOW;
    for (int64_t i = 0; i < used; i++)
        sum += values[i];
    return used ? sum / (double)used : NAN;
}

static void fill_result(sara_train_result *result, const trainer *t)
{
    *result = (sara_train_result){.steps = t->optimizer->steps,
                                  .skipped = t->state.skipped,
                                  .parameters = t->parameters,
                                  .selected = t->selected,
                                  .threshold = t->threshold,
                                  .learning_rate = t->learning_rate,
                                  .first_loss = mean(t->first, t->losses),
                                  .last_loss = mean(t->last, t->losses)};
    snprintf(result->result, sizeof(result->result), "%s",
             sara_method_result(t->method, t->model->family, &t->options));
}

sara_status sara_train_sized(sara_context *ctx, sara_train_result *result, size_t result_size,
                             const sara_train_options *options)
{
    trainer t = {.ctx = ctx};
    sara_train_result full;
    sara_status status;
    TRY(sara_trainer_open(&t, options));
    if (is_done(&t))
        sara_log(ctx, SARA_LOG_INFO, "%s: the run is finished (%lld steps); nothing is left to do",
                 t.run.folder, (long long)t.started_at);
    if (t.profile)
        TRY(sara_trace_start(ctx));
    t.started = sara_clock();
    while (!is_done(&t)) {
        if (sara_interrupted(ctx)) {
            status = stop_saved(&t);
            goto done;
        }
        status = trainer_advance(&t);
        if (status == SARA_INTERRUPTED && t.optimizer) /* while drawing; the step itself is done */
            status = stop_saved(&t);
        if (status != SARA_OK)
            goto done;
        if (++t.profiled == SARA_PROFILED)
            save_profile(&t);
    }
    save_profile(&t);
    TRY(finish(&t));
    fill_result(&full, &t);
    sara_sized_write(result, result_size, &full, sizeof(full));
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    sara_trainer_close(&t);
    return status;
}
