/* Names and seeds of pictures. */
#include "cli.h"
#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *cli_numbered(const char *path, int number)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    size_t stem = dot && (!slash || dot > slash) ? (size_t)(dot - path) : strlen(path);
    size_t size = strlen(path) + 16;
    char *out = malloc(size);
    if (out && number == 1)
        memcpy(out, path, strlen(path) + 1);
    else if (out)
        snprintf(out, size, "%.*s_%d%s", (int)stem, path, number, path + stem);
    return out;
}

int cli_first_new(const char *path, int number, int count)
{
    struct stat info;
    for (int i = 0; i < count; i++) {
        char *name = cli_numbered(path, number + i);
        if (!name)
            return 0;
        bool taken = lstat(name, &info) == 0; /* also by a folder or a link to nowhere */
        free(name);
        if (taken) {
            number += i + 1;
            i = -1;
        }
    }
    return number;
}

int cli_take_seed(const cli *c, uint64_t *out, const cli_seed *seed, int count)
{
    char line[64];
    *out = seed->number;
    if (!seed->draw)
        return 0;
    sara_status status = sara_draw_seed(c->ctx, out, count);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    snprintf(line, sizeof(line), "seed %llu (drawn)", (unsigned long long)*out);
    progress_log(c->view, SARA_LOG_INFO, line);
    return 0;
}
