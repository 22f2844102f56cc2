#include "nn/kept.h"
#include "nn/onednn/onednn.h"

typedef struct kept_conv {
    struct kept_conv *next;
    const char *kernel;
    const sara_param *param;
    sara_conv_shape shape;
    size_t layout; /* bytes of its weights; 0 once they are forgotten */
} kept_conv;

struct sara_kept {
    sara_arena arena;
    kept_conv *convs;
    size_t weights, most_weights, primitives; /* bytes */
};

sara_status sara_kept_new(sara_context *ctx, sara_kept **out)
{
    sara_kept *kept = NULL;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &kept, 1, sizeof(*kept)));
    sara_arena_init(&kept->arena, ctx);
    *out = kept;
done:
    return status;
}

void sara_kept_free(sara_kept *kept)
{
    if (!kept)
        return;
    sara_context *ctx = kept->arena.ctx;
    sara_arena_free(&kept->arena);
    sara_free(ctx, kept);
}

static bool same_shape(const sara_conv_shape *a, const sara_conv_shape *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->in == b->in && a->out == b->out &&
           a->kh == b->kh && a->kw == b->kw && a->stride == b->stride;
}

sara_status sara_kept_add(sara_kept *kept, const char *kernel, const sara_kernel_case *c,
                          const sara_kernel_needs *needs)
{
    const sara_param *param = c->weight->param;
    bool known_weight = !param || param->want != SARA_GRAD_NONE, known_shape = false;
    kept_conv *conv;
    sara_status status;
    for (conv = kept->convs; conv && !(known_weight && known_shape); conv = conv->next) {
        known_weight |= conv->kernel == kernel && conv->param == param;
        known_shape |= conv->kernel == kernel && same_shape(&conv->shape, c->conv);
    }
    if (known_weight && known_shape)
        return SARA_OK;
    TRY(sara_arena_alloc(&kept->arena, &conv, 1, sizeof(*conv)));
    *conv = (kept_conv){kept->convs, kernel, param, *c->conv, known_weight ? 0 : needs->layout};
    kept->convs = conv;
    kept->weights += conv->layout;
    if (kept->weights > kept->most_weights)
        kept->most_weights = kept->weights;
    if (!known_shape)
        kept->primitives += needs->primitive;
done:
    return status;
}

void sara_kept_forget(sara_kept *kept, const sara_param *param)
{
    for (kept_conv *conv = kept->convs; conv; conv = conv->next) {
        if (conv->param != param)
            continue;
        kept->weights -= conv->layout;
        conv->layout = 0;
        conv->param = NULL;
    }
}

size_t sara_kept_bytes(const sara_kept *kept)
{
    size_t most = SARA_ONEDNN_WEIGHT_BYTES;
    return kept->primitives + (kept->most_weights < most ? kept->most_weights : most);
}
