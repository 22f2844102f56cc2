/* The pool of buffers: gaps close, equal passes get equal addresses, a dry one foretells them. */
#include "support/memory.h"

#include <stdlib.h>

#include "core/pool.h"

enum { SLOTS = 200, MOVES = 20000, LARGEST = 5000 };

/* A buffer filled with its own number. */
typedef struct slot {
    float *data;
    size_t count;
    float mark;
} slot;

static bool overlap(const slot *a, const slot *b)
{
    return a->data < b->data + b->count && b->data < a->data + a->count;
}

static uint64_t draw(uint64_t bound, uint64_t index, uint64_t element)
{
    return sara_draw_below(bound, 1, SARA_DRAW_TEST, index, element);
}

/* Takes or gives one of many buffers; a dry one cannot be written to. */
static void move(sara_context *ctx, sara_pool *pool, slot *slots, uint64_t step)
{
    slot *s = &slots[draw(SLOTS, step, 0)];
    if (s->data) {
        for (size_t i = 0; !pool->device->dry && i < s->count; i++)
            assert_true(s->data[i] == s->mark);
        sara_pool_give(pool, s->data);
        s->data = NULL;
        return;
    }
    s->count = draw(LARGEST, step, 1) >> draw(8, step, 2);
    s->mark = (float)step;
    assert_ok(ctx, sara_pool_take(pool, &s->data, s->count));
    assert_true((uintptr_t)s->data % 64 == 0 && s->data != NULL);
    for (size_t i = 0; !pool->device->dry && i < s->count; i++)
        s->data[i] = s->mark;
    for (int i = 0; i < SLOTS; i++)
        assert_true(&slots[i] == s || !slots[i].data || !overlap(s, &slots[i]));
}

static size_t taken_bytes(const slot *slots)
{
    size_t bytes = 0;
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].data)
            bytes += slots[i].count ? (slots[i].count * sizeof(float) + 63) / 64 * 64 : 64;
    return bytes;
}

static void test_random_moves(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    slot slots[SLOTS] = {{0}};
    sara_pool pool;
    size_t peak = 0;
    sara_pool_init(&pool, sara_host_device(ctx));
    for (uint64_t i = 0; i < MOVES; i++) {
        move(ctx, &pool, slots, i);
        size_t bytes = taken_bytes(slots);
        peak = bytes > peak ? bytes : peak;
        assert_int_equal(pool.used_bytes, bytes);
    }
    assert_int_equal(pool.peak_bytes, peak);
    assert_true(pool.reached_bytes >= peak && pool.reached_bytes < peak + peak / 2);
    sara_pool_give_all(&pool);
    assert_int_equal(pool.used_bytes, 0);
    sara_pool_free(&pool);
    sara_context_free(ctx);
}

/* Neighbours join from both sides: what was three buffers holds one, and nothing new is reached. */
static void test_gaps_join(void **state)
{
    (void)state;
    static const int orders[][3] = {{1, 2, 3}, {3, 2, 1}, {1, 3, 2}, {2, 1, 3}};
    sara_context *ctx = test_context();
    for (size_t k = 0; k < sizeof(orders) / sizeof(*orders); k++) {
        sara_pool pool;
        float *data[5], *again;
        sara_pool_init(&pool, sara_host_device(ctx));
        assert_ok(ctx, sara_pool_reserve(&pool, 5 * 1024 * sizeof(float)));
        for (int i = 0; i < 5; i++)
            assert_ok(ctx, sara_pool_take(&pool, &data[i], 1024));
        size_t reached = pool.reached_bytes;
        for (int i = 0; i < 3; i++)
            sara_pool_give(&pool, data[orders[k][i]]);
        assert_ok(ctx, sara_pool_take(&pool, &again, 3 * 1024));
        assert_true(again == data[1]);
        sara_pool_give(&pool, again);
        /* The smallest gap that fits, and the lowest of equals. */
        assert_ok(ctx, sara_pool_take(&pool, &data[1], 1024));
        assert_ok(ctx, sara_pool_take(&pool, &data[2], 512));
        assert_ok(ctx, sara_pool_take(&pool, &data[3], 1024));
        sara_pool_give(&pool, data[1]);
        assert_ok(ctx, sara_pool_take(&pool, &again, 400));
        assert_true(again > data[3]);
        assert_int_equal(pool.reached_bytes, reached);
        /* From the top down the chunk is empty again. */
        sara_pool_give(&pool, again);
        sara_pool_give(&pool, data[4]);
        sara_pool_give(&pool, data[3]);
        sara_pool_give(&pool, data[2]);
        sara_pool_give(&pool, data[0]);
        assert_ok(ctx, sara_pool_take(&pool, &again, 5 * 1024));
        assert_true(again == data[0]);
        assert_int_equal(pool.reached_bytes, reached);
        sara_pool_free(&pool);
    }
    sara_context_free(ctx);
}

