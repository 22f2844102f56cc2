/* Memory of devices: the host's, and what does not exist. */
#include "support/memory.h"

static void check_host(sara_context *ctx, sara_device *device)
{
    int values[16], back[16] = {0}, *data = NULL, *other = NULL;
    for (int i = 0; i < 16; i++)
        values[i] = 3 * i + 1;
    assert_ok(ctx, sara_device_alloc(sara_host_device(ctx), &data, 16, sizeof(*data)));
    assert_ok(ctx, sara_device_alloc(sara_host_device(ctx), &other, 16, sizeof(*other)));
    assert_int_equal((uintptr_t)data % 64, 0);
    assert_true(sara_device_is_host(device));
    assert_ok(ctx, sara_device_fill(device, other, 0xff, sizeof(values)));
    assert_int_equal(other[15], -1);
    assert_ok(ctx, sara_device_copy_in(device, data, values, sizeof(values)));
    assert_ok(ctx, sara_device_copy_within(device, other + 8, data, sizeof(values) / 2));
    assert_ok(ctx, sara_device_copy_within(device, other, data, 0));
    assert_ok(ctx, sara_device_copy_out(device, back, other, sizeof(values)));
    assert_ok(ctx, sara_device_synchronise(device));
    for (int i = 0; i < 16; i++)
        assert_int_equal(back[i], i < 8 ? -1 : values[i - 8]);
    sara_device_free(sara_host_device(ctx), other);
    sara_device_free(sara_host_device(ctx), data);
    sara_device_free(sara_host_device(ctx), NULL);
}

static void test_host(void **state)
{
    (void)state;
    test_allocator allocator = {.left = -1};
    sara_context *ctx = test_allocator_context(&allocator);
    long before = allocator.alive;
    void *data = ctx;
    check_host(ctx, sara_host_device(ctx));
    check_host(ctx, NULL);
    assert_int_equal(allocator.alive, before);
    assert_ok(ctx, sara_device_alloc(sara_host_device(ctx), &data, 0, 4));
    assert_null(data);
    data = ctx;
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_device_alloc(sara_host_device(ctx), &data, SIZE_MAX / 2, 3));
    assert_null(data);
    allocator.left = 0;
    data = ctx;
    assert_refused(ctx, SARA_ERROR_MEMORY, "out of memory",
                   sara_device_alloc(sara_host_device(ctx), &data, 1, 4));
    assert_null(data);
    sara_context_free(ctx);
}

static void test_dry(void **state)
{
    (void)state;
    test_allocator allocator = {.left = -1};
    sara_context *ctx = test_allocator_context(&allocator);
    sara_device device = {.name = "dry", .memory = &sara_dry_memory, .ctx = ctx};
    long made = allocator.made;
    char *data = NULL, back[4] = {1, 2, 3, 4};
    assert_ok(ctx, sara_device_alloc(&device, &data, (size_t)1 << 50, 4));
    assert_non_null(data);
    assert_int_equal((uintptr_t)data % 64, 0);
    assert_false(sara_device_is_host(&device));
    assert_ok(ctx, sara_device_fill(&device, data, 1, 100));
    assert_ok(ctx, sara_device_copy_in(&device, data, back, 4));
    assert_ok(ctx, sara_device_copy_within(&device, data + 4, data, 4));
    assert_ok(ctx, sara_device_copy_out(&device, back, data, 3));
    assert_memory_equal(back, ((char[]){0, 0, 0, 4}), 4);
    sara_device_free(&device, data);
    assert_int_equal(allocator.made, made);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_dry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
