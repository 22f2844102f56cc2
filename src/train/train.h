/* The train layer: options, batches, caches, the trainer, checkpoints. Implements sara.h's
 * training functions. */
#ifndef SARA_TRAIN_TRAIN_H
#define SARA_TRAIN_TRAIN_H

#include "data/data.h"
#include "train/batch.h"

#include <stdio.h>

/* ------------------------------------------------------------------------------------ options */

/* A caller's options, of whichever version, over the defaults. */
SARA_NODISCARD sara_status sara_train_options_read(sara_context *ctx, sara_train_options *out,
                                                   const sara_train_options *given);
/* Each option by itself: ranges and texts; SARA_ERROR_USAGE naming option and value. */
SARA_NODISCARD sara_status sara_train_options_check_values(sara_context *ctx,
                                                           const sara_train_options *options);
/* Of method and what goes with it: words, and what contradicts. */
SARA_NODISCARD sara_status sara_train_options_check_method(sara_context *ctx,
                                                           const sara_train_options *options);
/* What the adapter that a run starts from decides is not given beside it, nor where the run goes on
 * from the checkpoint `started`; NULL: it starts now. */
SARA_NODISCARD sara_status sara_train_options_check_beside(sara_context *ctx,
                                                           const sara_train_options *options,
                                                           const char *started);
/* And what contradicts or is missing. */
SARA_NODISCARD sara_status sara_train_options_check(sara_context *ctx,
                                                    const sara_train_options *options);
/* Of images and captions: what contradicts or is missing. */
SARA_NODISCARD sara_status sara_train_options_check_data(sara_context *ctx,
                                                         const sara_train_options *options);
#define SARA_CLASS_IMAGES 100 /* where no number is given, as diffusers' train_dreambooth.py */
/* How many of these, or of the number that is given, are missing and would be drawn first. */
SARA_NODISCARD sara_status sara_class_images_missing(sara_context *ctx, int64_t *missing,
                                                     const sara_train_options *options);
/* Images of folders below are read, too: those of the class would be the subject's, or the other
 * way round, which is SARA_ERROR_USAGE. */
SARA_NODISCARD sara_status sara_class_images_check_place(sara_context *ctx,
                                                         const sara_train_options *options);
/* Of images, as --resolution has them; 0, 0: the model's. */
void sara_train_options_sides(const sara_train_options *options, int *width, int *height);
/* Their data sets, images of that resolution; sara_data_config_free(), even after an error. */
SARA_NODISCARD sara_status sara_dataset_config(sara_context *ctx, sara_data_config *out,
                                               const sara_train_options *options, int width,
                                               int height);
/* The images' resolution, the model's own where the options give none. */
SARA_NODISCARD sara_status sara_dataset_resolution(const sara_model *model,
                                                   const sara_train_options *options, int *width,
                                                   int *height);
/* That the model takes the sizes of a configuration and, where data is not NULL, of buckets. */
SARA_NODISCARD sara_status sara_dataset_check_sizes(const sara_model *model,
                                                    const sara_data_config *config,
                                                    const sara_data *data,
                                                    const sara_train_options *options);
/* As a model is loaded for them. */
sara_model_options sara_train_model_options(const sara_train_options *options);
/* *value: of an option that is not at its default, as text, sara_free(); else NULL. */
SARA_NODISCARD sara_status sara_train_option_given(sara_context *ctx, char **value,
                                                   const sara_train_options *options,
                                                   const char *name);
/* Where the model is; *alone (may be NULL): it is a denoiser alone. NULL: it is not given. */
const char *sara_train_options_model(const sara_train_options *options, bool *alone);
/* What an option is of a run, by which a resumed one is compared. */
typedef enum sara_option_part {
    SARA_PART_NO,       /* nothing: the result does not depend on it */
    SARA_PART_GIVEN,    /* as it was given, or its default */
    SARA_PART_CHOSEN,   /* as it was given; at its default the run does not speak of it */
    SARA_PART_RESOLVED, /* what it came to with base and data; its default stands for that */
    SARA_PART_DERIVED   /* likewise, of other options too, in which a difference is told first */
} sara_option_part;
sara_option_part sara_train_option_part(const char *name); /* of no option: GIVEN */
/* The options that decide the result, as a JSON object; json_decref(). */
SARA_NODISCARD sara_status sara_train_options_json(sara_context *ctx, json_t **out,
                                                   const sara_train_options *options);
