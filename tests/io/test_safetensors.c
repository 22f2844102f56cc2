/* Reading and writing of well-formed safetensors files. */
#include "support_io.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static sara_context *ctx;
static char *folder;

static int setup(void **state)
{
    (void)state;
    ctx = test_context();
    folder = test_folder();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_folder_remove(folder);
    sara_context_free(ctx);
    return 0;
}

static void test_reads_values(void **state)
{
    (void)state;
    char *path =
        test_safetensors(folder,
                         "{\"b\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[4,10]},"
                         "\"__metadata__\":{\"k\":\"\\u00e9\\ud83d\\ude00\\n\",\"\":\"empty\"},"
                         "\"a\\/\\u0041\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"},"
                         "\"z\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[10,10]}}   ",
                         10);
    sara_safetensors *file = test_open(ctx, path);
    assert_int_equal(sara_safetensors_count(file), 3);
    const sara_tensor_info *a = sara_safetensors_at(file, 0);
    const sara_tensor_info *b = sara_safetensors_at(file, 1);
    const sara_tensor_info *z = sara_safetensors_at(file, 2);
    assert_string_equal(a->name, "a/A");
    assert_string_equal(b->name, "b");
    assert_string_equal(z->name, "z");
    assert_int_equal(a->shape.rank, 0);
    assert_int_equal(a->dtype, SARA_F32);
    assert_int_equal(b->shape.rank, 2);
    assert_int_equal(b->shape.dims[0], 2);
    assert_int_equal(b->shape.dims[1], 3);
    assert_int_equal(z->size, 0);
    assert_ptr_equal(sara_safetensors_find(file, "b"), b);
    assert_null(sara_safetensors_find(file, "c"));
    assert_null(sara_safetensors_find(file, "__metadata__"));
    assert_string_equal(sara_safetensors_metadata(file, "k"), "\xc3\xa9\xf0\x9f\x98\x80\n");
    assert_string_equal(sara_safetensors_metadata(file, ""), "empty");
    assert_null(sara_safetensors_metadata(file, "a"));
    uint8_t bytes[6];
    assert_ok(ctx, sara_safetensors_read(file, bytes, b));
    for (int i = 0; i < 6; i++)
        assert_int_equal(bytes[i], 4 + i);
    assert_ok(ctx, sara_safetensors_read(file, bytes, z));
    sara_safetensors_close(file);
    free(path);
}

static void test_empty_file_of_tensors(void **state)
{
    (void)state;
    const char *headers[] = {"{}", "{ }", "{\"__metadata__\":{}}", "{}\t\r\n ",
                             "{\"__metadata__\" : null }"};
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        char *path = test_safetensors(folder, headers[i], 0);
        sara_safetensors *file = test_open(ctx, path);
        assert_int_equal(sara_safetensors_count(file), 0);
        assert_null(sara_safetensors_find(file, "a"));
        sara_safetensors_close(file);
        free(path);
    }
}

/* As the safetensors library reads it: metadata that is null is none. */
static void test_null_metadata(void **state)
{
    (void)state;
    const char *headers[] = {"{\"__metadata__\":null,\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
                             "\"data_offsets\":[0,2]}}",
                             "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                             "\"__metadata__\":null}"};
    for (size_t i = 0; i < 2; i++) {
        char *path = test_safetensors(folder, headers[i], 2);
        sara_safetensors *file = test_open(ctx, path);
        size_t count = 1;
        sara_safetensors_metadata_all(file, &count);
        assert_int_equal(count, 0);
        assert_int_equal(sara_safetensors_count(file), 1);
        assert_null(sara_safetensors_metadata(file, "format"));
        sara_safetensors_close(file);
        free(path);
    }
}

