/* What becomes of captions, against what was recorded of kohya's rules: make_captions.py. */
#include "support_data.h"

#include <string.h>

#define SEED 7

static sara_caption_rules read_rules(const json_t *object)
{
    sara_caption_rules rules = {.separator = ","};
    const char *key;
    json_t *value;
    size_t known = 0;
    const struct {
        const char *name;
        const char **field;
    } texts[] = {{"prefix", &rules.prefix},
                 {"suffix", &rules.suffix},
                 {"separator", &rules.separator},
                 {"keep_tokens_separator", &rules.keep_tokens_separator},
                 {"secondary_separator", &rules.secondary_separator}};
    json_object_foreach((json_t *)object, key, value)
    {
        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
            if (strcmp(key, texts[i].name) == 0) {
                *texts[i].field = json_string_value(value);
                known++;
            }
        known += strcmp(key, "dropout_rate") == 0 || strcmp(key, "tag_dropout_rate") == 0 ||
                 strcmp(key, "dropout_every_n_epochs") == 0 || strcmp(key, "keep_tokens") == 0 ||
                 strcmp(key, "shuffle") == 0 || strcmp(key, "wildcard") == 0;
    }
    assert_int_equal(known, json_object_size(object));
    rules.dropout_rate = json_number_value(json_object_get(object, "dropout_rate"));
    rules.tag_dropout_rate = json_number_value(json_object_get(object, "tag_dropout_rate"));
    rules.dropout_every_n_epochs =
        json_integer_value(json_object_get(object, "dropout_every_n_epochs"));
    rules.keep_tokens = json_integer_value(json_object_get(object, "keep_tokens"));
    rules.shuffle = json_is_true(json_object_get(object, "shuffle"));
    rules.wildcard = json_is_true(json_object_get(object, "wildcard"));
    return rules;
}

static void check_case(data_test *test, const json_t *object)
{
    const sara_caption_rules rules = read_rules(json_object_get(object, "rules"));
    const char *caption = json_string_value(json_object_get(object, "caption"));
    const json_t *made = json_object_get(object, "made");
    bool varies = false;
    assert_int_equal(json_array_size(made), 8);
    for (size_t i = 0; i < 8; i++) {
        const char *expected = json_string_value(json_array_get(made, i));
        char *text;
        assert_ok(test->ctx, sara_caption_make(test->ctx, &text, &rules, caption, SEED, i, i / 2));
        assert_string_equal(text, expected);
        varies = varies || strcmp(expected, json_string_value(json_array_get(made, 0))) != 0;
        sara_free(test->ctx, text);
    }
    if (varies)
        assert_true(sara_caption_varies(&rules, caption));
}

static void test_recorded(void **state)
{
    data_test *test = *state;
    json_t *cases;
    assert_ok(test->ctx, sara_json_load(test->ctx, &cases, SARA_TEST_DATA "/captions.json", false));
    assert_int_equal(json_array_size(cases), 19);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(test, json_array_get(cases, i));
    json_decref(cases);
}

/* What is drawn at most decides: the share of captions and tags that are left out. */
static void test_shares(void **state)
{
    data_test *test = *state;
    const sara_caption_rules rules = {
        .separator = ",", .dropout_rate = 0.25, .tag_dropout_rate = 0.1};
    size_t empty = 0, tags = 0;
    char *text;
    for (uint64_t i = 0; i < 4000; i++) {
        assert_ok(test->ctx, sara_caption_make(test->ctx, &text, &rules, "a,b,c,d", 1, i, 0));
        empty += !*text;
        for (const char *at = text; *at; at++)
            tags += *at >= 'a' && *at <= 'd';
        sara_free(test->ctx, text);
    }
    assert_in_range(empty, 900, 1100);
    assert_in_range(tags, 10500, 11100); /* 4000 x 0.75 x 4 x 0.9 = 10800 */
}

static void test_fixed(void **state)
{
    const sara_caption_rules none = {.separator = ",", .prefix = "p", .keep_tokens = 2};
    const sara_caption_rules wild = {.separator = ",", .wildcard = true};
    (void)state;
    assert_false(sara_caption_varies(&none, "{a|b}\nc"));
    assert_false(sara_caption_varies(&wild, "plain, text"));
    assert_true(sara_caption_varies(&wild, "{a|b}"));
    assert_true(sara_caption_varies(&wild, "a\nb"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_recorded),
        DATA_TEST(test_shares),
        DATA_TEST(test_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
