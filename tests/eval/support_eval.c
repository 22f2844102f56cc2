#include "support_eval.h"

#include <stdio.h>

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

sara_backbone *test_model(sara_context *ctx, const sara_backbone_kind *kind, const char *name,
                          const char *tokenizer)
{
    char path[512];
    const sara_backbone_options options = {.path = path, .tokenizer = tokenizer};
    snprintf(path, sizeof(path), EVAL_DATA "/models/%s", name);
    return test_backbone(ctx, kind, &options);
}

int test_model_pictures(sara_backbone *backbone, const sara_safetensors *file, const char *name)
{
    sara_context *ctx = backbone->ctx;
    int found = 0;
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        const size_t length = strlen(name);
        float got[64];
        int width, height;
        size_t count;
        if (strncmp(info->name, name, length) != 0 ||
            sscanf(info->name + length, "/%dx%d", &width, &height) != 2)
            continue;
        float *expected = test_load_f32(ctx, file, info->name, &count);
        sara_image image = test_formula_image(ctx, width, height);
        assert_int_equal(count, backbone->width);
        assert_ok(ctx, sara_backbone_image(backbone, got, &image));
        assert_close(test_relative_l2(got, expected, count), 1e-5, info->name);
        sara_image_clear(ctx, &image);
        sara_free(ctx, expected);
        found++;
    }
    return found;
}
