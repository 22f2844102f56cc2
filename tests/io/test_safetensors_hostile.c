/* Every way a safetensors file can lie must end in one line that names file, field and offset. */
#include "support_io.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

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

static void refuse_path(const char *path, sara_status expected, const char *part)
{
    sara_safetensors *file = NULL;
    assert_refused(ctx, expected, part, sara_safetensors_open(ctx, &file, path));
    assert_null(file);
    test_assert_contains(sara_context_error(ctx), path, __FILE__, __LINE__);
}

static void refuse_bytes(const void *bytes, size_t size, const char *part)
{
    char *path = test_file(folder, "t.safetensors", bytes, size);
    refuse_path(path, SARA_ERROR_INPUT, part);
    free(path);
}

static void refuse(const char *header, size_t data_size, const char *part)
{
    char *path = test_safetensors(folder, header, data_size);
    refuse_path(path, SARA_ERROR_INPUT, part);
    free(path);
}

static void test_not_a_file(void **state)
{
    (void)state;
    char *fifo = test_join(folder, "fifo"), *loop = test_join(folder, "loop");
    char *absent = test_join(folder, "absent");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(loop, loop), 0);
    refuse_path(folder, SARA_ERROR_INPUT, "is a folder, expected a regular file");
    refuse_path(fifo, SARA_ERROR_INPUT, "is a FIFO");
    refuse_path("/dev/zero", SARA_ERROR_INPUT, "is a character device");
    refuse_path(loop, SARA_ERROR_IO, "Too many levels of symbolic links");
    refuse_path(absent, SARA_ERROR_IO, "No such file");
    free(fifo);
    free(loop);
    free(absent);
}

static void test_header_length(void **state)
{
    (void)state;
    const struct {
        uint64_t length;
        const char *part;
    } rows[] = {{0, "byte 0: not safetensors: header length 0 in a file of 10 bytes"},
                {3, "header length 3 in a file of 10 bytes"},
                {100000001, "header length 100000001 "},
                {(uint64_t)1 << 63, "header length 9223372036854775808 "},
                {UINT64_MAX, "header length 18446744073709551615 "}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char bytes[10] = "12345678{}";
        memcpy(bytes, &rows[i].length, 8);
        refuse_bytes(bytes, sizeof(bytes), rows[i].part);
    }
    for (size_t size = 0; size < 8; size++)
        refuse_bytes("\2\0\0\0\0\0\0", size, "byte 0: not safetensors: a file of ");
    refuse_bytes("\2\0\0\0\0\0\0\0", 8, "header length 2 in a file of 8 bytes");
    refuse_bytes("\2\0\0\0\0\0\0\0[]", 10, "header starts with byte 0x5b, not '{'");
    refuse_bytes("\3\0\0\0\0\0\0\0 {}", 11, "header starts with byte 0x20, not '{'");
}

