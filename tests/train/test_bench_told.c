/* Benchmarks: profiles, what is refused, and memory that a step needs. No time is judged. */
#include "support_bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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
    test_bench_state *f = *state;
    char *path = test_file(f->folder, "trace.json", "", 0);
    json_t *trace = NULL, *event;
    size_t index, named = 0;
    double flops = 0, earliest = INFINITY;
    f->options.profile = path;
    json_decref(test_bench_run(f));
    json_decref(test_bench_run(f)); /* a new trace takes the old one's place */
    assert_ok(f->ctx, sara_json_load(f->ctx, &trace, path, false));
    const json_t *events = json_object_get(trace, "traceEvents");
    const json_t *one = first_step(events, 0), *two = first_step(events, 1);
    assert_true(one && two && !first_step(events, 2));
    assert_true(test_bench_number(two, "ts") >=
                test_bench_number(one, "ts") + test_bench_number(one, "dur") - 0.002);
    json_array_foreach(events, index, event)
    {
        double start = test_bench_number(event, "ts"),
               end = start + test_bench_number(event, "dur");
        const json_t *step = start < test_bench_number(two, "ts") ? one : two;
        assert_string_equal(json_string_value(json_object_get(event, "ph")), "X");
        assert_true(test_bench_number(event, "pid") == 1 && test_bench_number(event, "tid") == 1);
        assert_true(start >= 0 && test_bench_number(event, "dur") >= 0);
        assert_true(start >= test_bench_number(step, "ts") - 0.002);
        assert_true(end <= test_bench_number(step, "ts") + test_bench_number(step, "dur") + 0.002);
        earliest = fmin(earliest, start);
        flops += test_bench_number_in(event, "args", "flops");
        named += strcmp(json_string_value(json_object_get(event, "name")), "adamw") == 0;
    }
    assert_true(earliest == 0 && flops > 1e6);
    assert_int_equal(named, 2);
    json_decref(trace);
    free(path);
}

static void test_profile_is_no_input(void **state)
{
    test_bench_state *f = *state;
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

static void refused(test_bench_state *f, const sara_bench_options *options, const char *line)
{
    char *text = f->folder;
    assert_refused(f->ctx, SARA_ERROR_USAGE, line, sara_bench(f->ctx, &text, options));
    assert_null(text);
}

static void test_refused(void **state)
{
    test_bench_state *f = *state;
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
    REFUSED("--disk_offload: goes with --model", o.disk_offload = true);
    REFUSED("--gradient_checkpointing_levels 1: --disk_offload recomputes all", o.shape = NULL,
            o.model = SARA_TEST_GOLDEN "/unet_sd1", o.latent = 8, o.disk_offload = true,
            o.gradient_checkpointing_levels = 1);
    REFUSED("--disk_offload true: goes with --method sara, lora, dora, adaptformer or shira; full "
            "fine-tuning trains all values",
            o.shape = NULL, o.model = "x", o.disk_offload = true, o.method = "full");
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
    test_bench_state *f = *state;
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
    json_decref(test_bench_run(f)); /* the request was met */
    sara_directory_free(f->ctx, names, count);
    sara_free(f->ctx, path);
}

/* -------------------------------------------------------------------------------------- memory */

/* Every seventh allocation, so that each kind of them has its turn. */
static void test_memory(void **state)
{
    test_bench_state *f = *state;
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
    test_bench_state *f = *state;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_BENCH(test_profile), TEST_BENCH(test_profile_is_no_input),
        TEST_BENCH(test_refused), TEST_BENCH(test_interrupted),
        TEST_BENCH(test_memory),  TEST_BENCH(test_advice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
