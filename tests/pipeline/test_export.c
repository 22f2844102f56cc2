/* What adapters change, as files of other tools. The loaders themselves are in tests/peers. */
#include "support_pipeline.h"
#include "support/memory.h"

#include <math.h>
#include <stdio.h>

#define DATE 1700000000 /* 2023-11-14T22:13:20Z */

static sara_export_options options_of(const char *format, int rank, const char *precision)
{
    return (sara_export_options){
        .format = format, .rank = rank, .save_precision = precision, .date = DATE};
}

static const char *sha256(test_pipe *pipe, const char *path)
{
    char text[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, text, path));
    return test_text(pipe, "%s", text);
}

/* A model with an adapter on it, and its values before and after. */
typedef struct adapted {
    sara_model *model;
    const float *before, *after;
    size_t count;
} adapted;

static adapted adapt(test_pipe *pipe, const char *path, bool unet_only, size_t stride, float shift)
{
    adapted a = {.model = test_model(pipe, path, unet_only)};
    a.before = test_values(pipe, a.model, &a.count);
    const char *adapter = test_adapter(pipe, "a.safetensors", a.model, stride, shift);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, a.model, adapter, 1, false));
    a.after = test_values(pipe, a.model, &a.count);
    return a;
}

/* The same on a U-Net of zeros, where no change is too small for float32. */
static adapted adapt_zeros(test_pipe *pipe, float shift)
{
    adapted a = {.model = test_model(pipe, TEST_TINY, true)};
    sara_params *params = sara_unet_params(a.model->unet);
    for (size_t i = 0; i < params->count; i++)
        memset(params->items[i].value.data, 0,
               (size_t)sara_shape_count(&params->items[i].value.shape) * sizeof(float));
    a.before = test_values(pipe, a.model, &a.count);
    const char *adapter = test_adapter(pipe, "a.safetensors", a.model, 3, shift);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, a.model, adapter, 1, false));
    a.after = test_values(pipe, a.model, &a.count);
    return a;
}

static const char *write(test_pipe *pipe, const adapted *a, const char *name,
                         sara_export_report *report, sara_export_options options)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, report, a->model, path, &options));
    return path;
}

/* ---------------------------------------------------------------------------------------- dense */

/* "down_blocks.0.resnets.0.conv1.weight" as a LoRA file's key */
static const char *key_of(test_pipe *pipe, const char *name, const char *weight, const char *bias)
{
    bool is_bias = strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".bias") == 0;
    char layer[256];
    snprintf(layer, sizeof(layer), "%.*s", (int)(strrchr(name, '.') - name), name);
    for (char *at = layer; *at; at++)
        *at = *at == '.' ? '_' : *at;
    return test_text(pipe, "lora_unet_%s%s", strcmp(layer, "conv_norm_out") == 0 ? "out_0" : layer,
                     is_bias ? bias : weight);
}

/* The same in ComfyUI's layout. */
static const char *ldm_key_of(test_pipe *pipe, const sara_model *model, const char *name)
{
    sara_ldm_shape shape;
    char *ldm = NULL;
    assert_ok(pipe->ctx, sara_unet_ldm_shape(model->unet, &shape));
    assert_ok(pipe->ctx, sara_ldm_from_diffusers(pipe->ctx, &ldm, &shape, name));
    char *end = strrchr(ldm, '.');
    bool is_bias = strcmp(end, ".bias") == 0;
    const char *key = test_text(pipe, "diffusion_model.%.*s.%s", (int)(end - ldm), ldm,
                                is_bias ? "diff_b" : "diff");
    sara_free(pipe->ctx, ldm);
    return key;
}

/* base + diff, in float32, is what the adapter makes: if exact the same number (-0 + 0 is 0), else
 * to the rounding of the change to 11 bits. All tensors of the file are among those added up. */
