/* Special and added tokens, with the precedence and in the order of transformers 5: an
 * added_tokens_decoder in tokenizer_config.json stands for all other files; without one
 * special_tokens_map.json rules over tokenizer_config.json, and added_tokens.json and then
 * tokenizer.json give the tokens with an index. */
#include "models/tokenizer/tokenizer.h"

#include <stdlib.h>

/* Matching costs text times content at worst, reading the square of the number. */
#define LONGEST_CONTENT 1024
#define MOST_TOKENS     16384

static const struct {
    const char *key, *fallback;
} named[] = {
    {"bos_token", "<|startoftext|>"},
    {"eos_token", "<|endoftext|>"},
    {"unk_token", "<|endoftext|>"},
    {"sep_token", NULL},
    {"pad_token", "<|endoftext|>"},
    {"cls_token", NULL},
    {"mask_token", NULL},
};
#define NAMED_COUNT (sizeof(named) / sizeof(named[0]))

static const char extra_key[] = "extra_special_tokens";
static const char older_extra_key[] = "additional_special_tokens";

typedef struct list_reader {
    const sara_tokenizer_source *source;
    sara_token_list *list;
    size_t indexed;                    /* the first of list's items have an index */
    const char *contents[NAMED_COUNT]; /* NULL: none */
} list_reader;

void sara_token_list_free(sara_context *ctx, sara_token_list *list)
{
    sara_free(ctx, list->items);
    *list = (sara_token_list){0};
}

static const char *path_of(const list_reader *reader, enum sara_tokenizer_file file)
{
    return reader->source->paths[file];
}

static bool has_decoder(const sara_tokenizer_source *source)
{
    return json_object_get(source->json[SARA_FILE_CONFIG], "added_tokens_decoder") != NULL;
}

/* The file that says what a special token is. */
static enum sara_tokenizer_file file_of(const sara_tokenizer_source *source, const char *key)
{
    bool mapped = !has_decoder(source) && json_object_get(source->json[SARA_FILE_SPECIAL], key);
    return mapped ? SARA_FILE_SPECIAL : SARA_FILE_CONFIG;
}

static bool is_named(const list_reader *reader, const char *content)
{
    for (size_t i = 0; i < NAMED_COUNT; i++)
        if (reader->contents[i] && strcmp(reader->contents[i], content) == 0)
            return true;
    return false;
}

static bool is_indexed(const list_reader *reader, const char *content)
{
    for (size_t i = 0; i < reader->indexed; i++)
        if (strcmp(reader->list->items[i].content, content) == 0)
            return true;
    return false;
}

static bool is_equal(const sara_added_token *a, const sara_added_token *b)
{
    return a->plain == b->plain && strcmp(a->content, b->content) == 0 &&
           a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->special == b->special && a->normalized_by_file == b->normalized_by_file;
}

static sara_status list_append(list_reader *reader, const sara_added_token *token)
{
    sara_token_list *list = reader->list;
    if (list->count == MOST_TOKENS)
        return sara_fail(reader->source->ctx, SARA_ERROR_INPUT,
                         "%s: more than %d special and added tokens", reader->source->vocab_source,
                         MOST_TOKENS);
    sara_status status = sara_grow(reader->source->ctx, &list->items, &list->capacity,
                                   list->count + 1, sizeof(*list->items));
    if (status == SARA_OK)
        list->items[list->count++] = *token;
    return status;
}

/* A token given as a string or as an object with flags; `special`: what it is unless it says so.
 * Only special tokens are by default looked for in the text as it is. */
