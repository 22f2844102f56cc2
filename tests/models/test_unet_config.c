#include "support_models.h"

#include "models/unet/config.h"

#include <stdlib.h>

#define SD1 SARA_TEST_GOLDEN "/unet_sd1"

static void test_published_model_loads(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_network *unet = NULL;
    assert_ok(ctx, sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class,
                                     SARA_TEST_EMOJI "/base/unet", NULL, SARA_STORE_F32));
    const sara_denoiser_info *info = &unet->info.denoiser;
    assert_int_equal(info->in_channels, 4);
    assert_int_equal(info->out_channels, 4);
    assert_int_equal(info->sample_height, 16);
    assert_int_equal(info->sample_width, 16);
    assert_int_equal(info->widths[SARA_CONDITION_STATES], 128);
    assert_int_equal(info->factor, 4);
    sara_params *params = &unet->params;
    assert_true(params->count > 200 && sara_params_entries(params) > 1000000);
    for (size_t i = 0; i < params->count; i++) {
        assert_int_equal(params->items[i].stored, SARA_F16);
        if (i)
            assert_true(strcmp(params->items[i - 1].name, params->items[i].name) < 0);
    }
    sara_param *conv_in = sara_params_find(params, "conv_in.weight");
    assert_non_null(conv_in);
    assert_int_equal(conv_in->value.shape.dims[0], 64);
    sara_network_free(unet);
    sara_context_free(ctx);
}

/* What a config leaves out is what diffusers' UNet2DConditionModel() has. */
static void test_defaults(void **state)
{
    static const int64_t channels[] = {320, 640, 1280, 1280};
    static const char text[] =
        "{\"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\","
        " \"CrossAttnDownBlock2D\", \"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\","
        " \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"]}";
    char source[] = "test";
    sara_context *ctx = test_context();
    sara_component component = {.ctx = ctx, .source = source};
    sara_model_config file;
    sara_unet_config config;
    (void)state;
    assert_ok(ctx, sara_json_parse(ctx, &component.config, text, strlen(text), source, true));
    assert_ok(ctx,
              sara_model_config_of(ctx, &file, &component, "_class_name", "UNet2DConditionModel"));
    assert_ok(ctx, sara_unet_config_read(&file, &config));
    json_decref(component.config);
    assert_int_equal(config.levels, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(config.level[i].channels, channels[i]);
        assert_int_equal(config.level[i].layers, 2);
        assert_int_equal(config.level[i].heads, 8);
        assert_int_equal(config.level[i].transformer_blocks, 1);
    }
    assert_int_equal(config.in_channels, 4);
    assert_int_equal(config.out_channels, 4);
    assert_int_equal(config.cross_attention_dim, 1280);
    assert_int_equal(config.groups, 32);
    assert_true(config.norm_eps == 1e-5);
    assert_int_equal(config.downsample_padding, 1);
    assert_true(config.sinusoids.cosines_first && config.sinusoids.shift == 0);
    assert_false(config.linear_projection || config.center_input_sample);
    sara_context_free(ctx);
}

static void test_sample_size_may_be_a_pair(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_network *unet = NULL;
    assert_ok(ctx, sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class,
                                     VARIANTS "/unet_lists", NULL, SARA_STORE_F32));
    assert_int_equal(unet->info.denoiser.sample_height, 13);
    assert_int_equal(unet->info.denoiser.sample_width, 9);
    assert_int_equal(unet->info.denoiser.factor, 8);
    sara_network_free(unet);
    sara_context_free(ctx);
}

