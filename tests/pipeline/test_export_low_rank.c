/* What adapters change, by factors of a rank: kohya's LoRA files and PEFT's folders. */
#include "support_export.h"

#include <math.h>
#include <stdio.h>

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
    const char *alpha_key = test_kohya_key(pipe, param->name, ".alpha", "");
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
static double lacking(test_pipe *pipe, const test_adapted *a, const char *path, names_fn names)
{
    const sara_params *params = &a->model->denoiser->params;
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
    *down = test_kohya_key(pipe, param, ".lora_down.weight", "");
    *up = test_kohya_key(pipe, param, ".lora_up.weight", "");
}

static void peft_names(test_pipe *pipe, const char *param, const char **down, const char **up)
{
    int length = (int)(strrchr(param, '.') - param);
    *down = test_text(pipe, "base_model.model.%.*s.lora_A.weight", length, param);
    *up = test_text(pipe, "base_model.model.%.*s.lora_B.weight", length, param);
}

static void check_report(const test_adapted *a, const sara_export_report *report, double lack)
{
    int64_t changed = 0, vectors = 0;
    const sara_params *params = &a->model->denoiser->params;
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
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    double last = 1;
    for (int rank = 1; rank <= 64; rank *= 4) {
        sara_export_report report;
        const char *lora = test_export(pipe, &a, test_text(pipe, "lora-%d.safetensors", rank),
                                       &report, test_export_options("lora", rank, "fp32"));
        double lack = lacking(pipe, &a, lora, kohya_names);
        check_report(&a, &report, lack);
        const char *peft = test_export(pipe, &a, test_text(pipe, "peft-%d", rank), &report,
                                       test_export_options("peft", rank, "fp32"));
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
        test_adapted a = test_adapt_zeros(pipe, cases[i].shift);
        const sara_export_options lora = test_export_options("lora", cases[i].rank, cases[i].dtype);
        const sara_export_options peft = test_export_options("peft", cases[i].rank, cases[i].dtype);
        free(pipe->log);
        pipe->log = NULL;
        const char *path =
            test_export(pipe, &a, test_text(pipe, "%zu.safetensors", i), &report, lora);
        double lack = lacking(pipe, &a, path, kohya_names);
        double vectors = sqrt((double)report.left_out / (double)report.changed);
        check_report(&a, &report, lack);
        assert_true(lack <= vectors + cases[i].most);
        bool warned = pipe->log && strstr(pipe->log, "rounding the factors to fp16 loses ");
        assert_int_equal(warned, cases[i].warned);
        path = test_export(pipe, &a, test_text(pipe, "%zu", i), &report, peft);
        lack = lacking(pipe, &a, test_text(pipe, "%s/adapter_model.safetensors", path), peft_names);
        check_report(&a, &report, lack);
        sara_model_free(a.model);
    }
    const sara_export_options options = test_export_options("lora", 2, "fp16");
    test_adapted a = test_adapt_zeros(pipe, 1e12f);
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
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *path =
        test_export(pipe, &a, "lora.safetensors", NULL, test_export_options("lora", 9, "bf16"));
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
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *folder = test_export(pipe, &a, "peft/", NULL, test_export_options("peft", 4, NULL));
    json_t *config = NULL;
    assert_ok(pipe->ctx, sara_json_load(pipe->ctx, &config,
                                        test_text(pipe, "%s/adapter_config.json", folder), false));
    assert_string_equal(json_string_value(json_object_get(config, "peft_type")), "LORA");
    assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
    assert_int_equal(json_integer_value(json_object_get(config, "lora_alpha")), 4);
    assert_true(json_is_true(json_object_get(config, "inference_mode"))); /* as PEFT saves it */
    const char *key = "down_blocks\\.0\\.attentions\\.0\\.transformer_blocks\\.0\\.attn2\\.to_k";
    json_t *ranks = json_object_get(config, "rank_pattern");
    assert_int_equal(json_integer_value(json_object_get(ranks, key)), 3);
    assert_true(json_equal(ranks, json_object_get(config, "alpha_pattern")));
    assert_null(json_object_get(ranks, "conv_in"));
    size_t matrices = 0;
    const sara_params *params = &a.model->denoiser->params;
    for (size_t i = 0; i < params->count; i++)
        matrices += params->items[i].value.shape.rank > 1;
    assert_int_equal(json_array_size(json_object_get(config, "target_modules")), matrices);
    json_decref(config);
    sara_model_free(a.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_low_rank),
        TEST_CASE(test_rounding),
        TEST_CASE(test_shapes),
        TEST_CASE(test_peft_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
