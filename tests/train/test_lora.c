/* --method lora and --method dora: branches of low rank beside weights, against PEFT, cut and
 * resumed; their files in both layouts. */
#include "support_recorded.h"

#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define RESULT "lora.safetensors"

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

static void refuse(test_run *run, sara_status status, const char *name, const char *value,
                   const char *line)
{
    const sara_train_options before = run->options;
    set(run, name, value);
    assert_refused(run->ctx, status, line, test_run_train(run));
    run->options = before;
}

/* SD1's kind, a few steps. */
static void use_lora(test_run *run, const char *method)
{
    run->options.method = method;
    run->options.lr_scheduler = "constant";
    run->options.max_train_steps = 3;
    run->options.seed = 7;
}

static const char *start_of(test_run *run, const char *recorded)
{
    return test_text(run, "%s/%s_start.safetensors", SARA_TEST_GOLDEN, recorded);
}

static sara_safetensors *open_result(test_run *run)
{
    return test_open(run->ctx, test_text(run, "%s/" RESULT, run->output));
}

/* ----------------------------------------------------------------------------------------- PEFT */

static void replay_recorded(test_run *run, const char *method, const char *recorded,
                            const char *kind)
{
    const char *start = start_of(run, test_text(run, "%s_%s", recorded, kind));
    run->options.method = method;
    run->options.adapter = start;
    sara_safetensors *file = test_recorded_open(run, recorded, kind);
    assert_ok(run->ctx, test_run_train(run));
    test_recorded_losses(run, file);
    test_recorded_values(run, file, start, test_text(run, "%s/" RESULT, run->output), 2e-3);
    sara_safetensors_close(file);
}

static void test_lora(void **state)
{
    replay_recorded(*state, "lora", "lora", "sd1");
}

static void test_lora_all(void **state)
{
    replay_recorded(*state, "lora", "lora_all", "sd2");
}

static void test_dora(void **state)
{
    replay_recorded(*state, "dora", "dora", "sd2");
}

static void test_dora_all(void **state)
{
    replay_recorded(*state, "dora", "dora_all", "sd1");
}

/* ------------------------------------------------------------------------------ what is trained */

static void test_frozen(void **state)
{
    test_run *run = *state;
    use_lora(run, "dora");
    set(run, "lora_targets", "all");
    test_recorded_frozen(run);
}

/* New ones change nothing: the first loss is the base's. Down has the deviation 1 / rank. */
static void check_new(test_run *run, const char *method)
{
    double losses[3], base[3];
    sara_train_result result;
    use_lora(run, method);
    set(run, "network_dim", "8");
    set(run, "network_alpha", "2.5");
    set(run, "lora_targets", "all");
    set(run, "learning_rate", "1e-25");
    test_run_output(run, method);
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_string_equal(result.result, RESULT);
    assert_non_null(strstr(run->log, "layers, rank 8, alpha 2.5; learning rate"));
    test_run_column(run, losses, 3, "loss");
    sara_safetensors *file = open_result(run);
    double square = 0, all = 0;
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const char *name = sara_safetensors_at(file, i)->name;
        size_t count;
        float *data = test_load_f32(run->ctx, file, name, &count);
        bool is_down = strstr(name, ".lora_down.weight") != NULL;
        for (size_t k = 0; k < count; k++) {
            square += is_down ? (double)data[k] * data[k] : 0;
            if (strstr(name, ".lora_up.weight"))
                assert_true(fabs((double)data[k]) < 1e-20);
            if (strstr(name, ".alpha"))
                assert_true(data[k] == 2.5f);
        }
        all += is_down ? (double)count : 0;
        sara_free(run->ctx, data);
    }
    assert_close(fabs(sqrt(square / all) * 8 - 1), 0.02, "deviation of down");
    assert_string_equal(sara_safetensors_metadata(file, "sara.method"), method);
    assert_string_equal(sara_safetensors_metadata(file, "sara.rank"), "8");
    assert_string_equal(sara_safetensors_metadata(file, "ss_network_module"), "networks.lora");
    assert_string_equal(sara_safetensors_metadata(file, "ss_network_dim"), "8");
    assert_string_equal(sara_safetensors_metadata(file, "ss_network_alpha"), "2.5");
    sara_safetensors_close(file);
    run->options.method = "sara";
    run->options.rank = 0;
    run->options.lora_alpha = 0;
    run->options.lora_targets = NULL;
    test_run_output(run, test_text(run, "base-%s", method));
    assert_ok(run->ctx, test_run_train(run));
    test_run_column(run, base, 3, "loss");
    for (int i = 0; i < 3; i++)
        assert_close(fabs(losses[i] / base[i] - 1), strcmp(method, "lora") == 0 ? 0 : 1e-6, "loss");
}

