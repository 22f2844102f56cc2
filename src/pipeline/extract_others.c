/* What an adapter between two models does not hold: their other parts, and what they predict. */
#include "models/vae.h"
#include "pipeline/metadata.h"

#include <math.h>

typedef struct comparison {
    sara_context *ctx;
    const sara_weights *base, *tuned;
    int64_t differing;         /* tensors */
    double change2, original2; /* sums of squares */
} comparison;

/* Newer transformers leave "text_model." out; older diffusers name a VAE's attention otherwise. */
static const sara_tensor_info *others_find(const sara_weights *weights, const char *name)
{
    static const char start[] = "text_model.";
    const sara_tensor_info *info = sara_weights_find(weights, name);
    if (!info && strncmp(name, start, strlen(start)) == 0)
        info = sara_weights_find(weights, name + strlen(start));
    if (!info)
        info = sara_weights_find(weights, sara_name_of("%s%s", start, name).text);
    sara_name other;
    return info || !sara_vae_other_name(&other, name) ? info
                                                      : sara_weights_find(weights, other.text);
}

/* b NULL: zeros */
static sara_status compare_tensor(comparison *c, const sara_tensor_info *a,
                                  const sara_tensor_info *b)
{
    size_t count = (size_t)sara_shape_count(&a->shape);
    float *base = NULL, *tuned = NULL;
    double change2 = 0;
    sara_status status;
    TRY(sara_alloc(c->ctx, &base, count, sizeof(*base)));
    TRY(sara_alloc_zero(c->ctx, &tuned, count, sizeof(*tuned)));
    TRY(sara_weights_read_f32(c->base, base, a));
    if (b)
        TRY(sara_weights_read_f32(c->tuned, tuned, b));
    for (size_t i = 0; i < count; i++) {
        double change = (double)tuned[i] - (double)base[i];
        change2 += change * change;
        c->original2 += (double)base[i] * (double)base[i];
    }
    c->change2 += change2;
    c->differing += change2 != 0;
done:
    sara_free(c->ctx, base);
    sara_free(c->ctx, tuned);
    return status;
}

/* Tensors that one side alone has are passed over; one of another size is all change. */
static sara_status compare_tensors(comparison *c)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sara_weights_count(c->base); i++) {
        const sara_tensor_info *a = sara_weights_at(c->base, i),
                               *b = others_find(c->tuned, a->name);
        if (!b || !sara_dtype_is_float(a->dtype) || !sara_dtype_is_float(b->dtype))
            continue;
        if (sara_shape_count(&a->shape) == sara_shape_count(&b->shape))
            TRY(compare_tensor(c, a, b));
        else
            TRY(compare_tensor(c, a, NULL));
    }
done:
    return status;
}

static sara_status others_open_weights(sara_weights **out, const sara_model *model, int part)
{
    sara_component component;
    sara_status status;
    TRY(sara_model_component(model, &component, part));
    TRY(sara_component_weights(&component, out));
done:
    sara_component_close(&component);
    return status;
}

static sara_status compare_part(sara_context *ctx, const sara_model *base, const sara_model *tuned,
                                int part)
{
    sara_weights *a = NULL, *b = NULL;
    sara_status status;
    TRY(others_open_weights(&a, base, part));
    TRY(others_open_weights(&b, tuned, part));
    comparison c = {.ctx = ctx, .base = a, .tuned = b};
    TRY(compare_tensors(&c));
    if (c.differing > 0)
        sara_log(ctx, SARA_LOG_WARNING,
                 "%s: its %s is another than the base's (%lld tensors, relative L2 %.3g); that is "
                 "left out: an adapter holds the %s's change alone",
                 tuned->path, base->family->parts[part].class->title, (long long)c.differing,
                 sqrt(c.change2 / c.original2), base->family->parts[0].class->title);
done:
    sara_weights_close(a);
    sara_weights_close(b);
    return status;
}

sara_status sara_extract_warn(sara_context *ctx, const sara_model *base, const sara_model *tuned,
                              bool with_text)
{
    const sara_prediction *from = &base->scheduler.prediction_type;
    const sara_prediction *to = &tuned->scheduler.prediction_type;
    sara_status status = SARA_OK;
    if (base->has_scheduler && tuned->has_scheduler && *from != *to)
        sara_log(ctx, SARA_LOG_WARNING,
                 "%s: predicts %s, the base %s; an adapter does not hold that: draw with "
                 "--prediction_type %s",
                 tuned->path, sara_prediction_name(*to), sara_prediction_name(*from),
                 sara_prediction_name(*to));
    for (int i = base->family->part_count - 1; i > 0 && base->family == tuned->family; i--)
        if (sara_model_has_part(base, i) && sara_model_has_part(tuned, i) &&
            !(with_text && sara_extract_lora_holds(base->family, i)))
            TRY(compare_part(ctx, base, tuned, i));
done:
    return status;
}
