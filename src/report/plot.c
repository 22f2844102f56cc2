/* A plot: its frame, axes and legend; marks.c and labels.c fill it. */
#include "report/plot.h"

#include <math.h>

#define PLOT_TOP   10.0
#define PLOT_BODY  270.0 /* height of a frame with numbers on both axes */
#define PLOT_RIGHT 26.0
#define PLOT_BELOW 44.0

const char *const sara_line_dashes[4] = {"none", "7 3", "2 3", "9 3 2 3"};

int sara_series_number(const sara_plot *plot, size_t index)
{
    int number = 0;
    for (size_t i = 0; i < index; i++)
        number += !plot->series[i].faint;
    return number;
}

static bool plot_has(const sara_plot *plot, sara_mark mark)
{
    for (size_t i = 0; i < plot->series_count; i++)
        if (plot->series[i].mark == mark)
            return true;
    return false;
}

static bool plot_has_front(const sara_plot *plot)
{
    return plot->x.better != SARA_BETTER_NONE && plot->y.better != SARA_BETTER_NONE;
}

/* ---------------------------------------------------------------------------------------- frame */

static void plot_add_extents(const sara_plot *plot, sara_extent *x, sara_extent *y)
{
    for (size_t i = 0; i < plot->series_count; i++) {
        const sara_series *s = &plot->series[i];
        for (size_t j = 0; j < s->count; j++) {
            double dx = s->spread_x && isfinite(s->spread_x[j]) ? s->spread_x[j] : 0;
            double dy = s->spread && isfinite(s->spread[j]) ? s->spread[j] : 0;
            if (!isfinite(s->x[j]) || !isfinite(s->y[j]))
                continue;
            for (int side = -1; side <= 1; side++) {
                sara_extent_add(x, s->x[j] + side * dx, plot->x.log);
                sara_extent_add(y, s->y[j] + side * dy, plot->y.log);
            }
        }
    }
    for (size_t i = 0; i < plot->rule_count; i++)
        sara_extent_add(x, plot->rules[i].x, plot->x.log);
}

/* Pixels that marks need at the ends of an axis. */
static double plot_padding(const sara_plot *plot, bool across)
{
    double pad = plot_has(plot, SARA_MARK_LINE) ? 6 : 0;
    for (size_t i = 0; i < plot->series_count; i++) {
        const sara_series *s = &plot->series[i];
        if (s->mark == SARA_MARK_POINT)
            pad = fmax(pad, s->size ? SARA_MARK_MOST + 3 : 10);
        if (s->mark == SARA_MARK_BAR && across && !plot->y.names)
            pad = fmax(pad, 250.0 / fmax((double)s->count, 4));
    }
    return across || !plot_has(plot, SARA_MARK_BAR) ? pad : fmax(pad, 4);
}

/* An axis from zero on which points near zero would hide the ticks' texts: they get room there. */
static void give_zero_room(const sara_plot *plot, sara_axis *axis, sara_extent *extent, double pad,
                           double length)
{
    if (!axis->zero || axis->log || !plot_has(plot, SARA_MARK_POINT) ||
        plot_has(plot, SARA_MARK_BAR) || !(extent->low >= 0) ||
        extent->low > extent->high * pad / length)
        return;
    axis->zero = false;
    extent->low = 0;
}

static void frame_make_y(sara_frame *f, sara_extent extent)
{
    const sara_axis *axis = &f->plot->y;
    sara_axis upright = *axis;
    if (axis->names) {
        f->y = (sara_scale){
            .low = -0.5, .high = (double)axis->name_count - 0.5, .from = f->top, .to = f->bottom};
        return;
    }
    f->y = (sara_scale){.from = f->bottom, .to = f->top};
    upright.zero = axis->zero || plot_has(f->plot, SARA_MARK_BAR);
    give_zero_room(f->plot, &upright, &extent, plot_padding(f->plot, false), f->bottom - f->top);
    sara_scale_make(&f->y, &upright, extent, plot_padding(f->plot, false), 6);
}

