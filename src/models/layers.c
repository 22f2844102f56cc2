#include "models/layers.h"

#include <math.h>
#include <stdio.h>

/* ------------------------------------------------------------------------------------ layers */

static sara_status bind_shaped_layer(sara_binder *binder, sara_layer *layer, const char *name,
                                     const sara_shape *weight, bool bias)
{
    sara_shape out = sara_shape1(weight->dims[0]);
    sara_status status;
    TRY(sara_binder_want(binder, &layer->weight, weight, "%s.weight", name));
    if (bias)
        TRY(sara_binder_want(binder, &layer->bias, &out, "%s.bias", name));
done:
    return status;
}

sara_status sara_linear_bind(sara_binder *binder, sara_layer *layer, const char *name, int64_t out,
                             int64_t in, bool bias)
{
    sara_shape shape = sara_shape2(out, in);
    return bind_shaped_layer(binder, layer, name, &shape, bias);
}

sara_status sara_conv_bind(sara_binder *binder, sara_layer *layer, const char *name, int64_t out,
                           int64_t in, int64_t kernel)
{
    sara_shape shape = sara_shape4(out, in, kernel, kernel);
    return bind_shaped_layer(binder, layer, name, &shape, true);
}

sara_status sara_norm_bind(sara_binder *binder, sara_layer *layer, const char *name,
                           int64_t channels)
{
    sara_shape shape = sara_shape1(channels);
    return bind_shaped_layer(binder, layer, name, &shape, true);
}

sara_status sara_linear_forward(sara_tape *tape, sara_var **y, const sara_layer *layer, sara_var *x)
{
    return sara_nn_linear(tape, y, x, layer->weight, layer->bias);
}

sara_status sara_conv3x3_forward(sara_tape *tape, sara_var **y, const sara_layer *layer,
                                 sara_var *x)
{
    sara_conv2d_options same = {1, 1, 1, 1, 1};
    return sara_nn_conv2d(tape, y, x, layer->weight, layer->bias, &same);
}

sara_status sara_norm_conv_forward(sara_tape *tape, sara_var **y, const sara_layer *norm,
                                   const sara_layer *conv, const sara_groups *groups, sara_var *x)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_nn_group_norm(tape, &h, x, norm->weight, norm->bias, groups->groups, groups->eps,
                           SARA_SILU));          /* [N,H,W,in] */
    TRY(sara_conv3x3_forward(tape, y, conv, h)); /* [N,H,W,out] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* out [width] */
static void embed_number(float *out, double number, int64_t width, const sara_sinusoids *s)
{
    int64_t half = width / 2;
    float scale = -(float)log(10000.0);
    float *sines = out + (s->cosines_first ? half : 0);
    float *cosines = out + (s->cosines_first ? 0 : half);
    for (int64_t i = 0; i < half; i++) {
        float exponent = scale * (float)i / (float)(half - s->shift);
        float angle = (float)number * expf(exponent);
        sines[i] = sinf(angle);
        cosines[i] = cosf(angle);
    }
    if (width % 2)
        out[width - 1] = 0;
}

sara_status sara_sinusoids_forward(sara_tape *tape, sara_var **y, const sara_sinusoids *sinusoids,
                                   const double *numbers, int64_t n, int64_t count, int64_t width)
{
    const sara_shape shape = sara_shape2(n, count * width);
    float *values;
    sara_status status;
    TRY(sara_tape_memory(tape, &values, (size_t)(n * count * width), sizeof(*values)));
    for (int64_t i = 0; numbers && i < n * count; i++)
        embed_number(values + i * width, numbers[i], width, sinusoids);
    TRY(sara_tape_leaf(tape, y, &shape, values, false));
done:
    return status;
}

sara_status sara_embedding_forward(sara_tape *tape, sara_var **y, const sara_layer *first,
                                   const sara_layer *second, sara_var *x)
{
    sara_var *h;
    sara_status status;
    TRY(sara_linear_forward(tape, &h, first, x)); /* [N,out] */
    TRY(sara_nn_activate(tape, &h, h, SARA_SILU));
    TRY(sara_linear_forward(tape, y, second, h)); /* [N,out] */
done:
    return status;
}

sara_status sara_bottlenecks_forward(sara_tape *tape, sara_var **h, sara_var *x,
                                     const sara_branch *branch)
{
    sara_status status = SARA_OK;
    for (; branch; branch = branch->next) {
        size_t scope = sara_tape_open(tape);
        sara_var *b;
        if (branch->kind != SARA_BRANCH_BOTTLENECK)
            continue;
        TRY(sara_nn_linear(tape, &b, x, branch->down, branch->down_bias)); /* [N,T,width] */
        TRY(sara_nn_activate(tape, &b, b, SARA_RELU));
        TRY(sara_nn_linear(tape, &b, b, branch->up, branch->up_bias)); /* [N,T,inner] */
        TRY(sara_nn_add_scaled(tape, h, *h, b, branch->scale));
        sara_tape_close(tape, scope, h, 1);
    }
done:
    return status;
}

sara_status sara_rows_repeat(sara_tape *tape, sara_var **y, sara_param *table, int64_t n,
                             int64_t count)
{
    const sara_shape *shape = &table->value.shape;
    sara_shape flat = sara_shape2(n, count * shape->dims[shape->rank - 1]);
    int32_t *ids;
    sara_status status;
    TRY(sara_tape_memory(tape, &ids, (size_t)(n * count), sizeof(*ids)));
    for (int64_t i = 0; i < n * count; i++)
        ids[i] = (int32_t)(i % count);
    TRY(sara_nn_embed(tape, y, table, ids, n * count)); /* [N*count,C] */
    TRY(sara_tape_view(tape, y, *y, &flat));            /* [N,count*C] */
done:
    return status;
}