static sara_status read_token(const list_reader *reader, sara_added_token *out, const json_t *value,
                              const char *path, const char *item, bool special)
{
    sara_context *ctx = reader->source->ctx;
    const sara_config flags = {ctx, value, item};
    sara_status status = SARA_OK;
    *out = (sara_added_token){.index = -1, .plain = json_is_string(value)};
    const json_t *content = out->plain ? value : json_object_get(value, "content");
    out->content = json_string_value(content);
    if (!out->content || !*out->content || strlen(out->content) > LONGEST_CONTENT)
        return sara_tokenizer_refuse(ctx, path, item, content ? content : value,
                                     "a token of 1 to 1024 bytes");
    if (!out->plain) {
        TRY(sara_config_bool(&flags, &out->special, "special", special));
        special = out->special || is_named(reader, out->content);
        TRY(sara_config_bool(&flags, &out->single_word, "single_word", false));
        TRY(sara_config_bool(&flags, &out->lstrip, "lstrip", false));
        TRY(sara_config_bool(&flags, &out->rstrip, "rstrip", false));
        TRY(sara_config_bool(&flags, &out->normalized, "normalized", !special));
        TRY(sara_config_bool(&flags, &out->normalized_by_file, "normalized", !out->special));
    }
done:
    return status == SARA_ERROR_INPUT ? sara_fail_in(ctx, status, path) : status;
}

/* -------------------------------------------------------------------------- special tokens */

static sara_status read_contents(list_reader *reader)
{
    const sara_tokenizer_source *source = reader->source;
    for (size_t i = 0; i < NAMED_COUNT; i++) {
        enum sara_tokenizer_file file = file_of(source, named[i].key);
        const json_t *value = json_object_get(source->json[file], named[i].key);
        const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
        reader->contents[i] = content ? json_string_value(content) : named[i].fallback;
        if (value && !reader->contents[i] && !json_is_null(value))
            return sara_tokenizer_refuse(source->ctx, path_of(reader, file), named[i].key, value,
                                         "a token or an object with its content");
    }
    reader->list->start = reader->contents[0];
    reader->list->end = reader->contents[1];
    reader->list->unknown = reader->contents[2];
    reader->list->pad = reader->contents[4];
    for (size_t i = 0; i < 5; i += i == 1 ? 3 : 1)
        if (!reader->contents[i])
            return sara_tokenizer_refuse(
                source->ctx, path_of(reader, file_of(source, named[i].key)), named[i].key,
                json_object_get(source->json[file_of(source, named[i].key)], named[i].key),
                "a token");
    return SARA_OK;
}

/* A token of an unknown name would be one more special token. */
static sara_status refuse_other_names(const list_reader *reader, enum sara_tokenizer_file file)
{
    json_t *object = reader->source->json[file], *value;
    const char *key;
    json_object_foreach(object, key, value)
    {
        size_t length = strlen(key);
        bool known = length < 6 || strcmp(key + length - 6, "_token") || json_is_boolean(value) ||
                     json_is_null(value);
        for (size_t i = 0; i < NAMED_COUNT && !known; i++)
            known = strcmp(key, named[i].key) == 0;
        if (!known)
            return sara_tokenizer_refuse(reader->source->ctx, path_of(reader, file), key, value,
                                         "none: a special token that CLIP has no use for");
    }
    return SARA_OK;
}

/* Special tokens that no indexed token stands for. Each stands over an earlier one of the same
 * content, but equal ones count once. */
static sara_status append_special(list_reader *reader, const sara_added_token *token)
{
    if (is_indexed(reader, token->content))
        return SARA_OK;
    for (size_t i = reader->indexed; i < reader->list->count; i++)
        if (is_equal(&reader->list->items[i], token))
            return SARA_OK;
    return list_append(reader, token);
}

static sara_status read_named(list_reader *reader)
{
    const sara_tokenizer_source *source = reader->source;
    sara_status status;
    TRY(refuse_other_names(reader, SARA_FILE_CONFIG));
    if (!has_decoder(source))
        TRY(refuse_other_names(reader, SARA_FILE_SPECIAL));
    for (size_t i = 0; i < NAMED_COUNT; i++) {
        enum sara_tokenizer_file file = file_of(source, named[i].key);
        const json_t *value = json_object_get(source->json[file], named[i].key);
        sara_added_token token = {.content = named[i].fallback, .index = -1, .plain = true};
        if (!reader->contents[i])
            continue;
        if (value)
            TRY(read_token(reader, &token, value, path_of(reader, file), named[i].key,
                           file == SARA_FILE_SPECIAL));
        TRY(append_special(reader, &token));
    }
done:
    return status;
}

