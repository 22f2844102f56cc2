/* One micro-batch and the loss that it makes: what the trainer runs, the benchmark times and the
 * plan of memory passes through without arithmetic. */
#ifndef SARA_TRAIN_BATCH_H
#define SARA_TRAIN_BATCH_H

#include "pipeline/pipeline.h"

/* Arrays in the host's memory, F32. Without them, all NULL, it is a shape, which is all that a dry
 * device asks for. */
typedef struct sara_batch {
    sara_tensor latents;                         /* [N,C,...], already scaled */
    sara_tensor condition[SARA_CONDITION_KINDS]; /* [N,...]; rank 0: there is none of the kind */
    float *noise;                                /* as latents */
    double *timesteps;                           /* [N] */
    float *sigmas;  /* [N], of flow: the noise levels; NULL: what the timesteps tell */
    float *weights; /* [N], of each sample's part of the loss; NULL: all are 1 */
    sara_tensor mask; /* [N,1,...] as latents, of each position's; rank 0: there is none */
    const struct sara_batch *also; /* another pass, whose loss is added; NULL: there is none */
} sara_batch;

/* Its latents, noise, timesteps, condition and mask, uninitialised; sara_batch_clear(). */
SARA_NODISCARD sara_status sara_batch_alloc(sara_context *ctx, sara_batch *batch);
void sara_batch_clear(sara_context *ctx, sara_batch *batch); /* of the arrays, not of the shape */
/* Of latents, noise, condition and mask. */
size_t sara_batch_bytes(const sara_batch *batch);
bool sara_batch_same_shape(const sara_batch *a, const sara_batch *b);
/* The same shape with N samples, without arrays. */
sara_batch sara_batch_shape_of(const sara_batch *batch, int64_t samples);
/* Of such latents with all that the denoiser takes, as long as `length`. */
sara_batch sara_batch_shape_for(const sara_denoiser_info *info, sara_shape latents, int64_t length);

/* loss [1]: noisy samples and target as the objective has them, the denoiser's prediction, and the
 * mean over samples of weight times mean squared error, masked. */
SARA_NODISCARD sara_status sara_batch_loss(sara_tape *tape, sara_var **loss, sara_network *denoiser,
                                           const sara_objective *objective,
                                           const sara_batch *batch);

#endif
