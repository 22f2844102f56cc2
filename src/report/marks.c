/* Lines, points, bars, error bars and the Pareto front. */
#include "report/plot.h"

#include <math.h>
#include <stdlib.h>

double sara_mark_radius(const sara_frame *frame, const sara_series *series, size_t index)
{
    if (!series->size || !(frame->largest > 0))
        return 5;
    double share = series->size[index] / frame->largest;
    return fmax(SARA_MARK_LEAST, SARA_MARK_MOST * sqrt(share > 0 ? share : 0));
}

bool sara_frame_point(const sara_frame *frame, const sara_series *series, size_t index, double *x,
                      double *y)
{
    *x = sara_scale_at(&frame->x, series->x[index]);
    *y = sara_scale_at(&frame->y, series->y[index]);
    return isfinite(*x) && isfinite(*y);
}

sara_status sara_put_mark(sara_buffer *out, int number, double x, double y, double radius)
{
    /* A square, a diamond, and triangles up and down, of a circle's area where the radius is 1. */
    static const double shapes[4][4][2] = {
        {{-0.886, -0.886}, {0.886, -0.886}, {0.886, 0.886}, {-0.886, 0.886}},
        {{0, -1.253}, {1.253, 0}, {0, 1.253}, {-1.253, 0}},
        {{0, -1.555}, {1.347, 0.778}, {-1.347, 0.778}, {0, -1.555}},
        {{0, 1.555}, {-1.347, -0.778}, {1.347, -0.778}, {0, 1.555}}};
    sara_status status;
    if (number % 5 == 0)
        return sara_put_format(out, "<circle class=\"m\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", x,
                               y, radius);
    TRY(sara_buffer_put(out, "<path class=\"m\" d=\""));
    for (int i = 0; i < 4; i++) {
        const double *corner = shapes[number % 5 - 1][i];
        TRY(sara_put_format(out, "%c%.1f,%.1f", i ? 'L' : 'M', x + radius * corner[0],
                            y + radius * corner[1]));
    }
    TRY(sara_buffer_put(out, "Z\"/>"));
done:
    return status;
}

/* A line breaks where a point is left out. */
static sara_status put_path(const sara_frame *f, const sara_series *s, int number)
{
    sara_buffer *p = &f->page->text;
    bool on = false;
    sara_status status;
    TRY(sara_put_format(p, "<path class=\"l%s\" stroke-dasharray=\"%s\" d=\"",
                        s->faint ? " faint" : "", sara_line_dashes[number % 4]));
    for (size_t i = 0; i < s->count; i++) {
        double x, y;
        bool here = sara_frame_point(f, s, i, &x, &y);
        if (here)
            TRY(sara_put_format(p, "%c%.1f,%.1f", on ? 'L' : 'M', x, y));
        on = here;
    }
    TRY(sara_buffer_put(p, "\"/>\n"));
done:
    return status;
}

/* A pixel of a value, within the frame where the axis does not reach so far. */
static double clamped(const sara_scale *scale, double value)
{
    double at = sara_scale_at(scale, value), low = fmin(scale->from, scale->to);
    return isnan(at) ? scale->from : fmin(fmax(at, low), fmax(scale->from, scale->to));
}

static sara_status put_errors(const sara_frame *f, const sara_series *s, size_t i, double x,
                              double y)
{
    sara_buffer *p = &f->page->text;
    sara_status status = SARA_OK;
    if (s->spread && s->spread[i] > 0) {
        double a = clamped(&f->y, s->y[i] - s->spread[i]);
        double b = clamped(&f->y, s->y[i] + s->spread[i]);
        TRY(sara_put_format(p, "<path class=\"e\" d=\"M%.1f,%.1fV%.1fM%.1f,%.1fh8M%.1f,%.1fh8\"/>",
                            x, a, b, x - 4, a, x - 4, b));
    }
    if (s->spread_x && s->spread_x[i] > 0) {
        double a = clamped(&f->x, s->x[i] - s->spread_x[i]);
        double b = clamped(&f->x, s->x[i] + s->spread_x[i]);
        TRY(sara_put_format(p, "<path class=\"e\" d=\"M%.1f,%.1fH%.1fM%.1f,%.1fv8M%.1f,%.1fv8\"/>",
                            a, y, b, a, y - 4, b, y - 4));
    }
done:
    return status;
}

/* Its label, where it has one, is shown when one points at it. */
static sara_status put_point(const sara_frame *f, const sara_series *s, size_t i, int number)
{
    sara_buffer *p = &f->page->text;
    double x, y;
    sara_status status = SARA_OK;
    if (!sara_frame_point(f, s, i, &x, &y))
        goto done;
    TRY(put_errors(f, s, i, x, y));
    TRY(sara_buffer_put(p, s->faint ? "<g class=\"faint\">" : "<g>"));
    if (s->labels && s->labels[i]) {
        TRY(sara_buffer_put(p, "<title>"));
        TRY(sara_put_escaped(p, s->labels[i]));
        TRY(sara_buffer_put(p, "</title>"));
    }
    TRY(sara_put_mark(p, number, x, y, sara_mark_radius(f, s, i)));
    TRY(sara_buffer_put(p, "</g>\n"));
done:
    return status;
}

/* ----------------------------------------------------------------------------------------- bars */

