/* SD3 as a single file: there and back to the same bits, with T5 and without, what files leave out,
 * and what exports for ComfyUI, whose names are those files', add to it. */
#include "support_export.h"

#include <math.h>

#define SD3_TINY SARA_TEST_GOLDEN "/sd3_tiny"
#define CLIP_L   "text_encoders.clip_l.transformer."
#define T5XXL    "text_encoders.t5xxl.transformer."

static sara_model *sd3_load(test_pipe *pipe, const char *path, const sara_model_options *options)
{
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, options));
    return model;
}

static sara_model *sd3_load_file(test_pipe *pipe, const char *path)
{
    const sara_model_options options = {.tokenizer = SD3_TINY};
    return sd3_load(pipe, path, &options);
}

static const char *sd3_save(test_pipe *pipe, const sara_model *model, const char *name)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, NULL));
    return path;
}

static void assert_same_parts(test_pipe *pipe, const char *a, const char *b, int parts)
{
    static const struct {
        const char *name;
        size_t tensors;
    } all[] = {{"transformer/diffusion_pytorch_model", 60},
               {"vae/diffusion_pytorch_model", 100},
               {"text_encoder/model", 50},
               {"text_encoder_2/model", 50},
               {"text_encoder_3/model", 20}};
    for (int i = 0; i < parts; i++)
        test_holds(pipe, test_text(pipe, "%s/%s.safetensors", a, all[i].name),
                   test_text(pipe, "%s/%s.safetensors", b, all[i].name), all[i].tensors);
}

static void test_folder_and_back(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SD3_TINY, false);
    const char *file = sd3_save(pipe, model, "model.safetensors");
    sara_model *single = sd3_load_file(pipe, file);
    const char *back = sd3_save(pipe, single, "back");
    assert_same_parts(pipe, SD3_TINY, back, 5);
    sara_model *again = test_model(pipe, back, false);
    test_holds(pipe, sd3_save(pipe, again, "again.safetensors"), file, 300);
    sara_safetensors *tensors = test_open(pipe->ctx, file);
    /* diffusers fills both names of T5's table, which is one in folders, from the file. */
    assert_non_null(sara_safetensors_find(tensors, T5XXL "shared.weight"));
    assert_non_null(sara_safetensors_find(tensors, T5XXL "encoder.embed_tokens.weight"));
    sara_safetensors_close(tensors);
    assert_int_equal(again->family->part_count, 5);
    sara_model_free(again);
    sara_model_free(single);
    sara_model_free(model);
}

/* A file without T5 is one of SD3 all the same, as is the folder that is made of it. */
static void test_file_without_t5(void **state)
{
    const sara_model_options without = {.size = sizeof(without), .no_t5 = true};
    test_pipe *pipe = *state;
    sara_model *model = sd3_load(pipe, SD3_TINY, &without);
    const char *file = sd3_save(pipe, model, "model.safetensors");
    sara_model *single = sd3_load_file(pipe, file);
    assert_int_equal(single->family->part_count, 4);
    assert_non_null(strstr(pipe->log, "holds no T5 text encoder; zeros stand for its states"));
    sara_model *again = test_model(pipe, sd3_save(pipe, single, "back"), false);
    assert_int_equal(again->family->part_count, 4);
    sara_model_free(again);
    sara_model_free(single);
    sara_model_free(model);
}

/* The file without its first encoder's projection, which is then the identity. */
static void test_projection_left_out(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options options = {.model_config = test_family("sd3").text};
    if (!test_families_whole())
        return;
    const char *path = test_text(pipe, "%s", test_family("single/sd3.safetensors").text);
    sara_safetensors *file = test_open(pipe->ctx, path);
    assert_null(sara_safetensors_find(file, CLIP_L "text_projection.weight"));
    sara_safetensors_close(file);
    sara_model *model = sd3_load(pipe, path, &options);
    const char *folder = sd3_save(pipe, model, "folder");
    /* The original's denoiser is in float32. */
    static const char *const parts[] = {"vae/diffusion_pytorch_model", "text_encoder/model",
                                        "text_encoder_2/model", "text_encoder_3/model"};
    for (int i = 0; i < 4; i++)
        test_holds(pipe, test_text(pipe, "%s/%s.safetensors", test_family("sd3").text, parts[i]),
                   test_text(pipe, "%s/%s.safetensors", folder, parts[i]), 20);
    size_t count;
    file = test_open(pipe->ctx, test_text(pipe, "%s/text_encoder/model.safetensors", folder));
    float *values = test_load_f32(pipe->ctx, file, "text_projection.weight", &count);
    assert_int_equal(count, 24 * 24);
    for (size_t i = 0; i < count; i++)
        assert_true(values[i] == (i % 25 == 0));
    sara_free(pipe->ctx, values);
    sara_safetensors_close(file);
    sara_model_free(model);
}

static void test_tokenizers_of_file(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SD3_TINY, false), *none = NULL;
    const char *file = sd3_save(pipe, model, "model.safetensors");
    sara_model_free(model);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "tokenizer",
                   sara_model_load(pipe->ctx, &none, file, NULL));
    assert_null(none);
}

/* --------------------------------------------------------------------------------- for ComfyUI */

/* file + export = merged, of every tensor of the three. */
static void check_sums(test_pipe *pipe, const char *base, const char *export, const char *merged)
{
    sara_safetensors *files[3] = {test_open(pipe->ctx, base), test_open(pipe->ctx, merged),
                                  test_open(pipe->ctx, export)};
    size_t changed = 0, count;
    for (size_t i = 0; i < sara_safetensors_count(files[0]); i++) {
        const char *name = sara_safetensors_at(files[0], i)->name;
        static const char prefix[] = "model.";
        const char *dot = strrchr(name, '.');
        if (strncmp(name, "model.diffusion_model.", 22) != 0 || !strchr(name + 22, '.'))
            continue;
        const char *key = test_text(pipe, "%.*s%s", (int)(dot - name - 6), name + strlen(prefix),
                                    strcmp(dot, ".bias") == 0 ? ".diff_b" : ".diff");
        float *a = test_load_f32(pipe->ctx, files[0], name, &count);
        float *b = test_load_f32(pipe->ctx, files[1], name, &count);
        float *d = sara_safetensors_find(files[2], key)
                       ? test_load_f32(pipe->ctx, files[2], key, &count)
                       : NULL;
        for (size_t j = 0; j < count; j++) {
            assert_close(fabs((double)b[j] - a[j] - (d ? (double)d[j] : 0)), 1e-3, name);
            changed += d && d[j] != 0;
        }
        sara_free(pipe->ctx, a);
        sara_free(pipe->ctx, b);
        sara_free(pipe->ctx, d);
    }
    assert_true(changed > 1000);
    for (int i = 0; i < 3; i++)
        sara_safetensors_close(files[i]);
}

/* Fused projections are one change, halves of modulations stand as in the file. */
static void test_comfyui(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SD3_TINY, false);
    const char *base = sd3_save(pipe, model, "base.safetensors");
    const char *adapter = test_adapter(pipe, "adapter.safetensors", model, 5, 0.5f);
    const char *export = test_path(pipe, "comfyui.safetensors");
    sara_export_options options = test_export_options("comfyui", 0, "fp32");
    sara_export_report report;
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, model, export, &options));
    check_sums(pipe, base, export, sd3_save(pipe, model, "merged.safetensors"));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_folder_and_back),
        TEST_CASE(test_file_without_t5),
        TEST_CASE(test_projection_left_out),
        TEST_CASE(test_tokenizers_of_file),
        TEST_CASE(test_comfyui),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
