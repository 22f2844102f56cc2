/* The embeddings of a folder: their names, in the order in which they are taken. */
#include "pipeline/embedding.h"

#include "core/number.h"

#define DEEPEST_FOLDER 16 /* links may lead in circles */

/* ---------------------------------------------------------------------------------------- lists */

/* The ending of an embedding's file; NULL: it is none. *pickled: one that is not read. */
static const char *ending_of(const char *name, bool *pickled)
{
    static const char *const endings[] = {".safetensors", ".pt", ".bin"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && dot > name && i < sizeof(endings) / sizeof(*endings); i++) {
        *pickled = i > 0;
        if (sara_text_same(dot, endings[i]))
            return dot;
    }
    return NULL;
}

static sara_status add_entry(sara_embedding_folder *folder, const char *path, const char *name,
                             const char *ending, bool pickled)
{
    sara_embedding_entry entry = {.pickled = pickled};
    char *stem = NULL;
    sara_status status;
    TRY(sara_arena_strdup(&folder->arena, &entry.path, path));
    entry.below = entry.path + strlen(folder->path) + 1;
    TRY(sara_format(folder->ctx, &stem, "%.*s", (int)(ending - name), name));
    TRY(sara_arena_strdup(&folder->arena, &entry.name, stem));
    TRY(sara_grow(folder->ctx, &folder->entries, &folder->capacity, folder->count + 1,
                  sizeof(*folder->entries)));
    folder->entries[folder->count++] = entry;
done:
    sara_free(folder->ctx, stem);
    return status;
}

static sara_status list_embeddings(sara_embedding_folder *folder, const char *path, int depth);

/* A file, or with folders a folder. */
static sara_status list_one(sara_embedding_folder *folder, const char *in, const char *name,
                            bool folders, int depth)
{
    char *path = NULL;
    bool pickled;
    sara_status status;
    TRY(sara_format(folder->ctx, &path, "%s/%s", in, name));
    const char *ending = ending_of(name, &pickled);
    if (sara_path_is_directory(path) != folders)
        status = SARA_OK;
    else if (folders)
        status = list_embeddings(folder, path, depth + 1);
    else if (ending)
        status = add_entry(folder, path, name, ending, pickled);
done:
    sara_free(folder->ctx, path);
    return status;
}

static sara_status list_embeddings(sara_embedding_folder *folder, const char *path, int depth)
{
    char **names = NULL;
    size_t count = 0;
    sara_status status;
    if (depth > DEEPEST_FOLDER)
        return sara_fail(folder->ctx, SARA_ERROR_INPUT,
                         "%s: is more than %d folders below that of the embeddings; does a link "
                         "lead in a circle?",
                         path, DEEPEST_FOLDER);
    TRY(sara_directory_list(folder->ctx, &names, &count, path));
    for (int folders = 0; folders < 2; folders++)
        for (size_t i = 0; i < count; i++)
            if (names[i][0] != '.')
                TRY(list_one(folder, path, names[i], folders, depth));
done:
    sara_directory_free(folder->ctx, names, count);
    return status;
}

/* Without slashes at its end. */
static sara_status take_path(sara_embedding_folder *folder, const char *path)
{
    size_t size = strlen(path);
    char *own = NULL;
    sara_status status;
    while (size > 1 && path[size - 1] == '/')
        size--;
    TRY(sara_format(folder->ctx, &own, "%.*s", (int)size, path));
    TRY(sara_arena_strdup(&folder->arena, &folder->path, own));
done:
    sara_free(folder->ctx, own);
    return status;
}

sara_status sara_embedding_folder_open(sara_context *ctx, sara_embedding_folder **out,
                                       const char *path)
{
    sara_embedding_folder *folder = NULL;
    sara_status status;
    *out = NULL;
    if (!sara_path_is_directory(path))
        return sara_fail(ctx, SARA_ERROR_IO, "%s: there is no such folder of embeddings", path);
    TRY(sara_alloc_zero(ctx, &folder, 1, sizeof(*folder)));
    folder->ctx = ctx;
    sara_arena_init(&folder->arena, ctx);
    TRY(take_path(folder, path));
    TRY(list_embeddings(folder, folder->path, 0));
    TRY(sara_arena_alloc(&folder->arena, &folder->found, folder->count, sizeof(*folder->found)));
    *out = folder;
    folder = NULL;
done:
    sara_embedding_folder_free(folder);
    return status;
}

