#include "cli.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

typedef struct request {
    const char *base, *tuned, *output;
    cli_model model; /* the options of both */
    bool denoiser_only;
    sara_extract_options extract;
} request;

static void print_extract_report(const char *output, const sara_extract_report *report)
{
    cli_print_path("", output, "");
    if (report->layers > 0) {
        printf("%lld layers of %lld entries that differ; change L2 %.4g, keeps %.2f %% of it "
               "(Frobenius norm), leaves out %.3g (relative L2)\n",
               (long long)report->layers, (long long)report->differing, report->change_norm,
               100 * sqrt(fmax(0, 1 - report->left_out * report->left_out)), report->left_out);
        if (report->kept < report->differing)
            printf("%lld entries of biases, norms and embeddings are left out: a LoRA has no place "
                   "for them\n",
                   (long long)(report->differing - report->kept));
        return;
    }
    printf("%lld of %lld entries (%.2f %%)", (long long)report->kept, (long long)report->parameters,
           100.0 * (double)report->kept / (double)report->parameters);
    if (report->kept < report->differing)
        printf(" of the %lld that differ", (long long)report->differing);
    printf("; change L2 %.4g", report->change_norm);
    if (report->left_out > 0)
        printf(", left out %.3g of it (relative L2)\n", report->left_out);
    else
        printf(", all of it kept\n");
}