static void test_new(void **state)
{
    check_new(*state, "lora");
    check_new(*state, "dora");
}

/* Another seed draws other values. */
static void test_seed(void **state)
{
    test_run *run = *state;
    use_lora(run, "lora");
    assert_ok(run->ctx, test_run_train(run));
    const char *first = test_run_sha256(run);
    run->options.seed++;
    test_run_output(run, "other");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_not_equal(test_run_sha256(run), first);
}

/* The rank that comes nearest, from one up: 2672 entries each, and DoRA's 1344 magnitudes. */
static void test_size(void **state)
{
    static const struct {
        const char *method, *targets, *size;
        int rank;
        int64_t entries;
    } cases[] = {{"lora", NULL, "20k", 7, 7 * 2672},  {"dora", NULL, "10k", 3, 3 * 2672 + 1344},
                 {"lora", NULL, "5", 1, 2672},        {"lora", NULL, "5.8%", 20, 20 * 2672},
                 {"lora", "linear", "20k", 3, 20760}, {"lora", "all", "40k", 2, 40704}};
    test_run *run = *state;
    run->options.max_train_steps = 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_train_result result;
        run->options.method = cases[i].method;
        run->options.trainable = cases[i].size;
        run->options.lora_targets = cases[i].targets;
        test_run_output(run, test_text(run, "size-%d", (int)i));
        assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
        sara_safetensors *file = open_result(run);
        assert_int_equal(atoi(sara_safetensors_metadata(file, "sara.rank")), cases[i].rank);
        assert_int_equal(result.selected, cases[i].entries);
        sara_safetensors_close(file);
    }
}

/* ------------------------------------------------------------------------------------- resuming */

static void cut_and_resume(test_run *run, const char *method, const char *dtype)
{
    use_lora(run, method);
    run->options.weight_dtype = dtype;
    run->options.lora_targets = "all";
    run->options.max_train_steps = 4;
    test_run_output(run, test_text(run, "whole-%s-%s", method, dtype));
    assert_ok(run->ctx, test_run_train(run));
    const char *whole = test_run_sha256(run), *lines = test_run_lines(run);
    for (int64_t cut = 1; cut < 4; cut++) {
        test_run_output(run, test_text(run, "cut-%s-%s-%d", method, dtype, (int)cut));
        run->interrupt_at = cut;
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->interrupt_at = -1;
        run->options.resume_from_checkpoint = "latest";
        assert_ok(run->ctx, test_run_train(run));
        run->options.resume_from_checkpoint = NULL;
        assert_string_equal(test_run_sha256(run), whole);
        assert_string_equal(test_run_lines(run), lines);
    }
}

static void test_resume(void **state)
{
    cut_and_resume(*state, "lora", "fp32");
    cut_and_resume(*state, "dora", "bf16");
}

/* At a strength of 0.5 a LoRA's up is half of what it was. */
static void test_strength(void **state)
{
    static const char *const names[] = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"};
    test_run *run = *state;
    use_lora(run, "lora");
    assert_ok(run->ctx, test_run_train(run));
    sara_safetensors *first = open_result(run);
    run->options.adapter = test_text(run, "%s/" RESULT ":0.5", run->output);
    set(run, "learning_rate", "1e-25");
    test_run_output(run, "half");
    assert_ok(run->ctx, test_run_train(run));
    sara_safetensors *half = open_result(run);
    for (int i = 0; i < 2; i++) {
        size_t count;
        float *before = test_load_f32(run->ctx, first, names[i], &count);
        float *after = test_load_f32(run->ctx, half, names[i], &count);
        for (size_t k = 0; k < count; k++)
            assert_close(fabs((double)after[k] - (double)before[k] * (i == 0 ? 0.5 : 1)), 1e-20,
                         names[i]);
        assert_true(before[0] != 0);
        sara_free(run->ctx, before);
        sara_free(run->ctx, after);
    }
    sara_safetensors_close(first);
    sara_safetensors_close(half);
}

