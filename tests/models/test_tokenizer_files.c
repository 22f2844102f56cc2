/* The forms in which a tokenizer folder comes, and those that are refused. */
#include "models/models.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>

#define BASE SARA_TEST_EMOJI "/base/tokenizer"
#define CONFIG "tokenizer_config.json"
#define WHOLE "tokenizer.json"

/* ------------------------------------------------------------------------------------ forms */

typedef struct fixture {
    sara_context *ctx;
    char *folder;
    char *vocab, *merges; /* the base tokenizer's files */
    size_t vocab_size, merges_size;
} fixture;

static fixture fixture_new(void)
{
    fixture f = {.ctx = test_context(), .folder = test_folder()};
    assert_ok(f.ctx, sara_file_read(f.ctx, &f.vocab, &f.vocab_size, BASE "/vocab.json", 1 << 20));
    assert_ok(f.ctx,
              sara_file_read(f.ctx, &f.merges, &f.merges_size, BASE "/merges.txt", 1 << 20));
    return f;
}

static void fixture_free(fixture *f)
{
    sara_free(f->ctx, f->vocab);
    sara_free(f->ctx, f->merges);
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
}

static void put(const fixture *f, const char *name, const char *data, size_t size)
{
    free(test_file(f->folder, name, data, size));
}

static void put_text(const fixture *f, const char *name, const char *text)
{
    put(f, name, text, strlen(text));
}

static void put_json(const fixture *f, const char *name, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENSURE_ASCII);
    assert_non_null(text);
    put_text(f, name, text);
    free(text);
}

static void put_base(const fixture *f)
{
    put(f, "vocab.json", f->vocab, f->vocab_size);
    put(f, "merges.txt", f->merges, f->merges_size);
}

static void take_away(const fixture *f, const char *name)
{
    char *path = NULL;
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, name));
    assert_int_equal(remove(path), 0);
    sara_free(f->ctx, path);
}

/* The folder loads and gives the golden ids, the base tokenizer's. */
static void check_golden(const fixture *f)
{
    json_t *rows = NULL;
    sara_tokenizer *tokenizer = NULL;
    assert_ok(f->ctx, sara_json_load(f->ctx, &rows, SARA_TEST_GOLDEN "/tokens.json", false));
    assert_ok(f->ctx, sara_tokenizer_load(f->ctx, &tokenizer, f->folder, 77));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *full = json_object_get(row, "full");
        int32_t *ids = NULL;
        size_t count = 0;
        assert_ok(f->ctx, sara_tokenizer_encode(tokenizer, &ids, &count,
                                                json_string_value(json_object_get(row, "text"))));
        assert_int_equal(count, json_array_size(full));
        for (size_t j = 0; j < count; j++)
            assert_int_equal(ids[j], json_integer_value(json_array_get(full, j)));
        sara_free(f->ctx, ids);
    }
    sara_tokenizer_free(tokenizer);
    json_decref(rows);
}

/* tokenizer.json as transformers 5 writes it: everything but vocabulary and merges. */
static const char whole_text[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "{\"id\": 3206, \"content\": \"<|startoftext|>\", \"single_word\": false, \"lstrip\": false,"
    " \"rstrip\": false, \"normalized\": false, \"special\": true},"
    "{\"id\": 3207, \"content\": \"<|endoftext|>\", \"single_word\": false, \"lstrip\": false,"
    " \"rstrip\": false, \"normalized\": false, \"special\": true}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"},"
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"content\": \" \"},"
    "{\"type\": \"Lowercase\"}]},"
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\","
    "\"pattern\": {\"Regex\": \"<\\\\|startoftext\\\\|>|<\\\\|endoftext\\\\|>|'s|'t|'re|'ve|'m|'ll"
    "|'d|[\\\\p{L}]+|[\\\\p{N}]|[^\\\\s\\\\p{L}\\\\p{N}]+\"},"
    "\"behavior\": \"Removed\", \"invert\": true},"
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true,"
    " \"use_regex\": true}]},"
    "\"post_processor\": {\"type\": \"RobertaProcessing\", \"sep\": [\"<|endoftext|>\", 3207],"
    "\"cls\": [\"<|startoftext|>\", 3206], \"trim_offsets\": false, \"add_prefix_space\": false},"
    "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true},"
    "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<|endoftext|>\","
    "\"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"</w>\", \"fuse_unk\": false,"
    "\"byte_fallback\": false, \"ignore_merges\": false}}";

