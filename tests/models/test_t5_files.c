/* T5 encoders: configs, and what files hold under which names. */
#include "support_t5.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "models/single_file.h"
#include "support/memory.h"

static void test_configs(void **state)
{
    (void)state;
    static const struct {
        const char *edits, *error;
    } cases[] = {
        {"{\"feed_forward_proj\": \"relu\"}",
         "feed_forward_proj: \"relu\": expected \"gated-gelu\""},
        {"{\"feed_forward_proj\": \"gated-silu\"}", "feed_forward_proj: \"gated-silu\": expected"},
        {"{\"dense_act_fn\": \"gelu\"}", "dense_act_fn: \"gelu\""},
        {"{\"is_decoder\": true}", "is_decoder: true"},
        {"{\"model_type\": \"umt5\"}", "model_type: \"umt5\", expected \"t5\""},
        {"{\"relative_attention_num_buckets\": 30}", "num_buckets: 30: expected a multiple of 4"},
        {"{\"relative_attention_max_distance\": 8}", "max_distance: 8: expected more than"},
        {"{\"d_kv\": 16}", "SelfAttention.k.weight: shape [48,64], expected [64,64]"},
        {"{\"num_layers\": 3}", "9 missing (encoder.block.2.layer.0.layer_norm.weight"},
        {"{\"num_layers\": 1}", "9 not expected (encoder.block.1."},
        {"{\"relative_attention_num_buckets\": 16}", "shape [32,4], expected [16,4]"},
    };
    sara_context *ctx = test_context();
    sara_network *t5;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *copy = test_model_copy(t5_folder().text, cases[i].edits, true);
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_network_load(sara_host_device(ctx), &t5, &sara_t5_class, copy, NULL,
                                         SARA_STORE_F32));
        assert_null(t5);
        test_folder_remove(copy);
    }
    sara_context_free(ctx);
}

/* What a config leaves out is what transformers' T5Config() has; but its feed-forward, which is
 * not supported. */
static void test_defaults(void **state)
{
    (void)state;
    static const char *const fields[] = {"layer_norm_epsilon", "relative_attention_num_buckets",
                                         "relative_attention_max_distance", "eos_token_id"};
    static const struct {
        const char *left_out, *error;
    } sizes[] = {{"vocab_size", "shared.weight: shape [512,64], expected [32128,64]"},
                 {"d_model", "layer_norm.weight: shape [64], expected [512]"},
                 {"d_kv", "SelfAttention.k.weight: shape [48,64], expected [256,64]"},
                 {"d_ff", "wi_0.weight: shape [96,64], expected [2048,64]"},
                 {"num_layers", "36 missing"}, /* 9 of each block beyond two */
                 {"num_heads", "SelfAttention.k.weight: shape [48,64], expected [96,64]"},
                 {"feed_forward_proj", "feed_forward_proj: not given"}};
    t5_run r = t5_open(t5_folder().text, "cpu", SARA_STORE_F32);
    sara_safetensors *golden = t5_golden(&r);
    float *expected = t5_run_forward(&r, 0, 1);
    sara_component component;
    for (size_t i = 0; i <= sizeof(sizes) / sizeof(*sizes); i++) {
        bool last = i == sizeof(sizes) / sizeof(*sizes);
        sara_network_free(r.t5);
        assert_ok(r.ctx, sara_component_open(r.ctx, &component, t5_folder().text,
                                             SARA_TRANSFORMERS_STEM, NULL));
        for (size_t k = 0; k < sizeof(fields) / sizeof(*fields); k++)
            assert_int_equal(json_object_del(component.config, fields[k]), 0);
        if (!last) {
            assert_int_equal(json_object_del(component.config, sizes[i].left_out), 0);
            assert_refused(
                r.ctx, SARA_ERROR_INPUT, sizes[i].error,
                sara_network_open(r.device, &r.t5, &sara_t5_class, &component, SARA_STORE_F32));
        } else {
            assert_ok(r.ctx, sara_network_open(r.device, &r.t5, &sara_t5_class, &component,
                                               SARA_STORE_F32));
        }
        sara_component_close(&component);
    }
    assert_int_equal(r.t5->info.text.eos_token_id, 1);
    float *got = t5_run_forward(&r, 0, 1);
    assert_memory_equal(got, expected, (size_t)r.count * 64 * sizeof(*got));
    free(expected);
    free(got);
    sara_safetensors_close(golden);
    t5_close(&r);
}

