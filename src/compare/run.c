/* What a comparison runs: the base's pictures, each row's grid of learning rates, the best of it
 * with each seed, and what is measured of those. */
#include "compare/compare.h"

#include <math.h>

/* ------------------------------------------------------------------------------------- the base */

typedef struct base_pictures {
    const char *prompts, *neutral; /* folders */
    const char *prompts_hash, *neutral_hash;
} base_pictures;

/* Without them nothing can be measured, so that an error is the comparison's. */
static sara_status evaluate_base(sara_comparison *c, json_t **record, const sara_compare_draw *draw)
{
    sara_status status;
    TRY(sara_compare_evaluate(c, record, draw));
    if (sara_record_error(*record)) {
        status = sara_fail(c->ctx, SARA_ERROR_INPUT, "%s/%s: of the untouched base: %s", c->output,
                           draw->folder, sara_record_error(*record));
        json_decref(*record);
        *record = NULL;
    }
done:
    return status;
}

static sara_status draw_base(sara_comparison *c, json_t *seed, const char *key, const char *prompts,
                             const char **folder, const char **hash)
{
    const sara_compare_draw draw = {
        .folder = "base", .name = key, .options = c->train, .prompts = prompts, .keep = true};
    json_t *record = NULL;
    char *path = NULL;
    sara_status status;
    TRY(evaluate_base(c, &record, &draw));
    *hash = json_string_value(json_object_get(record, "hash"));
    TRY(sara_compare_put(c, seed, key, record));
    TRY(sara_format(c->ctx, &path, "%s/base/%s", c->output, key));
    status = sara_arena_strdup(&c->arena, folder, path);
done:
    sara_free(c->ctx, path);
    return status;
}

static sara_status measure_base_data(sara_comparison *c, json_t *list, const json_t *drawn,
                                     const sara_compare_data *data)
{
    const sara_name name = sara_name_of("data %s", data->name);
    const sara_compare_draw draw = {.folder = "base",
                                    .name = name.text,
                                    .options = c->train,
                                    .prompts = data->prompts,
                                    .prefix = data->prefix,
                                    .references = data->references,
                                    .keep = true};
    json_t *record = NULL, *seed = json_copy((json_t *)(uintptr_t)drawn), *entry;
    sara_status status;
    TRY(evaluate_base(c, &record, &draw));
    TRY(sara_compare_put(c, seed, "adaptation", record));
    entry = json_pack("{s:s, s:[O]}", "name", data->name, "seeds", seed);
    TRY(sara_compare_put(c, list, NULL, entry));
done:
    json_decref(seed);
    return status;
}

static sara_status run_base(sara_comparison *c, json_t *result, base_pictures *pictures)
{
    json_t *drawn = json_object(), *list = json_array();
    sara_status status;
    *pictures = (base_pictures){0};
    TRY(sara_compare_put(c, result, "base", json_pack("{s:s, s:O}", "name", "base", "data", list)));
    TRY(draw_base(c, drawn, "forgetting", c->base_prompts, &pictures->prompts,
                  &pictures->prompts_hash));
    if (c->neutral_prompts)
        TRY(draw_base(c, drawn, "drift", c->neutral_prompts, &pictures->neutral,
                      &pictures->neutral_hash));
    for (size_t i = 0; i < c->data_count; i++)
        TRY(measure_base_data(c, list, drawn, &c->data[i]));
done:
    json_decref(drawn);
    json_decref(list);
    return status;
}

/* -------------------------------------------------------------------------- one trained adapter */

typedef struct row_run {
    sara_comparison *c;
    const base_pictures *base;
    const sara_compare_row *row;
    const sara_compare_data *data;
} row_run;

static sara_status measure_as(const row_run *r, json_t *seed, const sara_compare_draw *draw)
{
    json_t *record = NULL;
    sara_status status;
    TRY(sara_compare_evaluate(r->c, &record, draw));
    status = sara_compare_put(r->c, seed, draw->name, record);
done:
    return status;
}

