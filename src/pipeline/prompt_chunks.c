/* A prompt's parts to ids in chunks of the text encoder's length. */
#include "pipeline/pipeline.h"

#define MOST_CHUNKS 64
#define COMMA_REACH 20 /* ids from the last comma to a chunk's end, as A1111 has it by default */

typedef struct chunk_maker {
    sara_context *ctx;
    sara_prompt_chunks *out;
    sara_tokenizer_marks marks;
    size_t room;   /* ids of the text in a chunk */
    size_t used;   /* of the last chunk */
    size_t comma;  /* behind the last comma of the last chunk; 0: there is none */
    size_t breaks; /* since the last id; the last of the text begins nothing */
    bool several;
} chunk_maker;

static sara_status begin_chunk(chunk_maker *m)
{
    sara_prompt_chunks *out = m->out;
    size_t first = out->count * out->length;
    sara_status status;
    if (out->count == MOST_CHUNKS)
        return sara_fail(m->ctx, SARA_ERROR_USAGE,
                         "more than %d chunks of %zu tokens; make it shorter", MOST_CHUNKS,
                         m->room);
    TRY(sara_grow(m->ctx, &out->ids, &out->id_capacity, first + out->length, sizeof(*out->ids)));
    TRY(sara_grow(m->ctx, &out->weights, &out->weight_capacity, first + out->length,
                  sizeof(*out->weights)));
    out->ids[first] = m->marks.start;
    out->weights[first] = 1;
    out->count++;
    m->used = m->comma = 0;
done:
    return status;
}

/* End and padding after the ids of the last chunk. */
static void end_chunk(chunk_maker *m)
{
    sara_prompt_chunks *out = m->out;
    size_t first = (out->count - 1) * out->length;
    for (size_t i = m->used + 1; i < out->length; i++) {
        out->ids[first + i] = i == m->used + 1 ? m->marks.end : m->marks.pad;
        out->weights[first + i] = 1;
    }
}

static sara_status next_chunk(chunk_maker *m)
{
    end_chunk(m);
    return begin_chunk(m);
}

static void put_id(chunk_maker *m, int32_t id, float weight)
{
    SARA_ASSERT(m->used < m->room);
    size_t at = (m->out->count - 1) * m->out->length + 1 + m->used++;
    m->out->ids[at] = id;
    m->out->weights[at] = weight;
}

/* Ends the full chunk at its last comma; what follows that goes to the next. */
static sara_status split_at_comma(chunk_maker *m)
{
    int32_t ids[COMMA_REACH];
    float weights[COMMA_REACH];
    size_t moved = m->room - m->comma;
    size_t at = (m->out->count - 1) * m->out->length + 1 + m->comma;
    sara_status status;
    memcpy(ids, m->out->ids + at, moved * sizeof(*ids));
    memcpy(weights, m->out->weights + at, moved * sizeof(*weights));
    m->used = m->comma;
    TRY(next_chunk(m));
    for (size_t i = 0; i < moved; i++)
        put_id(m, ids[i], weights[i]);
done:
    return status;
}

/* Begins another chunk where the last is full, if there may be several. */
static sara_status make_chunk_room(chunk_maker *m, bool comma)
{
    sara_status status = SARA_OK;
    for (; m->breaks > 0; m->breaks--)
        TRY(next_chunk(m));
    if (!m->several)
        return SARA_OK;
    if (m->used == m->room && !comma && m->comma > 0 && m->room - m->comma < COMMA_REACH)
        TRY(split_at_comma(m));
    if (m->used == m->room)
        TRY(next_chunk(m));
done:
    return status;
}

static void put_or_cut(chunk_maker *m, int32_t id, float weight)
{
    if (m->used == m->room)
        m->out->cut++;
    else
        put_id(m, id, weight);
}

static sara_status add_id(chunk_maker *m, int32_t id, float weight)
{
    bool comma = id == m->marks.comma;
    sara_status status;
    TRY(make_chunk_room(m, comma));
    put_or_cut(m, id, weight);
    if (comma)
        m->comma = m->used;
done:
    return status;
}

/* All of them in one chunk, if there may be several. */
static sara_status add_embedding(chunk_maker *m, const sara_prompt *prompt, int number,
                                 float weight)
{
    const size_t count = (size_t)prompt->embeddings[number].count;
    int32_t first = -1;
    sara_status status;
    for (int i = 0; i < number; i++)
        first -= (int32_t)prompt->embeddings[i].count;
    TRY(make_chunk_room(m, false));
    if (m->several && m->used > 0 && m->used + count > m->room)
        TRY(next_chunk(m));
    for (size_t i = 0; i < count; i++)
        put_or_cut(m, first - (int32_t)i, weight);
done:
    return status;
}

sara_status sara_prompt_chunks_make(sara_context *ctx, sara_prompt_chunks *out,
                                    const sara_tokenizer *tokenizer, const sara_prompt *prompt,
                                    bool long_prompt)
{
    chunk_maker m = {.ctx = ctx, .out = out, .marks = sara_tokenizer_marks_of(tokenizer)};
    int32_t *ids = NULL;
    size_t capacity = 0;
    sara_status status;
    memset(out, 0, sizeof(*out));
    out->length = (size_t)sara_tokenizer_length(tokenizer);
    m.room = out->length - 2;
    m.several = long_prompt && m.room > 0;
    TRY(begin_chunk(&m));
    for (size_t p = 0; p < prompt->count; p++) {
        const sara_prompt_part *part = &prompt->parts[p];
        size_t count = 0;
        if (part->is_break) {
            m.breaks++;
            continue;
        }
        if (part->embedding) {
            TRY(add_embedding(&m, prompt, part->embedding - 1, (float)part->weight));
            continue;
        }
        TRY(sara_tokenizer_append(tokenizer, &ids, &count, &capacity, prompt->text + part->start,
                                  part->size));
        for (size_t i = 0; i < count; i++)
            TRY(add_id(&m, ids[i], (float)part->weight));
    }
    for (; m.breaks > 1; m.breaks--)
        TRY(next_chunk(&m));
    end_chunk(&m);
done:
    sara_free(ctx, ids);
    return status;
}

sara_status sara_prompt_chunks_extend(sara_context *ctx, sara_prompt_chunks *chunks,
                                      const sara_tokenizer *tokenizer, size_t count)
{
    chunk_maker m = {.ctx = ctx,
                     .out = chunks,
                     .marks = sara_tokenizer_marks_of(tokenizer),
                     .room = chunks->length - 2};
    sara_status status = SARA_OK;
    while (chunks->count < count) {
        TRY(begin_chunk(&m));
        end_chunk(&m);
    }
done:
    return status;
}

void sara_prompt_chunks_free(sara_context *ctx, sara_prompt_chunks *chunks)
{
    sara_free(ctx, chunks->ids);
    sara_free(ctx, chunks->weights);
    memset(chunks, 0, sizeof(*chunks));
}
