#include "models/t5/parts.h"

#include <limits.h>
#include <math.h>

/* --------------------------------------------------------------------------- relative positions */

/* Of a key so many positions after the query (before it: negative), in float as in transformers:
 * near positions have buckets of their own, far ones share them by their logarithm. */
static int32_t t5_bucket(const sara_t5 *t5, int64_t relative)
{
    const int64_t side = t5->buckets / 2, exact = side / 2;
    int64_t first = relative > 0 ? side : 0, away = relative < 0 ? -relative : relative;
    if (away < exact)
        return (int32_t)(first + away);
    const float whole = (float)log((double)t5->distance / (double)exact);
    const float part = logf((float)away / (float)exact) / whole * (float)(side - exact);
    away = exact + (int64_t)part;
    return (int32_t)(first + (away < side ? away : side - 1));
}

/* bias [heads,T,T], of all blocks: the table's values at the buckets of query and key. */
static sara_status t5_bias(sara_tape *tape, sara_var **bias, const sara_t5 *t5, int64_t count)
{
    const sara_shape last = sara_shape4(1, count, count, t5->heads);
    const sara_shape first = sara_shape3(t5->heads, count, count);
    size_t scope = sara_tape_open(tape);
    int32_t *buckets;
    sara_var *values;
    sara_status status;
    TRY(sara_tape_memory(tape, &buckets, (size_t)(count * count), sizeof(*buckets)));
    for (int64_t q = 0; q < count; q++)
        for (int64_t k = 0; k < count; k++)
            buckets[q * count + k] = t5_bucket(t5, k - q);
    /* [T*T,heads] */
    TRY(sara_nn_embed(tape, &values, t5->positions, buckets, count * count));
    TRY(sara_tape_view(tape, &values, values, &last));     /* [1,T,T,heads] */
    TRY(sara_nn_to_channels_first(tape, &values, values)); /* [1,heads,T,T] */
    TRY(sara_tape_view(tape, bias, values, &first));       /* [heads,T,T] */
    sara_tape_close(tape, scope, bias, 1);
done:
    return status;
}

/* ----------------------------------------------------------------------------------- one block */

/* h = x + o(attention(q, k, v of norm(x))); y = h + wo(gelu(wi_0 norm(h)) wi_1 norm(h)); all
 * [1,T,width]. */
