/* One oneDNN primitive with its memory objects, and the two caches. */
#ifndef SARA_NN_ONEDNN_PRIMITIVE_H
#define SARA_NN_ONEDNN_PRIMITIVE_H

#include "nn/onednn/onednn.h"
#include "nn/onednn/api.h"

#define SARA_ONEDNN_BUCKETS 256
/* Beyond these the least recently used ones go. */
#define SARA_ONEDNN_OPS 1024

typedef enum sara_primitive_kind {
    SARA_PRIMITIVE_CONV_FORWARD,
    SARA_PRIMITIVE_CONV_DX,
    SARA_PRIMITIVE_CONV_DW,
    SARA_PRIMITIVE_MATMUL
} sara_primitive_kind;

/* All that a primitive depends on; no padding between the members, so that memcmp compares. */
typedef struct sara_primitive_key {
    int64_t kind, bias, narrow; /* narrow: multiplies bf16 */
    int64_t numbers[14]; /* of the sara_conv_shape or sara_matmul_shape */
} sara_primitive_key;

enum { SARA_SLOT_SRC, SARA_SLOT_WEIGHTS, SARA_SLOT_BIAS, SARA_SLOT_DST, SARA_SLOT_SCRATCH,
       SARA_SLOTS };

typedef struct sara_primitive {
    sara_primitive_key key;
    struct sara_primitive *next;
    uint64_t used;            /* the state's clock at the last use */
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[SARA_SLOTS]; /* handles are set at each run; NULL: no such argument */
    int argument[SARA_SLOTS]; /* DNNL_ARG_... */
    dnnl_memory_t plain;      /* convolution weights as [out][in][kh][kw] */
    dnnl_primitive_t reorder; /* plain to the weights' slot, of CONV_DW back; NULL: the same */
    size_t scratch_bytes, weight_bytes;
} sara_primitive;

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
    sara_primitive *ops[SARA_ONEDNN_BUCKETS];
    int op_count;
    sara_cached_weights *weights[SARA_ONEDNN_BUCKETS];
    size_t weight_bytes;
};

/* The op of a key from the cache, built at first use; borrowed until the next call. */
SARA_NODISCARD sara_status sara_primitive_get(sara_onednn *state, sara_primitive **out,
                                              const sara_primitive_key *key);
/* build.c: fills everything that oneDNN makes; what was made before a failure is freed by
 * sara_primitive_free. */
dnnl_status_t sara_primitive_build(sara_primitive *op, dnnl_engine_t engine);
void sara_primitive_free(sara_context *ctx, sara_primitive *op);
SARA_NODISCARD sara_status sara_primitive_fail(sara_context *ctx, const sara_primitive_key *key,
                                               dnnl_status_t error);
sara_conv_shape sara_primitive_conv_shape(const sara_primitive_key *key);

/* weights.c: w [out][in][kh][kw] as floats in the op's layout. *scratch, if not NULL, holds
 * it and belongs to the caller. */
SARA_NODISCARD sara_status sara_primitive_weights(const sara_kernel_env *env,
                                                  const sara_primitive *op, const float **out,
                                                  float **scratch, const sara_weight_view *w);
SARA_NODISCARD sara_status sara_primitive_reorder(sara_onednn *state, const sara_primitive *op,
                                                  const float *from, float *to);
void sara_primitive_weights_free(sara_onednn *state);

#endif
