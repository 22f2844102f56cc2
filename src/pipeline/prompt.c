/* Prompts to encoder hidden states. */
#include "pipeline/pipeline.h"

static sara_status needs_text(sara_context *ctx, const sara_model *model)
{
    if (model->text)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: a bare unet/ folder has no text encoder; a whole model folder is needed",
                     model->path);
}

sara_status sara_model_tokenize(sara_context *ctx, int32_t **ids, size_t *count,
                                const sara_model *model, const char *text)
{
    int32_t *result = NULL;
    sara_status status;
    *ids = NULL;
    *count = 0;
    TRY(needs_text(ctx, model));
    size_t length = (size_t)sara_tokenizer_length(model->tokenizer);
    TRY(sara_alloc(ctx, &result, length, sizeof(*result)));
    TRY(sara_tokenizer_pad(model->tokenizer, result, NULL, text));
    *ids = result;
    *count = length;
    result = NULL;
done:
    sara_free(ctx, result);
    return status;
}

/* One prompt at a time: the text encoder is small, and its memory is given back each time. */
static sara_status encode(sara_tape *tape, float *state, const sara_model *model,
                          const int32_t *ids, int64_t length)
{
    sara_var *out;
    sara_status status;
    TRY(sara_clip_text_forward(tape, &out, NULL, model->text, ids, 1, length));
    memcpy(state, out->data, (size_t)sara_shape_count(&out->shape) * sizeof(*state));
done:
    sara_tape_reset(tape);
    return status;
}

sara_status sara_model_encode_prompts(sara_context *ctx, float **states, int64_t *length,
                                      int64_t *hidden, size_t *cut, const sara_model *model,
                                      const char *const *prompts, size_t count)
{
    int32_t *ids = NULL;
    float *result = NULL;
    sara_tape *tape = NULL;
    sara_status status;
    *states = NULL;
    TRY(needs_text(ctx, model));
    *length = sara_tokenizer_length(model->tokenizer);
    *hidden = sara_clip_text_info_of(model->text)->hidden_size;
    size_t size = (size_t)(*length * *hidden);
    TRY(sara_alloc(ctx, &ids, (size_t)*length, sizeof(*ids)));
    TRY(sara_alloc(ctx, &result, count, size * sizeof(*result)));
    TRY(sara_tape_new(ctx, &tape, model->device));
    *cut = 0;
    for (size_t i = 0; i < count; i++) {
        size_t left_out;
        TRY(sara_tokenizer_pad(model->tokenizer, ids, &left_out, prompts[i]));
        TRY(encode(tape, result + i * size, model, ids, *length));
        *cut += left_out;
    }
    *states = result;
    result = NULL;
done:
    sara_tape_free(tape);
    sara_free(ctx, ids);
    sara_free(ctx, result);
    return status;
}
