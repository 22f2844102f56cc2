#include "models/unet/transformer.h"

static const float layer_norm_eps = 1e-5f, group_norm_eps = 1e-6f;

/* ------------------------------------------------------------------------------------ binding */

static sara_status bind_attention(sara_binder *binder, sara_attention *attention, const char *name,
                                  const sara_transformer_size *size, int64_t inner, int64_t context)
{
    static const sara_attention_names names = {"to_q", "to_k", "to_v", "to_out.0"};
    attention->heads = size->heads;
    return sara_attention_bind(binder, attention, name, &names, inner, inner, context, false);
}

static sara_status bind_block(sara_binder *binder, sara_transformer_block *block, const char *name,
                              const sara_transformer_size *size, int64_t inner)
{
    sara_status status;
    TRY(sara_norm_bind(binder, &block->norm1, sara_name_of("%s.norm1", name).text, inner));
    TRY(bind_attention(binder, &block->attn1, sara_name_of("%s.attn1", name).text, size, inner,
                       inner));
    TRY(sara_norm_bind(binder, &block->norm2, sara_name_of("%s.norm2", name).text, inner));
    TRY(bind_attention(binder, &block->attn2, sara_name_of("%s.attn2", name).text, size, inner,
                       size->context));
    TRY(sara_norm_bind(binder, &block->norm3, sara_name_of("%s.norm3", name).text, inner));
    TRY(sara_linear_bind(binder, &block->ff_in, sara_name_of("%s.ff.net.0.proj", name).text,
                         8 * inner, inner, true));
    TRY(sara_linear_bind(binder, &block->ff_out, sara_name_of("%s.ff.net.2", name).text, inner,
                         4 * inner, true));
done:
    return status;
}

static sara_status bind_projection(sara_binder *binder, sara_layer *layer, const char *name,
                                   int64_t out, int64_t in, bool linear)
{
    return linear ? sara_linear_bind(binder, layer, name, out, in, true)
                  : sara_conv_bind(binder, layer, name, out, in, 1);
}

sara_status sara_transformer_bind(sara_binder *binder, sara_transformer **out, sara_arena *arena,
                                  const char *name, const sara_transformer_size *size)
{
    int64_t inner = size->channels / size->heads * size->heads;
    size_t bytes = (size_t)size->blocks * sizeof(sara_transformer_block);
    sara_transformer *t = NULL;
    sara_status status;
    TRY(sara_arena_alloc(arena, &t, 1, sizeof(*t)));
    *t = (sara_transformer){.groups = size->groups, .count = size->blocks};
    TRY(sara_arena_alloc(arena, &t->blocks, 1, bytes));
    memset(t->blocks, 0, bytes);
    TRY(sara_norm_bind(binder, &t->norm, sara_name_of("%s.norm", name).text, size->channels));
    TRY(bind_projection(binder, &t->proj_in, sara_name_of("%s.proj_in", name).text, inner,
                        size->channels, size->linear_projection));
    for (int i = 0; i < size->blocks; i++)
        TRY(bind_block(binder, &t->blocks[i],
                       sara_name_of("%s.transformer_blocks.%d", name, i).text, size, inner));
    TRY(bind_projection(binder, &t->proj_out, sara_name_of("%s.proj_out", name).text,
                        size->channels, inner, size->linear_projection));
    *out = t;
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

/* y = x + attention(norm(x), context) */
static sara_status transformer_attend(sara_tape *tape, sara_var **y, const sara_layer *norm,
                                      const sara_attention *attention, sara_var *x,
                                      sara_var *context)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    /* [N,T,inner] */
    TRY(sara_nn_layer_norm(tape, &h, x, norm->weight, norm->bias, layer_norm_eps));
    TRY(sara_attention_forward(tape, &h, attention, h, context, false)); /* [N,T,inner] */
    TRY(sara_nn_add(tape, y, h, x));                                     /* [N,T,inner] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

/* y = x + ff_out(geglu(ff_in(norm3(x)))), and what is beside it of the same input */
static sara_status feed_forward(sara_tape *tape, sara_var **y, const sara_transformer_block *block,
                                sara_var *x)
{
    size_t scope = sara_tape_open(tape);
    sara_var *normed, *h;
    sara_status status;
    TRY(sara_nn_layer_norm(tape, &normed, x, block->norm3.weight, block->norm3.bias,
                           layer_norm_eps));                   /* [N,T,inner] */
    TRY(sara_linear_forward(tape, &h, &block->ff_in, normed)); /* [N,T,8 inner] */
    TRY(sara_nn_geglu(tape, &h, h));                           /* [N,T,4 inner] */
    TRY(sara_linear_forward(tape, &h, &block->ff_out, h));     /* [N,T,inner] */
    TRY(sara_bottlenecks_forward(tape, &h, normed, block->ff_out.weight->branch));
    TRY(sara_nn_add(tape, y, h, x)); /* [N,T,inner] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_status block_forward(sara_tape *tape, sara_var **y, const sara_transformer_block *block,
                                 sara_var *x, sara_var *context)
{
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(transformer_attend(tape, &h, &block->norm1, &block->attn1, x, NULL));    /* [N,T,inner] */
    TRY(transformer_attend(tape, &h, &block->norm2, &block->attn2, h, context)); /* [N,T,inner] */
    TRY(feed_forward(tape, y, block, h));                                        /* [N,T,inner] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

sara_status sara_transformer_forward(sara_tape *tape, sara_var **y,
                                     const sara_transformer *transformer, sara_var *x,
                                     sara_var *context)
{
    const int64_t *dims = x->shape.dims;
    sara_shape tokens = sara_shape3(dims[0], dims[1] * dims[2], dims[3]);
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    /* [N,H,W,C] -> [N,HW,inner] */
    TRY(sara_tape_view(tape, &h, x, &tokens)); /* [N,HW,C] */
    TRY(sara_nn_group_norm(tape, &h, h, transformer->norm.weight, transformer->norm.bias,
                           transformer->groups, group_norm_eps, SARA_IDENTITY)); /* [N,HW,C] */
    TRY(sara_linear_forward(tape, &h, &transformer->proj_in, h));                /* [N,HW,inner] */
    sara_tape_close(tape, scope, &h, 1);
    for (int i = 0; i < transformer->count; i++) {
        TRY(block_forward(tape, &h, &transformer->blocks[i], h, context)); /* [N,HW,inner] */
        sara_tape_close(tape, scope, &h, 1);
    }
    /* back to [N,H,W,C] */
    TRY(sara_linear_forward(tape, &h, &transformer->proj_out, h)); /* [N,HW,C] */
    TRY(sara_tape_view(tape, &h, h, &x->shape));                   /* [N,H,W,C] */
    TRY(sara_nn_add(tape, y, h, x));                               /* [N,H,W,C] */
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}
