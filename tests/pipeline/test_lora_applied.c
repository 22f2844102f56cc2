/* LoRA files on a model: sums in any order, taking off, text encoders and the prompts that are
 * encoded with them, what is saved. */
#include "support/memory.h"
#include "support_lora.h"

#include <stdlib.h>

#define KOHYA   TEST_LORA "/kohya_sd1.safetensors"
#define LYCORIS TEST_LORA "/lycoris.safetensors"
#define PEFT    TEST_LORA "/peft_dora"

typedef struct all_values {
    float *values;       /* of U-Net and text encoder, one after the other */
    size_t count, bytes; /* bytes: of the parameters' memory */
} all_values;

/* Lives as long as the test. The text encoder is read where it is not in memory. */
static all_values read_all(test_pipe *pipe, sara_model *model)
{
    static const int parts[] = {TEST_DENOISER, TEST_TEXT};
    all_values all = {NULL, 0, 0};
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT));
    for (int i = 0; i < 2; i++)
        all.count += (size_t)sara_params_entries(&model->parts[parts[i]].network->params);
    assert_ok(pipe->ctx,
              sara_arena_alloc(&pipe->strings, &all.values, all.count, sizeof(*all.values)));
    all.count = 0;
    for (int i = 0; i < 2; i++) {
        const sara_params *params = &model->parts[parts[i]].network->params;
        all.bytes += (size_t)sara_params_bytes(params);
        for (size_t p = 0; p < params->count; p++) {
            sara_param copy;
            assert_ok(pipe->ctx, sara_param_read(pipe->ctx, &copy, &params->items[p]));
            for (int64_t e = 0; e < sara_shape_count(&copy.value.shape); e++)
                all.values[all.count++] = sara_param_get(&copy, (size_t)e);
            sara_param_read_end(pipe->ctx, &copy, &params->items[p]);
        }
    }
    return all;
}

static bool is_same(const all_values *a, const all_values *b)
{
    return a->count == b->count && a->bytes == b->bytes &&
           memcmp(a->values, b->values, a->count * sizeof(*a->values)) == 0;
}

static void apply(test_pipe *pipe, sara_model *model, const char *path, double strength)
{
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, strength, false));
}

/* ----------------------------------------------------------------------------- sums and removal */

static void test_sums_in_any_order(void **state)
{
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};
    static const double strengths[] = {0.7, 0.7, -0.4, 1};
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const char *own = test_adapter(pipe, "own", model, 3, 0.25f);
    const char *const files[] = {KOHYA, LYCORIS, PEFT, own};
    const all_values before = read_all(pipe, model);
    all_values first = {NULL, 0, 0};
    for (int o = 0; o < 4; o++) {
        for (int i = 0; i < 4; i++)
            apply(pipe, model, files[orders[o][i]], strengths[orders[o][i]]);
        const all_values now = read_all(pipe, model);
        if (o == 0)
            first = now;
        assert_true(is_same(&now, &first));
        assert_false(is_same(&now, &before));
        assert_ok(pipe->ctx, sara_model_remove(model));
        const all_values after = read_all(pipe, model);
        assert_true(is_same(&after, &before));
    }
    sara_model_free(model);
}

/* What is taken off is as if it had never been on, and 0 is nothing. */
static void test_taken_off(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const char *own = test_adapter(pipe, "own", model, 3, 0.25f);
    const all_values before = read_all(pipe, model);
    apply(pipe, model, own, 1);
    const all_values alone = read_all(pipe, model);
    apply(pipe, model, KOHYA, 0.5);
    apply(pipe, model, LYCORIS, 2);
    assert_ok(pipe->ctx, sara_model_truncate(model, 2));
    const all_values two = read_all(pipe, model);
    assert_ok(pipe->ctx, sara_model_truncate(model, 1));
    const all_values one = read_all(pipe, model);
    assert_true(is_same(&one, &alone));
    apply(pipe, model, KOHYA, 0.5);
    const all_values again = read_all(pipe, model);
    assert_true(is_same(&again, &two));
    assert_ok(pipe->ctx, sara_model_remove(model));
    apply(pipe, model, KOHYA, 0);
    apply(pipe, model, PEFT, 0);
    const all_values zero = read_all(pipe, model);
    assert_int_equal(memcmp(zero.values, before.values, before.count * sizeof(float)), 0);
    sara_model_free(model);
}

