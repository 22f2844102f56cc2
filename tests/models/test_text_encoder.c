#include "support_models.h"

#include "models/clip.h"

#include <math.h>
#include <stdlib.h>

#define GELU SARA_TEST_GOLDEN "/text_gelu"

typedef struct run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *text;
    int32_t *ids;
    int64_t batch, count;
} run;

static run run_open(const char *folder, const char *device)
{
    run r = {.ctx = test_context()};
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_network_load(r.device, &r.text, &sara_clip_text_class, folder, NULL,
                                       SARA_STORE_F32));
    return r;
}

static void run_close(run *r)
{
    sara_free(r->ctx, r->ids);
    sara_network_free(r->text);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

static sara_safetensors *open_golden(run *r, const char *folder)
{
    char *path;
    assert_ok(r->ctx, sara_path_join(r->ctx, &path, folder, "golden.safetensors"));
    sara_safetensors *golden = test_open(r->ctx, path);
    r->ids = test_load_ids(r->ctx, golden, &r->batch, &r->count);
    sara_free(r->ctx, path);
    return golden;
}

static void check_golden(const char *folder, const char *device)
{
    run r = run_open(folder, device);
    sara_safetensors *golden = open_golden(&r, folder);
    sara_var *states, *pooled;
    assert_ok(r.ctx,
              sara_clip_text_forward(r.tape, &states, &pooled, r.text, 0, r.ids, r.batch, r.count));
    assert_close(test_var_error(r.ctx, states, golden, "last_hidden_state"), 1e-4, "states");
    assert_close(test_var_error(r.ctx, pooled, golden, "pooler_output"), 1e-4, "pooled");
    assert_ok(r.ctx,
              sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, r.ids, r.batch, r.count));
    assert_close(test_var_error(r.ctx, states, golden, "last_hidden_state"), 1e-4, "states");
    sara_safetensors_close(golden);
    run_close(&r);
}

static void test_equals_transformers(void **state)
{
    (void)state;
    static const char *const folders[] = {GELU, SARA_TEST_GOLDEN "/text_quick_gelu",
                                          SARA_TEST_GOLDEN "/variants/text_eps"};
    for (int i = 0; i < 3; i++) {
        check_golden(folders[i], "cpu-plain");
        check_golden(folders[i], "cpu");
    }
}

/* What a config leaves out is what transformers' CLIPTextConfig() has. */
static void test_defaults(void **state)
{
    (void)state;
    static const char folder[] = SARA_TEST_GOLDEN "/text_quick_gelu";
    run r = run_open(folder, "cpu");
    sara_safetensors *golden = open_golden(&r, folder);
    sara_component component;
    sara_var *states;
    sara_network_free(r.text);
    assert_ok(r.ctx, sara_component_open(r.ctx, &component, folder, SARA_TRANSFORMERS_STEM, NULL));
    assert_int_equal(json_object_del(component.config, "hidden_act"), 0);
    assert_int_equal(json_object_del(component.config, "layer_norm_eps"), 0);
    assert_int_equal(json_object_del(component.config, "max_position_embeddings"), 0);
    assert_int_equal(json_object_del(component.config, "eos_token_id"), 0);
    assert_ok(r.ctx, sara_network_open(r.device, &r.text, &sara_clip_text_class, &component,
                                       SARA_STORE_F32));
    assert_ok(r.ctx, sara_network_read(r.text));
    assert_int_equal(r.text->info.text.eos_token_id, 49407);
    assert_ok(r.ctx,
              sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, r.ids, r.batch, r.count));
    assert_close(test_var_error(r.ctx, states, golden, "last_hidden_state"), 1e-4, "states");
    sara_component_close(&component);
    sara_safetensors_close(golden);
    run_close(&r);
}

