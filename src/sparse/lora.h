/* Low-rank changes of weights, as LoRA files of all tools hold them: LoRA (Hu et al. 2021), LoCon
 * of convolutions, DoRA (Liu et al. 2024). */
#ifndef SARA_SPARSE_LORA_H
#define SARA_SPARSE_LORA_H

#include "io/io.h"

/* Of a weight W [out,in] or [out,in,kh,kw]: the change scale up down, or with a middle scale up mid
 * down (kohya's lora_mid). With a magnitude the new weight is magnitude / |V| V of V = W + change,
 * |V| of each output or, as older files have it, of each input. */
typedef struct sara_lora_layer {
    const char *name; /* diffusers', of the weight in its network: "conv_in.weight" */
    int64_t rank, out, in, kh, kw; /* kh and kw 1 of a linear layer */
    float *down;      /* [rank][in][kh][kw]; with mid [rank][in] */
    float *mid;       /* [rank][rank][kh][kw]; NULL: none */
    float *up;        /* [out][rank] */
    float *magnitude; /* [out] or [in]; NULL: none */
    bool magnitude_of_inputs;
    double scale;     /* alpha / rank */
    /* [out][in][kh][kw]: the whole change, of any parameter; rank 0 and no factors then. NULL: it
     * is one of the above. */
    float *whole;
} sara_lora_layer;
typedef struct sara_lora_file {
    sara_lora_layer *layers; /* ascending by name */
    size_t count;
    sara_arena arena; /* of all that it points to */
} sara_lora_file;

/* Of a weight whose layer has neither mid nor magnitudes of inputs: the values of `rows` rows from
 * `first` on, original [rows][in kh kw], as merging the layer at strength 1 makes them. */
void sara_lora_rows(float *out, const sara_lora_layer *layer, const float *original, int64_t first,
                    int64_t rows);

#endif
