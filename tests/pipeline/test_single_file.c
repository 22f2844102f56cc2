/* What is read off a single-file checkpoint's names and shapes. Such a file's tensors are as small
 * as they may be: none is read here. */
#include "support_pipeline.h"

#include <stdlib.h>

#define UNET "model.diffusion_model."
#define OPEN "cond_stage_model.model."
#define CLIP "cond_stage_model.transformer."
#define MOST 64

typedef struct fixture {
    sara_context *ctx;
    char *folder;
    sara_tensor_source tensors[MOST];
    sara_name names[MOST];
    size_t count;
    sara_single_file *single;
    const sara_family *family;
} fixture;

static const float values[4 * 1024];

static void add(fixture *f, sara_name name, sara_shape shape)
{
    assert_true(f->count < MOST);
    f->names[f->count] = name;
    f->tensors[f->count] = (sara_tensor_source){f->names[f->count].text, SARA_F32, shape, values};
    f->count++;
}

/* The U-Net of a file of SD2.x's kind, as far as its architecture is looked for. */
static void setup(fixture *f)
{
    *f = (fixture){.ctx = test_context(), .folder = test_folder()};
    add(f, sara_name_of(UNET "input_blocks.0.0.weight"), sara_shape4(1, 4, 1, 1));
    add(f, sara_name_of(UNET "input_blocks.1.0.in_layers.0.weight"), sara_shape1(1));
    add(f, sara_name_of(UNET "input_blocks.1.0.out_layers.3.weight"), sara_shape4(64, 1, 1, 1));
    add(f, sara_name_of(UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
        sara_shape2(1, 1024));
}

static sara_status try_file(fixture *f)
{
    char *path;
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, "model.safetensors"));
    assert_ok(f->ctx, sara_safetensors_save(f->ctx, path, f->tensors, f->count, NULL, 0));
    sara_status status = sara_family_open_file(f->ctx, &f->family, &f->single, path, NULL, false);
    sara_free(f->ctx, path);
    return status;
}

static void open_file(fixture *f)
{
    assert_ok(f->ctx, try_file(f));
}

/* What the config of a text encoder is read off. names: of the embeddings, the layers, the MLP */
static void add_text(fixture *f, const char *tokens, const char *positions, const char *layers,
                     const char *inner, int width, int inner_width, int count)
{
    add(f, sara_name_of("%s", tokens), sara_shape2(1, width));
    add(f, sara_name_of("%s", positions), sara_shape2(1, 1));
    add(f, sara_name_of("%s.0.%s", layers, inner), sara_shape2(inner_width, 1));
    for (int i = 1; i < count; i++)
        add(f, sara_name_of("%s.%d.any", layers, i), sara_shape1(1));
}

static void add_open_clip_of(fixture *f, int inner, int layers)
{
    add_text(f, OPEN "token_embedding.weight", OPEN "positional_embedding",
             OPEN "transformer.resblocks", "mlp.c_fc.weight", 1024, inner, layers);
}

static void add_open_clip(fixture *f, int layers)
{
    add_open_clip_of(f, 1, layers);
}

static void add_clip_of(fixture *f, int width, int inner, int layers)
{
    add_text(f, CLIP "text_model.embeddings.token_embedding.weight",
             CLIP "text_model.embeddings.position_embedding.weight",
             CLIP "text_model.encoder.layers", "mlp.fc1.weight", width, inner, layers);
}

static void add_clip(fixture *f, int width)
{
    add_clip_of(f, width, 1, 1);
}

/* The file without this tensor. */
static void take(fixture *f, const char *name)
{
    size_t i = 0;
    while (i < f->count && strcmp(f->names[i].text, name) != 0)
        i++;
    assert_true(i < f->count);
    f->names[i] = sara_name_of("gone.%zu", i);
}

static void teardown(fixture *f)
{
    sara_single_close(f->single);
    test_folder_remove(f->folder);
    sara_context_free(f->ctx);
}

/* SD2.x uses 23 layers of its text encoder's 24; files made from diffusers' folders may hold just
 * these. Of any other number the last is the one that is not used. */
