/* Which flags would make a run fit that does not. */
#include "train/memory.h"

#include <math.h>

/* How often the entries are halved before they are given up. */
#define HALVINGS 12

typedef struct advice {
    const trainer *t;
    sara_memory_setting now;
    size_t least;   /* of all that was tried */
    char text[600]; /* " --flag N (size) or --flag N (size)" */
    char least_with[240];
} advice;

/* Percent of all parameters, two digits, rounded down: what --trainable is told. */
static double percent_of(const trainer *t, double share)
{
    double percent = 100.0 * share * (double)t->selected / (double)t->parameters, unit = 1;
    while (percent < 10 * unit)
        unit /= 10;
    while (percent >= 100 * unit)
        unit *= 10;
    return floor(percent / unit + 1e-9) * unit;
}

/* " --flag N --flag N" that lead from the run's setting to s. */
static void flags_to(const advice *a, char *out, size_t size, const sara_memory_setting *s)
{
    const trainer *t = a->t;
    int levels = t->model->denoiser->info.denoiser.levels;
    size_t used = 0;
    *out = '\0';
    if (s->narrow != a->now.narrow)
        used += (size_t)snprintf(out + used, size - used, " --weight_dtype bf16");
    if (s->offload)
        used += (size_t)snprintf(out + used, size - used, " --disk_offload%s",
                                 t->options.gradient_checkpointing_levels
                                     ? " instead of --gradient_checkpointing_levels"
                                     : "");
    else if (s->levels == levels && s->levels != a->now.levels)
        used += (size_t)snprintf(out + used, size - used, " --gradient_checkpointing");
    else if (s->levels != a->now.levels)
        used += (size_t)snprintf(out + used, size - used, " --gradient_checkpointing_levels %d",
                                 s->levels);
    if (s->size != a->now.size)
        used += (size_t)snprintf(out + used, size - used, " --%s %d", t->flags.size, (int)s->size);
    if (s->side != a->now.side)
        used += (size_t)snprintf(out + used, size - used, " --%s %d", t->flags.side,
                                 (int)s->side * t->flags.pixels);
    if (s->share != a->now.share)
        sara_print(out + used, size - used, " --trainable %g%%%s", percent_of(t, s->share),
                   t->options.threshold > 0 ? " instead of --threshold" : "");
}

/* Whether the run fits, and with what peak. */
static sara_status probe(advice *a, bool *fits, size_t *peak, const sara_memory_setting *s)
{
    uint64_t limit = sara_memory_limit(a->t->ctx);
    sara_memory_plan p;
    sara_status status;
    TRY(sara_memory_make_plan(a->t, &p, s));
    *peak = p.peak;
    *fits = p.peak <= limit - limit / SARA_MEMORY_MARGIN;
    if (p.peak < a->least) {
        a->least = p.peak;
        flags_to(a, a->least_with, sizeof(a->least_with), s);
    }
done:
    return status;
}

/* Adds the flags that lead to s if the run fits with them; *fits: whether it does. */
static sara_status suggest(advice *a, bool *fits, const sara_memory_setting *s)
{
    size_t used = strlen(a->text), peak;
    sara_bytes_text bytes;
    char flags[240];
    sara_status status;
    TRY(probe(a, fits, &peak, s));
    flags_to(a, flags, sizeof(flags), s);
    if (*fits)
        snprintf(a->text + used, sizeof(a->text) - used, "%s%s (%s)", used ? " or" : "", flags,
                 sara_bytes_format(&bytes, peak));
done:
    return status;
}

/* A run that goes on keeps what decides its result. */
static bool is_resumed(const advice *a)
{
    return a->t->options.resume_from_checkpoint != NULL;
}

/* The largest batch below the setting's with which the run fits, by halving. The file of a replay
 * says itself how large it is. */
static sara_status suggest_size(advice *a, bool *fits, sara_memory_setting s)
{
    int64_t too_large = s.size;
    size_t peak;
    sara_status status = SARA_OK;
    *fits = false;
    if (is_resumed(a) || !a->t->flags.size)
        return SARA_OK;
    for (int64_t fitting = 0; too_large - fitting > 1;) {
        bool fit;
        s.size = fitting + (too_large - fitting) / 2;
        TRY(probe(a, &fit, &peak, &s));
        if (fit)
            fitting = s.size;
        else
            too_large = s.size;
    }
    s.size = too_large - 1;
    if (s.size > 0)
        TRY(suggest(a, fits, &s));
done:
    return status;
}

