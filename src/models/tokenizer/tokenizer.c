#include "models/tokenizer/unigram.h"

#include <math.h>

/* The largest max_sequence_length that diffusers allows. */
#define UNIGRAM_LENGTH 512

/* ------------------------------------------------------------------------------------ encode */

static sara_status add_normalized(sara_token_encoder *encoder, const char *text, size_t size)
{
    const sara_tokenizer *tokenizer = encoder->tokenizer;
    sara_token_match match;
    size_t scan = 0, covered = 0;
    sara_status status;
    if (tokenizer->pieces)
        return sara_unigram_encode(encoder, text, size);
    TRY(sara_text_normalize(&encoder->work, text, size));
    text = encoder->work.text;
    size = encoder->work.size;
    while (sara_token_set_next(&tokenizer->normalized, &match, &scan, covered, text, size)) {
        if (match.start > covered)
            TRY(sara_token_encoder_words(encoder, text + covered, match.start - covered));
        TRY(sara_token_encoder_push(encoder, match.token->id));
        covered = match.stop;
    }
    TRY(sara_token_encoder_words(encoder, text + covered, size - covered));
done:
    return status;
}

static sara_status add_raw(sara_token_encoder *encoder, const char *text, size_t size)
{
    sara_token_match match;
    size_t scan = 0, covered = 0;
    sara_status status = SARA_OK;
    while (sara_token_set_next(&encoder->tokenizer->raw, &match, &scan, covered, text, size)) {
        if (match.start > covered)
            TRY(add_normalized(encoder, text + covered, match.start - covered));
        TRY(sara_token_encoder_push(encoder, match.token->id));
        covered = match.stop;
    }
    if (covered < size)
        TRY(add_normalized(encoder, text + covered, size - covered));
done:
    return status;
}

sara_status sara_tokenizer_append(const sara_tokenizer *tokenizer, int32_t **ids, size_t *count,
                                  size_t *capacity, const char *text, size_t size)
{
    sara_context *ctx = tokenizer->ctx;
    sara_text_work repaired = {.ctx = ctx};
    sara_token_encoder encoder = {.tokenizer = tokenizer,
                                  .ids = *ids,
                                  .count = *count,
                                  .capacity = *capacity,
                                  .work = {.ctx = ctx}};
    sara_status status;
    TRY(sara_text_repair(&repaired, text, size));
    TRY(add_raw(&encoder, repaired.text, repaired.size));
done:
    *ids = encoder.ids;
    *count = encoder.count;
    *capacity = encoder.capacity;
    sara_text_work_free(&repaired);
    sara_text_work_free(&encoder.work);
    sara_free(ctx, encoder.symbols);
    sara_free(ctx, encoder.heap);
    return status;
}

/* Appends one id. */
static sara_status append_id(const sara_tokenizer *tokenizer, int32_t **ids, size_t *count,
                             size_t *capacity, int32_t id)
{
    sara_status status = sara_grow(tokenizer->ctx, ids, capacity, *count + 1, sizeof(**ids));
    if (status == SARA_OK)
        (*ids)[(*count)++] = id;
    return status;
}

sara_status sara_tokenizer_encode(const sara_tokenizer *tokenizer, int32_t **ids, size_t *count,
                                  const char *text)
{
    int32_t *all = NULL;
    size_t used = 0, capacity = 0;
    sara_status status;
    *ids = NULL;
    *count = 0;
    if (tokenizer->start >= 0)
        TRY(append_id(tokenizer, &all, &used, &capacity, tokenizer->start));
    TRY(sara_tokenizer_append(tokenizer, &all, &used, &capacity, text, strlen(text)));
    TRY(append_id(tokenizer, &all, &used, &capacity, tokenizer->end));
    *ids = all;
    *count = used;
    all = NULL;
done:
    sara_free(tokenizer->ctx, all);
    return status;
}

sara_status sara_tokenizer_pad(const sara_tokenizer *tokenizer, int32_t *ids, size_t *cut,
                               const char *text)
{
    return sara_tokenizer_pad_to(tokenizer, ids, (size_t)tokenizer->length, cut, text);
}

sara_status sara_tokenizer_pad_to(const sara_tokenizer *tokenizer, int32_t *ids, size_t length,
                                  size_t *cut, const char *text)
{
    size_t count = 0;
    int32_t *all = NULL;
    sara_status status;
    TRY(sara_tokenizer_encode(tokenizer, &all, &count, text));
    for (size_t i = 0; i < length; i++)
        ids[i] = i < count ? all[i] : tokenizer->pad;
    if (count > length)
        ids[length - 1] = tokenizer->end;
    if (cut)
        *cut = count > length ? count - length : 0;
done:
    sara_free(tokenizer->ctx, all);
    return status;
}

