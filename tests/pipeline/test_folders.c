/* Model folders as they are found: extra files, variants, shards; saving that fails. */
#include "support/memory.h"

#include "pipeline/pipeline.h"

#include <stdio.h>
#include <stdlib.h>

#define BASE  SARA_TEST_EMOJI "/base"
#define TINY  SARA_TEST_GOLDEN "/variants/unet_tiny"
#define BYTES "not read by sara"

typedef struct fixture {
    sara_context *ctx;
    char *folder;
    char path[3][512]; /* of joined() */
    int used;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->ctx = test_context();
    f->folder = test_folder();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

/* A path in the scratch folder; lives until the third call from now. */
static const char *in(fixture *f, const char *name)
{
    char *path = f->path[f->used++ % 3];
    snprintf(path, sizeof(f->path[0]), "%s/%s", f->folder, name);
    return path;
}

static void put(fixture *f, const char *name, const char *text)
{
    assert_ok(f->ctx, sara_file_write(f->ctx, in(f, name), text, strlen(text)));
}

static bool holds(fixture *f, const char *name, const char *text)
{
    char *data = NULL;
    size_t size;
    assert_ok(f->ctx, sara_file_read(f->ctx, &data, &size, in(f, name), 1 << 20));
    bool same = strcmp(data, text) == 0;
    sara_free(f->ctx, data);
    return same;
}

static sara_model *load(fixture *f, const char *path, const sara_model_options *options)
{
    sara_model *model = NULL;
    assert_ok(f->ctx, sara_model_load(f->ctx, &model, path, options));
    assert_ok(f->ctx, sara_model_need(model, SARA_STAGE_DENOISE));
    return model;
}

/* The emoji model in the scratch folder, to be changed. */
static void copy_base(fixture *f, const char *name)
{
    sara_model *model = load(f, BASE, NULL);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, name), NULL));
    sara_model_free(model);
}

static sara_model *load_tiny(fixture *f, const char *path)
{
    return load(f, path, &(sara_model_options){.unet_only = true});
}

static void assert_same_unet(fixture *f, sara_model *a, sara_model *b)
{
    const char *x, *y;
    assert_ok(f->ctx, sara_model_base_sha256(f->ctx, &x, a));
    assert_ok(f->ctx, sara_model_base_sha256(f->ctx, &y, b));
    assert_string_equal(x, y);
}

static size_t entries_of(fixture *f)
{
    char **names = NULL;
    size_t count;
    assert_ok(f->ctx, sara_directory_list(f->ctx, &names, &count, f->folder));
    sara_directory_free(f->ctx, names, count);
    return count;
}

/* Everything but old weights of the components and hidden files comes along. */
static void test_extra_files(void **state)
{
    fixture *f = *state;
    copy_base(f, "work");
    assert_ok(f->ctx, sara_directory_make(f->ctx, in(f, "work/safety_checker")));
    assert_ok(f->ctx, sara_directory_make(f->ctx, in(f, "work/.cache")));
    put(f, "work/README.md", BYTES);
    put(f, "work/safety_checker/model.safetensors", BYTES);
    put(f, "work/unet/notes.txt", BYTES);
    put(f, "work/unet/diffusion_pytorch_model.bin", BYTES);
    put(f, "work/.cache/blob", BYTES);
    sara_model *model = load(f, in(f, "work"), NULL);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, "saved/"), NULL));
    assert_true(holds(f, "saved/README.md", BYTES));
    assert_true(holds(f, "saved/safety_checker/model.safetensors", BYTES));
    assert_true(holds(f, "saved/unet/notes.txt", BYTES));
    assert_false(sara_path_exists(in(f, "saved/unet/diffusion_pytorch_model.bin")));
    assert_false(sara_path_exists(in(f, "saved/.cache")));
    assert_refused(f->ctx, SARA_ERROR_USAGE, "inside the model's own folder",
                   sara_model_save(f->ctx, NULL, model, in(f, "work/merged"), NULL));
    assert_int_equal(entries_of(f), 2);
    sara_model_free(model);
}

