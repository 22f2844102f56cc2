/* Names of tensors in both layouts, from the published checkpoints of SD1.5, SD2.1 and
 * SDXL. */
#include "support_io.h"

#include "io/io.h"

#include <stdlib.h>

static const sara_ldm_shape unet = {
    .part = SARA_LDM_UNET, .levels = 4, .layers = 2, .attention = {true, true, true, false}};
static const sara_ldm_shape sdxl = {
    .part = SARA_LDM_UNET, .levels = 3, .layers = 2, .attention = {false, true, true}};
static const sara_ldm_shape vae = {.part = SARA_LDM_VAE, .levels = 4, .layers = 2};
static const sara_ldm_shape clip = {.part = SARA_LDM_CLIP, .layers = 12};
static const sara_ldm_shape open_clip = {.part = SARA_LDM_OPEN_CLIP, .layers = 23};
static const sara_ldm_shape mmdit = {.part = SARA_LDM_MMDIT, .layers = 24};

typedef struct names {
    const sara_ldm_shape *shape;
    const char *ldm, *diffusers;
} names;

static const names both_ways[] = {
    {&unet, "time_embed.0.weight", "time_embedding.linear_1.weight"},
    {&unet, "time_embed.2.bias", "time_embedding.linear_2.bias"},
    {&unet, "input_blocks.0.0.weight", "conv_in.weight"},
    {&unet, "input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"},
    {&unet, "input_blocks.2.0.in_layers.2.bias", "down_blocks.0.resnets.1.conv1.bias"},
    {&unet, "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
     "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight"},
    {&unet, "input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"},
    {&unet, "input_blocks.4.0.skip_connection.weight",
     "down_blocks.1.resnets.0.conv_shortcut.weight"},
    {&unet, "input_blocks.8.1.proj_out.bias", "down_blocks.2.attentions.1.proj_out.bias"},
    {&unet, "input_blocks.11.0.emb_layers.1.weight",
     "down_blocks.3.resnets.1.time_emb_proj.weight"},
    {&unet, "middle_block.0.out_layers.0.weight", "mid_block.resnets.0.norm2.weight"},
    {&unet, "middle_block.1.norm.bias", "mid_block.attentions.0.norm.bias"},
    {&unet, "middle_block.2.out_layers.3.bias", "mid_block.resnets.1.conv2.bias"},
    {&unet, "output_blocks.2.0.in_layers.0.bias", "up_blocks.0.resnets.2.norm1.bias"},
    {&unet, "output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"},
    {&unet, "output_blocks.5.1.norm.weight", "up_blocks.1.attentions.2.norm.weight"},
    {&unet, "output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"},
    {&unet, "output_blocks.11.1.transformer_blocks.0.norm1.bias",
     "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"},
    {&unet, "out.0.weight", "conv_norm_out.weight"},
    {&unet, "out.2.bias", "conv_out.bias"},
    {&sdxl, "label_emb.0.0.weight", "add_embedding.linear_1.weight"},
    {&sdxl, "label_emb.0.2.bias", "add_embedding.linear_2.bias"},
    {&sdxl, "input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"},
    {&sdxl, "input_blocks.4.1.transformer_blocks.1.attn1.to_q.weight",
     "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.weight"},
    {&sdxl, "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight",
     "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj.weight"},
    {&sdxl, "output_blocks.2.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"},
    {&sdxl, "output_blocks.3.1.proj_in.weight", "up_blocks.1.attentions.0.proj_in.weight"},
    {&sdxl, "output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"},
    {&sdxl, "output_blocks.8.0.skip_connection.weight",
     "up_blocks.2.resnets.2.conv_shortcut.weight"},
    {&vae, "encoder.conv_in.weight", "encoder.conv_in.weight"},
    {&vae, "encoder.down.0.block.1.conv2.weight", "encoder.down_blocks.0.resnets.1.conv2.weight"},
    {&vae, "encoder.down.1.block.0.nin_shortcut.bias",
     "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"},
    {&vae, "encoder.down.2.downsample.conv.weight",
     "encoder.down_blocks.2.downsamplers.0.conv.weight"},
    {&vae, "encoder.mid.block_2.norm1.weight", "encoder.mid_block.resnets.1.norm1.weight"},
    {&vae, "encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"},
    {&vae, "encoder.norm_out.bias", "encoder.conv_norm_out.bias"},
    {&vae, "decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"},
    {&vae, "decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"},
    {&vae, "decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"},
    {&vae, "decoder.up.0.block.0.nin_shortcut.weight",
     "decoder.up_blocks.3.resnets.0.conv_shortcut.weight"},
    {&vae, "decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"},
    {&vae, "post_quant_conv.weight", "post_quant_conv.weight"},
    {&mmdit, "pos_embed", "pos_embed.pos_embed"},
    {&mmdit, "x_embedder.proj.bias", "pos_embed.proj.bias"},
    {&mmdit, "t_embedder.mlp.2.weight", "time_text_embed.timestep_embedder.linear_2.weight"},
    {&mmdit, "y_embedder.mlp.0.weight", "time_text_embed.text_embedder.linear_1.weight"},
    {&mmdit, "joint_blocks.23.x_block.attn2.ln_k.weight",
     "transformer_blocks.23.attn2.norm_k.weight"},
    {&mmdit, "joint_blocks.1.context_block.attn.proj.bias",
     "transformer_blocks.1.attn.to_add_out.bias"},
    {&mmdit, "joint_blocks.11.context_block.mlp.fc2.weight",
     "transformer_blocks.11.ff_context.net.2.weight"},
    {&mmdit, "joint_blocks.2.x_block.adaLN_modulation.1.bias",
     "transformer_blocks.2.norm1.linear.bias"},
    {&mmdit, "final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight"},
    {&clip, "text_model.encoder.layers.11.self_attn.q_proj.weight",
     "text_model.encoder.layers.11.self_attn.q_proj.weight"},
    {&open_clip, "positional_embedding", "text_model.embeddings.position_embedding.weight"},
    {&open_clip, "token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
    {&open_clip, "ln_final.bias", "text_model.final_layer_norm.bias"},
    {&open_clip, "transformer.resblocks.22.mlp.c_proj.weight",
     "text_model.encoder.layers.22.mlp.fc2.weight"},
    {&open_clip, "transformer.resblocks.0.ln_2.weight",
     "text_model.encoder.layers.0.layer_norm2.weight"},
    {&open_clip, "transformer.resblocks.3.attn.out_proj.bias",
     "text_model.encoder.layers.3.self_attn.out_proj.bias"},
};

static void test_both_ways(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (size_t i = 0; i < sizeof(both_ways) / sizeof(*both_ways); i++) {
        const names *n = &both_ways[i];
        char *to = NULL, *from = NULL;
        assert_ok(ctx, sara_ldm_to_diffusers(ctx, &to, n->shape, n->ldm));
        assert_ok(ctx, sara_ldm_from_diffusers(ctx, &from, n->shape, n->diffusers));
        if (!to || !from)
            fail_msg("%s, %s: no other name", n->ldm, n->diffusers);
        assert_string_equal(to, n->diffusers);
        assert_string_equal(from, n->ldm);
        sara_free(ctx, to);
        sara_free(ctx, from);
    }
    sara_context_free(ctx);
}

static void assert_from(sara_context *ctx, const sara_ldm_shape *shape, const char *diffusers,
                        const char *ldm)
{
    char *name = NULL;
    assert_ok(ctx, sara_ldm_from_diffusers(ctx, &name, shape, diffusers));
    assert_non_null(name);
    assert_string_equal(name, ldm);
    sara_free(ctx, name);
}

static void test_one_way(void **state)
{
    sara_context *ctx = test_context();
    char *name = NULL;
    (void)state;
    assert_from(ctx, &open_clip, "text_model.encoder.layers.1.self_attn.k_proj.weight",
                "transformer.resblocks.1.attn.in_proj_weight");
    assert_from(ctx, &open_clip, "encoder.layers.1.self_attn.v_proj.bias",
                "transformer.resblocks.1.attn.in_proj_bias");
    assert_from(ctx, &clip, "final_layer_norm.bias", "text_model.final_layer_norm.bias");
    assert_ok(ctx, sara_ldm_to_diffusers(ctx, &name, &clip, "encoder.layers.0.mlp.fc1.bias"));
    assert_string_equal(name, "text_model.encoder.layers.0.mlp.fc1.bias");
    sara_free(ctx, name);
    assert_from(ctx, &vae, "decoder.mid_block.attentions.0.proj_attn.weight",
                "decoder.mid.attn_1.proj_out.weight");
    assert_ok(ctx, sara_ldm_to_diffusers(ctx, &name, &open_clip,
                                         "transformer.resblocks.1.attn.in_proj_weight"));
    assert_string_equal(name, "text_model.encoder.layers.1.self_attn.in_proj.weight");
    sara_free(ctx, name);
    sara_context_free(ctx);
}

static void test_none(void **state)
{
    static const names none[] = {{&unet, "input_blocks.12.0.in_layers.0.weight", NULL},
                                 {&unet, "input_blocks.10.1.norm.weight", NULL},
                                 {&unet, "input_blocks.1.0.in_layers.1.weight", NULL},
                                 {&unet, "input_blocks.01.0.in_layers.0.weight", NULL},
                                 {&unet, "output_blocks.2.2.conv.weight", NULL},
                                 {&unet, "label_emb.0.1.weight", NULL},
                                 {&unet, "", NULL},
                                 {&vae, "encoder.down.4.block.0.conv1.weight", NULL},
                                 {&vae, "decoder.up.0.block.3.conv1.weight", NULL},
                                 {&vae, "loss.logvar", NULL},
                                 {&open_clip, "transformer.resblocks..ln_1.weight", NULL},
                                 {&open_clip, "transformer.resblocks.-1.ln_1.weight", NULL},
                                 {&open_clip, "text_projection", NULL}};
    sara_context *ctx = test_context();
    char longest[4096], *name = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        assert_ok(ctx, sara_ldm_to_diffusers(ctx, &name, none[i].shape, none[i].ldm));
        if (name)
            fail_msg("%s: %s", none[i].ldm, name);
    }
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    memcpy(longest, "out.0.", 6);
    assert_ok(ctx, sara_ldm_to_diffusers(ctx, &name, &unet, longest));
    assert_null(name);
    sara_context_free(ctx);
}

