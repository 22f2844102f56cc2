/* T5EncoderModel (Raffel et al. 2020) of version 1.1, whose feed-forwards are gated by GELU. */
#ifndef SARA_MODELS_T5_H
#define SARA_MODELS_T5_H

#include "models/network.h"

/* A streamed class (models/network.h): its forward pass reads a block's values, uses them and gives
 * them back. info.text; max_positions 0: a text may have any number of ids. */
extern const sara_network_class sara_t5_class;

/* Its table of tokens, which files hold under either name or, single files, under both. */
#define SARA_T5_TOKENS       "shared.weight"
#define SARA_T5_TOKENS_AGAIN "encoder.embed_tokens.weight"

/* ids [batch][count], all of which are attended to; states [batch,count,d_model] after the final
 * norm. What a text comes to does not depend on those beside it, nor on whether values are
 * streamed; but they share each read of the files. No gradients pass: the tape records nothing.
 * Files that are no longer as they were opened are SARA_ERROR_IO. */
SARA_NODISCARD sara_status sara_t5_forward(sara_tape *tape, sara_var **states,
                                           sara_network *network, const int32_t *ids, int64_t batch,
                                           int64_t count);

#endif
