#include "train/class_images.h"

#include "train/dataset_cache.h"
#include "train/memory.h"

#include <stdlib.h>

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
    sara_status status = SARA_OK;
    if (sara_path_is_named(folder->path))
        TRY(count_others(folder->ctx, &others, folder->path, true));
    folder->wanted = (o->num_class_images ? o->num_class_images : SARA_CLASS_IMAGES) - others;
    for (int64_t i = 0; i < folder->wanted; i++) {
        TRY(has_class_image(folder, &there, i));
        folder->there += there;
    }
done:
    return status;
}

/* --------------------------------------------------------------------------- what is told early */

/* Of a folder that may not be there yet, nor those above it. */
static sara_status class_folder_within(sara_context *ctx, bool *out, const char *path,
                                       const char *folder)
{
    char *there = NULL, *above = NULL;
    sara_status status;
    TRY(sara_strdup(ctx, &there, path));
    while (!sara_path_is_named(there) && strcmp(there, ".") != 0) {
        TRY(sara_path_parent(ctx, &above, there));
        sara_free(ctx, there);
        there = above;
        above = NULL;
    }
    TRY(sara_path_is_within(ctx, out, there, folder));
done:
    sara_free(ctx, there);
    return status;
}

sara_status sara_class_images_check_place(sara_context *ctx, const sara_train_options *o)
{
    const char *class = o->class_data_dir, *subject = o->train_data_dir;
    bool inside, around;
    sara_status status = SARA_OK;
    if (!class || !subject)
        return SARA_OK;
    TRY(class_folder_within(ctx, &inside, class, subject));
    TRY(class_folder_within(ctx, &around, subject, class));
    if (inside || around)
        status =
            sara_fail(ctx, SARA_ERROR_USAGE,
                      "--class_data_dir %s and --train_data_dir %s: one lies in the other, and "
                      "images would be the subject's and its class's; keep the folders apart",
                      class, subject);
done:
    return status;
}

/* The subject's images are wholly read before hours of drawing, and again with those of the class.
 */
static sara_status check_subject(sara_context *ctx, sara_model *model, const sara_train_options *o)
{
    sara_train_options subject = *o;
    sara_dataset_cache *cache = NULL;
    sara_status status;
    subject.class_data_dir = subject.class_prompt = NULL;
    TRY(sara_dataset_cache_new(ctx, &cache, model, &subject));
done:
    sara_dataset_cache_free(cache);
    return status;
}

static sara_status check_class_prompt(sara_context *ctx, sara_model *model,
                                      const sara_generate_options *options)
{
    sara_status status = sara_generate_check_model(ctx, model, options);
    return status == SARA_OK ? status : sara_fail_in(ctx, status, "--class_prompt");
}

/* A PNG takes about what its pixels do, at most; mostly it is far smaller. */
static void tell_space(const class_folder *folder, const sara_model *model,
                       const sara_generate_options *options)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const int factor = model->vae->info.vae.factor;
    const int width = options->width ? options->width : info->sample_width * factor;
    const int height = options->height ? options->height : info->sample_height * factor;
    const int64_t missing = folder->wanted - folder->there;
    const uint64_t most = (uint64_t)missing * 3 * (uint64_t)width * (uint64_t)height;
    const uint64_t free_bytes = sara_disk_free(folder->path);
    sara_bytes_text needed, there;
    if (free_bytes < most)
        sara_log(folder->ctx, SARA_LOG_WARNING,
                 "%s: %lld class images may take %s, %s are free on the disk", folder->path,
                 (long long)missing, sara_bytes_format(&needed, most),
                 sara_bytes_format(&there, free_bytes));
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

static sara_status class_interrupted(const class_folder *folder, int64_t drawn)
{
    return sara_fail(folder->ctx, SARA_INTERRUPTED,
                     "interrupted: %lld of %lld class images are in %s; the same command goes on",
                     (long long)(folder->there + drawn), (long long)folder->wanted, folder->path);
}

static sara_status draw_missing(const class_folder *folder, sara_model *model,
                                const sara_generate_options *options)
{
    int64_t drawn = 0;
    bool there;
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < folder->wanted; i++) {
        TRY(has_class_image(folder, &there, i));
        if (there)
            continue;
        if (sara_interrupted(folder->ctx))
            TRY(class_interrupted(folder, drawn));
        sara_progress_part(folder->ctx, drawn, folder->wanted - folder->there);
        status = draw_class_image(folder, model, options, i);
        TRY(status == SARA_INTERRUPTED ? class_interrupted(folder, drawn) : status);
        drawn++;
    }
done:
    sara_progress_part(folder->ctx, 0, 0);
    return status;
}

static sara_status draw_all(const class_folder *folder, sara_model *model,
                            const sara_generate_options *options)
{
    sara_status status;
    TRY(sara_directory_make_writable(folder->ctx, folder->path));
    tell_space(folder, model, options);
    sara_log(folder->ctx, SARA_LOG_INFO, "%lld of %lld class images are drawn to %s: \"%s\"",
             (long long)(folder->wanted - folder->there), (long long)folder->wanted, folder->path,
             options->prompt);
    status = sara_generate_encode(folder->ctx, model, options);
    TRY(status == SARA_INTERRUPTED ? class_interrupted(folder, 0) : status);
    sara_model_give_back(model, ~(unsigned)SARA_STAGE_TEXT);
    TRY(draw_missing(folder, model, options));
done:
    sara_model_give_back(model, 0);
    return status;
}

static bool draws_class_images(const sara_train_options *o)
{
    return o->class_data_dir && o->class_prompt &&
           (o->with_prior_preservation || o->num_class_images);
}

sara_status sara_class_images_missing(sara_context *ctx, int64_t *missing,
                                      const sara_train_options *o)
{
    class_folder folder = {.ctx = ctx, .path = o->class_data_dir};
    sara_status status = SARA_OK;
    *missing = 0;
    if (!draws_class_images(o))
        return SARA_OK;
    TRY(look_into_folder(&folder, o));
    *missing = folder.wanted > folder.there ? folder.wanted - folder.there : 0;
done:
    return status;
}

sara_status sara_class_images_draw(sara_context *ctx, size_t *bytes, sara_model *model,
                                   const sara_train_options *o)
{
    class_folder folder = {.ctx = ctx, .path = o->class_data_dir};
    sara_generate_options options;
    sara_status status;
    *bytes = 0;
    if (!draws_class_images(o))
        return SARA_OK;
    TRY(look_into_folder(&folder, o));
    if (folder.there >= folder.wanted)
        return SARA_OK;
    sara_generate_options_init(&options);
    options.prompt = o->class_prompt;
    options.no_prompt_weights = true; /* as captions are */
    options.seed = o->seed;
    sara_train_options_sides(o, &options.width, &options.height);
    TRY(check_class_prompt(ctx, model, &options));
    TRY(check_subject(ctx, model, o));
    TRY(sara_memory_class_images(ctx, bytes, model, &options, o));
    TRY(draw_all(&folder, model, &options));
done:
    return status;
}
