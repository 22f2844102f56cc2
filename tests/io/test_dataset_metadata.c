/* metadata.jsonl and metadata.csv: rows, the files they name, and names that are the same. */
#include "support_dataset.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_rows(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "b.png", "");
    dataset_put(test, "a.JPG", "");
    dataset_put(test, "sub/c.webp", "");
    dataset_put(test, "metadata.jsonl",
                "\xef\xbb\xbf{\"file_name\": \"b.png\", \"text\": \"two\\u0007\", \"score\": "
                "NaN}\r\n\r\n  \n"
                "{\"text\": \"caf\\u00e9\", \"file_name\": \"a.JPG\"}\n"
                "{\"file_name\": \"sub/c.webp\", \"text\": \"\"}");
    DATASET_ASSERT(test, "b.png: two\a", "a.JPG: caf\xc3\xa9", "sub/c.webp: ");
    dataset_assert_logged(test, "captions: empty: 1 (sub/c.webp)");
}

static void test_column(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "metadata.jsonl",
                "{\"file_name\": \"a.png\", \"caption\": \"moon\", \"text\": \"x\"}");
    test->options.caption_column = "caption";
    DATASET_ASSERT(test, "a.png: moon");
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
        {"{\"file_name\": \"dir.png\", \"text\": \"x\"}", "not a regular file"},
        {"{\"file_name\": \"a.gif\", \"text\": \"x\"}", "expected .png, .jpg, .jpeg or .webp"},
        {"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"./a.png\", \"text\": "
         "\"\"}",
         "line 2 names the image of line 1 again"},
        {"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \".\\\\a.png\", \"text\": "
         "\"\"}",
         "line 2 names the image of line 1 again"},
        {"\n\r\n", "no rows"},
        {"", "no rows"},
    };
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    char *path = dataset_path(test, "dir.png");
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        dataset_put(test, "metadata.jsonl", bad[i].rows);
        assert_refused(test->ctx, SARA_ERROR_INPUT, bad[i].text, dataset_scan(test));
        assert_non_null(strstr(sara_context_error(test->ctx), "metadata.jsonl"));
        assert_null(test->data.items);
    }
}

/* A name is relative and leads down, whether its slashes are Linux's or Windows'. */
static void test_names_that_lead_out(void **state)
{
    static const char *const names[] = {
        "/etc/a.png",
        "../a.png",
        "sub/../../a.png",
        "..",
        "",
        "..\\\\a.png",
        "sub\\\\..\\\\a.png",
        "C:\\\\me\\\\a.png",
        "c:/me/a.png",
        "\\\\\\\\pc\\\\a.png",
        "\\\\a.png",
        " ../a.png",
        "sub/..",
    };
    dataset_test *test = *state;
    char row[128];
    dataset_put(test, "sub/a.png", "");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        snprintf(row, sizeof(row), "{\"file_name\": \"%s\", \"text\": \"x\"}", names[i]);
        dataset_put(test, "metadata.jsonl", row);
        assert_refused(test->ctx, SARA_ERROR_INPUT, "expected a path inside the folder",
                       dataset_scan(test));
    }
    dataset_put(test, "..a/b..png", "");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"..a/b..png\", \"text\": \"x\"}");
    DATASET_ASSERT(test, "..a/b..png: x");
    dataset_put(test, "c:.png", ""); /* of a drive only with a slash behind it */
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"c:.png\", \"text\": \"x\"}");
    DATASET_ASSERT(test, "c:.png: x");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"c:\", \"text\": \"x\"}");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "\"c:\", expected .png", dataset_scan(test));
}

