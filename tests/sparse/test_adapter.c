#include "sparse/support_sparse.h"
#include "sparse/varint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const sara_metadata required[] = {
    {"sara.base_sha256", HASH}, {"sara.format", "1"}, {"sara.target", "unet"}};

/* ------------------------------------------------------------------------------------- varints */

static void positions_have_known_bytes(void **state)
{
    const uint32_t positions[] = {0, 1, 129, 258, 16643, 4294967295u};
    const uint8_t expected[] = {0, 0, 0x7F, 0x80, 1, 0x80, 0x80, 1, 0xFB, 0xFD, 0xFE, 0xFF, 0x0F};
    uint8_t bytes[sizeof(expected)];
    uint32_t back[6];
    (void)state;
    assert_int_equal(sara_positions_size(positions, 6), sizeof(expected));
    sara_positions_encode(bytes, positions, 6);
    assert_memory_equal(bytes, expected, sizeof(expected));
    assert_null(sara_positions_decode(back, 6, bytes, sizeof(bytes)).what);
    assert_memory_equal(back, positions, sizeof(positions));
    assert_null(sara_positions_decode(back, 0, bytes, 0).what);
}

static void every_length_of_varint_survives(void **state)
{
    (void)state;
    for (int bit = 0; bit < 32; bit++)
        for (uint32_t near = 0; near < 3; near++) {
            uint32_t position = (1u << bit) + near - 1, back;
            uint8_t bytes[5];
            size_t size = sara_positions_size(&position, 1);
            assert_true(size <= sizeof(bytes));
            sara_positions_encode(bytes, &position, 1);
            assert_null(sara_positions_decode(&back, 1, bytes, size).what);
            assert_int_equal(back, position);
        }
}

/* ---------------------------------------------------------------------------------- round trip */

static void assert_equal_files(const char *a, const char *b)
{
    sara_context *ctx = test_context();
    char *x = NULL, *y = NULL;
    size_t x_size, y_size;
    assert_ok(ctx, sara_file_read(ctx, &x, &x_size, a, 1 << 20));
    assert_ok(ctx, sara_file_read(ctx, &y, &y_size, b, 1 << 20));
    assert_int_equal(x_size, y_size);
    assert_memory_equal(x, y, x_size);
    sara_free(ctx, x);
    sara_free(ctx, y);
    sara_context_free(ctx);
}