static void check_sums(test_pipe *pipe, const adapted *a, const char *path, bool exact, bool ldm)
{
    const sara_params *params = sara_unet_params(a->model->unet);
    sara_safetensors *file = test_open(pipe->ctx, path);
    size_t at = 0, found = 0, count;
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        const char *key = ldm ? ldm_key_of(pipe, a->model, param->name)
                              : key_of(pipe, param->name, ".diff", ".diff_b");
        const sara_tensor_info *info = sara_safetensors_find(file, key);
        size_t size = (size_t)sara_shape_count(&param->value.shape);
        float *diff = info ? test_load_f32(pipe->ctx, file, key, &count) : NULL;
        assert_true(!info || sara_shape_equal(&info->shape, &param->value.shape));
        for (size_t j = 0; j < size; j++, at++) {
            float sum = a->before[at] + (diff ? diff[j] : 0);
            double change = fabs((double)a->after[at] - (double)a->before[at]);
            if (exact)
                assert_true(sum == a->after[at]);
            else
                assert_close(fabs((double)sum - (double)a->after[at]), change * 0x1p-11 + 1e-6,
                             key);
        }
        found += info != NULL;
        sara_free(pipe->ctx, diff);
    }
    assert_int_equal(at, a->count);
    assert_int_equal(found, sara_safetensors_count(file));
    sara_safetensors_close(file);
}

static void test_dense(void **state)
{
    static const char *const formats[] = {"comfyui", "a1111"};
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_BASE, false, 11, 0.25f);
    int64_t changed = 0;
    for (size_t i = 0; i < a.count; i++)
        changed += a.before[i] != a.after[i];
    for (size_t i = 0; i < 2; i++) {
        sara_export_report report;
        const char *path = write(pipe, &a, test_text(pipe, "%s-32.safetensors", formats[i]),
                                 &report, options_of(formats[i], 0, "fp32"));
        check_sums(pipe, &a, path, true, i == 0);
        assert_int_equal(report.changed, changed);
        assert_int_equal(report.left_out, 0);
        assert_int_equal(report.inexact, 0);
        assert_true(report.kept == 1 && report.error <= 1e-7);
        assert_close(fabs(report.change_norm / (0.25 * sqrt((double)changed)) - 1), 1e-6, "norm");
        path = write(pipe, &a, test_text(pipe, "%s-16.safetensors", formats[i]), &report,
                     options_of(formats[i], 0, NULL)); /* fp16 */
        check_sums(pipe, &a, path, false, i == 0);
        sara_safetensors *file = test_open(pipe->ctx, path);
        assert_int_equal(sara_safetensors_at(file, 0)->dtype, SARA_F16);
        sara_safetensors_close(file);
    }
    sara_model_free(a.model);
}

/* Where no float32 added to the base gives the value, the sum misses it by a rounding of the
 * change; the report counts these entries. */
static void test_beyond_reach(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    float *values = sara_params_find(sara_unet_params(model->unet), "conv_in.bias")->value.data;
    const float new_values[] = {1.1e-8f, 0.75f};
    uint32_t positions[] = {1, 2};
    const char *base, *path = test_path(pipe, "a.safetensors"),
                      *out = test_path(pipe, "out.safetensors");
    sara_adapter_entry entry = {"conv_in.bias", positions, (float *)(uintptr_t)new_values, 2};
    sara_export_report report;
    size_t count;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, path, &entry, 1, metadata, 2, SARA_F32));
    float before = values[1];
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    const sara_export_options options = options_of("comfyui", 0, "fp32");
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, model, out, &options));
    assert_int_equal(report.changed, 2);
    assert_int_equal(report.inexact, 1);
    assert_true(report.error > 0 && report.error < 0x1p-24);
    sara_safetensors *file = test_open(pipe->ctx, out);
    assert_int_equal(sara_safetensors_count(file), 1); /* a1111 alone has a zero .diff with it */
    float *diff = test_load_f32(pipe->ctx, file, "diffusion_model.input_blocks.0.0.diff_b", &count);
    assert_true(diff[1] == 1.1e-8f - before && diff[0] == 0 && diff[3] == 0);
    sara_free(pipe->ctx, diff);
    sara_safetensors_close(file);
    sara_model_free(model);
}