static void test_other_formats(void **state)
{
    (void)state;
    refuse_bytes("PK\3\4\x14\0\0\0\0\0\0\0", 12, "byte 0: not safetensors: a zip archive");
    refuse_bytes("\x80\2}q\0(X\3\0\0\0abc", 14, "a Python pickle (.bin, .ckpt, .pt); to convert");
    refuse_bytes("\x80\4\x95\5\0\0\0\0\0\0\0}\x94.", 14, "a Python pickle");
    refuse_bytes("\x80\2}q", 4, "a Python pickle");
    refuse_bytes("GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16, "a GGUF file");
    refuse_bytes("version https://git-lfs.github.com/spec/v1\n", 43, "git lfs pull");
    /* A header of 640 bytes begins like a pickle, and is none. */
    refuse_bytes("\x80\2\0\0\0\0\0\0{}", 10, "header length 640");
}

#define TENSOR(dtype, shape, offsets)                                                              \
    "{\"conv.weight\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_offsets(void **state)
{
    (void)state;
    refuse(TENSOR("\"U8\"", "[4]", "[-1,3]"), 4,
           ": byte 65: tensor conv.weight: data_offsets: '-', expected an integer of at least 0");
    refuse(TENSOR("\"U8\"", "[4]", "[0.0,4]"), 4, "data_offsets: '.', expected an integer");
    refuse(TENSOR("\"U8\"", "[4]", "[0,4e0]"), 4, "data_offsets: 'e', expected an integer");
    refuse(TENSOR("\"U8\"", "[4]", "[\"0\",4]"), 4, "data_offsets: '\"', expected an integer");
    refuse(TENSOR("\"U8\"", "[4]", "[null,4]"), 4, "data_offsets: 'n', expected an integer");
    refuse(TENSOR("\"U8\"", "[4]", "[00,4]"), 4, "an integer with a leading 0");
    refuse(TENSOR("\"U8\"", "[4]", "[4,0]"), 4, "data_offsets: begin 4 is after end 0");
    refuse(TENSOR("\"U8\"", "[4]", "[0,5]"), 4, "data_offsets: end 5, but there are 4 bytes");
    refuse(TENSOR("\"U8\"", "[4]", "[0,18446744073709551615]"), 4, "end 18446744073709551615, but");
    refuse(TENSOR("\"U8\"", "[4]", "[0,18446744073709551616]"), 4, "more than 64 bits");
    refuse(TENSOR("\"U8\"", "[4]", "[0]"), 4, "data_offsets: ']', expected ','");
    refuse(TENSOR("\"U8\"", "[4]", "[0,4,4]"), 4, "data_offsets: ',', expected ']'");
    refuse(TENSOR("\"U8\"", "[4]", "4"), 4, "data_offsets: '4', expected '['");
    refuse(TENSOR("\"U8\"", "[4]", "[0,4]"), 5, " bytes, but the tensors' data ends at byte");
}

/* Two tensors of U8 in data of `size` bytes. */
static void refuse_two(const char *a, const char *b, size_t size, const char *part)
{
    char *header = NULL;
    if (asprintf(&header, "{\"a\":{\"dtype\":\"U8\",%s},\"b\":{\"dtype\":\"U8\",%s}}", a, b) < 0)
        fail_msg("out of memory");
    refuse(header, size, part);
    free(header);
}

static void test_layout(void **state)
{
    (void)state;
    refuse_two("\"shape\":[4],\"data_offsets\":[0,4]", "\"shape\":[4],\"data_offsets\":[3,7]", 7,
               "tensor b: data_offsets: begins at byte 116 of the file, expected 117: overlaps a");
    refuse_two("\"shape\":[4],\"data_offsets\":[0,4]", "\"shape\":[4],\"data_offsets\":[0,4]", 4,
               "tensor b: data_offsets: begins at byte 113 of the file, expected 117: overlaps a");
    refuse_two("\"shape\":[4],\"data_offsets\":[0,4]", "\"shape\":[2],\"data_offsets\":[1,3]", 4,
               "overlaps a");
    refuse_two(
        "\"shape\":[4],\"data_offsets\":[0,4]", "\"shape\":[2],\"data_offsets\":[5,7]", 7,
        "tensor b: data_offsets: begins at byte 118 of the file, expected 117: a hole after a");
    refuse_two("\"shape\":[3],\"data_offsets\":[1,4]", "\"shape\":[2],\"data_offsets\":[4,6]", 6,
               "tensor a: data_offsets: begins at byte 114 of the file, expected 113: a hole after "
               "the header");
    refuse_two("\"shape\":[4],\"data_offsets\":[0,4]", "\"shape\":[2],\"data_offsets\":[4,6]", 7,
               "120 bytes, but the tensors' data ends at byte 119");
    refuse("{}", 1, "11 bytes, but the tensors' data ends at byte 10");
}

static void test_fields(void **state)
{
    (void)state;
    refuse(TENSOR("\"F4\"", "[8]", "[0,4]"), 4,
           "tensor conv.weight: dtype: \"F4\" is not supported, expected F64, F32");
    refuse(TENSOR("\"F8_E4M3\"", "[5]", "[0,4]"), 4,
           "tensor conv.weight: F8_E4M3 of shape [5] does not take 4 bytes");
    refuse(TENSOR("\"f32\"", "[1]", "[0,4]"), 4, "\"f32\" is not supported");
    refuse(TENSOR("7", "[1]", "[0,4]"), 4, "dtype: '7', expected '\"'");
    refuse(TENSOR("\"F32\"", "[2]", "[0,4]"), 4,
           "tensor conv.weight: F32 of shape [2] does not take 4 bytes");
    refuse(TENSOR("\"F32\"", "[]", "[0,0]"), 0, "F32 of shape [] does not take 0 bytes");
    refuse(TENSOR("\"F32\"", "[9223372036854775807,2]", "[0,4]"), 4, "shape: more than 2^63-1");
    refuse(TENSOR("\"F32\"", "[9223372036854775808]", "[0,4]"), 4, "shape: more than 2^63-1");
    refuse(TENSOR("\"F32\"", "[0,4294967296,4294967296]", "[0,0]"), 0, "shape: more than 2^63-1");
    refuse(TENSOR("\"F64\"", "[2305843009213693952]", "[0,0]"), 0, "does not take 0 bytes");
    refuse(TENSOR("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "shape: more than 8 dimensions");
    refuse(TENSOR("\"F32\"", "[-1]", "[0,4]"), 4, "shape: '-', expected an integer");
    refuse(TENSOR("\"F32\"", "[1.0]", "[0,4]"), 4, "shape: '.', expected an integer");
    refuse(TENSOR("\"F32\"", "[1,]", "[0,4]"), 4, "shape: ']', expected an integer");
    refuse(TENSOR("\"F32\"", "[[1]]", "[0,4]"), 4, "shape: '[', expected an integer");
    refuse(TENSOR("\"F32\"", "null", "[0,4]"), 4, "shape: 'n', expected '['");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}", 0, "tensor a: no field data_offsets");
    refuse("{\"a\":{}}", 0, "tensor a: no field dtype");
    refuse("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "duplicate field \"dtype\"");
    refuse("{\"a\":{\"dtype\":\"U8\",\"d\\u0074ype\":\"U8\"}}", 0, "duplicate field \"dtype\"");
    refuse("{\"a\":{\"data\":0}}", 0, "tensor a: unknown field \"data\"");
    refuse("{\"a\":[]}", 0, "tensor a: '[', expected '{'");
}

static void test_duplicates(void **state)
{
    (void)state;
    const char *tensor = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    char *header = NULL;
    if (asprintf(&header, "{\"a\":%s,\"b\":%s,\"\\u0061\":%s}", tensor, tensor, tensor) < 0)
        fail_msg("out of memory");
    refuse(header, 0, "t.safetensors: duplicate tensor a");
    free(header);
    refuse("{\"__metadata__\":{},\"__metadata\\u005f_\":{}}", 0, "duplicate __metadata__");
    refuse("{\"__metadata__\":{\"k\":\"1\",\"j\":\"2\",\"\\u006b\":\"1\"}}", 0,
           "__metadata__: duplicate key k");
}

static void test_metadata(void **state)
{
    (void)state;
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "byte 29: __metadata__: '1', expected '\"'");
    refuse("{\"__metadata__\":{\"k\":null}}", 0, "__metadata__: 'n', expected '\"'");
    refuse("{\"__metadata__\":{\"k\":{\"j\":\"v\"}}}", 0, "__metadata__: '{', expected '\"'");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__: '[', expected '{'");
    refuse("{\"__metadata__\":nul}", 0, "__metadata__: expected an object or null");
    refuse("{\"__metadata__\":n ull}", 0, "__metadata__: expected an object or null");
    refuse("{\"__metadata__\":nullx}", 0, "'x', expected ','");
    refuse("{\"__metadata__\":true}", 0, "__metadata__: 't', expected '{'");
    refuse("{\"__metadata__\":null,\"__metadata__\":null}", 0, "duplicate __metadata__");
}

static void test_strings(void **state)
{
    (void)state;
    const char *const not_utf8[] = {
        "\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"};
    char header[64];
    for (size_t i = 0; i < sizeof(not_utf8) / sizeof(not_utf8[0]); i++) {
        snprintf(header, sizeof(header), "{\"a%s\":{}}", not_utf8[i]);
        refuse(header, 0, "the string that ends here is not UTF-8");
    }
    refuse("{\"a\\ud800\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\ud800x\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\ud800\\n\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\ud800\\u0041\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\ud800\\ud800\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\ud800\\ue000\":{}}", 0, "lone surrogate \\ud800");
    refuse("{\"a\\udc00\":{}}", 0, "lone surrogate \\udc00");
    refuse("{\"a\\u0000b\":{}}", 0, "NUL in a string");
    refuse("{\"__metadata__\":{\"k\":\"\\u0000\"}}", 0, "__metadata__: NUL in a string");
    refuse("{\"a\tb\":{}}", 0, "control byte 0x09 in a string");
    refuse("{\"a\\x\":{}}", 0, "'x' after a backslash");
    refuse("{\"a\\u00g0\":{}}", 0, "'g', expected a hexadecimal digit");
    refuse("{\"a\\u00", 0, "the end of the header, expected a hexadecimal digit");
    refuse("{\"a\\", 0, "the end of the header after a backslash");
    refuse("{\"a", 0, "a string that does not end");
}

static void test_nul_bytes(void **state)
{
    (void)state;
    refuse_bytes("\10\0\0\0\0\0\0\0{\"a\0b\":{}}", 18, "control byte 0x00 in a string");
    refuse_bytes("\3\0\0\0\0\0\0\0{}\0", 11, "byte 10: byte 0x00 after the header's end");
}

static void test_grammar(void **state)
{
    (void)state;
    refuse("{", 0, "byte 9: the end of the header, expected '\"'");
    refuse("{}x", 0, "byte 10: 'x' after the header's end");
    refuse("{}{}", 0, "'{' after the header's end");
    refuse("{,}", 0, "',', expected '\"'");
    refuse("{a:1}", 0, "'a', expected '\"'");
    refuse("{\"__metadata__\":{},}", 0, "'}', expected '\"'");
    refuse("{\"__metadata__\":{\"a\":\"b\" \"c\":\"d\"}}", 0, "'\"', expected ','");
    refuse("{\"a\" {}}", 0, "'{', expected ':'");
    refuse("{\"a\":1}", 0, "'1', expected '{'");
    refuse("{\"a\":NaN}", 0, "'N', expected '{'");
    refuse("{/**/}", 0, "'/', expected '\"'");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0", 0, "the end of the header, expected ','");
}

/* A header of `size` bytes: start, then `unit` again and again, then spaces. */
static void refuse_large(const char *start, const char *unit, size_t size, const char *part)
{
    size_t length = strlen(start), step = strlen(unit);
    char *header = malloc(size + 1);
    assert_non_null(header);
    memset(header, ' ', size);
    memcpy(header, start, length);
    for (size_t at = length; at + step <= size; at += step)
        memcpy(header + at, unit, step);
    header[size] = '\0';
    refuse(header, 0, part);
    free(header);
}

static long peak_kilobytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* The header is a hole of the file: reading it must not take memory of its size. */
static void test_large_white_space(void **state)
{
    (void)state;
    char *path = test_join(folder, "t.safetensors");
    uint64_t length = 100000000;
    char block[65536];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &length, 8), 8);
    assert_int_equal(write(fd, "{", 1), 1);
    memset(block, ' ', sizeof(block));
    for (int i = 0; i < 32; i++) /* more white space than is allowed; the rest is never read */
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    assert_int_equal(ftruncate(fd, 8 + (off_t)length), 0);
    close(fd);
    long before = peak_kilobytes();
    refuse_path(path, SARA_ERROR_INPUT, ": byte 1000010: more than 1000000 bytes of white space");
    assert_true(peak_kilobytes() - before < 20000);
    free(path);
}

