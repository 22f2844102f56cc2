/* Reads a tokenizer folder. A tokenizer.json rules over vocab.json and merges.txt where both
 * exist, as in transformers 5, but of T5's spiece.model rules; special tokens come from the other
 * files in either case. */
#include "models/tokenizer/tokenizer.h"

#define LARGEST_FILE ((size_t)64 * 1024 * 1024)

static const char *const names[SARA_FILE_COUNT] = {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
};

sara_status sara_tokenizer_refuse(sara_context *ctx, const char *path, const char *item,
                                  const json_t *value, const char *expected)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    char text[160];
    if (json_is_string(value))
        snprintf(text, sizeof(text), "\"%.120s\"", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        sara_print(text, sizeof(text), "%g", json_real_value(value));
    else if (type)
        snprintf(text, sizeof(text), "an object of type \"%.120s\"", type);
    else
        snprintf(text, sizeof(text), "%s",
                 !value                  ? "missing"
                 : json_is_array(value)  ? "a list"
                 : json_is_object(value) ? "an object"
                 : json_is_true(value)   ? "true"
                 : json_is_false(value)  ? "false"
                                         : "null");
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s: %s, expected %s", path, item, text, expected);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The end of the string or number at `at`, else the next byte; *digits: of a whole number. */
static size_t tokenizer_piece_end(const char *text, size_t at, size_t size, size_t *digits)
{
    size_t end = at;
    *digits = 0;
    if (text[at] == '"') {
        for (end++; end < size && text[end] != '"'; end++)
            end += text[end] == '\\';
        return end < size ? end + 1 : size;
    }
    if (!is_digit(text[at]))
        return at + 1;
    while (end < size && (is_digit(text[end]) || strchr("+-.eE", text[end])) && text[end])
        end++;
    for (size_t i = at; i < end && is_digit(text[i]); i++)
        ++*digits;
    *digits = *digits == end - at ? *digits : 0;
    return end;
}

/* tokenizer_config.json with ".0" after whole numbers beyond 64 bits, which jansson refuses:
 * transformers writes model_max_length as 1000000000000000019884624838656. */
static sara_status config_load(sara_context *ctx, json_t **out, const char *path)
{
    char *text = NULL, *wide = NULL;
    size_t size = 0, used = 0, digits;
    sara_status status;
    TRY(sara_file_read(ctx, &text, &size, path, LARGEST_FILE));
    TRY(sara_alloc(ctx, &wide, size + size / 8 + 2, 1));
    for (size_t at = 0, end; at < size; at = end) {
        end = tokenizer_piece_end(text, at, size, &digits);
        memcpy(wide + used, text + at, end - at);
        used += end - at;
        if (digits > 18) {
            memcpy(wide + used, ".0", 2);
            used += 2;
        }
    }
    TRY(sara_json_parse(ctx, out, wide, used, path, true));
done:
    sara_free(ctx, text);
    sara_free(ctx, wide);
    return status;
}

static sara_status tokenizer_load(sara_tokenizer_source *out, int file)
{
    sara_context *ctx = out->ctx;
    const char *path = out->paths[file];
    sara_status status = SARA_OK;
    if (file == SARA_FILE_MERGES) {
        TRY(sara_file_read(ctx, &out->merges, &out->merges_size, path, LARGEST_FILE));
    } else if (file == SARA_FILE_PIECES) {
        TRY(sara_file_read(ctx, &out->pieces, &out->pieces_size, path, LARGEST_FILE));
    } else {
        TRY(file == SARA_FILE_CONFIG ? config_load(ctx, &out->json[file], path)
                                     : sara_json_load(ctx, &out->json[file], path, false));
        if (!json_is_object(out->json[file]))
            status = sara_tokenizer_refuse(ctx, path, "content", out->json[file], "an object");
    }
done:
    return status;
}

/* Settings of tokenizer_config.json that would change the ids. */
static sara_status check_config(const sara_tokenizer_source *source)
{
    const struct {
        const char *key, *values[2];
    } checks[] = {
        {"tokenizer_class",
         {source->unigram ? "T5Tokenizer" : "CLIPTokenizer",
          source->unigram ? "T5TokenizerFast" : "CLIPTokenizerFast"}},
        {"padding_side", {"right", "right"}},
        {"truncation_side", {"right", "right"}},
    };
    const char *path = source->paths[SARA_FILE_CONFIG];
    const json_t *config = source->json[SARA_FILE_CONFIG];
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        const json_t *value = json_object_get(config, checks[i].key);
        const char *text = json_string_value(value);
        if (value && !json_is_null(value) &&
            (!text || (strcmp(text, checks[i].values[0]) && strcmp(text, checks[i].values[1]))))
            return sara_tokenizer_refuse(source->ctx, path, checks[i].key, value,
                                         checks[i].values[0]);
    }
    const json_t *split = json_object_get(config, "split_special_tokens");
    if (split && !json_is_false(split) && !json_is_null(split))
        return sara_tokenizer_refuse(source->ctx, path, "split_special_tokens", split, "false");
    return SARA_OK;
}

