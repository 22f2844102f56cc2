/* The command line: declarative options, progress, one file per command. Knows sara.h alone. */
#ifndef SARA_CLI_H
#define SARA_CLI_H

#include "sara.h"

struct progress_view;

typedef struct cli {
    sara_context *ctx;
    const char *command; /* its name, for messages */
    const char *config;  /* the file whose options are being read; NULL: the arguments */
    int argc;            /* the command's own arguments, without program and command */
    char **argv;
    int threads;                /* 0: not given */
    struct progress_view *view; /* what stands on the terminal */
    struct cli_texts *texts;    /* kept until the program ends */
} cli;

/* Prints one line "sara COMMAND: ..." to stderr and returns status. */
int cli_fail(const cli *c, sara_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with the context's line. */
int cli_fail_context(const cli *c, sara_status status);
/* Prints a path to stdout: as it is to a file or pipe, with control characters escaped to a
 * terminal. */
void cli_print_path(const char *before, const char *path, const char *after);

/* session.c: makes the context, with c->threads, in the place of the one that there is. The first
 * SIGINT, SIGTERM or SIGHUP from then on interrupts it; the next ends the program at once. */
int cli_open(cli *c);
void cli_close(cli *c);

/* ------------------------------------------------------------------------------------- options */

typedef enum cli_kind {
    CLI_STRING,  /* const char * */
    CLI_LIST,    /* cli_list */
    CLI_INT,     /* int, from low to high */
    CLI_PAIR,    /* int[2], from low to high each: "1024,768" */
    CLI_SEED,    /* cli_seed */
    CLI_DOUBLE,  /* double, from low to high */
    CLI_SWITCH,  /* bool */
    CLI_FORWARD, /* target: the name of the option of cli_command.set that it stands for */
    CLI_CONFIG   /* a JSON file of options */
} cli_kind;

#define CLI_LIST_MAX 64
typedef struct cli_list {
    const char *items[CLI_LIST_MAX];
    int count;
    bool from_config; /* the first item of the command line takes the place of all */
} cli_list;

typedef struct cli_seed {
    uint64_t number;
    bool draw; /* a negative number was given: the system's entropy instead */
} cli_seed;

typedef struct cli_option {
    const char *name; /* without dashes; '-' and '_' are the same */
    char letter;      /* 0: none */
    cli_kind kind;
    void *target;
    double low, high;
    const char *metavar, *help; /* help NULL: not shown */
} cli_option;

/* The options that every command has. */
#define CLI_THREADS_OPTION(c)                                                                      \
    {                                                                                              \
        "threads", 't', CLI_INT, &(c)->threads, 1, 4096, "N", "(all processors)"                   \
    }
#define CLI_CONFIG_OPTION                                                                          \
    {                                                                                              \
        "config", 0, CLI_CONFIG, NULL, 0, 0, "FILE",                                               \
            "options in JSON or TOML, below the command line"                                      \
    }

/* Flags of other programs, with what to use instead. */
typedef struct cli_refusal {
    const char *name, *advice; /* a name of one character is a letter */
} cli_refusal;

typedef struct cli_command {
    const char *name, *summary, *usage, *examples;
    const char *note;            /* lines of its help before the options; NULL: none */
    const char *operand;         /* the option that a word without dashes is for; NULL: none */
    const cli_option *options;   /* ended by a NULL name */
    const cli_refusal *refusals; /* ended by a NULL name; may be NULL */
    const cli_refusal *missing;  /* likewise: of options, where the value is missing */
    /* Options beyond the table: resolve gives the proper name, NULL if it is none. Both NULL: no
     * others. set returns 0, or the exit code after the line was printed; value NULL: a switch. */
    const char *(*resolve)(const char *name, bool *takes_value);
    int (*set)(cli *c, void *user, const char *name, const char *value);
    bool (*shows)(const cli *c, const char *name); /* whether the help shows one of those */
    /* Before it: 0, or the exit code after the line was printed. NULL: nothing can be wrong. */
    int (*check_help)(const cli *c);
    void *user;
} cli_command;

/* Reads the config files, then the arguments, and opens the context anew with the threads wanted.
 * 0, or the exit code after the line was printed; *help: --help was asked for and printed. */
int cli_parse(cli *c, const cli_command *command, bool *help);
bool cli_same_name(const char *a, const char *b);
/* The value of an option among the arguments, whatever else they are; NULL: it is not there. */
const char *cli_value_of(const cli *c, const char *name);

/* Parts of cli_parse(). set_option: value.c; print_help: help.c; read_config: config.c, which calls
 * set for each option and value. */
int cli_set_option(cli *c, const cli_command *command, const cli_option *option, const char *value);
int cli_print_help(const cli *c, const cli_command *command);
typedef int (*cli_config_fn)(cli *c, const cli_command *command, const char *name,
                             const char *value);
int cli_read_config(cli *c, const cli_command *command, const char *path, cli_config_fn set);

/* ---------------------------------------------------------------------------- models and files */

/* Applies "FILE[:strength]" each. */
int cli_apply(const cli *c, sara_model *model, const cli_list *adapters, bool force);
/* Which model, and what its files do not tell. */
typedef struct cli_model {
    const char *model, *denoiser_only;
    sara_model_options options;
} cli_model;
#define CLI_MODEL_OPTIONS(m)                                                                       \
    {"denoiser", 0, CLI_STRING, &(m)->options.denoiser, 0, 0, "DIR",                               \
     "beside -m: a unet/ folder (of full fine-tuning) in place of its own"},                       \
        {"diffusion-model", 0, CLI_STRING, &(m)->options.denoiser, 0, 0, "DIR", NULL},             \
    {"variant", 0, CLI_STRING, &(m)->options.variant, 0, 0, "NAME",                                \
     "weight files' variant, e.g. fp16"},                                                          \
        {"prediction_type", 0, CLI_STRING, &(m)->options.prediction_type, 0, 0, "TYPE",            \
         "epsilon, v_prediction or v, sample, flow_prediction (the model's; a file's by a test)"}, \
    {                                                                                              \
        "model_config", 0, CLI_STRING, &(m)->options.model_config, 0, 0, "DIR",                    \
            "for a file: a diffusers folder with its configs"                                      \
    },                                                                                             \
    {                                                                                              \
        "use_ema_weights", 0, CLI_SWITCH, &(m)->options.use_ema_weights, 0, 0, NULL,               \
            "of a file: the averages of its U-Net (model_ema.)"                                    \
    }
#define CLI_PARTS_OPTIONS(m)                                                                    \
    {                                                                                              \
        "tokenizer", 0, CLI_STRING, &(m)->options.tokenizer, 0, 0, "DIR",                          \
            "for a file: a tokenizer/ folder"                                                      \
    },                                                                                             \
    {                                                                                              \
        "vae", 0, CLI_STRING, &(m)->options.vae, 0, 0, "PATH",                                     \
            "another VAE: a diffusers folder or a .safetensors file"                               \
    },                                                                                             \
    {                                                                                              \
        "no-t5", 0, CLI_SWITCH, &(m)->options.no_t5, 0, 0, NULL,                                   \
            "of SD3: without its T5 text encoder"                                                  \
    }
/* What pictures are drawn with. all: the help shows the rarer ones, too. */
#define CLI_DRAW_OPTIONS(g, seed, scheduler, all)                                                  \
    {"negative-prompt", 'n', CLI_STRING, &(g)->negative_prompt, 0, 0, "TEXT",                      \
     (all) ? "what to keep away from" : NULL},                                                     \
        {"no-prompt-weights", 0, CLI_SWITCH, &(g)->no_prompt_weights, 0, 0, NULL,                  \
         (all) ? "(a), (a:1.4), [a] in prompts are plain text" : NULL},                            \
        {"long-prompt", 0, CLI_SWITCH, &(g)->long_prompt, 0, 0, NULL,                              \
         (all) ? "encode prompts of any length in chunks; else they are cut" : NULL},              \
        {"lora-model-dir", 0, CLI_STRING, &(g)->lora_model_dir, 0, 0, "DIR",                       \
         (all) ? "<lora:NAME:X> in a prompt applies DIR/NAME.safetensors for it" : NULL},          \
        {"embedding-dir", 0, CLI_STRING, &(g)->embedding_dir, 0, 0, "DIR",                         \
         (all) ? "textual inversion: names in prompts are files of it, and below" : NULL},         \
        {"width", 'W', CLI_INT, &(g)->width, 1, 16384, "N",                                        \
         "pixels, a multiple of 8, of SD3 of 16 (the model's)"},                                   \
        {"height", 'H', CLI_INT, &(g)->height, 1, 16384, "N", "pixels, likewise"},                 \
        {"steps", 0, CLI_INT, &(g)->steps, 1, 1000, "N", "denoising steps (20)"},                  \
        {"cfg-scale", 0, CLI_DOUBLE, &(g)->guidance_scale, 0, 1000, "X",                           \
         "guidance scale (the model's: 7; SDXL: 5)"},                                              \
        {"seed", 's', CLI_SEED, seed, 0, 0, "N",                                                   \
         "image i uses seed + i; -1: drawn and told (42)"},                                        \
        {"max_sequence_length", 0, CLI_INT, &(g)->max_sequence_length, 1, 512, "N",                \
         (all) ? "SD3: tokens that T5 takes (256)" : NULL},                                        \
        {"sampling-method", 0, CLI_STRING, &(g)->sampling_method, 0, 0, "NAME",                    \
         (all) ? "ddim, ddpm, pndm, euler, euler_a, dpm++2m; flows: heun (the model's)" : NULL},   \
    {                                                                                              \
        "scheduler", 0, CLI_STRING, scheduler, 0, 0, "NAME",                                       \
            (all) ? "karras: Karras sigmas (the model's)" : NULL                                   \
    }
/* What SDXL's models are told of pictures, likewise. */
#define CLI_SIZES_OPTIONS(g, all)                                                                  \
    {"original_size", 0, CLI_PAIR, (g)->original_size, 1, 65536, "H,W",                            \
     (all) ? "SDXL: the size that the picture had (its own)" : NULL},                              \
        {"crops_coords_top_left", 0, CLI_PAIR, (g)->crops_coords_top_left, 0, 65536, "TOP,LEFT",   \
         (all) ? "SDXL: where it was cropped then (0,0)" : NULL},                                  \
        {"target_size", 0, CLI_PAIR, (g)->target_size, 1, 65536, "H,W",                            \
         (all) ? "SDXL: the size to be; all also as --negative_..." : NULL},                       \
        {"negative_original_size", 0, CLI_PAIR, (g)->negative_original_size, 1, 65536, "H,W",      \
         NULL},                                                                                    \
        {"negative_target_size", 0, CLI_PAIR, (g)->negative_target_size, 1, 65536, "H,W", NULL},   \
    {                                                                                              \
        "negative_crops_coords_top_left", 0, CLI_PAIR, (g)->negative_crops_coords_top_left, 0,     \
            65536, "TOP,LEFT", NULL                                                                \
    }
/* Loads it. */
int cli_load(const cli *c, sara_model **out, const cli_model *model);
/* For what needs the denoiser alone: of a file no more is loaded. */
int cli_load_denoiser(const cli *c, sara_model **out, const cli_model *model);
bool cli_is_folder(const char *path);
/* Before the model is read: strengths, and that the files are there. */
int cli_check_adapters(const cli *c, const cli_list *adapters);
/* Refuses an output that is one of the adapters, or the other input (NULL: none). */
int cli_check_output(const cli *c, const char *option, const char *path, const cli_list *adapters,
                     const char *input);

/* ------------------------------------------------------------------------------------ pictures */

/* out.png, out_2.png, ... as stable-diffusion.cpp numbers them; free(); NULL: out of memory. */
char *cli_numbered(const char *path, int number);
/* The first number, from `number` on, from which on `count` names are new; 0: out of memory. */
int cli_first_new(const char *path, int number, int count);
/* What --scheduler NAME (NULL: it is not given) asks for; *karras is set where it does. */
int cli_check_sigmas(const cli *c, const char *name, bool *karras);
/* The seed as given, or one that is drawn and told, so that `count` in a row fit into 32 bits. */
int cli_take_seed(const cli *c, uint64_t *out, const cli_seed *seed, int count);

/* ------------------------------------------------------------------------------------ commands */

int cmd_train(cli *c);
int cmd_data(cli *c);
int cmd_generate(cli *c);
int cmd_merge(cli *c);
int cmd_extract(cli *c);
int cmd_export(cli *c);
int cmd_inspect(cli *c);
int cmd_bench(cli *c);
int cmd_compare(cli *c);
int cmd_eval(cli *c);

#endif
