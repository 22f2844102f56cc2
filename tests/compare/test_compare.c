/* sara_compare() with a stand-in for the program, whose numbers are known: what a host program may
 * give it, and that every allocation may fail. */
#include "support/memory.h"

#include "compare/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* It "trains" by writing the options' size, and measures the length of its arguments. */
static const char program[] =
    "#!/bin/sh\n"
    "if [ \"$1\" = train ]; then\n"
    "    [ -e fail ] && echo 'sara train: as it was told' >&2 && exit $(cat fail)\n"
    "    out=$(sed -n 's/.*\"output_dir\": \"\\(.*\\)\".*/\\1/p' \"$5\")\n"
    "    mkdir -p \"$out/checkpoint-1\"\n"
    "    wc -c <\"$5\" >\"$out/adapter.safetensors\"\n"
    "    for s in 9 2 2 4; do echo \"{\\\"step\\\": 1, \\\"seconds\\\": $s}\"; done"
    " >\"$out/log.jsonl\"\n"
    "    echo '{\"step\": 5, \"sec' >>\"$out/log.jsonl\"\n"
    "    printf '10 of 20 parameters trained\\nadapter: %s\\n' \"$out/adapter.safetensors\"\n"
    "else\n"
    "    echo \"$*\" | wc -c | sed 's/.*/{\"clip_score\": {\"mean\": &}, \"fid\": {\"convention\": "
    "\"clip\", \"value\": &}, \"names\": [\"a.png\"]}/'\n"
    "fi\n";

static const char config[] =
    "{\"model\": \"prompts.txt\", \"output_dir\": \"data/out\", \"base_prompts\": "
    "\"prompts.txt\",\n"
    "\"data\": [{\"name\": \"d\", \"train_data_dir\": \"data\", \"references\": \"pictures\",\n"
    "\"prompts\": \"prompts.txt\", \"tuning_prompts\": \"tuning.txt\"}],\n"
    "\"seeds\": [1, 2], \"learning_rates\": [0.1, 0.2, 0.3, 0.4], \"eval\": {\"clip\": "
    "\"pictures\"},\n"
    "\"rows\": [{\"name\": \"a\"}, {\"name\": \"b\", \"trainable\": \"1%\"}]}\n";

static void put_file(const char *name, const char *text)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* In a folder of its own, which is the current one from then on. */
static int enter_folder(void **state)
{
    char folder[] = "/tmp/sara-compare-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder) != 0)
        return 1;
    *state = strdup(folder);
    put_file("program", program);
    put_file("compare.json", config);
    put_file("prompts.txt", "a cat\na dog\n");
    put_file("tuning.txt", "a cow\na pig\n");
    if (chmod("program", 0755) || mkdir("pictures", 0755) || mkdir("data", 0755))
        return 1;
    put_file("data/a.png", "is not opened");
    return 0;
}

static int leave_folder(void **state)
{
    sara_context *ctx = test_context();
    assert_int_equal(chdir("/"), 0);
    assert_ok(ctx, sara_directory_remove(ctx, *state));
    sara_context_free(ctx);
    free(*state);
    return 0;
}

static sara_status compare_with(sara_context *ctx, char **report, const char *given)
{
    sara_compare_options options;
    sara_compare_options_init(&options);
    options.config = given;
    options.program = "./program";
    return sara_compare(ctx, report, &options);
}

static sara_status compare_once(sara_context *ctx, const char *given)
{
    char *report = NULL;
    sara_status status = compare_with(ctx, &report, given);
    sara_free(ctx, report);
    return status;
}

static void test_refused(void **state)
{
    sara_context *ctx = test_context();
    sara_compare_options options;
    char *report;
    (void)state;
    sara_compare_options_init(&options);
    options.program = "./program";
    assert_refused(ctx, SARA_ERROR_USAGE, "--config is missing",
                   sara_compare(ctx, &report, &options));
    options.config = "compare.json";
    options.program = "./prompts.txt";
    assert_refused(ctx, SARA_ERROR_USAGE, "./prompts.txt: is no program",
                   sara_compare(ctx, &report, &options));
    options.program = NULL;
    assert_refused(ctx, SARA_ERROR_USAGE, "program", sara_compare(ctx, &report, &options));
    put_file("list.json", "[1]");
    assert_refused(ctx, SARA_ERROR_INPUT, "list.json: the file: expected an object",
                   compare_with(ctx, &report, "list.json"));
    assert_false(sara_path_exists("data/out"));
    sara_context_interrupt(ctx);
    assert_refused(ctx, SARA_INTERRUPTED, "goes on from here",
                   compare_with(ctx, &report, "compare.json"));
    assert_null(report);
    sara_context_free(ctx);
}

static double record_number(const json_t *record, const char *key)
{
    return json_number_value(json_object_get(record, key));
}

