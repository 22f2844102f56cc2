/* The inside of a set of applied adapters: layers, each a copy of an adapter with its strength, and
 * for each parameter the union of their positions with the original values. */
#ifndef SARA_SPARSE_APPLIED_H
#define SARA_SPARSE_APPLIED_H

#include "sparse/sparse.h"

typedef struct sara_applied_entry {
    size_t param; /* index into the parameters */
    const uint32_t *positions;
    const float *values;
    size_t count;
} sara_applied_entry;

typedef struct sara_applied_layer {
    double strength;
    sara_applied_entry *entries; /* ascending by param */
    size_t count;
    sara_arena arena;
    size_t number; /* of those that were added, from 0 */
} sara_applied_layer;

typedef struct sara_cover {
    uint32_t *positions; /* ascending */
    float *originals;
    size_t count;
} sara_cover;

/* A layer's part of the parameter being written, and how far it has come. */
typedef struct sara_applied_cursor {
    double strength;
    const sara_applied_entry *entry;
    size_t at;
} sara_applied_cursor;

struct sara_applied {
    sara_context *ctx;
    sara_params *params;
    sara_base base;
    sara_applied_layer *layers; /* in an order that depends on their content alone */
    size_t count, capacity;
    sara_applied_cursor *cursors; /* [cursor_capacity], at least one for each layer */
    size_t cursor_capacity;
    sara_cover *covers; /* one for each parameter */
};

/* Copies what an adapter changes, which sara_adapter_check() has passed. */
SARA_NODISCARD sara_status sara_applied_layer_new(sara_applied *applied, sara_applied_layer *out,
                                                  const sara_adapter *adapter, double strength);
void sara_applied_layer_free(sara_applied_layer *layer);
/* By strength, then content; 0 only for equal layers. */
int sara_applied_layer_compare(const sara_applied_layer *a, const sara_applied_layer *b);

#endif
