/* LoRA files of families whose names are not those of Stable Diffusion. */
#include "support_export.h"

/* ----------------------------------------------------------------------------------------- SDXL */

/* What of diffusers' UNet2DConditionModel kohya calls otherwise, whose U-Net is the original one;
 * the golden model has one block in each level. */
static const char *const xl_layers[][2] = {
    {"conv_in", "input_blocks_0_0"},
    {"time_embedding.linear_2", "time_embed_2"},
    {"add_embedding.linear_1", "label_emb_0_0"},
    {"down_blocks.0.resnets.0.conv1", "input_blocks_1_0_in_layers_2"},
    {"down_blocks.0.downsamplers.0.conv", "input_blocks_2_0_op"},
    {"down_blocks.1.resnets.0.conv_shortcut", "input_blocks_3_0_skip_connection"},
    {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
     "input_blocks_3_1_transformer_blocks_0_attn2_to_k"},
    {"mid_block.attentions.0.proj_in", "middle_block_1_proj_in"},
    {"mid_block.resnets.1.time_emb_proj", "middle_block_2_emb_layers_1"},
    {"up_blocks.0.upsamplers.0.conv", "output_blocks_1_2_conv"},
    {"up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
     "output_blocks_3_1_transformer_blocks_0_ff_net_0_proj"},
    {"conv_out", "out_2"},
};

static void test_xl_names_written(void **state)
{
    static const char *const ends[][2] = {{"lora", ".lora_down.weight"}, {"a1111", ".diff"}};
    test_pipe *pipe = *state;
    const test_adapted a =
        test_adapt(pipe, test_text(pipe, "%s/unet", test_family("sdxl").text), true, 3, 0.25f);
    for (int e = 0; e < 2; e++) {
        const char *path = test_export(pipe, &a, test_text(pipe, "%d.safetensors", e), NULL,
                                       test_export_options(ends[e][0], e == 0 ? 2 : 0, "fp32"));
        sara_safetensors *file;
        assert_ok(pipe->ctx, sara_safetensors_open(pipe->ctx, &file, path));
        for (size_t i = 0; i < sizeof(xl_layers) / sizeof(*xl_layers); i++)
            assert_non_null(sara_safetensors_find(
                file, test_text(pipe, "lora_unet_%s%s", xl_layers[i][1], ends[e][1])));
        for (size_t i = 0; i < sara_safetensors_count(file); i++)
            assert_null(strstr(sara_safetensors_at(file, i)->name, "_blocks_0_attentions"));
        sara_safetensors_close(file);
    }
    sara_model_free(a.model);
}

/* ------------------------------------------------------------------------------ files of others */

#define FILES     SARA_TEST_GOLDEN "/lora_families" /* make_lora_families.py */
#define TOLERANCE 1e-5

/* Of a part's parameter, without the text_model. that newer transformers leave out. */
static size_t find_param(const sara_params *params, const char *name)
{
    static const char start[] = "text_model.";
    for (size_t i = 0; i < params->count; i++) {
        const char *own = params->items[i].name;
        if (strncmp(own, start, strlen(start)) == 0)
            own += strlen(start);
        if (strcmp(own, name) == 0)
            return i;
    }
    fail_msg("%s: no such parameter", name);
    return 0;
}

/* change (1, 2, ...) of each row [out]; lives as long as the test. */
static float *probe(test_pipe *pipe, const sara_param *param, const float *before,
                    const float *after)
{
    int64_t rows = param->value.shape.dims[0];
    int64_t width = sara_shape_count(&param->value.shape) / rows;
    float *out;
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &out, (size_t)rows, sizeof(*out)));
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++)
            sum += ((double)after[i * width + j] - (double)before[i * width + j]) *
                   (double)(param->value.shape.rank > 1 ? j + 1 : 1);
        out[i] = (float)sum;
    }
    return out;
}

/* All values of a part; lives as long as the test. */
static float *part_values(test_pipe *pipe, const sara_params *params)
{
    size_t count = (size_t)sara_params_entries(params);
    float *values, *at;
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &values, count, sizeof(*values)));
    at = values;
    for (size_t i = 0; i < params->count; i++)
        for (int64_t e = 0; e < sara_shape_count(&params->items[i].value.shape); e++)
            *at++ = sara_param_get(&params->items[i], (size_t)e);
    return values;
}

typedef struct part_change {
    const sara_params *params;
    const float *before, *after;
    size_t changed; /* parameters */
} part_change;

static void count_changed(part_change *c)
{
    size_t first = 0;
    for (size_t i = 0; i < c->params->count; i++) {
        size_t count = (size_t)sara_shape_count(&c->params->items[i].value.shape);
        c->changed += memcmp(c->before + first, c->after + first, count * sizeof(float)) != 0;
        first += count;
    }
}

/* Takes what is expected off the parameters that have changed. */
static void compare_change(test_pipe *pipe, part_change *c, const sara_safetensors *expected,
                           const char *key, const char *name)
{
    size_t index = find_param(c->params, name), first = 0, count;
    for (size_t i = 0; i < index; i++)
        first += (size_t)sara_shape_count(&c->params->items[i].value.shape);
    const float *ours = probe(pipe, &c->params->items[index], c->before + first, c->after + first);
    float *theirs = test_load_f32(pipe->ctx, expected, key, &count);
    double error = test_relative_l2(ours, theirs, count);
    if (!(error <= TOLERANCE))
        fail_msg("%s: the change is off by %g", key, error);
    sara_free(pipe->ctx, theirs);
    c->changed--;
}

