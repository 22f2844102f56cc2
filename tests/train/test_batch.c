/* Micro-batches of unlike shapes, the weights of samples, and latents of other ranks. */
#include "support_train.h"

#include "family/mixer.h"
#include "train/memory.h"
#include "train/replay.h"

#include <math.h>
#include <stdio.h>

/* Of unet_tiny: a batch of pictures of 4 channels with `length` states of 3. */
typedef struct pictures {
    int64_t samples, height, width, length;
} pictures;

static const pictures unlike[] = {{1, 4, 6, 3}, {2, 8, 4, 5}, {1, 4, 6, 3}, {1, 4, 4, 900}};
#define UNLIKE 4

static float *drawn(test_run *run, const sara_shape *shape, uint64_t index)
{
    size_t count = (size_t)sara_shape_count(shape);
    float *data = NULL;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &data, count, sizeof(*data)));
    sara_draw_normal(data, count, 3, SARA_DRAW_TEST, index);
    return data;
}

/* The tensors of micro-batch `number` of its own, under names that end in suffix. */
static void add_pictures(test_run *run, sara_tensor_source *out, const char *suffix, int number)
{
    static const int64_t timesteps[] = {700, 3, 999};
    const pictures *p = &unlike[number];
    const sara_shape shape = sara_shape4(p->samples, 4, p->height, p->width);
    const sara_shape states = sara_shape3(p->samples, p->length, 3);
    uint64_t index = 10 * (uint64_t)number;
    out[0] = (sara_tensor_source){test_text(run, "latents%s", suffix), SARA_F32, shape,
                                  drawn(run, &shape, index)};
    out[1] = (sara_tensor_source){test_text(run, "noise%s", suffix), SARA_F32, shape,
                                  drawn(run, &shape, index + 1)};
    out[2] = (sara_tensor_source){test_text(run, "encoder_hidden_states%s", suffix), SARA_F32,
                                  states, drawn(run, &states, index + 2)};
    out[3] = (sara_tensor_source){test_text(run, "timesteps%s", suffix), SARA_I64,
                                  sara_shape1(p->samples), timesteps};
}

/* The options take a replay of those of `unlike`, in this order, but for the tensor `without`. */
static void use_pictures(test_run *run, const int *order, int count, const char *without)
{
    sara_tensor_source sources[4 * UNLIKE], kept[4 * UNLIKE];
    size_t used = 0;
    for (int i = 0; i < count; i++)
        add_pictures(run, &sources[4 * i], test_text(run, ".%d", i), order[i]);
    for (int i = 0; i < 4 * count; i++)
        if (!without || strcmp(sources[i].name, without) != 0)
            kept[used++] = sources[i];
    run->options.replay = test_text(run, "%s/unlike.safetensors", run->folder);
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, run->options.replay, kept, used, NULL, 0));
}

static const int all[UNLIKE] = {0, 1, 2, 3};

/* Writes the replay again with a copy of its first latents of this name. */
static void add_latents(test_run *run, const char *name)
{
    sara_safetensors *file = test_open(run->ctx, run->options.replay);
    sara_tensor_source all_of[4 * UNLIKE + 1];
    sara_tensor values[4 * UNLIKE];
    size_t count = sara_safetensors_count(file);
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        assert_ok(run->ctx,
                  sara_safetensors_load(file, &values[i], info->name, info->dtype, &info->shape));
        all_of[i] = (sara_tensor_source){info->name, info->dtype, info->shape, values[i].data};
        if (strcmp(info->name, "latents.0") == 0)
            all_of[count] = (sara_tensor_source){name, info->dtype, info->shape, values[i].data};
    }
    assert_ok(run->ctx,
              sara_safetensors_save(run->ctx, run->options.replay, all_of, count + 1, NULL, 0));
    for (size_t i = 0; i < count; i++)
        sara_tensor_free(run->ctx, &values[i]);
    sara_safetensors_close(file);
}