/* ----------------------------------------------------------------------------- residual block */

sara_status sara_resnet_bind(sara_binder *binder, sara_resnet *resnet, const char *name, int64_t in,
                             int64_t out, int64_t time_channels, const sara_groups *groups)
{
    sara_status status;
    resnet->groups = *groups;
    TRY(sara_norm_bind(binder, &resnet->norm1, sara_name_of("%s.norm1", name).text, in));
    TRY(sara_conv_bind(binder, &resnet->conv1, sara_name_of("%s.conv1", name).text, out, in, 3));
    if (time_channels)
        TRY(sara_linear_bind(binder, &resnet->time_emb_proj,
                             sara_name_of("%s.time_emb_proj", name).text, out, time_channels,
                             true));
    TRY(sara_norm_bind(binder, &resnet->norm2, sara_name_of("%s.norm2", name).text, out));
    TRY(sara_conv_bind(binder, &resnet->conv2, sara_name_of("%s.conv2", name).text, out, out, 3));
    if (in != out)
        TRY(sara_conv_bind(binder, &resnet->conv_shortcut,
                           sara_name_of("%s.conv_shortcut", name).text, out, in, 1));
done:
    return status;
}

sara_status sara_resnet_forward(sara_tape *tape, sara_var **y, const sara_resnet *resnet,
                                sara_var *x, sara_var *time)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h, *e, *shortcut = x;
    sara_status status;
    /* h = conv1(silu(norm1(x))) [N,H,W,out] */
    /* [N,H,W,out] */
    TRY(sara_norm_conv_forward(tape, &h, &resnet->norm1, &resnet->conv1, &resnet->groups, x));
    /* h += time_emb_proj(time), one value per sample and channel */
    if (resnet->time_emb_proj.weight) {
        TRY(sara_linear_forward(tape, &e, &resnet->time_emb_proj, time)); /* [N,out] */
        TRY(sara_nn_add_per_sample(tape, &h, h, e));                      /* [N,H,W,out] */
        sara_tape_close(tape, scope, &h, 1);
    }
    /* h = conv2(silu(norm2(h))) */
    /* [N,H,W,out] */
    TRY(sara_norm_conv_forward(tape, &h, &resnet->norm2, &resnet->conv2, &resnet->groups, h));
    sara_tape_close(tape, scope, &h, 1);
    /* y = shortcut(x) + h; a 1x1 convolution is a linear layer on channels-last data */
    if (resnet->conv_shortcut.weight)
        TRY(sara_linear_forward(tape, &shortcut, &resnet->conv_shortcut, x)); /* [N,H,W,out] */
    TRY(sara_nn_add(tape, y, shortcut, h));                                   /* [N,H,W,out] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* --------------------------------------------------------------------------------- resampling */

sara_status sara_downsample_forward(sara_tape *tape, sara_var **y, const sara_layer *conv,
                                    sara_var *x, int padding)
{
    sara_conv2d_options options = {2, padding, padding, 1, 1};
    return sara_nn_conv2d(tape, y, x, conv->weight, conv->bias, &options);
}

sara_status sara_upsample_forward(sara_tape *tape, sara_var **y, const sara_layer *conv,
                                  sara_var *x, int64_t height, int64_t width)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_nn_upsample(tape, &h, x, height, width)); /* [N,height,width,C] */
    TRY(sara_conv3x3_forward(tape, y, conv, h));       /* [N,height,width,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* ---------------------------------------------------------------------------------- attention */

sara_status sara_attention_bind(sara_binder *binder, sara_attention *attention, const char *name,
                                const sara_attention_names *names, int64_t channels, int64_t inner,
                                int64_t context, bool bias)
{
    sara_status status;
    TRY(sara_linear_bind(binder, &attention->q, sara_name_of("%s.%s", name, names->q).text, inner,
                         channels, bias));
    TRY(sara_linear_bind(binder, &attention->k, sara_name_of("%s.%s", name, names->k).text, inner,
                         context, bias));
    TRY(sara_linear_bind(binder, &attention->v, sara_name_of("%s.%s", name, names->v).text, inner,
                         context, bias));
    TRY(sara_linear_bind(binder, &attention->out, sara_name_of("%s.%s", name, names->out).text,
                         channels, inner, true));
done:
    return status;
}

sara_status sara_attention_forward(sara_tape *tape, sara_var **y, const sara_attention *attention,
                                   sara_var *x, sara_var *context, bool causal)
{
    size_t scope = sara_tape_open(tape);
    sara_var *q, *k, *v, *h;
    sara_status status;
    TRY(sara_linear_forward(tape, &q, &attention->q, x));                     /* [N,T,inner] */
    TRY(sara_linear_forward(tape, &k, &attention->k, context ? context : x)); /* [N,S,inner] */
    TRY(sara_linear_forward(tape, &v, &attention->v, context ? context : x)); /* [N,S,inner] */
    TRY(sara_nn_attention(tape, &h, q, k, v, attention->heads, causal));      /* [N,T,inner] */
    TRY(sara_linear_forward(tape, y, &attention->out, h));                    /* [N,T,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}
