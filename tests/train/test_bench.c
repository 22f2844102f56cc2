/* Benchmarks of a tiny U-Net: what is reported. No time is judged. */
#include "support_bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define UNET SARA_TEST_GOLDEN "/unet_sd1"

/* How often a kind of kernel ran in the best step. */
static double calls(const json_t *report, const char *kind)
{
    const json_t *entry = json_object_get(json_object_get(report, "kinds"), kind);
    return entry ? test_bench_number(entry, "calls") : 0;
}

static void test_report(void **state)
{
    test_bench_state *f = *state;
    f->options.rank = true;
    json_t *report = test_bench_run(f), *seconds = json_object_get(report, "seconds"), *entry;
    const char *name;
    double sum = 0, best = INFINITY, last = INFINITY;
    assert_string_equal(json_string_value(json_object_get(report, "model")), "tiny");
    assert_string_equal(json_string_value(json_object_get(report, "method")), "sara");
    assert_true(json_is_false(json_object_get(report, "checkpointing")));
    assert_true(test_bench_number(report, "latent") == 4 &&
                test_bench_number(report, "batch") == 1);
    assert_true(test_bench_number(report, "threads") == 2);
    assert_true(test_bench_number(report, "load_seconds") >= 0 &&
                test_bench_number(report, "rank_seconds") > 0);
    assert_true(test_bench_number(report, "peak_rss_gib") > 0);
    assert_true(test_bench_number(report, "flops_per_second") >= 0);
    assert_true(test_bench_number(report, "peak_flops_per_second") > 0);
    assert_int_equal(json_array_size(seconds), 2);
    for (size_t i = 0; i < 2; i++)
        best = fmin(best, json_real_value(json_array_get(seconds, i)));
    assert_true(test_bench_number(report, "best") == best);
    json_object_foreach(json_object_get(report, "kinds"), name, entry)
    {
        assert_true(test_bench_number(entry, "seconds") <= last); /* the longest first */
        last = test_bench_number(entry, "seconds");
        assert_true(test_bench_number(entry, "calls") >= 1 &&
                    test_bench_number(entry, "gflops_per_second") >= 0);
        sum += last;
    }
    assert_close(fabs(sum - best), 6e-4, "seconds of the kinds"); /* rounding alone */
    assert_int_equal(f->steps, 2);
    assert_true(isfinite(f->losses[0]) && f->losses[0] > 0.1 && f->losses[0] < 10);
    json_decref(report);
}

static void test_trainable(void **state)
{
    test_bench_state *f = *state;
    sara_model *model = NULL;
    sara_selection selection;
    sara_budget budget = {SARA_BUDGET_FRACTION, 0.02};
    f->options.trainable = "2%";
    f->options.seed = 9;
    json_t *report = test_bench_run(f);
    assert_ok(f->ctx, sara_model_new_random(f->ctx, &model, "tiny", 9, NULL, NULL));
    assert_ok(f->ctx, sara_select(f->ctx, &selection, &model->denoiser->params, &budget));
    assert_true(selection.total > 10000);
    assert_true(test_bench_number(report, "trainable") == (double)selection.total);
    assert_true(test_bench_number_in(report, "memory", "optimizer") ==
                16.0 * (double)selection.total);
    double parameters = (double)sara_params_entries(&model->denoiser->params);
    assert_true(test_bench_number(report, "parameters") == parameters);
    assert_true(test_bench_number_in(report, "memory", "weights") == 4 * parameters);
    assert_true(test_bench_number_in(report, "memory", "activations") > 0);
    assert_true(test_bench_number_in(report, "memory", "other") >= 0);
    assert_null(json_object_get(report, "rank_seconds"));
    sara_selection_free(f->ctx, &selection);
    sara_model_free(model);
    json_decref(report);
}

