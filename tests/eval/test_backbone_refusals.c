/* What a backbone's folder may have wrong is told in one line that names it. */
#include "support_eval.h"

#include "eval/vision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MODELS EVAL_DATA "/models"

/* A copy of a folder whose config.json, or another file, is changed by the JSON object edits, in
 * objects within it too; test_folder_remove(). */
static char *copy_with(const char *source, const char *name, const char *edits)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), **names, from[512], to[512];
    size_t count;
    assert_ok(ctx, sara_directory_list(ctx, &names, &count, source));
    for (size_t i = 0; i < count; i++) {
        snprintf(from, sizeof(from), "%s/%s", source, names[i]);
        snprintf(to, sizeof(to), "%s/%s", folder, names[i]);
        assert_ok(ctx, sara_file_copy(ctx, from, to));
    }
    sara_directory_free(ctx, names, count);
    snprintf(to, sizeof(to), "%s/%s", folder, name);
    json_t *object = json_load_file(to, 0, NULL), *changes = json_loads(edits, 0, NULL);
    if (!object)
        object = json_object();
    assert_int_equal(json_object_update_recursive(object, changes), 0);
    assert_int_equal(json_dump_file(object, to, 0), 0);
    json_decref(object);
    json_decref(changes);
    sara_context_free(ctx);
    return folder;
}

static void check_status(const sara_backbone_kind *kind, const char *folder, sara_status expected,
                         const char *error)
{
    sara_context *ctx = test_context();
    const sara_backbone_options options = {.path = folder};
    sara_backbone *backbone;
    assert_refused(ctx, expected, error, sara_backbone_open(ctx, &backbone, kind, &options));
    test_assert_contains(sara_context_error(ctx), folder, __FILE__, __LINE__);
    assert_int_equal(strncmp(sara_context_error(ctx), kind->name, strlen(kind->name)), 0);
    assert_null(strchr(sara_context_error(ctx), '\n'));
    assert_null(backbone);
    sara_context_free(ctx);
}

static void check_refused(const sara_backbone_kind *kind, const char *folder, const char *error)
{
    check_status(kind, folder, SARA_ERROR_INPUT, error);
}

static void test_other_folders(void **state)
{
    (void)state;
    check_refused(&sara_backbone_clip, SARA_TEST_GOLDEN "/text_gelu",
                  "config.json: model_type: \"clip_text_model\", expected \"clip\"");
    check_refused(&sara_backbone_clip, MODELS "/dinov2",
                  "config.json: model_type: \"dinov2\", expected \"clip\"");
    check_refused(&sara_backbone_dino, MODELS "/clip",
                  "config.json: model_type: \"clip\", expected \"vit\", \"dinov2\" or");
    check_status(&sara_backbone_dino, MODELS, SARA_ERROR_IO, "config.json: cannot open");
    check_status(&sara_backbone_clip, MODELS, SARA_ERROR_IO, "config.json: cannot open");
}

