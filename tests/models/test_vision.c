/* Networks that make features of pictures: what configs leave out, gradients, memory. That they
 * equal transformers' is for tests/eval. */
#include "support_models.h"

#include "models/clip.h"
#include "models/vit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct vision_run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *network;
} vision_run;

static vision_run open_run(const sara_network_class *class, const char *name, const char *device)
{
    vision_run r = {.ctx = test_context()};
    char folder[512];
    snprintf(folder, sizeof(folder), VISION_MODELS "/%s", name);
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_network_load(r.device, &r.network, class, folder, NULL, SARA_STORE_F32));
    return r;
}

static void close_run(vision_run *r)
{
    sara_network_free(r->network);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

/* ------------------------------------------------------------------------------------- defaults */

/* A config without a field is one with what transformers' config class has for it: the weights do
 * not fit, and the error tells what would. */
static void test_default_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *model, *section, *left_out, *error;
    } cases[] = {
        {"clip", "vision_config", "hidden_size", "class_embedding: shape [16], expected [768]"},
        {"clip", "vision_config", "intermediate_size", "fc1.bias: shape [24], expected [3072]"},
        {"clip", "vision_config", "num_hidden_layers",
         "160 missing (vision_model.encoder.layers.2"},
        {"clip", "vision_config", "num_attention_heads",
         "16 is not a multiple of num_attention_heads 12"},
        {"clip", "vision_config", "image_size", "shape [10,16], expected [3137,16]"},
        {"clip", "vision_config", "patch_size", "patch_size 32 is larger than image_size 15"},
        {"clip", NULL, "projection_dim", "text_projection.weight: shape [12,8], expected [512,8]"},
        {"vit", NULL, "hidden_size", "cls_token: shape [1,1,16], expected [1,1,768]"},
        {"vit", NULL, "intermediate_size", "dense.bias: shape [24], expected [3072]"},
        {"vit", NULL, "num_hidden_layers", "130 missing (encoder.layer.2"},
        {"vit", NULL, "num_attention_heads", "16 is not a multiple of num_attention_heads 12"},
        {"vit", NULL, "image_size", "position_embeddings: shape [1,26,16], expected [1,3137,16]"},
        {"vit", NULL, "patch_size", "projection.weight: shape [16,3,4,4], expected [16,3,16,16]"},
        {"vit", NULL, "qkv_bias", "6 missing (encoder.layer.0.attention.attention.query.bias"},
        {"dinov2", NULL, "hidden_size", "cls_token: shape [1,1,16], expected [1,1,768]"},
        {"dinov2", NULL, "mlp_ratio", "mlp.fc1.bias: shape [32], expected [64]"},
        {"dinov2", NULL, "patch_size", "shape [16,3,4,4], expected [16,3,14,14]"},
        {"dinov2_swiglu", NULL, "mlp_ratio", "weights_in.bias: shape [64], expected [96]"},
        {"dinov2_registers", NULL, "patch_size", "shape [16,3,4,4], expected [16,3,16,16]"},
        {"dinov2_registers", NULL, "num_register_tokens", "shape [1,3,16], expected [1,4,16]"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *model = cases[i].model;
        const sara_network_class *class = strcmp(model, "clip") == 0  ? &sara_clip_class
                                          : strcmp(model, "vit") == 0 ? &sara_vit_class
                                          : strcmp(model, "dinov2_registers") == 0
                                              ? &sara_dinov2_registers_class
                                              : &sara_dinov2_class;
        char folder[512];
        sara_component component;
        sara_network *network = NULL;
        snprintf(folder, sizeof(folder), VISION_MODELS "/%s", model);
        assert_ok(ctx, sara_component_open(ctx, &component, folder, SARA_TRANSFORMERS_STEM, NULL));
        json_t *object = cases[i].section ? json_object_get(component.config, cases[i].section)
                                          : component.config;
        assert_int_equal(json_object_del(object, cases[i].left_out), 0);
        assert_refused(
            ctx, SARA_ERROR_INPUT, cases[i].error,
            sara_network_open(sara_host_device(ctx), &network, class, &component, SARA_STORE_F32));
        sara_component_close(&component);
    }
    sara_context_free(ctx);
}