/* Pixels between neighbouring bars of a series. */
static double bar_slot(const sara_frame *f)
{
    double slot = 60;
    if (f->plot->y.names)
        return (f->bottom - f->top) / (double)f->plot->y.name_count;
    for (size_t i = 0; i < f->plot->series_count; i++) {
        const sara_series *s = &f->plot->series[i];
        for (size_t j = 1; j < s->count && s->mark == SARA_MARK_BAR; j++) {
            double step = fabs(sara_scale_at(&f->x, s->x[j]) - sara_scale_at(&f->x, s->x[j - 1]));
            slot = step > 0 ? fmin(slot, step) : slot;
        }
    }
    return slot;
}

/* Which of the series of bars it is, and how many there are. */
static int bar_number(const sara_plot *plot, size_t index, int *count)
{
    int number = 0;
    *count = 0;
    for (size_t i = 0; i < plot->series_count; i++) {
        number += i < index && plot->series[i].mark == SARA_MARK_BAR;
        *count += plot->series[i].mark == SARA_MARK_BAR;
    }
    return number;
}

static sara_status put_bars(const sara_frame *f, const sara_series *s, size_t index)
{
    sara_buffer *p = &f->page->text;
    int count, number = bar_number(f->plot, index, &count);
    double slot = bar_slot(f) * 0.86, width = slot / count;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < s->count; i++) {
        double x, y, left, top, right, bottom;
        if (!sara_frame_point(f, s, i, &x, &y))
            continue;
        double start = -slot / 2 + width * number;
        if (f->plot->y.names) {
            double zero = clamped(&f->x, 0);
            left = fmin(zero, x), right = fmax(zero, x), top = y + start, bottom = top + width;
        } else {
            double zero = clamped(&f->y, 0);
            top = fmin(zero, y), bottom = fmax(zero, y), left = x + start, right = left + width;
        }
        TRY(sara_put_format(
            p, "<rect class=\"b\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", left,
            top, right - left, bottom - top));
        TRY(put_errors(f, s, i, f->plot->y.names ? x : (left + right) / 2,
                       f->plot->y.names ? (top + bottom) / 2 : y));
    }
done:
    return status;
}

sara_status sara_put_series(const sara_frame *f, size_t index)
{
    const sara_series *s = &f->plot->series[index];
    sara_buffer *p = &f->page->text;
    int number = sara_series_number(f->plot, index);
    sara_status status;
    TRY(sara_put_format(p, "<g class=\"s%d\">", number % 8));
    if (s->mark == SARA_MARK_LINE)
        TRY(put_path(f, s, number));
    if (s->mark == SARA_MARK_BAR)
        TRY(put_bars(f, s, index));
    for (size_t i = 0; i < s->count && s->mark == SARA_MARK_POINT; i++)
        TRY(put_point(f, s, i, number));
    for (size_t i = 0; i < s->count && s->mark == SARA_MARK_LINE; i++) {
        double x, y;
        if (sara_frame_point(f, s, i, &x, &y))
            TRY(put_errors(f, s, i, x, y));
    }
    TRY(sara_buffer_put(p, "</g>\n"));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- front */

typedef struct front_point {
    double x, y;
} front_point;

static int front_by_x(const void *a, const void *b)
{
    const front_point *p = a, *q = b;
    return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

/* How much better than another a value is; pixels of the upright axis fall. */
static double gain(const sara_axis *axis, double value, double other, bool upright)
{
    double more = upright ? other - value : value - other;
    return axis->better == SARA_BETTER_HIGH ? more : -more;
}

static bool front_has(const sara_plot *plot, const front_point *points, size_t count, size_t index)
{
    const front_point *p = &points[index];
    for (size_t i = 0; i < count; i++) {
        double x = gain(&plot->x, points[i].x, p->x, false);
        double y = gain(&plot->y, points[i].y, p->y, true);
        if (x >= 0 && y >= 0 && (x > 0 || y > 0 || i < index))
            return false;
    }
    return true;
}

sara_status sara_put_front(const sara_frame *f)
{
    sara_buffer *p = &f->page->text;
    front_point *points = NULL;
    size_t capacity = 0, count = 0;
    bool on = false;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < f->plot->series_count; i++) {
        const sara_series *s = &f->plot->series[i];
        for (size_t j = 0; j < s->count && s->mark == SARA_MARK_POINT && !s->faint; j++) {
            TRY(sara_grow(p->ctx, &points, &capacity, count + 1, sizeof(*points)));
            count += sara_frame_point(f, s, j, &points[count].x, &points[count].y);
        }
    }
    if (count == 0)
        goto done;
    qsort(points, count, sizeof(*points), front_by_x);
    TRY(sara_buffer_put(p, "<path class=\"front\" d=\""));
    for (size_t i = 0; i < count; i++) {
        if (!front_has(f->plot, points, count, i))
            continue;
        if (!on)
            TRY(sara_put_format(p, "M%.1f,%.1f", points[i].x, points[i].y));
        else if (f->plot->x.better == SARA_BETTER_LOW)
            TRY(sara_put_format(p, "H%.1fV%.1f", points[i].x, points[i].y));
        else
            TRY(sara_put_format(p, "V%.1fH%.1f", points[i].y, points[i].x));
        on = true;
    }
    TRY(sara_buffer_put(p, "\"/>\n"));
done:
    sara_free(p->ctx, points);
    return status;
}
