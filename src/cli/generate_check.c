/* What can be said of a `sara generate` before the model is read. */
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

int cli_check_sigmas(const cli *c, const char *name, bool *karras)
{
    if (name && strcmp(name, "karras") == 0)
        *karras = true;
    else if (name && strcmp(name, "discrete") != 0 && strcmp(name, "default") != 0)
        return cli_fail(c, SARA_ERROR_USAGE, "--scheduler %s: expected discrete or karras", name);
    return 0;
}

/* None of the pictures' names is a folder or what is read. */
static int check_picture_names(const cli *c, const generate_request *r)
{
    int count = r->compare ? 1 : r->prompts.count * r->count, code = 0;
    for (int number = 1; number <= count && code == 0; number++) {
        char *path = cli_numbered(r->output, number);
        if (!path)
            return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
        if (cli_is_folder(path))
            code = cli_fail(c, SARA_ERROR_USAGE, "--output %s: is a folder; name a PNG file", path);
        else
            code = cli_check_output(c, "--output", path, &r->adapters, r->generate.init_latents);
        free(path);
    }
    return code;
}

/* Before the work, so that it is not lost. Names that the program chooses are new ones. */
static int check_picture_place(const cli *c, const generate_request *r)
{
    if (!r->output)
        return access(".", W_OK | X_OK) == 0
                   ? 0
                   : cli_fail(c, SARA_ERROR_IO,
                              GENERATE_OUTPUT ": the current folder: %s; -o FILE.png names another",
                              strerror(errno));
    const char *slash = strrchr(r->output, '/'), *name = slash ? slash + 1 : r->output;
    const char *dot = strrchr(name, '.');
    char folder[4096];
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - r->output) : 1,
             slash ? r->output : ".");
    if (!*name || cli_is_folder(r->output))
        return cli_fail(c, SARA_ERROR_USAGE, "--output %s: is a folder; name a PNG file",
                        r->output);
    if (slash > r->output && !cli_is_folder(folder))
        return cli_fail(c, SARA_ERROR_IO, "--output %s: there is no such folder", r->output);
    if (access(slash == r->output ? "/" : folder, W_OK | X_OK) != 0)
        return cli_fail(c, SARA_ERROR_IO, "--output %s: %s", r->output, strerror(errno));
    if (dot && strcasecmp(dot, ".png") != 0)
        return cli_fail(c, SARA_ERROR_USAGE, "--output %s: PNG is what is written; name it .png",
                        r->output);
    return check_picture_names(c, r);
}

static int check_given_prompts(const cli *c, generate_request *r)
{
    if (r->prompts.count == 0)
        return cli_fail(c, SARA_ERROR_USAGE, "no prompt given: -p TEXT");
    if (r->generate.lora_model_dir && !cli_is_folder(r->generate.lora_model_dir))
        return cli_fail(c, SARA_ERROR_IO, "--lora-model-dir %s: there is no such folder",
                        r->generate.lora_model_dir);
    for (int i = 0; i < r->prompts.count; i++) {
        r->generate.prompt = r->prompts.items[i];
        sara_status status = sara_generate_check(c->ctx, &r->generate);
        if (status != SARA_OK)
            return cli_fail_context(c, status);
    }
    return 0;
}

static int check_compare(const cli *c, const generate_request *r)
{
    if (!r->compare)
        return 0;
    if (r->adapters.count == 0 && !r->generate.lora_model_dir)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--compare: needs --adapter FILE, or --lora-model-dir "
                        "DIR and tags in the prompts");
    if (r->generate.batch_count > 1)
        return cli_fail(c, SARA_ERROR_USAGE, "--batch-count %d: --compare draws one image a prompt",
                        r->generate.batch_count);
    if (r->generate.save_latents)
        return cli_fail(c, SARA_ERROR_USAGE, "--save-latents %s: does not go with --compare",
                        r->generate.save_latents);
    return 0;
}

static int check_latents(const cli *c, const generate_request *r)
{
    const char *path = r->generate.save_latents;
    if (path && r->prompts.count > 1)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--save-latents %s: goes with one prompt, %d are given", path,
                        r->prompts.count);
    return path ? cli_check_output(c, "--save-latents", path, &r->adapters, NULL) : 0;
}

/* Start noise that is given may be of more pictures than were asked for. */
static int count_pictures(const cli *c, generate_request *r)
{
    int checked = r->count;
    sara_status status = sara_generate_count(c->ctx, &r->count, &r->generate);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    return r->output && r->count > checked ? check_picture_names(c, r) : 0;
}

static int check_type(const cli *c, generate_request *r)
{
    const char **dtype = &r->model.options.weight_dtype;
    if (r->type && *dtype)
        return cli_fail(c, SARA_ERROR_USAGE, "--type %s and --weight_dtype %s: give one of them",
                        r->type, *dtype);
    *dtype = r->type ? r->type : *dtype;
    return 0;
}

int generate_check(const cli *c, generate_request *r)
{
    int code = check_given_prompts(c, r);
    if (code == 0)
        code = check_type(c, r);
    if (code == 0)
        code = check_compare(c, r);
    if (code == 0)
        code = cli_check_adapters(c, &r->adapters);
    if (code == 0)
        code = cli_check_sigmas(c, r->scheduler, &r->generate.karras);
    r->count = r->generate.batch_count;
    if (code == 0)
        code = check_picture_place(c, r);
    if (code == 0)
        code = count_pictures(c, r);
    if (code == 0)
        code = check_latents(c, r);
    return code;
}