/* Every value of a small range through each floating dtype. */
static void test_converts(void **state)
{
    (void)state;
    enum { count = 100000 }; /* more than one chunk of each conversion */
    double *f64 = malloc(count * sizeof(*f64));
    float *f32 = malloc(count * sizeof(*f32)), *back = malloc(count * sizeof(*back));
    uint16_t *f16 = malloc(count * sizeof(*f16)), *bf16 = malloc(count * sizeof(*bf16));
    assert_true(f64 && f32 && back && f16 && bf16);
    for (int i = 0; i < count; i++) {
        f32[i] = (float)(i % 256 - 128) / 4; /* exact in all of them */
        f64[i] = f32[i];
        f16[i] = sara_f32_to_f16(f32[i]);
        bf16[i] = sara_f32_to_bf16(f32[i]);
    }
    const sara_shape shape = sara_shape1(count);
    const sara_tensor_source sources[] = {{"d", SARA_F64, shape, f64},
                                          {"f", SARA_F32, shape, f32},
                                          {"h", SARA_F16, shape, f16},
                                          {"b", SARA_BF16, shape, bf16}};
    char *path = test_join(folder, "t.safetensors");
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, 4, NULL, 0));
    sara_safetensors *file = test_open(ctx, path);
    for (size_t i = 0; i < 4; i++) {
        memset(back, 0xff, count * sizeof(*back));
        assert_ok(ctx, sara_safetensors_read_f32(file, back, sara_safetensors_at(file, i)));
        assert_memory_equal(back, f32, count * sizeof(*back));
    }
    sara_safetensors_close(file);
    free(path);
    free(f64);
    free(f32);
    free(back);
    free(f16);
    free(bf16);
}

