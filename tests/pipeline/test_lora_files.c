/* LoRA files of other tools, against what diffusers draws with them: tests/golden/lora. And what is
 * no such file, or not of this model. */
#include "pipeline/lora.h"
#include "support_lora.h"

#include <math.h>

static void test_drawn(void **state)
{
    static const struct {
        const char *file, *expected;
        bool sd2;
        double strength;
    } cases[] = {{NULL, "sd1", false, 0},
                 {NULL, "sd2", true, 0},
                 {"kohya_sd1.safetensors", "kohya_sd1", false, 1},
                 {"kohya_unet.safetensors", "kohya_unet", false, 1},
                 {"kohya_ldm.safetensors", "kohya_ldm", false, 1},
                 {"kohya_sd2.safetensors", "kohya_sd2", true, 1},
                 {"lycoris.safetensors", "lycoris", false, 1},
                 {"lycoris.safetensors", "lycoris_0.6", false, 0.6},
                 {"diffusers.safetensors", "diffusers", false, 1},
                 {"diffusers_old.safetensors", "diffusers_old", false, 1},
                 {"diffusers_mid.safetensors", "diffusers_mid", false, 1},
                 {"peft", "peft", false, 1},
                 {"peft/adapter_model.safetensors", "peft", false, 1},
                 {"peft_dora", "peft_dora", false, 1}};
    test_pipe *pipe = *state;
    sara_model *models[2] = {test_lora_model(pipe, false), test_lora_model(pipe, true)};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_model *model = models[cases[i].sd2];
        if (cases[i].file)
            assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model,
                                                  test_text(pipe, TEST_LORA "/%s", cases[i].file),
                                                  cases[i].strength, false));
        test_lora_expect(pipe, model, NULL, cases[i].expected);
        assert_ok(pipe->ctx, sara_model_remove(model));
    }
    sara_model_free(models[0]);
    sara_model_free(models[1]);
}

/* --------------------------------------------------------------------------- damaged and other */

/* Tensors of a file that a test writes; all values are the same. */
typedef struct made_tensor {
    const char *name;
    sara_dtype dtype;
    int rank;
    int64_t dims[4];
    float value;
} made_tensor;

#define Q    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q" /* [8,8] */
#define CONV "lora_unet_conv_in"                                                /* [4,4,3,3] */
#define DOWN ".lora_down.weight"
#define UP   ".lora_up.weight"
#define Q_DOWN                                                                                     \
    {                                                                                              \
        Q DOWN, SARA_F32, 2, {2, 8}, 0.5f                                                          \
    }
#define Q_UP                                                                                       \
    {                                                                                              \
        Q UP, SARA_F32, 2, {8, 2}, 0.5f                                                            \
    }
#define MOST 8

static void fill_bytes(void *out, sara_dtype dtype, size_t count, float value)
{
    unsigned char eight = value == 0.5f ? 0x30 : 0x38; /* F8_E4M3: 0.5 or 1 */
    int64_t *integers = out;
    int32_t *shorter = out;
    if (dtype == SARA_F8_E4M3)
        memset(out, eight, count);
    else
        for (size_t i = 0; i < count; i++)
            if (dtype == SARA_I64)
                integers[i] = (int64_t)value;
            else if (dtype == SARA_I32)
                shorter[i] = (int32_t)value;
            else
                sara_convert_from_f32((char *)out + i * sara_dtype_size(dtype), dtype, &value, 1);
}

static const char *make_file(test_pipe *pipe, const char *name, const made_tensor *tensors,
                             const sara_metadata *metadata, size_t metadata_count)
{
    const char *path = test_path(pipe, name);
    sara_tensor_source sources[MOST];
    size_t count = 0;
    for (; count < MOST && tensors[count].name; count++) {
        const made_tensor *from = &tensors[count];
        sara_tensor_source *to = &sources[count];
        void *data;
        *to = (sara_tensor_source){from->name, from->dtype, {.rank = from->rank}, NULL};
        memcpy(to->shape.dims, from->dims, sizeof(from->dims));
        size_t values = (size_t)sara_shape_count(&to->shape);
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, values, 8));
        fill_bytes(data, from->dtype, values, from->value);
        to->data = data;
    }
    assert_ok(pipe->ctx,
              sara_safetensors_save(pipe->ctx, path, sources, count, metadata, metadata_count));
    return path;
}

typedef struct bad_file {
    const char *message; /* part of the error's line */
    made_tensor tensors[MOST];
} bad_file;

