/* Pictures of an adapter at several strengths (the paper's App. F). */
#include "compare/tables.h"

#include <math.h>
#include <stdlib.h>

sara_status sara_compare_read_strengths(sara_comparison *c, const char *list)
{
    size_t count = 1;
    char *end;
    sara_status status = SARA_OK;
    if (!list)
        return SARA_OK;
    for (const char *at = list; *at; at++)
        count += *at == ',';
    TRY(sara_arena_alloc(&c->arena, &c->strengths.values, count, sizeof(double)));
    for (const char *at = list;; at = end + 1) {
        const double value = sara_parse_double(at, &end);
        if (end == at || (*end && *end != ',') || !(fabs(value) <= 100))
            return sara_fail(c->ctx, SARA_ERROR_USAGE,
                             "--strengths %s: expected numbers, -100 to 100, with commas between",
                             list);
        c->strengths.values[c->strengths.count++] = value;
        if (!*end)
            break;
    }
done:
    return status;
}

/* The row with the best VLHI whose result is an adapter, whatever the rows' order. */
static const json_t *best_row(sara_comparison *c, const json_t *result, size_t data)
{
    const json_t *rows = json_object_get(result, "rows"), *best = NULL;
    double highest = NAN;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i),
                     *entry = json_array_get(json_object_get(row, "data"), data),
                     *seed = json_array_get(json_object_get(entry, "seeds"), 0),
                     *groups = json_object_get(row, "groups"),
                     *vlhi = json_object_get(json_object_get(entry, "vlhi"),
                                             json_string_value(json_array_get(groups, 0)));
        const double value = sara_compare_number(vlhi, "mean");
        const char *name = json_string_value(json_object_get(row, "name"));
        if (!json_object_get(json_object_get(seed, "train"), "adapter") || !isfinite(value))
            continue;
        if (c->strengths_row
                ? strcmp(name, c->strengths_row) == 0
                : !best || value > highest ||
                      (value == highest &&
                       strcmp(name, json_string_value(json_object_get(best, "name"))) < 0)) {
            best = row;
            highest = value;
        }
    }
    return best;
}

/* -------------------------------------------------------------------------------------- drawing */

/* generate's own numbers: NAME.png, NAME_2.png, ... */
static sara_status picture_path(sara_comparison *c, const char **out, const char *folder,
                                size_t index)
{
    return index ? sara_compare_words(c, out, "%s/picture_%zu.png", folder, index + 1)
                 : sara_compare_words(c, out, "%s/picture.png", folder);
}

static sara_status set_input(sara_job *job, const char *path)
{
    const char **inputs;
    sara_status status;
    TRY(sara_arena_alloc(&job->comparison->arena, &inputs, 1, sizeof(*inputs)));
    inputs[0] = path;
    job->inputs = inputs;
    job->input_count = 1;
done:
    return status;
}

/* What pictures are drawn with, and what they depend on of that. */
static sara_status add_eval_options(sara_job *job)
{
    static const struct {
        const char *key, *option;
    } drawn[] = {{"steps", "--steps"},
                 {"guidance_scale", "--cfg-scale"},
                 {"width", "--width"},
                 {"height", "--height"},
                 {"seed", "--seed"},
                 {"sampling_method", "--sampling-method"},
                 {"embedding_dir", "--embedding_dir"}};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(drawn) / sizeof(*drawn); i++) {
        const json_t *value = json_object_get(job->comparison->eval, drawn[i].key);
        const char *text;
        if (!value)
            continue;
        TRY(sara_compare_text(job->comparison, &text, value, drawn[i].key));
        TRY(sara_job_add(job, drawn[i].option, text));
        if (strcmp(drawn[i].key, "embedding_dir") == 0)
            TRY(set_input(job, text));
    }
done:
    return status;
}

static sara_status draw_strength(sara_comparison *c, json_t **record, const char *folder,
                                 const json_t *row, const json_t *trained,
                                 const sara_compare_data *data, const char *const *prompts,
                                 size_t count, double strength)
{
    const sara_name name = sara_name_of("strength %.10g", strength);
    const char *adapter = json_string_value(json_object_get(trained, "adapter")), *text, *path;
    sara_job job;
    sara_status status;
    TRY(sara_job_begin(c, &job, "generate", name.text, folder));
    TRY(sara_compare_add_model(&job, json_object_get(row, "options"), true));
    TRY(sara_compare_words(c, &text, "%s/%s:%.10g", c->output, adapter, strength));
    TRY(sara_job_add(&job, "--adapter", text));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_compare_words(c, &text, "%s%s", data->prefix ? data->prefix : "", prompts[i]));
        TRY(sara_job_add(&job, "-p", text));
    }
    TRY(add_eval_options(&job));
    TRY(sara_job_path(&job, &job.output, ""));
    TRY(picture_path(c, &path, job.output, 0));
    TRY(sara_job_add(&job, "-o", path));
    job.makes_output = job.untimed = true;
    job.after = json_string_value(json_object_get(trained, "hash"));
    status = sara_job_run(&job, record);
done:
    return status;
}

/* --------------------------------------------------------------------------------------- a grid */