/* What pandas makes of the same text (make_csv.py). */
static void test_csv_as_pandas(void **state)
{
    dataset_test *test = *state;
    json_t *cases = NULL, *one, *row;
    size_t i, k;
    assert_ok(test->ctx, sara_json_load(test->ctx, &cases, IMAGE_DATA "/metadata_csv.json", false));
    assert_true(json_array_size(cases) > 15);
    for (const char *const *name =
             (const char *const[]){"a.png", "b.png", "c.png", "d.png", "\xc3\xbc b.png", NULL};
         *name; name++)
        dataset_put(test, *name, "");
    json_array_foreach(cases, i, one)
    {
        const json_t *rows = json_object_get(one, "rows");
        dataset_put(test, "metadata.csv", json_string_value(json_object_get(one, "csv")));
        if (json_is_null(rows)) {
            assert_refused(test->ctx, SARA_ERROR_INPUT, "metadata.csv: line", dataset_scan(test));
            continue;
        }
        print_message("%s\n", json_string_value(json_object_get(one, "name")));
        assert_ok(test->ctx, dataset_scan(test));
        assert_int_equal(test->data.count, json_array_size(rows));
        json_array_foreach(rows, k, row)
        {
            const sara_dataset_item *item = &test->data.items[k];
            assert_string_equal(item->path + strlen(test->path) + 1,
                                json_string_value(json_array_get(row, 0)));
            assert_string_equal(item->caption, json_string_value(json_array_get(row, 1)));
        }
    }
    json_decref(cases);
}

static void test_bad_csv(void **state)
{
    static const struct {
        const char *rows, *text;
    } bad[] = {
        {"", "metadata.csv: the file is empty, expected a row of names with file_name and text"},
        {"\xef\xbb\xbf", "metadata.csv: the file is empty"},
        {"\n \n", "metadata.csv: the file is empty"},
        {",\n,\n", "metadata.csv: the file is empty"},
        {"file_name,text\n,\n", "no rows"},
        {"file_name,text\n,x\n", "line 2: file_name \"\", expected a path"},
        {"file_name,text\n", "no rows"},
        {"a.png,foggy\n", "line 1: no column file_name, the first row has: a.png, foggy"},
        {"file_name,caption\na.png,foggy\n",
         "no column text, the first row has: file_name, caption"},
        {"file_name;text\na.png;foggy\n", "the fields have to be separated by commas"},
        {"file_name\ttext\na.png\tfoggy\n", "the fields have to be separated by commas"},
        {"file_name,text\na.png\n", "line 2: 1 fields, the first row has 2"},
        {"file_name,text\n\na.png,red, green\n",
         "line 3: 3 fields, the first row has 2: a caption with commas has to stand in \" \""},
        {"file_name,text\na.png,x\na.png,\"y\n\n", "line 3: a quoted field that does not end"},
        {"file_name,text\na.png,\"x\ny\"\r\nno.png,z\n", "line 4: image no.png"},
        {"file_name,text\na.png,f\xfcr\n", "metadata.csv: byte 22 is not UTF-8"},
        {"\xff\xfe\x66", "metadata.csv: byte 0 is not UTF-8"},
    };
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        dataset_put(test, "metadata.csv", bad[i].rows);
        assert_refused(test->ctx, SARA_ERROR_INPUT, bad[i].text, dataset_scan(test));
    }
    dataset_put(test, "metadata.csv", "file_name , text\na.png, foggy\n");
    DATASET_ASSERT(test, "a.png:  foggy");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"night\"}");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "holds metadata.jsonl and metadata.csv",
                   dataset_scan(test));
}

/* Rows without anything, as spreadsheets leave them. */
static void test_empty_rows(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "b.png", "");
    dataset_put(test, "metadata.csv",
                ",\r\nfile_name,text\r\n,\r\na.png,one\r\n , \r\n\"\",\"\"\r\n,,,\r\nb.png,\r\n,");
    DATASET_ASSERT(test, "a.png: one", "b.png: ");
    dataset_put(test, "metadata.csv", "file_name,text\n,\na.png,one\n,\nno.png,two\n");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "line 5: image no.png", dataset_scan(test));
}

static void test_nul_bytes(void **state)
{
    static const char csv[] = "file_name,text\na.png,o\0ne\n";
    static const char jsonl[] = "{\"file_name\": \"a.png\", \"text\": \"o\0ne\"}\n";
    dataset_test *test = *state;
    char *path;
    dataset_put(test, "a.png", "");
    path = test_file(test->path, "metadata.csv", csv, sizeof(csv) - 1);
    assert_refused(test->ctx, SARA_ERROR_INPUT, "metadata.csv: byte 22 is a NUL byte",
                   dataset_scan(test));
    assert_int_equal(unlink(path), 0);
    free(path);
    free(test_file(test->path, "metadata.jsonl", jsonl, sizeof(jsonl) - 1));
    assert_refused(test->ctx, SARA_ERROR_INPUT, "metadata.jsonl: line 1: a NUL byte, which",
                   dataset_scan(test));
}

