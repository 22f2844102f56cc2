#include "models/clip/parts.h"

const sara_encoder_names sara_clip_names = {
    .norm1 = "layer_norm1",
    .attention = "self_attn",
    .projections = {"q_proj", "k_proj", "v_proj", "out_proj"},
    .norm2 = "layer_norm2",
    .fc1 = "mlp.fc1",
    .fc2 = "mlp.fc2"};

/* ------------------------------------------------------------------------------------- config */

sara_status sara_clip_tower_read(sara_clip_tower *tower, const sara_model_config *file)
{
    const sara_config *fields = &file->fields;
    sara_encoder *encoder = &tower->encoder;
    int64_t vocab, positions, eos;
    sara_status status;
    *encoder = (sara_encoder){.width = 512,
                              .heads = 8,
                              .count = 12,
                              .qkv_bias = true,
                              .eps = 1e-5f,
                              .activation = SARA_QUICK_GELU};
    TRY(sara_config_int(fields, &vocab, "vocab_size", 49408, 1, 1 << 24));
    TRY(sara_config_int(fields, &encoder->inner, "intermediate_size", 2048, 1,
                        4 * SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &positions, "max_position_embeddings", 77, 1, 1 << 20));
    TRY(sara_config_int(fields, &eos, "eos_token_id", 49407, 0, 1 << 24));
    TRY(sara_encoder_read(encoder, file));
    tower->info = (sara_text_info){.vocab_size = (int)vocab,
                                   .hidden_size = (int)encoder->width,
                                   .max_positions = (int)positions,
                                   .eos_token_id = (int)eos,
                                   .pooled_size = (int)encoder->width};
done:
    return status;
}

static sara_status clip_read_config(sara_network *network, const sara_model_config *file)
{
    sara_clip_text *text = (sara_clip_text *)network;
    sara_status status = sara_clip_tower_read(&text->tower, file);
    network->info.text = text->tower.info;
    return status;
}

