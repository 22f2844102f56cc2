/* An evaluation as a page. */
#include "eval/eval.h"
#include "report/report.h"

#include <math.h>

#define MOST_SHOWN 24 /* pictures */

static double measure_in(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

/* A measure's row of the table, where it was made. */
typedef struct measure_row {
    const char *measure, *key, *name, *note;
} measure_row;

static const measure_row measure_rows[] = {
    {"clip_score", "mean", "CLIP score", "logits_per_image"},
    {"fid", "value", "FID", NULL},
    {"kid", "mean", "KID", NULL},
    {"cmmd", "value", "CMMD", "CLIP, sigma 10, x 1000"},
    {"clip_i", "mean", "CLIP-I", "mean cosine with the references"},
    {"dino", "mean", "DINO", "mean cosine with the references"},
    {"drift", "mean", "drift", "1 - cosine"}};
#define MEASURE_ROWS (sizeof(measure_rows) / sizeof(*measure_rows))

static sara_status put_measures(sara_page *page, const json_t *report)
{
    const sara_column columns[] = {
        {.name = "measure"}, {.name = "value", .digits = 5}, {.name = "of what"}};
    sara_cell cells[MEASURE_ROWS][3];
    size_t used = 0;
    for (size_t i = 0; i < MEASURE_ROWS; i++) {
        const measure_row *row = &measure_rows[i];
        const json_t *measure = json_object_get(report, row->measure);
        const char *convention = json_string_value(json_object_get(measure, "convention"));
        const char *backbone = json_string_value(json_object_get(measure, "backbone"));
        if (!measure)
            continue;
        cells[used][0] = SARA_CELL_TEXT(row->name);
        cells[used][1] = SARA_CELL_NUMBER(measure_in(measure, row->key));
        cells[used][1].spread = measure_in(measure, "deviation");
        cells[used++][2] = SARA_CELL_TEXT(convention ? convention
                                          : backbone ? backbone
                                                     : row->note);
    }
    return sara_page_table(page, &(sara_table){NULL, columns, 3, cells[0], used});
}

static double each_of(const json_t *report, const char *measure, size_t index)
{
    const json_t *value =
        json_array_get(json_object_get(json_object_get(report, measure), "each"), index);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static sara_status put_each(sara_page *page, const sara_evaluation *e, const json_t *report)
{
    const sara_column columns[] = {{.name = "picture"},
                                   {.name = "text"},
                                   {.name = "CLIP score", .digits = 3},
                                   {.name = "drift", .digits = 5}};
    sara_cell *cells = NULL;
    sara_status status;
    TRY(sara_alloc(page->ctx, &cells, e->count, 4 * sizeof(*cells)));
    for (size_t i = 0; i < e->count; i++) {
        const char *text = e->pictures[i].text;
        sara_cell *row = cells + 4 * i;
        row[0] = SARA_CELL_TEXT(e->pictures[i].name);
        row[1] = SARA_CELL_TEXT(text ? text : "-");
        row[2] = SARA_CELL_NUMBER(each_of(report, "clip_score", i));
        row[3] = SARA_CELL_NUMBER(each_of(report, "drift", i));
    }
    TRY(sara_page_fold_begin(page, "Each picture"));
    TRY(sara_page_table(page, &(sara_table){NULL, columns, 4, cells, e->count}));
    TRY(sara_page_fold_end(page));
done:
    sara_free(page->ctx, cells);
    return status;
}

/* Of what is drawn and not kept there is none. */
static sara_status put_first_pictures(sara_page *page, const sara_evaluation *e)
{
    size_t count = e->count < MOST_SHOWN ? e->count : MOST_SHOWN;
    const char *folder = e->options.images ? e->options.images : e->options.output;
    sara_status status = SARA_OK;
    if (!folder)
        return SARA_OK;
    TRY(sara_page_heading(page, count < e->count ? "The first pictures" : "Pictures"));
    for (size_t i = 0; i < count; i++) {
        const sara_eval_picture *picture = &e->pictures[i];
        const char *text = picture->text ? picture->text : picture->name;
        char *path = NULL;
        TRY(sara_path_join(e->ctx, &path, folder, picture->name));
        status = sara_page_picture(page, path, text, text);
        sara_free(e->ctx, path);
        TRY(status);
    }
done:
    return status;
}

sara_status sara_evaluation_page(const sara_evaluation *e, const json_t *report, const char *path)
{
    sara_page page;
    sara_status status;
    const sara_name summary = e->reference_count ? sara_name_of("%zu pictures, %zu references.",
                                                                e->count, e->reference_count)
                                                 : sara_name_of("%zu pictures.", e->count);
    TRY(sara_page_begin(&page, e->ctx, "Evaluation"));
    TRY(sara_page_paragraph(&page, summary.text));
    TRY(put_measures(&page, report));
    TRY(put_each(&page, e, report));
    TRY(put_first_pictures(&page, e));
    TRY(sara_page_write(&page, path));
done:
    sara_page_free(&page);
    return status;
}
