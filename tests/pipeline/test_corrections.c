/* What the pipeline makes right in old configs: whose, which, and that it says so; what is saved
 * keeps its words. */
#include "support_golden.h"

#include <stdlib.h>

static json_t *unet_config(const json_t *version, const json_t *size)
{
    json_t *config = json_load_file(TEST_GOLDEN_MODEL "/unet/config.json", 0, NULL);
    assert_non_null(config);
    json_object_del(config, "_diffusers_version");
    if (!json_is_null(version))
        json_object_set(config, "_diffusers_version", (json_t *)version);
    json_object_set(config, "sample_size", (json_t *)size);
    return config;
}

static json_t *old_scheduler(void)
{
    return json_pack("{s:f,s:f,s:s,s:b}", "beta_start", 0.00085, "beta_end", 0.012, "beta_schedule",
                     "scaled_linear", "clip_sample", 1);
}

static void clear_log(test_pipe *pipe)
{
    free(pipe->log);
    pipe->log = NULL;
}

/* The line that is logged once, or not at all. */
static void check_line(test_pipe *pipe, const char *line, bool there)
{
    const char *found = pipe->log ? strstr(pipe->log, line) : NULL;
    if (!found != !there || (found && strstr(found + 1, line)))
        fail_msg("\"%s\" in: %s", line, pipe->log ? pipe->log : "");
}

/* ------------------------------------------------------------------------------- sample size */

/* Rows of diffusers: [version, sample_size, what the pipeline makes of it]. */
static void test_sample_size(void **state)
{
    test_pipe *pipe = *state;
    json_t *rows, *row, *scheduler = old_scheduler();
    size_t i;
    sara_safetensors_close(test_golden_open(pipe, &rows, "sample_sizes"));
    json_array_foreach(rows, i, row)
    {
        const json_t *was = json_array_get(row, 1), *is = json_array_get(row, 2);
        json_t *config = unet_config(json_array_get(row, 0), was);
        const char *folder = test_golden_model(pipe, test_text(pipe, "sample%zu", i),
                                               "DDIMScheduler", scheduler, config);
        clear_log(pipe);
        sara_model *model = test_model(pipe, folder, false);
        const sara_denoiser_info *info = &model->denoiser->info.denoiser;
        int height = (int)json_integer_value(json_is_array(is) ? json_array_get(is, 0) : is);
        int width = (int)json_integer_value(json_is_array(is) ? json_array_get(is, 1) : is);
        assert_int_equal(info->sample_height, height);
        assert_int_equal(info->sample_width, width);
        check_line(pipe,
                   test_text(pipe,
                             "%s/unet/config.json: sample_size %d (_diffusers_version %s, "
                             "before 0.9): the config is outdated; 64 is taken",
                             folder, (int)json_integer_value(was),
                             json_string_value(json_array_get(row, 0))),
                   !json_equal(was, is));
        sara_model_free(model);
        json_decref(config);
    }
    json_decref(scheduler);
    json_decref(rows);
}

/* What is no version, at which diffusers fails, leaves the size as it is, with a warning; a U-Net
 * alone obeys its config. */
static void test_sample_size_kept(void **state)
{
    test_pipe *pipe = *state;
    static const char *const versions[] = {"\"new\"", "\"\"", "7", "\".6\""};
    json_t *scheduler = old_scheduler(), *size = json_integer(32);
    for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
        json_t *version = json_loads(versions[i], JSON_DECODE_ANY, NULL);
        json_t *config = unet_config(version, size);
        const char *folder = test_golden_model(pipe, test_text(pipe, "kept%zu", i), "DDIMScheduler",
                                               scheduler, config);
        clear_log(pipe);
        sara_model *model = test_model(pipe, folder, false);
        assert_int_equal(model->denoiser->info.denoiser.sample_width, 32);
        check_line(pipe, "is no version; sample_size 32 is taken as it is", true);
        sara_model_free(model);
        json_decref(config);
        json_decref(version);
    }
    json_t *old = json_string("0.6.0"), *config = unet_config(old, size);
    const char *folder = test_golden_model(pipe, "alone", "DDIMScheduler", scheduler, config);
    clear_log(pipe);
    sara_model *model = test_model(pipe, test_text(pipe, "%s/unet", folder), true);
    assert_int_equal(model->denoiser->info.denoiser.sample_width, 32);
    assert_null(pipe->log);
    sara_model_free(model);
    json_decref(config);
    json_decref(old);
    json_decref(size);
    json_decref(scheduler);
}

