/* transformers 5 takes vocabulary, merges and added tokens from tokenizer.json and builds the
 * rest itself, as CLIP needs it. A file that asks for something else was made for another
 * tokenizer and is refused. */
#include "models/tokenizer/tokenizer.h"

static const char pattern[] = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
/* As transformers 5 writes it. */
static const char pattern_with_names[] =
    "<\\|startoftext\\|>|<\\|endoftext\\|>|"
    "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

typedef struct whole_file {
    sara_context *ctx;
    const json_t *root, *model;
    const char *path;
} whole_file;

static sara_status tokenizer_check_refuse(const whole_file *in, const char *item,
                                          const json_t *value, const char *expected)
{
    return sara_tokenizer_refuse(in->ctx, in->path, item, value, expected);
}

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static bool is_off(const json_t *value)
{
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) || is_text(value, "");
}

static bool has_type(const json_t *value, const char *type)
{
    return is_text(json_object_get(value, "type"), type);
}

static sara_status check_model(const whole_file *in)
{
    static const char *const unsupported[] = {"continuing_subword_prefix", "dropout", "fuse_unk",
                                              "byte_fallback", "ignore_merges"};
    const json_t *type = json_object_get(in->model, "type");
    const json_t *suffix = json_object_get(in->model, "end_of_word_suffix");
    char item[64];
    if (!json_is_object(in->model))
        return tokenizer_check_refuse(in, "model", in->model, "an object");
    if (type && !is_text(type, "BPE")) /* old files leave it out */
        return tokenizer_check_refuse(in, "model.type", type, "\"BPE\", CLIP's tokenizer");
    if (!is_text(suffix, "</w>"))
        return tokenizer_check_refuse(in, "model.end_of_word_suffix", suffix,
                                      "\"</w>\", CLIP's tokenizer");
    for (size_t i = 0; i < sizeof(unsupported) / sizeof(unsupported[0]); i++) {
        const json_t *value = json_object_get(in->model, unsupported[i]);
        snprintf(item, sizeof(item), "model.%s", unsupported[i]);
        if (!is_off(value))
            return tokenizer_check_refuse(in, item, value, "none, CLIP's tokenizer");
    }
    return SARA_OK;
}

static sara_status check_normalizer(const whole_file *in)
{
    const json_t *value = json_object_get(in->root, "normalizer");
    const json_t *steps = json_object_get(value, "normalizers");
    const json_t *replace = json_array_get(steps, 1);
    bool same = has_type(value, "Sequence") && json_array_size(steps) == 3 &&
                has_type(json_array_get(steps, 0), "NFC") && has_type(replace, "Replace") &&
                is_text(json_object_get(json_object_get(replace, "pattern"), "Regex"), "\\s+") &&
                is_text(json_object_get(replace, "content"), " ") &&
                has_type(json_array_get(steps, 2), "Lowercase");
    if (!same)
        return tokenizer_check_refuse(in, "normalizer", value,
                                      "CLIP's: NFC, white space to one blank, Lowercase");
    return SARA_OK;
}

static sara_status check_pre_tokenizer(const whole_file *in)
{
    const json_t *value = json_object_get(in->root, "pre_tokenizer");
    const json_t *steps = json_object_get(value, "pretokenizers");
    const json_t *split = json_array_get(steps, 0), *bytes = json_array_get(steps, 1);
    const json_t *regex = json_object_get(json_object_get(split, "pattern"), "Regex");
    const json_t *use_regex = json_object_get(bytes, "use_regex");
    bool same = has_type(value, "Sequence") && json_array_size(steps) == 2 &&
                has_type(split, "Split") &&
                (is_text(regex, pattern) || is_text(regex, pattern_with_names)) &&
                is_text(json_object_get(split, "behavior"), "Removed") &&
                json_is_true(json_object_get(split, "invert")) && has_type(bytes, "ByteLevel") &&
                is_off(json_object_get(bytes, "add_prefix_space")) &&
                (!use_regex || json_is_true(use_regex));
    return same ? SARA_OK
                : tokenizer_check_refuse(in, "pre_tokenizer", value, "CLIP's: Split, ByteLevel");
}

static sara_status check_sides(const whole_file *in)
{
    static const char *const keys[] = {"padding", "truncation"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *section = json_object_get(in->root, keys[i]);
        const json_t *side = json_object_get(section, "direction");
        if (side && !is_text(side, "Right"))
            return tokenizer_check_refuse(in, keys[i], side, "the direction \"Right\"");
    }
    return SARA_OK;
}

sara_status sara_tokenizer_check_whole(sara_context *ctx, const json_t *whole, const char *path)
{
    const whole_file in = {ctx, whole, json_object_get(whole, "model"), path};
    sara_status status;
    TRY(check_model(&in));
    TRY(check_normalizer(&in));
    TRY(check_pre_tokenizer(&in));
    TRY(check_sides(&in));
done:
    return status;
}
