#include "models/unet/parts.h"

/* What every layer of a pass reads. */
typedef struct pass {
    sara_unet *unet;
    sara_var *time;    /* silu of the time embedding [N,time_channels] */
    sara_var *context; /* [N,T,cross_attention_dim] */
} pass;

/* ------------------------------------------------------------------------------ time embedding */

/* h [N,time_channels] += the embedding of pooled text [N,pooled_width] and time ids [N,6] */
static sara_status add_text_time(sara_tape *tape, sara_var **h, const sara_unet *unet,
                                 sara_var *pooled, const sara_var *time_ids)
{
    const int64_t batch = time_ids->shape.dims[0], count = batch * SARA_TIME_IDS;
    const float *ids;
    double *numbers;
    sara_var *x;
    sara_status status;
    TRY(sara_tape_read(tape, &ids, time_ids));
    TRY(sara_tape_memory(tape, &numbers, (size_t)count, sizeof(*numbers)));
    for (int64_t i = 0; i < count; i++)
        numbers[i] = (double)ids[i];
    TRY(sara_sinusoids_forward(tape, &x, &unet->config.sinusoids, numbers, batch, SARA_TIME_IDS,
                               unet->config.time_id_width)); /* [N,6 time_id_width] */
    TRY(sara_nn_concat(tape, &x, pooled, x)); /* [N,pooled_width + 6 time_id_width] */
    TRY(sara_embedding_forward(tape, &x, &unet->add_1, &unet->add_2, x)); /* [N,time_channels] */
    TRY(sara_nn_add(tape, h, *h, x));
done:
    return status;
}

/* With the silu that every residual block starts with. */
static sara_status embed_time(sara_tape *tape, sara_var **y, const sara_unet *unet,
                              const double *timesteps, int64_t batch,
                              const sara_condition *condition)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_sinusoids_forward(tape, &h, &unet->config.sinusoids, timesteps, batch, 1,
                               unet->config.level[0].channels));
    TRY(sara_embedding_forward(tape, &h, &unet->time_1, &unet->time_2, h)); /* [N,time_channels] */
    if (unet->config.time_id_width)
        TRY(add_text_time(tape, &h, unet, condition->of[SARA_CONDITION_POOLED],
                          condition->of[SARA_CONDITION_TIME_IDS]));
    TRY(sara_nn_activate(tape, y, h, SARA_SILU)); /* [N,time_channels] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* -------------------------------------------------------------------------------------- layers */

typedef struct region {
    sara_network *network;
    const sara_unet_layer *layer;
    bool has_skip;
} region;

/* in: the layer's input [N,H,W,in], the time embedding, and on the way up what came by on the way
 * down, which is appended to the channels of the input. */
