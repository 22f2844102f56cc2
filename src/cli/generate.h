/* What `sara generate` is asked for. */
#ifndef SARA_CLI_GENERATE_H
#define SARA_CLI_GENERATE_H

#include "cli.h"

#define GENERATE_OUTPUT "output.png"

typedef struct generate_request {
    sara_generate_options generate;
    cli_model model;
    cli_seed seed;
    const char *output; /* NULL: not given; GENERATE_OUTPUT by the first numbers that are new */
    const char *scheduler;
    const char *type; /* weight_dtype under another name */
    cli_list prompts, adapters;
    int count; /* of pictures for each prompt */
    bool compare;
} generate_request;

/* Before the model is read: options, prompts, adapters and names. 0, or the exit code after the
 * line was printed. Sets count, karras and weight_dtype. */
int generate_check(const cli *c, generate_request *r);

#endif
