/* Magnitudes of float32 values as integers: for finite values their order is that of the bits
 * without the sign, so that comparisons are exact even where the processor flushes subnormals. */
#ifndef SARA_SPARSE_MAGNITUDE_H
#define SARA_SPARSE_MAGNITUDE_H

#include "sparse/sparse.h"

#define SARA_MAGNITUDE_INFINITY 0x7F800000u /* NaN lies above */

static inline uint32_t sara_magnitude(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits & 0x7FFFFFFFu;
}

static inline float sara_magnitude_value(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* The magnitude of (float)threshold; an entry is selected if its own is below. */
uint32_t sara_threshold_magnitude(double threshold);

/* Values that belong to entries of a parameter, the set's at `index`: where they lie, or made in
 * the buffer. */
typedef const float *(*sara_block_fn)(const void *user, float *buffer, const sara_param *param,
                                      size_t index, size_t first, size_t count);
/* What entries are ranked by, as many values as the parameters have entries. */
typedef struct sara_ranking {
    const sara_params *params;
    bool reads; /* the block function is to have parameters whose values the host can read */
    sara_block_fn block;
    const void *user;
} sara_ranking;
/* A part of the ranking's parameters, as sara_params_read_from() has it. */
SARA_NODISCARD sara_status sara_ranking_read(sara_context *ctx, sara_params *copy,
                                             const sara_ranking *ranking, size_t first);
void sara_ranking_read_end(sara_context *ctx, sara_params *copy, const sara_ranking *ranking,
                           size_t first);
/* fn of every parameter, the set's at `index`, by several threads. */
typedef void (*sara_ranking_fn)(void *user, const sara_param *param, size_t index);
SARA_NODISCARD sara_status sara_ranking_each(sara_context *ctx, const sara_ranking *ranking,
                                             sara_ranking_fn fn, void *user);
/* The parameters' own values. */
sara_ranking sara_ranking_of_values(const sara_params *params);
/* The magnitude that has `rank` smaller or equal ones before it in ascending order, exactly.
 * Parameters that are not finite are SARA_ERROR_INPUT where such a value is met. */
SARA_NODISCARD sara_status sara_magnitude_select(sara_context *ctx, uint32_t *magnitude,
                                                 const sara_ranking *ranking, int64_t rank);

/* The memory of the positions of all items, whose counts add up to the total. */
SARA_NODISCARD sara_status sara_selection_alloc(sara_context *ctx, sara_selection *selection);

#endif
