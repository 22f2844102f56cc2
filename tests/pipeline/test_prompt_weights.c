/* Prompts read as stable-diffusion-webui reads them: parts with weights, chunks of ids. Expected
 * values are its own (make_prompt_weights.py). */
#include "support/memory.h"
#include "support_pipeline.h"

#include <ctype.h>
#include <stdlib.h>

static json_t *expected_rows(test_pipe *pipe, json_t **root, const char *key)
{
    size_t size;
    char *text = NULL;
    assert_ok(pipe->ctx, sara_file_read(pipe->ctx, &text, &size,
                                        SARA_TEST_GOLDEN "/prompt_weights.json", 1 << 20));
    assert_ok(pipe->ctx, sara_json_parse(pipe->ctx, root, text, size, "expected", true));
    sara_free(pipe->ctx, text);
    json_t *rows = json_object_get(*root, key);
    assert_true(json_array_size(rows) > 20);
    return rows;
}

/* Without the blanks at both ends, which no token comes of. */
static const char *trimmed(test_pipe *pipe, const char *text, size_t size)
{
    for (; size > 0 && isspace((unsigned char)*text); size--)
        text++;
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        size--;
    return test_text(pipe, "%.*s", (int)size, text);
}

/* "text|weight" a line; those without text have no effect and are left out. */
static const char *told(test_pipe *pipe, const sara_prompt *prompt)
{
    const char *all = "";
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        const char *text = trimmed(pipe, prompt->text + part->start, part->size);
        if (part->is_break)
            all = test_text(pipe, "%sBREAK|-1\n", all);
        else if (*text)
            all = test_text(pipe, "%s%s|%.17g\n", all, text, part->weight);
    }
    return all;
}

static const char *told_expected(test_pipe *pipe, json_t *parts)
{
    const char *all = "";
    for (size_t i = 0; i < json_array_size(parts); i++) {
        json_t *part = json_array_get(parts, i);
        const char *text = json_string_value(json_array_get(part, 0));
        text = trimmed(pipe, text, strlen(text));
        double weight = json_number_value(json_array_get(part, 1));
        if (*text)
            all = test_text(pipe, "%s%s|%.17g\n", all, text, weight);
    }
    return all;
}

static void test_parts(void **state)
{
    test_pipe *pipe = *state;
    json_t *root, *rows = expected_rows(pipe, &root, "parsed");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i);
        const char *text = json_string_value(json_object_get(row, "text"));
        sara_prompt prompt;
        assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, text, "prompt", true));
        assert_string_equal(told(pipe, &prompt),
                            told_expected(pipe, json_object_get(row, "parts")));
        sara_prompt_free(pipe->ctx, &prompt);
    }
    json_decref(root);
}

/* Where sara is not as the webui: a backslash stays unless it is before a bracket; BREAK is a word
 * where there are no chunks, and ends a chunk within brackets too. */
static void test_own_ways(void **state)
{
    static const struct {
        const char *text, *parts;
        bool breaks;
    } cases[] = {
        {"a\\b", "a\\b|1\n", true},
        {"\\", "\\|1\n", true},
        {"a\\", "a\\|1\n", true},
        {"(\\:1.5)", "\\|1.5\n", true},
        {"\\\\(a)", "\\\\|1\na|1.1000000000000001\n", true},
        {"\\\\\\(a\\)", "\\\\(a)|1\n", true},
        {"C:\\dir\\(x86\\)", "C:\\dir(x86)|1\n", true},
        {"(a BREAK b:1.5)", "a|1.5\nBREAK|-1\nb|1.5\n", true},
        {"(a BREAK b:1.5)", "a BREAK b|1.5\n", false},
        {"a BREAK b", "a BREAK b|1\n", false},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_prompt prompt;
        assert_ok(pipe->ctx,
                  sara_prompt_parse(pipe->ctx, &prompt, cases[i].text, "prompt", cases[i].breaks));
        assert_string_equal(told(pipe, &prompt), cases[i].parts);
        sara_prompt_free(pipe->ctx, &prompt);
    }
}

/* What the webui's grammar takes for editing or alternation, which sara tells of. */
static void test_notes(void **state)
{
    static const struct {
        const char *text, *note;
    } cases[] = {
        {"a [b:c:0.5] d", "[b:c:0.5]: prompt editing"},
        {"[b:0.5]", "[b:0.5]: prompt editing"},
        {"[b:c: 5 ]", "[b:c: 5 ]: prompt editing"},
        {"[b:c]", NULL},
        {"[b:]", NULL},
        {"[b 0.5]", NULL},
        {"a [b|c]", "[b|c]: alternation"},
        {"(a [b|c] d:1.2)", "[b|c]: alternation"},
        {"[(b|c)]", NULL},
        {"(b|c)", NULL},
        {"b|c", NULL},
        {"[a|b] [c:d:0.5]", "[a|b]: alternation"},
        {"[123456789 123456789 123456789 123456789 123456789 1234:0.5]",
         "[123456789 123456789 123456789 123456789 123456789 1234:0.5]: prompt"},
        {"[123456789 123456789 123456789 123456789 123456789 12345:0.5]",
         "[123456789 123456789 123456789 123456789 123456789 12345:0.5...: prompt"},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_prompt prompt;
        assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, cases[i].text, "prompt", false));
        if (cases[i].note)
            test_assert_contains(prompt.note ? prompt.note : "", cases[i].note, __FILE__, __LINE__);
        else
            assert_null(prompt.note);
        sara_prompt_free(pipe->ctx, &prompt);
    }
}

