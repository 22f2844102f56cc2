/* What the U-Net, the VAE and the text encoder have in common: layers, residual blocks, attention.
 * Activations are channels-last. A struct's slots are filled when the binder loads; a slot that was
 * not wanted stays NULL, so structs start as zeros.
 *
 * A chain h = f(h) closes its scope after each link, keeping h: from the same mark this gives back
 * the h that was kept before. */
#ifndef SARA_MODELS_LAYERS_H
#define SARA_MODELS_LAYERS_H

#include "models/models.h"

/* A linear layer, a convolution or a norm. */
typedef struct sara_layer {
    sara_param *weight, *bias;
} sara_layer;
/* weight [out,in], bias [out] if wanted */
SARA_NODISCARD sara_status sara_linear_bind(sara_binder *binder, sara_layer *layer,
                                            const char *name, int64_t out, int64_t in, bool bias);
/* weight [out,in,kernel,kernel], bias [out] */
SARA_NODISCARD sara_status sara_conv_bind(sara_binder *binder, sara_layer *layer, const char *name,
                                          int64_t out, int64_t in, int64_t kernel);
/* weight [channels], bias [channels] */
SARA_NODISCARD sara_status sara_norm_bind(sara_binder *binder, sara_layer *layer, const char *name,
                                          int64_t channels);
SARA_NODISCARD sara_status sara_linear_forward(sara_tape *tape, sara_var **y,
                                               const sara_layer *layer, sara_var *x);
/* 3x3, stride 1, zero padding 1: y [N,H,W,out] from x [N,H,W,in] */
SARA_NODISCARD sara_status sara_conv3x3_forward(sara_tape *tape, sara_var **y,
                                                const sara_layer *layer, sara_var *x);

/* Sinusoids of numbers, in float32 as diffusers computes them, since the angles reach 1000 radians
 * (Vaswani et al. 2017). */
typedef struct sara_sinusoids {
    bool cosines_first;
    int64_t shift; /* their frequencies are 10000^(-i / (width / 2 - shift)) */
} sara_sinusoids;
/* y [n,count*width] of `count` numbers of each sample; numbers [n,count], NULL on a dry device. */
SARA_NODISCARD sara_status sara_sinusoids_forward(sara_tape *tape, sara_var **y,
                                                  const sara_sinusoids *sinusoids,
                                                  const double *numbers, int64_t n, int64_t count,
                                                  int64_t width);
/* y [N,out] = second(silu(first(x))) */
SARA_NODISCARD sara_status sara_embedding_forward(sara_tape *tape, sara_var **y,
                                                  const sara_layer *first, const sara_layer *second,
                                                  sara_var *x);

/* What is beside a feed-forward of input x [N,T,in]: h [N,T,out] += scale (up relu(down x +
 * down_bias) + up_bias) of each bottleneck, branch NULL: there is none. */
SARA_NODISCARD sara_status sara_bottlenecks_forward(sara_tape *tape, sara_var **h, sara_var *x,
                                                    const sara_branch *branch);

/* y [n,count*C]: the first `count` rows of C of the table, n times. */
SARA_NODISCARD sara_status sara_rows_repeat(sara_tape *tape, sara_var **y, sara_param *table,
                                            int64_t n, int64_t count);

/* The group norms of a network share these. */
typedef struct sara_groups {
    int groups;
    float eps;
} sara_groups;
/* y = conv3x3(silu(norm(x))) */
SARA_NODISCARD sara_status sara_norm_conv_forward(sara_tape *tape, sara_var **y,
                                                  const sara_layer *norm, const sara_layer *conv,
                                                  const sara_groups *groups, sara_var *x);

/* Residual block (He et al. 2016; the time embedding as in Ho et al. 2020). */
typedef struct sara_resnet {
    sara_layer norm1, conv1, time_emb_proj, norm2, conv2, conv_shortcut;
    sara_groups groups;
} sara_resnet;
/* time_channels 0: without a time embedding. */
SARA_NODISCARD sara_status sara_resnet_bind(sara_binder *binder, sara_resnet *resnet,
                                            const char *name, int64_t in, int64_t out,
                                            int64_t time_channels, const sara_groups *groups);
/* y [N,H,W,out], x [N,H,W,in], time [N,time_channels] already activated, or NULL */
SARA_NODISCARD sara_status sara_resnet_forward(sara_tape *tape, sara_var **y,
                                               const sara_resnet *resnet, sara_var *x,
                                               sara_var *time);

/* Strided 3x3 convolution; padding 1 on all sides, or with 0 one row and column after the end. */
SARA_NODISCARD sara_status sara_downsample_forward(sara_tape *tape, sara_var **y,
                                                   const sara_layer *conv, sara_var *x,
                                                   int padding);
/* Nearest neighbour to height x width, then a 3x3 convolution. */
SARA_NODISCARD sara_status sara_upsample_forward(sara_tape *tape, sara_var **y,
                                                 const sara_layer *conv, sara_var *x,
                                                 int64_t height, int64_t width);

/* Multi-head attention (Vaswani et al. 2017). */
typedef struct sara_attention {
    sara_layer q, k, v, out;
    int heads;
} sara_attention;
/* The names of q, k, v and out below the block's. */
typedef struct sara_attention_names {
    const char *q, *k, *v, *out;
} sara_attention_names;
/* q [inner,channels], k and v [inner,context], out [channels,inner]; out always has a bias. */
SARA_NODISCARD sara_status sara_attention_bind(sara_binder *binder, sara_attention *attention,
                                               const char *name, const sara_attention_names *names,
                                               int64_t channels, int64_t inner, int64_t context,
                                               bool bias);
/* y [N,T,channels] from x [N,T,channels]; context [N,S,context], or NULL for x itself. */
SARA_NODISCARD sara_status sara_attention_forward(sara_tape *tape, sara_var **y,
                                                  const sara_attention *attention, sara_var *x,
                                                  sara_var *context, bool causal);

#endif
