/* A run that starts from an adapter: from which file, and at which strength. */
#include "train/methods/origin.h"

/* Of a folder the weights' in it. */
static sara_status hash_adapter(sara_context *ctx, char sha256[65], const char *path)
{
    sara_adapter_source source = {0};
    sara_status status;
    if (!sara_path_is_directory(path))
        return sara_sha256_file(ctx, sha256, path);
    TRY(sara_adapter_source_open(ctx, &source, path));
    TRY(sara_sha256_file(ctx, sha256, sara_safetensors_path(source.file)));
done:
    sara_adapter_source_close(&source);
    return status;
}

/* Of a run that goes on the checkpoint has everything; the file need not be there any more. */
static sara_status take_from_checkpoint(const trainer *t, sara_origin *out, const char *file,
                                        const json_t *run)
{
    out->strength = 1;
    out->told_strength = json_number_value(json_object_get(run, "adapter_strength"));
    snprintf(out->sha256, sizeof(out->sha256), "%s",
             json_string_value(json_object_get(run, "adapter_sha256")));
    return sara_path_join(t->ctx, &out->path, t->checkpoint.folder, file);
}

/* The option, where it is given again, names the same start. */
static sara_status compare_option(const trainer *t, const sara_origin *origin)
{
    char *path = NULL, sha256[65];
    double strength;
    sara_status status = SARA_OK;
    if (!t->options.adapter)
        return SARA_OK;
    TRY(sara_adapter_split(t->ctx, &path, &strength, t->options.adapter));
    if (strength != origin->told_strength)
        TRY(sara_fail(t->ctx, SARA_ERROR_USAGE,
                      "%s: the run began with its adapter at strength %g, now it is %g",
                      t->checkpoint.folder, origin->told_strength, strength));
    if (!sara_path_exists(path))
        goto done;
    TRY(hash_adapter(t->ctx, sha256, path));
    if (strcmp(sha256, origin->sha256) != 0)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE,
                           "%s: the run began with the adapter of SHA-256 %.12s..., that of %s is "
                           "%.12s...",
                           t->checkpoint.folder, origin->sha256, path, sha256);
done:
    sara_free(t->ctx, path);
    return status;
}

static sara_status open_checkpoints_origin(const trainer *t, sara_origin *out, const char *file)
{
    const sara_train_options *o = &t->options;
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    sara_status status;
    if (!json_is_string(json_object_get(run, "adapter_sha256")))
        return o->adapter ? sara_fail(t->ctx, SARA_ERROR_USAGE,
                                      "%s: the run began without an adapter, now it is --adapter "
                                      "%s; start a new run in another --output_dir",
                                      t->checkpoint.folder, o->adapter)
                          : SARA_OK;
    TRY(sara_train_options_check_beside(t->ctx, o, t->checkpoint.folder));
    out->is = true;
    TRY(take_from_checkpoint(t, out, file, run));
    TRY(compare_option(t, out));
done:
    return status;
}

sara_status sara_origin_open(const trainer *t, sara_origin *out, const char *file)
{
    sara_status status;
    if (t->checkpoint.folder)
        return open_checkpoints_origin(t, out, file);
    if (!t->options.adapter)
        return SARA_OK;
    TRY(sara_adapter_split(t->ctx, &out->path, &out->strength, t->options.adapter));
    out->is = true;
    out->told_strength = out->strength;
    TRY(hash_adapter(t->ctx, out->sha256, out->path));
done:
    return status;
}

const char *sara_origin_source(const trainer *t)
{
    return t->checkpoint.folder ? t->checkpoint.folder : t->options.adapter;
}

sara_status sara_origin_resolve(const trainer *t, const sara_origin *origin, json_t *run)
{
    static const char *const of_the_file[] = {"rank", "lora_alpha", "lora_targets", "ltsft_steps"};
    json_t *strength = origin->is ? json_real(origin->told_strength) : NULL;
    for (size_t i = 0; origin->is && i < sizeof(of_the_file) / sizeof(*of_the_file); i++)
        json_object_del(run, of_the_file[i]);
    if (origin->is && json_object_set_new(run, "adapter_sha256", json_string(origin->sha256)) |
                          json_object_set_new(run, "adapter_strength", strength))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    return SARA_OK;
}

void sara_origin_close(const trainer *t, sara_origin *origin)
{
    sara_free(t->ctx, origin->path);
    origin->path = NULL;
}

sara_status sara_origin_read(const trainer *t, sara_adapter_source *out, const char *path,
                             const sara_adapter_kind *kind)
{
    const char *method;
    sara_status status;
    TRY(sara_adapter_source_open(t->ctx, out, path));
    method = sara_safetensors_metadata(out->file, "sara.method");
    if (out->kind != kind)
        status = sara_fail(t->ctx, SARA_ERROR_INPUT,
                           "%s: holds %s%.40s; --method %s goes on from %s files", path,
                           out->kind->is(out) ? "an adapter of " : "no adapter that is known",
                           !out->kind->is(out) ? ""
                           : method            ? method
                                               : out->kind->name,
                           t->method->name, kind->name);
done:
    return status;
}
