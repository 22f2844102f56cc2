/* What the parts of the trainer share. */
#ifndef SARA_TRAIN_TRAINER_H
#define SARA_TRAIN_TRAINER_H

#include "train/method.h"

#define SARA_SKIPS_IN_ROW 10 /* steps that are not finite before the run stops */
#define SARA_LOSS_WINDOW  20
#define SARA_PROFILED     5 /* steps that --profile shows */

struct trainer {
    sara_context *ctx;
    sara_train_options options; /* automatic values resolved */
    sara_model *model;
    sara_device *device; /* of the training steps, where it is not the model's; else NULL */
    sara_batches *batches;
    const sara_source *source; /* theirs */
    sara_objective objective;
    const sara_method *method; /* NULL: forward passes alone are timed, as with the optimiser */
    void *method_state;
    sara_optimizer *optimizer;
    sara_tape *tape;
    sara_run run;
    bool run_open;
    sara_checkpoint checkpoint; /* to go on from */
    sara_run_state state;
    int64_t saved_at; /* micro-batches consumed at the last checkpoint; -1: none yet */
    json_t *identity; /* what a resumed run must match */
    sara_metadata_list metadata;
    int64_t steps;    /* to do in all */
    double threshold; /* by which entries were selected; NaN: by none */
    double learning_rate;
    int64_t parameters, selected;
    int checkpoint_levels; /* resolutions whose activations are recomputed */
    int64_t prompt_length; /* states of the longest validation prompt; 0: there is none */
    struct sara_drift *drift; /* of --track_drift; NULL: not wanted */
    struct {
        const char *size, *side; /* of a micro-batch, of its pictures; NULL: there is none */
        int pixels;              /* of that side for one of the latents' */
        bool entries;            /* --trainable */
        bool offload;            /* --disk_offload, which is not given */
    } flags;               /* the command's names of what takes memory, for advice */
    size_t activations;    /* bytes that the tape will need */
    size_t planned_bytes;  /* of the whole process, at the peak */
    size_t class_bytes;    /* of it, while class images were drawn; 0: none were */
    double started;
    int64_t started_at;   /* the step that this process began with */
    sara_writer *profile; /* NULL: not wanted, or written already */
    int64_t profiled;     /* steps in the trace */
    double first[SARA_LOSS_WINDOW], last[SARA_LOSS_WINDOW];
    int64_t losses;
};

/* start.c: all that can be told before the model is read; opens the run folder. */
SARA_NODISCARD sara_status sara_trainer_start(trainer *t);
/* length.c: a checkpoint that is taken up with another number of steps. SARA_ERROR_USAGE where
 * more are done than the option `name` gives. */
SARA_NODISCARD sara_status sara_trainer_check_length(const trainer *t, const char *name,
                                                     int64_t length);
int64_t sara_trainer_past_steps(const trainer *t);  /* done; 0: no checkpoint */
int64_t sara_trainer_past_length(const trainer *t); /* 0: no checkpoint */
SARA_NODISCARD sara_status sara_trainer_tell_length(const trainer *t);
/* setup.c: everything up to the first step. */
SARA_NODISCARD sara_status sara_trainer_open(trainer *t, const sara_train_options *options);
void sara_trainer_close(trainer *t);
/* The model, or its denoiser alone, as --disk_offload has it. */
SARA_NODISCARD sara_status sara_trainer_load(trainer *t, const char *path,
                                             const sara_model_options *options, bool alone);
/* Its parts, which need the model: what is trained, with its optimiser; once the plan of memory is
 * made, the tape with its memory. */
SARA_NODISCARD sara_status sara_trainer_make_optimizer(trainer *t);
/* With the denoiser's values in memory: what the method and the checkpoint make of them. */
SARA_NODISCARD sara_status sara_trainer_settle(trainer *t);
/* For a method's prepare(): the optimiser of the trainables, which it takes over, as the options
 * and t->learning_rate have it. */
SARA_NODISCARD sara_status sara_trainer_use(trainer *t, sara_trainables *trainables);
/* Those of the training steps: the parts of the model that stay for them. */
unsigned sara_trainer_stages(const trainer *t);
/* What --mixed_precision asks for; SARA_ERROR_DEVICE where the processor cannot. */
SARA_NODISCARD sara_status sara_trainer_open_device(trainer *t);
SARA_NODISCARD sara_status sara_trainer_make_tape(trainer *t);
sara_device *sara_trainer_device(const trainer *t); /* of the training steps */
/* What --gradient_checkpointing and --gradient_checkpointing_levels ask for. */
SARA_NODISCARD sara_status sara_trainer_set_checkpointing(trainer *t);
/* trainer.c: forward and backward of the next micro-batch; gradients are added up in the
 * parameters. Without an optimiser forward only. */
SARA_NODISCARD sara_status sara_trainer_micro_batch(trainer *t, double *loss);
/* The schedule's factor at a step of a run of so many. */
SARA_NODISCARD sara_status sara_trainer_lr_factor(const trainer *t, double *out, int64_t step,
                                                  int64_t steps);
/* The same of any micro-batch, whatever the optimiser. */
SARA_NODISCARD sara_status sara_trainer_gradients(trainer *t, double *loss, int64_t index);
/* One step of the optimiser; loss: mean over its micro-batches. */
SARA_NODISCARD sara_status sara_trainer_step(trainer *t, double *loss, sara_step_report *report,
                                             double *lr);
/* memory.c: says what the run will need, and refuses it with SARA_ERROR_MEMORY if that is more than
 * there is. */
SARA_NODISCARD sara_status sara_trainer_plan_memory(trainer *t);
/* space.c: refuses a run whose first checkpoint would find no place on the disk, and warns where
 * those that are kept would not. */
SARA_NODISCARD sara_status sara_trainer_check_space(const trainer *t);
/* drift.c: for --track_drift, which of the weights are small; before the method changes any, so
 * that a run that goes on knows it of the base too. */
SARA_NODISCARD sara_status sara_drift_start(trainer *t);
size_t sara_drift_bytes(const trainer *t); /* with what a measurement needs */
/* Shares of the weights as the denoiser computes with them, in memory or with a branch's change: of
 * those small at first that still are, of the large ones that became small; NaN: there are none. */
typedef struct sara_drift_shares {
    double small_still_small, large_now_small;
} sara_drift_shares;
SARA_NODISCARD sara_status sara_drift_measure(const trainer *t, sara_drift_shares *out);
void sara_drift_free(trainer *t);
/* weighting.c: how a flow's noise levels are drawn and weighed, by the options, which are refused
 * where the model has no such; and of the options, as JSON, those alone that decide it. */
SARA_NODISCARD sara_status sara_trainer_set_weighting(trainer *t);
SARA_NODISCARD sara_status sara_trainer_keep_weighting(const trainer *t, json_t *options);
/* identity.c: the manifest's "run" object and the adapter's metadata. */
SARA_NODISCARD sara_status sara_trainer_identify(trainer *t);

#endif
