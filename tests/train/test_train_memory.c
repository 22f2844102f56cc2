/* The n-th allocation of a training run fails, for many n: SARA_ERROR_MEMORY, nothing leaked, and
 * a run folder that the next run can go on with. */
#include "support/memory.h"
#include "support_train.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct memory_run {
    test_run *run;
    test_allocator allocator;
    sara_context *ctx;
    long before; /* allocations alive between runs */
} memory_run;

static void memory_run_open(memory_run *m, test_run *run)
{
    *m = (memory_run){.run = run};
    run->options.max_train_steps = 2;
    run->options.checkpointing_steps = 1;
    run->options.checkpoints_total_limit = 1;
    run->options.progressive_iter = 1;
    m->ctx = test_allocator_context(&m->allocator);
    m->before = m->allocator.alive;
}

static void memory_run_close(memory_run *m)
{
    sara_context_free(m->ctx);
    assert_int_equal(m->allocator.alive, 0);
}

/* Trains with the n-th allocation failing; n < 0: none. */
static sara_status train(memory_run *m, long n)
{
    m->allocator.failures = 0;
    m->allocator.left = n;
    sara_status status = sara_train(m->ctx, NULL, &m->run->options);
    m->allocator.left = -1;
    if (m->allocator.alive != m->before)
        fail_msg("allocation %ld: %ld left over", n, m->allocator.alive - m->before);
    return status;
}

static void clear(memory_run *m)
{
    if (sara_path_exists(m->run->output))
        assert_ok(m->run->ctx, sara_directory_remove(m->run->ctx, m->run->output));
    m->run->options.resume_from_checkpoint = NULL;
}

/* Whatever a failed run left, the next one goes on from it and ends as it should. */
static void go_on(memory_run *m, const char *sha256)
{
    m->run->options.resume_from_checkpoint = "latest";
    test_assert_status(m->ctx, train(m, -1), SARA_OK, "resumed", __FILE__, __LINE__);
    assert_string_equal(test_run_sha256(m->run), sha256);
}

/* Returns how many allocations there are. */
static long fail_each(memory_run *m, long stride, const char *sha256)
{
    long n = 0;
    for (bool failed = true; failed; n += stride) {
        clear(m);
        sara_status status = train(m, n);
        failed = m->allocator.failures > 0;
        const char *call = test_text(m->run, "allocation %ld", n);
        /* What is kept for reuse can make up for a single failure. */
        if (failed && (status != SARA_OK || !m->allocator.once)) {
            test_assert_status(m->ctx, status, SARA_ERROR_MEMORY, call, __FILE__, __LINE__);
        } else {
            test_assert_status(m->ctx, status, SARA_OK, call, __FILE__, __LINE__);
            assert_string_equal(test_run_sha256(m->run), sha256);
        }
        if (n % (100 * stride) == 0)
            go_on(m, sha256);
    }
    return n;
}

static void test_failures(memory_run *m, bool once, long stride)
{
    const char *sha256;
    assert_int_equal(train(m, -1), SARA_OK);
    sha256 = test_run_sha256(m->run);
    m->allocator.once = once;
    assert_true(fail_each(m, stride, sha256) > 100);
    memory_run_close(m);
}

/* It and all after it. */
static void test_every_failure(void **state)
{
    memory_run m;
    memory_run_open(&m, *state);
    test_failures(&m, false, test_stride(3));
}

/* It alone, so that cleaning up has memory again. */
static void test_single_failures(void **state)
{
    memory_run m;
    memory_run_open(&m, *state);
    test_failures(&m, true, test_stride(7));
}

/* All weights are trained and written as a folder. */
static void test_full(void **state)
{
    memory_run m;
    memory_run_open(&m, *state);
    m.run->options.method = "full";
    m.run->options.progressive_iter = -1;
    test_failures(&m, false, test_stride(5));
}

/* Parameters of the method's own, with a file of their own. */
static void test_beside(test_run *run, const char *method)
{
    memory_run m;
    memory_run_open(&m, run);
    m.run->options.method = method;
    m.run->options.progressive_iter = -1;
    test_failures(&m, false, test_stride(11));
}

static void test_adaptformer(void **state)
{
    test_beside(*state, "adaptformer");
}

static void test_dora(void **state)
{
    test_beside(*state, "dora");
}

/* A run that starts from an adapter, and one that goes on from its checkpoint. */
static void test_from_adapter(void **state)
{
    memory_run m;
    test_run *run = *state;
    memory_run_open(&m, run);
    test_run_output(run, "first");
    assert_int_equal(train(&m, -1), SARA_OK);
    run->options.adapter = test_text(run, "%s/first/adapter.safetensors:0.5", run->folder);
    test_run_output(run, "run");
    test_failures(&m, false, test_stride(9));
}

