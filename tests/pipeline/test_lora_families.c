/* LoRA files of families whose names are not those of Stable Diffusion. */
#include "support_export.h"

/* ----------------------------------------------------------------------------------------- SDXL */

/* What of diffusers' UNet2DConditionModel kohya calls otherwise, whose U-Net is the original one;
 * the golden model has one block in each level. */
static const char *const xl_layers[][2] = {
    {"conv_in", "input_blocks_0_0"},
    {"time_embedding.linear_2", "time_embed_2"},
    {"add_embedding.linear_1", "label_emb_0_0"},
    {"down_blocks.0.resnets.0.conv1", "input_blocks_1_0_in_layers_2"},
    {"down_blocks.0.downsamplers.0.conv", "input_blocks_2_0_op"},
    {"down_blocks.1.resnets.0.conv_shortcut", "input_blocks_3_0_skip_connection"},
    {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
     "input_blocks_3_1_transformer_blocks_0_attn2_to_k"},
    {"mid_block.attentions.0.proj_in", "middle_block_1_proj_in"},
    {"mid_block.resnets.1.time_emb_proj", "middle_block_2_emb_layers_1"},
    {"up_blocks.0.upsamplers.0.conv", "output_blocks_1_2_conv"},
    {"up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
     "output_blocks_3_1_transformer_blocks_0_ff_net_0_proj"},
    {"conv_out", "out_2"},
};

static void test_xl_names_written(void **state)
{
    static const char *const ends[][2] = {{"lora", ".lora_down.weight"}, {"a1111", ".diff"}};
    test_pipe *pipe = *state;
    const test_adapted a =
        test_adapt(pipe, test_text(pipe, "%s/unet", test_family("sdxl").text), true, 3, 0.25f);
    for (int e = 0; e < 2; e++) {
        const char *path = test_export(pipe, &a, test_text(pipe, "%d.safetensors", e), NULL,
                                       test_export_options(ends[e][0], e == 0 ? 2 : 0, "fp32"));
        sara_safetensors *file;
        assert_ok(pipe->ctx, sara_safetensors_open(pipe->ctx, &file, path));
        for (size_t i = 0; i < sizeof(xl_layers) / sizeof(*xl_layers); i++)
            assert_non_null(sara_safetensors_find(
                file, test_text(pipe, "lora_unet_%s%s", xl_layers[i][1], ends[e][1])));
        for (size_t i = 0; i < sara_safetensors_count(file); i++)
            assert_null(strstr(sara_safetensors_at(file, i)->name, "_blocks_0_attentions"));
        sara_safetensors_close(file);
    }
    sara_model_free(a.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_xl_names_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
