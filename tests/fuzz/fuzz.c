#include "fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void fuzz_check(bool condition, const char *text, const char *file, int line)
{
    if (condition)
        return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, text);
    abort();
}

sara_context *fuzz_context(void)
{
    const sara_context_options options = {.threads = 1};
    sara_context *ctx = NULL;
    fuzz_assert(sara_context_new(&ctx, &options) == SARA_OK);
    return ctx;
}

static char folder[64];

static void remove_folder(void)
{
    sara_context *ctx = fuzz_context();
    if (sara_directory_remove(ctx, folder) != SARA_OK)
        fprintf(stderr, "%s\n", sara_context_error(ctx));
    sara_context_free(ctx);
}

const char *fuzz_folder(void)
{
    if (!*folder) {
        bool in_memory = access("/dev/shm", W_OK) == 0;
        snprintf(folder, sizeof(folder), "%s/sara-fuzz-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
        fuzz_assert(mkdtemp(folder) != NULL);
        atexit(remove_folder);
    }
    return folder;
}

const char *fuzz_path(char out[256], const char *name)
{
    snprintf(out, 256, "%s/%s", fuzz_folder(), name);
    return out;
}

void fuzz_put(const char *name, const uint8_t *data, size_t size)
{
    char path[256];
    fuzz_path(path, name);
    if (!data) {
        unlink(path);
        return;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fuzz_assert(fd >= 0);
    fuzz_assert(write(fd, data, size) == (ssize_t)size);
    close(fd);
}