static sara_status save_strengths(sara_comparison *c, const char *const *paths, size_t count,
                                  const char *out)
{
    sara_image *images = NULL, *grid = NULL;
    size_t read = 0;
    sara_status status;
    TRY(sara_alloc_zero(c->ctx, &images, count, sizeof(*images)));
    for (; read < count; read++)
        TRY(sara_image_read(c->ctx, &images[read], paths[read]));
    TRY(sara_image_grid(c->ctx, &grid, images, (int)count, (int)c->strengths.count, 1));
    status = sara_image_save(c->ctx, grid, out, NULL);
done:
    for (size_t i = 0; i < read; i++)
        sara_image_clear(c->ctx, &images[i]);
    sara_free(c->ctx, images);
    sara_images_free(c->ctx, grid, grid ? 1 : 0);
    return status;
}

/* paths [prompts][strengths], of pictures of `folder`. */
static sara_status strength_paths(sara_comparison *c, const char ***paths, const char *folder,
                                  size_t count)
{
    const char *inner;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, paths, count * c->strengths.count, sizeof(**paths)));
    for (size_t i = 0; i < count; i++)
        for (size_t s = 0; s < c->strengths.count; s++) {
            TRY(sara_compare_words(c, &inner, "%s/%s/strength %.10g", c->output, folder,
                                   c->strengths.values[s]));
            TRY(picture_path(c, &(*paths)[i * c->strengths.count + s], inner, i));
        }
done:
    return status;
}

static sara_status strengths_of(sara_comparison *c, json_t *list, const json_t *row, size_t data)
{
    const json_t *entry = json_array_get(json_object_get(row, "data"), data),
                 *seed = json_array_get(json_object_get(entry, "seeds"), 0);
    const char **prompts, **paths, *folder, *grid, *error = NULL;
    json_t *record = NULL, *drawn;
    size_t count;
    sara_status status;
    TRY(sara_compare_prompts(c, &prompts, &count, c->data[data].prompts));
    count = count < (size_t)c->pictures ? count : (size_t)c->pictures;
    TRY(sara_compare_words(c, &folder, "strengths/%s", c->data[data].name));
    for (size_t s = 0; s < c->strengths.count && !error && count; s++) {
        TRY(draw_strength(c, &record, folder, row, json_object_get(seed, "train"), &c->data[data],
                          prompts, count, c->strengths.values[s]));
        if (sara_record_error(record))
            TRY(sara_arena_strdup(&c->arena, &error, sara_record_error(record)));
        json_decref(record);
        record = NULL;
    }
    TRY(sara_compare_words(c, &grid, "%s.png", folder));
    drawn = json_pack("{s:s, s:O, s:s}", "data", c->data[data].name, "row",
                      json_object_get(row, "name"), "grid", grid);
    TRY(sara_compare_put(c, list, NULL, drawn));
    if (error)
        return sara_compare_put(c, drawn, "error", json_string(error));
    TRY(strength_paths(c, &paths, folder, count));
    TRY(sara_compare_words(c, &grid, "%s/%s.png", c->output, folder));
    if (count)
        TRY(save_strengths(c, paths, count * c->strengths.count, grid));
done:
    json_decref(record);
    return status;
}

sara_status sara_compare_draw_strengths(sara_comparison *c, json_t *result)
{
    json_t *list = json_array();
    sara_status status;
    TRY(sara_compare_put(c, result, "strengths", list));
    for (size_t d = 0; d < c->data_count; d++) {
        const json_t *row = best_row(c, result, d);
        if (row)
            TRY(strengths_of(c, list, row, d));
        else
            sara_log(c->ctx, SARA_LOG_WARNING, "--strengths: no row of data %s has an adapter%s%s",
                     c->data[d].name, c->strengths_row ? " and is named " : "",
                     c->strengths_row ? c->strengths_row : "");
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------- the page */

static sara_status put_strengths(sara_comparison *c, sara_page *page, const json_t *drawn)
{
    sara_picture_grid grid = {.corner = "prompt"};
    const char **prompts, **paths, **names, *folder;
    size_t count, data = 0;
    sara_status status;
    while (strcmp(c->data[data].name, json_string_value(json_object_get(drawn, "data"))) != 0)
        data++;
    TRY(sara_compare_prompts(c, &prompts, &count, c->data[data].prompts));
    count = count < (size_t)c->pictures ? count : (size_t)c->pictures;
    TRY(sara_compare_words(c, &folder, "strengths/%s", c->data[data].name));
    TRY(strength_paths(c, &paths, folder, count));
    TRY(sara_arena_alloc(&c->arena, &names, c->strengths.count, sizeof(*names)));
    for (size_t s = 0; s < c->strengths.count; s++)
        TRY(sara_compare_words(c, &names[s], "%.10g", c->strengths.values[s]));
    TRY(sara_compare_words(c, &grid.caption, "%s: %s at strengths", c->data[data].name,
                           json_string_value(json_object_get(drawn, "row"))));
    grid.columns = names;
    grid.column_count = c->strengths.count;
    grid.rows = prompts;
    grid.row_count = count;
    grid.paths = paths;
    if (count && !sara_record_error(drawn))
        status = sara_page_pictures(page, &grid);
done:
    return status;
}

sara_status sara_compare_strengths_page(sara_comparison *c, sara_page *page, const json_t *list)
{
    sara_status status;
    TRY(sara_page_heading(page, "Strengths"));
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(put_strengths(c, page, json_array_get(list, i)));
done:
    return status;
}