static void test_refuses_integers_as_f32(void **state)
{
    (void)state;
    float out[2];
    char *path = test_safetensors(
        folder, "{\"n\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    sara_safetensors *file = test_open(ctx, path);
    assert_refused(ctx, SARA_ERROR_INPUT, "t.safetensors: tensor n: dtype I32, expected F32",
                   sara_safetensors_read_f32(file, out, sara_safetensors_at(file, 0)));
    sara_safetensors_close(file);
    free(path);
}

static void test_load_checks(void **state)
{
    (void)state;
    sara_tensor tensor;
    sara_shape any = sara_shape2(-1, 3), other = sara_shape2(3, 2), rank1 = sara_shape1(6);
    char *path = test_safetensors(
        folder, "{\"n\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[0,6]}}", 6);
    sara_safetensors *file = test_open(ctx, path);
    assert_ok(ctx, sara_safetensors_load(file, &tensor, "n", SARA_U8, &any));
    assert_int_equal(tensor.shape.dims[0], 2);
    assert_int_equal(((uint8_t *)tensor.data)[5], 5);
    sara_tensor_free(ctx, &tensor);
    assert_refused(ctx, SARA_ERROR_INPUT, "no tensor m",
                   sara_safetensors_load(file, &tensor, "m", SARA_U8, &any));
    assert_null(tensor.data);
    assert_refused(ctx, SARA_ERROR_INPUT, "tensor n: dtype U8, expected I8",
                   sara_safetensors_load(file, &tensor, "n", SARA_I8, &any));
    assert_refused(ctx, SARA_ERROR_INPUT, "tensor n: shape [2,3], expected [3,2]",
                   sara_safetensors_load(file, &tensor, "n", SARA_U8, &other));
    assert_refused(ctx, SARA_ERROR_INPUT, "tensor n: shape [2,3], expected [6]",
                   sara_safetensors_load(file, &tensor, "n", SARA_U8, &rank1));
    sara_safetensors_close(file);
    free(path);
}

static void read_bytes(const char *path, char **out, size_t *size)
{
    assert_ok(ctx, sara_file_read(ctx, out, size, path, (size_t)1 << 30));
}

/* What a file of the safetensors library holds, written again, gives the same bytes. */
static void rewrite(const char *path, const char *metadata_key)
{
    sara_safetensors *file = test_open(ctx, path);
    size_t count = sara_safetensors_count(file);
    sara_tensor_source *sources = calloc(count, sizeof(*sources));
    char *out = test_join(folder, "again.safetensors"), *before, *after;
    size_t before_size, after_size;
    assert_non_null(sources);
    for (size_t i = 0; i < count; i++) {
        /* In the opposite order, which must not matter. */
        const sara_tensor_info *info = sara_safetensors_at(file, count - 1 - i);
        void *data = malloc((size_t)info->size + 1);
        assert_ok(ctx, sara_safetensors_read(file, data, info));
        sources[i] = (sara_tensor_source){info->name, info->dtype, info->shape, data};
    }
    sara_metadata metadata = {metadata_key, NULL};
    if (metadata_key)
        metadata.value = sara_safetensors_metadata(file, metadata_key);
    assert_ok(ctx,
              sara_safetensors_save(ctx, out, sources, count, &metadata, metadata_key ? 1 : 0));
    read_bytes(path, &before, &before_size);
    read_bytes(out, &after, &after_size);
    assert_int_equal(before_size, after_size);
    assert_memory_equal(before, after, before_size);
    for (size_t i = 0; i < count; i++)
        free((void *)sources[i].data);
    free(sources);
    sara_free(ctx, before);
    sara_free(ctx, after);
    sara_safetensors_close(file);
    free(out);
}

static void test_equals_the_library(void **state)
{
    (void)state;
    rewrite(SARA_TEST_GOLDEN "/scheduler_ddim.safetensors", "scheduler_config");
    rewrite(SARA_TEST_GOLDEN "/unet_sd1/diffusion_pytorch_model.safetensors", "format");
    rewrite(SARA_TEST_EMOJI "/base/text_encoder/model.safetensors", "format");
}

/* Written by the library: save_file({"i64": [1,-2], "f16": [1.5], "u8": [7], "bool": [True],
 * "bf16": [-2.0], "f64": [0.5], "i8": [-1], "i16": [-300], "i32": [70000], "f32": [0.25]}) */
static void test_order_of_dtypes(void **state)
{
    (void)state;
    const int64_t i64[] = {1, -2};
    const uint16_t f16 = 0x3e00, bf16 = 0xc000;
    const uint8_t u8 = 7, flag = 1;
    const double f64 = 0.5;
    const int8_t i8 = -1;
    const int16_t i16 = -300;
    const int32_t i32 = 70000;
    const float f32 = 0.25f;
    const sara_shape one = sara_shape1(1), two = sara_shape1(2);
    const sara_tensor_source sources[] = {
        {"i64", SARA_I64, two, i64},     {"f16", SARA_F16, one, &f16},
        {"u8", SARA_U8, one, &u8},       {"bool", SARA_BOOL, one, &flag},
        {"bf16", SARA_BF16, one, &bf16}, {"f64", SARA_F64, one, &f64},
        {"i8", SARA_I8, one, &i8},       {"i16", SARA_I16, one, &i16},
        {"i32", SARA_I32, one, &i32},    {"f32", SARA_F32, one, &f32}};
    static const char header[] =
        "{\"i64\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
        "\"f64\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[16,24]},"
        "\"f32\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[24,28]},"
        "\"i32\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[28,32]},"
        "\"bf16\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[32,34]},"
        "\"f16\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[34,36]},"
        "\"i16\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[36,38]},"
        "\"i8\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[38,39]},"
        "\"u8\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[39,40]},"
        "\"bool\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[40,41]}}";
    char *path = test_join(folder, "t.safetensors"), *bytes;
    size_t size;
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, 10, NULL, 0));
    read_bytes(path, &bytes, &size);
    assert_true(size > 8 + sizeof(header));
    assert_memory_equal(bytes + 8, header, sizeof(header) - 1);
    assert_int_equal(size % 8, 41 % 8);
    sara_free(ctx, bytes);
    free(path);
}

