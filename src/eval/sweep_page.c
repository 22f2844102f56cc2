/* A sweep as a page: FID and CLIP score against the threshold, and the table. */
#include "eval/sweep.h"
#include "report/report.h"

#include <math.h>

static double field(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

/* Of the rows after the first a line; the first, the model as it is, a line across. */
static sara_status put_measure(sara_page *page, const json_t *rows, const char *key,
                               const char *title, sara_better better)
{
    size_t count = json_array_size(rows);
    double *x = NULL, *y = NULL;
    sara_status status;
    TRY(sara_alloc(page->ctx, &x, count, sizeof(*x)));
    TRY(sara_alloc(page->ctx, &y, count, sizeof(*y)));
    for (size_t i = 0; i < count; i++) {
        x[i] = field(json_array_get(rows, i), "t");
        y[i] = field(json_array_get(rows, i), key);
    }
    const double ends[2] = {x[1] / 1.1, 1.1 * x[count - 1]}, untouched[2] = {y[0], y[0]};
    const sara_series series[] = {
        {.x = x + 1, .y = y + 1, .count = count - 1, .faint = true},
        {.name = "entries below t set to zero",
         .mark = SARA_MARK_POINT,
         .x = x + 1,
         .y = y + 1,
         .count = count - 1},
        {.name = "the model as it is", .x = ends, .y = untouched, .count = 2}};
    const sara_name alt =
        sara_name_of("%s against the threshold below which entries are zero.", title);
    TRY(sara_page_plot(page, &(sara_plot){.title = title,
                                          .alt = alt.text,
                                          .x = {.label = "threshold t", .log = true},
                                          .y = {.label = title, .better = better},
                                          .series = series,
                                          .series_count = 3}));
done:
    sara_free(page->ctx, x);
    sara_free(page->ctx, y);
    return status;
}

static sara_status put_sweep_table(sara_page *page, const json_t *rows, const char *convention)
{
    static const struct {
        const char *key, *name, *unit;
        sara_better better;
        int digits;
    } all[] = {{"t", "threshold t", NULL, SARA_BETTER_NONE, 7},
               {"entries", "entries set to zero", NULL, SARA_BETTER_NONE, 0},
               {"share", "share", "%", SARA_BETTER_NONE, 2},
               {"fid", "FID", NULL, SARA_BETTER_NONE, 3},
               {"kid", "KID", NULL, SARA_BETTER_NONE, 5},
               {"clip_score", "CLIP score", NULL, SARA_BETTER_NONE, 3}};
    enum { MOST = sizeof(all) / sizeof(*all) };
    size_t count = json_array_size(rows), used = 0;
    const json_t *first = json_array_get(rows, 0);
    sara_column columns[MOST];
    const char *keys[MOST];
    sara_name *thresholds = NULL;
    sara_cell *cells = NULL;
    sara_status status;
    for (int i = 0; i < MOST; i++) {
        if (!json_object_get(first, all[i].key))
            continue;
        keys[used] = all[i].key;
        columns[used++] = (sara_column){all[i].name, all[i].unit, all[i].better, all[i].digits};
    }
    TRY(sara_alloc(page->ctx, &cells, count * used, sizeof(*cells)));
    TRY(sara_alloc(page->ctx, &thresholds, count, sizeof(*thresholds)));
    for (size_t i = 0; i < count * used; i++) {
        const char *key = keys[i % used];
        double value = field(json_array_get(rows, i / used), key);
        cells[i] = SARA_CELL_NUMBER(strcmp(key, "share") == 0 ? 100 * value : value);
    }
    for (size_t i = 0; i < count; i++) {
        thresholds[i] = sara_name_of("%g", field(json_array_get(rows, i), "t"));
        cells[i * used] = SARA_CELL_TEXT(thresholds[i].text);
    }
    const sara_name caption =
        sara_name_of("Entries with |p| < t are zero; t = 0 is the model as it is. FID and KID: %s.",
                     convention ? convention : "not measured");
    TRY(sara_page_table(page, &(sara_table){caption.text, columns, used, cells, count}));
done:
    sara_free(page->ctx, thresholds);
    sara_free(page->ctx, cells);
    return status;
}

static sara_status put_sweep_summary(sara_page *page, const json_t *report)
{
    const json_t *first = json_array_get(json_object_get(report, "rows"), 0);
    const char *against = json_string_value(json_object_get(report, "against"));
    bool own = against && strcmp(against, "untouched") == 0;
    const sara_name text = sara_name_of("%.0f pictures are drawn for each threshold from the same "
                                        "seeds, with the entries of the %s "
                                        "set to zero whose magnitude is below it.",
                                        field(report, "images"),
                                        json_string_value(json_object_get(report, "denoiser")));
    sara_status status;
    TRY(sara_page_paragraph(page, text.text));
    if (json_object_get(first, "fid"))
        TRY(sara_page_paragraph(page, own ? "FID is of the pictures of the model as it is."
                                          : "FID is of the references."));
done:
    return status;
}

sara_status sara_sweep_page(sara_context *ctx, const json_t *report, const char *path)
{
    const json_t *rows = json_object_get(report, "rows"), *first = json_array_get(rows, 0);
    const char *convention = json_string_value(json_object_get(report, "convention"));
    sara_page page;
    sara_status status;
    TRY(sara_page_begin(&page, ctx, "Small entries set to zero"));
    const sara_name fid = sara_name_of("FID (%s)", convention ? convention : "-");
    TRY(put_sweep_summary(&page, report));
    if (json_object_get(first, "fid"))
        TRY(put_measure(&page, rows, "fid", fid.text, SARA_BETTER_LOW));
    if (json_object_get(first, "clip_score"))
        TRY(put_measure(&page, rows, "clip_score", "CLIP score", SARA_BETTER_HIGH));
    TRY(put_sweep_table(&page, rows, convention));
    TRY(sara_page_write(&page, path));
done:
    sara_page_free(&page);
    return status;
}
