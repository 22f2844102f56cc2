/* One oneDNN primitive with its memory objects, and the two caches. */
#ifndef SARA_NN_ONEDNN_OP_H
#define SARA_NN_ONEDNN_OP_H

#include "nn/onednn/onednn.h"
#include "nn/onednn/api.h"

#define SARA_ONEDNN_BUCKETS 256
/* Beyond these the least recently used ones go. */
#define SARA_ONEDNN_OPS 1024

typedef enum sara_op_kind { SARA_OP_CONV_FORWARD, SARA_OP_CONV_DX, SARA_OP_CONV_DW, SARA_OP_MATMUL }
    sara_op_kind;

/* All that a primitive depends on; no padding between the members, so that memcmp compares. */
typedef struct sara_op_key {
    int64_t kind, bias, narrow; /* narrow: multiplies bf16 */
    int64_t numbers[14]; /* of the sara_conv_shape or sara_matmul_shape */
} sara_op_key;

enum { SARA_SLOT_SRC, SARA_SLOT_WEIGHTS, SARA_SLOT_BIAS, SARA_SLOT_DST, SARA_SLOT_SCRATCH,
       SARA_SLOTS };

typedef struct sara_op {
    sara_op_key key;
    struct sara_op *next;
    uint64_t used;            /* the state's clock at the last use */
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[SARA_SLOTS]; /* handles are set at each run; NULL: no such argument */
    int argument[SARA_SLOTS]; /* DNNL_ARG_... */
    dnnl_memory_t plain;      /* convolution weights as [out][in][kh][kw] */
    dnnl_primitive_t reorder; /* plain to the weights' slot, of CONV_DW back; NULL: the same */
    size_t scratch_bytes, weight_bytes;
} sara_op;

/* A frozen parameter's weights in the layout of some op. */
typedef struct sara_cached_weights {
    struct sara_cached_weights *next;
    const sara_param *param;
    uint64_t version, used;
    dnnl_memory_t memory; /* layout and data */
    float *data;
    size_t bytes;
} sara_cached_weights;

struct sara_onednn {
    sara_context *ctx;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    uint64_t clock;
    sara_op *ops[SARA_ONEDNN_BUCKETS];
    int op_count;
    sara_cached_weights *weights[SARA_ONEDNN_BUCKETS];
    size_t weight_bytes;
};

/* The op of a key from the cache, built at first use; borrowed until the next call. */
SARA_NODISCARD sara_status sara_op_get(sara_onednn *state, sara_op **out, const sara_op_key *key);
/* build.c: fills everything that oneDNN makes; what was made before a failure is freed by
 * sara_op_free. */
dnnl_status_t sara_op_build(sara_op *op, dnnl_engine_t engine);
void sara_op_free(sara_context *ctx, sara_op *op);
SARA_NODISCARD sara_status sara_op_fail(sara_context *ctx, const sara_op_key *key,
                                        dnnl_status_t error);
sara_conv_shape sara_op_conv_shape(const sara_op_key *key);

/* weights.c: w [out][in][kh][kw] as floats in the op's layout. *scratch, if not NULL, holds
 * it and belongs to the caller. */
SARA_NODISCARD sara_status sara_op_weights(const sara_kernel_env *env, const sara_op *op,
                                           const float **out, float **scratch,
                                           const sara_weight_view *w);
SARA_NODISCARD sara_status sara_op_reorder(sara_onednn *state, const sara_op *op,
                                           const float *from, float *to);
void sara_op_weights_free(sara_onednn *state);

#endif