/* Of a replay, in a run folder of its own; sara_trainer_close(). */
static void open_trainer(trainer *t, test_run *run, const char *folder)
{
    *t = (trainer){.ctx = run->ctx};
    test_run_output(run, folder);
    assert_ok(run->ctx, sara_trainer_open(t, &run->options));
}

static size_t entries_of(const trainer *t)
{
    return t->optimizer->trainables.entries;
}

/* Loss and gradients of one micro-batch alone. */
static double one_alone(trainer *t, float *gradients, int64_t index)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    double loss;
    memset(trainables->gradients, 0, trainables->entries * sizeof(float));
    t->state.micro_batches = index;
    assert_ok(t->ctx, sara_trainer_micro_batch(t, &loss));
    memcpy(gradients, trainables->gradients, trainables->entries * sizeof(float));
    return loss;
}

static float *zeros_for(test_run *run, size_t count)
{
    float *data = NULL;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &data, count, sizeof(*data)));
    memset(data, 0, count * sizeof(*data));
    return data;
}

/* Each of a run of unlike micro-batches is, to the bit, what it is in a run of its own, and over
 * all of them the gradients add up. */
static void test_as_alone(void **state)
{
    test_run *run = *state;
    trainer mixed, single;
    double loss;
    use_pictures(run, all, UNLIKE, NULL);
    open_trainer(&mixed, run, "mixed");
    size_t count = entries_of(&mixed);
    float *ours = zeros_for(run, count), *alone = zeros_for(run, count);
    float *sum = zeros_for(run, count);
    for (int i = 0; i < UNLIKE; i++) {
        use_pictures(run, &all[i], 1, NULL);
        open_trainer(&single, run, test_text(run, "single-%d", i));
        assert_int_equal(entries_of(&single), count);
        loss = one_alone(&single, alone, 0);
        assert_true(loss > 0 && one_alone(&mixed, ours, i) == loss);
        assert_memory_equal(ours, alone, count * sizeof(*ours));
        for (size_t j = 0; j < count; j++)
            sum[j] += alone[j];
        sara_trainer_close(&single);
    }
    one_alone(&mixed, ours, 0);
    for (mixed.state.micro_batches = 1; mixed.state.micro_batches < UNLIKE;
         mixed.state.micro_batches++)
        assert_ok(run->ctx, sara_trainer_micro_batch(&mixed, &loss));
    assert_close(test_relative_l2(mixed.optimizer->trainables.gradients, sum, count), 1e-6, "sum");
    sara_trainer_close(&mixed);
}

/* A whole run, two unlike micro-batches to a step; interrupted, it goes on to the same bits. */
static void test_run_of_unlike(void **state)
{
    test_run *run = *state;
    trainer t;
    double losses[3], first = 0;
    use_pictures(run, all, UNLIKE, NULL);
    run->options.gradient_accumulation_steps = 2;
    open_trainer(&t, run, "trainer");
    float *gradients = zeros_for(run, entries_of(&t));
    for (int i = 0; i < 2; i++)
        first += one_alone(&t, gradients, i) / 2;
    sara_trainer_close(&t);
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(
        strstr(run->log, "2 steps of up to 2 x 2 samples from 4 recorded micro-batches"));
    assert_int_equal(test_run_column(run, losses, 3, "loss"), 2);
    assert_close(fabs(losses[0] - first), 1e-12, "mean of both losses");
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, "interrupted");
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 1 of 2", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* The micro-batches of the options' replay under names of their own. */
static void use_split(test_run *run)
{
    static const char *const names[] = {"latents", "noise", "encoder_hidden_states", "timesteps"};
    sara_safetensors *file = test_open(run->ctx, run->options.replay);
    sara_tensor_source sources[4 * TEST_REPLAY_STEPS];
    for (size_t i = 0; i < 4 * TEST_REPLAY_STEPS; i++) {
        const sara_tensor_info *info = sara_safetensors_find(file, names[i % 4]);
        const size_t step = i / 4, size = info->size / TEST_REPLAY_STEPS;
        sara_shape shape = {.rank = info->shape.rank - 1};
        char *data = NULL;
        for (int axis = 0; axis < shape.rank; axis++)
            shape.dims[axis] = info->shape.dims[axis + 1];
        assert_ok(run->ctx, sara_arena_alloc(&run->strings, &data, info->size, 1));
        assert_ok(run->ctx, sara_safetensors_read(file, data, info));
        sources[i] = (sara_tensor_source){test_text(run, "%s.%zu", names[i % 4], step), info->dtype,
                                          shape, data + step * size};
    }
    sara_safetensors_close(file);
    run->options.replay = test_text(run, "%s/split.safetensors", run->folder);
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, run->options.replay, sources,
                                              4 * TEST_REPLAY_STEPS, NULL, 0));
}

