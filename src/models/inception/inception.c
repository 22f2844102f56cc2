#include "models/inception/parts.h"

#include <math.h>

#define BATCH_NORM_EPS 0.001

/* Of a row with a name. The batch norm is folded into weight and bias when they are read, and bias
 * is its own. */
typedef struct inception_conv {
    sara_param *weight, *bias, *scale, *mean, *variance;
} inception_conv;

typedef struct inception {
    sara_network network;
    inception_conv convs[SARA_INCEPTION_BLOCKS][SARA_INCEPTION_ROWS];
} inception;

/* ------------------------------------------------------------------------------------ binding */

static int row_out(const sara_inception_place *place, const sara_inception_row *row)
{
    return row->out ? row->out : place->own;
}

static sara_status bind_conv(sara_binder *binder, inception_conv *conv, const char *name,
                             const sara_inception_row *row, int out, int in)
{
    const sara_shape kernel = sara_shape4(out, in, row->kh, row->kw), each = sara_shape1(out);
    sara_status status;
    TRY(sara_binder_want(binder, &conv->weight, &kernel, "%s.conv.weight", name));
    TRY(sara_binder_want(binder, &conv->scale, &each, "%s.bn.weight", name));
    TRY(sara_binder_want(binder, &conv->bias, &each, "%s.bn.bias", name));
    TRY(sara_binder_want(binder, &conv->mean, &each, "%s.bn.running_mean", name));
    TRY(sara_binder_want(binder, &conv->variance, &each, "%s.bn.running_var", name));
done:
    return status;
}

/* *channels: of the block's input, then of its result. */
static sara_status bind_place(sara_binder *binder, inception_conv *convs,
                              const sara_inception_place *place, int *channels)
{
    int all = 0, in = *channels, out = *channels;
    sara_status status = SARA_OK;
    for (int i = 0; place->rows[i].kh; i++) {
        const sara_inception_row *row = &place->rows[i];
        const sara_name name = sara_name_of("%s%s%s", place->name ? place->name : "",
                                            place->name ? "." : "", row->name ? row->name : "");
        in = row->from == SARA_FROM_BLOCK ? *channels : row->from == SARA_FROM_SAME ? in : out;
        out = row->name ? row_out(place, row) : in;
        if (row->name)
            TRY(bind_conv(binder, &convs[i], name.text, row, out, in));
        all += row->ends ? out : 0;
    }
    *channels = all;
done:
    return status;
}

