/* The distinct captions of a data set, and how many comparisons finding them takes. */
#include "support/support.h"
#include "train/dataset_texts.h"

#define MANY     4096
#define COPIES   3
#define DISTINCT (MANY / COPIES + 1)

static size_t compared;

/* The linker's names for the program's strcmp() and libc's. */
int __wrap_strcmp(const char *a, const char *b);
int __real_strcmp(const char *a, const char *b);

int __wrap_strcmp(const char *a, const char *b)
{
    compared++;
    return __real_strcmp(a, b);
}

typedef struct numbering {
    const char *captions[MANY];
    size_t numbers[MANY], count;
    const char *distinct[MANY];
    char texts[MANY][32];
} numbering;

static numbering made;

static sara_status number_first(sara_context *ctx, numbering *n, size_t count)
{
    for (size_t i = 0; i < count; i++)
        n->captions[i] = n->texts[i];
    return sara_captions_number(ctx, n->numbers, n->distinct, &n->count, n->captions, count);
}

/* In the order in which they first come, each from where it first stands. */
static void test_order(void **state)
{
    static const char *const captions[] = {"b", "a", "b", "", "A", "a", ""};
    static const size_t numbers[] = {0, 1, 0, 2, 3, 1, 2}, firsts[] = {0, 1, 3, 4};
    sara_context *ctx = test_context();
    numbering *n = &made;
    (void)state;
    for (size_t i = 0; i < 7; i++)
        snprintf(n->texts[i], sizeof(n->texts[i]), "%s", captions[i]);
    assert_ok(ctx, number_first(ctx, n, 7));
    assert_int_equal(n->count, 4);
    assert_memory_equal(n->numbers, numbers, sizeof(numbers));
    for (size_t i = 0; i < 4; i++)
        assert_ptr_equal(n->distinct[i], n->texts[firsts[i]]);
    sara_context_free(ctx);
}

/* Each with those before it would be millions. */
static void test_comparisons(void **state)
{
    sara_context *ctx = test_context();
    numbering *n = &made;
    (void)state;
    for (size_t i = 0; i < MANY; i++)
        snprintf(n->texts[i], sizeof(n->texts[i]), "a caption, number %zu", i % DISTINCT);
    compared = 0;
    assert_ok(ctx, number_first(ctx, n, MANY));
    print_message("%d captions, %d of them distinct: %zu comparisons\n", MANY, DISTINCT, compared);
    assert_in_range(compared, MANY - DISTINCT, 2 * MANY);
    assert_int_equal(n->count, DISTINCT);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(n->numbers[i], i % DISTINCT);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_comparisons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