static void test_bad_calls(void **state)
{
    (void)state;
    t5_run r = t5_open(t5_folder().text, "cpu", SARA_STORE_F32);
    const int32_t ids[] = {512};
    sara_var *states;
    assert_refused(r.ctx, SARA_ERROR_INPUT, "T5 text encoder: 0 texts of 3 ids",
                   sara_t5_forward(r.tape, &states, r.t5, ids, 0, 3));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "T5 text encoder: 1 texts of 0 ids",
                   sara_t5_forward(r.tape, &states, r.t5, ids, 1, 0));
    assert_refused(r.ctx, SARA_ERROR_INPUT, "512",
                   sara_t5_forward(r.tape, &states, r.t5, ids, 1, 1));
    t5_assert_released(&r);
    t5_close(&r);
}

/* Files that are written to after they were opened. */
static void test_changed_files(void **state)
{
    (void)state;
    static const int32_t ids[] = {3, 1};
    char *copy = test_model_copy(t5_folder().text, "{}", true);
    t5_run r = t5_open(copy, "cpu", SARA_STORE_F32);
    sara_var *states;
    char *path;
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, copy, "model.safetensors"));
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 5000), 0);
    fclose(file);
    assert_refused(r.ctx, SARA_ERROR_IO, "model.safetensors",
                   sara_t5_forward(r.tape, &states, r.t5, ids, 1, 2));
    t5_assert_released(&r);
    sara_free(r.ctx, path);
    t5_close(&r);
    test_folder_remove(copy);
}

static sara_status load_and_run(sara_context *ctx, const char *path)
{
    static const int32_t ids[] = {3, 1, 7, 1};
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_network *t5 = NULL;
    sara_var *states;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, "cpu-plain"));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(sara_network_load(device, &t5, &sara_t5_class, path, NULL, SARA_STORE_EXACT));
    TRY(sara_t5_forward(tape, &states, t5, ids, 2, 2));
done:
    sara_network_free(t5);
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(load_and_run, t5_folder().text);
}

/* --------------------------------------------------------------------------------------- names */

#define PREFIX "text_encoders.t5xxl.transformer."

/* Writes the folder's tensors into a file, the table of tokens under its own name, its other one,
 * or both. */
static void write_single(sara_context *ctx, const char *path, const char *prefix, int tables)
{
    sara_weights *weights;
    assert_ok(ctx,
              sara_weights_open(ctx, &weights, t5_folder().text, SARA_TRANSFORMERS_STEM, NULL));
    size_t count = sara_weights_count(weights), used = 0;
    sara_tensor_source *sources = calloc(count + 1, sizeof(*sources));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        bool table = strcmp(info->name, "shared.weight") == 0;
        void *data = malloc((size_t)sara_shape_count(&info->shape) * 2);
        assert_int_equal(info->dtype, SARA_F16);
        assert_ok(ctx, sara_weights_read(weights, data, info));
        for (int k = 0; k < (table ? 2 : 1); k++) {
            char *name = malloc(200);
            snprintf(name, 200, "%s%s", prefix, k ? "encoder.embed_tokens.weight" : info->name);
            if (!table || tables & (1 << k))
                sources[used++] = (sara_tensor_source){name, info->dtype, info->shape, data};
            else
                free(name);
        }
    }
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, used, NULL, 0));
    for (size_t i = 0; i < used; i++) {
        bool again = false;
        for (size_t k = 0; k < i; k++)
            again |= sources[k].data == sources[i].data;
        if (!again)
            free((void *)(uintptr_t)sources[i].data);
    }
    for (size_t i = 0; i < used; i++)
        free((void *)(uintptr_t)sources[i].name);
    free(sources);
    sara_weights_close(weights);
}

