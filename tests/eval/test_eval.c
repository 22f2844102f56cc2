/* sara_eval() and sara_zero_sweep() as functions: versions of options, and memory that runs out. */
#include "support_eval.h"

#include "sara_eval.h"
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>

/* A folder of pictures of unlike sizes; free(). */
static char *make_pictures(const char *folder, const char *name, int count)
{
    sara_context *ctx = test_context();
    char *path;
    assert_ok(ctx, sara_path_join(ctx, &path, folder, name));
    assert_ok(ctx, sara_directory_make(ctx, path));
    for (int i = 0; i < count; i++) {
        sara_image image = test_formula_image(ctx, 17 + i, 23 - i);
        const sara_name file = sara_name_of("%s/%d.png", path, i);
        assert_ok(ctx, sara_image_save(ctx, &image, file.text, NULL));
        sara_image_clear(ctx, &image);
    }
    char *kept = strdup(path);
    sara_free(ctx, path);
    sara_context_free(ctx);
    assert_non_null(kept);
    return kept;
}

static sara_eval_options options_for(const char *pictures, const char *references)
{
    sara_eval_options options;
    sara_eval_options_init(&options);
    options.images = pictures;
    options.references = options.before = references;
    options.dino = EVAL_DATA "/models/vit";
    return options;
}

/* argument: a folder of "pictures" and "references". */
static sara_status evaluate(sara_context *ctx, const char *argument)
{
    const sara_name pictures = sara_name_of("%s/pictures", argument);
    const sara_name references = sara_name_of("%s/references", argument);
    sara_eval_options options = options_for(pictures.text, references.text);
    char *report = NULL;
    sara_status status = sara_eval(ctx, &report, &options);
    assert_true((status == SARA_OK) == (report != NULL));
    sara_free(ctx, report);
    return status;
}

static void test_memory_runs_out(void **state)
{
    char *folder = test_folder();
    (void)state;
    free(make_pictures(folder, "pictures", 2));
    free(make_pictures(folder, "references", 3));
    test_every_allocation(evaluate, folder);
    test_folder_remove(folder);
}

/* A program that was compiled with fewer members, or with more that it leaves alone. */
static void test_versions(void **state)
{
    struct {
        sara_eval_options known;
        const char *later;
    } larger = {.later = NULL};
    sara_context *ctx = test_context();
    char *folder = test_folder(), *report = NULL, *pictures = make_pictures(folder, "a", 2);
    sara_eval_options first = options_for(pictures, pictures);
    (void)state;
    first.size = 0;
    first.page = "no/such/folder.html"; /* came later, and is not read */
    assert_ok(ctx, sara_eval(ctx, &report, &first));
    test_assert_contains(report, "\"images\": 2", __FILE__, __LINE__);
    sara_free(ctx, report);
    larger.known = first;
    larger.known.page = NULL;
    larger.known.size = sizeof(larger);
    assert_ok(ctx, sara_eval(ctx, &report, &larger.known));
    sara_free(ctx, report);
    larger.later = "wanted";
    assert_refused(ctx, SARA_ERROR_USAGE, "sara_eval_options",
                   sara_eval(ctx, &report, &larger.known));
    assert_null(report);
    free(pictures);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* Folders of one size in any order are the same sets: no distance, and pairs that are equal. */
static void test_equal_sets(void **state)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), *report = NULL, *pictures = make_pictures(folder, "a", 4);
    const sara_eval_options options = options_for(pictures, pictures);
    json_t *object;
    (void)state;
    assert_ok(ctx, sara_eval(ctx, &report, &options));
    assert_ok(ctx, sara_json_parse(ctx, &object, report, strlen(report), "report", false));
    const json_t *fid = json_object_get(object, "fid"), *drift = json_object_get(object, "drift");
    assert_close(json_number_value(json_object_get(fid, "value")), 1e-6, "FID of equal sets");
    assert_true(json_number_value(json_object_get(drift, "mean")) == 0);
    json_decref(object);
    sara_free(ctx, report);
    free(pictures);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_sweep_refused(void **state)
{
    sara_context *ctx = test_context();
    sara_zero_sweep_options options;
    char *report;
    sara_eval_options eval = options_for("pictures", NULL);
    (void)state;
    sara_zero_sweep_options_init(&options);
    options.thresholds = "0.1";
    assert_refused(ctx, SARA_ERROR_USAGE, "takes a model and prompts",
                   sara_zero_sweep(ctx, &report, &options));
    options.eval = &eval;
    assert_refused(ctx, SARA_ERROR_USAGE, "takes a model and prompts",
                   sara_zero_sweep(ctx, &report, &options));
    eval.images = eval.before = NULL;
    options.thresholds = NULL;
    assert_refused(ctx, SARA_ERROR_USAGE, "expected numbers above 0",
                   sara_zero_sweep(ctx, &report, &options));
    options.thresholds = "0.1";
    assert_refused(ctx, SARA_ERROR_USAGE, "no pictures given",
                   sara_zero_sweep(ctx, &report, &options));
    sara_context_free(ctx);
}

/* The report of a sweep with so much memory (0: all that there is); free(). */
static char *sweep_within(const char *folder, uint64_t limit)
{
    const sara_context_options within = {.size = sizeof(within), .memory_limit = limit};
    const sara_name prompts = sara_name_of("%s/prompts.txt", folder);
    sara_zero_sweep_options options;
    sara_generate_options drawn;
    sara_eval_options eval;
    sara_context *ctx = NULL;
    char *report, *kept;
    sara_generate_options_init(&drawn);
    drawn.steps = 2;
    sara_eval_options_init(&eval);
    eval.model_path = SARA_TEST_EMOJI "/base";
    eval.clip = SARA_TEST_EMOJI "/clip";
    eval.prompts = prompts.text;
    eval.generate = &drawn;
    sara_zero_sweep_options_init(&options);
    options.thresholds = "3e-2";
    options.eval = &eval;
    assert_ok(ctx, sara_context_new(&ctx, &within));
    assert_ok(ctx, sara_zero_sweep(ctx, &report, &options));
    kept = strdup(report);
    assert_non_null(kept);
    sara_free(ctx, report);
    sara_context_free(ctx);
    return kept;
}

/* A denoiser that was changed in memory stays there: no file has what it was changed to. */
static void test_sweep_without_room(void **state)
{
    char *folder = test_folder(), *wide, *narrow;
    const sara_name file = sara_name_of("%s/prompts.txt", folder);
    FILE *prompts = fopen(file.text, "w");
    (void)state;
    assert_non_null(prompts);
    assert_true(fputs("a fox\nsunset\nsnowman\n", prompts) >= 0);
    assert_int_equal(fclose(prompts), 0);
    wide = sweep_within(folder, 0);
    narrow = sweep_within(folder, 36 << 20);
    assert_string_equal(narrow, wide);
    free(wide);
    free(narrow);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_runs_out),    cmocka_unit_test(test_versions),
        cmocka_unit_test(test_equal_sets),         cmocka_unit_test(test_sweep_refused),
        cmocka_unit_test(test_sweep_without_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
