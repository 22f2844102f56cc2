/* What networks see of a picture equals what transformers' image processors make of it. */
#include "support_eval.h"

#include "eval/preprocess.h"

#include <math.h>
#include <stdio.h>

static const sara_preprocess *class_of(const char *name)
{
    return strstr(name, "vit")   ? &sara_preprocess_vit
           : strstr(name, "bit") ? &sara_preprocess_bit
                                 : &sara_preprocess_clip;
}

/* A config's picture, to the last bit of the processor with PIL. */
static void check_picture(sara_context *ctx, const sara_safetensors *file,
                          const sara_tensor_info *info, const sara_preprocess *p, int width,
                          int height)
{
    size_t count;
    int h, w, known_h, known_w;
    float *expected = test_load_f32(ctx, file, info->name, &count), *got;
    sara_image image = test_formula_image(ctx, width, height);
    assert_ok(ctx, sara_preprocess_picture(ctx, &got, &h, &w, p, &image));
    assert_int_equal(h, info->shape.dims[1]);
    assert_int_equal(w, info->shape.dims[2]);
    if (sara_preprocess_size(p, &known_h, &known_w))
        assert_true(h == known_h && w == known_w);
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - expected[i]) <= 1e-6f * fmaxf(1, fabsf(expected[i]))))
            fail_msg("%s: entry %zu: %g, expected %g", info->name, i, (double)got[i],
                     (double)expected[i]);
    sara_image_clear(ctx, &image);
    sara_free(ctx, expected);
    sara_free(ctx, got);
}

static void test_equal_to_transformers(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/preprocess.safetensors");
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        char name[32], folder[512];
        int width, height;
        sara_preprocess p;
        assert_int_equal(sscanf(info->name, "%31[^/]/%dx%d", name, &width, &height), 3);
        snprintf(folder, sizeof(folder), EVAL_DATA "/preprocess/%s", name);
        assert_ok(ctx, sara_preprocess_read(ctx, &p, folder, class_of(name),
                                            strstr(name, "bare_bit") ? 14 : 15));
        check_picture(ctx, file, info, &p, width, height);
    }
    assert_int_equal(sara_safetensors_count(file), 21);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* processor_config.json of newer transformers, and that the older file rules. */
static void test_newer_file(void **state)
{
    (void)state;
    static const char newer[] = "{\"image_processor\": {\"image_processor_type\": "
                                "\"BitImageProcessor\", \"crop_size\": 10}, "
                                "\"processor_class\": \"CLIPProcessor\"}";
    sara_context *ctx = test_context();
    char *folder = test_folder();
    sara_preprocess p;
    test_put(folder, "processor_config.json", newer, strlen(newer));
    assert_ok(ctx, sara_preprocess_read(ctx, &p, folder, &sara_preprocess_vit, 15));
    assert_string_equal(p.name, "Bit");
    assert_int_equal(p.crop_height, 10);
    assert_int_equal(p.edge, 224);
    test_put(folder, "preprocessor_config.json", "{\"size\": 12}", 12);
    assert_ok(ctx, sara_preprocess_read(ctx, &p, folder, &sara_preprocess_vit, 15));
    assert_string_equal(p.name, "ViT");
    assert_true(p.height == 12 && p.width == 12 && !p.edge);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"{\"image_processor_type\": \"SiglipImageProcessor\"}",
         "image_processor_type: \"SiglipImageProcessor\", expected CLIPImageProcessor"},
        {"{\"feature_extractor_type\": \"CLIP\"}", "image_processor_type: \"CLIP\""},
        {"{\"resample\": 0}", "resample: 0"},
        {"{\"resample\": 4}", "resample: 4"},
        {"{\"size\": {\"shortest_edge\": 5, \"longest_edge\": 9}}", "size: expected a number"},
        {"{\"size\": {\"max_height\": 5, \"max_width\": 9}}", "size: expected a number"},
        {"{\"size\": 0}", "size: 0"},
        {"{\"size\": 20000}", "size: 20000"},
        {"{\"size\": [3, 4]}", "size: expected a number"},
        {"{\"crop_size\": {\"height\": 4}}", "crop_size: expected a number"},
        {"{\"crop_size\": \"4\"}", "crop_size: expected a number"},
        {"{\"image_mean\": [0, 1]}", "image_mean: expected three numbers"},
        {"{\"image_mean\": 0.5}", "image_mean: expected three numbers"},
        {"{\"image_std\": [1, 0, 1]}", "image_std: expected three numbers above 0"},
        {"{\"image_std\": [1, \"x\", 1]}", "image_std: expected three numbers above 0"},
        {"{\"do_resize\": 1}", "do_resize: 1"},
        {"{\"rescale_factor\": \"x\"}", "rescale_factor: \"x\""},
        {"[]", "not a JSON object"},
        {"{", "preprocessor_config.json"},
    };
    sara_context *ctx = test_context();
    char *folder = test_folder();
    sara_preprocess p;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        test_put(folder, "preprocessor_config.json", cases[i].text, strlen(cases[i].text));
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_preprocess_read(ctx, &p, folder, &sara_preprocess_clip, 15));
        test_assert_contains(sara_context_error(ctx), folder, __FILE__, __LINE__);
    }
    test_put(folder, "preprocessor_config.json", "{\"do_center_crop\": true}", 24);
    assert_refused(ctx, SARA_ERROR_INPUT, "crop_size: expected",
                   sara_preprocess_read(ctx, &p, folder, &sara_preprocess_vit, 15));
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* A strip whose longer edge would be longer than any picture may be. */
static void test_too_long_a_strip(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image strip = test_formula_image(ctx, 1000, 2);
    float *out;
    int height, width;
    assert_refused(
        ctx, SARA_ERROR_INPUT, "a picture of 1000x2 cannot be scaled to a shorter edge of 224",
        sara_preprocess_picture(ctx, &out, &height, &width, &sara_preprocess_clip, &strip));
    assert_null(out);
    sara_image_clear(ctx, &strip);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_transformers),
        cmocka_unit_test(test_newer_file),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_too_long_a_strip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
