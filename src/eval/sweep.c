/* Pictures of a model whose small entries are zero. */
#include "eval/sweep.h"
#include "sparse/magnitude.h"

#include <math.h>

#define MOST_THRESHOLDS 64

static const sara_options_type sweep_options_type =
    SARA_OPTIONS_TYPE(sara_zero_sweep_options, output);

void sara_zero_sweep_options_init_sized(sara_zero_sweep_options *options, size_t size)
{
    const sara_zero_sweep_options defaults = {0};
    sara_options_init(options, size, &defaults, &sweep_options_type);
}

/* The first is 0, the model as it is. */
typedef struct sweep {
    sara_evaluation e;
    sara_zero_sweep_options options;
    double thresholds[1 + MOST_THRESHOLDS];
    int count;
    json_t *rows;
} sweep;

/* -------------------------------------------------------------------------------------- options */

static sara_status read_thresholds(sweep *s)
{
    sara_context *ctx = s->e.ctx;
    const char *text = s->options.thresholds ? s->options.thresholds : "", *at = text;
    for (s->count = 1; s->count <= MOST_THRESHOLDS; s->count++) {
        char *end;
        double t = sara_parse_double(at, &end), last = s->thresholds[s->count - 1];
        if (end == at || (*end && *end != ',') || !isfinite(t) || t <= 0 || t <= last)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "--zero_sweep %s: \"%.*s\", expected numbers above 0, ascending, with "
                             "commas between",
                             text, (int)strcspn(at, ","), at);
        s->thresholds[s->count] = t;
        at = end + 1;
        if (!*end) {
            s->count++;
            return SARA_OK;
        }
    }
    return sara_fail(ctx, SARA_ERROR_USAGE, "--zero_sweep %s: more than %d thresholds", text,
                     MOST_THRESHOLDS);
}

static sara_status check_sweep(sweep *s)
{
    const sara_eval_options *o = s->options.eval;
    const char *output = s->options.output;
    sara_context *ctx = s->e.ctx;
    sara_writer *writer = NULL;
    sara_status status;
    if (!o || o->images || o->adapter_count || o->output || o->before || o->drift)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--zero_sweep: takes a model and prompts, neither pictures nor adapters");
    TRY(read_thresholds(s));
    if (!output)
        return SARA_OK;
    if (!sara_text_ends_with(output, ".html") && !sara_text_ends_with(output, ".json"))
        return sara_fail(ctx, SARA_ERROR_USAGE, "--output %s: expected FILE.html or FILE.json",
                         output);
    TRY(sara_writer_open(ctx, &writer, output));
done:
    sara_writer_abort(&writer);
    return status;
}

/* ---------------------------------------------------------------------------------- the entries */

/* How many are below, those that are zero already among them. */
static int64_t zero_entries(sara_param *param, uint32_t below, int threads)
{
    const size_t count = (size_t)sara_shape_count(&param->value.shape);
    int64_t zeroed = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : zeroed)
    for (size_t i = 0; i < count; i++)
        if (sara_magnitude(sara_param_get(param, i)) < below) {
            sara_param_set(param, i, 0);
            zeroed++;
        }
    return zeroed;
}

/* Thresholds ascend: what is zero stays so. */
static sara_status zero_below(sweep *s, double threshold, int64_t *zeroed)
{
    const sara_params *params = &s->e.model->denoiser->params;
    uint32_t below = sara_threshold_magnitude(threshold);
    sara_param copy = {0};
    sara_status status;
    *zeroed = 0;
    TRY(sara_model_need(s->e.model, SARA_STAGE_DENOISE));
    sara_network_close_files(s->e.model->denoiser); /* no file has what comes of it */
    for (size_t i = 0; i < params->count && threshold > 0; i++) {
        sara_param *param = &params->items[i];
        TRY(sara_param_read(s->e.ctx, &copy, param));
        *zeroed += zero_entries(&copy, below, sara_threads(s->e.ctx));
        status = sara_param_write(param, &copy);
        param->version++;
        sara_param_read_end(s->e.ctx, &copy, param);
        TRY(status);
    }
done:
    return status;
}

/* ----------------------------------------------------------------------------------------- rows */