/* Images and captions: scanned, hashed, encoded and drawn from. */
static sara_status use_images(memory_run *m, sara_model *model, long n)
{
    sara_batches *batches = NULL;
    sara_batch batch;
    sara_status status;
    m->allocator.failures = 0;
    m->allocator.left = n;
    static const sara_objective objective = {.num_train_timesteps = 1000};
    TRY(sara_batches_open(m->ctx, &batches, model, &m->run->options, &objective));
    TRY(sara_batches_open_files(batches, &m->run->options, NULL));
    TRY(sara_batches_fill(batches, 0, INT64_MAX));
    for (int i = 0; i < 2; i++)
        TRY(sara_batches_get(batches, &batch, i));
done:
    sara_batches_free(batches);
    sara_model_release(model);
    m->allocator.left = -1;
    return status;
}

static void check_images(test_run *run, long stride)
{
    memory_run m;
    sara_model *model = NULL;
    memory_run_open(&m, run);
    test_run_use_images(run, 1);
    run->options.train_batch_size = 1;
    run->options.resolution = 16;
    assert_int_equal(sara_model_load(m.ctx, &model, SARA_TEST_EMOJI "/base", NULL), SARA_OK);
    assert_int_equal(use_images(&m, model, -1), SARA_OK); /* what the device keeps is there now */
    long before = m.allocator.alive, n = 0;
    for (bool failed = true; failed; n += stride) {
        if (run->options.cache_dir && sara_path_exists(run->options.cache_dir))
            assert_ok(run->ctx, sara_directory_remove(run->ctx, run->options.cache_dir));
        sara_status status = use_images(&m, model, n);
        failed = m.allocator.failures > 0;
        test_assert_status(m.ctx, status, failed ? SARA_ERROR_MEMORY : SARA_OK,
                           test_text(run, "allocation %ld", n), __FILE__, __LINE__);
        assert_int_equal(m.allocator.alive, before);
    }
    assert_true(n > 100);
    sara_model_free(model);
    memory_run_close(&m);
}

static void test_images(void **state)
{
    check_images(*state, 1);
}

static void test_images_on_the_disk(void **state)
{
    test_run *run = *state;
    run->options.cache_dir = test_text(run, "%s/kept", run->folder);
    run->options.cache_latents_to_disk = run->options.cache_text_encoder_outputs_to_disk = true;
    run->options.center_crop = true;
    check_images(run, test_stride(9));
}

typedef struct drawing {
    memory_run m;
    int warnings;
} drawing;

/* From the end of each step until its pictures were given up there is no memory. */
static void end_memory(void *user, const sara_progress *progress)
{
    drawing *d = user;
    if (strcmp(progress->phase, "train") == 0)
        d->m.allocator.left = 0;
}

static void count_warning(void *user, sara_log_level level, const char *line)
{
    drawing *d = user;
    if (level != SARA_LOG_WARNING || !strstr(line, "validation after step"))
        return;
    assert_true(d->m.allocator.failures > 0);
    d->m.allocator.left = -1;
    d->warnings++;
}

/* Pictures for which there is no memory are left out; the run goes on, and ends with its result. */
static void test_pictures(void **state)
{
    drawing d = {.m = {.run = *state}};
    test_run *run = *state;
    const sara_allocator functions = test_allocator_functions(&d.m.allocator);
    const sara_context_options options = {.size = sizeof(options),
                                          .allocator = &functions,
                                          .log = count_warning,
                                          .progress = end_memory,
                                          .user = &d};
    test_run_take_images(run, 1);
    run->options.max_train_steps = 2;
    run->options.validation_steps = 1;
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, "validation_prompt", "x"));
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    assert_true(test_run_has(run, "samples/step-000002-0.png"));
    clear(&d.m);
    assert_int_equal(sara_context_new(&d.m.ctx, &options), SARA_OK);
    d.m.before = d.m.allocator.alive;
    test_assert_status(d.m.ctx, train(&d.m, -1), SARA_OK, "without memory for pictures", __FILE__,
                       __LINE__);
    assert_int_equal(d.warnings, 2);
    assert_false(test_run_has(run, "samples/step-000002-0.png"));
    assert_string_equal(test_run_sha256(run), sha256);
    memory_run_close(&d.m);
}

int main(void)
{
    /* Thousands of short runs: a folder in memory, where there is one, saves their fsyncs. */
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_every_failure), TEST_TINY(test_single_failures),
        TEST_TINY(test_full),          TEST_TINY(test_adaptformer),
        TEST_TINY(test_dora),          TEST_TINY(test_from_adapter),
        TEST_TINY(test_images),        TEST_TINY(test_images_on_the_disk),
        TEST_TINY(test_pictures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
