/* Ids against transformers' CLIPTokenizer 5.23 with tokenizers 0.23; the digests are FNV-1a over
 * the ids that it gives. */
#include "models/models.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>

#define BASE         SARA_TEST_EMOJI "/base/tokenizer"
#define START        3206
#define END          3207
#define DIGEST_START 0xCBF29CE484222325u

static sara_tokenizer *load(sara_context *ctx, const char *folder)
{
    sara_tokenizer *tokenizer = NULL;
    assert_ok(ctx, sara_tokenizer_load(ctx, &tokenizer, folder, 77));
    return tokenizer;
}

static void check_ids(sara_context *ctx, const sara_tokenizer *tokenizer, const char *text,
                      const int32_t *expected, size_t count)
{
    int32_t *ids = NULL;
    size_t got = 0;
    assert_ok(ctx, sara_tokenizer_encode(tokenizer, &ids, &got, text));
    for (size_t i = 0; i < got && i < count; i++)
        if (ids[i] != expected[i])
            fail_msg("\"%s\": id %zu is %d, expected %d", text, i, ids[i], expected[i]);
    if (got != count)
        fail_msg("\"%s\": %zu ids, expected %zu", text, got, count);
    sara_free(ctx, ids);
}

static size_t read_ids(int32_t *out, size_t limit, const json_t *list)
{
    size_t count = json_array_size(list);
    assert_true(count > 0 && count <= limit);
    for (size_t i = 0; i < count; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static void golden_texts_give_the_ids_of_transformers(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = load(ctx, BASE);
    json_t *rows = NULL;
    int32_t expected[1024], padded[32];
    assert_ok(ctx, sara_json_load(ctx, &rows, SARA_TEST_GOLDEN "/tokens.json", false));
    assert_int_equal(json_array_size(rows), 300);
    assert_int_equal(sara_tokenizer_length(tokenizer), 32);
    assert_int_equal(sara_tokenizer_vocab_size(tokenizer), 3208);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *text = json_string_value(json_object_get(row, "text"));
        size_t cut = SIZE_MAX, count = read_ids(expected, 1024, json_object_get(row, "full"));
        assert_non_null(text);
        check_ids(ctx, tokenizer, text, expected, count);
        assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, &cut, text));
        assert_int_equal(cut, count > 32 ? count - 32 : 0);
        assert_int_equal(read_ids(expected, 1024, json_object_get(row, "ids")), 32);
        assert_memory_equal(padded, expected, sizeof(padded));
        assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, NULL, text));
    }
    json_decref(rows);
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

static uint64_t digest(sara_context *ctx, uint64_t hash, const sara_tokenizer *tokenizer,
                       const char *text)
{
    int32_t *ids = NULL;
    size_t count = 0;
    assert_ok(ctx, sara_tokenizer_encode(tokenizer, &ids, &count, text));
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ (uint64_t)ids[i]) * 0x100000001B3u;
    sara_free(ctx, ids);
    return hash;
}

static char *put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3F));
    } else {
        if (code < 0x10000) {
            *out++ = (char)(0xE0 | code >> 12);
        } else {
            *out++ = (char)(0xF0 | code >> 18);
            *out++ = (char)(0x80 | (code >> 12 & 0x3F));
        }
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
        *out++ = (char)(0x80 | (code & 0x3F));
    }
    *out = '\0';
    return out;
}

/* Every character between `before` and `after`, 1024 to a text. */
static uint64_t digest_range(sara_context *ctx, const sara_tokenizer *tokenizer, unsigned first,
                             unsigned end, const char *before, const char *after)
{
    static char text[1024 * 16];
    uint64_t hash = DIGEST_START;
    for (unsigned block = first; block < end; block += 1024) {
        char *at = text;
        *at = '\0';
        for (unsigned code = block; code < block + 1024; code++)
            if (code > 0 && (code < 0xD800 || code >= 0xE000)) {
                at = stpcpy(at, before);
                at = put_utf8(at, code);
                at = stpcpy(at, after);
            }
        hash = digest(ctx, hash, tokenizer, text);
    }
    return hash;
}