#define NFC "caf\xc3\xa9"
#define NFD "cafe\xcc\x81"

static void test_same_names(void **state)
{
    static const struct {
        const char *file, *row, *other; /* the row's name in JSON; NULL or another file */
    } same[] = {
        {NFD ".png", NFC ".png", NULL},
        {NFC ".png", NFD ".png", NULL},
        {NFD ".png", NFD ".png", NFC ".png"},
        {NFC ".png", NFC ".png", NFD ".png"},
        {NFD "/" NFD ".png", NFC "/" NFC ".png", NULL},
        {"img/a.png", "img\\\\a.png", NULL},
        {"img/a.png", "img\\\\a.png", "img/A.png"},
        {"img/" NFD ".png", "img\\\\" NFC ".png", NULL},
        {"img\\a.png", "img\\\\a.png", NULL},
        {"img\\a.png", "img\\\\a.png", "img/a.png"},
        {"img\\a.png", "img/a.png", NULL},
        {"a.png", " a.png ", NULL},
        {"a.png",
         "\xc2\xa0"
         "a.png\xc2\xa0",
         NULL},                                /* no-break space */
        {"a.png", "a.png \xe3\x80\x80", NULL}, /* ideographic space */
        {"a.png",
         "\xe2\x80\x8b"
         "a.png\xe2\x80\x8b\xef\xbb\xbf",
         NULL}, /* without width */
        {"a.png",
         "\xef\xbb\xbf \xe2\x80\xaf"
         "a.png",
         NULL},
        {"a\xc2\xa0z.png", "a\xc2\xa0z.png\xc2\x85", NULL},
        {"\xc2\xa0"
         "a.png",
         "\xc2\xa0"
         "a.png",
         "a.png"},
        {"a.png ", "a.png ", "a.png"},
        {"a.png", "./a.png", NULL},
        {"b/c.png", ".\\\\b\\\\.\\\\c.png", NULL},
        {"b/c.png", "b//c.png", NULL},
        {"\xea\xb0\x80.png", "\xe1\x84\x80\xe1\x85\xa1.png", NULL}, /* a syllable of Hangul */
    };
    for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
        char row[128], line[128];
        dataset_test *test;
        dataset_set_up((void **)&test);
        snprintf(row, sizeof(row), "{\"file_name\": \"%s\", \"text\": \"x\"}", same[i].row);
        snprintf(line, sizeof(line), "%s: x", same[i].file);
        dataset_put(test, same[i].file, "");
        if (same[i].other)
            dataset_put(test, same[i].other, "");
        dataset_put(test, "metadata.jsonl", row);
        DATASET_ASSERT(test, line);
        assert_int_equal(same[i].other && !strstr(same[i].other, ".png ") ? 1 : 0,
                         test->log && strstr(test->log, "without a row") ? 1 : 0);
        dataset_tear_down((void **)&test);
    }
    (void)state;
}

/* A caption file is found as an image is. */
static void test_same_names_of_captions(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, NFC ".png", "");
    dataset_put(test, NFD ".txt", "x");
    DATASET_ASSERT(test, NFC ".png: x");
    dataset_put(test, NFC ".txt", "y");
    DATASET_ASSERT(test, NFC ".png: y");
    dataset_assert_logged(test, "captions without an image: 1 (" NFD ".txt)");
}

/* Both files look like the row's name, and neither is it. */
static void test_ambiguous_names(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "\xc3\xa9" NFD ".png", "");
    dataset_put(test, "e\xcc\x81" NFC ".png", "");
    dataset_put(test, "metadata.csv", "file_name,text\n\xc3\xa9" NFC ".png,x\n");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "could be either of two files", dataset_scan(test));
}

