#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each level of a removal holds one descriptor. */
#define DEEPEST_TREE 128

static sara_status make_one(sara_context *ctx, const char *path)
{
    if (mkdir(path, 0777) == 0)
        return SARA_OK;
    int reason = errno;
    if (sara_path_is_directory(path))
        return SARA_OK;
    errno = reason;
    return sara_fail_errno(ctx, path, "cannot make the folder");
}

sara_status sara_directory_make(sara_context *ctx, const char *path)
{
    char *copy = NULL;
    sara_status status;
    TRY(sara_strdup(ctx, &copy, path));
    for (char *at = copy + (copy[0] != '\0'); *at; at++) {
        if (*at != '/' || at[-1] == '/')
            continue;
        *at = '\0';
        TRY(make_one(ctx, copy));
        *at = '/';
    }
    TRY(make_one(ctx, copy));
done:
    sara_free(ctx, copy);
    return status;
}

sara_status sara_directory_make_writable(sara_context *ctx, const char *path)
{
    char text[128];
    sara_status status;
    TRY(sara_directory_make(ctx, path));
    if (access(path, W_OK | X_OK) != 0)
        status = sara_fail(ctx, SARA_ERROR_IO, "%s: cannot be written: %s", path,
                           sara_errno_text(text, errno));
done:
    return status;
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int directory_compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

sara_status sara_directory_list(sara_context *ctx, char ***names, size_t *count, const char *path)
{
    char **list = NULL;
    size_t used = 0, capacity = 0;
    struct dirent *entry;
    sara_status status = SARA_OK;
    DIR *folder = opendir(path);
    *names = NULL;
    *count = 0;
    if (!folder)
        return sara_fail_errno(ctx, path, "cannot list");
    while (errno = 0, (entry = readdir(folder))) {
        if (is_dot(entry->d_name))
            continue;
        TRY(sara_grow(ctx, &list, &capacity, used + 1, sizeof(*list)));
        TRY(sara_strdup(ctx, &list[used], entry->d_name));
        used++;
    }
    if (errno != 0) {
        status = sara_fail_errno(ctx, path, "cannot list");
        goto done;
    }
    if (used > 1)
        qsort(list, used, sizeof(*list), directory_compare_names);
    *names = list;
    *count = used;
    list = NULL;
done:
    closedir(folder);
    if (list)
        sara_directory_free(ctx, list, used);
    return status;
}

void sara_directory_free(sara_context *ctx, char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sara_free(ctx, names[i]);
    sara_free(ctx, names);
}

/* Empties the open folder, which it closes. Links are removed, never followed. */
static sara_status empty(sara_context *ctx, int fd, const char *path, int depth)
{
    struct dirent *entry;
    sara_status status = SARA_OK;
    DIR *folder = fdopendir(fd);
    if (!folder) {
        status = sara_fail_errno(ctx, path, "cannot list");
        close(fd);
        return status;
    }
    while (errno = 0, (entry = readdir(folder))) {
        if (is_dot(entry->d_name) || unlinkat(fd, entry->d_name, 0) == 0)
            continue;
        int reason = errno;
        int inner = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0) {
            errno = errno == ENOTDIR ? reason : errno;
            status = sara_fail_errno(ctx, path, "cannot remove from the folder");
            goto done;
        }
        if (depth == DEEPEST_TREE) {
            close(inner);
            status =
                sara_fail(ctx, SARA_ERROR_IO, "%s: folders more than %d deep", path, DEEPEST_TREE);
            goto done;
        }
        TRY(empty(ctx, inner, path, depth + 1));
        if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) != 0) {
            status = sara_fail_errno(ctx, path, "cannot remove from the folder");
            goto done;
        }
    }
    if (errno != 0)
        status = sara_fail_errno(ctx, path, "cannot list");
done:
    closedir(folder);
    return status;
}

sara_status sara_directory_remove(sara_context *ctx, const char *path)
{
    sara_status status;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return sara_fail_errno(ctx, path, "cannot remove");
    TRY(empty(ctx, fd, path, 0));
    if (rmdir(path) != 0)
        status = sara_fail_errno(ctx, path, "cannot remove");
done:
    return status;
}

void sara_directory_discard(sara_context *ctx, const char *path)
{
    char line[2048];
    if (!sara_path_exists(path))
        return;
    snprintf(line, sizeof(line), "%s", sara_context_error(ctx));
    sara_status status = sara_directory_remove(ctx, path);
    if (status != SARA_OK)
        sara_log(ctx, SARA_LOG_WARNING, "%s: could not be removed", path);
    sara_fail(ctx, status, "%s", line);
}

sara_status sara_directory_sync(sara_context *ctx, const char *path)
{
    sara_status status = SARA_OK;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return sara_fail_errno(ctx, path, "cannot open");
    /* EINVAL: a file system whose folders need no sync. */
    if (fsync(fd) != 0 && errno != EINVAL)
        status = sara_fail_errno(ctx, path, "cannot sync");
    close(fd);
    return status;
}

sara_status sara_rename_durably(sara_context *ctx, const char *from, const char *to)
{
    char *parent = NULL;
    sara_status status;
    /* Before the rename, so that running out of memory leaves nothing renamed. */
    TRY(sara_path_parent(ctx, &parent, to));
    if (sara_path_is_directory(from))
        TRY(sara_directory_sync(ctx, from));
    if (rename(from, to) != 0)
        TRY(sara_fail_errno(ctx, to, "cannot rename to this name"));
    TRY(sara_directory_sync(ctx, parent));
done:
    sara_free(ctx, parent);
    return status;
}

/* path, of which all links are followed, lies in base or is it. */
static bool lies_in(const char *path, const char *base)
{
    size_t length = strlen(base);
    return strncmp(path, base, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

sara_status sara_path_is_within(sara_context *ctx, bool *out, const char *path, const char *folder)
{
    char *parent = NULL, *real = realpath(path, NULL), *base = realpath(folder, NULL);
    char *above = NULL;
    sara_status status;
    *out = false;
    TRY(sara_path_parent(ctx, &parent, path));
    above = realpath(parent, NULL);
    *out = base && ((real && lies_in(real, base)) || (above && lies_in(above, base)));
done:
    sara_free(ctx, parent);
    free(above);
    free(real);
    free(base);
    return status;
}

sara_status sara_path_bytes(sara_context *ctx, int64_t *bytes, const char *path)
{
    char **names = NULL, *inner = NULL;
    size_t count = 0;
    struct stat info;
    sara_status status;
    if (stat(path, &info) != 0)
        return sara_fail_errno(ctx, path, "is not there");
    if (!S_ISDIR(info.st_mode)) {
        *bytes += info.st_size;
        return SARA_OK;
    }
    TRY(sara_directory_list(ctx, &names, &count, path));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_path_join(ctx, &inner, path, names[i]));
        TRY(sara_path_bytes(ctx, bytes, inner));
        sara_free(ctx, inner);
        inner = NULL;
    }
done:
    sara_free(ctx, inner);
    sara_directory_free(ctx, names, count);
    return status;
}
