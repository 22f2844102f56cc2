/* Dataset folders with captions in files and by options; allocations that fail. */
#include "support_dataset.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_caption_files(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "b.png", "");
    dataset_put(test, "b.txt", "\xef\xbb\xbf two \r\n");
    dataset_put(test, "a.b.jpeg", "");
    dataset_put(test, "a.b.txt", "one, and\nmore\n\n");
    dataset_put(test, "c.webp", "");
    dataset_put(test, "c.caption", "three");
    dataset_put(test, "D.PNG", "");
    dataset_put(test, "D.TXT", "four");
    dataset_put(test, "._b.png", "not an image");
    DATASET_ASSERT(test, "D.PNG: four", "a.b.jpeg: one, and\nmore", "b.png: two", "c.webp: three");
    dataset_assert_logged(test, "warning: ");
    dataset_assert_logged(test, "captions: of several lines, all of which are taken (kohya's "
                                "scripts take the first): 1 (a.b.jpeg)");
    assert_ptr_equal(strchr(test->log, '\n'), test->log + strlen(test->log) - 1);
    dataset_put(test, "b.txt", "two\r");
    dataset_put(test, "D.TXT", "four\rfive");
    DATASET_ASSERT(test, "D.PNG: four\rfive", "a.b.jpeg: one, and\nmore", "b.png: two",
                   "c.webp: three");
    dataset_assert_logged(test, "scripts take the first): 2 (D.PNG, a.b.jpeg)");
    dataset_put(test, "D.TXT", "four");
    dataset_put(test, "a.b.txt", "\none\n");
    DATASET_ASSERT(test, "D.PNG: four", "a.b.jpeg: one", "b.png: two", "c.webp: three");
    assert_null(test->log);
}

/* A mebibyte is the most. */
static void test_long_captions(void **state)
{
    static char text[(1 << 20) + 2];
    dataset_test *test = *state;
    memset(text, 'x', (1 << 20) + 1);
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", text);
    assert_refused(test->ctx, SARA_ERROR_INPUT, "1048577 bytes, expected at most 1048576",
                   dataset_scan(test));
    text[1 << 20] = '\0';
    dataset_put(test, "a.txt", text);
    assert_ok(test->ctx, dataset_scan(test));
    assert_string_equal(test->data.items[0].caption, text);
}

/* An empty caption is one, and is told. */
static void test_empty_captions(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "c.webp", "");
    dataset_put(test, "c.txt", " \n");
    DATASET_ASSERT(test, "c.webp: ");
    dataset_assert_logged(test, "captions: empty: 1 (c.webp)");
}

static void test_caption_extension(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "tags");
    dataset_put(test, "a.caption", "words");
    assert_refused(test->ctx, SARA_ERROR_INPUT,
                   "image a.png has two captions, a.txt and a.caption: choose with "
                   "--caption_extension",
                   dataset_scan(test));
    test->options.caption_extension = ".caption";
    DATASET_ASSERT(test, "a.png: words");
    dataset_assert_logged(test, "captions of another extension than --caption_extension: 1 (a.txt");
    test->options.caption_extension = "txt";
    DATASET_ASSERT(test, "a.png: tags");
    dataset_put(test, "a.cap", "own");
    test->options.caption_extension = ".cap";
    DATASET_ASSERT(test, "a.png: own");
    for (const char *const *bad = (const char *const[]){"", ".", "a/b", NULL}; *bad; bad++) {
        test->options.caption_extension = *bad;
        assert_refused(test->ctx, SARA_ERROR_USAGE, "--caption_extension", dataset_scan(test));
    }
}