static const bad_file bad_files[] = {
    {Q DOWN ": the second factor", {Q_DOWN}},
    {Q UP ": the first factor", {Q_UP}},
    {Q ".alpha: the first factor", {{Q ".alpha", SARA_F32, 0, {0}, 1}}},
    {Q DOWN ": value 0 is NaN", {{Q DOWN, SARA_F32, 2, {2, 8}, (float)NAN}, Q_UP}},
    {Q UP ": value 0 is infinite", {Q_DOWN, {Q UP, SARA_F16, 2, {8, 2}, (float)INFINITY}}},
    {Q ".alpha: is NaN", {Q_DOWN, Q_UP, {Q ".alpha", SARA_F32, 0, {0}, (float)NAN}}},
    {Q ".alpha: shape [2], expected one number", {Q_DOWN, Q_UP, {Q ".alpha", SARA_F32, 1, {2}, 1}}},
    {Q DOWN ": dtype I64", {{Q DOWN, SARA_I64, 2, {2, 8}, 1}, Q_UP}},
    {Q DOWN ": shape [2,9], expected [2,8] for the model's mid_block.attentions.0."
            "transformer_blocks.0.attn1.to_q.weight [8,8]",
     {{Q DOWN, SARA_F32, 2, {2, 9}, 1}, Q_UP}},
    {Q UP ": shape [8,3], expected [8,2]", {Q_DOWN, {Q UP, SARA_F32, 2, {8, 3}, 1}}},
    {CONV DOWN ": shape [1,4], expected [1,4,3,3]",
     {{CONV DOWN, SARA_F32, 2, {1, 4}, 1}, {CONV UP, SARA_F32, 2, {4, 1}, 1}}},
    {"lora_mid.weight: shape [1,2,3,3], expected [1,1,3,3]",
     {{CONV DOWN, SARA_F32, 2, {1, 4}, 1},
      {CONV ".lora_mid.weight", SARA_F32, 4, {1, 2, 3, 3}, 1},
      {CONV UP, SARA_F32, 2, {4, 1}, 1}}},
    {Q ".dora_scale: shape [7,1]", {Q_DOWN, Q_UP, {Q ".dora_scale", SARA_F32, 2, {7, 1}, 1}}},
    {Q DOWN ": rank 20000, expected 1 to 16384",
     {{Q DOWN, SARA_F8_E4M3, 2, {20000, 8}, 1}, {Q UP, SARA_F8_E4M3, 2, {8, 20000}, 1}}},
    {Q DOWN ": rank 0", {{Q DOWN, SARA_F32, 2, {0, 8}, 1}, {Q UP, SARA_F32, 2, {8, 0}, 1}}},
    {Q ".diff: beside " Q DOWN, {Q_DOWN, Q_UP, {Q ".diff", SARA_F32, 2, {8, 8}, 1}}},
    {"to_q.lora_A.weight: the same as " Q DOWN,
     {Q_DOWN,
      Q_UP,
      {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
       SARA_F32,
       2,
       {2, 8},
       1}}},
    {Q ".hada_w1_a: is of a LoHa, which is not supported",
     {{Q ".hada_w1_a", SARA_F32, 2, {8, 2}, 1}, Q_DOWN, Q_UP}},
    {"is of a LoRA with biases",
     {Q_DOWN, Q_UP, {"unet.mid.to_q.lora_B.bias", SARA_F32, 1, {8}, 1}}},
    {"is of a LoRA of an embedding", {{"token.lora_embedding_A", SARA_F32, 2, {2, 8}, 1}}},
    {"its layers are those of Flux",
     {Q_DOWN, Q_UP, {"lora_unet_double_blocks_0_img_attn_proj" UP, SARA_F32, 1, {1}, 1}}},
    {"is of a LoKr", {{Q ".lokr_w1", SARA_F32, 2, {2, 2}, 1}}},
    {"is of an OFT", {{Q ".oft_blocks", SARA_F32, 2, {2, 2}, 1}}},
    {"something.else: is no part of a LoRA",
     {Q_DOWN, Q_UP, {"something.else", SARA_F32, 0, {0}, 1}}},
    {"does not have 2 of its layers, the first is lora_unet_a; force applies the others",
     {Q_DOWN,
      Q_UP,
      {"lora_unet_a" DOWN, SARA_F32, 2, {1, 1}, 1},
      {"lora_unet_a" UP, SARA_F32, 2, {1, 1}, 1},
      {"lora_unet_b.diff", SARA_F32, 2, {1, 1}, 1}}},
    {"its layers are those of SDXL",
     {Q_DOWN, Q_UP, {"lora_te2_text_model_encoder_layers_0_mlp_fc1" UP, SARA_F32, 1, {1}, 1}}},
};

