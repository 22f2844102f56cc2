/* The gradient of a weight at chosen entries alone. Activations are turned into planes, one row of
 * positions per feature, zero-padded so that each entry is one dot product of contiguous floats:
 *
 *     dw[o][i][ky][kx] = sum over p of dy_plane[o][p] * x_plane[i][p + offset(ky, kx)]
 *
 * The positions are the pixels of all images; rows and images are separated by as many zeros as a
 * tap can reach beyond them, and dy is zero in these gaps. For a stride s there are s * s planes
 * per input channel, one per phase: pixel (s * y + a, s * x + b) at (y, x) of phase (a, b). Only a
 * chunk of the positions is made at a time.
 */
#ifndef SARA_NN_SAMPLED_H
#define SARA_NN_SAMPLED_H

#include "nn/kernels.h"

/* The grid shared by the planes of dy and x, in positions; the same for every image. */
typedef struct sara_plane_grid {
    int64_t pitch;     /* of a row */
    int64_t image;     /* of an image; both with their gaps */
    int64_t positions; /* from the first pixel of dy to the last, of all images */
    int64_t lead;      /* how far before a position its taps reach */
    int64_t reach;     /* and how far beyond */
    int phases;        /* stride * stride */
} sara_plane_grid;

sara_plane_grid sara_plane_grid_of(const sara_conv_shape *shape);
/* Fills offsets [channels][kh][kw] into planes that start `lead` before dy's, `stride` floats from
 * plane to plane. */
void sara_plane_offsets(uint32_t *offsets, const sara_plane_grid *grid,
                        const sara_conv_shape *shape, int64_t channels, int64_t stride);
/* rows [count]: the pixels of dy at positions first, first + 1, ...; `zeros` in the gaps. */
void sara_plane_dy_rows(const float **rows, int64_t first, int64_t count, const float *dy,
                        const float *zeros, const sara_plane_grid *grid,
                        const sara_conv_shape *shape);
/* The same of a phase of x; first may be negative. */
void sara_plane_x_rows(const float **rows, int64_t first, int64_t count, const float *x, int phase,
                       const float *zeros, const sara_plane_grid *grid,
                       const sara_conv_shape *shape);

/* The two ways of conv_dw_sampled, and which is expected to be faster; for count > 0 and at least
 * one pixel. The first makes planes, the second all of dw and takes the entries wanted. */
SARA_NODISCARD sara_status sara_sampled_by_planes(const sara_kernel_env *env, float *dw,
                                                  const float *dy, const float *x,
                                                  const uint32_t *positions, size_t count,
                                                  const sara_conv_shape *shape);
SARA_NODISCARD sara_status sara_sampled_by_dense(const sara_kernel_env *env, float *dw,
                                                 const float *dy, const float *x,
                                                 const uint32_t *positions, size_t count,
                                                 const sara_conv_shape *shape);
bool sara_sampled_is_worth_it(const sara_conv_shape *shape, size_t count);

#endif
