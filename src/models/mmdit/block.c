/* A block: image and text are modulated and projected each by its own weights, and attend to all
 * tokens of both. */
#include "models/mmdit/parts.h"

static const float modulation_eps = 1e-6f, head_eps = 1e-6f;

/* Of the parts of a modulation. Those of the last block's text and of the output are two alone. */
enum { SHIFT, SCALE, GATE, FF_SHIFT, FF_SCALE, FF_GATE, DUAL_SHIFT, DUAL_SCALE, DUAL_GATE };
enum { LAST_SCALE, LAST_SHIFT };

/* ---------------------------------------------------------------------------------- modulation */

/* y [N,width] */
static sara_status part_of(sara_tape *tape, sara_var **y, sara_var *m, int64_t width, int part)
{
    return sara_nn_slice(tape, y, m, part * width, width);
}

sara_status sara_mmdit_modulate(sara_tape *tape, sara_var **y, sara_var *x, sara_var *m, int shift,
                                int scale)
{
    const int64_t width = x->shape.dims[2];
    sara_var *a, *b;
    sara_status status;
    TRY(part_of(tape, &a, m, width, shift));
    TRY(part_of(tape, &b, m, width, scale));
    TRY(sara_nn_modulated_norm(tape, y, x, b, a, modulation_eps)); /* [N,T,width] */
done:
    return status;
}

/* y = x + gate h */
static sara_status add_gated(sara_tape *tape, sara_var **y, sara_var *x, sara_var *h, sara_var *m,
                             int gate)
{
    sara_var *g;
    sara_status status;
    TRY(part_of(tape, &g, m, x->shape.dims[2], gate));
    TRY(sara_nn_multiply_per_sample(tape, &h, h, g)); /* [N,T,width] */
    TRY(sara_nn_add(tape, y, x, h));                  /* [N,T,width] */
done:
    return status;
}

/* ----------------------------------------------------------------------------------- attention */

/* y [N,T+S,width] from [N,T,width] and [N,S,width] */
static sara_status join(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    const int64_t *d = a->shape.dims, more = b->shape.dims[1];
    const sara_shape flat = sara_shape2(d[0], d[1] * d[2]), other = sara_shape2(d[0], more * d[2]);
    const sara_shape all = sara_shape3(d[0], d[1] + more, d[2]);
    sara_status status;
    TRY(sara_tape_view(tape, &a, a, &flat));
    TRY(sara_tape_view(tape, &b, b, &other));
    TRY(sara_nn_concat(tape, y, a, b));
    TRY(sara_tape_view(tape, y, *y, &all));
done:
    return status;
}

/* y [N,count,width]: tokens from `first` on of x [N,T,width] */
static sara_status tokens_of(sara_tape *tape, sara_var **y, sara_var *x, int64_t first,
                             int64_t count)
{
    const int64_t *d = x->shape.dims;
    const sara_shape flat = sara_shape2(d[0], d[1] * d[2]), part = sara_shape3(d[0], count, d[2]);
    sara_status status;
    TRY(sara_tape_view(tape, y, x, &flat));
    TRY(sara_nn_slice(tape, y, *y, first * d[2], count * d[2]));
    TRY(sara_tape_view(tape, y, *y, &part));
done:
    return status;
}

/* y [N,T,width], each head of it normed where there is a norm */
static sara_status project_heads(sara_tape *tape, sara_var **y, const sara_layer *layer,
                                 sara_param *norm, sara_var *x)
{
    sara_status status;
    TRY(sara_linear_forward(tape, y, layer, x));
    if (norm) {
        const sara_shape tokens = (*y)->shape;
        const int64_t *d = tokens.dims, head = norm->value.shape.dims[0];
        const sara_shape heads = sara_shape4(d[0], d[1], d[2] / head, head);
        TRY(sara_tape_view(tape, y, *y, &heads));
        TRY(sara_nn_rms_norm(tape, y, *y, norm, head_eps));
        TRY(sara_tape_view(tape, y, *y, &tokens));
    }
done:
    return status;
}