static sara_status run_resnet(sara_tape *tape, sara_var **y, sara_var *const *in,
                              const void *argument)
{
    const region *r = argument;
    size_t scope = sara_tape_open(tape);
    sara_var *h = in[0]; /* [N,H,W,C] */
    sara_status status;
    if (r->has_skip)
        TRY(sara_nn_concat(tape, &h, h, in[2]));                    /* [N,H,W,C + C of the skip] */
    TRY(sara_resnet_forward(tape, y, &r->layer->resnet, h, in[1])); /* [N,H,W,out] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* in: x [N,H,W,C] and the context */
static sara_status run_transformer(sara_tape *tape, sara_var **y, sara_var *const *in,
                                   const void *argument)
{
    const region *r = argument;
    return sara_transformer_forward(tape, y, r->layer->transformer, in[0], in[1]);
}

static sara_status lend_resnet(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    return sara_network_lend_region(tape, r->network, r->layer->resnet.norm1.weight);
}

static void return_resnet(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    sara_network_return_region(tape, r->network, r->layer->resnet.norm1.weight);
}

static sara_status lend_transformer(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    return sara_network_lend_region(tape, r->network, r->layer->transformer->norm.weight);
}

static void return_transformer(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    sara_network_return_region(tape, r->network, r->layer->transformer->norm.weight);
}

static const sara_region resnet_region = {run_resnet, lend_resnet, return_resnet};
static const sara_region transformer_region = {run_transformer, lend_transformer,
                                               return_transformer};

/* skip NULL: none. Recomputed in backward, the residual block and the transformer are regions of
 * their own, so that the variables of only one of them are alive. */
static sara_status unet_layer_forward(sara_tape *tape, sara_var **y, const pass *p, int level,
                                      const sara_unet_layer *layer, sara_var *x, sara_var *skip)
{
    bool again = level < p->unet->network.checkpoint_levels;
    sara_var *resnet_in[] = {x, p->time, skip}, *h;
    int count = skip ? 3 : 2;
    const region r = {&p->unet->network, layer, skip != NULL};
    size_t scope = sara_tape_open(tape);
    sara_status status;
    if (again)
        TRY(sara_tape_checkpoint_lent(tape, &h, &resnet_region, resnet_in, count, &r, sizeof(r)));
    else
        TRY(run_resnet(tape, &h, resnet_in, &r)); /* [N,H,W,out] */
    sara_var *const transformer_in[] = {h, p->context};
    if (layer->transformer && again)
        TRY(sara_tape_checkpoint_lent(tape, &h, &transformer_region, transformer_in, 2, &r,
                                      sizeof(r)));
    else if (layer->transformer)
        TRY(run_transformer(tape, &h, transformer_in, &r)); /* [N,H,W,out] */
    sara_tape_close(tape, scope, &h, 1);
    *y = h;
done:
    return status;
}

/* -------------------------------------------------------------------------------------- levels */

/* Level i and all below it: down through its layers, on to the next level and back, up again.
 * y [N,H,W,channels], x [N,H,W,channels of the level above] */
static sara_status level_forward(sara_tape *tape, sara_var **y, const pass *p, int i, sara_var *x)
{
    const sara_unet_level *level = &p->unet->level[i];
    const sara_unet_config *config = &p->unet->config;
    sara_var *skips[SARA_MAX_LAYERS + 1] = {x}, *h = x;
    size_t scope = sara_tape_open(tape);
    sara_status status;
    for (int j = 0; j < level->layers; j++) {
        TRY(unet_layer_forward(tape, &h, p, i, &level->down[j], h, NULL)); /* [N,H,W,channels] */
        skips[j + 1] = h;
    }
    if (i < config->levels - 1) {
        int64_t height = h->shape.dims[1], width = h->shape.dims[2];
        /* [N,H/2,W/2,channels] */
        TRY(sara_downsample_forward(tape, &h, &level->downsample, h, config->downsample_padding));
        TRY(level_forward(tape, &h, p, i + 1, h)); /* [N,H/2,W/2,channels of level i + 1] */
        /* [N,H,W,the same] */
        TRY(sara_upsample_forward(tape, &h, &level->upsample, h, height, width));
    } else {
        TRY(unet_layer_forward(tape, &h, p, i, &p->unet->mid[0], h, NULL));
        TRY(unet_layer_forward(tape, &h, p, i, &p->unet->mid[1], h, NULL));
    }
    for (int j = 0; j <= level->layers; j++)
        /* [N,H,W,channels] */
        TRY(unet_layer_forward(tape, &h, p, i, &level->up[j], h, skips[level->layers - j]));
    sara_tape_close(tape, scope, &h, 1);
    *y = h;
done:
    return status;
}

/* ------------------------------------------------------------------------------------- forward */

/* y = 2 x - 1 */
static sara_status unet_center(sara_tape *tape, sara_var **y, sara_var *x)
{
    size_t count = (size_t)sara_shape_count(&x->shape);
    float *values;
    sara_var *minus_one, *h;
    sara_status status;
    TRY(sara_tape_memory(tape, &values, count, sizeof(*values)));
    for (size_t i = 0; i < count; i++)
        values[i] = -1;
    TRY(sara_tape_leaf(tape, &minus_one, &x->shape, values, false)); /* as x */
    TRY(sara_nn_add(tape, &h, x, minus_one));                        /* x - 1 */
    TRY(sara_nn_add(tape, y, h, x));
done:
    return status;
}

sara_status sara_unet_forward(sara_tape *tape, sara_var **out, sara_network *network,
                              sara_var *sample, const double *timesteps,
                              const sara_condition *condition)
{
    sara_unet *unet = (sara_unet *)network;
    const sara_unet_config *config = &unet->config;
    sara_groups groups = {config->groups, (float)config->norm_eps};
    pass p = {.unet = unet, .context = condition->of[SARA_CONDITION_STATES]};
    size_t scope = sara_tape_open(tape);
    sara_var *h = sample; /* [N,C,H,W] */
    sara_status status;
    TRY(sara_denoiser_check(network, "unet", &sample->shape, condition));
    /* [N,time_channels] */
    TRY(embed_time(tape, &p.time, unet, timesteps, sample->shape.dims[0], condition));
    if (config->center_input_sample)
        TRY(unet_center(tape, &h, h));
    TRY(sara_nn_to_channels_last(tape, &h, h));             /* [N,H,W,C] */
    TRY(sara_conv3x3_forward(tape, &h, &unet->conv_in, h)); /* [N,H,W,channels] */
    TRY(level_forward(tape, &h, &p, 0, h));                 /* [N,H,W,channels] */
    /* [N,H,W,out_channels] */
    TRY(sara_norm_conv_forward(tape, &h, &unet->norm_out, &unet->conv_out, &groups, h));
    TRY(sara_nn_to_channels_first(tape, out, h)); /* [N,out_channels,H,W] */
    sara_tape_close(tape, scope, out, 1);
done:
    return status;
}
