/* Model folders whose parts are missing or do not go together. */
#include "support_pipeline.h"

#include <unistd.h>

static void refuse(test_pipe *pipe, const char *path, sara_status expected, const char *text)
{
    sara_model *model = NULL;
    assert_refused(pipe->ctx, expected, text, sara_model_load(pipe->ctx, &model, path, NULL));
    assert_null(model);
}

static void test_no_folder(void **state)
{
    test_pipe *pipe = *state;
    const char *file = test_path(pipe, "file");
    test_write(pipe, file, "x");
    refuse(pipe, NULL, SARA_ERROR_USAGE, "no model given");
    refuse(pipe, "", SARA_ERROR_USAGE, "no model given");
    refuse(pipe, test_path(pipe, "none"), SARA_ERROR_IO,
           "none: no such file or folder; sara reads local");
    refuse(pipe, file, SARA_ERROR_INPUT, "not safetensors");
    refuse(pipe, TEST_BASE "/unet", SARA_ERROR_INPUT, "take it alone with --unet-only");
}

static void test_index(void **state)
{
    static const char *const texts[] = {
        "[]",
        "3",
        "{",
        "",
        "{\"_class_name\": 3}",
        "{\"_class_name\": \"FluxPipeline\"}",
        "{\"_class_name\": \"PixArtAlphaPipeline\", \"transformer\": []}",
        "{\"_class_name\": \"KolorsPipeline\"}",
        "{\"_class_name\": \"StableDiffusionPipeline\", \"text_encoder_2\": [\"a\", \"B\"]}"};
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "model");
    const char *index = test_text(pipe, "%s/model_index.json", folder);
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        test_write(pipe, index, texts[i]);
        refuse(pipe, folder, SARA_ERROR_INPUT, "model_index.json");
    }
}

/* A variant or a folder of another model in the place of a part. */
static void test_disagreement(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "model");
    sara_model *model = test_model(pipe, folder, false);
    int width = model->parts[TEST_TEXT].network->info.text.hidden_size;
    sara_model_free(model);
    test_relink(pipe, folder, "unet", SARA_TEST_GOLDEN "/unet_sd1");
    refuse(pipe, folder, SARA_ERROR_INPUT,
           test_text(pipe, "text_encoder hidden_size %d, unet cross_attention_dim 40: they must",
                     width));
    test_relink(pipe, folder, "unet", TEST_BASE "/vae");
    refuse(pipe, folder, SARA_ERROR_INPUT, "unet/config.json");
}

/* A tokenizer folder in which the word with id 777 has another. */
static const char *moved_word(test_pipe *pipe, int id)
{
    static const char *const files[] = {"merges.txt", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    const char *words = test_text(pipe, "%s/words-%d", pipe->folder, id);
    char *text = NULL;
    size_t size;
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, words));
    for (size_t i = 0; i < 3; i++)
        assert_ok(pipe->ctx,
                  sara_file_copy(pipe->ctx, test_text(pipe, TEST_BASE "/tokenizer/%s", files[i]),
                                 test_text(pipe, "%s/%s", words, files[i])));
    assert_ok(pipe->ctx,
              sara_file_read(pipe->ctx, &text, &size, TEST_BASE "/tokenizer/vocab.json", 1 << 24));
    char *number = strstr(text, ": 777,");
    assert_non_null(number);
    *number = '\0';
    test_write(pipe, test_text(pipe, "%s/vocab.json", words),
               test_text(pipe, "%s: %d,%s", text, id, number + strlen(": 777,")));
    sara_free(pipe->ctx, text);
    return words;
}

/* A tokenizer with more words than the text encoder has embeddings, which are 3208. */
static void test_vocabulary(void **state)
{
    static const int ids[] = {60000, 3208};
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "model");
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
        test_relink(pipe, folder, "tokenizer", moved_word(pipe, ids[i]));
        refuse(pipe, folder, SARA_ERROR_INPUT,
               test_text(pipe, "vocab_size 3208, the tokenizer has ids up to %d", ids[i]));
    }
}

static void test_missing(void **state)
{
    static const char *const components[] = {"unet", "vae", "text_encoder", "tokenizer",
                                             "scheduler"};
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "model");
    for (size_t i = 0; i < 5; i++) {
        const char *path = test_text(pipe, "%s/%s", folder, components[i]);
        assert_int_equal(unlink(path), 0);
        sara_model *model = NULL;
        sara_status status = sara_model_load(pipe->ctx, &model, folder, NULL);
        assert_true(status == SARA_ERROR_IO || status == SARA_ERROR_INPUT);
        assert_null(model);
        test_assert_contains(sara_context_error(pipe->ctx), path, __FILE__, __LINE__);
        assert_int_equal(symlink(test_text(pipe, TEST_BASE "/%s", components[i]), path), 0);
    }
    sara_model_free(test_model(pipe, folder, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_no_folder),  TEST_CASE(test_index),   TEST_CASE(test_disagreement),
        TEST_CASE(test_vocabulary), TEST_CASE(test_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