static void test_threads(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = test_lora_folder(pipe, "threads", false);
    all_values first = {NULL, 0, 0};
    for (int threads = 1; threads <= 3; threads++) {
        const sara_context_options options = {.threads = threads};
        test_pipe other = *pipe;
        sara_model *model;
        assert_int_equal(sara_context_new(&other.ctx, &options), SARA_OK);
        model = test_model(&other, folder, false);
        apply(&other, model, KOHYA, 1);
        apply(&other, model, LYCORIS, 0.3);
        const all_values now = read_all(&other, model);
        pipe->strings = other.strings;
        first = threads == 1 ? now : first;
        assert_true(is_same(&now, &first));
        sara_model_free(model);
        sara_context_free(other.ctx);
    }
}

/* In memory that the host cannot touch. */
static void test_apart(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = test_lora_folder(pipe, "apart", false);
    all_values on[2], after[2];
    for (int i = 0; i < 2; i++) {
        const sara_model_options options = {.device = i ? "cpu-apart" : "cpu"};
        sara_model *model = NULL;
        assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, folder, &options));
        apply(pipe, model, test_adapter(pipe, "own", model, 5, 0.5f), 1);
        apply(pipe, model, KOHYA, 1);
        apply(pipe, model, LYCORIS, 0.3);
        on[i] = read_all(pipe, model);
        sara_model_release(model);
        assert_ok(pipe->ctx, sara_model_remove(model));
        after[i] = read_all(pipe, model);
        sara_model_free(model);
    }
    assert_true(is_same(&on[0], &on[1]));
    assert_true(is_same(&after[0], &after[1]));
    assert_false(is_same(&on[0], &after[0]));
}

/* -------------------------------------------------------------------------------- text encoders */

static void test_tags(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    test_lora_expect(pipe, model, "<lora:kohya_sd1>", "kohya_sd1");
    assert_int_equal(model->adapter_count, 0);
    test_lora_expect(pipe, model, NULL, "sd1");
    test_lora_expect(pipe, model, "<lora:lycoris:0.6>", "lycoris_0.6");
    test_lora_expect(pipe, model, "<lora:peft>", "peft"); /* a folder */
    test_lora_expect(pipe, model, "<lora:kohya_sd1:0.25> <lora:kohya_sd1:0.75>", "kohya_sd1");
    sara_model_free(model);
}

static void encode_ahead(test_pipe *pipe, sara_model *model, const char *tags)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = test_text(pipe, "a red barn%s", tags);
    options.negative_prompt = "grey";
    options.lora_model_dir = TEST_LORA;
    options.guidance_scale = 3;
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
}

/* Each with the adapters that are on then: the text encoder is not read again for any. */
static void test_encoded_ahead(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const sara_network *text = model->parts[TEST_TEXT].network;
    encode_ahead(pipe, model, "");
    encode_ahead(pipe, model, "<lora:kohya_sd1>");
    assert_int_equal(model->adapter_count, 0);
    sara_model_release(model);
    assert_false(text->there);
    test_lora_expect(pipe, model, NULL, "sd1");
    test_lora_expect(pipe, model, "<lora:kohya_sd1>", "kohya_sd1");
    assert_false(text->there);
    apply(pipe, model, KOHYA, 1); /* another way to the same states */
    test_lora_expect(pipe, model, NULL, "kohya_sd1");
    assert_false(text->there);
    assert_ok(pipe->ctx, sara_model_remove(model));
    apply(pipe, model, TEST_LORA "/diffusers.safetensors", 1); /* which none was encoded with */
    test_lora_expect(pipe, model, NULL, "diffusers");
    assert_true(text->there);
    sara_model_free(model);
}

