/* JSON text and typed access to a config's fields. */
#include "support_io.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>

static sara_context *ctx;

static int setup(void **state)
{
    (void)state;
    ctx = test_context();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sara_context_free(ctx);
    return 0;
}

static json_t *parse(const char *text, bool lenient)
{
    json_t *value = NULL;
    assert_ok(ctx, sara_json_parse(ctx, &value, text, strlen(text), "c.json", lenient));
    return value;
}

static void refuse_bytes(const char *text, size_t size, bool lenient, const char *part)
{
    json_t *value = NULL;
    assert_refused(ctx, SARA_ERROR_INPUT, part,
                   sara_json_parse(ctx, &value, text, size, "c.json", lenient));
    assert_null(value);
}

static void refuse(const char *text, const char *part)
{
    refuse_bytes(text, strlen(text), false, part);
    refuse_bytes(text, strlen(text), true, part);
}

static void test_refuses(void **state)
{
    (void)state;
    refuse("", "c.json: line 1 column 1: ");
    refuse("{\"a\":1,}", "c.json: line 1 column ");
    refuse("{\n \"a\": 1\n \"b\"}", "c.json: line 3 column ");
    refuse("{\"a\":1,\"\\u0061\":2}", "duplicate object key");
    refuse("{\"a\":\"\xff\"}", "c.json: line 1 column ");
    refuse("{\"a\":\"\\ud800\"}", "c.json: line 1 column ");
    refuse("{\"a\\u0000b\":1}", "c.json: line 1 column ");
    refuse("[1e309]", "real number overflow");
    refuse("[99999999999999999999]", "too big integer");
    refuse("[nan]", "c.json: line 1 column ");
    refuse("[NaNs]", "c.json: line 1 column ");
    refuse("{NaN:1}", "c.json: line 1 column ");
    refuse("[1] 2", "c.json: line 1 column ");
    refuse("\xef\xbb\xbf{}", "c.json: line 1 column ");
    refuse_bytes("[1,\0 2]", 7, false, "c.json: line 1 column ");
}

static void test_not_finite_only_if_lenient(void **state)
{
    (void)state;
    refuse_bytes("[NaN]", 5, false, "c.json: line 1 column ");
    refuse_bytes("[-Infinity]", 11, false, "c.json: line 1 column ");
    json_t *list = parse("[NaN, Infinity,-Infinity, 1, 2.5, \"NaN\", \"a\\\"Infinity\"]", true);
    const double expected[] = {NAN, INFINITY, -INFINITY, 1, 2.5};
    double number;
    for (size_t i = 0; i < 5; i++) {
        assert_true(sara_json_number(&number, json_array_get(list, i)));
        assert_true(isnan(expected[i]) ? isnan(number) : number == expected[i]);
    }
    assert_string_equal(json_string_value(json_array_get(list, 5)), "NaN");
    assert_string_equal(json_string_value(json_array_get(list, 6)), "a\"Infinity");
    assert_false(sara_json_number(&number, json_array_get(list, 5)));
    assert_false(sara_json_number(&number, list));
    assert_false(sara_json_number(&number, NULL));
    json_decref(list);
}

/* The stand-ins must not move the place that an error names. */
/* As Python's json writes them, however jansson lays the text out; strings stay. */
static void test_not_finite_dumped(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[NaN,1,-Infinity],\"b\":Infinity,\"c\":\"NaN {\\\"\x7f"
                               "not finite\\\":0}\"}";
    json_t *value = parse(text, true), *again;
    char *compact = sara_json_dump(value, JSON_COMPACT | JSON_SORT_KEYS);
    char *wide = sara_json_dump(value, JSON_INDENT(2) | JSON_SORT_KEYS);
    assert_string_equal(compact, text);
    assert_non_null(strstr(wide, "    -Infinity\n  ],\n  \"b\": Infinity,\n"));
    again = parse(wide, true);
    assert_true(json_equal(again, value));
    json_decref(again);
    json_decref(value);
    free(compact);
    free(wide);
}

static void test_column_after_not_finite(void **state)
{
    (void)state;
    refuse_bytes("[NaN, Infinity, x]", 18, true,
                 "c.json: line 1 column 18: invalid token near 'x'");
    refuse_bytes("[1.5, 10000000, x]", 18, true,
                 "c.json: line 1 column 18: invalid token near 'x'");
}

