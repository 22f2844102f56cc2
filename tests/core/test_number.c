/* Numbers as text, and other text, whatever locale the host program has set. */
#include "support/support.h"

#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Stands in for the C library's, so that it can fail. */
static bool no_locale;
locale_t newlocale(int mask, const char *name, locale_t base)
{
    locale_t (*real)(int, const char *, locale_t);
    *(void **)&real = dlsym(RTLD_NEXT, "newlocale");
    if (no_locale)
        errno = ENOMEM;
    return no_locale ? (locale_t)0 : real(mask, name, base);
}

static char host[64]; /* what the host program's own printf makes of 1234.5 */

static void set_locale(const char *name)
{
    test_set_locale(name);
    snprintf(host, sizeof(host), "%.1f", 1234.5);
    assert_string_not_equal(host, "1234.5");
}

/* The locale is again what it was. */
static void assert_kept(locale_t expected)
{
    char now[64];
    assert_true(uselocale((locale_t)0) == expected);
    snprintf(now, sizeof(now), "%.1f", 1234.5);
    assert_string_equal(now, host);
}

static const char *const names[] = {"de_DE.UTF-8", "ps_AF.UTF-8"};
#define NAMES (sizeof(names) / sizeof(*names))

static void parse_all(void)
{
    static const struct {
        const char *text;
        double number;
        size_t read;
    } cases[] = {{"5.8%", 5.8, 3}, {"2e-3", 2e-3, 4},       {"1,5", 1, 1},
                 {"0.1", 0.1, 3},  {"x", 0, 0},             {"1.234.567", 1.234, 5},
                 {"", 0, 0},       {"1.7976931348623157e308", 1.7976931348623157e308, 22}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *end = NULL;
        assert_true(sara_parse_double(cases[i].text, &end) == cases[i].number);
        assert_ptr_equal(end, cases[i].text + cases[i].read);
    }
    char *end;
    errno = 0;
    assert_true(isinf(sara_parse_double("1e999", &end)));
    assert_int_equal(errno, ERANGE);
}

static void test_parse(void **state)
{
    (void)state;
    parse_all();
    for (size_t i = 0; i < NAMES; i++) {
        set_locale(names[i]);
        parse_all();
        assert_kept(LC_GLOBAL_LOCALE);
        setlocale(LC_ALL, "C");
    }
}

static char logged[256];
static void keep_log(void *user, sara_log_level level, const char *line)
{
    (void)user;
    (void)level;
    snprintf(logged, sizeof(logged), "%s", line);
}

/* Each way to format that the core has. */
static void print_all(sara_context *ctx)
{
    char text[64], *made = NULL;
    sara_bytes_text bytes;
    assert_int_equal(sara_print(text, sizeof(text), "%g %.2f %d", 0.5, 1e6, 7), 16);
    assert_string_equal(text, "0.5 1000000.00 7");
    assert_int_equal(sara_print(text, 3, "%g", 0.25), 4);
    assert_string_equal(text, "0.");
    assert_int_equal(sara_print(NULL, 0, "%e", 1.5), 12);
    assert_ok(ctx, sara_format(ctx, &made, "%.17g", 0.002));
    assert_string_equal(made, "0.002");
    sara_free(ctx, made);
    assert_string_equal(sara_name_of("%a", 0.75).text, "0x1.8p-1");
    assert_string_equal(sara_bytes_format(&bytes, (uint64_t)5 << 29), "2.50 GiB");
    assert_int_equal(sara_fail(ctx, SARA_ERROR_IO, "%G", 1e-9), SARA_ERROR_IO);
    assert_string_equal(sara_context_error(ctx), "1E-09");
    sara_log(ctx, SARA_LOG_INFO, "loss %.4f", 0.125);
    assert_string_equal(logged, "loss 0.1250");
}

static void test_print(void **state)
{
    (void)state;
    const sara_context_options options = {.threads = 1, .log = keep_log};
    sara_context *ctx = NULL;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    print_all(ctx);
    for (size_t i = 0; i < NAMES; i++) {
        set_locale(names[i]);
        print_all(ctx);
        assert_kept(LC_GLOBAL_LOCALE);
        setlocale(LC_ALL, "C");
    }
    sara_context_free(ctx);
}

/* A thread of the host may have a locale of its own. */
static void test_thread_locale(void **state)
{
    (void)state;
    char text[16];
    set_locale(names[0]);
    locale_t own = duplocale(LC_GLOBAL_LOCALE);
    assert_true(own != (locale_t)0);
    setlocale(LC_ALL, "C");
    uselocale(own);
    parse_all();
    sara_print(text, sizeof(text), "%.1f", 1234.5);
    assert_kept(own);
    uselocale(LC_GLOBAL_LOCALE);
    freelocale(own);
    assert_string_equal(text, "1234.5");
}

/* Each thread's numbers are its own affair: the others print with the host's comma meanwhile. */
static void test_threads(void **state)
{
    (void)state;
    int wrong = 0;
    set_locale(names[0]);
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int i = 0; i < 20000; i++) {
        char ours[16], theirs[16], *end;
        sara_print(ours, sizeof(ours), "%.1f", 1234.5);
        snprintf(theirs, sizeof(theirs), "%.1f", 1234.5);
        wrong += strcmp(ours, "1234.5") != 0 || strcmp(theirs, host) != 0;
        wrong += sara_parse_double(ours, &end) != 1234.5;
    }
    setlocale(LC_ALL, "C");
    assert_int_equal(wrong, 0);
}

static void test_without_memory(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char text[16] = "before", *end = NULL, *made = text;
    set_locale(names[0]);
    no_locale = true;
    assert_true(sara_parse_double("1.5", &end) == 0 && *end == '1');
    assert_int_equal(sara_print(text, sizeof(text), "%.1f", 1234.5), -1);
    assert_string_equal(text, "");
    assert_int_equal(sara_format(ctx, &made, "%g", 0.5), SARA_ERROR_MEMORY);
    assert_null(made);
    no_locale = false;
    assert_kept(LC_GLOBAL_LOCALE);
    setlocale(LC_ALL, "C");
    sara_context_free(ctx);
}

static void test_other_text(void **state)
{
    (void)state;
    char buffer[128];
    test_set_locale("tr_TR.ISO-8859-9");
    assert_true(sara_text_same(".GIF", ".gif") && sara_text_same("", ""));
    assert_false(sara_text_same(".gif", ".gi") || sara_text_same(".gi", ".gif"));
    assert_false(sara_text_same("\xdd", "i") || sara_text_same("[", "{"));
    assert_string_equal(sara_errno_text(buffer, ENOSPC), "No space left on device");
    setlocale(LC_ALL, "C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),          cmocka_unit_test(test_print),
        cmocka_unit_test(test_thread_locale),  cmocka_unit_test(test_threads),
        cmocka_unit_test(test_without_memory), cmocka_unit_test(test_other_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
