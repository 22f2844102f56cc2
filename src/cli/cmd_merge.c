#include "cli.h"

#include <stdio.h>

static void print_merge_report(const char *output, const sara_save_report *report, int adapters)
{
    cli_print_path("", output, "");
    if (adapters == 0)
        return;
    printf("%lld entries changed (L2 %.4g)", (long long)report->changed, report->change_norm);
    if (report->rounding_error > 0)
        printf("; rounding takes %lld of them back to the base's value, %.2f %% of the change (L2) "
               "is lost",
               (long long)report->rounded_away, 100 * report->rounding_error);
    printf("\n");
}

typedef struct request {
    cli_model base;
    const char *output, *dtype;
    cli_list adapters;
    bool force;
} request;

static int check_merge_args(const cli *c, const request *r)
{
    const char *base = r->base.denoiser_only ? r->base.denoiser_only : r->base.model;
    if (!r->output)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "no output given: -o names a new folder or .safetensors file");
    sara_status status = sara_save_check(c->ctx, r->output, r->dtype, base);
    return status == SARA_OK ? cli_check_adapters(c, &r->adapters) : cli_fail_context(c, status);
}

static int merge(const cli *c, const request *r)
{
    sara_save_report report = {0};
    sara_model *model = NULL;
    int code = check_merge_args(c, r);
    if (code == 0)
        code = cli_load(c, &model, &r->base);
    if (code == 0)
        code = cli_apply(c, model, &r->adapters, r->force);
    if (code == 0) {
        sara_status status = sara_model_save(c->ctx, &report, model, r->output, r->dtype);
        code = status == SARA_OK ? 0 : cli_fail_context(c, status);
    }
    if (code == 0)
        print_merge_report(r->output, &report, r->adapters.count);
    sara_model_free(model);
    return code;
}

int cmd_merge(cli *c)
{
    request r = {.output = NULL};
    bool help;
    const cli_option options[] = {
        {"model", 'm', CLI_STRING, &r.base.model, 0, 0, "PATH",
         "the base: a diffusers folder or a .safetensors file"},
        {"unet-only", 0, CLI_STRING, &r.base.denoiser_only, 0, 0, "DIR",
         "a bare unet/ folder instead"},
        {"adapter", 0, CLI_LIST, &r.adapters, 0, 0, "FILE[:X]",
         "merge at strength X (1); repeatable"},
        {"output", 'o', CLI_STRING, &r.output, 0, 0, "PATH",
         "a new diffusers folder, or one file if it ends in .safetensors"},
        {"dtype", 0, CLI_STRING, &r.dtype, 0, 0, "TYPE", "fp32, fp16 or bf16 (each file's own)"},
        {"force", 0, CLI_SWITCH, &r.force, 0, 0, NULL,
         "merge adapters that were made for another base"},
        CLI_MODEL_OPTIONS(&r.base),
        CLI_PARTS_OPTIONS(&r.base),
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_refusal refusals[] = {
        {"type", "use --dtype"},
        {"ratio", "an adapter's strength goes with it: --adapter FILE:0.6"},
        {"ratios", "an adapter's strength goes with it: --adapter FILE:0.6"},
        {"models", "use --adapter, once for each"},
        {"save_to", "use --output"},
        {"save_precision", "use --dtype"},
        {"sd_model", "use --model"},
        {NULL, NULL},
    };
    const cli_command command = {
        .name = "merge",
        .summary = "write a model with adapters merged in, or in another format",
        .usage = "-m PATH [--adapter FILE[:X]] -o OUT [options]",
        .examples = "  sara merge -m base --adapter run/adapter.safetensors -o ink-model\n"
                    "  sara merge -m base --adapter a.safetensors:0.6 --adapter b.safetensors:0.6 "
                    "-o both\n"
                    "  sara merge -m base --dtype fp16 -o half\n"
                    "  sara merge -m base -o base.safetensors        a folder as one file\n",
        .options = options,
        .refusals = refusals,
    };
    int code = cli_parse(c, &command, &help);
    return code || help ? code : merge(c, &r);
}
