/* T5 encoders: states of transformers, and values that are streamed. */
#include "support_t5.h"

#include <stdlib.h>

/* Relative L2 between states and golden's, of which committed files keep every so manieth entry. */
static double states_error(const t5_run *r, const sara_var *states, const sara_safetensors *golden)
{
    size_t kept, count = (size_t)sara_shape_count(&states->shape);
    const char *given = sara_safetensors_metadata(golden, "states_stride");
    size_t stride = given ? (size_t)strtoul(given, NULL, 10) : 1;
    float *expected = test_load_f32(r->ctx, golden, "last_hidden_state", &kept);
    float *ours = malloc(kept * sizeof(*ours));
    assert_int_equal(kept, (count + stride - 1) / stride);
    for (size_t i = 0; i < kept; i++)
        ours[i] = states->data[i * stride];
    double error = test_relative_l2(ours, expected, kept);
    sara_free(r->ctx, expected);
    free(ours);
    return error;
}

static void check_golden(const char *device, sara_storage storage)
{
    t5_run r = t5_open(t5_folder().text, device, storage);
    sara_safetensors *golden = t5_golden(&r);
    sara_var *states;
    assert_ok(r.ctx, sara_t5_forward(r.tape, &states, r.t5, r.ids, r.batch, r.count));
    assert_true(states->shape.rank == 3 && states->shape.dims[0] == r.batch &&
                states->shape.dims[1] == r.count && states->shape.dims[2] == 64);
    assert_close(states_error(&r, states, golden), 1e-5, "states");
    sara_safetensors_close(golden);
    t5_close(&r);
}

static void test_equals_transformers(void **state)
{
    (void)state;
    check_golden("cpu-plain", SARA_STORE_F32);
    check_golden("cpu", SARA_STORE_F32);
    check_golden("cpu", SARA_STORE_EXACT);
}

/* All values in memory, as of a network that is drawn. */
static void hold(t5_run *r)
{
    assert_ok(r->ctx, sara_params_fill(r->ctx, &r->t5->params, r->t5->weights));
    r->t5->there = true;
}

/* Values are in memory while they are used; results are those of all values in memory, and those
 * of each text alone. */
static void test_streamed(void **state)
{
    (void)state;
    t5_run r = t5_open(t5_folder().text, "cpu", SARA_STORE_EXACT);
    sara_safetensors *golden = t5_golden(&r);
    const size_t each = (size_t)r.count * 64;
    t5_assert_released(&r);
    float *streamed = t5_run_forward(&r, 0, r.batch), *second = t5_run_forward(&r, 1, 1);
    t5_assert_released(&r);
    assert_memory_equal(second, streamed + each, each * sizeof(float));
    hold(&r);
    float *resident = t5_run_forward(&r, 0, r.batch);
    assert_memory_equal(resident, streamed, (size_t)r.batch * each * sizeof(float));
    assert_non_null(r.t5->params.items[0].value.data);
    sara_network_release(r.t5);
    t5_assert_released(&r);
    free(streamed);
    free(second);
    free(resident);
    sara_safetensors_close(golden);
    t5_close(&r);
}

/* The most bytes of a network's values that are there when something is allocated. */
typedef struct ledger {
    const sara_network *t5;
    int64_t most;
} ledger;

static void *ledger_take(void *user, size_t size)
{
    ledger *l = user;
    int64_t there = 0;
    for (size_t i = 0; l->t5 && i < l->t5->params.count; i++) {
        const sara_params one = {.items = &l->t5->params.items[i], .count = 1};
        there += one.items->value.data ? sara_params_bytes(&one) : 0;
    }
    l->most = there > l->most ? there : l->most;
    return malloc(size);
}

static void ledger_give(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* Bytes of values in memory during a forward pass; *told: what the network says. */
static int64_t forward_bytes(bool resident, int64_t *told)
{
    static const int32_t ids[] = {5, 3, 400, 1};
    ledger l = {NULL, 0};
    sara_allocator allocator = {ledger_take, ledger_give, &l};
    const sara_context_options options = {.allocator = &allocator, .threads = 1};
    t5_run r = {0};
    sara_var *states;
    assert_int_equal(sara_context_new(&r.ctx, &options), SARA_OK);
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, "cpu-plain"));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_network_load(r.device, &r.t5, &sara_t5_class, t5_folder().text, NULL,
                                       SARA_STORE_EXACT));
    if (resident)
        hold(&r);
    *told = sara_network_bytes(r.t5);
    l.t5 = r.t5;
    assert_ok(r.ctx, sara_t5_forward(r.tape, &states, r.t5, ids, 1, 4));
    l.t5 = NULL;
    t5_close(&r);
    return l.most;
}

static void test_bytes(void **state)
{
    (void)state;
    const int64_t block = 2 * (4 * 48 * 64 + 3 * 96 * 64) + 4 * 2 * 64;
    const int64_t tokens = 2 * 512 * 64, all = tokens + 2 * block + 2 * 32 * 4 + 4 * 64;
    int64_t told;
    assert_in_range(forward_bytes(false, &told), block - 12288, tokens);
    assert_int_equal(told, tokens);
    assert_int_equal(forward_bytes(true, &told), all);
    assert_int_equal(told, all);
}

/* What a dry pass counts is what a pass takes. */
static void test_dry(void **state)
{
    (void)state;
    t5_run r = t5_open(t5_folder().text, "cpu-plain", SARA_STORE_F32);
    sara_device *dry;
    sara_tape *tape;
    sara_var *states;
    sara_safetensors *golden = t5_golden(&r);
    assert_ok(r.ctx, sara_nn_device_open_dry(r.ctx, &dry, r.device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &tape, dry));
    assert_ok(r.ctx, sara_t5_forward(tape, &states, r.t5, r.ids, r.batch, r.count));
    t5_assert_released(&r);
    free(t5_run_forward(&r, 0, r.batch));
    assert_int_equal(sara_tape_peak(tape), sara_tape_peak(r.tape));
    sara_tape_free(tape);
    sara_nn_device_close(dry);
    sara_safetensors_close(golden);
    t5_close(&r);
}

/* Where the host cannot touch the memory. */
static void test_apart(void **state)
{
    (void)state;
    t5_run cpu = t5_open(t5_folder().text, "cpu", SARA_STORE_EXACT);
    t5_run apart = t5_open(t5_folder().text, "cpu-apart", SARA_STORE_EXACT);
    sara_safetensors *golden = t5_golden(&cpu);
    const size_t count = (size_t)(cpu.batch * cpu.count) * 64;
    float *expected = t5_run_forward(&cpu, 0, cpu.batch), *got = malloc(count * sizeof(*got));
    sara_var *states;
    assert_ok(apart.ctx,
              sara_t5_forward(apart.tape, &states, apart.t5, cpu.ids, cpu.batch, cpu.count));
    assert_ok(apart.ctx,
              sara_device_copy_out(apart.device, got, states->data, count * sizeof(*got)));
    assert_memory_equal(got, expected, count * sizeof(*got));
    free(expected);
    free(got);
    sara_safetensors_close(golden);
    t5_close(&cpu);
    t5_close(&apart);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_transformers),
        cmocka_unit_test(test_streamed),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_dry),
        cmocka_unit_test(test_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
