/* SD3's and SD3.5's transformers against diffusers. */
#include "support_unet.h"

#include "models/mmdit/parts.h"

#include <math.h>
#include <stdlib.h>

/* Whose weights are float16's numbers. The others are in the whole set alone. */
static const char *const families[] = {"sd35_medium/transformer", "sd3/transformer",
                                       "sd35_large/transformer"};

static int family_count(void)
{
    return test_families_whole() ? 3 : 1;
}

/* Where the text ends, what gives its queries has no gradient at all. */
static void test_equals_diffusers(void **state)
{
    (void)state;
    unet_run_check_model(MMDIT, "cpu-plain", SARA_STORE_F32, 0);
    unet_run_check_model(MMDIT, "cpu", SARA_STORE_F32, 0);
    unet_run_check_model(MMDIT, "cpu", SARA_STORE_F16, 2);
    for (int i = 0; i < family_count(); i++) {
        const test_name folder = test_family(families[i]);
        unet_run_check_model(folder.text, "cpu-plain", SARA_STORE_F32, 0);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F32, 0);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F32, 1);
        unet_run_check_model(folder.text, "cpu", SARA_STORE_F16, SARA_MAX_LEVELS);
    }
}

/* Crops of the table of all sizes, whole and from its middle. */
static void test_sides(void **state)
{
    static const char *const names[] = {"encoder_hidden_states", "pooled"};
    (void)state;
    unet_run r = unet_run_open(MMDIT, "cpu");
    sara_safetensors *sides = test_open(r.ctx, MMDIT "/sides.safetensors");
    const int count = atoi(sara_safetensors_metadata(sides, "count"));
    assert_true(count > 3);
    for (int i = 0; i < count; i++) {
        const sara_name sample_name = sara_name_of("sample.%d", i);
        float *data[3], *timestep;
        size_t entries;
        sara_condition condition = {{NULL}};
        sara_var *sample, *output;
        data[2] = test_load_f32(r.ctx, sides, sample_name.text, &entries);
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample,
                                        &sara_safetensors_find(sides, sample_name.text)->shape,
                                        data[2], false));
        for (int k = 0; k < 2; k++) {
            const sara_name name = sara_name_of("%s.%d", names[k], i);
            data[k] = test_load_f32(r.ctx, sides, name.text, &entries);
            assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[k],
                                            &sara_safetensors_find(sides, name.text)->shape,
                                            data[k], false));
        }
        timestep = test_load_f32(r.ctx, sides, sara_name_of("timestep.%d", i).text, &entries);
        assert_ok(r.ctx, sara_denoiser_forward(r.tape, &output, r.unet, sample,
                                               &(const double){timestep[0]}, &condition));
        assert_close(test_var_error(r.ctx, output, sides, sara_name_of("output.%d", i).text), 1e-5,
                     sample_name.text);
        sara_free(r.ctx, timestep);
        for (int k = 0; k < 3; k++)
            sara_free(r.ctx, data[k]);
        sara_tape_reset(r.tape);
    }
    sara_safetensors_close(sides);
    unet_run_close(&r);
}

/* Of the first blocks, each one more: the same bits, and less memory each time, but for the last
 * block, which is computed again at once. */
static void test_checkpointing_gives_the_same(void **state)
{
    (void)state;
    static const char *const folders[] = {MMDIT, SD35};
    for (int f = 0; f < 2; f++) {
        unet_run kept = unet_run_open(folders[f], "cpu");
        size_t most = SIZE_MAX;
        unet_run_want_dense(&kept);
        unet_run_step(&kept);
        assert_int_equal(kept.unet->info.denoiser.levels, f ? 3 : 2);
        for (int levels = 0; levels <= kept.unet->info.denoiser.levels; levels++) {
            unet_run again = unet_run_open(folders[f], "cpu");
            unet_run_want_dense(&again);
            again.unet->checkpoint_levels = levels;
            unet_run_step(&again);
            for (size_t i = 0; i < kept.params->count; i++) {
                const sara_param *a = &again.params->items[i], *b = &kept.params->items[i];
                size_t count = (size_t)sara_shape_count(&a->value.shape);
                if (memcmp(a->grad, b->grad, count * sizeof(*a->grad)) != 0)
                    fail_msg("%s: the gradients differ with %d levels", a->name, levels);
            }
            if (f == 1) /* of the smaller one it is a kernel's scratch */
                assert_true(sara_tape_peak(again.tape) < most + (levels == 3));
            most = sara_tape_peak(again.tape);
            unet_run_close(&again);
        }
        unet_run_close(&kept);
    }
}