static void every_character_gives_the_ids_of_transformers(void **state)
{
    static const struct {
        unsigned first, end;
        uint64_t alone, among_marks, in_hangul;
    } planes[] = {
        {0x00000, 0x10000, 0x72F9A4041D29B389u, 0x02F194E147D0781Du, 0xB1EB26A42CB1452Eu},
        {0x10000, 0x20000, 0x38F399678EAFE71Eu, 0x28A6A45D14C08146u, 0x40CC04B75CD6B0A4u},
        {0x20000, 0x110000, 0xE8E3B183423DDFA2u, 0x5403474D921A9EC8u, 0x1B8D452806CFF9E8u},
    };
    (void)state;
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = load(ctx, BASE);
    for (size_t i = 0; i < 3; i++) {
        unsigned first = planes[i].first, end = planes[i].end;
        if (digest_range(ctx, tokenizer, first, end, "", "\n") != planes[i].alone)
            fail_msg("characters from U+%04X", first);
        /* E, the character, acute (above), grave (below): what composes and what moves. */
        if (digest_range(ctx, tokenizer, first, end, "E", "\u0301\u0316\n") !=
            planes[i].among_marks)
            fail_msg("characters from U+%04X among marks", first);
        /* Between a syllable that takes a trailing consonant and one. */
        if (digest_range(ctx, tokenizer, first, end, "\uAC00", "\u11A8\n") != planes[i].in_hangul)
            fail_msg("characters from U+%04X in Hangul", first);
    }
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

static char *repeat(const char *part, size_t times, const char *last)
{
    size_t size = strlen(part);
    char *text = malloc(size * times + strlen(last) + 1);
    assert_non_null(text);
    for (size_t i = 0; i < times; i++)
        memcpy(text + i * size, part, size);
    strcpy(text + size * times, last);
    return text;
}

static void long_texts_give_the_ids_of_transformers(void **state)
{
    static const struct {
        const char *part, *last;
        size_t times;
        uint64_t expected;
    } texts[] = {
        {"abcdefghij", "", 10000, 0x60520B836CDFA24Au},    /* one word */
        {"\u0316\u0301", "a", 16000, 0xF31F87941600E4D4u}, /* one run of marks, all to be sorted */
        {"a ", "", 30000, 0x4F235F7E6ABAE3DAu},
        {"!", "", 100000, 0xED8498BD9DB4BA9Au},
    };
    (void)state;
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = load(ctx, BASE);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *text = repeat(texts[i].part, texts[i].times, texts[i].last);
        if (digest(ctx, DIGEST_START, tokenizer, text) != texts[i].expected)
            fail_msg("%zu times \"%s\"", texts[i].times, texts[i].part);
        free(text);
    }
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

static void invalid_bytes_are_read_as_replacement_characters(void **state)
{
#define R "\uFFFD"
    static const struct {
        const char *bytes, *same;
    } pairs[] = {
        {"a\x80"
         "b",
         "a" R "b"},
        {"\xC0\xAF x", R R " x"},      /* overlong */
        {"\xE2\x82", R},               /* cut short at the end */
        {"\xE2\x82z", R "z"},          /* and in the middle */
        {"\xED\xA0\x80", R R R},       /* a surrogate */
        {"\xF4\x90\x80\x80", R R R R}, /* beyond U+10FFFF */
        {"\xF0\x9F\x98", R},
        {"\xF0\x9F\x98\x81\xFF", "\U0001F601" R}, /* a whole one before */
        {"cat\xFE\xFF<|endoftext|>", "cat" R R "<|endoftext|>"},
    };
#undef R
    (void)state;
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = load(ctx, BASE);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        int32_t *expected = NULL;
        size_t count = 0;
        assert_ok(ctx, sara_tokenizer_encode(tokenizer, &expected, &count, pairs[i].same));
        check_ids(ctx, tokenizer, pairs[i].bytes, expected, count);
        sara_free(ctx, expected);
    }
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------- special tokens */

#define OBJECT(name)                                                                               \
    "{\"content\": \"" name "\", \"lstrip\": false, \"normalized\": true, "                        \
    "\"rstrip\": false, \"single_word\": false}"
#define NAMES(pad)                                                                                 \
    "{\"bos_token\": " OBJECT("<|startoftext|>") ", \"eos_token\": " OBJECT(                       \
        "<|endoftext|>") ", \"unk_token\": " OBJECT("<|endoftext|>") ", \"pad_token\": \"" pad     \
                                                                     "\"}"

static char *folder_with(const char *name, const char *text)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path = NULL;
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "vocab.json"));
    assert_ok(ctx, sara_file_copy(ctx, BASE "/vocab.json", path));
    sara_free(ctx, path);
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "merges.txt"));
    assert_ok(ctx, sara_file_copy(ctx, BASE "/merges.txt", path));
    sara_free(ctx, path);
    free(test_file(folder, name, text, strlen(text)));
    sara_context_free(ctx);
    return folder;
}

