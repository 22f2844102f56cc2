/* What is told of LoRA files of other tools (make_lora.py) and of AdaptFormers. */
#include "support_lora.h"

#include <math.h>

static sara_adapter_report *inspect(test_pipe *pipe, const char *path, sara_model *base)
{
    sara_adapter_report *report = NULL;
    assert_ok(pipe->ctx, sara_adapter_inspect(pipe->ctx, &report, path, base, false));
    return report;
}

/* Of itself and beside its model, on which it was measured: the same layers and changes. */
static void test_kohya(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    sara_adapter_report *alone = inspect(pipe, TEST_LORA "/kohya_sd1.safetensors", NULL);
    sara_adapter_report *beside = inspect(pipe, TEST_LORA "/kohya_sd1.safetensors", model);
    assert_string_equal(alone->layout, "kohya");
    assert_string_equal(alone->method, "LoCon");
    assert_int_equal(alone->layers, 112);
    assert_int_equal(alone->text_layers, 6);
    assert_int_equal(alone->rank_low, 1);
    assert_int_equal(alone->rank_high, 3);
    assert_true(alone->alpha_low == 0.5 && alone->alpha_high == 2);
    assert_true(isnan(alone->relative) && beside->relative > 0.1);
    assert_int_equal(alone->block_count, beside->block_count);
    for (int i = 0; i < alone->block_count; i++) {
        const sara_adapter_block *a = &alone->blocks[i], *b = &beside->blocks[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->tensors, b->tensors);
        assert_int_equal(a->entries, b->entries);
        assert_true(a->change_norm > 0);
        assert_close(fabs(a->change_norm / b->change_norm - 1), 1e-5, a->name);
    }
    assert_close(fabs(alone->change_norm / beside->change_norm - 1), 1e-5, "change");
    assert_string_equal(alone->blocks[alone->block_count - 1].name, "text_encoder");
    assert_int_equal(sara_applied_count(model->parts[0].applied), 0);
    sara_adapter_report_free(pipe->ctx, alone);
    sara_adapter_report_free(pipe->ctx, beside);
    sara_model_free(model);
}

static void test_layouts(void **state)
{
    static const struct {
        const char *name, *layout, *method;
        bool known; /* the change, without a base */
    } files[] = {{"kohya_sd2.safetensors", "kohya", "LoCon", true},
                 {"lycoris.safetensors", "kohya", "DoRA", false},
                 {"diffusers.safetensors", "diffusers", "LoRA", false},
                 {"peft", "PEFT", "LoCon", true},
                 {"peft_dora", "PEFT", "DoRA", false}};
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        const char *path = test_text(pipe, "%s/%s", TEST_LORA, files[i].name);
        sara_adapter_report *r = inspect(pipe, path, NULL);
        assert_string_equal(r->layout, files[i].layout);
        if (strcmp(r->method, files[i].method) != 0)
            fail_msg("%s: %s", files[i].name, r->method);
        assert_int_equal(!isnan(r->change_norm), files[i].known);
        sara_adapter_report_free(pipe->ctx, r);
    }
}

/* PEFT's scales are in its config, for each layer. */
static void test_peft(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    sara_adapter_report *alone = inspect(pipe, TEST_LORA "/peft", NULL);
    sara_adapter_report *beside = inspect(pipe, TEST_LORA "/peft", model);
    assert_close(fabs(alone->change_norm / beside->change_norm - 1), 1e-5, "change");
    sara_adapter_report_free(pipe->ctx, alone);
    sara_adapter_report_free(pipe->ctx, beside);
    sara_model_free(model);
}

static void test_adaptformer(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SARA_TEST_GOLDEN "/unet_sd1", true);
    sara_adapter_report *r =
        inspect(pipe, SARA_TEST_GOLDEN "/adaptformer_sd1_start.safetensors", model);
    assert_string_equal(r->method, "adaptformer");
    assert_string_equal(r->target, "unet");
    assert_int_equal(r->layers, 4);
    assert_int_equal(r->width, 8);
    assert_true(r->scale == 0.5 && isnan(r->change_norm));
    assert_int_equal(r->entries, 340 * 8 + 168);
    sara_adapter_report_free(pipe->ctx, r);
    sara_model_free(model);
}

static void test_refused(void **state)
{
    test_pipe *pipe = *state;
    const char *path = TEST_LORA "/kohya_sd1.safetensors";
    sara_model *other = test_model(pipe, TEST_TINY, true);
    sara_adapter_report *r = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "the model does not have ",
                   sara_adapter_inspect(pipe->ctx, &r, path, other, false));
    assert_null(r);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "made for the base ",
                   sara_adapter_inspect(pipe->ctx, &r,
                                        SARA_TEST_GOLDEN "/adaptformer_sd1_start.safetensors",
                                        other, false));
    sara_model_free(other);
}

/* NaN, and a factor that is missing. */
static void test_damaged(void **state)
{
    static const float values[4] = {1, 2, (float)NAN, 4};
    static const char *const faults[] = {"value 2 is NaN", "second factor"};
    test_pipe *pipe = *state;
    for (size_t i = 0; i < 2; i++) {
        const sara_tensor_source tensors[] = {
            {"lora_unet_conv_in.lora_down.weight", SARA_F32, sara_shape2(1, 4), values},
            {"lora_unet_conv_in.lora_up.weight", SARA_F32, sara_shape2(4, 1), values}};
        const char *path = test_path(pipe, "damaged.safetensors");
        sara_adapter_report *r = NULL;
        assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 2 - i, NULL, 0));
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, faults[i],
                       sara_adapter_inspect(pipe->ctx, &r, path, NULL, false));
    }
}

static void test_integer_alpha(void **state)
{
    static const float values[2] = {1, 1};
    static const int32_t alpha = 3;
    const sara_tensor_source tensors[] = {
        {"lora_unet_conv_in.alpha", SARA_I32, sara_shape1(1), &alpha},
        {"lora_unet_conv_in.lora_down.weight", SARA_F32, sara_shape2(1, 2), values},
        {"lora_unet_conv_in.lora_up.weight", SARA_F32, sara_shape2(2, 1), values}};
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "integer.safetensors");
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 3, NULL, 0));
    sara_adapter_report *r = inspect(pipe, path, NULL);
    assert_true(r->alpha_low == 3 && r->alpha_high == 3);
    assert_close(fabs(r->change_norm - 6), 1e-6, "change");
    sara_adapter_report_free(pipe->ctx, r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_kohya),         TEST_CASE(test_layouts), TEST_CASE(test_peft),
        TEST_CASE(test_adaptformer),   TEST_CASE(test_refused), TEST_CASE(test_damaged),
        TEST_CASE(test_integer_alpha),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
