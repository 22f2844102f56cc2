#include "models/models.h"

#include <stdio.h>
#include <stdlib.h>

/* How many names of each kind an error lists, and how much of a name it shows. */
#define LISTED 5
#define SHOWN  "%.160s"

typedef struct want {
    const char *name, *alias; /* alias NULL: none */
    sara_shape shape, also;   /* also of rank 0: none */
    sara_param **slot;
    const sara_tensor_info *found; /* while matching */
    bool buffer;                   /* no parameter */
} want;

struct sara_binder {
    sara_context *ctx;
    sara_device *device;
    sara_arena arena; /* names */
    want *wants;
    size_t count, capacity;
    const char **ignored; /* suffixes */
    size_t ignored_count, ignored_capacity;
    sara_storage storage;
};

sara_status sara_binder_new(sara_device *device, sara_binder **out)
{
    sara_status status = sara_alloc_zero(device->ctx, out, 1, sizeof(**out));
    if (status == SARA_OK) {
        (*out)->ctx = device->ctx;
        (*out)->device = device;
        sara_arena_init(&(*out)->arena, device->ctx);
    }
    return status;
}

void sara_binder_free(sara_binder *binder)
{
    if (!binder)
        return;
    sara_arena_free(&binder->arena);
    sara_free(binder->ctx, binder->wants);
    sara_free(binder->ctx, binder->ignored);
    sara_free(binder->ctx, binder);
}

void sara_binder_store(sara_binder *binder, sara_storage storage)
{
    binder->storage = storage;
}

/* --------------------------------------------------------------------------------- collecting */

sara_status sara_binder_want(sara_binder *binder, sara_param **slot, const sara_shape *shape,
                             const char *format, ...)
{
    char *name = NULL;
    va_list args, again;
    sara_status status;
    va_start(args, format);
    va_copy(again, args);
    int length = sara_print_args(NULL, 0, format, args);
    TRY(length < 0 ? sara_fail(binder->ctx, SARA_ERROR_MEMORY, "out of memory: %s", format)
                   : sara_arena_alloc(&binder->arena, &name, (size_t)length + 1, 1));
    sara_print_args(name, (size_t)length + 1, format, again);
    TRY(sara_grow(binder->ctx, &binder->wants, &binder->capacity, binder->count + 1,
                  sizeof(*binder->wants)));
    binder->wants[binder->count++] = (want){.name = name, .shape = *shape, .slot = slot};
done:
    va_end(args);
    va_end(again);
    return status;
}

sara_status sara_binder_want_buffer(sara_binder *binder, sara_param **slot, const sara_shape *shape,
                                    const char *name)
{
    sara_status status = sara_binder_want(binder, slot, shape, "%s", name);
    if (status == SARA_OK)
        binder->wants[binder->count - 1].buffer = true;
    return status;
}

/* Looked for from the end: what is said about a parameter follows its want. */
static sara_status find_want(sara_binder *binder, want **out, const char *name)
{
    for (size_t i = binder->count; i-- > 0;)
        if (strcmp(binder->wants[i].name, name) == 0) {
            *out = &binder->wants[i];
            return SARA_OK;
        }
    return sara_fail(binder->ctx, SARA_ERROR_USAGE, "no parameter named " SHOWN " is wanted", name);
}

sara_status sara_binder_alias(sara_binder *binder, const char *name, const char *file_name)
{
    want *wanted;
    sara_status status = find_want(binder, &wanted, name);
    return status == SARA_OK ? sara_arena_strdup(&binder->arena, &wanted->alias, file_name)
                             : status;
}

sara_status sara_binder_also_shape(sara_binder *binder, const char *name, const sara_shape *shape)
{
    want *wanted;
    sara_status status = find_want(binder, &wanted, name);
    if (status == SARA_OK)
        wanted->also = *shape;
    return status;
}

sara_status sara_binder_ignore(sara_binder *binder, const char *suffix)
{
    const char *copy;
    sara_status status;
    TRY(sara_arena_strdup(&binder->arena, &copy, suffix));
    TRY(sara_grow(binder->ctx, &binder->ignored, &binder->ignored_capacity,
                  binder->ignored_count + 1, sizeof(*binder->ignored)));
    binder->ignored[binder->ignored_count++] = copy;
done:
    return status;
}

/* --------------------------------------------------------------------------------- comparing */

/* The first few names of a kind of fault. */
typedef struct listing {
    size_t count, used;
    char text[LISTED * 540];
} listing;

/* Where a text of `length` more characters ends in a buffer that cut it. */
static size_t binder_clamp(size_t used, int length, size_t size)
{
    used += length > 0 ? (size_t)length : 0;
    return used < size ? used : size - 1;
}