static void test_split(void **state)
{
    test_run *run = *state;
    sara_adapter stacked, split;
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "10 steps of 1 x 1 samples"));
    test_run_adapter(run, &stacked);
    use_split(run);
    test_run_output(run, "split");
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "10 steps of 1 x 1 samples"));
    test_run_adapter(run, &split);
    test_adapters_equal(&stacked, &split);
    assert_string_equal(sara_adapter_metadata(&stacked, "modelspec.resolution"),
                        sara_adapter_metadata(&split, "modelspec.resolution"));
    sara_adapter_free(&stacked);
    sara_adapter_free(&split);
}

/* ---------------------------------------------------------------------------------------- plan */

static sara_memory_plan plan_of(test_run *run, const int *order, int count)
{
    const sara_memory_setting setting = {.share = 1};
    sara_memory_plan plan;
    trainer t;
    double loss;
    use_pictures(run, order, count, NULL);
    open_trainer(&t, run, test_text(run, "plan-%d-%d", order[0], count));
    assert_ok(run->ctx, sara_memory_make_plan(&t, &plan, &setting));
    assert_int_equal(t.planned_bytes, plan.peak);
    for (; t.state.micro_batches < count; t.state.micro_batches++)
        assert_ok(run->ctx, sara_trainer_micro_batch(&t, &loss));
    double planned = (double)plan.activations, taken = (double)sara_tape_reached(t.tape);
    assert_close(fabs(planned - taken) / taken, 0.2, "activations"); /* oneDNN's own */
    sara_trainer_close(&t);
    return plan;
}

/* The largest need, wherever it stands: the last has the smallest latents and the longest text. */
static void test_plan(void **state)
{
    static const int other[] = {3, 1, 0};
    test_run *run = *state;
    size_t most = 0, each[UNLIKE];
    for (int i = 0; i < UNLIKE; i++) {
        each[i] = plan_of(run, &all[i], 1).activations;
        most = each[i] > most ? each[i] : most;
    }
    assert_true(each[3] == most && each[1] > each[0] && each[3] > each[1]);
    assert_int_equal(plan_of(run, all, UNLIKE).activations, most);
    assert_int_equal(plan_of(run, other, 3).activations, most);
    assert_int_equal(plan_of(run, all, 3).activations, each[1]);
    sara_adapter adapter;
    test_run_output(run, "largest");
    run->options.replay = test_text(run, "%s/unlike.safetensors", run->folder);
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &adapter);
    assert_string_equal(sara_adapter_metadata(&adapter, "modelspec.resolution"), "32x64");
    sara_adapter_free(&adapter);
}

/* ------------------------------------------------------------------------------------- weights */

