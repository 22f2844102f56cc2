/* Writing a model: a diffusers folder, or one file where the name ends in .safetensors. */
#include "pipeline/metadata.h"
#include "pipeline/save.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_ENDING ".safetensors"

static sara_status parse_dtype(sara_context *ctx, sara_dtype *out, bool *given, const char *name)
{
    *given = name != NULL;
    if (!name || sara_dtype_parse(out, name))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "dtype %s: expected fp32, fp16 or bf16", name);
}

sara_status sara_save_check_interrupted(sara_context *ctx)
{
    return sara_interrupted(ctx) ? sara_fail(ctx, SARA_INTERRUPTED, "interrupted; nothing is saved")
                                 : SARA_OK;
}

bool sara_text_ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* -------------------------------------------------------------------------------------- report */

typedef struct loss {
    const sara_dtype *dtype;
    int64_t changed, rounded_away;
    double change, error; /* sums of squares */
} loss;

static float save_is_rounded(float value, sara_dtype dtype)
{
    uint16_t half;
    if (dtype != SARA_F16 && dtype != SARA_BF16)
        return value;
    sara_convert_from_f32(&half, dtype, &value, 1);
    sara_convert_to_f32(&value, &half, dtype, 1);
    return value;
}

static void count_loss(void *user, const sara_param *param, uint32_t position, float original,
                       float current)
{
    loss *sum = user;
    sara_dtype dtype = sum->dtype ? *sum->dtype : sara_dtype_widened(param->stored);
    (void)position;
    if (memcmp(&original, &current, sizeof(original)) == 0)
        return;
    float stored = save_is_rounded(current, dtype);
    double change = (double)current - original, kept = (double)stored - original;
    sum->changed++;
    sum->rounded_away += stored == save_is_rounded(original, dtype);
    sum->change += change * change;
    sum->error += (kept - change) * (kept - change);
}

static sara_status save_fill_report(sara_save_report *report, const sara_model *model,
                                    const sara_dtype *dtype)
{
    loss sum = {.dtype = dtype};
    sara_status status = SARA_OK;
    TRY(sara_model_visit_changes(model, count_loss, &sum));
    *report = (sara_save_report){sum.changed, sum.rounded_away, sqrt(sum.change),
                                 sum.change > 0 ? sqrt(sum.error / sum.change) : 0};
done:
    return status;
}

/* The folder that out_dir will be in, or the nearest above that exists already; free(). */
static sara_status real_parent(sara_context *ctx, char **out, const char *out_dir)
{
    char *path = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_strdup(ctx, &path, out_dir));
    while (!*out && strcmp(path, "/") != 0 && strcmp(path, ".") != 0) {
        char *slash = strrchr(path, '/');
        if (!slash)
            memcpy(path, ".", 2);
        else
            slash[slash == path] = '\0';
        *out = realpath(path, NULL);
    }
    if (!*out)
        status = sara_fail_errno(ctx, out_dir, "cannot resolve");
done:
    sara_free(ctx, path);
    return status;
}

/* Finds out by making one beside it, which is taken away again. */
static sara_status try_folder(sara_context *ctx, const char *out_dir)
{
    char *parent = NULL, *probe = NULL;
    sara_status status;
    TRY(real_parent(ctx, &parent, out_dir));
    TRY(sara_format(ctx, &probe, "%s/.sara-%ld.tmp", parent, (long)getpid()));
    if (mkdir(probe, 0777) == 0)
        rmdir(probe);
    else if (errno != EEXIST)
        status = sara_fail_errno(ctx, out_dir, "cannot make a folder there");
done:
    free(parent);
    sara_free(ctx, probe);
    return status;
}

/* A folder cannot take a link's place, and what lies behind one is not this program's. */
static sara_status check_no_link(sara_context *ctx, const char *out_dir)
{
    size_t length = strlen(out_dir);
    char *name = NULL, target[1024];
    sara_status status;
    while (length > 1 && out_dir[length - 1] == '/')
        length--;
    TRY(sara_format(ctx, &name, "%.*s", (int)length, out_dir));
    ssize_t size = readlink(name, target, sizeof(target));
    if (size >= 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: is a link, to %.*s; name that folder or a new one", name, (int)size,
                           target);
done:
    sara_free(ctx, name);
    return status;
}

sara_status sara_check_new_folder(sara_context *ctx, const char *out_dir)
{
    char **names = NULL;
    size_t count = 0;
    if (!out_dir || !*out_dir)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no output folder given");
    sara_status status = check_no_link(ctx, out_dir);
    if (status != SARA_OK)
        return status;
    if (!sara_path_exists(out_dir))
        return try_folder(ctx, out_dir);
    if (!sara_path_is_directory(out_dir))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: exists and is no folder", out_dir);
    status = sara_directory_list(ctx, &names, &count, out_dir);
    sara_directory_free(ctx, names, count);
    if (status == SARA_OK && count > 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: exists and holds %zu entries; name a new folder", out_dir, count);
    return status == SARA_OK ? try_folder(ctx, out_dir) : status;
}

/* A folder inside the model's own would be copied into itself. */
static sara_status check_outside_one(sara_context *ctx, const char *out_dir, const char *source)
{
    char *parent = NULL, *own = realpath(source, NULL);
    sara_status status;
    if (!own) {
        status = sara_fail_errno(ctx, source, "cannot resolve");
        goto done;
    }
    TRY(real_parent(ctx, &parent, out_dir));
    size_t length = strlen(own);
    if (strncmp(parent, own, length) == 0 && (parent[length] == '/' || parent[length] == '\0'))
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: lies inside the model's own folder %s; name another place", out_dir,
                           source);
done:
    free(own);
    free(parent);
    return status;
}

