#include "support_models.h"

#include "models/vae.h"

#include <math.h>
#include <stdlib.h>

typedef struct run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *vae;
} run;

static run run_open(const char *folder, const char *device)
{
    run r = {.ctx = test_context()};
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx,
              sara_network_load(r.device, &r.vae, &sara_vae_class, folder, NULL, SARA_STORE_F32));
    return r;
}

static void run_close(run *r)
{
    sara_network_free(r->vae);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

static void check_golden(const char *folder, const char *device, double bound)
{
    run r = run_open(folder, device);
    char *path;
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, folder, "golden.safetensors"));
    sara_safetensors *golden = test_open(r.ctx, path);
    float *image, *latent;
    sara_var *mean, *logvar, *decoded;
    sara_tape_record(r.tape, true);
    assert_ok(r.ctx, sara_vae_encode(r.tape, &mean, &logvar, r.vae,
                                     test_leaf(r.tape, golden, "image", &image)));
    assert_close(test_var_error(r.ctx, mean, golden, "mean"), bound, "mean");
    assert_close(test_var_error(r.ctx, logvar, golden, "logvar"), bound, "logvar");
    assert_ok(r.ctx, sara_vae_decode(r.tape, &decoded, r.vae,
                                     test_leaf(r.tape, golden, "latent", &latent)));
    assert_close(test_var_error(r.ctx, decoded, golden, "decoded"), bound, "decoded");
    assert_true(sara_tape_recording(r.tape));
    sara_free(r.ctx, image);
    sara_free(r.ctx, latent);
    sara_free(r.ctx, path);
    sara_safetensors_close(golden);
    run_close(&r);
}

static void test_equals_diffusers(void **state)
{
    (void)state;
    static const char *const folders[] = {SARA_TEST_GOLDEN "/vae", VARIANTS "/vae_old",
                                          VARIANTS "/vae_bare", VARIANTS "/vae_quiet"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        check_golden(folders[i], "cpu-plain", 1e-4);
        check_golden(folders[i], "cpu", 1e-4);
    }
}

/* SDXL's and SD3's, the latter of 16 channels, without the convolutions around the latents. */
static void test_families(void **state)
{
    static const char *const names[] = {"sdxl/vae", "sd3/vae", "sd35_medium/vae"};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && test_families_whole(); i++)
        check_golden(test_family(names[i]).text, "cpu", 2e-5);
}

static void test_info(void **state)
{
    (void)state;
    run r = run_open(SARA_TEST_GOLDEN "/vae", "cpu");
    const sara_vae_info *info = &r.vae->info.vae;
    assert_int_equal(info->latent_channels, 4);
    assert_int_equal(info->factor, 2);
    assert_int_equal(info->sample_size, 32);
    run_close(&r);
    /* Without scaling_factor, under the old names, which a saved model must have again. */
    r = run_open(VARIANTS "/vae_old", "cpu");
    info = &r.vae->info.vae;
    assert_true(info->scaling_factor == 0.18215 && info->shift_factor == 0);
    assert_int_equal(info->factor, 4);
    sara_param *query =
        sara_params_find(&r.vae->params, "decoder.mid_block.attentions.0.query.weight");
    assert_non_null(query);
    assert_int_equal(query->value.shape.rank, 4);
    run_close(&r);
    r = run_open(VARIANTS "/vae_bare", "cpu");
    info = &r.vae->info.vae;
    assert_true(info->scaling_factor == 0.5 && info->shift_factor == 0.25);
    assert_int_equal(info->factor, 1);
    run_close(&r);
}

static sara_component opened_without(sara_context *ctx, const char *const *left_out,
                                     const char *set)
{
    json_t *changes = json_loads(set, 0, NULL);
    sara_component component;
    assert_ok(ctx, sara_component_open(ctx, &component, SARA_TEST_GOLDEN "/vae",
                                       SARA_DIFFUSERS_STEM, NULL));
    for (; *left_out; left_out++)
        assert_int_equal(json_object_del(component.config, *left_out), 0);
    assert_int_equal(json_object_update(component.config, changes), 0);
    json_decref(changes);
    return component;
}