/* A run that began from a file goes on without it. */
static void test_resume_from_adapter(void **state)
{
    test_run *run = *state;
    use_lora(run, "lora");
    test_run_copy(run, "start.safetensors", start_of(run, "lora_sd1"));
    const char *start = test_text(run, "%s/start.safetensors:0.5", run->folder);
    run->options.adapter = start;
    assert_ok(run->ctx, test_run_train(run));
    const char *whole = test_run_sha256(run);
    test_run_output(run, "cut");
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
    run->interrupt_at = -1;
    assert_int_equal(remove(test_text(run, "%s/start.safetensors", run->folder)), 0);
    run->options.resume_from_checkpoint = "latest";
    run->options.adapter = NULL;
    refuse(run, SARA_ERROR_USAGE, "rank", "8", "that it began with; leave --rank out");
    refuse(run, SARA_ERROR_USAGE, "lora_alpha", "8", "that it began with; leave --lora_alpha out");
    refuse(run, SARA_ERROR_USAGE, "lora_targets", "all", "began with; leave --lora_targets out");
    refuse(run, SARA_ERROR_USAGE, "trainable", "20k", "began with; leave --trainable out");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), whole);
}

/* -------------------------------------------------------------------------------- PEFT's folder */

/* The values of the other layout, under PEFT's names. */
static void test_peft(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    use_lora(run, "dora");
    run->options.lora_targets = "all";
    set(run, "lora_alpha", "3");
    assert_ok(run->ctx, test_run_train(run));
    sara_safetensors *kohya = open_result(run);
    run->options.save_as = "peft";
    test_run_output(run, "peft");
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_string_equal(result.result, "lora");
    assert_false(test_run_has(run, RESULT));
    sara_safetensors *peft =
        test_open(run->ctx, test_text(run, "%s/lora/adapter_model.safetensors", run->output));
    static const char *const pairs[][2] = {
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
         "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"},
        {"conv_in.lora_B.weight", "conv_in.lora_up.weight"},
        {"conv_in.lora_magnitude_vector", "conv_in.dora_scale"}};
    for (size_t i = 0; i < 3; i++) {
        size_t count, other;
        float *a = test_load_f32(run->ctx, peft, test_text(run, "base_model.model.%s", pairs[i][0]),
                                 &count);
        float *b =
            test_load_f32(run->ctx, kohya, test_text(run, "lora_unet_%s", pairs[i][1]), &other);
        assert_int_equal(count, other);
        assert_memory_equal(a, b, count * sizeof(*a));
        sara_free(run->ctx, a);
        sara_free(run->ctx, b);
    }
    json_t *config = NULL;
    assert_ok(run->ctx,
              sara_json_load(run->ctx, &config,
                             test_text(run, "%s/lora/adapter_config.json", run->output), false));
    assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
    assert_int_equal(json_integer_value(json_object_get(config, "lora_alpha")), 3);
    assert_true(json_is_true(json_object_get(config, "use_dora")));
    json_decref(config);
    sara_safetensors_close(peft);
    sara_safetensors_close(kohya);
    run->options.adapter = test_text(run, "%s/lora", run->output); /* and on from it */
    run->options.lora_targets = NULL;
    run->options.lora_alpha = 0;
    test_run_output(run, "on");
    assert_ok(run->ctx, test_run_train(run));
    run->options.max_train_steps = 4; /* a longer run writes into the folder */
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
}

/* ------------------------------------------------------------------------------------- refusals */

/* A LoRA with a layer of the model and one that it lacks. */
static const char *other_layers(test_run *run)
{
    static const float zeros[32];
    const char *path = test_text(run, "%s/others.safetensors", run->folder);
    const char *layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k";
    const sara_shape down = sara_shape2(1, 32), up = sara_shape2(32, 1);
    const sara_tensor_source tensors[] = {
        {test_text(run, "%s.lora_down.weight", layer), SARA_F32, down, zeros},
        {test_text(run, "%s.lora_up.weight", layer), SARA_F32, up, zeros},
        {"lora_unet_other.lora_down.weight", SARA_F32, down, zeros},
        {"lora_unet_other.lora_up.weight", SARA_F32, up, zeros}};
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, tensors, 4, NULL, 0));
    return path;
}