/* A file on the model: every change is as expected, and there is no other. */
static void check_foreign(test_pipe *pipe, sara_model *model, const char *path, const char *name)
{
    sara_safetensors *expected = test_open(pipe->ctx, FILES "/expected.safetensors");
    part_change changes[SARA_MOST_PARTS] = {{0}};
    const int parts = model->family->part_count;
    for (int p = 0; p < parts; p++)
        if (model->parts[p].network) {
            changes[p].params = &model->parts[p].network->params;
            changes[p].before = part_values(pipe, changes[p].params);
        }
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    for (int p = 0; p < parts; p++) {
        if (!changes[p].params)
            continue;
        changes[p].after = part_values(pipe, changes[p].params);
        count_changed(&changes[p]);
        const char *start = test_text(pipe, "%s/%s/", name, model->family->parts[p].folder);
        for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
            const char *key = sara_safetensors_at(expected, i)->name;
            if (strncmp(key, start, strlen(start)) == 0)
                compare_change(pipe, &changes[p], expected, key, key + strlen(start));
        }
        assert_int_equal(changes[p].changed, 0);
    }
    assert_ok(pipe->ctx, sara_model_remove(model));
    sara_safetensors_close(expected);
}

static void test_xl_files(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, test_family("sdxl").text, false);
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT | SARA_STAGE_DECODE));
    check_foreign(pipe, model, FILES "/sdxl_kohya.safetensors", "sdxl_kohya");
    check_foreign(pipe, model, FILES "/sdxl_diffusers.safetensors", "sdxl_diffusers");
    sara_model_free(model);
}

static sara_model *sd3_model(test_pipe *pipe)
{
    return test_model(pipe, test_text(pipe, "%s/transformer", test_family("sd35_medium").text),
                      true);
}

static void test_sd3_files(void **state)
{
    static const char *const files[] = {"sd3_kohya", "sd3_comfyui", "sd3_dense", "sd3_diffusers",
                                        "sd3_onetrainer"};
    test_pipe *pipe = *state;
    sara_model *model = sd3_model(pipe);
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        check_foreign(pipe, model, test_text(pipe, FILES "/%s.safetensors", files[i]), files[i]);
    sara_model_free(model);
}

/* -------------------------------------------------------------------------------- SD3's exports */

/* ComfyUI's file of whole changes, applied and exported, is itself. */
static void test_sd3_dense(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = sd3_model(pipe);
    const sara_export_options options = test_export_options("comfyui", 0, "fp32");
    const char *path = test_path(pipe, "comfyui.safetensors");
    sara_safetensors *expected = test_open(pipe->ctx, FILES "/sd3_dense.safetensors");
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, model, FILES "/sd3_dense.safetensors", 1, false));
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, model, path, &options));
    sara_safetensors *file = test_open(pipe->ctx, path);
    assert_int_equal(sara_safetensors_count(file), sara_safetensors_count(expected));
    for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
        const char *key = sara_safetensors_at(expected, i)->name;
        size_t count, size;
        float *theirs = test_load_f32(pipe->ctx, expected, key, &count);
        float *ours = test_load_f32(pipe->ctx, file, key, &size);
        assert_int_equal(size, count);
        if (!(test_relative_l2(ours, theirs, count) <= TOLERANCE))
            fail_msg("%s", key);
        sara_free(pipe->ctx, ours);
        sara_free(pipe->ctx, theirs);
    }
    sara_safetensors_close(file);
    sara_safetensors_close(expected);
    sara_model_free(model);
}

/* diffusers' file of rank 2, exported with that rank: the same layers, and the same changes. */
static void test_sd3_low_rank(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = sd3_model(pipe);
    const sara_export_options options = test_export_options("lora", 2, "fp32");
    const char *path = test_path(pipe, "lora.safetensors");
    sara_safetensors *expected = test_open(pipe->ctx, FILES "/sd3_diffusers.safetensors");
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, model, FILES "/sd3_diffusers.safetensors", 1, false));
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, model, path, &options));
    assert_ok(pipe->ctx, sara_model_remove(model));
    sara_safetensors *file = test_open(pipe->ctx, path);
    assert_int_equal(sara_safetensors_count(file), sara_safetensors_count(expected));
    for (size_t i = 0; i < sara_safetensors_count(expected); i++)
        assert_non_null(sara_safetensors_find(file, sara_safetensors_at(expected, i)->name));
    sara_safetensors_close(file);
    sara_safetensors_close(expected);
    check_foreign(pipe, model, path, "sd3_diffusers");
    sara_model_free(model);
}

/* T5's values are never all in memory, and so no adapter is put on them. */
static void test_t5_layers(void **state)
{
    static const float values[2 * 10] = {1};
    const sara_tensor_source tensors[] = {
        {"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", SARA_F32,
         sara_shape2(2, 10), values},
        {"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight", SARA_F32,
         sara_shape2(9, 2), values}};
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "t5.safetensors");
    sara_model *model = test_model(pipe, SARA_TEST_GOLDEN "/sd3_tiny", false);
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 2, NULL, 0));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT,
                   "the first is lora_te3_encoder_block_0_layer_0_SelfAttention_q; text_encoder_3 "
                   "takes no adapters, and no layer is the model's",
                   sara_model_apply(pipe->ctx, model, path, 1, false));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_xl_names_written), TEST_CASE(test_xl_files),     TEST_CASE(test_sd3_files),
        TEST_CASE(test_sd3_dense),        TEST_CASE(test_sd3_low_rank), TEST_CASE(test_t5_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
