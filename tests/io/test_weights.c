/* Weight sources: a file, its variant, shards, the indexes that lie, 8-bit tensors with scales. */
#include "support_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEM "diffusion_pytorch_model"

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

/* A file with the tensors that `names` holds one letter each; the value of 'a' is 97. */
static void put(const char *where, const char *name, const char *names)
{
    sara_tensor_source sources[8];
    float values[8];
    char texts[8][2];
    size_t count = strlen(names);
    char *path = test_join(where, name);
    for (size_t i = 0; i < count; i++) {
        values[i] = names[i];
        texts[i][0] = names[i];
        texts[i][1] = '\0';
        sources[i] = (sara_tensor_source){texts[i], SARA_F32, sara_shape1(1), &values[i]};
    }
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, count, NULL, 0));
    free(path);
}

static void put_index(const char *name, const char *text)
{
    free(test_file(folder, name, text, strlen(text)));
}

static void expect(const char *variant, const char *names, const char *path_end)
{
    sara_weights *weights = NULL;
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, variant));
    assert_int_equal(sara_weights_count(weights), strlen(names));
    for (size_t i = 0; i < strlen(names); i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        float value = 0, raw = 0;
        assert_int_equal(info->name[0], names[i]);
        assert_ptr_equal(sara_weights_find(weights, info->name), info);
        assert_ok(ctx, sara_weights_read_f32(weights, &value, info));
        assert_ok(ctx, sara_weights_read(weights, &raw, info));
        assert_true(value == (float)names[i] && raw == value);
    }
    assert_null(sara_weights_find(weights, "absent"));
    test_assert_contains(sara_weights_path(weights), path_end, __FILE__, __LINE__);
    sara_weights_close(weights);
}

static void refuse(const char *variant, sara_status status, const char *part)
{
    sara_weights *weights = NULL;
    assert_refused(ctx, status, part, sara_weights_open(ctx, &weights, folder, STEM, variant));
    assert_null(weights);
}

static void test_variants(void **state)
{
    (void)state;
    put(folder, STEM ".fp16.safetensors", "xy");
    expect("fp16", "xy", "/" STEM ".fp16.safetensors");
    refuse(NULL, SARA_ERROR_INPUT,
           "no " STEM ".safetensors and no " STEM ".safetensors.index.json;"
           " there is the variant fp16: --variant fp16 reads it");
    put(folder, STEM ".non_ema-00001-of-00002.safetensors", "x"); /* a shard without its index */
    put(folder, STEM "_x.safetensors", "x");
    put_index(STEM ".safetensors.index.int8.json", "");
    put_index(STEM ".safetensors.ema.index.json", "");
    refuse(NULL, SARA_ERROR_INPUT,
           "; there are the variants fp16, ema, int8: --variant fp16 reads");
    put(folder, STEM ".safetensors", "ab");
    expect(NULL, "ab", "/" STEM ".safetensors");
    refuse("bf16", SARA_ERROR_INPUT,
           "no " STEM ".bf16.safetensors and no " STEM ".safetensors.index.bf16.json");
}

#define SHARD1 STEM "-00001-of-00002.safetensors"
#define SHARD2 STEM "-00002-of-00002.safetensors"
#define INDEX  STEM ".safetensors.index.json"

static void test_shards(void **state)
{
    (void)state;
    put(folder, SHARD1, "ca");
    put(folder, SHARD2, "bd");
    put_index(INDEX, "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"a\":\"" SHARD1
                     "\",\"b\":\"" SHARD2 "\",\"c\":\"" SHARD1 "\",\"d\":\"" SHARD2 "\"}}");
    expect(NULL, "abcd", "/" INDEX);
    put(folder, STEM ".fp16-00001-of-00001.safetensors", "x");
    put_index(STEM ".safetensors.index.fp16.json",
              "{\"weight_map\":{\"x\":\"" STEM ".fp16-00001-of-00001.safetensors\"}}");
    expect("fp16", "x", "/" STEM ".safetensors.index.fp16.json");
    /* As older diffusers wrote it. */
    put(folder, STEM "-00001-of-00001.bf16.safetensors", "y");
    put_index(STEM ".safetensors.bf16.index.json",
              "{\"weight_map\":{\"y\":\"" STEM "-00001-of-00001.bf16.safetensors\"}}");
    expect("bf16", "y", "/" STEM ".safetensors.bf16.index.json");
}

static void refuse_index(const char *text, sara_status status, const char *part)
{
    put_index(INDEX, text);
    refuse(NULL, status, part);
}

