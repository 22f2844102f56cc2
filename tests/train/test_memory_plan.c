/* The plan of memory: it is said before the first step, and a run that would not fit is refused
 * with the flags that make it fit. */
#include "support_train.h"

#include "train/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct lines {
    char text[4096];
} lines;

static void keep(void *user, sara_log_level level, const char *line)
{
    lines *l = user;
    size_t used = strlen(l->text);
    (void)level;
    snprintf(l->text + used, sizeof(l->text) - used, "%s\n", line);
}

/* Trains one step in a context with that limit; the error is copied to `error`. */
static sara_status train(test_run *run, lines *log, char *error, size_t size, uint64_t limit)
{
    const sara_context_options options = {.log = keep, .user = log, .memory_limit = limit};
    sara_context *ctx = NULL;
    log->text[0] = '\0';
    run->options.max_train_steps = 1;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    sara_status status = sara_train(ctx, NULL, &run->options);
    snprintf(error, size, "%s", sara_context_error(ctx));
    sara_context_free(ctx);
    return status;
}

/* The MiB after a word of the line. */
static double mib_after(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    assert_non_null(at);
    return strtod(at + strlen(word), NULL);
}

static void test_plan_is_said(void **state)
{
    test_run *run = *state;
    lines log;
    char error[512];
    assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
    const char *plan = strstr(log.text, "memory: ");
    assert_non_null(plan);
    double weights = mib_after(plan, "weights "), optimizer = mib_after(plan, "optimizer ");
    double activations = mib_after(plan, "activations "), other = mib_after(plan, "other ");
    double peak = mib_after(plan, "peak ");
    assert_true(weights > 0 && optimizer > 0 && activations > 0 && other > 0);
    double sum = weights + optimizer + activations + other;
    assert_close(fabs(sum - peak), 2.5, "sum of rounded parts");
}

/* Sets the options of " --flag value --flag (size)" and trains with the limit. */
static sara_status train_with(test_run *run, char *error, size_t size, uint64_t limit,
                              const char *flags)
{
    const sara_train_options before = run->options;
    char text[256], *rest = text;
    lines log;
    snprintf(text, sizeof(text), "%s", flags);
    test_run_output(run, test_text(run, "with%s-%llu", text, (unsigned long long)limit));
    for (char *word = strtok_r(text, " ", &rest); word && *word == '-';) {
        char *value = strtok_r(NULL, " ", &rest);
        bool given = value && *value != '-' && *value != '(';
        assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, word + 2,
                                                   given ? value : "true"));
        word = given ? strtok_r(NULL, " ", &rest) : value;
    }
    sara_status status = train(run, &log, error, size, limit);
    run->options = before;
    return status;
}

static void prepare(test_run *run, double *whole, double *activations, double *weights)
{
    lines log;
    char error[512];
    test_run_use_images(run, 2);
    run->options.train_batch_size = 4;
    assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
    *whole = mib_after(log.text, "peak ");
    *weights = mib_after(log.text, "weights ");
    *activations = mib_after(log.text, "activations ");
    assert_true(*activations >= 10);
}

/* Every alternative that the error names makes the run fit. Returns how many there are. */
static int check_named(test_run *run, const char *error, uint64_t limit)
{
    int count = 0;
    for (const char *at = strstr(error, "fits with"); at; at = strstr(at, " or"), count++) {
        char message[512], flags[256];
        at += strcspn(at, "-");
        snprintf(flags, sizeof(flags), " %.*s", (int)strcspn(at, "("), at);
        if (train_with(run, message, sizeof(message), limit, flags) != SARA_OK)
            fail_msg("%s:%s: %s", error, flags, message);
    }
    return count;
}

/* A flag that the error names neither alone nor with another does not, even at its strongest (but
 * for the margin that is left). */
static int check_unnamed(test_run *run, const char *error, uint64_t limit)
{
    static const char *const strongest[] = {" --train_batch_size 1", " --weight_dtype bf16",
                                            " --gradient_checkpointing"};
    int count = 0;
    for (size_t i = 0; i < sizeof(strongest) / sizeof(*strongest); i++) {
        char message[512], name[64];
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(strongest[i] + 1, " "), strongest[i] + 1);
        if (strstr(error, name))
            continue;
        count++;
        if (train_with(run, message, sizeof(message), limit - limit / 50, strongest[i]) !=
            SARA_ERROR_MEMORY)
            fail_msg("%s: not said: %s", error, strongest[i]);
    }
    return count;
}