/* What LitEma, which takes the dots out, makes of a U-Net's names. */
static void test_flat(void **state)
{
    static const struct {
        const char *name, *flat;
    } pairs[] = {
        {"input_blocks.0.0.weight", "input_blocks00weight"},
        {"input_blocks.1.0.in_layers.2.bias", "input_blocks10in_layers2bias"},
        {"input_blocks.10.0.in_layers.0.weight", "input_blocks100in_layers0weight"},
        {"input_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias",
         "input_blocks111transformer_blocks0attn1to_out0bias"},
        {"input_blocks.1.1.transformer_blocks.10.norm3.weight",
         "input_blocks11transformer_blocks10norm3weight"},
        {"output_blocks.5.2.conv.weight", "output_blocks52convweight"},
        {"output_blocks.8.1.norm.bias", "output_blocks81normbias"},
        {"output_blocks.11.0.skip_connection.weight", "output_blocks110skip_connectionweight"},
        {"input_blocks.3.0.op.weight", "input_blocks30opweight"},
        {"middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
         "middle_block1transformer_blocks0ffnet0projweight"},
        {"middle_block.0.emb_layers.1.weight", "middle_block0emb_layers1weight"},
        {"middle_block.1.proj_out.weight", "middle_block1proj_outweight"},
        {"time_embed.2.bias", "time_embed2bias"},
        {"label_emb.0.2.weight", "label_emb02weight"},
        {"out.0.weight", "out0weight"},
    };
    static const char *const none[] = {"",
                                       "label_emb0weight",
                                       "input_blocks1weight",
                                       "weightx",
                                       "input_blocks",
                                       "input_blocks00000000weight",
                                       "out.0.weight"};
    sara_ldm_shape flat = unet;
    sara_context *ctx = test_context();
    sara_name name;
    char *other = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
        assert_string_equal(sara_ldm_flatten(pairs[i].name).text, pairs[i].flat);
        assert_true(sara_ldm_unflatten(&name, pairs[i].flat));
        assert_string_equal(name.text, pairs[i].name);
    }
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
        assert_false(sara_ldm_unflatten(&name, none[i]));
    flat.flat = true;
    assert_ok(ctx, sara_ldm_to_diffusers(ctx, &other, &flat, "out0weight"));
    assert_string_equal(other, "conv_norm_out.weight");
    sara_free(ctx, other);
    assert_ok(ctx, sara_ldm_to_diffusers(ctx, &other, &flat, "out.0.weight"));
    assert_null(other);
    assert_from(ctx, &flat, "conv_norm_out.weight", "out0weight");
    sara_context_free(ctx);
}

static sara_status translate(sara_context *ctx, const char *ldm)
{
    char *name = NULL;
    sara_status status = sara_ldm_to_diffusers(ctx, &name, &unet, ldm);
    sara_free(ctx, name);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(translate, "out.0.weight");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_ways),
                                       cmocka_unit_test(test_one_way), cmocka_unit_test(test_none),
                                       cmocka_unit_test(test_flat), cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