static void test_bad_files(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    for (size_t i = 0; i < sizeof(bad_files) / sizeof(*bad_files); i++) {
        const char *path = make_file(pipe, "bad.safetensors", bad_files[i].tensors, NULL, 0);
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, bad_files[i].message,
                       sara_model_check_adapter(pipe->ctx, model, path, false));
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, bad_files[i].message,
                       sara_model_apply(pipe->ctx, model, path, 1, false));
    }
    assert_int_equal(model->adapter_count, 0);
    test_lora_expect(pipe, model, NULL, "sd1");
    sara_model_free(model);
}

/* Its own words are told before what its layers look like. */
static void test_forced(void **state)
{
    static const made_tensor some[MOST] = {Q_DOWN,
                                           Q_UP,
                                           {"lora_te2_a" DOWN, SARA_F32, 2, {1, 1}, 1},
                                           {"lora_te2_a" UP, SARA_F32, 2, {1, 1}, 1}};
    static const made_tensor none[MOST] = {{"lora_te2_a.diff", SARA_F32, 2, {1, 1}, 1}};
    static const made_tensor empty[MOST] = {{NULL, SARA_F32, 0, {0}, 0}};
    const sara_metadata base = {"ss_base_model_version", "sdxl_base_v1-0"};
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    sara_adapter_source source;
    sara_lora_set set;
    const char *path = make_file(pipe, "some.safetensors", some, &base, 1);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "its metadata calls its base sdxl_base_v1-0",
                   sara_model_apply(pipe->ctx, model, path, 1, false));
    assert_ok(pipe->ctx, sara_adapter_source_open(pipe->ctx, &source, path));
    assert_ok(pipe->ctx, sara_lora_read(pipe->ctx, &set, &source, model, true));
    assert_int_equal(set.left_out, 1);
    assert_int_equal(set.parts[TEST_DENOISER].count, 1);
    sara_lora_set_free(&set);
    sara_adapter_source_close(&source);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, true));
    assert_non_null(strstr(pipe->log, "1 layer that the model does not have is left out; its "
                                      "metadata calls its base sdxl_base_v1-0"));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "holds no tensors",
                   sara_model_apply(pipe->ctx, model,
                                    make_file(pipe, "empty.safetensors", empty, NULL, 0), 1, true));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "no layer is the model's",
                   sara_model_apply(pipe->ctx, model,
                                    make_file(pipe, "none.safetensors", none, NULL, 0), 1, true));
    sara_model_free(model);
}

static float first_of(test_pipe *pipe, sara_model *model, const char *path)
{
    const sara_param *param = sara_params_find(
        &model->denoiser->params, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight");
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    float value = sara_param_get(param, 0);
    assert_ok(pipe->ctx, sara_model_remove(model));
    return value;
}

/* Of 2 (0.5 0.5) = 0.5 by the rank, an alpha of 1 is half of that, whatever it is written in. */
static void test_dtypes(void **state)
{
    static const sara_dtype dtypes[] = {SARA_F32, SARA_F16, SARA_BF16, SARA_F8_E4M3};
    static const struct {
        sara_dtype dtype;
        int rank;
    } alphas[] = {{SARA_F32, 0}, {SARA_F32, 1}, {SARA_F16, 2},
                  {SARA_I64, 0}, {SARA_I32, 1}, {SARA_F8_E4M3, 1}};
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const sara_params *params = &model->denoiser->params;
    float before = sara_param_get(
        sara_params_find(params, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"),
        0);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        const made_tensor tensors[MOST] = {{Q DOWN, dtypes[i], 2, {2, 8}, 0.5f},
                                           {Q UP, dtypes[i], 4, {8, 2, 1, 1}, 0.5f}};
        const char *path = make_file(pipe, "dtype.safetensors", tensors, NULL, 0);
        assert_true(first_of(pipe, model, path) == before + 0.5f);
    }
    for (size_t i = 0; i < sizeof(alphas) / sizeof(*alphas); i++) {
        const made_tensor tensors[MOST] = {
            Q_DOWN, Q_UP, {Q ".alpha", alphas[i].dtype, alphas[i].rank, {1, 1}, 1}};
        const char *path = make_file(pipe, "alpha.safetensors", tensors, NULL, 0);
        assert_true(first_of(pipe, model, path) == before + 0.25f);
    }
    sara_model_free(model);
}

/* -------------------------------------------------------------------------------------- PEFT's */

#define BLOCK "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q."

static const made_tensor config_tensors[MOST] = {
    {BLOCK "lora_A.weight", SARA_F32, 2, {2, 8}, 0.5f},
    {BLOCK "lora_B.weight", SARA_F32, 2, {8, 2}, 0.5f}};
/* As PEFT writes them. */
static const made_tensor trained_more[MOST] = {
    {BLOCK "lora_A.weight", SARA_F32, 2, {2, 8}, 0.5f},
    {BLOCK "lora_B.weight", SARA_F32, 2, {8, 2}, 0.5f},
    {"base_model.model.conv_out.weight", SARA_F32, 2, {8, 2}, 0.5f}};

/* Whether the config is refused with the message (NULL: it is taken) beside one layer of rank 2. */
static void check_config(test_pipe *pipe, sara_model *model, const char *config,
                         const char *message)
{
    const char *folder = test_path(pipe, "peft");
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    make_file(pipe, "peft/adapter_model.safetensors", config_tensors, NULL, 0);
    test_write(pipe, test_path(pipe, "peft/adapter_config.json"), config);
    sara_status status = sara_model_check_adapter(pipe->ctx, model, folder, false);
    if (message)
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, message, status);
    else
        assert_ok(pipe->ctx, status);
}

