/* What a step costs: `sara bench` in processes of their own, by method and batch (the paper's
 * Fig. 5). */
#include "compare/tables.h"

#include "pipeline/family.h"

#include <math.h>
#include <stdlib.h>

static sara_status collect_timing(sara_job *job, json_t *record)
{
    json_t *report = NULL, *seconds = NULL, *value;
    double times[64], best = NAN;
    const char *path;
    size_t index, count = 0;
    sara_status status;
    TRY(sara_job_path(job, &path, ".out"));
    TRY(sara_json_load(job->comparison->ctx, &report, path, false));
    seconds = json_object_get(report, "seconds");
    json_array_foreach(seconds, index, value)
    {
        if (count < sizeof(times) / sizeof(*times))
            times[count++] = json_number_value(value);
    }
    if (count == 0)
        TRY(sara_fail(job->comparison->ctx, SARA_ERROR_INPUT, "%s: has no seconds", path));
    best = sara_compare_median(times, count);
    TRY(sara_compare_put(job->comparison, record, "seconds_per_step", json_real(best)));
    TRY(sara_compare_put(job->comparison, record, "entries",
                         json_incref(json_object_get(report, "trainable"))));
    TRY(sara_compare_put(job->comparison, record, "parameters",
                         json_incref(json_object_get(report, "parameters"))));
done:
    json_decref(report);
    return status;
}

/* Of a row's options those that `sara bench` has too. */
static sara_status add_method_options(sara_job *job, const json_t *options)
{
    static const char *const names[] = {"trainable",
                                        "mask",
                                        "mask_steps",
                                        "rank",
                                        "lora_alpha",
                                        "lambda_rank",
                                        "adapter_width",
                                        "adapter_scale",
                                        "lora_targets",
                                        "gradient_checkpointing",
                                        "gradient_checkpointing_levels",
                                        "mixed_precision",
                                        "weight_dtype"};
    const char *text;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const json_t *value = json_object_get(options, names[i]);
        if (!value || json_is_false(value))
            continue;
        TRY(sara_compare_text(job->comparison, &text, value, names[i]));
        TRY(sara_job_add(job, sara_name_of("--%s", names[i]).text,
                         json_is_true(value) ? NULL : text));
    }
done:
    return status;
}

sara_status sara_compare_time(sara_comparison *c, json_t **record, const sara_compare_timing *t)
{
    sara_job job;
    const char *inputs[1] = {c->model};
    sara_status status;
    *record = NULL;
    TRY(sara_job_begin(c, &job, "bench", t->name, t->folder));
    TRY(sara_compare_add_model(&job, c->train, false));
    TRY(sara_job_add(&job, "--method", t->method));
    TRY(sara_job_number(&job, "--batch", t->batch));
    TRY(sara_job_number(&job, "--latent", t->latent));
    TRY(sara_job_number(&job, "--steps", t->steps));
    TRY(add_method_options(&job, t->options));
    TRY(sara_job_add(&job, "--json", NULL));
    job.inputs = inputs;
    job.input_count = 1;
    job.collect = collect_timing;
    job.untimed = true;
    status = sara_job_run(&job, record);
done:
    return status;
}

/* --------------------------------------------------------------------------------------- config */

/* *out: of a folder of the model, NULL where there is none; json_decref(). */
static sara_status part_config(sara_comparison *c, json_t **out, const char *part)
{
    char *path = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_format(c->ctx, &path, "%s/%s/config.json", c->model, part));
    if (sara_path_exists(path))
        TRY(sara_json_load(c->ctx, out, path, true));
done:
    sara_free(c->ctx, path);
    return status;
}

/* What a diffusers folder's denoiser says of its pictures, else its family; 64 latents of 8 pixels
 * elsewhere. */