/* Capitals of the extension, as cameras and Windows write them. */
static void test_capitals_of_extensions(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "one");
    dataset_put(test, "b.png", "");
    dataset_put(test, "b.Txt", "two");
    dataset_put(test, "b.x.tXT", "of another");
    dataset_put(test, "cafe\xcc\x81.png", "");
    dataset_put(test, "caf\xc3\xa9.TxT", "three");
    DATASET_ASSERT(test, "a.png: one", "b.png: two", "cafe\xcc\x81.png: three");
    dataset_assert_logged(test, "captions without an image: 1 (b.x.tXT)");
    test->options.caption_extension = ".TXT";
    DATASET_ASSERT(test, "a.png: one", "b.png: two", "cafe\xcc\x81.png: three");
    dataset_assert_logged(test, "captions without an image: 1 (b.x.tXT)");
    dataset_put(test, "a.TXT", "exactly");
    DATASET_ASSERT(test, "a.png: exactly", "b.png: two", "cafe\xcc\x81.png: three");
    dataset_put(test, "b.txT", "or this");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "two captions of one image, b.Txt and b.txT",
                   dataset_scan(test));
    test->options.caption_extension = NULL;
    dataset_put(test, "b.txt", "exactly");
    DATASET_ASSERT(test, "a.png: one", "b.png: exactly", "cafe\xcc\x81.png: three");
}

static void test_instance_prompt_wins(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "b.png", "");
    dataset_put(test, "b.txt", "ignored");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"ignored\"}");
    dataset_put(test, "3_dog/c.png", "");
    test->options.instance_prompt = "a photo of sks dog";
    DATASET_ASSERT(test, "3_dog/c.png: a photo of sks dog x3");
    dataset_assert_logged(test, "captions in files, as --instance_prompt is given: 1 (b.txt)");
    dataset_assert_logged(test, ".jsonl: 1 (metadata.jsonl)");
    dataset_assert_logged(test, "images beside folders with repeats in their names: 2 (a.png, b");
}

/* What lies where captions are missing is named. */
static void test_without_caption(void **state)
{
    static const struct {
        const char *name, *text;
    } cases[] = {
        {NULL, "image a.png has no caption: expected a.txt or .caption beside it"},
        {"metadata.parquet", "; what lies there is metadata.parquet"},
        {"Metadata.csv", "; what lies there is Metadata.csv"},
        {"README.md", "; what lies there is Metadata.csv"},
        {"a.json", "; what lies there is a.json"},
        {"a.JSON", "; what lies there is a.JSON"},
        {"a.png.txt", "; what lies there is a.JSON"},
    };
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "ab.txt", "");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        if (cases[i].name)
            dataset_put(test, cases[i].name, "{}");
        assert_refused(test->ctx, SARA_ERROR_INPUT, cases[i].text, dataset_scan(test));
    }
    test->options.caption_extension = "caption";
    assert_refused(test->ctx, SARA_ERROR_INPUT, "expected a.caption beside it", dataset_scan(test));
}

/* The inner folder given instead of the one above, however it is written. */
static void test_given_a_folder_with_repeats(void **state)
{
    static const char *const ways[] = {"10_ink",    "10_ink/",           "10_ink//",    "10_ink/.",
                                       "10_ink/./", "10_ink/../10_ink/", "10_ink/in/.."};
    dataset_test *test = *state;
    char *folder = NULL, *back = getcwd(NULL, 0);
    dataset_put(test, "10_ink/a.png", "");
    dataset_put(test, "10_ink/in/a.md", "");
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        free(folder);
        folder = dataset_path(test, ways[i]);
        test->options.folder = folder;
        assert_refused(test->ctx, SARA_ERROR_INPUT,
                       "for that of the folder's name give the folder above 10_ink",
                       dataset_scan(test));
    }
    assert_int_equal(chdir(folder), 0);
    for (const char *const *here = (const char *const[]){".", "./", "in/..", NULL}; *here; here++) {
        test->options.folder = *here;
        assert_refused(test->ctx, SARA_ERROR_INPUT, "give the folder above 10_ink",
                       dataset_scan(test));
    }
    assert_int_equal(chdir("in"), 0);
    test->options.folder = "..";
    assert_refused(test->ctx, SARA_ERROR_INPUT, "give the folder above 10_ink", dataset_scan(test));
    assert_int_equal(chdir(back), 0);
    test->options.folder = folder;
    dataset_put(test, "10_ink/a.txt", "x");
    assert_ok(test->ctx, dataset_scan(test));
    assert_string_equal(test->data.items[0].caption, "x");
    free(folder);
    free(back);
}

