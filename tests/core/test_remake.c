/* What the tape gives back and makes again, with made-up ops: y = 2 x, which can be remade,
 * y = x * x, which saves x, and y = a + b. */
#include "support/memory.h"

#include "core/tape.h"

enum { COUNT = 4096 };

static int made; /* times that 2 x was computed */

static sara_status twice_make(sara_tape *tape, const sara_node *node)
{
    const sara_var *x = node->in[0];
    (void)tape;
    assert_non_null(x->data);
    assert_non_null(node->out->data);
    for (int64_t i = 0; i < sara_shape_count(&x->shape); i++)
        node->out->data[i] = 2 * x->data[i];
    made++;
    return SARA_OK;
}

static sara_status twice_backward(sara_tape *tape, sara_node *node)
{
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    for (int64_t i = 0; i < sara_shape_count(&node->out->shape); i++)
        dx[i] += 2 * node->out->grad[i];
done:
    return status;
}

static sara_status twice(sara_tape *tape, sara_var **y, sara_var *x)
{
    sara_var *out = NULL;
    sara_status status;
    TRY(sara_tape_var(tape, &out, &x->shape));
    sara_node node = {.op = "twice", .backward = twice_backward, .remake = twice_make, .in = {x},
                      .out = out};
    TRY(twice_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

static sara_status square_backward(sara_tape *tape, sara_node *node)
{
    const sara_var *x = node->saved[0];
    float *dx;
    sara_status status;
    assert_non_null(x->data);
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    for (int64_t i = 0; i < sara_shape_count(&x->shape); i++)
        dx[i] += 2 * x->data[i] * node->out->grad[i];
done:
    return status;
}

static sara_status square(sara_tape *tape, sara_var **y, sara_var *x)
{
    sara_status status;
    TRY(sara_tape_var(tape, y, &x->shape));
    for (int64_t i = 0; i < sara_shape_count(&x->shape); i++)
        (*y)->data[i] = x->data[i] * x->data[i];
    sara_node node = {.op = "square", .backward = square_backward, .in = {x}, .saved = {x},
                      .out = *y};
    TRY(sara_tape_add(tape, &node, 0));
done:
    return status;
}

static sara_status sum_backward(sara_tape *tape, sara_node *node)
{
    sara_status status = SARA_OK;
    for (int k = 0; k < 2; k++) {
        float *dx;
        TRY(sara_tape_grad(tape, &dx, node->in[k]));
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

/* y = (4 x)^2 by two doublings; inner, if not NULL, receives 2 x and 4 x. */
static sara_status link(sara_tape *tape, sara_var **y, sara_var *x, sara_var **inner)
{
    size_t scope = sara_tape_open(tape);
    sara_var *a, *b;
    sara_status status;
    TRY(twice(tape, &a, x));
    TRY(twice(tape, &b, a));
    TRY(square(tape, y, b));
    sara_tape_close(tape, scope, y, 1);
    if (inner) {
        inner[0] = a;
        inner[1] = b;
    }
done:
    return status;
}

/* A leaf of ones that requires a gradient, and a loss to start backward from, unconnected. */
static sara_status start(sara_tape *tape, sara_var **x, sara_var **loss, float *ones)
{
    static float zero;
    const sara_shape shape = sara_shape1(COUNT), one = sara_shape1(1);
    sara_status status;
    for (int i = 0; i < COUNT; i++)
        ones[i] = 1;
    sara_tape_record(tape, true);
    TRY(sara_tape_leaf(tape, x, &shape, ones, true));
    TRY(sara_tape_leaf(tape, loss, &one, &zero, true));
done:
    return status;
}

/* Backward from dy = 1 everywhere. */
static sara_status finish(sara_tape *tape, sara_var *loss, sara_var *y)
{
    float *dy;
    sara_status status;
    TRY(sara_tape_grad(tape, &dy, y));
    for (int i = 0; i < COUNT; i++)
        dy[i] = 1;
    TRY(sara_tape_backward(tape, loss, 1));
done:
    return status;
}

static void assert_all(const float *values, float expected)
{
    for (int i = 0; i < COUNT; i++)
        assert_true(values[i] == expected);
}

static void test_data_goes_and_comes_back(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (int remaking = 0; remaking < 2; remaking++) {
        sara_tape *tape;
        sara_var *x, *y, *loss, *inner[2];
        float ones[COUNT];
        assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
        sara_tape_remaking(tape, remaking);
        assert_ok(ctx, start(tape, &x, &loss, ones));
        made = 0;
        assert_ok(ctx, link(tape, &y, x, inner));
        assert_true(inner[0]->data == NULL);
        assert_true((inner[1]->data == NULL) == (remaking == 1));
        assert_all(y->data, 16);
        assert_ok(ctx, finish(tape, loss, y));
        assert_all(x->grad, 32);
        assert_int_equal(made, remaking ? 4 : 2); /* the chain of both, once more */
        assert_true(inner[1]->data == NULL);
        sara_tape_free(tape);
    }
    sara_context_free(ctx);
}

/* y = x^2 + (2 x)^2, sixteen times: x is kept, 2 x is alive for one of them at a time. */
static void test_peak_is_smaller(void **state)
{
    (void)state;
    const size_t one = sizeof(float[COUNT]);
    size_t peaks[2];
    float gradients[2];
    sara_context *ctx = test_context();
    for (int remaking = 0; remaking < 2; remaking++) {
        sara_tape *tape;
        sara_var *x, *y, *a, *b, *loss;
        float ones[COUNT];
        assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
        sara_tape_remaking(tape, remaking);
        assert_ok(ctx, start(tape, &x, &loss, ones));
        ones[0] = 0.2f; /* 5 x^2 is near 1 */
        size_t scope = sara_tape_open(tape);
        y = x;
        for (int i = 0; i < 16; i++) {
            assert_ok(ctx, square(tape, &a, y));
            assert_ok(ctx, twice(tape, &b, y));
            assert_ok(ctx, square(tape, &b, b));
            assert_ok(ctx, sum(tape, &y, a, b));
            sara_tape_close(tape, scope, &y, 1);
        }
        assert_ok(ctx, finish(tape, loss, y));
        peaks[remaking] = sara_tape_peak(tape);
        gradients[remaking] = x->grad[0];
        sara_tape_free(tape);
    }
    assert_true(gradients[0] > 1 && gradients[0] == gradients[1]);
    assert_true(peaks[0] >= 31 * one);
    assert_true(peaks[1] <= 22 * one);
    sara_context_free(ctx);
}

/* Three nodes and a view: made again once, alive until the last of them has run. */
static void test_three_consumers_and_a_view(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    sara_var *x, *a, *view, *y[3], *loss;
    float ones[COUNT];
    const sara_shape wide = sara_shape2(2, COUNT / 2);
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    assert_ok(ctx, start(tape, &x, &loss, ones));
    made = 0;
    size_t scope = sara_tape_open(tape);
    assert_ok(ctx, twice(tape, &a, x));
    assert_ok(ctx, sara_tape_view(tape, &view, a, &wide));
    assert_ok(ctx, sara_tape_view(tape, &view, view, &wide)); /* a view of a view */
    assert_ok(ctx, square(tape, &y[0], a));
    assert_ok(ctx, square(tape, &y[1], view));
    assert_ok(ctx, square(tape, &y[2], a));
    sara_tape_close(tape, scope, (sara_var *[]){y[0], y[1], y[2], view}, 4);
    assert_non_null(a->data); /* the view's scope still holds it */
    assert_true(view->data == a->data);
    sara_tape_close(tape, scope, y, 3);
    assert_true(a->data == NULL && view->data == NULL);
    for (int i = 0; i < 3; i++) {
        float *dy;
        assert_ok(ctx, sara_tape_grad(tape, &dy, y[i]));
        dy[0] = (float)(i + 1);
    }
    assert_ok(ctx, sara_tape_backward(tape, loss, 1));
    assert_true(x->grad[0] == 2 * 2 * 2 * (1 + 2 + 3));
    assert_true(x->grad[1] == 0);
    assert_int_equal(made, 2);
    assert_true(a->data == NULL);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

/* No gradient reaches it: nothing is made for nothing. */
static void test_unused_is_not_remade(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_tape *tape;
    sara_var *x, *y, *loss;
    float ones[COUNT];
    assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
    assert_ok(ctx, start(tape, &x, &loss, ones));
    made = 0;
    assert_ok(ctx, link(tape, &y, x, NULL));
    assert_ok(ctx, sara_tape_backward(tape, loss, 1));
    assert_int_equal(made, 2);
    assert_true(x->grad == NULL);
    sara_tape_free(tape);
    sara_context_free(ctx);
}

static sara_status region(sara_tape *tape, sara_var **y, sara_var *const *in, const void *argument)
{
    (void)argument;
    return link(tape, y, in[0], NULL);
}

/* A region's inputs may be remade, and so may what is inside. */
static void test_checkpointed_region(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (int remaking = 0; remaking < 2; remaking++) {
        sara_tape *tape;
        sara_var *x, *a, *y, *loss;
        float ones[COUNT];
        assert_ok(ctx, sara_tape_new(ctx, &tape, NULL));
        sara_tape_remaking(tape, remaking);
        assert_ok(ctx, start(tape, &x, &loss, ones));
        made = 0;
        size_t scope = sara_tape_open(tape);
        assert_ok(ctx, twice(tape, &a, x));
        assert_ok(ctx, sara_tape_checkpoint(tape, &y, region, &a, 1, NULL, 0));
        sara_tape_close(tape, scope, &y, 1);
        assert_true((a->data == NULL) == (remaking == 1));
        assert_ok(ctx, finish(tape, loss, y));
        assert_all(x->grad, 128); /* y = 64 x^2 */
        assert_int_equal(made, remaking ? 8 : 5);
        sara_tape_free(tape);
    }
    sara_context_free(ctx);
}

static sara_status pass(sara_context *ctx, const char *argument)
{
    sara_tape *tape = NULL;
    sara_var *x, *y, *loss;
    float ones[COUNT];
    sara_status status;
    (void)argument;
    TRY(sara_tape_new(ctx, &tape, NULL));
    TRY(start(tape, &x, &loss, ones));
    TRY(sara_tape_checkpoint(tape, &y, region, &x, 1, NULL, 0));
    TRY(link(tape, &y, y, NULL));
    TRY(finish(tape, loss, y));
    assert_all(x->grad, 16 * 16 * 16 * 4); /* y = 16^3 x^4 */
done:
    sara_tape_free(tape);
    return status;
}

static void test_failing_allocations(void **state)
{
    (void)state;
    test_every_allocation(pass, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_goes_and_comes_back),
        cmocka_unit_test(test_peak_is_smaller),
        cmocka_unit_test(test_three_consumers_and_a_view),
        cmocka_unit_test(test_unused_is_not_remade),
        cmocka_unit_test(test_checkpointed_region),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