static double loss_of(trainer *t, float *gradients, const sara_batch *batch)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    const float *value;
    sara_var *loss;
    memset(trainables->gradients, 0, trainables->entries * sizeof(float));
    sara_tape_record(t->tape, true);
    assert_ok(t->ctx, sara_batch_loss(t->tape, &loss, t->model->denoiser, &t->objective, batch));
    assert_ok(t->ctx, sara_tape_read(t->tape, &value, loss));
    double result = *value;
    assert_ok(t->ctx, sara_tape_backward(t->tape, loss, 1));
    sara_tape_reset(t->tape);
    memcpy(gradients, trainables->gradients, trainables->entries * sizeof(float));
    return result;
}

/* A batch of two against its samples, each in a batch of its own: the mean of weight times loss. */
static void test_weights(void **state)
{
    float weights[] = {0.25f, 3}, ones[] = {1, 1};
    test_run *run = *state;
    sara_batch batch;
    trainer t;
    double expected = 0;
    use_pictures(run, &all[1], 1, NULL);
    open_trainer(&t, run, "weights");
    size_t count = entries_of(&t);
    float *gradients = zeros_for(run, count), *plain = zeros_for(run, count);
    float *sum = zeros_for(run, count);
    assert_ok(run->ctx, sara_batches_get(t.batches, &batch, 0));
    assert_null(batch.weights);
    double without = loss_of(&t, plain, &batch);
    for (int i = 0; i < 2; i++) {
        sara_batch one = sara_batch_shape_of(&batch, 1);
        const int64_t size = sara_shape_count(&one.latents.shape);
        sara_tensor *states = &one.condition[SARA_CONDITION_STATES];
        one.latents.data = (float *)batch.latents.data + i * size;
        one.noise = batch.noise + i * size;
        one.timesteps = batch.timesteps + i;
        states->data = (float *)batch.condition[SARA_CONDITION_STATES].data +
                       i * sara_shape_count(&states->shape);
        expected += (double)weights[i] * loss_of(&t, gradients, &one) / 2;
        for (size_t j = 0; j < count; j++)
            sum[j] += weights[i] * gradients[j] / 2;
    }
    batch.weights = weights;
    assert_close(fabs(loss_of(&t, gradients, &batch) / expected - 1), 1e-6, "loss");
    assert_close(test_relative_l2(gradients, sum, count), 1e-5, "gradients");
    batch.weights = ones;
    assert_true(loss_of(&t, gradients, &batch) == without);
    assert_memory_equal(gradients, plain, count * sizeof(*plain));
    sara_trainer_close(&t);
}

/* --------------------------------------------------------------------------------------- ranks */

/* The mixer of that rank, the same weights whichever it is. */
static sara_network *draw_mixer(test_run *run, sara_device *device, int rank)
{
    sara_network *network = NULL;
    json_t *config = json_pack("{s:i,s:i,s:i,s:i,s:i}", "rank", rank, "in_channels", 3,
                               "state_width", 5, "pooled_width", 6, "width", 8);
    const sara_component component = {.ctx = run->ctx, .source = "mixer", .config = config};
    assert_ok(run->ctx, sara_network_draw(device, &network, &test_mixer_class, &component, 1,
                                          SARA_STORE_F32));
    json_decref(config);
    return network;
}

/* A replay of two micro-batches, two samples each; axes: what latents have after the channels. */
static const char *save_ranks(test_run *run, int count, const int64_t *axes)
{
    static const int64_t timesteps[] = {3, 700, 20, 999};
    sara_shape shape = {.rank = 3 + count, .dims = {2, 2, 3}};
    const sara_shape states = sara_shape4(2, 2, 7, 5), pooled = sara_shape3(2, 2, 6);
    const char *path = test_text(run, "%s/rank-%d.safetensors", run->folder, count + 2);
    memcpy(shape.dims + 3, axes, (size_t)count * sizeof(*axes));
    const sara_tensor_source sources[] = {
        {"latents", SARA_F32, shape, drawn(run, &shape, 1)},
        {"noise", SARA_F32, shape, drawn(run, &shape, 2)},
        {"encoder_hidden_states", SARA_F32, states, drawn(run, &states, 3)},
        {"pooled", SARA_F32, pooled, drawn(run, &pooled, 4)},
        {"timesteps", SARA_I64, sara_shape2(2, 2), timesteps}};
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, sources, 5, NULL, 0));
    return path;
}

