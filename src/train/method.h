/* What is trained and how, beyond AdamW. A method is its file in train/methods/ and its entry in
 * method.c; the trainer, its checkpoints and its plan of memory know of it what stands here. */
#ifndef SARA_TRAIN_METHOD_H
#define SARA_TRAIN_METHOD_H

#include "train/train.h"

typedef struct trainer trainer;

#define SARA_DEFAULT_BUDGET "5.8%" /* of entries at positions, where --trainable is not given */

/* For the lines before the first step. */
typedef struct sara_method_text {
    char entries[80];         /* which: "|p| < 0.002" */
    char course[64];          /* what the run will come to: "no reselection"; "": nothing */
    const char *default_rate; /* where the learning rate is from that was not given */
} sara_method_text;

/* A function that a method has no need of is NULL, where it says so. */
typedef struct sara_method {
    const char *name;  /* of --method */
    const char *title; /* "SaRA" */
    size_t state_size; /* of t->method_state, which is zero at first; 0: it has none */
    const char *const *options; /* of the training options those that not all methods have */
    const char *const *files;   /* that save() writes into a checkpoint */
    const char *const *other_files; /* or these instead, which have another first. Or NULL */
    const char *result; /* file that finish() writes into the run folder; NULL: the denoiser's */
    const char *peft_result;    /* folder that it is with --save_as peft; NULL: never */
    int entry_bytes;            /* of the result, at least, for each trained entry */
    double learning_rate;       /* where none is given; 0: prepare() finds it */

    /* Before the model is read: what else there is to read, and what contradicts. Or NULL. */
    sara_status (*open)(trainer *t);
    /* Whether that fits the model, once it is read. Or NULL. */
    sara_status (*check)(const trainer *t);
    /* The threshold below which it calls entries of the base small, before prepare(); NaN: there is
     * none. Or NULL. */
    sara_status (*small)(const trainer *t, double *threshold);
    /* Chooses what is trained, sets the learning rate where there is none yet, t->selected where it
     * is not what the optimiser has at first, and has sara_trainer_use() make the optimiser. The
     * number of steps is known. */
    sara_status (*prepare)(trainer *t);
    /* With the denoiser's values in memory, which prepare() need not find there: what is made of
     * them, before a checkpoint is loaded. Or NULL. */
    sara_status (*settle)(trainer *t);
    /* Before the first step of a run, when all is encoded and memory is planned: what can be chosen
     * only then takes the place of what is trained. Or NULL. */
    sara_status (*begin)(trainer *t);
    /* How many of the run's micro-batches this takes, from the first on. Or NULL: none. */
    int64_t (*begin_micro_batches)(const trainer *t);
    /* Memory that this takes instead of the optimiser's, beside passes with the gradients of all
     * entries; 0: there are none. Or NULL. */
    size_t (*begin_bytes)(const trainer *t);
    /* What comes before a step: what is trained may become another, t->optimizer with it, whose
     * steps go on counting. Or NULL. */
    sara_status (*turn)(trainer *t);
    /* How many entries turn() will come to train at positions; 0: it will not. Or NULL. */
    int64_t (*turns_to)(const trainer *t);
    /* Of a step, from 0, of `steps` in all: its place in the schedule of the learning rate, and how
     * long that is. Or NULL: the run is one. */
    void (*schedule)(const trainer *t, int64_t *step, int64_t *steps);
    /* Gives its own options in the manifest's "run" the values that they have come to. Or NULL. */
    sara_status (*resolve)(const trainer *t, json_t *run);
    /* Adds to "run" what it needs itself to go on. Or NULL. */
    sara_status (*note)(const trainer *t, json_t *run);
    /* Keys of "run" that may be others when a run goes on; NULL ends them. Or NULL: none. */
    const char *const *(*changing)(const trainer *t);
    /* Says what comes of another number of steps than the run had. Or NULL. */
    void (*tell_length)(const trainer *t);
    void (*describe)(const trainer *t, sara_method_text *out);
    /* Memory beside the optimiser's: that stays, and within a step. Or NULL. */
    size_t (*bytes)(const trainer *t);
    size_t (*step_bytes)(const trainer *t);
    /* What it adds to the step that comes. Or NULL. */
    sara_step_hooks (*hooks)(const trainer *t);
    /* For sara bench: the mean seconds of a term that its hooks add. Or NULL: there is none. */
    sara_status (*time_term)(const trainer *t, double *seconds);
    /* The files in a checkpoint's folder: masters and moments, and what else it needs. Loading
     * leaves the optimiser's counters to the caller. */
    sara_status (*save)(const trainer *t, const char *folder);
    sara_status (*load)(trainer *t, const char *folder);
    sara_status (*finish)(const trainer *t);
    void (*close)(trainer *t); /* what the state holds. Or NULL */
} sara_method;

/* SARA_ERROR_USAGE for a name that no method has. also: a further name that is possible, for the
 * message; NULL: none is. */
SARA_NODISCARD sara_status sara_method_find(sara_context *ctx, const sara_method **out,
                                            const char *name, const char *also);
const sara_method *sara_method_at(size_t index); /* NULL past the last */
/* A file's or folder's name; and the names that it may have of any family, NULL past the last. */
const char *sara_method_result(const sara_method *method, const sara_family *family,
                               const sara_train_options *options);
const char *sara_method_result_at(const sara_method *method, size_t index);
/* SARA_ERROR_USAGE with the first option that is given and goes with other methods alone. */
SARA_NODISCARD sara_status sara_method_check_options(sara_context *ctx, const sara_method *method,
                                                     const sara_train_options *options);
/* Takes out of "run" what goes with other methods alone. */
void sara_method_drop_options(const sara_method *method, json_t *run);

/* Memory of its own in the trainer; sara_method_close(). */
SARA_NODISCARD sara_status sara_method_start(trainer *t, const sara_method *method);
void sara_method_close(trainer *t);

#endif