static const struct {
    const char *edits, *error;
} refused[] = {
    {"{\"_class_name\": \"UNet3DConditionModel\"}", "_class_name: \"UNet3DConditionModel\""},
    {"{\"in_channels\": 9}",
     "in_channels: 9: an inpainting model, which is given a mask and a picture"},
    {"{\"in_channels\": 9, \"out_channels\": 9}", "in_channels: 9: an inpainting model"},
    {"{\"in_channels\": 8}", "in_channels: 8: an edit model (InstructPix2Pix), which is given"},
    {"{\"in_channels\": 7}", "in_channels: 7: an upscaler, which is given a picture too; use a"},
    {"{\"in_channels\": 5}", "in_channels: 5: a depth model, which is given depths too; use the"},
    {"{\"in_channels\": 6}", "in_channels 6, out_channels 4"},
    {"{\"in_channels\": 0}", "in_channels: 0, expected"},
    {"{\"in_channels\": \"4\"}", "in_channels: \"4\", expected"},
    {"{\"in_channels\": 4.5}", "in_channels: 4.5, expected"},
    {"{\"out_channels\": 1099511627776}", "out_channels: 1099511627776, expected"},
    {"{\"act_fn\": \"gelu\"}", "act_fn: \"gelu\", expected \"silu\""},
    {"{\"class_embed_type\": \"timestep\"}", "class_embed_type: \"timestep\", expected null"},
    {"{\"addition_embed_type\": \"text\"}", "addition_embed_type: \"text\""},
    {"{\"addition_embed_type\": \"text_time\"}", "addition_time_embed_dim: null"},
    {"{\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 4}",
     "projection_class_embeddings_input_dim: null"},
    {"{\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 4, "
     "\"projection_class_embeddings_input_dim\": 24}",
     "projection_class_embeddings_input_dim 24, addition_time_embed_dim 4"},
    {"{\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 2, "
     "\"projection_class_embeddings_input_dim\": 24, \"freq_shift\": 1}",
     "freq_shift: 1: addition_time_embed_dim is too small"},
    {"{\"encoder_hid_dim\": 4096}", "encoder_hid_dim: 4096"},
    {"{\"encoder_hid_dim_type\": \"text_proj\"}", "encoder_hid_dim_type: \"text_proj\""},
    {"{\"time_cond_proj_dim\": 256}", "time_cond_proj_dim: 256"},
    {"{\"time_embedding_type\": \"fourier\"}", "time_embedding_type: \"fourier\""},
    {"{\"time_embedding_dim\": 64}", "time_embedding_dim: 64"},
    {"{\"time_embedding_act_fn\": \"silu\"}", "time_embedding_act_fn: \"silu\""},
    {"{\"timestep_post_act\": \"silu\"}", "timestep_post_act: \"silu\""},
    {"{\"num_class_embeds\": 1000}", "num_class_embeds: 1000"},
    {"{\"class_embeddings_concat\": true}", "class_embeddings_concat: true"},
    {"{\"dual_cross_attention\": true}", "dual_cross_attention: true"},
    {"{\"only_cross_attention\": true}", "only_cross_attention: true"},
    {"{\"only_cross_attention\": [true, false]}", "only_cross_attention: [true,false]"},
    {"{\"mid_block_only_cross_attention\": true}", "mid_block_only_cross_attention: true"},
    {"{\"cross_attention_norm\": \"layer_norm\"}", "cross_attention_norm: \"layer_norm\""},
    {"{\"resnet_time_scale_shift\": \"scale_shift\"}", "resnet_time_scale_shift: \"scale_shift\""},
    {"{\"resnet_skip_time_act\": true}", "resnet_skip_time_act: true"},
    {"{\"resnet_out_scale_factor\": 2.0}", "resnet_out_scale_factor: 2.0"},
    {"{\"mid_block_scale_factor\": 1.5}", "mid_block_scale_factor: 1.5"},
    {"{\"mid_block_type\": null}", "mid_block_type: null"},
    {"{\"mid_block_type\": \"UNetMidBlock2D\"}", "mid_block_type: \"UNetMidBlock2D\""},
    {"{\"attention_type\": \"gated\"}", "attention_type: \"gated\""},
    {"{\"reverse_transformer_layers_per_block\": [1, 1]}", "reverse_transformer_layers_per_block"},
    {"{\"conv_in_kernel\": 5}", "conv_in_kernel: 5, expected 3"},
    {"{\"conv_out_kernel\": 1}", "conv_out_kernel: 1, expected 3"},
    {"{\"dropout\": 0.1}", "dropout: 0.1"},
    {"{\"norm_num_groups\": null}", "norm_num_groups: null"},
    {"{\"norm_num_groups\": 7}", "block_out_channels[0] 32 is not a multiple of norm_num_groups 7"},
    {"{\"norm_num_groups\": 0}", "norm_num_groups: 0"},
    {"{\"norm_eps\": -1}", "norm_eps: -1"},
    {"{\"norm_eps\": \"small\"}", "norm_eps: \"small\""},
    {"{\"block_out_channels\": []}", "down_block_types"},
    {"{\"block_out_channels\": [32]}", "down_block_types"},
    {"{\"block_out_channels\": [32, 0]}", "block_out_channels"},
    {"{\"block_out_channels\": [32, -72]}", "block_out_channels"},
    {"{\"block_out_channels\": [32, 1000000000000]}", "block_out_channels"},
    {"{\"block_out_channels\": [8,8,8,8,8,8,8,8,8]}", "block_out_channels"},
    {"{\"block_out_channels\": {\"a\": 1}}", "block_out_channels"},
    {"{\"down_block_types\": [\"DownBlock2D\"]}", "down_block_types: [\"DownBlock2D\"]"},
    {"{\"down_block_types\": [\"DownBlock2D\", \"AttnDownBlock2D\"]}", "AttnDownBlock2D"},
    {"{\"down_block_types\": [\"DownBlock2D\", 3]}", "down_block_types: [\"DownBlock2D\",3]"},
    {"{\"up_block_types\": \"UpBlock2D\"}", "up_block_types: \"UpBlock2D\""},
    {"{\"layers_per_block\": 0}", "layers_per_block"},
    {"{\"layers_per_block\": 1000}", "layers_per_block"},
    {"{\"layers_per_block\": [1, 1, 1]}", "layers_per_block"},
    {"{\"layers_per_block\": null}", "layers_per_block: null"},
    {"{\"transformer_layers_per_block\": [[1], [1]]}", "transformer_layers_per_block"},
    {"{\"transformer_layers_per_block\": 100000}", "transformer_layers_per_block"},
    {"{\"attention_head_dim\": 0}", "attention_head_dim"},
    {"{\"attention_head_dim\": 33}", "attention_head_dim: 33: more heads than channels"},
    {"{\"attention_head_dim\": [4, 6, 8]}", "attention_head_dim"},
    {"{\"num_attention_heads\": \"8\"}", "num_attention_heads"},
    {"{\"cross_attention_dim\": [24, 40]}", "cross_attention_dim: [24,40]: different widths"},
    {"{\"cross_attention_dim\": null}", "cross_attention_dim: null"},
    {"{\"sample_size\": 0}", "sample_size"},
    {"{\"sample_size\": [16, 16, 16]}", "sample_size"},
    {"{\"downsample_padding\": 2}", "downsample_padding: 2"},
    {"{\"freq_shift\": 16}", "freq_shift: 16"},
    {"{\"flip_sin_to_cos\": \"yes\"}", "flip_sin_to_cos: \"yes\""},
    {"{\"use_linear_projection\": 1}", "use_linear_projection: 1"},
    {"{\"center_input_sample\": \"no\"}", "center_input_sample: \"no\""},
};

