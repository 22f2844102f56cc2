/* Plots: where marks come to lie, what is left out, the front, the labels. */
#include "support_report.h"

#include <stdio.h>
#include <stdlib.h>

static const double one_two_three[] = {1, 2, 3};

/* Text from `start` on as numbers, up to `most` of them. */
static int numbers_of(const char *start, double *out, int most)
{
    int count = 0;
    for (const char *at = start; count < most && *at && *at != '"';) {
        char *end;
        double value = sara_parse_double(at, &end);
        if (end == at) {
            at++;
            continue;
        }
        out[count++] = value;
        at = end;
    }
    return count;
}

static const char *after(const sara_page *page, const char *part)
{
    const char *at = strstr(page->text.data, part);
    if (!at)
        fail_msg("%s is not in\n%s", part, page->text.data);
    return at + strlen(part);
}

static void put(sara_page *page, const sara_plot *plot)
{
    assert_ok(page->ctx, sara_page_plot(page, plot));
}

/* A line breaks where a point is not finite, or not above 0 where the axis is logarithmic. */
static void test_line(void **state)
{
    const double x[] = {0, 1, 2, 3, 4, 5}, y[] = {1, 100, NAN, 10, -1, 1};
    const sara_series series = {.x = x, .y = y, .count = 6};
    sara_plot plot = {
        .title = "t<", .alt = "a<", .y = {.log = true}, .series = &series, .series_count = 1};
    sara_page page = test_page();
    double at[10];
    (void)state;
    put(&page, &plot);
    assert_int_equal(numbers_of(after(&page, "class=\"l\" stroke-dasharray=\"none\" d=\""), at, 10),
                     8);
    assert_true(at[1] > at[3] && at[1] == at[7]);                /* 100 is above 1 */
    assert_close(fabs((at[1] + at[3]) / 2 - at[5]), 0.11, "10"); /* in the middle, as logarithm */
    assert_close(fabs((at[2] - at[0]) * 2 - (at[4] - at[2])), 0.21, "1 .. 3");
    test_page_holds(&page,
                    "role=\"img\" aria-labelledby=\"t1 d1\"><title id=\"t1\">t&lt;</title>"
                    "<desc id=\"d1\">a&lt;</desc>",
                    1);
    test_page_holds(&page, "M", 3); /* three pieces */
    test_page_holds(&page, "legend", 0);
    test_page_free(&page);
}

static void test_empty(void **state)
{
    const double none[] = {NAN, INFINITY, 1};
    const sara_series series = {.x = one_two_three, .y = none, .count = 2};
    sara_plot plot = {.title = "t", .alt = "a", .series = &series, .series_count = 1};
    sara_page page = test_page();
    (void)state;
    put(&page, &plot);
    test_page_holds(&page, ">no values</text>", 1);
    plot.series_count = 0;
    put(&page, &plot);
    test_page_holds(&page, ">no values</text>", 2);
    test_page_holds(&page, "nan", 0);
    test_page_free(&page);
}

/* Areas are in proportion to sizes; error bars reach as far as their values' ticks. */
static void test_points(void **state)
{
    const double y[] = {10, 20, 30}, size[] = {1e6, 4e6, 16e6}, spread[] = {10, NAN, 0};
    const sara_series series = {.mark = SARA_MARK_POINT,
                                .x = one_two_three,
                                .y = y,
                                .size = size,
                                .spread = spread,
                                .count = 3};
    const sara_plot plot = {
        .title = "t", .alt = "a", .series = &series, .series_count = 1, .size_name = "entries"};
    sara_page page = test_page();
    double at[4], middle[3], radius[3];
    (void)state;
    put(&page, &plot);
    const char *circle = page.text.data;
    for (int i = 0; i < 3; i++) {
        circle = strstr(circle, "<circle class=\"m\"");
        assert_non_null(circle);
        assert_int_equal(numbers_of(strstr(circle, " r=\"") + 4, &radius[i], 1), 1);
        assert_int_equal(numbers_of(strstr(circle, " cy=\"") + 5, &middle[i], 1), 1);
        circle++;
    }
    assert_close(fabs(radius[2] - 2 * radius[1]) + fabs(radius[1] - 2 * radius[0]), 0.11, "radii");
    test_page_holds(&page, "class=\"e\"", 1);
    assert_int_equal(numbers_of(after(&page, "class=\"e\" d=\"M"), at, 3), 3);
    assert_close(fabs(at[2] - middle[1]), 1e-9, "10 + 10");
    assert_close(fabs(at[1] - 2 * middle[0] + middle[1]), 0.21, "10 - 10");
    test_page_holds(&page, "area of a mark: entries", 1);
    test_page_free(&page);
}

