#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Other trainers' flags; names that mean the same are the library's aliases. */
static const cli_refusal refusals[] = {
    {"dataset_name", "sara downloads nothing; put the images in a folder and use --train_data_dir"},
    {"dataset_config_name", "sara downloads nothing; use --train_data_dir"},
    {"revision", "sara downloads nothing; name a local folder"},
    {"push_to_hub", "sara uses no network; upload the adapter yourself"},
    {"hub_token", "sara uses no network"},
    {"hub_model_id", "sara uses no network"},
    {"image_column", "metadata names its images by file_name"},
    {"use_8bit_adam", "the optimiser's moments are float32; leave it out"},
    {"use_ema", "leave it out; there is no moving average"},
    {"scale_lr", "give --learning_rate as it shall be"},
    {"snr_gamma", "leave it out; the loss is not weighted"},
    {"min_snr_gamma", "leave it out; the loss is not weighted"},
    {"noise_offset", "leave it out; noise is plain normal"},
    {"train_text_encoder", "sara trains the denoiser"},
    {"network_module",
     "--method names what is trained: sara, full, lora, dora, adaptformer, ltsft or shira"},
    {"optimizer_type", "sara's optimiser is AdamW"},
    {"cache_latents", "latents are cached in memory anyway"},
    {"clip_skip", "the text encoder's last layer is used"},
    {"report_to", "see log.jsonl and report.html in the run folder"},
    {"logging_dir", "see log.jsonl and report.html in the run folder"},
    {"num_validation_images", "give --validation_prompt several times"},
    {"validation_epochs", "use --validation_steps"},
    {"save_every_n_epochs", "use --checkpointing_steps"},
    {"save_precision", "results are float32; sara merge --dtype writes fp16 or bf16 models"},
    {"save_model_as", "the result is in the run folder; sara train tells its name at the end"},
    {"output_name", "the result is in --output_dir; sara train tells its name at the end"},
    {"save_state", "checkpoints always hold all that is needed to resume"},
    {"v2", "the architecture is read from the model folder"},
    {"zero_terminal_snr", "set rescale_betas_zero_snr in the model's scheduler_config.json"},
    {"sample_prompts", "use --validation_prompt, once for each prompt"},
    {"sample_sampler", "validation uses the model's own scheduler"},
    {"config_file", "use --config FILE"},
    {"enable_xformers_memory_efficient_attention", "attention is blockwise already; leave it out"},
    {"allow_tf32", "there is no GPU here; leave it out"},
    {"dataloader_num_workers", "latents are cached; leave it out"},
    {"lr_end", "polynomial ends at 1e-7, as in diffusers"},
    {"percent", "use --trainable 5.8%"},
    {"preset_path", "use --config FILE"},
    {NULL, NULL},
};

static const char *train_resolve(const char *name, bool *takes_value)
{
    const sara_option_info *info = sara_train_option_find(name);
    if (!info)
        return NULL;
    *takes_value = info->metavar != NULL;
    return info->name;
}

static const char *method_of(const cli *c)
{
    const char *given = cli_value_of(c, "method");
    return given ? given : "sara";
}

static bool train_shows(const cli *c, const char *name)
{
    return sara_train_option_goes_with(name, method_of(c));
}

static int check_train_help(const cli *c)
{
    if (train_shows(c, "method"))
        return 0;
    return cli_fail(c, SARA_ERROR_USAGE, "--method %s: no such method; see sara train --help",
                    method_of(c));
}

typedef struct target {
    sara_train_options train;
    bool v_parameterization;
    const char *adapter_from; /* where --adapter was given: a config file, or "" */
    bool prompts_from_config; /* the first prompt of the command line takes the place of all */
} target;

static int set(cli *c, void *user, const char *name, const char *value)
{
    target *t = user;
    if (strcmp(name, "validation_prompt") == 0) {
        if (t->prompts_from_config && !c->config)
            t->train.validation_prompt_count = 0;
        t->prompts_from_config = c->config != NULL;
    }
    if (strcmp(name, "adapter") == 0) {
        const char *from = c->config ? "config" : "";
        if (t->train.adapter && strcmp(t->adapter_from, from) == 0)
            return cli_fail(c, SARA_ERROR_USAGE,
                            "--adapter %s: a run starts from one adapter, and %s is given already",
                            value, t->train.adapter);
        t->adapter_from = from;
    }
    sara_status status = sara_train_options_set(c->ctx, &t->train, name, value);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

static void print_result(const sara_train_options *options, const sara_train_result *result)
{
    char file[sizeof(result->result) + 1];
    printf("%lld steps done", (long long)result->steps);
    if (result->skipped)
        printf(" (%lld more skipped)", (long long)result->skipped);
    if (!isnan(result->last_loss))
        printf(", loss %.4f -> %.4f", result->first_loss, result->last_loss);
    printf("\n%lld of %lld parameters trained\n", (long long)result->selected,
           (long long)result->parameters);
    snprintf(file, sizeof(file), "/%s", result->result);
    cli_print_path(strcmp(options->method, "full") == 0 ? "weights: " : "adapter: ",
                   options->output_dir, file);
    cli_print_path("report:  ", options->output_dir, "/report.html");
}

static int train(const cli *c, const sara_train_options *options)
{
    sara_train_result result;
    sara_status status = sara_train(c->ctx, &result, options);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    print_result(options, &result);
    return 0;
}

int cmd_train(cli *c)
{
    target t = {.v_parameterization = false};
    bool help;
    char note[128];
    sara_train_options_init(&t.train);
    snprintf(note, sizeof(note),
             "These are for --method %s; sara train --method NAME --help shows another's.\n",
             method_of(c));
    const cli_option options[] = {
        {"model", 'm', CLI_FORWARD, (char *)"pretrained_model_name_or_path", 0, 0, "DIR", NULL},
        {"output", 'o', CLI_FORWARD, (char *)"output_dir", 0, 0, "DIR", NULL},
        {"v_parameterization", 0, CLI_SWITCH, &t.v_parameterization, 0, 0, NULL, NULL},
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_command command = {
        .name = "train",
        .summary = "fine-tune a model, with SaRA or otherwise, on a folder of images",
        .usage = "-m DIR --train_data_dir DIR -o DIR [options]",
        .note = note,
        .examples =
            "  sara train -m base --train_data_dir photos -o run --max_train_steps 1000\n"
            "  sara train ... -o run --resume_from_checkpoint latest [--max_train_steps 2000: "
            "longer]\n"
            "  sara train ... -o run2 --adapter run/FILE.safetensors:0.8   on from an adapter\n",
        .options = options,
        .refusals = refusals,
        .resolve = train_resolve,
        .set = set,
        .shows = train_shows,
        .check_help = check_train_help,
        .user = &t,
    };
    int code = cli_parse(c, &command, &help);
    if (code || help)
        return code;
    if (t.v_parameterization && t.train.prediction_type)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--v_parameterization and --prediction_type %s: give one of them",
                        t.train.prediction_type);
    if (t.v_parameterization)
        t.train.prediction_type = "v_prediction";
    return train(c, &t.train);
}
