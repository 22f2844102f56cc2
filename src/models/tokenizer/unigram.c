/* T5's tokenizer: special tokens are cut out of the text as it is, and libsentencepiece does the
 * rest, from the normalisation on. */
#include "models/tokenizer/unigram.h"

#include <stdlib.h>

#define MOST_EXTRA 16384

typedef struct unigram_builder {
    sara_context *ctx;
    sara_tokenizer *tokenizer;
    const sara_tokenizer_source *source;
    sara_unigram unigram;
    sara_added_token *tokens;
    size_t count, capacity;
} unigram_builder;

/* ------------------------------------------------------------------------------- special tokens */

static sara_status add_special(unigram_builder *in, const char *content, size_t size, int64_t id)
{
    sara_status status;
    TRY(sara_grow(in->ctx, &in->tokens, &in->capacity, in->count + 1, sizeof(*in->tokens)));
    sara_added_token *token = &in->tokens[in->count++];
    *token = (sara_added_token){.size = size, .index = id, .id = (int32_t)id};
    char *copy;
    TRY(sara_arena_alloc(&in->tokenizer->arena, &copy, size + 1, 1));
    memcpy(copy, content, size);
    copy[size] = '\0';
    token->match = token->content = copy;
done:
    return status;
}

/* One that a file lists as an object. */
static sara_status read_special(unigram_builder *in, const json_t *value, int64_t id,
                                const char *path, const char *item)
{
    const json_t *content = json_object_get(value, "content");
    const sara_config flags = {in->ctx, value, path};
    bool normalized, single;
    sara_status status;
    if (!json_is_string(content) || json_string_length(content) == 0 || id < 0 || id >= INT32_MAX ||
        in->count == MOST_EXTRA)
        return sara_tokenizer_refuse(in->ctx, path, item, content ? content : value,
                                     "a token with its content and an id below 2147483647");
    TRY(sara_config_bool(&flags, &normalized, "normalized", false));
    TRY(sara_config_bool(&flags, &single, "single_word", false));
    if (normalized || single)
        return sara_tokenizer_refuse(in->ctx, path, item, content,
                                     "one that is found in the text as it is (\"normalized\" and "
                                     "\"single_word\" false)");
    TRY(add_special(in, json_string_value(content), json_string_length(content), id));
    sara_added_token *token = &in->tokens[in->count - 1];
    TRY(sara_config_bool(&flags, &token->lstrip, "lstrip", false));
    TRY(sara_config_bool(&flags, &token->rstrip, "rstrip", false));
done:
    return status;
}

static sara_status read_special_decoder(unigram_builder *in, json_t *decoder)
{
    static const char item[] = "added_tokens_decoder";
    const char *path = in->source->paths[SARA_FILE_CONFIG], *key;
    json_t *value;
    char *end;
    sara_status status = SARA_OK;
    if (!json_is_object(decoder))
        return sara_tokenizer_refuse(in->ctx, path, item, decoder, "an object");
    json_object_foreach(decoder, key, value)
    {
        long long id = strtoll(key, &end, 10);
        TRY(read_special(in, value, key[0] < '0' || key[0] > '9' || *end ? -1 : id, path, item));
    }
done:
    return status;
}

static sara_status read_special_list(unigram_builder *in, const json_t *list)
{
    const char *path = in->source->paths[SARA_FILE_WHOLE];
    sara_status status = SARA_OK;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i), *id = json_object_get(value, "id");
        TRY(read_special(in, value, json_is_integer(id) ? json_integer_value(id) : -1, path,
                         "added_tokens"));
    }
done:
    return status;
}

/* Without a list of them: pieces of these names, then <extra_id_N> after the last piece, the
 * largest N first. */
static sara_status make_unigram_special(unigram_builder *in)
{
    static const char *const names[] = {"<pad>", "</s>", "<unk>"};
    const sara_config config = {in->ctx, in->source->json[SARA_FILE_CONFIG],
                                in->source->paths[SARA_FILE_CONFIG]};
    const size_t pieces = in->unigram.count;
    int64_t extra = 100;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < pieces; i++)
        for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
            const sara_piece *piece = &in->unigram.items[i];
            if (piece->size == strlen(names[k]) && memcmp(piece->text, names[k], piece->size) == 0)
                TRY(add_special(in, names[k], piece->size, (int64_t)i));
        }
    if (config.object)
        TRY(sara_config_int(&config, &extra, "extra_ids", 100, 0, MOST_EXTRA));
    for (int64_t i = 0; i < extra; i++) {
        const sara_name name = sara_name_of("<extra_id_%lld>", (long long)(extra - 1 - i));
        TRY(add_special(in, name.text, strlen(name.text), (int64_t)pieces + i));
    }
done:
    return status;
}