sara_tokenizer_marks sara_tokenizer_marks_of(const sara_tokenizer *tokenizer)
{
    int32_t comma = tokenizer->pieces ? tokenizer->end : tokenizer->bytes[1][','];
    return (sara_tokenizer_marks){tokenizer->start, tokenizer->end, tokenizer->pad,
                                  comma == tokenizer->end ? -1 : comma};
}

int sara_tokenizer_length(const sara_tokenizer *tokenizer)
{
    return tokenizer->length;
}

int sara_tokenizer_vocab_size(const sara_tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

/* -------------------------------------------------------------------------------------- load */

/* model_max_length, or what older files call it; transformers writes 1e30 for "no limit". */
static sara_status read_model_max_length(sara_tokenizer *tokenizer,
                                         const sara_tokenizer_source *source, int context_length)
{
    static const char expected[] = "a whole number of at least 2 tokens";
    const json_t *config = source->json[SARA_FILE_CONFIG];
    const char *path = source->paths[SARA_FILE_CONFIG];
    const json_t *value = json_object_get(config, "model_max_length");
    if (!value)
        value = json_object_get(config, "max_len");
    double length = json_number_value(value);
    bool given = value && !json_is_null(value);
    if (given && (!json_is_number(value) || !(length >= 2) || length != floor(length)))
        return sara_tokenizer_refuse(source->ctx, path, "model_max_length", value, expected);
    if (given && length <= INT32_MAX && (context_length <= 0 || length < context_length))
        tokenizer->length = (int)length;
    else if (context_length >= 2)
        tokenizer->length = context_length;
    else if (context_length > 0)
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: context length of the text encoder %d, expected at least 2", path,
                         context_length);
    else
        return sara_tokenizer_refuse(source->ctx, path, "model_max_length", value, expected);
    return SARA_OK;
}

static sara_status tokenizer_build(sara_context *ctx, sara_tokenizer **out,
                                   const sara_tokenizer_source *source, int context_length)
{
    sara_token_list list = {0};
    sara_tokenizer *tokenizer = NULL;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &tokenizer, 1, sizeof(*tokenizer)));
    tokenizer->ctx = ctx;
    sara_arena_init(&tokenizer->arena, ctx);
    TRY(read_model_max_length(tokenizer, source, context_length));
    if (source->unigram) {
        TRY(sara_unigram_build(tokenizer, source));
    } else {
        TRY(sara_token_list_read(&list, source));
        TRY(sara_tokenizer_build(tokenizer, &list, source));
    }
    *out = tokenizer;
    tokenizer = NULL;
done:
    sara_token_list_free(ctx, &list);
    sara_tokenizer_free(tokenizer);
    return status;
}

sara_status sara_tokenizer_load(sara_context *ctx, sara_tokenizer **out, const char *folder,
                                int context_length)
{
    sara_tokenizer_source source = {.ctx = ctx};
    sara_status status;
    *out = NULL;
    TRY(sara_tokenizer_source_read(ctx, &source, folder, false));
    TRY(tokenizer_build(ctx, out, &source, context_length));
done:
    sara_tokenizer_source_free(&source);
    return status;
}

sara_status sara_tokenizer_load_t5(sara_context *ctx, sara_tokenizer **out, const char *folder)
{
    sara_tokenizer_source source = {.ctx = ctx};
    sara_status status;
    *out = NULL;
    TRY(sara_tokenizer_source_read(ctx, &source, folder, true));
    TRY(tokenizer_build(ctx, out, &source, UNIGRAM_LENGTH));
done:
    sara_tokenizer_source_free(&source);
    return status;
}

sara_status sara_tokenizer_load_builtin(sara_context *ctx, sara_tokenizer **out, bool second)
{
    sara_tokenizer_source source = {.ctx = ctx};
    sara_status status;
    *out = NULL;
    TRY(sara_tokenizer_source_builtin(ctx, &source, second));
    TRY(tokenizer_build(ctx, out, &source, 0));
done:
    sara_tokenizer_source_free(&source);
    return status;
}

void sara_tokenizer_free(sara_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    sara_context *ctx = tokenizer->ctx;
    sara_arena_free(&tokenizer->arena);
    sara_sentencepiece_free(tokenizer->pieces);
    sara_free(ctx, tokenizer);
}
