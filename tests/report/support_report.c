#include "support_report.h"

sara_page test_page(void)
{
    sara_page page;
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_page_begin(&page, ctx, "test"));
    sara_buffer_clear(&page.text);
    return page;
}

void test_page_free(sara_page *page)
{
    sara_page_free(page);
    sara_context_free(page->ctx);
}

void test_page_holds(const sara_page *page, const char *part, int times)
{
    int found = 0;
    for (const char *at = page->text.data; (at = strstr(at, part)); at++)
        found++;
    if (found != times)
        fail_msg("%s: %d times instead of %d in\n%s", part, found, times, page->text.data);
}
