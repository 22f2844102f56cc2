/* The plan of memory and what would make a run fit. */
#ifndef SARA_TRAIN_MEMORY_H
#define SARA_TRAIN_MEMORY_H

#include "train/trainer.h"

/* The program, its libraries and what oneDNN compiles for forward passes, in bytes. */
#define SARA_MEMORY_BASE ((size_t)18 << 20)
/* What is available changes by a little from run to run: flags that would fit by less than such a
 * part of it are not recommended. */
#define SARA_MEMORY_MARGIN 50

/* What memory depends on and an option may change. */
typedef struct sara_memory_setting {
    int64_t size; /* of a micro-batch; 0: as the batches have it */
    int levels;   /* checkpointed */
    bool narrow;  /* 16-bit weights instead of float32 ones */
    bool offload; /* weights that stay on the disk, with all levels checkpointed */
    int64_t side; /* of the latents; 0: as the batches have it */
    double share; /* of the selected entries */
    bool dense;   /* gradients of all entries instead of the optimiser's */
    double later; /* the share of all entries that is trained at positions instead; 0: it is not */
} sara_memory_setting;

/* In bytes: of the training steps, and of what is there instead of activations in other phases,
 * with the parts of the model that are gone in the steps. The peak is the largest phase's. */
typedef struct sara_memory_plan {
    size_t weights, optimizer, activations, other, peak;
    size_t pictures;       /* while one is drawn */
    size_t begin;          /* while what is trained is chosen, instead of the optimiser too */
    size_t later;          /* once the method trains others: their optimiser and activations */
    size_t texts, encoder; /* while those, or images, are encoded before the first step */
    const char *stage;     /* which of them the peak is: "in training" */
} sara_memory_plan;

/* memory.c: by a pass that computes nothing. */
/* The peak and its stage of the plan's other numbers: the denoiser is read when all is encoded. */
void sara_memory_find_peak(sara_memory_plan *plan);
SARA_NODISCARD sara_status sara_memory_make_plan(const trainer *t, sara_memory_plan *out,
                                                 const sara_memory_setting *setting);
size_t sara_memory_weights(const sara_model *model, bool narrow, bool offload); /* denoiser's */
/* Of the parts that a stage needs, and that are not there for the others anyway. */
size_t sara_memory_stage_bytes(const sara_model *model, unsigned stage, unsigned others);
/* Whether 16-bit weights need less in all where so many entries are trained, which have masters. */
bool sara_memory_narrow_helps(const trainer *t, int64_t trained);
/* Before their arrays are made, which takes their memory: refuses so many trained entries where
 * weights and the bytes that the entries take are more than there is. */
SARA_NODISCARD sara_status sara_memory_check_trainables(const trainer *t, int64_t entries,
                                                        uint64_t bytes);

/* memory_draw.c: while a validation picture is drawn: the memory of training's activations is given
 * back, and the VAE is there again. 0: none is drawn. */
SARA_NODISCARD sara_status sara_memory_pictures(const trainer *t, size_t *out);
/* Of the process while class images are drawn with these options by the model alone, which is told;
 * SARA_ERROR_MEMORY, with flags that help, where that is more than there is. */
SARA_NODISCARD sara_status sara_memory_class_images(sara_context *ctx, size_t *out,
                                                    sara_model *model,
                                                    const sara_generate_options *options,
                                                    const sara_train_options *train);

/* memory_advice.c: SARA_ERROR_MEMORY, with the flags that would make the run fit which needs `need`
 * bytes at `now`. */
SARA_NODISCARD sara_status sara_memory_refuse(const trainer *t, const sara_memory_setting *now,
                                              size_t need);

#endif
