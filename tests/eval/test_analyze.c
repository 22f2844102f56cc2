/* An analysis beside what numpy makes of the same U-Net, whose layers diffusers sorted. */
#include "support_eval.h"

#include "support/memory.h"

#include "pipeline/pipeline.h"

#include <math.h>
#include <sara_eval.h>
#include <stdio.h>
#include <stdlib.h>

static sara_model *load(sara_context *ctx, const char *folder)
{
    sara_model_options options;
    sara_model *model = NULL;
    sara_model_options_init(&options);
    options.unet_only = true;
    assert_ok(ctx, sara_model_load(ctx, &model, folder, &options));
    return model;
}

static json_t *parse(sara_context *ctx, const char *text)
{
    json_t *object = NULL;
    assert_ok(ctx, sara_json_parse(ctx, &object, text, strlen(text), "analysis", false));
    return object;
}

static void assert_number(const json_t *got, const json_t *expected, const char *what)
{
    double a = json_number_value(got), b = json_number_value(expected);
    if (!json_is_number(got) || json_is_integer(got) != json_is_integer(expected))
        fail_msg("%s: is no such number", what);
    if (json_is_integer(got))
        assert_int_equal(json_integer_value(got), json_integer_value(expected));
    assert_close(fabs(a - b) / fmax(fabs(b), 1e-6), 1e-9, what);
}

static void assert_list(const json_t *got, const json_t *expected, const char *what)
{
    assert_int_equal(json_array_size(got), json_array_size(expected));
    for (size_t i = 0; i < json_array_size(got); i++)
        assert_number(json_array_get(got, i), json_array_get(expected, i), what);
}

static void assert_group(const json_t *got, const json_t *expected, const char *name)
{
    const char *key;
    json_t *value;
    assert_true(json_is_object(got) && json_is_object(expected));
    json_object_foreach((json_t *)(uintptr_t)expected, key, value)
    {
        const sara_name what = sara_name_of("%s, %s", name, key);
        const json_t *own = json_object_get(got, key);
        if (json_is_array(value))
            assert_list(own, value, what.text);
        else if (json_is_null(value))
            assert_true(json_is_null(own));
        else
            assert_number(own, value, what.text);
    }
}

static void assert_groups(const json_t *got, const json_t *expected)
{
    assert_int_equal(json_array_size(got), json_object_size(expected));
    for (size_t i = 0; i < json_array_size(got); i++) {
        const json_t *group = json_array_get(got, i);
        const char *name = json_string_value(json_object_get(group, "name"));
        assert_group(group, json_object_get(expected, name), name);
    }
}

static void test_numbers(void **state)
{
    sara_context *ctx = test_context();
    sara_model *model = load(ctx, SARA_TEST_GOLDEN "/unet_sd1");
    json_t *expected, *got;
    char *report;
    (void)state;
    assert_ok(ctx, sara_json_load(ctx, &expected, SARA_TEST_GOLDEN "/analysis_sd1.json", false));
    assert_ok(ctx, sara_analyze(ctx, &report, model, NULL));
    got = parse(ctx, report);
    const json_t *list = json_object_get(got, "thresholds");
    for (size_t i = 0; i < 6; i++)
        assert_number(json_object_get(json_array_get(list, i), "threshold"),
                      json_array_get(json_object_get(expected, "thresholds"), i), "threshold");
    assert_group(json_object_get(got, "whole"), json_object_get(expected, "whole"), "whole");
    assert_groups(json_object_get(got, "kinds"), json_object_get(expected, "kinds"));
    assert_groups(json_object_get(got, "blocks"), json_object_get(expected, "blocks"));
    assert_list(json_object_get(got, "distribution"), json_object_get(expected, "distribution"),
                "distribution");
    assert_int_equal(json_array_size(json_object_get(got, "histogram_edges")), 73);
    json_decref(got);
    json_decref(expected);
    sara_free(ctx, report);
    sara_model_free(model);
    sara_context_free(ctx);
}

/* Entries that are all alike, none, or not finite. */
static void test_odd(void **state)
{
    sara_context *ctx = test_context();
    sara_model *model = load(ctx, SARA_TEST_GOLDEN "/unet_sd1");
    sara_params *params = &model->denoiser->params;
    char *folder = test_folder(), *page = NULL, *report;
    (void)state;
    for (size_t i = 0; i < params->count; i++)
        for (int64_t j = 0; j < sara_shape_count(&params->items[i].value.shape); j++)
            sara_param_set(&params->items[i], (size_t)j, 0);
    assert_ok(ctx, sara_path_join(ctx, &page, folder, "page.html"));
    assert_ok(ctx, sara_analyze(ctx, &report, model, page));
    json_t *got = parse(ctx, report);
    assert_true(json_is_null(json_object_get(json_object_get(got, "whole"), "excess_kurtosis")));
    json_decref(got);
    sara_free(ctx, report);
    sara_param_set(&params->items[0], 0, NAN);
    assert_refused(ctx, SARA_ERROR_INPUT, "entry 0 is NaN",
                   sara_analyze(ctx, &report, model, page));
    assert_null(report);
    sara_free(ctx, page);
    test_folder_remove(folder);
    sara_model_free(model);
    sara_context_free(ctx);
}

static sara_status analyze_again(sara_context *ctx, const char *folder)
{
    sara_model_options options;
    sara_model *model = NULL;
    char *page = NULL, *report = NULL;
    sara_status status;
    sara_model_options_init(&options);
    options.unet_only = true;
    TRY(sara_path_join(ctx, &page, folder, "page.html"));
    TRY(sara_model_load(ctx, &model, SARA_TEST_GOLDEN "/variants/unet_tiny", &options));
    TRY(sara_analyze(ctx, &report, model, page));
done:
    sara_free(ctx, report);
    sara_free(ctx, page);
    sara_model_free(model);
    return status;
}

static void test_memory(void **state)
{
    char *folder = test_folder();
    (void)state;
    test_every_allocation(analyze_again, folder);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_numbers), cmocka_unit_test(test_odd),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