/* The same of what shapes do not tell. */
static void test_default_settings(void **state)
{
    (void)state;
    static const struct {
        const sara_network_class *class;
        const char *name, *activation;
        float eps;
    } cases[] = {{&sara_vit_class, "vit", "gelu", 1e-12f},
                 {&sara_dinov2_class, "dinov2", "gelu", 1e-6f},
                 {&sara_dinov2_registers_class, "dinov2_registers", "gelu", 1e-6f},
                 {&sara_clip_class, "clip", "quick_gelu", 1e-5f}};
    sara_context *ctx = test_context();
    for (int i = 0; i < 4; i++) {
        char folder[512];
        sara_component component;
        sara_network *network;
        snprintf(folder, sizeof(folder), VISION_MODELS "/%s", cases[i].name);
        assert_ok(ctx, sara_component_open(ctx, &component, folder, SARA_TRANSFORMERS_STEM, NULL));
        json_t *vision = json_object_get(component.config, "vision_config");
        json_object_del(vision ? vision : component.config, "layer_norm_eps");
        json_object_del(vision ? vision : component.config, "hidden_act");
        assert_ok(ctx, sara_network_open(sara_host_device(ctx), &network, cases[i].class,
                                         &component, SARA_STORE_F32));
        json_t *settings = cases[i].class->settings(network);
        const json_t *of = vision ? json_object_get(settings, "vision") : settings;
        assert_string_equal(json_string_value(json_object_get(of, "activation")),
                            cases[i].activation);
        assert_true((float)json_real_value(json_object_get(of, "eps")) == cases[i].eps);
        assert_int_equal(json_integer_value(json_object_get(of, "heads")), 2);
        json_decref(settings);
        sara_network_free(network);
        sara_component_close(&component);
    }
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------------------ gradients */

enum { SIDE = 20, COUNT = 2 * 3 * SIDE * SIDE, WIDTH = 16 };

/* The mean square by which the features of two pictures miss some others; its gradients if r's tape
 * records. */
static double features_loss(vision_run *r, const float *pixels, const sara_shape *shape)
{
    float target[2 * WIDTH];
    sara_var *leaf, *features, *loss;
    const float *values;
    double sum = 0;
    sara_draw_normal(target, 2 * WIDTH, 6, SARA_DRAW_TEST, 0);
    assert_ok(r->ctx, sara_tape_leaf(r->tape, &leaf, shape, pixels, false));
    assert_ok(r->ctx, sara_vit_features(r->tape, &features, r->network, leaf));
    assert_ok(r->ctx, sara_tape_read(r->tape, &values, features));
    for (int i = 0; i < 2 * WIDTH; i++)
        sum += pow((double)values[i] - (double)target[i], 2);
    if (sara_tape_recording(r->tape)) {
        assert_ok(r->ctx, sara_nn_mse_loss(r->tape, &loss, features, target, NULL, NULL));
        assert_ok(r->ctx, sara_tape_backward(r->tape, loss, 1));
    }
    sara_tape_reset(r->tape);
    return sum / (2 * WIDTH);
}

/* A parameter's gradient at an entry is the difference quotient. */
static void check_gradient(vision_run *r, const char *name, size_t entry, const float *pixels)
{
    const sara_shape shape = sara_shape4(2, 3, SIDE, SIDE);
    const float h = 1e-2f;
    sara_param *p = sara_params_find(&r->network->params, name);
    assert_non_null(p);
    float *value = (float *)p->value.data + entry, before = *value;
    p->want = SARA_GRAD_DENSE;
    assert_ok(r->ctx, sara_alloc_zero(r->ctx, &p->grad, (size_t)sara_shape_count(&p->value.shape),
                                      sizeof(float)));
    sara_tape_record(r->tape, true);
    features_loss(r, pixels, &shape);
    sara_tape_record(r->tape, false);
    *value = before + h;
    double up = features_loss(r, pixels, &shape);
    *value = before - h;
    double down = features_loss(r, pixels, &shape), expected = (up - down) / (2 * (double)h);
    *value = before;
    assert_true(fabs(expected) > 1e-5);
    assert_close(fabs((double)p->grad[entry] - expected), 2e-2 * fabs(expected), name);
    p->want = SARA_GRAD_NONE;
    sara_free(r->ctx, p->grad);
}

static void test_gradients(void **state)
{
    (void)state;
    static float pixels[COUNT];
    sara_draw_normal(pixels, COUNT, 5, SARA_DRAW_TEST, 0);
    vision_run r = open_run(&sara_dinov2_registers_class, "dinov2_registers", "cpu-plain");
    check_gradient(&r, "embeddings.cls_token", 3, pixels);
    check_gradient(&r, "embeddings.register_tokens", 2 * WIDTH + 5, pixels);
    check_gradient(&r, "embeddings.position_embeddings", 7 * WIDTH + 2, pixels);
    check_gradient(&r, "embeddings.patch_embeddings.projection.weight", 100, pixels);
    check_gradient(&r, "encoder.layer.0.layer_scale1.lambda1", 4, pixels);
    check_gradient(&r, "encoder.layer.1.layer_scale2.lambda1", 9, pixels);
    close_run(&r);
    r = open_run(&sara_dinov2_class, "dinov2_swiglu", "cpu-plain");
    check_gradient(&r, "dinov2.encoder.layer.0.mlp.weights_in.bias", 6, pixels);
    check_gradient(&r, "dinov2.encoder.layer.1.mlp.weights_in.bias", 40, pixels);
    close_run(&r);
}

/* --------------------------------------------------------------------------------------- memory */

/* A pass without arithmetic, with positions for other sizes. */
static void test_dry_pass(void **state)
{
    (void)state;
    static float pixels[2 * 3 * 12 * 28];
    const sara_shape shape = sara_shape4(2, 3, 12, 28);
    size_t reached[2];
    for (int real = 0; real < 2; real++) {
        vision_run r = open_run(&sara_dinov2_registers_class, "dinov2_registers", "cpu");
        sara_device *nowhere;
        sara_tape *tape;
        sara_var *leaf, *features;
        assert_ok(r.ctx, sara_nn_device_open(r.ctx, &nowhere, "dry"));
        assert_ok(r.ctx, sara_tape_new(r.ctx, &tape, real ? r.device : nowhere));
        assert_ok(r.ctx, sara_tape_leaf(tape, &leaf, &shape, real ? pixels : NULL, false));
        assert_ok(r.ctx, sara_vit_features(tape, &features, r.network, leaf));
        reached[real] = sara_tape_peak(tape);
        sara_tape_free(tape);
        sara_nn_device_close(nowhere);
        close_run(&r);
    }
    assert_in_range(reached[0], reached[1] / 2, reached[1]); /* oneDNN's scratch is not foretold */
}

/* Two pictures at once are those alone. */
static void test_batches(void **state)
{
    (void)state;
    static float pixels[COUNT];
    const sara_shape both = sara_shape4(2, 3, SIDE, SIDE), one = sara_shape4(1, 3, SIDE, SIDE);
    float together[2 * WIDTH];
    sara_draw_normal(pixels, COUNT, 5, SARA_DRAW_TEST, 0);
    vision_run r = open_run(&sara_dinov2_registers_class, "dinov2_registers", "cpu");
    sara_var *leaf, *features;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &both, pixels, false));
    assert_ok(r.ctx, sara_vit_features(r.tape, &features, r.network, leaf));
    memcpy(together, features->data, sizeof(together));
    for (int i = 0; i < 2; i++) {
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &one, pixels + i * COUNT / 2, false));
        assert_ok(r.ctx, sara_vit_features(r.tape, &features, r.network, leaf));
        assert_close(test_relative_l2(together + i * WIDTH, features->data, WIDTH), 1e-5, "batch");
    }
    close_run(&r);
}

static sara_status load_and_run(sara_context *ctx)
{
    static const float pixels[3 * 12 * 28];
    const sara_shape shape = sara_shape4(1, 3, 12, 28);
    sara_network *network = NULL;
    sara_tape *tape = NULL;
    sara_var *leaf, *features;
    sara_status status;
    TRY(sara_tape_new(ctx, &tape, NULL));
    TRY(sara_network_load(sara_host_device(ctx), &network, &sara_dinov2_registers_class,
                          VISION_MODELS "/dinov2_registers", NULL, SARA_STORE_EXACT));
    TRY(sara_tape_leaf(tape, &leaf, &shape, pixels, false));
    TRY(sara_vit_features(tape, &features, network, leaf));
done:
    sara_network_free(network);
    sara_tape_free(tape);
    return status;
}

static void test_every_allocation(void **state)
{
    (void)state;
    test_allocation_failures(load_and_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_sizes), cmocka_unit_test(test_default_settings),
        cmocka_unit_test(test_gradients),     cmocka_unit_test(test_dry_pass),
        cmocka_unit_test(test_batches),       cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