/* The loss of the second micro-batch. */
static float loss_of_rank(test_run *run, sara_device *device, int rank, const char *path)
{
    const sara_objective objective = {
        .ctx = run->ctx, .prediction = SARA_PREDICT_FLOW, .num_train_timesteps = 1000};
    sara_model model = {.ctx = run->ctx, .denoiser = draw_mixer(run, device, rank)};
    sara_replay *replay = NULL;
    sara_tape *tape = NULL;
    sara_batch batch;
    const float *value;
    sara_var *loss;
    assert_ok(run->ctx, sara_replay_open(run->ctx, &replay, &model, &objective, path));
    assert_ok(run->ctx, sara_replay_get(replay, &batch, 1));
    assert_int_equal(batch.latents.shape.rank, rank);
    assert_int_equal(2 * sara_batch_bytes(&batch), replay->source.bytes);
    assert_ok(run->ctx, sara_tape_new(run->ctx, &tape, device));
    assert_ok(run->ctx, sara_batch_loss(tape, &loss, model.denoiser, &objective, &batch));
    assert_ok(run->ctx, sara_tape_read(tape, &value, loss));
    const float result = *value;
    sara_tape_free(tape);
    sara_replay_free(replay);
    sara_network_free(model.denoiser);
    return result;
}

/* Frames, pictures and series of as many values: the mixer takes them for the same tokens. */
static void test_ranks(void **state)
{
    static const int64_t frames[] = {2, 2, 3}, picture[] = {4, 3}, series[] = {12};
    test_run *run = *state;
    sara_device *device = NULL;
    assert_ok(run->ctx, sara_nn_device_open(run->ctx, &device, "cpu"));
    float expected = loss_of_rank(run, device, 4, save_ranks(run, 2, picture));
    assert_true(expected > 0.1f);
    assert_true(loss_of_rank(run, device, 5, save_ranks(run, 3, frames)) == expected);
    assert_true(loss_of_rank(run, device, 3, save_ranks(run, 1, series)) == expected);
    sara_nn_device_close(device);
}

/* ------------------------------------------------------------------------------------ refusals */

static void test_refusals(void **state)
{
    static const struct {
        const char *without, *message;
    } cases[] = {{"latents.0", "no tensor latents.0"},
                 {"latents.2", "no tensor latents.2"},
                 {"noise.1", "no tensor noise.1"},
                 {"encoder_hidden_states.3", "no tensor encoder_hidden_states.3"},
                 {"timesteps.2", "no tensor timesteps.2"}};
    test_run *run = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        use_pictures(run, all, UNLIKE, cases[i].without);
        assert_refused(run->ctx, SARA_ERROR_INPUT, cases[i].message, test_run_train(run));
    }
    for (size_t i = 0; i < 2; i++) { /* a name of the other form, and of none */
        use_pictures(run, all, UNLIKE, NULL);
        add_latents(run, i == 0 ? "latents" : "latents.first");
        assert_refused(run->ctx, SARA_ERROR_INPUT,
                       i == 0 ? "holds latents.0: expected latents of all micro-batches"
                              : "holds latents.first: expected latents of all",
                       test_run_train(run));
    }
    use_pictures(run, all, UNLIKE, NULL);
    run->options.unet_only = SARA_TEST_GOLDEN "/unet_sd1";
    assert_refused(run->ctx, SARA_ERROR_INPUT, "encoder_hidden_states.0: width 3, the U-Net takes",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_as_alone), TEST_TINY(test_run_of_unlike), TEST_TINY(test_split),
        TEST_TINY(test_plan),     TEST_TINY(test_weights),       TEST_TINY(test_ranks),
        TEST_TINY(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