static json_t *merges_list(const fixture *f, bool pairs)
{
    json_t *list = json_array();
    char *copy = strdup(f->merges), *rest = copy;
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        char *blank = strchr(line, ' ');
        if (!blank || line[0] == '#')
            continue;
        json_t *pair = json_pack("[s#, s]", line, (int)(blank - line), blank + 1);
        assert_int_equal(json_array_append_new(list, pairs ? pair : json_string(line)), 0);
        if (!pairs)
            json_decref(pair);
    }
    free(copy);
    assert_int_equal(json_array_size(list), 2694);
    return list;
}

static json_t *whole_new(const fixture *f, bool pairs)
{
    json_t *whole = json_loads(whole_text, 0, NULL), *model = json_object_get(whole, "model");
    assert_non_null(model);
    json_object_set_new(model, "vocab", json_loads(f->vocab, 0, NULL));
    json_object_set_new(model, "merges", merges_list(f, pairs));
    return whole;
}

static void a_tokenizer_json_alone_gives_the_same_ids(void **state)
{
    (void)state;
    fixture f = fixture_new();
    for (int pairs = 0; pairs < 2; pairs++) {
        json_t *whole = whole_new(&f, pairs);
        put_json(&f, WHOLE, whole);
        check_golden(&f);
        json_decref(whole);
    }
    fixture_free(&f);
}

/* As in transformers 5. */
static void a_tokenizer_json_rules_over_the_other_files(void **state)
{
    (void)state;
    fixture f = fixture_new();
    json_t *whole = whole_new(&f, true);
    put_json(&f, WHOLE, whole);
    put_text(&f, "vocab.json", "not read");
    put_text(&f, "merges.txt", "not read");
    check_golden(&f);
    json_decref(whole);
    fixture_free(&f);
}

static char *with_line_ends(const char *text, const char *end, size_t *size)
{
    char *out = malloc(strlen(text) * 3 + 1), *to = out;
    assert_non_null(out);
    for (; *text; text++)
        to = *text == '\n' ? stpcpy(to, end) : (*to = *text, to + 1);
    *size = (size_t)(to - out);
    return out;
}

static void merges_may_have_other_line_ends_and_no_version(void **state)
{
    (void)state;
    fixture f = fixture_new();
    static const char *const ends[] = {"\r\n", "\n\n", "\r\n\r\n"};
    put(&f, "vocab.json", f.vocab, f.vocab_size);
    for (size_t i = 0; i < 3; i++) {
        size_t size;
        char *text = with_line_ends(f.merges, ends[i], &size);
        put(&f, "merges.txt", text, size);
        check_golden(&f);
        free(text);
    }
    const char *second = strchr(f.merges, '\n') + 1;
    put_text(&f, "merges.txt", second);
    check_golden(&f);
    put(&f, "merges.txt", second, strlen(second) - 1); /* no newline at the end */
    check_golden(&f);
    fixture_free(&f);
}

static void the_length_is_the_smaller_one(void **state)
{
    static const struct {
        const char *config;
        int context, expected;
    } rows[] = {
        {"{\"model_max_length\": 77}", 0, 77},
        {"{\"model_max_length\": 77}", 32, 32},
        {"{\"model_max_length\": 16}", 77, 16},
        {"{\"model_max_length\": 1000000000000000019884624838656}", 77, 77},
        {"{\"model_max_length\": 1e30, \"\\\\\": 12345678901234567890123.5}", 77, 77},
        {"{\"model_max_length\": null}", 64, 64},
        {"{\"max_len\": 20}", 64, 20},
        {"{}", 77, 77},
    };
    (void)state;
    fixture f = fixture_new();
    put_base(&f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        sara_tokenizer *tokenizer = NULL;
        put_text(&f, CONFIG, rows[i].config);
        assert_ok(f.ctx, sara_tokenizer_load(f.ctx, &tokenizer, f.folder, rows[i].context));
        assert_int_equal(sara_tokenizer_length(tokenizer), rows[i].expected);
        sara_tokenizer_free(tokenizer);
    }
    fixture_free(&f);
}