/* A little and much less than the run needs. */
static void test_refused(void **state)
{
    test_run *run = *state;
    double whole, activations, weights;
    int named = 0, unnamed = 0, together = 0;
    prepare(run, &whole, &activations, &weights);
    for (int part = 1; part <= 7; part += (int)test_stride(2)) {
        uint64_t limit = (uint64_t)((whole - activations * part / 7) * 1048576);
        lines log;
        char error[512];
        test_run_output(run, test_text(run, "refused-%d", part));
        assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
        test_assert_contains(error,
                             test_text(run, "needs %.0f MiB of memory, %.0f MiB are available",
                                       whole, (double)limit / 1048576),
                             __FILE__, __LINE__);
        assert_false(test_run_has(run, "adapter.safetensors"));
        named += check_named(run, error, limit);
        unnamed += check_unnamed(run, error, limit);
        together += strstr(error, "bf16 --gradient_checkpointing") != NULL;
    }
    assert_true(named >= 3 && unnamed >= 1 && together >= 1);
}

/* Where nothing cheaper is enough, weights that stay on the disk are named: alone if that is, else
 * with others; not to a method that trains all, nor beside the levels that it cannot have. */
static void test_weights_on_the_disk(void **state)
{
    test_run *run = *state;
    double whole, activations, weights, cheap;
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    run->options.train_batch_size = 1;
    run->options.weight_dtype = "bf16";
    run->options.gradient_checkpointing = true;
    test_run_output(run, "cheap");
    assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
    cheap = mib_after(log.text, "peak ");
    for (int i = 0; i < 2; i++) {
        const uint64_t limit = (uint64_t)((cheap - 2) * 1048576);
        run->options.gradient_checkpointing_levels = i;
        run->options.gradient_checkpointing = i == 0;
        test_run_output(run, test_text(run, "offload-%d", i));
        assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
        const char *flag = "it fits with --disk_offload (";
        if (i == 1)
            flag = "it fits with --disk_offload instead of --gradient_checkpointing_levels (";
        test_assert_contains(error, flag, __FILE__, __LINE__);
        run->options.gradient_checkpointing_levels = 0;
        if (i == 0)
            assert_int_equal(check_named(run, error, limit), 1);
    }
    run->options.weight_dtype = "fp32"; /* which alone is not enough of either */
    run->options.gradient_checkpointing = false;
    run->options.train_batch_size = 4;
    test_run_output(run, "with");
    const uint64_t least = (uint64_t)((cheap - weights * 0.4) * 1048576);
    assert_int_equal(train(run, &log, error, sizeof(error), least), SARA_ERROR_MEMORY);
    test_assert_contains(error, "--disk_offload", __FILE__, __LINE__);
    assert_true(check_named(run, error, least) >= 1);
}

/* Where neither batch, weights nor checkpointing are enough, the side of the pictures or the
 * entries are named; each makes the run fit. */
static void test_last_resorts(void **state)
{
    test_run *run = *state;
    double whole, activations, weights;
    int sides = 0, shares = 0, both = 0;
    prepare(run, &whole, &activations, &weights);
    run->options.train_batch_size = 1;
    run->options.disk_offload = true; /* what is the last before them */
    run->options.trainable = "20%";
    run->options.learning_rate = 1e-5;
    for (int i = 0; i < 6; i++) {
        lines log;
        char error[512];
        run->options.resolution = i < 3 ? 256 : 64;
        test_run_output(run, test_text(run, "small-%d", i));
        assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
        whole = mib_after(log.text, "peak ");
        weights = mib_after(log.text, "weights ");
        double part = (whole - 4 - weights - 24) * (i % 3 + 1) / 4;
        uint64_t limit = (uint64_t)((whole - 4 - part) * 1048576);
        test_run_output(run, test_text(run, "last-%d", i));
        assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
        assert_true(check_named(run, error, limit) >= 1);
        sides += strstr(error, "--resolution ") != NULL;
        shares += strstr(error, "--trainable ") != NULL;
        both += strstr(error, "--trainable ") && strstr(error, "--resolution ");
    }
    assert_true(sides >= 2 && shares >= 2 && both >= 1);
}

