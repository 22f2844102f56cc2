/* CLIPTextModel, the same with a projection, and CLIPModel with both towers. */
#ifndef SARA_MODELS_CLIP_H
#define SARA_MODELS_CLIP_H

#include "models/network.h"

extern const sara_network_class sara_clip_text_class;
extern const sara_network_class sara_clip_text_projection_class; /* CLIPTextModelWithProjection */

/* Of either class. ids [batch][count]; states [batch,count,hidden]: the last after the final norm,
 * or where skip > 0 those before the last `skip` layers, without it (transformers'
 * hidden_states[-(skip + 1)]). pooled [batch,info.text.pooled_size] or NULL: the last normed state
 * at the first eos, or where eos_token_id == 2 at the largest id, as transformers does, through the
 * projection where there is one. SARA_ERROR_INPUT for more layers than there are. */
SARA_NODISCARD sara_status sara_clip_text_forward(sara_tape *tape, sara_var **states,
                                                  sara_var **pooled, sara_network *text, int skip,
                                                  const int32_t *ids, int64_t batch, int64_t count);
/* Vectors that stand in a text beside those of the encoder's table (textual inversion). */
typedef struct sara_clip_vectors {
    const float *data; /* [count][hidden] */
    int64_t count;
} sara_clip_vectors;
/* The same where id -1 is the first of the vectors, -2 the second, ...; NULL: there are none. No
 * text ends at one of them. */
SARA_NODISCARD sara_status sara_clip_text_forward_with(sara_tape *tape, sara_var **states,
                                                       sara_var **pooled, sara_network *text,
                                                       int skip, const int32_t *ids, int64_t batch,
                                                       int64_t count,
                                                       const sara_clip_vectors *vectors);

/* A folder with both towers, their projections and the logits' scale; info.vision. */
extern const sara_network_class sara_clip_class;
/* features [batch,width], not of unit length, as get_text_features() gives them. */
SARA_NODISCARD sara_status sara_clip_text_features(sara_tape *tape, sara_var **features,
                                                   sara_network *clip, const int32_t *ids,
                                                   int64_t batch, int64_t count);
/* features [N,width] of pixels [N,3,side,side], as get_image_features() gives them. */
SARA_NODISCARD sara_status sara_clip_image_features(sara_tape *tape, sara_var **features,
                                                    sara_network *clip, sara_var *pixels);
/* exp() of the model's, by which cosines become logits. */
SARA_NODISCARD sara_status sara_clip_logit_scale(sara_network *clip, double *out);

#endif
