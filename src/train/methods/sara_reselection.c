/* When SaRA reselects, also in a run that goes on to another length than it had. */
#include "train/methods/sara.h"

/* What the checkpoint says of it. */
typedef struct past {
    int64_t done, reselects_at;
    bool automatic; /* it came from the length */
} past;

static int64_t half_of(int64_t length)
{
    return length / 2 > 0 ? length / 2 : -1;
}

static past past_of(const trainer *t)
{
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    const json_t *automatic = json_object_get(run, SARA_RESELECTION_KEY);
    past p = {.done = sara_trainer_past_steps(t),
              .reselects_at = json_integer_value(json_object_get(run, "progressive_iter"))};
    /* Earlier versions have not kept it. */
    p.automatic = automatic ? json_is_true(automatic)
                            : p.reselects_at == half_of(sara_trainer_past_length(t));
    return p;
}

/* One that was done stays where it was; one not yet due comes where the new length has it, or at
 * once. */
static void move_reselection(trainer *t)
{
    const past p = past_of(t);
    selective *s = selective_of(t);
    bool automatic = t->options.progressive_iter < 0 && !s->origin.is && sara_mask_is_smallest(t);
    s->reselection_moves = t->checkpoint.folder && automatic && p.automatic;
    if (!s->reselection_moves || s->progressive_iter == p.reselects_at)
        return;
    if (p.reselects_at >= 0 && p.done > p.reselects_at)
        s->progressive_iter = p.reselects_at;
    else if (s->progressive_iter >= 0 && s->progressive_iter < p.done)
        s->progressive_iter = p.done;
}

void sara_reselection_place(trainer *t)
{
    selective *s = selective_of(t);
    s->progressive_iter = t->options.progressive_iter;
    if (s->progressive_iter < 0)
        s->progressive_iter = s->origin.is || !sara_mask_is_smallest(t) ? 0 : t->steps / 2;
    if (s->progressive_iter == 0)
        s->progressive_iter = -1;
    move_reselection(t);
}

void sara_reselection_tell(const trainer *t)
{
    const past p = past_of(t);
    int64_t now = selective_of(t)->progressive_iter;
    if (p.reselects_at >= 0 && p.done > p.reselects_at)
        sara_log(t->ctx, SARA_LOG_INFO,
                 "the reselection after step %lld was done and is not done again",
                 (long long)p.reselects_at);
    else if (now != p.reselects_at && now >= 0)
        sara_log(t->ctx, SARA_LOG_INFO, "the reselection moves with the length: after step %lld",
                 (long long)now);
}

const char *const *sara_reselection_changing(const trainer *t)
{
    static const char *const keys[] = {SARA_RESELECTION_KEY, "progressive_iter", NULL};
    static const char *const fixed[] = {SARA_RESELECTION_KEY, NULL};
    return selective_of(t)->reselection_moves ? keys : fixed;
}