static void test_variant(void **state)
{
    static const char *const stems[] = {"unet/diffusion_pytorch_model",
                                        "vae/diffusion_pytorch_model", "text_encoder/model"};
    fixture *f = *state;
    sara_model *model = NULL, *base = load(f, BASE, NULL);
    copy_base(f, "work");
    for (size_t i = 0; i < 3; i++) {
        char from[128], to[128];
        snprintf(from, sizeof(from), "work/%s.safetensors", stems[i]);
        snprintf(to, sizeof(to), "work/%s.fp16.safetensors", stems[i]);
        assert_int_equal(rename(in(f, from), in(f, to)), 0);
    }
    sara_status status = sara_model_load(f->ctx, &model, in(f, "work"), NULL);
    assert_true(status == SARA_ERROR_INPUT || status == SARA_ERROR_IO);
    test_assert_contains(sara_context_error(f->ctx), "diffusion_pytorch_model", __FILE__, __LINE__);
    assert_null(model);
    model = load(f, in(f, "work"), &(sara_model_options){.variant = "fp16"});
    assert_same_unet(f, model, base);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, "saved"), NULL));
    sara_model_free(model);
    model = load(f, in(f, "saved"), NULL);
    assert_same_unet(f, model, base);
    assert_false(sara_path_exists(in(f, "saved/unet/diffusion_pytorch_model.fp16.safetensors")));
    sara_model_free(model);
    sara_model_free(base);
}

/* The tiny U-Net in two files and an index. */
static void write_shards(fixture *f)
{
    sara_weights *weights;
    json_t *map = json_object(), *index = json_pack("{s:{},s:O}", "metadata", "weight_map", map);
    assert_ok(f->ctx, sara_weights_open(f->ctx, &weights, TINY, SARA_DIFFUSERS_STEM, NULL));
    size_t count = sara_weights_count(weights), half = count / 2;
    sara_tensor_source *sources = calloc(count, sizeof(*sources));
    assert_ok(f->ctx, sara_directory_make(f->ctx, in(f, "shards")));
    assert_ok(f->ctx, sara_file_copy(f->ctx, TINY "/config.json", in(f, "shards/config.json")));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        void *data = malloc((size_t)info->size);
        assert_ok(f->ctx, sara_weights_read(weights, data, info));
        sources[i] = (sara_tensor_source){info->name, info->dtype, info->shape, data};
        json_object_set_new(
            map, info->name,
            json_string(i < half ? "diffusion_pytorch_model-00001-of-00002.safetensors"
                                 : "diffusion_pytorch_model-00002-of-00002.safetensors"));
    }
    assert_ok(f->ctx,
              sara_safetensors_save(
                  f->ctx, in(f, "shards/diffusion_pytorch_model-00001-of-00002.safetensors"),
                  sources, half, NULL, 0));
    assert_ok(f->ctx,
              sara_safetensors_save(
                  f->ctx, in(f, "shards/diffusion_pytorch_model-00002-of-00002.safetensors"),
                  sources + half, count - half, NULL, 0));
    assert_int_equal(
        json_dump_file(index, in(f, "shards/diffusion_pytorch_model.safetensors.index.json"), 0),
        0);
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)sources[i].data);
    free(sources);
    json_decref(index);
    json_decref(map);
    sara_weights_close(weights);
}

static void test_shards(void **state)
{
    fixture *f = *state;
    write_shards(f);
    sara_model *whole = load_tiny(f, TINY), *model = load_tiny(f, in(f, "shards"));
    assert_same_unet(f, whole, model);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, "saved"), NULL));
    assert_false(sara_path_exists(in(f, "saved/diffusion_pytorch_model.safetensors.index.json")));
    sara_model_free(model);
    model = load_tiny(f, in(f, "saved"));
    assert_same_unet(f, whole, model);
    sara_model_free(model);
    assert_int_equal(remove(in(f, "shards/diffusion_pytorch_model-00002-of-00002.safetensors")), 0);
    sara_status status =
        sara_model_load(f->ctx, &model, in(f, "shards"), &(sara_model_options){.unet_only = true});
    assert_true(status == SARA_ERROR_IO || status == SARA_ERROR_INPUT);
    test_assert_contains(sara_context_error(f->ctx), "00002-of-00002", __FILE__, __LINE__);
    sara_model_free(whole);
}

/* bf16 keeps the upper half of a float's bits, rounded to even. */
static void test_bf16(void **state)
{
    fixture *f = *state;
    sara_model *model = load_tiny(f, TINY);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, "saved"), "bf16"));
    sara_model *again = load_tiny(f, in(f, "saved"));
    const sara_params *a = &model->denoiser->params, *b = &again->denoiser->params;
    for (size_t i = 0; i < a->count; i++) {
        assert_int_equal(b->items[i].stored, SARA_BF16);
        for (int64_t j = 0; j < sara_shape_count(&a->items[i].value.shape); j++) {
            uint32_t bits, got;
            memcpy(&bits, (const float *)a->items[i].value.data + j, sizeof(bits));
            memcpy(&got, (const float *)b->items[i].value.data + j, sizeof(got));
            assert_int_equal(got, (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000);
        }
    }
    sara_model_free(again);
    sara_model_free(model);
}