/* The limits themselves; what is blank has no effect, whatever its weight. */
static void test_heaviest(void **state)
{
    static const char *const texts[] = {"(a:100)", "(a:-100)", "( :1000) a", "((a:10):10)"};
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        sara_prompt prompt;
        assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, texts[i], "prompt", false));
        assert_int_equal(prompt.weighted, i != 2);
        sara_prompt_free(pipe->ctx, &prompt);
    }
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"(a:1000)", "negative prompt: \"a\": weight 1000, expected -100 to 100"},
        {"(red face:-101) b", "\"red face\": weight -101"},
        {"(a:99999999999999999999999999999999999999999999)", "weight 1e+44"},
        {"(((a:50):50):50)", "weight 125000"},
        {"(a:1.2.3)", "negative prompt: :1.2.3): weight 1.2.3, expected a number"},
        {"well (wait:...)", ":...): weight ..., expected a number"},
        {"(a:-.)", "weight -., expected a number"},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_prompt prompt;
        assert_refused(
            pipe->ctx, SARA_ERROR_USAGE, cases[i][1],
            sara_prompt_parse(pipe->ctx, &prompt, cases[i][0], "negative prompt", false));
        sara_prompt_free(pipe->ctx, &prompt);
    }
}

static char *repeated(const char *a, const char *b, const char *c, size_t count)
{
    size_t sizes[3] = {strlen(a), strlen(b), strlen(c)};
    char *text = calloc((sizes[0] + sizes[2]) * count + sizes[1] + 1, 1), *to = text;
    assert_non_null(text);
    for (size_t i = 0; i < count; i++, to += sizes[0])
        memcpy(to, a, sizes[0]);
    memcpy(to, b, sizes[1]);
    to += sizes[1];
    for (size_t i = 0; i < count; i++, to += sizes[2])
        memcpy(to, c, sizes[2]);
    return text;
}

/* Neither the stack nor the time grows without bound: each takes well under a second. */
static void test_deep(void **state)
{
    test_pipe *pipe = *state;
    sara_prompt prompt;
    char *texts[] = {
        repeated("(", "a", ")", 100000),   repeated("[", "a", "]", 100000),
        repeated("([", "a", "])", 100000), repeated("a(", "", "", 100000),
        repeated("[", "", "", 100000),     repeated("(", "a", ")", 1001),
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        assert_refused(pipe->ctx, SARA_ERROR_USAGE, "brackets are more than 1000 deep",
                       sara_prompt_parse(pipe->ctx, &prompt, texts[i], "prompt", false));
        sara_prompt_free(pipe->ctx, &prompt);
        free(texts[i]);
    }
    char *fine[] = {repeated(")", "a", "]", 100000),     repeated("(a)", "", "[b]", 100000),
                    repeated("a:1.2)", "", ":", 100000), repeated("[", "a", "]", 1000),
                    repeated("\\(", "", "\\)", 100000),  repeated("a[b", "", "]", 1000)};
    for (size_t i = 0; i < sizeof(fine) / sizeof(*fine); i++) {
        assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, fine[i], "prompt", false));
        sara_prompt_free(pipe->ctx, &prompt);
        free(fine[i]);
    }
}

/* --------------------------------------------------------------------------------------- chunks */

static sara_tokenizer *tokenizer_of(sara_context *ctx)
{
    sara_tokenizer *tokenizer = NULL;
    assert_ok(ctx, sara_tokenizer_load(ctx, &tokenizer, TEST_BASE "/tokenizer", 32));
    return tokenizer;
}

static void check_chunk(const sara_prompt_chunks *chunks, size_t at, json_t *expected)
{
    json_t *ids = json_object_get(expected, "ids"), *weights = json_object_get(expected, "weights");
    assert_int_equal(chunks->length, 32);
    assert_int_equal(json_array_size(ids), 32);
    for (size_t i = 0; i < 32; i++) {
        float weight = (float)json_number_value(json_array_get(weights, i));
        assert_int_equal(chunks->ids[at * 32 + i], json_integer_value(json_array_get(ids, i)));
        assert_true(chunks->weights[at * 32 + i] == weight);
    }
}

