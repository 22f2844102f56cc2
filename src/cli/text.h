/* Strings of a config file, kept until the program ends; text made safe for a terminal. */
#ifndef SARA_CLI_TEXT_H
#define SARA_CLI_TEXT_H

#include "cli.h"

#include <stddef.h>

/* A copy that lives as long as c; NULL if memory ran out. */
const char *text_keep(cli *c, const char *text);
void text_free(cli *c);
/* Control characters and what is no UTF-8 become \xNN; cuts what does not fit, always terminates.
 */
void text_escape(char *out, size_t size, const char *text);

/* Numbers in a list (with commas, or one alone) of more digits than one would write get the fewest
 * with which they read back as the same float, or double where they are no float; all else
 * stays. */
void text_shorten(char *text);

#endif
