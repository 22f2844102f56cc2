/* Benchmarks of a tiny U-Net: what is reported, what is refused. No time is judged. */
#include "support/memory.h"

#include "train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define UNET SARA_TEST_GOLDEN "/unet_sd1"

/* A context that keeps the losses it logs and interrupts itself after a step. */
typedef struct fixture {
    sara_context *ctx;
    sara_bench_options options;
    double losses[16];
    int steps, interrupt_at; /* interrupt_at 0: never */
    char *folder;
} fixture;

static void note(void *user, sara_log_level level, const char *line)
{
    fixture *f = user;
    int step, steps;
    double seconds, loss;
    (void)level;
    if (sscanf(line, "step %d of %d: %lf s, loss %lf", &step, &steps, &seconds, &loss) != 4)
        return;
    assert_int_equal(step, f->steps + 1);
    assert_int_equal(steps, f->options.steps);
    f->losses[f->steps++] = loss;
    if (step == f->interrupt_at)
        sara_context_interrupt(f->ctx);
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    const sara_context_options options = {.threads = 2, .log = note, .user = f};
    assert_ok(f->ctx, sara_context_new(&f->ctx, &options));
    sara_bench_options_init(&f->options);
    f->options.shape = "tiny";
    f->options.latent = 4;
    f->options.steps = 2;
    f->folder = test_folder();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

static json_t *bench(fixture *f)
{
    char *text = NULL;
    json_t *report = NULL;
    f->steps = 0;
    assert_ok(f->ctx, sara_bench(f->ctx, &text, &f->options));
    assert_ok(f->ctx, sara_json_parse(f->ctx, &report, text, strlen(text), "report", false));
    sara_free(f->ctx, text);
    return report;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("%s: no number", key);
    return json_number_value(value);
}

static double number_in(const json_t *report, const char *object, const char *key)
{
    return number(json_object_get(report, object), key);
}

/* How often a kind of kernel ran in the best step. */
static double calls(const json_t *report, const char *kind)
{
    const json_t *entry = json_object_get(json_object_get(report, "kinds"), kind);
    return entry ? number(entry, "calls") : 0;
}

static void test_report(void **state)
{
    fixture *f = *state;
    f->options.rank = true;
    json_t *report = bench(f), *seconds = json_object_get(report, "seconds"), *entry;
    const char *name;
    double sum = 0, best = INFINITY, last = INFINITY;
    assert_string_equal(json_string_value(json_object_get(report, "model")), "tiny");
    assert_string_equal(json_string_value(json_object_get(report, "method")), "sara");
    assert_true(json_is_false(json_object_get(report, "checkpointing")));
    assert_true(number(report, "latent") == 4 && number(report, "batch") == 1);
    assert_true(number(report, "threads") == 2);
    assert_true(number(report, "load_seconds") >= 0 && number(report, "rank_seconds") > 0);
    assert_true(number(report, "peak_rss_gib") > 0);
    assert_true(number(report, "flops_per_second") >= 0);
    assert_true(number(report, "peak_flops_per_second") > 0);
    assert_int_equal(json_array_size(seconds), 2);
    for (size_t i = 0; i < 2; i++)
        best = fmin(best, json_real_value(json_array_get(seconds, i)));
    assert_true(number(report, "best") == best);
    json_object_foreach(json_object_get(report, "kinds"), name, entry)
    {
        assert_true(number(entry, "seconds") <= last); /* the longest first */
        last = number(entry, "seconds");
        assert_true(number(entry, "calls") >= 1 && number(entry, "gflops_per_second") >= 0);
        sum += last;
    }
    assert_close(fabs(sum - best), 6e-4, "seconds of the kinds"); /* rounding alone */
    assert_int_equal(f->steps, 2);
    assert_true(isfinite(f->losses[0]) && f->losses[0] > 0.1 && f->losses[0] < 10);
    json_decref(report);
}

static void test_trainable(void **state)
{
    fixture *f = *state;
    sara_model *model = NULL;
    sara_selection selection;
    sara_budget budget = {SARA_BUDGET_FRACTION, 0.02};
    f->options.trainable = "2%";
    f->options.seed = 9;
    json_t *report = bench(f);
    assert_ok(f->ctx, sara_model_new_random(f->ctx, &model, "tiny", 9, NULL, NULL));
    assert_ok(f->ctx, sara_select(f->ctx, &selection, &model->denoiser->params, &budget));
    assert_true(selection.total > 10000);
    assert_true(number(report, "trainable") == (double)selection.total);
    assert_true(number_in(report, "memory", "optimizer") == 16.0 * (double)selection.total);
    double parameters = (double)sara_params_entries(&model->denoiser->params);
    assert_true(number(report, "parameters") == parameters);
    assert_true(number_in(report, "memory", "weights") == 4 * parameters);
    assert_true(number_in(report, "memory", "activations") > 0);
    assert_true(number_in(report, "memory", "other") >= 0);
    assert_null(json_object_get(report, "rank_seconds"));
    sara_selection_free(f->ctx, &selection);
    sara_model_free(model);
    json_decref(report);
}

static void test_methods(void **state)
{
    static const char *const methods[] = {"sara", "full", "forward"};
    fixture *f = *state;
    json_t *reports[3];
    double losses[3];
    for (int i = 0; i < 3; i++) {
        f->options.method = methods[i];
        reports[i] = bench(f);
        losses[i] = f->losses[0];
    }
    assert_true(losses[0] == losses[1] && losses[0] == losses[2]); /* before the first update */
    assert_true(number(reports[1], "trainable") == number(reports[1], "parameters"));
    assert_true(number(reports[2], "trainable") == 0);
    assert_true(number_in(reports[2], "memory", "optimizer") == 0);
    for (int i = 0; i < 2; i++) {
        assert_true(calls(reports[i], "conv2d dx") > 0);
        assert_true(calls(reports[i], "adamw") == 1);
        assert_true(calls(reports[i], "low-rank term") == (i == 0));
    }
    double bytes = number_in(reports[1], "memory", "optimizer") / number(reports[1], "parameters");
    assert_true(bytes >= 12 && bytes < 12.01); /* gradient and two moments */
    assert_true(calls(reports[1], "conv2d dw") > 0 && calls(reports[1], "conv2d dw sampled") == 0);
    assert_true(calls(reports[2], "conv2d") == calls(reports[0], "conv2d"));
    assert_true(calls(reports[2], "conv2d dx") == 0);
    assert_true(calls(reports[2], "adamw") == 0);
    assert_true(number_in(reports[2], "memory", "activations") <
                number_in(reports[0], "memory", "activations"));
    for (int i = 0; i < 3; i++)
        json_decref(reports[i]);
}

/* What goes with methods reaches them. */
static void test_method_options(void **state)
{
    fixture *f = *state;
    f->options.trainable = "3000";
    f->options.steps = 1;
    f->options.mask = "gradient";
    f->options.mask_steps = 1;
    json_t *report = bench(f);
    double forward = calls(report, "conv2d");
    assert_true(number(report, "trainable") == 3000 && forward > 0);
    json_decref(report);
    f->options.mask_steps = 0;
    f->options.mask = "lift";
    f->options.method_rank = 3;
    report = bench(f);
    assert_true(number(report, "trainable") == 3000);
    json_decref(report);
}

/* The second phase is timed, in which a few entries are trained. */
static void test_second_phase(void **state)
{
    fixture *f = *state;
    f->options.method = "ltsft";
    f->options.trainable = "3000";
    f->options.steps = 1;
    json_t *report = bench(f);
    assert_int_equal(json_array_size(json_object_get(report, "seconds")), 1);
    assert_true(number(report, "trainable") == 3000 && calls(report, "adamw") == 1);
    assert_true(number_in(report, "memory", "optimizer") == 16.0 * 3000);
    double second = calls(report, "conv2d dw");
    json_decref(report);
    f->options.steps = 3;
    report = bench(f);
    assert_int_equal(json_array_size(json_object_get(report, "seconds")), 3);
    assert_true(calls(report, "conv2d dw") == second);
    json_decref(report);
    f->options.method = "full";
    f->options.trainable = NULL;
    report = bench(f);
    assert_true(calls(report, "conv2d dw") > second);
    json_decref(report);
}

static void test_checkpointing(void **state)
{
    fixture *f = *state;
    f->options.latent = 8;
    json_t *kept = bench(f);
    double loss = f->losses[1];
    f->options.gradient_checkpointing = true;
    json_t *again = bench(f);
    assert_true(json_is_true(json_object_get(again, "checkpointing")));
    assert_true(f->losses[1] == loss);
    assert_true(calls(again, "conv2d") > calls(kept, "conv2d"));
    assert_true(number_in(again, "memory", "activations") <
                number_in(kept, "memory", "activations"));
    f->options.gradient_checkpointing = false;
    f->options.gradient_checkpointing_levels = 1;
    json_t *largest = bench(f);
    assert_true(f->losses[1] == loss);
    assert_true(calls(largest, "conv2d") > calls(kept, "conv2d"));
    assert_true(calls(largest, "conv2d") < calls(again, "conv2d"));
    json_decref(kept);
    json_decref(again);
    json_decref(largest);
}

/* Half the memory for the weights; the same work on numbers that are a little different. */
static void test_weight_dtype(void **state)
{
    fixture *f = *state;
    json_t *wide = bench(f);
    double loss = f->losses[1];
    f->options.weight_dtype = "bf16";
    json_t *narrow = bench(f);
    assert_string_equal(json_string_value(json_object_get(wide, "weight_dtype")), "fp32");
    assert_string_equal(json_string_value(json_object_get(narrow, "weight_dtype")), "bf16");
    double bytes = number_in(wide, "memory", "weights");
    assert_true(bytes == 4 * number(wide, "parameters"));
    assert_true(number_in(narrow, "memory", "weights") > 0.5 * bytes);
    assert_true(number_in(narrow, "memory", "weights") < 0.52 * bytes);
    assert_true(calls(narrow, "conv2d dx") == calls(wide, "conv2d dx"));
    assert_true(f->losses[1] != loss && fabs(f->losses[1] - loss) < 0.02 * loss);
    f->options.shape = NULL;
    f->options.model = UNET;
    f->options.latent = 8;
    f->options.weight_dtype = "fp16";
    json_t *loaded = bench(f);
    assert_string_equal(json_string_value(json_object_get(loaded, "weight_dtype")), "fp16");
    assert_true(number_in(loaded, "memory", "weights") < 2.2 * number(loaded, "parameters"));
    json_decref(loaded);
    json_decref(wide);
    json_decref(narrow);
}

/* A folder like a pipeline's with nothing in it but what is needed. */
static void test_folders(void **state)
{
    fixture *f = *state;
    char *unet = NULL;
    free(test_file(f->folder, "model_index.json", "{}", 2));
    assert_ok(f->ctx, sara_path_join(f->ctx, &unet, f->folder, "unet"));
    assert_int_equal(symlink(UNET, unet), 0);
    f->options.shape = NULL;
    f->options.latent = 8;
    f->options.model = UNET;
    json_t *bare = bench(f);
    f->options.model = f->folder;
    json_t *whole = bench(f);
    assert_true(number(bare, "parameters") == 942196);
    assert_true(number(whole, "parameters") == 942196);
    assert_true(number(whole, "trainable") == number(bare, "trainable"));
    assert_string_equal(json_string_value(json_object_get(whole, "model")), unet);
    sara_free(f->ctx, unet);
    json_decref(bare);
    json_decref(whole);
}

/* -------------------------------------------------------------------------------------- profile */

static const json_t *first_step(const json_t *events, size_t index)
{
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "name")), "step") == 0 && index-- == 0)
            return event;
    }
    return NULL;
}

