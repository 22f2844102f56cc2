/* The MMDiT's parts, for mmdit.c (loading), block.c and forward.c. */
#ifndef SARA_MODELS_MMDIT_PARTS_H
#define SARA_MODELS_MMDIT_PARTS_H

#include "models/layers.h"
#include "models/mmdit/config.h"

#define SARA_MMDIT_TIME_WIDTH 256 /* of a timestep's sinusoids */

/* Of one kind of tokens. */
typedef struct sara_mmdit_attention {
    sara_layer q, k, v, out;     /* out.weight NULL: what it would give is not used */
    sara_param *norm_q, *norm_k; /* [head_width]; NULL: none */
} sara_mmdit_attention;

/* What a block has for the image's tokens, or for the text's. */
typedef struct sara_mmdit_stream {
    sara_layer modulation; /* from the conditioning to shifts, scales and gates */
    sara_mmdit_attention attention;
    sara_layer ff_in, ff_out;
} sara_mmdit_stream;

/* The last has no more for the text than its queries, keys and values. */
typedef struct sara_mmdit_block {
    sara_mmdit_stream image, text;
    sara_mmdit_attention dual; /* dual.q.weight NULL: none */
    int heads;
    bool last;
} sara_mmdit_block;

typedef struct sara_mmdit {
    sara_network network;
    sara_mmdit_config config;
    sara_layer patches;    /* [width,channels,patch,patch] */
    sara_param *positions; /* [1,positions^2,width]: no parameter */
    sara_layer time_1, time_2, pooled_1, pooled_2;
    sara_layer context;             /* [width,joint_width] */
    sara_mmdit_block *blocks;       /* [config.blocks] */
    sara_layer modulation_out, out; /* [2 width,width], [patch^2 channels,width] */
} sara_mmdit;

/* block.c: *x [N,T,width] and *text [N,S,width] become what the block makes of them; NULL: of the
 * last, whose text nobody reads. e [N,width] is the conditioning after its SiLU. again: what lies
 * between is computed again in backward. */
SARA_NODISCARD sara_status sara_mmdit_block_forward(sara_tape *tape, sara_network *network,
                                                    const sara_mmdit_block *block, sara_var **x,
                                                    sara_var **text, sara_var *e, bool again);
/* y = norm(x) (1 + scale) + shift with the parts of m [N,parts*width] of these numbers. */
SARA_NODISCARD sara_status sara_mmdit_modulate(sara_tape *tape, sara_var **y, sara_var *x,
                                               sara_var *m, int shift, int scale);
/* forward.c */
SARA_NODISCARD sara_status sara_mmdit_forward(sara_tape *tape, sara_var **out,
                                              sara_network *network, sara_var *sample,
                                              const double *timesteps,
                                              const sara_condition *condition);
/* shapes.c, single.c */
extern const sara_network_shape sara_mmdit_shapes[];
extern const sara_single_layout sara_mmdit_single;

#endif