static int check_extract_args(const cli *c, const request *r)
{
    if (!r->base || !r->tuned)
        return cli_fail(c, SARA_ERROR_USAGE, "no %s model given: --base and --tuned name the two",
                        r->base ? "tuned" : "base");
    if (!r->output)
        return cli_fail(c, SARA_ERROR_USAGE, "no output given: -o FILE names a new adapter");
    sara_status status = sara_extract_check(c->ctx, r->output, &r->extract);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

/* A bare unet/ folder, as full fine-tuning writes it, on one side: the other's denoiser is compared
 * with it. */
static bool is_bare(const request *r, const char *path)
{
    char file[PATH_MAX];
    int length = snprintf(file, sizeof(file), "%s/model_index.json", path);
    bool is_model = length < (int)sizeof(file) && access(file, F_OK) == 0;
    length = snprintf(file, sizeof(file), "%s/config.json", path);
    return r->denoiser_only || (!is_model && length < (int)sizeof(file) && access(file, F_OK) == 0);
}

/* *out: whether the other model alone has the variant. */
static int is_others_variant(const cli *c, bool *out, const request *r, const char *path,
                             const char *other)
{
    const char *variant = r->model.options.variant;
    bool own = true, others = false;
    *out = false;
    if (!variant || !*variant)
        return 0;
    sara_status status = sara_model_has_variant(c->ctx, &own, path, is_bare(r, path), variant);
    if (status == SARA_OK)
        status = sara_model_has_variant(c->ctx, &others, other, is_bare(r, other), variant);
    *out = !own && others;
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

/* *out: whether this model is to be read by its averages: those with them are, at least one. */
static int use_ema(const cli *c, bool *out, const request *r, const char *path, const char *other)
{
    bool own = false, others = false;
    *out = r->model.options.use_ema_weights;
    if (!*out)
        return 0;
    sara_status status = sara_model_has_ema_weights(c->ctx, &own, path);
    if (status == SARA_OK)
        status = sara_model_has_ema_weights(c->ctx, &others, other);
    *out = own || !others;
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

/* Weights stay as the files have them, which loses nothing and takes the least memory. An option
 * for the other model is not this one's; one for neither is refused. */
static int extract_load(const cli *c, sara_model **out, const request *r, const char *path,
                        const char *other)
{
    cli_model model = r->model;
    bool others;
    int code = is_others_variant(c, &others, r, path, other);
    if (code == 0)
        code = use_ema(c, &model.options.use_ema_weights, r, path, other);
    if (code != 0)
        return code;
    *(is_bare(r, path) ? &model.denoiser_only : &model.model) = path;
    if (cli_is_folder(path) && !cli_is_folder(other))
        model.options.model_config = NULL;
    if (others || (!cli_is_folder(path) && cli_is_folder(other)))
        model.options.variant = NULL;
    model.options.weight_dtype = "auto";
    return cli_load_denoiser(c, out, &model);
}

static int extract(const cli *c, const request *r)
{
    sara_extract_report report;
    sara_model *base = NULL, *tuned = NULL;
    int code = check_extract_args(c, r);
    if (code == 0)
        code = extract_load(c, &base, r, r->base, r->tuned);
    if (code == 0)
        code = extract_load(c, &tuned, r, r->tuned, r->base);
    if (code == 0) {
        sara_status status =
            sara_model_extract(c->ctx, &report, base, tuned, r->output, &r->extract);
        code = status == SARA_OK ? 0 : cli_fail_context(c, status);
    }
    if (code == 0)
        print_extract_report(r->output, &report);
    sara_model_free(base);
    sara_model_free(tuned);
    return code;
}

static const cli_refusal refusals[] = {
    {"conv_dim", "use --rank: convolutions and matrices have the same"},
    {"min_diff", "use --tolerance"},
    {"clamp_quantile", "values are kept as they are"},
    {"load_precision", "models are read as they are stored"},
    {"dtype", "use --save_precision"},
    {"v2", "leave it out: the kind of the models is read from them"},
    {"v_parameterization", "leave it out: the prediction type is read from the model"},
    {"sdxl", "SDXL is not supported"},
    {"device", "it runs on the CPU; leave it out"},
    {"vae", "the U-Nets alone are compared, which need none; leave it out"},
    {"no_metadata", "an adapter names its base in its metadata"},
    {NULL, NULL},
};

int cmd_extract(cli *c)
{
    request r = {.base = NULL};
    bool help;
    sara_extract_options_init(&r.extract);
    const cli_option options[] = {
        {"base", 'm', CLI_STRING, &r.base, 0, 0, "PATH",
         "the base: a diffusers folder or a .safetensors file"},
        {"tuned", 0, CLI_STRING, &r.tuned, 0, 0, "PATH", "the model that the adapter makes of it"},
        {"output", 'o', CLI_STRING, &r.output, 0, 0, "FILE", "a new adapter"},
        {"top_fraction", 0, CLI_DOUBLE, &r.extract.top_fraction, 1e-12, 1, "F",
         "keep this share of all entries, those that changed most (all that differ)"},
        {"tolerance", 0, CLI_DOUBLE, &r.extract.tolerance, 0, 1e30, "T",
         "keep changes larger than T (all that differ)"},
        {"format", 0, CLI_STRING, &r.extract.format, 0, 0, "NAME",
         "sara; lora: kohya's layout, the text encoder's change too (sara)"},
        {"rank", 0, CLI_INT, &r.extract.rank, 1, 65536, "R", "of the LoRA's layers"},
        {"save_precision", 0, CLI_STRING, &r.extract.save_precision, 0, 0, "TYPE",
         "of the values: fp32, fp16 or bf16 (fp32; lora: fp16)"},
        {"unet-only", 0, CLI_SWITCH, &r.denoiser_only, 0, 0, NULL,
         "both are bare unet/ folders (one may be in any case)"},
        {"variant", 0, CLI_STRING, &r.model.options.variant, 0, 0, "NAME",
         "weight files' variant, e.g. fp16"},
        {"model_config", 0, CLI_STRING, &r.model.options.model_config, 0, 0, "DIR",
         "for files: a diffusers folder with their configs"},
        {"use_ema_weights", 0, CLI_SWITCH, &r.model.options.use_ema_weights, 0, 0, NULL,
         "of files that have them: the averages of the U-Net (model_ema.)"},
        {"dim", 0, CLI_INT, &r.extract.rank, 1, 65536, "R", NULL},
        {"network_dim", 0, CLI_INT, &r.extract.rank, 1, 65536, "R", NULL},
        {"model", 0, CLI_STRING, &r.base, 0, 0, "DIR", NULL},
        {"model_org", 0, CLI_STRING, &r.base, 0, 0, "DIR", NULL}, /* as kohya's script has them */
        {"model_tuned", 0, CLI_STRING, &r.tuned, 0, 0, "DIR", NULL},
        {"save_to", 0, CLI_STRING, &r.output, 0, 0, "FILE", NULL},
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_command command = {
        .name = "extract",
        .summary = "make an adapter of what two models differ in",
        .usage = "--base PATH --tuned PATH -o FILE [options]",
        .examples = "  sara extract --base base --tuned ink-model -o ink.safetensors\n"
                    "  sara extract --base base --tuned full-finetune --top_fraction 0.05 "
                    "-o small.safetensors\n"
                    "  sara extract --base base --tuned ink-model --format lora --rank 32 -o "
                    "lora.safetensors\n"
                    "  sara extract --base base --tuned run/unet -o tuned.safetensors "
                    "--top_fraction 0.1\n",
        .options = options,
        .refusals = refusals,
    };
    int code = cli_parse(c, &command, &help);
    return code || help ? code : extract(c, &r);
}