static sara_status measure_trained(const row_run *r, json_t *seed, const char *folder,
                                   const json_t *trained, bool keep)
{
    const base_pictures *base = r->base;
    const sara_compare_draw adaptation = {.folder = folder,
                                          .name = "adaptation",
                                          .trained = trained,
                                          .options = r->row->options,
                                          .prompts = r->data->prompts,
                                          .prefix = r->data->prefix,
                                          .references = r->data->references,
                                          .keep = keep},
                            forgetting = {.folder = folder,
                                          .name = "forgetting",
                                          .trained = trained,
                                          .options = r->row->options,
                                          .prompts = r->c->base_prompts,
                                          .references = base->prompts,
                                          .before = base->neutral ? NULL : base->prompts,
                                          .after = base->prompts_hash,
                                          .keep = keep},
                            drift = {.folder = folder,
                                     .name = "drift",
                                     .trained = trained,
                                     .options = r->row->options,
                                     .prompts = r->c->neutral_prompts,
                                     .before = base->neutral,
                                     .after = base->neutral_hash};
    sara_status status;
    TRY(measure_as(r, seed, &adaptation));
    TRY(measure_as(r, seed, &forgetting));
    if (base->neutral)
        TRY(measure_as(r, seed, &drift));
done:
    return status;
}

/* known: the record of its training, of the grid; NULL: it is to be trained. */
static sara_status run_seed(const row_run *r, json_t *seeds, double rate, size_t index,
                            json_t *known)
{
    json_t *trained = json_incref(known),
           *seed = json_pack("{s:I}", "seed", (json_int_t)r->c->seeds[index]);
    const char *folder;
    sara_status status;
    TRY(sara_compare_put(r->c, seeds, NULL, seed));
    TRY(sara_compare_run_folder(r->c, &folder, r->row, r->data, rate, r->c->seeds[index]));
    TRY(sara_compare_put(r->c, seed, "folder", json_string(folder)));
    if (!trained)
        TRY(sara_compare_train(r->c, &trained, r->row, r->data, rate, r->c->seeds[index]));
    TRY(sara_compare_put(r->c, seed, "train", json_incref(trained)));
    if (!sara_record_error(trained))
        TRY(measure_trained(r, seed, folder, trained, index == 0));
done:
    json_decref(trained);
    return status;
}

/* ------------------------------------------------------------------------------- learning rates */

static sara_status run_rate(const row_run *r, json_t *grid, double rate)
{
    json_t *trained = NULL, *record = NULL, *entry = json_pack("{s:f}", "learning_rate", rate);
    sara_compare_draw draw = {.name = "tuning",
                              .options = r->row->options,
                              .prompts = r->data->tuning,
                              .prefix = r->data->prefix,
                              .references = r->data->references};
    sara_status status;
    TRY(sara_compare_put(r->c, grid, NULL, entry));
    TRY(sara_compare_train(r->c, &trained, r->row, r->data, rate, r->c->seeds[0]));
    TRY(sara_compare_put(r->c, entry, "train", json_incref(trained)));
    if (!sara_record_error(trained)) {
        draw.trained = trained;
        TRY(sara_compare_run_folder(r->c, &draw.folder, r->row, r->data, rate, r->c->seeds[0]));
        TRY(sara_compare_evaluate(r->c, &record, &draw));
        TRY(sara_compare_put(r->c, entry, "tuning", json_incref(record)));
    }
done:
    json_decref(trained);
    json_decref(record);
    return status;
}

static double number_in(const json_t *entry, const char *key, const char *field)
{
    const json_t *report = json_object_get(json_object_get(entry, "tuning"), "report");
    double number = NAN;
    if (!sara_json_number(&number, json_object_get(json_object_get(report, key), field)))
        return NAN;
    return number;
}

/* The larger the better, by VLHI over this grid alone, or by one of its halves. */
static sara_status score_grid(const sara_comparison *c, double *score, const json_t *grid)
{
    size_t count = json_array_size(grid);
    double *fid = NULL, *clip = NULL;
    sara_status status;
    TRY(sara_alloc(c->ctx, &fid, count, sizeof(*fid)));
    TRY(sara_alloc(c->ctx, &clip, count, sizeof(*clip)));
    for (size_t i = 0; i < count; i++) {
        fid[i] = number_in(json_array_get(grid, i), "fid", "value");
        clip[i] = number_in(json_array_get(grid, i), "clip_score", "mean");
    }
    sara_vlhi(score, fid, clip, count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(c->choose_by, "fid") == 0)
            score[i] = -fid[i];
        else if (strcmp(c->choose_by, "clip_score") == 0)
            score[i] = clip[i];
done:
    sara_free(c->ctx, fid);
    sara_free(c->ctx, clip);
    return status;
}

