/* The parts of sara inspect. */
#ifndef SARA_CLI_INSPECT_H
#define SARA_CLI_INSPECT_H

#include "cli.h"

#include <jansson.h>
#include <sara_eval.h>

/* Prints and frees; root NULL: memory ran out. */
int inspect_print_json(const cli *c, json_t *root);
/* base NULL: what the change is cannot be told. */
int inspect_adapter(const cli *c, const char *path, sara_model *base, bool force, bool json);

/* inspect_sweep.c: --zero_sweep, with what is drawn and measured; inspect_sweep_init() first. */
typedef struct inspect_sweep {
    const char *thresholds; /* NULL: it is not given */
    sara_eval_options eval;
    sara_generate_options generate;
    cli_seed seed;
    const char *scheduler;
} inspect_sweep;
#define INSPECT_SWEEP_OPTIONS(s)                                                                   \
    {"zero_sweep", 0, CLI_STRING, &(s)->thresholds, 0, 0, "LIST",                                  \
     "1e-5,1e-4: draw with entries of |p| below set to zero"},                                     \
        {"prompts", 0, CLI_STRING, &(s)->eval.prompts, 0, 0, "FILE", "of that: one a line"},       \
        {"clip", 0, CLI_STRING, &(s)->eval.clip, 0, 0, "DIR", "of that, as of sara eval"},         \
        {"clip_tokenizer", 0, CLI_STRING, &(s)->eval.clip_tokenizer, 0, 0, "DIR", NULL},           \
        {"clip_resize", 0, CLI_INT, &(s)->eval.clip_resize, 1, 16384, "N", NULL},                  \
        {"inception", 0, CLI_STRING, &(s)->eval.inception, 0, 0, "FILE", "likewise"},              \
        {"references", 0, CLI_STRING, &(s)->eval.references, 0, 0, "DIR",                          \
         "likewise (what the model as it is draws)"},                                              \
        {"fid", 0, CLI_STRING, &(s)->eval.fid, 0, 0, "NAME", NULL},                                \
    CLI_DRAW_OPTIONS(&(s)->generate, &(s)->seed, &(s)->scheduler, false)
void inspect_sweep_init(inspect_sweep *s);
/* Refuses what goes with --zero_sweep where that is not given, and what does not where it is. */
int inspect_sweep_check(const cli *c, const inspect_sweep *s, const char *other);
int inspect_sweep_run(const cli *c, inspect_sweep *s, const cli_model *model, const char *output,
                      bool json);

#endif
