/* Files that metadata names, found as they are called on the disk; private to the io layer. */
#ifndef SARA_DATASET_NAMES_H
#define SARA_DATASET_NAMES_H

#include "io/dataset_scan.h"

/* Folders that names led through, kept as several rows name files of one. */
typedef struct sara_dataset_names {
    sara_dataset_scan_state *scan;
    sara_dataset_folder *top;
    sara_dataset_folder **inner;
    size_t count, capacity;
} sara_dataset_names;

void sara_dataset_names_init(sara_dataset_names *names, sara_dataset_scan_state *scan,
                             sara_dataset_folder *folder);
void sara_dataset_names_free(sara_dataset_names *names);
/* Relative, without a drive, and down from the folder; backslashes count as slashes. */
bool sara_dataset_is_downward(const char *name);
/* Without white space (Unicode's, U+200B and U+FEFF) at its ends; sara_free(). */
SARA_NODISCARD sara_status sara_dataset_trim(sara_context *ctx, char **out, const char *name);
/* The path from the folder of the regular file that is meant: the name as it is, else trimmed, with
 * slashes for backslashes and by Unicode's NFC. An error tells the nearest name. *out: sara_free().
 * `where` begins the error's line. */
SARA_NODISCARD sara_status sara_dataset_names_find(sara_dataset_names *names, char **out,
                                                   const char *where, const char *name,
                                                   const char *trimmed);

#endif
