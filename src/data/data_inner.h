/* What the parts of the data layer share. */
#ifndef SARA_DATA_INNER_H
#define SARA_DATA_INNER_H

#include "data/data.h"

/* SARA_OK where the listener, if there is one, has heard of the error; else status. */
SARA_NODISCARD sara_status sara_data_hear(sara_context *ctx, const sara_data_listener *listener,
                                          const char *path, sara_status status);
/* Every image and mask is decoded; sizes and fits are filled. buckets [sets] */
SARA_NODISCARD sara_status sara_data_check_images(sara_data *data, const sara_buckets *buckets,
                                                  const sara_data_listener *listener);
/* data->sha256 and those of the images; configured: settings are no options of the run. */
SARA_NODISCARD sara_status sara_data_hash(sara_data *data, bool configured);
/* All settings but where images and masks lie. */
SARA_NODISCARD sara_status sara_data_hash_config(sara_sha256 *hash, const sara_data_config *config);

#endif
