#include "pipeline/pipeline.h"

#include <math.h>

sara_status sara_floats_to_image(sara_context *ctx, sara_image *out, const float *pixels, int width,
                                 int height)
{
    size_t plane = (size_t)width * (size_t)height;
    memset(out, 0, sizeof(*out));
    sara_status status = sara_alloc(ctx, &out->pixels, plane, 3);
    if (status != SARA_OK)
        return status;
    out->width = width;
    out->height = height;
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < 3; c++) {
            float value = pixels[c * plane + i] / 2.0f + 0.5f;
            value = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
            out->pixels[i * 3 + c] = (uint8_t)lrintf(value * 255.0f);
        }
    return SARA_OK;
}
