/* What a U-Net's weights are in memory: dtypes, values bit for bit, what fp16 cannot hold. */
#include "support_models.h"

#include "models/unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SD1   SARA_TEST_GOLDEN "/unet_sd1"
#define EMOJI SARA_TEST_EMOJI "/base/unet" /* its largest tensors are read by several parts */
#define STEM  "diffusion_pytorch_model"

/* --------------------------------------------------------------------------------------- names */

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        sara_storage storage;
    } known[] = {{NULL, SARA_STORE_F32},        {"fp32", SARA_STORE_F32},
                 {"f32", SARA_STORE_F32},       {"float32", SARA_STORE_F32},
                 {"fp16", SARA_STORE_F16},      {"f16", SARA_STORE_F16},
                 {"float16", SARA_STORE_F16},   {"bf16", SARA_STORE_BF16},
                 {"bfloat16", SARA_STORE_BF16}, {"auto", SARA_STORE_AUTO}};
    static const char *const unknown[] = {"", "int8", "AUTO", "f64", "fp16 "};
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        sara_storage storage = (sara_storage)9;
        assert_ok(ctx, sara_storage_parse(ctx, &storage, known[i].name, "--type"));
        assert_int_equal(storage, known[i].storage);
    }
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
        sara_storage storage;
        char line[80];
        snprintf(line, sizeof(line), "--type %s: expected auto, fp32, fp16 or bf16", unknown[i]);
        assert_refused(ctx, SARA_ERROR_USAGE, line,
                       sara_storage_parse(ctx, &storage, unknown[i], "--type"));
    }
    sara_context_free(ctx);
}

/* Matrices alone count, and all of them. */
static void test_name_of_parameters(void **state)
{
    (void)state;
    sara_param items[] = {{.name = "a", .value = {SARA_F32, {1, {4}}, NULL}},
                          {.name = "b", .value = {SARA_BF16, {2, {4, 4}}, NULL}},
                          {.name = "c", .value = {SARA_BF16, {4, {4, 4, 1, 1}}, NULL}}};
    const sara_params params = {.items = items, .count = 3};
    assert_string_equal(sara_storage_name(&params), "bf16");
    items[1].value.dtype = SARA_F16;
    assert_string_equal(sara_storage_name(&params), "auto");
    items[2].value.dtype = SARA_F16;
    assert_string_equal(sara_storage_name(&params), "fp16");
    items[1].value.dtype = SARA_F32;
    assert_string_equal(sara_storage_name(&params), "auto");
    items[2].value.dtype = SARA_F32;
    assert_string_equal(sara_storage_name(&params), "fp32");
}

/* --------------------------------------------------------------------------------------- files */

/* Numbers of all sizes that F16 holds or rounds to 0, every third halfway between two of F16 or of
 * BF16. */
static void draw(float *values, size_t count, uint64_t index)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits[4];
        const uint32_t counter[4] = {(uint32_t)i, (uint32_t)index, 0, 0}, key[2] = {1, 2};
        sara_philox(bits, counter, key);
        uint32_t exponent = 127 - 27 + bits[1] % 42; /* below 2^15 */
        uint32_t word = (bits[0] & 0x807fffff) | exponent << 23;
        if (i % 6 == 0)
            word = (word & 0xffffe000) | 0x1000;
        if (i % 6 == 3)
            word = (word & 0xffff0000) | 0x8000;
        memcpy(&values[i], &word, sizeof(word));
    }
}

/* An entry that is put into a tensor. */
typedef struct put {
    const char *name;
    size_t index;
    float value;
} put;

static void write_tensor(sara_context *ctx, sara_tensor_source *out, const sara_tensor_info *info,
                         sara_dtype dtype, uint64_t index, const put *puts, size_t put_count)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    float *values = NULL;
    void *stored = NULL;
    assert_ok(ctx, sara_alloc(ctx, &values, count, sizeof(*values)));
    assert_ok(ctx, sara_alloc(ctx, &stored, count, sara_dtype_size(dtype)));
    draw(values, count, index);
    for (size_t i = 0; i < put_count; i++)
        if (strcmp(puts[i].name, info->name) == 0)
            values[puts[i].index] = puts[i].value;
    sara_convert_from_f32(stored, dtype, values, count);
    sara_free(ctx, values);
    *out = (sara_tensor_source){info->name, dtype, info->shape, stored};
}

