/* Folders below the data set's: repeats as kohya has them, links, and what is passed over. */
#include "support_dataset.h"

#include <stdlib.h>
#include <string.h>

static void test_repeats(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "10_sks_dog/a.png", "");
    dataset_put(test, "10_sks_dog/b.png", "");
    dataset_put(test, "10_sks_dog/b.txt", "a dog in the snow");
    dataset_put(test, "10_sks_dog/more/3_c/d.png", "");
    dataset_put(test, "1_person/c.jpg", "");
    dataset_put(test, "1_person/c.caption", "someone");
    DATASET_ASSERT(test, "10_sks_dog/a.png: sks_dog x10", "10_sks_dog/b.png: a dog in the snow x10",
                   "10_sks_dog/more/3_c/d.png: sks_dog x10", "1_person/c.jpg: someone");
    dataset_assert_logged(test,
                          "images repeated in an epoch: 10_sks_dog, 10 times each: 2 (10_sks");
    assert_null(strstr(test->log, "not used"));
}

/* What kohya leaves out beside such folders is named. */
static void test_beside_repeats(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "5_ink/a.png", "");
    dataset_put(test, "root.png", "");
    dataset_put(test, "root.txt", "x");
    dataset_put(test, "old/b.png", "");
    dataset_put(test, "10/b.png", "");
    dataset_put(test, "0_off/c.png", "");
    dataset_put(test, "-1_x/c.png", "");
    dataset_put(test, "x_5/c.png", "");
    DATASET_ASSERT(test, "5_ink/a.png: ink x5");
    dataset_assert_logged(
        test, "images beside folders with repeats in their names: 5 (root.png, -1_x/c.png, 10/b");
    dataset_assert_logged(test, "warning: ");
    dataset_assert_logged(test, "0 repeats: 1 (0_off)");
    dataset_assert_logged(
        test, "no repeats in the name, beside folders with repeats: 4 (-1_x, 10, old, ...)");
}

/* A warning says how many images are left out, of all folders below; a loop there is no harm. */
static void test_images_left_out(void **state)
{
    dataset_test *test = *state;
    char *warning;
    dataset_put(test, "5_ink/a.png", "");
    dataset_put(test, "x/a.png", "");
    dataset_put(test, "x/deep/3_b/a.png", "");
    dataset_put(test, "x/deep/a.webp", "");
    dataset_put(test, "x/.hidden/a.png", "");
    dataset_put(test, "x/sd/model_index.json", "");
    dataset_put(test, "x/sd/a.png", "");
    dataset_link(test, "x/loop", "..");
    DATASET_ASSERT(test, "5_ink/a.png: ink x5");
    dataset_assert_logged(test, "with repeats: 1 (x)");
    warning = strstr(test->log, "warning: ");
    assert_non_null(warning);
    assert_non_null(strstr(warning, "not used: images beside folders with repeats in their names: "
                                    "3 (x/a.png, x/deep/3_b/a.png, x/deep/a.webp)"));
    for (const char *const *kind =
             (const char *const[]){".a", ".b", ".c", ".d", ".e", ".f", ".g", ".h", NULL};
         *kind; kind++) {
        char name[8];
        snprintf(name, sizeof(name), "k%s", *kind);
        dataset_put(test, name, "");
    }
    DATASET_ASSERT(test, "5_ink/a.png: ink x5");
    dataset_assert_logged(test, "images beside folders with repeats in their names: 3 (x/a.png");
}

/* Numbers that are no repeats: days; folders without images; nothing behind the bar. */
static void test_other_numbers(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "20231105_trip/a.png", "");
    dataset_put(test, "20231105_trip/a.txt", "one");
    dataset_put(test, "10000_x/a.png", "");
    dataset_put(test, "10000_x/a.txt", "two");
    dataset_put(test, "3_notes/a.md", "");
    dataset_put(test, "b.png", "");
    dataset_put(test, "b.txt", "three");
    DATASET_ASSERT(test, "b.png: three", "10000_x/a.png: two", "20231105_trip/a.png: one");
    dataset_put(test, "9999_/c.png", "");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "9999_: image c.png has no caption",
                   dataset_scan(test));
    dataset_put(test, "9999_/c.txt", "four");
    DATASET_ASSERT(test, "9999_/c.png: four x9999");
}

