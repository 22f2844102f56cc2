#include "compare/compare.h"

#include <math.h>

/* out: the smallest and the largest finite value. */
static void vlhi_range(double *low, double *high, const double *values, size_t count)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i])) {
            *low = fmin(*low, values[i]);
            *high = fmax(*high, values[i]);
        }
}

void sara_vlhi(double *vlhi, const double *fid, const double *clip, size_t count)
{
    double fid_low, fid_high, clip_low, clip_high;
    vlhi_range(&fid_low, &fid_high, fid, count);
    vlhi_range(&clip_low, &clip_high, clip, count);
    for (size_t i = 0; i < count; i++) {
        double learned = fid_high > fid_low ? (fid_high - fid[i]) / (fid_high - fid_low) : 0;
        double kept = clip_high > clip_low ? (clip[i] - clip_low) / (clip_high - clip_low) : 0;
        vlhi[i] = isfinite(fid[i]) && isfinite(clip[i]) ? learned + kept : NAN;
    }
}
