#include "eval/vision.h"

static sara_status check_side(sara_context *ctx, const sara_vision *vision, const char *folder)
{
    const sara_vision_info *info = &vision->network->info.vision;
    int height, width;
    if (info->any_size || !sara_preprocess_size(&vision->preprocess, &height, &width) ||
        (height == info->side && width == info->side))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "%s: its image processor makes pictures of %dx%d, and image_size is %lld",
                     folder, width, height, (long long)info->side);
}

sara_status sara_vision_start(sara_backbone *backbone, size_t size, sara_vision_fn forward)
{
    sara_context *ctx = backbone->ctx;
    sara_vision *vision;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &vision, 1, size));
    backbone->state = vision;
    vision->forward = forward;
    TRY(sara_nn_device_open(ctx, &vision->device, NULL));
    TRY(sara_tape_new(ctx, &vision->tape, vision->device));
done:
    return status;
}

sara_status sara_vision_open(sara_backbone *backbone, sara_vision **out,
                             const sara_network_class *class, sara_vision_fn forward,
                             const sara_preprocess *fallback, const char *folder)
{
    sara_context *ctx = backbone->ctx;
    sara_vision *vision;
    sara_status status;
    TRY(sara_vision_start(backbone, sizeof(*vision), forward));
    *out = vision = backbone->state;
    TRY(sara_network_load(vision->device, &vision->network, class, folder, NULL, SARA_STORE_EXACT));
    TRY(sara_preprocess_read(ctx, &vision->preprocess, folder, fallback,
                             (int)vision->network->info.vision.side));
    TRY(check_side(ctx, vision, folder));
    backbone->width = vision->network->info.vision.width;
done:
    return status;
}

void sara_vision_close(sara_backbone *backbone)
{
    sara_vision *vision = backbone->state;
    if (!vision)
        return;
    sara_tokenizer_free(vision->tokenizer);
    sara_network_free(vision->network);
    sara_tape_free(vision->tape);
    sara_nn_device_close(vision->device);
    sara_free(backbone->ctx, vision);
}

sara_status sara_vision_run(sara_backbone *backbone, float *out, const float *pixels, int height,
                            int width)
{
    const sara_vision *vision = backbone->state;
    const sara_shape shape = sara_shape4(1, 3, height, width);
    sara_tape *tape = vision->tape;
    const float *values;
    sara_var *leaf, *features;
    sara_status status;
    TRY(sara_tape_leaf(tape, &leaf, &shape, pixels, false));
    TRY(vision->forward(tape, &features, vision->network, leaf));
    TRY(sara_tape_read(tape, &values, features));
    memcpy(out, values, (size_t)sara_shape_count(&features->shape) * sizeof(*out));
done:
    sara_tape_reset(tape);
    return status;
}

sara_status sara_vision_image(sara_backbone *backbone, float *out, const sara_image *image)
{
    sara_context *ctx = backbone->ctx;
    sara_vision *vision = backbone->state;
    sara_image square = {0};
    float *pixels = NULL;
    int height, width;
    sara_status status = SARA_OK;
    if (vision->resize)
        TRY(sara_image_resize(ctx, &square, image, vision->resize, vision->resize,
                              SARA_RESAMPLE_BICUBIC));
    TRY(sara_preprocess_picture(ctx, &pixels, &height, &width, &vision->preprocess,
                                vision->resize ? &square : image));
    TRY(sara_vision_run(backbone, out, pixels, height, width));
done:
    sara_free(ctx, pixels);
    sara_image_clear(ctx, &square);
    return status;
}
