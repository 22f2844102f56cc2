/* Data sets looked at before they are trained on: `sara data check`. */
#ifndef SARA_DATA_PUBLIC_H
#define SARA_DATA_PUBLIC_H

#include <sara.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct sara_data_check_options {
    size_t size; /* of this struct; 0: of its first version */
    /* What would be trained: images, captions and what becomes of them, and the model, whose sizes
     * and tokenizers count then; without one the resolution is 512, and CLIP's tokens are counted.
     * Of no other option there is a check. Borrowed. */
    const sara_train_options *train;
    const char *page; /* a contact sheet as one HTML file without scripts; NULL: none */
} sara_data_check_options;

void sara_data_check_options_init_sized(sara_data_check_options *options, size_t size);
#define sara_data_check_options_init(options)                                                      \
    sara_data_check_options_init_sized((options), sizeof(*(options)))
/* Looks at all images and captions as training would. *report: a JSON object (docs/formats.md,
 * "Looking at a data set"), sara_free(); what training would refuse is in its "refused", and no
 * error. Errors: SARA_ERROR_USAGE and SARA_ERROR_INPUT where the options, the model or the
 * configuration cannot be read; SARA_ERROR_IO of the page; SARA_INTERRUPTED. */
SARA_NODISCARD sara_status sara_data_check(sara_context *ctx, char **report,
                                           const sara_data_check_options *options);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
