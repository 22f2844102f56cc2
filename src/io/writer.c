#include "io/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)64 * 1024)

struct sara_writer {
    sara_context *ctx;
    char *path; /* where it goes */
    sara_partial partial;
    size_t used;
    sara_status status; /* of the first write that failed: commit must not forget it */
    char buffer[BUFFER_SIZE];
};

/* A link is written through, as by any program that writes in place. */
static sara_status writer_resolve(sara_context *ctx, char **out, const char *path)
{
    struct stat info;
    char *real = NULL;
    sara_status status;
    if (lstat(path, &info) != 0)
        return errno == ENOENT ? sara_strdup(ctx, out, path)
                               : sara_fail_errno(ctx, path, "cannot write");
    if (S_ISLNK(info.st_mode)) {
        real = realpath(path, NULL);
        if (!real || stat(real, &info) != 0) {
            status = sara_fail_errno(ctx, path, "cannot write through the link");
            goto done;
        }
    }
    /* A rename would put a file in the place of /dev/null. */
    if (!S_ISREG(info.st_mode)) {
        status = sara_fail(ctx, SARA_ERROR_IO, "%s: exists and is not a regular file", path);
        goto done;
    }
    TRY(sara_strdup(ctx, out, real ? real : path));
done:
    free(real);
    return status;
}

sara_status sara_writer_open(sara_context *ctx, sara_writer **out, const char *path)
{
    sara_writer *writer = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc(ctx, &writer, 1, sizeof(*writer)));
    writer->ctx = ctx;
    writer->path = NULL;
    writer->partial = (sara_partial){.fd = -1};
    writer->used = 0;
    writer->status = SARA_OK;
    TRY(writer_resolve(ctx, &writer->path, path));
    TRY(sara_partial_make(ctx, &writer->partial, writer->path, false));
    *out = writer;
    writer = NULL;
done:
    sara_writer_abort(&writer);
    return status;
}

static sara_status write_all(sara_writer *writer, const char *data, size_t size)
{
    while (size > 0 && writer->status == SARA_OK) {
        ssize_t done = write(writer->partial.fd, data, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            writer->status = sara_fail_errno(writer->ctx, writer->path, "cannot write");
        } else {
            data += done;
            size -= (size_t)done;
        }
    }
    return writer->status;
}

static sara_status writer_flush(sara_writer *writer)
{
    size_t used = writer->used;
    writer->used = 0;
    return write_all(writer, writer->buffer, used);
}

sara_status sara_writer_write(sara_writer *writer, const void *data, size_t size)
{
    sara_status status = writer->status;
    if (size > BUFFER_SIZE - writer->used)
        TRY(writer_flush(writer));
    if (size >= BUFFER_SIZE) {
        TRY(write_all(writer, data, size));
    } else if (size > 0) {
        memcpy(writer->buffer + writer->used, data, size);
        writer->used += size;
    }
done:
    return status;
}

sara_status sara_writer_commit(sara_writer **writer)
{
    sara_writer *w = *writer;
    sara_status status;
    TRY(writer_flush(w));
    if (fsync(w->partial.fd) != 0)
        TRY(sara_fail_errno(w->ctx, w->path, "cannot sync"));
    TRY(sara_partial_publish(w->ctx, &w->partial, w->path));
done:
    sara_writer_abort(writer);
    return status;
}

void sara_writer_abort(sara_writer **writer)
{
    sara_writer *w = *writer;
    if (!w)
        return;
    sara_partial_discard(w->ctx, &w->partial);
    sara_free(w->ctx, w->path);
    sara_free(w->ctx, w);
    *writer = NULL;
}

sara_status sara_file_write(sara_context *ctx, const char *path, const void *data, size_t size)
{
    sara_writer *writer = NULL;
    sara_status status;
    TRY(sara_writer_open(ctx, &writer, path));
    TRY(sara_writer_write(writer, data, size));
    TRY(sara_writer_commit(&writer));
done:
    sara_writer_abort(&writer);
    return status;
}

sara_status sara_file_copy(sara_context *ctx, const char *from, const char *to)
{
    sara_writer *writer = NULL;
    char *buffer = NULL;
    uint64_t size = 0;
    int fd = -1;
    sara_status status;
    TRY(sara_file_open(ctx, &fd, &size, from));
    TRY(sara_alloc(ctx, &buffer, BUFFER_SIZE, 1));
    TRY(sara_writer_open(ctx, &writer, to));
    for (uint64_t at = 0; at < size;) {
        size_t part = size - at < BUFFER_SIZE ? (size_t)(size - at) : BUFFER_SIZE;
        TRY(sara_file_pread(ctx, fd, buffer, part, at, from));
        TRY(sara_writer_write(writer, buffer, part));
        at += part;
    }
    TRY(sara_writer_commit(&writer));
done:
    sara_writer_abort(&writer);
    sara_free(ctx, buffer);
    if (fd >= 0)
        close(fd);
    return status;
}
