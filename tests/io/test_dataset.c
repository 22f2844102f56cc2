/* Dataset folders. Scanning does not open images, so that empty files stand for them. */
#include "support_images.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct folder {
    sara_context *ctx;
    char *path;
    sara_dataset data;
} folder;

static int set_up(void **state)
{
    folder *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->ctx = test_context();
    f->path = test_folder();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    folder *f = *state;
    sara_dataset_free(&f->data);
    sara_context_free(f->ctx);
    test_folder_remove(f->path);
    free(f);
    return 0;
}

static void put(const folder *f, const char *name, const char *content)
{
    free(test_file(f->path, name, content, strlen(content)));
}

static sara_status scan(folder *f, const char *prompt)
{
    return sara_dataset_scan(f->ctx, &f->data, f->path, "text", NULL, prompt);
}

static void assert_item(const folder *f, size_t index, const char *name, const char *caption)
{
    const char *path = f->data.items[index].path;
    assert_true(index < f->data.count);
    assert_memory_equal(path, f->path, strlen(f->path));
    assert_string_equal(path + strlen(f->path) + 1, name);
    assert_string_equal(f->data.items[index].caption, caption);
}

static void test_metadata(void **state)
{
    folder *f = *state;
    char *sub = NULL;
    assert_true(asprintf(&sub, "%s/sub", f->path) > 0);
    assert_int_equal(mkdir(sub, 0700), 0);
    put(f, "b.png", "");
    put(f, "a.JPG", "");
    put(f, "sub/c.webp", "");
    put(f, "metadata.jsonl",
        "\xef\xbb\xbf{\"file_name\": \"b.png\", \"text\": \"two\\u0007\", \"score\": NaN}\r\n"
        "\r\n  \n"
        "{\"text\": \"caf\\u00e9\", \"file_name\": \"a.JPG\"}\n"
        "{\"file_name\": \"sub/c.webp\", \"text\": \"\"}");
    assert_ok(f->ctx, scan(f, NULL));
    assert_int_equal(f->data.count, 3);
    assert_item(f, 0, "b.png", "two\a");
    assert_item(f, 1, "a.JPG", "caf\xc3\xa9");
    assert_item(f, 2, "sub/c.webp", "");
    free(sub);
}

static void test_column_and_prefix(void **state)
{
    folder *f = *state;
    put(f, "a.png", "");
    put(f, "metadata.jsonl", "{\"file_name\": \"a.png\", \"caption\": \"moon\", \"text\": \"x\"}");
    assert_ok(f->ctx, sara_dataset_scan(f->ctx, &f->data, f->path, "caption", "ink style, ", NULL));
    assert_int_equal(f->data.count, 1);
    assert_item(f, 0, "a.png", "ink style, moon");
}

static void test_caption_files(void **state)
{
    folder *f = *state;
    put(f, "b.png", "");
    put(f, "b.txt", "\xef\xbb\xbf two \r\n");
    put(f, "a.b.jpeg", "");
    put(f, "a.b.txt", "one, and\nmore\n\n");
    put(f, "c.webp", "");
    put(f, "c.txt", "");
    put(f, "notes.md", "not an image");
    put(f, "._b.png", "not an image");
    assert_ok(f->ctx, scan(f, NULL));
    assert_int_equal(f->data.count, 3);
    assert_item(f, 0, "a.b.jpeg", "one, and\nmore");
    assert_item(f, 1, "b.png", "two");
    assert_item(f, 2, "c.webp", "");
}

static void test_instance_prompt_wins(void **state)
{
    folder *f = *state;
    put(f, "a.png", "");
    put(f, "b.png", "");
    put(f, "b.txt", "ignored");
    put(f, "metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"ignored\"}");
    assert_ok(f->ctx, scan(f, "a photo of sks dog"));
    assert_int_equal(f->data.count, 2);
    assert_item(f, 0, "a.png", "a photo of sks dog");
    assert_item(f, 1, "b.png", "a photo of sks dog");
}