/* The pictures of the model as it is become what the others are compared with. */
static void take_references(sara_evaluation *e)
{
    for (int by = 0; by < SARA_BACKBONES; by++) {
        const sara_features *from = &e->features[by][SARA_SET_PICTURES];
        const sara_features *to = &e->features[by][SARA_SET_REFERENCES];
        if (to->values)
            memcpy(to->values, from->values,
                   (size_t)(from->count * from->width) * sizeof(*to->values));
    }
}

static sara_status add_sweep_row(sweep *s, double threshold, int64_t zeroed)
{
    static const struct {
        const char *measure, *key;
    } kept[] = {{"fid", "value"}, {"kid", "mean"}, {"clip_score", "mean"}};
    int64_t entries = sara_params_entries(&s->e.model->denoiser->params);
    json_t *report = NULL, *row;
    sara_status status;
    TRY(sara_evaluation_report(&s->e, &report));
    row = json_pack("{s:f,s:I,s:f}", "t", threshold, "entries", (json_int_t)zeroed, "share",
                    (double)zeroed / (double)entries);
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
        json_t *value = json_object_get(json_object_get(report, kept[i].measure), kept[i].key);
        if (value)
            json_object_set(row, kept[i].measure, value);
    }
    if (json_array_append_new(s->rows, row) != 0)
        status = sara_fail(s->e.ctx, SARA_ERROR_MEMORY, "out of memory: the report");
done:
    json_decref(report);
    return status;
}

static sara_status sweep_rows(sweep *s)
{
    sara_status status = SARA_OK;
    s->e.draws = s->count;
    for (int i = 0; i < s->count; i++) {
        int64_t zeroed;
        TRY(zero_below(s, s->thresholds[i], &zeroed));
        TRY(sara_evaluation_draw(&s->e, SARA_SET_PICTURES));
        if (i == 0 && s->e.own)
            take_references(&s->e);
        TRY(add_sweep_row(s, s->thresholds[i], zeroed));
    }
done:
    return status;
}

/* --------------------------------------------------------------------------------------- report */

static sara_status sweep_report(const sweep *s, json_t **out)
{
    const sara_evaluation *e = &s->e;
    int64_t entries = sara_params_entries(&e->model->denoiser->params);
    *out = json_pack("{s:s,s:I,s:I,s:s,s:s*,s:O}", "denoiser", e->model->denoiser->class->title,
                     "parameters", (json_int_t)entries, "images", (json_int_t)e->count, "against",
                     e->own ? "untouched" : "references", "convention",
                     e->fid == SARA_BACKBONES ? NULL : e->convention, "rows", s->rows);
    return *out ? SARA_OK : sara_fail(e->ctx, SARA_ERROR_MEMORY, "out of memory: the report");
}

static sara_status write_sweep(const sweep *s, const json_t *report, const char *text)
{
    const char *path = s->options.output;
    char *lines = NULL;
    sara_status status = SARA_OK;
    if (!path)
        return SARA_OK;
    if (sara_text_ends_with(path, ".html"))
        return sara_sweep_page(s->e.ctx, report, path);
    TRY(sara_format(s->e.ctx, &lines, "%s\n", text));
    TRY(sara_file_write(s->e.ctx, path, lines, strlen(lines)));
done:
    sara_free(s->e.ctx, lines);
    return status;
}

sara_status sara_zero_sweep(sara_context *ctx, char **report,
                            const sara_zero_sweep_options *options)
{
    sweep s = {.e = {.ctx = ctx}, .rows = json_array()};
    json_t *object = NULL;
    sara_status status;
    *report = NULL;
    sara_zero_sweep_options_init(&s.options);
    TRY(sara_options_read(ctx, &s.options, &sweep_options_type, options));
    TRY(check_sweep(&s));
    s.e.own = !s.options.eval->references;
    TRY(sara_evaluation_open(&s.e, s.options.eval));
    TRY(sweep_rows(&s));
    TRY(sweep_report(&s, &object));
    TRY(sara_evaluation_text(ctx, report, object));
    TRY(write_sweep(&s, object, *report));
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    json_decref(object);
    json_decref(s.rows);
    sara_evaluation_close(&s.e);
    return status;
}
