/* InceptionV3 with FID's weights; the convention tells how pictures come to its size. */
#include "eval/inception_picture.h"
#include "eval/vision.h"
#include "models/inception.h"

typedef struct inception_state {
    sara_vision vision;
    const sara_fid_convention *convention;
} inception_state;

static sara_status inception_open(sara_backbone *backbone, const sara_backbone_options *options)
{
    inception_state *state;
    sara_status status;
    TRY(sara_vision_start(backbone, sizeof(*state), sara_inception_forward));
    state = backbone->state;
    backbone->width = SARA_INCEPTION_WIDTH;
    TRY(sara_fid_convention_find(backbone->ctx, &state->convention, options->convention));
    TRY(sara_inception_load(state->vision.device, &state->vision.network, options->path));
done:
    return status;
}

static sara_status inception_image(sara_backbone *backbone, float *out, const sara_image *image)
{
    const inception_state *state = backbone->state;
    float *pixels = NULL;
    sara_status status;
    TRY(sara_fid_picture(backbone->ctx, &pixels, state->convention, image));
    TRY(sara_vision_run(backbone, out, pixels, SARA_INCEPTION_SIDE, SARA_INCEPTION_SIDE));
done:
    sara_free(backbone->ctx, pixels);
    return status;
}

const sara_backbone_kind sara_backbone_inception = {.name = "inception",
                                                    .open = inception_open,
                                                    .close = sara_vision_close,
                                                    .image = inception_image};
