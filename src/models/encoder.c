#include "models/encoder.h"

/* ------------------------------------------------------------------------------------- config */

static sara_status read_activation(sara_activation *out, const sara_model_config *file)
{
    const char *activation;
    sara_status status;
    TRY(sara_config_string(&file->fields, &activation, "hidden_act",
                           *out == SARA_GELU ? "gelu" : "quick_gelu"));
    if (strcmp(activation, "quick_gelu") == 0)
        *out = SARA_QUICK_GELU;
    else if (strcmp(activation, "gelu") == 0)
        *out = SARA_GELU;
    else
        status =
            sara_model_config_refuse(file, "hidden_act", "expected \"quick_gelu\" or \"gelu\"");
done:
    return status;
}

sara_status sara_encoder_read(sara_encoder *encoder, const sara_model_config *file)
{
    const sara_config *fields = &file->fields;
    int64_t heads, layers;
    double eps;
    sara_status status;
    TRY(sara_config_int(fields, &encoder->width, "hidden_size", encoder->width, 1,
                        SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &layers, "num_hidden_layers", encoder->count, 1, 256));
    TRY(sara_config_int(fields, &heads, "num_attention_heads", encoder->heads, 1,
                        SARA_MAX_CHANNELS));
    if (encoder->width % heads)
        return sara_fail(fields->ctx, SARA_ERROR_INPUT,
                         "%s: hidden_size %lld is not a multiple of num_attention_heads %lld",
                         file->path, (long long)encoder->width, (long long)heads);
    TRY(sara_config_double(fields, &eps, "layer_norm_eps", encoder->eps, 0, 1));
    TRY(read_activation(&encoder->activation, file));
    encoder->eps = (float)eps;
    encoder->heads = (int)heads;
    encoder->count = (int)layers;
done:
    return status;
}

json_t *sara_encoder_settings(const sara_encoder *encoder)
{
    return json_pack("{s:i,s:f,s:s}", "heads", encoder->heads, "eps", (double)encoder->eps,
                     "activation", encoder->activation == SARA_QUICK_GELU ? "quick_gelu" : "gelu");
}

/* ------------------------------------------------------------------------------------ binding */

static sara_status bind_encoder_layer(sara_binder *binder, sara_encoder_layer *layer,
                                      const char *name, const sara_encoder *encoder,
                                      const sara_encoder_names *names)
{
    const int64_t width = encoder->width, inner = encoder->inner;
    const sara_shape channels = sara_shape1(width);
    sara_status status;
    layer->attention.heads = encoder->heads;
    TRY(sara_norm_bind(binder, &layer->norm1, sara_name_of("%s.%s", name, names->norm1).text,
                       width));
    TRY(sara_attention_bind(binder, &layer->attention,
                            sara_name_of("%s.%s", name, names->attention).text, &names->projections,
                            width, width, width, encoder->qkv_bias));
    TRY(sara_norm_bind(binder, &layer->norm2, sara_name_of("%s.%s", name, names->norm2).text,
                       width));
    TRY(sara_linear_bind(binder, &layer->fc1, sara_name_of("%s.%s", name, names->fc1).text,
                         encoder->gated ? 2 * inner : inner, width, true));
    TRY(sara_linear_bind(binder, &layer->fc2, sara_name_of("%s.%s", name, names->fc2).text, width,
                         inner, true));
    if (names->scale1)
        TRY(sara_binder_want(binder, &layer->scale1, &channels, "%s.%s", name, names->scale1));
    if (names->scale2)
        TRY(sara_binder_want(binder, &layer->scale2, &channels, "%s.%s", name, names->scale2));
done:
    return status;
}

sara_status sara_encoder_bind(sara_encoder *encoder, sara_binder *binder, sara_arena *arena,
                              const char *prefix, const sara_encoder_names *names)
{
    size_t bytes = (size_t)encoder->count * sizeof(*encoder->layers);
    sara_status status;
    TRY(sara_arena_alloc(arena, &encoder->layers, 1, bytes));
    memset(encoder->layers, 0, bytes);
    for (int i = 0; i < encoder->count; i++)
        TRY(bind_encoder_layer(binder, &encoder->layers[i], sara_name_of("%s.%d", prefix, i).text,
                               encoder, names));
done:
    return status;
}