/* A mark at zero stands beside the axis, not on its texts; lines begin at it. */
static void test_zero(void **state)
{
    const double x[] = {0, 1, 2}, size[] = {1, 1, 1};
    sara_series series = {
        .mark = SARA_MARK_POINT, .x = x, .y = one_two_three, .size = size, .count = 3};
    const sara_plot plot = {
        .title = "t", .alt = "a", .x = {.zero = true}, .series = &series, .series_count = 1};
    sara_page page = test_page();
    double left = 0, middle = 0, radius = 0;
    (void)state;
    put(&page, &plot);
    assert_int_equal(numbers_of(after(&page, "class=\"axis\" x1=\""), &left, 1), 1);
    assert_int_equal(numbers_of(after(&page, " cx=\""), &middle, 1), 1);
    assert_int_equal(numbers_of(after(&page, " r=\""), &radius, 1), 1);
    assert_true(middle - radius >= left);
    test_page_free(&page);
    page = test_page();
    series.mark = SARA_MARK_LINE;
    put(&page, &plot);
    assert_int_equal(numbers_of(after(&page, "stroke-dasharray=\"none\" d=\""), &middle, 1), 1);
    assert_close(fabs(middle - left), 0.1, "at the axis");
    test_page_free(&page);
}

static void test_bars(void **state)
{
    const char *const names[] = {"a", "b<", "c"};
    const double x[] = {1, 2, 4}, rows[] = {0, 1, 2};
    const sara_series upright = {
        .name = "u", .mark = SARA_MARK_BAR, .x = one_two_three, .y = x, .count = 3};
    const sara_series lying = {.mark = SARA_MARK_BAR, .x = x, .y = rows, .count = 3};
    sara_plot plot = {.title = "t", .alt = "a", .series = &upright, .series_count = 1};
    sara_page page = test_page();
    double height[3], width[3];
    (void)state;
    put(&page, &plot);
    plot.series = &lying;
    plot.y = (sara_axis){.names = names, .name_count = 3};
    put(&page, &plot);
    const char *bar = page.text.data;
    for (int i = 0; i < 6; i++) {
        bar = strstr(bar, "<rect class=\"b\"");
        assert_non_null(bar);
        assert_int_equal(numbers_of(strstr(bar, " height=\"") + 9, &height[i % 3], 1), 1);
        assert_int_equal(numbers_of(strstr(bar, " width=\"") + 8, &width[i % 3], 1), 1);
        bar++;
        const double *value = i < 3 ? height : width;
        if (i % 3 == 2) /* from zero */
            assert_close(fabs(value[2] - 2 * value[1]) + fabs(value[1] - 2 * value[0]), 0.31,
                         "bar");
    }
    test_page_holds(&page, ">b&lt;</text>", 1);
    test_page_free(&page);
}

static void test_rules(void **state)
{
    const sara_rule rules[] = {{1, "left"}, {1.01, "near"}, {3, "<right>"}};
    const sara_series series = {.x = one_two_three, .y = one_two_three, .count = 3};
    const sara_plot plot = {.title = "t",
                            .alt = "a",
                            .series = &series,
                            .series_count = 1,
                            .rules = rules,
                            .rule_count = 3};
    sara_page page = test_page();
    double left, near, right;
    (void)state;
    put(&page, &plot);
    const char *text = page.text.data;
    double *const heights[] = {&left, &near, &right};
    for (int i = 0; i < 3; i++) {
        text = strstr(text, "class=\"rule\"") + 1;
        text = strstr(text, "<text ");
        assert_int_equal(numbers_of(strstr(text, "y=\"") + 3, heights[i], 1), 1);
    }
    assert_true(near < left && right == left); /* names that would meet are one above the other */
    test_page_holds(&page, ">&lt;right&gt;</text>", 1);
    test_page_free(&page);
}

/* The front's path: of (1,3) (2,2) (3,1) and a corner that is worse than (2,2), or better than all,
 * as steps within what nothing beats. */