/* A save that fails in the middle leaves no folder, not even a hidden one. */
static void test_value_beyond_f16(void **state)
{
    fixture *f = *state;
    sara_model *model = load_tiny(f, TINY);
    float *value = sara_params_find(&model->denoiser->params, "conv_out.bias")->value.data;
    value[0] = 1e6f;
    assert_refused(f->ctx, SARA_ERROR_USAGE, "conv_out.bias: entry 0 is 1e+06",
                   sara_model_save(f->ctx, NULL, model, in(f, "saved"), "fp16"));
    assert_int_equal(entries_of(f), 0);
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, "saved"), "bf16"));
    assert_int_equal(entries_of(f), 1);
    sara_model_free(model);
}

/* diffusers loads the class that model_index.json names, whatever the scheduler's own file says. */
static void test_scheduler_class(void **state)
{
    static const char index[] = "{\"_class_name\": \"StableDiffusionPipeline\", \"scheduler\": "
                                "[\"diffusers\", \"DDIMScheduler\"]}";
    fixture *f = *state;
    copy_base(f, "work");
    sara_model *model = load(f, in(f, "work"), NULL);
    assert_int_equal(model->scheduler.kind, SARA_SAMPLER_DPMPP_2M);
    sara_model_free(model);
    put(f, "work/model_index.json", index);
    model = load(f, in(f, "work"), NULL);
    assert_int_equal(model->scheduler.kind, SARA_SAMPLER_DDIM);
    sara_model_free(model);
    put(f, "work/model_index.json", "[]");
    assert_refused(f->ctx, SARA_ERROR_INPUT, "model_index.json",
                   sara_model_load(f->ctx, &model, in(f, "work"), NULL));
}

/* A class without a sampler goes through with its config unchanged, to a folder, to a file and from
 * it; drawing needs a method. */
static void test_no_sampler(void **state)
{
    static const char config[] =
        "{\"_class_name\": \"DEISMultistepScheduler\", \"beta_start\": 0.00085, \"beta_end\": "
        "0.012, "
        "\"beta_schedule\": \"scaled_linear\", \"solver_order\": 3, \"steps_offset\": 1}";
    static const char index[] = "{\"_class_name\": \"StableDiffusionPipeline\", \"scheduler\": "
                                "[\"diffusers\", \"DEISMultistepScheduler\"]}";
    static const char *const paths[] = {"folder", "file.safetensors", "again"};
    fixture *f = *state;
    sara_model_options model_options = {0};
    sara_generate_options options;
    sara_scheduler_config scheduler;
    sara_model *model = NULL;
    copy_base(f, "work");
    put(f, "work/scheduler/scheduler_config.json", config);
    put(f, "work/model_index.json", index);
    model = load(f, in(f, "work"), NULL);
    json_t *want = json_deep_copy(model->scheduler_json);
    for (int i = 0; i < 3; i++) {
        assert_ok(f->ctx, sara_model_save(f->ctx, NULL, model, in(f, paths[i]), NULL));
        sara_model_free(model);
        model_options.tokenizer = i == 1 ? BASE "/tokenizer" : NULL;
        assert_ok(f->ctx, sara_model_load(f->ctx, &model, in(f, paths[i]), &model_options));
        json_object_del(model->scheduler_json, "prediction_type"); /* a file states the default */
        assert_true(json_equal(model->scheduler_json, want));
        assert_int_equal(model->scheduler.kind, SARA_SAMPLER_OTHER);
    }
    sara_generate_options_init(&options);
    assert_refused(f->ctx, SARA_ERROR_INPUT,
                   "no sampler for DEISMultistepScheduler; --sampling-method NAME picks another: "
                   "ddim, ",
                   sara_generate_scheduler(f->ctx, &scheduler, model, &options));
    options.sampling_method = "ddim";
    assert_ok(f->ctx, sara_generate_scheduler(f->ctx, &scheduler, model, &options));
    assert_int_equal(scheduler.kind, SARA_SAMPLER_DDIM);
    assert_int_equal(scheduler.steps_offset, 1);
    json_decref(want);
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- memory */

static sara_status load_and_save(sara_context *ctx, const char *folder)
{
    static int number;
    char out[512];
    sara_model *model = NULL;
    sara_save_report report;
    snprintf(out, sizeof(out), "%s/%d", folder, number++);
    sara_status status =
        sara_model_load(ctx, &model, TINY, &(sara_model_options){.unet_only = true});
    if (status == SARA_OK)
        status = sara_model_save(ctx, &report, model, out, "fp16");
    sara_model_free(model);
    return status;
}

static void test_allocations(void **state)
{
    fixture *f = *state;
    test_every_allocation(load_and_save, f->folder);
    assert_int_equal(entries_of(f), 1); /* what failed left nothing */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_extra_files), TEST(test_variant),          TEST(test_shards),
        TEST(test_bf16),        TEST(test_value_beyond_f16), TEST(test_scheduler_class),
        TEST(test_no_sampler),  TEST(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