/* A folder of the source's config and tensors with other values, all of the dtype, and with what is
 * put into them; with `mixed`, F32 for every other. test_folder_remove(). */
static char *write_unet(const char *source, sara_dtype dtype, bool mixed, const put *puts,
                        size_t put_count)
{
    sara_context *ctx = test_context();
    sara_weights *weights = NULL;
    sara_tensor_source *sources = NULL;
    char *folder = test_model_copy(source, "{}", false), *path;
    assert_ok(ctx, sara_weights_open(ctx, &weights, source, STEM, NULL));
    size_t count = sara_weights_count(weights);
    assert_ok(ctx, sara_alloc(ctx, &sources, count, sizeof(*sources)));
    for (size_t i = 0; i < count; i++)
        write_tensor(ctx, &sources[i], sara_weights_at(weights, i),
                     mixed && i % 2 ? SARA_F32 : dtype, i, puts, put_count);
    assert_ok(ctx, sara_path_join(ctx, &path, folder, STEM ".safetensors"));
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, count, NULL, 0));
    for (size_t i = 0; i < count; i++)
        sara_free(ctx, (void *)(uintptr_t)sources[i].data);
    sara_free(ctx, sources);
    sara_free(ctx, path);
    sara_weights_close(weights);
    sara_context_free(ctx);
    return folder;
}

/* ------------------------------------------------------------------------------------- loading */

static const sara_storage storages[] = {SARA_STORE_F32, SARA_STORE_F16, SARA_STORE_BF16,
                                        SARA_STORE_AUTO};
static const sara_dtype dtypes[] = {SARA_F32, SARA_F16, SARA_BF16};

static sara_dtype expected_dtype(sara_storage storage, const sara_tensor_info *info)
{
    static const sara_dtype fixed[] = {
        [SARA_STORE_F32] = SARA_F32, [SARA_STORE_F16] = SARA_F16, [SARA_STORE_BF16] = SARA_BF16};
    if (info->shape.rank == 1)
        return SARA_F32;
    return storage == SARA_STORE_AUTO ? info->dtype : fixed[storage];
}

/* One entry of the file's as it is to be in memory. */
static uint32_t expected_bits(const char *stored, sara_dtype dtype, size_t index, sara_dtype to)
{
    uint16_t half;
    uint32_t word;
    float value;
    memcpy(&half, stored + 2 * index, sizeof(half)); /* F32 is at least as long */
    if (dtype == SARA_F32)
        memcpy(&value, stored + 4 * index, sizeof(value));
    else
        value = dtype == SARA_F16 ? sara_f16_to_f32(half) : sara_bf16_to_f32(half);
    memcpy(&word, &value, sizeof(word));
    return to == SARA_F32   ? word
           : to == SARA_F16 ? sara_f32_to_f16(value)
                            : sara_f32_to_bf16(value);
}

static void check_param(const sara_param *param, const sara_tensor_info *info, const char *file,
                        sara_storage storage)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    const uint32_t *words = param->value.data;
    const uint16_t *halves = param->value.data;
    assert_string_equal(param->name, info->name);
    assert_true(sara_shape_equal(&param->value.shape, &info->shape));
    assert_int_equal(param->stored, info->dtype);
    if (param->value.dtype != expected_dtype(storage, info))
        fail_msg("%s: %s in memory, %s in the file", info->name,
                 sara_dtype_name(param->value.dtype), sara_dtype_name(info->dtype));
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = param->value.dtype == SARA_F32 ? words[i] : halves[i];
        uint32_t expected = expected_bits(file + info->offset, info->dtype, i, param->value.dtype);
        if (bits != expected)
            fail_msg("%s: entry %zu: %08x, expected %08x", info->name, i, bits, expected);
    }
}

static sara_status load(sara_context **ctx, sara_network **unet, const char *folder, int threads,
                        sara_storage storage)
{
    const sara_context_options options = {.threads = threads};
    *unet = NULL;
    assert_ok(*ctx, sara_context_new(ctx, &options));
    return sara_network_load(sara_host_device(*ctx), unet, &sara_unet_class, folder, NULL, storage);
}