static void test_profile(void **state)
{
    fixture *f = *state;
    char *path = test_file(f->folder, "trace.json", "", 0);
    json_t *trace = NULL, *event;
    size_t index, named = 0;
    double flops = 0, earliest = INFINITY;
    f->options.profile = path;
    json_decref(bench(f));
    json_decref(bench(f)); /* a new trace takes the old one's place */
    assert_ok(f->ctx, sara_json_load(f->ctx, &trace, path, false));
    const json_t *events = json_object_get(trace, "traceEvents");
    const json_t *one = first_step(events, 0), *two = first_step(events, 1);
    assert_true(one && two && !first_step(events, 2));
    assert_true(number(two, "ts") >= number(one, "ts") + number(one, "dur") - 0.002);
    json_array_foreach(events, index, event)
    {
        double start = number(event, "ts"), end = start + number(event, "dur");
        const json_t *step = start < number(two, "ts") ? one : two;
        assert_string_equal(json_string_value(json_object_get(event, "ph")), "X");
        assert_true(number(event, "pid") == 1 && number(event, "tid") == 1);
        assert_true(start >= 0 && number(event, "dur") >= 0);
        assert_true(start >= number(step, "ts") - 0.002);
        assert_true(end <= number(step, "ts") + number(step, "dur") + 0.002);
        earliest = fmin(earliest, start);
        flops += number_in(event, "args", "flops");
        named += strcmp(json_string_value(json_object_get(event, "name")), "adamw") == 0;
    }
    assert_true(earliest == 0 && flops > 1e6);
    assert_int_equal(named, 2);
    json_decref(trace);
    free(path);
}

