/* The compare layer: methods, sizes, data sets and seeds beside each other (`sara compare`). */
#ifndef SARA_COMPARE_H
#define SARA_COMPARE_H

#include "io/io.h"

/* The paper's measure (arXiv 2409.06633, section 5): of row i among all rows of one model and one
 * data set (max FID - FID) / (max FID - min FID) + (CLIP - min CLIP) / (max CLIP - min CLIP); of
 * means from means. A quotient of equal rows is 0. vlhi [count]; NaN in gives NaN out, of its own
 * row alone. */
void sara_vlhi(double *vlhi, const double *fid, const double *clip, size_t count);

#endif