/* y [N,T,width] of tokens x [N,T,width] alone */
static sara_status attend_alone(sara_tape *tape, sara_var **y, const sara_mmdit_attention *a,
                                int heads, sara_var *x)
{
    sara_var *q, *k, *v, *h;
    sara_status status;
    TRY(project_heads(tape, &q, &a->q, a->norm_q, x));
    TRY(project_heads(tape, &k, &a->k, a->norm_k, x));
    TRY(sara_linear_forward(tape, &v, &a->v, x));
    TRY(sara_nn_attention(tape, &h, q, k, v, heads, false));
    TRY(sara_linear_forward(tape, y, &a->out, h));
done:
    return status;
}

/* y, context: what x [N,T,width] and text [N,S,width] read from all tokens, image first. The last
 * block's text reads nothing: queries would be computed for rows that are thrown away. */
static sara_status attend_jointly(sara_tape *tape, sara_var **y, sara_var **context,
                                  const sara_mmdit_block *block, sara_var *x, sara_var *text)
{
    const sara_mmdit_attention *a = &block->image.attention, *b = &block->text.attention;
    const int64_t count = x->shape.dims[1];
    size_t scope = sara_tape_open(tape);
    sara_var *q, *k, *v, *other, *keep[2] = {NULL, NULL};
    sara_status status;
    TRY(project_heads(tape, &q, &a->q, a->norm_q, x));
    if (!block->last) {
        TRY(project_heads(tape, &other, &b->q, b->norm_q, text));
        TRY(join(tape, &q, q, other)); /* [N,T+S,width] */
    }
    TRY(project_heads(tape, &k, &a->k, a->norm_k, x));
    TRY(project_heads(tape, &other, &b->k, b->norm_k, text));
    TRY(join(tape, &k, k, other)); /* [N,T+S,width] */
    TRY(sara_linear_forward(tape, &v, &a->v, x));
    TRY(sara_linear_forward(tape, &other, &b->v, text));
    TRY(join(tape, &v, v, other)); /* [N,T+S,width] */
    TRY(sara_nn_attention(tape, &q, q, k, v, block->heads, false));
    if (!block->last) {
        TRY(tokens_of(tape, &other, q, count, text->shape.dims[1]));
        TRY(sara_linear_forward(tape, &keep[1], &b->out, other)); /* [N,S,width] */
        TRY(tokens_of(tape, &q, q, 0, count));
    }
    TRY(sara_linear_forward(tape, &keep[0], &a->out, q)); /* [N,T,width] */
    sara_tape_close(tape, scope, keep, block->last ? 1 : 2);
    *y = keep[0];
    *context = keep[1];
done:
    return status;
}

/* ------------------------------------------------------------------------------------- a block */

/* *x += gate ff(norm2(*x)), and what is beside it of the same input */
static sara_status add_feed_forward(sara_tape *tape, sara_var **x, const sara_mmdit_stream *stream,
                                    sara_var *m)
{
    size_t scope = sara_tape_open(tape);
    sara_var *normed, *h;
    sara_status status;
    TRY(sara_mmdit_modulate(tape, &normed, *x, m, FF_SHIFT, FF_SCALE)); /* [N,T,width] */
    TRY(sara_linear_forward(tape, &h, &stream->ff_in, normed));         /* [N,T,4 width] */
    TRY(sara_nn_activate(tape, &h, h, SARA_GELU_TANH));
    TRY(sara_linear_forward(tape, &h, &stream->ff_out, h)); /* [N,T,width] */
    TRY(sara_bottlenecks_forward(tape, &h, normed, stream->ff_out.weight->branch));
    TRY(add_gated(tape, x, *x, h, m, FF_GATE));
    sara_tape_close(tape, scope, x, 1);
done:
    return status;
}