static void test_refusals(void **state)
{
    test_run *run = *state;
    use_lora(run, "lora");
    const sara_status usage = SARA_ERROR_USAGE, input = SARA_ERROR_INPUT;
    refuse(run, usage, "threshold", "0.002", "--threshold 0.002: goes with --method sara");
    refuse(run, usage, "lambda_rank", "0", "--lambda_rank 0: goes with --method sara");
    refuse(run, usage, "progressive_iter", "2", "--progressive_iter 2: goes with --method sara");
    refuse(run, usage, "lora_targets", "mlp",
           "--lora_targets mlp: expected attention, linear or all");
    refuse(run, usage, "save_as", "ckpt", "--save_as ckpt: expected kohya or peft");
    run->options.rank = 3;
    refuse(run, usage, "trainable", "20k", "--rank 3 and --trainable 20k: give one of them");
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    refuse(run, usage, "rank", "5", "the run has rank = 3, now it is 5");
    refuse(run, usage, "learning_rate", "0.00010000000000000002",
           "the run has learning_rate = 0.0001, now it is 0.00010000000000000002;");
    refuse(run, usage, "save_as", "peft", "the run has save_as = \"kohya\", now it is \"peft\"");
    refuse(run, usage, "method", "dora", "the run has method = \"lora\", now it is \"dora\"");
    run->options.resume_from_checkpoint = NULL;
    run->options.rank = 0;
    test_run_output(run, "other");
    refuse(run, input, "adapter", start_of(run, "dora_all_sd1"),
           "has a magnitude (a DoRA); --method dora goes on from it");
    refuse(run, input, "adapter", start_of(run, "adaptformer_sd1"),
           "holds an adapter of adaptformer; --method lora goes on from LoRA files");
    refuse(run, input, "adapter", other_layers(run),
           "changes 1 layers that the model does not have, of which a run would lose the changes");
    run->options.adapter = start_of(run, "lora_sd1");
    refuse(run, usage, "rank", "4", "it says what is trained; leave --rank out");
    refuse(run, usage, "lora_alpha", "4", "leave --lora_alpha out");
    refuse(run, usage, "lora_targets", "all", "leave --lora_targets out");
    refuse(run, usage, "trainable", "20k", "leave --trainable out");
    refuse(run, input, "method", "dora",
           "has no magnitude (a LoRA); --method lora goes on from it");
    run->options.method = "dora";
    refuse(run, usage, "adapter", test_text(run, "%s:0.5", start_of(run, "dora_all_sd1")),
           "a DoRA is no DoRA at another strength");
}

/* 0 / 0 in DoRA. */
static void test_zero_output(void **state)
{
    static const char name[] = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight";
    const sara_model_options options = {.unet_only = true};
    test_run *run = *state;
    const char *path = test_text(run, "%s/zero", run->folder);
    sara_model *model = NULL;
    use_lora(run, "dora");
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    sara_tensor *weight = &sara_params_find(&model->denoiser->params, name)->value;
    memset((float *)weight->data + 3 * weight->shape.dims[1], 0,
           (size_t)weight->shape.dims[1] * sizeof(float));
    assert_ok(run->ctx, sara_model_save(run->ctx, NULL, model, path, NULL));
    sara_model_free(model);
    run->options.unet_only = path;
    assert_refused(run->ctx, SARA_ERROR_INPUT,
                   test_text(run, "%s: the weights of output 3 are all 0", name),
                   test_run_train(run));
    run->options.method = "lora";
    assert_ok(run->ctx, test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_lora),
        TEST_CASE(test_lora_all),
        TEST_CASE(test_dora),
        TEST_CASE(test_dora_all),
        TEST_CASE(test_frozen),
        TEST_CASE(test_new),
        TEST_CASE(test_seed),
        TEST_CASE(test_strength),
        TEST_CASE(test_size),
        TEST_CASE(test_resume),
        TEST_CASE(test_resume_from_adapter),
        TEST_CASE(test_peft),
        TEST_CASE(test_refusals),
        TEST_CASE(test_zero_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
