/* Captions that vary: which of them are encoded ahead, and that an interruption is heard there. */
#include "support_train.h"

#include "train/dataset_cache.h"

#define IMAGES 4
#define BATCH  2

/* Eight tags in any order: hardly two of a few dozen captions are the same. */
static void use_tags(test_run *run)
{
    test_run_take_images(run, IMAGES);
    run->options.instance_prompt = "one, two, red, blue, cat, dog, old, new";
    run->options.shuffle_caption = true;
    run->options.train_batch_size = BATCH;
    run->options.gradient_accumulation_steps = 2;
    run->options.center_crop = true;
    run->options.cache_text_encoder_outputs_to_disk = true;
    run->options.cache_dir = test_text(run, "%s/kept", run->folder);
}

/* Files of states in the cache, which begins anew. */
static size_t count_encoded(test_run *run)
{
    const char *folder = test_text(run, "%s/states", run->options.cache_dir);
    char **names = NULL;
    size_t count = 0, files = 0;
    assert_ok(run->ctx, sara_directory_list(run->ctx, &names, &count, folder));
    for (size_t i = 0; i < count; i++)
        files += strstr(names[i], ".safetensors") != NULL;
    sara_directory_free(run->ctx, names, count);
    assert_ok(run->ctx, sara_directory_remove(run->ctx, run->options.cache_dir));
    return files;
}

/* Of a run's steps no caption too many, when it goes on neither. */
static void test_no_more_than_the_run_has(void **state)
{
    test_run *run = *state;
    use_tags(run);
    run->options.max_train_steps = 5;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(count_encoded(run), 5 * 2 * BATCH);
    test_run_output(run, "going-on");
    run->interrupt_at = 3;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 3", test_run_train(run));
    assert_int_equal(count_encoded(run), 5 * 2 * BATCH);
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(count_encoded(run), 2 * 2 * BATCH);
}

/* What entries are chosen by comes to more micro-batches than the steps: encoded once. */
static void test_chosen_by_gradients(void **state)
{
    test_run *run = *state;
    use_tags(run);
    run->options.max_train_steps = 2;
    run->options.mask = "gradient";
    run->options.mask_steps = 9;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(count_encoded(run), 9 * BATCH);
}

static void test_interrupted_before(void **state)
{
    test_run *run = *state;
    use_tags(run);
    run->interrupt_on = "captions' states found, 0 made"; /* of those that never vary */
    assert_refused(run->ctx, SARA_INTERRUPTED, "interrupted before the first step",
                   test_run_train(run));
    assert_int_equal(count_encoded(run), 0);
    run->interrupt_on = NULL;
    assert_ok(run->ctx, test_run_train(run));
}

static void take(test_run *run, sara_dataset_cache *cache, const sara_batch *batch, int64_t index)
{
    assert_ok(run->ctx, sara_dataset_cache_get(cache, batch, 0, SARA_DATASET_INSTANCE, index));
}

/* In the middle of a step what it needs is encoded, no more; and what it needs is the same. */
static void test_interrupted_within(void **state)
{
    test_run *run = *state;
    sara_dataset_cache *cache = NULL;
    sara_model *model = NULL;
    float *whole;
    use_tags(run);
    run->options.cache_text_encoder_outputs_to_disk = false;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &cache, model, &run->options));
    assert_ok(run->ctx, sara_dataset_cache_fill(cache, 2, 8));
    assert_true(cache->stretch_first == 2 && cache->stretch_end == 8);
    assert_int_equal(cache->texts.stretch.count, 6 * BATCH);
    sara_batch batch = sara_dataset_cache_shape(cache, SARA_DATASET_INSTANCE, 0);
    assert_ok(run->ctx, sara_batch_alloc(run->ctx, &batch));
    const sara_tensor *states = &batch.condition[SARA_CONDITION_STATES];
    const size_t count = (size_t)sara_shape_count(&states->shape);
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &whole, count, sizeof(*whole)));
    take(run, cache, &batch, 1);
    assert_true(cache->stretch_first == 1 && cache->stretch_end == 8);
    memcpy(whole, states->data, count * sizeof(*whole));
    take(run, cache, &batch, 9); /* steps were skipped: behind the end */
    assert_true(cache->stretch_first == 9 && cache->stretch_end == 10);
    sara_context_interrupt(run->ctx);
    take(run, cache, &batch, 1);
    assert_true(cache->stretch_first == 1 && cache->stretch_end == 2);
    assert_memory_equal(whole, states->data, count * sizeof(*whole));
    size_t encoded = 0;
    for (size_t i = 0; i < cache->texts.stretch.count; i++)
        encoded += cache->texts.stretch.states[i].states != NULL;
    assert_int_equal(encoded, BATCH);
    sara_interrupt_clear(run->ctx);
    sara_batch_clear(run->ctx, &batch);
    sara_dataset_cache_free(cache);
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_no_more_than_the_run_has),
        TEST_CASE(test_chosen_by_gradients),
        TEST_CASE(test_interrupted_before),
        TEST_CASE(test_interrupted_within),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