/* A1111 knows a bias only beside a weight. */
static void test_bias_alone(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *base, *path = test_path(pipe, "a.safetensors"),
                      *out = test_path(pipe, "out.safetensors");
    uint32_t position = 2;
    float value = 7;
    size_t count;
    sara_adapter_entry entry = {"conv_norm_out.bias", &position, &value, 1};
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, path, &entry, 1, metadata, 2, SARA_F32));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    sara_export_options options = options_of("a1111", 0, "bf16");
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, model, out, &options));
    sara_safetensors *file = test_open(pipe->ctx, out);
    assert_int_equal(sara_safetensors_count(file), 2);
    float *zeros = test_load_f32(pipe->ctx, file, "lora_unet_out_0.diff", &count);
    for (size_t i = 0; i < count; i++)
        assert_true(zeros[i] == 0);
    sara_free(pipe->ctx, zeros);
    sara_safetensors_close(file);
    options = options_of("lora", 1, NULL);
    assert_refused(
        pipe->ctx, SARA_ERROR_USAGE, "biases and norms alone",
        sara_model_export(pipe->ctx, NULL, model, test_path(pipe, "lora.safetensors"), &options));
    assert_false(sara_path_exists(test_path(pipe, "lora.safetensors")));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- low rank */

static double squares(const float *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)values[i] * (double)values[i];
    return sum;
}

/* What up x down, times alpha / rank if there is an alpha, lacks of the change of one parameter:
 * the sum of squares. */
static double lacking2(test_pipe *pipe, const sara_safetensors *file, const sara_param *param,
                       const char *down_key, const char *up_key, const float *before,
                       const float *after)
{
    size_t downs, ups, one;
    const char *alpha_key = key_of(pipe, param->name, ".alpha", "");
    bool has_alpha = sara_safetensors_find(file, alpha_key) != NULL;
    float *alpha = has_alpha ? test_load_f32(pipe->ctx, file, alpha_key, &one) : NULL;
    float *down = test_load_f32(pipe->ctx, file, down_key, &downs);
    float *up = test_load_f32(pipe->ctx, file, up_key, &ups);
    size_t rows = (size_t)param->value.shape.dims[0];
    size_t cols = (size_t)sara_shape_count(&param->value.shape) / rows, rank = ups / rows;
    double sum = 0, scale = alpha ? (double)alpha[0] / (double)rank : 1;
    assert_int_equal(downs, rank * cols);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            double value = (double)after[i * cols + j] - (double)before[i * cols + j];
            for (size_t k = 0; k < rank; k++)
                value -= scale * (double)up[i * rank + k] * (double)down[k * cols + j];
            sum += value * value;
        }
    sara_free(pipe->ctx, alpha);
    sara_free(pipe->ctx, down);
    sara_free(pipe->ctx, up);
    return sum;
}

/* Of the whole change; the names of factors come from `names`. */
typedef void (*names_fn)(test_pipe *pipe, const char *param, const char **down, const char **up);
static double lacking(test_pipe *pipe, const adapted *a, const char *path, names_fn names)
{
    const sara_params *params = sara_unet_params(a->model->unet);
    sara_safetensors *file = test_open(pipe->ctx, path);
    double sum = 0, change = 0;
    for (size_t i = 0, at = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t size = (size_t)sara_shape_count(&param->value.shape);
        float *difference = NULL;
        const char *down, *up;
        assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &difference, size, sizeof(*difference)));
        for (size_t j = 0; j < size; j++)
            difference[j] = a->after[at + j] - a->before[at + j];
        change += squares(difference, size);
        if (param->value.shape.rank == 1) {
            sum += squares(difference, size);
        } else {
            names(pipe, param->name, &down, &up);
            sum += lacking2(pipe, file, param, down, up, a->before + at, a->after + at);
        }
        sara_free(pipe->ctx, difference);
        at += size;
    }
    sara_safetensors_close(file);
    return sqrt(sum / change);
}

static void kohya_names(test_pipe *pipe, const char *param, const char **down, const char **up)
{
    *down = key_of(pipe, param, ".lora_down.weight", "");
    *up = key_of(pipe, param, ".lora_up.weight", "");
}

static void peft_names(test_pipe *pipe, const char *param, const char **down, const char **up)
{
    int length = (int)(strrchr(param, '.') - param);
    *down = test_text(pipe, "base_model.model.%.*s.lora_A.weight", length, param);
    *up = test_text(pipe, "base_model.model.%.*s.lora_B.weight", length, param);
}

static void check_report(const adapted *a, const sara_export_report *report, double lack)
{
    int64_t changed = 0, vectors = 0;
    const sara_params *params = sara_unet_params(a->model->unet);
    for (size_t i = 0, at = 0; i < params->count; i++)
        for (int64_t j = 0; j < sara_shape_count(&params->items[i].value.shape); j++, at++) {
            changed += a->before[at] != a->after[at];
            vectors += a->before[at] != a->after[at] && params->items[i].value.shape.rank == 1;
        }
    assert_int_equal(report->changed, changed);
    assert_int_equal(report->left_out, vectors);
    assert_close(fabs(report->error - lack), 1e-5, "error");
    assert_close(fabs(report->kept - sqrt(1 - lack * lack)), 1e-5, "kept");
}

