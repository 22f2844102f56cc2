/* Which parts of the model are in memory while it is trained, and what the pictures need. */
#include "support_train.h"

#include "support/memory.h"
#include "train/memory.h"

#include <math.h>
#include <stdlib.h>

enum { VAE = 1, TEXT }; /* parts of the emoji model */

#define VAE_FILE "diffusion_pytorch_model.safetensors"

/* ------------------------------------------------------------------------------- in the steps */

/* What was taken when. */
typedef struct staged {
    test_taken taken;
    size_t at[2];    /* when the first two steps were reported */
    size_t encoding; /* the most when an image was */
} staged;

static sara_context *counted(staged *memory, sara_progress_fn progress)
{
    const sara_allocator allocator = test_taken_functions(&memory->taken);
    const sara_context_options options = {.size = sizeof(options),
                                          .allocator = &allocator,
                                          .progress = progress,
                                          .user = memory,
                                          .threads = 1};
    sara_context *ctx = NULL;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    return ctx;
}

static size_t bytes_of(const sara_model *model, int part)
{
    return (size_t)sara_params_bytes(&model->parts[part].network->params);
}

static void use_wide_picture(test_run *run)
{
    static uint8_t pixels[96 * 64 * 3];
    const sara_image image = {96, 64, pixels};
    const char *folder = test_text(run, "%s/wide", run->folder);
    assert_ok(run->ctx, sara_directory_make(run->ctx, folder));
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/a.png", folder), NULL));
    run->options.train_data_dir = folder;
    run->options.instance_prompt = "a wall";
}

static void assert_there(const trainer *t, bool vae)
{
    assert_true(t->model->denoiser->there);
    assert_false(t->model->parts[TEXT].network->there);
    assert_int_equal(t->model->vae->there, vae);
}

/* Whether the VAE is there in the steps; the text encoder is not, for pictures either. What is not
 * there is not counted by the allocator. */
static void check_steps(test_run *run, bool vae)
{
    staged memory = {0};
    sara_context *ctx = counted(&memory, NULL);
    trainer t = {.ctx = ctx};
    sara_step_report report;
    double loss, lr;
    assert_ok(ctx, sara_trainer_open(&t, &run->options));
    assert_there(&t, vae);
    assert_ok(ctx, sara_trainer_step(&t, &loss, &report, &lr));
    assert_there(&t, vae);
    assert_ok(ctx, sara_run_validate(&t.run, t.model, &t.options, 1));
    assert_there(&t, true);
    sara_model_give_back(t.model, sara_trainer_stages(&t));
    assert_there(&t, vae);
    sara_model_give_back(t.model, SARA_STAGE_DECODE); /* as where there is no room beside it */
    assert_true(t.model->denoiser->there);
    sara_model_give_back(t.model, sara_trainer_stages(&t));
    size_t before = memory.taken.now,
           gone = bytes_of(t.model, TEXT) + (vae ? 0 : bytes_of(t.model, VAE));
    assert_ok(ctx, sara_model_need(t.model, ~0u));
    assert_true(memory.taken.now >= before + gone);
    sara_trainer_close(&t);
    sara_context_free(ctx);
    assert_int_equal(memory.taken.now, 0);
}

static void take_pictures(test_run *run)
{
    test_run_take_images(run, 1);
    run->options.validation_steps = 1;
    run->options.max_train_steps = 2;
    assert_ok(run->ctx,
              sara_train_options_set(run->ctx, &run->options, "validation_prompt", "(y:1.2) z"));
}

static void test_cached(void **state)
{
    test_run *run = *state;
    take_pictures(run);
    check_steps(run, false);
}

static void note_step(void *user, const sara_progress *progress)
{
    staged *t = user;
    if (strcmp(progress->phase, "train") == 0 && progress->step <= 2)
        t->at[progress->step - 1] = t->taken.now;
    if (strcmp(progress->phase, "cache") == 0 && t->taken.now > t->encoding)
        t->encoding = t->taken.now;
}

/* The pictures after a step leave nothing behind for the next. */
static void test_after_pictures(void **state)
{
    test_run *run = *state;
    staged memory = {0};
    sara_context *ctx = counted(&memory, note_step);
    take_pictures(run);
    assert_ok(ctx, sara_train(ctx, NULL, &run->options));
    sara_context_free(ctx);
    assert_true(memory.at[0] > 0 && memory.at[1] < memory.at[0] + ((size_t)1 << 20));
}

/* The denoiser is in memory only when all is encoded, with the optimiser's choice made already. */
static void test_denoiser_last(void **state)
{
    test_run *run = *state;
    static const char *const methods[] = {"sara", "lora", "shira", "ltsft"};
    sara_model *model = NULL;
    test_run_take_images(run, 1);
    run->options.max_train_steps = 2;
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    const size_t weights = bytes_of(model, 0);
    sara_model_free(model);
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        bool whole = strcmp(methods[i], "ltsft") == 0; /* it trains all: 12 bytes an entry */
        staged memory = {0};
        sara_context *ctx = counted(&memory, note_step);
        run->options.method = methods[i];
        test_run_output(run, methods[i]);
        assert_ok(ctx, sara_train(ctx, NULL, &run->options));
        sara_context_free(ctx);
        assert_true(memory.encoding > 0 && memory.at[0] > weights);
        assert_true(memory.encoding < (whole ? 4 * weights : weights));
    }
}

