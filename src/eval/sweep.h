/* What the files of sara_zero_sweep() share. */
#ifndef SARA_EVAL_SWEEP_H
#define SARA_EVAL_SWEEP_H

#include "eval/eval.h"

/* The report as a page with plots. */
SARA_NODISCARD sara_status sara_sweep_page(sara_context *ctx, const json_t *report,
                                           const char *path);

#endif
