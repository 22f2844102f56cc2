/* From --trainable to entries, ranks and widths. */
#include "train/methods/size.h"

#include <math.h>

sara_status sara_size_entries(const trainer *t, double *out, const char *automatic)
{
    const char *given = t->options.trainable;
    sara_budget budget;
    sara_status status;
    TRY(sara_budget_parse(t->ctx, &budget, given ? given : automatic));
    *out = budget.value;
    if (budget.kind == SARA_BUDGET_FRACTION)
        *out *= (double)sara_params_entries(&t->model->denoiser->params);
done:
    return status;
}

sara_status sara_size_choose(const trainer *t, int64_t *out, const sara_size_unit *unit)
{
    double entries;
    sara_status status;
    *out = unit->given ? unit->given : unit->automatic;
    if (!t->options.trainable)
        return SARA_OK;
    TRY(sara_size_entries(t, &entries, NULL));
    double nearest = round((entries - (double)unit->fixed) / (double)unit->entries);
    *out = nearest < 1 ? 1 : nearest > SARA_SIZE_HIGHEST ? SARA_SIZE_HIGHEST : (int64_t)nearest;
done:
    return status;
}
