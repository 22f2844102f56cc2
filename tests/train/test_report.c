/* report.html from a log, an identity and a folder of samples made by hand. */
#include "support_train.h"

#include "support/memory.h"

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

static const char *const prompts[] = {"<script>alert(1)</script>", "b"};

/* The report of the log that is there and of an identity. */
static const char *report_of(page *p, const char *identity)
{
    sara_run_facts facts = {.prompts = prompts, .prompt_count = 2, .result = "result.bin"};
    json_t *object = NULL;
    char *path = NULL;
    size_t size;
    assert_ok(p->ctx, sara_json_parse(p->ctx, &object, identity, strlen(identity), "test", true));
    facts.identity = object;
    assert_ok(p->ctx, sara_run_report(&p->run, &facts));
    json_decref(object);
    assert_ok(p->ctx, sara_path_join(p->ctx, &path, p->folder, "report.html"));
    sara_free(p->ctx, p->text);
    assert_ok(p->ctx, sara_file_read(p->ctx, &p->text, &size, path, 1 << 20));
    sara_free(p->ctx, path);
    return p->text;
}

static const char *report(page *p, const char *log, const char *identity)
{
    free(test_file(p->folder, "log.jsonl", log, strlen(log)));
    return report_of(p, identity);
}

static void holds(const char *text, const char *part)
{
    test_assert_contains(text, part, __FILE__, __LINE__);
}

static int times(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        count++;
    return count;
}

/* Each key is a plot; a text that says where it begins and ends. */
static void test_curves(void **state)
{
    static const char log[] =
        "{\"step\":1,\"loss\":4,\"grad_norm\":1.5,\"rank_loss\":0.25,\"lr\":0.01,\"seconds\":1}\n"
        "{\"event\":\"reselect\",\"before_step\":2,\"active\":3}\n"
        "{\"event\":\"skipped\",\"after_step\":1}\n"
        "{\"step\":2,\"loss\":2,\"grad_norm\":2.5,\"rank_loss\":0.5,\"lr\":0.02,\"seconds\":2,"
        "\"small_still_small\":0.75,\"large_now_small\":null}\n"
        "{\"step\":4,\"loss\":1,\"grad_norm\":3.5,\"rank_loss\":0.125,\"lr\":0.03,\"seconds\":0,"
        "\"small_still_small\":0.5,\"large_now_small\":0.0625}\n";
    test_put(((page *)*state)->folder, "result.bin", log, 256);
    const char *text =
        report(*state, log, "{\"method\":\"sara\",\"selected\":5,\"parameters\":200}");
    holds(text,
          "<p dir=\"auto\">sara: 3 steps (1 more were not finite and were skipped), 5 entries "
          "trained (2.5 % of 200), 1.000 s a step; result.bin, 0.2 KiB.</p>");
    holds(text, ">Loss over 3 steps, from 4 to 1.</desc>");
    holds(text, ">Norm of the gradient, before clipping over 3 steps, from 1.5 to 3.5.</desc>");
    holds(text, ">Low-rank term over 3 steps, from 0.25 to 0.125.</desc>");
    holds(text, ">Learning rate over 3 steps, from 0.01 to 0.03.</desc>");
    holds(text, "became small over 2 steps, from 0.75 to 0.5.</desc>");
    assert_int_equal(times(text, ">reselection</text>"), 5);
    assert_int_equal(times(text, "<svg viewBox=\"0 0 540"), 5);
}

/* What a log may come to: nothing, one step, damage, no numbers, a line of any length. */
static void test_damage(void **state)
{
    static char line[20001];
    page *p = *state;
    char *log = NULL;
    holds(report(p, "", "{}"), "The log has no steps.");
    holds(report(p, "{\"step\":1,\"loss\":4}\n", "{}"), ">Loss over 1 steps, from 4 to 4.</desc>");
    memset(line, 'x', 20000);
    assert_ok(p->ctx, sara_format(p->ctx, &log,
                                  "{\"step\":1,\"loss\":4}\n%s\n{\"step\":2,\"loss\":NaN}\n"
                                  "\x01\xff\n\n{\"step\":3,\"loss\":\"<b>\"}\n[]\n1\n"
                                  "{\"step\":4,\"loss\":2}\n{\"step\":5,\"lo",
                                  line));
    holds(report(p, log, "{}"), ">Loss over 2 steps, from 4 to 2.</desc>");
    sara_free(p->ctx, log);
    assert_null(strstr(p->text, "<b>"));
    assert_null(strstr(p->text, "nan"));
}

