/* Applied bottlenecks: what stands beside layers, and changes no value. */
#include "sparse/applied.h"
#include "sparse/bottleneck.h"

sara_status sara_applied_layer_beside(sara_applied *applied, sara_applied_layer *out,
                                      sara_bottlenecks *beside, double strength)
{
    sara_applied_layer layer = {.strength = strength};
    sara_status status;
    sara_arena_init(&layer.arena, applied->ctx);
    sara_arena_init(&layer.factors, applied->ctx);
    TRY(sara_alloc(applied->ctx, &layer.beside, 1, sizeof(*layer.beside)));
    *layer.beside = *beside;
    memset(beside, 0, sizeof(*beside));
    *out = layer;
done:
    return status;
}

sara_status sara_applied_attach(sara_applied *applied)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < applied->count; i++)
        if (applied->layers[i].beside)
            sara_bottlenecks_detach(applied->layers[i].beside);
    for (size_t i = 0; i < applied->count; i++) {
        const sara_applied_layer *layer = &applied->layers[i];
        if (layer->beside && layer->strength != 0)
            TRY(sara_bottlenecks_attach(layer->beside, applied->params, layer->strength));
    }
done:
    return status;
}
