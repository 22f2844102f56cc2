/* Prompts through CLIP text encoders, one or several, chunk by chunk. */
#include "models/clip.h"
#include "pipeline/pipeline.h"

#include <math.h>

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

/* Whether there is something to tell. A mean near 0 is no measure to keep; A1111 does so
 * nevertheless. */
static bool tell_factor(sara_context *ctx, float factor, const char *what)
{
    if (!isfinite(factor))
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s's weights make the mean of its states 0; it cannot be restored", what);
    else if (!(factor >= 0.5f && factor <= 2))
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s's weights change the mean of its states; restoring it scales all of them "
                 "by %.3g; other weights may suit better",
                 what, (double)factor);
    return !(factor >= 0.5f && factor <= 2);
}

static bool has_weights(const float *weights, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (weights[i] != 1)
            return true;
    return false;
}

/* ------------------------------------------------------------------------------- CLIP's chunks */

/* A prompt on its way through the encoders. */
typedef struct clip_texts {
    sara_context *ctx;
    const sara_model *model;
    const sara_clip_use *uses;
    int count;
    sara_prompt_chunks chunks[SARA_MOST_PARTS]; /* of each encoder, as many of one length */
    sara_tape *tape;
    float *chunk; /* the states of one */
    const sara_prompt *prompt;
    float *vectors; /* of its embeddings for the encoder, one after the other */
    int64_t vector_count;
    bool warned;
} clip_texts;

static const sara_model_part *clip_part(const clip_texts *t, int encoder)
{
    return &t->model->parts[t->uses[encoder].part];
}

static const sara_text_info *clip_info(const clip_texts *t, int encoder)
{
    return &clip_part(t, encoder)->network->info.text;
}

/* states [length][hidden], pooled or NULL. One chunk at a time: a text encoder is small, and its
 * memory is given back each time. */
static sara_status clip_encode_chunk(const clip_texts *t, int encoder, float *states, float *pooled,
                                     const int32_t *ids, int64_t length)
{
    const sara_clip_vectors vectors = {t->vectors, t->vector_count};
    const float *values;
    sara_var *out, *whole = NULL;
    sara_status status;
    TRY(sara_clip_text_forward_with(t->tape, &out, pooled ? &whole : NULL,
                                    clip_part(t, encoder)->network, t->uses[encoder].skip, ids, 1,
                                    length, &vectors));
    TRY(sara_tape_read(t->tape, &values, out));
    memcpy(states, values, (size_t)sara_shape_count(&out->shape) * sizeof(*states));
    if (pooled) {
        TRY(sara_tape_read(t->tape, &values, whole));
        memcpy(pooled, values, (size_t)sara_shape_count(&whole->shape) * sizeof(*pooled));
    }
done:
    sara_tape_reset(t->tape);
    return status;
}

/* The vectors of the prompt's embeddings for an encoder. */
static sara_status take_vectors(clip_texts *t, int encoder)
{
    const int64_t hidden = clip_info(t, encoder)->hidden_size;
    size_t used = 0;
    sara_status status = SARA_OK;
    sara_free(t->ctx, t->vectors);
    t->vectors = NULL;
    t->vector_count = 0;
    for (size_t i = 0; i < t->prompt->embedding_count; i++)
        t->vector_count += t->prompt->embeddings[i].count;
    if (t->vector_count == 0)
        return SARA_OK;
    TRY(sara_alloc(t->ctx, &t->vectors, (size_t)t->vector_count, (size_t)hidden * sizeof(float)));
    for (size_t i = 0; i < t->prompt->embedding_count; i++) {
        const sara_embedding *embedding = &t->prompt->embeddings[i];
        size_t count = (size_t)(embedding->count * hidden);
        SARA_ASSERT(embedding->widths[encoder] == hidden);
        memcpy(t->vectors + used, embedding->vectors[encoder], count * sizeof(float));
        used += count;
    }
done:
    return status;
}