/* ------------------------------------------------------------------------- the table, the file */

/* It is no parameter, but lies in memory as the file has it, or narrower where it is to. */
static void test_positions_are_a_buffer(void **state)
{
    (void)state;
    static const struct {
        sara_storage storage;
        sara_dtype dtype;
    } cases[] = {
        {SARA_STORE_F32, SARA_F16}, {SARA_STORE_EXACT, SARA_F16}, {SARA_STORE_BF16, SARA_BF16}};
    for (int i = 0; i < 3; i++) {
        unet_run r = unet_run_open_stored(MMDIT, "cpu", cases[i].storage);
        const sara_param *table = &r.params->items[r.params->count];
        assert_int_equal(r.params->buffers, 1);
        assert_string_equal(table->name, "pos_embed.pos_embed");
        assert_int_equal(table->value.dtype, cases[i].dtype);
        assert_int_equal(table->value.shape.dims[1], 49);
        assert_null(sara_params_find(r.params, "pos_embed.pos_embed"));
        assert_non_null(sara_params_find(r.params, "pos_embed.proj.weight"));
        int64_t entries = 0;
        for (size_t k = 0; k < r.params->count; k++) {
            entries += sara_shape_count(&r.params->items[k].value.shape);
            if (k)
                assert_true(strcmp(r.params->items[k - 1].name, r.params->items[k].name) < 0);
        }
        assert_true(entries == sara_params_entries(r.params));
        unet_run_close(&r);
    }
}

/* What a config leaves out is what diffusers' SD3Transformer2DModel() has. */
static sara_status read_config(sara_context *ctx, sara_mmdit_config *out, const char *text)
{
    char source[] = "test";
    sara_component component = {.ctx = ctx, .source = source};
    sara_model_config file;
    sara_status status;
    memset(out, 0, sizeof(*out));
    assert_ok(ctx, sara_json_parse(ctx, &component.config, text, strlen(text), source, true));
    assert_ok(ctx,
              sara_model_config_of(ctx, &file, &component, "_class_name", "SD3Transformer2DModel"));
    status = sara_mmdit_config_read(&file, out);
    json_decref(component.config);
    return status;
}

static void test_config(void **state)
{
    static const struct {
        const char *text, *error;
    } refused[] = {
        {"{\"qk_norm\": \"layer_norm\"}", "test: qk_norm: \"layer_norm\""},
        {"{\"caption_projection_dim\": 1536}", "caption_projection_dim: 1536: expected num_"},
        {"{\"pos_embed_max_size\": null}", "pos_embed_max_size: null: not supported"},
        {"{\"in_channels\": 33}", "in_channels 33, out_channels 16: models whose output"},
        {"{\"dual_attention_layers\": [0, -1]}", "dual_attention_layers"},
        {"{\"num_layers\": 61}", "num_layers"},
    };
    sara_context *ctx = test_context();
    sara_mmdit_config c;
    (void)state;
    assert_ok(ctx, read_config(ctx, &c, "{}"));
    assert_true(c.blocks == 18 && c.heads == 18 && c.width == 1152 && c.joint_width == 4096);
    assert_true(c.pooled_width == 2048 && c.channels == 16 && c.patch == 2 && c.positions == 96);
    assert_true(c.sample_size == 128 && !c.qk_norm && !c.dual[0]);
    assert_ok(ctx, read_config(ctx, &c,
                               "{\"dual_attention_layers\": [0, 2], \"qk_norm\": \"rms_norm\", "
                               "\"out_channels\": null}"));
    assert_true(c.dual[0] && !c.dual[1] && c.dual[2] && c.qk_norm);
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        assert_refused(ctx, SARA_ERROR_INPUT, refused[i].error,
                       read_config(ctx, &c, refused[i].text));
    sara_context_free(ctx);
}