/* The same of its sizes: without a field the weights do not fit, and the error tells what would. */
static void test_default_sizes(void **state)
{
    (void)state;
    static const char folder[] = SARA_TEST_GOLDEN "/text_quick_gelu";
    static const struct {
        const char *left_out, *set, *error;
    } cases[] = {
        {"vocab_size", "{}", "token_embedding.weight: shape [300,64], expected [49408,64]"},
        {"hidden_size", "{}", "token_embedding.weight: shape [300,64], expected [300,512]"},
        {"intermediate_size", "{}", "mlp.fc1.bias: shape [160], expected [2048]"},
        {"num_hidden_layers", "{}", "144 missing"}, /* 16 of each layer beyond three */
        {"num_attention_heads", "{\"hidden_size\": 12}",
         "hidden_size 12 is not a multiple of num_attention_heads 8"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        json_t *set = json_loads(cases[i].set, 0, NULL);
        sara_component component;
        sara_network *text = NULL;
        assert_ok(ctx, sara_component_open(ctx, &component, folder, SARA_TRANSFORMERS_STEM, NULL));
        assert_int_equal(json_object_del(component.config, cases[i].left_out), 0);
        assert_int_equal(json_object_update(component.config, set), 0);
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_network_open(sara_host_device(ctx), &text, &sara_clip_text_class,
                                         &component, SARA_STORE_F32));
        json_decref(set);
        sara_component_close(&component);
    }
    sara_context_free(ctx);
}

/* The pooled state is that of the first eos; with eos_token_id 2 of the largest id; else of the
 * first token. */