/* The higher the rank, the less is lacking; at full rank only the vectors are. */
static void test_low_rank(void **state)
{
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    double last = 1;
    for (int rank = 1; rank <= 64; rank *= 4) {
        sara_export_report report;
        const char *lora = write(pipe, &a, test_text(pipe, "lora-%d.safetensors", rank), &report,
                                 options_of("lora", rank, "fp32"));
        double lack = lacking(pipe, &a, lora, kohya_names);
        check_report(&a, &report, lack);
        const char *peft = write(pipe, &a, test_text(pipe, "peft-%d", rank), &report,
                                 options_of("peft", rank, "fp32"));
        const char *weights = test_text(pipe, "%s/adapter_model.safetensors", peft);
        assert_close(fabs(lacking(pipe, &a, weights, peft_names) - lack), 1e-7, "peft");
        check_report(&a, &report, lack);
        assert_true(rank <= 4 ? lack < last
                              : fabs(lack - last) < 1e-6); /* no layer's rank is above 4 */
        if (rank >= 4) /* all changes are alike: what is lacking are the vectors' */
            assert_close(fabs(lack - sqrt((double)report.left_out / (double)report.changed)), 1e-6,
                         "full rank");
        last = lack;
    }
    sara_model_free(a.model);
}

/* What is said is true of the file as it is, whatever it was rounded to and however much of its
 * rank is cut; rounding that matters is warned of. */
static void test_rounding(void **state)
{
    static const struct {
        const char *dtype;
        int rank;
        float shift;
        bool warned;
        double most; /* beyond what the vectors lack */
    } cases[] = {
        {"fp32", 4, 0.25f, false, 1e-6},     {"fp16", 4, 0.25f, false, 1e-3},
        {"bf16", 4, 0.25f, false, 1e-2},     {"fp16", 65536, 0.25f, false, 1e-3},
        {"bf16", 65536, 0.25f, false, 1e-2}, {"fp16", 65536, 1e-5f, false, 1e-2},
        {"fp16", 4, 1e-10f, false, 1e-2},    {"fp16", 4, 1e-13f, true, 1},
        {"fp16", 4, 1e-17f, true, 1}, /* nothing is left */
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_export_report report;
        adapted a = adapt_zeros(pipe, cases[i].shift);
        const sara_export_options lora = options_of("lora", cases[i].rank, cases[i].dtype);
        const sara_export_options peft = options_of("peft", cases[i].rank, cases[i].dtype);
        free(pipe->log);
        pipe->log = NULL;
        const char *path = write(pipe, &a, test_text(pipe, "%zu.safetensors", i), &report, lora);
        double lack = lacking(pipe, &a, path, kohya_names);
        double vectors = sqrt((double)report.left_out / (double)report.changed);
        check_report(&a, &report, lack);
        assert_true(lack <= vectors + cases[i].most);
        bool warned = pipe->log && strstr(pipe->log, "rounding the factors to fp16 loses ");
        assert_int_equal(warned, cases[i].warned);
        path = write(pipe, &a, test_text(pipe, "%zu", i), &report, peft);
        lack = lacking(pipe, &a, test_text(pipe, "%s/adapter_model.safetensors", path), peft_names);
        check_report(&a, &report, lack);
        sara_model_free(a.model);
    }
    const sara_export_options options = options_of("lora", 2, "fp16");
    adapted a = adapt_zeros(pipe, 1e12f);
    assert_refused(
        pipe->ctx, SARA_ERROR_USAGE, "of a factor is not finite in F16",
        sara_model_export(pipe->ctx, NULL, a.model, test_path(pipe, "inf.safetensors"), &options));
    sara_model_free(a.model);
}

static void assert_shape(const sara_safetensors *file, const char *name, const sara_shape *expected)
{
    sara_shape_text a, b;
    const sara_tensor_info *info = sara_safetensors_find(file, name);
    assert_non_null(info);
    assert_string_equal(sara_shape_format(&a, &info->shape), sara_shape_format(&b, expected));
}