static void assert_front(double corner, sara_better across, sara_better up, const char *commands)
{
    const double x[] = {3, 1, corner, 2}, y[] = {1, 3, corner, 2};
    const sara_series series = {.mark = SARA_MARK_POINT, .x = x, .y = y, .count = 4};
    const sara_plot plot = {.title = "t",
                            .alt = "a",
                            .x = {.better = across},
                            .y = {.better = up},
                            .series = &series,
                            .series_count = 1};
    sara_page page = test_page();
    char found[16] = "";
    put(&page, &plot);
    test_page_holds(&page, "Pareto front</li>", 1);
    const char *at = after(&page, "</g>\n<path class=\"front\" d=\"");
    for (size_t i = 0; *at != '"' && i + 1 < sizeof(found); at++)
        if (strchr("MHV", *at))
            found[i++] = *at;
    assert_string_equal(found, commands);
    test_page_free(&page);
}

static void test_front(void **state)
{
    (void)state;
    assert_front(3, SARA_BETTER_LOW, SARA_BETTER_LOW, "MHVHV");
    assert_front(1, SARA_BETTER_HIGH, SARA_BETTER_HIGH, "MVHVH");
    assert_front(3, SARA_BETTER_HIGH, SARA_BETTER_HIGH, "M");
    assert_front(3, SARA_BETTER_LOW, SARA_BETTER_HIGH, "M");
    assert_front(1, SARA_BETTER_HIGH, SARA_BETTER_LOW, "M");
}

/* 24 points with long names near each other: no two texts that are shown meet, none leaves the
 * plot; the front ones have their text. */
static void test_labels(void **state)
{
    enum { COUNT = 24 };
    double x[COUNT], y[COUNT], boxes[COUNT][4];
    const char *labels[COUNT];
    char names[COUNT][32];
    int shown = 0;
    sara_page page = test_page();
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (i * 7 % 24) / 24.0;
        y[i] = (i * 11 % 24) / 24.0;
        snprintf(names[i], sizeof(names[i]), "adaptformer-%d <i>", i);
        labels[i] = names[i];
    }
    const sara_series series = {
        .mark = SARA_MARK_POINT, .x = x, .y = y, .labels = labels, .count = COUNT};
    const sara_plot plot = {.title = "t", .alt = "a", .series = &series, .series_count = 1};
    put(&page, &plot);
    for (const char *at = page.text.data; (at = strstr(at, "<text class=\"halo\""));
         at++, shown++) {
        double *box = boxes[shown], width = SARA_TEXT_EM * sara_text_columns("adaptformer-10 <i>");
        assert_int_equal(numbers_of(strstr(at, " x=\"") + 4, &box[0], 1), 1);
        assert_int_equal(numbers_of(strstr(at, " y=\"") + 4, &box[1], 1), 1);
        const char *anchor = strstr(at, "text-anchor=\"") + 13;
        box[0] -= *anchor == 'e' ? width : *anchor == 'm' ? width / 2 : 0;
        assert_true(box[0] > 0 && box[0] + width < SARA_PLOT_WIDTH + 8 && box[1] > 12);
        for (int i = 0; i < shown; i++) {
            bool apart = fabs(boxes[i][0] - box[0]) > width - 8 || fabs(boxes[i][1] - box[1]) > 13;
            assert_true(apart);
        }
    }
    assert_true(shown > COUNT / 2);
    test_page_holds(&page, "<title>adaptformer-7 &lt;i&gt;</title>", 1); /* pointed at, all are */
    test_page_free(&page);
}

static sara_status put_all(sara_context *ctx, const char *argument)
{
    const char *const labels[] = {"a", "b", "c"};
    const sara_series series[] = {
        {.name = "line", .x = one_two_three, .y = one_two_three, .count = 3, .faint = true},
        {.name = "points",
         .mark = SARA_MARK_POINT,
         .x = one_two_three,
         .y = one_two_three,
         .labels = labels,
         .spread = one_two_three,
         .spread_x = one_two_three,
         .count = 3}};
    const sara_plot plot = {.title = "t",
                            .alt = argument,
                            .x = {.better = SARA_BETTER_LOW},
                            .y = {.better = SARA_BETTER_HIGH},
                            .series = series,
                            .series_count = 2};
    sara_page page;
    sara_status status;
    TRY(sara_page_begin(&page, ctx, "t"));
    TRY(sara_page_plot(&page, &plot));
done:
    sara_page_free(&page);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(put_all, "alt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),   cmocka_unit_test(test_empty), cmocka_unit_test(test_points),
        cmocka_unit_test(test_bars),   cmocka_unit_test(test_rules), cmocka_unit_test(test_front),
        cmocka_unit_test(test_labels), cmocka_unit_test(test_zero),  cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
