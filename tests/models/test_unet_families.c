/* U-Nets of families after SD1.x and SD2.x against diffusers. */
#include "support_unet.h"

#include "models/single_file.h"

#include <math.h>

static const char *const models[] = {"sdxl/unet"};

/* Their weights are float16's numbers. */
static void test_equals_diffusers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        const test_name folder = test_family(models[i]);
        unet_run_check_model(folder.text, "cpu-plain", SARA_STORE_F32, 0);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F32, 0);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F32, 1);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F16, SARA_MAX_LEVELS);
    }
}

/* What is added is of all six numbers, and of the pooled text. */
static void test_every_number_counts(void **state)
{
    (void)state;
    unet_run r = unet_run_open(test_family("sdxl/unet").text, "cpu");
    for (int i = 0; i < SARA_TIME_IDS + 1; i++) {
        float *number = i < SARA_TIME_IDS ? r.condition[SARA_CONDITION_TIME_IDS] + i
                                          : r.condition[SARA_CONDITION_POOLED];
        float was = *number;
        *number += 8;
        unet_run_forward(&r);
        assert_true(test_var_error(r.ctx, r.output, r.golden, "output") > 1e-4);
        *number = was;
        sara_tape_reset(r.tape);
    }
    unet_run_close(&r);
}

/* Without one of its conditions, and with another width. */
static void test_conditions_that_lack(void **state)
{
    (void)state;
    unet_run r = unet_run_open(test_family("sdxl/unet").text, "cpu");
    float *const ids = r.condition[SARA_CONDITION_TIME_IDS];
    sara_condition condition = {{NULL}};
    const sara_shape sample_shape = sara_shape4(2, 4, 4, 4), states = sara_shape3(2, 3, 56);
    const sara_shape pooled = sara_shape2(2, 28), five = sara_shape2(2, 5);
    sara_var *sample, *out;
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample, &sample_shape, r.sample, false));
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_STATES], &states,
                                    r.condition[SARA_CONDITION_STATES], false));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "pooled is missing, expected [2,28]",
                   sara_denoiser_forward(r.tape, &out, r.unet, sample, r.timesteps, &condition));
    assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_POOLED], &pooled,
                                    r.condition[SARA_CONDITION_POOLED], false));
    assert_ok(r.ctx,
              sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_TIME_IDS], &five, ids, false));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "time_ids [2,5], expected [2,6]",
                   sara_denoiser_forward(r.tape, &out, r.unet, sample, r.timesteps, &condition));
    unet_run_close(&r);
}

/* --------------------------------------------------------------------------------- single files */

#define PREFIX "model.diffusion_model."

/* The U-Net's folder as a part of a file. The names are those that test_ldm_names knows. */
static void write_single(sara_context *ctx, const char *path, const sara_network *unet)
{
    sara_tensor_source *sources = NULL;
    sara_arena strings;
    sara_ldm_shape shape;
    assert_ok(ctx, sara_network_ldm_shape(unet, &shape));
    assert_ok(ctx, sara_alloc_zero(ctx, &sources, unet->params.count, sizeof(*sources)));
    sara_arena_init(&strings, ctx);
    for (size_t i = 0; i < unet->params.count; i++) {
        const sara_tensor *value = &unet->params.items[i].value;
        char *name = NULL;
        sources[i] = (sara_tensor_source){NULL, value->dtype, value->shape, value->data};
        assert_ok(ctx, sara_ldm_from_diffusers(ctx, &name, &shape, unet->params.items[i].name));
        assert_non_null(name);
        assert_ok(ctx, sara_arena_strdup(&strings, &sources[i].name,
                                         sara_name_of(PREFIX "%s", name).text));
        sara_free(ctx, name);
    }
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, unet->params.count, NULL, 0));
    sara_arena_free(&strings);
    sara_free(ctx, sources);
}

/* config NULL: it is derived. */
static void open_single(sara_context *ctx, sara_single_file **out, const char *path,
                        const char *config)
{
    static const sara_single_place places[] = {{PREFIX, "", SARA_LDM_UNET, false},
                                               {NULL, NULL, SARA_LDM_UNET, false}};
    assert_ok(ctx, sara_single_open(ctx, out, path));
    sara_single_part *part = &(*out)->parts[0];
    part->name = "unet";
    part->class = &sara_unet_class;
    assert_true(sara_single_find_place(*out, part, places));
    assert_ok(ctx, sara_unet_class.single->read_shape(*out, part));
    assert_ok(ctx, sara_single_choose_config(*out, part, config));
}

/* What shapes tell of the U-Net is what its folder says. */
static void check_derived(sara_context *ctx, const char *path, const char *folder)
{
    static const char *const told[] = {"addition_embed_type",
                                       "block_out_channels",
                                       "cross_attention_dim",
                                       "down_block_types",
                                       "in_channels",
                                       "layers_per_block",
                                       "out_channels",
                                       "projection_class_embeddings_input_dim",
                                       "transformer_layers_per_block",
                                       "up_block_types",
                                       "use_linear_projection"};
    sara_single_file *single = NULL;
    json_t *config = NULL;
    assert_ok(ctx, sara_json_load(ctx, &config, sara_name_of("%s/config.json", folder).text, true));
    open_single(ctx, &single, path, NULL);
    for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
        if (!json_equal(json_object_get(config, told[i]),
                        json_object_get(single->parts[0].config, told[i])))
            fail_msg("%s", told[i]);
    sara_single_close(single);
    json_decref(config);
}

/* From a file the same values as from the folder. */
static void test_single_file(void **state)
{
    (void)state;
    const test_name model = test_family("sdxl"), folder = test_family("sdxl/unet");
    unet_run r = unet_run_open(folder.text, "cpu");
    char *place = test_folder();
    const sara_name own = sara_name_of("%s/sdxl.safetensors", place);
    const test_name given = test_family("single/sdxl.safetensors");
    const char *path = test_families_whole() ? given.text : own.text;
    sara_component component;
    sara_single_file *single = NULL;
    sara_network *unet = NULL;
    if (!test_families_whole())
        write_single(r.ctx, path, r.unet);
    check_derived(r.ctx, path, folder.text);
    open_single(r.ctx, &single, path, model.text);
    assert_ok(r.ctx, sara_single_component(single, &component, 0));
    assert_ok(r.ctx,
              sara_network_open(r.device, &unet, &sara_unet_class, &component, SARA_STORE_F32));
    assert_ok(r.ctx, sara_network_read(unet));
    assert_int_equal(unet->params.count, r.params->count);
    for (size_t i = 0; i < r.params->count; i++) {
        const sara_param *a = &r.params->items[i], *b = &unet->params.items[i];
        assert_string_equal(a->name, b->name);
        assert_true(sara_shape_equal(&a->value.shape, &b->value.shape));
        assert_memory_equal(a->value.data, b->value.data,
                            (size_t)sara_shape_count(&a->value.shape) * sizeof(float));
    }
    sara_network_free(unet);
    sara_component_close(&component);
    sara_single_close(single);
    test_folder_remove(place);
    unet_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_diffusers),
        cmocka_unit_test(test_every_number_counts),
        cmocka_unit_test(test_conditions_that_lack),
        cmocka_unit_test(test_single_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