static sara_status t5_block_forward(sara_tape *tape, sara_var **y, const sara_t5 *t5,
                                    const sara_t5_block *block, sara_var *x, sara_var *bias)
{
    size_t scope = sara_tape_open(tape);
    sara_var *q, *k, *v, *h;
    sara_status status;
    TRY(sara_nn_rms_norm(tape, &h, x, block->norm1, t5->eps)); /* [1,T,width] */
    TRY(sara_linear_forward(tape, &q, &block->q, h));          /* [1,T,heads*head] */
    TRY(sara_linear_forward(tape, &k, &block->k, h));          /* [1,T,heads*head] */
    TRY(sara_linear_forward(tape, &v, &block->v, h));          /* [1,T,heads*head] */
    TRY(sara_nn_attention_biased(tape, &h, q, k, v, bias, t5->heads, 1));
    TRY(sara_linear_forward(tape, &h, &block->o, h)); /* [1,T,width] */
    TRY(sara_nn_add(tape, &h, x, h));                 /* [1,T,width] */
    sara_tape_close(tape, scope, &h, 1);
    TRY(sara_nn_rms_norm(tape, &q, h, block->norm2, t5->eps)); /* [1,T,width] */
    TRY(sara_linear_forward(tape, &k, &block->gate, q));       /* [1,T,inner] */
    TRY(sara_linear_forward(tape, &v, &block->value, q));      /* [1,T,inner] */
    TRY(sara_nn_gated_gelu(tape, &q, k, v));                   /* [1,T,inner] */
    TRY(sara_linear_forward(tape, &q, &block->out, q));        /* [1,T,width] */
    TRY(sara_nn_add(tape, y, h, q));                           /* [1,T,width] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* -------------------------------------------------------------------------------- all of them */

/* A pass, whose texts go through each block one after the other while its values are there. */
typedef struct t5_pass {
    sara_tape *tape;
    sara_t5 *t5;
    const int32_t *ids;
    int64_t batch, count;
    size_t scope;    /* of what is kept */
    sara_var **kept; /* [batch + 1]: each text's states [1,T,width], then the bias */
} t5_pass;

/* What a step makes of text n; of the bias it is n = batch. */
typedef sara_status (*t5_step)(const t5_pass *pass, sara_var **out, int64_t n, int block);

static sara_status embed_text(const t5_pass *pass, sara_var **out, int64_t n, int block)
{
    const sara_shape shape = sara_shape3(1, pass->count, pass->t5->width);
    sara_status status;
    (void)block;
    TRY(sara_nn_embed(pass->tape, out, pass->t5->tokens, pass->ids + n * pass->count,
                      pass->count));                    /* [T,width] */
    TRY(sara_tape_view(pass->tape, out, *out, &shape)); /* [1,T,width] */
done:
    return status;
}

static sara_status embed_positions(const t5_pass *pass, sara_var **out, int64_t n, int block)
{
    (void)n;
    (void)block;
    return t5_bias(pass->tape, out, pass->t5, pass->count);
}

static sara_status block_of_text(const t5_pass *pass, sara_var **out, int64_t n, int block)
{
    return t5_block_forward(pass->tape, out, pass->t5, &pass->t5->blocks[block], pass->kept[n],
                            pass->kept[pass->batch]);
}

static sara_status norm_text(const t5_pass *pass, sara_var **out, int64_t n, int block)
{
    (void)block;
    return sara_nn_rms_norm(pass->tape, out, pass->kept[n], pass->t5->final_norm, pass->t5->eps);
}

/* Of texts first .. end - 1 with the values whose names begin with prefix. */
static sara_status t5_run(const t5_pass *pass, t5_step step, const char *prefix, int block,
                          int64_t first, int64_t end)
{
    sara_network *network = &pass->t5->network;
    sara_status status;
    TRY(sara_network_lend(pass->tape, network, prefix));
    for (int64_t n = first; n < end; n++) {
        TRY(step(pass, &pass->kept[n], n, block));
        sara_tape_close(pass->tape, pass->scope, pass->kept, (int)pass->batch + 1);
    }
done:
    sara_network_return(pass->tape, network, prefix);
    return status;
}

/* states [N,T,width], of as many of [1,T,width]. */
static sara_status t5_join(const t5_pass *pass, sara_var **states)
{
    const sara_shape shape = sara_shape3(pass->batch, pass->count, pass->t5->width);
    int64_t each = pass->count * pass->t5->width;
    sara_status status = SARA_OK;
    *states = pass->kept[0];
    if (pass->batch == 1)
        return SARA_OK;
    TRY(sara_tape_var(pass->tape, states, &shape));
    for (int64_t n = 0; n < pass->batch; n++)
        TRY(sara_device_copy_within(sara_tape_device(pass->tape), (*states)->data + n * each,
                                    pass->kept[n]->data, (size_t)each * sizeof(float)));
done:
    return status;
}

static sara_status t5_start(t5_pass *pass)
{
    const int64_t batch = pass->batch;
    sara_status status;
    if (batch < 1 || batch > INT_MAX - 1 || pass->count < 1)
        return sara_fail(sara_tape_context(pass->tape), SARA_ERROR_INPUT,
                         "T5 text encoder: %lld texts of %lld ids", (long long)batch,
                         (long long)pass->count);
    pass->scope = sara_tape_open(pass->tape);
    TRY(sara_tape_memory(pass->tape, &pass->kept, (size_t)batch + 1, sizeof(*pass->kept)));
    memset(pass->kept, 0, ((size_t)batch + 1) * sizeof(*pass->kept));
    TRY(t5_run(pass, embed_positions, pass->t5->positions->name, 0, batch, batch + 1));
    TRY(t5_run(pass, embed_text, pass->t5->tokens->name, 0, 0, batch));
done:
    return status;
}

sara_status sara_t5_forward(sara_tape *tape, sara_var **states, sara_network *network,
                            const int32_t *ids, int64_t batch, int64_t count)
{
    sara_t5 *t5 = (sara_t5 *)network;
    t5_pass pass = {.tape = tape, .t5 = t5, .ids = ids, .batch = batch, .count = count};
    bool recording = sara_tape_record(tape, false);
    sara_status status;
    TRY(t5_start(&pass));
    for (int i = 0; i < t5->count; i++)
        TRY(t5_run(&pass, block_of_text, sara_name_of(SARA_T5_BLOCKS "%d.", i).text, i, 0, batch));
    TRY(t5_run(&pass, norm_text, t5->final_norm->name, 0, 0, batch));
    TRY(t5_join(&pass, states));
    sara_tape_close(tape, pass.scope, states, 1);
done:
    sara_tape_record(tape, recording);
    return status;
}
