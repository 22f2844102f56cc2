/* --mask: which entries a run trains, what its adapter says of them, and going on. */
#include "support_train.h"

#include <math.h>
#include <stdlib.h>

static const char *const others[] = {"largest", "random", "gradient", "lift"};

static void use_mask(test_run *run, const char *mask)
{
    run->options.mask = mask;
    run->options.lambda_rank = 0; /* the replay names matrices that not all masks train */
    run->options.max_train_steps = 4;
}

/* ------------------------------------------------------------------------------------- PyTorch */

static int64_t index_of(const sara_params *params, const sara_adapter_entry *entry)
{
    int64_t first = 0;
    size_t i = 0;
    while (strcmp(params->items[i].name, entry->name) != 0)
        first += sara_shape_count(&params->items[i++].value.shape);
    return first;
}

static void test_gradient(void **state)
{
    test_run *run = *state;
    sara_safetensors *file = test_open(run->ctx, SARA_TEST_GOLDEN "/gradient_mask.safetensors");
    const sara_model_options options = {.unet_only = true};
    sara_tensor chosen = {0};
    sara_shape any = sara_shape1(-1);
    sara_model *model = NULL;
    sara_adapter adapter;
    use_mask(run, "gradient");
    run->options.trainable = sara_safetensors_metadata(file, "trainable");
    run->options.mask_steps = atoi(sara_safetensors_metadata(file, "mask_steps"));
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "choosing entries by the gradients of 7 micro-batches"));
    assert_non_null(strstr(run->log, "for choosing entries"));
    test_run_adapter(run, &adapter);
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    assert_ok(run->ctx, sara_safetensors_load(file, &chosen, "chosen", SARA_I32, &any));
    const int32_t *expected = chosen.data;
    for (size_t i = 0; i < adapter.count; i++) {
        int64_t first = index_of(&model->denoiser->params, &adapter.entries[i]);
        for (size_t k = 0; k < adapter.entries[i].count; k++)
            assert_int_equal(first + adapter.entries[i].positions[k], *expected++);
    }
    assert_ptr_equal(expected, (const int32_t *)chosen.data + sara_shape_count(&chosen.shape));
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.mask_steps"), "7");
    sara_tensor_free(run->ctx, &chosen);
    sara_adapter_free(&adapter);
    sara_model_free(model);
    sara_safetensors_close(file);
}

/* ------------------------------------------------------------------------------------ the runs */

/* The budget's threshold gives number and learning rate; the adapter has the mask instead. */
static void test_budget(void **state)
{
    test_run *run = *state;
    sara_train_result smallest, result;
    sara_adapter adapter;
    use_mask(run, "smallest");
    run->options.threshold = 0.004;
    assert_ok(run->ctx, sara_train(run->ctx, &smallest, &run->options));
    for (size_t i = 0; i < 4; i++) {
        use_mask(run, others[i]);
        test_run_output(run, others[i]);
        test_run_forget_log(run);
        assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
        assert_int_equal(result.selected, smallest.selected);
        assert_true(result.learning_rate == smallest.learning_rate);
        assert_true(isnan(result.threshold) && smallest.threshold == 0.004);
        assert_non_null(strstr(run->log, "no reselection"));
        assert_int_equal(test_run_events(run, "reselect"), 0);
        test_run_adapter(run, &adapter);
        assert_string_equal(sara_adapter_metadata(&adapter, "sara.mask"), others[i]);
        assert_null(sara_adapter_metadata(&adapter, "sara.threshold"));
        assert_null(sara_adapter_metadata(&adapter, "sara.trainable"));
        assert_int_equal(sara_adapter_metadata(&adapter, "sara.rank") != NULL,
                         strcmp(others[i], "lift") == 0);
        sara_adapter_free(&adapter);
    }
}

/* As in earlier versions. */
static void test_smallest_is_unnamed(void **state)
{
    test_run *run = *state;
    sara_adapter adapter;
    use_mask(run, "smallest");
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &adapter);
    assert_null(sara_adapter_metadata(&adapter, "sara.mask"));
    assert_null(sara_adapter_metadata(&adapter, "sara.mask_steps"));
    assert_null(sara_adapter_metadata(&adapter, "sara.rank"));
    sara_adapter_free(&adapter);
}

/* ------------------------------------------------------------------------------------ going on */

static void test_resume(void **state)
{
    test_run *run = *state;
    for (size_t i = 0; i < 4; i++) {
        run->options.resume_from_checkpoint = NULL;
        use_mask(run, others[i]);
        test_run_output(run, others[i]);
        assert_ok(run->ctx, test_run_train(run));
        const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
        test_run_output(run, test_text(run, "cut-%s", others[i]));
        for (int64_t step = 1; step < 4; step++) {
            run->interrupt_at = step;
            assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
            run->options.resume_from_checkpoint = "latest";
        }
        run->interrupt_at = -1;
        assert_ok(run->ctx, test_run_train(run));
        assert_null(strstr(run->log, "choosing entries by"));
        assert_string_equal(test_run_sha256(run), sha256);
        assert_string_equal(test_run_lines(run), lines);
    }
}

static void test_resume_refused(void **state)
{
    test_run *run = *state;
    use_mask(run, "random");
    run->interrupt_at = 2;
    assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    run->options.trainable = "3%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has selected = ", test_run_train(run));
    run->options.trainable = NULL;
    run->options.mask = "largest";
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "the run has mask = \"random\", now it is \"largest\"", test_run_train(run));
    run->options.mask = "smallest";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has mask = \"random\", now it is \"sma",
                   test_run_train(run));
}

/* Of lift too, also where the budget is more than matrices have. */
static void test_resume_lift(void **state)
{
    test_run *run = *state;
    use_mask(run, "lift");
    run->options.rank = 2;
    run->options.learning_rate = 1e-4;
    run->options.max_train_steps = 2;
    for (int i = 0; i < 2; i++) {
        run->options.trainable = i == 0 ? NULL : "100%";
        run->options.resume_from_checkpoint = NULL;
        test_run_output(run, i == 0 ? "default" : "all");
        run->interrupt_at = 1;
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->interrupt_at = -1;
        run->options.resume_from_checkpoint = "latest";
        run->options.trainable = i == 0 ? "3%" : "50%";
        assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has selected = ", test_run_train(run));
        run->options.trainable = i == 0 ? NULL : "100%";
        assert_ok(run->ctx, test_run_train(run));
    }
}

static void test_gradient_refused(void **state)
{
    test_run *run = *state;
    static const int order[] = {-1, -2, -3, -4};
    use_mask(run, "gradient");
    run->options.mask_steps = 11;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--mask_steps 11: ", test_run_train(run));
    run->options.mask_steps = 0;
    run->options.replay = test_run_replay(run, "nan.safetensors", order, 4, false);
    assert_refused(run->ctx, SARA_ERROR_DIVERGED, "no loss of 4 micro-batches is finite",
                   test_run_train(run));
}

/* Before anything was trained: the run begins anew. */
static void test_interrupted_before(void **state)
{
    test_run *run = *state;
    use_mask(run, "gradient");
    run->interrupt_on = "choosing entries by";
    assert_refused(run->ctx, SARA_INTERRUPTED, "before the first step", test_run_train(run));
    run->interrupt_on = NULL;
    assert_ok(run->ctx, test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_gradient),
        TEST_CASE(test_budget),
        TEST_CASE(test_smallest_is_unnamed),
        TEST_CASE(test_resume),
        TEST_CASE(test_resume_refused),
        TEST_TINY(test_resume_lift),
        TEST_CASE(test_gradient_refused),
        TEST_CASE(test_interrupted_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