/* Those of its parts too, which may be links to elsewhere. */
static sara_status check_outside(sara_context *ctx, const char *out_dir, const char *source)
{
    char **names = NULL, *part = NULL;
    size_t count = 0;
    sara_status status;
    TRY(check_outside_one(ctx, out_dir, source));
    TRY(sara_directory_list(ctx, &names, &count, source));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_path_join(ctx, &part, source, names[i]));
        if (names[i][0] != '.' && sara_path_is_directory(part))
            TRY(check_outside_one(ctx, out_dir, part));
        sara_free(ctx, part);
        part = NULL;
    }
done:
    sara_free(ctx, part);
    sara_directory_free(ctx, names, count);
    return status;
}

static sara_status save_to_folder(sara_context *ctx, const char *target, const sara_model *model,
                                  const sara_dtype *dtype)
{
    sara_partial partial;
    sara_status status;
    TRY(sara_partial_make(ctx, &partial, target, true));
    TRY(sara_save_folder(ctx, partial.path, model, dtype));
    TRY(sara_partial_publish(ctx, &partial, target));
done:
    sara_partial_discard(ctx, &partial);
    return status;
}

/* *target: out without slashes at its end, sara_free(). */
static sara_status check_target(sara_context *ctx, char **target, const char *out,
                                const char *model_path)
{
    size_t length = out ? strlen(out) : 0;
    sara_status status;
    if (length == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no output given");
    while (length > 1 && out[length - 1] == '/')
        length--;
    TRY(sara_format(ctx, target, "%.*s", (int)length, out));
    if (sara_text_ends_with(*target, FILE_ENDING))
        return sara_check_new_file(ctx, *target);
    TRY(sara_check_new_folder(ctx, *target));
    if (model_path && sara_path_is_directory(model_path))
        TRY(check_outside(ctx, *target, model_path));
done:
    return status;
}

sara_status sara_save_check(sara_context *ctx, const char *out, const char *dtype_name,
                            const char *model_path)
{
    char *target = NULL;
    sara_dtype dtype;
    bool given;
    sara_status status;
    TRY(parse_dtype(ctx, &dtype, &given, dtype_name));
    TRY(check_target(ctx, &target, out, model_path));
done:
    sara_free(ctx, target);
    return status;
}

typedef struct beyond {
    const sara_param *param; /* NULL: none */
    uint32_t position;
    float value;
} beyond;

static void find_beyond(void *user, const sara_param *param, uint32_t position, float original,
                        float current)
{
    beyond *found = user;
    if (isfinite(original) && !isfinite(current) && !found->param)
        *found = (beyond){param, position, current};
}

/* Strengths may take a value beyond what float32 holds. */
static sara_status save_check_finite(sara_context *ctx, const sara_model *model)
{
    beyond found = {0};
    sara_status status = SARA_OK;
    TRY(sara_model_visit_changes(model, find_beyond, &found));
    if (found.param)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: entry %u becomes %g with the adapters; lower their strengths",
                           found.param->name, found.position, (double)found.value);
done:
    return status;
}

/* An option may have chosen a prediction type that the scheduler's class does not have: what is
 * written must be read again. */
static sara_status check_scheduler(sara_context *ctx, const sara_model *model, const char *target)
{
    char *source = NULL;
    sara_status status = SARA_OK;
    if (!model->scheduler_json)
        return SARA_OK;
    TRY(sara_format(ctx, &source, "%s: scheduler", target));
    TRY(sara_scheduler_config_check(ctx, &model->scheduler, source));
done:
    sara_free(ctx, source);
    return status;
}

sara_status sara_model_save_sized(sara_context *ctx, sara_save_report *report, size_t report_size,
                                  const sara_model *model, const char *out, const char *dtype_name)
{
    char *target = NULL;
    sara_dtype dtype = SARA_F32;
    bool given;
    sara_status status;
    TRY(parse_dtype(ctx, &dtype, &given, dtype_name));
    TRY(sara_model_check_weights(ctx, model));
    /* Frozen weights would be written as they were rounded. */
    TRY(sara_model_check_exact(model, " to save it"));
    TRY(check_target(ctx, &target, out, model->path));
    TRY(check_scheduler(ctx, model, target));
    TRY(save_check_finite(ctx, model));
    const sara_dtype *wanted = given ? &dtype : NULL;
    TRY(sara_text_ends_with(target, FILE_ENDING) ? sara_save_single(ctx, target, model, wanted)
                                                 : save_to_folder(ctx, target, model, wanted));
    if (report) {
        sara_save_report full;
        TRY(save_fill_report(&full, model, wanted));
        sara_sized_write(report, report_size, &full, sizeof(full));
    }
done:
    sara_free(ctx, target);
    return status;
}
