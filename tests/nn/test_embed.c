/* Token and position embeddings on the tape. */
#include "nn/support_gradient.h"

static const int32_t ids[] = {3, 0, 3, 6, 3, 1};
enum { IDS = sizeof(ids) / sizeof(*ids) };

/* The input is only added, so that the graph has one. */
static sara_status build_embed(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    sara_var *rows;
    sara_status status;
    TRY(sara_nn_embed(tape, &rows, params[0], ids, IDS));
    TRY(sara_nn_add(tape, y, rows, in[0]));
done:
    return status;
}

static sara_status build_positions(sara_tape *tape, sara_var **y, sara_var *const *in,
                                   sara_param *const *params)
{
    return sara_nn_add_positions(tape, y, in[0], params[0]);
}

static void test_gradients(void **state)
{
    (void)state;
    const test_graph embed = {"embed", build_embed,         {sara_shape2(IDS, 4)},
                              1,       {sara_shape2(7, 4)}, 1};
    const test_graph positions = {
        "add_positions", build_positions, {sara_shape3(3, 2, 4)}, 1, {sara_shape2(5, 4)}, 1};
    const test_graph ranks = {
        "embed of rank 3", build_embed, {sara_shape2(IDS, 4)}, 1, {sara_shape3(1, 7, 4)}, 1};
    const test_graph positions_rank = {"add_positions of rank 3", build_positions,
                                       {sara_shape3(3, 2, 4)},    1,
                                       {sara_shape3(1, 5, 4)},    1};
    test_graph_check(&embed);
    test_graph_check(&positions);
    test_graph_check(&ranks);
    test_graph_check(&positions_rank);
}

static void test_values(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    sara_param table = test_nn_param(&nn, "table", sara_shape2(7, 4), 1);
    const float *rows = table.value.data;
    const sara_shape view = sara_shape3(2, 3, 4);
    sara_var *y, *x, *z;
    assert_ok(nn.ctx, sara_nn_embed(nn.tape, &y, &table, ids, IDS));
    for (int i = 0; i < IDS; i++)
        assert_memory_equal(y->data + 4 * i, rows + 4 * ids[i], 4 * sizeof(float));
    assert_ok(nn.ctx, sara_tape_view(nn.tape, &x, y, &view));
    assert_ok(nn.ctx, sara_nn_add_positions(nn.tape, &z, x, &table));
    for (int i = 0; i < 4 * IDS; i++)
        assert_true(z->data[i] == y->data[i] + rows[i % 12]);
    test_nn_param_free(&nn, &table);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    sara_param table = test_nn_param(&nn, "token_embedding.weight", sara_shape2(7, 4), 1);
    sara_param vector = test_nn_param(&nn, "vector", sara_shape1(4), 1);
    const sara_shape shapes[] = {sara_shape3(1, 8, 4), sara_shape3(1, 2, 5), sara_shape2(2, 4)};
    const int32_t bad[] = {0, 6, 7}, negative[] = {-1};
    float data[32] = {0};
    sara_var *v[3], *y;
    for (int i = 0; i < 3; i++)
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v[i], &shapes[i], data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "embed: token_embedding.weight: id 7 at 2, expected 0..6",
                   sara_nn_embed(nn.tape, &y, &table, bad, 3));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "id -1 at 0, expected 0..6",
                   sara_nn_embed(nn.tape, &y, &table, negative, 1));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "embed: vector: id 6 at 1, expected 0..0",
                   sara_nn_embed(nn.tape, &y, &vector, bad, 2));
    vector.value.shape.rank = 0;
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "embed: vector: shape [], expected [...,C]",
                   sara_nn_embed(nn.tape, &y, &vector, bad, 1));
    vector.value.shape.rank = 1;
    for (int i = 0; i < 3; i++)
        assert_refused(nn.ctx, SARA_ERROR_INPUT,
                       "token_embedding.weight: shape [7,4] does not fit the input",
                       sara_nn_add_positions(nn.tape, &y, v[i], &table));
    test_nn_param_free(&nn, &table);
    test_nn_param_free(&nn, &vector);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
