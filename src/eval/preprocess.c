#include "eval/preprocess.h"

/* What CLIPImageProcessor and BitImageProcessor share. */
#define CENTRE_OF_CLIP                                                                             \
    .resize = true, .crop = true, .rescale = true, .normalize = true, .edge = 224,                 \
    .crop_height = 224, .crop_width = 224, .resample = SARA_RESAMPLE_BICUBIC, .factor = 1.0 / 255, \
    .mean = {0.48145466f, 0.4578275f, 0.40821073f}, .std = {0.26862954f, 0.26130258f, 0.27577711f}

const sara_preprocess sara_preprocess_clip = {.name = "CLIP", CENTRE_OF_CLIP};
const sara_preprocess sara_preprocess_bit = {.name = "Bit", CENTRE_OF_CLIP};
const sara_preprocess sara_preprocess_vit = {
    .name = "ViT",
    .resize = true,
    .rescale = true,
    .normalize = true,
    .square = true,
    .height = 224,
    .width = 224,
    .resample = SARA_RESAMPLE_BILINEAR,
    .factor = 1.0 / 255,
    .mean = {0.5f, 0.5f, 0.5f},
    .std = {0.5f, 0.5f, 0.5f},
};

/* ------------------------------------------------------------------------------------- reading */

/* "CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor" */
static bool is_class(const char *type, const sara_preprocess *class)
{
    static const char *const kinds[] = {"ImageProcessor", "FeatureExtractor"};
    size_t length = strlen(class->name);
    if (strncmp(type, class->name, length) != 0)
        return false;
    for (int i = 0; i < 2; i++)
        if (strncmp(type + length, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}

static sara_status find_class(sara_preprocess *out, const sara_config *config)
{
    static const sara_preprocess *const classes[] = {&sara_preprocess_clip, &sara_preprocess_vit,
                                                     &sara_preprocess_bit};
    const char *old, *type;
    sara_status status;
    TRY(sara_config_string(config, &old, "feature_extractor_type", NULL));
    TRY(sara_config_string(config, &type, "image_processor_type", old));
    if (!type)
        return SARA_OK;
    for (int i = 0; i < 3; i++)
        if (is_class(type, classes[i])) {
            *out = *classes[i];
            return SARA_OK;
        }
    status = sara_fail(config->ctx, SARA_ERROR_INPUT,
                       "%s: image_processor_type: \"%s\", expected CLIPImageProcessor, "
                       "ViTImageProcessor or BitImageProcessor",
                       config->source, type);
done:
    return status;
}

static sara_status refuse_size(const sara_config *config, const char *key, const char *expected)
{
    return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s: expected %s", config->source, key,
                     expected);
}

/* {"height", "width"}, or a number for both; missing: they stay. */
static sara_status read_height_width(const sara_config *config, int *height, int *width,
                                     const char *key, const char *expected)
{
    const json_t *value = json_object_get(config->object, key);
    const sara_config inside = {config->ctx, value, config->source};
    int64_t h, w;
    sara_status status;
    if (!value || json_is_null(value))
        return SARA_OK;
    if (json_is_object(value) ? json_object_size(value) != 2 : !json_is_integer(value))
        return refuse_size(config, key, expected);
    TRY(sara_config_int(json_is_object(value) ? &inside : config, &h,
                        json_is_object(value) ? "height" : key, 0, 1, SARA_IMAGE_MAX_SIDE));
    TRY(sara_config_int(json_is_object(value) ? &inside : config, &w,
                        json_is_object(value) ? "width" : key, 0, 1, SARA_IMAGE_MAX_SIDE));
    if (!h || !w)
        return refuse_size(config, key, expected);
    *height = (int)h;
    *width = (int)w;
done:
    return status;
}

static sara_status read_size(const sara_config *config, sara_preprocess *out)
{
    const json_t *value = json_object_get(config->object, "size");
    const sara_config inside = {config->ctx, value, config->source};
    const bool edge = json_object_get(value, "shortest_edge") && json_object_size(value) == 1;
    int64_t length = 0;
    sara_status status;
    if (edge)
        TRY(sara_config_int(&inside, &length, "shortest_edge", 0, 1, SARA_IMAGE_MAX_SIDE));
    else if (json_is_integer(value) && !out->square)
        TRY(sara_config_int(config, &length, "size", 0, 1, SARA_IMAGE_MAX_SIDE));
    else
        TRY(read_height_width(config, &out->height, &out->width, "size",
                              "a number, {\"shortest_edge\"} or {\"height\", \"width\"}"));
    if (value && !json_is_null(value))
        out->edge = (int)length;
done:
    return status;
}

/* Three numbers; missing: they stay. */
static sara_status read_three(const sara_config *config, float out[3], const char *key,
                              bool divisor)
{
    const json_t *list = json_object_get(config->object, key);
    if (!list || json_is_null(list))
        return SARA_OK;
    for (size_t i = 0; i < 3; i++) {
        double number;
        if (json_array_size(list) != 3 || !sara_json_number(&number, json_array_get(list, i)) ||
            !(number > -1e6) || !(number < 1e6) || (divisor && !(number > 0)))
            return refuse_size(config, key, divisor ? "three numbers above 0" : "three numbers");
        out[i] = (float)number;
    }
    return SARA_OK;
}

static sara_status preprocess_parse(const sara_config *config, sara_preprocess *out)
{
    int64_t resample;
    sara_status status;
    TRY(find_class(out, config));
    TRY(sara_config_bool(config, &out->resize, "do_resize", out->resize));
    TRY(sara_config_bool(config, &out->crop, "do_center_crop", out->crop));
    TRY(sara_config_bool(config, &out->rescale, "do_rescale", out->rescale));
    TRY(sara_config_bool(config, &out->normalize, "do_normalize", out->normalize));
    TRY(read_size(config, out));
    TRY(read_height_width(config, &out->crop_height, &out->crop_width, "crop_size",
                          "a number or {\"height\", \"width\"}"));
    if (out->crop && !out->crop_height)
        return refuse_size(config, "crop_size", "a number or {\"height\", \"width\"}");
    TRY(sara_config_int(config, &resample, "resample", out->resample, 1, 3));
    out->resample = (sara_resample)resample;
    TRY(sara_config_double(config, &out->factor, "rescale_factor", out->factor, 0, 1e6));
    TRY(read_three(config, out->mean, "image_mean", false));
    TRY(read_three(config, out->std, "image_std", true));
done:
    return status;
}

/* *out: NULL where there is none; json_decref(). *source: sara_free(). */
static sara_status find_file(sara_context *ctx, json_t **out, char **source, const char *folder)
{
    json_t *whole = NULL;
    char *newer = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, source, folder, "preprocessor_config.json"));
    TRY(sara_path_join(ctx, &newer, folder, "processor_config.json"));
    if (sara_path_is_named(*source)) {
        TRY(sara_json_load(ctx, out, *source, true));
    } else if (sara_path_is_named(newer)) {
        TRY(sara_json_load(ctx, &whole, newer, true));
        *out = json_incref(json_object_get(whole, "image_processor"));
        sara_free(ctx, *source);
        *source = newer;
        newer = NULL;
    }
    if (*out && !json_is_object(*out))
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: not a JSON object", *source);
done:
    json_decref(whole);
    sara_free(ctx, newer);
    return status;
}

