/* Pages as files that need nothing else: HTML with inline SVG, no scripts; whatever comes from
 * outside is escaped. Light and dark, 400 to 1400 pixels wide, on paper. */
#ifndef SARA_REPORT_H
#define SARA_REPORT_H

#include "io/io.h"

#include <math.h>

/* Text within HTML, attributes too: control characters become spaces, and what XML may not hold
 * (invalid UTF-8 too) U+FFFD. */
SARA_NODISCARD sara_status sara_put_escaped(sara_buffer *out, const char *text);
/* At most 511 bytes as sara_print() makes them, not escaped. */
SARA_NODISCARD sara_status sara_put_format(sara_buffer *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ----------------------------------------------------------------------------------------- page */

typedef struct sara_page {
    sara_context *ctx;
    sara_buffer text;
    int plots; /* so far */
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
/* A picture in the page itself (data:), from a PNG, JPEG or WebP file of at most 64 MiB; alt and
 * caption (NULL: none) are escaped. SARA_ERROR_INPUT: another file. */
SARA_NODISCARD sara_status sara_page_picture(sara_page *page, const char *path, const char *alt,
                                             const char *caption);
/* Pictures in rows and columns, each with its name; the alt text of one is both. One that cannot
 * be read is a dash, which the log tells. */
typedef struct sara_picture_grid {
    const char *caption;
    const char *corner;         /* above the rows' names: "prompt" */
    const char *const *columns; /* [column_count] */
    const char *const *rows;    /* [row_count] */
    const char *const *paths;   /* [row_count][column_count]; NULL: a dash */
    size_t column_count, row_count;
} sara_picture_grid;
SARA_NODISCARD sara_status sara_page_pictures(sara_page *page, const sara_picture_grid *grid);

/* A contact sheet: its items between begin and end, as many in a row as there is room for. */
typedef struct sara_sheet_item {
    const char *data; /* [size] a PNG, JPEG or WebP file; NULL: a dash */
    size_t size;
    double left, top, width, height; /* shares of the picture: a frame around what of it is used;
                                        width 0: none */
    const char *name, *caption;      /* caption NULL: none */
    const char *const *faults, *const *warnings, *const *facts; /* lines, [..._count] each */
    size_t fault_count, warning_count, fact_count;
} sara_sheet_item;
SARA_NODISCARD sara_status sara_page_sheet_begin(sara_page *page);
SARA_NODISCARD sara_status sara_page_sheet_item(sara_page *page, const sara_sheet_item *item);
SARA_NODISCARD sara_status sara_page_sheet_end(sara_page *page);

/* ---------------------------------------------------------------------------------------- table */

typedef enum sara_better { SARA_BETTER_NONE, SARA_BETTER_HIGH, SARA_BETTER_LOW } sara_better;
typedef struct sara_column {
    const char *name, *unit; /* unit NULL: none */
    sara_better better;      /* which value of the column is marked; all that print alike are */
    int digits;              /* after the point */
} sara_column;
typedef struct sara_cell {
    const char *text; /* NULL: the number */
    double value;     /* NaN: a dash */
    double spread;    /* "value ± spread"; NaN: without */
    bool beside;      /* it is never the best, nor the worst: what the others are seen against */
} sara_cell;
#define SARA_CELL_TEXT(words)    ((sara_cell){.text = (words)})
#define SARA_CELL_NUMBER(number) ((sara_cell){.value = (number), .spread = (double)NAN})
typedef struct sara_table {
    const char *caption;        /* NULL: none */
    const sara_column *columns; /* [column_count] */
    size_t column_count;
    const sara_cell *cells; /* [row_count][column_count] */
    size_t row_count;
} sara_table;
/* The best of a column is bold and has a star, where at least two rows have numbers that differ. */
SARA_NODISCARD sara_status sara_page_table(sara_page *page, const sara_table *table);
/* The same as Markdown. */
SARA_NODISCARD sara_status sara_table_markdown(sara_buffer *out, const sara_table *table);

/* ----------------------------------------------------------------------------------------- plot */

typedef enum sara_mark { SARA_MARK_LINE, SARA_MARK_POINT, SARA_MARK_BAR } sara_mark;
typedef struct sara_series {
    const char *name; /* NULL: not in the legend */
    sara_mark mark;
    const double *x, *y;  /* [count]; a point that is not finite, or not above 0 on an axis that is
                             logarithmic, is left out */
    const double *size;   /* [count] of points: their areas are in proportion; NULL: all alike */
    const double *spread; /* [count] y - spread .. y + spread is drawn; NULL: none */
    const double *spread_x;    /* [count] likewise */
    const char *const *labels; /* [count] beside points; NULL: none */
    size_t count;
    bool faint; /* behind the others and of the next one's colour, as single losses behind means */
} sara_series;
typedef struct sara_axis {
    const char *label; /* with its unit: "step", "seconds" */
    bool log;
    bool whole;          /* ticks are whole numbers */
    const double *ticks; /* [tick_count] at most 32, as 1, 2, 4, 8; NULL: 1-2-5 */
    size_t tick_count;
    bool zero; /* it begins at 0, unless it is logarithmic */
    sara_better better;
    /* Of the y axis: categories from the top, whose bars lie from left to right; a bar's y is its
     * category's index. NULL: numbers. */
    const char *const *names;
    size_t name_count;
} sara_axis;
/* A line across the plot at a value of x, with its name above. */
typedef struct sara_rule {
    double x;
    const char *label;
} sara_rule;
typedef struct sara_plot {
    const char *title;
    const char *alt; /* what it shows, in a sentence */
    sara_axis x, y;  /* where both say what is better, the Pareto front of all points is drawn */
    const sara_series *series;
    size_t series_count;
    const char *size_name; /* what points' areas are in proportion to; NULL: nothing */
    const sara_rule *rules;
    size_t rule_count;
} sara_plot;
/* Narrow plots stand beside each other where there is room. */
SARA_NODISCARD sara_status sara_page_plot(sara_page *page, const sara_plot *plot);

/* ---------------------------------------------------------------------------------------- curve */

/* Any number of points, in x's order, in a bounded number of stretches of equal length: what a plot
 * can show of them. */
#define SARA_CURVE_STRETCHES 400
typedef struct sara_stretch {
    double x, sum, low, high; /* x: sum */
    int64_t count;
} sara_stretch;
typedef struct sara_curve {
    sara_stretch stretches[SARA_CURVE_STRETCHES];
    int64_t per_stretch, points; /* 0 at first: all zeros is an empty curve */
    size_t used;
} sara_curve;
/* A point that is not finite is passed over. */
void sara_curve_add(sara_curve *curve, double x, double y);
/* raw_x, raw_y [2 * SARA_CURVE_STRETCHES]: the points, or the lowest and the highest of each
 * stretch; their number. */
size_t sara_curve_raw(const sara_curve *curve, double *raw_x, double *raw_y);
/* x, y [SARA_CURVE_STRETCHES]: of each stretch the mean over `share` of all around it, at least two
 * on each side but at the ends; their number. share 0: of the stretch alone. */
size_t sara_curve_smooth(const sara_curve *curve, double *x, double *y, double share);

#endif