/* ---------------------------------------------------------------------------------- refusals */

static void check_refused(const fixture *f, const char *text)
{
    sara_tokenizer *tokenizer = (sara_tokenizer *)f;
    assert_refused(f->ctx, SARA_ERROR_INPUT, text,
                   sara_tokenizer_load(f->ctx, &tokenizer, f->folder, 0));
    assert_null(tokenizer);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    fixture f = fixture_new();
    sara_tokenizer *tokenizer = NULL;
    assert_refused(f.ctx, SARA_ERROR_IO, "vocab.json",
                   sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    put(&f, "vocab.json", f.vocab, f.vocab_size);
    assert_refused(f.ctx, SARA_ERROR_IO, "merges.txt",
                   sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    fixture_free(&f);
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
    fixture f = fixture_new();
    put_base(&f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        put_text(&f, CONFIG, "{\"model_max_length\": 77}");
        put_text(&f, rows[i].name, rows[i].text);
        check_refused(&f, rows[i].message);
        take_away(&f, rows[i].name);
    }
    fixture_free(&f);
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
    fixture f = fixture_new();
    put_base(&f);
    put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *vocab = json_loads(f.vocab, 0, NULL);
        json_object_set_new(vocab, rows[i].token,
                            rows[i].value == -3 ? json_string("7") : json_integer(rows[i].value));
        if (rows[i].value == -2)
            json_object_del(vocab, rows[i].token);
        put_json(&f, "vocab.json", vocab);
        check_refused(&f, rows[i].message);
        json_decref(vocab);
    }
    put_text(&f, "vocab.json", "{}");
    check_refused(&f, "vocab.json: no token \"\xC4\x80\" for the byte 0x00");
    put_text(&f, "vocab.json", "{\"a\": 1, \"a\": 2}");
    check_refused(&f, "vocab.json: line 1");
    put_text(&f, "vocab.json", "{\"\xFF\": 1}");
    check_refused(&f, "vocab.json: line 1");
    fixture_free(&f);
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
    fixture f = fixture_new();
    put_base(&f);
    put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    const char *third = strchr(strchr(f.merges, '\n') + 1, '\n');
    size_t rest = strlen(third);
    char *text = malloc(64 + rest);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        strcpy(text, "#version: 0.2\n");
        memcpy(text + 14, rows[i].line, rows[i].size);
        memcpy(text + 14 + rows[i].size, third, rest);
        put(&f, "merges.txt", text, 14 + rows[i].size + rest);
        check_refused(&f, rows[i].message);
    }
    free(text);
    fixture_free(&f);
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
        {NULL, "added_tokens", "[{\"content\": \"x\"}]", "added_tokens[0]: missing, expected an id"},
        {NULL, "added_tokens", "[{\"id\": 3206, \"content\": 1}]", "added_tokens[0]: 1, expected"},
        {NULL, "added_tokens", "[{\"id\": 0, \"content\": \"<x>\"}]",
         "added token \"<x>\" has id 0, expected 3208"},
    };
    (void)state;
    fixture f = fixture_new();
    put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *whole = whole_new(&f, true);
        json_t *at = rows[i].section ? json_object_get(whole, rows[i].section) : whole;
        json_object_set_new(at, rows[i].key, json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        put_json(&f, WHOLE, whole);
        check_refused(&f, rows[i].message);
        json_decref(whole);
    }
    fixture_free(&f);
}