static void test_where_a_text_ends(void **state)
{
    (void)state;
    static const struct {
        const char *edits;
        int32_t ids[6];
        int end;
    } cases[] = {
        {"{\"eos_token_id\": 299}", {298, 5, 299, 299, 7, 299}, 2},
        {"{\"eos_token_id\": 7}", {298, 5, 299, 299, 7, 299}, 4},
        {"{\"eos_token_id\": 8}", {298, 5, 299, 299, 7, 299}, 0},
        {"{\"eos_token_id\": 2}", {298, 5, 2, 299, 7, 299}, 3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *folder = test_model_copy(GELU, cases[i].edits, true);
        run r = run_open(folder, "cpu");
        sara_var *states, *pooled;
        assert_ok(r.ctx,
                  sara_clip_text_forward(r.tape, &states, &pooled, r.text, 0, cases[i].ids, 1, 6));
        assert_memory_equal(pooled->data, states->data + cases[i].end * 64, 64 * sizeof(float));
        run_close(&r);
        test_folder_remove(folder);
    }
}

/* The mean square of the pooled states, in double; its gradients if r's tape records. */
static double pooled_loss(run *r, const int32_t *ids)
{
    static const float zero[128];
    sara_var *states, *pooled, *loss;
    double sum = 0;
    assert_ok(r->ctx, sara_clip_text_forward(r->tape, &states, &pooled, r->text, 0, ids, 2, 4));
    for (int i = 0; i < 128; i++)
        sum += (double)pooled->data[i] * pooled->data[i];
    if (sara_tape_recording(r->tape)) {
        assert_ok(r->ctx, sara_nn_mse_loss(r->tape, &loss, pooled, zero, NULL, NULL));
        assert_ok(r->ctx, sara_tape_backward(r->tape, loss, 1));
    }
    sara_tape_reset(r->tape);
    return sum / 128;
}

/* A pass without arithmetic, forward and backward with the pooled states. */
static void test_dry_pass(void **state)
{
    (void)state;
    static const int32_t ids[] = {298, 5, 299, 299, 298, 299, 1, 2};
    static const float zero[128];
    size_t reached[2] = {0};
    for (int real = 0; real < 2; real++) {
        run r = run_open(GELU, "cpu");
        sara_device *nowhere;
        sara_tape *tape;
        sara_var *states, *pooled, *loss;
        sara_param *bias = sara_params_find(&r.text->params, "encoder.layers.0.mlp.fc1.bias");
        size_t count = (size_t)sara_shape_count(&bias->value.shape);
        bias->want = SARA_GRAD_DENSE;
        assert_ok(r.ctx, sara_alloc_zero(r.ctx, &bias->grad, count, sizeof(float)));
        assert_ok(r.ctx, sara_nn_device_open(r.ctx, &nowhere, "dry"));
        assert_ok(r.ctx, sara_tape_new(r.ctx, &tape, real ? r.device : nowhere));
        assert_ok(r.ctx, sara_tape_reserve(tape, reached[0]));
        sara_tape_record(tape, true);
        assert_ok(r.ctx, sara_clip_text_forward(tape, &states, &pooled, r.text, 0, ids, 2, 4));
        assert_ok(r.ctx, sara_nn_mse_loss(tape, &loss, pooled, zero, NULL, NULL));
        assert_ok(r.ctx, sara_tape_backward(tape, loss, 1));
        reached[real] = sara_tape_reached(tape);
        sara_tape_free(tape);
        sara_nn_device_close(nowhere);
        sara_free(r.ctx, bias->grad);
        run_close(&r);
    }
    /* oneDNN's scratch is not foretold, and two pieces of attention's are planned as one. */
    assert_in_range(reached[0], reached[1] / 2, reached[1] + 32 * sizeof(float));
}

/* The gradient of the pooled states reaches the parameters: against finite differences. */
static void test_pooled_gradients(void **state)
{
    (void)state;
    static const int32_t ids[] = {298, 5, 299, 299, 298, 299, 1, 2};
    static const char *const names[] = {"embeddings.token_embedding.weight",
                                        "encoder.layers.2.mlp.fc1.bias", "final_layer_norm.weight"};
    static const size_t entries[] = {5 * 64 + 3, 7, 11};
    run r = run_open(GELU, "cpu-plain");
    for (size_t i = 0; i < 3; i++) {
        sara_param *p = sara_params_find(&r.text->params, names[i]);
        float *value = (float *)p->value.data + entries[i], before = *value;
        const float h = 1e-2f;
        p->want = SARA_GRAD_DENSE;
        assert_ok(r.ctx, sara_alloc_zero(r.ctx, &p->grad, (size_t)sara_shape_count(&p->value.shape),
                                         sizeof(float)));
        sara_tape_record(r.tape, true);
        pooled_loss(&r, ids);
        sara_tape_record(r.tape, false);
        *value = before + h;
        double up = pooled_loss(&r, ids);
        *value = before - h;
        double down = pooled_loss(&r, ids), expected = (up - down) / (2 * (double)h);
        *value = before;
        double got = p->grad[entries[i]];
        assert_true(fabs(expected) > 1e-6);
        assert_close(fabs(got - expected), 1e-2 * fabs(expected), names[i]);
        p->want = SARA_GRAD_NONE;
        sara_free(r.ctx, p->grad);
    }
    run_close(&r);
}

static void test_later_tokens_do_not_matter(void **state)
{
    (void)state;
    static const int32_t a[] = {298, 5, 6, 7, 299}, b[] = {298, 5, 6, 100, 200};
    run r = run_open(GELU, "cpu");
    sara_var *first, *second, *shorter;
    assert_ok(r.ctx, sara_clip_text_forward(r.tape, &first, NULL, r.text, 0, a, 1, 5));
    assert_ok(r.ctx, sara_clip_text_forward(r.tape, &second, NULL, r.text, 0, b, 1, 5));
    assert_ok(r.ctx, sara_clip_text_forward(r.tape, &shorter, NULL, r.text, 0, a, 1, 3));
    assert_close(test_relative_l2(second->data, first->data, 3 * 64), 1e-6, "prefix");
    assert_close(test_relative_l2(shorter->data, first->data, 3 * 64), 1e-6, "shorter");
    assert_true(test_relative_l2(second->data + 3 * 64, first->data + 3 * 64, 64) > 1e-3);
    run_close(&r);
}

static void test_published_model(void **state)
{
    (void)state;
    run r = run_open(SARA_TEST_EMOJI "/base/text_encoder", "cpu");
    const sara_text_info *info = &r.text->info.text;
    int32_t ids[32];
    sara_var *states, *pooled;
    assert_int_equal(info->vocab_size, 3208);
    assert_int_equal(info->hidden_size, 128);
    assert_int_equal(info->max_positions, 32);
    assert_int_equal(info->eos_token_id, 3207);
    sara_param *tokens =
        sara_params_find(&r.text->params, "text_model.embeddings.token_embedding.weight");
    assert_non_null(tokens);
    assert_int_equal(tokens->stored, SARA_F16);
    for (int i = 0; i < 32; i++)
        ids[i] = i < 5 ? 3206 - i : 3207;
    assert_ok(r.ctx, sara_clip_text_forward(r.tape, &states, &pooled, r.text, 0, ids, 1, 32));
    assert_int_equal(states->shape.dims[2], 128);
    run_close(&r);
}

static void test_unsupported_options_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } refused[] = {
        {"{\"model_type\": \"clip\"}", "model_type: \"clip\", expected \"clip_text_model\""},
        {"{\"hidden_act\": \"relu\"}", "hidden_act: \"relu\""},
        {"{\"hidden_size\": 66}", "hidden_size 66 is not a multiple of num_attention_heads 4"},
        {"{\"hidden_size\": 0}", "hidden_size: 0"},
        {"{\"num_attention_heads\": 0}", "num_attention_heads: 0"},
        {"{\"num_hidden_layers\": 100000}", "num_hidden_layers: 100000"},
        {"{\"vocab_size\": \"300\"}", "vocab_size: \"300\""},
        {"{\"intermediate_size\": -1}", "intermediate_size: -1"},
        {"{\"max_position_embeddings\": 1e3}", "max_position_embeddings: 1000"},
        {"{\"layer_norm_eps\": true}", "layer_norm_eps: true"},
        {"{\"eos_token_id\": [1, 2]}", "eos_token_id"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        char *folder = test_model_copy(GELU, refused[i].edits, false);
        sara_network *text = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, refused[i].error,
                       sara_network_load(sara_host_device(ctx), &text, &sara_clip_text_class,
                                         folder, NULL, SARA_STORE_F32));
        assert_null(text);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_other_inputs_are_refused(void **state)
{
    (void)state;
    static const int32_t ids[78] = {298, 300, -1};
    run r = run_open(GELU, "cpu");
    sara_var *states = NULL;
    assert_refused(r.ctx, SARA_ERROR_INPUT, "1 texts of 78 ids, expected 1 to 77",
                   sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, ids, 1, 78));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "0 ids",
                   sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, ids, 1, 0));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "300",
                   sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, ids, 1, 2));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "-1",
                   sara_clip_text_forward(r.tape, &states, NULL, r.text, 0, ids + 2, 1, 1));
    run_close(&r);
}

