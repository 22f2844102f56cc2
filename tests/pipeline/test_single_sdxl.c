/* SDXL as a single file: there and back to the same bits, what the file holds, and what is read off
 * files without metadata. */
#include "support_pipeline.h"

#include <stdlib.h>

#define TEXT_2 "conditioner.embedders.1.model."

static const char *xl_source(test_pipe *pipe)
{
    return test_text(pipe, "%s", test_family("sdxl").text);
}

static sara_model *xl_load(test_pipe *pipe, const char *path, const char *prediction_type)
{
    const sara_model_options options = {.tokenizer = xl_source(pipe),
                                        .prediction_type = prediction_type};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    return model;
}

static const char *xl_save(test_pipe *pipe, const sara_model *model, const char *name)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, NULL));
    return path;
}

static void assert_same_folders(test_pipe *pipe, const char *a, const char *b)
{
    static const struct {
        const char *name;
        size_t tensors;
    } parts[] = {{"unet/diffusion_pytorch_model", 200},
                 {"vae/diffusion_pytorch_model", 100},
                 {"text_encoder/model", 50},
                 {"text_encoder_2/model", 60}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        test_holds(pipe, test_text(pipe, "%s/%s.safetensors", a, parts[i].name),
                   test_text(pipe, "%s/%s.safetensors", b, parts[i].name), parts[i].tensors);
}

static void test_there_and_back(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, xl_source(pipe), false);
    const char *file = xl_save(pipe, model, "model.safetensors");
    sara_model *single = xl_load(pipe, file, NULL);
    const char *back = xl_save(pipe, single, "back");
    assert_same_folders(pipe, xl_source(pipe), back);
    sara_model *again = test_model(pipe, back, false);
    test_holds(pipe, xl_save(pipe, again, "again.safetensors"), file, 400);
    assert_true(single->zero_negative);
    if (test_families_whole())
        test_holds(pipe, test_family("single/sdxl.safetensors").text, file, 400);
    sara_model_free(again);
    sara_model_free(single);
    sara_model_free(model);
}

/* As diffusers' script wrote it, with its configs elsewhere, and none of them. */
static void test_golden_file(void **state)
{
    test_pipe *pipe = *state;
    const sara_model_options options = {.model_config = xl_source(pipe)};
    sara_model *model = NULL;
    if (!test_families_whole())
        return;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model,
                                         test_family("single/sdxl.safetensors").text, &options));
    assert_same_folders(pipe, xl_source(pipe), xl_save(pipe, model, "folder"));
    sara_model_free(model);
}

/* OpenCLIP's projection lies transposed; its attention has one matrix. */
static void test_layout(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, xl_source(pipe), false);
    sara_safetensors *file = test_open(pipe->ctx, xl_save(pipe, model, "model.safetensors"));
    sara_safetensors *folder = test_open(
        pipe->ctx, test_text(pipe, "%s/text_encoder_2/model.safetensors", xl_source(pipe)));
    size_t count;
    float *turned = test_load_f32(pipe->ctx, file, TEXT_2 "text_projection", &count);
    float *straight = test_load_f32(pipe->ctx, folder, "text_projection.weight", &count);
    const sara_tensor_info *fused =
        sara_safetensors_find(file, TEXT_2 "transformer.resblocks.3.attn.in_proj_weight");
    assert_int_equal(count, 28 * 32);
    for (int row = 0; row < 28; row++)
        for (int col = 0; col < 32; col++)
            assert_true(turned[col * 28 + row] == straight[row * 32 + col]);
    assert_non_null(fused);
    assert_int_equal(fused->shape.dims[0], 96);
    assert_null(sara_safetensors_find(file, TEXT_2 "transformer.resblocks.4.ln_1.weight"));
    assert_non_null(sara_safetensors_find(
        file, "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"));
    assert_string_equal(sara_safetensors_metadata(file, "modelspec.architecture"),
                        "stable-diffusion-xl-v1-base");
    sara_free(pipe->ctx, turned);
    sara_free(pipe->ctx, straight);
    sara_safetensors_close(file);
    sara_safetensors_close(folder);
    sara_model_free(model);
}

/* The file's tensors without metadata, and where it is given one more without content. */
static const char *xl_stripped(test_pipe *pipe, const char *from, const char *name,
                               const char *more)
{
    sara_safetensors *file = test_open(pipe->ctx, from);
    const size_t count = sara_safetensors_count(file);
    const char *path = test_path(pipe, name);
    sara_tensor_source *tensors = NULL;
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &tensors, count + 1, sizeof(*tensors)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        void *data = NULL;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, info->size + 1, 1));
        assert_ok(pipe->ctx, sara_safetensors_read(file, data, info));
        tensors[i] = (sara_tensor_source){info->name, info->dtype, info->shape, data};
    }
    tensors[count] = (sara_tensor_source){more, SARA_F32, sara_shape1(0), ""};
    assert_ok(pipe->ctx,
              sara_safetensors_save(pipe->ctx, path, tensors, count + (more != NULL), NULL, 0));
    sara_free(pipe->ctx, tensors);
    sara_safetensors_close(file);
    return path;
}

