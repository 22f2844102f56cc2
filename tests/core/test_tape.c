/* The tape with two made-up ops: y = x * x and y = a + b. */
#include "support/support.h"

#include <stdlib.h>

#include "core/tape.h"

static sara_status square_backward(sara_tape *tape, sara_node *node)
{
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    for (int64_t i = 0; i < sara_shape_count(&node->out->shape); i++)
        dx[i] += 2 * node->saved[0]->data[i] * node->out->grad[i];
done:
    return status;
}

static sara_status square(sara_tape *tape, sara_var **y, sara_var *x)
{
    sara_status status;
    TRY(sara_tape_var(tape, y, &x->shape));
    for (int64_t i = 0; i < sara_shape_count(&x->shape); i++)
        (*y)->data[i] = x->data[i] * x->data[i];
    sara_node node = {
        .op = "square", .backward = square_backward, .in = {x}, .saved = {x}, .out = *y};
    TRY(sara_tape_add(tape, &node, 0));
done:
    return status;
}

static sara_status sum_backward(sara_tape *tape, sara_node *node)
{
    sara_status status = SARA_OK;
    for (int j = 0; j < 2; j++) {
        float *dx;
        TRY(sara_tape_grad(tape, &dx, node->in[j]));
        for (int64_t i = 0; i < sara_shape_count(&node->out->shape); i++)
            dx[i] += node->out->grad[i];
    }
done:
    return status;
}

static sara_status sum(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    sara_status status;
    TRY(sara_tape_var(tape, y, &a->shape));
    for (int64_t i = 0; i < sara_shape_count(&a->shape); i++)
        (*y)->data[i] = a->data[i] + b->data[i];
    sara_node node = {.op = "sum", .backward = sum_backward, .in = {a, b}, .out = *y};
    TRY(sara_tape_add(tape, &node, 0));
done:
    return status;
}

/* y = (x^2)^2 + x^2 */
static sara_status region(sara_tape *tape, sara_var **out, sara_var *const *in,
                          const void *argument)
{
    sara_var *a, *b;
    sara_status status;
    size_t scope = sara_tape_open(tape);
    (void)argument;
    TRY(square(tape, &a, in[0]));
    TRY(square(tape, &b, a));
    TRY(sum(tape, out, a, b));
    sara_tape_close(tape, scope, out, 1);
done:
    return status;
}

static void run(sara_tape *tape, sara_context *ctx, bool checkpoint, float expected)
{
    float x[1] = {3};
    sara_var *leaf, *y;
    sara_shape shape = sara_shape1(1);
    assert_ok(ctx, sara_tape_leaf(tape, &leaf, &shape, x, true));
    if (checkpoint)
        assert_ok(ctx, sara_tape_checkpoint(tape, &y, region, &leaf, 1, NULL, 0));
    else
        assert_ok(ctx, region(tape, &y, &leaf, NULL));
    assert_true(y->data[0] == 90);
    assert_ok(ctx, sara_tape_backward(tape, y, 1));
    assert_true(leaf->grad[0] == expected); /* 4 x^3 + 2 x */
    sara_tape_reset(tape);
}

static void test_gradients(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    sara_tape_record(tape, true);
    run(tape, ctx, false, 114);
    run(tape, ctx, true, 114);
    run(tape, ctx, false, 114);
    assert_true(sara_tape_recording(tape));
    sara_tape_free(tape);
    sara_context_free(ctx);
}