/* What is on is on again when the values are. */
static void test_read_again(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const sara_network *text = model->parts[TEST_TEXT].network;
    const all_values before = read_all(pipe, model);
    apply(pipe, model, KOHYA, 0.5);
    const all_values on = read_all(pipe, model);
    sara_model_release(model);
    for (size_t i = 0; i < text->params.count; i++)
        assert_null(text->params.items[i].value.data);
    const all_values again = read_all(pipe, model);
    assert_true(is_same(&again, &on));
    sara_model_release(model);
    apply(pipe, model, TEST_LORA "/diffusers.safetensors", 1); /* while they are away */
    assert_ok(pipe->ctx, sara_model_truncate(model, 1));
    const all_values once_more = read_all(pipe, model);
    assert_true(is_same(&once_more, &on));
    sara_model_release(model);
    assert_ok(pipe->ctx, sara_model_remove(model));
    const all_values after = read_all(pipe, model);
    assert_true(is_same(&after, &before));
    sara_model_free(model);
}

/* A text encoder in fp16 sums up in float32, as the same values in float32 do. */
static void test_halves(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_lora_model(pipe, false);
    const char *half = test_path(pipe, "half"), *full = test_path(pipe, "full");
    const sara_params *params;
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, half, "fp16"));
    sara_model_free(model);
    model = test_model(pipe, half, false);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, full, "fp32"));
    const all_values before = read_all(pipe, model);
    params = &model->parts[TEST_TEXT].network->params;
    const sara_param *weight =
        sara_params_find(params, "text_model.encoder.layers.0.mlp.fc1.weight");
    weight = weight ? weight : sara_params_find(params, "encoder.layers.0.mlp.fc1.weight");
    assert_int_equal(weight->value.dtype, SARA_F16);
    apply(pipe, model, KOHYA, 0.3);
    assert_int_equal(weight->value.dtype, SARA_F32);
    const all_values on = read_all(pipe, model);
    assert_ok(pipe->ctx, sara_model_remove(model));
    assert_int_equal(weight->value.dtype, SARA_F16);
    const all_values after = read_all(pipe, model);
    assert_true(is_same(&after, &before));
    sara_model_free(model);
    model = test_model(pipe, full, false);
    apply(pipe, model, KOHYA, 0.3);
    const all_values floats = read_all(pipe, model);
    size_t unet = (size_t)sara_params_entries(&model->denoiser->params);
    assert_int_equal(
        memcmp(on.values + unet, floats.values + unet, (on.count - unet) * sizeof(float)), 0);
    sara_model_free(model);
}

/* ---------------------------------------------------------------------------------------- saved */

/* Single files have no tokenizer. */
static sara_model *load_saved(test_pipe *pipe, const char *path)
{
    const char *tokenizer = sara_path_is_directory(path) ? NULL : TEST_GOLDEN_MODEL "/tokenizer";
    const sara_model_options options = {.tokenizer = tokenizer};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    return model;
}

/* Draws the same without the adapter. */
static void check_saved(test_pipe *pipe, const char *path, const char *name)
{
    sara_model *model = load_saved(pipe, path);
    test_lora_expect(pipe, model, NULL, name);
    sara_model_free(model);
}

