/* Pages as files that need nothing else: HTML with inline SVG, no scripts; whatever comes from
 * outside is escaped. Light and dark, narrow and wide, on paper. */
#ifndef SARA_REPORT_H
#define SARA_REPORT_H

#include "io/io.h"

/* Text within HTML, attributes too: control characters become spaces. */
SARA_NODISCARD sara_status sara_put_escaped(sara_buffer *out, const char *text);

/* ----------------------------------------------------------------------------------------- page */

typedef struct sara_page {
    sara_context *ctx;
    sara_buffer text;
} sara_page;
SARA_NODISCARD sara_status sara_page_begin(sara_page *page, sara_context *ctx, const char *title);
/* Ends it and writes it, atomically. The page is freed by sara_page_free() in any case. */
SARA_NODISCARD sara_status sara_page_write(sara_page *page, const char *path);
void sara_page_free(sara_page *page);
SARA_NODISCARD sara_status sara_page_heading(sara_page *page, const char *text);
SARA_NODISCARD sara_status sara_page_paragraph(sara_page *page, const char *text);
/* A part that is folded until it is opened; on paper it is open. */
SARA_NODISCARD sara_status sara_page_fold_begin(sara_page *page, const char *summary);
SARA_NODISCARD sara_status sara_page_fold_end(sara_page *page);
/* A picture in the page itself (data:), from a PNG file; alt and caption are escaped. */
SARA_NODISCARD sara_status sara_page_picture(sara_page *page, const char *path, const char *alt,
                                             const char *caption);

/* ---------------------------------------------------------------------------------------- table */

typedef enum sara_better { SARA_BETTER_NONE, SARA_BETTER_HIGH, SARA_BETTER_LOW } sara_better;
typedef struct sara_column {
    const char *name, *unit; /* unit NULL: none */
    sara_better better;      /* which value of the column is marked */
    int digits;              /* after the point */
} sara_column;
typedef struct sara_cell {
    const char *text; /* NULL: the number */
    double value;     /* NaN: a dash */
    double spread;    /* "value ± spread"; NaN: without */
} sara_cell;
typedef struct sara_table {
    const char *caption;
    const sara_column *columns; /* [column_count] */
    size_t column_count;
    const sara_cell *cells; /* [row_count][column_count] */
    size_t row_count;
} sara_table;
SARA_NODISCARD sara_status sara_page_table(sara_page *page, const sara_table *table);
/* The same as Markdown, the best in bold. */
SARA_NODISCARD sara_status sara_table_markdown(sara_buffer *out, const sara_table *table);

/* ----------------------------------------------------------------------------------------- plot */

typedef enum sara_mark { SARA_MARK_LINE, SARA_MARK_POINT, SARA_MARK_BAR } sara_mark;
typedef struct sara_series {
    const char *name;
    sara_mark mark;
    const double *x, *y;  /* [count]; a point that is not finite is left out */
    const double *size;   /* [count] of points: their areas are in proportion; NULL: all alike */
    const double *spread; /* [count] y - spread .. y + spread is drawn; NULL: none */
    const char *const *labels; /* [count] beside points; NULL: none */
    size_t count;
    bool faint; /* behind the others, as single losses behind their means */
} sara_series;
typedef struct sara_axis {
    const char *label; /* with its unit: "step", "seconds" */
    bool log;
} sara_axis;
typedef struct sara_plot {
    const char *title;
    const char *alt; /* what it shows, in a sentence */
    sara_axis x, y;
    const sara_series *series;
    size_t series_count;
} sara_plot;
SARA_NODISCARD sara_status sara_page_plot(sara_page *page, const sara_plot *plot);

#endif
