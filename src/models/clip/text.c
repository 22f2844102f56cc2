#include "models/clip/parts.h"

/* ------------------------------------------------------------------------------------- config */

static sara_status read_sizes(const sara_model_config *file, sara_clip_text *out)
{
    const sara_config *fields = &file->fields;
    int64_t vocab, hidden, positions, eos, heads, layers;
    sara_status status;
    TRY(sara_config_int(fields, &vocab, "vocab_size", 49408, 1, 1 << 24));
    TRY(sara_config_int(fields, &hidden, "hidden_size", 512, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &out->inner, "intermediate_size", 2048, 1, 4 * SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &layers, "num_hidden_layers", 12, 1, 256));
    TRY(sara_config_int(fields, &heads, "num_attention_heads", 8, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &positions, "max_position_embeddings", 77, 1, 1 << 20));
    TRY(sara_config_int(fields, &eos, "eos_token_id", 49407, 0, 1 << 24));
    if (hidden % heads)
        status = sara_fail(fields->ctx, SARA_ERROR_INPUT,
                           "%s: hidden_size %lld is not a multiple of num_attention_heads %lld",
                           file->path, (long long)hidden, (long long)heads);
    out->network.info.text = (sara_text_info){(int)vocab, (int)hidden, (int)positions, (int)eos};
    out->heads = (int)heads;
    out->count = (int)layers;
done:
    return status;
}

static sara_status clip_read_config(sara_network *network, const sara_model_config *file)
{
    sara_clip_text *out = (sara_clip_text *)network;
    const char *activation;
    double eps;
    sara_status status;
    TRY(read_sizes(file, out));
    TRY(sara_config_double(&file->fields, &eps, "layer_norm_eps", 1e-5, 0, 1));
    out->eps = (float)eps;
    TRY(sara_config_string(&file->fields, &activation, "hidden_act", "quick_gelu"));
    if (strcmp(activation, "quick_gelu") == 0)
        out->activation = SARA_QUICK_GELU;
    else if (strcmp(activation, "gelu") == 0)
        out->activation = SARA_GELU;
    else
        status =
            sara_model_config_refuse(file, "hidden_act", "expected \"quick_gelu\" or \"gelu\"");
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

static sara_status bind_clip_layer(sara_binder *binder, sara_clip_layer *layer, const char *name,
                                   const sara_clip_text *text)
{
    static const sara_attention_names names = {"q_proj", "k_proj", "v_proj", "out_proj"};
    int64_t hidden = text->network.info.text.hidden_size;
    sara_status status;
    layer->attention.heads = text->heads;
    TRY(sara_norm_bind(binder, &layer->norm1, sara_name_of("%s.layer_norm1", name).text, hidden));
    TRY(sara_attention_bind(binder, &layer->attention, sara_name_of("%s.self_attn", name).text,
                            &names, hidden, hidden, hidden, true));
    TRY(sara_norm_bind(binder, &layer->norm2, sara_name_of("%s.layer_norm2", name).text, hidden));
    TRY(sara_linear_bind(binder, &layer->fc1, sara_name_of("%s.mlp.fc1", name).text, text->inner,
                         hidden, true));
    TRY(sara_linear_bind(binder, &layer->fc2, sara_name_of("%s.mlp.fc2", name).text, hidden,
                         text->inner, true));
done:
    return status;
}

/* "text_model." in published models, "" in those of newer transformers. */
static const char *prefix_of(const sara_weights *weights)
{
    static const char published[] = "text_model.";
    for (size_t i = 0; weights && i < sara_weights_count(weights); i++)
        if (strncmp(sara_weights_at(weights, i)->name, published, strlen(published)) == 0)
            return published;
    return "";
}

static sara_status clip_bind(sara_network *network, sara_binder *binder,
                             const sara_weights *weights)
{
    sara_clip_text *text = (sara_clip_text *)network;
    const char *prefix = prefix_of(weights); /* of all names */
    const sara_text_info *info = &network->info.text;
    sara_shape tokens = sara_shape2(info->vocab_size, info->hidden_size);
    sara_shape positions = sara_shape2(info->max_positions, info->hidden_size);
    size_t bytes = (size_t)text->count * sizeof(*text->layers);
    sara_status status;
    TRY(sara_arena_alloc(&network->arena, &text->layers, 1, bytes));
    memset(text->layers, 0, bytes);
    TRY(sara_binder_want(binder, &text->tokens, &tokens, "%sembeddings.token_embedding.weight",
                         prefix));
    TRY(sara_binder_want(binder, &text->positions, &positions,
                         "%sembeddings.position_embedding.weight", prefix));
    for (int i = 0; i < text->count; i++)
        TRY(bind_clip_layer(binder, &text->layers[i],
                            sara_name_of("%sencoder.layers.%d", prefix, i).text, text));
    TRY(sara_norm_bind(binder, &text->final_norm, sara_name_of("%sfinal_layer_norm", prefix).text,
                       info->hidden_size));
    /* A buffer that older transformers stored. */
    TRY(sara_binder_ignore(binder, "embeddings.position_ids"));
    /* To CLIP's common space: models saved with it have it beside the encoder. */
    TRY(sara_binder_ignore(binder, "text_projection.weight"));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

/* h = x + attention(norm1(x)); y = h + fc2(activation(fc1(norm2(h)))) */
static sara_status clip_layer_forward(sara_tape *tape, sara_var **y, const sara_clip_text *text,
                                      const sara_clip_layer *layer, sara_var *x)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h, *f;
    sara_status status;
    /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, &h, x, layer->norm1.weight, layer->norm1.bias, text->eps));
    TRY(sara_attention_forward(tape, &h, &layer->attention, h, NULL, true)); /* [N,T,C] */
    TRY(sara_nn_add(tape, &h, h, x));                                        /* [N,T,C] */
    /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, &f, h, layer->norm2.weight, layer->norm2.bias, text->eps));
    TRY(sara_linear_forward(tape, &f, &layer->fc1, f));   /* [N,T,intermediate] */
    TRY(sara_nn_activate(tape, &f, f, text->activation)); /* [N,T,intermediate] */
    TRY(sara_linear_forward(tape, &f, &layer->fc2, f));   /* [N,T,C] */
    TRY(sara_nn_add(tape, y, h, f));                      /* [N,T,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* Where the text ends: at the first eos (0 if there is none, as torch's argmax gives); models made
 * when the config's eos_token_id was wrong say 2, and mean the largest id. */
