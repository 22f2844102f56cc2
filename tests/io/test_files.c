/* Files, folders, atomic writing and SHA-256. */
#include "support_io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

static void test_read(void **state)
{
    (void)state;
    char *path = test_file(folder, "f", "a\0b", 3), *data = NULL, *fifo = test_join(folder, "fifo");
    char *empty = test_file(folder, "empty", "", 0);
    size_t size = 9;
    assert_ok(ctx, sara_file_read(ctx, &data, &size, path, 3));
    assert_int_equal(size, 3);
    assert_memory_equal(data, "a\0b\0", 4);
    sara_free(ctx, data);
    assert_ok(ctx, sara_file_read(ctx, &data, &size, empty, 0));
    assert_int_equal(size, 0);
    assert_int_equal(data[0], 0);
    sara_free(ctx, data);
    assert_refused(ctx, SARA_ERROR_INPUT, "f: 3 bytes, expected at most 2",
                   sara_file_read(ctx, &data, &size, path, 2));
    assert_null(data);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_refused(ctx, SARA_ERROR_INPUT, "is a FIFO",
                   sara_file_read(ctx, &data, &size, fifo, 100));
    assert_refused(ctx, SARA_ERROR_INPUT, "is a character device",
                   sara_file_read(ctx, &data, &size, "/dev/zero", 100));
    assert_refused(ctx, SARA_ERROR_INPUT, "is a folder",
                   sara_file_read(ctx, &data, &size, folder, 100));
    free(path);
    free(empty);
    free(fifo);
}

static void test_folders(void **state)
{
    (void)state;
    char **names = NULL, *deep = test_join(folder, "x//y/z/"), *x = test_join(folder, "x");
    char *link = test_join(folder, "x/y/link"), *file = test_file(folder, "b", "1", 1);
    char *under_file = test_join(file, "c");
    size_t count = 0;
    assert_ok(ctx, sara_directory_make(ctx, deep));
    assert_ok(ctx, sara_directory_make(ctx, deep));
    assert_true(sara_path_is_directory(deep));
    assert_false(sara_path_is_directory(file));
    assert_true(sara_path_exists(file));
    assert_refused(ctx, SARA_ERROR_IO, "File exists", sara_directory_make(ctx, file));
    assert_refused(ctx, SARA_ERROR_IO, "Not a directory",
                   sara_directory_list(ctx, &names, &count, under_file));
    free(test_file(folder, "B", "1", 1));
    free(test_file(folder, "\xc3\xa9", "1", 1));
    assert_ok(ctx, sara_directory_list(ctx, &names, &count, folder));
    assert_int_equal(count, 4);
    assert_string_equal(names[0], "B");
    assert_string_equal(names[1], "b");
    assert_string_equal(names[2], "x");
    assert_string_equal(names[3], "\xc3\xa9");
    sara_directory_free(ctx, names, count);
    assert_int_equal(symlink(folder, link), 0);
    assert_ok(ctx, sara_directory_remove(ctx, x)); /* the link goes, not what it leads to */
    assert_false(sara_path_exists(x));
    assert_true(sara_path_exists(file));
    assert_refused(ctx, SARA_ERROR_IO, "x: cannot remove: No such file",
                   sara_directory_remove(ctx, x));
    assert_refused(ctx, SARA_ERROR_IO, "b: cannot remove: Not a directory",
                   sara_directory_remove(ctx, file));
    assert_ok(ctx, sara_directory_sync(ctx, folder));
    assert_ok(ctx, sara_rename_durably(ctx, file, x));
    assert_true(sara_path_exists(x));
    assert_refused(ctx, SARA_ERROR_IO, "x: cannot rename to this name: No such file",
                   sara_rename_durably(ctx, file, x));
    free(deep);
    free(x);
    free(link);
    free(file);
    free(under_file);
}

static void assert_content(const char *path, const char *content)
{
    char *data = NULL;
    size_t size = 0;
    assert_ok(ctx, sara_file_read(ctx, &data, &size, path, 1 << 20));
    assert_int_equal(size, strlen(content));
    assert_memory_equal(data, content, size);
    sara_free(ctx, data);
}

static void test_writer(void **state)
{
    (void)state;
    sara_writer *writer = NULL;
    char *path = test_file(folder, "f", "old", 3);
    assert_ok(ctx, sara_writer_open(ctx, &writer, path));
    assert_ok(ctx, sara_writer_write(writer, "new", 3));
    assert_content(path, "old");
    assert_ok(ctx, sara_writer_write(writer, " text", 5));
    assert_ok(ctx, sara_writer_commit(&writer));
    assert_null(writer);
    assert_content(path, "new text");
    assert_ok(ctx, sara_writer_open(ctx, &writer, path));
    assert_ok(ctx, sara_writer_write(writer, "x", 1));
    sara_writer_abort(&writer);
    assert_null(writer);
    sara_writer_abort(&writer);
    assert_content(path, "new text");
    test_assert_names(ctx, folder, 1);
    assert_ok(ctx, sara_file_write(ctx, path, "", 0));
    assert_content(path, "");
    free(path);
}

