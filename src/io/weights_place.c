/* Where a component's weights lie in its folder, under the names that diffusers and transformers
 * give them, and what lies there instead. */
#include "io/weights.h"

#define MOST_VARIANTS 8 /* that an error lists */

/* Of the weights without a variant, and of those with one; the last is older diffusers'. */
static const char *const plain_names[] = {"%s/%s.safetensors", "%s/%s.safetensors.index.json"};
static const char *const variant_names[] = {
    "%s/%s.%s.safetensors", "%s/%s.safetensors.index.%s.json", "%s/%s.safetensors.%s.index.json"};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length >= size && strcmp(text + length - size, end) == 0;
}

/* *out: the path of the file, else of the index; NULL: neither is there. */
static sara_status find_place(sara_context *ctx, char **out, const char *folder, const char *stem,
                              const char *variant)
{
    char *path = NULL;
    sara_status status = SARA_OK;
    *out = NULL;
    for (size_t i = 0; i < (variant ? 3 : 2); i++) {
        TRY(variant ? sara_format(ctx, &path, variant_names[i], folder, stem, variant)
                    : sara_format(ctx, &path, plain_names[i], folder, stem));
        if (sara_path_is_named(path)) {
            *out = path;
            return SARA_OK;
        }
        sara_free(ctx, path);
        path = NULL;
    }
done:
    sara_free(ctx, path);
    return status;
}

sara_status sara_weights_are_there(sara_context *ctx, bool *out, const char *folder,
                                   const char *stem, const char *variant)
{
    char *path = NULL;
    sara_status status = find_place(ctx, &path, folder, stem, variant);
    *out = path != NULL;
    sara_free(ctx, path);
    return status;
}

/* --------------------------------------------------------------------------- what else there is */

typedef struct variants {
    sara_name names[MOST_VARIANTS];
    size_t count;
    bool plain;
} variants;

/* "-00001-of-00002" at the end: a shard, which goes with an index. */
static bool is_shard(const char *name, size_t length)
{
    static const char pattern[] = "-00000-of-00000";
    size_t tail = strlen(pattern);
    for (size_t i = 0; length >= tail && i < tail; i++) {
        char c = name[length - tail + i];
        if (pattern[i] == '0' ? c < '0' || c > '9' : c != pattern[i])
            return false;
    }
    return length >= tail;
}

static void add_variant(variants *found, const char *name, size_t length)
{
    const sara_name own = sara_name_of("%.*s", (int)length, name);
    for (size_t i = 0; i < found->count; i++)
        if (strcmp(found->names[i].text, own.text) == 0)
            return;
    if (length > 0 && found->count < MOST_VARIANTS && !is_shard(name, length))
        found->names[found->count++] = own;
}

/* rest: of a file's name, after the stem and a dot. */
static void note_variant(variants *found, const char *rest)
{
    static const char file[] = ".safetensors", index[] = "safetensors.index.";
    static const char old_index[] = "safetensors.", end[] = ".json", old_end[] = ".index.json";
    size_t length = strlen(rest);
    if (strcmp(rest, "safetensors") == 0 || strcmp(rest, "safetensors.index.json") == 0)
        found->plain = true;
    else if (strncmp(rest, index, strlen(index)) == 0 && ends_with(rest + strlen(index), end))
        add_variant(found, rest + strlen(index), length - strlen(index) - strlen(end));
    else if (strncmp(rest, old_index, strlen(old_index)) == 0 &&
             ends_with(rest + strlen(old_index), old_end))
        add_variant(found, rest + strlen(old_index), length - strlen(old_index) - strlen(old_end));
    else if (ends_with(rest, file))
        add_variant(found, rest, length - strlen(file));
}

/* *pickle: of the name's list, or NULL */
static void note_files(variants *found, const char **pickle, char *const *names, size_t count,
                       const char *stem)
{
    static const char *const pickles[] = {".bin", ".ckpt", ".pt", ".pth"};
    size_t length = strlen(stem);
    *found = (variants){.count = 0};
    *pickle = NULL;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], stem, length) == 0 && names[i][length] == '.')
            note_variant(found, names[i] + length + 1);
        for (size_t j = 0; j < sizeof(pickles) / sizeof(*pickles); j++)
            if (ends_with(names[i], pickles[j]))
                *pickle = names[i];
    }
}

/* "fp16, non_ema", beginning with what there is already. *text: sara_free() */
static sara_status join_names(sara_context *ctx, char **text, const variants *found)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < found->count; i++) {
        char *longer = NULL;
        TRY(sara_format(ctx, &longer, "%s%s%s", *text ? *text : "", *text ? ", " : "",
                        found->names[i].text));
        sara_free(ctx, *text);
        *text = longer;
    }
done:
    return status;
}

sara_status sara_weights_describe(sara_context *ctx, char **out, const char *folder,
                                  const char *stem)
{
    char **names = NULL, *text = NULL;
    const char *pickle;
    size_t count = 0;
    variants found;
    sara_status status = SARA_OK;
    *out = NULL;
    if (sara_path_is_directory(folder))
        TRY(sara_directory_list(ctx, &names, &count, folder));
    note_files(&found, &pickle, names, count, stem);
    if (found.plain)
        TRY(sara_strdup(ctx, &text, "plain"));
    TRY(join_names(ctx, &text, &found));
    if (!text)
        TRY(sara_strdup(ctx, &text, "none"));
    *out = text;
    text = NULL;
done:
    sara_free(ctx, text);
    sara_directory_free(ctx, names, count);
    return status;
}

/* What is in the folder instead: another variant, only pickles, or nothing of use. */
static sara_status describe_instead(sara_context *ctx, char **out, const char *folder,
                                    const char *stem)
{
    char **names = NULL, *list = NULL;
    const char *pickle;
    size_t count = 0;
    variants found;
    sara_status status;
    TRY(sara_directory_list(ctx, &names, &count, folder));
    note_files(&found, &pickle, names, count, stem);
    TRY(join_names(ctx, &list, &found));
    if (found.count == 1)
        TRY(sara_format(ctx, out, "; there is the variant %s: --variant %s reads it", list, list));
    else if (found.count > 1)
        TRY(sara_format(ctx, out, "; there are the variants %s: --variant %s reads the first", list,
                        found.names[0].text));
    else if (pickle)
        TRY(sara_format(ctx, out,
                        "; there is only the pickle %.200s: to convert, load it with diffusers and "
                        "call save_pretrained(folder, safe_serialization=True)",
                        pickle));
    else
        TRY(sara_strdup(ctx, out, ""));
done:
    sara_free(ctx, list);
    sara_directory_free(ctx, names, count);
    return status;
}

static sara_status fail_absent(sara_context *ctx, const char *folder, const char *stem,
                               const char *variant)
{
    char *hint = NULL;
    sara_status status;
    TRY(describe_instead(ctx, &hint, folder, stem));
    status = sara_fail(ctx, SARA_ERROR_INPUT,
                       "%s: no %s%s%s.safetensors and no %s.safetensors.index%s%s.json%s", folder,
                       stem, variant ? "." : "", variant ? variant : "", stem, variant ? "." : "",
                       variant ? variant : "", hint);
done:
    sara_free(ctx, hint);
    return status;
}

sara_status sara_weights_find_place(sara_context *ctx, char **out, bool *sharded,
                                    const char *folder, const char *stem, const char *variant)
{
    char *path = NULL;
    sara_status status;
    TRY(find_place(ctx, &path, folder, stem, variant));
    if (!path)
        return fail_absent(ctx, folder, stem, variant);
    *sharded = ends_with(path, ".json");
    *out = path;
done:
    return status;
}
