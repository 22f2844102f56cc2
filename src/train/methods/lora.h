/* What LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024) train: low-rank branches beside weights of
 * the denoiser. */
#ifndef SARA_TRAIN_METHODS_LORA_H
#define SARA_TRAIN_METHODS_LORA_H

#include "pipeline/lora.h"
#include "train/methods/methods.h"
#include "train/methods/origin.h"

typedef struct sara_trained_lora {
    sara_param *weight; /* the denoiser's, which carries the branch */
    sara_branch branch; /* of parameters in the set */
    int64_t rank;
    double scale; /* alpha / rank */
} sara_trained_lora;
typedef struct sara_loras {
    sara_params params; /* of each layer X.lora_down.weight, X.lora_magnitude, X.lora_up.weight */
    sara_trained_lora *layers; /* [count] ascending by the weights' names */
    size_t count;
} sara_loras;

/* Which layers: of --lora_targets, NULL: attention. SARA_ERROR_USAGE for another word. */
typedef bool (*sara_lora_targets)(const sara_param *param);
SARA_NODISCARD sara_status sara_lora_targets_parse(sara_context *ctx, sara_lora_targets *out,
                                                   const char *text);
/* How large branches of those would be: rank * per_rank, and a magnitude of each output. */
typedef struct sara_loras_size {
    size_t count;
    int64_t per_rank, outputs;
} sara_loras_size;
sara_loras_size sara_loras_size_of(const sara_params *params, sara_lora_targets targets);

/* lora_layers.c: branches beside the set's weights, which carry them from then on. *out, which is
 * zero: sara_loras_free(), even after an error. New ones change nothing: down drawn by the seed
 * with deviation 1 / rank, up zero, magnitudes those of the weights. */
typedef struct sara_loras_options {
    sara_lora_targets targets;
    int64_t rank;
    double alpha;
    bool magnitudes;
    uint64_t seed;
} sara_loras_options;
SARA_NODISCARD sara_status sara_loras_new(sara_context *ctx, sara_loras *out,
                                          const sara_params *params,
                                          const sara_loras_options *options);
/* Of a file's layers, without values; all have factors and nothing else but magnitudes. */
SARA_NODISCARD sara_status sara_loras_like(sara_context *ctx, sara_loras *out,
                                           const sara_params *params, const sara_lora_file *file);
/* The file's values, so many times as strong; SARA_ERROR_INPUT unless it has the same layers. */
SARA_NODISCARD sara_status sara_loras_take(sara_context *ctx, const sara_loras *loras,
                                           const sara_lora_file *file, double strength);
/* SARA_ERROR_INPUT where a magnitude would be divided by the norm of an output that is 0. */
SARA_NODISCARD sara_status sara_loras_check(sara_context *ctx, const sara_loras *loras);
void sara_loras_free(sara_context *ctx, sara_loras *loras); /* detaches */

/* The state of both methods. */
typedef struct sara_lora_run {
    sara_loras loras;
    sara_origin origin;
    sara_lora_set start; /* of the origin, until the branches have its values */
    int64_t rank;        /* of all layers; 0: they have the origin's */
    double alpha;
} sara_lora_run;

static inline sara_lora_run *lora_run_of(const trainer *t)
{
    return t->method_state;
}

/* lora_files.c. A file of this method for the model; *out: sara_lora_set_free(), even after an
 * error. */
SARA_NODISCARD sara_status sara_lora_run_read(const trainer *t, sara_lora_set *out,
                                              const char *path);
#define SARA_LORA_RESULT "lora.safetensors"
SARA_NODISCARD sara_status sara_lora_run_save(const trainer *t, const char *folder);
SARA_NODISCARD sara_status sara_lora_run_load(trainer *t, const char *folder);
SARA_NODISCARD sara_status sara_lora_run_finish(const trainer *t);

#endif