static void test_methods(void **state)
{
    static const char *const methods[] = {"sara", "full", "forward"};
    test_bench_state *f = *state;
    json_t *reports[3];
    double losses[3];
    for (int i = 0; i < 3; i++) {
        f->options.method = methods[i];
        reports[i] = test_bench_run(f);
        losses[i] = f->losses[0];
    }
    assert_true(losses[0] == losses[1] && losses[0] == losses[2]); /* before the first update */
    assert_true(test_bench_number(reports[1], "trainable") ==
                test_bench_number(reports[1], "parameters"));
    assert_true(test_bench_number(reports[2], "trainable") == 0);
    assert_true(test_bench_number_in(reports[2], "memory", "optimizer") == 0);
    for (int i = 0; i < 2; i++) {
        assert_true(calls(reports[i], "conv2d dx") > 0);
        assert_true(calls(reports[i], "adamw") == 1);
        assert_true(calls(reports[i], "low-rank term") == (i == 0));
    }
    double bytes = test_bench_number_in(reports[1], "memory", "optimizer") /
                   test_bench_number(reports[1], "parameters");
    assert_true(bytes >= 12 && bytes < 12.01); /* gradient and two moments */
    assert_true(calls(reports[1], "conv2d dw") > 0 && calls(reports[1], "conv2d dw sampled") == 0);
    assert_true(calls(reports[2], "conv2d") == calls(reports[0], "conv2d"));
    assert_true(calls(reports[2], "conv2d dx") == 0);
    assert_true(calls(reports[2], "adamw") == 0);
    assert_true(test_bench_number_in(reports[2], "memory", "activations") <
                test_bench_number_in(reports[0], "memory", "activations"));
    for (int i = 0; i < 3; i++)
        json_decref(reports[i]);
}

/* What goes with methods reaches them. */
static void test_method_options(void **state)
{
    test_bench_state *f = *state;
    f->options.trainable = "3000";
    f->options.steps = 1;
    f->options.mask = "gradient";
    f->options.mask_steps = 1;
    json_t *report = test_bench_run(f);
    double forward = calls(report, "conv2d");
    assert_true(test_bench_number(report, "trainable") == 3000 && forward > 0);
    json_decref(report);
    f->options.mask_steps = 0;
    f->options.mask = "lift";
    f->options.method_rank = 3;
    report = test_bench_run(f);
    assert_true(test_bench_number(report, "trainable") == 3000);
    json_decref(report);
}

/* The second phase is timed, in which a few entries are trained. */
static void test_second_phase(void **state)
{
    test_bench_state *f = *state;
    f->options.method = "ltsft";
    f->options.trainable = "3000";
    f->options.steps = 1;
    json_t *report = test_bench_run(f);
    assert_int_equal(json_array_size(json_object_get(report, "seconds")), 1);
    assert_true(test_bench_number(report, "trainable") == 3000 && calls(report, "adamw") == 1);
    assert_true(test_bench_number_in(report, "memory", "optimizer") == 16.0 * 3000);
    double second = calls(report, "conv2d dw");
    json_decref(report);
    f->options.steps = 3;
    report = test_bench_run(f);
    assert_int_equal(json_array_size(json_object_get(report, "seconds")), 3);
    assert_true(calls(report, "conv2d dw") == second);
    json_decref(report);
    f->options.method = "full";
    f->options.trainable = NULL;
    report = test_bench_run(f);
    assert_true(calls(report, "conv2d dw") > second);
    json_decref(report);
}

static void test_checkpointing(void **state)
{
    test_bench_state *f = *state;
    f->options.latent = 8;
    json_t *kept = test_bench_run(f);
    double loss = f->losses[1];
    f->options.gradient_checkpointing = true;
    json_t *again = test_bench_run(f);
    assert_true(json_is_true(json_object_get(again, "checkpointing")));
    assert_true(f->losses[1] == loss);
    assert_true(calls(again, "conv2d") > calls(kept, "conv2d"));
    assert_true(test_bench_number_in(again, "memory", "activations") <
                test_bench_number_in(kept, "memory", "activations"));
    f->options.gradient_checkpointing = false;
    f->options.gradient_checkpointing_levels = 1;
    json_t *largest = test_bench_run(f);
    assert_true(f->losses[1] == loss);
    assert_true(calls(largest, "conv2d") > calls(kept, "conv2d"));
    assert_true(calls(largest, "conv2d") < calls(again, "conv2d"));
    json_decref(kept);
    json_decref(again);
    json_decref(largest);
}

