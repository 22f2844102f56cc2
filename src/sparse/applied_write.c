/* What layers make of a parameter: its original and their changes, summed up in double in the
 * layers' order. */
#include "sparse/applied.h"

#include <math.h>

#define WHOLE_ENTRIES 8192 /* of a block of rows, */
#define LEAST_ROWS    6    /* which has so many, for products' sake */

static size_t collect_cursors(sara_applied *applied, size_t param)
{
    size_t used = 0;
    for (size_t i = 0; i < applied->count && !applied->away; i++) {
        const sara_applied_layer *layer = &applied->layers[i];
        for (size_t e = 0; e < layer->count && layer->strength != 0; e++)
            if (layer->entries[e].param == param)
                applied->cursors[used++] =
                    (sara_applied_cursor){layer->strength, &layer->entries[e], 0};
    }
    return used;
}

/* Changes of one entry. */
typedef struct applied_sum {
    double sum;
    float value; /* of the last one */
    int changes;
    bool full; /* the last one is at strength 1 and the value itself */
} applied_sum;

static void add_value(applied_sum *sum, double strength, float value, float original)
{
    sum->value = value;
    sum->sum += strength * ((double)value - (double)original);
    sum->full = strength == 1;
    sum->changes++;
}

/* original + the sum of the changes; alone at strength 1 the value itself (*exact), as is the
 * original where nothing changes it. */
static float finish_sum(const applied_sum *sum, float original, bool *exact)
{
    *exact = sum->changes == 0 || (sum->changes == 1 && sum->full);
    if (sum->changes == 0)
        return original;
    return *exact ? sum->value : (float)((double)original + sum->sum);
}

/* A change that comes to nothing leaves a -0 as it is, as strength 0 does. */
static void store_sum(sara_param *copy, size_t position, const applied_sum *sum, float original)
{
    bool exact;
    sara_param_set(copy, position, finish_sum(sum, original, &exact));
    if (!exact && sara_param_get(copy, position) == original)
        sara_param_set(copy, position, original);
}

static void write_positions(sara_applied *applied, sara_param *copy, const sara_cover *cover,
                            size_t cursors)
{
    for (size_t i = 0; i < cover->count; i++) {
        uint32_t position = cover->positions[i];
        applied_sum sum = {0};
        SARA_ASSERT(i == 0 || cover->positions[i - 1] < position);
        for (size_t c = 0; c < cursors; c++) {
            sara_applied_cursor *cursor = &applied->cursors[c];
            if (cursor->at < cursor->entry->count &&
                cursor->entry->positions[cursor->at] == position)
                add_value(&sum, cursor->strength, cursor->entry->values[cursor->at++],
                          cover->originals[i]);
        }
        store_sum(copy, position, &sum, cover->originals[i]);
    }
}

/* ----------------------------------------------------------------------------- whole parameters */

/* Rows of a parameter, some of which a thread has at a time. */
typedef struct whole_writing {
    const sara_applied_cursor *cursors;
    size_t count;
    sara_low_change *changes;    /* [count]; of cursors at positions nothing */
    bool low;                    /* some layer changes all entries, so that none is exact */
    const sara_tensor *original; /* on the host, as is copy */
    sara_param *copy;
    int64_t rows, cols, block; /* block: rows that are written together */
} whole_writing;

/* A thread's own, [block][cols] each. */
typedef struct whole_room {
    float *original, *change;
    double *changes;   /* what the layers add up to, */
    applied_sum *sums; /* or where none is of low rank */
} whole_room;

