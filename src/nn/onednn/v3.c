#include "nn/onednn/api.h"

#if DNNL_VERSION_MAJOR >= 3

dnnl_status_t sara_desc_init(dnnl_memory_desc_t *out, dnnl_data_type_t type, int rank,
                             const dnnl_dims_t dims, const dnnl_dims_t *strides)
{
    if (!strides)
        return dnnl_memory_desc_create_with_tag(out, rank, dims, type, dnnl_format_tag_any);
    return dnnl_memory_desc_create_with_strides(out, rank, dims, type, *strides);
}

sara_desc_ref sara_desc_get(const dnnl_memory_desc_t *desc)
{
    return desc ? *desc : NULL;
}

void sara_desc_clear(dnnl_memory_desc_t *desc)
{
    dnnl_memory_desc_destroy(*desc);
    *desc = NULL;
}

static const dnnl_dims_t no_dilation = {0, 0};

static dnnl_status_t v3_forward_pd(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                                   const sara_conv_descs *d, const dnnl_dims_t strides,
                                   const dnnl_dims_t before, const dnnl_dims_t after,
                                   const_dnnl_primitive_attr_t attr)
{
    return dnnl_convolution_forward_primitive_desc_create(
        out, engine, dnnl_forward_training, dnnl_convolution_direct, d->forward_src, d->weights,
        d->has_bias ? d->bias : NULL, d->dst, strides, no_dilation, before, after, attr);
}

dnnl_status_t sara_conv_pd(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                           sara_conv_direction direction, const sara_conv_descs *d,
                           const sara_conv_shape *shape, const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t strides = {shape->stride, shape->stride};
    const dnnl_dims_t before = {shape->pad_top, shape->pad_left};
    const dnnl_dims_t after = {shape->pad_bottom, shape->pad_right};
    dnnl_primitive_desc_t hint = NULL;
    dnnl_status_t status;
    if (direction == SARA_CONV_FORWARD)
        return v3_forward_pd(out, engine, d, strides, before, after, attr);
    status = v3_forward_pd(&hint, engine, d, strides, before, after, NULL);
    if (status != dnnl_success)
        return status;
    status = direction == SARA_CONV_DX
                 ? dnnl_convolution_backward_data_primitive_desc_create(
                       out, engine, dnnl_convolution_direct, d->src, d->weights, d->dst, strides,
                       no_dilation, before, after, hint, attr)
                 : dnnl_convolution_backward_weights_primitive_desc_create(
                       out, engine, dnnl_convolution_direct, d->src, d->weights, NULL, d->dst,
                       strides, no_dilation, before, after, hint, attr);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

dnnl_status_t sara_matmul_pd(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                             const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b,
                             const dnnl_memory_desc_t *bias, const dnnl_memory_desc_t *y,
                             const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(out, engine, *a, *b, bias ? *bias : NULL, *y, attr);
}

dnnl_status_t sara_post_ops_sum(dnnl_post_ops_t post_ops)
{
    return dnnl_post_ops_append_sum(post_ops, 1.0f, 0, dnnl_data_type_undef);
}

bool sara_conv_dx_is_slow(void)
{
    return false;
}

#endif