/* Every cut but that of the last newline is an error, wherever it falls. */
static void truncated_files_are_refused(void **state)
{
    (void)state;
    fixture f = fixture_new();
    sara_tokenizer *tokenizer = NULL;
    put_base(&f);
    for (size_t size = 0; size + 1 < f.merges_size; size += size < 200 ? 1 : 97) {
        put(&f, "merges.txt", f.merges, size);
        assert_refused(f.ctx, SARA_ERROR_INPUT, "merges.txt",
                       sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    }
    put(&f, "merges.txt", f.merges, f.merges_size);
    for (size_t size = 0; size < f.vocab_size; size += size < 100 ? 1 : 997) {
        put(&f, "vocab.json", f.vocab, size);
        assert_refused(f.ctx, SARA_ERROR_INPUT, "vocab.json",
                       sara_tokenizer_load(f.ctx, &tokenizer, f.folder, 77));
    }
    fixture_free(&f);
}

/* ------------------------------------------------------------------------------------ memory */

typedef struct failing {
    size_t calls, fail_at; /* 1: the first */
    int64_t live;
} failing;

static void *failing_allocate(void *user, size_t size)
{
    failing *counts = user;
    if (++counts->calls == counts->fail_at)
        return NULL;
    counts->live++;
    return malloc(size);
}

static void failing_release(void *user, void *memory)
{
    ((failing *)user)->live--;
    free(memory);
}

static sara_status use(sara_context *ctx, const char *folder)
{
    static const char text[] = "A photo of a <cat>, E\u0327\u0301\u0316 12 <|endoftext|> don't \xFF";
    sara_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL, padded[77];
    size_t count = 0;
    sara_status status;
    TRY(sara_tokenizer_load(ctx, &tokenizer, folder, 77));
    status = sara_tokenizer_encode(tokenizer, &ids, &count, text);
    assert_true((status == SARA_OK) == (ids != NULL) && (ids != NULL) == (count > 0));
    TRY(status);
    TRY(sara_tokenizer_pad(tokenizer, padded, NULL, text));
    assert_memory_equal(ids, padded, count * sizeof(*ids));
done:
    sara_free(ctx, ids);
    sara_tokenizer_free(tokenizer);
    return status;
}

/* Fails each allocation in turn until none is left to fail. */
static void check_failing(const char *folder)
{
    sara_status status = SARA_ERROR_MEMORY;
    size_t fail_at = 1;
    for (; status != SARA_OK; fail_at++) {
        failing counts = {0};
        sara_allocator allocator = {failing_allocate, failing_release, &counts};
        sara_context_options options = {.allocator = &allocator, .threads = 1};
        sara_context *ctx = NULL;
        assert_ok(ctx, sara_context_new(&ctx, &options));
        int64_t live = counts.live;
        counts.fail_at = counts.calls + fail_at;
        status = use(ctx, folder);
        if (status != SARA_OK)
            test_assert_status(ctx, status, SARA_ERROR_MEMORY, "use", __FILE__, __LINE__);
        assert_int_equal(counts.live, live);
        sara_context_free(ctx);
    }
    assert_true(fail_at > 20);
}

static void every_failed_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    fixture f = fixture_new();
    put_base(&f);
    put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    put_text(&f, "added_tokens.json", "{\"<cat>\": 3208}");
    check_failing(f.folder);
    json_t *whole = whole_new(&f, false);
    put_json(&f, WHOLE, whole);
    check_failing(f.folder);
    json_decref(whole);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tokenizer_json_alone_gives_the_same_ids),
        cmocka_unit_test(a_tokenizer_json_rules_over_the_other_files),
        cmocka_unit_test(merges_may_have_other_line_ends_and_no_version),
        cmocka_unit_test(the_length_is_the_smaller_one),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(settings_that_would_change_the_ids_are_refused),
        cmocka_unit_test(broken_vocabularies_are_refused),
        cmocka_unit_test(broken_merges_are_refused),
        cmocka_unit_test(tokenizer_json_of_other_tokenizers_is_refused),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(every_failed_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
