/* The ops layer: each op has a forward and a backward and knows nothing of models or of SaRA.
 *
 * Activations are f32 and channels-last: images [N,H,W,C], tokens [N,T,C]; weights keep PyTorch's
 * layouts (linear [out,in], convolution [out,in,kh,kw]), as in the checkpoints. Gradients of
 * parameters are computed as each parameter wants: none, dense, or at its positions alone.
 * Every op checks its shapes and fails with a line naming the op, the parameter and both shapes.
 */
#ifndef SARA_NN_H
#define SARA_NN_H

#include "core/tape.h"
#include "core/trace.h"

/* Devices: "cpu" (fast kernels, plain ones where there is none), "cpu-bf16" (the same, but linear
 * layers and convolutions multiply bf16; the processor must have AVX512-BF16), "cpu-plain" (the
 * reference kernels alone, the oracle), "cpu-apart" (as "cpu", but with memory of its own that
 * nobody else can touch: a test of everybody else), or for each of them a dry one, "dry",
 * "dry-bf16", "dry-plain" and "dry-apart" (no arithmetic and no data: what a pass will need, the
 * kernels' scratch included, is what sara_tape_reached() says). NULL: "cpu". Errors:
 * SARA_ERROR_DEVICE for another name and where the processor or oneDNN cannot, also if the
 * environment variable SARA_SIMD names what it does not run; SARA_ERROR_USAGE if it names
 * nothing. */
SARA_NODISCARD sara_status sara_nn_device_open(sara_context *ctx, sara_device **out,
                                               const char *name);
/* What users may name as the device of a model, NULL ("cpu") too. SARA_ERROR_USAGE tells of others,
 * given by `option`, what there is. */
SARA_NODISCARD sara_status sara_nn_device_check(sara_context *ctx, const char *name,
                                                const char *option);
/* The dry one of a device. */
SARA_NODISCARD sara_status sara_nn_device_open_dry(sara_context *ctx, sara_device **out,
                                                   const sara_device *device);
void sara_nn_device_close(sara_device *device);
/* Of a dry device: bytes that the passes so far would have left with the device, such as frozen
 * weights in layouts of its own; 0 of others. */
size_t sara_nn_device_kept(const sara_device *device);
/* Gives up what the device keeps of a parameter's values, which are about to go. */
void sara_nn_device_forget(sara_device *device, const sara_param *param);
/* Float32 additions and multiplications a second that the context's threads reach together where
 * nothing waits for memory: the best of what is measured in 0.2 s. */
double sara_nn_peak_flops(const sara_context *ctx);

/* What is added beside a layer, with parameters of its own that ask for gradients as any do. */
typedef enum sara_branch_kind {
    /* y += scale up(down(x)) (LoRA, Hu et al. 2021; LoCon of convolutions): down [rank,in], or
     * [rank,in,kh,kw] with the layer's own stride and padding; up [out,rank] or [out,rank,1,1].
     * With a magnitude [out] the layer's weight is magnitude / |W| W of W = weight + scale up down,
     * where |W|, of each output, is a constant to the gradients (DoRA, Liu et al. 2024). */
    SARA_BRANCH_LOW_RANK,
    /* y += scale (up relu(down x + down_bias) + up_bias) beside a feed-forward of input x, of which
     * the layer is the last (AdaptFormer, Chen et al. 2022): down [width,in], up [out,width]. */
    SARA_BRANCH_BOTTLENECK
} sara_branch_kind;
typedef struct sara_branch {
    sara_branch_kind kind;
    sara_param *down, *up, *magnitude, *down_bias, *up_bias; /* NULL: it has none */
    float scale;
    struct sara_branch *next; /* another beside the same layer; NULL: none */
} sara_branch;
/* Takes it off the weight, if it is there. */
void sara_branch_detach(sara_param *weight, sara_branch *branch);

/* y [..., out] = x [..., in] weight^T + bias. weight [out,in] or [out,in,1,1]; bias [out] or
 * NULL. */
SARA_NODISCARD sara_status sara_nn_linear(sara_tape *tape, sara_var **y, sara_var *x,
                                          sara_param *weight, sara_param *bias);

