#include "support_models.h"

#include <stdio.h>
#include <stdlib.h>

/* A binder and a file of weights, both made anew for each test. */
typedef struct fixture {
    sara_context *ctx;
    sara_binder *binder;
    sara_weights *weights;
    char *folder;
    sara_param *slots[32];
    int slot_count;
} fixture;

static const float values[64] = {1, 2, 3, 4, 5, 6, 7, 8};

static void setup(fixture *f, const sara_tensor_source *tensors, size_t count)
{
    char *path;
    *f = (fixture){.ctx = test_context(), .folder = test_folder()};
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, "model.safetensors"));
    assert_ok(f->ctx, sara_safetensors_save(f->ctx, path, tensors, count, NULL, 0));
    assert_ok(f->ctx, sara_weights_open(f->ctx, &f->weights, f->folder, "model", NULL));
    assert_ok(f->ctx, sara_binder_new(sara_host_device(f->ctx), &f->binder));
    sara_free(f->ctx, path);
}

static void teardown(fixture *f)
{
    sara_binder_free(f->binder);
    sara_weights_close(f->weights);
    test_folder_remove(f->folder);
    sara_context_free(f->ctx);
}

static sara_param **want(fixture *f, const char *name, sara_shape shape)
{
    sara_param **slot = &f->slots[f->slot_count++];
    assert_ok(f->ctx, sara_binder_want(f->binder, slot, &shape, "%s", name));
    return slot;
}

static sara_tensor_source tensor(const char *name, sara_shape shape)
{
    return (sara_tensor_source){name, SARA_F32, shape, values};
}

static void test_slots_and_params(void **state)
{
    (void)state;
    static const uint16_t halves[] = {0x3C00, 0xC000}; /* 1, -2 */
    sara_tensor_source tensors[] = {
        {"b.bias", SARA_F16, sara_shape1(2), halves},
        tensor("b.weight", sara_shape2(2, 3)),
        tensor("a", sara_shape1(1)),
        {"a.position_ids", SARA_I64, sara_shape1(4), values},
    };
    fixture f;
    sara_params params;
    setup(&f, tensors, 4);
    sara_param **weight = want(&f, "b.weight", sara_shape2(2, 3));
    sara_param **a = want(&f, "a", sara_shape1(1));
    sara_param **bias = want(&f, "b.bias", sara_shape1(2));
    assert_ok(f.ctx, sara_binder_ignore(f.binder, "position_ids"));
    assert_ok(f.ctx, sara_binder_match(f.binder, &params, f.weights));
    assert_int_equal(params.count, 3);
    assert_ptr_equal(*a, &params.items[0]);
    assert_ptr_equal(*bias, &params.items[1]);
    assert_ptr_equal(*weight, &params.items[2]);
    assert_string_equal((*bias)->name, "b.bias");
    assert_int_equal((*bias)->stored, SARA_F16);
    assert_int_equal((*weight)->stored, SARA_F32);
    assert_int_equal((*bias)->value.dtype, SARA_F32);
    assert_null((*bias)->value.data);
    assert_ok(f.ctx, sara_params_fill(f.ctx, &params, f.weights));
    assert_true(((float *)(*bias)->value.data)[1] == -2);
    assert_memory_equal((*weight)->value.data, values, 6 * sizeof(float));
    assert_int_equal((*weight)->want, SARA_GRAD_NONE);
    sara_params_free(f.ctx, &params);
    teardown(&f);
}

/* Buffers are read and counted as memory, but are none of the parameters. */
static void test_buffers(void **state)
{
    (void)state;
    static const uint16_t halves[] = {0x3C00, 0xC000}; /* 1, -2 */
    sara_tensor_source tensors[] = {{"b.table", SARA_F16, sara_shape2(2, 1), halves},
                                    tensor("a", sara_shape1(1)),
                                    tensor("c", sara_shape2(2, 3))};
    const sara_storage storages[] = {SARA_STORE_F32, SARA_STORE_BF16};
    const sara_shape shape = sara_shape2(2, 1);
    for (int i = 0; i < 2; i++) {
        fixture f;
        sara_params params;
        sara_param *table = NULL;
        setup(&f, tensors, 3);
        sara_param **c = want(&f, "c", sara_shape2(2, 3));
        assert_ok(f.ctx, sara_binder_want_buffer(f.binder, &table, &shape, "b.table"));
        sara_param **a = want(&f, "a", sara_shape1(1));
        sara_binder_store(f.binder, storages[i]);
        assert_int_equal(sara_binder_entries(f.binder), 7);
        assert_ok(f.ctx, sara_binder_match(f.binder, &params, f.weights));
        assert_int_equal(params.count, 2);
        assert_int_equal(params.buffers, 1);
        assert_ptr_equal(*a, &params.items[0]);
        assert_ptr_equal(*c, &params.items[1]);
        assert_ptr_equal(table, &params.items[2]);
        assert_null(sara_params_find(&params, "b.table"));
        assert_int_equal(table->value.dtype, i ? SARA_BF16 : SARA_F16);
        assert_int_equal(sara_params_entries(&params), 7);
        assert_int_equal(sara_params_bytes(&params), i ? 4 + 12 + 4 : 4 + 24 + 4);
        assert_ok(f.ctx, sara_params_fill(f.ctx, &params, f.weights));
        assert_true(sara_param_get(table, 0) == 1 && sara_param_get(table, 1) == -2);
        sara_params_free(f.ctx, &params);
        teardown(&f);
    }
}

