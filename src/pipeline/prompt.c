/* Prompts to encoder hidden states. */
#include "models/clip.h"
#include "pipeline/pipeline.h"

#include <math.h>

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
static sara_status prompt_encode(sara_tape *tape, float *state, const sara_model *model,
                                 const int32_t *ids, int64_t length)
{
    const float *values;
    sara_var *out;
    sara_status status;
    TRY(sara_clip_text_forward(tape, &out, NULL, model->text, ids, 1, length));
    TRY(sara_tape_read(tape, &values, out));
    memcpy(state, values, (size_t)sara_shape_count(&out->shape) * sizeof(*state));
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
    *hidden = model->text->info.text.hidden_size;
    size_t size = (size_t)(*length * *hidden);
    TRY(sara_alloc(ctx, &ids, (size_t)*length, sizeof(*ids)));
    TRY(sara_alloc(ctx, &result, count, size * sizeof(*result)));
    TRY(sara_tape_new(ctx, &tape, model->device));
    *cut = 0;
    for (size_t i = 0; i < count; i++) {
        size_t left_out;
        TRY(sara_tokenizer_pad(model->tokenizer, ids, &left_out, prompts[i]));
        TRY(prompt_encode(tape, result + i * size, model, ids, *length));
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

/* ------------------------------------------------------------------------------------- weighted */

static double mean_of(const float *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += values[i];
    return sum / (double)count;
}

/* Scales the states [length][hidden] of a chunk, then all of them so that their mean is as before.
 * Returns the factor for that; where it is not finite, the states stay scaled alone. */
static float weigh_states(float *states, const float *weights, int64_t length, int64_t hidden)
{
    double before = mean_of(states, length * hidden);
    for (int64_t i = 0; i < length; i++)
        for (int64_t j = 0; j < hidden; j++)
            states[i * hidden + j] *= weights[i];
    float factor = (float)(before / mean_of(states, length * hidden));
    for (int64_t i = 0; isfinite(factor) && i < length * hidden; i++)
        states[i] *= factor;
    return factor;
}

/* A mean near 0 is no measure to keep; A1111 does so nevertheless. */
static void tell_factor(sara_context *ctx, float factor, const char *what)
{
    if (!isfinite(factor))
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s's weights make the mean of its states 0; it cannot be restored", what);
    else if (!(factor >= 0.5f && factor <= 2))
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s's weights change the mean of its states; restoring it scales all of them "
                 "by %.3g; other weights may suit better",
                 what, (double)factor);
}

static bool has_weights(const float *weights, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (weights[i] != 1)
            return true;
    return false;
}

static sara_status encode_chunks(sara_context *ctx, float *states, const sara_model *model,
                                 const sara_prompt_chunks *chunks, int64_t hidden, const char *what)
{
    int64_t length = (int64_t)chunks->length;
    sara_tape *tape = NULL;
    sara_status status;
    TRY(sara_tape_new(ctx, &tape, model->device));
    for (size_t i = 0; i < chunks->count; i++) {
        const float *weights = chunks->weights + i * chunks->length;
        TRY(prompt_encode(tape, states, model, chunks->ids + i * chunks->length, length));
        if (has_weights(weights, length))
            tell_factor(ctx, weigh_states(states, weights, length, hidden), what);
        states += length * hidden;
    }
done:
    sara_tape_free(tape);
    return status;
}

static void tell_chunks(sara_context *ctx, const sara_prompt_chunks *chunks, const char *what)
{
    if (chunks->cut)
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s is too long: %zu tokens were cut off at %zu; --long-prompt keeps them",
                 what, chunks->cut, chunks->length);
    if (chunks->count > 1)
        sara_log(ctx, SARA_LOG_INFO, "the %s is encoded in %zu chunks of %zu tokens", what,
                 chunks->count, chunks->length - 2);
}

/* what: for errors. *out: sara_prompt_chunks_free(), even after one. */
static sara_status make_chunks(sara_context *ctx, sara_prompt_chunks *out, const sara_model *model,
                               const sara_prompt *prompt, const char *what, bool long_prompt)
{
    sara_status status = sara_prompt_chunks_make(ctx, out, model->tokenizer, prompt, long_prompt);
    return status == SARA_OK ? status : sara_fail_in(ctx, status, what);
}

sara_status sara_prompt_length(sara_context *ctx, int64_t *length, const sara_model *model,
                               const sara_generate_options *options)
{
    sara_prompts prompts = {0};
    sara_prompt_chunks chunks = {0};
    sara_status status;
    TRY(needs_text(ctx, model));
    TRY(sara_prompts_read(ctx, &prompts, options));
    TRY(make_chunks(ctx, &chunks, model, &prompts.text, "prompt", options->long_prompt));
    *length = (int64_t)(chunks.count * chunks.length);
done:
    sara_prompt_chunks_free(ctx, &chunks);
    sara_prompts_free(ctx, &prompts);
    return status;
}

sara_status sara_prompts_encode(sara_context *ctx, sara_prompt_states *out, const sara_model *model,
                                const sara_prompts *prompts, bool guided, bool long_prompt)
{
    static const char *const names[2] = {"negative prompt", "prompt"};
    const sara_prompt *each[2] = {&prompts->negative, &prompts->text};
    sara_prompt_chunks chunks[2] = {{0}, {0}};
    sara_status status;
    int first = guided ? 0 : 1;
    memset(out, 0, sizeof(*out));
    TRY(needs_text(ctx, model));
    out->hidden = model->text->info.text.hidden_size;
    for (int i = first; i < 2; i++) {
        TRY(make_chunks(ctx, &chunks[i], model, each[i], names[i], long_prompt));
        out->lengths[i - first] = (int64_t)(chunks[i].count * chunks[i].length);
        tell_chunks(ctx, &chunks[i], names[i]);
    }
    TRY(sara_alloc(ctx, &out->data, (size_t)(out->lengths[0] + out->lengths[1]),
                   (size_t)out->hidden * sizeof(float)));
    for (int i = first; i < 2; i++)
        TRY(encode_chunks(ctx, out->data + (i > first ? out->lengths[0] * out->hidden : 0), model,
                          &chunks[i], out->hidden, names[i]));
done:
    sara_prompt_chunks_free(ctx, &chunks[0]);
    sara_prompt_chunks_free(ctx, &chunks[1]);
    return status;
}