static void test_view_shares_data_and_gradient(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    float x[6] = {1, 2, 3, 4, 5, 6};
    sara_shape flat = sara_shape1(6), wide = sara_shape2(2, 3), wrong = sara_shape2(2, 2);
    sara_var *leaf, *view, *y;
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    sara_tape_record(tape, true);
    assert_ok(ctx, sara_tape_leaf(tape, &leaf, &flat, x, true));
    assert_refused(ctx, SARA_ERROR_INPUT, "[6] cannot become [2,2]",
                   sara_tape_view(tape, &view, leaf, &wrong));
    assert_ok(ctx, sara_tape_view(tape, &view, leaf, &wide));
    assert_ok(ctx, square(tape, &y, view));
    assert_refused(ctx, SARA_ERROR_INPUT, "[2,3]", sara_tape_backward(tape, y, 1));
    float *seed;
    assert_ok(ctx, sara_tape_grad(tape, &seed, y));
    for (int i = 0; i < 6; i++)
        seed[i] = 1;
    float zero = 0;
    sara_var *loss;
    sara_shape one = sara_shape1(1);
    assert_ok(ctx, sara_tape_leaf(tape, &loss, &one, &zero, true));
    assert_ok(ctx, sara_tape_backward(tape, loss, 1));
    for (int i = 0; i < 6; i++)
        assert_true(leaf->grad[i] == 2 * x[i]);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

/* y = a^2 + b */
static sara_status two_inputs(sara_tape *tape, sara_var **out, sara_var *const *in,
                              const void *argument)
{
    sara_var *a;
    sara_status status;
    size_t scope = sara_tape_open(tape);
    (void)argument;
    TRY(square(tape, &a, in[0]));
    TRY(sum(tape, out, a, in[1]));
    sara_tape_close(tape, scope, out, 1);
done:
    return status;
}

/* A region both of whose inputs view one variable, which is used after it too: with y = x^2 + x the
 * gradient of y^2 + x is 2 y (2 x + 1) + 1. */
static void test_checkpoint_of_two_views(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    float x[2] = {3, -5}, zero = 0, *seed;
    sara_shape flat = sara_shape1(2), wide = sara_shape2(1, 2), one = sara_shape1(1);
    sara_var *leaf, *views[2], *y, *loss;
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    sara_tape_record(tape, true);
    assert_ok(ctx, sara_tape_leaf(tape, &leaf, &flat, x, true));
    assert_ok(ctx, sara_tape_leaf(tape, &loss, &one, &zero, true));
    for (int i = 0; i < 2; i++)
        assert_ok(ctx, sara_tape_view(tape, &views[i], leaf, &wide));
    assert_ok(ctx, sara_tape_checkpoint(tape, &y, two_inputs, views, 2, NULL, 0));
    assert_ok(ctx, square(tape, &y, y));
    assert_ok(ctx, sum(tape, &y, y, views[0]));
    assert_true(y->data[0] == 147 && y->data[1] == 395);
    assert_ok(ctx, sara_tape_grad(tape, &seed, y));
    seed[0] = seed[1] = 1;
    assert_ok(ctx, sara_tape_backward(tape, loss, 1));
    assert_true(leaf->grad[0] == 169 && leaf->grad[1] == -359);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

/* Without recording a scope gives everything back but what it keeps. */
/* Of a region in which nothing wants a gradient nothing is recorded. */
static void test_checkpoint_of_what_nothing_wants(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    float x[1] = {3};
    sara_shape shape = sara_shape1(1);
    sara_var *leaf, *frozen, *trained, *y;
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    sara_tape_record(tape, true);
    assert_ok(ctx, sara_tape_leaf(tape, &leaf, &shape, x, false));
    assert_ok(ctx, sara_tape_checkpoint(tape, &frozen, region, &leaf, 1, NULL, 0));
    assert_false(frozen->requires_grad);
    assert_true(frozen->data[0] == 90);
    /* What comes after it is seen for itself. */
    assert_ok(ctx, sara_tape_leaf(tape, &trained, &shape, x, true));
    assert_ok(ctx, sara_tape_checkpoint(tape, &y, two_inputs, (sara_var *[]){trained, frozen}, 2,
                                        NULL, 0));
    assert_true(y->requires_grad && y->data[0] == 99);
    assert_ok(ctx, sara_tape_backward(tape, y, 1));
    assert_true(trained->grad[0] == 6 && !leaf->grad);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

static void test_scopes_give_memory_back(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    float x[1024] = {0};
    sara_shape shape = sara_shape1(1024);
    sara_var *var;
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    assert_ok(ctx, sara_tape_leaf(tape, &var, &shape, x, false));
    for (int i = 0; i < 20; i++)
        assert_ok(ctx, region(tape, &var, &var, NULL));
    assert_int_equal(sara_tape_peak(tape) > 0, 1);
    size_t per_region = 3 * sizeof(x), kept = 20 * sizeof(x);
    assert_true(sara_tape_peak(tape) <= per_region + kept);
    sara_tape_reset(tape);

    /* Inside a scope of its own each result replaces the one before. */
    sara_tape *tight;
    assert_ok(ctx, sara_tape_new(ctx, &tight, NULL));
    assert_ok(ctx, sara_tape_leaf(tight, &var, &shape, x, false));
    size_t scope = sara_tape_open(tight);
    for (int i = 0; i < 20; i++) {
        assert_ok(ctx, region(tight, &var, &var, NULL));
        sara_tape_close(tight, scope, &var, 1);
    }
    assert_true(sara_tape_peak(tight) <= 4 * sizeof(x));
    sara_tape_free(tight);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

/* The same memory serves every pass. */
static void count_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void *count_allocate(void *user, size_t size)
{
    (*(size_t *)user)++;
    return malloc(size);
}

static void test_checkpoint_holds_less(void **state)
{
    (void)state;
    size_t peaks[2], allocations = 0;
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        sara_allocator allocator = {count_allocate, count_release, &allocations};
        sara_context_options options = {.allocator = &allocator, .threads = 1};
        sara_context *ctx = NULL;
        sara_tape *tape;
        float x[4096] = {0};
        sara_shape shape = sara_shape1(4096), one = sara_shape1(1);
        sara_var *var, *loss;
        float zero = 0, *seed;
        assert_ok(ctx, sara_context_new(&ctx, &options));
        assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
        sara_tape_record(tape, true);
        assert_ok(ctx, sara_tape_leaf(tape, &var, &shape, x, true));
        assert_ok(ctx, sara_tape_leaf(tape, &loss, &one, &zero, true));
        size_t scope = sara_tape_open(tape);
        for (int i = 0; i < 16; i++) {
            if (checkpoint)
                assert_ok(ctx, sara_tape_checkpoint(tape, &var, region, &var, 1, NULL, 0));
            else
                assert_ok(ctx, region(tape, &var, &var, NULL));
            sara_tape_close(tape, scope, &var, 1);
        }
        assert_ok(ctx, sara_tape_grad(tape, &seed, var));
        assert_ok(ctx, sara_tape_backward(tape, loss, 1));
        peaks[checkpoint] = sara_tape_peak(tape);
        sara_tape_free(tape);
        sara_context_free(ctx);
    }
    assert_true(allocations > 0);
    assert_true(peaks[1] < peaks[0] * 3 / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_view_shares_data_and_gradient),
        cmocka_unit_test(test_checkpoint_of_two_views),
        cmocka_unit_test(test_checkpoint_of_what_nothing_wants),
        cmocka_unit_test(test_scopes_give_memory_back),
        cmocka_unit_test(test_checkpoint_holds_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