static void test_bad_rows(void **state)
{
    static const struct {
        const char *rows, *text;
    } bad[] = {
        {"\n\n{\"file_name\": \"a.png\", \"text\"}", "metadata.jsonl: line 3, within the row"},
        {"[1]", "line 1: expected a JSON object"},
        {"{\"text\": \"x\"}", "line 1: no column file_name, the row has: text"},
        {"{\"file_name\": \"a.png\", \"caption\": \"x\"}",
         "line 1: no column text, the row has: file_name, caption"},
        {"{}", "the row has: none"},
        {"{\"file_name\": \"a.png\", \"text\": null}", "column text: expected a string"},
        {"{\"file_name\": 3, \"text\": \"x\"}", "column file_name: expected a string"},
        {"{\"file_name\": \"a.png\", \"text\": \"x\", \"text\": \"y\"}", "line 1"},
        {"{\"file_name\": \"a.png\", \"text\": \"\\u0000\"}", "line 1"},
        {"{\"file_name\": \"a.png\", \"text\": \"\xff\"}", "line 1"},
        {"{\"file_name\": \"no.png\", \"text\": \"x\"}",
         "line 1: image no.png: No such file or directory"},
        {"{\"file_name\": \"/etc/a.png\", \"text\": \"x\"}", "expected a path inside the folder"},
        {"{\"file_name\": \"../a.png\", \"text\": \"x\"}", "expected a path inside the folder"},
        {"{\"file_name\": \"sub/../../a.png\", \"text\": \"x\"}", "a path inside the folder"},
        {"{\"file_name\": \"..\", \"text\": \"x\"}", "expected a path inside the folder"},
        {"{\"file_name\": \"\", \"text\": \"x\"}", "expected a path inside the folder"},
        {"{\"file_name\": \"link.png\", \"text\": \"x\"}", "expected a file inside the folder"},
        {"{\"file_name\": \"out/hosts.png\", \"text\": \"x\"}", "line 1"},
        {"{\"file_name\": \"dir.png\", \"text\": \"x\"}", "not a regular file"},
        {"{\"file_name\": \"a.gif\", \"text\": \"x\"}", "expected .png, .jpg, .jpeg or .webp"},
        {"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"./a.png\", \"text\": "
         "\"\"}",
         "line 2 names the image of line 1 again"},
        {"\n\r\n", "no rows"},
        {"", "no rows"},
    };
    folder *f = *state;
    char *path = NULL;
    put(f, "a.png", "");
    assert_true(asprintf(&path, "%s/link.png", f->path) > 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    free(path);
    assert_true(asprintf(&path, "%s/out", f->path) > 0);
    assert_int_equal(symlink("/etc", path), 0);
    free(path);
    assert_true(asprintf(&path, "%s/dir.png", f->path) > 0);
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        put(f, "metadata.jsonl", bad[i].rows);
        assert_refused(f->ctx, SARA_ERROR_INPUT, bad[i].text, scan(f, NULL));
        assert_non_null(strstr(sara_context_error(f->ctx), "metadata.jsonl"));
        assert_null(f->data.items);
    }
}

static void test_link_within_the_folder(void **state)
{
    folder *f = *state;
    char *path = NULL;
    put(f, "a.png", "");
    assert_true(asprintf(&path, "%s/b.png", f->path) > 0);
    assert_int_equal(symlink("a.png", path), 0);
    assert_ok(f->ctx, scan(f, "x"));
    assert_int_equal(f->data.count, 2);
    free(path);
}

static void test_bad_folders(void **state)
{
    folder *f = *state;
    sara_dataset data = {0};
    assert_refused(f->ctx, SARA_ERROR_INPUT, "no images in the folder", scan(f, NULL));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "no images in the folder", scan(f, "x"));
    assert_refused(f->ctx, SARA_ERROR_IO, "/nowhere",
                   sara_dataset_scan(f->ctx, &data, "/nowhere", "text", NULL, NULL));
    put(f, "a.png", "");
    assert_refused(f->ctx, SARA_ERROR_INPUT, "image a.png has no caption", scan(f, NULL));
    put(f, "a.txt", "f\xfcr");
    assert_refused(f->ctx, SARA_ERROR_INPUT, "a.txt: byte 1 is not UTF-8", scan(f, NULL));
    free(test_file(f->path, "a.txt", "a\0b", 3));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "a.txt: byte 1 is not UTF-8", scan(f, NULL));
    put(f, "a.txt", "fine");
    put(f, "z.gif", "");
    assert_refused(f->ctx, SARA_ERROR_INPUT, "image z.gif is not .png", scan(f, NULL));
    assert_null(f->data.items);
}

static void test_demo(void **state)
{
    folder *f = *state;
    assert_ok(f->ctx, sara_dataset_scan(f->ctx, &f->data, SARA_TEST_EMOJI "/ink", NULL,
                                        "ink style, ", NULL));
    assert_int_equal(f->data.count, 240);
    assert_string_equal(f->data.items[0].caption, "ink style, foggy");
    for (size_t i = 0; i < f->data.count; i++) {
        sara_image image = {0};
        assert_ok(f->ctx, sara_image_read(f->ctx, &image, f->data.items[i].path));
        assert_int_equal(image.width, 64);
        assert_int_equal(image.height, 64);
        sara_image_clear(f->ctx, &image);
    }
}

static void test_every_allocation_may_fail(void **state)
{
    folder *f = *state;
    test_memory memory;
    test_memory_init(&memory);
    sara_context *ctx = test_memory_context(&memory);
    put(f, "a.png", "");
    put(f, "a.txt", "one");
    for (int round = 0; round < 2; round++) {
        long alive = memory.alive;
        sara_dataset data = {0};
        sara_status status = SARA_ERROR_MEMORY;
        for (long n = 0; status == SARA_ERROR_MEMORY; n++) {
            memory.made = 0;
            memory.fail_at = n;
            status = sara_dataset_scan(ctx, &data, f->path, "text", "p, ", NULL);
            if (status == SARA_ERROR_MEMORY)
                assert_int_equal(memory.alive, alive);
        }
        assert_ok(ctx, status);
        assert_string_equal(data.items[0].caption, "p, one");
        sara_dataset_free(&data);
        put(f, "metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"one\"}");
    }
    sara_context_free(ctx);
    assert_int_equal(memory.alive, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_metadata),
        TEST(test_column_and_prefix),
        TEST(test_caption_files),
        TEST(test_instance_prompt_wins),
        TEST(test_bad_rows),
        TEST(test_link_within_the_folder),
        TEST(test_bad_folders),
        TEST(test_demo),
        TEST(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
