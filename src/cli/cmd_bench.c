#include "text.h"

#include <jansson.h>
#include <stdio.h>

static double real_at(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static double gib_at(const json_t *object, const char *key)
{
    return real_at(object, key) / 1073741824.0;
}

static void print_steps(json_t *root)
{
    double parameters = real_at(root, "parameters"), trainable = real_at(root, "trainable");
    char model[1024];
    size_t index;
    json_t *value;
    text_escape(model, sizeof(model), json_string_value(json_object_get(root, "model")));
    double levels = real_at(root, "checkpointing_levels");
    char checkpointing[64] = "";
    if (levels > 0)
        snprintf(checkpointing, sizeof(checkpointing), ", checkpointing of %g levels", levels);
    bool offloaded = json_is_true(json_object_get(root, "disk_offload"));
    printf("%s: method %s, latents %gx%g, batch %g, %g threads, %s, mixed precision %s%s%s\n",
           model, json_string_value(json_object_get(root, "method")), real_at(root, "latent"),
           real_at(root, "latent"), real_at(root, "batch"), real_at(root, "threads"),
           json_string_value(json_object_get(root, "weight_dtype")),
           json_string_value(json_object_get(root, "mixed_precision")), checkpointing,
           offloaded ? ", weights on the disk" : "");
    printf("%.0f of %.0f parameters trained (%.2f %%); loaded in %.1f s\n", trainable, parameters,
           100 * trainable / parameters, real_at(root, "load_seconds"));
    printf("seconds of each step:");
    json_array_foreach(json_object_get(root, "seconds"), index, value)
    {
        printf(" %.3f", json_number_value(value));
    }
    printf("\n\n");
}

static void print_kinds(json_t *root)
{
    double best = 0;
    const char *name;
    json_t *entry, *table = json_object_get(root, "kinds");
    json_object_foreach(table, name, entry)
    {
        best += real_at(entry, "seconds");
    }
    printf("The best step:\n  %-22s %7s %9s %7s %9s\n", "", "calls", "seconds", "share", "GFLOP/s");
    json_object_foreach(table, name, entry)
    {
        double rate = real_at(entry, "gflops_per_second");
        printf("  %-22s %7.0f %9.4f %5.1f %%", name, real_at(entry, "calls"),
               real_at(entry, "seconds"), best > 0 ? 100 * real_at(entry, "seconds") / best : 0);
        if (rate > 0)
            printf(" %9.1f", rate);
        printf("\n");
    }
    double rate = real_at(root, "flops_per_second"), peak = real_at(root, "peak_flops_per_second");
    printf("  %-22s %7s %9.4f %7s %9.1f\n", "in all", "", best, "", rate / 1e9);
    printf("%.1f %% of the %.1f GFLOP/s that this machine reaches in registers\n",
           peak > 0 ? 100 * rate / peak : 0, peak / 1e9);
    if (json_object_get(root, "rank_seconds"))
        printf("a low-rank term takes %.4f s on average\n", real_at(root, "rank_seconds"));
}

static void print_memory(const json_t *root)
{
    const json_t *memory = json_object_get(root, "memory");
    printf("\nGiB at the peak: weights %.3f, optimizer %.3f, activations %.3f, other %.3f; "
           "in all %.3f\n",
           gib_at(memory, "weights"), gib_at(memory, "optimizer"), gib_at(memory, "activations"),
           gib_at(memory, "other"), real_at(root, "peak_rss_gib"));
}

static int print_bench_report(const cli *c, const char *report)
{
    json_t *root = json_loads(report, 0, NULL);
    if (!root)
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    print_steps(root);
    print_kinds(root);
    print_memory(root);
    json_decref(root);
    return 0;
}

static int bench(const cli *c, sara_bench_options *options, const cli_seed *seed, bool json)
{
    char *report = NULL;
    int code = cli_take_seed(c, &options->seed, seed, 1);
    if (code)
        return code;
    sara_status status = sara_bench(c->ctx, &report, options);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    if (json)
        printf("%s\n", report);
    else
        code = print_bench_report(c, report);
    sara_free(c->ctx, report);
    return code;
}

static const cli_refusal refusals[] = {
    {"vae", "the U-Net alone is timed, which needs none; leave it out"},
    {"tokenizer", "the U-Net alone is timed, which needs none; leave it out"},
    {NULL, NULL},
};

/* It was a switch. */
static const cli_refusal missing[] = {
    {"rank", "it is the method's rank; --time_rank_term times the low-rank term"},
    {NULL, NULL},
};

static int parse_bench(cli *c, const cli_option *options, bool *help)
{
    const cli_command command = {
        .name = "bench",
        .summary = "time training steps on this machine",
        .usage = "-m PATH | --shape NAME [options]",
        .examples = "  sara bench --shape sd15\n"
                    "  sara bench -m base --latent 32 --method forward\n"
                    "  sara bench -m unet.safetensors --model_config base --latent 32\n"
                    "  sara bench --shape sd15 --trainable 2% --profile trace.json --json\n",
        .options = options,
        .refusals = refusals,
        .missing = missing,
    };
    return cli_parse(c, &command, help);
}

int cmd_bench(cli *c)
{
    sara_bench_options o;
    bool json = false, help;
    sara_bench_options_init(&o);
    cli_seed seed = {o.seed, false};
    const cli_option options[] = {
        {"model", 'm', CLI_STRING, &o.model, 0, 0, "PATH",
         "a diffusers folder, whose unet/ is read, a bare unet/ folder or a .safetensors file"},
        {"shape", 0, CLI_STRING, &o.shape, 0, 0, "NAME",
         "random weights: sd15, sd21, sdxl, sd3-medium, sd35-medium, sd35-large or tiny"},
        {"variant", 0, CLI_STRING, &o.variant, 0, 0, "NAME", "weight files' variant, e.g. fp16"},
        {"model_config", 0, CLI_STRING, &o.model_config, 0, 0, "DIR",
         "for a file: a diffusers folder with its configs"},
        {"use_ema_weights", 0, CLI_SWITCH, &o.use_ema_weights, 0, 0, NULL,
         "of a file: the averages of its U-Net (model_ema.)"},
        {"method", 0, CLI_STRING, &o.method, 0, 0, "NAME",
         "as of sara train, or forward: no gradient (sara)"},
        {"latent", 0, CLI_INT, &o.latent, 1, 4096, "N",
         "side of the latents, an eighth of the image's (64)"},
        {"text_length", 0, CLI_INT, &o.text_length, 1, 4096, "N", "text states (77; SD3: 154)"},
        {"batch", 0, CLI_INT, &o.batch, 1, 1024, "N", "(1)"},
        {"steps", 0, CLI_INT, &o.steps, 1, 1000, "N", "(3)"},
        {"trainable", 0, CLI_STRING, &o.trainable, 0, 0, "BUDGET",
         "5.8%, 0.058, 20M or 50000 entries; 1 and 1.0 are one entry, 100% all (5.8%, "
         "rank 4 or width 64, by the method)"},
        {"mask", 0, CLI_STRING, &o.mask, 0, 0, "NAME",
         "of sara: smallest, largest, random, gradient, lift (smallest)"},
        {"mask_steps", 0, CLI_INT, &o.mask_steps, 1, 1000000, "N", "of --mask gradient (64)"},
        {"rank", 0, CLI_INT, &o.method_rank, 1, 65536, "N",
         "of lora, dora, shira (4); of --mask lift (128)"},
        {"lora_alpha", 0, CLI_DOUBLE, &o.lora_alpha, 1e-30, 1e9, "N", "of lora, dora (the rank)"},
        {"lora_targets", 0, CLI_STRING, &o.lora_targets, 0, 0, "WHICH",
         "layers: attention, linear, all (attention)"},
        {"adapter_width", 0, CLI_INT, &o.adapter_width, 1, 65536, "N", "of adaptformer (64)"},
        {"adapter_scale", 0, CLI_DOUBLE, &o.adapter_scale, 1e-30, 1e6, "N", "of adaptformer (0.1)"},
        {"lambda_rank", 0, CLI_DOUBLE, &o.lambda_rank, 0, 1e6, "N",
         "weight of the low-rank term; 0: none (5e-4)"},
        {"network_dim", 0, CLI_INT, &o.method_rank, 1, 65536, "N", NULL}, /* kohya's names */
        {"network_alpha", 0, CLI_DOUBLE, &o.lora_alpha, 1e-30, 1e9, "N", NULL},
        {"time_rank_term", 0, CLI_SWITCH, &o.rank, 0, 0, NULL, "time the low-rank terms too"},
        {"gradient_checkpointing", 0, CLI_SWITCH, &o.gradient_checkpointing, 0, 0, NULL,
         "compute blocks again in backward, which saves memory"},
        {"gradient_checkpointing_levels", 0, CLI_INT, &o.gradient_checkpointing_levels, 1, 8, "N",
         "those of the N largest resolutions alone (all)"},
        {"disk_offload", 0, CLI_SWITCH, &o.disk_offload, 0, 0, NULL,
         "read weights from disk at each use: less memory"},
        {"mixed_precision", 0, CLI_STRING, &o.mixed_precision, 0, 0, "TYPE",
         "no, or bf16: layers multiply bf16 (no)"},
        {"weight_dtype", 0, CLI_STRING, &o.weight_dtype, 0, 0, "TYPE",
         "weights in memory: auto (as in the file), fp32, fp16 or bf16 (fp32)"},
        {"seed", 0, CLI_SEED, &seed, 0, 0, "N",
         "of weights, latents and texts; -1: drawn and told (42)"},
        {"profile", 0, CLI_STRING, &o.profile, 0, 0, "FILE.json",
         "write each kernel's time for chrome://tracing or Perfetto"},
        {"device", 0, CLI_STRING, &o.device, 0, 0, "NAME", "where to compute: cpu (cpu)"},
        {"json", 0, CLI_SWITCH, &json, 0, 0, NULL, "print JSON"},
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    int code = parse_bench(c, options, &help);
    return code || help ? code : bench(c, &o, &seed, json);
}
