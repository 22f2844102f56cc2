#include "train/class_images.h"

#include "core/trace.h"

#include <math.h>
#include <stdlib.h>

#define DEFAULT_COUNT 100 /* diffusers' train_dreambooth.py */

typedef struct class_folder {
    sara_context *ctx;
    const char *path;
    int64_t wanted; /* of files that are named here */
    int64_t there;  /* of these */
} class_folder;

static sara_name class_name(int64_t number)
{
    return sara_name_of("class-%06lld.png", (long long)number);
}

static sara_status has_class_image(const class_folder *folder, bool *out, int64_t number)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(folder->ctx, &path, folder->path, class_name(number).text));
    *out = sara_path_exists(path);
done:
    sara_free(folder->ctx, path);
    return status;
}

/* Whether the name is one that is given here. */
static bool is_class_name(const char *name)
{
    const long long number = strncmp(name, "class-", 6) == 0 ? strtoll(name + 6, NULL, 10) : -1;
    return number >= 0 && strcmp(class_name(number).text, name) == 0;
}

/* Images of other names, those in folders below, as kohya's N_name, included. */
static sara_status count_others(sara_context *ctx, int64_t *count, const char *folder, bool below)
{
    char **names = NULL, *path = NULL;
    size_t name_count = 0;
    sara_status status;
    TRY(sara_directory_list(ctx, &names, &name_count, folder));
    for (size_t i = 0; i < name_count; i++) {
        sara_free(ctx, path);
        path = NULL;
        TRY(sara_path_join(ctx, &path, folder, names[i]));
        if (sara_path_is_directory(path) && below && names[i][0] != '.')
            TRY(count_others(ctx, count, path, false));
        else if (sara_path_is_image(path) && !is_class_name(names[i]))
            ++*count;
    }
done:
    sara_free(ctx, path);
    sara_directory_free(ctx, names, name_count);
    return status;
}

static sara_status look_into_folder(class_folder *folder, const sara_train_options *o)
{
    int64_t others = 0;
    bool there;
    sara_status status;
    TRY(sara_directory_make(folder->ctx, folder->path));
    TRY(count_others(folder->ctx, &others, folder->path, true));
    folder->wanted = (o->num_class_images ? o->num_class_images : DEFAULT_COUNT) - others;
    for (int64_t i = 0; i < folder->wanted; i++) {
        TRY(has_class_image(folder, &there, i));
        folder->there += there;
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------- drawing */

static sara_status draw_class_image(const class_folder *folder, sara_model *model,
                                    const sara_generate_options *options, int64_t number)
{
    sara_generate_options one = *options;
    sara_image *images = NULL;
    char *text = NULL, *path = NULL;
    int count = 0;
    sara_status status;
    one.seed += (uint64_t)number;
    TRY(sara_generate(folder->ctx, &images, &count, model, &one));
    TRY(sara_generate_text(folder->ctx, &text, model, &one, images[0].width, images[0].height, 0));
    TRY(sara_path_join(folder->ctx, &path, folder->path, class_name(number).text));
    TRY(sara_image_save(folder->ctx, &images[0], path, text));
done:
    sara_images_free(folder->ctx, images, count);
    sara_free(folder->ctx, text);
    sara_free(folder->ctx, path);
    return status;
}

static void report_class_images(const class_folder *folder, int64_t drawn, double seconds)
{
    const double rate = (double)drawn / (seconds + 1e-9);
    const int64_t done = folder->there + drawn;
    const sara_progress progress = {
        "class", done, folder->wanted, NAN, NAN, rate, (double)(folder->wanted - done) / rate};
    sara_report_progress(folder->ctx, &progress);
}

static sara_status draw_missing(const class_folder *folder, sara_model *model,
                                const sara_generate_options *options)
{
    const double started = sara_clock();
    int64_t drawn = 0;
    bool there;
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < folder->wanted; i++) {
        TRY(has_class_image(folder, &there, i));
        if (there)
            continue;
        status = sara_interrupted(folder->ctx) ? SARA_INTERRUPTED
                                               : draw_class_image(folder, model, options, i);
        if (status == SARA_INTERRUPTED)
            status = sara_fail(folder->ctx, status,
                               "interrupted: %lld of %lld class images are in %s; the same command "
                               "goes on",
                               (long long)(folder->there + drawn), (long long)folder->wanted,
                               folder->path);
        TRY(status);
        report_class_images(folder, ++drawn, sara_clock() - started);
    }
done:
    return status;
}

sara_status sara_class_images_draw(sara_context *ctx, sara_model *model,
                                   const sara_train_options *o)
{
    class_folder folder = {.ctx = ctx, .path = o->class_data_dir};
    sara_generate_options options;
    sara_status status = SARA_OK;
    if (!o->with_prior_preservation || !o->class_data_dir || !o->class_prompt)
        return SARA_OK;
    TRY(look_into_folder(&folder, o));
    if (folder.there >= folder.wanted)
        return SARA_OK;
    sara_generate_options_init(&options);
    options.prompt = o->class_prompt;
    options.no_prompt_weights = true; /* as captions are */
    options.seed = o->seed;
    options.width = options.height = o->resolution;
    status = sara_generate_check_model(ctx, model, &options);
    TRY(status == SARA_OK ? status : sara_fail_in(ctx, status, "--class_prompt"));
    sara_log(ctx, SARA_LOG_INFO, "%lld of %lld class images are drawn to %s: \"%s\"",
             (long long)(folder.wanted - folder.there), (long long)folder.wanted, folder.path,
             o->class_prompt);
    TRY(sara_generate_encode(ctx, model, &options));
    sara_model_give_back(model, ~(unsigned)SARA_STAGE_TEXT);
    TRY(draw_missing(&folder, model, &options));
done:
    sara_model_give_back(model, 0);
    return status;
}