/* Into rows of states `width` apart. pooled: NULL where it is not wanted */
static sara_status clip_encode_chunks(clip_texts *t, int encoder, float *states, int64_t width,
                                      float *pooled, const char *what)
{
    const sara_prompt_chunks *chunks = &t->chunks[encoder];
    int64_t length = (int64_t)chunks->length, hidden = clip_info(t, encoder)->hidden_size;
    sara_status status;
    TRY(take_vectors(t, encoder));
    for (size_t i = 0; i < chunks->count; i++) {
        const float *weights = chunks->weights + i * chunks->length;
        TRY(clip_encode_chunk(t, encoder, t->chunk, i ? NULL : pooled,
                              chunks->ids + i * chunks->length, length));
        if (has_weights(weights, length))
            t->warned |= tell_factor(t->ctx, weigh_states(t->chunk, weights, length, hidden), what);
        for (int64_t row = 0; row < length; row++, states += width)
            memcpy(states, t->chunk + row * hidden, (size_t)hidden * sizeof(*states));
    }
done:
    return status;
}

/* clip_texts_free(), even after an error. */
static sara_status make_chunks(clip_texts *t, const sara_prompt *prompt,
                               const sara_text_source *source)
{
    size_t most = 0;
    sara_status status = SARA_OK;
    for (int i = 0; i < t->count; i++) {
        status = sara_prompt_chunks_make(t->ctx, &t->chunks[i], clip_part(t, i)->tokenizer, prompt,
                                         source->long_prompt);
        if (status != SARA_OK)
            return source->name ? sara_fail_in(t->ctx, status, source->name) : status;
        if (t->chunks[i].length != t->chunks[0].length)
            return sara_fail(t->ctx, SARA_ERROR_INPUT,
                             "%s: tokenizers of %zu and of %zu tokens: they must agree",
                             t->model->path, t->chunks[0].length, t->chunks[i].length);
        most = t->chunks[i].count > most ? t->chunks[i].count : most;
    }
    for (int i = 0; i < t->count; i++)
        TRY(sara_prompt_chunks_extend(t->ctx, &t->chunks[i], clip_part(t, i)->tokenizer, most));
done:
    return status;
}

static void clip_texts_free(clip_texts *t)
{
    for (int i = 0; i < t->count; i++)
        sara_prompt_chunks_free(t->ctx, &t->chunks[i]);
    sara_tape_free(t->tape);
    sara_free(t->ctx, t->chunk);
    sara_free(t->ctx, t->vectors);
}

sara_status sara_clip_measure(sara_context *ctx, int64_t *length, const sara_model *model,
                              const sara_clip_use *uses, int count, const sara_prompt *prompt,
                              const sara_text_source *source)
{
    clip_texts t = {.ctx = ctx, .model = model, .uses = uses, .count = count};
    sara_status status = make_chunks(&t, prompt, source);
    *length = (int64_t)(t.chunks[0].count * t.chunks[0].length);
    clip_texts_free(&t);
    return status;
}

/* Memory for what all encoders give; *width: of a row of states. */
static sara_status clip_alloc(clip_texts *t, sara_text_states *out, size_t *width)
{
    size_t pooled = 0, length = t->chunks[0].length;
    int widest = 0;
    sara_status status;
    *width = 0;
    for (int i = 0; i < t->count; i++) {
        const sara_text_info *info = clip_info(t, i);
        *width += (size_t)info->hidden_size;
        pooled += t->uses[i].pooled ? (size_t)info->pooled_size : 0;
        widest = info->hidden_size > widest ? info->hidden_size : widest;
    }
    out->length = (int64_t)(t->chunks[0].count * length);
    TRY(sara_alloc(t->ctx, &out->states, (size_t)out->length, *width * sizeof(float)));
    if (pooled)
        TRY(sara_alloc(t->ctx, &out->pooled, pooled, sizeof(float)));
    TRY(sara_alloc(t->ctx, &t->chunk, length, (size_t)widest * sizeof(float)));
    TRY(sara_tape_new(t->ctx, &t->tape, t->model->device));
done:
    return status;
}