/* Of a file whose config is told by its tensors' shapes; its place is found by the layout. */
static void check_single(int tables, const float *expected, const t5_run *of)
{
    static const sara_single_place places[] = {{"text_encoders.t5xxl.", "", SARA_LDM_T5, false},
                                               {PREFIX, "", SARA_LDM_T5, false},
                                               {NULL, NULL, SARA_LDM_T5, false}};
    char *made = test_folder(), *path;
    t5_run r = {.ctx = test_context(), .batch = 1, .count = of->count};
    sara_single_file *single;
    sara_component component;
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, made, "model.safetensors"));
    write_single(r.ctx, path, PREFIX, tables);
    assert_ok(r.ctx, sara_single_open(r.ctx, &single, path));
    single->parts[0].class = &sara_t5_class;
    single->parts[0].name = "text_encoder_3";
    assert_true(sara_single_find_place(single, &single->parts[0], places));
    assert_string_equal(single->parts[0].prefix, PREFIX);
    assert_ok(r.ctx, sara_t5_class.single->read_shape(single, &single->parts[0]));
    assert_ok(r.ctx, sara_single_choose_config(single, &single->parts[0], NULL));
    assert_ok(r.ctx, sara_single_component(single, &component, 0));
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, "cpu"));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx,
              sara_network_open(r.device, &r.t5, &sara_t5_class, &component, SARA_STORE_EXACT));
    r.ids = of->ids;
    float *got = t5_run_forward(&r, 0, 1);
    assert_memory_equal(got, expected, (size_t)r.count * 64 * sizeof(*got));
    free(got);
    r.ids = NULL;
    sara_component_close(&component);
    sara_single_close(single);
    sara_free(r.ctx, path);
    t5_close(&r);
    test_folder_remove(made);
}

static void test_single_files(void **state)
{
    (void)state;
    t5_run r = t5_open(t5_folder().text, "cpu", SARA_STORE_EXACT);
    sara_safetensors *golden = t5_golden(&r);
    float *expected = t5_run_forward(&r, 0, 1);
    for (int tables = 1; tables <= 3; tables++)
        check_single(tables, expected, &r);
    free(expected);
    sara_safetensors_close(golden);
    t5_close(&r);
}

/* Folders, too, hold the table of tokens under either name or both. */
static void test_tables(void **state)
{
    (void)state;
    t5_run r = t5_open(t5_folder().text, "cpu", SARA_STORE_EXACT);
    sara_safetensors *golden = t5_golden(&r);
    float *expected = t5_run_forward(&r, 0, 1);
    for (int tables = 2; tables <= 3; tables++) {
        char *copy = test_model_copy(t5_folder().text, "{}", false), *path;
        assert_ok(r.ctx, sara_path_join(r.ctx, &path, copy, "model.safetensors"));
        write_single(r.ctx, path, "", tables);
        sara_network_free(r.t5);
        assert_ok(r.ctx,
                  sara_network_load(r.device, &r.t5, &sara_t5_class, copy, NULL, SARA_STORE_EXACT));
        float *got = t5_run_forward(&r, 0, 1);
        assert_memory_equal(got, expected, (size_t)r.count * 64 * sizeof(*got));
        free(got);
        sara_free(r.ctx, path);
        test_folder_remove(copy);
    }
    free(expected);
    sara_safetensors_close(golden);
    t5_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configs),   cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_bad_calls), cmocka_unit_test(test_changed_files),
        cmocka_unit_test(test_memory),    cmocka_unit_test(test_single_files),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