static void test_profile_is_no_input(void **state)
{
    fixture *f = *state;
    char *config = test_file(f->folder, "config.json", "{}", 2), *data = NULL, *text = NULL;
    size_t size;
    f->options.shape = NULL;
    f->options.model = f->folder;
    f->options.profile = config;
    assert_refused(f->ctx, SARA_ERROR_USAGE, "is within", sara_bench(f->ctx, &text, &f->options));
    assert_refused(f->ctx, SARA_ERROR_USAGE, config, sara_bench(f->ctx, &text, &f->options));
    assert_ok(f->ctx, sara_file_read(f->ctx, &data, &size, config, 100));
    assert_string_equal(data, "{}");
    sara_free(f->ctx, data);
    free(config);
}

/* ----------------------------------------------------------------------------------- refusals */

static void refused(fixture *f, const sara_bench_options *options, const char *line)
{
    char *text = f->folder;
    assert_refused(f->ctx, SARA_ERROR_USAGE, line, sara_bench(f->ctx, &text, options));
    assert_null(text);
}

static void test_refused(void **state)
{
    fixture *f = *state;
#define REFUSED(line, ...)                                                                         \
    do {                                                                                           \
        sara_bench_options o = f->options;                                                         \
        __VA_ARGS__;                                                                               \
        refused(f, &o, line);                                                                      \
    } while (0)
    REFUSED("no model given", o.shape = NULL);
    REFUSED("--model x and --shape tiny", o.model = "x");
    REFUSED("--shape sd9: expected sd15, sd21, sdxl, tiny, sd3-medium, sd35-medium or sd35-large",
            o.shape = "sd9");
    REFUSED("--variant fp16", o.variant = "fp16");
    REFUSED("--method none: expected sara, full, ", o.method = "none");
    REFUSED("--method: a value is missing", o.method = NULL);
    REFUSED("--weight_dtype f8: expected auto, fp32, fp16 or bf16", o.weight_dtype = "f8");
    REFUSED("--latent 0: expected a whole number, 1 to 4096", o.latent = 0);
    REFUSED("--latent 4097: expected", o.latent = 4097);
    REFUSED("--batch -1: expected a whole number, 1 to 1024", o.batch = -1);
    REFUSED("--steps 1001: expected a whole number, 1 to 1000", o.steps = 1001);
    REFUSED("--gradient_checkpointing_levels -1: expected a whole number, 1 to 8",
            o.gradient_checkpointing_levels = -1);
    REFUSED("--mixed_precision: a value is missing", o.mixed_precision = NULL);
    REFUSED("trainable: \"abc\" is no number", o.trainable = "abc");
    REFUSED("--trainable 2%: goes with --method sara", o.trainable = "2%", o.method = "full");
    REFUSED("; a forward pass has no size to choose", o.trainable = "2%", o.method = "forward");
    REFUSED("--mask x: expected smallest", o.mask = "x");
    REFUSED("--mask_steps 3: goes with --mask gradient", o.mask_steps = 3);
    REFUSED("--rank 3: goes with --mask lift", o.method_rank = 3);
    REFUSED("--rank -3: expected", o.method_rank = -3);
    REFUSED("--mask lift: goes with --method sara", o.mask = "lift", o.method = "full");
    REFUSED("--lora_targets x: expected attention", o.lora_targets = "x");
    REFUSED("--lambda_rank nan: expected", o.lambda_rank = NAN);
    REFUSED("--lambda_rank -1: expected", o.lambda_rank = -1);
    REFUSED("--time_rank_term: --method forward", o.rank = true, o.method = "forward");
    REFUSED("--time_rank_term: --method sara with --lambda_rank 0", o.rank = true,
            o.lambda_rank = 0);
#undef REFUSED
    assert_int_equal(f->steps, 0);
}

