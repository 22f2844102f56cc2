/* The forms in which a tokenizer folder comes. */
#include "support_tokenizer.h"

#include <stdlib.h>

#define CONFIG "tokenizer_config.json"
#define WHOLE  "tokenizer.json"

/* The folder loads and gives the golden ids, the base tokenizer's. */
static void check_golden(const tokenizer_fixture *f)
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

static void a_tokenizer_json_alone_gives_the_same_ids(void **state)
{
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    for (int pairs = 0; pairs < 2; pairs++) {
        json_t *whole = test_tokenizer_whole(&f, pairs);
        test_tokenizer_put_json(&f, WHOLE, whole);
        check_golden(&f);
        json_decref(whole);
    }
    test_tokenizer_free(&f);
}

/* As in transformers 5. */
static void a_tokenizer_json_rules_over_the_other_files(void **state)
{
    (void)state;
    tokenizer_fixture f = test_tokenizer_new();
    json_t *whole = test_tokenizer_whole(&f, true);
    test_tokenizer_put_json(&f, WHOLE, whole);
    test_tokenizer_put_text(&f, "vocab.json", "not read");
    test_tokenizer_put_text(&f, "merges.txt", "not read");
    check_golden(&f);
    json_decref(whole);
    test_tokenizer_free(&f);
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
    tokenizer_fixture f = test_tokenizer_new();
    static const char *const ends[] = {"\r\n", "\n\n", "\r\n\r\n"};
    test_tokenizer_put(&f, "vocab.json", f.vocab, f.vocab_size);
    for (size_t i = 0; i < 3; i++) {
        size_t size;
        char *text = with_line_ends(f.merges, ends[i], &size);
        test_tokenizer_put(&f, "merges.txt", text, size);
        check_golden(&f);
        free(text);
    }
    const char *second = strchr(f.merges, '\n') + 1;
    test_tokenizer_put_text(&f, "merges.txt", second);
    check_golden(&f);
    test_tokenizer_put(&f, "merges.txt", second, strlen(second) - 1); /* no newline at the end */
    check_golden(&f);
    test_tokenizer_free(&f);
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
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_base(&f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        sara_tokenizer *tokenizer = NULL;
        test_tokenizer_put_text(&f, CONFIG, rows[i].config);
        assert_ok(f.ctx, sara_tokenizer_load(f.ctx, &tokenizer, f.folder, rows[i].context));
        assert_int_equal(sara_tokenizer_length(tokenizer), rows[i].expected);
        sara_tokenizer_free(tokenizer);
    }
    test_tokenizer_free(&f);
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
    static const char text[] =
        "A photo of a <cat>, E\u0327\u0301\u0316 12 <|endoftext|> don't \xFF";
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
    tokenizer_fixture f = test_tokenizer_new();
    test_tokenizer_put_base(&f);
    test_tokenizer_put_text(&f, CONFIG, "{\"model_max_length\": 77}");
    test_tokenizer_put_text(&f, "added_tokens.json", "{\"<cat>\": 3208}");
    check_failing(f.folder);
    json_t *whole = test_tokenizer_whole(&f, false);
    test_tokenizer_put_json(&f, WHOLE, whole);
    check_failing(f.folder);
    json_decref(whole);
    test_tokenizer_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tokenizer_json_alone_gives_the_same_ids),
        cmocka_unit_test(a_tokenizer_json_rules_over_the_other_files),
        cmocka_unit_test(merges_may_have_other_line_ends_and_no_version),
        cmocka_unit_test(the_length_is_the_smaller_one),
        cmocka_unit_test(every_failed_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
