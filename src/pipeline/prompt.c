/* Prompts to encoder hidden states. */
#include "models/clip.h"
#include "pipeline/pipeline.h"

#include <math.h>

static sara_status needs_text(sara_context *ctx, const sara_model *model)
{
    if (!model->denoiser_only)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: a bare %s/ folder has no text encoder; a whole model folder is needed",
                     model->path, model->family->parts[0].folder);
}

const sara_tokenizer *sara_model_tokenizer(const sara_model *model)
{
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].tokenizer)
            return model->parts[i].tokenizer;
    return NULL;
}

sara_status sara_model_tokenize(sara_context *ctx, int32_t **ids, size_t *count,
                                const sara_model *model, const char *text)
{
    int32_t *result = NULL;
    sara_status status;
    *ids = NULL;
    *count = 0;
    TRY(needs_text(ctx, model));
    const sara_tokenizer *tokenizer = sara_model_tokenizer(model);
    size_t length = (size_t)sara_tokenizer_length(tokenizer);
    TRY(sara_alloc(ctx, &result, length, sizeof(*result)));
    TRY(sara_tokenizer_pad(tokenizer, result, NULL, text));
    *ids = result;
    *count = length;
    result = NULL;
done:
    sara_free(ctx, result);
    return status;
}

void sara_text_states_free(sara_context *ctx, sara_text_states *states)
{
    sara_free(ctx, states->states);
    sara_free(ctx, states->pooled);
    *states = (sara_text_states){.states = NULL};
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

/* ------------------------------------------------------------------------------- CLIP's chunks */

/* states [length][hidden], pooled [hidden] or NULL. One chunk at a time: the text encoder is small,
 * and its memory is given back each time. */
static sara_status clip_encode_chunk(sara_tape *tape, float *states, float *pooled,
                                     sara_network *text, const int32_t *ids, int64_t length)
{
    const float *values;
    sara_var *out, *whole = NULL;
    sara_status status;
    TRY(sara_clip_text_forward(tape, &out, pooled ? &whole : NULL, text, 0, ids, 1, length));
    TRY(sara_tape_read(tape, &values, out));
    memcpy(states, values, (size_t)sara_shape_count(&out->shape) * sizeof(*states));
    if (pooled) {
        TRY(sara_tape_read(tape, &values, whole));
        memcpy(pooled, values, (size_t)sara_shape_count(&whole->shape) * sizeof(*pooled));
    }
done:
    sara_tape_reset(tape);
    return status;
}

static sara_status clip_encode_chunks(sara_context *ctx, const sara_text_states *out,
                                      sara_tape *tape, sara_network *text,
                                      const sara_prompt_chunks *chunks, const char *what)
{
    int64_t length = (int64_t)chunks->length, hidden = text->info.text.hidden_size;
    float *states = out->states;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < chunks->count; i++) {
        const float *weights = chunks->weights + i * chunks->length;
        TRY(clip_encode_chunk(tape, states, i ? NULL : out->pooled, text,
                              chunks->ids + i * chunks->length, length));
        if (has_weights(weights, length))
            tell_factor(ctx, weigh_states(states, weights, length, hidden), what);
        states += length * hidden;
    }
done:
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

/* *out: sara_prompt_chunks_free(), even after an error. */
static sara_status make_chunks(sara_context *ctx, sara_prompt_chunks *out,
                               const sara_model_part *text, const sara_prompt *prompt,
                               const sara_text_source *source)
{
    sara_status status =
        sara_prompt_chunks_make(ctx, out, text->tokenizer, prompt, source->long_prompt);
    return status == SARA_OK || !source->name ? status : sara_fail_in(ctx, status, source->name);
}

sara_status sara_clip_measure(sara_context *ctx, int64_t *length, const sara_model_part *text,
                              const sara_prompt *prompt, const sara_text_source *source)
{
    sara_prompt_chunks chunks = {0};
    sara_status status = make_chunks(ctx, &chunks, text, prompt, source);
    *length = (int64_t)(chunks.count * chunks.length);
    sara_prompt_chunks_free(ctx, &chunks);
    return status;
}

sara_status sara_clip_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                             const sara_model_part *text, const sara_prompt *prompt,
                             const sara_text_source *source, bool pooled)
{
    size_t hidden = (size_t)text->network->info.text.hidden_size;
    sara_prompt_chunks chunks = {0};
    sara_tape *tape = NULL;
    sara_status status;
    TRY(make_chunks(ctx, &chunks, text, prompt, source));
    if (source->name)
        tell_chunks(ctx, &chunks, source->name);
    out->cut = chunks.cut;
    out->length = (int64_t)(chunks.count * chunks.length);
    TRY(sara_alloc(ctx, &out->states, (size_t)out->length, hidden * sizeof(float)));
    if (pooled)
        TRY(sara_alloc(ctx, &out->pooled, hidden, sizeof(float)));
    TRY(sara_tape_new(ctx, &tape, model->device));
    TRY(clip_encode_chunks(ctx, out, tape, text->network, &chunks, source->name));
done:
    sara_tape_free(tape);
    sara_prompt_chunks_free(ctx, &chunks);
    return status;
}

/* -------------------------------------------------------------------------------------- prompts */

sara_status sara_model_encode_text(sara_context *ctx, sara_text_states *out, sara_model *model,
                                   const char *text)
{
    const sara_text_source source = {NULL, false};
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
    const sara_text_source source = {NULL, false};
    sara_prompt prompt = {0};
    sara_status status;
    TRY(sara_prompt_literal(ctx, &prompt, ""));
    TRY(model->family->measure(ctx, length, model, &prompt, &source));
done:
    sara_prompt_free(ctx, &prompt);
    return status;
}

sara_status sara_prompt_length(sara_context *ctx, int64_t *length, const sara_model *model,
                               const sara_generate_options *options)
{
    const sara_text_source source = {"prompt", options->long_prompt};
    sara_prompts prompts = {0};
    sara_status status;
    TRY(needs_text(ctx, model));
    TRY(sara_prompts_read(ctx, &prompts, options));
    TRY(model->family->measure(ctx, length, model, &prompts.text, &source));
done:
    sara_prompts_free(ctx, &prompts);
    return status;
}