static bool is_empty(const json_t *value)
{
    return !value || json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static sara_status read_extra(list_reader *reader, enum sara_tokenizer_file file, const char *key)
{
    const json_t *values = json_object_get(reader->source->json[file], key);
    sara_added_token token;
    sara_status status = SARA_OK;
    if (is_empty(values))
        return SARA_OK;
    if (!json_is_array(values))
        return sara_tokenizer_refuse(reader->source->ctx, path_of(reader, file), key, values,
                                     "a list of tokens");
    for (size_t i = 0; i < json_array_size(values); i++) {
        TRY(read_token(reader, &token, json_array_get(values, i), path_of(reader, file), key,
                       true));
        TRY(append_special(reader, &token));
    }
done:
    return status;
}

/* additional_special_tokens is the older name, which counts where the newer one is absent. */
static sara_status read_extras(list_reader *reader)
{
    const sara_tokenizer_source *source = reader->source;
    const json_t *extra = json_object_get(source->json[SARA_FILE_CONFIG], extra_key);
    bool newer = !is_empty(extra);
    bool given = extra || json_object_get(source->json[SARA_FILE_CONFIG], older_extra_key) ||
                 json_object_get(source->json[SARA_FILE_SPECIAL], extra_key);
    sara_status status;
    TRY(read_extra(reader, SARA_FILE_CONFIG, newer ? extra_key : older_extra_key));
    if (!has_decoder(source)) {
        TRY(read_extra(reader, SARA_FILE_SPECIAL, extra_key));
        if (!given)
            TRY(read_extra(reader, SARA_FILE_SPECIAL, older_extra_key));
    }
done:
    return status;
}

/* -------------------------------------------------------------------------- indexed tokens */

static sara_status append_indexed(list_reader *reader, const json_t *value, int64_t index,
                                  const char *path, const char *item)
{
    sara_added_token token;
    sara_status status;
    TRY(read_token(reader, &token, value, path, item, false));
    token.index = index;
    TRY(list_append(reader, &token));
done:
    return status;
}

static sara_status read_decoder(list_reader *reader)
{
    const char *path = path_of(reader, SARA_FILE_CONFIG), *key;
    json_t *decoder =
        json_object_get(reader->source->json[SARA_FILE_CONFIG], "added_tokens_decoder");
    json_t *value;
    char item[96], *end;
    sara_status status = SARA_OK;
    if (!json_is_object(decoder))
        return sara_tokenizer_refuse(reader->source->ctx, path, "added_tokens_decoder", decoder,
                                     "an object");
    json_object_foreach(decoder, key, value)
    {
        snprintf(item, sizeof(item), "added_tokens_decoder.%.40s", key);
        unsigned long long index = strtoull(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || index > INT32_MAX - 1 || !json_is_object(value))
            return sara_tokenizer_refuse(reader->source->ctx, path, item, value,
                                         "an id below 2147483647 with an object");
        TRY(append_indexed(reader, value, (int64_t)index, path, item));
    }
done:
    return status;
}

static sara_status check_index(const list_reader *reader, const json_t *index, const char *path,
                               const char *item)
{
    json_int_t value = json_integer_value(index);
    if (json_is_integer(index) && value >= 0 && value < INT32_MAX)
        return SARA_OK;
    return sara_tokenizer_refuse(reader->source->ctx, path, item, index,
                                 "an id from 0 to 2147483646");
}

static bool lists(const list_reader *reader, enum sara_tokenizer_file file, const char *key,
                  const char *content)
{
    const json_t *values = json_object_get(reader->source->json[file], key);
    for (size_t i = 0; i < json_array_size(values); i++) {
        const char *text = json_string_value(json_array_get(values, i));
        if (text && strcmp(text, content) == 0)
            return true;
    }
    return false;
}

/* Whether other files call a token of added_tokens.json special. */
static bool is_special(const list_reader *reader, const char *content)
{
    return is_named(reader, content) || lists(reader, SARA_FILE_CONFIG, extra_key, content) ||
           lists(reader, SARA_FILE_CONFIG, older_extra_key, content) ||
           lists(reader, SARA_FILE_SPECIAL, extra_key, content);
}

/* added_tokens.json: token -> id. */
static sara_status read_added(list_reader *reader)
{
    const char *path = path_of(reader, SARA_FILE_ADDED), *key;
    json_t *index;
    sara_status status = SARA_OK;
    json_object_foreach(reader->source->json[SARA_FILE_ADDED], key, index)
    {
        sara_added_token token = {.content = key, .normalized = !is_special(reader, key)};
        TRY(check_index(reader, index, path, key));
        if (!*key || strlen(key) > LONGEST_CONTENT)
            return sara_fail(reader->source->ctx, SARA_ERROR_INPUT,
                             "%s: a token of %zu bytes, expected 1 to 1024", path, strlen(key));
        token.index = json_integer_value(index);
        TRY(list_append(reader, &token));
    }
done:
    return status;
}

static sara_status read_whole(list_reader *reader)
{
    const char *path = path_of(reader, SARA_FILE_WHOLE);
    const json_t *tokens = json_object_get(reader->source->json[SARA_FILE_WHOLE], "added_tokens");
    char item[64];
    sara_status status = SARA_OK;
    if (!json_is_array(tokens))
        return sara_tokenizer_refuse(reader->source->ctx, path, "added_tokens", tokens, "a list");
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *value = json_array_get(tokens, i), *index = json_object_get(value, "id");
        snprintf(item, sizeof(item), "added_tokens[%zu]", i);
        if (!json_is_object(value))
            return sara_tokenizer_refuse(reader->source->ctx, path, item, value, "an object");
        TRY(check_index(reader, index, path, item));
        TRY(append_indexed(reader, value, json_integer_value(index), path, item));
    }
done:
    return status;
}