static void test_records(void **state)
{
    sara_context *ctx = test_context();
    json_t *result = NULL;
    char *report;
    (void)state;
    assert_ok(ctx, compare_with(ctx, &report, "compare.json"));
    assert_ok(ctx, sara_json_parse(ctx, &result, report, strlen(report), "report", false));
    const json_t *row = json_array_get(json_object_get(result, "rows"), 1),
                 *data = json_array_get(json_object_get(row, "data"), 0),
                 *seed = json_array_get(json_object_get(data, "seeds"), 1),
                 *train = json_object_get(seed, "train");
    assert_true(record_number(train, "entries") == 10);
    assert_true(record_number(train, "seconds_per_step") == 2); /* 9 left out: 2, 2, 4 */
    assert_string_equal(json_string_value(json_object_get(train, "adapter")),
                        "runs/b/d/lr-0.1-seed-2/run/adapter.safetensors");
    assert_false(sara_path_exists("data/out/runs/b/d/lr-0.1-seed-2/run/checkpoint-1"));
    assert_true(sara_path_exists("data/out/report.html"));
    json_decref(result);
    sara_free(ctx, report);
    sara_context_free(ctx);
}

/* How many of the first row's rates have failed. */
static size_t failed_rates(sara_context *ctx, const char *output)
{
    sara_compare_options options;
    json_t *result = NULL, *entry;
    char *report;
    size_t index, failed = 0;
    sara_compare_options_init(&options);
    options.config = "compare.json";
    options.output_dir = output;
    options.program = "./program";
    assert_ok(ctx, sara_compare(ctx, &report, &options));
    assert_ok(ctx, sara_json_parse(ctx, &result, report, strlen(report), "report", false));
    const json_t *row = json_array_get(json_object_get(result, "rows"), 0),
                 *data = json_array_get(json_object_get(row, "data"), 0);
    json_array_foreach(json_object_get(data, "grid"), index, entry)
    {
        const char *error = sara_record_error(json_object_get(entry, "train"));
        failed += error != NULL;
        if (error)
            assert_string_equal(error, "sara train: as it was told");
    }
    json_decref(result);
    sara_free(ctx, report);
    return failed;
}

/* What failed is tried again, but for what diverged. */
static void test_again(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    put_file("fail", "4\n");
    assert_int_equal(failed_rates(ctx, "again"), 4);
    put_file("fail", "6\n");
    assert_int_equal(failed_rates(ctx, "diverged"), 4);
    assert_int_equal(unlink("fail"), 0);
    assert_int_equal(failed_rates(ctx, "again"), 0);
    assert_int_equal(failed_rates(ctx, "diverged"), 4);
    sara_context_free(ctx);
}

/* A grid of which the first of five has no numbers, and two have the best FID. */
static json_t *grid_of_five(void)
{
    static const double fids[] = {50, 30, 30, 40}, scores[] = {9, 5, 6, 8.5};
    json_t *grid = json_pack("[{}]");
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(json_array_append_new(
                             grid, json_pack("{s:{s:{s:{s:f},s:{s:f}}}}", "tuning", "report", "fid",
                                             "value", fids[i], "clip_score", "mean", scores[i])),
                         0);
    return grid;
}

/* By FID the smallest, of equal ones the first; by CLIP score the largest; by both the one that is
 * good at each: 1 + 0, 0 + 1, 1 + 1/4, 1/2 + 7/8. */
static void test_choice(void **state)
{
    static const struct {
        const char *by;
        size_t index;
    } cases[] = {{"fid", 2}, {"clip_score", 1}, {"vlhi", 4}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_comparison c = {.ctx = test_context(), .choose_by = cases[i].by};
        json_t *grid = grid_of_five();
        size_t index;
        assert_ok(c.ctx, sara_compare_choose(&c, &index, grid));
        assert_int_equal(index, cases[i].index);
        json_decref(grid);
        grid = json_pack("[{},{}]");
        assert_ok(c.ctx, sara_compare_choose(&c, &index, grid));
        assert_true(index == SIZE_MAX);
        json_decref(grid);
        sara_context_free(c.ctx);
    }
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(compare_once, "compare.json"); /* what was run is kept */
}

static int64_t latent_of(sara_context *ctx, const char *denoiser)
{
    sara_comparison c = {
        .ctx = ctx, .config = json_object(), .source = "compare.json", .model = "model"};
    put_file("model/unet/config.json", denoiser);
    sara_arena_init(&c.arena, ctx);
    assert_ok(ctx, sara_compare_read_cost(&c));
    sara_arena_free(&c.arena);
    json_decref(c.config);
    return c.cost.latent;
}

/* Pictures are timed as large as the model draws them: what it says, else its family's size. */
static void test_latent(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    assert_int_equal(mkdir("model", 0755), 0);
    assert_int_equal(mkdir("model/unet", 0755), 0);
    put_file("model/model_index.json", "{\"_class_name\": \"StableDiffusionXLPipeline\"}");
    assert_int_equal(latent_of(ctx, "{\"addition_embed_type\": \"text_time\"}"), 128);
    assert_int_equal(
        latent_of(ctx, "{\"addition_embed_type\": \"text_time\", \"sample_size\": 96}"), 96);
    put_file("model/model_index.json", "{\"_class_name\": \"StableDiffusionPipeline\"}");
    assert_int_equal(latent_of(ctx, "{\"cross_attention_dim\": 768}"), 64);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_records),
        cmocka_unit_test(test_again),   cmocka_unit_test(test_choice),
        cmocka_unit_test(test_memory),  cmocka_unit_test(test_latent),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
