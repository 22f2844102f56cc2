/* What a comparison would do: how many processes, how long, how much of the disk. */
#include "compare/compare.h"

#include <math.h>

typedef struct estimate {
    sara_comparison *c;
    json_t *timed;
    double denoising;         /* seconds of a denoising step, both halves of guidance */
    double training, drawing, cost; /* seconds; NaN: a timing that they need has failed */
    double bytes;
    int64_t pictures;
} estimate;

/* prefix: of the timing's name */
static sara_status time_method(estimate *e, json_t **record, const char *prefix, const char *method,
                               const json_t *options, double batch, double latent)
{
    const sara_name name = sara_name_of("%s%s-batch-%.0f", prefix, method, batch);
    const sara_compare_timing timing = {.folder = "plan",
                                        .name = name.text,
                                        .method = method,
                                        .options = options,
                                        .batch = batch,
                                        .latent = latent,
                                        .steps = 2};
    return sara_compare_time(e->c, record, &timing);
}

static sara_status tell_timed(estimate *e, const json_t *record, const char *method, double batch)
{
    sara_status status;
    if (sara_record_error(record)) /* the run itself may still go */
        return SARA_OK;
    TRY(sara_compare_put(e->c, e->timed, NULL,
                         json_pack("{s:s, s:f, s:O, s:O, s:O}", "method", method, "batch", batch,
                                   "seconds_per_step", json_object_get(record, "seconds_per_step"),
                                   "entries", json_object_get(record, "entries"), "peak_bytes",
                                   json_object_get(record, "peak_bytes"))));
done:
    return status;
}

static json_t *plan_seconds(double seconds)
{
    return isfinite(seconds) ? json_real(seconds) : json_null();
}

static double option_or(const json_t *options, const char *name, double fallback)
{
    const json_t *value = json_object_get(options, name);
    char *end;
    if (json_is_string(value)) {
        double number = sara_parse_double(json_string_value(value), &end);
        return *end ? fallback : number;
    }
    return json_is_number(value) ? json_number_value(value) : fallback;
}

/* Optimiser steps of a run. */
static double steps_of(const sara_compare_row *row, const sara_compare_data *data)
{
    const double epochs = option_or(row->options, "num_train_epochs", 0),
                 batch = option_or(row->options, "train_batch_size", 4) *
                         option_or(row->options, "gradient_accumulation_steps", 1);
    return epochs > 0 ? epochs * ceil((double)data->images / batch)
                      : option_or(row->options, "max_train_steps", 5000);
}

/* The side of the latents of pictures of width times height; 0: the model's own. */
static double latent_side(const sara_comparison *c, double width, double height)
{
    const double own = (double)c->latent, factor = (double)c->factor;
    const double area = (width > 0 ? width / factor : own) * (height > 0 ? height / factor : own);
    return fmax(1, round(sqrt(area)));
}

static double trained_side(const sara_comparison *c, const sara_compare_row *row)
{
    return latent_side(c, row->width, row->height);
}

static double drawn_side(const sara_comparison *c)
{
    return latent_side(c, option_or(c->eval, "width", 0), option_or(c->eval, "height", 0));
}

/* Of a method the first row's: sizes make little difference. */
static const sara_compare_row *timed_row(const sara_comparison *c, const sara_compare_row *row)
{
    for (const sara_compare_row *first = c->rows; first < row; first++)
        if (strcmp(first->method, row->method) == 0)
            return first;
    return row;
}

static sara_status estimate_row(estimate *e, const sara_compare_row *row)
{
    sara_comparison *c = e->c;
    const sara_compare_row *timed = timed_row(c, row);
    const double micro = option_or(row->options, "gradient_accumulation_steps", 1),
                 batch = option_or(row->options, "train_batch_size", 4),
                 timed_batch = option_or(timed->options, "train_batch_size", 4),
                 side = trained_side(c, row) / trained_side(c, timed);
    const double runs = (double)(json_array_size(row->rates) + c->seed_count - 1);
    json_t *record = NULL;
    sara_status status;
    TRY(time_method(e, &record, "", timed->method, timed->options, timed_batch,
                    trained_side(c, timed)));
    if (timed == row)
        TRY(tell_timed(e, record, timed->method, timed_batch));
    const double seconds =
                     option_or(record, "seconds_per_step", NAN) * batch / timed_batch * side * side,
                 entries = option_or(record, "entries", 0);
    for (size_t d = 0; d < c->data_count; d++) {
        e->training += runs * steps_of(row, &c->data[d]) * micro * seconds;
        e->bytes += runs * entries * 6; /* values, positions */
    }
done:
    json_decref(record);
    return status;
}

