/* A benchmark's results as JSON. */
#include "train/bench.h"

#include <math.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------ kinds */

typedef struct kind {
    const char *name;
    double seconds, flops;
    int64_t calls;
} kind;

#define MAX_KINDS 64

typedef struct kinds {
    kind items[MAX_KINDS];
    size_t count;
} kinds;

static void add_event(kinds *all, const sara_trace_event *event)
{
    const char *name = strcmp(event->kind, SARA_BENCH_STEP) == 0 ? "other" : event->kind;
    size_t i = 0;
    while (i < all->count && strcmp(all->items[i].name, name) != 0)
        i++;
    if (i == MAX_KINDS)
        i--; /* more kinds than there are; the last takes them */
    else if (i == all->count)
        all->items[all->count++] = (kind){.name = name};
    all->items[i].seconds += event->own;
    all->items[i].flops += event->flops;
    all->items[i].calls++;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const kind *)a)->seconds, y = ((const kind *)b)->seconds;
    return (x < y) - (x > y);
}

/* Of the best step, those that took longest first. */
static void sum_up(kinds *all, const bench *b)
{
    size_t count;
    const sara_trace_event *events = sara_trace_events(b->ctx, &count);
    const bench_step *best = &b->steps[b->best];
    for (size_t i = best->first; i < best->end && i < count; i++)
        add_event(all, &events[i]);
    if (all->count)
        qsort(all->items, all->count, sizeof(*all->items), by_time);
}

/* --------------------------------------------------------------------------------------- JSON */

/* To a multiple of 1 / parts. */
static double bench_rounded(double value, double parts)
{
    return round(value * parts) / parts;
}

static json_t *seconds_json(const bench *b, bool processor)
{
    json_t *list = json_array();
    for (int i = 0; i < b->options->steps; i++) {
        double seconds = processor ? b->steps[i].processor_seconds : b->steps[i].seconds;
        if (json_array_append_new(list, json_real(bench_rounded(seconds, 1e3))) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *kinds_json(const kinds *all)
{
    json_t *object = json_object();
    for (size_t i = 0; i < all->count; i++) {
        const kind *k = &all->items[i];
        double rate = k->seconds > 0 ? k->flops / k->seconds / 1e9 : 0;
        json_t *entry =
            json_pack("{s:f,s:I,s:f}", "seconds", bench_rounded(k->seconds, 1e6), "calls",
                      (json_int_t)k->calls, "gflops_per_second", bench_rounded(rate, 1e2));
        if (json_object_set_new(object, k->name, entry) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *memory_json(const bench *b)
{
    int64_t weights = sara_network_bytes(b->t.model->denoiser), optimizer = 0;
    if (b->t.optimizer)
        optimizer = (int64_t)sara_trainables_bytes(&b->t.optimizer->trainables);
    int64_t activations = (int64_t)sara_tape_peak(b->t.tape);
    int64_t other = b->peak_bytes - weights - optimizer - activations;
    return json_pack("{s:I,s:I,s:I,s:I}", "weights", (json_int_t)weights, "optimizer",
                     (json_int_t)optimizer, "activations", (json_int_t)activations, "other",
                     (json_int_t)(other > 0 ? other : 0));
}

/* NULL if memory ran out. */
static json_t *bench_report_json(bench *b)
{
    const sara_bench_options *o = b->options;
    kinds all = {.count = 0};
    double best = b->steps[b->best].seconds, flops = 0;
    sum_up(&all, b);
    for (size_t i = 0; i < all.count; i++)
        flops += all.items[i].flops;
    json_t *list = seconds_json(b, false), *processor = seconds_json(b, true);
    json_t *table = kinds_json(&all), *memory = memory_json(b);
    json_t *root = json_pack(
        "{s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:i,s:b,s:i,s:b,s:I,s:I,s:o,s:o,s:f,s:f,s:f,s:f,s:f,s:f,s:o,"
        "s:o}",
        "model", b->t.model->path, "method", o->method, "mixed_precision", o->mixed_precision,
        "weight_dtype", sara_storage_name(&b->t.model->denoiser->params), "latent", o->latent,
        "batch", o->batch, "text_length", (json_int_t)sara_bench_text_length(b), "threads",
        sara_threads(b->ctx), "checkpointing", b->t.checkpoint_levels > 0, "checkpointing_levels",
        b->t.checkpoint_levels, "disk_offload", o->disk_offload, "parameters",
        (json_int_t)sara_params_entries(&b->t.model->denoiser->params), "trainable",
        (json_int_t)b->t.selected, "seconds", list, "processor_seconds", processor, "best",
        bench_rounded(best, 1e3), "load_seconds", bench_rounded(b->load_seconds, 1e3),
        "flops_per_second", bench_rounded(flops / best, 1e-6), "peak_flops_per_second",
        bench_rounded(b->peak_flops, 1e-6), "peak_rss_gib",
        bench_rounded((double)b->peak_bytes / 1073741824.0, 1e3), "planned_gib",
        bench_rounded((double)b->t.planned_bytes / 1073741824.0, 1e3), "kinds", table, "memory",
        memory);
    if (root && !isnan(b->rank_seconds) &&
        json_object_set_new(root, "rank_seconds", json_real(bench_rounded(b->rank_seconds, 1e6))) !=
            0) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

sara_status sara_bench_report(bench *b, char **out)
{
    json_t *root = bench_report_json(b);
    char *text = root ? sara_json_dump(root, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    sara_status status = text ? sara_strdup(b->ctx, out, text)
                              : sara_fail(b->ctx, SARA_ERROR_MEMORY, "out of memory: report");
    free(text);
    json_decref(root);
    return status;
}
