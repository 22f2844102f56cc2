/* The kernels of a device: raw arrays, no tape. nn/kernel_list.h names them all. For each of them a
 * device has an ordered list of implementations, of which the first that supports a case runs.
 * A file foo_cpu.c holds the plain reference kernels KERNEL(foo_...) of an op, which stand last in
 * the lists; foo_fast.c and onednn/foo.c hold faster ones.
 */
#ifndef SARA_NN_KERNELS_H
#define SARA_NN_KERNELS_H

#include "nn/kernel_list.h"
#include "nn/nn.h"
#include "nn/real.h"
#include "nn/update.h"

/* What a kernel may need beyond its arrays. */
typedef struct sara_kernel_env {
    sara_context *ctx;
    sara_device *device; /* its state holds caches of primitives and reordered weights */
    sara_tape *tape;     /* for scratch; NULL in tests of plain kernels */
} sara_kernel_env;

/* y [rows][out] = x [rows][in] w [out][in]^T + b [out] */
typedef struct sara_linear_shape {
    int64_t rows, in, out;
} sara_linear_shape;

/* y [n][oh][ow][out], x [n][h][w][in], weight [out][in][kh][kw] */
typedef struct sara_conv_shape {
    int64_t n, h, w, in, oh, ow, out, kh, kw;
    int stride, pad_top, pad_left, pad_bottom, pad_right;
} sara_conv_shape;

/* x [n][inner][c] in `groups` groups of c / groups channels */
typedef struct sara_group_norm_shape {
    int64_t n, inner, c;
    int groups;
    real eps;
    bool silu;
} sara_group_norm_shape;

/* y [n][oh][ow][c], x [n][h][w][c]; a window lies in x with a pixel at least */
typedef struct sara_pooling_shape {
    int64_t n, h, w, c, oh, ow;
    int kh, kw, stride, padding;
} sara_pooling_shape;

typedef struct sara_attention_shape {
    int64_t n, t, s; /* queries t, keys s */
    int heads;
    int64_t dim;     /* of one head; rows are heads * dim wide */
    bool causal;
    real scale; /* of the scores; 0: 1 / sqrt(dim) */
} sara_attention_shape;

/* A layer's weight as it lies in memory: reals, F16 or BF16, which kernels convert piece by piece;
 * arithmetic is in real. */
typedef struct sara_weight_view {
    const void *data;
    sara_dtype dtype;
    const sara_param *param; /* lets a device cache what it derives from it; NULL: do not cache */
} sara_weight_view;

static inline sara_weight_view sara_weight_of(const sara_param *param)
{
    return (sara_weight_view){param->value.data, param->value.dtype, param};
}

static inline real sara_weight_at(const sara_weight_view *w, int64_t index)
{
    const uint16_t *halves = w->data;
    const real *values = w->data;
    return w->dtype == SARA_BF16  ? sara_bf16_to_f32(halves[index])
           : w->dtype == SARA_F16 ? sara_f16_to_f32(halves[index])
                                  : values[index];
}

/* What the choice of an implementation and its needs depend on; what the kernel's entry in the list
 * does not name is 0 or NULL. */
typedef struct sara_kernel_case {
    const sara_kernel_env *env;
    const sara_linear_shape *linear;
    const sara_conv_shape *conv;
    const sara_group_norm_shape *group_norm;
    const sara_attention_shape *attention;
    int64_t rows, columns; /* of kernels without a shape of their own */
    const sara_weight_view *weight;
    size_t selected; /* positions */
    bool accumulate;
} sara_kernel_case;

/* At most; what oneDNN allocates by itself is not among them, but for `primitive`. */
typedef struct sara_kernel_needs {
    size_t scratch; /* floats */
    /* Bytes that stay with the device: a frozen weight in a layout of its own, and what oneDNN
     * keeps for a shape, where it is much. */
    size_t layout, primitive;
} sara_kernel_needs;

#define SARA_UNPACK(...) __VA_ARGS__

/* sara_add_impl and so on. */
#define SARA_KERNEL_IMPL(name, parameters, arguments, ...)                                         \
    typedef struct sara_##name##_impl {                                                            \
        bool (*supports)(const sara_kernel_case *c);           /* NULL: all */                     \
        sara_kernel_needs (*needs)(const sara_kernel_case *c); /* NULL: nothing worth counting */  \
        sara_status (*run)(const sara_kernel_env *env, SARA_UNPACK parameters);                    \
    } sara_##name##_impl;