static sara_status inception_bind(sara_network *network, sara_binder *binder,
                                  const sara_weights *weights)
{
    inception *net = (inception *)network;
    int channels = 3;
    sara_status status;
    (void)weights;
    for (int i = 0; i < SARA_INCEPTION_BLOCKS; i++)
        TRY(bind_place(binder, net->convs[i], &sara_inception_places[i], &channels));
    /* What comes after the features, and what batch norms count when they are trained. */
    TRY(sara_binder_ignore(binder, "fc.weight"));
    TRY(sara_binder_ignore(binder, "fc.bias"));
    TRY(sara_binder_ignore(binder, ".num_batches_tracked"));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ reading */

/* conv -> (conv - mean) scale / sqrt(variance + eps) + bias; copies are the host's. */
static void fold_channels(const sara_param *weight, const sara_param *bias, const sara_param *scale,
                          const sara_param *mean, const sara_param *variance)
{
    const int64_t out = weight->value.shape.dims[0];
    const int64_t each = sara_shape_count(&weight->value.shape) / out;
    float *w = weight->value.data, *b = bias->value.data;
    const float *s = scale->value.data, *m = mean->value.data, *v = variance->value.data;
    for (int64_t i = 0; i < out; i++) {
        double factor = (double)s[i] / sqrt((double)v[i] + BATCH_NORM_EPS);
        for (int64_t k = 0; k < each; k++)
            w[i * each + k] = (float)((double)w[i * each + k] * factor);
        b[i] = (float)((double)b[i] - (double)m[i] * factor);
    }
}

static sara_status fold_norm(sara_context *ctx, const inception_conv *conv)
{
    sara_param *const params[] = {conv->weight, conv->bias, conv->scale, conv->mean,
                                  conv->variance};
    sara_param copies[5] = {{0}};
    sara_status status;
    for (int i = 0; i < 5; i++)
        TRY(sara_param_read(ctx, &copies[i], params[i]));
    fold_channels(&copies[0], &copies[1], &copies[2], &copies[3], &copies[4]);
    TRY(sara_param_write(params[0], &copies[0]));
    TRY(sara_param_write(params[1], &copies[1]));
done:
    for (int i = 0; i < 5; i++)
        sara_param_read_end(ctx, &copies[i], params[i]);
    return status;
}

static sara_status inception_settle(sara_network *network)
{
    inception *net = (inception *)network;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_INCEPTION_BLOCKS; i++)
        for (int k = 0; k < SARA_INCEPTION_ROWS; k++)
            if (net->convs[i][k].weight)
                TRY(fold_norm(network->ctx, &net->convs[i][k]));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

static sara_status row_forward(sara_tape *tape, sara_var **y, const inception_conv *conv,
                               const sara_inception_row *row, sara_var *x)
{
    const int down = row->pad ? row->kh / 2 : 0, across = row->pad ? row->kw / 2 : 0;
    const sara_pooling_options window = {row->kh, row->kw, row->stride, down};
    const sara_conv2d_options options = {row->stride, down, across, down, across};
    sara_status status;
    if (!row->name)
        return row->average ? sara_nn_average_pool(tape, y, x, &window)
                            : sara_nn_max_pool(tape, y, x, &window);
    TRY(sara_nn_conv2d(tape, y, x, conv->weight, conv->bias, &options)); /* [N,H,W,out] */
    TRY(sara_nn_activate(tape, y, *y, SARA_RELU));
done:
    return status;
}

static sara_status place_forward(sara_tape *tape, sara_var **y, const inception_conv *convs,
                                 const sara_inception_place *place, sara_var *x)
{
    sara_var *parts[SARA_NODE_VARS], *joined, *in = x, *out = x;
    size_t scope = sara_tape_open(tape);
    int count = 0;
    sara_status status = SARA_OK;
    for (int i = 0; place->rows[i].kh; i++) {
        const sara_inception_row *row = &place->rows[i];
        in = row->from == SARA_FROM_BLOCK ? x : row->from == SARA_FROM_SAME ? in : out;
        TRY(row_forward(tape, &out, &convs[i], row, in)); /* [N,H,W,out] */
        if (row->ends && count == SARA_NODE_VARS) {
            TRY(sara_nn_concat_all(tape, &joined, parts, count)); /* [N,H,W,so far] */
            parts[0] = joined;
            count = 1;
        }
        if (row->ends)
            parts[count++] = out;
    }
    TRY(sara_nn_concat_all(tape, y, parts, count)); /* [N,H,W,all] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

sara_status sara_inception_forward(sara_tape *tape, sara_var **features, sara_network *network,
                                   sara_var *image)
{
    const inception *net = (const inception *)network;
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_nn_to_channels_last(tape, &h, image)); /* [N,H,W,3] */
    for (int i = 0; i < SARA_INCEPTION_BLOCKS; i++) {
        TRY(place_forward(tape, &h, net->convs[i], &sara_inception_places[i], h));
        sara_tape_close(tape, scope, &h, 1);
    }
    const int64_t *d = h->shape.dims;
    const sara_pooling_options all = {(int)d[1], (int)d[2], 1, 0};
    const sara_shape flat = sara_shape2(d[0], d[3]);
    TRY(sara_nn_average_pool(tape, &h, h, &all));  /* [N,1,1,2048] */
    TRY(sara_tape_view(tape, features, h, &flat)); /* [N,2048] */
    sara_tape_close(tape, scope, features, 1);
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

/* Its weights have no config: there is one network. */
static sara_status inception_read_config(sara_network *network, const sara_model_config *file)
{
    (void)network;
    (void)file;
    return SARA_OK;
}

static json_t *inception_settings(const sara_network *network)
{
    (void)network;
    return json_object();
}

static const sara_network_shape shapes[] = {
    {"fid", "{\"_class_name\":\"FeatureExtractorInceptionV3\"}"}, {NULL, NULL}};

const sara_network_class sara_inception_class = {.library = "torch_fidelity",
                                                 .name = "FeatureExtractorInceptionV3",
                                                 .key = "_class_name",
                                                 .value = "FeatureExtractorInceptionV3",
                                                 .title = "InceptionV3",
                                                 .size = sizeof(inception),
                                                 .read_config = inception_read_config,
                                                 .bind = inception_bind,
                                                 .settle = inception_settle,
                                                 .settings = inception_settings,
                                                 .shapes = shapes};

sara_status sara_inception_load(sara_device *device, sara_network **out, const char *path)
{
    sara_context *ctx = device->ctx;
    sara_network *network = NULL;
    sara_component component;
    sara_status status;
    *out = NULL;
    TRY(sara_network_shape_of(ctx, &component, &sara_inception_class, "fid"));
    TRY(sara_strdup(ctx, &component.path, path));
    TRY(sara_network_open(device, &network, &sara_inception_class, &component, SARA_STORE_F32));
    TRY(sara_network_read(network));
    *out = network;
    network = NULL;
done:
    sara_component_close(&component);
    sara_network_free(network);
    return status;
}
