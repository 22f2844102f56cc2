#include "support_recorded.h"

#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>

sara_safetensors *test_recorded_open(test_run *run, const char *method, const char *kind)
{
    static const char *const names[] = {"learning_rate",   "lr_scheduler", "max_grad_norm",
                                        "max_train_steps", "adam_epsilon", "adam_weight_decay",
                                        "prediction_type", "rank",         "seed",
                                        "trainable",       "ltsft_steps"};
    sara_safetensors *file =
        test_open(run->ctx, test_text(run, "%s/%s_%s.safetensors", SARA_TEST_GOLDEN, method, kind));
    run->options.unet_only = test_text(run, "%s/unet_%s", SARA_TEST_GOLDEN, kind);
    run->options.replay = test_text(run, "%s/train_%s.safetensors", SARA_TEST_GOLDEN, kind);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *value = sara_safetensors_metadata(file, names[i]);
        if (value)
            assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, names[i],
                                                       test_text(run, "%s", value)));
    }
    return file;
}

static void check_column(test_run *run, const sara_safetensors *file, const char *field,
                         const char *recorded, double tolerance)
{
    double values[TEST_REPLAY_STEPS + 1];
    size_t count;
    float *expected = test_load_f32(run->ctx, file, recorded, &count);
    assert_int_equal(count, TEST_REPLAY_STEPS);
    assert_int_equal(test_run_column(run, values, TEST_REPLAY_STEPS + 1, field), count);
    for (size_t i = 0; i < count; i++)
        assert_close(fabs(values[i] / (double)expected[i] - 1), tolerance, field);
    sara_free(run->ctx, expected);
}

void test_recorded_losses(test_run *run, const sara_safetensors *file)
{
    check_column(run, file, "loss", "losses", 1e-5);
    check_column(run, file, "grad_norm", "grad_norms", 1e-4);
}

void test_recorded_values(test_run *run, const sara_safetensors *file, const char *from,
                          const char *result, double tolerance)
{
    sara_safetensors *base = test_open(run->ctx, from), *tuned = test_open(run->ctx, result);
    size_t stride = (size_t)atoi(sara_safetensors_metadata(file, "stride")), entries, count;
    double error = 0, change = 0;
    assert_int_equal(sara_safetensors_count(tuned), sara_safetensors_count(base));
    for (size_t i = 0; i < sara_safetensors_count(base); i++) {
        const char *name = sara_safetensors_at(base, i)->name;
        float *before = test_load_f32(run->ctx, base, name, &entries);
        float *now = test_load_f32(run->ctx, tuned, name, &entries);
        float *after = test_load_f32(run->ctx, file, test_text(run, "after.%s", name), &count);
        assert_int_equal(count, (entries + stride - 1) / stride);
        for (size_t k = 0; k < count; k++) {
            error += pow((double)now[k * stride] - (double)after[k], 2);
            change += pow((double)after[k] - (double)before[k * stride], 2);
        }
        sara_free(run->ctx, before);
        sara_free(run->ctx, now);
        sara_free(run->ctx, after);
    }
    assert_close(sqrt(error / change), tolerance, "values after the last step");
    print_message("relative error of the change %.2g\n", sqrt(error / change));
    sara_safetensors_close(base);
    sara_safetensors_close(tuned);
}

static void parameters_hash(trainer *t, char sha256[65])
{
    sara_base base;
    assert_ok(t->ctx, sara_params_base(t->ctx, &base, &t->model->denoiser->params));
    memcpy(sha256, base.sha256, 65);
}

void test_recorded_frozen(test_run *run)
{
    trainer t = {.ctx = run->ctx};
    char before[65], after[65];
    sara_step_report report;
    double loss, lr;
    assert_ok(run->ctx, sara_trainer_open(&t, &run->options));
    parameters_hash(&t, before);
    assert_ok(run->ctx, sara_trainer_step(&t, &loss, &report, &lr));
    assert_ok(run->ctx, sara_trainer_step(&t, &loss, &report, &lr));
    parameters_hash(&t, after);
    assert_string_equal(before, after);
    for (size_t i = 0; i < t.model->denoiser->params.count; i++)
        assert_int_equal(t.model->denoiser->params.items[i].want, SARA_GRAD_NONE);
    sara_trainer_close(&t);
    test_run_output(run, "kept");
    assert_ok(run->ctx, test_run_train(run));
    const char *kept = test_run_sha256(run);
    run->options.gradient_checkpointing = true;
    test_run_output(run, "again");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), kept);
}
