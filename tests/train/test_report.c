/* report.html from a log, an identity and a folder of samples made by hand. */
#include "support_train.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct page {
    char *folder;
    sara_context *ctx;
    sara_run run;
    char *text;
} page;

static int setup(void **state)
{
    page *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    p->folder = test_folder();
    p->ctx = test_context();
    assert_ok(p->ctx, sara_run_open(p->ctx, &p->run, p->folder));
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    page *p = *state;
    sara_run_close(&p->run);
    sara_free(p->ctx, p->text);
    sara_context_free(p->ctx);
    test_folder_remove(p->folder);
    free(p);
    return 0;
}

/* The report of a log and of an identity. */
static const char *report(page *p, const char *log, const char *identity)
{
    json_t *object = NULL;
    char *path = NULL;
    size_t size;
    free(test_file(p->folder, "log.jsonl", log, strlen(log)));
    assert_ok(p->ctx, sara_json_parse(p->ctx, &object, identity, strlen(identity), "test", true));
    assert_ok(p->ctx, sara_run_report(&p->run, object));
    json_decref(object);
    assert_ok(p->ctx, sara_path_join(p->ctx, &path, p->folder, "report.html"));
    sara_free(p->ctx, p->text);
    assert_ok(p->ctx, sara_file_read(p->ctx, &p->text, &size, path, 1 << 20));
    sara_free(p->ctx, path);
    return p->text;
}

static void holds(const char *text, const char *part)
{
    test_assert_contains(text, part, __FILE__, __LINE__);
}

/* From left to right over 720, the highest loss at 5, the lowest at 215. */
static void test_curve(void **state)
{
    static const char log[] = "{\"step\":1,\"loss\":4}\n{\"event\":\"skipped\"}\n{\"step\":2,"
                              "\"loss\":2}\n{\"step\":3,\"loss\":3}\n{\"step\":4,\"loss\":1}\n";
    const char *text = report(*state, log, "{}");
    holds(text, "points=\"0.0,5.0 240.0,145.0 480.0,75.0 720.0,215.0 \"");
    holds(text, "Loss over 4 steps, from 4 down to 1 (means of 4 stretches).");
    holds(report(*state, "{\"step\":1,\"loss\":4}\n", "{}"), "Too few steps for a curve.");
    text = report(*state, "{\"loss\":2}\n{\"loss\":2}\n", "{}");
    holds(text, "points=\"0.0,110.0 720.0,110.0 \"");
}

/* 240 losses 0, 2, 4 ... 478 in 120 pairs, whose means are 1, 5, 9 ... 477. */
static void test_means(void **state)
{
    char log[8192];
    size_t used = 0;
    for (int i = 0; i < 240; i++)
        used += (size_t)snprintf(log + used, sizeof(log) - used, "{\"loss\":%d}\n", 2 * i);
    const char *text = report(*state, log, "{}");
    holds(text, "Loss over 240 steps, from 477 down to 1 (means of 120 stretches).");
    holds(text, "points=\"0.0,215.0 6.1,213.2 12.1,211.5 ");
    holds(text, " 720.0,5.0 \"");
}

static void test_escaping(void **state)
{
    static const char identity[] = "{\"a&b\":\"<i>\\\"it's\\\"\\u0001\\u0085\\u009f\\u00a0\","
                                   "\"none\":null,\"number\":0.002}";
    const char *text = report(*state, "", identity);
    holds(text, "<tr><td>a&amp;b</td><td>&lt;i&gt;&quot;it&#39;s&quot;   \u00a0</td></tr>");
    holds(text, "<tr><td>number</td><td>0.002</td></tr>");
    assert_null(strstr(text, "none</td>"));
}

/* Only what a run writes there. */
static void test_samples(void **state)
{
    static const char *const names[] = {"step-000002-0.png", "step-000002-0.png.html", "step-x.PNG",
                                        "step-<b>.png", "other.png", "step-000001-1.png"};
    page *p = *state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        test_put(p->folder, sara_name_of("samples/%s", names[i]).text, "x", 1);
    const char *text = report(p, "", "{}");
    int figures = 0;
    for (const char *at = text; (at = strstr(at, "<img ")); at++)
        figures++;
    assert_int_equal(figures, 2);
    holds(text, "<img src=\"samples/step-000001-1.png\" alt=\"\">"
                "<figcaption>step-000001-1.png</figcaption></figure>"
                "<figure><img src=\"samples/step-000002-0.png\"");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {CASE(test_curve), CASE(test_means), CASE(test_escaping),
                                       CASE(test_samples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
