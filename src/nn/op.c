#include "nn/op.h"

int64_t sara_shape_last(const sara_shape *shape)
{
    return shape->rank > 0 ? shape->dims[shape->rank - 1] : 1;
}

static int64_t product(const sara_shape *shape, int first, int last)
{
    int64_t count = 1;
    for (int i = first; i < last; i++)
        count *= shape->dims[i];
    return count;
}

int64_t sara_shape_inner(const sara_shape *shape)
{
    return product(shape, 1, shape->rank - 1);
}

int64_t sara_shape_rows(const sara_shape *shape)
{
    return product(shape, 0, shape->rank - 1);
}

sara_status sara_op_expect(const sara_tape *tape, const char *op, const char *name,
                           const sara_shape *got, const sara_shape *expected)
{
    sara_shape_text a, b;
    if (sara_shape_equal(got, expected))
        return SARA_OK;
    return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT, "%s: %s: shape %s, expected %s", op,
                     name, sara_shape_format(&a, got), sara_shape_format(&b, expected));
}

sara_status sara_op_expect_per_sample(const sara_tape *tape, const char *op, const sara_shape *x,
                                      const char *name, const sara_shape *e)
{
    const sara_shape expected = sara_shape2(x->dims[0], sara_shape_last(x));
    sara_shape_text text;
    if (x->rank < 2)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "%s: x: shape %s, expected [N,...,C]", op, sara_shape_format(&text, x));
    return sara_op_expect(tape, op, name, e, &expected);
}

sara_status sara_op_pass(sara_tape *tape, sara_var *var, const float *dy)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *dx;
    bool fresh;
    sara_status status = SARA_OK;
    if (!var->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, var));
    int64_t width = sara_shape_last(&var->shape);
    TRY(SARA_TRACED(env.ctx, "copy", 0,
                    sara_kernel_copy_columns(&env, dx, width, 0, dy, width, 0,
                                             sara_shape_rows(&var->shape), width, !fresh)));
done:
    return status;
}

sara_status sara_op_param_start(sara_tape *tape, float **out, sara_param *param)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    sara_status status = SARA_OK;
    *out = param->want == SARA_GRAD_DENSE ? param->grad : NULL;
    if (param->want == SARA_GRAD_SAMPLED) {
        TRY(sara_tape_scratch(tape, out, count));
        TRY(sara_device_fill(sara_tape_device(tape), *out, 0, count * sizeof(**out)));
    }
done:
    return status;
}

sara_status sara_op_param_finish(sara_tape *tape, sara_param *param, float *gradient,
                                 sara_status status)
{
    sara_kernel_env env = sara_tape_env(tape);
    if (param->want != SARA_GRAD_SAMPLED)
        return status;
    if (status == SARA_OK)
        status = sara_kernel_gather_add(&env, param->grad, gradient,
                                        (size_t)sara_shape_count(&param->value.shape),
                                        param->positions, param->selected);
    sara_tape_unscratch(tape, gradient);
    return status;
}