/* What a config leaves out is what diffusers' AutoencoderKL() has. */
static void test_defaults(void **state)
{
    (void)state;
    static const char *const same[] = {"layers_per_block",
                                       "latent_channels",
                                       "sample_size",
                                       "scaling_factor",
                                       "shift_factor",
                                       "use_quant_conv",
                                       "use_post_quant_conv",
                                       "mid_block_add_attention",
                                       NULL};
    static const char *const channels[] = {"block_out_channels", NULL};
    static const char one_stage[] = "{\"down_block_types\": [\"DownEncoderBlock2D\"], "
                                    "\"up_block_types\": [\"UpDecoderBlock2D\"]}";
    static const char *const groups[] = {"norm_num_groups", NULL};
    sara_context *ctx = test_context();
    sara_component component = opened_without(ctx, same, "{}");
    sara_network *vae = NULL;
    assert_ok(ctx, sara_network_open(sara_host_device(ctx), &vae, &sara_vae_class, &component,
                                     SARA_STORE_F32));
    const sara_vae_info *info = &vae->info.vae;
    assert_int_equal(info->latent_channels, 4);
    assert_int_equal(info->sample_size, 32);
    assert_true(info->scaling_factor == 0.18215 && info->shift_factor == 0);
    sara_network_free(vae);
    sara_component_close(&component);
    component = opened_without(ctx, channels, one_stage);
    assert_refused(ctx, SARA_ERROR_INPUT, "decoder.conv_in.bias: shape [32], expected [64]",
                   sara_network_open(sara_host_device(ctx), &vae, &sara_vae_class, &component,
                                     SARA_STORE_F32));
    sara_component_close(&component);
    component = opened_without(ctx, groups, "{\"block_out_channels\": [48, 64]}");
    assert_refused(ctx, SARA_ERROR_INPUT, "48 is not a multiple of norm_num_groups 32",
                   sara_network_open(sara_host_device(ctx), &vae, &sara_vae_class, &component,
                                     SARA_STORE_F32));
    sara_component_close(&component);
    sara_context_free(ctx);
}

static void test_logvar_is_clamped(void **state)
{
    (void)state;
    run r = run_open(VARIANTS "/vae_bare", "cpu");
    sara_shape shape = sara_shape4(1, 3, 4, 4);
    float image[48] = {0};
    sara_param *bias = sara_params_find(&r.vae->params, "encoder.conv_out.bias");
    sara_var *leaf, *mean, *logvar;
    float *b = bias->value.data; /* [mean 2, log-variance 2] */
    b[1] = 1000;
    b[2] = 1000;
    b[3] = -1000;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, image, false));
    assert_ok(r.ctx, sara_vae_encode(r.tape, &mean, &logvar, r.vae, leaf));
    for (int i = 0; i < 16; i++) {
        assert_true(mean->data[16 + i] > 900);
        assert_true(logvar->data[i] == 20 && logvar->data[16 + i] == -30);
    }
    run_close(&r);
}

static void test_published_model(void **state)
{
    (void)state;
    run r = run_open(SARA_TEST_EMOJI "/base/vae", "cpu");
    sara_shape shape = sara_shape4(1, 3, 64, 64);
    sara_image picture;
    float *image;
    sara_var *leaf, *mean, *logvar, *decoded;
    const sara_vae_info *info = &r.vae->info.vae;
    assert_int_equal(info->factor, 4);
    assert_int_equal(info->sample_size, 64);
    assert_true(info->scaling_factor > 0.87 && info->scaling_factor < 0.88);
    assert_int_equal(r.vae->params.items[0].stored, SARA_F16);
    assert_ok(r.ctx,
              sara_image_read(r.ctx, &picture, SARA_TEST_EMOJI "/noto-reference/u1f004.png"));
    assert_ok(r.ctx, sara_alloc(r.ctx, &image, 3 * 64 * 64, sizeof(*image)));
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 64 * 64; i++)
            image[c * 64 * 64 + i] = (float)picture.pixels[3 * i + c] / 127.5f - 1;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, image, false));
    assert_ok(r.ctx, sara_vae_encode(r.tape, &mean, &logvar, r.vae, leaf));
    assert_int_equal(mean->shape.dims[2], 16);
    assert_ok(r.ctx, sara_vae_decode(r.tape, &decoded, r.vae, mean));
    /* What the picture loses by it is what it loses in diffusers. */
    assert_close(fabs(test_relative_l2(decoded->data, image, 3 * 64 * 64) - 0.1276145), 1e-5,
                 "loss of the round trip");
    sara_image_clear(r.ctx, &picture);
    sara_free(r.ctx, image);
    run_close(&r);
}

