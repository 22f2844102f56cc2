/* A run that starts from an adapter: what it trains and from which values. */
#include "train/methods/sara.h"

#include <math.h>

static sara_origin *origin_of(const trainer *t)
{
    return &selective_of(t)->origin;
}

/* Of a run that goes on the checkpoint has everything; the file need not be there any more. */
static sara_status take_from_checkpoint(trainer *t, const json_t *sha256, const json_t *strength)
{
    char *path = NULL;
    sara_status status;
    origin_of(t)->strength = 1;
    origin_of(t)->told_strength = json_number_value(strength);
    snprintf(origin_of(t)->sha256, sizeof(origin_of(t)->sha256), "%s",
             json_string_value(sha256));
    TRY(sara_path_join(t->ctx, &path, t->checkpoint.folder, "adapter.safetensors"));
    TRY(sara_family_read_adapter(t->ctx, &origin_of(t)->adapter, path, NULL));
done:
    sara_free(t->ctx, path);
    return status;
}

/* The option, where it is given again, names the same start. */
static sara_status compare_option(const trainer *t)
{
    char *path = NULL, sha256[65];
    double strength;
    sara_status status = SARA_OK;
    if (!t->options.adapter)
        return SARA_OK;
    TRY(sara_adapter_split(t->ctx, &path, &strength, t->options.adapter));
    if (strength != origin_of(t)->told_strength)
        TRY(sara_fail(t->ctx, SARA_ERROR_USAGE,
                      "%s: the run began with its adapter at strength %g, now it is %g",
                      t->checkpoint.folder, origin_of(t)->told_strength, strength));
    if (!sara_path_exists(path))
        goto done;
    TRY(sara_sha256_file(t->ctx, sha256, path));
    if (strcmp(sha256, origin_of(t)->sha256) != 0)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE,
                           "%s: the run began with the adapter of SHA-256 %.12s..., that of %s is "
                           "%.12s...",
                           t->checkpoint.folder, origin_of(t)->sha256, path, sha256);
done:
    sara_free(t->ctx, path);
    return status;
}

static sara_status open_checkpoints_origin(trainer *t)
{
    const sara_train_options *o = &t->options;
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    const json_t *sha256 = json_object_get(run, "adapter_sha256");
    sara_status status;
    if (!json_is_string(sha256))
        return o->adapter ? sara_fail(t->ctx, SARA_ERROR_USAGE,
                                      "%s: the run began without an adapter, now it is --adapter "
                                      "%s; start a new run in another --output_dir",
                                      t->checkpoint.folder, o->adapter)
                          : SARA_OK;
    if (o->trainable || o->threshold > 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "%s: the run trains the entries of the adapter that it began with; leave "
                         "--%s out",
                         t->checkpoint.folder, o->trainable ? "trainable" : "threshold");
    origin_of(t)->is = true;
    TRY(take_from_checkpoint(t, sha256, json_object_get(run, "adapter_strength")));
    TRY(compare_option(t));
done:
    return status;
}

static sara_status open_option(trainer *t)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_adapter_split(t->ctx, &path, &origin_of(t)->strength, t->options.adapter));
    origin_of(t)->is = true;
    origin_of(t)->told_strength = origin_of(t)->strength;
    TRY(sara_family_read_adapter(t->ctx, &origin_of(t)->adapter, path, NULL));
    TRY(sara_sha256_file(t->ctx, origin_of(t)->sha256, path));
done:
    sara_free(t->ctx, path);
    return status;
}

/* *out NaN: the adapter was not selected by a threshold. */
static sara_status read_threshold(const trainer *t, double *out)
{
    const char *text = sara_adapter_metadata(&origin_of(t)->adapter, "sara.threshold");
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
    if (!isnan(origin_of(t)->threshold))
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

sara_status sara_origin_open(trainer *t)
{
    size_t entries = 0;
    sara_status status = SARA_OK;
    if (t->checkpoint.folder)
        TRY(open_checkpoints_origin(t));
    else if (t->options.adapter)
        TRY(open_option(t));
    if (!origin_of(t)->is)
        goto done;
    for (size_t i = 0; i < origin_of(t)->adapter.count; i++)
        entries += origin_of(t)->adapter.entries[i].count;
    if (entries == 0)
        TRY(sara_fail(t->ctx, SARA_ERROR_INPUT, "--adapter %s: holds no entries to train",
                      t->options.adapter ? t->options.adapter : t->checkpoint.folder));
    TRY(read_threshold(t, &origin_of(t)->threshold));
    TRY(check_threshold(t));
done:
    return status;
}

sara_status sara_origin_check(const trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    bool resumed = t->checkpoint.folder != NULL; /* the base is compared with the run's */
    sara_status status;
    if (!origin_of(t)->is)
        return SARA_OK;
    status =
        sara_adapter_check(t->ctx, &origin_of(t)->adapter, params, &t->model->base, resumed);
    if (status == SARA_OK)
        return SARA_OK;
    return sara_fail_in(t->ctx, status, resumed ? t->checkpoint.folder : t->options.adapter);
}