static void test_unsupported_options_are_refused(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        char *folder = test_model_copy(SD1, refused[i].edits, false);
        sara_network *unet = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, refused[i].error,
                       sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder,
                                         NULL, SARA_STORE_F32));
        assert_null(unet);
        test_assert_contains(sara_context_error(ctx), "config.json", __FILE__, __LINE__);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_harmless_options_are_accepted(void **state)
{
    (void)state;
    static const char *const edits[] = {
        "{\"upcast_attention\": true, \"only_cross_attention\": null, \"sample_size\": null}",
        "{\"num_attention_heads\": 4, \"attention_head_dim\": 64}",
        "{\"mid_block_scale_factor\": 1.0, \"dropout\": 0, \"act_fn\": \"swish\"}",
        "{\"cross_attention_dim\": [40, 40], \"norm_eps\": 1e-6, \"some_new_option\": 3}",
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        char *folder = test_model_copy(SD1, edits[i], true);
        sara_network *unet = NULL;
        assert_ok(ctx, sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder,
                                         NULL, SARA_STORE_F32));
        sara_network_free(unet);
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
        {"{\"cross_attention_dim\": 48}", "attn2.to_k.weight: shape [32,40], expected [32,48]"},
        {"{\"layers_per_block\": 2}", "missing (down_blocks.0.resnets.1.norm1.weight"},
        {"{\"transformer_layers_per_block\": 2}", "attentions.0.transformer_blocks.1."},
        {"{\"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"]}",
         "not expected (down_blocks.0.attentions.0.norm.bias"},
        {"{\"use_linear_projection\": true}",
         "proj_in.weight: shape [32,32,1,1], expected [32,32]"},
    };
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *folder = test_model_copy(SD1, cases[i].edits, true);
        sara_network *unet = NULL;
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder,
                                         NULL, SARA_STORE_F32));
        assert_null(unet);
        test_folder_remove(folder);
    }
    sara_context_free(ctx);
}

static void test_missing_files(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_network *unet = NULL;
    char *folder = test_folder(), *only_config = test_model_copy(SD1, "{}", false);
    assert_refused(ctx, SARA_ERROR_IO, "config.json",
                   sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder, NULL,
                                     SARA_STORE_F32));
    free(test_file(folder, "config.json", "[1]", 3));
    assert_refused(ctx, SARA_ERROR_INPUT, "not a JSON object",
                   sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder, NULL,
                                     SARA_STORE_F32));
    assert_int_not_equal(sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class,
                                           only_config, NULL, SARA_STORE_F32),
                         SARA_OK);
    test_assert_contains(sara_context_error(ctx), "diffusion_pytorch_model", __FILE__, __LINE__);
    assert_null(unet);
    test_folder_remove(folder);
    test_folder_remove(only_config);
    sara_context_free(ctx);
}

/* A default that does not fit what is given is refused like a given value, not as lack of
 * memory. */
static void test_default_does_not_fit(void **state)
{
    static const char config[] =
        "{\"block_out_channels\": [4, 8], \"norm_num_groups\": 4,"
        " \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"],"
        " \"up_block_types\": [\"CrossAttnUpBlock2D\", \"UpBlock2D\"]}";
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    sara_network *unet = NULL;
    free(test_file(folder, "config.json", config, strlen(config)));
    assert_refused(ctx, SARA_ERROR_INPUT, "attention_head_dim: not given: more heads than channels",
                   sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class, folder, NULL,
                                     SARA_STORE_F32));
    assert_null(unet);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_model_loads),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_sample_size_may_be_a_pair),
        cmocka_unit_test(test_unsupported_options_are_refused),
        cmocka_unit_test(test_harmless_options_are_accepted),
        cmocka_unit_test(test_weights_of_another_config_are_refused),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_default_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