static double frame_left(const sara_frame *f)
{
    const sara_axis *axis = &f->plot->y;
    int columns = 0;
    char text[32];
    for (size_t i = 0; axis->names && i < axis->name_count; i++) {
        int name = sara_text_columns(axis->names[i]);
        columns = name > columns ? name : columns;
    }
    for (int i = 0; i < f->y.tick_count; i++) {
        sara_tick_text(text, f->y.ticks, f->y.tick_count, i, f->y.log);
        int tick = sara_text_columns(text);
        columns = tick > columns ? tick : columns;
    }
    return 30 + SARA_TEXT_EM * (columns > 24 ? 24 : columns);
}

/* The row above the frame that a rule's name stands in, and its middle. */
static int rule_place(const sara_frame *f, size_t index, double *middle)
{
    double ends[8] = {0};
    int row = 0;
    for (size_t i = 0; i <= index; i++) {
        double half = SARA_TEXT_EM * sara_text_columns(f->plot->rules[i].label) / 2;
        *middle = sara_scale_at(&f->x, f->plot->rules[i].x);
        *middle = fmin(fmax(*middle, f->left + half), f->right + PLOT_RIGHT - half);
        for (row = 0; row < 7 && ends[row] > *middle - half; row++)
            continue;
        ends[row] = *middle + half + 6;
    }
    return row;
}

static void frame_make(sara_frame *f)
{
    const sara_plot *plot = f->plot;
    sara_extent x = {INFINITY, -INFINITY}, y = x;
    sara_axis across = plot->x;
    double middle, body = PLOT_BODY;
    int rows = 0;
    if (plot->y.names) {
        int bars = sara_series_number(plot, plot->series_count);
        body = (double)plot->y.name_count * (bars > 1 ? 10 * bars + 8 : 20);
        across.zero = true;
    }
    plot_add_extents(plot, &x, &y);
    f->top = PLOT_TOP;
    f->bottom = f->top + body;
    frame_make_y(f, y); /* its ticks' width moves the frame */
    f->left = frame_left(f);
    f->right = SARA_PLOT_WIDTH - PLOT_RIGHT;
    f->x = (sara_scale){.from = f->left, .to = f->right};
    give_zero_room(plot, &across, &x, plot_padding(plot, true), f->right - f->left);
    sara_scale_make(&f->x, &across, x, plot_padding(plot, true), 7);
    for (size_t i = 0; i < plot->rule_count; i++)
        rows = (int)fmax(rows, rule_place(f, i, &middle) + 1);
    f->top += rows * SARA_TEXT_LINE;
    f->bottom = f->top + body;
    f->height = f->bottom + PLOT_BELOW;
    frame_make_y(f, y);
    for (size_t i = 0; i < plot->series_count; i++)
        for (size_t j = 0; plot->series[i].size && j < plot->series[i].count; j++)
            f->largest = fmax(f->largest, plot->series[i].size[j]);
}

/* ----------------------------------------------------------------------------------------- axes */

static sara_status put_line(sara_buffer *p, const char *class, double x1, double y1, double x2,
                            double y2)
{
    return sara_put_format(p,
                           "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
                           class, x1, y1, x2, y2);
}

static sara_status put_svg_text(sara_buffer *p, const char *place, const char *text, int columns)
{
    sara_status status;
    TRY(sara_put_format(p, "<text %s>", place));
    TRY(sara_put_cut(p, text, columns));
    TRY(sara_buffer_put(p, "</text>\n"));
done:
    return status;
}

static sara_status put_x_ticks(const sara_frame *f)
{
    sara_buffer *p = &f->page->text;
    char text[32], place[96];
    double end = -1e9;
    sara_status status = SARA_OK;
    for (int i = 0; i < f->x.tick_count; i++) {
        double x = sara_scale_at(&f->x, f->x.ticks[i]);
        TRY(put_line(p, "gridline", x, f->top, x, f->bottom));
        sara_tick_text(text, f->x.ticks, f->x.tick_count, i, f->x.log);
        double half = SARA_TEXT_EM * sara_text_columns(text) / 2;
        if (x - half < end + 4)
            continue;
        end = x + half;
        sara_print(place, sizeof(place), "x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"", x,
                   f->bottom + 16);
        TRY(put_svg_text(p, place, text, 32));
    }
done:
    return status;
}