static json_int_t told(const sara_single_file *single, int part, const char *key)
{
    return json_integer_value(json_object_get(single->parts[part].config, key));
}

static const char *told_text(const sara_single_file *single, int part, const char *key)
{
    return json_string_value(json_object_get(single->parts[part].config, key));
}

/* What names and shapes tell, and of the rest what the published models have. */
static void test_derived_configs(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, xl_source(pipe), false);
    const char *path =
        xl_stripped(pipe, xl_save(pipe, model, "model.safetensors"), "bare.safetensors", NULL);
    const sara_family *family;
    sara_single_file *single;
    assert_ok(pipe->ctx, sara_family_open_file(pipe->ctx, &family, &single, path, NULL, false));
    assert_string_equal(family->name, "SDXL");
    assert_string_equal(told_text(single, 0, "addition_embed_type"), "text_time");
    assert_int_equal(told(single, 0, "addition_time_embed_dim"), 256);
    assert_int_equal(told(single, 0, "projection_class_embeddings_input_dim"), 76);
    assert_int_equal(told(single, 0, "sample_size"), 128);
    assert_true(json_is_true(json_object_get(single->parts[1].config, "force_upcast")));
    assert_true(json_real_value(json_object_get(single->parts[1].config, "scaling_factor")) ==
                0.13025);
    assert_string_equal(told_text(single, 2, "hidden_act"), "quick_gelu");
    assert_int_equal(told(single, 2, "num_hidden_layers"), 3);
    assert_string_equal(told_text(single, 3, "hidden_act"), "gelu");
    assert_int_equal(told(single, 3, "num_hidden_layers"), 4);
    assert_int_equal(told(single, 3, "projection_dim"), 28);
    assert_int_equal(told(single, 3, "eos_token_id"), 2);
    sara_single_close(single);
    sara_model_free(model);
}

/* ComfyUI's mark is read, and written for what predicts v. */
static void test_v_mark(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, xl_source(pipe), false);
    const char *plain = xl_save(pipe, model, "model.safetensors");
    const char *marked = xl_stripped(pipe, plain, "v.safetensors", "v_pred");
    const char *bare = xl_stripped(pipe, plain, "bare.safetensors", NULL);
    sara_model_free(model);
    for (int v = 0; v < 2; v++) {
        const char *type = v ? "v_prediction" : "epsilon", *prediction, *reason;
        const sara_model_options options = {.prediction_type = type};
        sara_model guessed = {.ctx = pipe->ctx};
        assert_ok(pipe->ctx, sara_family_open_file(pipe->ctx, &guessed.family, &guessed.single,
                                                   v ? marked : bare, NULL, false));
        assert_ok(pipe->ctx, guessed.family->guess(&guessed, &prediction, &reason));
        assert_string_equal(prediction, type);
        sara_single_close(guessed.single);
        assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, xl_source(pipe), &options));
        sara_safetensors *file = test_open(
            pipe->ctx, xl_save(pipe, model, test_text(pipe, "written-%d.safetensors", v)));
        assert_true((sara_safetensors_find(file, "v_pred") != NULL) == v);
        sara_safetensors_close(file);
        sara_model_free(model);
    }
    /* What carries the mark and is read as the other kind loses it. */
    model = xl_load(pipe, test_path(pipe, "written-1.safetensors"), "epsilon");
    sara_safetensors *file = test_open(pipe->ctx, xl_save(pipe, model, "unmarked.safetensors"));
    assert_null(sara_safetensors_find(file, "v_pred"));
    sara_safetensors_close(file);
    sara_model_free(model);
}

/* Of two tokenizers both are needed. */
static void test_tokenizers(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, xl_source(pipe), false);
    const char *file = xl_save(pipe, model, "model.safetensors");
    const sara_model_options options = {.tokenizer =
                                            test_text(pipe, "%s/tokenizer", xl_source(pipe))};
    sara_model_free(model);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE,
                   "SDXL has several; name a folder in which tokenizer",
                   sara_model_load(pipe->ctx, &model, file, &options));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_there_and_back),  TEST_CASE(test_golden_file), TEST_CASE(test_layout),
        TEST_CASE(test_derived_configs), TEST_CASE(test_v_mark),      TEST_CASE(test_tokenizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
