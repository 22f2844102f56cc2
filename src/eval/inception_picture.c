#include "eval/inception_picture.h"

#include "models/inception.h"

#define SIDE SARA_INCEPTION_SIDE

/* For each output position the two input positions and the share of the second. */
typedef struct bilinear {
    int low[SIDE], high[SIDE];
    float share[SIDE];
} bilinear;

/* As TensorFlow 1 does it with align_corners False, and torch-fidelity's
 * interpolate_bilinear_2d_like_tensorflow1x(): pixels are points at their upper left corners, and
 * nothing is averaged where a picture shrinks. */
static void bilinear_plan(bilinear *plan, int from)
{
    const float scale = (float)((double)from / SIDE);
    for (int i = 0; i < SIDE; i++) {
        float at = (float)i * scale;
        plan->low[i] = (int)at;
        plan->high[i] = plan->low[i] + 1 < from ? plan->low[i] + 1 : from - 1;
        plan->share[i] = at - (float)plan->low[i];
    }
}

/* From the pixels a and b of a row, of which b has the share. */
static float bilinear_mix(const uint8_t *row, int a, int b, float share, int channel)
{
    const float first = row[a * 3 + channel], second = row[b * 3 + channel];
    return first + (second - first) * share;
}

static sara_status resize_torch_fidelity(sara_context *ctx, float **out, const sara_image *image)
{
    const size_t row = (size_t)image->width * 3;
    bilinear *x = NULL, *y = NULL;
    float *to = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc(ctx, &x, 1, sizeof(*x)));
    TRY(sara_alloc(ctx, &y, 1, sizeof(*y)));
    TRY(sara_alloc(ctx, &to, SIDE * SIDE * 3, sizeof(*to)));
    *out = to;
    bilinear_plan(x, image->width);
    bilinear_plan(y, image->height);
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            for (int c = 0; c < 3; c++) {
                const uint8_t *above = image->pixels + (size_t)y->low[i] * row;
                const uint8_t *below = image->pixels + (size_t)y->high[i] * row;
                float a = bilinear_mix(above, x->low[j], x->high[j], x->share[j], c);
                float b = bilinear_mix(below, x->low[j], x->high[j], x->share[j], c);
                *to++ = a + (b - a) * y->share[i];
            }
done:
    sara_free(ctx, x);
    sara_free(ctx, y);
    return status;
}

/* clean-fid's mode "clean": PIL's bicubic with antialiasing, each channel in float, not rounded. */
static sara_status resize_clean(sara_context *ctx, float **out, const sara_image *image)
{
    sara_status status;
    TRY(sara_image_resize_exact(ctx, out, image, SIDE, SIDE, SARA_RESAMPLE_BICUBIC));
    for (int i = 0; i < SIDE * SIDE * 3; i++)
        (*out)[i] = (*out)[i] < 0 ? 0 : (*out)[i] > 255 ? 255 : (*out)[i];
done:
    return status;
}

static const sara_fid_convention conventions[] = {{"torch-fidelity", resize_torch_fidelity},
                                                  {"clean", resize_clean}};

sara_status sara_fid_convention_find(sara_context *ctx, const sara_fid_convention **out,
                                     const char *name)
{
    for (size_t i = 0; i < sizeof(conventions) / sizeof(*conventions); i++)
        if (!name || strcmp(conventions[i].name, name) == 0) {
            *out = &conventions[i];
            return SARA_OK;
        }
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "convention %.100s, expected \"torch-fidelity\" or \"clean\"", name);
}

sara_status sara_fid_picture(sara_context *ctx, float **out, const sara_fid_convention *convention,
                             const sara_image *image)
{
    float *pixels = NULL;
    sara_status status;
    *out = NULL;
    TRY(convention->resize(ctx, &pixels, image));
    TRY(sara_alloc(ctx, out, 3 * SIDE * SIDE, sizeof(**out)));
    for (int i = 0; i < SIDE * SIDE; i++)
        for (int c = 0; c < 3; c++)
            (*out)[c * SIDE * SIDE + i] = (pixels[i * 3 + c] - 128) / 128;
done:
    sara_free(ctx, pixels);
    return status;
}
