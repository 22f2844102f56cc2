/* What an optimiser updates: parameters of any sets, wholly or at positions. Why these are trained
 * is the method's affair. */
#ifndef SARA_SPARSE_TRAINABLE_H
#define SARA_SPARSE_TRAINABLE_H

#include "core/core.h"

/* A parameter that is trained. Arrays are parts of those of all trainables; all but `positions` are
 * memory of the device. */
typedef struct sara_trainable {
    sara_param *param;
    const uint32_t *positions; /* [count] ascending row-major; NULL: all entries, in their order */
    size_t count;
    float *masters; /* [count]; NULL: the float32 parameter holds them */
    float *gradient, *moment1, *moment2; /* [count] */
    struct sara_away *away;              /* of a parameter that is away; else NULL */
} sara_trainable;

/* Where the values of a parameter that is away are read from: the base's with masters laid over. */
typedef struct sara_away {
    sara_param_source source;
    const sara_param_source *base;
    const sara_trainable *item;
    const uint32_t
        *rest_positions; /* [rest_count] of entries that are trained no longer, or NULL */
    const float *rest;   /* their masters, borrowed */
    size_t rest_count;
} sara_away;
/* Whether its trained entries' float32 values are not in the parameter itself. */
static inline bool sara_param_has_masters(const sara_param *param)
{
    return param->value.dtype != SARA_F32 || param->away;
}

/* All that one optimiser trains, of parameters on one device. Gradients, then moment1, then moment2
 * of all items lie in one piece of memory, so that what concerns all of them is one pass over an
 * array. Whole parameters begin at a cache line; what lies between is zero. */
typedef struct sara_trainables {
    sara_context *ctx;
    sara_device *device;
    sara_trainable *items;
    size_t count;
    size_t entries, capacity; /* of gradients, moment1 and moment2 each; as there is memory for */
    float *gradients, *moment1, *moment2;
    float *masters;      /* of the items that have some, one after the other */
    sara_away *away;     /* of the items that are, one after the other */
    uint32_t *positions; /* of the items that have some, one after the other; the host's */
    uint32_t *places;    /* the same on the device; where its memory is the host's, positions */
} sara_trainables;

/* The items have param, count and positions, which lie in `positions` (NULL: none has any). Moments
 * and gradients are zero, masters the parameters' values; parameters ask the ops for the gradients.
 * On success items and positions, both of the context's allocator, are taken over. */
SARA_NODISCARD sara_status sara_trainables_init(sara_trainables *out, sara_context *ctx,
                                                sara_trainable *items, size_t count,
                                                uint32_t *positions);
/* Parameters ask for nothing again. */
void sara_trainables_free(sara_trainables *trainables);
int64_t sara_trainables_total(const sara_trainables *trainables); /* trained entries */
size_t sara_trainables_bytes(const sara_trainables *trainables);  /* of all arrays */

/* What was kept no longer, in the order of the items as it was; the host's. */
typedef struct sara_trainables_rest {
    float *masters;
    uint32_t *positions;
} sara_trainables_rest;
/* Keeps of each item the entries with the indices kept [counts[i]], ascending, one item's after the
 * other's. What is kept begins anew: moments are zero; gradients stay with their entries. On
 * success `kept`, of the context's allocator, is taken over, and the memory of all masters and
 * positions as they were before is the caller's, by sara_free(). Nothing is changed by an error. */
SARA_NODISCARD sara_status sara_trainables_keep(sara_trainables *trainables, uint32_t *kept,
                                                const size_t *counts, sara_trainables_rest *before);

/* What the arrays take for each entry of a parameter, at positions or whole. */
size_t sara_trainable_entry_bytes(const sara_param *param, bool sampled);
/* The position of an entry in its parameter. */
static inline size_t sara_trainable_position(const sara_trainable *item, size_t index)
{
    return item->positions ? item->positions[index] : index;
}

/* The float32 values of an item's entries for the host to read: where they lie, or copies. */
typedef struct sara_trainable_values {
    const float *values;
    const uint32_t *positions; /* of the entries in values; NULL: in their order */
    float *copy;
} sara_trainable_values;
SARA_NODISCARD sara_status sara_trainable_read(const sara_trainables *trainables,
                                               sara_trainable_values *out,
                                               const sara_trainable *item);
void sara_trainable_read_end(const sara_trainables *trainables, sara_trainable_values *values);
static inline float sara_trainable_value(const sara_trainable_values *values, size_t index)
{
    return values->values[values->positions ? values->positions[index] : index];
}
/* Gives all entries of an item these values [count]: masters, and the parameter, which rounds them
 * and whose version counts up. */
SARA_NODISCARD sara_status sara_trainable_write(const sara_trainables *trainables,
                                                const sara_trainable *item, const float *values);

void sara_trainable_ask_nothing(sara_param *param);

#endif