/* As diffusers counts them in models of these sizes, without the tables. */
static void test_published_shapes(void **state)
{
    static const struct {
        const char *name;
        int64_t entries, positions;
    } shapes[] = {{"sd3-medium", 2028328000, 192},
                  {"sd35-medium", 2243171520, 384},
                  {"sd35-large", 8056627520, 192}};
    const sara_network_class *class = &sara_mmdit_class;
    (void)state;
    for (int i = 0; i < 3; i++) {
        sara_context *ctx = test_context();
        sara_mmdit mmdit = {.network = {.ctx = ctx}}; /* bound only */
        sara_component component;
        sara_model_config file;
        sara_binder *binder = NULL;
        sara_arena_init(&mmdit.network.arena, ctx);
        assert_ok(ctx, sara_network_shape_of(ctx, &component, class, shapes[i].name));
        assert_ok(ctx, sara_model_config_of(ctx, &file, &component, class->key, class->value));
        assert_ok(ctx, class->read_config(&mmdit.network, &file));
        assert_ok(ctx, sara_binder_new(sara_host_device(ctx), &binder));
        assert_ok(ctx, class->bind(&mmdit.network, binder, NULL));
        assert_true(sara_binder_entries(binder) == shapes[i].entries);
        assert_true(mmdit.config.positions == shapes[i].positions);
        assert_true(mmdit.config.head_width == 64);
        assert_int_equal(mmdit.network.info.denoiser.levels, SARA_MAX_LEVELS);
        sara_binder_free(binder);
        sara_component_close(&component);
        sara_arena_free(&mmdit.network.arena);
        sara_context_free(ctx);
    }
}

static void test_inputs_of_other_shapes_are_refused(void **state)
{
    static const struct {
        sara_shape sample, states, pooled;
        const char *error;
    } cases[] = {
        {{4, {1, 3, 4, 4}}, {3, {1, 2, 10}}, {2, {1, 6}}, "mmdit: sample [1,3,4,4], expected [N,4"},
        {{4, {1, 4, 4, 4}}, {3, {1, 2, 12}}, {2, {1, 6}}, "states [1,2,12], expected [1,T,10]"},
        {{4, {1, 4, 4, 4}}, {3, {1, 2, 10}}, {2, {1, 7}}, "pooled [1,7], expected [1,6]"},
        {{4, {1, 4, 4, 5}}, {3, {1, 2, 10}}, {2, {1, 6}}, "of 4 x 5, expected sides that are mult"},
        {{4, {1, 4, 16, 4}}, {3, {1, 2, 10}}, {2, {1, 6}}, "multiples of 2 up to 14"},
    };
    static const float zeros[256] = {0};
    (void)state;
    unet_run r = unet_run_open(MMDIT, "cpu");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_condition condition = {{NULL}};
        sara_var *sample, *output = NULL;
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &sample, &cases[i].sample, zeros, false));
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_STATES],
                                        &cases[i].states, zeros, false));
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &condition.of[SARA_CONDITION_POOLED],
                                        &cases[i].pooled, zeros, false));
        assert_refused(
            r.ctx, SARA_ERROR_INPUT, cases[i].error,
            sara_denoiser_forward(r.tape, &output, r.unet, sample, r.timesteps, &condition));
        sara_tape_reset(r.tape);
    }
    unet_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_diffusers),
        cmocka_unit_test(test_sides),
        cmocka_unit_test(test_checkpointing_gives_the_same),
        cmocka_unit_test(test_positions_are_a_buffer),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_published_shapes),
        cmocka_unit_test(test_inputs_of_other_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
