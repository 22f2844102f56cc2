/* What methods share of runs that start from an adapter. */
#ifndef SARA_TRAIN_METHODS_ORIGIN_H
#define SARA_TRAIN_METHODS_ORIGIN_H

#include "pipeline/adapter_kind.h"
#include "train/trainer.h"

/* The adapter that the run starts, or started, from. */
typedef struct sara_origin {
    bool is;         /* there is one */
    char *path;      /* what to read: its file, or the checkpoint's that holds its values now */
    double strength; /* at which they are taken */
    double told_strength; /* that the run was given */
    char sha256[65];      /* of its file */
} sara_origin;

/* For open(): --adapter, or that of the checkpoint's run, whose method has its values in `file` of
 * the folder. *out is zero at first, and in any case to be closed. */
SARA_NODISCARD sara_status sara_origin_open(const trainer *t, sara_origin *out, const char *file);
const char *sara_origin_source(const trainer *t); /* for errors: what the user has named */
/* Opens such a file; another kind than the method's is SARA_ERROR_INPUT. *out:
 * sara_adapter_source_close(), even after an error. */
SARA_NODISCARD sara_status sara_origin_read(const trainer *t, sara_adapter_source *out,
                                            const char *path, const sara_adapter_kind *kind);
/* For resolve(): what the run started from; what the file decides instead of options goes. */
SARA_NODISCARD sara_status sara_origin_resolve(const trainer *t, const sara_origin *origin,
                                               json_t *run);
void sara_origin_close(const trainer *t, sara_origin *origin);

#endif