/* Of pictures that are no squares no side is named; turned round they need as much. */
static void test_no_squares(void **state)
{
    test_run *run = *state;
    double whole, activations, weights, other[3];
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    for (int i = 0; i < 3; i++) {
        run->options.resolution = i ? 128 : 64;
        run->options.resolution_height = i == 1 ? 64 : 128;
        test_run_output(run, test_text(run, "sides-%d", i));
        assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
        other[i] = mib_after(log.text, "activations ");
    }
    assert_true(other[0] > activations && fabs(other[0] - other[1]) < 0.02 * other[0]);
    assert_true(other[2] > 1.5 * other[0]);
    run->options.resolution_height = 64;
    run->options.train_batch_size = 1;
    run->options.gradient_checkpointing = true;
    test_run_output(run, "hopeless-sides");
    assert_int_equal(train(run, &log, error, sizeof(error), (uint64_t)((weights + 12) * 1048576)),
                     SARA_ERROR_MEMORY);
    assert_null(strstr(error, "--resolution"));
}

static void test_hopeless(void **state)
{
    test_run *run = *state;
    double whole, activations, weights;
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    run->options.disk_offload = true;
    test_run_output(run, "hopeless");
    assert_int_equal(train(run, &log, error, sizeof(error), 24 << 20), SARA_ERROR_MEMORY);
    test_assert_contains(error, "no flags make it fit: with ", __FILE__, __LINE__);
    test_assert_contains(error, " it needs ", __FILE__, __LINE__);
}

/* Told before the optimiser's memory is taken. Of each entry that is trained 16-bit weights need a
 * master, so that they need less where less than half are. */
static void test_too_many_entries(void **state)
{
    static const char *const cases[][4] = {
        {"sara", "100%", "2.5", "entries (--trainable) need less"},
        {"sara", "40%", "1.5", "(--trainable), --weight_dtype bf16 or --disk_offload need less"},
        {"full", "", "2.5", " are available"}};
    test_run *run = *state;
    double whole, activations, weights;
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    run->options.learning_rate = 1e-5;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        double limit = atof(cases[i][2]) * weights * 1048576;
        run->options.method = cases[i][0];
        run->options.trainable = *cases[i][1] ? cases[i][1] : NULL;
        test_run_output(run, test_text(run, "entries-%zu", i));
        assert_int_equal(train(run, &log, error, sizeof(error), (uint64_t)limit),
                         SARA_ERROR_MEMORY);
        test_assert_contains(error, " entries needs more than ", __FILE__, __LINE__);
        assert_string_equal(error + strlen(error) - strlen(cases[i][3]), cases[i][3]);
        assert_null(strstr(log.text, "memory: "));
    }
}

/* Of full fine-tuning 16-bit weights are no advice: with their masters they need more. */
static void test_full(void **state)
{
    test_run *run = *state;
    double whole, activations, weights;
    int unnamed = 0;
    run->options.method = "full";
    prepare(run, &whole, &activations, &weights);
    for (int part = 1; part <= 7; part += 2 * (int)test_stride(2)) {
        uint64_t limit = (uint64_t)((whole - activations * part / 7) * 1048576);
        lines log;
        char error[512];
        test_run_output(run, test_text(run, "full-%d", part));
        assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
        assert_null(strstr(error, "bf16"));
        check_named(run, error, limit);
        unnamed += check_unnamed(run, error, limit);
    }
    assert_true(unnamed >= 2);
}

/* Where a validation picture needs more than a training step, that is what has to be there. */
static void test_pictures(void **state)
{
    test_run *run = *state;
    double whole, activations, weights;
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    run->options.train_batch_size = 1;
    run->options.gradient_checkpointing = true;
    run->options.validation_prompts[0] = "a cat";
    run->options.validation_prompt_count = 1;
    test_run_output(run, "pictures");
    assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
    double pictures = mib_after(log.text, "instead of activations for pictures ");
    double sum = mib_after(log.text, "weights ") + mib_after(log.text, "optimizer ") +
                 mib_after(log.text, "other ") + pictures;
    assert_true(pictures > mib_after(log.text, "activations "));
    assert_close(fabs(sum - mib_after(log.text, "peak ")), 2.5, "sum of rounded parts");
}

