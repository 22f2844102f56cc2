/* The device whose memory nobody else can touch: what it refuses, and that it computes as "cpu". */
#include "nn/support_nn.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Device memory with these values; sara_device_free(). */
static float *put(test_nn *nn, const float *values, size_t count)
{
    float *data;
    assert_ok(nn->ctx, sara_device_alloc(nn->device, &data, count, sizeof(*data)));
    assert_ok(nn->ctx, sara_device_copy_in(nn->device, data, values, count * sizeof(*data)));
    return data;
}

/* How a process ends that touches the memory. */
static bool dies_of(volatile float *data, bool write)
{
    int how = 0;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* whatever a sanitizer does */
        if (write)
            data[0] = 1;
        _exit(data[0] == 0.5f ? 1 : 0);
    }
    assert_true(child > 0 && waitpid(child, &how, 0) == child);
    return WIFSIGNALED(how) && WTERMSIG(how) == SIGSEGV;
}

static void test_nobody_else_touches_it(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu-apart");
    const float values[3] = {1, 2, 3};
    float out[3], *data = put(&nn, values, 3);
    sara_kernel_env env = sara_tape_env(nn.tape);
    assert_false(sara_device_is_host(nn.device));
    assert_true(dies_of(data, false) && dies_of(data, true));
    assert_ok(nn.ctx, sara_kernel_add(&env, data, data, data, 3));
    assert_true(dies_of(data, false));
    assert_ok(nn.ctx, sara_device_copy_out(nn.device, out, data, sizeof(out)));
    assert_true(out[0] == 2 && out[1] == 4 && out[2] == 6);
    assert_ok(nn.ctx, sara_device_fill(nn.device, data + 1, 0, 4));
    assert_ok(nn.ctx, sara_device_copy_within(nn.device, data + 2, data, 4));
    assert_ok(nn.ctx, sara_device_copy_out(nn.device, out, data, sizeof(out)));
    assert_true(out[0] == 2 && out[1] == 0 && out[2] == 2);
    assert_true(dies_of(data, false));
    assert_ok(nn.ctx, sara_device_synchronise(nn.device));
    sara_device_free(nn.device, data);
    test_nn_close(&nn);
}

static void test_the_hosts_memory_is_refused(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu-apart");
    float host[6] = {1, 2, 3, 4, 5, 6}, *data = put(&nn, host, 6);
    const uint32_t positions[2] = {0, 5};
    const sara_linear_shape shape = {2, 3, 1};
    const sara_weight_view w = {host, SARA_F32, NULL}, own = {data, SARA_F32, NULL};
    sara_kernel_env env = sara_tape_env(nn.tape);
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "cpu-apart: add: argument 1 is not of its memory",
                   sara_kernel_add(&env, host, data, data, 6));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "cpu-apart: add: argument 3 is not of its memory",
                   sara_kernel_add(&env, data, data, host, 6));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "linear_forward: argument 3 is not of its memory",
                   sara_kernel_linear_forward(&env, data, data, &w, NULL, &shape));
    assert_ok(nn.ctx, sara_kernel_linear_forward(&env, data, data, &own, NULL, &shape));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "linear_dw_sampled: argument 4 is not of its memory",
                   sara_kernel_linear_dw_sampled(&env, data, data, data, positions, 2, &shape));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "copy in: not from the host to its memory",
                   sara_device_copy_in(nn.device, host, host, 4));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "copy in: not from the host to its memory",
                   sara_device_copy_in(nn.device, data, data + 1, 4));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "copy out: not from its memory to the host",
                   sara_device_copy_out(nn.device, data, data + 1, 4));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "copy out: not from its memory to the host",
                   sara_device_copy_out(nn.device, host, host + 1, 4));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "copy within: not of its memory",
                   sara_device_copy_within(nn.device, data, host, 4));
    assert_refused(nn.ctx, SARA_ERROR_DEVICE, "fill: not of its memory",
                   sara_device_fill(nn.device, host, 0, 4));
    sara_device_free(nn.device, data);
    test_nn_close(&nn);
}

/* Much and little, freed in another order; what is free goes back to the system. */
static void test_allocation(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    test_nn nn = test_nn_open("cpu-apart");
    float *data[COUNT], value;
    for (int i = 0; i < COUNT; i++) {
        assert_ok(nn.ctx, sara_device_alloc(nn.device, &data[i], (size_t)1 << i % 16, 4));
        assert_int_equal((uintptr_t)data[i] % 64, 0);
        value = (float)i;
        assert_ok(nn.ctx, sara_device_copy_in(nn.device, data[i], &value, 4));
    }
    for (int i = 0; i < COUNT; i++) {
        int k = i * 7 % COUNT;
        assert_ok(nn.ctx, sara_device_copy_out(nn.device, &value, data[k], 4));
        assert_true(value == (float)k);
        sara_device_free(nn.device, data[k]);
    }
    test_nn_close(&nn);
}

/* Of each device there is one that counts for it, with leaves where they are copied. */
static void test_dry_ones(void **state)
{
    static const char *const names[][2] = {
        {"cpu", "dry"}, {"cpu-plain", "dry-plain"}, {"cpu-apart", "dry-apart"}};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        test_nn nn = test_nn_open(names[i][0]);
        sara_device *dry;
        assert_ok(nn.ctx, sara_nn_device_open_dry(nn.ctx, &dry, nn.device));
        assert_string_equal(dry->name, names[i][1]);
        assert_true(dry->dry && dry->copies == !sara_device_is_host(nn.device));
        sara_nn_device_close(dry);
        test_nn_close(&nn);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_else_touches_it),
        cmocka_unit_test(test_the_hosts_memory_is_refused),
        cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_dry_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
