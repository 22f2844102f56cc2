/* Class images that the base draws: memory that runs out, interruptions, what is told before. */
#include "support/memory.h"
#include "support_train.h"

#include "train/class_images.h"

#include <stdlib.h>
#include <unistd.h>

#define MODEL SARA_TEST_GOLDEN "/pipeline"
#define COUNT 3

enum { VAE = 1, TEXT }; /* parts of the model */

/* The pipeline of 25,000 parameters, a subject of two pictures, and no class images yet. */
static void use_class(test_run *run)
{
    test_run_use_images(run, 2);
    run->options.pretrained_model_name_or_path = MODEL;
    run->options.instance_prompt = "a cat";
    run->options.class_data_dir = test_text(run, "%s/class", run->folder);
    run->options.class_prompt = "a dog";
    run->options.num_class_images = COUNT;
    run->options.resolution = 16;
    run->options.train_batch_size = run->options.max_train_steps = 1;
    run->options.seed = 11;
}

/* -------------------------------------------------------------------------------------- memory */

static sara_status draw_one(sara_context *ctx, const char *folder)
{
    char class[512], subject[512], picture[600];
    sara_model *model = NULL;
    sara_train_options options;
    size_t bytes;
    sara_image drawn = {0};
    sara_status status;
    snprintf(class, sizeof(class), "%s/class", folder);
    snprintf(subject, sizeof(subject), "%s/subject", folder);
    snprintf(picture, sizeof(picture), "%s/class-000000.png", class);
    unlink(picture);
    rmdir(class);
    sara_train_options_init(&options);
    options.train_data_dir = subject;
    options.instance_prompt = "a cat";
    options.class_data_dir = class;
    options.class_prompt = "a dog";
    options.num_class_images = 1;
    options.resolution = 12;
    options.resolution_height = 8;
    TRY(sara_model_load(ctx, &model, MODEL, NULL));
    TRY(sara_class_images_draw(ctx, &bytes, model, &options));
    TRY(sara_image_read(ctx, &drawn, picture));
    assert_true(drawn.width == 12 && drawn.height == 8);
done:
    sara_image_clear(ctx, &drawn);
    sara_model_free(model);
    return status;
}

static void test_every_allocation_of_drawing(void **state)
{
    test_run *run = *state;
    uint8_t pixels[8 * 8 * 3] = {0};
    const sara_image image = {8, 8, pixels};
    test_put(run->folder, "subject/a.png", "", 0); /* and the folder that it lies in */
    assert_ok(run->ctx, sara_image_save(run->ctx, &image,
                                        test_text(run, "%s/subject/a.png", run->folder), NULL));
    test_every_allocation(draw_one, run->folder);
}

/* Told before anything is drawn; the plan of the run names the phase where it is the largest. */
static void test_room_for_drawing(void **state)
{
    test_run *run = *state;
    use_class(run);
    run->options.pretrained_model_name_or_path = SARA_TEST_EMOJI "/base";
    run->options.resolution = 32;
    run->options.num_class_images = 1;
    run->options.trainable = "1000";
    run->options.learning_rate = 1e-5;
    run->options.lambda_rank = 0;
    const sara_context_options tight = {.threads = 1, .memory_limit = 50 << 20};
    sara_context *ctx = NULL;
    assert_ok(ctx, sara_context_new(&ctx, &tight));
    test_run_output(run, "tight");
    assert_refused(ctx, SARA_ERROR_MEMORY,
                   "50 MiB are available; it fits with --weight_dtype bf16 (",
                   sara_train(ctx, NULL, &run->options));
    assert_false(sara_path_exists(run->options.class_data_dir));
    sara_context_free(ctx);
    run->options.gradient_checkpointing = true;
    test_run_output(run, "named");
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "class images: peak "));
    assert_non_null(strstr(run->log, " while class images are drawn"));
}

/* -------------------------------------------------------------------------------- interruptions */

typedef struct watched {
    sara_context *ctx;
    sara_model *model;
    int64_t interrupt_at, steps, total; /* of the progress that is reported */
    size_t other;                       /* reports of another phase or another total */
} watched;

