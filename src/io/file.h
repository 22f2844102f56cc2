/* What the readers and writers of this layer share; not for other layers. */
#ifndef SARA_IO_FILE_H
#define SARA_IO_FILE_H

#include "io/io.h"

#define SARA_LFS_HINT "a Git LFS pointer; `git lfs pull` fetches the file itself"

/* Opens a regular file for reading and tells its size. Anything else (a folder, FIFO, device or
 * socket) is SARA_ERROR_INPUT; opening never blocks. close(*fd). */
SARA_NODISCARD sara_status sara_file_open(sara_context *ctx, int *fd, uint64_t *size,
                                          const char *path);
/* Exactly size bytes from offset; an earlier end of the file is SARA_ERROR_IO. */
SARA_NODISCARD sara_status sara_file_pread(sara_context *ctx, int fd, void *out, size_t size,
                                           uint64_t offset, const char *path);
/* The same from any thread, without an error line: whether all was read. */
bool sara_file_pread_quietly(int fd, void *out, size_t size, uint64_t offset);

#endif
