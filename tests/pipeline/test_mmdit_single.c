/* An MMDiT in single files: its tensors, read and written, are those of diffusers' folder. */
#include "support_pipeline.h"

#include "models/mmdit.h"
#include "models/single_file.h"
#include "pipeline/save.h"

#include <stdlib.h>

#define SINGLE SARA_TEST_GOLDEN "/mmdit_single" /* make_mmdit.py */

static const sara_single_place places[] = {{"model.diffusion_model.", "", SARA_LDM_MMDIT, false},
                                           {"", "", SARA_LDM_MMDIT, false},
                                           {NULL, NULL, SARA_LDM_MMDIT, false}};

/* config NULL: that of the file's shapes */
static sara_network *open_single(sara_device *device, const char *path, const char *config)
{
    sara_context *ctx = device->ctx;
    sara_single_file *single;
    sara_component component;
    sara_network *network;
    assert_ok(ctx, sara_single_open(ctx, &single, path));
    sara_single_part *part = &single->parts[0];
    part->name = "transformer";
    part->class = &sara_mmdit_class;
    assert_true(sara_single_find_place(single, part, places));
    assert_ok(ctx, part->class->single->read_shape(single, part));
    assert_ok(ctx, sara_single_choose_config(single, part, config));
    assert_ok(ctx, sara_single_component(single, &component, 0));
    assert_ok(ctx, sara_network_open(device, &network, part->class, &component, SARA_STORE_F16));
    assert_ok(ctx, sara_network_read(network));
    sara_component_close(&component);
    sara_single_close(single);
    return network;
}

static void compare_params(const sara_network *a, const sara_network *b)
{
    assert_int_equal(a->params.count, b->params.count);
    assert_int_equal(a->params.buffers, b->params.buffers);
    for (size_t i = 0; i < sara_params_all(&a->params); i++) {
        const sara_param *p = &a->params.items[i], *q = &b->params.items[i];
        size_t bytes = (size_t)sara_shape_count(&p->value.shape) * sara_dtype_size(p->value.dtype);
        assert_string_equal(p->name, q->name);
        assert_true(p->value.dtype == q->value.dtype);
        assert_true(sara_shape_equal(&p->value.shape, &q->value.shape));
        if (memcmp(p->value.data, q->value.data, bytes) != 0)
            fail_msg("%s: the values differ", p->name);
    }
}

/* All tensors of the original file, to the bit, and no others. */
static void compare_files(sara_context *ctx, const char *path, const char *original)
{
    sara_safetensors *written = test_open(ctx, path), *expected = test_open(ctx, original);
    size_t count = 0;
    for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
        const sara_tensor_info *info = sara_safetensors_at(expected, i);
        const sara_tensor_info *ours = sara_safetensors_find(written, info->name);
        if (strstr(info->name, "first_stage_model.") || strstr(info->name, "text_encoders."))
            continue;
        if (!ours || !sara_shape_equal(&ours->shape, &info->shape) || ours->dtype != info->dtype)
            fail_msg("%s is not as it was", info->name);
        void *a = malloc(info->size), *b = malloc(info->size);
        assert_ok(ctx, sara_safetensors_read(expected, a, info));
        assert_ok(ctx, sara_safetensors_read(written, b, ours));
        if (memcmp(a, b, info->size) != 0)
            fail_msg("%s: the values differ", info->name);
        free(a);
        free(b);
        count++;
    }
    assert_true(count > 40 && count == sara_safetensors_count(written));
    sara_safetensors_close(written);
    sara_safetensors_close(expected);
}

/* dtype NULL: as the network's file has them */
static void check_written(sara_context *ctx, const sara_network *network, const char *prefix,
                          const char *original, const sara_dtype *dtype)
{
    char *folder = test_folder(), *path;
    sara_save_list list;
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "file.safetensors"));
    sara_save_list_init(&list, ctx);
    assert_ok(ctx, sara_save_list_network(&list, network, prefix, dtype));
    assert_ok(ctx, sara_save_list_write(&list, path, NULL, 0));
    compare_files(ctx, path, original);
    sara_save_list_free(&list);
    sara_free(ctx, path);
    test_folder_remove(folder);
}

/* config: of a file whose shapes do not tell how many heads there are, or NULL */
static void check_both_ways(const char *folder, const char *original, const char *prefix,
                            const char *config)
{
    const sara_dtype half = SARA_F16; /* of the values of all, of which a folder may have floats */
    sara_context *ctx = test_context();
    sara_device *device;
    sara_network *network;
    assert_ok(ctx, sara_nn_device_open(ctx, &device, "cpu"));
    assert_ok(ctx,
              sara_network_load(device, &network, &sara_mmdit_class, folder, NULL, SARA_STORE_F16));
    sara_network *single = open_single(device, original, config);
    compare_params(single, network);
    json_t *a = network->class->settings(network), *b = network->class->settings(single);
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    check_written(ctx, network, prefix, original, &half);
    check_written(ctx, single, prefix, original, NULL);
    sara_network_free(network);
    sara_network_free(single);
    sara_nn_device_close(device);
    sara_context_free(ctx);
}