static void test_index_that_lies(void **state)
{
    (void)state;
    put(folder, SHARD1, "ac");
    put(folder, SHARD2, "b");
    refuse_index("{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\",\"c\":\"" SHARD1
                 "\",\"d\":\"" SHARD2 "\"}}",
                 SARA_ERROR_INPUT, INDEX ": weight_map: d: " SHARD2 " has no such tensor");
    refuse_index("{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}}", SARA_ERROR_INPUT,
                 INDEX ": weight_map: c: missing, but " SHARD1 " holds that tensor");
    refuse_index("{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\",\"c\":\"" SHARD2
                 "\"}}",
                 SARA_ERROR_INPUT, "weight_map: c: " SHARD2 ", but " SHARD1 " holds that tensor");
    refuse_index("{\"weight_map\":{\"a\":\"gone.safetensors\"}}", SARA_ERROR_IO,
                 "gone.safetensors: cannot open: No such file");
    put(folder, SHARD2, "ba");
    refuse_index("{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\",\"c\":\"" SHARD1
                 "\"}}",
                 SARA_ERROR_INPUT, "weight_map: a: " SHARD1 ", but " SHARD2 " holds that tensor");
}

static void test_index_that_is_none(void **state)
{
    (void)state;
    refuse_index("", SARA_ERROR_INPUT, INDEX ": line 1 column 1: ");
    refuse_index("[]", SARA_ERROR_INPUT, INDEX ": weight_map: not an object");
    refuse_index("{}", SARA_ERROR_INPUT, "weight_map: not an object, expected");
    refuse_index("{\"weight_map\":[]}", SARA_ERROR_INPUT, "weight_map: not an object, expected");
    refuse_index("{\"weight_map\":{}}", SARA_ERROR_INPUT, "weight_map: empty, expected");
    refuse_index("{\"weight_map\":{\"a\":1}}", SARA_ERROR_INPUT,
                 "weight_map: a: not a string, expected a file name in the same folder");
    refuse_index("{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}", SARA_ERROR_INPUT, "duplicate");
}

static void test_shard_names(void **state)
{
    (void)state;
    const char *const names[] = {"", ".", "..", "../x.safetensors", "/etc/passwd", "a/b", "./x"};
    char text[100], part[100];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(text, sizeof(text), "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        snprintf(part, sizeof(part), "weight_map: a: \"%s\", expected a file name", names[i]);
        refuse_index(text, SARA_ERROR_INPUT, part);
    }
    refuse_index("{\"weight_map\":{\"a\":\"x\\u0000y\"}}", SARA_ERROR_INPUT, INDEX ": line 1");
}

/* A shard may be a link to anywhere, as the single file may: who links decides that. */
static void test_links(void **state)
{
    (void)state;
    char *outside = test_folder(), *target = test_join(outside, "s.safetensors");
    char *link = test_join(folder, "s.safetensors"), *index = test_join(folder, INDEX);
    const char *text = "{\"weight_map\":{\"a\":\"s.safetensors\"}}";
    put(outside, "s.safetensors", "a");
    assert_int_equal(symlink(target, link), 0);
    put_index(INDEX, text);
    expect(NULL, "a", INDEX);
    assert_int_equal(unlink(target), 0);
    refuse(NULL, SARA_ERROR_IO, "s.safetensors: cannot open: a link to /");
    refuse(NULL, SARA_ERROR_IO, "/s.safetensors, which is not there");
    assert_int_equal(symlink(link, target), 0);
    refuse(NULL, SARA_ERROR_IO, "s.safetensors: cannot open: Too many levels of symbolic links");
    assert_int_equal(unlink(index), 0);
    assert_int_equal(symlink(index, index), 0);
    refuse(NULL, SARA_ERROR_IO, INDEX ": cannot open: Too many levels of symbolic links");
    test_folder_remove(outside);
    free(target);
    free(link);
    free(index);
}

/* models--x/snapshots/revision/unet/FILE links to models--x/blobs/HASH, index and shards alike. */
static void test_hub_cache(void **state)
{
    (void)state;
    static const char *const names[] = {INDEX, SHARD1, SHARD2};
    char *top = folder, *blobs, *link, to[64];
    const char *text = "{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}}";
    folder = test_join(top, "models--org--name/snapshots/0123/unet");
    blobs = test_join(top, "models--org--name/blobs");
    assert_ok(ctx, sara_directory_make(ctx, folder));
    assert_ok(ctx, sara_directory_make(ctx, blobs));
    put(blobs, "1", "a");
    put(blobs, "2", "b");
    free(test_file(blobs, "0", text, strlen(text)));
    for (size_t i = 0; i < 3; i++) {
        snprintf(to, sizeof(to), "../../../blobs/%zu", i);
        link = test_join(folder, names[i]);
        assert_int_equal(symlink(to, link), 0);
        free(link);
    }
    expect(NULL, "ab", INDEX);
    free(blobs);
    free(folder);
    folder = top;
}

static void test_pickles_only(void **state)
{
    (void)state;
    free(test_file(folder, STEM ".bin", "PK\3\4", 4));
    refuse(NULL, SARA_ERROR_INPUT, "there is only the pickle " STEM ".bin: to convert, load it");
}

