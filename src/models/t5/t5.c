#include "models/t5/parts.h"

/* ------------------------------------------------------------------------------------- config */

static sara_status t5_check(const sara_model_config *file)
{
    static const sara_supported supported[] = {{"dense_act_fn", {"\"gelu_new\""}},
                                               {"is_gated_act", {"true"}},
                                               {"is_decoder", {"false"}},
                                               {NULL, {NULL}}};
    const char *forward;
    sara_status status;
    TRY(sara_config_string(&file->fields, &forward, "feed_forward_proj", "relu"));
    if (strcmp(forward, "gated-gelu") != 0)
        return sara_model_config_refuse(
            file, "feed_forward_proj",
            "expected \"gated-gelu\", as T5 of version 1.1 has it; the first version's encoders "
            "(\"relu\") are not supported");
    TRY(sara_model_config_check(file, supported));
done:
    return status;
}

/* Half the buckets are of positions behind; half of those are of one position each. */
static sara_status read_buckets(sara_t5 *t5, const sara_model_config *file)
{
    sara_status status;
    TRY(sara_config_int(&file->fields, &t5->buckets, "relative_attention_num_buckets", 32, 4,
                        SARA_MAX_CHANNELS));
    TRY(sara_config_int(&file->fields, &t5->distance, "relative_attention_max_distance", 128, 2,
                        1 << 20));
    if (t5->buckets % 4)
        return sara_model_config_refuse(file, "relative_attention_num_buckets",
                                        "expected a multiple of 4");
    if (t5->distance <= t5->buckets / 4)
        return sara_model_config_refuse(file, "relative_attention_max_distance",
                                        "expected more than a quarter of "
                                        "relative_attention_num_buckets");
done:
    return status;
}

static sara_status t5_read_config(sara_network *network, const sara_model_config *file)
{
    sara_t5 *t5 = (sara_t5 *)network;
    const sara_config *fields = &file->fields;
    int64_t vocab, heads, count, end;
    double eps;
    sara_status status;
    TRY(t5_check(file));
    TRY(sara_config_int(fields, &vocab, "vocab_size", 32128, 1, 1 << 24));
    TRY(sara_config_int(fields, &t5->width, "d_model", 512, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &t5->head, "d_kv", 64, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &t5->inner, "d_ff", 2048, 1, 4 * SARA_MAX_CHANNELS));
    TRY(sara_config_int(fields, &count, "num_layers", 6, 1, 256));
    TRY(sara_config_int(fields, &heads, "num_heads", 8, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_double(fields, &eps, "layer_norm_epsilon", 1e-6, 0, 1));
    TRY(sara_config_int(fields, &end, "eos_token_id", 1, 0, 1 << 24));
    TRY(read_buckets(t5, file));
    t5->heads = (int)heads;
    t5->count = (int)count;
    t5->eps = (float)eps;
    network->info.text = (sara_text_info){
        .vocab_size = (int)vocab, .hidden_size = (int)t5->width, .eos_token_id = (int)end};
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

static sara_status bind_t5_block(sara_binder *binder, sara_t5_block *block, const sara_t5 *t5,
                                 const char *name)
{
    const sara_shape channels = sara_shape1(t5->width);
    const int64_t all = t5->heads * t5->head;
    const struct {
        sara_layer *layer;
        const char *name;
        int64_t out, in;
    } layers[] = {{&block->q, "layer.0.SelfAttention.q", all, t5->width},
                  {&block->k, "layer.0.SelfAttention.k", all, t5->width},
                  {&block->v, "layer.0.SelfAttention.v", all, t5->width},
                  {&block->o, "layer.0.SelfAttention.o", t5->width, all},
                  {&block->gate, "layer.1.DenseReluDense.wi_0", t5->inner, t5->width},
                  {&block->value, "layer.1.DenseReluDense.wi_1", t5->inner, t5->width},
                  {&block->out, "layer.1.DenseReluDense.wo", t5->width, t5->inner}};
    sara_status status;
    TRY(sara_binder_want(binder, &block->norm1, &channels, "%s.layer.0.layer_norm.weight", name));
    TRY(sara_binder_want(binder, &block->norm2, &channels, "%s.layer.1.layer_norm.weight", name));
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        TRY(sara_linear_bind(binder, layers[i].layer,
                             sara_name_of("%s.%s", name, layers[i].name).text, layers[i].out,
                             layers[i].in, false));
done:
    return status;
}

static sara_status t5_bind(sara_network *network, sara_binder *binder, const sara_weights *weights)
{
    sara_t5 *t5 = (sara_t5 *)network;
    const sara_shape tokens = sara_shape2(network->info.text.vocab_size, t5->width);
    const sara_shape positions = sara_shape2(t5->buckets, t5->heads);
    const sara_shape channels = sara_shape1(t5->width);
    size_t bytes = (size_t)t5->count * sizeof(*t5->blocks);
    sara_status status;
    (void)weights;
    TRY(sara_arena_alloc(&network->arena, &t5->blocks, 1, bytes));
    memset(t5->blocks, 0, bytes);
    TRY(sara_binder_want(binder, &t5->tokens, &tokens, SARA_T5_TOKENS));
    TRY(sara_binder_alias(binder, SARA_T5_TOKENS, SARA_T5_TOKENS_AGAIN));
    TRY(sara_binder_ignore(binder, SARA_T5_TOKENS_AGAIN));
    TRY(sara_binder_want(binder, &t5->positions, &positions,
                         SARA_T5_BLOCKS "0.layer.0.SelfAttention.relative_attention_bias.weight"));
    for (int i = 0; i < t5->count; i++)
        TRY(bind_t5_block(binder, &t5->blocks[i], t5, sara_name_of(SARA_T5_BLOCKS "%d", i).text));
    TRY(sara_binder_want(binder, &t5->final_norm, &channels, "encoder.final_layer_norm.weight"));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static json_t *t5_settings(const sara_network *network)
{
    const sara_t5 *t5 = (const sara_t5 *)network;
    return json_pack("{s:i,s:f,s:I}", "heads", t5->heads, "eps", (double)t5->eps, "max_distance",
                     (json_int_t)t5->distance);
}

const sara_network_class sara_t5_class = {.library = "transformers",
                                          .name = "T5EncoderModel",
                                          .key = "model_type",
                                          .value = "t5",
                                          .stem = SARA_TRANSFORMERS_STEM,
                                          .title = "T5 text encoder",
                                          .size = sizeof(sara_t5),
                                          .streamed = true,
                                          .read_config = t5_read_config,
                                          .bind = t5_bind,
                                          .settings = t5_settings,
                                          .single = &sara_t5_single};
