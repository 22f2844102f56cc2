/* The inside of a set of applied adapters: layers, each what an adapter changes with its strength,
 * and for each parameter the original values of what they cover, at positions or of all of it. */
#ifndef SARA_SPARSE_APPLIED_H
#define SARA_SPARSE_APPLIED_H

#include "sparse/lora.h"
#include "sparse/sparse.h"

typedef struct sara_applied_entry {
    size_t param; /* index into the parameters */
    const uint32_t *positions;
    const float *values;
    size_t count;
    const sara_lora_layer *low; /* a change of all entries instead; NULL: at positions */
} sara_applied_entry;

typedef struct sara_applied_layer {
    double strength;
    sara_applied_entry *entries; /* ascending by param */
    size_t count;
    sara_arena arena;
    sara_arena factors; /* of low-rank entries */
    size_t number;      /* of those that were added, from 0 */
    struct sara_bottlenecks *beside; /* instead of entries; NULL: none */
} sara_applied_layer;

/* What covers a whole parameter keeps the memory that it had, in the dtype of its file, and gives
 * it another to be written to: taking off is changing them back. Where results are those of
 * float32 values (as_floats: text encoders, as a rule), the other is of float32: the sum of a
 * weight in fp16 and its change is not rounded, as it is not in float32 pipelines of others. */
typedef struct sara_cover {
    uint32_t *positions; /* ascending */
    float *originals;
    size_t count;
    sara_tensor whole; /* in memory of the parameter's device; then there are no positions */
} sara_cover;

/* A layer's part of the parameter being written, and how far it has come. */
typedef struct sara_applied_cursor {
    double strength;
    const sara_applied_entry *entry;
    size_t at;
} sara_applied_cursor;

/* Memory of which pieces are taken one after the other; without data its size is found so. */
typedef struct sara_applied_room {
    char *data;
    size_t used;
} sara_applied_room;

struct sara_applied {
    sara_context *ctx;
    sara_params *params;
    sara_base base;
    bool away;                  /* the parameters' values are not in memory, nothing is covered */
    sara_applied_layer *layers; /* in an order that depends on their content alone */
    size_t count, capacity;
    sara_applied_cursor *cursors; /* [cursor_capacity], at least one for each layer */
    size_t cursor_capacity;
    char *room; /* [room_bytes] that writing any covered parameter needs: taking off takes none */
    size_t room_bytes;
    sara_cover *covers; /* one for each parameter */
};

/* Copies what an adapter changes, which sara_adapter_check() has passed. */
SARA_NODISCARD sara_status sara_applied_layer_new(sara_applied *applied, sara_applied_layer *out,
                                                  const sara_adapter *adapter, double strength);
/* Takes the file's memory over. Layers that do not fit the parameters are SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_applied_layer_low(sara_applied *applied, sara_applied_layer *out,
                                                  sara_lora_file *file, double strength);
/* Takes the bottlenecks over, of which *beside is empty then. */
SARA_NODISCARD sara_status sara_applied_layer_beside(sara_applied *applied, sara_applied_layer *out,
                                                     struct sara_bottlenecks *beside,
                                                     double strength);
void sara_applied_layer_free(sara_applied_layer *layer);
/* By strength, then content; 0 only for equal layers. */
int sara_applied_layer_compare(const sara_applied_layer *a, const sara_applied_layer *b);
SARA_NODISCARD sara_status sara_applied_layer_hash(sara_sha256 *hash,
                                                   const sara_applied_layer *layer);

/* applied_beside.c. Attaches the bottlenecks of all layers in their order, those of strength 0 not
 * at all. */
SARA_NODISCARD sara_status sara_applied_attach(sara_applied *applied);

/* applied_cover.c. What will cover a layer's entry beside what the cover covers, without changing
 * anything; *out stays empty where the cover does. sara_cover_free() until it is installed. */
SARA_NODISCARD sara_status sara_cover_prepare(sara_context *ctx, sara_cover *out,
                                              const sara_cover *cover,
                                              const sara_applied_entry *entry,
                                              const sara_param *param);
/* In the older one's place; *prepared is empty then. Only a device with memory of its own can
 * fail. */
SARA_NODISCARD sara_status sara_cover_install(sara_context *ctx, sara_cover *cover,
                                              sara_cover *prepared, sara_param *param);
/* Gives a parameter that is covered as a whole its own memory again. */
void sara_cover_take_off(sara_context *ctx, sara_cover *cover, sara_param *param);
void sara_cover_free(sara_context *ctx, sara_cover *cover, const sara_param *param);
/* The original of a parameter that is covered as a whole, for sara_param_read(). */
sara_param sara_cover_original(const sara_cover *cover, const sara_param *param);

/* applied_write.c. 64-byte aligned; NULL while the size is found. */
void *sara_applied_take(sara_applied_room *room, size_t count, size_t size);
/* The room for writing what the layer, one of the set, covers; before it does. */
SARA_NODISCARD sara_status sara_applied_reserve(sara_applied *applied,
                                                const sara_applied_layer *layer);
/* What the layers make of a covered parameter, in the room reserved. Only a device with memory of
 * its own can fail. */
SARA_NODISCARD sara_status sara_applied_write(sara_applied *applied, size_t index);

/* applied_low.c. A low-rank change of a weight [out][cols], ready for its rows. */
typedef struct sara_low_change {
    const sara_lora_layer *layer;
    int64_t cols;
    float *down;    /* [rank][cols], with mid multiplied in; the layer's own where there is none */
    float *product; /* what of down is its own memory; NULL: nothing */
    double *inputs; /* [in] by what DoRA multiplies what has this input; NULL: it goes by outputs */
    double *sums;   /* for these, of each band of rows, and each thread's band of changes */
    float *deltas;
} sara_low_change;
/* With its memory taken from the room; then, with the weight on the host, ready. */
void sara_low_change_lay(sara_low_change *out, const sara_lora_layer *layer, int threads,
                         sara_applied_room *room);
void sara_low_change_begin(sara_low_change *change, const sara_param *original, int threads);
/* Of `rows` rows from `first` on, whose originals are given: out [rows][cols]. */
void sara_low_change_rows(const sara_low_change *change, float *out, const float *original,
                          int64_t first, int64_t rows);

#endif
