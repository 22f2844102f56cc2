/* Structs of the public header that have grown: programs of each version with one library. */
#include "support/support.h"

#include "core/core.h"

/* The first version had a and b. */
typedef struct grown {
    size_t size;
    int a, b;
    int c, d;
} grown;

static const sara_options_type grown_type = SARA_OPTIONS_TYPE(grown, b);
#define FIRST offsetof(grown, c)

static sara_context *open_context(void)
{
    sara_context *ctx;
    assert_int_equal(sara_context_new(&ctx, NULL), SARA_OK);
    return ctx;
}

static void assert_holds(const grown *g, int a, int b, int c, int d)
{
    assert_int_equal(g->size, sizeof(*g));
    assert_true(g->a == a && g->b == b && g->c == c && g->d == d);
}

static void test_read(void **state)
{
    sara_context *ctx = open_context();
    const size_t sizes[] = {0, FIRST, offsetof(grown, d), sizeof(grown)};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        const grown given = {sizes[i], 1, 2, 3, 4};
        grown full = {0, 10, 20, 30, 40};
        assert_ok(ctx, sara_options_read(ctx, &full, &grown_type, &given));
        assert_holds(&full, 1, 2, i < 2 ? 30 : 3, i < 3 ? 40 : 4);
    }
    sara_context_free(ctx);
}

static void test_init(void **state)
{
    const grown defaults = {0, 10, 20, 30, 40};
    struct {
        grown now;
        int later[2];
    } of;
    (void)state;
    memset(&of, 'x', sizeof(of));
    sara_options_init(&of.now, FIRST, &defaults, &grown_type);
    assert_true(of.now.size == FIRST && of.now.a == 10 && of.now.b == 20);
    assert_memory_equal(&of.now.c, "xxxxxxxx", 8);
    sara_options_init(&of.now, sizeof(of), &defaults, &grown_type);
    assert_true(of.now.size == sizeof(of) && of.now.a == 10 && of.now.d == 40);
    assert_true(of.later[0] == 0 && of.later[1] == 0);
}

static void test_refused(void **state)
{
    sara_context *ctx = open_context();
    struct {
        grown now;
        int later[2];
    } given = {{0}, {0, 0}};
    grown full = {0};
    (void)state;
    given.now.size = FIRST - 1;
    assert_refused(ctx, SARA_ERROR_USAGE, "grown.size is 15, expected 0 or at least 16",
                   sara_options_read(ctx, &full, &grown_type, &given));
    given.now.size = (size_t)-1;
    assert_refused(ctx, SARA_ERROR_USAGE, "grown.size is", /* not read */
                   sara_options_read(ctx, &full, &grown_type, &given));
    given.now.size = sizeof(given);
    assert_ok(ctx, sara_options_read(ctx, &full, &grown_type, &given));
    given.later[1] = 1;
    assert_refused(ctx, SARA_ERROR_USAGE, "grown: 32 bytes, of which this library",
                   sara_options_read(ctx, &full, &grown_type, &given));
    sara_context_free(ctx);
}

static void test_write(void **state)
{
    const grown full = {sizeof(full), 1, 2, 3, 4};
    struct {
        grown now;
        int later[2];
    } out;
    (void)state;
    memset(&out, 'x', sizeof(out));
    sara_sized_write(&out.now, FIRST, &full, sizeof(full));
    assert_true(out.now.a == 1 && out.now.b == 2);
    assert_memory_equal(&out.now.c, "xxxxxxxx", 8);
    sara_sized_write(&out.now, sizeof(out), &full, sizeof(full));
    assert_holds(&out.now, 1, 2, 3, 4);
    assert_memory_equal(out.later, "xxxxxxxx", 8);
    sara_sized_write(NULL, sizeof(out), &full, sizeof(full));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