/* The same numbers from weights in their files, of which the largest region is in memory. */
static void test_offloaded(void **state)
{
    static const char *const methods[] = {"sara", "lora", "forward"};
    test_bench_state *f = *state;
    f->options.shape = NULL;
    f->options.model = UNET;
    f->options.latent = 8;
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        f->options.method = methods[i];
        f->options.gradient_checkpointing = true;
        f->options.disk_offload = false;
        json_t *there = test_bench_run(f);
        double loss = f->losses[1];
        f->options.gradient_checkpointing = false; /* it comes with the other */
        f->options.disk_offload = true;
        json_t *away = test_bench_run(f);
        assert_true(f->losses[1] == loss);
        assert_true(json_is_false(json_object_get(there, "disk_offload")));
        assert_true(json_is_true(json_object_get(away, "disk_offload")));
        assert_true(json_is_true(json_object_get(away, "checkpointing")));
        assert_true(calls(away, "conv2d") == calls(there, "conv2d"));
        double share = test_bench_number_in(away, "memory", "weights") /
                       test_bench_number_in(there, "memory", "weights");
        assert_true(share > 0.05 && share < 0.35);
        json_decref(there);
        json_decref(away);
    }
}

/* Half the memory for the weights; the same work on numbers that are a little different. */
static void test_weight_dtype(void **state)
{
    test_bench_state *f = *state;
    json_t *wide = test_bench_run(f);
    double loss = f->losses[1];
    f->options.weight_dtype = "bf16";
    json_t *narrow = test_bench_run(f);
    assert_string_equal(json_string_value(json_object_get(wide, "weight_dtype")), "fp32");
    assert_string_equal(json_string_value(json_object_get(narrow, "weight_dtype")), "bf16");
    double bytes = test_bench_number_in(wide, "memory", "weights");
    assert_true(bytes == 4 * test_bench_number(wide, "parameters"));
    assert_true(test_bench_number_in(narrow, "memory", "weights") > 0.5 * bytes);
    assert_true(test_bench_number_in(narrow, "memory", "weights") < 0.52 * bytes);
    assert_true(calls(narrow, "conv2d dx") == calls(wide, "conv2d dx"));
    assert_true(f->losses[1] != loss && fabs(f->losses[1] - loss) < 0.02 * loss);
    f->options.shape = NULL;
    f->options.model = UNET;
    f->options.latent = 8;
    f->options.weight_dtype = "fp16";
    json_t *loaded = test_bench_run(f);
    assert_string_equal(json_string_value(json_object_get(loaded, "weight_dtype")), "fp16");
    assert_true(test_bench_number_in(loaded, "memory", "weights") <
                2.2 * test_bench_number(loaded, "parameters"));
    json_decref(loaded);
    json_decref(wide);
    json_decref(narrow);
}

/* A folder like a pipeline's with nothing in it but what is needed. */
static void test_folders(void **state)
{
    test_bench_state *f = *state;
    char *unet = NULL;
    free(test_file(f->folder, "model_index.json", "{}", 2));
    assert_ok(f->ctx, sara_path_join(f->ctx, &unet, f->folder, "unet"));
    assert_int_equal(symlink(UNET, unet), 0);
    f->options.shape = NULL;
    f->options.latent = 8;
    f->options.model = UNET;
    json_t *bare = test_bench_run(f);
    f->options.model = f->folder;
    json_t *whole = test_bench_run(f);
    assert_true(test_bench_number(bare, "parameters") == 942196);
    assert_true(test_bench_number(whole, "parameters") == 942196);
    assert_true(test_bench_number(whole, "trainable") == test_bench_number(bare, "trainable"));
    assert_string_equal(json_string_value(json_object_get(whole, "model")), unet);
    sara_free(f->ctx, unet);
    json_decref(bare);
    json_decref(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_BENCH(test_report),       TEST_BENCH(test_trainable),
        TEST_BENCH(test_methods),      TEST_BENCH(test_method_options),
        TEST_BENCH(test_second_phase), TEST_BENCH(test_checkpointing),
        TEST_BENCH(test_weight_dtype), TEST_BENCH(test_folders),
        TEST_BENCH(test_offloaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