/* *x += gate h, which the joint attention has read, and what the second one reads. */
static sara_status add_attentions(sara_tape *tape, sara_var **x, const sara_mmdit_block *block,
                                  sara_var *h, sara_var *m)
{
    size_t scope = sara_tape_open(tape);
    sara_var *first, *normed;
    sara_status status;
    TRY(add_gated(tape, &first, *x, h, m, GATE));
    if (block->dual.q.weight) {
        TRY(sara_mmdit_modulate(tape, &normed, *x, m, DUAL_SHIFT, DUAL_SCALE));
        TRY(attend_alone(tape, &h, &block->dual, block->heads, normed));
        TRY(add_gated(tape, &first, first, h, m, DUAL_GATE));
    }
    *x = first;
    sara_tape_close(tape, scope, x, 1);
done:
    return status;
}

/* keep: the image's tokens and the text's, as they come and as they go; of the last block the
 * latter are dropped */
static sara_status run_streams(sara_tape *tape, sara_var *keep[2], const sara_mmdit_block *block,
                               sara_var *e)
{
    size_t scope = sara_tape_open(tape);
    sara_var *m, *c, *x = keep[0], *text = keep[1], *normed, *read, *context;
    sara_status status;
    TRY(sara_linear_forward(tape, &m, &block->image.modulation, e)); /* [N,6 or 9 width] */
    TRY(sara_linear_forward(tape, &c, &block->text.modulation, e));  /* [N,6 or 2 width] */
    TRY(sara_mmdit_modulate(tape, &normed, x, m, SHIFT, SCALE));     /* [N,T,width] */
    TRY(sara_mmdit_modulate(tape, &context, text, c, block->last ? LAST_SHIFT : SHIFT,
                            block->last ? LAST_SCALE : SCALE)); /* [N,S,width] */
    TRY(attend_jointly(tape, &read, &context, block, normed, context));
    TRY(add_attentions(tape, &x, block, read, m));
    TRY(add_feed_forward(tape, &x, &block->image, m));
    if (!block->last) {
        TRY(add_gated(tape, &text, text, context, c, GATE));
        TRY(add_feed_forward(tape, &text, &block->text, c));
    }
    keep[0] = x;
    keep[1] = text;
    sara_tape_close(tape, scope, keep, block->last ? 1 : 2);
done:
    return status;
}

typedef struct region {
    sara_network *network;
    const sara_mmdit_block *block;
} region;

static sara_status lend_block(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    return sara_network_lend_region(tape, r->network, r->block->image.modulation.weight);
}

static void return_block(sara_tape *tape, const void *argument)
{
    const region *r = argument;
    sara_network_return_region(tape, r->network, r->block->image.modulation.weight);
}

/* A region has one result: all tokens, image first. in: x, text and e */
static sara_status run_region(sara_tape *tape, sara_var **y, sara_var *const *in,
                              const void *argument)
{
    const sara_mmdit_block *block = ((const region *)argument)->block;
    sara_var *keep[2] = {in[0], in[1]};
    size_t scope = sara_tape_open(tape);
    sara_status status;
    TRY(run_streams(tape, keep, block, in[2]));
    *y = keep[0];
    if (!block->last)
        TRY(join(tape, y, keep[0], keep[1]));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

sara_status sara_mmdit_block_forward(sara_tape *tape, sara_network *network,
                                     const sara_mmdit_block *block, sara_var **x, sara_var **text,
                                     sara_var *e, bool again)
{
    static const sara_region whole = {run_region, lend_block, return_block};
    const region r = {network, block};
    sara_var *const in[] = {*x, *text, e};
    const int64_t count = (*x)->shape.dims[1], more = (*text)->shape.dims[1];
    size_t scope = sara_tape_open(tape);
    sara_var *keep[2] = {*x, *text}, *all;
    sara_status status;
    if (!again) {
        TRY(run_streams(tape, keep, block, e));
    } else {
        TRY(sara_tape_checkpoint_lent(tape, &all, &whole, in, 3, &r, sizeof(r)));
        keep[0] = all;
        if (!block->last) {
            TRY(tokens_of(tape, &keep[0], all, 0, count));
            TRY(tokens_of(tape, &keep[1], all, count, more));
        }
    }
    sara_tape_close(tape, scope, keep, block->last ? 1 : 2);
    *x = keep[0];
    *text = block->last ? NULL : keep[1];
done:
    return status;
}