static void test_bad_folders(void **state)
{
    dataset_test *test = *state;
    assert_refused(test->ctx, SARA_ERROR_INPUT, "no images in the folder", dataset_scan(test));
    test->options.instance_prompt = "x";
    assert_refused(test->ctx, SARA_ERROR_INPUT, "what lies there: nothing", dataset_scan(test));
    test->options.instance_prompt = NULL;
    test->options.folder = "/nowhere";
    assert_refused(test->ctx, SARA_ERROR_IO, "/nowhere", dataset_scan(test));
    test->options.folder = test->path;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "f\xfcr");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "a.txt: byte 1 is not UTF-8", dataset_scan(test));
    free(test_file(test->path, "a.txt", "a\0b", 3));
    assert_refused(test->ctx, SARA_ERROR_INPUT, "a.txt: byte 1 is a NUL byte", dataset_scan(test));
    assert_null(test->data.items);
}

static void test_demo(void **state)
{
    dataset_test *test = *state;
    test->options.folder = SARA_TEST_EMOJI "/ink";
    assert_ok(test->ctx, dataset_scan(test));
    assert_null(test->log);
    assert_int_equal(test->data.count, 240);
    assert_string_equal(test->data.items[0].caption, "foggy");
    for (size_t i = 0; i < test->data.count; i++) {
        sara_image image = {0};
        assert_ok(test->ctx, sara_image_read(test->ctx, &image, test->data.items[i].path));
        assert_int_equal(image.width, 64);
        assert_int_equal(image.height, 64);
        sara_image_clear(test->ctx, &image);
    }
}

static void fail_each_allocation(const sara_dataset_options *options, sara_status expected)
{
    test_memory memory;
    test_memory_init(&memory);
    sara_context *ctx = test_memory_context(&memory);
    long alive = memory.alive;
    sara_dataset data = {0};
    sara_status status = SARA_ERROR_MEMORY;
    for (long n = 0; status == SARA_ERROR_MEMORY; n++) {
        memory.made = 0;
        memory.fail_at = n;
        status = sara_dataset_scan(ctx, &data, options);
        if (status == SARA_ERROR_MEMORY)
            assert_int_equal(memory.alive, alive);
    }
    test_assert_status(ctx, status, expected, "scan", __FILE__, __LINE__);
    sara_dataset_free(&data);
    assert_int_equal(memory.alive, alive);
    sara_context_free(ctx);
    assert_int_equal(memory.alive, 0);
}

static void test_every_allocation_may_fail(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "cafe\xcc\x81.jpg", "");
    dataset_put(test, "sub/e\xcc\x81.png", "");
    dataset_put(test, "sub/in/f.png", "");
    dataset_put(test, "2_x/b.png", "");
    dataset_put(test, "2_x/c.npz", "");
    dataset_put(test, "2_x/z.txt", "");
    dataset_put(test, "2_x/d.png", "");
    dataset_put(test, "2_x/d.Txt", "");
    dataset_put(test, "2_x/b.caption", "one\ntwo");
    dataset_put(test, ".git/b.caption", "");
    fail_each_allocation(&test->options, SARA_OK);
    dataset_put(test, "3_y/c.png", "");
    char *inner = dataset_path(test, "3_y/");
    sara_dataset_options options = {.folder = inner};
    fail_each_allocation(&options, SARA_ERROR_INPUT);
    free(inner);
    dataset_put(test, "metadata.csv",
                "file_name,text\n./a.png,\"o\"\"ne\"\nsub\\\xc3\xa9.png,two\ncaf\xc3\xa9.jpg,3\n");
    fail_each_allocation(&test->options, SARA_OK);
    dataset_put(test, "metadata.csv", "file_name,text\nno.png,one\n");
    fail_each_allocation(&test->options, SARA_ERROR_INPUT);
    dataset_put(test, "metadata.csv", "file_name,caption\nno.png,one\n");
    fail_each_allocation(&test->options, SARA_ERROR_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATASET_TEST(test_caption_files),
        DATASET_TEST(test_empty_captions),
        DATASET_TEST(test_long_captions),
        DATASET_TEST(test_caption_extension),
        DATASET_TEST(test_capitals_of_extensions),
        DATASET_TEST(test_instance_prompt_wins),
        DATASET_TEST(test_without_caption),
        DATASET_TEST(test_given_a_folder_with_repeats),
        DATASET_TEST(test_bad_folders),
        DATASET_TEST(test_demo),
        DATASET_TEST(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
