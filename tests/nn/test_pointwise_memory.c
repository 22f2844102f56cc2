/* Every allocation of a forward and a backward pass fails once: an error, no crash, no leak. */
#include "nn/support_nn.h"

#include <stdlib.h>

enum { ROWS = 4, WIDTH = 6 };

typedef struct budget {
    int left; /* allocations that still succeed */
    bool refused;
} budget;

static void *take(void *user, size_t size)
{
    budget *b = user;
    if (b->left-- > 0)
        return malloc(size);
    b->refused = true;
    return NULL;
}

static void give(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* Values, positions and gradients that outlive the pass. */
typedef struct inputs {
    float x[ROWS * WIDTH], e[WIDTH], vector[WIDTH], table[ROWS * WIDTH], target[ROWS * WIDTH];
    float vector_grad[WIDTH], table_grad[3];
    sara_param norm, rows;
} inputs;

static const uint32_t positions[] = {0, 2, 5};
static const int32_t ids[] = {2, 0, 2, 3};

static sara_param param(const char *name, sara_shape shape, float *data, float *grad)
{
    return (sara_param){.name = name,
                        .value = {SARA_F32, shape, data},
                        .stored = SARA_F32,
                        .want = SARA_GRAD_SAMPLED,
                        .positions = positions,
                        .selected = 3,
                        .grad = grad};
}

static void fill(inputs *in)
{
    memset(in, 0, sizeof(*in));
    sara_draw_normal(in->x, ROWS * WIDTH, 1, SARA_DRAW_TEST, 0);
    sara_draw_normal(in->e, WIDTH, 2, SARA_DRAW_TEST, 0);
    sara_draw_normal(in->vector, WIDTH, 3, SARA_DRAW_TEST, 0);
    sara_draw_normal(in->table, ROWS * WIDTH, 4, SARA_DRAW_TEST, 0);
    in->norm = param("norm", sara_shape1(WIDTH), in->vector, in->vector_grad);
    in->rows = param("rows", sara_shape2(ROWS, WIDTH), in->table, in->table_grad);
}

/* Each op once. */
static sara_status pass(sara_tape *tape, inputs *in)
{
    const sara_shape image = sara_shape4(1, 2, 2, WIDTH), tokens = sara_shape3(1, ROWS, WIDTH);
    const sara_shape vector = sara_shape2(1, WIDTH);
    sara_var *x, *e, *h, *t, *words, *loss;
    sara_status status;
    sara_tape_record(tape, true);
    TRY(sara_tape_leaf(tape, &x, &image, in->x, true));
    TRY(sara_tape_leaf(tape, &e, &vector, in->e, true));
    TRY(sara_nn_group_norm(tape, &h, x, &in->norm, &in->norm, 2, 1e-5f, SARA_SILU));
    TRY(sara_nn_add_per_sample(tape, &h, h, e));
    TRY(sara_nn_activate(tape, &h, h, SARA_GELU));
    TRY(sara_nn_to_channels_first(tape, &h, h));
    TRY(sara_nn_to_channels_last(tape, &h, h));
    TRY(sara_nn_upsample(tape, &h, h, 4, 4));
    TRY(sara_nn_upsample(tape, &h, h, 2, 2));
    TRY(sara_nn_concat(tape, &h, h, x));
    TRY(sara_nn_geglu(tape, &h, h));
    TRY(sara_tape_view(tape, &t, h, &tokens));
    TRY(sara_nn_embed(tape, &words, &in->rows, ids, ROWS));
    TRY(sara_tape_view(tape, &words, words, &tokens));
    TRY(sara_nn_add_positions(tape, &words, words, &in->rows));
    TRY(sara_nn_layer_norm(tape, &words, words, &in->norm, &in->norm, 1e-5f));
    TRY(sara_nn_attention(tape, &t, t, words, words, 3, false));
    TRY(sara_nn_add(tape, &t, t, words));
    TRY(sara_nn_multiply(tape, &t, t, words));
    TRY(sara_nn_rms_norm(tape, &t, t, &in->norm, 1e-6f));
    TRY(sara_nn_gated_gelu(tape, &t, t, words));
    TRY(sara_nn_mse_loss(tape, &loss, t, in->target, NULL, NULL));
    TRY(sara_tape_backward(tape, loss, 1));
done:
    return status;
}

static sara_status run(sara_context *ctx, const char *name)
{
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    inputs in;
    sara_status status;
    fill(&in);
    TRY(sara_nn_device_open(ctx, &device, name));
    TRY(sara_tape_new(ctx, &tape, device));
    TRY(pass(tape, &in));
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

static void check(const char *name)
{
    for (int allowed = 0;; allowed++) {
        budget b = {.left = allowed};
        const sara_allocator allocator = {take, give, &b};
        const sara_context_options options = {.allocator = &allocator, .threads = 2};
        sara_context *ctx = NULL;
        sara_status status = sara_context_new(&ctx, &options);
        if (status == SARA_OK)
            status = run(ctx, name);
        if (b.refused) {
            assert_int_equal(status, SARA_ERROR_MEMORY);
            test_assert_contains(sara_context_error(ctx), "out of memory", __FILE__, __LINE__);
        }
        sara_context_free(ctx);
        if (!b.refused) {
            assert_int_equal(status, SARA_OK);
            assert_true(allowed > 10);
            return;
        }
    }
}

static void test_memory(void **state)
{
    (void)state;
    check("cpu");
    check("cpu-plain");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