/* Two writers to one path at a time do not meet; the last commit stays. */
static void test_two_writers(void **state)
{
    (void)state;
    sara_writer *one = NULL, *two = NULL;
    char *path = test_join(folder, "f");
    assert_ok(ctx, sara_writer_open(ctx, &one, path));
    assert_ok(ctx, sara_writer_open(ctx, &two, path));
    assert_ok(ctx, sara_writer_write(one, "one", 3));
    assert_ok(ctx, sara_writer_write(two, "two", 3));
    assert_ok(ctx, sara_writer_commit(&two));
    assert_ok(ctx, sara_writer_commit(&one));
    assert_content(path, "one");
    test_assert_names(ctx, folder, 1);
    free(path);
}

/* Sizes around the writer's buffer, in pieces around it. */
static void test_writer_sizes(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 65535, 65536, 65537, 200000}, pieces[] = {1000, 65535, 65536, 70000};
    char *path = test_join(folder, "f"), *bytes = malloc(200000), *back = NULL;
    assert_non_null(bytes);
    for (size_t i = 0; i < 200000; i++)
        bytes[i] = (char)(i * 7 + i / 251);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t j = 0; j < sizeof(pieces) / sizeof(pieces[0]); j++) {
            sara_writer *writer = NULL;
            size_t size = 0;
            assert_ok(ctx, sara_writer_open(ctx, &writer, path));
            for (size_t at = 0; at < sizes[i]; at += pieces[j]) {
                size_t left = sizes[i] - at;
                assert_ok(ctx, sara_writer_write(writer, bytes + at,
                                                 left < pieces[j] ? left : pieces[j]));
            }
            assert_ok(ctx, sara_writer_commit(&writer));
            assert_ok(ctx, sara_file_read(ctx, &back, &size, path, 1 << 20));
            assert_int_equal(size, sizes[i]);
            assert_memory_equal(back, bytes, size);
            sara_free(ctx, back);
        }
    }
    free(bytes);
    free(path);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    sara_writer *writer = NULL;
    char *absent = test_join(folder, "no/f"), *fifo = test_join(folder, "fifo");
    assert_refused(ctx, SARA_ERROR_IO, "no/f: cannot create a temporary file beside it: No such",
                   sara_writer_open(ctx, &writer, absent));
    assert_null(writer);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_refused(ctx, SARA_ERROR_IO, "fifo: exists and is not a regular file",
                   sara_writer_open(ctx, &writer, fifo));
    assert_refused(ctx, SARA_ERROR_IO, "/dev/full: exists and is not a regular file",
                   sara_writer_open(ctx, &writer, "/dev/full"));
    assert_refused(ctx, SARA_ERROR_IO, "exists and is not a regular file",
                   sara_writer_open(ctx, &writer, folder));
    free(absent);
    free(fifo);
}

static void test_writes_through_a_link(void **state)
{
    (void)state;
    struct stat info;
    char *path = test_file(folder, "f", "old", 3), *link = test_join(folder, "link");
    assert_int_equal(symlink("f", link), 0);
    assert_ok(ctx, sara_file_write(ctx, link, "new", 3));
    assert_content(path, "new");
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    free(path);
    free(link);
}

/* The writer's descriptor is the lowest free one: puts a device in its place. */
static void open_device(sara_writer **writer, const char *path, const char *device)
{
    int lowest = open("/dev/null", O_RDONLY), fd = open(device, O_WRONLY);
    assert_true(lowest >= 0 && fd >= 0);
    close(lowest);
    assert_ok(ctx, sara_writer_open(ctx, writer, path));
    assert_int_equal(dup2(fd, lowest), lowest);
    close(fd);
}

static void test_disk_full(void **state)
{
    (void)state;
    sara_writer *writer = NULL;
    char *path = test_file(folder, "f", "old", 3), *large = calloc(1, 100000);
    assert_non_null(large);
    open_device(&writer, path, "/dev/full");
    assert_refused(ctx, SARA_ERROR_IO, "f: cannot write: No space left on device",
                   sara_writer_write(writer, large, 100000));
    /* A caller that goes on all the same must not get a file. */
    assert_refused(ctx, SARA_ERROR_IO, "No space left on device",
                   sara_writer_write(writer, "more", 4));
    assert_refused(ctx, SARA_ERROR_IO, "No space left on device", sara_writer_commit(&writer));
    assert_null(writer);
    open_device(&writer, path, "/dev/full");
    assert_ok(ctx, sara_writer_write(writer, "buffered", 8));
    assert_refused(ctx, SARA_ERROR_IO, "No space left on device", sara_writer_commit(&writer));
    assert_content(path, "old");
    test_assert_names(ctx, folder, 1);
    free(large);
    free(path);
}