static sara_status read_latent(sara_comparison *c)
{
    const sara_family *family;
    json_t *index = NULL, *denoiser = NULL, *vae = NULL;
    sara_status status = SARA_OK;
    c->latent = 64;
    c->factor = 8;
    if (!sara_path_is_directory(c->model))
        return SARA_OK;
    TRY(sara_family_of_folder(c->ctx, &family, &index, c->model));
    TRY(part_config(c, &denoiser, family->parts[0].folder));
    TRY(part_config(c, &vae, "vae"));
    const sara_config config = {c->ctx, denoiser, c->model};
    TRY(sara_config_int(&config, &c->latent, "sample_size", family->sample_size, 1, 4096));
    const size_t levels = json_array_size(json_object_get(vae, "block_out_channels"));
    if (levels >= 1 && levels <= 8)
        c->factor = (int64_t)1 << (levels - 1);
done:
    json_decref(index);
    json_decref(denoiser);
    json_decref(vae);
    return status;
}

static sara_status read_methods(sara_comparison *c, const json_t *list)
{
    static const char *const usual[] = {"sara", "lora", "ltsft", "full"};
    const size_t count = list ? json_array_size(list) : 4;
    sara_status status;
    if (count == 0)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: cost: methods: expected a list of names",
                         c->source);
    TRY(sara_arena_alloc(&c->arena, &c->cost.methods, count + 1, sizeof(*c->cost.methods)));
    for (; c->cost.method_count < count; c->cost.method_count++) {
        const size_t i = c->cost.method_count;
        const char *name = list ? json_string_value(json_array_get(list, i)) : usual[i];
        if (!name || !sara_train_option_goes_with("method", name))
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: cost: methods[%zu]: no such method",
                          c->source, i));
        c->cost.methods[i] = name;
    }
done:
    return status;
}

sara_status sara_compare_read_cost(sara_comparison *c)
{
    static const char *const known[] = {"methods", "batches", "latent", "steps", "trainable", NULL};
    const json_t *given = json_object_get(c->config, "cost"), *list;
    json_t *object = given ? json_incref((json_t *)(uintptr_t)given) : json_object();
    const sara_config config = {c->ctx, object, c->source};
    sara_status status;
    TRY(sara_compare_check_keys(c, object, "cost", known));
    TRY(read_methods(c, json_object_get(object, "methods")));
    list = json_object_get(object, "batches");
    if (list)
        TRY(sara_config_ints(&config, c->cost.batches, &c->cost.batch_count, "batches", 0, 16, 1,
                             1024));
    for (; !list && c->cost.batch_count < 4; c->cost.batch_count++)
        c->cost.batches[c->cost.batch_count] = (int64_t)1 << c->cost.batch_count;
    TRY(read_latent(c));
    TRY(sara_config_int(&config, &c->cost.latent, "latent", c->latent, 1, 4096));
    TRY(sara_config_int(&config, &c->cost.steps, "steps", 4, 2, 64));
    TRY(sara_config_string(&config, &c->cost.trainable, "trainable", NULL));
done:
    json_decref(object);
    return status;
}

/* ---------------------------------------------------------------------------------- all of them */

static sara_status cost_of(sara_comparison *c, json_t *list, const char *method, int64_t batch)
{
    const sara_name name = sara_name_of("%s-batch-%lld", method, (long long)batch);
    sara_compare_timing timing = {.folder = "cost",
                                  .name = name.text,
                                  .method = method,
                                  .batch = (double)batch,
                                  .latent = (double)c->cost.latent,
                                  .steps = (double)c->cost.steps};
    json_t *options = json_object(), *record = NULL;
    sara_status status = SARA_OK;
    if (c->cost.trainable && sara_train_option_goes_with("trainable", method))
        TRY(sara_compare_put(c, options, "trainable", json_string(c->cost.trainable)));
    timing.options = options;
    TRY(sara_compare_time(c, &record, &timing));
    TRY(sara_compare_put(c, record, "method", json_string(method)));
    TRY(sara_compare_put(c, record, "batch", json_integer(batch)));
    TRY(sara_compare_put(c, list, NULL, json_incref(record)));
done:
    json_decref(record);
    json_decref(options);
    return status;
}

