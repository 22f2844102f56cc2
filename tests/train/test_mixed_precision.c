/* Runs with --mixed_precision bf16: where the processor multiplies bf16 they follow the float32 run
 * as closely as bf16 allows, elsewhere they are refused. */
#include "support_train.h"

#include "nn/bf16.h"

#include <math.h>
#include <stdlib.h>

#define STEPS 4
/* bf16 has 8 bits, so each operand is off by 2^-9 at most; errors of a sum's many terms, and of a
 * loss's many elements, cancel rather than add up. */
#define ROUNDOFF 0x1p-9

static bool is_refused(test_run *run, sara_status status)
{
    if (!sara_bf16_lacks()) {
        assert_ok(run->ctx, status);
        return false;
    }
    assert_refused(run->ctx, SARA_ERROR_DEVICE, "--mixed_precision bf16: ", status);
    test_assert_contains(sara_context_error(run->ctx), sara_bf16_lacks(), __FILE__, __LINE__);
    return true;
}

/* The columns of a run in a folder of its own; false: it was refused, and there is no such run. */
static bool train(test_run *run, const char *folder, double *losses, double *norms)
{
    test_run_output(run, folder);
    sara_status status = test_run_train(run);
    if (strcmp(run->options.mixed_precision, "bf16") == 0 && is_refused(run, status)) {
        assert_false(test_run_has(run, "adapter.safetensors"));
        return false;
    }
    assert_ok(run->ctx, status);
    assert_int_equal(test_run_column(run, losses, STEPS, "loss"), STEPS);
    assert_int_equal(test_run_column(run, norms, STEPS, "grad_norm"), STEPS);
    return true;
}

/* Other bits in every step, but near ones. */
static void check_near(const double *narrow, const double *wide, double tolerance, const char *what)
{
    for (int i = 0; i < STEPS; i++) {
        assert_true(isfinite(narrow[i]) && narrow[i] != wide[i]);
        assert_close(fabs(narrow[i] - wide[i]) / wide[i], tolerance, what);
    }
}

static void compare(test_run *run, const char *name)
{
    double wide[STEPS], narrow[STEPS], wide_norms[STEPS], narrow_norms[STEPS];
    run->options.mixed_precision = "no";
    assert_true(train(run, test_text(run, "%s-wide", name), wide, wide_norms));
    run->options.mixed_precision = "bf16";
    if (!train(run, test_text(run, "%s-narrow", name), narrow, narrow_norms))
        return;
    check_near(narrow, wide, ROUNDOFF, "loss");
    check_near(narrow_norms, wide_norms, 4 * ROUNDOFF, "norm of the gradient");
}

static void test_train(void **state)
{
    test_run *run = *state;
    run->options.max_train_steps = STEPS;
    run->options.learning_rate = 1e-3;
    compare(run, "floats");
    run->options.weight_dtype = "bf16";
    compare(run, "bf16");
    run->options.weight_dtype = "fp16";
    run->options.gradient_checkpointing = true;
    compare(run, "fp16");
}

/* A NULL report: refused. */
static json_t *bench(test_run *run, const char *mixed_precision)
{
    sara_bench_options options;
    char *text = NULL;
    json_t *report = NULL;
    sara_bench_options_init(&options);
    options.shape = "tiny";
    options.latent = 8;
    options.steps = 2;
    options.mixed_precision = mixed_precision;
    sara_status status = sara_bench(run->ctx, &text, &options);
    if (strcmp(mixed_precision, "bf16") == 0 && is_refused(run, status))
        return NULL;
    assert_ok(run->ctx, status);
    assert_ok(run->ctx, sara_json_parse(run->ctx, &report, text, strlen(text), "report", false));
    sara_free(run->ctx, text);
    assert_string_equal(json_string_value(json_object_get(report, "mixed_precision")),
                        mixed_precision);
    return report;
}

static double logged_loss(test_run *run)
{
    const char *at = strstr(run->log, "step 2 of 2: ");
    assert_non_null(at);
    at = strstr(at, "loss ");
    assert_non_null(at);
    return atof(at + strlen("loss "));
}

static void test_bench(void **state)
{
    test_run *run = *state;
    test_run_forget_log(run);
    json_t *wide = bench(run, "no");
    double loss = logged_loss(run);
    test_run_forget_log(run);
    json_t *narrow = bench(run, "bf16");
    if (narrow) {
        const json_t *kinds = json_object_get(narrow, "kinds");
        assert_non_null(json_object_get(kinds, "narrow")); /* what turns operands into bf16 */
        assert_null(json_object_get(json_object_get(wide, "kinds"), "narrow"));
        assert_close(fabs(logged_loss(run) - loss) / loss, ROUNDOFF, "loss");
    }
    json_decref(wide);
    json_decref(narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_train), TEST_CASE(test_bench)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