void sara_embedding_folder_free(sara_embedding_folder *folder)
{
    if (!folder)
        return;
    sara_context *ctx = folder->ctx;
    for (size_t i = 0; i < folder->count; i++) {
        if (folder->entries[i].kept)
            sara_embedding_free(ctx, folder->entries[i].kept);
        sara_free(ctx, folder->entries[i].kept);
    }
    sara_free(ctx, folder->entries);
    sara_free(ctx, folder->ids);
    sara_arena_free(&folder->arena);
    sara_free(ctx, folder);
}

/* ------------------------------------------------------------------------------------- searches */

static void found_one(sara_embedding_folder *folder, size_t entry)
{
    folder->found[folder->found_count++] = entry;
}

/* Whether `path` of `length` bytes is the name, or ends with / and it. */
static bool path_ends_with(const char *path, size_t length, const char *name, size_t size)
{
    if (length < size || memcmp(path + length - size, name, size) != 0)
        return false;
    return length == size || path[length - size - 1] == '/';
}

void sara_embedding_find_path(sara_embedding_folder *folder, const char *name, size_t size)
{
    folder->found_count = 0;
    for (size_t i = 0; i < folder->count; i++) {
        const char *below = folder->entries[i].below;
        size_t length = strlen(below), bare = (size_t)(strrchr(below, '.') - below);
        if (path_ends_with(below, bare, name, size) || path_ends_with(below, length, name, size))
            found_one(folder, i);
    }
}

/* A file that cannot be read or is something else names nothing. */
static sara_status read_file_token(sara_embedding_folder *folder, sara_embedding_entry *entry)
{
    sara_embedding_file file = {.file = NULL};
    sara_status status = sara_embedding_open(folder->ctx, &file, entry->path);
    if (status == SARA_OK && file.token)
        status = sara_arena_strdup(&folder->arena, &entry->token, file.token);
    else if (status != SARA_OK && status != SARA_ERROR_MEMORY)
        status = SARA_OK;
    sara_safetensors_close(file.file);
    return status;
}

sara_status sara_embedding_find_token(sara_embedding_folder *folder, const char *token, size_t size)
{
    sara_status status = SARA_OK;
    folder->found_count = 0;
    for (size_t i = 0; i < folder->count && !folder->has_tokens; i++)
        if (!folder->entries[i].pickled)
            TRY(read_file_token(folder, &folder->entries[i]));
    folder->has_tokens = true;
    for (size_t i = 0; i < folder->count; i++) {
        const char *own = folder->entries[i].token;
        if (own && strlen(own) == size && memcmp(own, token, size) == 0)
            found_one(folder, i);
    }
done:
    return status;
}

static sara_status make_name_ids(sara_embedding_folder *folder, const sara_tokenizer *tokenizer)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < folder->count && !folder->has_ids; i++) {
        sara_embedding_entry *entry = &folder->entries[i];
        entry->id = folder->id_count;
        TRY(sara_tokenizer_append(tokenizer, &folder->ids, &folder->id_count, &folder->id_capacity,
                                  entry->name, strlen(entry->name)));
        entry->ids = folder->id_count - entry->id;
    }
    folder->has_ids = true;
done:
    return status;
}

sara_status sara_embedding_find_ids(sara_embedding_folder *folder, size_t *length,
                                    const sara_tokenizer *tokenizer, const int32_t *ids,
                                    size_t count)
{
    sara_status status;
    *length = folder->found_count = 0;
    TRY(make_name_ids(folder, tokenizer));
    for (size_t i = 0; i < folder->count; i++) {
        const sara_embedding_entry *entry = &folder->entries[i];
        if (entry->ids == 0 || entry->ids < *length || entry->ids > count ||
            memcmp(folder->ids + entry->id, ids, entry->ids * sizeof(*ids)) != 0)
            continue;
        if (entry->ids > *length)
            folder->found_count = 0;
        *length = entry->ids;
        found_one(folder, i);
    }
done:
    return status;
}
