/* A page in a test: what was put on it. */
#ifndef SARA_TEST_REPORT_H
#define SARA_TEST_REPORT_H

#include "support/memory.h"

#include "report/plot.h"

/* A page that was begun, with an empty text; sara_page_free() and its context. */
sara_page test_page(void);
void test_page_free(sara_page *page);
/* The page's text holds `part`, so often. */
void test_page_holds(const sara_page *page, const char *part, int times);

#endif