/* Convolutions as kohya has them; ranks above a layer's sides are cut, alpha is not. */
static void test_shapes(void **state)
{
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *path = write(pipe, &a, "lora.safetensors", NULL, options_of("lora", 9, "bf16"));
    sara_safetensors *file = test_open(pipe->ctx, path);
    size_t count;
    const sara_shape shapes[] = {sara_shape4(4, 4, 3, 3), sara_shape4(4, 4, 1, 1),
                                 sara_shape2(3, 3),       sara_shape2(4, 3),
                                 sara_shape2(4, 4),       sara_shape2(16, 4)};
    assert_shape(file, "lora_unet_conv_in.lora_down.weight", &shapes[0]);
    assert_shape(file, "lora_unet_conv_in.lora_up.weight", &shapes[1]);
    assert_shape(file,
                 "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down."
                 "weight",
                 &shapes[2]);
    assert_shape(file,
                 "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up."
                 "weight",
                 &shapes[3]);
    assert_shape(file, "lora_unet_time_embedding_linear_1.lora_down.weight", &shapes[4]);
    assert_shape(file, "lora_unet_time_embedding_linear_1.lora_up.weight", &shapes[5]);
    assert_shape(file, "lora_unet_conv_in.alpha", &(sara_shape){.rank = 0});
    float *alpha = test_load_f32(pipe->ctx, file, "lora_unet_conv_in.alpha", &count);
    assert_true(count == 1 && alpha[0] == 9);
    sara_free(pipe->ctx, alpha);
    assert_null(sara_safetensors_find(file, "lora_unet_conv_norm_out.lora_up.weight"));
    sara_safetensors_close(file);
    sara_model_free(a.model);
}

static void test_peft_config(void **state)
{
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *folder = write(pipe, &a, "peft/", NULL, options_of("peft", 4, NULL));
    json_t *config = NULL;
    assert_ok(pipe->ctx, sara_json_load(pipe->ctx, &config,
                                        test_text(pipe, "%s/adapter_config.json", folder), false));
    assert_string_equal(json_string_value(json_object_get(config, "peft_type")), "LORA");
    assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
    assert_int_equal(json_integer_value(json_object_get(config, "lora_alpha")), 4);
    const char *key = "down_blocks\\.0\\.attentions\\.0\\.transformer_blocks\\.0\\.attn2\\.to_k";
    json_t *ranks = json_object_get(config, "rank_pattern");
    assert_int_equal(json_integer_value(json_object_get(ranks, key)), 3);
    assert_true(json_equal(ranks, json_object_get(config, "alpha_pattern")));
    assert_null(json_object_get(ranks, "conv_in"));
    size_t matrices = 0;
    const sara_params *params = sara_unet_params(a.model->unet);
    for (size_t i = 0; i < params->count; i++)
        matrices += params->items[i].value.shape.rank > 1;
    assert_int_equal(json_array_size(json_object_get(config, "target_modules")), matrices);
    json_decref(config);
    sara_model_free(a.model);
}

/* ------------------------------------------------------------------------------------- metadata */

static void assert_metadata(const sara_safetensors *file, const char *key, const char *value)
{
    const char *found = sara_safetensors_metadata(file, key);
    if (!found || strcmp(found, value) != 0)
        fail_msg("%s: %s, expected %s", key, found ? found : "(none)", value);
}

static void test_metadata(void **state)
{
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *path = write(pipe, &a, "ink.safetensors", NULL, options_of("a1111", 0, NULL));
    sara_safetensors *file = test_open(pipe->ctx, path);
    assert_metadata(file, "format", "pt");
    assert_metadata(file, "ss_v2", "False");
    assert_metadata(file, "ss_base_model_version", "sd_v1");
    assert_metadata(file, "ss_network_module", "lycoris.kohya");
    assert_metadata(file, "ss_output_name", "ink");
    assert_metadata(file, "ss_sd_model_name", "unet_tiny");
    assert_metadata(file, "modelspec.title", "ink");
    assert_metadata(file, "modelspec.architecture", "stable-diffusion/lora");
    assert_null(sara_safetensors_metadata(file, "modelspec.prediction_type")); /* not known */
    assert_metadata(file, "modelspec.resolution", "512x512");
    assert_metadata(file, "modelspec.date", "2023-11-14T22:13:20Z");
    assert_metadata(file, "sara.base_sha256", a.model->base.sha256);
    sara_safetensors_close(file);
    file = test_open(pipe->ctx,
                     write(pipe, &a, "lora.safetensors", NULL, options_of("lora", 5, NULL)));
    assert_metadata(file, "ss_network_module", "networks.lora");
    assert_metadata(file, "ss_network_dim", "5");
    assert_metadata(file, "ss_network_alpha", "5");
    assert_metadata(file, "ss_network_args", "{\"conv_dim\": \"5\", \"conv_alpha\": \"5\"}");
    sara_safetensors_close(file);
    sara_model_free(a.model);
}

