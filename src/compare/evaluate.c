/* One evaluation as a job: pictures of a model are drawn and measured by `sara eval`. */
#include "compare/compare.h"

#include <stdlib.h>

sara_status sara_compare_add_model(sara_job *job, const json_t *options, bool whole)
{
    static const char *const names[] = {
        "variant",         "model_config", "use_ema_weights", "tokenizer",
        "prediction_type", "vae",          "no_t5",           NULL};
    sara_comparison *c = job->comparison;
    sara_status status;
    TRY(sara_job_add(job, "-m", c->model));
    for (size_t i = 0; names[i] && (whole || i < 3); i++) {
        const json_t *value = json_object_get(options, names[i]);
        const char *text;
        if (!value)
            continue;
        TRY(sara_compare_text(c, &text, value, names[i]));
        if (json_is_boolean(value) && !json_is_true(value))
            continue;
        TRY(sara_job_add(job, sara_name_of("--%s", names[i]).text,
                         json_is_boolean(value) ? NULL : text));
    }
done:
    return status;
}

/* Whether an option is of use: sara eval refuses what is not. */
static bool is_of_use(const char *key, const sara_compare_draw *draw)
{
    if (strncmp(key, "kid_", 4) == 0 || strcmp(key, "fid") == 0 || strcmp(key, "inception") == 0)
        return draw->references != NULL;
    return strcmp(key, "dino") != 0 || draw->references || draw->before;
}

/* What the config's "eval" has, by the names of sara eval's options. */
static sara_status add_measures(sara_job *job, const sara_compare_draw *draw)
{
    sara_comparison *c = job->comparison;
    const char *key, *text;
    json_t *value;
    sara_status status = SARA_OK;
    json_object_foreach((json_t *)(uintptr_t)c->eval, key, value)
    {
        const char *option = strcmp(key, "guidance_scale") == 0 ? "cfg-scale" : key;
        if (!is_of_use(key, draw))
            continue;
        TRY(sara_compare_text(c, &text, value, key));
        TRY(sara_job_add(job, sara_name_of("--%s", option).text, text));
    }
done:
    return status;
}

/* The report that `sara eval --json` prints becomes the record's. */
static sara_status collect_evaluation(sara_job *job, json_t *record)
{
    json_t *report = NULL;
    const char *path;
    sara_status status;
    TRY(sara_job_path(job, &path, ".out"));
    TRY(sara_json_load(job->comparison->ctx, &report, path, true));
    if (!json_is_object(report))
        TRY(sara_fail(job->comparison->ctx, SARA_ERROR_INPUT, "%s: is no report", path));
    if (json_object_set(record, "report", report) != 0)
        status = sara_fail(job->comparison->ctx, SARA_ERROR_MEMORY, "out of memory: %s", path);
done:
    json_decref(report);
    return status;
}

/* The adapter or the weights of a trained row. */
static sara_status add_trained(sara_job *job, const json_t *trained)
{
    const char *adapter = json_string_value(json_object_get(trained, "adapter")),
               *weights = json_string_value(json_object_get(trained, "weights"));
    char *path = NULL;
    sara_status status = SARA_OK;
    if (!adapter && !weights)
        return SARA_OK;
    TRY(sara_path_join(job->comparison->ctx, &path, job->comparison->output,
                       adapter ? adapter : weights));
    status = sara_job_add(job, adapter ? "--adapter" : "--denoiser", path);
done:
    sara_free(job->comparison->ctx, path);
    return status;
}

static sara_status add_drawing(sara_job *job, const sara_compare_draw *draw)
{
    sara_status status;
    TRY(sara_compare_add_model(job, draw->options, true));
    TRY(add_trained(job, draw->trained));
    TRY(sara_job_add(job, "--prompts", draw->prompts));
    if (draw->prefix)
        TRY(sara_job_add(job, "--prompt_prefix", draw->prefix));
    if (draw->references)
        TRY(sara_job_add(job, "--references", draw->references));
    if (draw->before)
        TRY(sara_job_add(job, "--before", draw->before));
    if (draw->keep) {
        TRY(sara_job_path(job, &job->output, ""));
        TRY(sara_job_add(job, "--output", job->output));
    }
    TRY(add_measures(job, draw));
    TRY(sara_job_add(job, "--json", NULL));
done:
    return status;
}

/* What is measured with, and against. */
static sara_status set_inputs(sara_job *job, const sara_compare_draw *draw)
{
    static const char *const files[] = {"clip", "clip_tokenizer", "dino", "inception",
                                        "embedding_dir"};
    sara_comparison *c = job->comparison;
    const char **inputs;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &inputs, 3 + sizeof(files) / sizeof(*files), sizeof(*inputs)));
    inputs[job->input_count++] = draw->prompts;
    inputs[job->input_count++] = c->model;
    if (draw->references && !draw->after)
        inputs[job->input_count++] = draw->references;
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        const char *path = json_string_value(json_object_get(c->eval, files[i]));
        if (path)
            inputs[job->input_count++] = path;
    }
    job->inputs = inputs;
done:
    return status;
}

/* The hashes of the jobs that it goes on from, as one text. */
static sara_status set_after(sara_job *job, const sara_compare_draw *draw)
{
    const char *trained = json_string_value(json_object_get(draw->trained, "hash"));
    char *text = NULL;
    sara_status status;
    TRY(sara_format(job->comparison->ctx, &text, "%s;%s", trained ? trained : "",
                    draw->after ? draw->after : ""));
    status = sara_arena_strdup(&job->comparison->arena, &job->after, text);
done:
    sara_free(job->comparison->ctx, text);
    return status;
}

sara_status sara_compare_evaluate(sara_comparison *c, json_t **record,
                                  const sara_compare_draw *draw)
{
    sara_job job;
    sara_status status;
    *record = NULL;
    TRY(sara_job_begin(c, &job, "eval", draw->name, draw->folder));
    TRY(add_drawing(&job, draw));
    TRY(set_inputs(&job, draw));
    TRY(set_after(&job, draw));
    job.collect = collect_evaluation;
    status = sara_job_run(&job, record);
done:
    return status;
}