static void test_interrupted(void **state)
{
    fixture *f = *state;
    char *text = NULL, **names = NULL, *path = NULL;
    size_t count;
    f->options.steps = 5;
    f->interrupt_at = 3;
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, "trace.json"));
    f->options.profile = path;
    assert_refused(f->ctx, SARA_INTERRUPTED, "interrupted after step 3 of 5",
                   sara_bench(f->ctx, &text, &f->options));
    assert_ok(f->ctx, sara_directory_list(f->ctx, &names, &count, f->folder));
    assert_int_equal(count, 0); /* no half-written trace */
    f->interrupt_at = 0;
    json_decref(bench(f)); /* the request was met */
    sara_directory_free(f->ctx, names, count);
    sara_free(f->ctx, path);
}

/* -------------------------------------------------------------------------------------- memory */

/* Every seventh allocation, so that each kind of them has its turn. */
static void test_memory(void **state)
{
    fixture *f = *state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    char *text = NULL, **names = NULL;
    size_t count;
    f->options.latent = 2;
    f->options.steps = 1;
    f->options.rank = true;
    assert_ok(ctx, sara_path_join(ctx, &text, f->folder, "trace.json"));
    f->options.profile = text;
    long before = allocator.alive, n = 0;
    for (bool failed = true; failed; n += 7) {
        char *report = NULL;
        allocator.failures = 0;
        allocator.left = n;
        sara_status status = sara_bench(ctx, &report, &f->options);
        allocator.left = -1;
        failed = allocator.failures > 0;
        test_assert_status(ctx, status, failed ? SARA_ERROR_MEMORY : SARA_OK, "sara_bench",
                           __FILE__, __LINE__);
        sara_free(ctx, report);
        assert_int_equal(allocator.alive, before);
    }
    assert_true(n > 500);
    assert_ok(ctx, sara_directory_list(ctx, &names, &count, f->folder));
    assert_int_equal(count, 1); /* the trace of the last */
    sara_directory_free(ctx, names, count);
    sara_free(ctx, text);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

/* What would fit is told in the command's own flags, and fits. */
static void test_advice(void **state)
{
    fixture *f = *state;
    const sara_context_options options = {.threads = 1, .memory_limit = 72 << 20};
    sara_bench_options o = f->options;
    sara_context *ctx = NULL;
    char *text = NULL;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    o.latent = 32;
    o.batch = 8;
    o.steps = 1;
    assert_refused(ctx, SARA_ERROR_MEMORY, "it fits with ", sara_bench(ctx, &text, &o));
    const char *batch = strstr(sara_context_error(ctx), "--batch ");
    assert_non_null(batch);
    o.batch = atoi(batch + strlen("--batch "));
    assert_in_range(o.batch, 1, 7);
    assert_ok(ctx, sara_bench(ctx, &text, &o));
    sara_free(ctx, text);
    o.batch = 1; /* nothing is left but the side */
    o.latent = 128;
    o.gradient_checkpointing = true;
    assert_refused(ctx, SARA_ERROR_MEMORY, "it fits with ", sara_bench(ctx, &text, &o));
    const char *latent = strstr(sara_context_error(ctx), "--latent ");
    assert_non_null(latent);
    o.latent = atoi(latent + strlen("--latent "));
    assert_ok(ctx, sara_bench(ctx, &text, &o));
    sara_free(ctx, text);
    o.latent = 128;
    o.method = "full";
    assert_refused(ctx, SARA_ERROR_MEMORY, "memory", sara_bench(ctx, &text, &o));
    assert_null(strstr(sara_context_error(ctx), "--trainable"));
    sara_context_free(ctx);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_report),       TEST(test_trainable),
        TEST(test_methods),      TEST(test_method_options),
        TEST(test_second_phase), TEST(test_checkpointing),
        TEST(test_weight_dtype), TEST(test_folders),
        TEST(test_profile),      TEST(test_profile_is_no_input),
        TEST(test_refused),      TEST(test_interrupted),
        TEST(test_memory),       TEST(test_advice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
