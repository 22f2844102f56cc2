/* A unigram model in tokenizer.json, as transformers writes it of T5's. */
#include "models/tokenizer/unigram.h"

static const char marker[] = "\xe2\x96\x81"; /* U+2581, which stands for a blank */

static bool is_type(const json_t *value, const char *type)
{
    const char *text = json_string_value(json_object_get(value, "type"));
    return text && strcmp(text, type) == 0;
}

static sara_status refuse_json(const sara_unigram *unigram, const char *item, const json_t *value,
                               const char *expected)
{
    return sara_tokenizer_refuse(unigram->ctx, unigram->path, item, value, expected);
}

/* -------------------------------------------------------------------------------------- base64 */

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static sara_status decode_charsmap(sara_unigram *unigram, const json_t *value)
{
    static const char item[] = "precompiled_charsmap";
    const char *text = json_string_value(value);
    size_t length = text ? strlen(text) : 0, used = 0;
    uint32_t bits = 0;
    sara_status status;
    if (!text || length % 4)
        return refuse_json(unigram, item, value, "a text of base64");
    while (length > 0 && text[length - 1] == '=')
        length--;
    TRY(sara_alloc(unigram->ctx, &unigram->decoded, length / 4 * 3 + 3, 1));
    for (size_t i = 0; i < length; i++) {
        int digit = sextet(text[i]);
        if (digit < 0)
            return refuse_json(unigram, item, value, "a text of base64");
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4)
            unigram->decoded[used++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    unigram->charsmap = unigram->decoded;
    unigram->charsmap_size = used;
done:
    return status;
}

/* --------------------------------------------------------------------------------------- steps */

/* What libsentencepiece does beside the charsmap, as the `tokenizers` library spells it. */
static bool is_built_in(const json_t *step)
{
    const char *content = json_string_value(json_object_get(step, "content"));
    return (is_type(step, "Strip") && !json_is_true(json_object_get(step, "strip_left"))) ||
           (is_type(step, "Replace") && content && strcmp(content, marker) == 0);
}

static sara_status read_normalizer(sara_unigram *unigram, const json_t *value)
{
    static const char expected[] = "T5's: Precompiled, Strip, Replace";
    const json_t *steps = json_object_get(value, "normalizers");
    size_t count = is_type(value, "Sequence") ? json_array_size(steps) : 1;
    sara_status status = SARA_OK;
    if (!value || json_is_null(value))
        return SARA_OK;
    for (size_t i = 0; i < count; i++) {
        const json_t *step = is_type(value, "Sequence") ? json_array_get(steps, i) : value;
        if (i == 0 && is_type(step, "Precompiled"))
            TRY(decode_charsmap(unigram, json_object_get(step, "precompiled_charsmap")));
        else if (!is_built_in(step))
            return refuse_json(unigram, "normalizer", step, expected);
    }
done:
    return status;
}

static bool is_metaspace(const json_t *step)
{
    const char *text = json_string_value(json_object_get(step, "replacement"));
    const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
    bool prepends = scheme ? strcmp(scheme, "always") == 0
                           : json_is_true(json_object_get(step, "add_prefix_space"));
    return is_type(step, "Metaspace") && text && strcmp(text, marker) == 0 && prepends &&
           !json_is_false(json_object_get(step, "split"));
}

static sara_status check_blanks(const sara_unigram *unigram, const json_t *value)
{
    const json_t *steps = json_object_get(value, "pretokenizers");
    bool pair = is_type(value, "Sequence") && json_array_size(steps) == 2 &&
                is_type(json_array_get(steps, 0), "WhitespaceSplit");
    if (!is_metaspace(pair ? json_array_get(steps, 1) : value))
        return refuse_json(unigram, "pre_tokenizer", value,
                           "T5's: Metaspace with U+2581 before every text");
    return SARA_OK;
}

/* --------------------------------------------------------------------------------------- model */

static sara_status read_pieces(sara_unigram *unigram, const json_t *vocab)
{
    sara_status status = SARA_OK;
    char item[48];
    if (!json_is_array(vocab) || json_array_size(vocab) == 0)
        return refuse_json(unigram, "model.vocab", vocab, "a list of pieces and scores");
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *entry = json_array_get(vocab, i), *text = json_array_get(entry, 0);
        const json_t *score = json_array_get(entry, 1);
        snprintf(item, sizeof(item), "model.vocab[%zu]", i);
        if (!json_is_string(text) || !json_is_number(score))
            return refuse_json(unigram, item, entry, "a piece and its score");
        TRY(sara_unigram_add(unigram, json_string_value(text), json_string_length(text),
                             json_number_value(score)));
    }
done:
    return status;
}

sara_status sara_unigram_read_json(sara_unigram *unigram, const json_t *whole)
{
    const json_t *model = json_object_get(whole, "model");
    const json_t *unknown = json_object_get(model, "unk_id");
    const json_t *fallback = json_object_get(model, "byte_fallback");
    sara_status status;
    TRY(read_normalizer(unigram, json_object_get(whole, "normalizer")));
    TRY(check_blanks(unigram, json_object_get(whole, "pre_tokenizer")));
    TRY(read_pieces(unigram, json_object_get(model, "vocab")));
    unigram->unknown = json_is_integer(unknown) ? json_integer_value(unknown) : -1;
    if (unigram->unknown < 0 || unigram->unknown >= (int64_t)unigram->count)
        return refuse_json(unigram, "model.unk_id", unknown, "an id of the vocabulary");
    if (fallback && !json_is_false(fallback) && !json_is_null(fallback))
        return refuse_json(unigram, "model.byte_fallback", fallback, "false");
done:
    return status;
}
