/* A LoRA from two models, against numpy (make_extract_lora.py). */
#include "support_golden.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define SD3 SARA_TEST_GOLDEN "/sd3_tiny"

/* Weights of linear layers and convolutions, each entry by a multiple of 1/64. */
static void move(sara_params *params)
{
    for (size_t p = 0; p < params->count; p++) {
        sara_param *param = &params->items[p];
        int64_t count = sara_shape_count(&param->value.shape);
        if (param->value.shape.rank < 2 || strstr(param->name, "embedding"))
            continue;
        for (int64_t i = 0; i < count; i++)
            sara_param_set(param, (size_t)i,
                           sara_param_get(param, (size_t)i) +
                               (float)((i * 7 + i * i % 13) % 11 - 5) / 64);
    }
}

typedef struct models {
    sara_model *base, *tuned;
    json_t *expected;
} models;

static models open_models(test_pipe *pipe)
{
    models m = {test_model(pipe, TEST_GOLDEN_MODEL, false),
                test_model(pipe, TEST_GOLDEN_MODEL, false), NULL};
    assert_ok(pipe->ctx, sara_model_need(m.tuned, SARA_STAGE_TEXT));
    move(&m.tuned->denoiser->params);
    move(&m.tuned->parts[TEST_TEXT].network->params);
    m.expected = json_load_file(SARA_TEST_GOLDEN "/../pipeline/extract_lora.json", 0, NULL);
    assert_non_null(m.expected);
    return m;
}

static void close_models(models *m)
{
    sara_model_free(m->base);
    sara_model_free(m->tuned);
    json_decref(m->expected);
}

static sara_extract_options options_of(int rank, const char *precision)
{
    sara_extract_options options;
    sara_extract_options_init(&options);
    options.format = "lora";
    options.rank = rank;
    options.save_precision = precision;
    options.date = 1700000000;
    return options;
}

static void test_against_numpy(void **state)
{
    test_pipe *pipe = *state;
    models m = open_models(pipe);
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(m.expected, "kept"), key, value)
    {
        const sara_extract_options options = options_of(atoi(key), "fp32");
        const char *path = test_text(pipe, "%s/%s.safetensors", pipe->folder, key);
        sara_extract_report r;
        assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, &r, m.base, m.tuned, path, &options));
        double kept = sqrt(1 - r.left_out * r.left_out);
        double norm = json_real_value(json_object_get(m.expected, "norm"));
        assert_close(fabs(kept - json_real_value(value)), 1e-6, key);
        assert_close(fabs(r.change_norm / norm - 1), 1e-6, "norm");
        assert_int_equal(r.layers, json_integer_value(json_object_get(m.expected, "layers")));
        assert_int_equal(r.kept, json_integer_value(json_object_get(m.expected, "entries")));
        assert_int_equal(r.differing, r.kept);
    }
    close_models(&m);
}

/* Newer transformers have text encoders' names without text_model., others with it. */
static void test_other_names(void **state)
{
    static const char start[] = "text_model.";
    test_pipe *pipe = *state;
    models m = open_models(pipe);
    sara_params *text = &m.tuned->parts[TEST_TEXT].network->params;
    const sara_extract_options options = options_of(4, "fp32");
    sara_extract_report r;
    const char **names; /* the model's, which frees them */
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &names, text->count, sizeof(*names)));
    for (size_t i = 0; i < text->count; i++) {
        const char *name = names[i] = text->items[i].name;
        bool published = strncmp(name, start, strlen(start)) == 0;
        text->items[i].name =
            published ? name + strlen(start) : test_text(pipe, "%s%s", start, name);
    }
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, &r, m.base, m.tuned,
                                            test_path(pipe, "named.safetensors"), &options));
    assert_int_equal(r.layers, json_integer_value(json_object_get(m.expected, "layers")));
    assert_int_equal(r.kept, json_integer_value(json_object_get(m.expected, "entries")));
    text->items[0].name = "another";
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "text_encoder: another: only the tuned model",
                   sara_model_extract(pipe->ctx, &r, m.base, m.tuned,
                                      test_path(pipe, "other.safetensors"), &options));
    for (size_t i = 0; i < text->count; i++)
        text->items[i].name = names[i];
    close_models(&m);
}

