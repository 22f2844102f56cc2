/* The lines that tell how far the program is. */
#include "../../src/cli/progress.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* What progress_show() writes. */
static const char *shown(progress_view *view, const sara_progress *progress)
{
    static char text[512];
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    assert_true(kept >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    progress_show(view, progress);
    fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void test_line(void **state)
{
    static const struct {
        double loss, rate, left;
        const char *line;
    } cases[] = {
        {(double)NAN, 2, 59.6, "cache 3/40  2.0/s  1:00 left\n"},
        {(double)NAN, 1, 5, "cache 3/40  1.0/s  0:05 left\n"},
        {0.12346, 0.25, 3599.4, "cache 3/40  loss 0.1235  4.0 s each  59:59 left\n"},
        {10, 0.8, 3599.6, "cache 3/40  loss 10.0000  1.2 s each  1:00:00 left\n"},
        {(double)NAN, 0, 7325, "cache 3/40  0.0/s  2:02:05 left\n"},
        {(double)NAN, 2, -1, "cache 3/40  2.0/s  0:00 left\n"},
        {(double)NAN, 2, 1e300, "cache 3/40  2.0/s  0:00 left\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        progress_view view = {.terminal = false};
        const sara_progress progress = {
            "cache", 3, 40, cases[i].loss, (double)NAN, cases[i].rate, cases[i].left};
        assert_string_equal(shown(&view, &progress), cases[i].line);
    }
}

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* A plain line each ten seconds, and at once those of another phase and the last. */
static void test_now_and_then(void **state)
{
    const sara_progress step = {"train", 3, 40, 1, 1, 1, 1}, last = {"train", 40, 40, 1, 1, 1, 0};
    const sara_progress other = {"cache", 3, 40, 1, 1, 1, 1};
    progress_view view = {.last_shown = seconds() - 8, .phase = "train"};
    (void)state;
    assert_string_equal(shown(&view, &step), "");
    assert_string_not_equal(shown(&view, &last), "");
    assert_string_equal(shown(&view, &step), "");
    assert_string_not_equal(shown(&view, &other), "");
    assert_string_not_equal(shown(&view, &step), "");
    view.last_shown = seconds() - 10.5;
    assert_string_not_equal(shown(&view, &step), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_line),
                                       cmocka_unit_test(test_now_and_then)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