static void check_load(const char *folder, int threads, sara_storage storage)
{
    sara_context *ctx = NULL;
    sara_network *unet;
    char *path, *bytes;
    size_t size;
    sara_status status = load(&ctx, &unet, folder, threads, storage);
    assert_ok(ctx, status);
    assert_ok(ctx, sara_path_join(ctx, &path, folder, STEM ".safetensors"));
    sara_safetensors *file = test_open(ctx, path);
    assert_ok(ctx, sara_file_read(ctx, &bytes, &size, path, (size_t)1 << 28));
    const sara_params *params = &unet->params;
    assert_int_equal(params->count, sara_safetensors_count(file));
    for (size_t i = 0; i < params->count; i++)
        check_param(&params->items[i], sara_safetensors_at(file, i), bytes, storage);
    sara_safetensors_close(file);
    sara_free(ctx, bytes);
    sara_free(ctx, path);
    sara_network_free(unet);
    sara_context_free(ctx);
}

static void check_loads(const char *folder)
{
    for (size_t i = 0; i < sizeof(storages) / sizeof(*storages); i++) {
        check_load(folder, 1, storages[i]);
        check_load(folder, 3, storages[i]);
    }
}

/* Every dtype as every other. */
static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        char *folder = write_unet(EMOJI, dtypes[i], false, NULL, 0);
        check_loads(folder);
        test_folder_remove(folder);
    }
}

static void test_mixed_file(void **state)
{
    (void)state;
    char *folder = write_unet(SD1, SARA_BF16, true, NULL, 0);
    sara_context *ctx = NULL;
    sara_network *unet;
    check_loads(folder);
    sara_status status = load(&ctx, &unet, folder, 2, SARA_STORE_AUTO);
    assert_ok(ctx, status);
    assert_string_equal(sara_storage_name(&unet->params), "auto");
    sara_network_free(unet);
    sara_context_free(ctx);
    test_folder_remove(folder);
}

/* -------------------------------------------------------------------------- beyond what is held */

#define LARGE "up_blocks.0.resnets.0.conv1.weight"
#define LAST  ((size_t)192 * 384 * 9 - 1)

static void check_beyond(sara_dtype dtype, const put *wrong)
{
    char *folder = write_unet(EMOJI, dtype, false, wrong, 1), line[200];
    snprintf(line, sizeof(line),
             "tensor %s: holds values beyond 65504, where fp16 ends; bf16 can hold them",
             wrong->name);
    for (int threads = 1; threads < 4; threads += 2) {
        sara_context *ctx = NULL;
        sara_network *unet;
        sara_status status = load(&ctx, &unet, folder, threads, SARA_STORE_F16);
        assert_refused(ctx, SARA_ERROR_INPUT, line, status);
        assert_null(unet);
        sara_context_free(ctx);
        check_load(folder, threads, SARA_STORE_BF16);
    }
    test_folder_remove(folder);
}

/* Wherever the entry is. */
static void test_fp16_refuses(void **state)
{
    (void)state;
    static const put wrong[] = {
        {LARGE, LAST, 65520.0f}, {LARGE, 0, -1e30f}, {"conv_in.weight", 5, -65520.0f}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        check_beyond(SARA_F32, &wrong[i]);
    check_beyond(SARA_BF16, &wrong[1]);
}

/* Up to halfway to the next number they round down; infinity stays, and so does a bias. */
static void test_fp16_holds(void **state)
{
    (void)state;
    const put puts[] = {{LARGE, LAST, 65519.996f},
                        {LARGE, 0, -65519.996f},
                        {LARGE, 1, INFINITY},
                        {"conv_in.bias", 2, 1e30f}};
    char *folder = write_unet(EMOJI, SARA_F32, false, puts, 4);
    check_load(folder, 1, SARA_STORE_F16);
    check_load(folder, 3, SARA_STORE_F16);
    test_folder_remove(folder);
}

/* ---------------------------------------------------------------------------------- allocations */

static sara_status load_narrow(sara_context *ctx)
{
    sara_network *unet = NULL;
    sara_status status = sara_network_load(sara_host_device(ctx), &unet, &sara_unet_class,
                                           VARIANTS "/unet_tiny", NULL, SARA_STORE_BF16);
    sara_network_free(unet);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_allocation_failures(load_narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),        cmocka_unit_test(test_name_of_parameters),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_mixed_file),
        cmocka_unit_test(test_fp16_refuses), cmocka_unit_test(test_fp16_holds),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