static void test_folders_below(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "z.png", "");
    dataset_put(test, "z.txt", "four");
    dataset_put(test, "a/b/c.png", "");
    dataset_put(test, "a/b/c.txt", "two");
    dataset_put(test, "a/x.PNG", "");
    dataset_put(test, "a/x.caption", "one");
    dataset_put(test, "train/2_dog/d.webp", "");
    dataset_put(test, "empty/of/all", "");
    DATASET_ASSERT(test, "z.png: four", "a/x.PNG: one", "a/b/c.png: two",
                   "train/2_dog/d.webp: dog x2");
}

static void test_passed_over(void **state)
{
    static const char *const files[] = {
        ".thumbs/a.png",      "__MACOSX/a.png",
        "@eaDir/x.png/a.jpg", "out/a.png",
        "run1/log.jsonl",     "run1/samples/a.png",
        "run2/log.jsonl",     "run2/checkpoint-10/b.png",
        "run2/a.png",         "run3/adapter.safetensors",
        "run3/samples/a.png", "sd/model_index.json",
        "sd/a.png",           "lora/last.safetensors",
        "deep/out2/a.png",
    };
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "x");
    dataset_put(test, "ours/a.png", "");
    dataset_put(test, "ours/a.txt", "y");
    dataset_put(test, "ours/a.safetensors", "");
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        dataset_put(test, files[i], "");
    char *output = dataset_path(test, "./out/");
    test->options.output_dir = output;
    assert_refused(test->ctx, SARA_ERROR_INPUT, "deep/out2: image a.png has no caption",
                   dataset_scan(test));
    dataset_put(test, "deep/out2/log.jsonl", "");
    dataset_put(test, "deep/out2/samples/a.png", "");
    DATASET_ASSERT(test, "a.png: x", "ours/a.png: y");
    dataset_assert_logged(test, "hidden: 3 (.thumbs, @eaDir, __MACOSX)");
    dataset_assert_logged(test, "the output folder: 1 (out)");
    dataset_assert_logged(test, "a run: 4 (deep/out2, run1, run2, ...)");
    dataset_assert_logged(test, "a model: 1 (sd)");
    dataset_assert_logged(test, "not used: .safetensors: 2 (lora/last.safetensors, ours/a");
    free(output);
}

/* Weights that lie about make no model of the images beside and below them. */
static void test_stray_weights(void **state)
{
    static const char *const weights[] = {"lora.safetensors", "a.bin", "b.ckpt"};
    for (size_t i = 0; i < sizeof(weights) / sizeof(*weights); i++) {
        char text[64];
        dataset_test *test;
        dataset_set_up((void **)&test);
        dataset_put(test, weights[i], "");
        dataset_put(test, "10_cat/a.png", "");
        DATASET_ASSERT(test, "10_cat/a.png: cat x10");
        snprintf(text, sizeof(text), ": 1 (%s)", weights[i]);
        dataset_assert_logged(test, "not used: ");
        dataset_assert_logged(test, text);
        dataset_tear_down((void **)&test);
    }
    dataset_test *test = *state;
    test->options.instance_prompt = "x";
    dataset_put(test, "a.png", "");
    dataset_put(test, "sub/lora.safetensors", "");
    dataset_put(test, "sub/deep/b.png", "");
    DATASET_ASSERT(test, "a.png: x", "sub/deep/b.png: x");
    dataset_assert_logged(test, "not used: .safetensors: 1 (sub/lora.safetensors)");
}

static void test_weights_alone(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "lora.safetensors", "");
    assert_refused(test->ctx, SARA_ERROR_INPUT,
                   "no images in the folder: expected .png, .jpg, .jpeg or .webp files, here or in "
                   "folders below; what lies there: .safetensors: 1 (lora.safetensors)",
                   dataset_scan(test));
}

