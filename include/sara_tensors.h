/* sara on tensors that another program owns: the method (arXiv 2409.06633, sections 4.1-4.4) in
 * pieces, for training loops that have their own models and gradients. What the Python package
 * calls.
 *
 *     sara_tensors_select()    a budget -> the threshold and the positions of the entries below it
 *     sara_tensors_gather()    dense gradients -> gradients of the selected entries
 *     sara_tensors_nuclear_norm(), sara_tensors_adamw()    one step
 *     sara_adapter_write()     the result as an adapter file
 *
 * Memory is the caller's throughout; a selection and an opened adapter file are freed by their
 * own functions. Errors name the tensor.
 */
#ifndef SARA_TENSORS_H
#define SARA_TENSORS_H

#include "sara.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Entries lie row-major without gaps; a position is an index into them. Positions ascend; that the
 * last is below `entries` is checked. */
typedef struct sara_tensor_view {
    const char *name;
    const char *dtype; /* "F32", "F16" or "BF16" */
    void *data;
    int64_t entries; /* at most 4294967296 */
} sara_tensor_view;

/* ---------------------------------------------------------------------------------- selection */

typedef enum sara_budget_kind {
    SARA_BUDGET_THRESHOLD, /* more than 0 */
    SARA_BUDGET_FRACTION,  /* of all entries, in (0, 1] */
    SARA_BUDGET_COUNT      /* at least 1 */
} sara_budget_kind;

typedef struct sara_tensor_selection sara_tensor_selection;
/* The entries with |p| < (float)threshold, strictly, so that ties may leave a count short;
 * *threshold: what the budget comes to. *out: sara_tensors_selection_free(). NaN or infinite
 * entries are SARA_ERROR_INPUT; a budget that selects nothing is SARA_ERROR_USAGE. */
SARA_NODISCARD sara_status sara_tensors_select(sara_context *ctx, sara_tensor_selection **out,
                                               double *threshold, const sara_tensor_view *tensors,
                                               size_t count, sara_budget_kind kind, double value);
void sara_tensors_selection_free(sara_context *ctx, sara_tensor_selection *selection);
/* [*count] ascending, of the tensor at index; the selection's own. */
const uint32_t *sara_tensors_positions(const sara_tensor_selection *selection, size_t index,
                                       size_t *count);
/* 1e-3 exp(-350 threshold), the method's default. */
double sara_default_learning_rate(double threshold);

/* --------------------------------------------------------------------------------------- step */

/* The selected entries of one tensor; arrays [count]. */
typedef struct sara_tensor_entries {
    sara_tensor_view tensor; /* gets the values, rounded to nearest even */
    const uint32_t *positions;
    size_t count;
    float *values; /* float32 masters */
    float *moment1, *moment2;
    const float *gradient; /* NULL: zero */
    const float *rank;     /* the low-rank term's, added after clipping; NULL: none */
    int64_t *marks;        /* [count / SARA_TENSOR_BLOCK, rounded up] of the values as they were put
                            * into the tensor last; NULL: what the tensor holds is not looked at */
} sara_tensor_entries;

/* Values and tensor are the other program's, which may write to either. A mark tells whether a
 * block of values has been: it is the sum of their bits as int32 times weights [SARA_TENSOR_BLOCK],
 * ((i + 1) 2654435761 mod 2^31) | 1, modulo 2^64. */
#define SARA_TENSOR_BLOCK 256
void sara_tensors_marks(int64_t *marks, const float *values, size_t count);
/* Where an entry of the tensor is no longer its value rounded, and the mark tells that the values
 * were not written, the tensor's is taken; where they were, they stay. */
SARA_NODISCARD sara_status sara_tensors_follow(sara_context *ctx, const sara_tensor_entries *items,
                                               size_t count);

/* gradient[i] = dense.data[positions[i]], or += */
typedef struct sara_tensor_gathering {
    sara_tensor_view dense;
    const uint32_t *positions; /* [count] */
    size_t count;
    float *gradient; /* [count] */
    int64_t adds;    /* not 0: to the gradient, which need hold nothing otherwise */
} sara_tensor_gathering;
/* Nothing is written if one of them is refused. */
SARA_NODISCARD sara_status sara_tensors_gather(sara_context *ctx,
                                               const sara_tensor_gathering *items, size_t count);
/* L2 norm of all of them together, gradient [i] having counts [i] entries; summed in double in an
 * order that does not depend on the number of threads. */
SARA_NODISCARD sara_status sara_tensors_norm(sara_context *ctx, double *norm,
                                             const float *const *gradients, const size_t *counts,
                                             size_t count);
/* Nuclear norm of the [rows, cols] matrix that is values at positions and zero elsewhere, and its
 * subgradient U V^T there [count] (section 4.2). Finite for zero and rank-deficient matrices. */
SARA_NODISCARD sara_status sara_tensors_nuclear_norm(sara_context *ctx, double *value,
                                                     float *subgradient, int64_t rows, int64_t cols,
                                                     const uint32_t *positions, const float *values,
                                                     size_t count);
/* Which of so many candidates (at least 1) the low-rank term takes at a step (from 0), as the
 * trainer draws it. */
size_t sara_tensors_draw(size_t candidates, uint64_t seed, uint64_t step);

typedef struct sara_adamw_options {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double scale; /* of the gradients */
    double clip;  /* and then this, at most 1 */
    int64_t step; /* since the moments were zero, from 1 */
} sara_adamw_options;
/* AdamW with decoupled weight decay: moments, values, and the tensors at the positions. Items with
 * marks are followed first, and get new ones. */
SARA_NODISCARD sara_status sara_tensors_adamw(sara_context *ctx, const sara_tensor_entries *items,
                                              size_t count, const sara_adamw_options *options);

/* ------------------------------------------------------------------------------ adapter files */

/* docs/formats.md. values are the entries' new values. */
typedef struct sara_adapter_part {
    const char *name;
    const uint32_t *positions; /* ascending */
    const float *values;
    size_t count;
} sara_adapter_part;

/* Atomically. dtype of the values: "fp32", "fp16" or "bf16". The metadata must hold sara.target and
 * sara.base_sha256; sara.format is added. Equal input gives equal bytes. */
SARA_NODISCARD sara_status sara_adapter_write(sara_context *ctx, const char *path,
                                              const sara_adapter_part *parts, size_t count,
                                              const sara_metadata *metadata, size_t metadata_count,
                                              const char *dtype);
typedef struct sara_adapter_file sara_adapter_file;
/* Reads all of it, strictly. *out: sara_adapter_close(). */
SARA_NODISCARD sara_status sara_adapter_open(sara_context *ctx, sara_adapter_file **out,
                                             const char *path);
void sara_adapter_close(sara_context *ctx, sara_adapter_file *file);
/* NULL past the last; ascending by name. The file's own. */
const sara_adapter_part *sara_adapter_part_at(const sara_adapter_file *file, size_t index);
const sara_metadata *sara_adapter_metadata_at(const sara_adapter_file *file, size_t index);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
