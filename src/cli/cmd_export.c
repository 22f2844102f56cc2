#include "cli.h"

#include <stdio.h>

typedef struct request {
    cli_model model;
    const char *output;
    cli_list adapters;
    bool force;
    sara_export_options export;
} request;

static void print_export_report(const request *r, const sara_export_report *report)
{
    cli_print_path("", r->output, "");
    printf("%lld changed entries (L2 %.4g) in %lld layers", (long long)report->changed,
           report->change_norm, (long long)report->layers);
    if (r->export.rank > 0) {
        printf("; rank %d keeps %.2f %% of the change (Frobenius norm), leaves out %.3g of it "
               "(relative L2)\n",
               r->export.rank, 100 * report->kept, report->error);
        if (report->left_out > 0)
            printf("%lld entries of biases and norms are left out: a LoRA has no place for them\n",
                   (long long)report->left_out);
        return;
    }
    if (report->inexact > 0)
        printf("; base + change misses the value by rounding for %lld of them, by %.3g of the "
               "change in all (relative L2)",
               (long long)report->inexact, report->error);
    else
        printf("; base + change is the value to the bit");
    printf("\n");
}

static int check_export_args(const cli *c, const request *r)
{
    if (r->adapters.count == 0)
        return cli_fail(c, SARA_ERROR_USAGE, "no adapter given: sara export ADAPTER -m DIR ...");
    if (!r->output)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "no output given: -o names a new file, of peft a "
                        "folder");
    sara_status status = sara_export_check(c->ctx, r->output, &r->export);
    return status == SARA_OK ? cli_check_adapters(c, &r->adapters) : cli_fail_context(c, status);
}

/* A LoRA may change the text encoder too; a file of a denoiser alone is taken as that. */
static int load_for_export(const cli *c, sara_model **out, const cli_model *m)
{
    sara_model_options options = m->options;
    options.size = sizeof(options);
    if (m->model && !m->denoiser_only && !cli_is_folder(m->model) &&
        sara_model_load(c->ctx, out, m->model, &options) == SARA_OK)
        return 0;
    return cli_load_denoiser(c, out, m);
}

static int export(const cli *c, const request *r)
{
    sara_export_report report;
    sara_model *model = NULL;
    int code = check_export_args(c, r);
    if (code == 0)
        code = load_for_export(c, &model, &r->model);
    if (code == 0)
        code = cli_apply(c, model, &r->adapters, r->force);
    if (code == 0) {
        sara_status status = sara_model_export(c->ctx, &report, model, r->output, &r->export);
        code = status == SARA_OK ? 0 : cli_fail_context(c, status);
    }
    if (code == 0)
        print_export_report(r, &report);
    sara_model_free(model);
    return code;
}

static const cli_refusal refusals[] = {
    {"dtype", "use --save_precision"},
    {"network_dim", "use --rank"},
    {"dim", "use --rank"},
    {"conv_dim", "use --rank: convolutions and matrices have the same"},
    {"network_alpha", "alpha is the rank, so that strength 1 is the adapter's"},
    {"save_to", "use --output"},
    {"ratio", "an adapter's strength goes with it: --adapter FILE:0.6"},
    {"tokenizer", "the U-Net alone is exported, which needs none; leave it out"},
    {"vae", "the U-Net alone is exported, which needs none; leave it out"},
    {"no_metadata", "A1111 needs the metadata to tell SD1.x from SD2.x"},
    {NULL, NULL},
};

int cmd_export(cli *c)
{
    request r = {.output = NULL};
    bool help;
    sara_export_options_init(&r.export);
    const cli_option options[] = {
        {"adapter", 0, CLI_LIST, &r.adapters, 0, 0, "FILE[:X]",
         "or without --adapter; at strength X (1); several are added up"},
        {"model", 'm', CLI_STRING, &r.model.model, 0, 0, "PATH",
         "the base: a diffusers folder or a .safetensors file"},
        {"unet-only", 0, CLI_STRING, &r.model.denoiser_only, 0, 0, "DIR",
         "a bare unet/ folder instead"},
        {"output", 'o', CLI_STRING, &r.output, 0, 0, "PATH",
         "a new file; of peft and shira a new folder"},
        {"format", 0, CLI_STRING, &r.export.format, 0, 0, "NAME",
         "comfyui, a1111: the whole change, as large as the model; lora: of a rank, in kohya's "
         "layout, for these and diffusers; peft: the same as a folder for PEFT; shira: of --method "
         "shira, a folder for PEFT"},
        {"rank", 0, CLI_INT, &r.export.rank, 1, 65536, "N",
         "of lora and peft; a layer's shorter side at most"},
        {"save_precision", 0, CLI_STRING, &r.export.save_precision, 0, 0, "TYPE",
         "fp32 (exact), fp16 or bf16 (fp16)"},
        {"force", 0, CLI_SWITCH, &r.force, 0, 0, NULL,
         "export adapters that were made for another base"},
        CLI_MODEL_OPTIONS(&r.model),
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_command command = {
        .name = "export",
        .summary = "write an adapter as ComfyUI, A1111, diffusers or PEFT load it",
        .usage = "ADAPTER[:X] -m DIR --format NAME -o PATH [options]",
        .examples =
            "  sara export ink.safetensors -m base --format a1111 -o ink-a1111.safetensors\n"
            "  sara export ink.safetensors -m base --format lora --rank 64 "
            "-o ink-lora.safetensors\n"
            "  sara export ink.safetensors -m base --format peft --rank 64 -o ink-peft\n",
        .operand = "adapter",
        .options = options,
        .refusals = refusals,
    };
    int code = cli_parse(c, &command, &help);
    return code || help ? code : export(c, &r);
}
