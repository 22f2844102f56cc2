/* Which images micro-batches have: each once an epoch, by counting. */
#include "support_data.h"

#include <string.h>

#define IMAGES 7
#define MOST   8

/* Shapes and repeats of some images. */
static const sara_order_image mixed[IMAGES] = {{1, 0}, {2, 1}, {1, 0}, {3, 2},
                                               {1, 0}, {1, 1}, {1, 0}};

static sara_order make(data_test *test, const sara_order_image *images, const int *batches,
                       size_t shapes, uint64_t seed)
{
    sara_order order;
    assert_ok(test->ctx, sara_order_make(test->ctx, &order, images, IMAGES, batches, shapes, seed));
    return order;
}

/* Counts the images of an epoch's micro-batches, all of one shape each. */
static void count_epoch(const sara_order *order, int64_t epoch, int64_t *counts, size_t *sequence)
{
    sara_order_element elements[MOST];
    memset(counts, 0, IMAGES * sizeof(*counts));
    for (int64_t i = 0; i < order->micro_batches; i++) {
        size_t shape,
            count = sara_order_get(order, elements, &shape, epoch * order->micro_batches + i);
        assert_in_range(count, 1, order->shapes[shape].batch);
        for (size_t k = 0; k < count; k++) {
            assert_int_equal(mixed[elements[k].image].shape, shape);
            assert_int_equal(elements[k].epoch, epoch);
            counts[elements[k].image]++;
            *sequence++ = elements[k].image;
        }
    }
}

static void test_several_shapes(void **state)
{
    static const int batches[] = {3, 2, 2};
    data_test *test = *state;
    sara_order order = make(test, mixed, batches, 3, 42);
    size_t sequences[4][16] = {{0}};
    int64_t counts[IMAGES];
    assert_int_equal(order.elements, 10);
    assert_int_equal(order.micro_batches, 2 + 2 + 2); /* of 4, 3 and 3 elements */
    assert_int_equal(sara_order_length(&order, 5), 30);
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        count_epoch(&order, epoch, counts, sequences[epoch]);
        for (size_t i = 0; i < IMAGES; i++)
            assert_int_equal(counts[i], mixed[i].repeats);
    }
    assert_true(memcmp(sequences[0], sequences[1], sizeof(sequences[0])) &&
                memcmp(sequences[0], sequences[2], sizeof(sequences[0])));
    sara_order_free(test->ctx, &order);
    order = make(test, mixed, batches, 3, 43);
    count_epoch(&order, 0, counts, sequences[1]);
    assert_true(memcmp(sequences[0], sequences[1], sizeof(sequences[0])));
    sara_order_free(test->ctx, &order);
}

/* The endless sequence of one shape: micro-batches go on over the end of an epoch. */
static void test_one_shape(void **state)
{
    static const int batch = 3;
    data_test *test = *state;
    sara_order_image images[IMAGES];
    sara_order_element elements[MOST];
    int64_t counts[2][IMAGES] = {{0}};
    size_t shape;
    for (size_t i = 0; i < IMAGES; i++)
        images[i] = (sara_order_image){mixed[i].repeats, 0};
    sara_order order = make(test, images, &batch, 1, 42);
    assert_int_equal(order.micro_batches, 0);
    assert_int_equal(sara_order_length(&order, 1), 4);
    assert_int_equal(sara_order_length(&order, 3), 10);
    for (int64_t i = 0; i < 7; i++) {
        assert_int_equal(sara_order_get(&order, elements, &shape, i), 3);
        for (int64_t k = 0; k < 3; k++)
            if (3 * i + k < 20) {
                assert_int_equal(elements[k].epoch, (3 * i + k) / 10);
                counts[elements[k].epoch][elements[k].image]++;
            }
    }
    for (size_t i = 0; i < IMAGES; i++) {
        assert_int_equal(counts[0][i], mixed[i].repeats);
        assert_int_equal(counts[1][i], mixed[i].repeats);
    }
    sara_order_free(test->ctx, &order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_several_shapes),
        DATA_TEST(test_one_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