/* Factor of the learning rate at a step counted from 0 (diffusers' get_scheduler). */
SARA_NODISCARD sara_status sara_lr_factor(sara_context *ctx, double *out,
                                          const sara_train_options *options, double learning_rate,
                                          int64_t step, int64_t steps);

/* Whether the factor depends on the number of steps in all. */
bool sara_lr_has_length(const sara_train_options *options);

/* ------------------------------------------------------------------------------------ batches */

/* What is known of batches before anything is encoded. */
typedef struct sara_source {
    int64_t
        items; /* of an epoch (images, each as often as it is repeated), or a replay's entries */
    int64_t images; /* without repeats; 0: there are none */
    bool is_replay;
    int64_t class_images;    /* of these, for prior preservation */
    const sara_order *order; /* of images; NULL: there are none */
    const char *folder;      /* the first one of images */
    int width, height;       /* of the largest that is encoded; 0: nothing is */
    bool encodes_anew;       /* images are encoded at each step, as crops or colours are drawn */
    bool texts_anew;   /* captions vary, and those of the next steps are encoded between steps */
    size_t bytes;      /* that it keeps or comes to use; the encoder's activations left out */
    char sha256[65];   /* of what is trained on */
    /* Of the ids that the tokenizer makes of captions; "": there are none. */
    char tokens_sha256[65];
    /* That micro-batches have, each once, without arrays, the one of the largest latents first;
     * more than one in replays alone. */
    const sara_batch *shapes; /* [shape_count] */
    size_t shape_count;
    const json_t *rank_names; /* a replay's matrices for the low-rank term; NULL: none are given */
} sara_source;
/* Where micro-batches come from: a dataset folder or a replay file. Micro-batch i is a pure
 * function of the seed and i, so that a resumed run needs no state. */
typedef struct sara_batches sara_batches;
/* Scans the folder, or reads the replay, and tells all that is wrong with it before hours of
 * encoding. */
SARA_NODISCARD sara_status sara_batches_open(sara_context *ctx, sara_batches **out,
                                             sara_model *model, const sara_train_options *options,
                                             const sara_objective *objective);
/* Has what the options say of it kept on the disk, or read from there. identity: the run's, with
 * the hashes of what encodes. */
SARA_NODISCARD sara_status sara_batches_open_files(sara_batches *batches,
                                                   const sara_train_options *options,
                                                   const json_t *identity);
/* Encodes images, and captions: of those that vary what micro-batches from `first` on need, before
 * `end`. Micro-batches can be taken afterwards, any of them. SARA_INTERRUPTED. */
SARA_NODISCARD sara_status sara_batches_fill(sara_batches *batches, int64_t first, int64_t end);
/* `count` random micro-batches of a shape (without arrays), for timing. */
SARA_NODISCARD sara_status sara_batches_random(sara_context *ctx, sara_batches **out,
                                               const sara_model *model, const sara_batch *shape,
                                               int64_t count, uint64_t seed,
                                               const sara_objective *objective);
void sara_batches_free(sara_batches *batches);
/* The batch's arrays live until the next call. out->also: class images of another shape. */
SARA_NODISCARD sara_status sara_batches_get(sara_batches *batches, sara_batch *out, int64_t index);
const sara_source *sara_batches_source(const sara_batches *batches);
/* The replay's matrix for the low-rank term of a step; NULL: draw one. */
const char *sara_batches_rank_name(const sara_batches *batches, int64_t step);

/* ---------------------------------------------------------------------------------- run folder */

/* The open run folder with its lock and its log. */
typedef struct sara_run {
    sara_context *ctx;
    char *folder, *log_path, *lock_path;
    int lock; /* file descriptor, -1 if none */
    FILE *log;
    FILE *events; /* of TensorBoard; NULL: none */
    char *events_path;
    size_t there; /* beginning of the folder's path that was there before; the whole: all of it */
} sara_run;
/* Makes the folder and takes its lock; another run's lock is SARA_ERROR_IO. Clears away what an
 * interrupted run left half-written, and refuses what stands where a run writes its files. Folders
 * that were made and stay empty are removed by sara_run_close(). */
SARA_NODISCARD sara_status sara_run_open(sara_context *ctx, sara_run *run, const char *folder);
/* SARA_ERROR_IO where no file of this name can be written, as only the end of a run would tell. */
SARA_NODISCARD sara_status sara_run_check_file(const sara_run *run, const char *name);
void sara_run_close(sara_run *run);
uint64_t sara_disk_free(const char *folder); /* bytes; UINT64_MAX where it is not known */
/* SARA_ERROR_IO where the disk has less than `least` bytes free; a warning below `most`. */
SARA_NODISCARD sara_status sara_run_check_space(const sara_run *run, uint64_t least,
                                                uint64_t most);
