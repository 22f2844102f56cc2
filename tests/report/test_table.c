/* Tables as HTML and as Markdown: which cells are the best, how numbers print. */
#include "support_report.h"

static const sara_column columns[] = {{.name = "method"},
                                      {.name = "FID", .better = SARA_BETTER_LOW, .digits = 1},
                                      {"CLIP", "score", SARA_BETTER_HIGH, 2},
                                      {.name = "size", .digits = 0}};

static sara_table table_of(const sara_cell *cells, size_t rows)
{
    return (sara_table){.columns = columns, .column_count = 4, .cells = cells, .row_count = rows};
}

static void assert_markdown(const sara_table *table, const char *expected)
{
    sara_context *ctx = test_context();
    sara_buffer out = {.ctx = ctx};
    assert_ok(ctx, sara_table_markdown(&out, table));
    assert_string_equal(out.data, expected);
    sara_buffer_free(&out);
    sara_context_free(ctx);
}

#define HEAD   "| method | FID ↓ | CLIP ↑, score | size |\n|---|---:|---:|---:|\n"
#define NUMBER SARA_CELL_NUMBER

static void test_best(void **state)
{
    const sara_cell clip = {.value = 25.5, .spread = 0.25};
    const sara_cell cells[] = {SARA_CELL_TEXT("a"),
                               NUMBER(10.04),
                               clip,
                               NUMBER(3),
                               SARA_CELL_TEXT("b"),
                               NUMBER(9.96),
                               NUMBER(25.254),
                               NUMBER(4),
                               SARA_CELL_TEXT("c"),
                               NUMBER(NAN),
                               NUMBER(INFINITY),
                               NUMBER(-0.2),
                               SARA_CELL_TEXT("d"),
                               NUMBER(10.3),
                               NUMBER(-1),
                               SARA_CELL_TEXT("none")};
    const sara_table table = table_of(cells, 4);
    sara_page page = test_page();
    (void)state;
    assert_markdown(&table, HEAD "| a | **10.0 ★** | **25.50 ± 0.25 ★** | 3 |\n"
                                 "| b | **10.0 ★** | 25.25 | 4 |\n" /* prints alike */
                                 "| c | – | inf | 0 |\n"
                                 "| d | 10.3 | -1.00 | none |\n");
    assert_ok(page.ctx, sara_page_table(&page, &table));
    test_page_holds(&page, "<td class=\"n best\"><strong>10.0\u00A0★</strong></td>", 2);
    test_page_holds(&page, "<td class=\"n best\"><strong>25.50 ±\u00A00.25\u00A0★</strong></td>",
                    1);
    test_page_holds(&page, "★", 3);
    test_page_holds(&page, "<th scope=\"col\" class=\"n\">CLIP\u00A0↑<br>score</th>", 1);
    test_page_holds(&page, "<td dir=\"auto\">none</td>", 1);
    test_page_free(&page);
}

/* Nothing is the best of one, nor of values that print alike. */
static void test_no_best(void **state)
{
    const sara_cell cells[] = {SARA_CELL_TEXT("a"), NUMBER(10.04), NUMBER(NAN), NUMBER(3),
                               SARA_CELL_TEXT("b"), NUMBER(10.01), NUMBER(2),   NUMBER(4)};
    const sara_table table = table_of(cells, 2);
    (void)state;
    assert_markdown(&table, HEAD "| a | 10.0 | – | 3 |\n| b | 10.0 | 2.00 | 4 |\n");
}

/* What the others are seen against is neither the best nor makes another the best. */
static void test_beside(void **state)
{
    const sara_cell base = {.value = 1, .spread = NAN, .beside = true};
    const sara_cell cells[] = {SARA_CELL_TEXT("base"), base,       base,      NUMBER(3),
                               SARA_CELL_TEXT("a"),    NUMBER(10), NUMBER(2), NUMBER(4),
                               SARA_CELL_TEXT("b"),    NUMBER(20), NUMBER(2), NUMBER(4)};
    const sara_table table = table_of(cells, 3);
    (void)state;
    assert_markdown(&table, HEAD "| base | 1.0 | 1.00 | 3 |\n| a | **10.0 ★** | 2.00 | 4 |\n"
                                 "| b | 20.0 | 2.00 | 4 |\n");
}

static void test_hostile(void **state)
{
    const sara_cell cells[] = {SARA_CELL_TEXT("<script>alert(1)</script>|*_`\n\x01"), NUMBER(1e300),
                               NUMBER(-1e300), NUMBER(0)};
    sara_table table = table_of(cells, 1);
    sara_page page = test_page();
    (void)state;
    assert_markdown(&table, HEAD "| \\<script\\>alert(1)\\</script\\>\\|\\*\\_\\`   | 1e+300 | "
                                 "-1e+300 | 0 |\n");
    table.caption = "a < b";
    assert_ok(page.ctx, sara_page_table(&page, &table));
    test_page_holds(&page, "&lt;script&gt;alert(1)&lt;/script&gt;|*_`  </td>", 1);
    test_page_holds(&page, "<caption dir=\"auto\">a &lt; b</caption>", 1);
    test_page_holds(&page, "<script", 0);
    test_page_free(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_best), cmocka_unit_test(test_no_best),
                                       cmocka_unit_test(test_beside),
                                       cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