/* The same twice; without a date given, the present. */
static void test_deterministic(void **state)
{
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    sara_export_options options = options_of("lora", 2, NULL);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_path(pipe, "again")));
    assert_string_equal(sha256(pipe, write(pipe, &a, "x.safetensors", NULL, options)),
                        sha256(pipe, write(pipe, &a, "again/x.safetensors", NULL, options)));
    options.date = 0;
    sara_safetensors *file =
        test_open(pipe->ctx, write(pipe, &a, "now.safetensors", NULL, options));
    const char *date = sara_safetensors_metadata(file, "modelspec.date");
    assert_int_equal(strlen(date), 20);
    assert_true(strcmp(date, "2025") > 0);
    sara_safetensors_close(file);
    sara_model_free(a.model);
}

/* ------------------------------------------------------------------------------------- refusals */

static void test_options_refused(void **state)
{
    static const struct {
        sara_export_options options;
        const char *line;
    } cases[] = {
        {{.format = NULL}, "no format given: expected comfyui, a1111, lora or peft"},
        {{.format = "diffusers"}, "format diffusers: expected comfyui"},
        {{.format = "lora"}, "format lora: no rank given"},
        {{.format = "peft", .rank = -3}, "rank -3: expected at least 1"},
        {{.format = "a1111", .rank = 3}, "rank 3: format a1111 holds the whole change"},
        {{.format = "comfyui", .save_precision = "int8"}, "save_precision int8: expected fp32"},
    };
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "x.safetensors"), *name = test_path(pipe, "x");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(pipe->ctx, SARA_ERROR_USAGE, cases[i].line,
                       sara_export_check(pipe->ctx, path, &cases[i].options));
    const sara_export_options file = options_of("a1111", 0, NULL);
    const sara_export_options folder = options_of("peft", 2, NULL);
    test_write(pipe, path, "precious");
    test_write(pipe, name, "precious");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "x.safetensors: exists; name a new file",
                   sara_export_check(pipe->ctx, path, &file));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "x: exists and is no folder",
                   sara_export_check(pipe->ctx, name, &folder));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "exists and holds 2 entries; name a new folder",
                   sara_export_check(pipe->ctx, pipe->folder, &folder));
    assert_refused(pipe->ctx, SARA_ERROR_IO, "none/x.safetensors",
                   sara_export_check(pipe->ctx, test_path(pipe, "none/x.safetensors"), &file));
}

/* A name by which nobody would load it is refused with the one to give. */
static void test_names_refused(void **state)
{
    static const struct {
        const char *format, *out, *line; /* NULL: taken */
    } cases[] = {
        {"lora", "name", "name: format lora is a file; name it name.safetensors"},
        {"a1111", "a.b/name/", "a.b/name/: format a1111 is a file; name it a.b/name.safetensors"},
        {"comfyui", "x.safetensors/", "format comfyui is a file; name it x.safetensors"},
        {"comfyui", "x.ckpt", "name it x.ckpt.safetensors"},
        {"peft", "x.safetensors", "x.safetensors: format peft is a folder; name it x"},
        {"peft", "x.safetensors//", "format peft is a folder; name it x"},
        {"peft", "none/x/", NULL},
        {"peft", "x.safetensors.d", NULL},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const bool ranked =
            strcmp(cases[i].format, "lora") == 0 || !strcmp(cases[i].format, "peft");
        const sara_export_options options = options_of(cases[i].format, ranked ? 2 : 0, NULL);
        const char *path = cases[i].line ? cases[i].out : test_path(pipe, cases[i].out);
        if (cases[i].line)
            assert_refused(pipe->ctx, SARA_ERROR_USAGE, cases[i].line,
                           sara_export_check(pipe->ctx, path, &options));
        else
            assert_ok(pipe->ctx, sara_export_check(pipe->ctx, path, &options));
    }
    char **names = NULL;
    size_t count;
    assert_ok(pipe->ctx, sara_directory_list(pipe->ctx, &names, &count, pipe->folder));
    sara_directory_free(pipe->ctx, names, count);
    assert_int_equal(count, 0); /* a check leaves nothing behind */
}