static void test_large_headers(void **state)
{
    (void)state;
    refuse_large("{\"a\":", "[", 200000, "byte 13: tensor a: '[', expected '{'");
    refuse_large("{\"a\":{\"shape\":[", "[", 200000, "shape: '[', expected an integer");
    refuse_large("", "{\"a\":", 200000, "byte 17: tensor a: unknown field \"a\"");
    refuse_large("{\"", "a", 200000, "a string of more than 65535 bytes");
    refuse_large("{\"a\":{\"dtype\":\"", "F", 200000, "a string of more than 32 bytes");
    refuse_large("{\"a\":{\"shape\":[", "9", 200000, "an integer of more than 64 bits");
    refuse_large("{\"a\":{\"shape\":[1", ",1", 200000, "more than 8 dimensions");
    refuse_large("{\"__metadata__\":{\"\":\"\"", ",\"\":\"\"", 600000,
                 "__metadata__: more than 65536 entries");
    refuse_large("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                 ",\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", 14000000,
                 "more than 250000 tensors");
}

/* Cut at every length, and each byte of the header changed: refused or read, never worse. */
static void test_cut_and_flipped(void **state)
{
    (void)state;
    const char *header = "{\"__metadata__\":{\"k\":\"\\u00e9\"},"
                         "\"n\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[0,4]}}  ";
    char *path = test_safetensors(folder, header, 4), *bytes = NULL;
    size_t size = 0;
    assert_ok(ctx, sara_file_read(ctx, &bytes, &size, path, 4096));
    free(path);
    for (size_t cut = 0; cut < size; cut++) {
        path = test_file(folder, "t.safetensors", bytes, cut);
        refuse_path(path, SARA_ERROR_INPUT, "");
        free(path);
    }
    for (size_t at = 0; at < size; at++) {
        sara_safetensors *file = NULL;
        bytes[at] = (char)(bytes[at] ^ (1 << at % 8));
        path = test_file(folder, "t.safetensors", bytes, size);
        sara_status status = sara_safetensors_open(ctx, &file, path);
        assert_true(status == SARA_OK || status == SARA_ERROR_INPUT);
        assert_int_equal(status == SARA_OK, file != NULL);
        sara_safetensors_close(file);
        bytes[at] = (char)(bytes[at] ^ (1 << at % 8));
        free(path);
    }
    sara_free(ctx, bytes);
}

