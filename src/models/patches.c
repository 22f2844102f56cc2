#include "models/patches.h"

#include <math.h>

/* ------------------------------------------------------------------------------------- config */

/* A side, as a number or as two that are equal. */
static sara_status read_side(int64_t *out, const sara_model_config *file, const char *key)
{
    int64_t sides[2] = {*out, *out};
    int count;
    sara_status status;
    TRY(sara_config_ints(&file->fields, sides, &count, key, 2, 2, 1, 1 << 14));
    if (sides[0] != sides[1])
        status = sara_model_config_refuse(file, key, "expected a square");
    *out = sides[0];
done:
    return status;
}

sara_status sara_patches_read(sara_patches *patches, const sara_model_config *file)
{
    static const sara_supported channels[] = {{"num_channels", {"3"}}, {NULL, {NULL}}};
    sara_status status;
    TRY(sara_model_config_check(file, channels));
    TRY(read_side(&patches->side, file, "image_size"));
    TRY(read_side(&patches->patch, file, "patch_size"));
    if (patches->patch > patches->side)
        status = sara_fail(file->fields.ctx, SARA_ERROR_INPUT,
                           "%s: patch_size %lld is larger than image_size %lld", file->path,
                           (long long)patches->patch, (long long)patches->side);
done:
    return status;
}

int64_t sara_patches_positions(const sara_patches *patches)
{
    int64_t side = patches->side / patches->patch;
    return 1 + side * side;
}

/* ------------------------------------------------------------------------------- interpolation */