static void test_both_ways(void **state)
{
    (void)state;
    check_both_ways(SINGLE, SINGLE "/original.safetensors", "model.diffusion_model.", NULL);
    if (!test_families_whole())
        return;
    check_both_ways(test_family("sd35_medium/transformer").text,
                    test_family("single/sd35_medium_transformer.safetensors").text, "", NULL);
    check_both_ways(test_family("sd3/transformer").text, test_family("single/sd3.safetensors").text,
                    "model.diffusion_model.", test_family("sd3").text);
}

/* The config that shapes tell is the folder's. */
static void test_derived_config(void **state)
{
    static const char *const told[] = {"attention_head_dim",
                                       "caption_projection_dim",
                                       "in_channels",
                                       "joint_attention_dim",
                                       "num_attention_heads",
                                       "num_layers",
                                       "out_channels",
                                       "patch_size",
                                       "pos_embed_max_size",
                                       "pooled_projection_dim",
                                       "qk_norm",
                                       "sample_size",
                                       "_class_name",
                                       "dual_attention_layers"};
    (void)state;
    sara_context *ctx = test_context();
    sara_single_file *single;
    json_t *expected;
    assert_ok(ctx, sara_json_load(ctx, &expected, SINGLE "/config.json", false));
    assert_ok(ctx, sara_single_open(ctx, &single, SINGLE "/original.safetensors"));
    sara_single_part *part = &single->parts[0];
    part->name = "transformer";
    part->class = &sara_mmdit_class;
    assert_true(sara_single_find_place(single, part, places));
    assert_ok(ctx, part->class->single->read_shape(single, part));
    assert_ok(ctx, sara_single_choose_config(single, part, NULL));
    for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
        if (!json_equal(json_object_get(part->config, told[i]), json_object_get(expected, told[i])))
            fail_msg("%s differs", told[i]);
    assert_int_equal(json_object_size(part->config), sizeof(told) / sizeof(*told));
    json_decref(expected);
    sara_single_close(single);
    sara_context_free(ctx);
}

/* A file of these shapes, all zeros, and why it is refused. */
static void check_refused(const sara_shape *pos_embed, const sara_shape *proj, const char *error)
{
    const sara_tensor_source tensors[] = {
        {"pos_embed", SARA_F32, *pos_embed, calloc(4096, 4)},
        {"x_embedder.proj.weight", SARA_F32, *proj, calloc(4096, 4)},
        {"context_embedder.weight", SARA_F32, sara_shape2(2, 2), calloc(4, 4)},
        {"y_embedder.mlp.0.weight", SARA_F32, sara_shape2(2, 2), calloc(4, 4)},
        {"final_layer.linear.weight", SARA_F32, sara_shape2(2, 2), calloc(4, 4)},
        {"joint_blocks.0.x_block.attn.proj.bias", SARA_F32, sara_shape1(2), calloc(2, 4)}};
    enum { COUNT = sizeof(tensors) / sizeof(*tensors) };
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path;
    sara_single_file *single;
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "file.safetensors"));
    assert_ok(ctx, sara_safetensors_save(ctx, path, tensors, COUNT, NULL, 0));
    assert_ok(ctx, sara_single_open(ctx, &single, path));
    sara_single_part *part = &single->parts[0];
    part->name = "transformer";
    part->class = &sara_mmdit_class;
    assert_true(sara_single_find_place(single, part, places));
    assert_ok(ctx, part->class->single->read_shape(single, part));
    assert_refused(ctx, SARA_ERROR_INPUT, error, sara_single_choose_config(single, part, NULL));
    sara_single_close(single);
    for (size_t i = 0; i < COUNT; i++)
        free((void *)(uintptr_t)tensors[i].data);
    sara_free(ctx, path);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_what_shapes_do_not_tell(void **state)
{
    (void)state;
    const sara_shape nine = sara_shape3(1, 9, 68), eight = sara_shape3(1, 8, 68);
    const sara_shape proj = sara_shape4(68, 4, 2, 2), flat = sara_shape2(68, 16);
    check_refused(&nine, &proj, "how many heads a transformer of width 68 has; --model_config DIR");
    check_refused(&eight, &proj, "pos_embed: 8 positions, expected those of a square");
    check_refused(&nine, &flat, "x_embedder.proj.weight: shape [68,16], expected 4 dimensions");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_derived_config),
        cmocka_unit_test(test_what_shapes_do_not_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