typedef struct text_ids {
    const char *text;
    int32_t ids[24];
    size_t count;
} text_ids;

static void check_folder(char *folder, const text_ids *rows, size_t count, int32_t pad)
{
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = load(ctx, folder);
    int32_t padded[77];
    for (size_t i = 0; i < count; i++)
        check_ids(ctx, tokenizer, rows[i].text, rows[i].ids, rows[i].count);
    assert_int_equal(sara_tokenizer_length(tokenizer), 77);
    assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, NULL, "a"));
    assert_int_equal(padded[76], pad);
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
    test_folder_remove(folder);
}
#define CHECK_FOLDER(folder, rows, pad)                                                            \
    check_folder((folder), (rows), sizeof(rows) / sizeof((rows)[0]), (pad))

static void special_tokens_of_sd1_are_found_as_their_flags_say(void **state)
{
    static const text_ids rows[] = {
        {"<|endoftext|>x a<|startoftext|>", {START, END, 343, 320, START, END}, 6},
        {"hello!! x!", {START, 531, 644, 334, 0, 256, 343, 256, END}, 9},
        /* The pad token's plain string makes <|endoftext|> case-sensitive. */
        {"<|ENDOFTEXT|> a <|StartOfText|>!!",
         {START, 27, 347, 549, 566, 69, 691, 3052, 91, 285, 320, START, 0, 256, END},
         15},
    };
    (void)state;
    CHECK_FOLDER(folder_with("special_tokens_map.json", NAMES("<|endoftext|>")), rows, END);
}

static void special_tokens_of_sd2_make_every_exclamation_mark_the_pad_token(void **state)
{
    static const text_ids rows[] = {
        {"<|ENDOFTEXT|> a <|StartOfText|>!!", {START, END, 320, START, 0, 0, END}, 7},
        {"hello!! x!", {START, 531, 644, 334, 0, 0, 343, 0, END}, 9},
    };
    (void)state;
    CHECK_FOLDER(folder_with("special_tokens_map.json", NAMES("!")), rows, 0);
}

static void names_in_other_cases_are_text_without_objects(void **state)
{
    static const text_ids rows[] = {
        {"<|ENDOFTEXT|> a <|StartOfText|>!!",
         {START, 27,  347, 549, 566, 69,  691,  3052, 91,  285, 320, 27,
          347,   539, 519, 657, 69,  691, 3052, 91,   285, 0,   256, END},
         24},
    };
    (void)state;
    CHECK_FOLDER(folder_with("tokenizer_config.json", "{\"model_max_length\": 77}"), rows, END);
}

