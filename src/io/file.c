#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

/* The first words of the text that stands for a file which git-lfs has not fetched. */
#define LFS_START "version https://git-lfs.github.com/spec/"

/* One call moves at most about 2 GiB on Linux anyway. */
#define READ_AT_MOST ((size_t)1 << 30)

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a folder"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISSOCK(mode) ? "a socket"
                            : "a special file";
}

/* The reason is in errno. Of a link without a file behind it, where it leads to is told: in a hub
 * cache that was copied in part it is what is missing. */
static sara_status tell_not_opened(sara_context *ctx, const char *path)
{
    char target[1024];
    ssize_t length = errno == ENOENT ? readlink(path, target, sizeof(target) - 1) : -1;
    if (length < 0) {
        errno = errno == EINVAL ? ENOENT : errno; /* no link */
        return sara_fail_errno(ctx, path, "cannot open");
    }
    target[length] = '\0';
    return sara_fail(ctx, SARA_ERROR_IO, "%s: cannot open: a link to %s, which is not there", path,
                     target);
}

sara_status sara_file_open(sara_context *ctx, int *fd, uint64_t *size, const char *path)
{
    struct stat info;
    sara_status status = SARA_OK;
    /* Without O_NONBLOCK a FIFO would wait here for a writer. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    *fd = -1;
    *size = 0;
    if (opened < 0)
        return tell_not_opened(ctx, path);
    if (fstat(opened, &info) != 0)
        status = sara_fail_errno(ctx, path, "cannot stat");
    else if (!S_ISREG(info.st_mode))
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: is %s, expected a regular file", path,
                           kind_of(info.st_mode));
    if (status != SARA_OK) {
        close(opened);
        return status;
    }
    *fd = opened;
    *size = (uint64_t)info.st_size;
    return SARA_OK;
}

/* What one thread reads at a time of something large: fresh memory costs more than the copying. */
#define PART_BYTES ((size_t)1 << 20)

bool sara_file_pread_quietly(int fd, void *out, size_t size, uint64_t offset)
{
    char *to = out;
    for (size_t had = 0; had < size;) {
        ssize_t got = pread(fd, to + had, size - had, (off_t)(offset + had));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        had += (size_t)got;
    }
    return true;
}

static bool read_by_parts(int fd, char *out, size_t size, uint64_t offset, int threads)
{
    bool complete = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : complete)
    for (size_t at = 0; at < size; at += PART_BYTES) {
        size_t part = size - at < PART_BYTES ? size - at : PART_BYTES;
        complete = complete && sara_file_pread_quietly(fd, out + at, part, offset + at);
    }
    return complete;
}

sara_status sara_file_pread(sara_context *ctx, int fd, void *out, size_t size, uint64_t offset,
                            const char *path)
{
    if (size > PART_BYTES && read_by_parts(fd, out, size, offset, sara_threads(ctx)))
        return SARA_OK;
    /* Once more in order if something went wrong, for the error's line. */
    char *to = out;
    for (size_t had = 0; had < size;) {
        size_t wanted = size - had < READ_AT_MOST ? size - had : READ_AT_MOST;
        ssize_t got = pread(fd, to + had, wanted, (off_t)(offset + had));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return sara_fail_errno(ctx, path, "cannot read");
        if (got == 0)
            return sara_fail(ctx, SARA_ERROR_IO,
                             "%s: ends at byte %llu, expected %llu: truncated while being read",
                             path, (unsigned long long)(offset + had),
                             (unsigned long long)(offset + size));
        had += (size_t)got;
    }
    return SARA_OK;
}

sara_status sara_file_read(sara_context *ctx, char **out, size_t *size, const char *path,
                           size_t limit)
{
    char *data = NULL;
    uint64_t length = 0;
    int fd = -1;
    sara_status status;
    *out = NULL;
    *size = 0;
    TRY(sara_file_open(ctx, &fd, &length, path));
    if (length > limit || length >= SIZE_MAX) {
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: %llu bytes, expected at most %zu", path,
                           (unsigned long long)length, limit);
        goto done;
    }
    TRY(sara_alloc(ctx, &data, (size_t)length + 1, 1));
    TRY(sara_file_pread(ctx, fd, data, (size_t)length, 0, path));
    data[length] = '\0';
    if (strncmp(data, LFS_START, sizeof(LFS_START) - 1) == 0) {
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: is " SARA_LFS_HINT, path);
        goto done;
    }
    *out = data;
    *size = (size_t)length;
    data = NULL;
done:
    sara_free(ctx, data);
    if (fd >= 0)
        close(fd);
    return status;
}

bool sara_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool sara_path_is_named(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

bool sara_path_is_link(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

bool sara_path_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool sara_path_is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

sara_status sara_path_parent(sara_context *ctx, char **out, const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    while (length > 1 && path[length - 1] == '/')
        length--;
    return length == 0 ? sara_strdup(ctx, out, ".")
                       : sara_format(ctx, out, "%.*s", (int)length, path);
}

bool sara_text_is_utf8(const char *text, size_t size)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t code;
    for (size_t at = 0; at < size;) {
        utf8proc_ssize_t length =
            utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(size - at), &code);
        if (length < 1)
            return false;
        at += (size_t)length;
    }
    return true;
}