static sara_status clip_projection_read(sara_network *network, const sara_model_config *file)
{
    int64_t width;
    sara_status status;
    TRY(clip_read_config(network, file));
    TRY(sara_config_int(&file->fields, &width, "projection_dim", 512, 1, SARA_MAX_CHANNELS));
    network->info.text.pooled_size = (int)width;
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

sara_status sara_clip_tower_bind(sara_clip_tower *tower, sara_binder *binder, sara_arena *arena,
                                 const char *prefix)
{
    const sara_text_info *info = &tower->info;
    sara_shape tokens = sara_shape2(info->vocab_size, info->hidden_size);
    sara_shape positions = sara_shape2(info->max_positions, info->hidden_size);
    sara_status status;
    TRY(sara_binder_want(binder, &tower->tokens, &tokens, "%sembeddings.token_embedding.weight",
                         prefix));
    TRY(sara_binder_want(binder, &tower->positions, &positions,
                         "%sembeddings.position_embedding.weight", prefix));
    TRY(sara_encoder_bind(&tower->encoder, binder, arena,
                          sara_name_of("%sencoder.layers", prefix).text, &sara_clip_names));
    TRY(sara_norm_bind(binder, &tower->final_norm, sara_name_of("%sfinal_layer_norm", prefix).text,
                       info->hidden_size));
    /* A buffer that older transformers stored. */
    TRY(sara_binder_ignore(binder, "embeddings.position_ids"));
done:
    return status;
}

/* "text_model." in published models, "" in those of newer transformers. */
static sara_status bind_tower(sara_network *network, sara_binder *binder,
                              const sara_weights *weights)
{
    sara_clip_text *text = (sara_clip_text *)network;
    return sara_clip_tower_bind(&text->tower, binder, &network->arena,
                                sara_encoder_prefix(weights, "text_model."));
}

static sara_status clip_bind(sara_network *network, sara_binder *binder,
                             const sara_weights *weights)
{
    sara_status status;
    TRY(bind_tower(network, binder, weights));
    /* To CLIP's common space: models saved with it have it beside the encoder. */
    TRY(sara_binder_ignore(binder, "text_projection.weight"));
done:
    return status;
}

static sara_status clip_projection_bind(sara_network *network, sara_binder *binder,
                                        const sara_weights *weights)
{
    sara_clip_text *text = (sara_clip_text *)network;
    const sara_text_info *info = &network->info.text;
    sara_status status;
    TRY(bind_tower(network, binder, weights));
    TRY(sara_linear_bind(binder, &text->projection, "text_projection", info->pooled_size,
                         info->hidden_size, false));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

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
static sara_status pool(sara_tape *tape, sara_var **pooled, const sara_clip_tower *tower,
                        sara_var *x, const int32_t *ids)
{
    int64_t batch = x->shape.dims[0], count = x->shape.dims[1], *rows;
    sara_status status;
    TRY(sara_tape_memory(tape, &rows, (size_t)batch, sizeof(*rows)));
    for (int64_t n = 0; n < batch; n++)
        rows[n] = n * count + end_of(ids + n * count, count, tower->info.eos_token_id);
    TRY(sara_nn_take_rows(tape, pooled, x, rows, batch)); /* [N,C] */
done:
    return status;
}

/* y [count,C], the rows of the table h [count,C] at ids, but where ids are negative those of the
 * vectors. */
static sara_status put_vectors(sara_tape *tape, sara_var **y, sara_var *h, const int32_t *ids,
                               int64_t count, const sara_clip_vectors *vectors)
{
    const int64_t width = h->shape.dims[1], all = count + vectors->count;
    sara_shape side = sara_shape2(1, vectors->count * width), line = sara_shape2(1, count * width);
    sara_shape rows = sara_shape2(all, width);
    sara_var *added;
    int64_t *order;
    sara_status status;
    TRY(sara_tape_memory(tape, &order, (size_t)count, sizeof(*order)));
    for (int64_t i = 0; i < count; i++)
        order[i] = ids[i] < 0 ? count - 1 - ids[i] : i;
    TRY(sara_tape_leaf(tape, &added, &side, vectors->data, false)); /* [1,vectors*C] */
    TRY(sara_tape_view(tape, &h, h, &line));                        /* [1,count*C] */
    TRY(sara_nn_concat(tape, &h, h, added));                        /* [1,all*C] */
    TRY(sara_tape_view(tape, &h, h, &rows));                        /* [all,C] */
    TRY(sara_nn_take_rows(tape, y, h, order, count));               /* [count,C] */
done:
    return status;
}

/* y [count,C]; vectors NULL: there are none */
static sara_status clip_embed_ids(sara_tape *tape, sara_var **y, const sara_clip_tower *tower,
                                  const int32_t *ids, int64_t count,
                                  const sara_clip_vectors *vectors)
{
    int32_t *known;
    sara_status status;
    if (!vectors || vectors->count == 0)
        return sara_nn_embed(tape, y, tower->tokens, ids, count);
    TRY(sara_tape_memory(tape, &known, (size_t)count, sizeof(*known)));
    for (int64_t i = 0; i < count; i++) {
        if (-(int64_t)ids[i] > vectors->count)
            return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                             "text encoder: id %d, and %lld vectors beside its table", ids[i],
                             (long long)vectors->count);
        known[i] = ids[i] < 0 ? 0 : ids[i];
    }
    TRY(sara_nn_embed(tape, y, tower->tokens, known, count));
    TRY(put_vectors(tape, y, *y, ids, count, vectors));
done:
    return status;
}

/* x [N,T,C] of the ids */
static sara_status clip_embed(sara_tape *tape, sara_var **x, const sara_clip_tower *tower,
                              const int32_t *ids, int64_t batch, int64_t count,
                              const sara_clip_vectors *vectors)
{
    sara_shape shape = sara_shape3(batch, count, tower->encoder.width);
    sara_var *h;
    sara_status status;
    if (batch < 1 || count < 1 || count > tower->info.max_positions)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "text encoder: %lld texts of %lld ids, expected 1 to %d ids",
                         (long long)batch, (long long)count, tower->info.max_positions);
    TRY(clip_embed_ids(tape, &h, tower, ids, batch * count, vectors)); /* [N*T,C] */
    TRY(sara_tape_view(tape, &h, h, &shape));                          /* [N,T,C] */
    TRY(sara_nn_add_positions(tape, x, h, tower->positions));          /* [N,T,C] */
done:
    return status;
}