static void test_nothing(void **state)
{
    (void)state;
    sara_weights *weights = NULL;
    char *absent = test_join(folder, "absent"), *link = test_join(folder, STEM ".safetensors");
    refuse(NULL, SARA_ERROR_INPUT, "no " STEM ".safetensors and no " INDEX);
    assert_refused(ctx, SARA_ERROR_IO, "absent: cannot list: No such file",
                   sara_weights_open(ctx, &weights, absent, STEM, NULL));
    assert_int_equal(symlink(link, link), 0);
    refuse(NULL, SARA_ERROR_IO, "Too many levels of symbolic links");
    free(absent);
    free(link);
}

static sara_status open_close(sara_context *c, const char *where)
{
    sara_weights *weights = NULL;
    sara_status status = sara_weights_open(c, &weights, where, STEM, NULL);
    sara_weights_close(weights);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    put(folder, SHARD1, "a");
    put(folder, SHARD2, "b");
    put_index(INDEX, "{\"weight_map\":{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}}");
    test_every_allocation(open_close, folder);
}

/* 2, -1.5, 0 and the smallest, 2^-9 */
static const uint8_t codes[] = {0x40, 0xBC, 0x00, 0x01};

static void put_scales(const float *scales, sara_shape shape)
{
    const sara_tensor_source sources[] = {{"x.weight", SARA_F8_E4M3, sara_shape2(2, 2), codes},
                                          {"x.scale_weight", SARA_F32, shape, scales},
                                          {"y.weight", SARA_F32, sara_shape1(1), scales}};
    char *path = test_join(folder, STEM ".safetensors");
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, 3, NULL, 0));
    free(path);
}

static void put_scaled(float scale)
{
    put_scales(&scale, (sara_shape){0, {0}});
}

static sara_status read_scaled(sara_context *c, const char *where)
{
    sara_weights *weights = NULL;
    uint16_t halves[4];
    sara_status status;
    TRY(sara_weights_open(c, &weights, where, STEM, NULL));
    TRY(sara_weights_read_as(weights, halves, SARA_BF16, sara_weights_at(weights, 0)));
done:
    sara_weights_close(weights);
    return status;
}

/* Scales are none of the tensors; what they belong to is float32. */
static void test_scales(void **state)
{
    (void)state;
    sara_weights *weights = NULL;
    float values[4];
    uint16_t halves[4];
    put_scaled(0.1f);
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, NULL));
    assert_int_equal(sara_weights_count(weights), 2);
    const sara_tensor_info *info = sara_weights_find(weights, "x.weight");
    assert_int_equal(info->dtype, SARA_F32);
    assert_ok(ctx, sara_weights_read(weights, values, info));
    const float expected[] = {2 * 0.1f, -1.5f * 0.1f, 0, 0.1f / 512};
    assert_memory_equal(values, expected, sizeof(values));
    assert_ok(ctx, sara_weights_read_as(weights, halves, SARA_F16, info));
    for (int i = 0; i < 4; i++)
        assert_int_equal(halves[i], sara_f32_to_f16(expected[i]));
    sara_weights_close(weights);
    test_every_allocation(read_scaled, folder);
    put_scaled(40000);
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, NULL));
    assert_refused(ctx, SARA_ERROR_INPUT, "x.weight: holds values beyond 65504",
                   sara_weights_read_as(weights, halves, SARA_F16, sara_weights_at(weights, 0)));
    sara_weights_close(weights);
}

/* Where fp16 ends: halfway to what would follow 65504 it rounds to infinity. */
static void test_largest_scaled(void **state)
{
    (void)state;
    sara_weights *weights = NULL;
    uint16_t halves[4];
    put_scaled(32760);
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, NULL));
    assert_refused(ctx, SARA_ERROR_INPUT, "x.weight: holds values beyond 65504",
                   sara_weights_read_as(weights, halves, SARA_F16, sara_weights_at(weights, 0)));
    sara_weights_close(weights);
    put_scaled(32759);
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, NULL));
    assert_ok(ctx, sara_weights_read_as(weights, halves, SARA_F16, sara_weights_at(weights, 0)));
    assert_int_equal(halves[0], 0x7BFF); /* 65504 */
    sara_weights_close(weights);
}

/* As many scales as rows, in a column; in a row they would be of columns. */
static void test_scales_of_rows(void **state)
{
    (void)state;
    static const float scales[] = {0.5f, 0.25f};
    sara_weights *weights = NULL;
    float values[4];
    put_scales(scales, sara_shape2(2, 1));
    assert_ok(ctx, sara_weights_open(ctx, &weights, folder, STEM, NULL));
    assert_ok(ctx, sara_weights_read(weights, values, sara_weights_find(weights, "x.weight")));
    assert_true(values[0] == 1 && values[1] == -0.75f && values[3] == 0x1p-11f);
    sara_weights_close(weights);
    put_scales(scales, sara_shape2(1, 2));
    assert_refused(ctx, SARA_ERROR_INPUT, "x.scale_weight: shape [1,2], expected one scale or one",
                   sara_weights_open(ctx, &weights, folder, STEM, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_variants, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_index_that_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_index_that_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shard_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hub_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pickles_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scales, setup, teardown),
        cmocka_unit_test_setup_teardown(test_largest_scaled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scales_of_rows, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
