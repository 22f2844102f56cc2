/* The parts of sara inspect. */
#ifndef SARA_CLI_INSPECT_H
#define SARA_CLI_INSPECT_H

#include "cli.h"

#include <jansson.h>

/* Prints and frees; root NULL: memory ran out. */
int inspect_print_json(const cli *c, json_t *root);
/* base NULL: what the change is cannot be told. */
int inspect_adapter(const cli *c, const char *path, sara_model *base, bool force, bool json);

#endif
