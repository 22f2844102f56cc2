/* A run that goes on to another length than it had. */
#include "train/method.h"
#include "train/trainer.h"

int64_t sara_trainer_past_steps(const trainer *t)
{
    return json_integer_value(json_object_get(t->checkpoint.manifest, "steps"));
}

int64_t sara_trainer_past_length(const trainer *t)
{
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    return json_integer_value(json_object_get(run, "max_train_steps"));
}

sara_status sara_trainer_check_length(const trainer *t, const char *name, int64_t length)
{
    int64_t done = sara_trainer_past_steps(t);
    if (length >= done)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_USAGE,
                     "%s: %lld steps are done, %s gives %lld; give at least %lld or go on from an "
                     "earlier checkpoint",
                     t->checkpoint.folder, (long long)done, name, (long long)length,
                     (long long)done);
}

sara_status sara_trainer_tell_length(const trainer *t)
{
    const int64_t done = sara_trainer_past_steps(t), length = sara_trainer_past_length(t);
    double now, before;
    sara_status status = SARA_OK;
    if (!t->checkpoint.folder || t->steps == length)
        return SARA_OK;
    sara_log(t->ctx, SARA_LOG_INFO, "the run has now %lld steps instead of %lld",
             (long long)t->steps, (long long)length);
    if (sara_lr_has_length(&t->options) && done < t->steps) {
        TRY(sara_trainer_lr_factor(t, &now, done, t->steps));
        TRY(sara_trainer_lr_factor(t, &before, done, length));
        sara_log(t->ctx, SARA_LOG_INFO,
                 "lr_scheduler %s is stretched to the new length: learning rate %.3g after step "
                 "%lld, where it was %.3g",
                 t->options.lr_scheduler, t->learning_rate * now, (long long)done,
                 t->learning_rate * before);
    }
    if (t->method->tell_length)
        t->method->tell_length(t);
done:
    return status;
}