static void test_escapes(void **state)
{
    (void)state;
    static const char name[] = "a\"\\/\b\f\n\r\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80";
    const uint8_t byte = 1;
    const sara_tensor_source source = {name, SARA_U8, sara_shape1(1), &byte};
    const sara_metadata metadata[] = {{"z", name}, {name, ""}, {"a", "1"}};
    char *path = test_join(folder, "t.safetensors");
    assert_ok(ctx, sara_safetensors_save(ctx, path, &source, 1, metadata, 3));
    sara_safetensors *file = test_open(ctx, path);
    assert_string_equal(sara_safetensors_at(file, 0)->name, name);
    assert_string_equal(sara_safetensors_metadata(file, "z"), name);
    assert_string_equal(sara_safetensors_metadata(file, name), "");
    sara_safetensors_close(file);
    free(path);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    const uint8_t byte = 1;
    const sara_shape one = sara_shape1(1);
    const sara_tensor_source twice[] = {
        {"a", SARA_U8, one, &byte}, {"b", SARA_U8, one, &byte}, {"a", SARA_I8, one, &byte}};
    const sara_tensor_source reserved = {"__metadata__", SARA_U8, one, &byte};
    const sara_tensor_source bad = {"a\xff", SARA_U8, one, &byte};
    const sara_metadata pair[] = {{"k", "1"}, {"k", "1"}};
    char *path = test_join(folder, "t.safetensors");
    assert_refused(ctx, SARA_ERROR_USAGE, "t.safetensors: duplicate tensor name a",
                   sara_safetensors_save(ctx, path, twice, 3, NULL, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "reserved tensor name __metadata__",
                   sara_safetensors_save(ctx, path, &reserved, 1, NULL, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "\"a\\xff\" is not UTF-8",
                   sara_safetensors_save(ctx, path, &bad, 1, NULL, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "duplicate metadata key k",
                   sara_safetensors_save(ctx, path, NULL, 0, pair, 2));
    test_assert_names(ctx, folder, 0);
    free(path);
}

/* The output may be the file that the tensors come from. */
static void test_overwrites_its_input(void **state)
{
    (void)state;
    char *path = test_safetensors(
        folder, "{\"n\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    sara_safetensors *file = test_open(ctx, path);
    const uint8_t bytes[] = {9, 8, 7};
    uint8_t back[3];
    const sara_tensor_source source = {"n", SARA_U8, sara_shape1(3), bytes};
    assert_ok(ctx, sara_safetensors_save(ctx, path, &source, 1, NULL, 0));
    assert_ok(ctx, sara_safetensors_read(file, back, sara_safetensors_at(file, 0)));
    assert_memory_equal(back, "\0\1\2", 3);
    sara_safetensors_close(file);
    file = test_open(ctx, path);
    assert_ok(ctx, sara_safetensors_read(file, back, sara_safetensors_at(file, 0)));
    assert_memory_equal(back, bytes, 3);
    sara_safetensors_close(file);
    test_assert_names(ctx, folder, 1);
    free(path);
}

static sara_status open_read_close(sara_context *c, const char *path)
{
    sara_safetensors *file = NULL;
    sara_tensor tensor = {.data = NULL};
    float values[4];
    const sara_shape shape = sara_shape1(4);
    sara_status status;
    TRY(sara_safetensors_open(c, &file, path));
    TRY(sara_safetensors_load(file, &tensor, "h", SARA_F16, &shape));
    TRY(sara_safetensors_read_f32(file, values, sara_safetensors_find(file, "h")));
done:
    sara_tensor_free(c, &tensor);
    sara_safetensors_close(file);
    return status;
}

static sara_status save(sara_context *c, const char *path)
{
    const uint8_t byte = 1;
    const sara_tensor_source sources[] = {{"b", SARA_U8, sara_shape1(1), &byte},
                                          {"a", SARA_U8, sara_shape1(1), &byte}};
    const sara_metadata metadata[] = {{"k", "v"}, {"j", "w"}};
    return sara_safetensors_save(c, path, sources, 2, metadata, 2);
}

static void test_memory(void **state)
{
    (void)state;
    char *path = test_safetensors(folder,
                                  "{\"__metadata__\":{\"k\":\"v\"},"
                                  "\"h\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}}",
                                  8);
    test_every_allocation(open_read_close, path);
    test_every_allocation(save, path);
    test_assert_names(ctx, folder, 1);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_file_of_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_null_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_converts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_integers_as_f32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_load_checks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_equals_the_library, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order_of_dtypes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writer_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overwrites_its_input, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
