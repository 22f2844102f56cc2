#include "eval/backbone.h"

#include <math.h>

sara_status sara_backbone_open(sara_context *ctx, sara_backbone **out,
                               const sara_backbone_kind *kind, const sara_backbone_options *options)
{
    sara_backbone *backbone = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &backbone, 1, sizeof(*backbone)));
    backbone->ctx = ctx;
    backbone->kind = kind;
    status = kind->open(backbone, options);
    if (status == SARA_OK)
        *out = backbone;
    else
        sara_fail_in(ctx, status, kind->name);
done:
    if (status != SARA_OK)
        sara_backbone_close(backbone);
    return status;
}

void sara_backbone_close(sara_backbone *backbone)
{
    if (!backbone)
        return;
    backbone->kind->close(backbone);
    sara_free(backbone->ctx, backbone);
}

/* Of broken weights: no measure could be told from them. */
static sara_status check_features(const sara_backbone *backbone, const float *features)
{
    for (int64_t i = 0; i < backbone->width; i++)
        if (!isfinite(features[i]))
            return sara_fail(backbone->ctx, SARA_ERROR_INPUT,
                             "%s: feature %lld is not finite; are the backbone's weights whole?",
                             backbone->kind->name, (long long)i);
    return SARA_OK;
}

sara_status sara_backbone_image(sara_backbone *backbone, float *out, const sara_image *image)
{
    sara_status status;
    TRY(backbone->kind->image(backbone, out, image));
    TRY(check_features(backbone, out));
done:
    return status;
}

sara_status sara_backbone_text(sara_backbone *backbone, float *out, const char *text)
{
    sara_status status;
    if (!backbone->kind->text)
        return sara_fail(backbone->ctx, SARA_ERROR_USAGE, "%s: it knows no texts",
                         backbone->kind->name);
    TRY(backbone->kind->text(backbone, out, text));
    TRY(check_features(backbone, out));
done:
    return status;
}