static void test_weights_of_another_config_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } cases[] = {
        {"{\"num_hidden_layers\": 2}", "16 not expected (encoder.layers.2.layer_norm1.bias, "},
        {"{\"num_hidden_layers\": 4}", "16 missing (encoder.layers.3.layer_norm1.weight, "},
        {"{\"vocab_size\": 301}", "token_embedding.weight: shape [300,64], expected [301,64]"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *folder = test_model_copy(GELU, cases[i].edits, true);
        sara_network *text = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_network_load(sara_host_device(ctx), &text, &sara_clip_text_class,
                                         folder, NULL, SARA_STORE_F32));
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static sara_status load_and_run(sara_context *ctx)
{
    static const int32_t ids[] = {298, 5, 299};
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_network *text = NULL;
    sara_var *states, *pooled;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, "cpu-plain"));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(sara_network_load(sara_host_device(ctx), &text, &sara_clip_text_class, GELU, NULL,
                          SARA_STORE_F32));
    TRY(sara_clip_text_forward(tape, &states, &pooled, text, 0, ids, 1, 3));
done:
    sara_network_free(text);
    sara_tape_free(tape);
    if (device)
        sara_nn_device_close(device);
    return status;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    test_allocation_failures(load_and_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_transformers),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_default_sizes),
        cmocka_unit_test(test_where_a_text_ends),
        cmocka_unit_test(test_pooled_gradients),
        cmocka_unit_test(test_dry_pass),
        cmocka_unit_test(test_later_tokens_do_not_matter),
        cmocka_unit_test(test_published_model),
        cmocka_unit_test(test_unsupported_options_are_refused),
        cmocka_unit_test(test_other_inputs_are_refused),
        cmocka_unit_test(test_weights_of_another_config_are_refused),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