static sara_status put_y_ticks(const sara_frame *f)
{
    const sara_axis *axis = &f->plot->y;
    sara_buffer *p = &f->page->text;
    char text[32], place[96];
    int count = axis->names ? (int)axis->name_count : f->y.tick_count;
    sara_status status = SARA_OK;
    for (int i = 0; i < count; i++) {
        double y = sara_scale_at(&f->y, axis->names ? i : f->y.ticks[i]);
        if (!axis->names) {
            sara_tick_text(text, f->y.ticks, count, i, f->y.log);
            TRY(put_line(p, "gridline", f->left, y, f->right, y));
        }
        sara_print(place, sizeof(place), "x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\"", f->left - 6,
                   y + 4.5);
        TRY(put_svg_text(p, place, axis->names ? axis->names[i] : text, 24));
    }
done:
    return status;
}

/* The label with which direction is better; the upright axis' text is turned with it. */
static sara_status put_axis_label(sara_buffer *p, const sara_axis *axis, const char *place,
                                  double length)
{
    const char *hint = axis->better == SARA_BETTER_LOW    ? "  (← better)"
                       : axis->better == SARA_BETTER_HIGH ? "  (better →)"
                                                          : "";
    sara_name label = sara_name_of("%.150s%s", axis->label ? axis->label : "", hint);
    return put_svg_text(p, place, label.text, (int)(length / SARA_TEXT_EM));
}

static sara_status put_axes(const sara_frame *f)
{
    sara_buffer *p = &f->page->text;
    char place[128];
    sara_status status;
    TRY(put_x_ticks(f));
    TRY(put_y_ticks(f));
    TRY(put_line(p, "axis", f->left, f->bottom, f->right, f->bottom));
    TRY(put_line(p, "axis", f->left, f->top, f->left, f->bottom));
    sara_print(place, sizeof(place), "x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"",
               (f->left + f->right) / 2, f->bottom + 36);
    TRY(put_axis_label(p, &f->plot->x, place, f->right - f->left));
    sara_print(place, sizeof(place),
               "transform=\"translate(13,%.1f) rotate(-90)\" text-anchor=\"middle\"",
               (f->top + f->bottom) / 2);
    TRY(put_axis_label(p, &f->plot->y, place, f->bottom - f->top));
done:
    return status;
}

