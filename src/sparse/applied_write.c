/* What layers make of a parameter: its original and their changes, summed up in double in the
 * layers' order. */
#include "sparse/applied.h"

#include <math.h>

#define WHOLE_ENTRIES 8192 /* of a block of rows, */
#define LEAST_ROWS    6    /* which has so many, for products' sake */
#define ALIGNMENT     64   /* of what is taken of a room */

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

/* A thread's own, [block][cols] each. */
typedef struct whole_room {
    float *original, *change;
    double *changes;   /* what the layers add up to, */
    applied_sum *sums; /* or where none is of low rank */
} whole_room;

/* Rows of a parameter, some of which a thread has at a time. */
typedef struct whole_writing {
    const sara_applied_cursor *cursors;
    size_t count;
    sara_low_change *changes;    /* [count]; of cursors at positions nothing */
    int threads;
    bool low;                    /* some layer changes all entries, so that none is exact */
    const sara_tensor *original; /* on the host, as is copy */
    sara_param *copy;
    int64_t rows, cols, block; /* block: rows that are written together */
    whole_room rooms;          /* of all threads */
} whole_writing;

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

static void write_all_rows(const whole_writing *w)
{
    int64_t entries = w->block * w->cols;
#pragma omp parallel for num_threads(w->threads) schedule(static, 1)
    for (int t = 0; t < w->threads; t++) {
        const whole_room room = {w->rooms.original + t * entries, w->rooms.change + t * entries,
                                 w->rooms.changes + t * entries, w->rooms.sums + t * entries};
        for (int64_t first = t * w->block; first < w->rows; first += w->threads * w->block)
            write_rows(w, &room, first);
    }
}

/* ------------------------------------------------------------------------------------- its room */

void *sara_applied_take(sara_applied_room *room, size_t count, size_t size)
{
    char *piece = room->data ? room->data + room->used : NULL;
    room->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return piece;
}

static void lay_whole_out(const sara_applied *applied, whole_writing *w, const sara_shape *shape,
                          size_t cursors, sara_applied_room *room)
{
    *w = (whole_writing){.cursors = applied->cursors, .count = cursors};
    w->threads = sara_threads(applied->ctx);
    w->rows = shape->rank > 0 ? shape->dims[0] : 1;
    w->cols = sara_shape_count(shape) / w->rows;
    w->block = w->cols * LEAST_ROWS < WHOLE_ENTRIES ? WHOLE_ENTRIES / w->cols : LEAST_ROWS;
    size_t entries = (size_t)(w->threads * w->block * w->cols);
    w->rooms.original = sara_applied_take(room, entries, sizeof(float));
    w->rooms.change = sara_applied_take(room, entries, sizeof(float));
    w->rooms.changes = sara_applied_take(room, entries, sizeof(double));
    w->rooms.sums = sara_applied_take(room, entries, sizeof(applied_sum));
    w->changes = sara_applied_take(room, cursors, sizeof(*w->changes));
    for (size_t c = 0; c < cursors; c++) {
        sara_low_change change;
        if (!w->cursors[c].entry->low)
            continue;
        sara_low_change_lay(&change, w->cursors[c].entry->low, w->threads, room);
        if (w->changes)
            w->changes[c] = change;
        w->low = true;
    }
}

sara_status sara_applied_reserve(sara_applied *applied, const sara_applied_layer *layer)
{
    size_t most = 0;
    char *room;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < layer->count; i++) {
        size_t param = layer->entries[i].param;
        sara_applied_room needed = {NULL, 0};
        whole_writing w;
        if (layer->entries[i].low || applied->covers[param].whole.data)
            lay_whole_out(applied, &w, &applied->params->items[param].value.shape,
                          collect_cursors(applied, param), &needed);
        most = needed.used > most ? needed.used : most;
    }
    if (most <= applied->room_bytes)
        return SARA_OK;
    TRY(sara_alloc(applied->ctx, &room, most, 1));
    sara_free(applied->ctx, applied->room);
    applied->room = room;
    applied->room_bytes = most;
done:
    return status;
}

/* original: on the host. */
static void write_whole(const sara_applied *applied, sara_param *copy, const sara_param *original,
                        size_t cursors)
{
    sara_applied_room room = {applied->room, 0};
    whole_writing w;
    lay_whole_out(applied, &w, &original->value.shape, cursors, &room);
    SARA_ASSERT(room.used <= applied->room_bytes);
    w.copy = copy;
    w.original = &original->value;
    for (size_t c = 0; c < cursors; c++)
        if (w.cursors[c].entry->low)
            sara_low_change_begin(&w.changes[c], original, w.threads);
    write_all_rows(&w);
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
        write_whole(applied, &copy, &base, cursors);
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