/* A dry pool reaches as far as a real one, whose reserve then is just enough; a second pass needs
 * nothing from the allocator and gets the same addresses. */
static void test_dry_foretells(void **state)
{
    (void)state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    slot imagined[SLOTS] = {{0}}, slots[SLOTS] = {{0}}, again[SLOTS] = {{0}};
    sara_device nowhere = {.dry = true, .memory = &sara_dry_memory, .ctx = ctx};
    sara_pool dry, real;
    sara_pool_init(&dry, &nowhere);
    for (uint64_t i = 0; i < MOVES / 10; i++)
        move(ctx, &dry, imagined, i);
    sara_pool_init(&real, sara_host_device(ctx));
    assert_ok(ctx, sara_pool_reserve(&real, dry.reached_bytes));
    for (uint64_t i = 0; i < MOVES / 10; i++)
        move(ctx, &real, slots, i);
    assert_int_equal(real.reached_bytes, dry.reached_bytes);
    assert_int_equal(real.peak_bytes, dry.peak_bytes);
    assert_true(real.chunks != NULL);
    intptr_t shift = 0;
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].data) {
            intptr_t distance = (intptr_t)slots[i].data - (intptr_t)imagined[i].data;
            assert_true(shift == 0 || distance == shift);
            shift = distance;
        }
    sara_pool_give_all(&real);
    allocator.left = 0;
    for (uint64_t i = 0; i < MOVES / 10; i++)
        move(ctx, &real, again, i);
    for (int i = 0; i < SLOTS; i++)
        assert_true(again[i].data == slots[i].data);
    allocator.left = -1;
    sara_pool_free(&dry);
    sara_pool_free(&real);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

/* When no more is to be had, what lies unused is given back first. */
static void test_gives_back_what_is_unused(void **state)
{
    (void)state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    sara_pool pool;
    float *data;
    sara_pool_init(&pool, sara_host_device(ctx));
    assert_ok(ctx, sara_pool_take(&pool, &data, 100000));
    sara_pool_give_all(&pool);
    long before = allocator.alive;
    allocator.left = 1; /* the chunk's struct comes, its memory does not */
    allocator.once = true;
    assert_ok(ctx, sara_pool_take(&pool, &data, 200000));
    assert_int_equal(allocator.failures, 1);
    assert_int_equal(allocator.alive, before);
    allocator.left = 1;
    allocator.once = false;
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_pool_take(&pool, &data, 300000));
    assert_true(data == NULL);
    allocator.left = -1;
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_pool_take(&pool, &data, SIZE_MAX / 2));
    sara_pool_give(&pool, NULL);
    sara_pool_free(&pool);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

/* Only chunks that hold nothing. */
static void test_trim(void **state)
{
    (void)state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    sara_pool pool;
    float *kept, *data;
    sara_pool_init(&pool, sara_host_device(ctx));
    assert_ok(ctx, sara_pool_take(&pool, &kept, 1000));
    long before = allocator.alive;
    assert_ok(ctx, sara_pool_take(&pool, &data, 1000000));
    size_t reached = pool.reached_bytes;
    sara_pool_give(&pool, data);
    sara_pool_trim(&pool);
    assert_int_equal(allocator.alive, before);
    assert_true(pool.reached_bytes < reached);
    kept[999] = 1;
    sara_pool_give_all(&pool);
    sara_pool_trim(&pool);
    assert_int_equal(pool.reached_bytes, 0);
    assert_ok(ctx, sara_pool_take(&pool, &data, 1000));
    sara_pool_free(&pool);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_moves),
        cmocka_unit_test(test_gaps_join),
        cmocka_unit_test(test_dry_foretells),
        cmocka_unit_test(test_gives_back_what_is_unused),
        cmocka_unit_test(test_trim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