typedef struct sara_conv2d_options {
    int stride;                            /* both directions, at least 1 */
    int pad_top, pad_left, pad_bottom, pad_right; /* zeros */
} sara_conv2d_options;
/* y [N,H',W',out] from x [N,H,W,in], weight [out,in,kh,kw], bias [out] or NULL. */
SARA_NODISCARD sara_status sara_nn_conv2d(sara_tape *tape, sara_var **y, sara_var *x,
                                          sara_param *weight, sara_param *bias,
                                          const sara_conv2d_options *options);

typedef enum sara_activation {
    SARA_IDENTITY,
    SARA_SILU,
    SARA_GELU,       /* exact, by erf */
    SARA_QUICK_GELU, /* x sigmoid(1.702 x) */
    SARA_RELU,       /* NaN stays; no gradient at 0 */
    SARA_GELU_TANH   /* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
} sara_activation;

/* x [N,...,C], statistics over all but N within each of `groups` channel groups; weight, bias [C].
 * activation (SARA_IDENTITY or SARA_SILU) is applied to the result. */
SARA_NODISCARD sara_status sara_nn_group_norm(sara_tape *tape, sara_var **y, sara_var *x,
                                              sara_param *weight, sara_param *bias, int groups,
                                              float eps, sara_activation activation);
/* x [...,C], over the last axis; weight, bias [C]. */
SARA_NODISCARD sara_status sara_nn_layer_norm(sara_tape *tape, sara_var **y, sara_var *x,
                                              sara_param *weight, sara_param *bias, float eps);
/* y = x / sqrt(mean(x^2) + eps) weight over the last axis, weight [C] (Zhang, Sennrich 2019). */
SARA_NODISCARD sara_status sara_nn_rms_norm(sara_tape *tape, sara_var **y, sara_var *x,
                                            sara_param *weight, float eps);
SARA_NODISCARD sara_status sara_nn_activate(sara_tape *tape, sara_var **y, sara_var *x,
                                            sara_activation activation);
/* y [...,C] = x[...,:C] gelu(x[...,C:]), x [...,2C] (Shazeer 2020; diffusers' GEGLU). */
SARA_NODISCARD sara_status sara_nn_geglu(sara_tape *tape, sara_var **y, sara_var *x);
/* y = gelu(a) b, entry by entry, of one shape; by tanh (T5 v1.1's gated-gelu). */
SARA_NODISCARD sara_status sara_nn_gated_gelu(sara_tape *tape, sara_var **y, sara_var *a,
                                              sara_var *b);
/* Softmax(q k^T / sqrt(D)) v per head. q [N,T,heads*D], k and v [N,S,heads*D], y [N,T,heads*D].
 * causal: position t sees s <= t (T == S). */
SARA_NODISCARD sara_status sara_nn_attention(sara_tape *tape, sara_var **y, sara_var *q,
                                             sara_var *k, sara_var *v, int heads, bool causal);
/* Softmax(scale q k^T + bias) v per head, shapes as above; bias [heads,T,S], the same of all
 * samples. No gradient is made of the bias: one that requires it is SARA_ERROR_INPUT while the tape
 * records. */
SARA_NODISCARD sara_status sara_nn_attention_biased(sara_tape *tape, sara_var **y, sara_var *q,
                                                    sara_var *k, sara_var *v, sara_var *bias,
                                                    int heads, float scale);
SARA_NODISCARD sara_status sara_nn_add(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b);
/* y = a + scale b, of one shape. */
SARA_NODISCARD sara_status sara_nn_add_scaled(sara_tape *tape, sara_var **y, sara_var *a,
                                              sara_var *b, float scale);
/* y = a b, entry by entry, of one shape. */
SARA_NODISCARD sara_status sara_nn_multiply(sara_tape *tape, sara_var **y, sara_var *a,
                                            sara_var *b);
/* y [N,...,C] = x [N,...,C] + e [N,C] (the time embedding of a residual block). */
SARA_NODISCARD sara_status sara_nn_add_per_sample(sara_tape *tape, sara_var **y, sara_var *x,
                                                  sara_var *e);
/* y [N,...,C] = x [N,...,C] e [N,C] (a gate of a transformer with adaptive norms). */
SARA_NODISCARD sara_status sara_nn_multiply_per_sample(sara_tape *tape, sara_var **y, sara_var *x,
                                                       sara_var *e);
/* y = norm(x) (1 + scale) + shift of x [N,...,C], scale and shift [N,C]; the norm is that of a
 * layer norm without weight and bias (adaptive layer norm; Peebles and Xie 2023). */
SARA_NODISCARD sara_status sara_nn_modulated_norm(sara_tape *tape, sara_var **y, sara_var *x,
                                                  sara_var *scale, sara_var *shift, float eps);
/* Along the last axis. */
SARA_NODISCARD sara_status sara_nn_concat(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b);
/* The same of 1 to SARA_NODE_VARS parts. */
SARA_NODISCARD sara_status sara_nn_concat_all(sara_tape *tape, sara_var **y, sara_var *const *parts,
                                              int count);
/* y [...,count] = x [...,first .. first + count - 1]. */
SARA_NODISCARD sara_status sara_nn_slice(sara_tape *tape, sara_var **y, sara_var *x, int64_t first,
                                         int64_t count);
/* y [count,C] = the given rows of x [...,C], the axes before the last counted through; rows [count]
 * are the host's, copied. */
SARA_NODISCARD sara_status sara_nn_take_rows(sara_tape *tape, sara_var **y, sara_var *x,
                                             const int64_t *rows, int64_t count);
/* y = x held to low .. high; NaN stays. No gradient where it is held. */
SARA_NODISCARD sara_status sara_nn_clamp(sara_tape *tape, sara_var **y, sara_var *x, float low,
                                         float high);
/* Nearest neighbour to [N,height,width,C], as torch's interpolate(mode="nearest"). */
SARA_NODISCARD sara_status sara_nn_upsample(sara_tape *tape, sara_var **y, sara_var *x,
                                            int64_t height, int64_t width);
typedef struct sara_pooling_options {
    int height, width; /* of a window */
    int stride;        /* both directions, at least 1 */
    int padding;       /* on all sides, at most half a window; it is not counted */
} sara_pooling_options;
/* y [N,H',W',C] from x [N,H,W,C]: each channel's largest value in a window, or the mean, as torch's
 * max_pool2d() and avg_pool2d(count_include_pad=False). NaN stays. */
SARA_NODISCARD sara_status sara_nn_max_pool(sara_tape *tape, sara_var **y, sara_var *x,
                                            const sara_pooling_options *options);
SARA_NODISCARD sara_status sara_nn_average_pool(sara_tape *tape, sara_var **y, sara_var *x,
                                                const sara_pooling_options *options);
/* y [rows of table at ids], ids [count] I64-like on the host, copied; table [V,C], or of another
 * rank that holds V rows of C; y [count,C]. An id outside 0..V-1 is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_nn_embed(sara_tape *tape, sara_var **y, sara_param *table,
                                         const int32_t *ids, int64_t count);
/* y [N,T,C] = x [N,T,C] + table[:T] [C] (learned positions); table as in sara_nn_embed(). */
SARA_NODISCARD sara_status sara_nn_add_positions(sara_tape *tape, sara_var **y, sara_var *x,
                                                 sara_param *table);
/* NCHW <-> NHWC. */
SARA_NODISCARD sara_status sara_nn_to_channels_last(sara_tape *tape, sara_var **y, sara_var *x);
SARA_NODISCARD sara_status sara_nn_to_channels_first(sara_tape *tape, sara_var **y, sara_var *x);
/* y [N,height*patch,width*patch,C] from x [N,height*width,patch*patch*C], tokens row by row, of
 * each patch the pixels row by row. */
SARA_NODISCARD sara_status sara_nn_from_patches(sara_tape *tape, sara_var **y, sara_var *x,
                                                int64_t height, int64_t width, int64_t patch);
/* loss [1] = mean((prediction - target)^2), prediction [N,C,...]; with weights [N], NULL: none, the
 * mean over samples of weight times the mean of the sample (as kohya's train_network.py); with a
 * mask [N,...], NULL: none, each square times its position's, then the mean over all (as kohya's
 * apply_masked_loss: not divided by the mask's area). target [as prediction], weights and mask are
 * host data, borrowed until the tape is reset. The sum is in double. */
SARA_NODISCARD sara_status sara_nn_mse_loss(sara_tape *tape, sara_var **loss, sara_var *prediction,
                                            const float *target, const float *weights,
                                            const float *mask);

#endif