sara_status sara_clip_encode(sara_context *ctx, sara_text_states *out, const sara_model *model,
                             const sara_clip_use *uses, int count, const sara_prompt *prompt,
                             const sara_text_source *source)
{
    clip_texts t = {.ctx = ctx, .model = model, .uses = uses, .count = count, .prompt = prompt};
    size_t width, column = 0, pooled = 0;
    sara_status status;
    TRY(make_chunks(&t, prompt, source));
    TRY(clip_alloc(&t, out, &width));
    for (int i = 0; i < count; i++) {
        const sara_text_info *info = clip_info(&t, i);
        TRY(clip_encode_chunks(&t, i, out->states + column, (int64_t)width,
                               uses[i].pooled ? out->pooled + pooled : NULL, source->name));
        column += (size_t)info->hidden_size;
        pooled += uses[i].pooled ? (size_t)info->pooled_size : 0;
    }
    out->warned = t.warned;
done:
    clip_texts_free(&t);
    return status;
}

/* ----------------------------------------------------------------------------- whether they fit */

/* "768 + 1280", of the encoders' widths, and "text_encoder + text_encoder_2" */
static void clip_describe(const clip_texts *t, sara_name *names, sara_name *widths)
{
    *names = *widths = (sara_name){""};
    for (int i = 0; i < t->count; i++) {
        const char *plus = i ? " + " : "";
        *names = sara_name_of("%s%s%s", names->text, plus,
                              t->model->family->parts[t->uses[i].part].folder);
        *widths = sara_name_of("%s%s%d", widths->text, plus, clip_info(t, i)->hidden_size);
    }
}

static sara_status check_width(const clip_texts *t, bool filled)
{
    const sara_model *model = t->model;
    int hidden = 0, width = model->denoiser->info.denoiser.widths[SARA_CONDITION_STATES];
    sara_name names, widths;
    for (int i = 0; i < t->count; i++)
        hidden += clip_info(t, i)->hidden_size;
    if (hidden == width || (filled && hidden < width))
        return SARA_OK;
    clip_describe(t, &names, &widths);
    if (model->parts[0].elsewhere)
        return sara_fail(model->ctx, SARA_ERROR_INPUT,
                         "%s: cross_attention_dim %d, the text encoder of %s has hidden_size %s: "
                         "they must agree",
                         model->parts[0].elsewhere, width, model->path, widths.text);
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: %s hidden_size %s, %s cross_attention_dim %d: they must agree",
                     model->path, names.text, widths.text, model->family->parts[0].folder, width);
}

/* Of a denoiser that takes pooled states. */
static sara_status check_pooled(const clip_texts *t)
{
    const sara_model *model = t->model;
    int pooled = 0, width = model->denoiser->info.denoiser.widths[SARA_CONDITION_POOLED];
    for (int i = 0; i < t->count; i++)
        pooled += t->uses[i].pooled ? clip_info(t, i)->pooled_size : 0;
    if (pooled == width)
        return SARA_OK;
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: text encoders' pooled states of width %d, the %s takes %d: they must "
                     "agree",
                     model->path, pooled, model->family->parts[0].class->title, width);
}

sara_status sara_clip_check_ids(const sara_model *model, int part)
{
    int vocabulary = model->parts[part].network->info.text.vocab_size;
    int ids = sara_tokenizer_vocab_size(model->parts[part].tokenizer);
    if (vocabulary >= ids)
        return SARA_OK;
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: %s vocab_size %d, the tokenizer has ids up to %d%s", model->path,
                     model->family->parts[part].folder, vocabulary, ids - 1,
                     model->single ? "; --tokenizer DIR names another" : "");
}

sara_status sara_clip_check(const sara_model *model, const sara_clip_use *uses, int count,
                            bool filled)
{
    const clip_texts t = {.ctx = model->ctx, .model = model, .uses = uses, .count = count};
    sara_status status;
    TRY(check_width(&t, filled));
    TRY(check_pooled(&t));
    for (int i = 0; i < count; i++)
        TRY(sara_clip_check_ids(model, uses[i].part));
done:
    return status;
}
