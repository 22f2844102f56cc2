/* What the parts of SaRA (arXiv 2409.06633) share. */
#ifndef SARA_TRAIN_METHODS_SARA_H
#define SARA_TRAIN_METHODS_SARA_H

#include "train/methods/methods.h"
#include "train/methods/selective.h"

/* sara_reselection.c: when it is due, from the options, the number of steps and the checkpoint. */
void sara_reselection_place(trainer *t);
void sara_reselection_tell(const trainer *t);
const char *const *sara_reselection_changing(const trainer *t);
/* Of the manifest's "run": whether progressive_iter came from the number of steps. */
#define SARA_RESELECTION_KEY "progressive_iter_auto"

/* sara_mask.c: the origin's entries, or those of --mask, with the threshold that its budget comes
 * to. scores: the sums of gradients; NULL: they are not there yet. */
SARA_NODISCARD sara_status sara_mask_select(trainer *t, sara_selection *out, const float *scores);
/* For small(): the budget's, whatever the mask, or that of the adapter's entries. */
SARA_NODISCARD sara_status sara_mask_threshold(const trainer *t, double *out);
bool sara_mask_is_smallest(const trainer *t);
SARA_NODISCARD sara_status sara_mask_resolve(const trainer *t, json_t *run);
void sara_mask_describe(const trainer *t, sara_method_text *out);

/* sara_gradient.c: for --mask gradient, whose entries are chosen once there are micro-batches. How
 * many of them there will be, from the options and the data. */
SARA_NODISCARD sara_status sara_gradient_steps(const trainer *t, int *out);
/* Adds up the gradients of all entries over them: sums, memory of the host, sara_free(). */
SARA_NODISCARD sara_status sara_gradient_sums(trainer *t, float **sums);

#endif