static void adapters_survive(void **state)
{
    uint32_t first[] = {0, 1, 200, 70000}, second[] = {4294967295u};
    float values[] = {0.5f, -0.0f, 1.25e-3f, -3}, value[] = {0x1p-20f};
    /* "a-b" is before "a.b" in the keys' order too, but "a" is not before "a-b.positions" */
    sara_adapter_entry entries[] = {
        {"z.weight", NULL, NULL, 0}, {"a.b", second, value, 1}, {"a", first, values, 4},
        {"a-b", first, values, 2}};
    const sara_metadata metadata[] = {{"sara.target", "unet"}, {"sara.selected", "7"},
                                      {"sara.base_sha256", HASH}, {"modelspec.title", "x \"y\""}};
    const sara_dtype dtypes[] = {SARA_F32, SARA_F16, SARA_BF16};
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    for (int d = 0; d < 3; d++) {
        char path[2][256];
        sara_adapter adapter;
        snprintf(path[0], 256, "%s/one.safetensors", folder);
        snprintf(path[1], 256, "%s/two.safetensors", folder);
        assert_ok(ctx, sara_adapter_save(ctx, path[0], entries, 4, metadata, 4, dtypes[d]));
        assert_ok(ctx, sara_adapter_load(ctx, &adapter, path[0]));
        assert_int_equal(adapter.count, 3); /* the empty entry is not stored */
        assert_int_equal(adapter.dtype, dtypes[d]);
        assert_false(adapter.mixed);
        assert_int_equal(adapter.position_bytes, 7 + 5 + 2);
        assert_string_equal(adapter.entries[0].name, "a");
        assert_string_equal(adapter.entries[1].name, "a-b");
        assert_string_equal(adapter.entries[2].name, "a.b");
        assert_memory_equal(adapter.entries[0].positions, first, sizeof(first));
        assert_int_equal(adapter.entries[2].positions[0], 4294967295u);
        uint8_t stored[16];
        float expected[4];
        sara_convert_from_f32(stored, dtypes[d], values, 4);
        sara_convert_to_f32(expected, stored, dtypes[d], 4);
        assert_memory_equal(adapter.entries[0].values, expected, sizeof(expected));
        assert_string_equal(sara_adapter_metadata(&adapter, "sara.format"), "1");
        assert_string_equal(sara_adapter_metadata(&adapter, "modelspec.title"), "x \"y\"");
        assert_null(sara_adapter_metadata(&adapter, "sara.lambda"));
        /* what was loaded gives the same bytes */
        assert_ok(ctx, sara_adapter_save(ctx, path[1], adapter.entries, adapter.count,
                                         adapter.metadata, adapter.metadata_count, dtypes[d]));
        assert_equal_files(path[0], path[1]);
        sara_adapter_free(&adapter);
    }
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void bad_saves_are_refused(void **state)
{
    uint32_t ascending[] = {1, 2}, same[] = {2, 2};
    float values[] = {1, 70000}, nan[] = {1, NAN};
    sara_adapter_entry good = {"w", ascending, values, 2}, twice = {"w", same, values, 2},
                       broken = {"w", ascending, nan, 2};
    const sara_metadata bad_hash[] = {{"sara.target", "unet"}, {"sara.base_sha256", "12"}};
    const sara_metadata bad_count[] = {
        {"sara.target", "unet"}, {"sara.base_sha256", HASH}, {"sara.selected", "3"}};
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder(), path[256];
    snprintf(path, sizeof(path), "%s/adapter.safetensors", folder);
    assert_refused(ctx, SARA_ERROR_USAGE, "w: position 2 after 2",
                   sara_adapter_save(ctx, path, &twice, 1, required, 3, SARA_F32));
    assert_refused(ctx, SARA_ERROR_INPUT, "w: position 2: value nan",
                   sara_adapter_save(ctx, path, &broken, 1, required, 3, SARA_F32));
    assert_refused(ctx, SARA_ERROR_INPUT, "w: position 2: value 70000 is not finite in F16",
                   sara_adapter_save(ctx, path, &good, 1, required, 3, SARA_F16));
    assert_refused(ctx, SARA_ERROR_USAGE, "values as I32",
                   sara_adapter_save(ctx, path, &good, 1, required, 3, SARA_I32));
    assert_refused(ctx, SARA_ERROR_USAGE, "sara.target is missing",
                   sara_adapter_save(ctx, path, &good, 1, required, 2, SARA_F32));
    assert_refused(ctx, SARA_ERROR_USAGE, "sara.base_sha256 is \"12\"",
                   sara_adapter_save(ctx, path, &good, 1, bad_hash, 2, SARA_F32));
    assert_refused(ctx, SARA_ERROR_USAGE, "sara.selected is 3, but there are 2",
                   sara_adapter_save(ctx, path, &good, 1, bad_count, 3, SARA_F32));
    assert_false(sara_path_exists(path));
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* The example of docs/formats.md, byte by byte. */
static void file_has_known_bytes(void **state)
{
    static const char header[] =
        "{\"__metadata__\":{\"sara.base_sha256\":\"" HASH "\",\"sara.format\":\"1\","
        "\"sara.selected\":\"3\",\"sara.target\":\"unet\"},"
        "\"conv_in.weight.values\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
        "\"conv_in.weight.positions\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[12,16]}}";
    static const uint8_t data[] = {0, 0, 0, 0x3F, 0, 0, 0x80, 0xBE, 0, 0, 0x80, 0x3F,
                                   3, 0, 0xA7, 2};
    uint32_t positions[] = {3, 4, 300};
    float values[] = {0.5f, -0.25f, 1};
    const sara_adapter_entry entry = {"conv_in.weight", positions, values, 3};
    const sara_metadata metadata[] = {
        {"sara.base_sha256", HASH}, {"sara.selected", "3"}, {"sara.target", "unet"}};
    char *bytes = NULL, path[256];
    size_t size, length = (sizeof(header) - 1 + 7) / 8 * 8;
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/example.safetensors", folder);
    assert_ok(ctx, sara_adapter_save(ctx, path, &entry, 1, metadata, 3, SARA_F32));
    assert_ok(ctx, sara_file_read(ctx, &bytes, &size, path, 1 << 20));
    assert_int_equal(size, 8 + length + sizeof(data));
    assert_int_equal((uint8_t)bytes[0] + 256 * (uint8_t)bytes[1], length);
    assert_memory_equal(bytes + 2, "\0\0\0\0\0\0", 6);
    assert_memory_equal(bytes + 8, header, sizeof(header) - 1);
    for (size_t i = sizeof(header) - 1; i < length; i++)
        assert_int_equal(bytes[8 + i], ' ');
    assert_memory_equal(bytes + 8 + length, data, sizeof(data));
    sara_free(ctx, bytes);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* Bytes that a random mask's positions take in the file, for each entry. */
static double position_bytes(sara_context *ctx, const char *path, double density)
{
    enum { TOTAL = 1 << 20 };
    static float draws[TOTAL], values[TOTAL];
    static uint32_t positions[TOTAL];
    sara_adapter_entry entry = {"w", positions, values, 0};
    sara_adapter adapter;
    sara_draw_uniform(draws, TOTAL, 7, SARA_DRAW_TEST, 0);
    for (uint32_t i = 0; i < TOTAL; i++)
        if (draws[i] < density)
            positions[entry.count++] = i;
    assert_true(entry.count > 0.98 * density * TOTAL && entry.count < 1.02 * density * TOTAL);
    assert_ok(ctx, sara_adapter_save(ctx, path, &entry, 1, required, 3, SARA_F16));
    assert_ok(ctx, sara_adapter_load(ctx, &adapter, path));
    assert_int_equal(adapter.entries[0].count, entry.count);
    assert_memory_equal(adapter.entries[0].positions, positions, entry.count * sizeof(*positions));
    assert_true(adapter.file_bytes > adapter.position_bytes + 2 * entry.count);
    double bytes = (double)adapter.position_bytes / (double)entry.count;
    sara_adapter_free(&adapter);
    return bytes;
}

static void positions_are_small(void **state)
{
    char path[256];
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/random.safetensors", folder);
    assert_close(position_bytes(ctx, path, 0.058), 1.3, "bytes an entry at 5.8 %");
    assert_close(position_bytes(ctx, path, 0.006), 1.6, "bytes an entry at 0.6 %");
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* -------------------------------------------------------------------------------- damaged files */

/* One damaged file: two tensors, the metadata, and what the error must say. */
typedef struct damage {
    const char *message;
    sara_tensor_source tensors[3];
    size_t count;
    const char *format, *target, *base, *selected, *precision;
} damage;

static void assert_damage(sara_context *ctx, const char *folder, const damage *d)
{
    sara_metadata metadata[5];
    size_t count = 0;
    char path[256];
    sara_adapter adapter;
    snprintf(path, sizeof(path), "%s/damaged.safetensors", folder);
    if (d->format)
        metadata[count++] = (sara_metadata){"sara.format", d->format};
    if (d->target)
        metadata[count++] = (sara_metadata){"sara.target", d->target};
    if (d->base)
        metadata[count++] = (sara_metadata){"sara.base_sha256", d->base};
    if (d->selected)
        metadata[count++] = (sara_metadata){"sara.selected", d->selected};
    if (d->precision)
        metadata[count++] = (sara_metadata){"sara.base_precision", d->precision};
    assert_ok(ctx, sara_safetensors_save(ctx, path, d->tensors, d->count, metadata, count));
    assert_refused(ctx, SARA_ERROR_INPUT, d->message, sara_adapter_load(ctx, &adapter, path));
    test_assert_contains(sara_context_error(ctx), path, __FILE__, __LINE__);
    assert_null(adapter.entries);
    assert_null(strchr(sara_context_error(ctx), '\n'));
}

#define BYTES(name, ...) static const uint8_t name[] = {__VA_ARGS__}
#define POSITIONS(bytes) {"w.positions", SARA_U8, {1, {sizeof(bytes)}}, bytes}
#define VALUES(n, data) {"w.values", SARA_F32, {1, {n}}, data}
#define META "1", "unet", HASH, NULL, NULL

static void damaged_files_are_refused(void **state)
{
    BYTES(two, 3, 4);
    BYTES(three, 0x83, 1, 4);
    BYTES(cut, 3, 0x80);
    BYTES(overlong, 3, 0x81, 0);
    BYTES(padded, 0x80, 0x80, 0);
    BYTES(six, 0x80, 0x80, 0x80, 0x80, 0x80, 1);
    BYTES(beyond, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0);
    BYTES(large, 0x80, 0x80, 0x80, 0x80, 0x10, 0);
    static const float ones[] = {1, 1, 1}, nans[] = {1, NAN}, infinite[] = {-INFINITY, 1};
    static const damage cases[] = {
        {"byte 1: varint cut off", {POSITIONS(cut), VALUES(2, ones)}, 2, META},
        {"byte 1: varint longer than needed", {POSITIONS(overlong), VALUES(2, ones)}, 2, META},
        {"byte 0: varint longer than needed", {POSITIONS(padded), VALUES(1, ones)}, 2, META},
        {"byte 0: varint of more than 5", {POSITIONS(six), VALUES(1, ones)}, 2, META},
        {"byte 5: position beyond 4294967295", {POSITIONS(beyond), VALUES(2, ones)}, 2, META},
        {"byte 0: position beyond 4294967295", {POSITIONS(large), VALUES(2, ones)}, 2, META},
        {"fewer positions than values", {POSITIONS(two), VALUES(3, ones)}, 2, META},
        {"byte 3: fewer positions than values", {POSITIONS(three), VALUES(3, ones)}, 2, META},
        {"byte 1: more positions than values", {POSITIONS(two), VALUES(1, ones)}, 2, META},
        {"w.values: value 1 is NaN", {POSITIONS(two), VALUES(2, nans)}, 2, META},
        {"w.values: value 0 is infinite", {POSITIONS(two), VALUES(2, infinite)}, 2, META},
        {"w.values is missing", {POSITIONS(two)}, 1, META},
        {"w.positions is missing", {VALUES(2, ones)}, 1, META},
        {"w.diff is neither", {{"w.diff", SARA_F32, {1, {2}}, ones}}, 1, META},
        {".values is neither", {{".values", SARA_F32, {1, {2}}, ones}}, 1, META},
        {"w.positions: dtype I8, expected U8",
         {{"w.positions", SARA_I8, {1, {2}}, two}, VALUES(2, ones)}, 2, META},
        {"w.values: dtype I32, expected F32, F16 or BF16",
         {POSITIONS(two), {"w.values", SARA_I32, {1, {2}}, ones}}, 2, META},
        {"w.positions: shape [1,2]",
         {{"w.positions", SARA_U8, {2, {1, 2}}, two}, VALUES(2, ones)}, 2, META},
        {"w.values: shape [], expected one",
         {POSITIONS(two), {"w.values", SARA_F32, {0, {0}}, ones}}, 2, META},
        {"sara.format is missing", {POSITIONS(two), VALUES(2, ones)}, 2,
         NULL, "unet", HASH, NULL, NULL},
        {"\"2\", newer than this program", {POSITIONS(two), VALUES(2, ones)}, 2,
         "2", "unet", HASH, NULL, NULL},
        {"is \"zero\", expected \"1\"", {POSITIONS(two), VALUES(2, ones)}, 2,
         "zero", "unet", HASH, NULL, NULL},
        {"sara.target is missing", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", NULL, HASH, NULL, NULL},
        {"sara.base_sha256 is missing", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", "unet", NULL, NULL, NULL},
        {"sara.base_sha256 is \"ABC\"", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", "unet", "ABC", NULL, NULL},
        {"sara.selected is 7, but there are 2", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", "unet", HASH, "7", NULL},
        {"sara.base_precision is \"F16\", expected", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", "unet", HASH, NULL, "F16"},
        {"sara.base_precision is \"f16\", expected", {POSITIONS(two), VALUES(2, ones)}, 2,
         "1", "unet", HASH, NULL, "f16"},
    };
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_damage(ctx, folder, &cases[i]);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* Files of other programs, as they lie in one folder with adapters. */
static void other_files_are_named(void **state)
{
    static const float ones[] = {1, 1};
    static const struct {
        const char *tensor, *message;
    } cases[] = {
        {"lora_unet_down_blocks_0.lora_down.weight", "is a LoRA file (tensor lora_unet_down_bl"},
        {"unet.down_blocks.0.to_k.lora_A.weight", "is a LoRA file"},
        {"unet.down_blocks.0.to_k_lora.down.weight", "is a LoRA file"},
        {"lora_unet_mid_block.hada_w1_a", "is a LoHa file"},
        {"diffusion_model.out.0.diff", "is a file of whole differences"},
        {"emb_params", "is a textual inversion"},
        {"model.diffusion_model.out.0.bias", "is a whole checkpoint"},
        {"conv_in.weight", "is a whole model"},
        {"something", "sara.format is missing; this is no sara adapter"},
    };
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder(), path[256];
    snprintf(path, sizeof(path), "%s/other.safetensors", folder);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const sara_tensor_source tensor = {cases[i].tensor, SARA_F32, {1, {2}}, ones};
        sara_adapter adapter;
        assert_ok(ctx, sara_safetensors_save(ctx, path, &tensor, 1, NULL, 0));
        assert_refused(ctx, SARA_ERROR_INPUT, cases[i].message,
                       sara_adapter_load(ctx, &adapter, path));
    }
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* Cut anywhere or with any byte changed, a file is refused or read; it never crashes. */
static void cut_and_flipped_files(void **state)
{
    uint32_t positions[] = {5, 300, 301};
    float values[] = {1, 2, 3};
    sara_adapter_entry entry = {"w", positions, values, 3};
    char *bytes = NULL, path[256];
    size_t size;
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/whole.safetensors", folder);
    assert_ok(ctx, sara_adapter_save(ctx, path, &entry, 1, required, 3, SARA_F32));
    assert_ok(ctx, sara_file_read(ctx, &bytes, &size, path, 1 << 20));
    for (size_t i = 0; i < size; i++) {
        sara_adapter adapter;
        char *damaged = test_file(folder, "cut.safetensors", bytes, i);
        sara_status status = sara_adapter_load(ctx, &adapter, damaged);
        assert_int_equal(status, SARA_ERROR_INPUT);
        free(damaged);
        bytes[i] ^= 0x41;
        damaged = test_file(folder, "cut.safetensors", bytes, size);
        status = sara_adapter_load(ctx, &adapter, damaged);
        assert_true(status == SARA_OK || status == SARA_ERROR_INPUT);
        sara_adapter_free(&adapter);
        bytes[i] ^= 0x41;
        free(damaged);
    }
    sara_free(ctx, bytes);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* ----------------------------------------------------------------------------------------- hash */

/* From Python's hashlib over name, dimensions and values as docs/formats.md has them. */
static void base_hash_is_as_defined(void **state)
{
    static const float bias[] = {1, -2.5f, 0}, weight[] = {1, 2, 3, 4, 5, 6};
    const test_tensor tensors[] = {{"a.bias", 3, 0, bias}, {"b.weight", 2, 3, weight}};
    sara_base base;
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    assert_ok(ctx, sara_params_base(ctx, &base, &params));
    assert_string_equal(base.sha256,
                        "77f8aef150ea478c194ad38dd2018a1dd826b409c1b6180016f231e10224794b");
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* A value that 16 bits do not hold tells, wherever it is; what the file stored it as does not. */
static void precision_is_that_of_the_values(void **state)
{
    static const struct {
        const char *name;
        float value; /* of one entry among ones */
        sara_dtype stored;
        const char *precision;
    } cases[] = {
        {"both", 0.5f, SARA_F32, "fp16"},
        {"eleven bits", 1 + 0x1p-10f, SARA_F32, "fp16"},
        {"as stored", 1 + 0x1p-10f, SARA_F16, "fp16"},
        {"smallest", 0x1p-24f, SARA_F32, "fp16"},
        {"-0", -0.0f, SARA_F32, "fp16"},
        {"largest", 65504, SARA_F32, "fp16"},
        {"beyond fp16", 65536, SARA_F32, "bf16"},
        {"below fp16", 0x1p-25f, SARA_F32, "bf16"},
        {"as stored", 0x1p-25f, SARA_BF16, "bf16"},
        {"twelve bits", 1 + 0x1p-11f, SARA_F32, "fp32"},
        {"thin", 0x1.01p-24f, SARA_F32, "fp32"},
    };
    float values[9000];
    const test_tensor tensors[] = {{"a", 2, 0, NULL}, {"b", 9, 1000, values}};
    const float half[] = {1, 0.25f}, bf16_only[] = {1, 0x1p20f};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < COUNT(cases); i++) {
        sara_base base;
        for (size_t j = 0; j < COUNT(values); j++)
            values[j] = j == (i % 2 ? 8999 : 4097) ? cases[i].value : 1;
        sara_params params = test_params(ctx, tensors, 2);
        params.items[1].stored = cases[i].stored;
        memcpy(params.items[0].value.data, half, sizeof(half));
        assert_ok(ctx, sara_params_base(ctx, &base, &params));
        assert_string_equal(sara_precision_name(base.precision), cases[i].precision);
        if (cases[i].stored == SARA_F16) { /* one tensor needs fp16, the other bf16 */
            memcpy(params.items[0].value.data, bf16_only, sizeof(bf16_only));
            assert_ok(ctx, sara_params_base(ctx, &base, &params));
            assert_string_equal(sara_precision_name(base.precision), "fp32");
        }
        sara_params_free(ctx, &params);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_have_known_bytes),
        cmocka_unit_test(every_length_of_varint_survives),
        cmocka_unit_test(adapters_survive),
        cmocka_unit_test(file_has_known_bytes),
        cmocka_unit_test(positions_are_small),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(bad_saves_are_refused),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(cut_and_flipped_files),
        cmocka_unit_test(base_hash_is_as_defined),
        cmocka_unit_test(precision_is_that_of_the_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