static int64_t end_of(const int32_t *ids, int64_t count, int eos)
{
    int64_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        if (eos != 2 && ids[i] == eos)
            return i;
        if (ids[i] > ids[largest])
            largest = i;
    }
    return eos == 2 ? largest : 0;
}

/* pooled [N,C]: the state x [N,T,C] at the end of each text */
static sara_status pool(sara_tape *tape, sara_var **pooled, const sara_clip_text *text, sara_var *x,
                        const int32_t *ids)
{
    int64_t batch = x->shape.dims[0], count = x->shape.dims[1], *rows;
    sara_status status;
    TRY(sara_tape_memory(tape, &rows, (size_t)batch, sizeof(*rows)));
    for (int64_t n = 0; n < batch; n++)
        rows[n] = n * count + end_of(ids + n * count, count, text->network.info.text.eos_token_id);
    TRY(sara_nn_take_rows(tape, pooled, x, rows, batch)); /* [N,C] */
done:
    return status;
}

sara_status sara_clip_text_forward(sara_tape *tape, sara_var **last_hidden_state, sara_var **pooled,
                                   sara_network *network, const int32_t *ids, int64_t batch,
                                   int64_t count)
{
    sara_clip_text *text = (sara_clip_text *)network;
    sara_shape shape = sara_shape3(batch, count, text->network.info.text.hidden_size);
    size_t scope = sara_tape_open(tape);
    sara_var *h, *keep[2] = {NULL, NULL};
    sara_status status;
    if (batch < 1 || count < 1 || count > text->network.info.text.max_positions)
        return sara_fail(text->network.ctx, SARA_ERROR_INPUT,
                         "text encoder: %lld texts of %lld ids, expected 1 to %d ids",
                         (long long)batch, (long long)count, text->network.info.text.max_positions);
    TRY(sara_nn_embed(tape, &h, text->tokens, ids, batch * count)); /* [N*T,C] */
    TRY(sara_tape_view(tape, &h, h, &shape));                       /* [N,T,C] */
    TRY(sara_nn_add_positions(tape, &h, h, text->positions));       /* [N,T,C] */
    for (int i = 0; i < text->count; i++) {
        sara_tape_close(tape, scope, &h, 1);
        TRY(clip_layer_forward(tape, &h, text, &text->layers[i], h)); /* [N,T,C] */
    }
    TRY(sara_nn_layer_norm(tape, &keep[0], h, text->final_norm.weight, text->final_norm.bias,
                           text->eps)); /* [N,T,C] */
    if (pooled)
        TRY(pool(tape, &keep[1], text, keep[0], ids)); /* [N,C] */
    sara_tape_close(tape, scope, keep, 2);
    *last_hidden_state = keep[0];
    if (pooled)
        *pooled = keep[1];
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static json_t *clip_settings(const sara_network *network)
{
    const sara_clip_text *text = (const sara_clip_text *)network;
    return json_pack("{s:i,s:f,s:s}", "heads", text->heads, "eps", (double)text->eps, "activation",
                     text->activation == SARA_QUICK_GELU ? "quick_gelu" : "gelu");
}

const sara_network_class sara_clip_text_class = {.library = "transformers",
                                                 .name = "CLIPTextModel",
                                                 .key = "model_type",
                                                 .value = "clip_text_model",
                                                 .stem = SARA_TRANSFORMERS_STEM,
                                                 .title = "text encoder",
                                                 .size = sizeof(sara_clip_text),
                                                 .read_config = clip_read_config,
                                                 .bind = clip_bind,
                                                 .single = &sara_clip_single,
                                                 .settings = clip_settings};
