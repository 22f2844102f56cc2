#include "nn/kept.h"
#include "nn/onednn/onednn.h"

typedef struct kept_conv {
    struct kept_conv *next;
    const sara_param *param;
    sara_conv_shape shape;
    bool backward;
} kept_conv;

struct sara_kept {
    sara_arena arena;
    kept_conv *convs;
    size_t weights, primitives; /* bytes */
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

sara_status sara_kept_conv(const sara_kernel_env *env, const sara_weight_view *w,
                           const sara_conv_shape *shape, bool backward)
{
    const sara_kernel_needs *needs = &((const sara_kernels *)env->device->kernels)->needs;
    sara_kept *kept = env->device->state;
    bool known_weight = !w->param || w->param->want != SARA_GRAD_NONE, known_shape = false;
    kept_conv *conv;
    sara_status status;
    for (conv = kept->convs; conv && !(known_weight && known_shape); conv = conv->next) {
        known_weight |= conv->backward == backward && conv->param == w->param;
        known_shape |= conv->backward == backward && same_shape(&conv->shape, shape);
    }
    if (known_weight && known_shape)
        return SARA_OK;
    TRY(sara_arena_alloc(&kept->arena, &conv, 1, sizeof(*conv)));
    *conv = (kept_conv){kept->convs, w->param, *shape, backward};
    kept->convs = conv;
    if (!known_weight && needs->conv_layout)
        kept->weights += needs->conv_layout(shape);
    if (!known_shape && needs->conv_primitive)
        kept->primitives += needs->conv_primitive(shape, backward);
done:
    return status;
}

size_t sara_kept_bytes(const sara_kept *kept)
{
    size_t most = SARA_ONEDNN_WEIGHT_BYTES;
    return kept->primitives + (kept->weights < most ? kept->weights : most);
}
