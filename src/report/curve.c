/* Many points as few stretches: when they are all in use, neighbours become one. */
#include "report/report.h"

#include <math.h>

static void curve_halve(sara_curve *curve)
{
    for (size_t i = 0; i < curve->used / 2; i++) {
        const sara_stretch *a = &curve->stretches[2 * i], *b = a + 1;
        curve->stretches[i] = (sara_stretch){a->x + b->x, a->sum + b->sum, fmin(a->low, b->low),
                                             fmax(a->high, b->high), a->count + b->count};
    }
    curve->used /= 2;
    curve->per_stretch *= 2;
}

void sara_curve_add(sara_curve *curve, double x, double y)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    if (curve->per_stretch == 0)
        curve->per_stretch = 1;
    if (curve->points == curve->per_stretch * SARA_CURVE_STRETCHES)
        curve_halve(curve);
    if (curve->points++ % curve->per_stretch == 0)
        curve->stretches[curve->used++] = (sara_stretch){0, 0, y, y, 0};
    sara_stretch *last = &curve->stretches[curve->used - 1];
    last->x += x;
    last->sum += y;
    last->low = fmin(last->low, y);
    last->high = fmax(last->high, y);
    last->count++;
}

size_t sara_curve_raw(const sara_curve *curve, double *raw_x, double *raw_y)
{
    size_t count = 0;
    for (size_t i = 0; i < curve->used; i++) {
        const sara_stretch *s = &curve->stretches[i];
        for (int end = 0; end < (s->count > 1 ? 2 : 1); end++) {
            raw_x[count] = s->x / (double)s->count;
            raw_y[count++] = end ? s->high : s->low;
        }
    }
    return count;
}

size_t sara_curve_smooth(const sara_curve *curve, double *x, double *y, double share)
{
    size_t around = (size_t)(share * (double)curve->used / 2);
    around = share > 0 && around < 2 ? 2 : around;
    for (size_t i = 0; i < curve->used; i++) {
        double sum = 0;
        int64_t count = 0;
        size_t reach = around; /* the same on both sides, also at the ends */
        reach = reach > i ? i : reach;
        reach = reach > curve->used - 1 - i ? curve->used - 1 - i : reach;
        for (size_t j = i - reach; j <= i + reach; j++) {
            sum += curve->stretches[j].sum;
            count += curve->stretches[j].count;
        }
        x[i] = curve->stretches[i].x / (double)curve->stretches[i].count;
        y[i] = sum / (double)count;
    }
    return curve->used;
}