/* What a run left among images is passed over, and they are read. */
static void test_marks_of_a_run_among_images(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "checkpoint-5/b.png", "");
    dataset_put(test, "samples/s.png", "");
    dataset_put(test, "10_cat/a.png", "");
    dataset_put(test, "10_cat/adapter.safetensors", "");
    dataset_put(test, "10_cat/samples/s.png", "");
    dataset_put(test, "10_cat/checkpoint-7/s.png", "");
    DATASET_ASSERT(test, "10_cat/a.png: cat x10");
    dataset_assert_logged(test, "of a run: 4 (10_cat/checkpoint-7, 10_cat/samples, checkpoint-5");
    dataset_assert_logged(test, ".safetensors: 1 (10_cat/adapter.safetensors)");
    test->options.instance_prompt = "x";
    dataset_put(test, "10_cat/model_index.json", "");
    dataset_put(test, "sub/a.png", "");
    dataset_put(test, "sub/checkpoint-5/c.png", "");
    DATASET_ASSERT(test, "sub/a.png: x");
    dataset_assert_logged(test, "a model: 1 (10_cat)");
}

/* Samples are a folder as any other where nothing tells of a run. */
static void test_samples_without_a_run(void **state)
{
    dataset_test *test = *state;
    test->options.instance_prompt = "x";
    dataset_put(test, "samples/a.png", "");
    DATASET_ASSERT(test, "samples/a.png: x");
}

/* The folder of a run or a model, given for that of images. */
static void test_given_a_run(void **state)
{
    dataset_test *test = *state;
    test->options.instance_prompt = "x";
    dataset_put(test, "adapter.safetensors", "");
    dataset_put(test, "samples/a.png", "");
    assert_refused(test->ctx, SARA_ERROR_INPUT, "holds a run, expected a folder of images",
                   dataset_scan(test));
    dataset_put(test, "b.png", "");
    DATASET_ASSERT(test, "b.png: x");
    dataset_assert_logged(test, "of a run: 1 (samples)");
    dataset_put(test, "log.jsonl", "");
    DATASET_ASSERT(test, "b.png: x");
}

static void test_unused_files(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "a.png", "");
    dataset_put(test, "a.txt", "x");
    dataset_put(test, "a_sd.npz", "");
    dataset_put(test, "b_sd.npz", "");
    dataset_put(test, "c_sd.npz", "");
    dataset_put(test, "sub/d_sd.npz", "");
    dataset_put(test, "z.GIF", "");
    dataset_put(test, "y.bmp", "");
    dataset_put(test, "lost.txt", "");
    dataset_put(test, "lost.caption", "");
    dataset_put(test, ".hidden.png", "");
    dataset_put(test, "metadata.parquet", "");
    dataset_put(test, "README", "");
    DATASET_ASSERT(test, "a.png: x");
    dataset_assert_logged(test, "warning: ");
    dataset_assert_logged(test, ".npz: 4 (a_sd.npz, b_sd.npz, c_sd.npz, ...)");
    dataset_assert_logged(test, "images to be converted to PNG, JPEG or WebP: 2 (y.bmp, z.GIF)");
    dataset_assert_logged(test, "captions without an image: 2 (lost.caption, lost.txt)");
    dataset_assert_logged(test, "hidden images: 1 (.hidden.png)");
    dataset_assert_logged(test, ".parquet: 1 (metadata.parquet)");
    dataset_assert_logged(test, "other files: 1 (README)");
    assert_ptr_equal(strchr(test->log, '\n'), test->log + strlen(test->log) - 1);
}

static void test_nothing_but_others(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "data.zip", "");
    dataset_put(test, "a.gif", "");
    dataset_put(test, ".git/b.png", "");
    assert_refused(test->ctx, SARA_ERROR_INPUT,
                   "no images in the folder: expected .png, .jpg, .jpeg or .webp files, here or in "
                   "folders below; what lies there: images to be converted to PNG, JPEG or WebP: 1 "
                   "(a.gif); .zip: 1 (data.zip); folders passed over: hidden: 1 (.git)",
                   dataset_scan(test));
}

/* Links are followed wherever they lead, as in a hub's cache. */
static void test_links(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "cache/blobs/11", "");
    dataset_put(test, "cache/blobs/22",
                "{\"file_name\": \"x.png\", \"text\": \"one\"}\n"
                "{\"file_name\": \"in/y.png\", \"text\": \"two\"}\n"
                "{\"file_name\": \"x2.png\", \"text\": \"three\"}\n");
    dataset_put(test, "cache/snapshots/abc/in/.keep", "");
    dataset_link(test, "cache/snapshots/abc/x.png", "../../blobs/11");
    dataset_link(test, "cache/snapshots/abc/x2.png", "../../blobs/11");
    dataset_link(test, "cache/snapshots/abc/in/y.png", "../../../blobs/11");
    dataset_link(test, "cache/snapshots/abc/metadata.jsonl", "../../blobs/22");
    char *folder = dataset_path(test, "cache/snapshots/abc");
    test->options.folder = folder;
    DATASET_ASSERT(test, "cache/snapshots/abc/x.png: one", "cache/snapshots/abc/in/y.png: two",
                   "cache/snapshots/abc/x2.png: three");
    assert_null(test->log);
    free(folder);
}