/* The first position that is not before `from`. */
static size_t lower_bound(const sara_applied_entry *entry, size_t from)
{
    size_t low = 0, high = entry->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entry->positions[middle] < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void add_positions(const whole_room *room, const sara_applied_cursor *cursor, size_t from,
                          size_t entries, bool low)
{
    const sara_applied_entry *entry = cursor->entry;
    for (size_t at = lower_bound(entry, from);
         at < entry->count && entry->positions[at] < from + entries; at++) {
        size_t i = entry->positions[at] - from;
        double change = (double)entry->values[at] - (double)room->original[i];
        room->changes[i] += cursor->strength * change;
        if (!low)
            add_value(&room->sums[i], cursor->strength, entry->values[at], room->original[i]);
    }
}

/* As store_sum() of a sum that is not exact. */
static void store_changes(const whole_writing *w, const whole_room *room, size_t from,
                          size_t entries)
{
    float *to = w->copy->value.dtype == SARA_F32 ? (float *)w->copy->value.data + from : NULL;
    for (size_t i = 0; to && i < entries; i++) {
        float original = room->original[i], value = (float)((double)original + room->changes[i]);
        to[i] = value == original ? original : value;
    }
    for (size_t i = 0; !to && i < entries; i++)
        store_sum(w->copy, from + i, &(applied_sum){room->changes[i], 0, 1, false},
                  room->original[i]);
}

static void write_rows(const whole_writing *w, const whole_room *room, int64_t first)
{
    int64_t rows = w->rows - first < w->block ? w->rows - first : w->block;
    size_t from = (size_t)(first * w->cols), entries = (size_t)(rows * w->cols);
    size_t size = sara_dtype_size(w->original->dtype);
    sara_convert_to_f32(room->original, (const char *)w->original->data + from * size,
                        w->original->dtype, entries);
    memset(room->changes, 0, entries * sizeof(*room->changes));
    memset(room->sums, 0, w->low ? 0 : entries * sizeof(*room->sums));
    for (size_t c = 0; c < w->count; c++) {
        if (!w->cursors[c].entry->low) {
            add_positions(room, &w->cursors[c], from, entries, w->low);
            continue;
        }
        sara_low_change_rows(&w->changes[c], room->change, room->original, first, rows);
        for (size_t i = 0; i < entries; i++)
            room->changes[i] += w->cursors[c].strength * (double)room->change[i];
    }
    if (w->low)
        store_changes(w, room, from, entries);
    for (size_t i = 0; !w->low && i < entries; i++)
        store_sum(w->copy, from + i, &room->sums[i], room->original[i]);
}

static void free_rooms(sara_context *ctx, whole_room *rooms, int count)
{
    for (int i = 0; rooms && i < count; i++) {
        sara_free(ctx, rooms[i].original);
        sara_free(ctx, rooms[i].change);
        sara_free(ctx, rooms[i].changes);
        sara_free(ctx, rooms[i].sums);
    }
    sara_free(ctx, rooms);
}

static sara_status new_rooms(sara_context *ctx, whole_room **out, int count, size_t entries)
{
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, (size_t)count, sizeof(**out)));
    for (int i = 0; i < count; i++) {
        TRY(sara_alloc(ctx, &(*out)[i].original, entries, sizeof(float)));
        TRY(sara_alloc(ctx, &(*out)[i].change, entries, sizeof(float)));
        TRY(sara_alloc(ctx, &(*out)[i].changes, entries, sizeof(double)));
        TRY(sara_alloc(ctx, &(*out)[i].sums, entries, sizeof(applied_sum)));
    }
done:
    return status;
}

static sara_status write_all_rows(sara_context *ctx, const whole_writing *w)
{
    int threads = sara_threads(ctx);
    whole_room *rooms = NULL;
    sara_status status;
    TRY(new_rooms(ctx, &rooms, threads, (size_t)(w->block * w->cols)));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (int64_t first = t * w->block; first < w->rows; first += threads * w->block)
            write_rows(w, &rooms[t], first);
done:
    free_rooms(ctx, rooms, threads);
    return status;
}

/* original: on the host. */
static sara_status write_whole(sara_applied *applied, sara_param *copy, const sara_param *original,
                               size_t cursors)
{
    sara_context *ctx = applied->ctx;
    const sara_shape *shape = &original->value.shape;
    whole_writing w = {.cursors = applied->cursors, .count = cursors, .copy = copy};
    sara_status status;
    w.original = &original->value;
    w.rows = shape->rank > 0 ? shape->dims[0] : 1;
    w.cols = sara_shape_count(shape) / w.rows;
    w.block = w.cols * LEAST_ROWS < WHOLE_ENTRIES ? WHOLE_ENTRIES / w.cols : LEAST_ROWS;
    TRY(sara_alloc_zero(ctx, &w.changes, cursors, sizeof(*w.changes)));
    for (size_t c = 0; c < cursors; c++)
        if (w.cursors[c].entry->low) {
            TRY(sara_low_change_begin(ctx, &w.changes[c], w.cursors[c].entry->low, original));
            w.low = true;
        }
    TRY(write_all_rows(ctx, &w));
done:
    for (size_t c = 0; w.changes && c < cursors; c++)
        sara_low_change_end(ctx, &w.changes[c]);
    sara_free(ctx, w.changes);
    return status;
}

sara_status sara_applied_write(sara_applied *applied, size_t index)
{
    sara_param *param = &applied->params->items[index], copy = {0}, base = {0};
    const sara_cover *cover = &applied->covers[index];
    const sara_param original = sara_cover_original(cover, param);
    size_t cursors = collect_cursors(applied, index);
    sara_status status;
    TRY(sara_param_read(applied->ctx, &copy, param));
    if (cover->whole.data) {
        TRY(sara_param_read(applied->ctx, &base, &original));
        TRY(write_whole(applied, &copy, &base, cursors));
    } else {
        write_positions(applied, &copy, cover, cursors);
    }
    TRY(sara_param_write(param, &copy));
    param->version++;
done:
    if (cover->whole.data)
        sara_param_read_end(applied->ctx, &base, &original);
    sara_param_read_end(applied->ctx, &copy, param);
    return status;
}
