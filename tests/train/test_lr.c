/* Learning rate schedules against diffusers' get_scheduler. The values come from
 *
 *     p = torch.nn.Parameter(torch.zeros(1)); o = torch.optim.SGD([p], lr=lr)
 *     s = get_scheduler(name, o, num_warmup_steps=warmup, num_training_steps=steps,
 *                       num_cycles=cycles, power=power)
 *     for _ in range(steps): print("%.12g" % s.get_last_lr()[0]); o.step(); s.step()
 */
#include "support_train.h"

#include <math.h>

static const struct {
    const char *name;
    double learning_rate;
    int64_t warmup, steps;
    int cycles;
    double power;
    double rates[9];
} cases[] = {
    {"constant", 2e-3, 3, 8, 1, 1, {2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3}},
    {"constant_with_warmup",
     2e-3,
     3,
     8,
     1,
     1,
     {0, 0.000666666666667, 0.00133333333333, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3}},
    {"linear", 2e-3, 0, 8, 1, 1, {2e-3, 0.00175, 0.0015, 0.00125, 1e-3, 0.00075, 0.0005, 0.00025}},
    {"linear",
     2e-3,
     3,
     8,
     1,
     1,
     {0, 0.000666666666667, 0.00133333333333, 2e-3, 0.0016, 0.0012, 0.0008, 0.0004}},
    {"linear",
     2e-3,
     8,
     8,
     1,
     1, /* never done warming up */
     {0, 0.00025, 0.0005, 0.00075, 1e-3, 0.00125, 0.0015, 0.00175}},
    {"cosine",
     2e-3,
     0,
     8,
     1,
     1,
     {2e-3, 0.00192387953251, 0.00170710678119, 0.00138268343237, 1e-3, 0.000617316567635,
      0.000292893218813, 7.61204674887e-05}},
    {"cosine",
     2e-3,
     3,
     8,
     1,
     1,
     {0, 0.000666666666667, 0.00133333333333, 2e-3, 0.00180901699437, 0.00130901699437,
      0.000690983005625, 0.000190983005625}},
    {"cosine_with_restarts",
     2e-3,
     2,
     9,
     2,
     1,
     {0, 1e-3, 2e-3, 0.00162348980186, 0.000777479066044, 9.90311320976e-05, 0.0019009688679,
      0.00122252093396, 0.000376510198141}},
    {"cosine_with_restarts",
     1e-4,
     0,
     9,
     4,
     1,
     {1e-4, 5.86824088833e-05, 3.0153689607e-06, 7.5e-05, 1.16977778441e-05, 8.83022221559e-05,
      2.5e-05, 9.69846310393e-05, 4.13175911167e-05}},
    {"polynomial",
     2e-3,
     0,
     8,
     1,
     1,
     {2e-3, 0.0017500125, 0.001500025, 0.0012500375, 0.00100005, 0.0007500625, 0.000500075,
      0.0002500875}},
    {"polynomial",
     2e-3,
     3,
     8,
     1,
     2,
     {0, 0.000666666666667, 0.00133333333333, 2e-3, 0.001280036, 0.000720064, 0.000320084,
      8.0096e-05}},
    {"polynomial",
     2e-3,
     0,
     8,
     1,
     0.5,
     {2e-3, 0.00187083515195, 0.00173206420503, 0.00158115977314, 0.00141424285169,
      0.00122478363415, 0.00100005, 0.000707171425847}},
};

static void test_rates(void **state)
{
    test_run *run = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run->options.lr_scheduler = cases[i].name;
        run->options.lr_warmup_steps = cases[i].warmup;
        run->options.lr_num_cycles = cases[i].cycles;
        run->options.lr_power = cases[i].power;
        for (int64_t step = 0; step < cases[i].steps; step++) {
            double factor = NAN, rate = cases[i].learning_rate;
            assert_ok(run->ctx,
                      sara_lr_factor(run->ctx, &factor, &run->options, rate, step, cases[i].steps));
            assert_close(fabs(rate * factor - cases[i].rates[step]) / rate, 1e-11, cases[i].name);
        }
    }
}

/* The logged rates are the schedule's, also in a warm-up that begins with 0. */
static void test_logged(void **state)
{
    test_run *run = *state;
    double rates[TEST_REPLAY_STEPS];
    run->options.lr_scheduler = "linear";
    run->options.lr_warmup_steps = 3;
    run->options.learning_rate = 2e-3;
    run->options.max_train_steps = 8;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, rates, TEST_REPLAY_STEPS, "lr"), 8);
    for (int i = 0; i < 8; i++)
        assert_close(fabs(rates[i] - cases[3].rates[i]), 1e-14, "lr");
}

/* The formula is the default. */
static void test_formula(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    run->options.threshold = 2e-3;
    run->options.max_train_steps = 1;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_close(fabs(result.learning_rate - 4.96585303791410e-4), 1e-15, "1e-3 exp(-0.7)");
    run->options.threshold = 0.5;
    test_run_output(run, "large");
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--learning_rate is missing: the formula gives",
                   test_run_train(run));
}

static void test_refused(void **state)
{
    test_run *run = *state;
    run->options.lr_scheduler = "cosin";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--lr_scheduler cosin: expected constant",
                   test_run_train(run));
    run->options.lr_scheduler = "polynomial";
    run->options.learning_rate = 1e-7;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--learning_rate 1e-07: polynomial ends at 1e-07",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_TINY(test_rates), TEST_TINY(test_logged),
                                       TEST_TINY(test_formula), TEST_TINY(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