static void test_linked_folders(void **state)
{
    dataset_test *test = *state;
    dataset_put(test, "pictures/a.png", "");
    dataset_put(test, "pictures/b.png", "");
    dataset_put(test, "data/b.txt", "beside");
    dataset_link(test, "data/b.png", "../pictures/b.png");
    dataset_link(test, "data/4_ink", "../pictures");
    char *folder = dataset_path(test, "data");
    test->options.folder = folder;
    DATASET_ASSERT(test, "data/4_ink/a.png: ink x4", "data/4_ink/b.png: ink x4");
    dataset_put(test, "data/metadata.csv", "file_name,text\nb.png,one\n4_ink/b.png,two\n");
    DATASET_ASSERT(test, "data/b.png: one", "data/4_ink/b.png: two");
    free(folder);
}

static void test_loops(void **state)
{
    static const struct {
        const char *link, *target, *text;
    } bad[] = {
        {"loop", ".", "loop: a link that leads back to the folder "},
        {"sub/loop", "..", "sub/loop: a link that leads back to the folder "},
        {"c.png", "c.png", "c.png: links that lead in a circle"},
        {"c", "sub/../c", "c: links that lead in a circle"},
        {"c.png", "nowhere", "image c.png is a link to nowhere: No such file or directory"},
        {"c.png", "/dev/null", "image c.png is not a regular file"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        dataset_test *test;
        dataset_set_up((void **)&test);
        test->options.instance_prompt = "x";
        dataset_put(test, "a.png", "");
        dataset_put(test, "sub/b.png", "");
        dataset_link(test, bad[i].link, bad[i].target);
        assert_refused(test->ctx, SARA_ERROR_INPUT, bad[i].text, dataset_scan(test));
        dataset_tear_down((void **)&test);
    }
}

/* A loop is no harm where nobody goes: in a hidden folder. */
static void test_loop_in_a_hidden_folder(void **state)
{
    dataset_test *test = *state;
    test->options.instance_prompt = "x";
    dataset_put(test, "a.png", "");
    dataset_put(test, ".cache/x", "");
    dataset_link(test, ".cache/loop", "..");
    DATASET_ASSERT(test, "a.png: x");
}

static void put_at_depth(const dataset_test *test, int depth)
{
    char name[200] = "";
    for (int i = 0; i < depth; i++)
        strcat(name, "d/");
    strcat(name, "a.png");
    dataset_put(test, name, "");
}

static void test_too_deep(void **state)
{
    dataset_test *test = *state;
    test->options.instance_prompt = "x";
    put_at_depth(test, 64);
    assert_ok(test->ctx, dataset_scan(test));
    assert_int_equal(test->data.count, 1);
    put_at_depth(test, 65);
    assert_refused(test->ctx, SARA_ERROR_INPUT, "folders more than 64 deep", dataset_scan(test));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATASET_TEST(test_images_left_out),
        DATASET_TEST(test_repeats),
        DATASET_TEST(test_beside_repeats),
        DATASET_TEST(test_other_numbers),
        DATASET_TEST(test_folders_below),
        DATASET_TEST(test_passed_over),
        DATASET_TEST(test_given_a_run),
        DATASET_TEST(test_unused_files),
        DATASET_TEST(test_nothing_but_others),
        DATASET_TEST(test_links),
        DATASET_TEST(test_linked_folders),
        DATASET_TEST(test_loops),
        DATASET_TEST(test_loop_in_a_hidden_folder),
        DATASET_TEST(test_too_deep),
        DATASET_TEST(test_stray_weights),
        DATASET_TEST(test_weights_alone),
        DATASET_TEST(test_marks_of_a_run_among_images),
        DATASET_TEST(test_samples_without_a_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
