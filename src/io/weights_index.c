#include "io/weights.h"

#include <stdlib.h>

#define MOST_SHARDS 1000

/* Names a file directly in the folder, which may be a link to anywhere, as in a hub cache. */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           !strchr(name, '/');
}

static sara_status add_shard(sara_weights *weights, const char *folder, const char *name)
{
    char *path = NULL;
    sara_safetensors *file = NULL;
    sara_status status;
    if (weights->file_count == MOST_SHARDS)
        return sara_fail(weights->ctx, SARA_ERROR_INPUT, "%s: weight_map: more than %d shards",
                         weights->path, MOST_SHARDS);
    TRY(sara_path_join(weights->ctx, &path, folder, name));
    TRY(sara_safetensors_open(weights->ctx, &file, path));
    TRY(sara_weights_add(weights, file));
done:
    sara_free(weights->ctx, path);
    return status;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards' names as the map gives them, sorted; borrowed from the map. */
static sara_status list_shards(sara_weights *weights, const char ***out, size_t *count,
                               const json_t *map)
{
    const char **names = NULL, *key;
    const json_t *value;
    size_t used = 0;
    sara_status status;
    TRY(sara_alloc(weights->ctx, &names, json_object_size(map), sizeof(const char *)));
    json_object_foreach((json_t *)map, key, value)
    {
        const char *name = json_string_value(value);
        if (!name || !is_plain_name(name)) {
            status = sara_fail(weights->ctx, SARA_ERROR_INPUT,
                               "%s: weight_map: %.200s: %s%.200s%s, expected a file name in the "
                               "same folder",
                               weights->path, key, name ? "\"" : "", name ? name : "not a string",
                               name ? "\"" : "");
            goto done;
        }
        names[used++] = name;
    }
    if (used > 1)
        qsort(names, used, sizeof(const char *), compare_strings);
    *out = names;
    *count = used;
    names = NULL;
done:
    sara_free(weights->ctx, names);
    return status;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Every tensor of every shard is in the map and under that shard's name. */
static sara_status check_tensors(const sara_weights *weights, const json_t *map)
{
    for (size_t i = 0; i < weights->count; i++) {
        const sara_weight *item = &weights->items[i];
        const char *shard = file_name(sara_safetensors_path(item->file));
        const char *mapped = json_string_value(json_object_get(map, item->info.name));
        if (!mapped || strcmp(mapped, shard) != 0)
            return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                             "%s: weight_map: %.200s: %s, but %s holds that tensor", weights->path,
                             item->info.name, mapped ? mapped : "missing", shard);
    }
    return SARA_OK;
}

/* Every tensor of the map is in the shard that it names. After check_tensors() the shards' tensors
 * are among the map's, so that equal numbers settle it. */
static sara_status check_map(const sara_weights *weights, const json_t *map)
{
    const char *key;
    const json_t *value;
    if (json_object_size(map) == weights->count)
        return SARA_OK;
    json_object_foreach((json_t *)map, key, value)
    {
        const char *name = json_string_value(value);
        for (size_t i = 0; i < weights->file_count; i++) {
            const sara_safetensors *file = weights->files[i];
            if (strcmp(file_name(sara_safetensors_path(file)), name) == 0 &&
                !sara_safetensors_find(file, key))
                return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                                 "%s: weight_map: %.200s: %.200s has no such tensor", weights->path,
                                 key, name);
        }
    }
    return SARA_OK;
}

sara_status sara_weights_add_shards(sara_weights *weights, const char *folder)
{
    json_t *index = NULL;
    const char **names = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_json_load(weights->ctx, &index, weights->path, false));
    const json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        status = sara_fail(weights->ctx, SARA_ERROR_INPUT,
                           "%s: weight_map: %s, expected an object of tensor and file names",
                           weights->path, json_is_object(map) ? "empty" : "not an object");
        goto done;
    }
    TRY(list_shards(weights, &names, &count, map));
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(names[i - 1], names[i]) != 0)
            TRY(add_shard(weights, folder, names[i]));
    TRY(check_tensors(weights, map));
    TRY(check_map(weights, map));
done:
    sara_free(weights->ctx, names);
    json_decref(index);
    return status;
}