static void test_depth(void **state)
{
    (void)state;
    char text[300];
    memset(text, '[', 128);
    memset(text + 128, ']', 128);
    text[256] = '\0';
    json_decref(parse(text, false));
    memset(text, '[', 129);
    memset(text + 129, ']', 129);
    text[258] = '\0';
    refuse(text, "c.json: line 1 column 129: nested more than 128 deep");
    json_decref(parse("[\"[[[[[[[[\\\"]\"]", false));
    char *deep = malloc(100001);
    assert_non_null(deep);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    refuse(deep, "nested more than 128 deep");
    free(deep);
}

static void test_many_values(void **state)
{
    (void)state;
    size_t size = 3000000;
    char *text = malloc(size + 1);
    assert_non_null(text);
    for (size_t i = 0; i < size; i += 3)
        memcpy(text + i, "[],", 3);
    text[0] = '[';
    text[size] = '\0';
    refuse(text, "more than 1000000 values");
    free(text);
}

/* Where the decimal point is a comma, and where it has two bytes. */
static void test_locale(void **state)
{
    (void)state;
    const char *const names[] = {"de_DE.UTF-8", "ps_AF.UTF-8"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        double number = 0;
        test_set_locale(names[i]);
        json_t *value = parse("[0.125,-2.5e-3,NaN]", true);
        char *text = sara_json_dump(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
        assert_true(sara_json_number(&number, json_array_get(value, 0)));
        setlocale(LC_ALL, "C");
        assert_true(number == 0.125);
        assert_string_equal(text, "[0.125,-0.0025,NaN]");
        json_decref(value);
        free(text);
    }
}

static void test_load(void **state)
{
    (void)state;
    json_t *value = NULL;
    assert_ok(ctx, sara_json_load(ctx, &value, SARA_TEST_EMOJI "/base/unet/config.json", true));
    assert_string_equal(json_string_value(json_object_get(value, "_class_name")),
                        "UNet2DConditionModel");
    json_decref(value);
    assert_refused(ctx, SARA_ERROR_IO, "/absent.json: cannot open",
                   sara_json_load(ctx, &value, "/absent.json", false));
    assert_null(value);
}

static void test_config(void **state)
{
    (void)state;
    json_t *object = parse("{\"i\":3,\"d\":1e-5,\"b\":false,\"s\":\"x\",\"n\":null,\"l\":[1,2,3],"
                           "\"low\":-Infinity,\"nan\":NaN,\"o\":{},\"big\":70000}",
                           true);
    const sara_config config = {ctx, object, "c.json"};
    int64_t number = 0, list[4];
    double real = 0;
    bool flag = true;
    const char *text = NULL;
    int count = 0;
    assert_ok(ctx, sara_config_int(&config, &number, "i", 1, 0, 3));
    assert_int_equal(number, 3);
    assert_ok(ctx, sara_config_int(&config, &number, "n", 7, 0, 3));
    assert_int_equal(number, 7);
    assert_ok(ctx, sara_config_int(&config, &number, "absent", 8, 0, 3));
    assert_int_equal(number, 8);
    assert_ok(ctx, sara_config_double(&config, &real, "d", 1, 0, 1));
    assert_true(real == 1e-5);
    assert_ok(ctx, sara_config_double(&config, &real, "i", 1, 0, 10));
    assert_true(real == 3);
    assert_ok(ctx, sara_config_double(&config, &real, "low", 1, -INFINITY, 0));
    assert_true(real == -INFINITY);
    assert_ok(ctx, sara_config_double(&config, &real, "n", 1.5, 0, 1));
    assert_true(real == 1.5);
    assert_ok(ctx, sara_config_bool(&config, &flag, "b", true));
    assert_false(flag);
    assert_ok(ctx, sara_config_bool(&config, &flag, "absent", true));
    assert_true(flag);
    assert_ok(ctx, sara_config_string(&config, &text, "s", NULL));
    assert_string_equal(text, "x");
    assert_ok(ctx, sara_config_string(&config, &text, "absent", NULL));
    assert_null(text);
    assert_ok(ctx, sara_config_ints(&config, list, &count, "l", 3, 4, 1, 3));
    assert_int_equal(count, 3);
    assert_int_equal(list[2], 3);
    assert_ok(ctx, sara_config_ints(&config, list, &count, "i", 4, 4, 1, 3));
    assert_int_equal(count, 4);
    assert_int_equal(list[3], 3);
    assert_ok(ctx, sara_config_ints(&config, list, &count, "i", 0, 4, 1, 3));
    assert_int_equal(count, 1);
    assert_ok(ctx, sara_config_ints(&config, list, &count, "n", 3, 4, 1, 3));
    assert_int_equal(count, 0);
    json_decref(object);
}

static void test_config_refuses(void **state)
{
    (void)state;
    json_t *object = parse("{\"i\":3,\"d\":1e-5,\"b\":false,\"s\":\"x\",\"l\":[1,2,\"3\"],"
                           "\"low\":-Infinity,\"nan\":NaN,\"o\":{},\"f\":3.0}",
                           true);
    const sara_config config = {ctx, object, "c.json"}, list_config = {ctx, json_array(), "c.json"};
    int64_t number = 5, list[4];
    double real = 5;
    bool flag = true;
    const char *text = "t";
    int count = 1;
    const sara_status bad = SARA_ERROR_INPUT;
    assert_refused(ctx, bad, "c.json: i: 3, expected an integer in [4, 9]",
                   sara_config_int(&config, &number, "i", 1, 4, 9));
    assert_refused(ctx, bad, "c.json: i: 3, expected an integer in [0, 2]",
                   sara_config_int(&config, &number, "i", 1, 0, 2));
    assert_refused(ctx, bad, "c.json: f: 3, expected an integer",
                   sara_config_int(&config, &number, "f", 1, 0, 9));
    assert_refused(ctx, bad, "c.json: b: false, expected an integer",
                   sara_config_int(&config, &number, "b", 1, 0, 9));
    assert_refused(ctx, bad, "c.json: low: -inf, expected an integer",
                   sara_config_int(&config, &number, "low", 1, 0, 9));
    assert_refused(ctx, bad, "c.json: s: \"x\", expected a number in [0, 1]",
                   sara_config_double(&config, &real, "s", 1, 0, 1));
    assert_refused(ctx, bad, "c.json: nan: nan, expected a number in [-inf, inf]",
                   sara_config_double(&config, &real, "nan", 1, -INFINITY, INFINITY));
    assert_refused(ctx, bad, "c.json: low: -inf, expected a number in [0, 1]",
                   sara_config_double(&config, &real, "low", 1, 0, 1));
    assert_refused(ctx, bad, "c.json: i: 3, expected true or false",
                   sara_config_bool(&config, &flag, "i", true));
    assert_refused(ctx, bad, "c.json: o: an object, expected a string",
                   sara_config_string(&config, &text, "o", NULL));
    assert_refused(ctx, bad, "c.json: l: \"3\", expected an integer in [1, 3]",
                   sara_config_ints(&config, list, &count, "l", 3, 4, 1, 3));
    assert_int_equal(count, 0);
    assert_refused(ctx, bad, "c.json: l: a list of 3, expected of 2",
                   sara_config_ints(&config, list, &count, "l", 2, 4, 1, 3));
    assert_refused(ctx, bad, "c.json: l: a list of 3, expected of at most 2",
                   sara_config_ints(&config, list, &count, "l", 0, 2, 1, 3));
    assert_refused(ctx, bad, "c.json: o: an object, expected an integer",
                   sara_config_ints(&config, list, &count, "o", 0, 2, 1, 3));
    assert_refused(ctx, bad, "c.json: a list, expected an object",
                   sara_config_int(&list_config, &number, "i", 1, 0, 9));
    assert_int_equal(number, 5);
    assert_true(real == 5 && flag && text[0] == 't');
    json_decref((json_t *)list_config.object);
    json_decref(object);
}

/* 0.1 + 0.2 needs 17 digits, 0.18215 five. */
static void test_shortest_numbers(void **state)
{
    json_t *plain = json_pack("[f, f, i]", 0.18215, 1e-5, 7);
    json_t *longer = json_pack("[f]", 0.1 + 0.2);
    char *text = sara_json_dump(plain, JSON_COMPACT);
    (void)state;
    assert_string_equal(text, "[0.18215,1e-5,7]");
    free(text);
    text = sara_json_dump(longer, JSON_COMPACT);
    assert_string_equal(text, "[0.30000000000000004]");
    free(text);
    text = sara_json_dump(longer, JSON_COMPACT | JSON_REAL_PRECISION(9));
    assert_string_equal(text, "[0.3]");
    free(text);
    json_decref(plain);
    json_decref(longer);
}

static sara_status parse_lenient(sara_context *c, const char *text)
{
    json_t *value = NULL;
    sara_status status = sara_json_parse(c, &value, text, strlen(text), "c.json", true);
    json_decref(value);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(parse_lenient, "{\"a\":NaN}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_finite_only_if_lenient, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_finite_dumped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_column_after_not_finite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locale, setup, teardown),
        cmocka_unit_test_setup_teardown(test_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shortest_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
