/* Tokenizer folders that are refused, with the file and the item named. */
#include "support_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

#define CONFIG "tokenizer_config.json"
#define WHOLE  "tokenizer.json"

static void take_away(const tokenizer_fixture *f, const char *name)
{
    char *path = NULL;
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, name));
    assert_int_equal(remove(path), 0);
    sara_free(f->ctx, path);
}

static void check_refused(const tokenizer_fixture *f, const char *text)
{
    sara_tokenizer *tokenizer = (sara_tokenizer *)f;
    assert_refused(f->ctx, SARA_ERROR_INPUT, text,
                   sara_tokenizer_load(f->ctx, &tokenizer, f->folder, 0));
    assert_null(tokenizer);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    sara_tokenizer *tokenizer = NULL;
    assert_refused(f.ctx, SARA_ERROR_IO, "vocab.json",
                   sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    test_tokenizer_put(&f, "vocab.json", f.vocab, f.vocab_size);
    assert_refused(f.ctx, SARA_ERROR_IO, "merges.txt",
                   sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    test_tokenizer_free(&f);
}

static void settings_that_would_change_the_ids_are_refused(void **state)
{
    static const struct {
        const char *name, *text, *message;
    } rows[] = {
        {CONFIG, "[]", "tokenizer_config.json: content: a list, expected an object"},
        {CONFIG, "{\"model_max_length\": \"77\"}", "model_max_length: \"77\""},
        {CONFIG, "{\"model_max_length\": 1}", "model_max_length: 1, expected"},
        {CONFIG, "{\"model_max_length\": 7.5}", "model_max_length: 7.5, expected"},
        {CONFIG, "{}", "model_max_length: missing, expected"},
        {CONFIG, "{\"model_max_length\": 1e30}", "model_max_length: 1e+30, expected"},
        {CONFIG, "{\"model_max_length\": 9, \"tokenizer_class\": \"T5Tokenizer\"}",
         "tokenizer_class: \"T5Tokenizer\", expected CLIPTokenizer"},
        {CONFIG, "{\"model_max_length\": 9, \"padding_side\": \"left\"}", "padding_side: \"left\""},
        {CONFIG, "{\"model_max_length\": 9, \"truncation_side\": 1}", "truncation_side: 1"},
        {CONFIG, "{\"model_max_length\": 9, \"split_special_tokens\": true}",
         "split_special_tokens: true"},
        {CONFIG, "{\"model_max_length\": 9, \"bos_token\": null}", "bos_token: null, expected"},
        {CONFIG, "{\"model_max_length\": 9, \"pad_token\": 7}", "pad_token: 7, expected"},
        {CONFIG, "{\"model_max_length\": 9, \"eos_token\": \"\"}", "eos_token: \"\", expected"},
        {CONFIG, "{\"model_max_length\": 9, \"eos_token\": {\"content\": \"x\", \"lstrip\": 1}}",
         "eos_token: lstrip: 1, expected"},
        {CONFIG, "{\"model_max_length\": 9, \"image_token\": \"<image>\"}", "image_token"},
        {CONFIG, "{\"model_max_length\": 9, \"extra_special_tokens\": {\"a\": \"b\"}}",
         "extra_special_tokens: an object, expected a list"},
        {CONFIG, "{\"model_max_length\": 9, \"added_tokens_decoder\": []}",
         "added_tokens_decoder: a list"},
        {CONFIG, "{\"model_max_length\": 9, \"added_tokens_decoder\": {\"x\": {}}}",
         "added_tokens_decoder.x"},
        {CONFIG, "{\"model_max_length\": 9, \"added_tokens_decoder\": {\"1\": {}}}",
         "added_tokens_decoder.1: an object, expected a token of 1 to 1024 bytes"},
        {CONFIG,
         "{\"model_max_length\": 9, \"added_tokens_decoder\": {\"9999999999\": "
         "{\"content\": \"x\"}}}",
         "added_tokens_decoder.9999999999"},
        {CONFIG,
         "{\"model_max_length\": 9, \"added_tokens_decoder\": {\"3209\": {\"content\": \"<x>\"}}}",
         "added token \"<x>\" has id 3209, expected 3208"},
        {"special_tokens_map.json", "{\"bos_token\": []}", "special_tokens_map.json: bos_token"},
        {"special_tokens_map.json", "7", "special_tokens_map.json: content: 7"},
        {"added_tokens.json", "{\"<x>\": -1}", "added_tokens.json: <x>: -1, expected an id"},
        {"added_tokens.json", "{\"<x>\": 3208, \"<y>\": 3208}", "both have id 3208"},
        {"added_tokens.json", "{\"<x>\": \"3208\"}", "added_tokens.json: <x>: \"3208\""},
    };
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_base(&f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        test_tokenizer_put_text(&f, CONFIG, "{\"model_max_length\": 77}");
        test_tokenizer_put_text(&f, rows[i].name, rows[i].text);
        check_refused(&f, rows[i].message);
        take_away(&f, rows[i].name);
    }
    test_tokenizer_free(&f);
}

static void broken_vocabularies_are_refused(void **state)
{
    static const struct {
        const char *token;
        int value; /* -2: taken out; -3: a string */
        const char *message;
    } rows[] = {
        {"x", -1, "vocab.json: x: -1, expected an id from 0 to 2147483646"},
        {"x", 2147483647, "vocab.json: x: 2147483647, expected an id"},
        {"x", -3, "vocab.json: x: \"7\", expected an id"},
        {"<new>", 5, "both have id 5"},
        {"<new>", 4000, "no merge makes \"<new>\" (id 4000)"},
        {"er</w>", -2, "merges.txt: line 2: token \"er</w>\" is not in the vocabulary"},
    };
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_base(&f);
    test_tokenizer_put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *vocab = json_loads(f.vocab, 0, NULL);
        json_object_set_new(vocab, rows[i].token,
                            rows[i].value == -3 ? json_string("7") : json_integer(rows[i].value));
        if (rows[i].value == -2)
            json_object_del(vocab, rows[i].token);
        test_tokenizer_put_json(&f, "vocab.json", vocab);
        check_refused(&f, rows[i].message);
        json_decref(vocab);
    }
    test_tokenizer_put_text(&f, "vocab.json", "{}");
    check_refused(&f, "vocab.json: no token \"\xC4\x80\" for the byte 0x00");
    test_tokenizer_put_text(&f, "vocab.json", "{\"a\": 1, \"a\": 2}");
    check_refused(&f, "vocab.json: line 1");
    test_tokenizer_put_text(&f, "vocab.json", "{\"\xFF\": 1}");
    check_refused(&f, "vocab.json: line 1");
    test_tokenizer_free(&f);
}

static void broken_merges_are_refused(void **state)
{
    static const struct {
        const char *line; /* instead of the second one */
        size_t size;
        const char *message;
    } rows[] = {
        {"e", 1, "merges.txt: line 2: \"e\", expected two tokens"},
        {"e r </w>", 8, "merges.txt: line 2: \"e r </w>\", expected two tokens"},
        {" er", 3, "line 2: \" er\", expected two tokens"},
        {"er ", 3, "line 2: \"er \", expected two tokens"},
        {"e\0 r", 4, "line 2: \"e\", expected two tokens"},
        {"\xFF r</w>", 7, "line 2: token \"\\xff\" is not in the vocabulary"},
        {"e qqq", 5, "line 2: token \"qqq\" is not in the vocabulary"},
        {"q q", 3, "line 2: token \"qq\" is not in the vocabulary"},
        {"", 0, "no merge makes \"er</w>\""},
    };
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_base(&f);
    test_tokenizer_put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    const char *third = strchr(strchr(f.merges, '\n') + 1, '\n');
    size_t rest = strlen(third);
    char *text = malloc(64 + rest);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        strcpy(text, "#version: 0.2\n");
        memcpy(text + 14, rows[i].line, rows[i].size);
        memcpy(text + 14 + rows[i].size, third, rest);
        test_tokenizer_put(&f, "merges.txt", text, 14 + rows[i].size + rest);
        check_refused(&f, rows[i].message);
    }
    free(text);
    test_tokenizer_free(&f);
}

