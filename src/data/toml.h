/* TOML by toml++, behind a C interface. */
#ifndef SARA_DATA_TOML_H
#define SARA_DATA_TOML_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The document as JSON, malloc()ed; NULL: why not, with the line, in why [why_size]. Dates and
 * times become strings. */
char *sara_toml_to_json(const char *text, size_t size, char *why, size_t why_size);

#ifdef __cplusplus
}
#endif

#endif
