/* What differs between oneDNN 2.x and 3.x, as functions of one spelling: memory descriptors became
 * opaque and operation descriptors went away. v2.c or v3.c implements them. */
#ifndef SARA_NN_ONEDNN_API_H
#define SARA_NN_ONEDNN_API_H

#include "nn/kernels.h"

#include <oneapi/dnnl/dnnl.h>

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t sara_desc_ref;
#else
typedef const dnnl_memory_desc_t *sara_desc_ref;
#endif

#define SARA_DESC_RANK 4

/* An array as oneDNN sees it; strides NULL: the layout is the primitive's choice. */
dnnl_status_t sara_desc_init(dnnl_memory_desc_t *out, dnnl_data_type_t type, int rank,
                             const dnnl_dims_t dims, const dnnl_dims_t *strides);
sara_desc_ref sara_desc_get(const dnnl_memory_desc_t *desc);
void sara_desc_clear(dnnl_memory_desc_t *desc);

typedef enum sara_conv_direction { SARA_CONV_FORWARD, SARA_CONV_DX, SARA_CONV_DW }
    sara_conv_direction;
typedef struct sara_conv_descs {
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_memory_desc_t forward_src; /* the forward convolution's, of which others are made */
    bool has_bias;
} sara_conv_descs;
dnnl_status_t sara_conv_pd(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                           sara_conv_direction direction, const sara_conv_descs *descs,
                           const sara_conv_shape *shape, const_dnnl_primitive_attr_t attr);
/* bias may be NULL */
dnnl_status_t sara_matmul_pd(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                             const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b,
                             const dnnl_memory_desc_t *bias, const dnnl_memory_desc_t *y,
                             const_dnnl_primitive_attr_t attr);
dnnl_status_t sara_post_ops_sum(dnnl_post_ops_t post_ops);
/* Whether backward data is slower than forward on channels-last images (by a third in 2.6). */
bool sara_conv_dx_is_slow(void);

#endif
