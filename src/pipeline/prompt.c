/* Prompts to encoder hidden states. */
#include "pipeline/pipeline.h"

static sara_status needs_text(sara_context *ctx, const sara_model *model)
{
    if (!model->denoiser_only)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: a bare %s/ folder has no text encoder; a whole model folder is needed",
                     model->path, model->family->parts[0].folder);
}

/* -1: none has it. */
static int tokenizer_part(const sara_model *model, int number)
{
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].tokenizer && number-- == 0)
            return i;
    return -1;
}

const char *sara_model_tokenizer_name(const sara_model *model, int number)
{
    const int part = tokenizer_part(model, number);
    return part < 0 ? NULL : model->family->parts[part].tokenizer;
}

sara_status sara_model_find_tokenizer(sara_context *ctx, int *part, const sara_model *model,
                                      int number)
{
    sara_status status;
    TRY(needs_text(ctx, model));
    *part = tokenizer_part(model, number);
    if (*part < 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE, "%s: has no tokenizer of number %d", model->path,
                           number);
done:
    return status;
}

sara_status sara_model_tokenize_by(sara_context *ctx, int32_t **ids, size_t *count,
                                   const sara_model *model, int number, const char *text)
{
    int32_t *result = NULL;
    int part;
    sara_status status;
    *ids = NULL;
    *count = 0;
    TRY(sara_model_find_tokenizer(ctx, &part, model, number));
    const sara_tokenizer *tokenizer = model->parts[part].tokenizer;
    const size_t length = model->family->parts[part].t5_tokenizer
                              ? SARA_SEQUENCE_LENGTH
                              : (size_t)sara_tokenizer_length(tokenizer);
    TRY(sara_alloc(ctx, &result, length, sizeof(*result)));
    TRY(sara_tokenizer_pad_to(tokenizer, result, length, NULL, text));
    *ids = result;
    *count = length;
    result = NULL;
done:
    sara_free(ctx, result);
    return status;
}

sara_status sara_model_tokenize(sara_context *ctx, int32_t **ids, size_t *count,
                                const sara_model *model, const char *text)
{
    return sara_model_tokenize_by(ctx, ids, count, model, 0, text);
}

sara_status sara_model_hash_ids(const sara_model *model, sara_sha256 *hash, const char *text)
{
    int32_t *ids = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_tokenizer *tokenizer = model->parts[i].tokenizer;
        if (!tokenizer)
            continue;
        size_t length = (size_t)sara_tokenizer_length(tokenizer);
        sara_free(model->ctx, ids);
        TRY(sara_alloc(model->ctx, &ids, length, sizeof(*ids)));
        TRY(sara_tokenizer_pad(tokenizer, ids, NULL, text));
        TRY(sara_sha256_add(hash, ids, length * sizeof(*ids)));
    }
done:
    sara_free(model->ctx, ids);
    return status;
}

void sara_text_states_free(sara_context *ctx, sara_text_states *states)
{
    sara_free(ctx, states->states);
    sara_free(ctx, states->pooled);
    *states = (sara_text_states){.states = NULL};
}

/* -------------------------------------------------------------------------------------- prompts */

int sara_model_caption_length(const sara_model *model)
{
    return model->caption_length ? model->caption_length : SARA_CAPTION_LENGTH;
}

/* Of what is trained on. */
static sara_text_source caption_source(const sara_model *model)
{
    return (sara_text_source){.sequence = sara_model_caption_length(model)};
}

sara_status sara_model_encode_text(sara_context *ctx, sara_text_states *out, sara_model *model,
                                   const char *text)
{
    const sara_text_source source = caption_source(model);
    sara_prompt prompt = {0};
    sara_status status;
    *out = (sara_text_states){.states = NULL};
    TRY(needs_text(ctx, model));
    TRY(sara_prompt_literal(ctx, &prompt, text));
    TRY(sara_model_need(model, SARA_STAGE_TEXT));
    TRY(model->family->encode(ctx, out, model, &prompt, &source));
done:
    sara_prompt_free(ctx, &prompt);
    return status;
}

sara_status sara_model_text_length(sara_context *ctx, int64_t *length, const sara_model *model)
{
    const sara_text_source source = caption_source(model);
    sara_prompt prompt = {0};
    sara_status status;
    TRY(sara_prompt_literal(ctx, &prompt, ""));
    TRY(model->family->measure(ctx, length, model, &prompt, &source));
done:
    sara_prompt_free(ctx, &prompt);
    return status;
}

sara_status sara_prompt_length(sara_context *ctx, int64_t *length, sara_model *model,
                               const sara_generate_options *options)
{
    const sara_text_source source = {"prompt", options->long_prompt, options->max_sequence_length};
    sara_prompts prompts = {0};
    sara_status status;
    TRY(needs_text(ctx, model));
    TRY(sara_prompts_read(ctx, &prompts, options));
    TRY(sara_prompts_embed(ctx, model, &prompts, options, false));
    TRY(model->family->measure(ctx, length, model, &prompts.text, &source));
done:
    sara_prompts_free(ctx, &prompts);
    return status;
}