static void test_other_names_and_shapes(void **state)
{
    (void)state;
    sara_tensor_source tensors[] = {tensor("zz.old", sara_shape4(2, 2, 1, 1)),
                                    tensor("new", sara_shape1(2))};
    sara_shape kernel = sara_shape4(2, 2, 1, 1);
    fixture f;
    sara_params params;
    setup(&f, tensors, 2);
    sara_param **a = want(&f, "a", sara_shape2(2, 2));
    sara_param **b = want(&f, "new", sara_shape1(2));
    assert_ok(f.ctx, sara_binder_alias(f.binder, "a", "zz.old"));
    assert_ok(f.ctx, sara_binder_also_shape(f.binder, "a", &kernel));
    assert_ok(f.ctx, sara_binder_alias(f.binder, "new", "older"));
    assert_refused(f.ctx, SARA_ERROR_USAGE, "no parameter named c",
                   sara_binder_alias(f.binder, "c", "d"));
    assert_ok(f.ctx, sara_binder_match(f.binder, &params, f.weights));
    assert_string_equal((*a)->name, "zz.old");
    assert_int_equal((*a)->value.shape.rank, 4);
    assert_ptr_equal(*b, &params.items[0]);
    sara_params_free(f.ctx, &params);
    teardown(&f);
}

static void test_both_a_name_and_its_alias_are_one_too_many(void **state)
{
    (void)state;
    sara_tensor_source tensors[] = {tensor("a", sara_shape1(2)), tensor("old", sara_shape1(2))};
    fixture f;
    sara_params params;
    setup(&f, tensors, 2);
    want(&f, "a", sara_shape1(2));
    assert_ok(f.ctx, sara_binder_alias(f.binder, "a", "old"));
    assert_refused(f.ctx, SARA_ERROR_INPUT, "1 not expected (old)",
                   sara_binder_match(f.binder, &params, f.weights));
    teardown(&f);
}

static void test_what_does_not_fit_is_listed(void **state)
{
    (void)state;
    sara_tensor_source tensors[] = {
        tensor("a", sara_shape2(2, 3)),    tensor("b", sara_shape1(4)),
        tensor("extra.1", sara_shape1(1)), tensor("extra.2", sara_shape1(1)),
        tensor("fits", sara_shape1(1)),
    };
    fixture f;
    sara_params params;
    setup(&f, tensors, 5);
    want(&f, "a", sara_shape2(3, 2));
    want(&f, "b", sara_shape4(2, 2, 1, 1));
    want(&f, "fits", sara_shape1(1));
    want(&f, "gone", sara_shape1(1));
    assert_refused(f.ctx, SARA_ERROR_INPUT,
                   "model.safetensors: the tensors do not fit the config: 1 missing (gone); "
                   "2 misshapen (a: shape [2,3], expected [3,2], b: shape [4], expected "
                   "[2,2,1,1]); 2 not expected (extra.1, extra.2)",
                   sara_binder_match(f.binder, &params, f.weights));
    for (int i = 0; i < f.slot_count; i++)
        assert_null(f.slots[i]);
    teardown(&f);
}

static void test_the_first_five_are_listed(void **state)
{
    (void)state;
    sara_tensor_source tensors[7];
    char names[14][8];
    fixture f;
    sara_params params;
    for (int i = 0; i < 7; i++) {
        snprintf(names[i], sizeof(names[i]), "x%d", i);
        tensors[i] = tensor(names[i], sara_shape1(1));
    }
    setup(&f, tensors, 7);
    for (int i = 7; i < 14; i++) {
        snprintf(names[i], sizeof(names[i]), "w%d", i);
        want(&f, names[i], sara_shape1(1));
    }
    assert_refused(
        f.ctx, SARA_ERROR_INPUT,
        "7 missing (w7, w8, w9, w10, w11, ...); 7 not expected (x0, x1, x2, x3, x4, ...)",
        sara_binder_match(f.binder, &params, f.weights));
    teardown(&f);
}

/* Names as long as a file may hold, and what a terminal would take as commands. */
static void test_hostile_names(void **state)
{
    (void)state;
    enum { LENGTH = 5000 };
    sara_tensor_source tensors[6];
    static char names[6][LENGTH + 1];
    fixture f;
    sara_params params;
    for (int i = 0; i < 6; i++) {
        memset(names[i], 'a' + i, LENGTH);
        tensors[i] = tensor(names[i], (sara_shape){8, {1, 1, 1, 1, 1, 1, 1, 1}});
    }
    memcpy(names[0], "\x1b[2J\r", 5);
    setup(&f, tensors, 6);
    for (int i = 0; i < 6; i++)
        want(&f, names[i], (sara_shape){8, {1, 1, 1, 1, 1, 1, 1, INT64_MAX}});
    want(&f, "not there", sara_shape1(1));
    assert_refused(f.ctx, SARA_ERROR_INPUT, "6 misshapen (\\x1b[2J\\x0daaa",
                   sara_binder_match(f.binder, &params, f.weights));
    assert_null(strchr(sara_context_error(f.ctx), '\x1b'));
    teardown(&f);
}

static void test_tensors_that_are_not_numbers(void **state)
{
    (void)state;
    sara_tensor_source tensors[] = {{"a", SARA_I64, sara_shape1(2), values}};
    fixture f;
    sara_params params;
    setup(&f, tensors, 1);
    want(&f, "a", sara_shape1(2));
    assert_int_equal(sara_binder_match(f.binder, &params, f.weights), SARA_ERROR_INPUT);
    test_assert_contains(sara_context_error(f.ctx), "I64", __FILE__, __LINE__);
    assert_null(f.slots[0]);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_and_params),
        cmocka_unit_test(test_buffers),
        cmocka_unit_test(test_other_names_and_shapes),
        cmocka_unit_test(test_both_a_name_and_its_alias_are_one_too_many),
        cmocka_unit_test(test_what_does_not_fit_is_listed),
        cmocka_unit_test(test_the_first_five_are_listed),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_tensors_that_are_not_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
