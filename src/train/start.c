/* What is told before the model is read: options, the run folder, the checkpoint to go on from. */
#include "train/profile.h"
#include "train/trainer.h"

#include <stdlib.h>

/* What is read is not written to. */
static sara_status check_run_output(const trainer *t)
{
    const sara_train_options *o = &t->options;
    const char *inputs[] = {sara_train_options_model(o, NULL), o->train_data_dir, o->class_data_dir,
                            o->vae};
    for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
        if (inputs[i] && sara_path_is_same(o->output_dir, inputs[i]))
            return sara_fail(t->ctx, SARA_ERROR_USAGE,
                             "--output_dir %s: is the folder %s that the run reads; name another",
                             o->output_dir, inputs[i]);
    return SARA_OK;
}

static sara_status open_profile(trainer *t)
{
    const sara_train_options *o = &t->options;
    const char *inputs[] = {sara_train_options_model(o, NULL), o->train_data_dir, o->replay, o->vae,
                            o->dataset_config};
    if (!o->profile)
        return SARA_OK;
    return sara_profile_open(t->ctx, &t->profile, o->profile, inputs,
                             sizeof(inputs) / sizeof(*inputs));
}

/* Told, so that the run can be made again; the manifest and the adapter hold it. */
static sara_status draw_seed(trainer *t)
{
    const json_t *run = json_object_get(t->checkpoint.manifest, "run");
    const char *kept = json_string_value(json_object_get(run, "seed"));
    sara_status status = SARA_OK;
    if (!t->options.draw_seed)
        return SARA_OK;
    if (kept)
        t->options.seed = strtoull(kept, NULL, 10);
    else
        TRY(sara_draw_seed(t->ctx, &t->options.seed, 1));
    sara_log(t->ctx, SARA_LOG_INFO, "seed %llu (%s)", (unsigned long long)t->options.seed,
             kept ? "the run's" : "drawn");
done:
    return status;
}

/* Of what the run will write only at its end. */
static sara_status check_result_place(const trainer *t)
{
    const char *file = t->method->result, *name;
    char *path = NULL;
    sara_status status = SARA_OK;
    if (file && strcmp(sara_method_result(t->method, NULL, &t->options), file) == 0)
        return sara_run_check_file(&t->run, file);
    for (size_t i = file ? 1 : 0; (name = sara_method_result_at(t->method, i)) != NULL; i++) {
        TRY(sara_path_join(t->ctx, &path, t->run.folder, name));
        if (sara_path_is_link(path))
            TRY(sara_fail(t->ctx, SARA_ERROR_USAGE,
                          "%s: is a link, and the result goes there; move the link away", path));
        if (sara_path_exists(path) && !sara_path_is_directory(path))
            TRY(sara_fail(t->ctx, SARA_ERROR_IO, "%s: is no folder, and the result goes there",
                          path));
        sara_free(t->ctx, path);
        path = NULL;
    }
done:
    sara_free(t->ctx, path);
    return status;
}

static sara_status refuse_result(const trainer *t, const char *result)
{
    const char *folder = t->run.folder;
    if (!t->method->result)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "%s: holds %s/ and no checkpoint to go on from; name another --output_dir",
                         folder, result);
    return sara_fail(t->ctx, SARA_ERROR_USAGE,
                     "%s: holds an adapter and no checkpoint to go on from; start from it in "
                     "another --output_dir with --adapter %s/%s",
                     folder, folder, result);
}

/* No result of an end of which no checkpoint is left. */
static sara_status check_no_result(const trainer *t)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; status == SARA_OK && sara_method_result_at(t->method, i); i++)
        if (sara_run_has(&t->run, sara_method_result_at(t->method, i)))
            status = refuse_result(t, sara_method_result_at(t->method, i));
    return status;
}

static sara_status check_new(const trainer *t)
{
    bool is_new;
    sara_status status;
    TRY(sara_run_is_new(&t->run, &is_new));
    if (is_new)
        return check_no_result(t);
    status = sara_fail(t->ctx, SARA_ERROR_USAGE,
                       "%s: holds a run already; continue it with --resume_from_checkpoint latest "
                       "or name another --output_dir",
                       t->run.folder);
done:
    return status;
}

/* The checkpoint is whole, and the options that need no model to compare are its run's. */
static sara_status find_checkpoint(trainer *t)
{
    json_t *options = NULL;
    sara_status status;
    TRY(sara_checkpoint_find(&t->run, &t->checkpoint, t->options.resume_from_checkpoint));
    if (!t->checkpoint.folder)
        return check_no_result(t);
    TRY(draw_seed(t));
    if (t->options.max_train_steps)
        TRY(sara_trainer_check_length(t, "--max_train_steps", t->options.max_train_steps));
    TRY(sara_train_options_json(t->ctx, &options, &t->options));
    TRY(sara_checkpoint_check_options(t->ctx, &t->checkpoint, options));
done:
    json_decref(options);
    return status;
}

sara_status sara_trainer_start(trainer *t)
{
    const sara_method *method;
    sara_status status;
    TRY(sara_train_options_check(t->ctx, &t->options));
    TRY(sara_method_find(t->ctx, &method, t->options.method, NULL));
    TRY(sara_method_check_options(t->ctx, method, &t->options));
    TRY(sara_method_start(t, method));
    TRY(sara_run_check_prompts(t->ctx, NULL, &t->options));
    TRY(check_run_output(t));
    TRY(sara_class_images_check_place(t->ctx, &t->options));
    TRY(sara_trainer_open_device(t));
    TRY(sara_run_open(t->ctx, &t->run, t->options.output_dir));
    t->run_open = true;
    TRY(check_result_place(t));
    if (t->options.resume_from_checkpoint)
        TRY(find_checkpoint(t));
    else
        TRY(check_new(t));
    if (!t->checkpoint.folder)
        TRY(draw_seed(t));
    if (t->method->open)
        TRY(t->method->open(t));
    TRY(open_profile(t));
done:
    return status;
}