static void test_text_layers(void **state)
{
    (void)state;
    static const int layers[][2] = {{24, 23}, {23, 23}, {6, 5}};
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++) {
        fixture f;
        setup(&f);
        add_open_clip(&f, layers[i][0]);
        open_file(&f);
        const json_t *config = f.single->parts[TEST_TEXT].config;
        assert_int_equal(json_integer_value(json_object_get(config, "num_hidden_layers")),
                         layers[i][1]);
        assert_int_equal(f.single->parts[TEST_TEXT].shape.layers, layers[i][1]);
        teardown(&f);
    }
}

/* Of the published encoders it is known how many there have to be. */
static void test_known_text_layers(void **state)
{
    (void)state;
    static const struct {
        bool open;
        int layers, expected;
    } cases[] = {{false, 12, 12}, {false, 11, 12}, {false, 13, 13},
                 {true, 24, 23},  {true, 23, 23},  {true, 22, 23}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        fixture f;
        setup(&f);
        if (cases[i].open)
            add_open_clip_of(&f, 4096, cases[i].layers);
        else
            add_clip_of(&f, 768, 3072, cases[i].layers);
        open_file(&f);
        assert_int_equal(f.single->parts[TEST_TEXT].shape.layers, cases[i].expected);
        teardown(&f);
    }
}

