/* Steps after the first take no memory from the allocator, make no primitive of oneDNN's, and
 * bring only those weights into its layouts that it cannot read as they lie. */
#include "support/memory.h"
#include "support_train.h"

#include "core/trace.h"
#include "train/trainer.h"

#define STEPS 8
/* Weights of conv_in, conv_out and the downsampling, of which the kernels of 3x3 convolutions take
 * none: the first two have too few channels on one side. Forward and backward, but for conv_in,
 * whose input wants no gradient. */
#define LAYOUTS   (1 + 2 + 2)
#define GRADIENTS 2 /* dense ones, of conv_in and conv_out, come back from such a layout */

typedef struct fixture {
    test_allocator allocator;
    sara_context *ctx;
    trainer t;
} fixture;

static void open_trainer(fixture *f, test_run *run)
{
    f->ctx = test_allocator_context(&f->allocator);
    f->t = (trainer){.ctx = f->ctx};
    run->options.max_train_steps = STEPS;
    assert_ok(f->ctx, sara_trainer_open(&f->t, &run->options));
}

static void close_trainer(fixture *f)
{
    sara_trainer_close(&f->t);
    sara_context_free(f->ctx);
    assert_int_equal(f->allocator.alive, 0);
}

static void step(fixture *f)
{
    sara_step_report report = {0};
    double loss, lr;
    assert_ok(f->ctx, sara_trainer_step(&f->t, &loss, &report, &lr));
    assert_false(report.skipped);
    assert_true(report.term_loss > 0);
}

static void check_allocations(fixture *f)
{
    for (int i = 0; i < STEPS; i++) {
        long before = f->allocator.made;
        step(f);
        if (i == 0)
            assert_true(f->allocator.made > before); /* they are seen at all */
        else
            assert_int_equal(f->allocator.made, before);
    }
}

static int traced(const fixture *f, const char *kind)
{
    size_t count;
    int found = 0;
    const sara_trace_event *events = sara_trace_events(f->ctx, &count);
    for (size_t i = 0; i < count; i++)
        found += strcmp(events[i].kind, kind) == 0;
    return found;
}

/* 16-bit weights are made floats first. */
static void check_events(fixture *f)
{
    bool narrow = strcmp(f->t.options.weight_dtype, "bf16") == 0;
    for (int i = 0; i < STEPS; i++) {
        assert_ok(f->ctx, sara_trace_start(f->ctx));
        step(f);
        assert_true(i == 0 ? traced(f, "primitives") > 0 : traced(f, "primitives") == 0);
        assert_in_range(traced(f, "weight layout"), 0, (narrow ? 2 : 1) * LAYOUTS + GRADIENTS);
        sara_trace_stop(f->ctx);
    }
}

static void check(test_run *run, const char *name)
{
    void (*const checks[])(fixture * f) = {check_allocations, check_events};
    for (int i = 0; i < 2; i++) {
        fixture f;
        test_run_output(run, test_text(run, "%s%d", name, i));
        open_trainer(&f, run);
        checks[i](&f);
        close_trainer(&f);
    }
}

static void test_steps(void **state)
{
    test_run *run = *state;
    run->options.progressive_iter = 0; /* a reselection takes memory, once */
    check(run, "floats");
    run->options.weight_dtype = "bf16";
    check(run, "halves");
    run->options.gradient_checkpointing = true;
    check(run, "again");
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
