/* From an adapter's entries on. */
#include "train/methods/selective.h"

#include "train/checkpoint.h"
#include "train/methods/methods.h"

#include <math.h>

/* *out NaN: the adapter was not selected by a threshold. */
static sara_status read_threshold(const trainer *t, double *out)
{
    const char *text = sara_adapter_metadata(&selective_of(t)->start, "sara.threshold");
    char *end = NULL;
    *out = NAN;
    if (!text)
        return SARA_OK;
    *out = sara_parse_double(text, &end);
    if (end != text && !*end && *out > 0)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_INPUT,
                     "--adapter: metadata sara.threshold is \"%.40s\", expected a number above 0",
                     text);
}

static sara_status check_threshold(const trainer *t)
{
    const sara_train_options *o = &t->options;
    if (!isnan(selective_of(t)->start_threshold) || t->method->learning_rate > 0)
        return SARA_OK;
    if (o->progressive_iter > 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--progressive_iter %lld: the adapter was not selected by a threshold "
                         "(sara.threshold is missing), so nothing can be reselected; leave it out",
                         (long long)o->progressive_iter);
    if (o->learning_rate <= 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--learning_rate is missing: the adapter was not selected by a threshold "
                         "(sara.threshold is missing), from which it would follow");
    return SARA_OK;
}

/* The file is of the run's own method; what was extracted is SaRA's. */
static sara_status check_maker(const trainer *t, const char *path)
{
    sara_adapter_source source = {0};
    sara_status status;
    TRY(sara_origin_read(t, &source, path, &sara_adapter_kind_own));
    const char *maker = sara_safetensors_metadata(source.file, "sara.method");
    if (!maker || strcmp(maker, "extract") == 0)
        maker = sara_method_sara.name;
    if (strcmp(maker, t->method->name) != 0 && source.kind->is(&source))
        status = sara_fail(t->ctx, SARA_ERROR_INPUT,
                           "%s: holds an adapter of %.40s; --method %s goes on from its own", path,
                           maker, t->method->name);
done:
    sara_adapter_source_close(&source);
    return status;
}

sara_status sara_selective_open(trainer *t)
{
    selective *s = selective_of(t);
    size_t entries = 0;
    sara_status status;
    TRY(sara_origin_open(t, &s->origin, SARA_CHECKPOINT_ADAPTER));
    if (!s->origin.is)
        goto done;
    if (!t->checkpoint.folder)
        TRY(check_maker(t, s->origin.path));
    TRY(sara_family_read_adapter(t->ctx, &s->start, s->origin.path, NULL));
    for (size_t i = 0; i < s->start.count; i++)
        entries += s->start.entries[i].count;
    if (entries == 0)
        TRY(sara_fail(t->ctx, SARA_ERROR_INPUT, "--adapter %s: holds no entries to train",
                      sara_origin_source(t)));
    TRY(read_threshold(t, &s->start_threshold));
    TRY(check_threshold(t));
done:
    return status;
}

sara_status sara_selective_check(const trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    bool resumed = t->checkpoint.folder != NULL; /* the base is compared with the run's */
    sara_status status;
    if (!selective_of(t)->origin.is)
        return SARA_OK;
    status = sara_adapter_check(t->ctx, &selective_of(t)->start, params, &t->model->base, resumed);
    return status == SARA_OK ? status : sara_fail_in(t->ctx, status, sara_origin_source(t));
}

sara_status sara_selective_start(const trainer *t, sara_selection *out)
{
    const selective *s = selective_of(t);
    const sara_params *params = &t->model->denoiser->params;
    sara_status status = sara_select_adapter(t->ctx, out, params, &s->start, s->start_threshold);
    return sara_model_tell_not_finite(t->model, status);
}

void sara_selective_describe_start(const trainer *t, sara_method_text *out)
{
    sara_print(out->entries, sizeof(out->entries), "those of the adapter, from strength %g on",
               selective_of(t)->origin.told_strength);
}
