#include "models/mmdit/parts.h"

/* ---------------------------------------------------------------------------------- embeddings */

/* e [N,width] = silu(embedding of the timesteps + that of the pooled text): every modulation starts
 * with that silu. */
static sara_status embed_conditioning(sara_tape *tape, sara_var **e, const sara_mmdit *mmdit,
                                      const double *timesteps, sara_var *pooled)
{
    static const sara_sinusoids frequencies = {.cosines_first = true};
    size_t scope = sara_tape_open(tape);
    sara_var *h, *p;
    sara_status status;
    TRY(sara_sinusoids_forward(tape, &h, &frequencies, timesteps, pooled->shape.dims[0], 1,
                               SARA_MMDIT_TIME_WIDTH));                       /* [N,256] */
    TRY(sara_embedding_forward(tape, &h, &mmdit->time_1, &mmdit->time_2, h)); /* [N,width] */
    TRY(sara_embedding_forward(tape, &p, &mmdit->pooled_1, &mmdit->pooled_2, pooled));
    TRY(sara_nn_add(tape, &h, h, p));             /* [N,width] */
    TRY(sara_nn_activate(tape, e, h, SARA_SILU)); /* [N,width] */
    sara_tape_close(tape, scope, e, 1);
done:
    return status;
}

/* y [N,height*width,C]: the middle of the table, for each sample. */
static sara_status crop_positions(sara_tape *tape, sara_var **y, const sara_mmdit *mmdit, int64_t n,
                                  int64_t height, int64_t width)
{
    const int64_t side = mmdit->config.positions, count = height * width;
    const int64_t top = (side - height) / 2, left = (side - width) / 2;
    const sara_shape shape = sara_shape3(n, count, mmdit->config.width);
    int32_t *ids;
    sara_status status;
    TRY(sara_tape_memory(tape, &ids, (size_t)(n * count), sizeof(*ids)));
    for (int64_t i = 0; i < n * count; i++)
        ids[i] = (int32_t)((top + i % count / width) * side + left + i % width);
    TRY(sara_nn_embed(tape, y, mmdit->positions, ids, n * count));
    TRY(sara_tape_view(tape, y, *y, &shape));
done:
    return status;
}

/* y [N,height*width,C] from a sample [N,channels,H,W] */
static sara_status embed_patches(sara_tape *tape, sara_var **y, const sara_mmdit *mmdit,
                                 sara_var *sample)
{
    const int64_t n = sample->shape.dims[0], patch = mmdit->config.patch;
    const int64_t height = sample->shape.dims[2] / patch, width = sample->shape.dims[3] / patch;
    const sara_shape tokens = sara_shape3(n, height * width, mmdit->config.width);
    const sara_conv2d_options apart = {.stride = (int)patch};
    size_t scope = sara_tape_open(tape);
    sara_var *h, *positions;
    sara_status status;
    TRY(sara_nn_to_channels_last(tape, &h, sample)); /* [N,H,W,channels] */
    TRY(sara_nn_conv2d(tape, &h, h, mmdit->patches.weight, mmdit->patches.bias,
                       &apart));               /* [N,height,width,C] */
    TRY(sara_tape_view(tape, &h, h, &tokens)); /* [N,height*width,C] */
    TRY(crop_positions(tape, &positions, mmdit, n, height, width));
    TRY(sara_nn_add(tape, y, h, positions)); /* [N,height*width,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* ------------------------------------------------------------------------------------- forward */

static sara_status check_patches(const sara_mmdit *mmdit, const sara_shape *sample)
{
    const sara_denoiser_info *info = &mmdit->network.info.denoiser;
    for (int i = 2; i < 4; i++)
        if (!sara_denoiser_takes_side(info, sample->dims[i]))
            return sara_fail(mmdit->network.ctx, SARA_ERROR_INPUT,
                             "mmdit: sample of %lld x %lld, expected sides that are %s",
                             (long long)sample->dims[2], (long long)sample->dims[3],
                             sara_denoiser_sides(info).text);
    return SARA_OK;
}

/* Which blocks are computed again: of the first levels, each of which has as many as it can. */
static bool is_again(const sara_network *network, int block, int blocks)
{
    return block * network->info.denoiser.levels < network->checkpoint_levels * blocks;
}

/* y [N,T,C] of x [N,T,C] and text [N,S,C] */
static sara_status run_blocks(sara_tape *tape, sara_var **y, sara_mmdit *mmdit, sara_var *x,
                              sara_var *text, sara_var *e)
{
    const int blocks = mmdit->config.blocks;
    size_t scope = sara_tape_open(tape);
    sara_status status = SARA_OK;
    for (int i = 0; i < blocks; i++) {
        TRY(sara_mmdit_block_forward(tape, &mmdit->network, &mmdit->blocks[i], &x, &text, e,
                                     is_again(&mmdit->network, i, blocks)));
        sara_var *keep[] = {x, text};
        sara_tape_close(tape, scope, keep, text ? 2 : 1);
    }
    *y = x;
done:
    return status;
}

sara_status sara_mmdit_forward(sara_tape *tape, sara_var **out, sara_network *network,
                               sara_var *sample, const double *timesteps,
                               const sara_condition *condition)
{
    sara_mmdit *mmdit = (sara_mmdit *)network;
    const int64_t patch = mmdit->config.patch;
    size_t scope = sara_tape_open(tape);
    sara_var *h, *text, *e, *m;
    sara_status status;
    TRY(sara_denoiser_check(network, "mmdit", &sample->shape, condition));
    TRY(check_patches(mmdit, &sample->shape));
    TRY(embed_conditioning(tape, &e, mmdit, timesteps, condition->of[SARA_CONDITION_POOLED]));
    TRY(embed_patches(tape, &h, mmdit, sample)); /* [N,T,width] */
    TRY(sara_linear_forward(tape, &text, &mmdit->context,
                            condition->of[SARA_CONDITION_STATES])); /* [N,S,width] */
    TRY(run_blocks(tape, &h, mmdit, h, text, e));                   /* [N,T,width] */
    TRY(sara_linear_forward(tape, &m, &mmdit->modulation_out, e));  /* [N,2 width] */
    TRY(sara_mmdit_modulate(tape, &h, h, m, 1, 0));                 /* [N,T,width] */
    TRY(sara_linear_forward(tape, &h, &mmdit->out, h));             /* [N,T,patch^2 channels] */
    TRY(sara_nn_from_patches(tape, &h, h, sample->shape.dims[2] / patch,
                             sample->shape.dims[3] / patch, patch)); /* [N,H,W,channels] */
    TRY(sara_nn_to_channels_first(tape, out, h));                    /* [N,channels,H,W] */
    sara_tape_close(tape, scope, out, 1);
done:
    return status;
}
