/* A T5 encoder's layout in single files: transformers' names. */
#include "models/t5/parts.h"

#include "models/single_file.h"

static const char *const *t5_starts(sara_ldm_part names)
{
    static const char *const starts[] = {SARA_T5_BLOCKS, "encoder.final_layer_norm."};
    (void)names;
    return starts;
}

static sara_status t5_read_shape(const sara_single_file *single, sara_single_part *part)
{
    part->shape.layers = sara_single_clamp(sara_single_count(single, part, SARA_T5_BLOCKS), 256);
    return SARA_OK;
}

/* What shapes do not tell is as in all published ones. */
static sara_status t5_derive(const sara_single_file *single, const sara_single_part *part,
                             json_t **out)
{
    const sara_name positions =
        sara_name_of(SARA_T5_BLOCKS "0.layer.0.SelfAttention.relative_attention_bias.weight");
    const sara_name q = sara_name_of(SARA_T5_BLOCKS "0.layer.0.SelfAttention.q.weight");
    const sara_name gate = sara_name_of(SARA_T5_BLOCKS "0.layer.1.DenseReluDense.wi_0.weight");
    const char *tokens =
        sara_single_find(single, part, SARA_T5_TOKENS) ? SARA_T5_TOKENS : SARA_T5_TOKENS_AGAIN;
    int64_t vocabulary, width, all, inner, heads, buckets;
    sara_status status;
    TRY(sara_single_dim(single, part, &vocabulary, 2, 0, sara_name_of("%s", tokens)));
    TRY(sara_single_dim(single, part, &width, 2, 1, sara_name_of("%s", tokens)));
    TRY(sara_single_dim(single, part, &all, 2, 0, q));
    TRY(sara_single_dim(single, part, &inner, 2, 0, gate));
    TRY(sara_single_dim(single, part, &buckets, 2, 0, positions));
    TRY(sara_single_dim(single, part, &heads, 2, 1, positions));
    TRY(sara_single_made(
        single,
        json_pack("{s:[s],s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:i,s:i}", "architectures",
                  "T5EncoderModel", "model_type", "t5", "feed_forward_proj", "gated-gelu",
                  "vocab_size", (json_int_t)vocabulary, "d_model", (json_int_t)width, "d_kv",
                  (json_int_t)(heads ? all / heads : 0), "d_ff", (json_int_t)inner, "num_heads",
                  (json_int_t)heads, "num_layers", (json_int_t)part->shape.layers,
                  "relative_attention_num_buckets", (json_int_t)buckets,
                  "relative_attention_max_distance", (json_int_t)128, "layer_norm_epsilon", 1e-6,
                  "eos_token_id", 1, "pad_token_id", 0),
        out));
done:
    return status;
}

static sara_status t5_names_of(const sara_network *network, sara_ldm_shape *out)
{
    *out = (sara_ldm_shape){.part = SARA_LDM_T5, .layers = ((const sara_t5 *)network)->count};
    return SARA_OK;
}

const sara_single_layout sara_t5_single = {.tensor =
                                               SARA_T5_BLOCKS "0.layer.0.SelfAttention.q.weight",
                                           .starts = t5_starts,
                                           .read_shape = t5_read_shape,
                                           .derive = t5_derive,
                                           .names_of = t5_names_of};