static void test_configs(void **state)
{
    static const char *const cases[][2] = {
        {"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 1}", NULL},
        {"{\"peft_type\": \"LORA\", \"r\": 8, \"rank_pattern\": {\"attn1.to_q\": 2}}", NULL},
        {"{\"peft_type\": \"LORA\", \"r\": 8}", "rank 8, but its factors have 2"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": {\"to_q\": 3}}", "rank 3, but"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": {\"xto_q\": 3, \"(q|n1.to_q\": 3}}",
         "is no pattern"},
        {"{\"peft_type\": \"LORA\", \"alpha_pattern\": {\"(?:a)\": 3}}", "is not supported"},
        {"{\"peft_type\": \"LORA\", \"alpha_pattern\": {\"to_q\": \"x\"}}", "expected a number"},
        {"{\"peft_type\": \"LORA\", \"r\": \"x\"}", "adapter_config.json: r: \"x\""},
        {"{\"peft_type\": \"LORA\", \"bias\": \"all\"}", "bias is all"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"conv_in\"]}", "modules_to_save"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_4\"}", "pissa_niter_4"},
        {"{\"peft_type\": \"LORA\", \"alpha_pattern\": [1]}", "alpha_pattern expected an object"},
        {"{\"peft_type\": \"LORA\", \"layer_replication\": [[0, 1]]}", "layer_replication holds"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": null}", "lora_alpha is null"},
        {"{\"peft_type\": null}", "peft_type is null"},
        {"{\"peft_type\": \"LORA\", \"lora_bias\": true}", "lora_bias is true"},
        {"{\"peft_type\": \"LORA\", \"use_dora\": true}", "use_dora is true, but the layer of"},
        {"{\"peft_type\": \"LOHA\"}", "peft_type LOHA"},
        {"{\"peft_type\": ", "adapter_config.json"}};
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check_config(pipe, model, cases[i][0], cases[i][1]);
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, model,
                               make_file(pipe, "alone.safetensors", config_tensors, NULL, 0), 1,
                               false));
    assert_non_null(strstr(pipe->log, "alone.safetensors: has neither alphas nor"));
    assert_ok(pipe->ctx, sara_model_remove(model));
    make_file(pipe, "peft/adapter_model.safetensors", trained_more, NULL, 0);
    test_write(pipe, test_path(pipe, "peft/adapter_config.json"),
               "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"conv_out\"]}");
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "modules_to_save holds",
                   sara_model_check_adapter(pipe->ctx, model, test_path(pipe, "peft"), false));
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_path(pipe, "empty")));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "a folder without adapter_model.safetensors",
                   sara_model_check_adapter(pipe->ctx, model, test_path(pipe, "empty"), false));
    test_write(pipe, test_path(pipe, "empty/adapter_model.bin"), "x");
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "adapter_model.bin: a pickled file",
                   sara_model_check_adapter(pipe->ctx, model, test_path(pipe, "empty"), false));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_drawn), TEST_CASE(test_bad_files),
                                       TEST_CASE(test_forced), TEST_CASE(test_dtypes),
                                       TEST_CASE(test_configs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