static void added_tokens_are_found_in_any_case(void **state)
{
    static const text_ids rows[] = {
        {"a <cat> <CAT> <dog> <Dog>x MY  TOKEN my token",
         {START, 320, 3209, 3209, 3208, 3208, 343, 3210, 3210, END},
         10},
    };
    (void)state;
    CHECK_FOLDER(
        folder_with("added_tokens.json", "{\"<cat>\": 3209, \"<Dog>\": 3208, \"my token\": 3210}"),
        rows, END);
}

/* "foo" alone, "<Zebra>" with the blanks around it, "<|startoftext|>" in any case. */
static void added_tokens_keep_their_flags(void **state)
{
    static const char config[] =
        "{\"added_tokens_decoder\": {"
        "\"3206\": {\"content\": \"<|startoftext|>\", \"normalized\": true, \"special\": true},"
        "\"3208\": {\"content\": \"<Zebra>\", \"lstrip\": true, \"rstrip\": true},"
        "\"3209\": {\"content\": \"foo\", \"single_word\": true, \"normalized\": false}}}";
    static const text_ids rows[] = {
        {"a <zebra> x Foo foo foo1 foo! <|STARTOFTEXT|>",
         {START, 320, 3208, 343, 612, 334, 3209, 612, 334, 272, 3209, 256, START, END},
         14},
    };
    (void)state;
    CHECK_FOLDER(folder_with("tokenizer_config.json", config), rows, END);
}

/* ------------------------------------------------------------------------------------ merges */

/* What each of the 256 bytes is called in a vocabulary, as the base tokenizer's own file has it:
 * the first 256 ids inside words, the next 256 at their ends. */
static void copy_bytes(json_t *out)
{
    json_t *vocab = json_load_file(BASE "/vocab.json", 0, NULL), *id;
    const char *token;
    assert_non_null(vocab);
    json_object_foreach(vocab, token, id) if (json_integer_value(id) < 512)
        json_object_set(out, token, id);
    assert_int_equal(json_object_size(out), 512);
    json_decref(vocab);
}

/* Pairs that give one token in two ways, and pairs whose outcome ranks before them. */
static void merges_go_by_rank_and_then_from_left_to_right(void **state)
{
    static const char merges[] = "#version: 0.2\nc d</w>\na b\nb c\nab c\na bc\nabc d</w>\nx x\n"
                                 "xx xx\nx xx\nab cd</w>\n";
    static const char *const tokens[] = {"cd</w>",          "ab",           "bc",   "abc",
                                         "abcd</w>",        "xx",           "xxxx", "xxx",
                                         "<|startoftext|>", "<|endoftext|>"};
    static const text_ids rows[] = {
        {"abcd", {520, 516, 521}, 3},
        {"abc", {520, 513, -'c', 521}, 4},
        {"bcd", {520, 'b', 512, 521}, 4},
        {"xxxxx", {520, 518, -'x', 521}, 4},
        {"xxxxxxx", {520, 518, 517, -'x', 521}, 5},
        {"ababcd", {520, 513, 516, 521}, 4},
        {"aabcx", {520, 'a', 515, -'x', 521}, 5},
    };
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    json_t *vocab = json_object();
    copy_bytes(vocab);
    for (int i = 0; i < 10; i++)
        json_object_set_new(vocab, tokens[i], json_integer(512 + i));
    char *text = json_dumps(vocab, 0);
    free(test_file(folder, "vocab.json", text, strlen(text)));
    free(test_file(folder, "merges.txt", merges, strlen(merges)));
    sara_tokenizer *tokenizer = load(ctx, folder);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int32_t ids[24];
        for (size_t j = 0; j < rows[i].count; j++) {
            int32_t id = rows[i].ids[j]; /* a letter inside a word, or negated at its end */
            char name[8] = {(char)abs(id), '\0'};
            if (id < 0)
                strcat(name, "</w>");
            ids[j] = id >= 512 ? id : (int32_t)json_integer_value(json_object_get(vocab, name));
        }
        check_ids(ctx, tokenizer, rows[i].text, ids, rows[i].count);
    }
    free(text);
    json_decref(vocab);
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
    test_folder_remove(folder);
}