sara_status sara_preprocess_read(sara_context *ctx, sara_preprocess *out, const char *folder,
                                 const sara_preprocess *fallback, int side)
{
    json_t *file = NULL;
    char *source = NULL;
    sara_status status;
    *out = *fallback;
    TRY(find_file(ctx, &file, &source, folder));
    if (file) {
        const sara_config config = {ctx, file, source};
        TRY(preprocess_parse(&config, out));
    } else if (out->edge) {
        out->edge = out->crop_height = out->crop_width = side;
    } else {
        out->height = out->width = side;
    }
done:
    json_decref(file);
    sara_free(ctx, source);
    return status;
}

/* ------------------------------------------------------------------------------------ pictures */

bool sara_preprocess_size(const sara_preprocess *p, int *height, int *width)
{
    *height = p->crop ? p->crop_height : p->height;
    *width = p->crop ? p->crop_width : p->width;
    return p->crop || (p->resize && !p->edge);
}

static sara_status scale_picture(sara_context *ctx, sara_image *out, const sara_preprocess *p,
                                 const sara_image *image)
{
    int height = p->height, width = p->width;
    if (p->edge) {
        const bool upright = image->width <= image->height;
        const int shorter = upright ? image->width : image->height;
        const int longer = upright ? image->height : image->width;
        /* In double, as Python divides. */
        const double scaled = (double)((int64_t)p->edge * longer) / shorter;
        if (scaled > SARA_IMAGE_MAX_SIDE)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "a picture of %dx%d cannot be scaled to a shorter edge of %d",
                             image->width, image->height, p->edge);
        height = upright ? (int)scaled : p->edge;
        width = upright ? p->edge : (int)scaled;
    }
    return sara_image_resize(ctx, out, image, width, height, p->resample);
}

/* Where position 0 of an axis that is cropped to `to` lies in the one of length `from`; negative:
 * zeros are before it, one more than after it where their number is odd. */
static int crop_start(int from, int to)
{
    return from >= to ? (from - to) / 2 : -((to - from + 1) / 2);
}

/* Of a byte of channel c. Rounded to float32 as by transformers, one after the other. */
static float value_of(const sara_preprocess *p, int byte, int c)
{
    float value = p->rescale ? (float)(byte * p->factor) : (float)byte;
    return p->normalize ? (value - p->mean[c]) / p->std[c] : value;
}

static void lay_out_picture(float *out, int height, int width, const sara_preprocess *p,
                            const sara_image *image)
{
    const int top = crop_start(image->height, height), left = crop_start(image->width, width);
    float values[3][256];
    for (int i = 0; i < 3 * 256; i++)
        values[i / 256][i % 256] = value_of(p, i % 256, i / 256);
    for (int c = 0; c < 3; c++)
        for (int y = top; y < top + height; y++)
            for (int x = left; x < left + width; x++) {
                const bool inside = y >= 0 && y < image->height && x >= 0 && x < image->width;
                const size_t at = (size_t)y * (size_t)image->width + (size_t)x;
                *out++ = values[c][inside ? image->pixels[at * 3 + (size_t)c] : 0];
            }
}

sara_status sara_preprocess_picture(sara_context *ctx, float **out, int *height, int *width,
                                    const sara_preprocess *p, const sara_image *image)
{
    sara_image scaled = {0};
    const sara_image *source = image;
    sara_status status = SARA_OK;
    *out = NULL;
    if (p->resize) {
        TRY(scale_picture(ctx, &scaled, p, image));
        source = &scaled;
    }
    *height = p->crop ? p->crop_height : source->height;
    *width = p->crop ? p->crop_width : source->width;
    TRY(sara_alloc(ctx, out, (size_t)*height * (size_t)*width * 3, sizeof(**out)));
    lay_out_picture(*out, *height, *width, p, source);
done:
    sara_image_clear(ctx, &scaled);
    return status;
}