const char *sara_encoder_prefix(const sara_weights *weights, const char *published)
{
    for (size_t i = 0; weights && i < sara_weights_count(weights); i++)
        if (strncmp(sara_weights_at(weights, i)->name, published, strlen(published)) == 0)
            return published;
    return "";
}

/* ------------------------------------------------------------------------------------ forward */

/* *x [N,T,C] times the scale of each channel, if there is one. */
static sara_status scale_channels(sara_tape *tape, sara_var **x, sara_param *scale)
{
    const sara_shape *shape = &(*x)->shape;
    sara_var *scales;
    sara_status status;
    if (!scale)
        return SARA_OK;
    TRY(sara_rows_repeat(tape, &scales, scale, shape->dims[0] * shape->dims[1], 1)); /* [N*T,C] */
    TRY(sara_tape_view(tape, &scales, scales, shape));                               /* [N,T,C] */
    TRY(sara_nn_multiply(tape, x, *x, scales));
done:
    return status;
}

/* y [N,T,C] = fc2(activation(fc1(x))), or with gates fc2(silu(a) b), where a, b = fc1(x). */
static sara_status encoder_feed_forward(sara_tape *tape, sara_var **y, const sara_encoder *encoder,
                                        const sara_encoder_layer *layer, sara_var *x)
{
    sara_var *f, *other;
    sara_status status;
    TRY(sara_linear_forward(tape, &f, &layer->fc1, x)); /* [N,T,inner], gated [N,T,2*inner] */
    if (encoder->gated) {
        TRY(sara_nn_slice(tape, &other, f, encoder->inner, encoder->inner)); /* [N,T,inner] */
        TRY(sara_nn_slice(tape, &f, f, 0, encoder->inner));                  /* [N,T,inner] */
        TRY(sara_nn_activate(tape, &f, f, SARA_SILU));                       /* [N,T,inner] */
        TRY(sara_nn_multiply(tape, &f, f, other));                           /* [N,T,inner] */
    } else {
        TRY(sara_nn_activate(tape, &f, f, encoder->activation)); /* [N,T,inner] */
    }
    TRY(sara_linear_forward(tape, y, &layer->fc2, f)); /* [N,T,C] */
done:
    return status;
}

/* h = x + attention(norm1(x)); y = h + feed_forward(norm2(h)); what is added may be scaled. */
static sara_status encoder_layer_forward(sara_tape *tape, sara_var **y, const sara_encoder *encoder,
                                         const sara_encoder_layer *layer, sara_var *x, bool causal)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h, *f;
    sara_status status;
    /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, &h, x, layer->norm1.weight, layer->norm1.bias, encoder->eps));
    TRY(sara_attention_forward(tape, &h, &layer->attention, h, NULL, causal)); /* [N,T,C] */
    TRY(scale_channels(tape, &h, layer->scale1));                              /* [N,T,C] */
    TRY(sara_nn_add(tape, &h, h, x));                                          /* [N,T,C] */
    /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, &f, h, layer->norm2.weight, layer->norm2.bias, encoder->eps));
    TRY(encoder_feed_forward(tape, &f, encoder, layer, f)); /* [N,T,C] */
    TRY(scale_channels(tape, &f, layer->scale2));           /* [N,T,C] */
    TRY(sara_nn_add(tape, y, h, f));                        /* [N,T,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

sara_status sara_encoder_range(sara_tape *tape, sara_var **y, const sara_encoder *encoder,
                               int first, int end, sara_var *x, size_t scope, bool causal)
{
    sara_status status = SARA_OK;
    for (int i = first; i < end; i++) {
        sara_tape_close(tape, scope, &x, 1);
        TRY(encoder_layer_forward(tape, &x, encoder, &encoder->layers[i], x, causal));
    }
    *y = x;
done:
    return status;
}

sara_status sara_encoder_forward(sara_tape *tape, sara_var **y, const sara_encoder *encoder,
                                 sara_var *x, size_t scope, bool causal)
{
    return sara_encoder_range(tape, y, encoder, 0, encoder->count, x, scope, causal);
}