/* The largest of 3/4, 1/2, 3/8, ... of the side with which the run fits. */
static sara_status suggest_side(advice *a, bool *fits, sara_memory_setting s)
{
    const int64_t factor = a->t->model->denoiser->info.denoiser.factor, whole = s.side;
    sara_status status = SARA_OK;
    *fits = false;
    if (is_resumed(a) || !a->t->flags.side)
        return SARA_OK;
    for (int quarters = 3; !*fits; quarters--) {
        s.side = whole * quarters / 4 / factor * factor;
        if (quarters == 1 || s.side < factor)
            break;
        TRY(suggest(a, fits, &s));
    }
    for (s.side = whole / 4 / factor * factor; !*fits && s.side >= factor;
         s.side = s.side / 2 / factor * factor)
        TRY(suggest(a, fits, &s));
done:
    return status;
}

/* The most of half, a quarter, ... of the entries with which the run fits. */
static sara_status suggest_share(advice *a, bool *fits, sara_memory_setting s)
{
    const trainer *t = a->t;
    sara_status status = SARA_OK;
    *fits = false;
    if (is_resumed(a) || !t->flags.entries || !t->optimizer)
        return SARA_OK;
    for (int i = 1; i <= HALVINGS && !*fits; i++) {
        double share = 1.0 / (double)(1 << i);
        s.share = percent_of(t, share) / 100 * (double)t->parameters / (double)t->selected;
        if (s.share * (double)t->selected < 1)
            break;
        TRY(suggest(a, fits, &s));
    }
done:
    return status;
}

/* The flags of which each alone would make the run fit, as few levels and as large a batch as do,
 * and if none does those of the others together; s comes to have them. */
static sara_status suggest_cheap(advice *a, sara_memory_setting *s)
{
    const int levels = a->t->model->denoiser->info.denoiser.levels;
    const bool wide = !is_resumed(a) && sara_memory_narrow_helps(a->t, a->t->selected);
    bool fits = false;
    sara_status status = SARA_OK;
    while (!fits && a->t->optimizer && ++s->levels <= levels)
        TRY(suggest(a, &fits, s));
    *s = a->now;
    s->narrow = wide;
    if (wide)
        TRY(suggest(a, &fits, s));
    TRY(suggest_size(a, &fits, a->now));
    s->levels = a->t->optimizer ? levels : s->levels;
    if (!*a->text)
        TRY(suggest(a, &fits, s));
done:
    return status;
}

/* The weights read from the disk at each use, alone or with what *s has. */
static sara_status suggest_offload(advice *a, sara_memory_setting *s)
{
    sara_memory_setting alone = a->now;
    bool fits;
    sara_status status = SARA_OK;
    if (!a->t->flags.offload)
        return SARA_OK;
    alone.offload = s->offload = true;
    alone.levels = s->levels = a->t->model->denoiser->info.denoiser.levels;
    TRY(suggest(a, &fits, &alone));
    if (!fits && s->narrow)
        TRY(suggest(a, &fits, s));
done:
    return status;
}

/* What is cheap first; then, as long as nothing fits, the weights on the disk or a smaller batch,
 * then the side or the entries too. */
static sara_status suggest_flags(advice *a)
{
    const int64_t factor = a->t->model->denoiser->info.denoiser.factor;
    sara_memory_setting s = a->now, there;
    bool fits;
    sara_status status;
    TRY(suggest_cheap(a, &s));
    there = s;
    if (!*a->text) {
        TRY(suggest_offload(a, &s));
        TRY(suggest_size(a, &fits, there));
    }
    if (!*a->text && s.offload)
        TRY(suggest_size(a, &fits, s));
    if (!*a->text) {
        TRY(suggest_side(a, &fits, a->now));
        TRY(suggest_share(a, &fits, a->now));
    }
    s.size = a->t->flags.size && !is_resumed(a) ? 1 : s.size;
    if (!*a->text) {
        TRY(suggest_side(a, &fits, s));
        TRY(suggest_share(a, &fits, s));
    }
    s.side = a->t->flags.side && !is_resumed(a) ? factor : s.side;
    if (!*a->text)
        TRY(suggest_share(a, &fits, s));
done:
    return status;
}

sara_status sara_memory_refuse(const trainer *t, const sara_memory_setting *now, size_t need)
{
    advice a = {.t = t, .now = *now, .least = need};
    uint64_t limit = sara_memory_limit(t->ctx);
    sara_bytes_text needed, there, least;
    sara_status status;
    TRY(suggest_flags(&a));
    sara_bytes_format(&needed, need);
    sara_bytes_format(&there, limit);
    if (*a.text)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY,
                         "training needs %s of memory, %s are available; it fits with%s",
                         needed.text, there.text, a.text);
    status = sara_fail(
        t->ctx, SARA_ERROR_MEMORY,
        "training needs %s of memory, %s are available; no flags make it fit%s%s%s%s", needed.text,
        there.text, *a.least_with ? ": with" : "", a.least_with, *a.least_with ? " it needs " : "",
        *a.least_with ? sara_bytes_format(&least, a.least) : "");
done:
    return status;
}
