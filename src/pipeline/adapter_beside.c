/* AdaptFormers on a model. */
#include "pipeline/adapter_kind.h"
#include "sparse/bottleneck.h"

#include <math.h>

static bool is_adaptformer(const sara_adapter_source *source)
{
    return sara_bottlenecks_are(source->file);
}

/* Reads them and checks them against the model. *out: sara_bottlenecks_free(), even after an
 * error. */
static sara_status read_checked(sara_context *ctx, sara_bottlenecks *out, sara_model *model,
                                const sara_adapter_source *source, bool force)
{
    const char *target = sara_safetensors_metadata(source->file, "sara.target");
    const sara_base *base = NULL;
    sara_status status;
    TRY(sara_bottlenecks_read(model->device, out, source->file));
    TRY(sara_family_check_target(ctx, source->path, target, model->family));
    if (!force)
        TRY(sara_model_base(ctx, &base, model));
    status = sara_bottlenecks_check(out, &model->denoiser->params, base);
    if (status != SARA_OK)
        sara_fail_in(ctx, status, source->path);
done:
    return status;
}

static sara_status check_adaptformer(sara_context *ctx, sara_model *model,
                                     const sara_adapter_source *source, bool force)
{
    sara_bottlenecks bottlenecks = {0};
    sara_status status = read_checked(ctx, &bottlenecks, model, source, force);
    sara_bottlenecks_free(&bottlenecks);
    return status;
}

/* They are beside the denoiser's layers alone. */
static sara_status apply_adaptformer(sara_context *ctx, sara_model *model,
                                     const sara_adapter_source *source, double strength, bool force,
                                     unsigned stages)
{
    sara_bottlenecks bottlenecks = {0};
    sara_status status;
    if (!(stages & SARA_STAGE_DENOISE))
        return SARA_OK;
    TRY(read_checked(ctx, &bottlenecks, model, source, force));
    TRY(sara_model_begin_applied(model, 0, NULL));
    TRY(sara_applied_add_bottlenecks(model->parts[0].applied, &bottlenecks, strength));
done:
    sara_bottlenecks_free(&bottlenecks);
    return status;
}

static sara_status describe_adaptformer(sara_adapter_report *out, sara_arena *arena,
                                        const sara_adapter_source *source, sara_model *base,
                                        bool force)
{
    sara_bottlenecks b = {0};
    sara_status status;
    TRY(base ? read_checked(source->ctx, &b, base, source, force)
             : sara_bottlenecks_read(sara_host_device(source->ctx), &b, source->file));
    TRY(sara_adapter_report_metadata(out, arena, source));
    for (size_t i = 0; i < b.count; i++) {
        int64_t channels = b.branches[i].down->value.shape.dims[1];
        sara_adapter_report_add(out, b.branches[i].down->name, false,
                                b.width * (2 * channels + 1) + channels, (double)NAN);
    }
    out->layers = (int64_t)b.count;
    out->width = b.width;
    out->scale = b.scale;
done:
    sara_bottlenecks_free(&b);
    return status;
}

const sara_adapter_kind sara_adapter_kind_beside = {
    .name = "AdaptFormer",
    .no_weights = "is an AdaptFormer, which stands beside the model's layers and is no change of "
                  "their weights: apply it when drawing (--adapter)",
    .is = is_adaptformer,
    .check = check_adaptformer,
    .apply = apply_adaptformer,
    .describe = describe_adaptformer,
};