static sara_status put_rules(const sara_frame *f)
{
    sara_buffer *p = &f->page->text;
    char place[96];
    sara_status status = SARA_OK;
    for (size_t i = 0; i < f->plot->rule_count; i++) {
        double middle, x = sara_scale_at(&f->x, f->plot->rules[i].x);
        if (isnan(x))
            continue;
        double y = f->top - 4 - SARA_TEXT_LINE * rule_place(f, i, &middle);
        TRY(put_line(p, "rule", x, y + 2, x, f->bottom));
        sara_print(place, sizeof(place), "x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"", middle, y);
        TRY(put_svg_text(p, place, f->plot->rules[i].label, 40));
    }
done:
    return status;
}

/* --------------------------------------------------------------------------------------- legend */

static sara_status put_swatch(sara_buffer *p, const sara_series *s, int number)
{
    sara_status status;
    TRY(sara_put_format(p, "<li><svg viewBox=\"0 0 26 14\" aria-hidden=\"true\" class=\"s%d\">",
                        number % 8));
    if (s->mark == SARA_MARK_LINE)
        TRY(sara_put_format(p, "<path class=\"l%s\" stroke-dasharray=\"%s\" d=\"M1,7L25,7\"/>",
                            s->faint ? " faint" : "", sara_line_dashes[number % 4]));
    else if (s->mark == SARA_MARK_POINT)
        TRY(sara_put_mark(p, number, 13, 7, 5));
    else
        TRY(sara_buffer_put(p, "<rect class=\"b\" x=\"3\" y=\"2\" width=\"20\" height=\"10\"/>"));
    TRY(sara_buffer_put(p, "</svg><span dir=\"auto\">"));
    TRY(sara_put_escaped(p, s->name));
    TRY(sara_buffer_put(p, "</span></li>"));
done:
    return status;
}

static sara_status put_legend(sara_page *page, const sara_plot *plot)
{
    sara_buffer *p = &page->text;
    int named = plot_has_front(plot) || plot->size_name ? 2 : 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < plot->series_count; i++)
        named += plot->series[i].name != NULL;
    if (named < 2)
        goto done;
    TRY(sara_buffer_put(p, "<ul class=\"legend\">"));
    for (size_t i = 0; i < plot->series_count; i++)
        if (plot->series[i].name)
            TRY(put_swatch(p, &plot->series[i], sara_series_number(plot, i)));
    if (plot_has_front(plot))
        TRY(sara_buffer_put(p, "<li><svg viewBox=\"0 0 26 14\" aria-hidden=\"true\"><path "
                               "class=\"front\" d=\"M1,7L25,7\"/></svg>Pareto front</li>"));
    if (plot->size_name) {
        TRY(sara_buffer_put(p, "<li>area of a mark: "));
        TRY(sara_put_escaped(p, plot->size_name));
        TRY(sara_buffer_put(p, "</li>"));
    }
    TRY(sara_buffer_put(p, "</ul>\n"));
done:
    return status;
}

static sara_status put_svg_head(const sara_frame *f)
{
    sara_buffer *p = &f->page->text;
    int id = f->page->plots;
    sara_status status;
    TRY(sara_put_format(p,
                        "<svg viewBox=\"0 0 %g %g\" "
                        "role=\"img\" aria-labelledby=\"t%d d%d\"><title id=\"t%d\">",
                        SARA_PLOT_WIDTH, f->height, id, id, id));
    TRY(sara_put_escaped(p, f->plot->title));
    TRY(sara_put_format(p, "</title><desc id=\"d%d\">", id));
    TRY(sara_put_escaped(p, f->plot->alt));
    TRY(sara_buffer_put(p, "</desc>\n"));
done:
    return status;
}

/* Faint series first, then bars, lines and points in their order. */
static sara_status put_all_series(const sara_frame *f)
{
    bool any = false;
    sara_status status = SARA_OK;
    for (int faint = 1; faint >= 0; faint--)
        for (size_t i = 0; i < f->plot->series_count; i++) {
            const sara_series *s = &f->plot->series[i];
            double x, y;
            for (size_t j = 0; j < s->count && !any; j++)
                any = sara_frame_point(f, s, j, &x, &y);
            if (s->faint == (faint == 1))
                TRY(sara_put_series(f, i));
        }
    if (!any)
        TRY(sara_put_format(&f->page->text,
                            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">no values</text>",
                            (f->left + f->right) / 2, (f->top + f->bottom) / 2));
done:
    return status;
}

sara_status sara_page_plot(sara_page *page, const sara_plot *plot)
{
    sara_frame f = {.page = page, .plot = plot};
    sara_buffer *p = &page->text;
    sara_status status;
    page->plots++;
    frame_make(&f);
    TRY(sara_buffer_put(p, "<figure class=\"plot\"><figcaption dir=\"auto\">"));
    TRY(sara_put_escaped(p, plot->title));
    TRY(sara_buffer_put(p, "</figcaption>\n"));
    TRY(put_legend(page, plot));
    TRY(put_svg_head(&f));
    TRY(put_axes(&f));
    TRY(put_rules(&f));
    TRY(put_all_series(&f));
    if (plot_has_front(plot))
        TRY(sara_put_front(&f));
    TRY(sara_put_labels(&f));
    TRY(sara_buffer_put(p, "</svg></figure>\n"));
done:
    return status;
}