/* Of --cost: each method at each batch, with a step ahead of those that count. */
static sara_status estimate_costs(estimate *e)
{
    const sara_comparison *c = e->c;
    json_t *record = NULL, *options = json_object();
    sara_status status = SARA_OK;
    for (size_t m = 0; m < c->cost.method_count; m++) {
        const char *method = c->cost.methods[m];
        json_object_clear(options);
        if (c->cost.trainable && sara_train_option_goes_with("trainable", method))
            TRY(sara_compare_put(c, options, "trainable", json_string(c->cost.trainable)));
        TRY(time_method(e, &record, "cost-", method, options, (double)c->cost.batches[0],
                        (double)c->cost.latent));
        for (int b = 0; b < c->cost.batch_count; b++)
            e->cost += option_or(record, "seconds_per_step", NAN) * (double)c->cost.batches[b] /
                       (double)c->cost.batches[0] * (double)(c->cost.steps + 1);
        json_decref(record);
        record = NULL;
    }
done:
    json_decref(record);
    json_decref(options);
    return status;
}

/* Three bytes a pixel of what is kept, more than PNG needs. */
static sara_status add_pictures(estimate *e)
{
    sara_comparison *c = e->c;
    const double side = (double)c->factor * drawn_side(c), steps = option_or(c->eval, "steps", 20);
    size_t base = 0, neutral = 0, of_data, tuning, rates = 0, strengths = 0;
    const char **lines;
    double kept;
    sara_status status;
    TRY(sara_compare_prompts(c, &lines, &base, c->base_prompts));
    if (c->neutral_prompts)
        TRY(sara_compare_prompts(c, &lines, &neutral, c->neutral_prompts));
    for (size_t r = 0; r < c->row_count; r++)
        rates += json_array_size(c->rows[r].rates);
    e->pictures = (int64_t)(base + neutral);
    kept = (double)(base + neutral);
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_prompts(c, &lines, &of_data, c->data[d].prompts));
        TRY(sara_compare_prompts(c, &lines, &tuning, c->data[d].tuning));
        e->pictures += (int64_t)(of_data + rates * tuning +
                                 c->row_count * c->seed_count * (of_data + base + neutral));
        kept += (double)(of_data + c->row_count * (of_data + base));
        if (of_data > (size_t)c->pictures)
            of_data = (size_t)c->pictures;
        strengths += of_data * c->strengths.count;
    }
    e->pictures += (int64_t)strengths;
    kept += (double)strengths;
    e->drawing = (double)e->pictures * steps * e->denoising;
    e->bytes += kept * side * side * 3;
done:
    return status;
}

sara_status sara_compare_dry_run(sara_comparison *c, json_t **out)
{
    estimate e = {.c = c, .timed = json_array()};
    json_t *record = NULL;
    sara_status status;
    sara_compare_plan(c);
    TRY(sara_compare_check_runs(c));
    TRY(time_method(&e, &record, "", "forward", NULL, 2, drawn_side(c)));
    TRY(tell_timed(&e, record, "forward", 2));
    e.denoising = option_or(record, "seconds_per_step", NAN);
    for (size_t r = 0; r < c->row_count; r++)
        TRY(estimate_row(&e, &c->rows[r]));
    TRY(add_pictures(&e));
    if (c->with_cost)
        TRY(estimate_costs(&e));
    *out = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:O}", "rows",
                     (json_int_t)c->row_count, "data", (json_int_t)c->data_count, "seeds",
                     (json_int_t)c->seed_count, "trainings", (json_int_t)c->training.planned,
                     "evaluations", (json_int_t)c->drawing.planned, "pictures",
                     (json_int_t)e.pictures, "training_seconds", plan_seconds(e.training),
                     "drawing_seconds", plan_seconds(e.drawing), "cost_seconds",
                     plan_seconds(e.cost), "bytes", e.bytes, "timed", e.timed);
    if (!*out)
        status = sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source);
done:
    json_decref(record);
    json_decref(e.timed);
    return status;
}