/* Which activation a text encoder has its width tells, whatever its tensors' names. */
static void test_activation(void **state)
{
    (void)state;
    static const struct {
        int width;
        const char *expected;
    } cases[] = {{768, "quick_gelu"}, {1024, "gelu"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        fixture f;
        setup(&f);
        add_clip(&f, cases[i].width);
        open_file(&f);
        const json_t *config = f.single->parts[TEST_TEXT].config;
        assert_string_equal(json_string_value(json_object_get(config, "hidden_act")),
                            cases[i].expected);
        teardown(&f);
    }
}

/* A tensor that is missing neither makes a smaller network of it nor another one: of 24 layers one
 * is left out as before. */
static void test_missing_tensors_are_no_other_architecture(void **state)
{
    (void)state;
    fixture f;
    setup(&f);
    add_open_clip(&f, 24);
    take(&f, OPEN "positional_embedding");
    take(&f, OPEN "transformer.resblocks.5.any");
    add(&f, sara_name_of(UNET "input_blocks.3.0.op.weight"), sara_shape1(1));
    add(&f, sara_name_of(UNET "input_blocks.5.1.norm.bias"), sara_shape1(1));
    add(&f, sara_name_of(UNET "input_blocks.5.0.out_layers.3.weight"), sara_shape4(128, 1, 1, 1));
    add(&f, sara_name_of("first_stage_model.encoder.down.0.block.1.norm2.bias"), sara_shape1(1));
    add(&f, sara_name_of("first_stage_model.decoder.up.3.block.0.norm1.bias"), sara_shape1(1));
    open_file(&f);
    const sara_ldm_shape *text = &f.single->parts[TEST_TEXT].shape;
    const sara_ldm_shape *unet = &f.single->parts[TEST_DENOISER].shape;
    const sara_ldm_shape *vae = &f.single->parts[TEST_VAE].shape;
    assert_int_equal(text->part, SARA_LDM_OPEN_CLIP);
    assert_int_equal(text->layers, 23);
    const json_t *config = f.single->parts[TEST_DENOISER].config;
    const json_t *channels = json_object_get(config, "block_out_channels");
    assert_int_equal(json_integer_value(json_array_get(channels, 1)), 128);
    assert_int_equal(unet->layers, 2);
    assert_int_equal(unet->levels, 2);
    assert_true(!unet->attention[0] && unet->attention[1]);
    assert_int_equal(vae->levels, 4);
    assert_int_equal(vae->layers, 2);
    teardown(&f);
}

/* Unless it begins with one of these. */
static void add_block(fixture *f, const char *const gone[2], sara_name name)
{
    for (int i = 0; i < 2; i++)
        if (strncmp(name.text, gone[i], strlen(gone[i])) == 0)
            return;
    add(f, sara_name_of(UNET "%s", name.text), sara_shape1(1));
}

/* Where Stable Diffusion's levels end and which have transformers is not read off one tensor. */
static void test_layout(void **state)
{
    (void)state;
    static const char *const gone[][2] = {{"input_blocks.3.", "input_blocks.6."},
                                          {"input_blocks.3.", "output_blocks.2.1.conv."},
                                          {"input_blocks.1.1.", "input_blocks.2.1."},
                                          {"input_blocks.11.", "input_blocks.10."},
                                          {"input_blocks.2.", "output_blocks.11."}};
    for (size_t i = 0; i < sizeof(gone) / sizeof(*gone); i++) {
        fixture f;
        setup(&f);
        for (int j = 1; j < 12; j++) {
            add_block(&f, gone[i],
                      sara_name_of("input_blocks.%d.0.%s", j, j % 3 ? "any" : "op.any"));
            if (j < 9 && j % 3)
                add_block(&f, gone[i], sara_name_of("input_blocks.%d.1.any", j));
            add_block(&f, gone[i], sara_name_of("output_blocks.%d.0.any", j));
            if (j > 2)
                add_block(&f, gone[i], sara_name_of("output_blocks.%d.1.any", j));
            if (j % 3 == 2 && j < 11)
                add_block(&f, gone[i],
                          sara_name_of("output_blocks.%d.%d.conv.any", j, j > 2 ? 2 : 1));
            if (j > 1 && j % 3 == 1)
                add(&f, sara_name_of(UNET "input_blocks.%d.0.out_layers.3.weight", j),
                    sara_shape4(64, 1, 1, 1));
        }
        open_file(&f);
        const sara_ldm_shape *unet = &f.single->parts[TEST_DENOISER].shape;
        assert_int_equal(unet->layers, 2);
        assert_int_equal(unet->levels, 4);
        assert_true(unet->attention[0] && unet->attention[1] && unet->attention[2]);
        assert_false(unet->attention[3]);
        teardown(&f);
    }
}

static void assert_integers(const json_t *list, const int *expected, size_t count)
{
    assert_int_equal(json_array_size(list), count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(json_integer_value(json_array_get(list, i)), expected[i]);
}

/* stabilityai/stable-diffusion-2's unet/config.json has heads of 64 channels, runwayml's SD1.5 has
 * eight heads everywhere. */
static void test_heads(void **state)
{
    (void)state;
    static const int widths[2] = {1024, 768}, channels[] = {320, 640, 1280, 1280};
    static const int heads[2][4] = {{5, 10, 20, 20}, {8, 8, 8, 8}};
    for (int i = 0; i < 2; i++) {
        static const char cross[] = UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
        fixture f;
        setup(&f);
        take(&f, cross);
        take(&f, UNET "input_blocks.1.0.out_layers.3.weight");
        add(&f, sara_name_of("%s", cross), sara_shape2(1, widths[i]));
        for (int level = 0; level < 4; level++) {
            add(&f, sara_name_of(UNET "input_blocks.%d.0.out_layers.3.weight", 3 * level + 1),
                sara_shape4(channels[level], 1, 1, 1));
            add(&f, sara_name_of(UNET "input_blocks.%d.0.any", 3 * level + 2), sara_shape1(1));
            if (level < 3)
                add(&f, sara_name_of(UNET "input_blocks.%d.0.op.weight", 3 * level + 3),
                    sara_shape1(1));
        }
        open_file(&f);
        const json_t *config = f.single->parts[TEST_DENOISER].config;
        assert_integers(json_object_get(config, "block_out_channels"), channels, 4);
        assert_integers(json_object_get(config, "attention_head_dim"), heads[i], 4);
        teardown(&f);
    }
}

/* The file opens, for the sake of its other parts; this one does not. */
static void refuse_part(fixture *f, int part, const char *error)
{
    sara_component component;
    const sara_network_class *class = sara_families[0]->parts[part].class;
    sara_network *network = NULL;
    open_file(f);
    assert_ok(f->ctx, sara_single_component(f->single, &component, part));
    assert_refused(
        f->ctx, SARA_ERROR_INPUT, error,
        sara_network_open(sara_host_device(f->ctx), &network, class, &component, SARA_STORE_F32));
    sara_component_close(&component);
    teardown(f);
}

static void test_what_is_missing_is_named(void **state)
{
    (void)state;
    fixture f;
    setup(&f);
    take(&f, UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight");
    assert_refused(f.ctx, SARA_ERROR_INPUT,
                   "model.safetensors: no tensor " UNET
                   "middle_block.1.transformer_blocks.0.attn2.to_k.weight in its U-Net",
                   try_file(&f));
    teardown(&f);
    setup(&f);
    add_open_clip(&f, 2);
    take(&f, OPEN "positional_embedding");
    refuse_part(&f, TEST_TEXT,
                "model.safetensors: no tensor " OPEN
                "positional_embedding in its OpenCLIP text encoder");
    setup(&f);
    add_clip(&f, 768);
    take(&f, CLIP "text_model.encoder.layers.0.mlp.fc1.weight");
    add(&f, sara_name_of(CLIP "text_model.encoder.layers.0.mlp.fc1.weight"), sara_shape1(7));
    refuse_part(&f, TEST_TEXT,
                CLIP
                "text_model.encoder.layers.0.mlp.fc1.weight: shape [7], expected 2 dimensions");
    setup(&f);
    add(&f, sara_name_of("first_stage_model.decoder.conv_in.weight"), sara_shape4(1, 4, 1, 1));
    refuse_part(&f, TEST_VAE, "its VAE has no encoder (no tensor first_stage_model.encoder.*)");
    setup(&f);
    add(&f, sara_name_of("vae.encoder.conv_in.weight"), sara_shape4(1, 3, 1, 1));
    refuse_part(&f, TEST_VAE, "its VAE has no decoder (no tensor vae.decoder.*)");
}

/* The tensors of a part are these. */
static void assert_tensors(const fixture *f, int part, const char *const *names)
{
    sara_component component;
    sara_weights *weights = NULL;
    size_t count = 0;
    assert_ok(f->ctx, sara_single_component(f->single, &component, part));
    assert_ok(f->ctx, sara_component_weights(&component, &weights));
    for (; names[count]; count++)
        assert_non_null(sara_weights_find(weights, names[count]));
    assert_int_equal(sara_weights_count(weights), count);
    sara_weights_close(weights);
    sara_component_close(&component);
}

/* What training and other programs leave beside the networks' tensors. */
static void test_no_part_of_the_networks(void **state)
{
    (void)state;
    static const char *const vae[] = {"decoder.conv_in.weight", NULL};
    static const char *const text[] = {"text_model.final_layer_norm.weight",
                                       "text_model.encoder.layers.0.layer_norm1.weight", NULL};
    static const char *const open[] = {"text_model.final_layer_norm.weight",
                                       "text_model.encoder.layers.0.layer_norm1.weight",
                                       "text_model.embeddings.position_embedding.weight", NULL};
    for (int second = 0; second < 2; second++) {
        fixture f;
        setup(&f);
        add(&f, sara_name_of("first_stage_model.decoder.conv_in.weight"), sara_shape1(1));
        add(&f, sara_name_of("first_stage_model.model_ema.decay"), sara_shape1(1));
        add(&f, sara_name_of("first_stage_model.loss.logvar"), sara_shape1(1));
        add(&f, sara_name_of("model_ema.decay"), sara_shape1(1));
        if (second) {
            add(&f, sara_name_of(OPEN "ln_final.weight"), sara_shape1(1));
            add(&f, sara_name_of(OPEN "positional_embedding"), sara_shape2(1, 1));
            add(&f, sara_name_of(OPEN "transformer.resblocks.0.ln_1.weight"), sara_shape1(1));
            add(&f, sara_name_of(OPEN "transformer.resblocks.1.ln_1.weight"), sara_shape1(1));
            add(&f, sara_name_of(OPEN "text_projection"), sara_shape1(1));
            add(&f, sara_name_of(OPEN "logit_scale"), sara_shape1(1));
            add(&f, sara_name_of(OPEN "attn_mask"), sara_shape1(1));
        } else {
            add(&f, sara_name_of(CLIP "text_model.final_layer_norm.weight"), sara_shape1(1));
            add(&f, sara_name_of(CLIP "text_model.encoder.layers.0.layer_norm1.weight"),
                sara_shape1(1));
            add(&f, sara_name_of(CLIP "text_projection.weight"), sara_shape1(1));
        }
        open_file(&f);
        assert_tensors(&f, TEST_VAE, vae);
        assert_tensors(&f, TEST_TEXT, second ? open : text);
        teardown(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_layers),
        cmocka_unit_test(test_known_text_layers),
        cmocka_unit_test(test_activation),
        cmocka_unit_test(test_missing_tensors_are_no_other_architecture),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_what_is_missing_is_named),
        cmocka_unit_test(test_no_part_of_the_networks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