static void test_nearest_names(void **state)
{
    static const struct {
        const char *row, *text;
    } near[] = {
        {"A.PNG", "image A.PNG: No such file or directory; the nearest name in "},
        {"A.PNG", " is a.png"},
        {"robin1.png", " is robin_1.png"},
        {"robin_1.jpg", " is robin_1.png"},
        {"zebra.png", "the nearest name in "},
        {"PHOTO.PNG", " is photo.png"}, /* capitals count less than a letter */
        {"IMG/x.png", "the nearest folder in "},
        {"IMG/x.png", " is img"},
        {"img/y.png", "/img is x.png"},
        {"empty/y.png", "there are no images in "},
        {"a.png/b.png", "the nearest folder in "},
        {"imgs\\x.png", " is img"},
    };
    dataset_test *test = *state;
    char row[128];
    dataset_put(test, "a.png", "");
    dataset_put(test, "robin_1.png", "");
    dataset_put(test, "robin1.png.txt", "");
    dataset_put(test, "photo.png", "");
    dataset_put(test, "PHOTO1.PNG", "");
    dataset_put(test, "img/x.png", "");
    dataset_put(test, "empty/x.txt", "");
    for (size_t i = 0; i < sizeof(near) / sizeof(*near); i++) {
        snprintf(row, sizeof(row), "file_name,text\n%s,x\n", near[i].row);
        dataset_put(test, "metadata.csv", row);
        assert_refused(test->ctx, SARA_ERROR_INPUT, near[i].text, dataset_scan(test));
    }
}

/* Of names that are as near the first in order; capitals from A to Z, put in at the beginning. */
static void test_equally_near_names(void **state)
{
    static const char *const near[][2] = {
        {"cat_2.png", " is cat_1.png"}, {"AZ0.png", " is az1.png"}, {"zzbird.png", " is bird.png"}};
    dataset_test *test = *state;
    char row[128];
    dataset_put(test, "az1.png", "");
    dataset_put(test, "azbixx.png", ""); /* three letters are others than those of zzbird.png */
    dataset_put(test, "bird.png", "");
    dataset_put(test, "cat_1.png", "");
    dataset_put(test, "cat_3.png", "");
    dataset_put(test, "xy_zzz1.png", "");
    for (size_t i = 0; i < sizeof(near) / sizeof(*near); i++) {
        snprintf(row, sizeof(row), "file_name,text\n%s,x\n", near[i][0]);
        dataset_put(test, "metadata.csv", row);
        assert_refused(test->ctx, SARA_ERROR_INPUT, near[i][1], dataset_scan(test));
    }
}

/* A metadata file of a folder below names files from there, as imagefolder reads it. */
static void test_metadata_below(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "one");
    dataset_put(test, "sub/b.png", "");
    dataset_put(test, "sub/c.png", "");
    dataset_put(test, "sub/metadata.csv", "file_name,text\nb.png,two\ndeep/d.png,three\n");
    dataset_put(test, "sub/deep/d.png", "");
    dataset_put(test, "sub/deep/e.png", "");
    DATASET_ASSERT(test, "a.png: one", "sub/b.png: two", "sub/deep/d.png: three");
    dataset_assert_logged(
        test, "not used: images without a row in the metadata: 2 (sub/c.png, sub/deep/e.png)");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"x\"}");
    DATASET_ASSERT(test, "a.png: x", "sub/b.png: two", "sub/deep/d.png: three");
    dataset_assert_logged(test, "captions in files, as there is metadata: 1 (a.txt)");
    dataset_put(test, "metadata.jsonl", "{\"file_name\": \"sub/b.png\", \"text\": \"x\"}");
    assert_refused(test->ctx, SARA_ERROR_INPUT,
                   "sub/metadata.csv: line 2 names an image again that the metadata of a folder "
                   "above names: sub/b.png",
                   dataset_scan(test));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATASET_TEST(test_rows),
        DATASET_TEST(test_column),
        DATASET_TEST(test_bad_rows),
        DATASET_TEST(test_names_that_lead_out),
        DATASET_TEST(test_csv_as_pandas),
        DATASET_TEST(test_bad_csv),
        DATASET_TEST(test_empty_rows),
        DATASET_TEST(test_nul_bytes),
        DATASET_TEST(test_same_names),
        DATASET_TEST(test_same_names_of_captions),
        DATASET_TEST(test_ambiguous_names),
        DATASET_TEST(test_nearest_names),
        DATASET_TEST(test_equally_near_names),
        DATASET_TEST(test_metadata_below),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
