/* Pictures of the validation prompts, drawn with the weights as they stand. */
#include "train/cache_files.h"

/* What the pictures of a prompt are drawn with; where the model, if it is known yet, does not say
 * their size, as it is trained. */
static void use_options(sara_generate_options *generate, const sara_model *model,
                        const sara_train_options *options, int index)
{
    sara_generate_options_init(generate);
    generate->prompt = options->validation_prompts[index];
    generate->seed = options->seed;
    generate->guidance_scale = options->validation_guidance_scale;
    generate->no_prompt_weights = options->no_prompt_weights;
    generate->long_prompt = options->long_prompt;
    generate->embedding_dir = options->embedding_dir;
    if (model && !model->denoiser->info.denoiser.sample_width)
        sara_train_options_sides(options, &generate->width, &generate->height);
}

static sara_status validate_draw(sara_run *run, sara_model *model,
                                 const sara_train_options *options, int64_t step, int index)
{
    sara_generate_options generate;
    sara_image *images = NULL;
    char *text = NULL, *path = NULL;
    int count = 0;
    sara_status status;
    use_options(&generate, model, options, index);
    TRY(sara_generate(run->ctx, &images, &count, model, &generate));
    TRY(sara_generate_text(run->ctx, &text, model, &generate, images[0].width, images[0].height,
                           0));
    TRY(sara_format(run->ctx, &path, "%s/samples/step-%06lld-%d.png", run->folder, (long long)step,
                    index));
    TRY(sara_image_save(run->ctx, &images[0], path, text));
    sara_run_events_image(run, step, index, &images[0], path);
done:
    sara_images_free(run->ctx, images, count);
    sara_free(run->ctx, text);
    sara_free(run->ctx, path);
    return status;
}

sara_status sara_run_check_prompts(sara_context *ctx, sara_model *model,
                                   const sara_train_options *options)
{
    sara_generate_options generate;
    sara_status status = SARA_OK;
    if (model) /* whatever becomes of the files while it trains */
        sara_model_keep_embeddings(model);
    for (int i = 0; i < options->validation_prompt_count && status == SARA_OK; i++) {
        use_options(&generate, model, options, i);
        status = model ? sara_generate_check_model(ctx, model, &generate)
                       : sara_generate_check(ctx, &generate);
    }
    return status == SARA_OK ? status : sara_fail_in(ctx, status, "--validation_prompt");
}

sara_status sara_run_prompt_length(sara_context *ctx, int64_t *length, sara_model *model,
                                   const sara_train_options *options)
{
    sara_generate_options generate;
    sara_status status = SARA_OK;
    int64_t one = 0;
    *length = 0;
    for (int i = 0; i < options->validation_prompt_count && status == SARA_OK; i++) {
        use_options(&generate, model, options, i);
        status = sara_prompt_length(ctx, &one, model, &generate);
        *length = one > *length ? one : *length;
    }
    return status == SARA_OK ? status : sara_fail_in(ctx, status, "--validation_prompt");
}

static sara_status encode_each_prompt(sara_context *ctx, sara_model *model,
                                      const sara_train_options *options)
{
    sara_generate_options generate;
    sara_status status = SARA_OK;
    for (int i = 0; i < options->validation_prompt_count && status == SARA_OK; i++) {
        use_options(&generate, model, options, i);
        status = sara_generate_encode(ctx, model, &generate);
    }
    if (status == SARA_INTERRUPTED)
        return sara_fail(ctx, status, "interrupted before the first step");
    return status == SARA_OK ? status : sara_fail_in(ctx, status, "--validation_prompt");
}

/* Where prompts' states are on the disk. */
typedef struct prompt_files {
    sara_cache_files files;
    const sara_model *model;
} prompt_files;

static sara_status find_prompt(void *user, bool *there, sara_text_states *out, const char *key)
{
    prompt_files *p = user;
    char name[65];
    sara_status status;
    TRY(sara_cache_files_name(&p->files, name, key));
    TRY(sara_cache_states_find(&p->files, there, name, p->model, out->length));
    if (*there)
        TRY(sara_cache_states_read(&p->files, name, p->model, out));
done:
    return status;
}

static sara_status keep_prompt_file(void *user, const sara_text_states *states, const char *key)
{
    prompt_files *p = user;
    char name[65];
    sara_status status;
    TRY(sara_cache_files_name(&p->files, name, key));
    TRY(sara_cache_states_write(&p->files, name, p->model, states));
done:
    return status;
}

static sara_status open_prompt_files(prompt_files *p, const sara_model *model,
                                     const sara_train_options *options, const char *images,
                                     const json_t *identity)
{
    char *folder = NULL;
    sara_status status;
    *p = (prompt_files){.model = model};
    TRY(sara_cache_folder(model->ctx, &folder, options, images));
    TRY(sara_cache_files_open(&p->files, folder, "states", model, SARA_STAGE_TEXT, identity));
done:
    sara_free(model->ctx, folder);
    return status;
}

sara_status sara_run_encode_prompts(sara_context *ctx, sara_model *model,
                                    const sara_train_options *options, const char *images,
                                    const json_t *identity)
{
    prompt_files files = {.model = NULL};
    const sara_prompt_store store = {&files, find_prompt, keep_prompt_file};
    sara_status status;
    if (options->validation_prompt_count && options->cache_text_encoder_outputs_to_disk && images) {
        TRY(open_prompt_files(&files, model, options, images, identity));
        model->prompt_store = &store;
    }
    TRY(encode_each_prompt(ctx, model, options));
    sara_cache_files_tell(&files.files, "prompts' states");
done:
    model->prompt_store = NULL;
    sara_cache_files_close(&files.files);
    return status;
}

sara_status sara_run_validate(sara_run *run, sara_model *model, const sara_train_options *options,
                              int64_t step)
{
    char *folder = NULL;
    sara_status status;
    TRY(sara_path_join(run->ctx, &folder, run->folder, "samples"));
    TRY(sara_directory_make(run->ctx, folder));
    for (int i = 0; i < options->validation_prompt_count; i++)
        TRY(validate_draw(run, model, options, step, i));
done:
    sara_free(run->ctx, folder);
    return status;
}