sara_status sara_compare_costs(sara_comparison *c, json_t *result)
{
    json_t *list = json_array();
    sara_status status;
    TRY(sara_compare_put(c, result, "cost", list));
    for (size_t m = 0; m < c->cost.method_count; m++)
        for (int b = 0; b < c->cost.batch_count; b++)
            TRY(cost_of(c, list, c->cost.methods[m], c->cost.batches[b]));
done:
    return status;
}

/* ---------------------------------------------------------------------------------- on the page */

/* Of one method, by batch. */
static sara_status cost_series(sara_comparison *c, sara_series *out, const json_t *list,
                               const char *method, const char *key, double scale)
{
    double *x, *y;
    size_t count = 0;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &x, json_array_size(list), sizeof(*x)));
    TRY(sara_arena_alloc(&c->arena, &y, json_array_size(list), sizeof(*y)));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *record = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(record, "method")), method) != 0 ||
            sara_record_error(record))
            continue;
        x[count] = sara_compare_number(record, "batch");
        y[count++] = scale * sara_compare_number(record, key);
    }
    *out = (sara_series){.name = method, .mark = SARA_MARK_LINE, .x = x, .y = y, .count = count};
done:
    return status;
}

static sara_status cost_plot(sara_comparison *c, sara_page *page, const json_t *list,
                             const char *title, const char *key, const char *unit, double scale)
{
    double ticks[16];
    sara_series *series;
    sara_plot plot = {.title = title,
                      .alt = "A line each method, by the batch.",
                      .x = {.label = "batch", .whole = true, .ticks = ticks},
                      .y = {.label = unit, .zero = true}};
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &series, c->cost.method_count + 1, sizeof(*series)));
    for (size_t m = 0; m < c->cost.method_count; m++)
        TRY(cost_series(c, &series[m], list, c->cost.methods[m], key, scale));
    for (int b = 0; b < c->cost.batch_count; b++)
        ticks[plot.x.tick_count++] = (double)c->cost.batches[b];
    plot.series = series;
    plot.series_count = c->cost.method_count;
    status = sara_page_plot(page, &plot);
done:
    return status;
}

sara_status sara_compare_cost_table(sara_comparison *c, sara_table *out, const json_t *list)
{
    static const sara_column columns[] = {{.name = "method"},
                                          {.name = "batch"},
                                          {.name = "trained"},
                                          {.name = "memory", .unit = "MiB"},
                                          {.name = "a step", .unit = "s", .digits = 3},
                                          {.name = "told"}};
    const size_t width = sizeof(columns) / sizeof(*columns), count = json_array_size(list);
    sara_cell *cells;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &cells, width * count + 1, sizeof(*cells)));
    for (size_t i = 0; i < count; i++) {
        const json_t *record = json_array_get(list, i);
        const char *error = sara_record_error(record);
        sara_cell *cell = cells + width * i;
        const double peak = sara_compare_number(record, "peak_bytes") / 1048576;
        cell[0] = SARA_CELL_TEXT(json_string_value(json_object_get(record, "method")));
        cell[1] = SARA_CELL_NUMBER(sara_compare_number(record, "batch"));
        cell[2] = SARA_CELL_NUMBER(sara_compare_number(record, "entries"));
        cell[3] = SARA_CELL_NUMBER(error ? NAN : peak);
        cell[4] = SARA_CELL_NUMBER(sara_compare_number(record, "seconds_per_step"));
        cell[5] = SARA_CELL_TEXT(error ? error : "");
    }
    *out = (sara_table){.caption = "What a step costs",
                        .columns = columns,
                        .column_count = width,
                        .cells = cells,
                        .row_count = count};
done:
    return status;
}

sara_status sara_compare_cost_page(sara_comparison *c, sara_page *page, const json_t *list)
{
    sara_table table;
    sara_status status;
    TRY(sara_page_heading(page, "Cost"));
    TRY(cost_plot(c, page, list, "Peak memory of the process", "peak_bytes", "MiB", 1.0 / 1048576));
    TRY(cost_plot(c, page, list, "Time of a step", "seconds_per_step", "seconds", 1));
    TRY(sara_compare_cost_table(c, &table, list));
    status = sara_page_table(page, &table);
done:
    return status;
}
