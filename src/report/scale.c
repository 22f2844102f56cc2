/* Ranges, ticks and their texts. */
#include "report/plot.h"

#include <math.h>
#include <stdio.h>
#include <utf8proc.h>

/* The smallest of 1, 2, 5 times a power of ten that is not below. */
static double nice_step(double least)
{
    static const double steps[] = {1, 2, 5, 10};
    double power = pow(10, floor(log10(least)));
    for (int i = 0; i < 4; i++)
        if (steps[i] * power >= least * (1 - 1e-9))
            return steps[i] * power;
    return 10 * power;
}

static int linear_ticks(double *ticks, double low, double high, bool whole, int most)
{
    double step = nice_step((high - low) / most);
    int count = 0;
    step = whole && step < 1 ? 1 : step;
    double first = ceil(low / step - 1e-9);
    for (int i = 0; i < SARA_MAX_TICKS && (first + i) * step <= high + 1e-9 * step; i++)
        ticks[count++] = (first + i) * step + 0.0;
    return count;
}

/* At which of 1..9 times each decade, from many to few, there may be ticks. */
static int log_ticks(double *ticks, double low, double high, int most)
{
    static const char *const rows[] = {"123456789", "125", "13", "1"};
    int from = (int)floor(log10(low) + 1e-9), to = (int)floor(log10(high) + 1e-9), count = 0;
    for (int row = 0; row < 4; row++) {
        count = 0;
        for (int decade = from; decade <= to; decade++)
            for (const char *digit = rows[row]; *digit; digit++) {
                double value = (*digit - '0') * pow(10, decade);
                bool within = value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9);
                if (within && count < SARA_MAX_TICKS)
                    ticks[count++] = value;
            }
        if (count <= most)
            return count;
    }
    int every = (count + most - 1) / most, kept = 0;
    for (int i = 0; i < count; i += every)
        ticks[kept++] = ticks[i];
    return kept;
}

int sara_ticks(double ticks[SARA_MAX_TICKS], double low, double high, bool log, bool whole,
               int most)
{
    if (!(high > low))
        return 0;
    if (!log)
        return linear_ticks(ticks, low, high, whole, most);
    int count = log_ticks(ticks, low, high, most);
    return count < 2 ? linear_ticks(ticks, low, high, false, most) : count;
}

/* "1e+06" is "1e6". */
static void shorten_exponent(char *text)
{
    char *at = strchr(text, 'e');
    if (!at)
        return;
    char *from = ++at;
    if (*from == '-')
        at++;
    from += strspn(from, "+-0");
    memmove(at, from, strlen(from) + 1);
}

void sara_tick_text(char text[32], const double *ticks, int count, int index, bool log)
{
    double value = ticks[index], most = 0, step = count > 1 ? fabs(ticks[1] - ticks[0]) : 0;
    for (int i = 0; i < count; i++)
        most = fmax(most, fabs(ticks[i]));
    if (log || !(step > 0)) {
        sara_print(text, 32, "%.4g", value);
    } else if (most >= 1e6 || step < 1e-4) { /* as many digits as tell neighbours apart */
        int digits = (int)floor(log10(most)) - (int)floor(log10(step)) + 1;
        sara_print(text, 32, "%.*g", digits > 15 ? 15 : digits, value);
    } else {
        int digits = (int)ceil(-log10(step) - 1e-9);
        sara_print(text, 32, "%.*f", digits > 0 ? digits : 0, value);
    }
    shorten_exponent(text);
}

void sara_extent_add(sara_extent *extent, double value, bool log)
{
    if (!isfinite(value) || (log && !(value > 0)))
        return;
    extent->low = fmin(extent->low, value);
    extent->high = fmax(extent->high, value);
}

void sara_scale_make(sara_scale *scale, const sara_axis *axis, sara_extent extent, double pad,
                     int most_ticks)
{
    double low = extent.low, high = extent.high;
    scale->log = axis->log;
    if (low > high)
        low = axis->log ? 1 : 0, high = axis->log ? 10 : 1;
    if (axis->log)
        low = log10(low), high = log10(high);
    else if (axis->zero)
        low = fmin(low, 0), high = fmax(high, 0);
    if (!(high - low > 1e-12 * fmax(fabs(low), fabs(high)))) { /* one value stands in the middle */
        double reach = low != 0 && !axis->log ? fabs(low) / 2 : 0.5;
        low -= reach, high += reach;
    }
    double length = fabs(scale->to - scale->from), room = (high - low) * pad / (length - 2 * pad);
    scale->low = axis->zero && !axis->log && low == 0 ? 0 : low - room;
    scale->high = axis->zero && !axis->log && high == 0 ? 0 : high + room;
    if (axis->ticks) {
        for (size_t i = 0; i < axis->tick_count && i < SARA_MAX_TICKS; i++)
            scale->ticks[scale->tick_count++] = axis->ticks[i];
        return;
    }
    scale->tick_count = sara_ticks(scale->ticks, axis->log ? pow(10, scale->low) : scale->low,
                                   axis->log ? pow(10, scale->high) : scale->high, axis->log,
                                   axis->whole, most_ticks);
}

double sara_scale_at(const sara_scale *scale, double value)
{
    if (scale->log)
        value = value > 0 ? log10(value) : (double)NAN;
    if (!isfinite(value))
        return NAN;
    return scale->from +
           (value - scale->low) / (scale->high - scale->low) * (scale->to - scale->from);
}

/* ---------------------------------------------------------------------------------------- text */

int sara_text_columns(const char *text)
{
    int columns = 0;
    while (*text) {
        utf8proc_int32_t code;
        utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code);
        columns += bytes < 1 ? 1 : utf8proc_charwidth(code);
        text += bytes < 1 ? 1 : bytes;
    }
    return columns;
}

sara_status sara_put_cut(sara_buffer *out, const char *text, int columns)
{
    char cut[256];
    size_t used = 0;
    int width = 0;
    if (sara_text_columns(text) <= columns && strlen(text) < sizeof(cut))
        return sara_put_escaped(out, text);
    while (text[used]) {
        utf8proc_int32_t code;
        utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)text + used, -1, &code);
        size_t size = bytes < 1 ? 1 : (size_t)bytes;
        width += bytes < 1 ? 1 : utf8proc_charwidth(code);
        if (width >= columns || used + size > sizeof(cut) - 4)
            break;
        used += size;
    }
    memcpy(cut, text, used);
    memcpy(cut + used, "…", sizeof("…"));
    return sara_put_escaped(out, cut);
}
