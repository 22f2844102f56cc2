/* Which images each micro-batch has. */
#include "data/data.h"

uint64_t sara_epoch_place(uint64_t seed, uint64_t count, uint64_t element)
{
    uint64_t epoch = element / count, value = element % count;
    int half = 1;
    while ((uint64_t)1 << (2 * half) < count)
        half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint64_t f =
                sara_draw_below(mask + 1, seed, SARA_DRAW_ORDER, epoch, round << 32 | right);
            uint64_t next = left ^ f;
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= count);
    return value;
}

/* --------------------------------------------------------------------------------------- making */

static sara_status count_shapes(sara_context *ctx, sara_order *out, const sara_order_image *images,
                                size_t count)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++)
        out->shapes[images[i].shape].count++;
    for (size_t i = 0; i < out->shape_count; i++) {
        sara_order_shape *shape = &out->shapes[i];
        TRY(sara_alloc(ctx, &shape->images, shape->count, sizeof(*shape->images)));
        TRY(sara_alloc(ctx, &shape->ends, shape->count, sizeof(*shape->ends)));
        shape->count = 0;
    }
done:
    return status;
}

static void fill_shapes(sara_order *out, const sara_order_image *images, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sara_order_shape *shape = &out->shapes[images[i].shape];
        shape->elements += images[i].repeats;
        shape->images[shape->count] = i;
        shape->ends[shape->count++] = shape->elements;
    }
}

static int64_t order_batches_of(const sara_order_shape *shape)
{
    return (shape->elements + shape->batch - 1) / shape->batch;
}

sara_status sara_order_make(sara_context *ctx, sara_order *out, const sara_order_image *images,
                            size_t count, const int *batches, size_t shape_count, uint64_t seed)
{
    sara_status status;
    *out = (sara_order){.seed = seed, .shape_count = shape_count};
    TRY(sara_alloc_zero(ctx, &out->shapes, shape_count, sizeof(*out->shapes)));
    TRY(count_shapes(ctx, out, images, count));
    fill_shapes(out, images, count);
    for (size_t i = 0; i < shape_count; i++) {
        sara_order_shape *shape = &out->shapes[i];
        shape->batch = batches[i];
        shape->first = out->micro_batches;
        out->elements += shape->elements;
        out->micro_batches += order_batches_of(shape);
    }
    if (shape_count == 1)
        out->micro_batches = 0;
done:
    return status;
}

void sara_order_free(sara_context *ctx, sara_order *order)
{
    for (size_t i = 0; order->shapes && i < order->shape_count; i++) {
        sara_free(ctx, order->shapes[i].images);
        sara_free(ctx, order->shapes[i].ends);
    }
    sara_free(ctx, order->shapes);
    *order = (sara_order){0};
}

/* --------------------------------------------------------------------------------------- asking */

/* The image of a shape that an element of its epoch, not shuffled, belongs to. */
static size_t order_image_at(const sara_order_shape *shape, int64_t place)
{
    size_t low = 0, high = shape->count - 1;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (shape->ends[middle] <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return shape->images[low];
}

/* Element number `element` of a shape's endless sequence of epochs. */
static sara_order_element order_element(const sara_order_shape *shape, uint64_t seed,
                                        uint64_t element)
{
    const uint64_t count = (uint64_t)shape->elements;
    const uint64_t place = sara_epoch_place(seed, count, element);
    return (sara_order_element){order_image_at(shape, (int64_t)place), element / count};
}

/* The shape whose micro-batches of an epoch, not shuffled, have this place. */
static size_t order_shape_at(const sara_order *order, int64_t place)
{
    size_t low = 0, high = order->shape_count - 1;
    while (low < high) {
        const size_t middle = (low + high + 1) / 2;
        if (order->shapes[middle].first <= place)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static size_t get_of_one_shape(const sara_order *order, sara_order_element *out,
                               int64_t micro_batch)
{
    const sara_order_shape *shape = &order->shapes[0];
    for (int i = 0; i < shape->batch; i++)
        out[i] = order_element(shape, order->seed, (uint64_t)(micro_batch * shape->batch + i));
    return (size_t)shape->batch;
}

size_t sara_order_get(const sara_order *order, sara_order_element *out, size_t *shape,
                      int64_t micro_batch)
{
    *shape = 0;
    if (order->micro_batches == 0)
        return get_of_one_shape(order, out, micro_batch);
    const uint64_t epoch = (uint64_t)(micro_batch / order->micro_batches);
    const int64_t place = (int64_t)sara_epoch_place(order->seed, (uint64_t)order->micro_batches,
                                                    (uint64_t)micro_batch);
    *shape = order_shape_at(order, place);
    const sara_order_shape *of = &order->shapes[*shape];
    const int64_t first = (place - of->first) * of->batch, left = of->elements - first;
    const int64_t count = left < of->batch ? left : of->batch;
    uint32_t key[2];
    sara_draw_bits(key, 2, order->seed, SARA_DRAW_SHAPE, (uint64_t)*shape, 0);
    for (int64_t i = 0; i < count; i++)
        out[i] = order_element(of, (uint64_t)key[0] << 32 | key[1],
                               epoch * (uint64_t)of->elements + (uint64_t)(first + i));
    return (size_t)count;
}

int64_t sara_order_length(const sara_order *order, int64_t epochs)
{
    if (order->micro_batches)
        return epochs * order->micro_batches;
    const int64_t batch = order->shapes[0].batch;
    return (epochs * order->elements + batch - 1) / batch;
}