static double distance_of(const sara_params *a, const sara_params *b)
{
    double sum = 0;
    for (size_t p = 0; p < a->count; p++)
        for (int64_t i = 0; i < sara_shape_count(&a->items[p].value.shape); i++)
            sum += pow((double)sara_param_get(&a->items[p], (size_t)i) -
                           (double)sara_param_get(&b->items[p], (size_t)i),
                       2);
    return sqrt(sum);
}

/* A LoRA of one layer of the text encoder. */
static const char *text_alone(test_pipe *pipe, const sara_params *text)
{
    const sara_param *weight = sara_params_find(text, "text_model.encoder.layers.0.mlp.fc1.weight");
    weight = weight ? weight : sara_params_find(text, "encoder.layers.0.mlp.fc1.weight");
    const int64_t *dims = weight->value.shape.dims;
    const char *path = test_path(pipe, "text.safetensors");
    float *values;
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &values, (size_t)(dims[0] * dims[1]),
                                          sizeof(*values)));
    for (int64_t i = 0; i < dims[0] * dims[1]; i++)
        values[i] = 0.5f;
    const sara_tensor_source tensors[] = {
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", SARA_F32,
         sara_shape2(1, dims[1]), values},
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", SARA_F32,
         sara_shape2(dims[0], 1), values}};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 2, NULL, 0));
    return path;
}

/* Of a rank as large as the shorter sides it makes one model of the other, the text encoder too; an
 * export of it, applied, is the same again. */
static void test_whole(void **state)
{
    test_pipe *pipe = *state;
    models m = open_models(pipe);
    const sara_extract_options options = options_of(4096, "fp32");
    const char *path = test_path(pipe, "whole.safetensors"),
               *again = test_path(pipe, "b.safetensors");
    sara_export_options export;
    sara_export_report report;
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, path, &options));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, path, 1, false));
    assert_ok(pipe->ctx, sara_model_need(m.base, SARA_STAGE_TEXT));
    const sara_params *text = &m.base->parts[TEST_TEXT].network->params;
    const sara_params *tuned = &m.tuned->parts[TEST_TEXT].network->params;
    assert_close(distance_of(&m.base->denoiser->params, &m.tuned->denoiser->params), 1e-3, "U-Net");
    assert_close(distance_of(text, tuned), 1e-3, "text encoder");
    sara_export_options_init(&export);
    export.format = "lora";
    export.rank = 4096;
    export.save_precision = "fp32";
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, m.base, again, &export));
    assert_close(report.error, 1e-3, "export");
    assert_int_equal(report.left_out, 0);
    assert_ok(pipe->ctx, sara_model_remove(m.base));
    assert_true(distance_of(text, tuned) > 1);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, again, 1, false));
    assert_ok(pipe->ctx, sara_model_need(m.base, SARA_STAGE_TEXT));
    assert_close(distance_of(&m.base->denoiser->params, &m.tuned->denoiser->params), 1e-3, "U-Net");
    assert_close(distance_of(text, tuned), 1e-3, "text encoder");
    static const char *const dense[] = {"comfyui", "a1111"};
    for (int i = 0; i < 2; i++) {
        const char *out = test_text(pipe, "%s/%s.safetensors", pipe->folder, dense[i]);
        export.format = dense[i];
        export.rank = 0;
        assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, m.base, out, &export));
        sara_safetensors *file = test_open(pipe->ctx, out);
        assert_non_null(
            sara_safetensors_find(file, "lora_te_text_model_encoder_layers_0_mlp_fc1.diff"));
        sara_safetensors_close(file);
    }
    export.format = "peft";
    export.rank = 2;
    assert_ok(pipe->ctx,
              sara_model_export(pipe->ctx, &report, m.base, test_path(pipe, "peft"), &export));
    assert_int_equal(report.left_out, 0); /* of the denoiser */
    export.rank = 4096;
    export.save_precision = "fp32";
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, m.base,
                                           test_path(pipe, "peft_whole"), &export));
    assert_close(report.error, 1e-3, "PEFT's share");
    assert_ok(pipe->ctx, sara_model_remove(m.base));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, text_alone(pipe, text), 1, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "change the text encoder alone",
                   sara_model_export(pipe->ctx, &report, m.base, test_path(pipe, "none"), &export));
    assert_non_null(strstr(pipe->log, "text encoder are left out, which a folder for PEFT"));
    close_models(&m);
}

