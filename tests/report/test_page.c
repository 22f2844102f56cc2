/* The page, its pictures and what is escaped. */
#include "support_report.h"

static void assert_escaped(const char *text, const char *expected)
{
    sara_context *ctx = test_context();
    sara_buffer out = {.ctx = ctx};
    assert_ok(ctx, sara_put_escaped(&out, text));
    assert_string_equal(out.data, expected);
    sara_buffer_free(&out);
    sara_context_free(ctx);
}

static void test_escaping(void **state)
{
    (void)state;
    assert_escaped("<i a=\"b\" c='d'>&amp;]]>", "&lt;i a=&quot;b&quot; c=&#39;d&#39;&gt;&amp;amp;]]"
                                                "&gt;");
    assert_escaped("a\x01\t\n\x7f\xc2\x85\xc2\x9f|\u00a0é猫", "a     "
                                                              " |\u00a0é猫");
    assert_escaped("\xff|\xc3(|\uFFFE|\U0001FFFF|\uFDD0|\xed\xa0\x80", /* what XML may not hold */
                   "\uFFFD|\uFFFD(|\uFFFD|\uFFFD|\uFFFD|\uFFFD\uFFFD\uFFFD");
}

static void test_whole(void **state)
{
    char *folder = test_folder(), *path, *text;
    size_t size;
    sara_context *ctx = test_context();
    sara_page page;
    (void)state;
    assert_ok(ctx, sara_page_begin(&page, ctx, "<b>"));
    assert_ok(ctx, sara_page_heading(&page, "h<"));
    assert_ok(ctx, sara_page_fold_begin(&page, "s<"));
    assert_ok(ctx, sara_page_paragraph(&page, "p<"));
    assert_ok(ctx, sara_page_fold_end(&page));
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "page.html"));
    assert_ok(ctx, sara_page_write(&page, path));
    assert_ok(ctx, sara_file_read(ctx, &text, &size, path, 1 << 20));
    test_assert_contains(text,
                         "content=\"default-src 'none'; img-src data:; style-src "
                         "'unsafe-inline'\"",
                         __FILE__, __LINE__);
    test_assert_contains(text,
                         "<title>&lt;b&gt;</title></head><body><main>\n"
                         "<h1 dir=\"auto\">&lt;b&gt;</h1>\n<h2 dir=\"auto\">h&lt;</h2>\n"
                         "<details><summary dir=\"auto\">s&lt;</summary>\n"
                         "<p dir=\"auto\">p&lt;</p>\n</details>\n</main></body></html>\n",
                         __FILE__, __LINE__);
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "http:")); /* nothing from elsewhere */
    sara_free(ctx, text);
    sara_free(ctx, path);
    sara_page_free(&page);
    sara_context_free(ctx);
    test_folder_remove(folder);
}

/* What the page takes for a PNG: its first bytes, with the width. The base64 of it is `base64`'s
 * (coreutils). */
#define PNG(width) "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0" width "\0\0\0\x10"

static void test_pictures(void **state)
{
    char *folder = test_folder();
    char *small = test_file(folder, "a.png", PNG("\0\x10"), 24);
    char *large = test_file(folder, "b.png", PNG("\x01\0"), 24);
    char *text = test_file(folder, "c.png", "<svg onload=alert(1)>", 21);
    const char *const names[] = {"step 1", "step <2>"}, *const rows[] = {"a \"cat\""};
    const char *const paths[] = {small, text};
    const sara_picture_grid grid = {"grid", "prompt", names, rows, paths, 2, 1};
    sara_page page = test_page();
    (void)state;
    assert_ok(page.ctx, sara_page_picture(&page, large, "<alt>", "<caption>"));
    test_page_holds(&page,
                    "<figure><img alt=\"&lt;alt&gt;\" src=\"data:image/png;base64,"
                    "iVBORw0KGgoAAAANSUhEUgAAAQAAAAAQ\"><figcaption dir=\"auto\">&lt;caption&gt;"
                    "</figcaption></figure>\n",
                    1);
    assert_ok(page.ctx, sara_page_pictures(&page, &grid));
    test_page_holds(&page, "<th scope=\"col\" dir=\"auto\">step &lt;2&gt;</th>", 1);
    test_page_holds(&page,
                    "<tr><th scope=\"row\" dir=\"auto\">a &quot;cat&quot;</th><td><img "
                    "class=\"small\" alt=\"a &quot;cat&quot;, step 1\" src=\"data:image/png;base64,"
                    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQ\"></td><td>–</td></tr>",
                    1);
    assert_refused(page.ctx, SARA_ERROR_INPUT, "c.png: is no PNG, JPEG or WebP picture",
                   sara_page_picture(&page, text, "", NULL));
    test_page_free(&page);
    free(small);
    free(large);
    free(text);
    test_folder_remove(folder);
}

/* A picture of many bytes is the same as in one piece: each third byte pair of base64 is whole. */
static void test_base64(void **state)
{
    static char bytes[8000];
    char *folder = test_folder(), *path;
    sara_page page = test_page();
    (void)state;
    memcpy(bytes, PNG("\x01\0"), 24);
    path = test_file(folder, "a.png", bytes, sizeof(bytes));
    assert_ok(page.ctx, sara_page_picture(&page, path, "", ""));
    size_t length = strspn(strstr(page.text.data, "base64,") + 7,
                           "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    assert_int_equal(length, (8000 * 4 + 2) / 3); /* then its padding */
    test_page_holds(&page, "AAAAA=\">", 1);
    test_page_free(&page);
    free(path);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escaping), cmocka_unit_test(test_whole),
        cmocka_unit_test(test_pictures), cmocka_unit_test(test_base64)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