static void check_cached(void *user, const sara_progress *progress)
{
    sara_model *const *model = user;
    assert_string_equal(progress->phase, "cache");
    assert_false((*model)->parts[TEXT].network->there);
    assert_false((*model)->denoiser->there);
    assert_true((*model)->vae->there);
}

/* While images are encoded the text encoder is gone already. */
static void test_encoding(void **state)
{
    static const sara_objective objective = {.num_train_timesteps = 1000};
    test_run *run = *state;
    sara_model *model = NULL;
    sara_batches *batches = NULL;
    const sara_context_options options = {
        .size = sizeof(options), .progress = check_cached, .user = &model};
    sara_context *ctx = NULL;
    test_run_take_images(run, 1);
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_ok(ctx, sara_model_load(ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    assert_ok(ctx, sara_batches_open(ctx, &batches, model, &run->options, &objective));
    assert_false(model->vae->there);
    assert_ok(ctx, sara_batches_fill(batches, 0, INT64_MAX));
    assert_true(model->vae->there);
    sara_batches_free(batches);
    sara_model_free(model);
    sara_context_free(ctx);
}

/* Where crops are drawn at each step the VAE stays. */
static void test_drawn_anew(void **state)
{
    test_run *run = *state;
    take_pictures(run);
    use_wide_picture(run);
    check_steps(run, true);
    run->options.center_crop = true;
    test_run_output(run, "center");
    check_steps(run, false);
}

/* ------------------------------------------------------------------------------- the pictures */

/* Training that changes nothing draws what a program draws that holds the model. */
static void test_pictures_are_the_models(void **state)
{
    test_run *run = *state;
    sara_model *model = NULL;
    take_pictures(run);
    run->options.learning_rate = 1e-30;
    run->options.max_train_steps = 1;
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, "validation_prompt", "x"));
    run->options.lambda_rank = 0;
    assert_ok(run->ctx, test_run_train(run));
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    for (int i = 0; i < 2; i++) {
        sara_generate_options options;
        sara_image *drawn = NULL, saved = {0};
        int count;
        sara_generate_options_init(&options);
        options.prompt = run->options.validation_prompts[i];
        options.seed = run->options.seed;
        assert_ok(run->ctx, sara_generate(run->ctx, &drawn, &count, model, &options));
        assert_ok(run->ctx,
                  sara_image_read(run->ctx, &saved,
                                  test_text(run, "%s/samples/step-000001-%d.png", run->output, i)));
        assert_int_equal(saved.width, drawn->width);
        assert_memory_equal(saved.pixels, drawn->pixels,
                            (size_t)saved.width * (size_t)saved.height * 3);
        sara_images_free(run->ctx, drawn, count);
        sara_image_clear(run->ctx, &saved);
    }
    sara_model_free(model);
}

typedef struct changing {
    const char *vae; /* is written to at the first step; NULL: not */
    int warnings;
} changing;

