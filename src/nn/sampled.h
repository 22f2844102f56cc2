/* The gradient of a weight at chosen entries alone. Activations are turned into planes, one row of
 * positions per feature, zero-padded so that each entry is one dot product of contiguous floats:
 *
 *     dw[o][i][ky][kx] = sum over p of dy_plane[o][p] * x_plane[i][p + offset(ky, kx)]
 *
 * A plane holds the pixels of all images of a pass; rows and images are separated by as many zeros
 * as a tap can reach beyond them, and dy is zero in these gaps. For a stride s there are s * s
 * planes per input channel, one per phase: pixel (s * y + a, s * x + b) at (y, x) of phase (a, b).
 */
#ifndef SARA_NN_SAMPLED_H
#define SARA_NN_SAMPLED_H

#include "nn/kernels.h"

/* The grid shared by the planes of dy and x, in positions; the same for every image. */
typedef struct sara_plane_grid {
    int64_t pitch, rows; /* of an image, gaps included */
    int64_t image;       /* pitch * rows */
    int64_t lead;        /* zeros before the first image of an x plane */
    int64_t reach;       /* largest offset of a tap */
    int phases;          /* stride * stride */
} sara_plane_grid;

sara_plane_grid sara_plane_grid_of(const sara_conv_shape *shape);
/* Fills offsets [in][kh][kw] into the x planes, which lie `stride` floats apart. */
void sara_plane_offsets(uint32_t *offsets, const sara_plane_grid *grid,
                        const sara_conv_shape *shape, int64_t stride);
/* All of the planes: images first .. first + images - 1 of dy and of x, and zeros. */
void sara_plane_fill_dy(float *planes, int64_t stride, const float *dy, int64_t first,
                        int64_t images, const sara_plane_grid *grid, const sara_conv_shape *shape,
                        int threads);
void sara_plane_fill_x(float *planes, int64_t stride, const float *x, int64_t first, int64_t images,
                       const sara_plane_grid *grid, const sara_conv_shape *shape, int threads);

/* dw[e] += dot of dy and x + offsets[positions[e] - row] over length, a multiple of 16, for each of
 * count entries. The sum of an entry does not depend on its neighbours. */
typedef void (*sara_dot_fn)(float *dw, const float *dy, const float *x, const uint32_t *positions,
                            size_t count, uint32_t row, const uint32_t *offsets, size_t length);
sara_dot_fn sara_dot_choose(void); /* for this processor */

/* conv_dw_sampled without a look at whether the dense gradient would be cheaper; for count > 0 and
 * at least one pixel. */
SARA_NODISCARD sara_status sara_sampled_by_planes(const sara_kernel_env *env, float *dw,
                                                  const float *dy, const float *x,
                                                  const uint32_t *positions, size_t count,
                                                  const sara_conv_shape *shape);

#endif