/* A folder like SD3's but for T5, all of whose values are 0. */
static const char *without_values(test_pipe *pipe)
{
    static const char *const linked[] = {"transformer",    "vae",       "text_encoder",
                                         "text_encoder_2", "tokenizer", "tokenizer_2",
                                         "tokenizer_3",    "scheduler", "model_index.json"};
    static const uint8_t zeros[16384];
    const char *folder = test_path(pipe, "sd3"), *part = test_path(pipe, "sd3/text_encoder_3");
    sara_tensor_source tensors[64];
    sara_safetensors *file = test_open(pipe->ctx, SD3 "/text_encoder_3/model.safetensors");
    const size_t count = sara_safetensors_count(file);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, part));
    for (size_t i = 0; i < sizeof(linked) / sizeof(*linked); i++)
        assert_int_equal(symlink(test_text(pipe, SD3 "/%s", linked[i]),
                                 test_text(pipe, "%s/%s", folder, linked[i])),
                         0);
    assert_int_equal(
        symlink(SD3 "/text_encoder_3/config.json", test_text(pipe, "%s/config.json", part)), 0);
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        assert_true(info->size <= sizeof(zeros));
        tensors[i] = (sara_tensor_source){info->name, info->dtype, info->shape, zeros};
    }
    assert_ok(pipe->ctx,
              sara_safetensors_save(pipe->ctx, test_text(pipe, "%s/model.safetensors", part),
                                    tensors, count, NULL, 0));
    sara_safetensors_close(file);
    return folder;
}

/* SD3's T5 is never whole in memory: a LoRA holds the others' changes, and says that it does not
 * hold T5's. */
static void test_t5(void **state)
{
    test_pipe *pipe = *state;
    sara_model *base = test_model(pipe, SD3, false);
    sara_model *tuned = test_model(pipe, without_values(pipe), false);
    sara_extract_options options = options_of(4096, "fp32");
    const char *path = test_path(pipe, "sd3.safetensors");
    move(&tuned->denoiser->params);
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, base, tuned, path, &options));
    assert_non_null(strstr(pipe->log, "another than the base's (21 tensors"));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, base, path, 1, false));
    assert_close(distance_of(&base->denoiser->params, &tuned->denoiser->params), 1e-3,
                 "transformer");
    sara_model_free(base);
    sara_model_free(tuned);
}

static void test_refused(void **state)
{
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "x.safetensors");
    sara_extract_options options = options_of(0, NULL);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "format lora: no rank given",
                   sara_extract_check(pipe->ctx, path, &options));
    options = options_of(4, NULL);
    options.tolerance = 0.5;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "tolerance 0.5: format lora keeps a rank",
                   sara_extract_check(pipe->ctx, path, &options));
    options = options_of(4, NULL);
    options.format = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "rank 4: sara's adapter keeps entries",
                   sara_extract_check(pipe->ctx, path, &options));
    options.format = "peft";
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "format peft: expected sara or lora",
                   sara_extract_check(pipe->ctx, path, &options));
    options = options_of(4, NULL);
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "no entry differs",
                   sara_model_extract(pipe->ctx, NULL, model, model, path, &options));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_against_numpy), TEST_CASE(test_other_names),
        TEST_CASE(test_whole),         TEST_CASE(test_t5),
        TEST_CASE(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