static void watch_drawing(void *user, const sara_progress *progress)
{
    watched *w = user;
    w->other +=
        strcmp(progress->phase, "generate") != 0 || (w->total && w->total != progress->total);
    w->total = progress->total;
    w->other += progress->step != w->steps + 1;
    w->steps = progress->step;
    w->other += w->model->parts[TEXT].network->there; /* it is given back before */
    if (progress->step == w->interrupt_at)
        sara_context_interrupt(w->ctx);
}

static sara_status draw_watched(test_run *run, watched *w, int64_t interrupt_at)
{
    sara_context_options options = {.threads = 1, .progress = watch_drawing, .user = w};
    *w = (watched){.interrupt_at = interrupt_at};
    assert_ok(w->ctx, sara_context_new(&w->ctx, &options));
    assert_ok(w->ctx, sara_model_load(w->ctx, &w->model, MODEL, NULL));
    size_t bytes;
    sara_status status = sara_class_images_draw(w->ctx, &bytes, w->model, &run->options);
    for (int i = 0; i < w->model->family->part_count; i++) /* all are given back */
        assert_false(w->model->parts[i].network->there);
    const sara_progress next = {.phase = "generate", .step = w->steps + 1, .total = w->total};
    sara_report_progress(w->ctx, &next); /* no part of the pictures' any more */
    w->steps--;
    sara_model_free(w->model);
    return status;
}

static const char *hash_of(test_run *run, int number)
{
    char hex[65];
    assert_ok(run->ctx, sara_sha256_file(run->ctx, hex,
                                         test_text(run, "%s/class-%06d.png",
                                                   run->options.class_data_dir, number)));
    return test_text(run, "%s", hex);
}

/* One progress over all that is missing; whatever was interrupted goes on to the same files. */
static void test_interrupted(void **state)
{
    test_run *run = *state;
    const char *whole[COUNT];
    watched w;
    use_class(run);
    assert_ok(run->ctx, draw_watched(run, &w, -1));
    sara_context_free(w.ctx);
    assert_int_equal(w.total % COUNT, 0);
    assert_int_equal(w.steps, w.total);
    assert_int_equal(w.other, 0);
    const int64_t each = w.total / COUNT;
    for (int i = 0; i < COUNT; i++)
        whole[i] = hash_of(run, i);
    assert_string_not_equal(whole[0], whole[1]);
    run->options.class_data_dir = test_text(run, "%s/again", run->folder);
    for (int i = 0; i < COUNT; i++) { /* in the first picture that is missing, then in the next */
        const char *words = test_text(run, "interrupted: %d of 3 class images are in", i);
        assert_refused(w.ctx, SARA_INTERRUPTED, words, draw_watched(run, &w, each / 2));
        assert_int_equal(w.total, (COUNT - i) * each);
        sara_context_free(w.ctx);
        assert_int_equal(w.other, 0);
        if (i < COUNT - 1) {
            words = test_text(run, "interrupted: %d of 3 class images are in", i + 1);
            assert_refused(w.ctx, SARA_INTERRUPTED, words, draw_watched(run, &w, each + 1));
            sara_context_free(w.ctx);
        }
    }
    assert_ok(run->ctx, draw_watched(run, &w, -1));
    sara_context_free(w.ctx);
    assert_int_equal(w.steps, each);
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(hash_of(run, i), whole[i]);
}

/* ------------------------------------------------------------------------------------ refusals */

static void refused_undrawn(test_run *run, sara_status status, const char *words)
{
    test_run_output(run, "run");
    assert_refused(run->ctx, status, words, test_run_train(run));
    assert_false(sara_path_exists(run->options.class_data_dir));
    assert_null(strstr(run->log ? run->log : "", "are drawn"));
    use_class(run);
}

/* What is wrong elsewhere is told before anything is drawn, and no folder is left behind. */
static void test_refused_before_drawing(void **state)
{
    test_run *run = *state;
    use_class(run);
    run->options.train_data_dir = test_text(run, "%s/nowhere", run->folder);
    refused_undrawn(run, SARA_ERROR_IO, "nowhere");
    test_put(run->folder, "broken/a.png", "no picture", 10);
    run->options.train_data_dir = test_text(run, "%s/broken", run->folder);
    refused_undrawn(run, SARA_ERROR_INPUT, "a.png");
    run->options.resolution = 17;
    refused_undrawn(run, SARA_ERROR_USAGE, "17x17");
    test_run_copy(run, "bare/a.png", SARA_TEST_EMOJI "/ink/u1f301.png");
    run->options.train_data_dir = test_text(run, "%s/bare", run->folder);
    run->options.instance_prompt = NULL;
    refused_undrawn(run, SARA_ERROR_INPUT, "a.png");
}

