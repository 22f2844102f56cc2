/* What the files of plots share: the frame on paper and its two scales. */
#ifndef SARA_REPORT_PLOT_H
#define SARA_REPORT_PLOT_H

#include "report/report.h"

#define SARA_PLOT_WIDTH 540.0
#define SARA_MAX_TICKS  32
#define SARA_TEXT_EM    7.7 /* of a column of text of 14 px */
#define SARA_TEXT_LINE  16.0
#define SARA_MARK_LEAST 3.5 /* radii of points */
#define SARA_MARK_MOST  15.0

/* From values to pixels. */
typedef struct sara_scale {
    double low, high; /* of log axes decimal logarithms */
    double from, to;  /* pixels */
    bool log;
    double ticks[SARA_MAX_TICKS]; /* values */
    int tick_count;
} sara_scale;
/* 1-2-5 ticks within [low, high]; of a log axis (low, high > 0) decades, fewer where they are many
 * and 1-2-5 in them where they are few. `most` is how many there is room for. */
int sara_ticks(double ticks[SARA_MAX_TICKS], double low, double high, bool log, bool whole,
               int most);
/* The tick as its axis shows it; text [32]. */
void sara_tick_text(char text[32], const double *ticks, int count, int index, bool log);
/* Of the values that can be shown. */
typedef struct sara_extent {
    double low, high; /* low > high: there are none */
} sara_extent;
void sara_extent_add(sara_extent *extent, double value, bool log);
/* pad: pixels left free at both ends. */
void sara_scale_make(sara_scale *scale, const sara_axis *axis, sara_extent extent, double pad,
                     int most_ticks);
double sara_scale_at(const sara_scale *scale, double value); /* NaN: it cannot be shown */

/* Columns that a text takes. */
int sara_text_columns(const char *text);
/* Escaped, cut to so many columns with an ellipsis. */
SARA_NODISCARD sara_status sara_put_cut(sara_buffer *out, const char *text, int columns);

typedef struct sara_frame {
    sara_page *page;
    const sara_plot *plot;
    double left, top, right, bottom, height; /* height: of all */
    sara_scale x, y;
    double largest; /* size of points */
} sara_frame;
/* The radius of a point's mark. */
double sara_mark_radius(const sara_frame *frame, const sara_series *series, size_t index);
/* Where a point is; false: it is left out. */
bool sara_frame_point(const sara_frame *frame, const sara_series *series, size_t index, double *x,
                      double *y);
/* Which it is among those that are not faint: of that come its colour, its mark, its dashes. */
int sara_series_number(const sara_plot *plot, size_t index);
SARA_NODISCARD sara_status sara_put_mark(sara_buffer *out, int number, double x, double y,
                                         double radius);
SARA_NODISCARD sara_status sara_put_series(const sara_frame *frame, size_t index);
SARA_NODISCARD sara_status sara_put_front(const sara_frame *frame);
/* Beside points, where they cover neither each other nor marks. */
SARA_NODISCARD sara_status sara_put_labels(const sara_frame *frame);
extern const char *const sara_line_dashes[4];

#endif