static void test_chunks(void **state)
{
    test_pipe *pipe = *state;
    json_t *root, *rows = expected_rows(pipe, &root, "chunked");
    sara_tokenizer *tokenizer = tokenizer_of(pipe->ctx);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *expected = json_object_get(json_array_get(rows, i), "chunks");
        sara_prompt prompt;
        sara_prompt_chunks chunks;
        assert_ok(
            pipe->ctx,
            sara_prompt_parse(pipe->ctx, &prompt,
                              json_string_value(json_object_get(json_array_get(rows, i), "text")),
                              "prompt", true));
        assert_ok(pipe->ctx, sara_prompt_chunks_make(pipe->ctx, &chunks, tokenizer, &prompt, true));
        assert_int_equal(chunks.count, json_array_size(expected));
        assert_int_equal(chunks.cut, 0);
        for (size_t c = 0; c < chunks.count; c++)
            check_chunk(&chunks, c, json_array_get(expected, c));
        sara_prompt_chunks_free(pipe->ctx, &chunks);
        sara_prompt_free(pipe->ctx, &prompt);
    }
    sara_tokenizer_free(tokenizer);
    json_decref(root);
}

/* Without brackets to read, and with --no-prompt-weights, the ids are those of the whole text. */
static void check_plain(test_pipe *pipe, const sara_tokenizer *tokenizer, const char *text,
                        bool parsed)
{
    sara_prompt prompt;
    sara_prompt_chunks chunks;
    int32_t ids[32];
    size_t cut;
    if (parsed)
        assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, text, "prompt", false));
    else
        assert_ok(pipe->ctx, sara_prompt_literal(pipe->ctx, &prompt, text));
    assert_ok(pipe->ctx, sara_prompt_chunks_make(pipe->ctx, &chunks, tokenizer, &prompt, false));
    assert_ok(pipe->ctx, sara_tokenizer_pad(tokenizer, ids, &cut, text));
    assert_int_equal(chunks.count, 1);
    assert_int_equal(chunks.cut, cut);
    assert_memory_equal(chunks.ids, ids, sizeof(ids));
    for (size_t i = 0; i < 32; i++)
        assert_true(chunks.weights[i] == 1);
    sara_prompt_chunks_free(pipe->ctx, &chunks);
    sara_prompt_free(pipe->ctx, &prompt);
}

static void test_same_ids(void **state)
{
    test_pipe *pipe = *state;
    sara_tokenizer *tokenizer = tokenizer_of(pipe->ctx);
    json_t *root, *rows;
    for (int list = 0; list < 2; list++) {
        rows = expected_rows(pipe, &root, list ? "chunked" : "parsed");
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const char *text = json_string_value(json_object_get(json_array_get(rows, i), "text"));
            check_plain(pipe, tokenizer, text, false);
            if (!strpbrk(text, "()[]"))
                check_plain(pipe, tokenizer, text, true);
        }
        json_decref(root);
    }
    sara_tokenizer_free(tokenizer);
}

static void test_too_many_chunks(void **state)
{
    test_pipe *pipe = *state;
    sara_tokenizer *tokenizer = tokenizer_of(pipe->ctx);
    sara_prompt prompt;
    sara_prompt_chunks chunks;
    char *text = repeated("face ", "", "", 30 * 64 + 1);
    assert_ok(pipe->ctx, sara_prompt_parse(pipe->ctx, &prompt, text, "prompt", true));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "more than 64 chunks of 30 tokens",
                   sara_prompt_chunks_make(pipe->ctx, &chunks, tokenizer, &prompt, true));
    sara_prompt_chunks_free(pipe->ctx, &chunks);
    assert_ok(pipe->ctx, sara_prompt_chunks_make(pipe->ctx, &chunks, tokenizer, &prompt, false));
    assert_int_equal(chunks.cut, 30 * 63 + 1);
    sara_prompt_chunks_free(pipe->ctx, &chunks);
    sara_prompt_free(pipe->ctx, &prompt);
    free(text);
    sara_tokenizer_free(tokenizer);
}

static sara_status read_chunks(sara_context *ctx, const char *text)
{
    sara_tokenizer *tokenizer = NULL;
    sara_prompt prompt = {0};
    sara_prompt_chunks chunks = {0};
    sara_status status;
    TRY(sara_tokenizer_load(ctx, &tokenizer, TEST_BASE "/tokenizer", 32));
    TRY(sara_prompt_parse(ctx, &prompt, text, "prompt", true));
    TRY(sara_prompt_chunks_make(ctx, &chunks, tokenizer, &prompt, true));
done:
    sara_prompt_chunks_free(ctx, &chunks);
    sara_prompt_free(ctx, &prompt);
    sara_tokenizer_free(tokenizer);
    return status;
}

static void test_allocations(void **state)
{
    (void)state;
    test_every_allocation(read_chunks, "a (red:1.4) [a:b:0.5] (([c | d])) BREAK ((((e, f))))");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_parts),       TEST_CASE(test_own_ways), TEST_CASE(test_notes),
        TEST_CASE(test_heaviest),    TEST_CASE(test_refused),  TEST_CASE(test_deep),
        TEST_CASE(test_chunks),      TEST_CASE(test_same_ids), TEST_CASE(test_too_many_chunks),
        TEST_CASE(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
