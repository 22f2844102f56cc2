/* Memory of devices: the host's, what does not exist, and what the host cannot read as it is. */
#include "support/memory.h"

#include "core/tape.h"

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

/* -------------------------------------------------------------- memory that is not the host's */

/* Every byte lies there inverted. */
static void invert(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = (unsigned char)~((const unsigned char *)from)[i];
}

static sara_status far_alloc(sara_device *device, void **out, size_t bytes)
{
    return sara_host_memory.alloc(device, out, bytes);
}

static void far_free(sara_device *device, void *data)
{
    sara_host_memory.free(device, data);
}

static sara_status far_fill(sara_device *device, void *data, int byte, size_t bytes)
{
    return sara_host_memory.fill(device, data, ~byte, bytes);
}

static sara_status far_copy(sara_device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    invert(to, from, bytes);
    return SARA_OK;
}

static sara_status far_copy_within(sara_device *device, void *to, const void *from, size_t bytes)
{
    return sara_host_memory.copy_within(device, to, from, bytes);
}

static sara_status far_synchronise(sara_device *device)
{
    return sara_host_memory.synchronise(device);
}

static const sara_device_memory far_memory = {
    false, far_alloc, far_free, far_fill, far_copy, far_copy, far_copy_within, far_synchronise};

static sara_status no_backward(sara_tape *tape, sara_node *node)
{
    float *gradient;
    return sara_tape_grad(tape, &gradient, node->in[0]);
}

/* Leaves are copied in, results out; gradients start from zero and from the seed. */
static void test_tape_on_far_memory(void **state)
{
    (void)state;
    test_allocator allocator = {.left = -1};
    sara_context *ctx = test_allocator_context(&allocator);
    sara_device device = {.name = "far", .memory = &far_memory, .ctx = ctx};
    float values[6] = {1, 2, 3, 4, 5, 6}, out[6];
    const float *read;
    const sara_shape shape = sara_shape2(2, 3), one = sara_shape1(1);
    sara_var *leaf, *loss;
    sara_tape *tape;
    assert_ok(ctx, sara_tape_new(ctx, &tape, &device));
    sara_tape_record(tape, true);
    assert_ok(ctx, sara_tape_leaf(tape, &leaf, &shape, values, true));
    assert_true(leaf->data != values && leaf->requires_grad);
    invert(out, leaf->data, sizeof(out));
    assert_memory_equal(out, values, sizeof(out));
    assert_ok(ctx, sara_tape_read(tape, &read, leaf));
    assert_true(read != leaf->data && read != values);
    assert_memory_equal(read, values, sizeof(values));
    assert_ok(ctx, sara_tape_var(tape, &loss, &one));
    sara_node node = {.op = "none", .backward = no_backward, .in = {leaf}, .out = loss};
    assert_ok(ctx, sara_tape_add(tape, &node, 0));
    assert_ok(ctx, sara_tape_backward(tape, loss, 1));
    invert(out, leaf->grad, sizeof(out));
    for (int i = 0; i < 6; i++)
        assert_true(out[i] == 0);
    sara_tape_free(tape);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

/* What a tape reaches with a leaf, whose data a dry device does not need, and a variable. */
static size_t reached(sara_context *ctx, sara_device *device, const float *data)
{
    const sara_shape shape = sara_shape2(20, 30);
    sara_var *var;
    sara_tape *tape;
    assert_ok(ctx, sara_tape_new(ctx, &tape, device));
    assert_ok(ctx, sara_tape_leaf(tape, &var, &shape, device->dry ? NULL : data, false));
    assert_ok(ctx, sara_tape_var(tape, &var, &shape));
    size_t bytes = sara_tape_reached(tape);
    sara_tape_free(tape);
    return bytes;
}

/* A dry device counts leaves where the one that it stands for copies them. */
static void test_dry_leaves(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    const float data[600] = {0};
    sara_device far = {.name = "far", .memory = &far_memory, .ctx = ctx};
    sara_device dry = {.name = "dry", .dry = true, .memory = &sara_dry_memory, .ctx = ctx};
    size_t host = reached(ctx, sara_host_device(ctx), data);
    assert_true(host >= sizeof(data) && reached(ctx, &dry, NULL) == host);
    dry.copies = true;
    assert_true(reached(ctx, &dry, NULL) == reached(ctx, &far, data));
    assert_true(reached(ctx, &dry, NULL) >= host + sizeof(data));
    sara_context_free(ctx);
}

/* The host reads and writes copies of parameters, and their own values where they are in reach. */
static void test_params_on_far_memory(void **state)
{
    (void)state;
    test_allocator allocator = {.left = -1};
    sara_context *ctx = test_allocator_context(&allocator);
    sara_device far = {.name = "far", .memory = &far_memory, .ctx = ctx};
    sara_device *devices[] = {&far, sara_host_device(ctx)};
    for (int d = 0; d < 2; d++) {
        const sara_shape shape = sara_shape2(2, 2);
        sara_params params, copies;
        sara_param copy;
        assert_ok(ctx, sara_params_new(ctx, &params, 2));
        for (int i = 0; i < 2; i++) {
            sara_param *param = &params.items[i];
            assert_ok(ctx, sara_param_alloc(param, devices[d], SARA_BF16, &shape));
            assert_ok(ctx, sara_param_stage(ctx, &copy, param));
            for (size_t k = 0; k < 4; k++)
                sara_param_set(&copy, k, (float)(10 * i + (int)k));
            assert_ok(ctx, sara_param_write(param, &copy));
            assert_true((copy.value.data == param->value.data) == (d == 1));
            sara_param_read_end(ctx, &copy, param);
        }
        assert_ok(ctx, sara_params_read(ctx, &copies, &params));
        assert_true((copies.items == params.items) == (d == 1));
        assert_true(sara_param_get(&copies.items[1], 3) == 13);
        sara_params_read_end(ctx, &copies, &params);
        assert_ok(ctx, sara_param_read(ctx, &copy, &params.items[0]));
        assert_true(sara_param_get(&copy, 2) == 2 && sara_device_is_host(copy.device));
        sara_param_read_end(ctx, &copy, &params.items[0]);
        sara_params_free(ctx, &params);
    }
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

static sara_status read_far_params(sara_context *ctx, const char *unused)
{
    sara_device far = {.name = "far", .memory = &far_memory, .ctx = ctx};
    const sara_shape shape = sara_shape1(3);
    sara_params params = {0}, copies = {0};
    sara_status status;
    (void)unused;
    TRY(sara_params_new(ctx, &params, 2));
    for (int i = 0; i < 2; i++)
        TRY(sara_param_alloc(&params.items[i], &far, SARA_F32, &shape));
    TRY(sara_params_read(ctx, &copies, &params));
done:
    sara_params_read_end(ctx, &copies, &params);
    sara_params_free(ctx, &params);
    return status;
}

static void test_far_memory_runs_out(void **state)
{
    (void)state;
    test_every_allocation(read_far_params, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_dry),
        cmocka_unit_test(test_tape_on_far_memory),
        cmocka_unit_test(test_dry_leaves),
        cmocka_unit_test(test_params_on_far_memory),
        cmocka_unit_test(test_far_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