/* normed [N,T,C] of the hidden states h [N,T,C] before the last `skip` layers */
static sara_status clip_finish(sara_tape *tape, sara_var **normed, const sara_clip_tower *tower,
                               sara_var *h, int skip)
{
    const sara_encoder *encoder = &tower->encoder;
    size_t scope = sara_tape_open(tape);
    sara_status status;
    TRY(sara_encoder_range(tape, &h, encoder, encoder->count - skip, encoder->count, h, scope,
                           true)); /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, normed, h, tower->final_norm.weight, tower->final_norm.bias,
                           encoder->eps)); /* [N,T,C] */
    sara_tape_close(tape, scope, normed, 1);
done:
    return status;
}

sara_status sara_clip_tower_forward(sara_tape *tape, sara_var **states, sara_var **pooled,
                                    const sara_clip_tower *tower, int skip, const int32_t *ids,
                                    int64_t batch, int64_t count, const sara_clip_vectors *vectors)
{
    const sara_encoder *encoder = &tower->encoder;
    size_t scope = sara_tape_open(tape);
    sara_var *h, *normed = NULL, *keep[2] = {NULL, NULL};
    sara_status status;
    if (skip < 0 || skip > encoder->count)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "text encoder: %d layers left out, expected 0 to %d", skip,
                         encoder->count);
    TRY(clip_embed(tape, &h, tower, ids, batch, count, vectors)); /* [N,T,C] */
    TRY(sara_encoder_range(tape, &h, encoder, 0, encoder->count - skip, h, scope,
                           true)); /* [N,T,C] */
    if (pooled || skip == 0)
        TRY(clip_finish(tape, &normed, tower, h, skip)); /* [N,T,C] */
    keep[0] = skip ? h : normed;
    if (pooled)
        TRY(pool(tape, &keep[1], tower, normed, ids)); /* [N,C] */
    sara_tape_close(tape, scope, keep, 2);
    *states = keep[0];
    if (pooled)
        *pooled = keep[1];
done:
    return status;
}

sara_status sara_clip_text_forward(sara_tape *tape, sara_var **states, sara_var **pooled,
                                   sara_network *network, int skip, const int32_t *ids,
                                   int64_t batch, int64_t count)
{
    return sara_clip_text_forward_with(tape, states, pooled, network, skip, ids, batch, count,
                                       NULL);
}

sara_status sara_clip_text_forward_with(sara_tape *tape, sara_var **states, sara_var **pooled,
                                        sara_network *network, int skip, const int32_t *ids,
                                        int64_t batch, int64_t count,
                                        const sara_clip_vectors *vectors)
{
    const sara_clip_text *text = (const sara_clip_text *)network;
    size_t scope = sara_tape_open(tape);
    sara_var *keep[2] = {NULL, NULL};
    sara_status status;
    TRY(sara_clip_tower_forward(tape, states, pooled, &text->tower, skip, ids, batch, count,
                                vectors));
    keep[0] = *states;
    if (pooled && text->projection.weight)
        TRY(sara_linear_forward(tape, pooled, &text->projection, *pooled)); /* [N,width] */
    if (pooled)
        keep[1] = *pooled;
    sara_tape_close(tape, scope, keep, 2);
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static json_t *clip_settings(const sara_network *network)
{
    return sara_encoder_settings(&((const sara_clip_text *)network)->tower.encoder);
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

const sara_network_class sara_clip_text_projection_class = {.library = "transformers",
                                                            .name = "CLIPTextModelWithProjection",
                                                            .key = "model_type",
                                                            .value = "clip_text_model",
                                                            .stem = SARA_TRANSFORMERS_STEM,
                                                            .title = "text encoder",
                                                            .size = sizeof(sara_clip_text),
                                                            .read_config = clip_projection_read,
                                                            .bind = clip_projection_bind,
                                                            .single = &sara_clip_single,
                                                            .settings = clip_settings};
