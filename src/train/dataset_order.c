/* The order of an epoch. */
#include "train/train.h"

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