/* --------------------------------------------------------------------------------- scheduler */

typedef struct line_case {
    const char *class_name, *config, *offset, *clip; /* lines, NULL: none */
} line_case;

static const line_case line_cases[] = {
    {"DDIMScheduler", "{}", "steps_offset 0 (not stated)", "clip_sample true (not stated)"},
    {"DDPMScheduler", "{\"steps_offset\": 0, \"clip_sample\": true}", "steps_offset 0",
     "clip_sample true"},
    {"DDIMScheduler", "{\"steps_offset\": 1, \"clip_sample\": false}", NULL, NULL},
    {"DDIMScheduler", "{\"steps_offset\": 3, \"clip_sample\": false}", "steps_offset 3", NULL},
    {"DDIMScheduler", "{\"steps_offset\": null, \"clip_sample\": false}",
     "steps_offset 0 (not stated)", NULL},
    {"PNDMScheduler", "{}", "steps_offset 0 (not stated)", NULL},
    {"PNDMScheduler", "{\"steps_offset\": 1, \"clip_sample\": true}", NULL, "clip_sample true"},
    {"DEISMultistepScheduler", "{\"steps_offset\": 0}", "steps_offset 0", NULL},
};

static void test_scheduler_lines(void **state)
{
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(line_cases) / sizeof(*line_cases); i++) {
        const line_case *c = &line_cases[i];
        json_t *config = old_scheduler(), *more = json_loads(c->config, 0, NULL);
        json_object_del(config, "clip_sample");
        json_object_update(config, more);
        const char *folder =
            test_golden_model(pipe, test_text(pipe, "lines%zu", i), c->class_name, config, NULL);
        const char *file = test_text(pipe, "%s/scheduler/scheduler_config.json", folder);
        clear_log(pipe);
        sara_model *model = test_model(pipe, folder, false);
        check_line(pipe, test_text(pipe, "%s: steps_offset ", file), c->offset != NULL);
        check_line(pipe, test_text(pipe, "%s: clip_sample ", file), c->clip != NULL);
        if (c->offset)
            check_line(pipe, test_text(pipe, "%s: the config is outdated; 1 is taken", c->offset),
                       true);
        if (c->clip)
            check_line(pipe, test_text(pipe, "%s: the config is outdated; false is taken", c->clip),
                       true);
        assert_int_equal(model->scheduler.steps_offset, 1);
        sara_model_free(model);
        json_decref(more);
        json_decref(config);
    }
}

/* Where only the class that is switched to would clip, it is told at the first picture. */
static void test_switched_line(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "x";
    options.steps = 1;
    options.width = options.height = 16;
    assert_null(pipe->log);
    for (int i = 0; i < 3; i++) {
        static const char *const methods[] = {NULL, "ddpm", "ddim"};
        sara_image *images = NULL;
        int count;
        options.sampling_method = methods[i];
        assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
        sara_images_free(pipe->ctx, images, count);
        check_line(pipe,
                   TEST_BASE "/scheduler/scheduler_config.json: clip_sample true (not stated): the "
                             "config is outdated; false is taken",
                   i > 0);
    }
    sara_model_free(model);
}

/* A flow's scheduler has neither; sara's own schedule of a U-Net alone needs no correction. */
static void test_flow(void **state)
{
    test_pipe *pipe = *state;
    json_t *config = json_pack("{s:i}", "num_train_timesteps", 1000);
    const char *folder =
        test_golden_model(pipe, "flow", "FlowMatchEulerDiscreteScheduler", config, NULL);
    sara_model *model = test_model(pipe, folder, false);
    assert_null(pipe->log);
    sara_model_free(model);
    json_decref(config);
}