/* Says where vocabulary and merges are. */
static sara_status tokenizer_choose(sara_tokenizer_source *out)
{
    json_t *whole = out->json[SARA_FILE_WHOLE];
    sara_status status = SARA_OK;
    out->vocab = out->json[SARA_FILE_VOCAB];
    out->vocab_source = out->paths[SARA_FILE_VOCAB];
    out->merges_source = out->paths[SARA_FILE_MERGES];
    if (whole) {
        out->vocab_source = out->merges_source = out->paths[SARA_FILE_WHOLE];
        TRY(sara_tokenizer_check_whole(out->ctx, whole, out->vocab_source));
        const json_t *model = json_object_get(whole, "model");
        out->vocab = json_object_get(model, "vocab");
        out->merges_list = json_object_get(model, "merges");
        if (!json_is_object(out->vocab))
            status = sara_tokenizer_refuse(out->ctx, out->vocab_source, "model.vocab", out->vocab,
                                           "an object of ids by token");
        else if (!json_is_array(out->merges_list))
            status = sara_tokenizer_refuse(out->ctx, out->vocab_source, "model.merges",
                                           out->merges_list, "a list");
    }
done:
    return status;
}

/* T5's pieces, of either form. */
static sara_status choose_pieces(sara_tokenizer_source *out)
{
    const json_t *model = json_object_get(out->json[SARA_FILE_WHOLE], "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    out->vocab_source = out->paths[out->pieces ? SARA_FILE_PIECES : SARA_FILE_WHOLE];
    if (!out->pieces && (!type || strcmp(type, "Unigram") != 0))
        return sara_tokenizer_refuse(out->ctx, out->vocab_source, "model.type",
                                     json_object_get(model, "type"), "\"Unigram\", T5's tokenizer");
    return SARA_OK;
}

sara_status sara_tokenizer_source_read(sara_context *ctx, sara_tokenizer_source *out,
                                       const char *folder, bool unigram)
{
    sara_status status;
    *out = (sara_tokenizer_source){.ctx = ctx, .unigram = unigram};
    for (int i = 0; i < SARA_FILE_COUNT; i++) {
        bool clip = i == SARA_FILE_VOCAB || i == SARA_FILE_MERGES, t5 = i == SARA_FILE_PIECES;
        bool needed = (unigram ? t5 : clip) && !out->json[SARA_FILE_WHOLE];
        TRY(sara_path_join(ctx, &out->paths[i], folder, names[i]));
        if (needed || (!clip && t5 <= unigram && sara_path_is_named(out->paths[i])))
            TRY(tokenizer_load(out, i));
    }
    TRY(check_config(out));
    TRY(unigram ? choose_pieces(out) : tokenizer_choose(out));
done:
    return status;
}

void sara_tokenizer_source_free(sara_tokenizer_source *source)
{
    for (int i = 0; i < SARA_FILE_COUNT; i++) {
        json_decref(source->json[i]);
        sara_free(source->ctx, source->paths[i]);
    }
    sara_free(source->ctx, source->merges);
    sara_free(source->ctx, source->pieces);
    *source = (sara_tokenizer_source){.ctx = source->ctx};
}
