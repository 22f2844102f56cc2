#include "io/io.h"

void sara_metadata_list_init(sara_metadata_list *list, sara_context *ctx)
{
    *list = (sara_metadata_list){.items = NULL};
    sara_arena_init(&list->arena, ctx);
}

void sara_metadata_list_free(sara_metadata_list *list)
{
    if (!list->arena.ctx)
        return;
    sara_free(list->arena.ctx, list->items);
    sara_arena_free(&list->arena);
}

static sara_metadata *metadata_find(const sara_metadata_list *list, const char *key)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].key, key) == 0)
            return &list->items[i];
    return NULL;
}

sara_status sara_metadata_list_set(sara_metadata_list *list, const char *key, const char *value)
{
    sara_metadata *item = metadata_find(list, key);
    sara_metadata fresh;
    sara_status status;
    TRY(sara_arena_strdup(&list->arena, &fresh.value, value));
    if (item) {
        item->value = fresh.value;
        return SARA_OK;
    }
    TRY(sara_arena_strdup(&list->arena, &fresh.key, key));
    TRY(sara_grow(list->arena.ctx, &list->items, &list->capacity, list->count + 1, sizeof(fresh)));
    list->items[list->count++] = fresh;
done:
    return status;
}

sara_status sara_metadata_list_add(sara_metadata_list *list, const char *key, const char *format,
                                   ...)
{
    char value[1024];
    va_list args;
    va_start(args, format);
    sara_print_args(value, sizeof(value), format, args);
    va_end(args);
    return sara_metadata_list_set(list, key, value);
}