/* /dev/null takes every write and no fsync. */
static void test_sync_and_rename_fail(void **state)
{
    (void)state;
    sara_writer *writer = NULL;
    char *path = test_file(folder, "f", "old", 3);
    open_device(&writer, path, "/dev/null");
    assert_ok(ctx, sara_writer_write(writer, "new", 3));
    assert_refused(ctx, SARA_ERROR_IO, "f: cannot sync: ", sara_writer_commit(&writer));
    assert_content(path, "old");
    test_assert_names(ctx, folder, 1);
    assert_int_equal(unlink(path), 0);
    assert_ok(ctx, sara_writer_open(ctx, &writer, path));
    assert_ok(ctx, sara_directory_make(ctx, path));
    assert_refused(ctx, SARA_ERROR_IO, "f: cannot rename to this name: Is a directory",
                   sara_writer_commit(&writer));
    test_assert_names(ctx, folder, 1);
    free(path);
}

static void test_file_too_large(void **state)
{
    (void)state;
    struct rlimit before, limit;
    char *path = test_file(folder, "f", "old", 3), *large = calloc(1, 100000);
    const sara_tensor_source source = {"t", SARA_U8, sara_shape1(100000), large};
    assert_non_null(large);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    limit = before;
    for (limit.rlim_cur = 0; limit.rlim_cur < 100000; limit.rlim_cur += 30000) {
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        sara_status status = sara_file_write(ctx, path, large, 100000);
        sara_status saved = sara_safetensors_save(ctx, path, &source, 1, NULL, 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, SARA_ERROR_IO);
        assert_int_equal(saved, SARA_ERROR_IO);
        test_assert_contains(sara_context_error(ctx), "f: cannot write: File too large", __FILE__,
                             __LINE__);
        assert_content(path, "old");
        test_assert_names(ctx, folder, 1);
    }
    signal(SIGXFSZ, handler);
    free(large);
    free(path);
}

static void test_copy(void **state)
{
    (void)state;
    char *from = test_join(folder, "from"), *to = test_join(folder, "to"), *data = NULL;
    char *bytes = malloc(150000);
    size_t size = 0;
    assert_non_null(bytes);
    for (size_t i = 0; i < 150000; i++)
        bytes[i] = (char)(i * 31 + i / 1000);
    assert_ok(ctx, sara_file_write(ctx, from, bytes, 150000));
    assert_ok(ctx, sara_file_copy(ctx, from, to));
    assert_ok(ctx, sara_file_copy(ctx, to, to));
    assert_ok(ctx, sara_file_read(ctx, &data, &size, to, 150000));
    assert_int_equal(size, 150000);
    assert_memory_equal(data, bytes, size);
    sara_free(ctx, data);
    assert_refused(ctx, SARA_ERROR_INPUT, "is a folder", sara_file_copy(ctx, folder, to));
    test_assert_names(ctx, folder, 2);
    free(bytes);
    free(from);
    free(to);
}

/* FIPS 180-2's examples. */
static void test_sha256(void **state)
{
    (void)state;
    char hex[65], *path = test_file(folder, "abc", "abc", 3);
    sara_sha256 *hash = NULL;
    assert_ok(ctx, sara_sha256_file(ctx, hex, path));
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_ok(ctx, sara_sha256_new(ctx, &hash));
    char *block = malloc(1000000);
    assert_non_null(block);
    memset(block, 'a', 1000000);
    assert_ok(ctx, sara_sha256_add(hash, block, 1));
    assert_ok(ctx, sara_sha256_add(hash, NULL, 0));
    assert_ok(ctx, sara_sha256_add(hash, block, 999999));
    assert_ok(ctx, sara_sha256_end(&hash, hex));
    assert_null(hash);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_refused(ctx, SARA_ERROR_INPUT, "is a folder", sara_sha256_file(ctx, hex, folder));
    free(block);
    free(path);
}

static sara_status all_of_it(sara_context *c, const char *path)
{
    char **names = NULL, *text = NULL, hex[65], *copy = NULL, *deep = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_path_join(c, &copy, folder, "copy"));
    TRY(sara_path_join(c, &deep, folder, "deep/er"));
    TRY(sara_file_write(c, path, "text", 4));
    TRY(sara_file_copy(c, path, copy));
    TRY(sara_file_read(c, &text, &count, path, 10));
    sara_free(c, text);
    TRY(sara_sha256_file(c, hex, path));
    TRY(sara_directory_make(c, deep));
    TRY(sara_rename_durably(c, copy, path));
    TRY(sara_directory_list(c, &names, &count, folder));
    sara_directory_free(c, names, count);
    TRY(sara_directory_remove(c, deep));
done:
    sara_free(c, copy);
    sara_free(c, deep);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    char *path = test_join(folder, "f");
    test_every_allocation(all_of_it, path);
    test_assert_names(ctx, folder, 2);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_writers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writer_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writer_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writes_through_a_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sync_and_rename_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sha256, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
