/* Embeddings where adapters are taken: they are told from these, and shown. */
#include "pipeline/adapter_kind.h"
#include "pipeline/embedding.h"

#include <stdio.h>

#define ADVICE                                                                                     \
    "is a textual inversion, which prompts name: --embedding-dir takes its folder, of generate "   \
    "and "                                                                                         \
    "of the validation of train"

static bool is_embedding(const sara_adapter_source *source)
{
    return sara_embedding_is(source->file);
}

static sara_status check_embedding(sara_context *ctx, sara_model *model,
                                   const sara_adapter_source *source, bool force)
{
    (void)model, (void)force;
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: " ADVICE, source->path);
}

static sara_status apply_embedding(sara_context *ctx, sara_model *model,
                                   const sara_adapter_source *source, double strength, bool force,
                                   unsigned stages)
{
    (void)strength, (void)stages;
    return check_embedding(ctx, model, source, force);
}

/* Whose text encoders have these widths. */
static const char *families_of(const sara_embedding_file *file)
{
    const int64_t first = sara_embedding_width(file, 0), second = sara_embedding_width(file, 1);
    if (first == 768 && second == 1280)
        return "SDXL, SD3, SD3.5";
    return second ? "" : first == 768 ? "SD1.x" : first == 1024 ? "SD2.x" : "";
}

static sara_status describe_embedding(sara_adapter_report *out, sara_arena *arena,
                                      const sara_adapter_source *source, sara_model *base,
                                      bool force)
{
    sara_embedding_file file = {.file = NULL};
    sara_embedding embedding = {.count = 0};
    sara_status status;
    (void)force;
    if (base)
        return sara_fail(source->ctx, SARA_ERROR_USAGE,
                         "%s: changes no base; inspect it without -m", source->path);
    TRY(sara_adapter_report_metadata(out, arena, source));
    TRY(sara_embedding_describe(source->ctx, &file, source->file));
    TRY(sara_embedding_load(source->ctx, &embedding, &file, ""));
    out->method = "embedding";
    out->layout = file.form;
    out->vectors = file.count;
    TRY(sara_arena_strdup(arena, &out->token, file.token ? file.token : ""));
    out->families = families_of(&file);
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++) {
        out->widths[i] = sara_embedding_width(&file, i);
        out->entries += file.count * out->widths[i];
    }
done:
    sara_embedding_free(source->ctx, &embedding);
    return status;
}

const sara_adapter_kind sara_adapter_kind_embedding = {
    .name = "embedding",
    .is = is_embedding,
    .check = check_embedding,
    .apply = apply_embedding,
    .describe = describe_embedding,
};
