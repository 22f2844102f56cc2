/* InceptionV3 with FID's weights; the convention tells how pictures come to its size. */
#include "eval/backbone.h"
#include "eval/inception_picture.h"
#include "models/inception.h"

typedef struct inception_state {
    sara_device *device;
    sara_tape *tape;
    sara_network *network;
    const sara_fid_convention *convention;
} inception_state;

static sara_status inception_open(sara_backbone *backbone, const sara_backbone_options *options)
{
    sara_context *ctx = backbone->ctx;
    inception_state *state;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &state, 1, sizeof(*state)));
    backbone->state = state;
    backbone->width = SARA_INCEPTION_WIDTH;
    TRY(sara_fid_convention_find(ctx, &state->convention, options->convention));
    TRY(sara_nn_device_open(ctx, &state->device, NULL));
    TRY(sara_tape_new(ctx, &state->tape, state->device));
    TRY(sara_inception_load(state->device, &state->network, options->path));
done:
    return status;
}

static void inception_close(sara_backbone *backbone)
{
    inception_state *state = backbone->state;
    if (!state)
        return;
    sara_network_free(state->network);
    sara_tape_free(state->tape);
    sara_nn_device_close(state->device);
    sara_free(backbone->ctx, state);
}

static sara_status inception_image(sara_backbone *backbone, float *out, const sara_image *image)
{
    inception_state *state = backbone->state;
    const sara_shape shape = sara_shape4(1, 3, SARA_INCEPTION_SIDE, SARA_INCEPTION_SIDE);
    const float *values;
    float *pixels = NULL;
    sara_var *leaf, *features;
    sara_status status;
    TRY(sara_fid_picture(backbone->ctx, &pixels, state->convention, image));
    TRY(sara_tape_leaf(state->tape, &leaf, &shape, pixels, false));
    TRY(sara_inception_forward(state->tape, &features, state->network, leaf));
    TRY(sara_tape_read(state->tape, &values, features));
    memcpy(out, values, SARA_INCEPTION_WIDTH * sizeof(*out));
done:
    sara_tape_reset(state->tape);
    sara_free(backbone->ctx, pixels);
    return status;
}

const sara_backbone_kind sara_backbone_inception = {.name = "inception",
                                                    .open = inception_open,
                                                    .close = inception_close,
                                                    .image = inception_image};