static void change_file(void *user, const sara_progress *progress)
{
    changing *c = user;
    if (strcmp(progress->phase, "train") != 0 || progress->step != 1)
        return;
    FILE *file = fopen(c->vae, "r+");
    assert_non_null(file);
    assert_int_equal(fputc(1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void count_warnings(void *user, sara_log_level level, const char *line)
{
    changing *c = user;
    if (level != SARA_LOG_WARNING)
        return;
    test_assert_contains(line, "validation after step ", __FILE__, __LINE__);
    test_assert_contains(line, "was changed since it was opened", __FILE__, __LINE__);
    test_assert_contains(line, c->vae, __FILE__, __LINE__);
    c->warnings++;
}

/* A VAE whose file is written to after it was read costs the pictures, not the run. */
static void test_changed_vae(void **state)
{
    test_run *run = *state;
    changing c = {.warnings = 0};
    const sara_context_options options = {
        .size = sizeof(options), .log = count_warnings, .progress = change_file, .user = &c};
    sara_context *ctx = NULL;
    take_pictures(run);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    const char *folder = test_text(run, "%s/vae", run->folder);
    assert_ok(run->ctx, sara_directory_make(run->ctx, folder));
    test_run_copy(run, "vae/config.json", SARA_TEST_EMOJI "/base/vae/config.json");
    test_run_copy(run, "vae/" VAE_FILE, SARA_TEST_EMOJI "/base/vae/" VAE_FILE);
    run->options.vae = folder;
    c.vae = test_text(run, "%s/" VAE_FILE, folder);
    test_run_output(run, "changed");
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_ok(ctx, sara_train(ctx, NULL, &run->options));
    sara_context_free(ctx);
    assert_int_equal(c.warnings, 2);
    assert_false(test_run_has(run, "samples/step-000001-0.png"));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* --------------------------------------------------------------------------- the plan of memory */

static sara_memory_plan plan_of(test_run *run, const char *name, size_t *denoiser, size_t *vae,
                                size_t *text)
{
    trainer t = {.ctx = run->ctx};
    const sara_memory_setting now = {.share = 1};
    sara_memory_plan p;
    test_run_output(run, name);
    assert_ok(run->ctx, sara_trainer_open(&t, &run->options));
    assert_ok(run->ctx, sara_memory_make_plan(&t, &p, &now));
    assert_int_equal(p.peak, t.planned_bytes);
    *denoiser = sara_memory_weights(t.model, false, false);
    *vae = bytes_of(t.model, VAE);
    *text = bytes_of(t.model, TEXT);
    sara_trainer_close(&t);
    return p;
}

/* The parts that a phase has: what is there for the steps counts in all, the others in theirs. */
static void test_phases(void **state)
{
    test_run *run = *state;
    size_t denoiser, vae, text;
    take_pictures(run);
    use_wide_picture(run);
    const sara_memory_plan anew = plan_of(run, "anew", &denoiser, &vae, &text);
    run->options.center_crop = true;
    const sara_memory_plan cached = plan_of(run, "cached", &denoiser, &vae, &text);
    assert_int_equal(anew.weights, denoiser + vae);
    assert_int_equal(cached.weights, denoiser);
    assert_int_equal(cached.pictures, anew.pictures + vae);
    assert_int_equal(anew.encoder, 0);
    assert_true(cached.encoder > vae);
    assert_int_equal(cached.texts, text);
    assert_int_equal(cached.peak, cached.weights + cached.optimizer + cached.other +
                                      cached.pictures); /* the largest of this run */
    assert_string_equal(cached.stage, "while pictures are drawn");
    run->options.validation_prompt_count = 0;
    const sara_memory_plan bare = plan_of(run, "bare", &denoiser, &vae, &text);
    assert_int_equal(bare.peak, bare.weights + bare.optimizer + bare.other + bare.activations);
    assert_string_equal(bare.stage, "in training");
}

/* The denoiser is read when all is encoded, as test_encoding tells. */
static void test_stage_of_peak(void **state)
{
    const struct {
        size_t activations, texts, encoder, pictures, begin, later, peak;
        const char *stage;
    } cases[] = {
        {100, 1109, 1109, 99, 0, 0, 1120, "in training"},
        {100, 1111, 1110, 99, 0, 0, 1121, "while texts are encoded"},
        {100, 1111, 1112, 99, 0, 0, 1122, "while images are encoded"},
        {100, 1111, 1112, 103, 0, 0, 1123, "while pictures are drawn"},
        {100, 1111, 1112, 103, 114, 0, 1124, "while entries are chosen"},
        {100, 1111, 1112, 103, 114, 115, 1125, "in the second phase"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_memory_plan p = {.weights = 1000,
                              .optimizer = 10,
                              .other = 10,
                              .activations = cases[i].activations,
                              .texts = cases[i].texts - 10,
                              .encoder = cases[i].encoder - 10,
                              .pictures = cases[i].pictures,
                              .begin = cases[i].begin,
                              .later = cases[i].later};
        sara_memory_find_peak(&p);
        assert_int_equal(p.peak, cases[i].peak);
        assert_string_equal(p.stage, cases[i].stage);
    }
}

/* The allocator's peak over a whole run is the plan's, but for the program, its libraries and what
 * they compile, and for chunks that are larger than what is in them. */
static void check_peak(test_run *run, const char *name)
{
    staged memory = {0};
    sara_context *ctx = counted(&memory, NULL);
    size_t denoiser, vae, text;
    const sara_memory_plan p = plan_of(run, name, &denoiser, &vae, &text);
    test_run_output(run, test_text(run, "%s-whole", name));
    assert_ok(ctx, sara_train(ctx, NULL, &run->options));
    sara_context_free(ctx);
    double planned = (double)(p.peak - (21 << 20)), peak = (double)memory.taken.peak;
    assert_close(fabs(planned - peak) / peak, 0.1, name);
}

static void test_peak(void **state)
{
    test_run *run = *state;
    take_pictures(run);
    check_peak(run, "pictures");
    run->options.validation_prompt_count = 0;
    check_peak(run, "steps");
    use_wide_picture(run);
    check_peak(run, "crops");
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_cached),
                                       TEST_CASE(test_after_pictures),
                                       TEST_CASE(test_denoiser_last),
                                       TEST_CASE(test_encoding),
                                       TEST_CASE(test_drawn_anew),
                                       TEST_CASE(test_pictures_are_the_models),
                                       TEST_CASE(test_changed_vae),
                                       TEST_CASE(test_phases),
                                       cmocka_unit_test(test_stage_of_peak),
                                       TEST_CASE(test_peak)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