SARA_KERNEL_LIST(SARA_KERNEL_IMPL)

#define SARA_KERNEL_IMPLS 6 /* of a kernel at most, and one without `run`, which ends the list */

#define SARA_KERNEL_MEMBER(name, parameters, arguments, ...)                                       \
    sara_##name##_impl name[SARA_KERNEL_IMPLS + 1];
typedef struct sara_kernels {
    SARA_KERNEL_LIST(SARA_KERNEL_MEMBER)
} sara_kernels;

/* Puts an implementation behind those that the table has: SARA_KERNEL_ADD(table, add, .run = f). */
#define SARA_KERNEL_ADD(table, name, ...)                                                          \
    do {                                                                                           \
        sara_##name##_impl *sara_at = (table)->name;                                               \
        while (sara_at->run)                                                                       \
            sara_at++;                                                                             \
        SARA_ASSERT(sara_at < (table)->name + SARA_KERNEL_IMPLS);                                  \
        *sara_at = (sara_##name##_impl){__VA_ARGS__};                                              \
    } while (0)

/* sara_kernel_add() and so on run the first implementation on the env's device that supports the
 * case; on a dry device they only take the scratch that it would. Errors: the implementation's own,
 * SARA_ERROR_DEVICE where there is none. sara_kernel_add_needs() is what it needs. */
#define SARA_KERNEL_CALL(name, parameters, arguments, ...)                                         \
    SARA_NODISCARD sara_status sara_kernel_##name(const sara_kernel_env *env,                      \
                                                  SARA_UNPACK parameters);                         \
    sara_kernel_needs sara_kernel_##name##_needs(const sara_kernel_case *c);
SARA_KERNEL_LIST(SARA_KERNEL_CALL)

/* The plain kernels, KERNEL(add) and so on. */
#define SARA_KERNEL_PLAIN(name, parameters, arguments, ...)                                        \
    sara_status KERNEL(name)(const sara_kernel_env *env, SARA_UNPACK parameters);
SARA_KERNEL_LIST(SARA_KERNEL_PLAIN)

/* What the implementations of adamw have in common: runs cover all entries of all updates, those of
 * each thread at a time in one piece. */
typedef void sara_update_run(const sara_update *update, const sara_adamw *numbers, size_t from,
                             size_t to);
void KERNEL(each_update)(const sara_kernel_env *env, const sara_updates *updates,
                         const sara_adamw *numbers, sara_update_run *run);

/* Whether a convolution is a linear layer over all pixels: 1x1, no stride, no padding. */
bool sara_conv_is_linear(sara_linear_shape *out, const sara_conv_shape *shape);

/* The implementations, behind those that the table has. Faster ones leave to the plain ones what
 * they do not support. */
void sara_bf16_register(sara_kernels *table);
void sara_conv_linear_register(sara_kernels *table); /* convolutions that are linear layers */
void sara_fast_linear_register(sara_kernels *table);
void sara_fast_bias_register(sara_kernels *table);
void sara_fast_conv_register(sara_kernels *table);
void sara_fast_sampled_register(sara_kernels *table);
void sara_fast_norm_register(sara_kernels *table);
void sara_fast_attention_register(sara_kernels *table);
void sara_fast_pointwise_register(sara_kernels *table);
void sara_fast_update_register(sara_kernels *table);
void sara_fast_branch_register(sara_kernels *table);
void sara_plain_register(sara_kernels *table); /* of every kernel */

sara_kernel_env sara_tape_env(sara_tape *tape);
/* Adds the gradient of a bias (NULL: none), as it wants, from dy [rows][out]. */
SARA_NODISCARD sara_status sara_bias_backward(sara_tape *tape, sara_param *bias, const float *dy,
                                              int64_t rows, int64_t out);
/* Scratch of a kernel: from the tape's pool, or without a tape from the device. NULL is fine for
 * unscratch. */
SARA_NODISCARD sara_status sara_scratch(const sara_kernel_env *env, float **out, size_t count);
void sara_unscratch(const sara_kernel_env *env, float *scratch);

#endif
