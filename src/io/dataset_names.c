#include "io/dataset_names.h"

#include <utf8proc.h>

void sara_dataset_names_init(sara_dataset_names *names, sara_dataset_scan_state *scan,
                             sara_dataset_folder *folder)
{
    *names = (sara_dataset_names){.scan = scan, .top = folder};
}

void sara_dataset_names_free(sara_dataset_names *names)
{
    sara_context *ctx = names->scan->ctx;
    for (size_t i = 0; i < names->count; i++) {
        sara_dataset_folder_close(ctx, names->inner[i]);
        sara_free(ctx, names->inner[i]);
    }
    sara_free(ctx, names->inner);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool sara_dataset_is_downward(const char *name)
{
    if (!*name || strchr("/\\", *name) ||
        (is_letter(name[0]) && name[1] == ':' && name[2] && strchr("/\\", name[2])))
        return false;
    for (const char *part = name; *part; part += strcspn(part, "/\\")) {
        part += strspn(part, "/\\");
        if (strcspn(part, "/\\") == 2 && strncmp(part, "..", 2) == 0)
            return false;
    }
    return true;
}

/* White space in Unicode's sense, and what has no width and is pasted along with names. */
static bool is_white(utf8proc_int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);
    return (code >= '\t' && code <= '\r') || code == 0x85 || code == 0x200b || code == 0xfeff ||
           category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

sara_status sara_dataset_trim(sara_context *ctx, char **out, const char *name)
{
    const char *from = name, *end = name;
    utf8proc_int32_t code;
    for (const char *at = name; *at;) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)at, -1, &code);
        const char *next = at + (used > 0 ? used : 1);
        if (used < 1 || !is_white(code)) {
            from = end == name ? at : from;
            end = next;
        }
        at = next;
    }
    return sara_format(ctx, out, "%.*s", (int)(end - from), from);
}

/* The name with slashes alone, none of them twice, and without parts ".". */
static sara_status clean_name(sara_context *ctx, char **out, const char *name, bool backslashes)
{
    const char *breaks = backslashes ? "/\\" : "/";
    char *to;
    sara_status status = sara_strdup(ctx, out, name);
    if (status != SARA_OK)
        return status;
    to = *out;
    for (const char *part = name + strspn(name, breaks); *part;) {
        size_t size = strcspn(part, breaks);
        if (size != 1 || *part != '.') {
            if (to > *out)
                *to++ = '/';
            memcpy(to, part, size);
            to += size;
        }
        part += size;
        part += strspn(part, breaks);
    }
    *to = '\0';
    return SARA_OK;
}

/* A folder within one of those that are open. */
static sara_status open_inner(sara_dataset_names *names, sara_dataset_folder **out,
                              const sara_dataset_folder *parent, const char *name)
{
    sara_context *ctx = names->scan->ctx;
    sara_dataset_folder *folder = NULL;
    const char *below;
    sara_status status;
    TRY(sara_dataset_below(names->scan, &below, parent, name));
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->inner[i]->name, below) == 0) {
            *out = names->inner[i];
            return SARA_OK;
        }
    TRY(sara_grow(ctx, &names->inner, &names->capacity, names->count + 1, sizeof(*names->inner)));
    TRY(sara_alloc_zero(ctx, &folder, 1, sizeof(*folder)));
    names->inner[names->count++] = folder;
    TRY(sara_dataset_folder_open(names->scan, folder, parent, name));
    *out = folder;
done:
    return status;
}

/* part: what is not in the folder; rest: the image's own name. */
static sara_status refuse_missing_name(sara_dataset_names *names, sara_dataset_folder *folder,
                                       const char *where, const char *name, const char *part,
                                       const char *rest)
{
    sara_context *ctx = names->scan->ctx;
    const char *nearest = NULL, *kind = "folder";
    sara_status status = SARA_OK;
    if (part != rest)
        TRY(sara_dataset_folder_nearest(ctx, &nearest, folder, part, false));
    if (!nearest) {
        kind = "name";
        TRY(sara_dataset_folder_nearest(ctx, &nearest, folder, rest, true));
    }
    if (nearest)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: image %s: No such file or directory; the nearest %s in %s is %s",
                           where, name, kind, folder->path, nearest);
    else
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: image %s: No such file or directory; there are no images in %s",
                           where, name, folder->path);
done:
    return status;
}

/* From folder to folder; `path` loses its slashes. */
static sara_status find_parts(sara_dataset_names *names, char **out, char *path, const char *where,
                              const char *name)
{
    sara_context *ctx = names->scan->ctx;
    sara_dataset_folder *folder = names->top;
    char *part = path, *longer = NULL;
    size_t found;
    sara_status status = SARA_OK;
    for (;;) {
        char *slash;
        TRY(sara_dataset_folder_find(ctx, &found, folder, part));
        slash = found == SIZE_MAX ? strchr(part, '/') : NULL;
        if (slash) {
            *slash = '\0';
            TRY(sara_dataset_folder_find(ctx, &found, folder, part));
        }
        if (found == SIZE_MAX || (slash && !folder->is_folder[found])) {
            const char *last = slash ? strrchr(slash + 1, '/') : NULL;
            TRY(refuse_missing_name(names, folder, where, name, part,
                                    last    ? last + 1
                                    : slash ? slash + 1
                                            : part));
        }
        TRY(sara_format(ctx, &longer, "%s%s%s", *out ? *out : "", *out ? "/" : "",
                        folder->names[found]));
        sara_free(ctx, *out);
        *out = longer;
        if (!slash)
            return SARA_OK;
        TRY(open_inner(names, &folder, folder, folder->names[found]));
        part = slash + 1;
    }
done:
    return status;
}

sara_status sara_dataset_names_find(sara_dataset_names *names, char **out, const char *where,
                                    const char *name, const char *trimmed)
{
    sara_context *ctx = names->scan->ctx;
    char *path = NULL, *plain = NULL, *parts = NULL;
    sara_status status;
    *out = NULL;
    TRY(clean_name(ctx, &plain, name, false));
    TRY(sara_path_join(ctx, &path, names->top->path, plain));
    if (sara_path_exists(path)) {
        *out = plain;
        plain = NULL;
    } else {
        TRY(clean_name(ctx, &parts, trimmed, true));
        TRY(find_parts(names, out, parts, where, trimmed));
        sara_free(ctx, path);
        path = NULL;
        TRY(sara_path_join(ctx, &path, names->top->path, *out));
    }
    TRY(sara_dataset_check_file(ctx, where, path, *out));
done:
    sara_free(ctx, path);
    sara_free(ctx, plain);
    sara_free(ctx, parts);
    if (status != SARA_OK) {
        sara_free(ctx, *out);
        *out = NULL;
    }
    return status;
}