/* Two tokens with one id are an error; one token from two files is as the second file says. */
static sara_status sort_indexed(list_reader *reader)
{
    sara_added_token *items = reader->list->items;
    size_t count = reader->list->count, kept = 0;
    for (size_t i = 1; i < count; i++) { /* stable; sorted but for a second file */
        sara_added_token item = items[i];
        size_t at = i;
        for (; at > 0 && item.index < items[at - 1].index; at--)
            items[at] = items[at - 1];
        items[at] = item;
    }
    for (size_t i = 0; i < count; i++) {
        sara_added_token *last = kept > 0 ? &items[kept - 1] : NULL;
        if (!last || last->index != items[i].index)
            items[kept++] = items[i];
        else if (strcmp(last->content, items[i].content) == 0)
            *last = items[i];
        else
            return sara_fail(reader->source->ctx, SARA_ERROR_INPUT,
                             "%s: added tokens \"%.100s\" and \"%.100s\" both have id %lld",
                             reader->source->vocab_source, last->content, items[i].content,
                             (long long)last->index);
    }
    reader->list->count = reader->indexed = kept;
    return SARA_OK;
}

sara_status sara_token_list_read(sara_token_list *out, const sara_tokenizer_source *source)
{
    list_reader reader = {.source = source, .list = out};
    sara_status status;
    TRY(read_contents(&reader));
    if (has_decoder(source)) {
        TRY(read_decoder(&reader));
    } else {
        if (source->json[SARA_FILE_ADDED])
            TRY(read_added(&reader));
        if (source->json[SARA_FILE_WHOLE])
            TRY(read_whole(&reader));
    }
    TRY(sort_indexed(&reader));
    TRY(read_named(&reader));
    TRY(read_extras(&reader));
done:
    return status;
}