static void refused_place(test_run *run, const char *class, const char *subject)
{
    run->options.class_data_dir = class;
    run->options.train_data_dir = subject;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "one lies in the other", test_run_train(run));
}

/* Else class images would be trained as the subject's, or the other way round. */
static void test_place(void **state)
{
    test_run *run = *state;
    use_class(run);
    const char *folder = run->folder, *images = run->options.train_data_dir;
    refused_place(run, images, images);
    refused_place(run, test_text(run, "%s/class", images), images);
    refused_place(run, test_text(run, "%s/not/yet/there/", images), images);
    refused_place(run, folder, images);
    const char *link = test_text(run, "%s/link", folder);
    assert_int_equal(symlink(images, link), 0);
    refused_place(run, test_text(run, "%s/class", link), images);
    run->options.class_data_dir = test_text(run, "%s-class", images); /* beside it */
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "and 3 class images"));
}

/* Without num_class_images nothing is drawn, as kohya never does, unless diffusers' flag is there;
 * with it what is missing is drawn with or without. */
static void test_wanted(void **state)
{
    test_run *run = *state;
    use_class(run);
    run->options.num_class_images = 0;
    assert_refused(run->ctx, SARA_ERROR_IO, "class", test_run_train(run));
    run->options.num_class_images = COUNT;
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "3 of 3 class images are drawn"));
    assert_null(strstr(run->log, "free on the disk"));
    run->options.num_class_images = 0;
    test_run_output(run, "kohya");
    assert_ok(run->ctx, test_run_train(run));
    assert_null(strstr(run->log, "are drawn"));
    run->options.with_prior_preservation = true;
    for (int i = 0; i < 95; i++)
        test_run_copy(run, test_text(run, "class/other-%d.png", i),
                      test_text(run, "%s/class/class-000000.png", run->folder));
    test_run_output(run, "diffusers"); /* 100 in all */
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "2 of 5 class images are drawn"));
    assert_non_null(strstr(run->log, "and 100 class images"));
    run->options.replay = SARA_TEST_GOLDEN "/train_sd1.safetensors";
    run->options.train_data_dir = NULL;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "a replay has no images", test_run_train(run));
    run->options.replay = NULL;
    run->options.dataset_config = "x.toml";
    run->options.class_data_dir = run->options.instance_prompt = NULL;
    run->options.with_prior_preservation = false;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--class_prompt a dog: goes with --class_data_dir",
                   test_run_train(run));
}

/* ------------------------------------------------------------------------------- the base alone */

/* The same files from weights that stay on the disk, on a device apart, and where the run starts
 * from an adapter, which is not on the base yet. */
static void test_base_alone(void **state)
{
    test_run *run = *state;
    const char *whole[COUNT];
    use_class(run);
    run->options.learning_rate = 1;
    assert_ok(run->ctx, test_run_train(run));
    for (int i = 0; i < COUNT; i++)
        whole[i] = hash_of(run, i);
    const char *adapter = test_text(run, "%s/adapter.safetensors", run->output);
    for (int kind = 0; kind < 3; kind++) {
        use_class(run);
        test_run_output(run, test_text(run, "kind-%d", kind));
        run->options.class_data_dir = test_text(run, "%s/class-%d", run->folder, kind);
        run->options.disk_offload = kind == 0;
        run->options.device = kind == 1 ? "cpu-apart" : NULL;
        run->options.adapter = kind == 2 ? adapter : NULL;
        assert_ok(run->ctx, test_run_train(run));
        for (int i = 0; i < COUNT; i++)
            assert_string_equal(hash_of(run, i), whole[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_every_allocation_of_drawing),
        TEST_CASE(test_room_for_drawing),
        TEST_CASE(test_interrupted),
        TEST_CASE(test_refused_before_drawing),
        TEST_CASE(test_place),
        TEST_CASE(test_wanted),
        TEST_CASE(test_base_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