static sara_status find_special(unigram_builder *in)
{
    json_t *decoder = json_object_get(in->source->json[SARA_FILE_CONFIG], "added_tokens_decoder");
    const json_t *list = json_object_get(in->source->json[SARA_FILE_WHOLE], "added_tokens");
    if (decoder)
        return read_special_decoder(in, decoder);
    return json_array_size(list) > 0 ? read_special_list(in, list) : make_unigram_special(in);
}

static int by_id(const void *a, const void *b)
{
    const sara_added_token *left = a, *right = b;
    return (left->id > right->id) - (left->id < right->id);
}

/* As in transformers' vocabulary, tokens after the last piece are pieces too. */
static sara_status add_pieces_of_tokens(unigram_builder *in)
{
    sara_status status = SARA_OK;
    if (in->count)
        qsort(in->tokens, in->count, sizeof(*in->tokens), by_id);
    for (size_t i = 0; i < in->count; i++) {
        const sara_added_token *token = &in->tokens[i];
        if (i > 0 && token->id == token[-1].id)
            return sara_fail(in->ctx, SARA_ERROR_INPUT,
                             "%s: special tokens \"%.100s\" and \"%.100s\" both have id %d",
                             in->unigram.path, token[-1].content, token->content, token->id);
        if ((size_t)token->id == in->unigram.count)
            TRY(sara_unigram_add(&in->unigram, token->content, token->size, 0));
    }
done:
    return status;
}

/* The id of the token that the config names. */
static sara_status find_token_named(const unigram_builder *in, int32_t *out, const char *key,
                                    const char *fallback)
{
    const json_t *value = json_object_get(in->source->json[SARA_FILE_CONFIG], key);
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    const char *text = content ? json_string_value(content) : fallback;
    for (size_t i = 0; text && i < in->count; i++)
        if (strcmp(in->tokens[i].content, text) == 0) {
            *out = in->tokens[i].id;
            return SARA_OK;
        }
    return sara_tokenizer_refuse(
        in->ctx, value ? in->source->paths[SARA_FILE_CONFIG] : in->unigram.path, key, value,
        "a special token, such as T5's \"</s>\" and \"<pad>\"");
}

/* ---------------------------------------------------------------------------------------- build */

static sara_status unigram_fill(unigram_builder *in)
{
    const sara_tokenizer_source *source = in->source;
    sara_tokenizer *tokenizer = in->tokenizer;
    sara_added_token *kept = NULL;
    sara_status status;
    if (source->pieces)
        TRY(sara_unigram_read_model(&in->unigram, source->pieces, source->pieces_size));
    else
        TRY(sara_unigram_read_json(&in->unigram, source->json[SARA_FILE_WHOLE]));
    TRY(find_special(in));
    TRY(add_pieces_of_tokens(in));
    TRY(find_token_named(in, &tokenizer->end, "eos_token", "</s>"));
    TRY(find_token_named(in, &tokenizer->pad, "pad_token", "<pad>"));
    tokenizer->start = -1;
    tokenizer->vocab_size = (int)in->unigram.count;
    if (in->count && in->tokens[in->count - 1].id >= tokenizer->vocab_size)
        tokenizer->vocab_size = in->tokens[in->count - 1].id + 1;
    TRY(sara_arena_alloc(&tokenizer->arena, &kept, in->count, sizeof(*kept)));
    if (in->count)
        memcpy(kept, in->tokens, in->count * sizeof(*kept));
    TRY(sara_token_set_build(&tokenizer->arena, &tokenizer->raw, kept, in->count, false));
    TRY(sara_unigram_load(&in->unigram, &tokenizer->pieces));
done:
    return status;
}

sara_status sara_unigram_build(sara_tokenizer *tokenizer, const sara_tokenizer_source *source)
{
    unigram_builder in = {
        .ctx = source->ctx,
        .tokenizer = tokenizer,
        .source = source,
        .unigram = {.ctx = source->ctx, .path = source->vocab_source, .unknown = -1}};
    sara_status status = unigram_fill(&in);
    sara_unigram_free(&in.unigram);
    sara_free(in.ctx, in.tokens);
    return status;
}

/* --------------------------------------------------------------------------------------- encode */

/* What put() has to tell. */
typedef struct receiver {
    sara_token_encoder *encoder;
    sara_status status;
} receiver;

static bool receive_id(void *user, int32_t id)
{
    receiver *to = user;
    to->status = sara_token_encoder_push(to->encoder, id);
    return to->status == SARA_OK;
}

sara_status sara_unigram_encode(sara_token_encoder *encoder, const char *text, size_t size)
{
    receiver to = {encoder, SARA_OK};
    if (sara_sentencepiece_encode(encoder->tokenizer->pieces, text, size, receive_id, &to))
        return SARA_OK;
    return to.status != SARA_OK
               ? to.status
               : sara_fail(encoder->tokenizer->ctx, SARA_ERROR_MEMORY,
                           "out of memory: %zu bytes of text for libsentencepiece", size);
}
