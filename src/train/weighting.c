#include "train/trainer.h"

static const char *const weighting_options[] = {
    "weighting_scheme", "logit_mean", "logit_std", "mode_scale", "precondition_outputs", NULL};

static sara_status refuse_weighting(const trainer *t)
{
    sara_status status = SARA_OK;
    for (const char *const *name = weighting_options; *name && status == SARA_OK; name++) {
        char *value = NULL;
        TRY(sara_train_option_given(t->ctx, &value, &t->options, *name));
        if (value)
            status =
                sara_fail(t->ctx, SARA_ERROR_USAGE,
                          "--%s %s: goes with families of rectified flow, as SD3; %s is of none",
                          *name, value, t->model->path);
        sara_free(t->ctx, value);
    }
done:
    return status;
}

sara_status sara_trainer_set_weighting(trainer *t)
{
    const sara_train_options *o = &t->options;
    sara_weighting weighting = {.logit_mean = o->logit_mean,
                                .logit_std = o->logit_std,
                                .mode_scale = o->mode_scale,
                                .precondition_outputs = o->precondition_outputs != 0};
    sara_status status = SARA_OK;
    if (!t->objective.sigmas)
        return refuse_weighting(t);
    if (o->weighting_scheme)
        TRY(sara_weighting_parse(t->ctx, &weighting.scheme, o->weighting_scheme,
                                 "--weighting_scheme"));
    t->objective.weighting = weighting;
done:
    return status;
}

sara_status sara_trainer_keep_weighting(const trainer *t, json_t *options)
{
    const sara_weighting_scheme scheme = t->objective.weighting.scheme;
    const bool flow = t->objective.sigmas != NULL;
    for (const char *const *name = weighting_options; *name && !flow; name++)
        json_object_del(options, *name);
    if (scheme != SARA_WEIGHTING_LOGIT_NORMAL) {
        json_object_del(options, "logit_mean");
        json_object_del(options, "logit_std");
    }
    if (scheme != SARA_WEIGHTING_MODE)
        json_object_del(options, "mode_scale");
    if (flow && json_object_set_new(options, "weighting_scheme",
                                    json_string(sara_weighting_name(scheme))) != 0)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}