static void test_models_refused(void **state)
{
    test_pipe *pipe = *state;
    const sara_export_options options = options_of("a1111", 0, NULL);
    const char *path = test_path(pipe, "x.safetensors");
    sara_model *model = test_model(pipe, TEST_TINY, true);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "no adapter changes the model",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    const char *adapter = test_adapter(pipe, "a.safetensors", model, 5, 70000);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 0, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "no adapter changes the model",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "conv_in.bias: the change of entry ",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    sara_model_free(model);
    model = test_model_stored(pipe, TEST_TINY, true, "bf16");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "weight_dtype bf16, which rounds adapters",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    sara_model_free(model);
    assert_false(sara_path_exists(path));
}

/* Nothing is there afterwards. */
static void test_interrupted(void **state)
{
    static const char *const formats[] = {"lora", "peft"};
    static const char *const names[] = {"x.safetensors", "x"};
    test_pipe *pipe = *state;
    adapted a = adapt(pipe, TEST_TINY, true, 3, 0.25f);
    for (size_t i = 0; i < 2; i++) {
        const sara_export_options options = options_of(formats[i], 2, NULL);
        const char *path = test_path(pipe, names[i]);
        pipe->interrupt_at = 5;
        assert_refused(pipe->ctx, SARA_INTERRUPTED, "nothing is written",
                       sara_model_export(pipe->ctx, NULL, a.model, path, &options));
        assert_false(sara_path_exists(path));
        pipe->interrupt_at = -1;
        assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, a.model, path, &options));
    }
    sara_model_free(a.model);
}

/* ------------------------------------------------------------------------------------- memory */

static const char *memory_format;

static sara_status load_and_export(sara_context *ctx, const char *folder)
{
    static int number;
    const sara_model_options unet = {.unet_only = true};
    const bool dense = strcmp(memory_format, "a1111") == 0;
    const sara_export_options options = options_of(memory_format, dense ? 0 : 2, NULL);
    sara_model *model = NULL;
    char *adapter = NULL, *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &adapter, folder, "a.safetensors"));
    TRY(sara_format(ctx, &path, "%s/x-%d%s", folder, number++,
                    strcmp(memory_format, "peft") == 0 ? "" : ".safetensors"));
    TRY(sara_model_load(ctx, &model, TEST_TINY, &unet));
    TRY(sara_model_apply(ctx, model, adapter, 1, false));
    TRY(sara_model_export(ctx, NULL, model, path, &options));
done:
    sara_model_free(model);
    sara_free(ctx, adapter);
    sara_free(ctx, path);
    return status;
}

static void test_memory(void **state)
{
    static const char *const formats[] = {"a1111", "lora", "peft"};
    static const char *const names[] = {"conv_in.bias", "conv_in.weight", "conv_out.bias"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    sara_adapter_entry entries[3];
    uint32_t positions[] = {0, 3};
    float values[] = {1, 2};
    const char *base;
    for (size_t i = 0; i < 3; i++)
        entries[i] = (sara_adapter_entry){names[i], positions, values, 2};
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, test_path(pipe, "a.safetensors"), entries, 3,
                                           metadata, 2, SARA_F32));
    sara_model_free(model);
    for (size_t i = 0; i < 3; i++) {
        memory_format = formats[i];
        test_every_allocation(load_and_export, pipe->folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_dense),         TEST_CASE(test_beyond_reach),
        TEST_CASE(test_bias_alone),    TEST_CASE(test_low_rank),
        TEST_CASE(test_rounding),      TEST_CASE(test_shapes),
        TEST_CASE(test_peft_config),   TEST_CASE(test_metadata),
        TEST_CASE(test_deterministic), TEST_CASE(test_options_refused),
        TEST_CASE(test_names_refused), TEST_CASE(test_models_refused),
        TEST_CASE(test_interrupted),   TEST_CASE(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
