/* T5's tokenizer from both forms of its file: ids of transformers, and files that are refused. */
#include "models/models.h"
#include "support/memory.h"
#include "support/support.h"

#include <stdlib.h>

#define SMALL SARA_TEST_GOLDEN "/../models/t5_tokenizer"

enum {
    WHOLE = 1,
    PIECES = 2,
    CONFIG = 4
}; /* tokenizer.json, spiece.model, tokenizer_config.json */

/* A folder with those files of another; test_folder_remove(). */
static char *copy_of(sara_context *ctx, const char *source, int files)
{
    static const char *const names[] = {"tokenizer.json", "spiece.model", "tokenizer_config.json"};
    char *folder = test_folder(), *from, *to;
    for (int i = 0; i < 3; i++) {
        if (!(files & 1 << i))
            continue;
        assert_ok(ctx, sara_path_join(ctx, &from, source, names[i]));
        assert_ok(ctx, sara_path_join(ctx, &to, folder, names[i]));
        assert_ok(ctx, sara_file_copy(ctx, from, to));
        sara_free(ctx, from);
        sara_free(ctx, to);
    }
    return folder;
}

static size_t read_ids(int32_t *out, const json_t *list)
{
    size_t count = json_array_size(list);
    assert_in_range(count, 1, 1024);
    for (size_t i = 0; i < count; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static void check_row(sara_context *ctx, const sara_tokenizer *tokenizer, const json_t *row)
{
    const char *text = json_string_value(json_object_get(row, "text"));
    int32_t expected[1024], padded[1024], *ids;
    size_t count, full = read_ids(expected, json_object_get(row, "full")), cut;
    assert_ok(ctx, sara_tokenizer_encode(tokenizer, &ids, &count, text));
    if (count != full || memcmp(ids, expected, count * sizeof(*ids)) != 0)
        fail_msg("\"%s\": %zu ids, %d first, expected %zu, %d first", text, count, ids[0], full,
                 expected[0]);
    sara_free(ctx, ids);
    size_t length = read_ids(expected, json_object_get(row, "ids"));
    assert_ok(ctx, sara_tokenizer_pad_to(tokenizer, padded, length, &cut, text));
    assert_memory_equal(padded, expected, length * sizeof(*padded));
    assert_int_equal(cut, full > length ? full - length : 0);
}

/* Rows whose texts are C strings; returns how many. */
static size_t check_rows(const char *folder, const char *rows, int vocabulary, int length)
{
    sara_context *ctx = test_context();
    json_t *list = json_load_file(rows, JSON_ALLOW_NUL, NULL), *row;
    sara_tokenizer *tokenizer;
    size_t i, checked = 0;
    assert_ok(ctx, sara_tokenizer_load_t5(ctx, &tokenizer, folder));
    assert_int_equal(sara_tokenizer_vocab_size(tokenizer), vocabulary);
    assert_int_equal(sara_tokenizer_length(tokenizer), length);
    json_array_foreach(list, i, row)
    {
        const json_t *text = json_object_get(row, "text");
        if (strlen(json_string_value(text)) != json_string_length(text))
            continue;
        check_row(ctx, tokenizer, row);
        checked++;
    }
    const sara_tokenizer_marks marks = sara_tokenizer_marks_of(tokenizer);
    assert_true(marks.start == -1 && marks.end == 1 && marks.pad == 0 && marks.comma == -1);
    sara_tokenizer_free(tokenizer);
    json_decref(list);
    sara_context_free(ctx);
    return checked;
}

/* SD3's, trained as T5's own is. What is committed has one form of the two; without a config ids
 * are the same. */
static void test_equals_transformers(void **state)
{
    (void)state;
    const test_name folder = test_family("sd3/tokenizer_3"), rows = test_family("tokens_t5.json");
    sara_context *ctx = test_context();
    char *alone = copy_of(ctx, folder.text, PIECES);
    assert_in_range(check_rows(folder.text, rows.text, 500, 512), 85, 1000);
    assert_in_range(check_rows(alone, rows.text, 500, 512), 85, 1000);
    test_folder_remove(alone);
    if (test_families_whole()) {
        char *whole = copy_of(ctx, folder.text, WHOLE | CONFIG);
        assert_in_range(check_rows(whole, rows.text, 500, 512), 150, 1000);
        test_folder_remove(whole);
    }
    sara_context_free(ctx);
}

/* Few pieces and a small table of characters; tokens that take blanks with them. */
static void test_both_forms(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (int form = WHOLE; form <= (WHOLE | PIECES); form++) {
        char *folder = copy_of(ctx, SMALL, form | CONFIG);
        assert_int_equal(check_rows(folder, SMALL "/tokens.json", 46, 16), 21);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

/* Without a list of special tokens there are those of T5; a token of the text ends at the cut. */
static void test_special(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = copy_of(ctx, SMALL, PIECES);
    sara_tokenizer *tokenizer;
    int32_t ids[3];
    size_t cut;
    test_put(folder, "tokenizer_config.json", "{\"extra_ids\": 2}", 16);
    assert_ok(ctx, sara_tokenizer_load_t5(ctx, &tokenizer, folder));
    assert_int_equal(sara_tokenizer_vocab_size(tokenizer), 45);
    assert_ok(ctx, sara_tokenizer_pad_to(tokenizer, ids, 3, &cut, "<extra_id_0></s><pad><unk>"));
    assert_true(ids[0] == 44 && ids[1] == 1 && ids[2] == 1 && cut == 2);
    assert_ok(ctx, sara_tokenizer_pad_to(tokenizer, ids, 1, &cut, "<extra_id_1>"));
    assert_true(ids[0] == 1 && cut == 1);
    sara_tokenizer_free(tokenizer);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------------------ refusals */

static void test_configs(void **state)
{
    (void)state;
    static const struct {
        const char *config, *error;
    } cases[] = {
        {"{\"tokenizer_class\": \"CLIPTokenizer\"}",
         "tokenizer_class: \"CLIPTokenizer\", expected"},
        {"{\"eos_token\": \"<end>\"}", "eos_token: \"<end>\", expected a special token"},
        {"{\"pad_token\": null}", "pad_token: null, expected a special token"},
        {"{\"extra_ids\": -1}", "extra_ids"},
        {"{\"model_max_length\": 1}", "model_max_length: 1, expected"},
        {"{\"added_tokens_decoder\": []}", "added_tokens_decoder: a list, expected an object"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", "with its content and an id"},
        {"{\"added_tokens_decoder\": {\"0\": {\"content\": \"\"}}}", "with its content and an id"},
        {"{\"added_tokens_decoder\": {\"0\": {\"content\": \"a\", \"normalized\": true}}}",
         "\"a\", expected one that is found in the text as it is"},
    };
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *folder = copy_of(ctx, SMALL, PIECES);
        test_put(folder, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_tokenizer_load_t5(ctx, &tokenizer, folder));
        assert_null(tokenizer);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_json(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } cases[] = {
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 2}}",
         "model.vocab: missing, expected a list"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}}", "model.unk_id: missing"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 1, \"vocab\": [[\"a\", 0]]}}",
         "model.unk_id: 1, expected an id of the vocabulary"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"a\", 0], [\"b\"]]}}",
         "model.vocab[1]: a list, expected a piece and its score"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"\", 0]]}}",
         "piece 0: it has no characters"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"a\", 1e300]]}}",
         "piece 0: its score is not finite"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"byte_fallback\": true, \"vocab\": "
         "[[\"a\", 0]]}}",
         "model.byte_fallback: true, expected false"},
        {"{\"normalizer\": {\"type\": \"Lowercase\"}}",
         "normalizer: an object of type \"Lowercase\", expected T5's"},
        {"{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AA!=\"}}",
         "precompiled_charsmap: \"AA!=\", expected a text of base64"},
        {"{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAAAAAA\"}}",
         "the table that normalises characters (precompiled_charsmap) is damaged"},
        {"{\"model\": {\"type\": \"BPE\"}}", "model.type: \"BPE\", expected \"Unigram\""},
        {"{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}}", "pre_tokenizer: an object of type"},
        {"{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", "
         "\"prepend_scheme\": \"always\"}}",
         "pre_tokenizer: an object of type \"Metaspace\", expected T5's"},
        {"{\"added_tokens\": [{\"id\": 0, \"content\": \"<pad>\"}, {\"id\": 0, \"content\": "
         "\"a\"}]}",
         "special tokens \"<pad>\" and \"a\" both have id 0"},
        {"{\"added_tokens\": [{\"content\": \"<pad>\"}]}",
         "added_tokens: \"<pad>\", expected a token"},
    };
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *folder = test_folder();
        json_t *whole = json_load_file(SMALL "/tokenizer.json", 0, NULL);
        json_t *edits = json_loads(cases[i].edits, 0, NULL);
        assert_int_equal(json_object_update(whole, edits), 0);
        char *text = json_dumps(whole, 0);
        test_put(folder, "tokenizer.json", text, strlen(text));
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_tokenizer_load_t5(ctx, &tokenizer, folder));
        free(text);
        json_decref(edits);
        json_decref(whole);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

/* Content of a spiece.model that is loaded, and a text encoded. */
static sara_status try_model(sara_context *ctx, const char *data, size_t size)
{
    char *folder = test_folder();
    sara_tokenizer *tokenizer;
    int32_t *ids;
    size_t count;
    test_put(folder, "spiece.model", data, size);
    sara_status status = sara_tokenizer_load_t5(ctx, &tokenizer, folder);
    if (status == SARA_OK) {
        assert_ok(ctx, sara_tokenizer_encode(tokenizer, &ids, &count,
                                             "a \xef\xbd\x81 red cat\xc2\xa0 caf\x65\xcc\x81"));
        sara_free(ctx, ids);
    } else {
        assert_int_equal(status, SARA_ERROR_INPUT);
        test_assert_contains(sara_context_error(ctx), "spiece.model: ", __FILE__, __LINE__);
        assert_null(strchr(sara_context_error(ctx), '\n'));
    }
    sara_tokenizer_free(tokenizer);
    test_folder_remove(folder);
    return status;
}

/* Cut anywhere before the normaliser's last byte, a file is refused; with any byte changed it is
 * refused or works. */
static void test_damaged_models(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *data;
    size_t size, loaded = 0;
    assert_ok(ctx, sara_file_read(ctx, &data, &size, SMALL "/spiece.model", 1 << 20));
    for (size_t i = 0; i + 2 < size; i += 3)
        assert_int_equal(try_model(ctx, data, i), SARA_ERROR_INPUT);
    for (size_t i = 0; i < size; i += 2) {
        char before = data[i];
        data[i] = (char)(before ^ (1 << i % 8));
        loaded += try_model(ctx, data, size) == SARA_OK;
        data[i] = before;
    }
    assert_in_range(loaded, 20, size);
    assert_int_equal(try_model(ctx, data, size), SARA_OK);
    sara_free(ctx, data);
    sara_context_free(ctx);
}

static sara_status load_and_encode(sara_context *ctx, const char *folder)
{
    sara_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    size_t count;
    sara_status status;
    TRY(sara_tokenizer_load_t5(ctx, &tokenizer, folder));
    TRY(sara_tokenizer_encode(tokenizer, &ids, &count, "a red cat <pad> and runs"));
done:
    sara_free(ctx, ids);
    sara_tokenizer_free(tokenizer);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (int form = WHOLE; form <= PIECES; form++) {
        char *folder = copy_of(ctx, SMALL, form | CONFIG);
        test_every_allocation(load_and_encode, folder);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_transformers),
        cmocka_unit_test(test_both_forms),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_damaged_models),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