static void test_unsupported_options_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } refused[] = {
        {"{\"_class_name\": \"AutoencoderTiny\"}", "_class_name: \"AutoencoderTiny\""},
        {"{\"act_fn\": \"relu\"}", "act_fn: \"relu\""},
        {"{\"in_channels\": 1}", "in_channels: 1"},
        {"{\"out_channels\": 4}", "out_channels: 4"},
        {"{\"latent_channels\": 0}", "latent_channels: 0"},
        {"{\"latents_mean\": [0.1, 0.1, 0.1, 0.1]}", "latents_mean: [0."},
        {"{\"latents_std\": [1]}", "latents_std: [1]"},
        {"{\"norm_num_groups\": null}", "norm_num_groups: null"},
        {"{\"norm_num_groups\": 5}", "is not a multiple of norm_num_groups 5"},
        {"{\"block_out_channels\": [16]}", "down_block_types"},
        {"{\"block_out_channels\": [16, \"32\"]}", "block_out_channels"},
        {"{\"down_block_types\": [\"DownEncoderBlock2D\", \"AttnDownEncoderBlock2D\"]}",
         "AttnDownEncoderBlock2D"},
        {"{\"up_block_types\": null}", "up_block_types: null"},
        {"{\"layers_per_block\": 0}", "layers_per_block: 0"},
        {"{\"layers_per_block\": 2000000}", "layers_per_block: 2000000"},
        {"{\"scaling_factor\": 0}", "scaling_factor: 0"},
        {"{\"scaling_factor\": \"1\"}", "scaling_factor: \"1\""},
        {"{\"shift_factor\": []}", "shift_factor"},
        {"{\"sample_size\": -1}", "sample_size"},
        {"{\"mid_block_add_attention\": 1}", "mid_block_add_attention: 1"},
        {"{\"use_quant_conv\": \"no\"}", "use_quant_conv: \"no\""},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        char *folder = test_model_copy(SARA_TEST_GOLDEN "/vae", refused[i].edits, false);
        sara_network *vae = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, refused[i].error,
                       sara_network_load(sara_host_device(ctx), &vae, &sara_vae_class, folder, NULL,
                                         SARA_STORE_F32));
        assert_null(vae);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_weights_of_another_config_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } cases[] = {
        {"{\"mid_block_add_attention\": false}",
         "not expected (decoder.mid_block.attentions.0.group_norm.bias"},
        {"{\"use_quant_conv\": false}", "2 not expected (quant_conv.bias, quant_conv.weight)"},
        {"{\"use_post_quant_conv\": false}",
         "2 not expected (post_quant_conv.bias, post_quant_conv.weight)"},
        {"{\"latent_channels\": 8}", "conv_in.weight: shape [32,4,3,3], expected [32,8,3,3]"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *folder = test_model_copy(SARA_TEST_GOLDEN "/vae", cases[i].edits, true);
        sara_network *vae = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_network_load(sara_host_device(ctx), &vae, &sara_vae_class, folder, NULL,
                                         SARA_STORE_F32));
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_inputs_of_other_shapes_are_refused(void **state)
{
    (void)state;
    run r = run_open(VARIANTS "/vae_bare", "cpu");
    sara_shape shape = sara_shape4(1, 4, 4, 4);
    float data[64] = {0};
    sara_var *leaf, *a, *b;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, data, false));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "image [1,4,4,4], expected [N,3,H,W]",
                   sara_vae_encode(r.tape, &a, &b, r.vae, leaf));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "latent [1,4,4,4], expected [N,2,H,W]",
                   sara_vae_decode(r.tape, &a, r.vae, leaf));
    run_close(&r);
}

static sara_status load_and_run(sara_context *ctx)
{
    static float data[48];
    sara_shape image = sara_shape4(1, 3, 4, 4), latent = sara_shape4(1, 2, 4, 4);
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_network *vae = NULL;
    sara_var *leaf, *a, *b;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, "cpu-plain"));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(sara_network_load(sara_host_device(ctx), &vae, &sara_vae_class, VARIANTS "/vae_bare", NULL,
                          SARA_STORE_F32));
    TRY(sara_tape_leaf(tape, &leaf, &image, data, false));
    TRY(sara_vae_encode(tape, &a, &b, vae, leaf));
    TRY(sara_tape_leaf(tape, &leaf, &latent, data, false));
    TRY(sara_vae_decode(tape, &a, vae, leaf));
done:
    sara_network_free(vae);
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
        cmocka_unit_test(test_equals_diffusers),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_logvar_is_clamped),
        cmocka_unit_test(test_published_model),
        cmocka_unit_test(test_unsupported_options_are_refused),
        cmocka_unit_test(test_weights_of_another_config_are_refused),
        cmocka_unit_test(test_inputs_of_other_shapes_are_refused),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