static void test_truncated_after_open(void **state)
{
    (void)state;
    float values[4] = {0};
    char *path = test_safetensors(
        folder, "{\"n\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}}", 8);
    sara_safetensors *file = test_open(ctx, path);
    const sara_tensor_info *info = sara_safetensors_at(file, 0);
    assert_int_equal(truncate(path, (off_t)info->offset + 3), 0);
    assert_refused(ctx, SARA_ERROR_IO, "truncated while being read",
                   sara_safetensors_read(file, values, info));
    assert_refused(ctx, SARA_ERROR_IO, "truncated while being read",
                   sara_safetensors_read_f32(file, values, info));
    sara_safetensors_close(file);
    free(path);
}

/* A large tensor is read by parts; the line is that of one thread, wherever the file ends. */
static void check_cut(const char *path, uint64_t left, int threads)
{
    const sara_context_options options = {.threads = threads};
    sara_context *own = NULL;
    char line[200];
    assert_ok(own, sara_context_new(&own, &options));
    sara_safetensors *file = test_open(own, path);
    const sara_tensor_info *info = sara_safetensors_at(file, 0);
    size_t count = (size_t)sara_shape_count(&info->shape), at = 0;
    float *values = malloc(count * sizeof(*values));
    assert_non_null(values);
    assert_int_equal(truncate(path, (off_t)(info->offset + left)), 0);
    snprintf(line, sizeof(line), "%s: ends at byte %llu, expected %llu: truncated while being read",
             path, (unsigned long long)(info->offset + left),
             (unsigned long long)(info->offset + info->size));
    assert_refused(own, SARA_ERROR_IO, line, sara_safetensors_read(file, values, info));
    while (at + 65536 <= left) /* it is converted 32768 entries of 2 bytes at a time */
        at += 65536;
    snprintf(line, sizeof(line), "%s: ends at byte %llu, expected %llu: truncated while being read",
             path, (unsigned long long)(info->offset + left),
             (unsigned long long)(info->offset + at + 65536));
    assert_refused(own, SARA_ERROR_IO, line, sara_safetensors_read_f32(file, values, info));
    free(values);
    sara_safetensors_close(file);
    sara_context_free(own);
}

static void test_large_truncated_after_open(void **state)
{
    (void)state;
    const char *header =
        "{\"n\":{\"dtype\":\"BF16\",\"shape\":[1572864],\"data_offsets\":[0,3145728]}}";
    static const uint64_t left[] = {0, 7, 65536, 1048576, 1500001, 3145727};
    for (size_t i = 0; i < sizeof(left) / sizeof(*left); i++)
        for (int threads = 1; threads < 4; threads += 2) {
            char *path = test_safetensors(folder, header, 3145728);
            check_cut(path, left[i], threads);
            free(path);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_not_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_header_length, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_formats, setup, teardown),
        cmocka_unit_test_setup_teardown(test_offsets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nul_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grammar, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_white_space, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_and_flipped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncated_after_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_truncated_after_open, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
