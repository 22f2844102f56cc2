#include "models/vae/parts.h"

/* y = x + attention(norm(x)) among the pixels; y, x [N,H,W,C] */
static sara_status vae_attend(sara_tape *tape, sara_var **y, const sara_vae_mid *mid,
                              const sara_groups *groups, sara_var *x)
{
    const int64_t *dims = x->shape.dims;
    sara_shape tokens = sara_shape3(dims[0], dims[1] * dims[2], dims[3]);
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_tape_view(tape, &h, x, &tokens)); /* [N,HW,C] */
    TRY(sara_nn_group_norm(tape, &h, h, mid->norm.weight, mid->norm.bias, groups->groups,
                           groups->eps, SARA_IDENTITY));                    /* [N,HW,C] */
    TRY(sara_attention_forward(tape, &h, &mid->attention, h, NULL, false)); /* [N,HW,C] */
    TRY(sara_tape_view(tape, &h, h, &x->shape));                            /* [N,H,W,C] */
    TRY(sara_nn_add(tape, y, h, x));                                        /* [N,H,W,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_status mid_forward(sara_tape *tape, sara_var **y, const sara_vae_mid *mid,
                               const sara_groups *groups, sara_var *x)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_resnet_forward(tape, &h, &mid->resnets[0], x, NULL)); /* [N,H,W,C] */
    if (mid->attention.heads)
        TRY(vae_attend(tape, &h, mid, groups, h));                /* [N,H,W,C] */
    TRY(sara_resnet_forward(tape, y, &mid->resnets[1], h, NULL)); /* [N,H,W,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_status stage_forward(sara_tape *tape, sara_var **y, const sara_vae_stage *stage,
                                 sara_var *x, bool down)
{
    const int64_t *dims = x->shape.dims;
    size_t scope = sara_tape_open(tape);
    sara_var *h = x; /* [N,H,W,in] */
    sara_status status = SARA_OK;
    for (int i = 0; i < stage->count; i++) {
        TRY(sara_resnet_forward(tape, &h, &stage->resnets[i], h, NULL)); /* [N,H,W,out] */
        sara_tape_close(tape, scope, &h, 1);
    }
    if (stage->resample.weight && down)
        TRY(sara_downsample_forward(tape, &h, &stage->resample, h, 0)); /* [N,H/2,W/2,out] */
    else if (stage->resample.weight)
        /* [N,2H,2W,out] */
        TRY(sara_upsample_forward(tape, &h, &stage->resample, h, 2 * dims[1], 2 * dims[2]));
    sara_tape_close(tape, scope, &h, 1);
    *y = h;
done:
    return status;
}

/* The encoder or, with the middle first, the decoder; closing the scope after each part gives the
 * part before it back. y, x channels-last */
static sara_status half_forward(sara_tape *tape, sara_var **y, const sara_vae_half *half,
                                const sara_vae_config *config, sara_var *x, bool encoding)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_conv3x3_forward(tape, &h, &half->conv_in, x)); /* [N,H,W,C] */
    if (!encoding)
        TRY(mid_forward(tape, &h, &half->mid, &config->groups, h)); /* [N,h,w,C] */
    sara_tape_close(tape, scope, &h, 1);
    for (int i = 0; i < config->stages; i++) {
        TRY(stage_forward(tape, &h, &half->stages[i], h, encoding)); /* halved, or doubled */
        sara_tape_close(tape, scope, &h, 1);
    }
    if (encoding)
        TRY(mid_forward(tape, &h, &half->mid, &config->groups, h)); /* [N,h,w,C] */
    /* [N,h,w,2 latent] or [N,H,W,3] */
    TRY(sara_norm_conv_forward(tape, y, &half->norm_out, &half->conv_out, &config->groups, h));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_status check_input(const sara_vae *vae, const sara_var *x, const char *what,
                               int64_t channels)
{
    sara_shape_text text;
    if (x->shape.rank == 4 && x->shape.dims[1] == channels)
        return SARA_OK;
    return sara_fail(vae->network.ctx, SARA_ERROR_INPUT, "vae: %s %s, expected [N,%lld,H,W]", what,
                     sara_shape_format(&text, &x->shape), (long long)channels);
}

/* mean, logvar [N,C,h,w] are the halves of moments [N,2C,h,w]. */
static sara_status split_moments(sara_tape *tape, sara_var **mean, sara_var **logvar,
                                 sara_var *moments)
{
    sara_shape shape = moments->shape;
    int64_t count = sara_shape_count(&shape) / shape.dims[0] / 2;
    const sara_shape flat = sara_shape2(shape.dims[0], 2 * count);
    sara_var *both;
    sara_status status;
    shape.dims[1] /= 2;
    TRY(sara_tape_view(tape, &both, moments, &flat)); /* [N,2Chw] */
    TRY(sara_nn_slice(tape, mean, both, 0, count)); /* [N,C*h*w] */
    TRY(sara_tape_view(tape, mean, *mean, &shape)); /* [N,C,h,w] */
    TRY(sara_nn_slice(tape, logvar, both, count, count)); /* [N,C*h*w] */
    TRY(sara_nn_clamp(tape, logvar, *logvar, -30, 20));
    TRY(sara_tape_view(tape, logvar, *logvar, &shape)); /* [N,C,h,w] */
done:
    return status;
}

sara_status sara_vae_encode(sara_tape *tape, sara_var **mean, sara_var **logvar,
                            sara_network *network, sara_var *image)
{
    sara_vae *vae = (sara_vae *)network;
    bool recording = sara_tape_record(tape, false);
    size_t scope = sara_tape_open(tape);
    sara_var *h, *keep[2];
    sara_status status;
    TRY(check_input(vae, image, "image", vae->config.in_channels));
    TRY(sara_nn_to_channels_last(tape, &h, image));                    /* [N,H,W,3] */
    TRY(half_forward(tape, &h, &vae->encoder, &vae->config, h, true)); /* [N,h,w,2C] */
    if (vae->quant_conv.weight)
        TRY(sara_linear_forward(tape, &h, &vae->quant_conv, h)); /* [N,h,w,2C] */
    TRY(sara_nn_to_channels_first(tape, &h, h));                 /* [N,2C,h,w] */
    TRY(split_moments(tape, &keep[0], &keep[1], h));             /* both [N,C,h,w] */
    sara_tape_close(tape, scope, keep, 2);
    *mean = keep[0];
    *logvar = keep[1];
done:
    sara_tape_record(tape, recording);
    return status;
}

sara_status sara_vae_decode(sara_tape *tape, sara_var **image, sara_network *network,
                            sara_var *latent)
{
    sara_vae *vae = (sara_vae *)network;
    bool recording = sara_tape_record(tape, false);
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(check_input(vae, latent, "latent", vae->config.latent_channels));
    TRY(sara_nn_to_channels_last(tape, &h, latent)); /* [N,h,w,C] */
    if (vae->post_quant_conv.weight)
        TRY(sara_linear_forward(tape, &h, &vae->post_quant_conv, h));   /* [N,h,w,C] */
    TRY(half_forward(tape, &h, &vae->decoder, &vae->config, h, false)); /* [N,H,W,3] */
    TRY(sara_nn_to_channels_first(tape, image, h));                     /* [N,3,H,W] */
    sara_tape_close(tape, scope, image, 1);
done:
    sara_tape_record(tape, recording);
    return status;
}