/* Keys' cubic convolution (1981). */
static double cubic_of(double x, double a)
{
    x = fabs(x);
    if (x <= 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* weights [to][from], as torch's interpolate(mode="bicubic", align_corners=False) has them along an
 * axis: positions beyond the ends are those at the ends, or with antialias=True are left out, where
 * the filter is another and grows with what it makes smaller. */
static void fill_weights(float *weights, int64_t to, int64_t from, bool smooth)
{
    const double scale = (double)from / (double)to, stretch = smooth && scale > 1 ? scale : 1;
    const double a = smooth ? -0.5 : -0.75;
    memset(weights, 0, (size_t)(to * from) * sizeof(*weights));
    for (int64_t i = 0; i < to; i++, weights += from) {
        const double center = ((double)i + 0.5) * scale - 0.5;
        const int64_t first = (int64_t)ceil(center - 2 * stretch);
        const int64_t last = (int64_t)floor(center + 2 * stretch);
        double sum = 0;
        for (int64_t x = first; x <= last; x++) {
            const int64_t at = x < 0 ? 0 : x >= from ? from - 1 : x;
            const double weight = cubic_of(((double)x - center) / stretch, a);
            if (smooth && at != x)
                continue;
            weights[at] += (float)weight;
            sum += weight;
        }
        for (int64_t x = 0; x < from; x++)
            weights[x] = (float)((double)weights[x] / sum);
    }
}

/* y [rows][inner] = weights [rows][from] x [from][inner] */
static void combine(float *y, const float *weights, const float *x, int64_t rows, int64_t from,
                    int64_t inner)
{
    memset(y, 0, (size_t)(rows * inner) * sizeof(*y));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < from; k++)
            for (int64_t c = 0; weights[i * from + k] != 0 && c < inner; c++)
                y[i * inner + c] += weights[i * from + k] * x[k * inner + c];
}

/* out [1 + height * width][C] from the trained positions, of the host. */
static sara_status interpolate(sara_tape *tape, float *out, const sara_patches *patches,
                               int64_t height, int64_t width)
{
    const int64_t side = patches->side / patches->patch, c = patches->width;
    const int64_t count = sara_patches_positions(patches) * c;
    const bool smooth = patches->resize == SARA_PATCHES_SMOOTH;
    sara_param copy = {0};
    float *trained, *weights, *rows;
    sara_status status;
    TRY(sara_tape_memory(tape, &trained, (size_t)count, sizeof(*trained)));
    TRY(sara_tape_memory(tape, &rows, (size_t)(height * side * c), sizeof(*rows)));
    TRY(sara_tape_memory(tape, &weights, (size_t)((height > width ? height : width) * side),
                         sizeof(*weights)));
    TRY(sara_param_read(sara_tape_context(tape), &copy, patches->positions));
    for (int64_t i = 0; i < count; i++)
        trained[i] = sara_param_get(&copy, (size_t)i);
    memcpy(out, trained, (size_t)c * sizeof(*out));
    fill_weights(weights, height, side, smooth);
    combine(rows, weights, trained + c, height, side, side * c); /* [height][side][C] */
    fill_weights(weights, width, side, smooth);
    for (int64_t y = 0; y < height; y++)
        combine(out + (1 + y * width) * c, weights, rows + y * side * c, width, side, c);
done:
    sara_param_read_end(sara_tape_context(tape), &copy, patches->positions);
    return status;
}

/* *y [N,1+height*width,C] = x + positions for another size. */
static sara_status add_interpolated(sara_tape *tape, sara_var **y, const sara_patches *patches,
                                    sara_var *x, int64_t height, int64_t width)
{
    const int64_t size = (1 + height * width) * patches->width, n = x->shape.dims[0];
    float *positions = NULL;
    sara_var *leaf;
    sara_status status = SARA_OK;
    if (!sara_tape_is_dry(tape)) {
        TRY(sara_tape_memory(tape, &positions, (size_t)(n * size), sizeof(*positions)));
        TRY(interpolate(tape, positions, patches, height, width));
        for (int64_t i = 1; i < n; i++)
            memcpy(positions + i * size, positions, (size_t)size * sizeof(*positions));
    }
    TRY(sara_tape_leaf(tape, &leaf, &x->shape, positions, false));
    TRY(sara_nn_add(tape, y, x, leaf));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

/* y [N,(T+R)*C]: registers after the first token of x [N,T*C]. */
static sara_status add_registers(sara_tape *tape, sara_var **y, const sara_patches *patches,
                                 sara_var *x)
{
    const int64_t n = x->shape.dims[0], c = patches->width;
    sara_var *first, *registers, *rest;
    sara_status status;
    TRY(sara_nn_slice(tape, &first, x, 0, c));
    TRY(sara_nn_slice(tape, &rest, x, c, x->shape.dims[1] - c));
    TRY(sara_rows_repeat(tape, &registers, patches->registers, n, patches->register_count));
    TRY(sara_nn_concat(tape, &first, first, registers)); /* [N,(1+R)*C] */
    TRY(sara_nn_concat(tape, y, first, rest));           /* [N,(T+R)*C] */
done:
    return status;
}

static sara_status check_pixels(sara_context *ctx, const sara_patches *patches,
                                const sara_shape *pixels)
{
    const int64_t *d = pixels->dims;
    const long long side = patches->side, patch = patches->patch;
    if (d[2] < patch || d[3] < patch)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "a picture of %lldx%lld is smaller than a patch of %lldx%lld",
                         (long long)d[3], (long long)d[2], patch, patch);
    if (patches->resize == SARA_PATCHES_REFUSE && (d[2] != side || d[3] != side))
        return sara_fail(ctx, SARA_ERROR_INPUT, "a picture of %lldx%lld, expected %lldx%lld",
                         (long long)d[3], (long long)d[2], side, side);
    return SARA_OK;
}

sara_status sara_patches_forward(sara_tape *tape, sara_var **y, const sara_patches *patches,
                                 sara_var *pixels)
{
    const int64_t n = pixels->shape.dims[0], c = patches->width,
                  trained = patches->side / patches->patch;
    const int64_t height = pixels->shape.dims[2] / patches->patch;
    const int64_t width = pixels->shape.dims[3] / patches->patch, count = height * width;
    sara_shape flat = sara_shape2(n, count * c), tokens = sara_shape3(n, 1 + count, c);
    sara_conv2d_options apart = {.stride = (int)patches->patch};
    size_t scope = sara_tape_open(tape);
    sara_var *h, *token;
    sara_status status;
    TRY(check_pixels(sara_tape_context(tape), patches, &pixels->shape));
    TRY(sara_nn_to_channels_last(tape, &h, pixels)); /* [N,H,W,3] */
    TRY(sara_nn_conv2d(tape, &h, h, patches->projection.weight, patches->projection.bias,
                       &apart));                          /* [N,height,width,C] */
    TRY(sara_tape_view(tape, &h, h, &flat));              /* [N,height*width*C] */
    TRY(sara_rows_repeat(tape, &token, patches->token, n, 1)); /* [N,C] */
    TRY(sara_nn_concat(tape, &h, token, h));              /* [N,(1+height*width)*C] */
    TRY(sara_tape_view(tape, &h, h, &tokens));            /* [N,1+height*width,C] */
    if (height == trained && width == trained)
        TRY(sara_nn_add_positions(tape, &h, h, patches->positions));
    else
        TRY(add_interpolated(tape, &h, patches, h, height, width));
    if (patches->registers) {
        flat.dims[1] += c;
        tokens.dims[1] += patches->register_count;
        TRY(sara_tape_view(tape, &h, h, &flat));
        TRY(add_registers(tape, &h, patches, h));  /* [N,(1+R+height*width)*C] */
        TRY(sara_tape_view(tape, &h, h, &tokens)); /* [N,1+R+height*width,C] */
    }
    sara_tape_close(tape, scope, &h, 1);
    *y = h;
done:
    return status;
}

sara_status sara_patches_token(sara_tape *tape, sara_var **y, sara_var *x)
{
    const int64_t n = x->shape.dims[0];
    int64_t *rows;
    sara_status status;
    TRY(sara_tape_memory(tape, &rows, (size_t)n, sizeof(*rows)));
    for (int64_t i = 0; i < n; i++)
        rows[i] = i * x->shape.dims[1];
    TRY(sara_nn_take_rows(tape, y, x, rows, n));
done:
    return status;
}