static void need_built_in(void)
{
    if (!sara_tokenizer_has_builtin())
        fail_msg("the build has no CLIP vocabulary: vendor/clip_merges.txt was not there; "
                 "scripts/setup.sh fetches it (package open-clip-torch), then build again");
}

/* CLIP's own vocabulary, against transformers' CLIPTokenizer. */
static void built_in_vocabulary(void **state)
{
    static const int32_t cat[] = {49406, 320, 1125, 539, 320, 2368, 49407};
    static const int32_t odd[] = {49406, 328, 16384, 11231, 171, 105, 223, 1422,
                                  139,   225, 138,   109,   139, 481, 256, 49407};
    static const int32_t fox[] = {49406, 1097, 35689, 563, 15304, 6040, 488,
                                  847,   713,  272,   273, 274,   275,  49407};
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = NULL;
    int32_t padded[77];
    size_t cut;
    (void)state;
    need_built_in();
    assert_ok(ctx, sara_tokenizer_load_builtin(ctx, &tokenizer, false));
    assert_int_equal(sara_tokenizer_length(tokenizer), 77);
    assert_int_equal(sara_tokenizer_vocab_size(tokenizer), 49408);
    check_ids(ctx, tokenizer, "a photo of a cat", cat, 7);
    check_ids(ctx, tokenizer, "\u0130stanbul \ufb01ne \u03a3\u0391\u03a3!", odd, 16);
    check_ids(ctx, tokenizer, "na\u00efve caf\u00e9 \U0001F98A don't 1234", fox, 14);
    assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, &cut, ""));
    assert_int_equal(padded[76], 49407);
    sara_tokenizer_free(tokenizer);
    assert_ok(ctx, sara_tokenizer_load_builtin(ctx, &tokenizer, true));
    assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, &cut, ""));
    assert_int_equal(padded[76], 0);
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

static void built_in_vocabulary_as_a_folder(void **state)
{
    static const char text[] = "a red fox, 8k! <|endoftext|> caf\u00e9";
    sara_context *ctx = test_context();
    char *folder = test_folder();
    (void)state;
    need_built_in();
    for (int second = 0; second < 2; second++) {
        sara_tokenizer *built_in = NULL, *read = NULL;
        int32_t a[77], b[77];
        assert_ok(ctx, sara_tokenizer_save_builtin(ctx, folder, second));
        assert_ok(ctx, sara_tokenizer_load_builtin(ctx, &built_in, second));
        assert_ok(ctx, sara_tokenizer_load(ctx, &read, folder, 77));
        assert_ok(ctx, sara_tokenizer_pad(built_in, a, NULL, text));
        assert_ok(ctx, sara_tokenizer_pad(read, b, NULL, text));
        assert_memory_equal(a, b, sizeof(a));
        sara_tokenizer_free(built_in);
        sara_tokenizer_free(read);
    }
    test_folder_remove(folder);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_vocabulary),
        cmocka_unit_test(built_in_vocabulary_as_a_folder),
        cmocka_unit_test(golden_texts_give_the_ids_of_transformers),
        cmocka_unit_test(every_character_gives_the_ids_of_transformers),
        cmocka_unit_test(long_texts_give_the_ids_of_transformers),
        cmocka_unit_test(invalid_bytes_are_read_as_replacement_characters),
        cmocka_unit_test(special_tokens_of_sd1_are_found_as_their_flags_say),
        cmocka_unit_test(special_tokens_of_sd2_make_every_exclamation_mark_the_pad_token),
        cmocka_unit_test(names_in_other_cases_are_text_without_objects),
        cmocka_unit_test(added_tokens_are_found_in_any_case),
        cmocka_unit_test(added_tokens_keep_their_flags),
        cmocka_unit_test(merges_go_by_rank_and_then_from_left_to_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