static void test_saved(void **state)
{
    test_pipe *pipe = *state;
    for (int sd2 = 0; sd2 < 2; sd2++) {
        const char *name = sd2 ? "kohya_sd2" : "kohya_sd1";
        const char *folder = test_path(pipe, test_text(pipe, "folder_%s", name));
        const char *file = test_path(pipe, test_text(pipe, "%s.safetensors", name));
        const char *copy = test_path(pipe, test_text(pipe, "copy_%s.safetensors", name));
        const char *plain = test_path(pipe, test_text(pipe, "plain_%s.safetensors", name));
        const char *lora = test_text(pipe, TEST_LORA "/%s.safetensors", name);
        sara_model *model = test_lora_model(pipe, sd2);
        sara_save_report unet_only, report;
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, plain, NULL));
        apply(pipe, model, lora, 1);
        sara_model_release(model); /* it is saved with what is on all the same */
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, &report, model, folder, NULL));
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, file, NULL));
        check_saved(pipe, folder, name);
        check_saved(pipe, file, name);
        assert_ok(pipe->ctx, sara_model_remove(model));
        sara_model_free(model);
        model = load_saved(pipe, plain); /* from file to file */
        test_lora_expect(pipe, model, NULL, sd2 ? "sd2" : "sd1");
        apply(pipe, model, lora, 1);
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, copy, NULL));
        check_saved(pipe, copy, name);
        assert_ok(pipe->ctx, sara_model_remove(model));
        if (!sd2) { /* its U-Net's part alone changes so much less */
            apply(pipe, model, TEST_LORA "/kohya_unet.safetensors", 1);
            assert_ok(pipe->ctx, sara_model_save(pipe->ctx, &unet_only, model,
                                                 test_path(pipe, "unet.safetensors"), NULL));
            assert_true(report.changed > unet_only.changed + 500);
        }
        sara_model_free(model);
    }
}

/* -------------------------------------------------------------------------------------- memory */

/* One after the other, with the text encoder coming and going. */
static sara_status apply_in_turns(sara_context *ctx, sara_model *model)
{
    sara_status status;
    TRY(sara_model_apply(ctx, model, PEFT, 1, false));
    TRY(sara_model_apply(ctx, model, TEST_LORA "/diffusers_mid.safetensors", 1, false));
    TRY(sara_model_apply(ctx, model, LYCORIS, 0.5, false));
    sara_model_release(model);
    TRY(sara_model_need(model, SARA_STAGE_TEXT));
done:
    return status;
}

static void check_values(test_pipe *pipe, sara_model *model, const all_values *expected)
{
    test_pipe own = *pipe;
    sara_arena_init(&own.strings, pipe->ctx);
    const all_values now = read_all(&own, model);
    assert_true(is_same(&now, expected));
    sara_arena_free(&own.strings);
}

/* Whatever fails, what was on before is on after it. */
static void test_allocations(void **state)
{
    test_allocator allocator;
    all_values states[4];
    test_pipe *pipe = *state, other = *pipe;
    sara_model *model;
    long n = 0;
    other.ctx = test_allocator_context(&allocator);
    model = test_lora_model(&other, false);
    assert_ok(other.ctx, apply_in_turns(other.ctx, model));
    for (size_t on = 4; on-- > 0;) {
        assert_ok(other.ctx, sara_model_truncate(model, on));
        states[on] = read_all(&other, model);
    }
    long alive = allocator.alive;
    for (bool failed = true; failed; n += 1 + n / 100) { /* the later ones are alike */
        allocator.left = n;
        allocator.failures = 0;
        sara_status status = apply_in_turns(other.ctx, model);
        failed = allocator.failures > 0;
        allocator.left = -1;
        assert_int_equal(status, failed ? SARA_ERROR_MEMORY : SARA_OK);
        check_values(&other, model, &states[model->adapter_count]);
        assert_ok(other.ctx, sara_model_remove(model));
        if (n % 50 == 0)
            check_values(&other, model, &states[0]);
    }
    assert_true(n > 100);
    assert_true(allocator.alive < alive + 20); /* the sets and the list of adapters */
    sara_model_free(model);
    pipe->strings = other.strings;
    sara_context_free(other.ctx);
    assert_int_equal(allocator.alive, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_sums_in_any_order),
                                       TEST_CASE(test_taken_off),
                                       TEST_CASE(test_threads),
                                       TEST_CASE(test_apart),
                                       TEST_CASE(test_tags),
                                       TEST_CASE(test_encoded_ahead),
                                       TEST_CASE(test_read_again),
                                       TEST_CASE(test_halves),
                                       TEST_CASE(test_saved),
                                       TEST_CASE(test_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