static void test_damage(void **state)
{
    (void)state;
    static const struct {
        const char *model, *name, *edits, *error;
    } cases[] = {
        {"clip", "config.json", "{\"vision_config\": {\"num_hidden_layers\": 3}}",
         "16 missing (vision_model.encoder.layers.2.layer_norm1.weight, "},
        {"clip", "config.json", "{\"text_config\": {\"num_hidden_layers\": 1}}",
         "16 not expected (text_model.encoder.layers.1.layer_norm1.bias, "},
        {"clip", "config.json", "{\"projection_dim\": 13}",
         "text_projection.weight: shape [12,8], expected [13,8]"},
        {"clip", "config.json", "{\"vision_config\": {\"hidden_act\": \"relu\"}}",
         "config.json: vision_config: hidden_act: \"relu\""},
        {"clip", "config.json", "{\"vision_config\": {\"num_channels\": 1}}",
         "config.json: vision_config: num_channels: 1, expected 3"},
        {"clip", "config.json", "{\"vision_config\": {\"image_size\": [15, 16]}}",
         "image_size: [15,16]: expected a square"},
        {"clip", "config.json", "{\"vision_config\": {\"patch_size\": 16}}",
         "patch_size 16 is larger than image_size 15"},
        {"clip", "config.json", "{\"text_config\": {\"model_type\": \"bert\"}}",
         "config.json: text_config: model_type: \"bert\", expected \"clip_text_model\""},
        {"clip", "config.json", "{\"vision_config_dict\": {\"hidden_size\": 13}}",
         "hidden_size 13 is not a multiple of num_attention_heads 12"},
        {"clip", "config.json", "{\"text_config\": null}", "text_config: not a JSON object"},
        {"clip", "preprocessor_config.json", "{\"crop_size\": 14}",
         "its image processor makes pictures of 14x14, and image_size is 15"},
        {"vit", "preprocessor_config.json", "{\"size\": {\"height\": 20, \"width\": 24}}",
         "its image processor makes pictures of 24x20, and image_size is 20"},
        {"vit", "config.json", "{\"qkv_bias\": true}",
         "6 missing (encoder.layer.0.attention.attention.query.bias, "},
        {"dinov2", "config.json", "{\"use_swiglu_ffn\": true}", "mlp.weights_in.weight"},
        {"dinov2", "config.json", "{\"mlp_ratio\": 0.01}", "mlp_ratio: 0.01: too small"},
        {"dinov2", "config.json", "{\"model_type\": \"dinov2_with_registers\"}",
         "1 missing (embeddings.register_tokens)"},
        {"dinov2_registers", "config.json", "{\"num_register_tokens\": 2}",
         "register_tokens: shape [1,3,16], expected [1,2,16]"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char source[512];
        snprintf(source, sizeof(source), MODELS "/%s", cases[i].model);
        char *folder = copy_with(source, cases[i].name, cases[i].edits);
        check_refused(*cases[i].model == 'c' ? &sara_backbone_clip : &sara_backbone_dino, folder,
                      cases[i].error);
        test_folder_remove(folder);
    }
}

static void test_damaged_weights(void **state)
{
    (void)state;
    char *folder = copy_with(MODELS "/vit", "config.json", "{}");
    test_put(folder, "model.safetensors", "\x08\0\0\0\0\0\0\0{}", 10);
    check_refused(&sara_backbone_dino, folder, "model.safetensors");
    test_folder_remove(folder);
}

/* Weights of NaN: no measure is made of such features, of pictures and of texts. */
static void test_not_finite(void **state)
{
    (void)state;
    static const char *const weights[] = {"visual_projection.weight", "text_projection.weight"};
    sara_context *ctx = test_context();
    const sara_backbone_options options = {.path = SARA_TEST_EMOJI "/clip"};
    sara_image image = test_formula_image(ctx, 20, 15);
    sara_backbone *clip = test_backbone(ctx, &sara_backbone_clip, &options);
    float *out;
    assert_ok(ctx, sara_alloc(ctx, &out, (size_t)clip->width, sizeof(*out)));
    for (int i = 0; i < 2; i++) {
        sara_network *network = ((sara_vision *)clip->state)->network;
        for (size_t k = 0; k < network->params.count; k++)
            if (strcmp(network->params.items[k].name, weights[i]) == 0)
                sara_param_set(&network->params.items[k], 0, NAN);
        assert_refused(ctx, SARA_ERROR_INPUT, "clip: feature 0 is not finite",
                       i == 0 ? sara_backbone_image(clip, out, &image)
                              : sara_backbone_text(clip, out, "sunset"));
    }
    sara_backbone_close(clip);
    sara_image_clear(ctx, &image);
    sara_free(ctx, out);
    sara_context_free(ctx);
}

/* A tokenizer whose ids the model does not know, and none at all, where pictures are still
 * measured; a folder that has no section for a tower. */
static void test_tokenizers(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_backbone_options options = {.path = MODELS "/clip", .tokenizer = SARA_TEST_EMOJI "/clip"};
    float out[12];
    sara_backbone *clip;
    assert_refused(ctx, SARA_ERROR_INPUT,
                   "the tokenizer has ids up to 3207, the model's vocab_size is 514",
                   sara_backbone_open(ctx, &clip, &sara_backbone_clip, &options));
    options.tokenizer = NULL;
    clip = test_backbone(ctx, &sara_backbone_clip, &options);
    sara_image image = test_formula_image(ctx, 20, 15);
    assert_ok(ctx, sara_backbone_image(clip, out, &image));
    assert_refused(ctx, SARA_ERROR_USAGE, "--clip_tokenizer",
                   sara_backbone_text(clip, out, "sunset"));
    test_assert_contains(sara_context_error(ctx), "vocab_size 514", __FILE__, __LINE__);
    sara_image_clear(ctx, &image);
    sara_backbone_close(clip);
    sara_context_free(ctx);
}

/* A picture that the processor leaves in a size which the network does not take. */
static void test_pictures(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = copy_with(MODELS "/clip", "preprocessor_config.json",
                             "{\"size\": 15, \"do_center_crop\": false}");
    const sara_backbone_options options = {.path = folder};
    float out[16];
    sara_backbone *clip = test_backbone(ctx, &sara_backbone_clip, &options);
    sara_image wide = test_formula_image(ctx, 20, 15), square = test_formula_image(ctx, 20, 20);
    assert_refused(ctx, SARA_ERROR_INPUT, "a picture of 20x15, expected 15x15",
                   sara_backbone_image(clip, out, &wide));
    assert_ok(ctx, sara_backbone_image(clip, out, &square));
    sara_backbone_close(clip);
    sara_backbone *dino = test_model(ctx, &sara_backbone_dino, "vit", NULL);
    assert_refused(ctx, SARA_ERROR_USAGE, "dino: it knows no texts",
                   sara_backbone_text(dino, out, "sunset"));
    sara_backbone_close(dino);
    sara_image_clear(ctx, &wide);
    sara_image_clear(ctx, &square);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_folders),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damaged_weights), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_tokenizers),      cmocka_unit_test(test_pictures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