sara_status sara_compare_choose(const sara_comparison *c, size_t *index, json_t *grid)
{
    size_t count = json_array_size(grid);
    double *score = NULL;
    sara_status status;
    *index = SIZE_MAX;
    TRY(sara_alloc(c->ctx, &score, count, sizeof(*score)));
    TRY(score_grid(c, score, grid));
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(score[i]))
            continue;
        TRY(sara_compare_put(c, json_array_get(grid, i), "score", json_real(score[i])));
        if (*index == SIZE_MAX || score[i] > score[*index]) /* of equal ones the smallest rate */
            *index = i;
    }
done:
    sara_free(c->ctx, score);
    return status;
}

static sara_status run_row_data(const row_run *r, json_t *list)
{
    const size_t count = json_array_size(r->row->rates);
    json_t *grid = json_array(), *seeds = json_array(), *entry;
    size_t best;
    sara_status status;
    entry = json_pack("{s:s, s:O, s:O}", "name", r->data->name, "grid", grid, "seeds", seeds);
    TRY(sara_compare_put(r->c, list, NULL, entry));
    for (size_t i = 0; i < count; i++)
        TRY(run_rate(r, grid, json_number_value(json_array_get(r->row->rates, i))));
    TRY(sara_compare_choose(r->c, &best, grid));
    if (best == SIZE_MAX)
        goto done; /* the grid tells */
    const double rate = json_number_value(json_array_get(r->row->rates, best));
    TRY(sara_compare_put(r->c, entry, "learning_rate", json_real(rate)));
    TRY(sara_compare_put(r->c, entry, "at_edge", json_boolean(best == 0 || best == count - 1)));
    for (size_t i = 0; i < r->c->seed_count; i++)
        TRY(run_seed(r, seeds, rate, i,
                     i ? NULL : json_object_get(json_array_get(grid, best), "train")));
done:
    json_decref(grid);
    json_decref(seeds);
    return status;
}

static sara_status run_row(sara_comparison *c, json_t *rows, const base_pictures *base,
                           const sara_compare_row *row)
{
    json_t *groups = json_array(), *list = json_array(), *entry;
    sara_status status;
    entry = json_pack("{s:s, s:s, s:O, s:O, s:O}", "name", row->name, "method", row->method,
                      "groups", groups, "options", row->options, "data", list);
    TRY(sara_compare_put(c, rows, NULL, entry));
    for (size_t i = 0; i < row->group_count; i++)
        TRY(sara_compare_put(c, groups, NULL, json_string(row->groups[i])));
    for (size_t i = 0; i < c->data_count; i++) {
        const row_run r = {c, base, row, &c->data[i]};
        TRY(run_row_data(&r, list));
    }
done:
    json_decref(groups);
    json_decref(list);
    return status;
}

void sara_compare_plan(sara_comparison *c)
{
    const int64_t of_each = c->neutral_prompts ? 3 : 2, seeds = (int64_t)c->seed_count,
                  data = (int64_t)c->data_count;
    c->training.planned = 0;
    c->drawing.planned = of_each - 1 + data;
    for (size_t i = 0; i < c->row_count; i++) {
        const int64_t rates = (int64_t)json_array_size(c->rows[i].rates);
        c->training.planned += data * (rates + seeds - 1); /* the grid's best is the first seed's */
        c->drawing.planned += data * (rates + seeds * of_each);
    }
}

sara_status sara_compare_run(sara_comparison *c, json_t **out)
{
    json_t *rows = json_array();
    base_pictures base;
    sara_status status;
    *out = json_pack("{s:O, s:O}", "config", c->config, "rows", rows);
    if (!*out)
        TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source));
    sara_compare_plan(c);
    TRY(sara_compare_check_runs(c));
    TRY(run_base(c, *out, &base));
    for (size_t i = 0; i < c->row_count; i++)
        TRY(run_row(c, rows, &base, &c->rows[i]));
done:
    json_decref(rows);
    if (status != SARA_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}
