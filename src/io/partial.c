/* What is being written lies under a hidden name beside its place until it is whole. */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTIAL_NAMES 1000

bool sara_file_is_at(int fd, const char *path)
{
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 && stat(path, &named) == 0 &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

/* How the names begin that stand for the last name of this path: a hash of it, FNV-1a, as names may
 * be as long as names can be. */
static sara_name partial_stem(const char *path)
{
    const char *slash = strrchr(path, '/');
    uint64_t hash = UINT64_C(14695981039346656037);
    for (const char *at = slash ? slash + 1 : path; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(1099511628211);
    return sara_name_of(".sara-%016llx-", (unsigned long long)hash);
}

/* A process that ends in any way lets go of its lock. One that takes remains away may be first. */
static bool lock_partial(int fd, const char *path)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return sara_file_is_at(fd, path);
    return errno != EWOULDBLOCK; /* a file system without locks: nobody takes anything away */
}

/* ------------------------------------------------------------------------------------- remains */

static void remove_unlocked(sara_context *ctx, const char *path)
{
    bool folder = sara_path_is_directory(path);
    int mode = folder ? O_RDONLY | O_DIRECTORY : O_WRONLY | O_NONBLOCK;
    int fd = open(path, mode | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && sara_file_is_at(fd, path)) {
        if (folder)
            sara_directory_discard(ctx, path);
        else
            unlink(path);
    }
    close(fd);
}

/* Whether it is the name of a partial file of whatever path: .sara-16 digits-number.tmp */
static bool is_partial(const char *name)
{
    const size_t stem = strlen(partial_stem("").text), size = strlen(name);
    return strncmp(name, ".sara-", 6) == 0 && size > stem + 4 && name[stem - 1] == '-' &&
           strspn(name + 6, "0123456789abcdef") == stem - 7 &&
           strspn(name + stem, "0123456789") == size - stem - 4 &&
           strcmp(name + size - 4, ".tmp") == 0;
}

/* Of the stem, or where it is NULL files of all. Nothing depends on it: what cannot be listed or
 * removed stays. */
static sara_status remove_remains(sara_context *ctx, const char *parent, const char *stem)
{
    struct dirent *entry;
    sara_status status = SARA_OK;
    DIR *folder = opendir(parent);
    while (folder && (entry = readdir(folder))) {
        char *path = NULL;
        if (stem ? strncmp(entry->d_name, stem, strlen(stem)) != 0 : !is_partial(entry->d_name))
            continue;
        TRY(sara_path_join(ctx, &path, parent, entry->d_name));
        if (stem || !sara_path_is_directory(path))
            remove_unlocked(ctx, path);
        sara_free(ctx, path);
    }
done:
    if (folder)
        closedir(folder);
    return status;
}

/* ------------------------------------------------------------------------------------ interface */

/* errno is EEXIST where the name is taken. */
static int create_partial(const char *path, bool folder)
{
    if (!folder)
        return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (mkdir(path, 0777) != 0)
        return -1;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        int reason = errno == ENOENT ? EEXIST : errno; /* taken away as remains */
        rmdir(path);
        errno = reason;
    }
    return fd;
}

/* *fd is -1, and errno is set, where the place takes none. */
static sara_status find_name(sara_context *ctx, char **out, int *fd, const char *parent,
                             const char *stem, bool folder)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < PARTIAL_NAMES; i++) {
        char *path = NULL;
        TRY(sara_format(ctx, &path, "%s/%s%d.tmp", parent, stem, i));
        *fd = create_partial(path, folder);
        if (*fd >= 0 && lock_partial(*fd, path)) {
            *out = path;
            break;
        }
        int reason = *fd < 0 ? errno : EEXIST;
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        sara_free(ctx, path);
        errno = reason;
        if (reason != EEXIST)
            break;
    }
done:
    return status;
}

sara_status sara_partial_make(sara_context *ctx, sara_partial *out, const char *path, bool folder)
{
    const sara_name stem = partial_stem(path);
    char *parent = NULL;
    sara_status status;
    *out = (sara_partial){.fd = -1};
    TRY(sara_path_parent(ctx, &parent, path));
    if (folder)
        TRY(sara_directory_make(ctx, parent));
    TRY(remove_remains(ctx, parent, stem.text));
    TRY(find_name(ctx, &out->path, &out->fd, parent, stem.text, folder));
    if (!out->path)
        status = sara_fail_errno(ctx, path,
                                 folder ? "cannot create a temporary folder beside it"
                                        : "cannot create a temporary file beside it");
done:
    sara_free(ctx, parent);
    return status;
}

sara_status sara_partial_sweep(sara_context *ctx, const char *folder)
{
    return remove_remains(ctx, folder, NULL);
}

static void end_partial(sara_context *ctx, sara_partial *partial)
{
    if (partial->fd >= 0)
        close(partial->fd);
    sara_free(ctx, partial->path);
    *partial = (sara_partial){.fd = -1};
}

/* The lock is held until after the rename: what was synced no closing can lose. */
sara_status sara_partial_publish(sara_context *ctx, sara_partial *partial, const char *path)
{
    sara_status status = sara_rename_durably(ctx, partial->path, path);
    if (status == SARA_OK || !sara_file_is_at(partial->fd, partial->path))
        end_partial(ctx, partial); /* has its name, even where the disk does not know of it */
    return status;
}

void sara_partial_discard(sara_context *ctx, sara_partial *partial)
{
    if (partial->path && sara_path_is_directory(partial->path))
        sara_directory_discard(ctx, partial->path);
    else if (partial->path)
        unlink(partial->path);
    end_partial(ctx, partial);
}