/* 100,000 steps: a page of bounded size, which shows all. */
static void test_long(void **state)
{
    page *p = *state;
    char *path = NULL;
    assert_ok(p->ctx, sara_path_join(p->ctx, &path, p->folder, "log.jsonl"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 1; i <= 100000; i++)
        fprintf(file, "{\"step\":%d,\"loss\":0.%04d,\"lr\":1e-4,\"grad_norm\":%d}\n", i,
                i * 7919 % 10000, i % 13);
    fclose(file);
    sara_free(p->ctx, path);
    holds(report_of(p, "{}"), ">Loss over 100000 steps, from 0.");
    assert_true(strlen(p->text) < 200000);
}

static void test_settings(void **state)
{
    static const char identity[] = "{\"a&b\":\"<i>\\\"it's\\\"\\u0001\\u0085\\u009f\\u00a0\","
                                   "\"none\":null,\"seed\":42,\"rank\":4,\"resolution\":0.002}";
    const char *text = report(*state, "", identity);
    holds(text, "<details><summary dir=\"auto\">Method</summary>");
    holds(text, "<tr><td dir=\"auto\">a&amp;b</td><td dir=\"auto\">&lt;i&gt;&quot;it&#39;s&quot;   "
                "\u00a0</td></tr>");
    holds(text, "<tr><td dir=\"auto\">resolution</td><td dir=\"auto\">0.002</td></tr>");
    assert_null(strstr(text, "none</td>"));
    const char *order[] = {"Method</summary>", ">rank</td>",          "Data</summary>",
                           ">resolution</td>", "Optimiser</summary>", ">seed</td>",
                           "Model</summary>",  ">a&amp;b</td>"};
    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++)
        assert_non_null(text = strstr(text, order[i]));
}

static void put_picture(page *p, const char *name)
{
    static const char picture[24] = "\x89PNG\r\n\x1a\n";
    test_put(p->folder, sara_name_of("samples/%s", name).text, picture, sizeof(picture));
}

/* Only what a run writes there; prompts are rows, steps columns in their order. */
static void test_pictures(void **state)
{
    static const char *const names[] = {
        "step-1000000-0.png", "step-000002-0.png.html", "step-x.PNG",        "step-<b>.png",
        "other.png",          "step-000001-1.png",      "step-000001-2.png", "step-00001-1.png",
        "step-000007-0.png"};
    page *p = *state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        put_picture(p, names[i]);
    test_put(p->folder, "samples/step-000007-0.png", "damage", 6);
    const char *text = report(p, "", "{}");
    assert_int_equal(times(text, "<img "), 3);
    holds(text, "3 of 3 steps with pictures, 3 of 3 prompts");
    holds(text, "step 1</th><th scope=\"col\" dir=\"auto\">step 7</th>"
                "<th scope=\"col\" dir=\"auto\">step 1000000</th>");
    holds(text, "&lt;script&gt;alert(1)&lt;/script&gt;</th><td>–</td><td>–</td><td><img");
    holds(text, "dir=\"auto\">b</th><td><img class=\"small\" alt=\"b, step 1\" "
                "src=\"data:image/png;base64,iVBORw0KGgo");
    holds(text, "prompt 2</th><td><img");
    assert_null(strstr(text, "<script"));
}

/* Of 30 steps eight, the first and the last among them. */
static void test_many_pictures(void **state)
{
    page *p = *state;
    for (int i = 1; i <= 30; i++)
        put_picture(p, sara_name_of("step-%06d-0.png", i * 10).text);
    const char *text = report(p, "", "{}");
    assert_int_equal(times(text, "<img "), 8);
    holds(text, "8 of 30 steps with pictures");
    holds(text, ">step 10</th>");
    holds(text, ">step 50</th>");
    holds(text, ">step 300</th>");
}

static sara_status report_again(sara_context *ctx, const char *folder)
{
    json_t *identity = NULL;
    sara_run run;
    sara_status status;
    TRY(sara_run_open(ctx, &run, folder));
    identity = json_pack("{s:s,s:i}", "method", "sara", "seed", 1);
    status = sara_run_report(&run, &(sara_run_facts){identity, prompts, 2, "step-000001-0.png"});
    json_decref(identity);
    sara_run_close(&run);
done:
    return status;
}

static void test_memory(void **state)
{
    page *p = *state;
    put_picture(p, "step-000001-0.png");
    report(p, "{\"step\":1,\"loss\":4}\n{\"step\":2,\"loss\":3}\n", "{}");
    sara_run_close(&p->run); /* gives its lock back */
    test_every_allocation(report_again, p->folder);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_curves),   CASE(test_damage),        CASE(test_long),  CASE(test_settings),
        CASE(test_pictures), CASE(test_many_pictures), CASE(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
