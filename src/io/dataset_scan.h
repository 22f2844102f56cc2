/* What the two ways of listing a dataset folder share; private to the io layer. */
#ifndef SARA_DATASET_SCAN_H
#define SARA_DATASET_SCAN_H

#include "io/io.h"

#include <limits.h>

#define SARA_METADATA_FILE "metadata.jsonl"

typedef struct sara_dataset_scan_state {
    sara_context *ctx;
    const char *folder;
    const char *column;  /* of metadata.jsonl that holds the captions */
    const char *prefix;  /* "" for none */
    char root[PATH_MAX]; /* the folder, resolved */
    sara_dataset_item *items;
    size_t count, capacity;
    sara_arena arena; /* what the items point to */
} sara_dataset_scan_state;

typedef enum sara_file_kind {
    SARA_FILE_OTHER,
    SARA_FILE_IMAGE,
    SARA_FILE_UNREADABLE_IMAGE /* an image by its extension, of a kind that is not read */
} sara_file_kind;
sara_file_kind sara_file_kind_of(const char *name); /* by extension; hidden files are OTHER */

/* folder/name with links resolved. `where` begins the error line for a file that is missing, not a
 * regular file or outside the folder. */
SARA_NODISCARD sara_status sara_dataset_resolve(const sara_dataset_scan_state *scan,
                                                char resolved[PATH_MAX], const char *where,
                                                const char *name);
/* Copies both strings; the prefix goes before the caption. */
SARA_NODISCARD sara_status sara_dataset_add(sara_dataset_scan_state *scan, const char *name,
                                            const char *caption);
/* Adds the rows of metadata.jsonl at path. */
SARA_NODISCARD sara_status sara_dataset_read_metadata(sara_dataset_scan_state *scan,
                                                      const char *path);

#endif