static void list(listing *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void list(listing *to, const char *format, ...)
{
    const size_t size = sizeof(to->text);
    va_list args;
    if (to->count++ >= LISTED)
        return;
    int length = snprintf(to->text + to->used, size - to->used, "%s", to->used ? ", " : "");
    to->used = binder_clamp(to->used, length, size);
    va_start(args, format);
    length = sara_print_args(to->text + to->used, size - to->used, format, args);
    va_end(args);
    to->used = binder_clamp(to->used, length, size);
}

static int by_file_name(const void *a, const void *b)
{
    const want *const *first = a, *const *second = b;
    return strcmp((*first)->found->name, (*second)->found->name);
}

static int name_of(const void *key, const void *element)
{
    const want *const *wanted = element;
    return strcmp(key, (*wanted)->found->name);
}

static bool is_ignored(const sara_binder *binder, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < binder->ignored_count; i++) {
        size_t suffix = strlen(binder->ignored[i]);
        if (length >= suffix && strcmp(name + length - suffix, binder->ignored[i]) == 0)
            return true;
    }
    return false;
}

/* Finds the wanted tensors; order [binder->count] gets those that are there, *count of them, by
 * name. */
static sara_status binder_resolve(sara_binder *binder, want **order, size_t *count,
                                  const sara_weights *weights, listing *missing)
{
    size_t found = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < binder->count; i++) {
        want *wanted = &binder->wants[i];
        sara_name name;
        wanted->found = sara_weights_find(weights, wanted->name);
        if (!wanted->found && wanted->alias)
            wanted->found = sara_weights_find(weights, wanted->alias);
        if (wanted->found)
            order[found++] = wanted;
        if (wanted->found || !sara_weights_is_told_of(weights, wanted->name))
            continue;
        TRY(sara_weights_name_in_file(weights, &name, wanted->name));
        list(missing, SHOWN, name.text);
    }
    if (found)
        qsort(order, found, sizeof(*order), by_file_name);
    *count = found;
done:
    return status;
}

static void compare_shapes(want *const *order, size_t count, const sara_weights *weights,
                           listing *misshapen)
{
    sara_shape_text got, expected;
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *found = order[i]->found, *stored = sara_weights_in_file(found);
        const sara_shape shape = sara_weights_shape_in_file(found, &order[i]->shape);
        if (sara_shape_equal(&found->shape, &order[i]->shape) ||
            (order[i]->also.rank && sara_shape_equal(&found->shape, &order[i]->also)) ||
            !sara_weights_is_told_of(weights, found->name))
            continue;
        list(misshapen, SHOWN ": shape %s, expected %s", stored->name,
             sara_shape_format(&got, &stored->shape), sara_shape_format(&expected, &shape));
    }
}

/* Also a second tensor of one name, which a single file may hold under either layout's. */
static void find_extra(const sara_binder *binder, want *const *order, size_t count,
                       const sara_weights *weights, listing *extra)
{
    for (size_t i = 0; i < sara_weights_count(weights); i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        want *const *wanted =
            count ? bsearch(info->name, order, count, sizeof(*order), name_of) : NULL;
        if ((!wanted || (*wanted)->found != info) && !is_ignored(binder, info->name))
            list(extra, SHOWN, sara_weights_in_file(info)->name);
    }
}

/* What to do about tensors of 8- and 4-bit weights that are not read. */
static const char *quantised_hint(const sara_weights *weights)
{
    static const char ending[] = ".comfy_quant";
    for (size_t i = 0; i < sara_weights_count(weights); i++) {
        const char *name = sara_weights_at(weights, i)->name;
        size_t length = strlen(name), tail = strlen(ending);
        if (length >= tail && strcmp(name + length - tail, ending) == 0)
            return "; ComfyUI's quantisation (comfy_quant) is not read: take the model in fp16 or "
                   "bf16, or in plain fp8";
    }
    return "";
}

/* Where the file and the network disagree, one line with the first of each kind. */
static sara_status binder_compare(sara_binder *binder, want **order, const sara_weights *weights)
{
    listing missing = {0}, misshapen = {0}, extra = {0};
    size_t found = 0;
    sara_status status;
    TRY(binder_resolve(binder, order, &found, weights, &missing));
    compare_shapes(order, found, weights, &misshapen);
    find_extra(binder, order, found, weights, &extra);
    if (!missing.count && !misshapen.count && !extra.count)
        return SARA_OK;
    const listing *kinds[] = {&missing, &misshapen, &extra};
    const char *names[] = {"missing", "misshapen", "not expected"};
    char text[sizeof(missing.text) * 3 + 128];
    size_t used = 0;
    for (int i = 0; i < 3; i++)
        if (kinds[i]->count)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%zu %s (%s%s)",
                                     used ? "; " : "", kinds[i]->count, names[i], kinds[i]->text,
                                     kinds[i]->count > LISTED ? ", ..." : "");
    status = sara_fail(binder->ctx, SARA_ERROR_INPUT, "%s: the tensors do not fit the config: %s%s",
                       sara_weights_path(weights), text, quantised_hint(weights));
done:
    return status;
}

/* ---------------------------------------------------------------------------------- matching */