/* The plan's picture is that of the longest validation prompt. */
static void test_long_prompts(void **state)
{
    test_run *run = *state;
    sara_model *model = NULL;
    int64_t length;
    char *text = calloc(2048, 5);
    assert_non_null(text);
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    assert_ok(run->ctx, sara_run_prompt_length(run->ctx, &length, model, &run->options));
    assert_int_equal(length, 0);
    run->options.validation_prompts[0] = "a";
    run->options.validation_prompts[1] = "a BREAK (b:1.2) BREAK c";
    run->options.validation_prompts[2] = "a BREAK b";
    run->options.validation_prompt_count = 3;
    assert_ok(run->ctx, sara_run_prompt_length(run->ctx, &length, model, &run->options));
    assert_int_equal(length, 32);
    run->options.long_prompt = true;
    assert_ok(run->ctx, sara_run_prompt_length(run->ctx, &length, model, &run->options));
    assert_int_equal(length, 96);
    for (int i = 0; i < 2000; i++)
        strcat(text + 5 * i, "face ");
    run->options.validation_prompts[1] = text;
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--validation_prompt: prompt: more than 64 chunks of 30 tokens",
                   sara_run_prompt_length(run->ctx, &length, model, &run->options));
    sara_model_free(model);
    free(text);
}

/* A folder with one picture that is wider than high. */
static const char *wide_picture(test_run *run)
{
    static uint8_t pixels[96 * 64 * 3];
    const sara_image image = {96, 64, pixels};
    const char *folder = test_text(run, "%s/wide", run->folder);
    assert_ok(run->ctx, sara_directory_make(run->ctx, folder));
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/a.png", folder), NULL));
    return folder;
}

/* Cropped at random, pictures are encoded during the steps, where they are none that were encoded
 * before. */
static void test_encoder(void **state)
{
    test_run *run = *state;
    double whole, activations, weights, others[2];
    lines log;
    char error[512];
    prepare(run, &whole, &activations, &weights);
    run->options.train_data_dir = wide_picture(run);
    run->options.instance_prompt = "a wall";
    for (int center = 0; center < 2; center++) {
        run->options.center_crop = center;
        test_run_output(run, center ? "center" : "random");
        assert_int_equal(train(run, &log, error, sizeof(error), 0), SARA_OK);
        others[center] = mib_after(log.text, "other ");
    }
    assert_true(others[0] > others[1] + 1);
}

static void test_weights_alone_too_large(void **state)
{
    test_run *run = *state;
    lines log;
    char error[512];
    assert_int_equal(train(run, &log, error, sizeof(error), 1 << 18), SARA_ERROR_MEMORY);
    test_assert_contains(error, "diffusion_pytorch_model.safetensors: needs ", __FILE__, __LINE__);
    test_assert_contains(error, " 0 MiB are available (16-bit weights", __FILE__, __LINE__);
    assert_null(strstr(error, "--disk_offload")); /* which needs more, too */
}

/* Weights that memory cannot hold are opened from the disk, as it is told; what else a run needs is
 * the plan's. */
static void test_weights_larger_than_memory(void **state)
{
    test_run *run = *state;
    const uint64_t limit = 2 << 20;
    lines log;
    char error[512];
    for (int full = 0; full < 2; full++) {
        run->options.method = full ? "full" : "sara";
        assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
        test_assert_contains(error, "diffusion_pytorch_model.safetensors: needs 4 MiB", __FILE__,
                             __LINE__);
        assert_true(!full == !!strstr(error, "take half); --disk_offload needs less"));
    }
    run->options.method = "sara";
    run->options.disk_offload = true;
    run->options.trainable = "100";
    run->options.learning_rate = 1e-5;
    run->options.lambda_rank = 0; /* the recorded matrices need not be trained */
    assert_int_equal(train(run, &log, error, sizeof(error), limit), SARA_ERROR_MEMORY);
    test_assert_contains(error, "training needs ", __FILE__, __LINE__);
    assert_true(mib_after(log.text, "weights ") <= 1);
}

static void test_too_many_levels(void **state)
{
    test_run *run = *state;
    run->options.gradient_checkpointing_levels = 8;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--gradient_checkpointing_levels 8: the U-Net has ",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_plan_is_said),
                                       TEST_CASE(test_refused),
                                       TEST_CASE(test_last_resorts),
                                       TEST_CASE(test_hopeless),
                                       TEST_CASE(test_no_squares),
                                       TEST_CASE(test_too_many_entries),
                                       TEST_CASE(test_full),
                                       TEST_CASE(test_pictures),
                                       TEST_CASE(test_long_prompts),
                                       TEST_CASE(test_encoder),
                                       TEST_CASE(test_weights_alone_too_large),
                                       TEST_CASE(test_too_many_levels),
                                       TEST_CASE(test_weights_on_the_disk),
                                       TEST_CASE(test_weights_larger_than_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
