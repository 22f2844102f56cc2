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
    options.size = sizeof(options);
    options.unet_only = m->denoiser_only != NULL;
    if (!m->model && !m->denoiser_only)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "no model given: -m names a diffusers folder or a .safetensors file");
    if (m->model && m->denoiser_only)
        return cli_fail(c, SARA_ERROR_USAGE, "--model %s and --unet-only %s: give one of them",
                        m->model, m->denoiser_only);
    sara_status status =
        sara_model_load(c->ctx, out, m->denoiser_only ? m->denoiser_only : m->model, &options);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

int cli_load_denoiser(const cli *c, sara_model **out, const cli_model *m)
{
    cli_model alone = *m;
    struct stat info;
    if (m->model && !m->denoiser_only && stat(m->model, &info) == 0 && S_ISREG(info.st_mode)) {
        alone.denoiser_only = m->model;
        alone.model = NULL;
    }
    return cli_load(c, out, &alone);
}

/* What is done with an adapter; 0, or the exit code after the line was printed. */
typedef int (*adapter_fn)(const cli *c, const char *path, double strength, void *user);

static int for_each_adapter(const cli *c, const cli_list *adapters, adapter_fn use, void *user)
{
    int code = 0;
    for (int i = 0; i < adapters->count && !code; i++) {
        double strength;
        char *path = NULL;
        sara_status status = sara_adapter_split(c->ctx, &path, &strength, adapters->items[i]);
        code = status == SARA_OK ? use(c, path, strength, user) : cli_fail_context(c, status);
        sara_free(c->ctx, path);
    }
    return code;
}

typedef struct application {
    sara_model *model;
    bool force;
} application;

static int apply_adapter(const cli *c, const char *path, double strength, void *user)
{
    const application *a = user;
    sara_status status = sara_model_apply(c->ctx, a->model, path, strength, a->force);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

int cli_apply(const cli *c, sara_model *model, const cli_list *adapters, bool force)
{
    return for_each_adapter(c, adapters, apply_adapter, &(application){model, force});
}

static int check_adapter_file(const cli *c, const char *path, double strength, void *user)
{
    (void)strength;
    (void)user;
    return access(path, R_OK) == 0
               ? 0
               : cli_fail(c, SARA_ERROR_IO, "--adapter %s: %s", path, strerror(errno));
}

int cli_check_adapters(const cli *c, const cli_list *adapters)
{
    return for_each_adapter(c, adapters, check_adapter_file, NULL);
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

typedef struct output {
    const char *option, *path;
} output;

static int check_output_against(const cli *c, const char *path, double strength, void *user)
{
    const output *o = user;
    (void)strength;
    return is_same_file(o->path, path)
               ? cli_fail(c, SARA_ERROR_USAGE, "%s %s: is the adapter, which would be lost",
                          o->option, o->path)
               : 0;
}

int cli_check_output(const cli *c, const char *option, const char *path, const cli_list *adapters,
                     const char *input)
{
    int code = for_each_adapter(c, adapters, check_output_against, &(output){option, path});
    if (!code && input && is_same_file(path, input))
        code =
            cli_fail(c, SARA_ERROR_USAGE, "%s %s: is an input, which would be lost", option, path);
    return code;
}