/* Whether the folder holds no run's log, checkpoints or result. */
SARA_NODISCARD sara_status sara_run_is_new(const sara_run *run, bool *out);
bool sara_run_has(const sara_run *run, const char *name);
/* Opens the log for appending, after cutting it to the lines up to optimiser step `step` and the
 * events of `skips` skipped steps after it. */
SARA_NODISCARD sara_status sara_run_log_open(sara_run *run, int64_t step, int64_t skips);
/* Appends one line. object is consumed, also on error. */
SARA_NODISCARD sara_status sara_run_log(sara_run *run, json_t *object);
SARA_NODISCARD sara_status sara_run_log_sync(sara_run *run);
/* A new file of events for TensorBoard, whose first step is `step`, in a folder that is made; a
 * relative one lies in the run folder. sara_run_close() closes it. */
SARA_NODISCARD sara_status sara_run_events_open(sara_run *run, const char *logging_dir,
                                                int64_t step);
void sara_run_events_close(sara_run *run);
/* The numbers of a step's line of the log; a validation picture from its file. Nothing where no
 * events are written; a failure is told once and ends them. */
void sara_run_events_scalars(sara_run *run, const json_t *line);
void sara_run_events_image(sara_run *run, int64_t step, int index, const sara_image *image,
                           const char *path);

/* Where a run stands, beyond what the optimiser knows. */
typedef struct sara_run_state {
    int64_t micro_batches; /* consumed */
    int64_t skipped;       /* steps */
    int64_t skipped_in_row;
} sara_run_state;

/* N of "checkpoint-N", -1 for another name. */
int64_t sara_checkpoint_number(const char *name);
/* A checkpoint that is whole; sara_checkpoint_clear(). */
typedef struct sara_checkpoint {
    char *folder; /* NULL: there is none at all */
    json_t *manifest;
} sara_checkpoint;
/* which: "latest", a path, or the name of a checkpoint in the run folder. Verifies the manifest
 * and the files; for "latest" a damaged checkpoint is named in the log and the one before is taken.
 */
SARA_NODISCARD sara_status sara_checkpoint_find(sara_run *run, sara_checkpoint *out,
                                                const char *which);
void sara_checkpoint_clear(sara_context *ctx, sara_checkpoint *checkpoint);
/* SARA_ERROR_USAGE with the first option that differs from the run's, and both values, of those
 * that are known without the model: an object of sara_train_options_json(). */
SARA_NODISCARD sara_status sara_checkpoint_check_options(sara_context *ctx,
                                                         const sara_checkpoint *checkpoint,
                                                         const json_t *options);
/* The same with all that the run is, the manifest's "run", but for the number of steps and the keys
 * that may be others, NULL ends them. */
SARA_NODISCARD sara_status sara_checkpoint_check_run(sara_context *ctx,
                                                     const sara_checkpoint *checkpoint,
                                                     const json_t *identity,
                                                     const char *const *changing);
typedef struct sara_run_facts {
    const json_t *identity;
    const char *const *prompts; /* of the pictures, [prompt_count] */
    int prompt_count;
    const char *result; /* the name of what was trained, in the run folder; NULL: there is none */
} sara_run_facts;
/* report.html: curves, pictures, settings. */
SARA_NODISCARD sara_status sara_run_report(sara_run *run, const sara_run_facts *facts);
/* Before hours of training: what drawing the validation prompts would refuse; model NULL: of what
 * needs none. */
SARA_NODISCARD sara_status sara_run_check_prompts(sara_context *ctx, sara_model *model,
                                                  const sara_train_options *options);
/* *length: states of the longest validation prompt; 0: there is none. */
SARA_NODISCARD sara_status sara_run_prompt_length(sara_context *ctx, int64_t *length,
                                                  sara_model *model,
                                                  const sara_train_options *options);
/* Ahead, so that the pictures need no text encoder; with the options' cache of texts on the disk
 * from there. images: the first folder of images, NULL: there is none. identity: the run's, as
 * sara_batches_open_files() has it. */
SARA_NODISCARD sara_status sara_run_encode_prompts(sara_context *ctx, sara_model *model,
                                                   const sara_train_options *options,
                                                   const char *images, const json_t *identity);
/* samples/step-NNNNNN-I.png for each validation prompt. */
SARA_NODISCARD sara_status sara_run_validate(sara_run *run, sara_model *model,
                                             const sara_train_options *options, int64_t step);

#endif
