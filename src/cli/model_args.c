/* What several commands do with a model, its adapters and their files. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int cli_load(const cli *c, sara_model **out, const cli_model *m)
{
    sara_model_options options = m->options;
    options.unet_only = m->unet_only != NULL;
    if (!m->model && !m->unet_only)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "no model given: -m names a diffusers folder or a .safetensors file");
    if (m->model && m->unet_only)
        return cli_fail(c, SARA_ERROR_USAGE, "--model %s and --unet-only %s: give one of them",
                        m->model, m->unet_only);
    sara_status status =
        sara_model_load(c->ctx, out, m->unet_only ? m->unet_only : m->model, &options);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

int cli_load_unet(const cli *c, sara_model **out, const cli_model *m)
{
    cli_model alone = *m;
    struct stat info;
    if (m->model && !m->unet_only && stat(m->model, &info) == 0 && S_ISREG(info.st_mode)) {
        alone.unet_only = m->model;
        alone.model = NULL;
    }
    return cli_load(c, out, &alone);
}

/* The path, sara_free(), and the strength; NULL after the line was printed, *code is the exit code.
 */
static char *parse_adapter(const cli *c, double *strength, int *code, const char *item)
{
    char *path = NULL;
    sara_status status = sara_adapter_split(c->ctx, &path, strength, item);
    if (status != SARA_OK)
        *code = cli_fail_context(c, status);
    return path;
}

int cli_apply(const cli *c, sara_model *model, const cli_list *adapters, bool force)
{
    for (int i = 0; i < adapters->count; i++) {
        double strength;
        int code = 0;
        char *path = parse_adapter(c, &strength, &code, adapters->items[i]);
        if (!path)
            return code;
        sara_status status = sara_model_apply(c->ctx, model, path, strength, force);
        sara_free(c->ctx, path);
        if (status != SARA_OK)
            return cli_fail_context(c, status);
    }
    return 0;
}

int cli_check_adapters(const cli *c, const cli_list *adapters)
{
    for (int i = 0; i < adapters->count; i++) {
        double strength;
        int code = 0;
        char *path = parse_adapter(c, &strength, &code, adapters->items[i]);
        if (!path)
            return code;
        if (access(path, R_OK) != 0)
            code = cli_fail(c, SARA_ERROR_IO, "--adapter %s: %s", path, strerror(errno));
        sara_free(c->ctx, path);
        if (code)
            return code;
    }
    return 0;
}

bool cli_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int cli_check_output(const cli *c, const char *option, const char *path, const cli_list *adapters,
                     const char *input)
{
    for (int i = 0; i < adapters->count; i++) {
        double strength;
        int code = 0;
        char *adapter = parse_adapter(c, &strength, &code, adapters->items[i]);
        if (!adapter)
            return code;
        bool same = is_same_file(path, adapter);
        sara_free(c->ctx, adapter);
        if (same)
            return cli_fail(c, SARA_ERROR_USAGE, "%s %s: is the adapter, which would be lost",
                            option, path);
    }
    if (input && is_same_file(path, input))
        return cli_fail(c, SARA_ERROR_USAGE, "%s %s: is an input, which would be lost", option,
                        path);
    return 0;
}