/* ------------------------------------------------------------------------------- what is saved */

/* *out: sara_free() */
static size_t read_in(test_pipe *pipe, char **out, const char *folder, const char *name)
{
    size_t size = 0;
    assert_ok(pipe->ctx, sara_file_read(pipe->ctx, out, &size,
                                        test_text(pipe, "%s/%s", folder, name), 1 << 20));
    return size;
}

static void check_same_file(test_pipe *pipe, const char *a, const char *b, const char *name)
{
    char *first = NULL, *second = NULL;
    size_t size = read_in(pipe, &first, a, name);
    assert_int_equal(read_in(pipe, &second, b, name), size);
    assert_memory_equal(first, second, size);
    sara_free(pipe->ctx, first);
    sara_free(pipe->ctx, second);
}

/* Loads, checks that the configs are corrected, and saves as `to`. */
static void pass_on(test_pipe *pipe, const char *from, const char *to, const char *prediction)
{
    const sara_model_options options = {
        .tokenizer = sara_path_is_directory(from) ? NULL : TEST_GOLDEN_MODEL "/tokenizer",
        .prediction_type = prediction};
    sara_model *model = NULL;
    clear_log(pipe);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, from, &options));
    check_line(pipe, ": steps_offset 0 (not stated): the config", true);
    check_line(pipe, ": clip_sample true: the config", true);
    check_line(pipe, ": sample_size 8 (_diffusers_version 0.6.0, before 0.9): the config", true);
    assert_int_equal(model->scheduler.steps_offset, 1);
    assert_false(model->scheduler.clip_sample);
    assert_int_equal(model->denoiser->info.denoiser.sample_width, 64);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, to, NULL));
    sara_model_free(model);
}

static void check_config(test_pipe *pipe, const char *path, const json_t *want)
{
    json_t *is = NULL;
    assert_ok(pipe->ctx, sara_json_load(pipe->ctx, &is, path, true));
    if (!json_equal(is, want))
        fail_msg("%s differs", path);
    json_decref(is);
}

/* From folder to folder byte by byte, and by way of a file in value: the corrections are made
 * anew each time. A prediction type that was asked for is all that changes. */
static void test_saved_words(void **state)
{
    test_pipe *pipe = *state;
    json_t *version = json_string("0.6.0"), *size = json_integer(8);
    json_t *unet = unet_config(version, size), *scheduler = old_scheduler();
    const char *folder = test_golden_model(pipe, "own", "DDIMScheduler", scheduler, unet);
    const char *copy = test_path(pipe, "copy"), *file = test_path(pipe, "file.safetensors");
    const char *again = test_path(pipe, "again"), *v = test_path(pipe, "v");
    pass_on(pipe, folder, copy, NULL);
    check_same_file(pipe, folder, copy, "scheduler/scheduler_config.json");
    check_same_file(pipe, folder, copy, "unet/config.json");
    pass_on(pipe, copy, file, NULL);
    pass_on(pipe, file, again, NULL);
    check_config(pipe, test_text(pipe, "%s/unet/config.json", again), unet);
    pass_on(pipe, again, v, "v_prediction");
    json_object_set_new(scheduler, "_class_name", json_string("DDIMScheduler"));
    json_object_set_new(scheduler, "prediction_type",
                        json_string("epsilon")); /* a file states it */
    check_config(pipe, test_text(pipe, "%s/scheduler/scheduler_config.json", again), scheduler);
    json_object_set_new(scheduler, "prediction_type", json_string("v_prediction"));
    check_config(pipe, test_text(pipe, "%s/scheduler/scheduler_config.json", v), scheduler);
    json_decref(scheduler);
    json_decref(unet);
    json_decref(size);
    json_decref(version);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sample_size),
        TEST_CASE(test_sample_size_kept),
        TEST_CASE(test_scheduler_lines),
        TEST_CASE(test_switched_line),
        TEST_CASE(test_flow),
        TEST_CASE(test_saved_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
