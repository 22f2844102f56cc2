/* Embeddings in validation prompts: counted in the plan, and read once, before training. */
#include "support_train.h"

#include <unistd.h>

#define VECTORS 20
#define WIDTH   128 /* of the base's text encoder */

static void put_embedding(test_run *run, const char *path)
{
    static const float values[VECTORS * WIDTH] = {1};
    const sara_tensor_source source = {"emb_params", SARA_F32, sara_shape2(VECTORS, WIDTH), values};
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, &source, 1, NULL, 0));
}

static void test_kept(void **state)
{
    test_run *run = *state;
    char *folder = test_folder(), *path = NULL;
    sara_model *model = NULL;
    int64_t length;
    assert_ok(run->ctx, sara_path_join(run->ctx, &path, folder, "toy.safetensors"));
    put_embedding(run, path);
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    run->options.validation_prompts[0] = "a toy, toy, toy";
    run->options.validation_prompt_count = 1;
    run->options.long_prompt = true;
    run->options.embedding_dir = folder;
    assert_ok(run->ctx, sara_run_prompt_length(run->ctx, &length, model, &run->options));
    assert_int_equal(length, 96); /* each in a chunk of 30 */
    assert_ok(run->ctx, sara_run_check_prompts(run->ctx, model, &run->options));
    assert_int_equal(unlink(path), 0);
    assert_ok(run->ctx, sara_run_encode_prompts(run->ctx, model, &run->options, NULL, NULL));
    assert_int_equal(model->prompt_count, 2);
    assert_int_equal(model->prompts[1].states.length, 96);
    sara_model_free(model);
    sara_free(run->ctx, path);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
