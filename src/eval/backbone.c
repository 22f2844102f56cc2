#include "eval/backbone.h"

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

sara_status sara_backbone_image(sara_backbone *backbone, float *out, const sara_image *image)
{
    return backbone->kind->image(backbone, out, image);
}

sara_status sara_backbone_text(sara_backbone *backbone, float *out, const char *text)
{
    if (!backbone->kind->text)
        return sara_fail(backbone->ctx, SARA_ERROR_USAGE, "%s: it knows no texts",
                         backbone->kind->name);
    return backbone->kind->text(backbone, out, text);
}