/* Biases and norms are small, and their kernels take floats. A buffer is as the file has it, where
 * it is not to be narrower: nothing is computed with it but a sum. */
static sara_dtype dtype_in_memory(const sara_binder *binder, const want *wanted, sara_dtype stored)
{
    bool as_stored = wanted->buffer && binder->storage == SARA_STORE_F32;
    if (wanted->shape.rank < 2)
        return SARA_F32;
    switch (as_stored ? SARA_STORE_AUTO : binder->storage) {
    case SARA_STORE_F16:
    case SARA_STORE_EXACT_F16:
        return SARA_F16;
    case SARA_STORE_BF16:
    case SARA_STORE_EXACT_BF16:
        return SARA_BF16;
    case SARA_STORE_AUTO:
    case SARA_STORE_EXACT:
        stored = sara_dtype_widened(stored);
        return stored == SARA_F16 || stored == SARA_BF16 ? stored : SARA_F32;
    default:
        return SARA_F32;
    }
}

/* All but the values. */
static sara_status match_param(const sara_binder *binder, sara_param *param,
                               const sara_weights *weights, const want *wanted)
{
    const sara_tensor_info *info = wanted->found;
    char *name = NULL;
    sara_status status;
    TRY(sara_strdup(binder->ctx, &name, info->name));
    param->name = name;
    param->stored = info->dtype;
    param->device = binder->device;
    param->value.dtype = dtype_in_memory(binder, wanted, info->dtype);
    param->value.shape = info->shape;
    param->as_floats = binder->storage >= SARA_STORE_EXACT;
    TRY(sara_weights_check(weights, info));
done:
    return status;
}

static int by_kind(const void *a, const void *b)
{
    const want *const *first = a, *const *second = b;
    int kinds = (*first)->buffer - (*second)->buffer;
    return kinds ? kinds : by_file_name(a, b);
}

/* The slots are filled, and the buffers, which are the last, told apart. */
static void give_out(const sara_binder *binder, want *const *order, sara_params *made)
{
    for (size_t i = 0; i < binder->count; i++) {
        *order[i]->slot = &made->items[i];
        made->buffers += order[i]->buffer;
    }
    made->count -= made->buffers;
}

sara_status sara_binder_match(sara_binder *binder, sara_params *params, const sara_weights *weights)
{
    sara_params matched = {0};
    want **order = NULL;
    sara_status status;
    TRY(sara_alloc(binder->ctx, &order, binder->count, sizeof(*order)));
    TRY(binder_compare(binder, order, weights));
    if (binder->count)
        qsort(order, binder->count, sizeof(*order), by_kind);
    TRY(sara_params_new(binder->ctx, &matched, binder->count));
    for (size_t i = 0; i < matched.count; i++)
        TRY(match_param(binder, &matched.items[i], weights, order[i]));
    give_out(binder, order, &matched);
    *params = matched;
    matched = (sara_params){0};
done:
    sara_params_free(binder->ctx, &matched);
    sara_free(binder->ctx, order);
    return status;
}

/* ----------------------------------------------------------------------------------- drawing */

int64_t sara_binder_entries(const sara_binder *binder)
{
    int64_t entries = 0;
    for (size_t i = 0; i < binder->count; i++)
        entries += binder->wants[i].buffer ? 0 : sara_shape_count(&binder->wants[i].shape);
    return entries;
}

static int by_name(const void *a, const void *b)
{
    const want *const *first = a, *const *second = b;
    int kinds = (*first)->buffer - (*second)->buffer;
    return kinds ? kinds : strcmp((*first)->name, (*second)->name);
}

static sara_status new_param(const sara_binder *binder, sara_param *param, const want *wanted)
{
    sara_context *ctx = binder->ctx;
    char *name = NULL;
    sara_status status;
    TRY(sara_strdup(ctx, &name, wanted->name));
    param->name = name;
    param->stored = dtype_in_memory(binder, wanted, SARA_F32);
    TRY(sara_param_alloc(param, binder->device, param->stored, &wanted->shape));
done:
    return status;
}

sara_status sara_binder_draw(sara_binder *binder, sara_params *params, uint64_t seed)
{
    sara_context *ctx = binder->ctx;
    sara_params drawn = {0};
    want **order = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &order, binder->count, sizeof(*order)));
    for (size_t i = 0; i < binder->count; i++)
        order[i] = &binder->wants[i];
    if (binder->count)
        qsort(order, binder->count, sizeof(*order), by_name);
    TRY(sara_params_new(ctx, &drawn, binder->count));
    for (size_t i = 0; i < drawn.count; i++)
        TRY(new_param(binder, &drawn.items[i], order[i]));
    TRY(sara_params_draw(ctx, &drawn, seed));
    give_out(binder, order, &drawn);
    *params = drawn;
    drawn = (sara_params){0};
done:
    sara_params_free(ctx, &drawn);
    sara_free(ctx, order);
    return status;
}
