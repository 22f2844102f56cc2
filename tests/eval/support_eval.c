#include "support_eval.h"

sara_image test_formula_image(sara_context *ctx, int width, int height)
{
    sara_image image = {.width = width, .height = height};
    assert_ok(ctx, sara_alloc(ctx, &image.pixels, (size_t)width * (size_t)height, 3));
    uint8_t *to = image.pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                *to++ = (uint8_t)((x * 7 + y * 13 + c * 29 + x * y % 251) & 255);
    return image;
}

sara_backbone *test_backbone(sara_context *ctx, const sara_backbone_kind *kind,
                             const sara_backbone_options *options)
{
    sara_backbone *backbone;
    assert_ok(ctx, sara_backbone_open(ctx, &backbone, kind, options));
    return backbone;
}