/* What another tokenizer's file has at one place, as a path of keys and indices. */
static void tokenizer_json_of_other_tokenizers_is_refused(void **state)
{
    static const struct {
        const char *section, *key, *value, *message;
    } rows[] = {
        {"model", "type", "\"Unigram\"", "model.type: \"Unigram\", expected \"BPE\""},
        {"model", "end_of_word_suffix", "null", "model.end_of_word_suffix: null"},
        {"model", "continuing_subword_prefix", "\"##\"", "continuing_subword_prefix: \"##\""},
        {"model", "dropout", "0.1", "model.dropout: 0.1"},
        {"model", "byte_fallback", "true", "model.byte_fallback: true"},
        {"model", "ignore_merges", "true", "model.ignore_merges: true"},
        {"model", "vocab", "[]", "model.vocab: a list"},
        {"model", "merges", "{}", "model.merges: an object"},
        {"model", "merges", "[[\"a\"]]", "model.merges entry 0: \"a list\", expected two tokens"},
        {"model", "merges", "[\"a b c\"]", "model.merges entry 0: \"a b c\""},
        {"model", "merges", "[]", "no merge makes"},
        {NULL, "model", "[]", "model: a list"},
        {NULL, "normalizer", "{\"type\": \"BertNormalizer\"}",
         "normalizer: an object of type \"BertNormalizer\", expected CLIP's"},
        {"normalizer", "normalizers", "[]", "normalizer: an object of type \"Sequence\""},
        {NULL, "pre_tokenizer", "null", "pre_tokenizer: null, expected CLIP's"},
        {NULL, "post_processor", "{\"type\": \"BertProcessing\"}",
         "post_processor: an object of type \"BertProcessing\""},
        {"post_processor", "sep", "[\"<|endoftext|>\", 7]",
         "post_processor.sep: 7, expected id 3207"},
        {"post_processor", "cls", "7", "post_processor.cls: missing, expected id 3206"},
        {NULL, "padding", "{\"direction\": \"Left\"}", "padding: \"Left\""},
        {NULL, "added_tokens", "null", "added_tokens: null, expected a list"},
        {NULL, "added_tokens", "[7]", "added_tokens[0]: 7, expected an object"},
        {NULL, "added_tokens", "[{\"content\": \"x\"}]",
         "added_tokens[0]: missing, expected an id"},
        {NULL, "added_tokens", "[{\"id\": 3206, \"content\": 1}]", "added_tokens[0]: 1, expected"},
        {NULL, "added_tokens", "[{\"id\": 0, \"content\": \"<x>\"}]",
         "added token \"<x>\" has id 0, expected 3208"},
    };
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *whole = test_tokenizer_whole(&f, true);
        json_t *at = rows[i].section ? json_object_get(whole, rows[i].section) : whole;
        json_object_set_new(at, rows[i].key, json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        test_tokenizer_put_json(&f, WHOLE, whole);
        check_refused(&f, rows[i].message);
        json_decref(whole);
    }
    test_tokenizer_free(&f);
}

/* Every cut but that of the last newline is an error, wherever it falls. */
static void truncated_files_are_refused(void **state)
{
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    sara_tokenizer *tokenizer = NULL;
    test_tokenizer_put_base(&f);
    for (size_t size = 0; size + 1 < f.merges_size; size += size < 200 ? 1 : 97) {
        test_tokenizer_put(&f, "merges.txt", f.merges, size);
        assert_refused(f.ctx, SARA_ERROR_INPUT, "merges.txt",
                       sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    }
    test_tokenizer_put(&f, "merges.txt", f.merges, f.merges_size);
    for (size_t size = 0; size < f.vocab_size; size += size < 100 ? 1 : 997) {
        test_tokenizer_put(&f, "vocab.json", f.vocab, size);
        assert_refused(f.ctx, SARA_ERROR_INPUT, "vocab.json",
                       sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    }
    test_tokenizer_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(settings_that_would_change_the_ids_are_refused),
        cmocka_unit_test(broken_vocabularies_are_refused),
        cmocka_unit_test(broken_merges_are_refused),
        cmocka_unit_test(tokenizer_json_of_other_tokenizers_is_refused),
        cmocka_unit_test(truncated_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
