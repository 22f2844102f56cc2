/* A run that goes on to another length than it had. */
#include "train/trainer.h"

/* What the checkpoint says of the run; a length of 0: there is no checkpoint. */
typedef struct past {
    int64_t done, length, reselects_at;
    bool automatic; /* the reselection came from the length */
} past;

static int64_t half_of(int64_t length)
{
    return length / 2 > 0 ? length / 2 : -1;
}

static past past_of(const trainer *t)
{
    const json_t *manifest = t->checkpoint.manifest, *run = json_object_get(manifest, "run");
    const json_t *automatic = json_object_get(run, SARA_RESELECTION_KEY);
    past p = {json_integer_value(json_object_get(manifest, "steps")),
              json_integer_value(json_object_get(run, "max_train_steps")),
              json_integer_value(json_object_get(run, "progressive_iter")), false};
    /* Earlier versions have not kept it. */
    p.automatic = automatic ? json_is_true(automatic) : p.reselects_at == half_of(p.length);
    return p;
}

sara_status sara_trainer_check_length(const trainer *t, const char *name, int64_t length)
{
    const past p = past_of(t);
    if (!t->checkpoint.folder || length >= p.done)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_USAGE,
                     "%s: %lld steps are done, %s gives %lld; give at least %lld or go on from an "
                     "earlier checkpoint",
                     t->checkpoint.folder, (long long)p.done, name, (long long)length,
                     (long long)p.done);
}

int64_t sara_trainer_past_length(const trainer *t)
{
    return t->checkpoint.folder ? past_of(t).length : 0;
}

/* One that was done stays where it was; one not yet due comes where the new length has it, or at
 * once. */
void sara_trainer_move_reselection(trainer *t)
{
    const past p = past_of(t);
    bool automatic = t->options.progressive_iter < 0 && !t->origin.is;
    t->reselection_moves = t->checkpoint.folder && automatic && p.automatic;
    if (!t->reselection_moves || t->progressive_iter == p.reselects_at)
        return;
    if (p.reselects_at >= 0 && p.done > p.reselects_at)
        t->progressive_iter = p.reselects_at;
    else if (t->progressive_iter >= 0 && t->progressive_iter < p.done)
        t->progressive_iter = p.done;
}

static void tell_reselection(const trainer *t, const past *p)
{
    if (p->reselects_at >= 0 && p->done > p->reselects_at)
        sara_log(t->ctx, SARA_LOG_INFO,
                 "the reselection after step %lld was done and is not done again",
                 (long long)p->reselects_at);
    else if (t->progressive_iter != p->reselects_at && t->progressive_iter >= 0)
        sara_log(t->ctx, SARA_LOG_INFO, "the reselection moves with the length: after step %lld",
                 (long long)t->progressive_iter);
}

sara_status sara_trainer_tell_length(const trainer *t)
{
    const past p = past_of(t);
    double now, before;
    sara_status status = SARA_OK;
    if (!t->checkpoint.folder || t->steps == p.length)
        return SARA_OK;
    sara_log(t->ctx, SARA_LOG_INFO, "the run has now %lld steps instead of %lld",
             (long long)t->steps, (long long)p.length);
    if (sara_lr_has_length(&t->options) && p.done < t->steps) {
        TRY(sara_lr_factor(t->ctx, &now, &t->options, t->learning_rate, p.done, t->steps));
        TRY(sara_lr_factor(t->ctx, &before, &t->options, t->learning_rate, p.done, p.length));
        sara_log(t->ctx, SARA_LOG_INFO,
                 "lr_scheduler %s is stretched to the new length: learning rate %.3g after step "
                 "%lld, where it was %.3g",
                 t->options.lr_scheduler, t->learning_rate * now, (long long)p.done,
                 t->learning_rate * before);
    }
    tell_reselection(t, &p);
done:
    return status;
}
