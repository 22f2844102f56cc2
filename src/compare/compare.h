/* The compare layer: methods, sizes, data sets and seeds beside each other (`sara compare`). */
#ifndef SARA_COMPARE_H
#define SARA_COMPARE_H

#include "io/io.h"
#include "pipeline/pipeline.h"
#include "sara_eval.h"

/* The paper's measure (arXiv 2409.06633, section 5): of row i among all rows of one model and one
 * data set (max FID - FID) / (max FID - min FID) + (CLIP - min CLIP) / (max CLIP - min CLIP); of
 * means from means. A quotient of equal rows is 0. vlhi [count]; NaN in gives NaN out, of its own
 * row alone. */
void sara_vlhi(double *vlhi, const double *fid, const double *clip, size_t count);

/* -------------------------------------------------------------------------------------- config */

#define SARA_LEAST_RATES 4 /* learning rates that each row is tried with, by rule */
#define SARA_MOST_SEEDS  64

typedef struct sara_compare_data {
    const char *name, *folder, *references, *prompts, *tuning;
    const char *prefix; /* NULL: none */
    size_t images;      /* in folder */
} sara_compare_data;

typedef struct sara_compare_row {
    const char *name, *method;
    json_t *options;     /* training options by their proper names, the common ones too */
    const json_t *rates; /* [at least SARA_LEAST_RATES], numbers */
    const char **groups; /* tables that it stands in */
    size_t group_count;
    int width, height; /* of the pictures that it is trained on; 0: the model's */
} sara_compare_row;

/* Strings are the config's or the arena's. */
typedef struct sara_comparison {
    sara_context *ctx;
    sara_arena arena;
    json_t *config;
    const char *source, *program, *output; /* source: the config's path */
    const char *model, *base_prompts, *neutral_prompts, *choose_by;
    sara_compare_data *data;
    size_t data_count;
    sara_compare_row *rows;
    size_t row_count;
    uint64_t *seeds;
    size_t seed_count;
    const char **groups; /* of all rows, in the order in which they first come */
    size_t group_count;
    const json_t *train, *eval;
    int64_t latent, factor; /* the model's side of latents, and how many pixels one of them is */
    sara_picture_sides sides; /* of its pictures; unit 0: they are not known yet */
    int pictures;           /* of each row in the report */
    struct sara_compare_cost {
        const char **methods, *trainable;
        size_t method_count;
        int64_t batches[16], latent, steps;
        int batch_count;
    } cost;
    struct sara_compare_strengths {
        double *values;
        size_t count; /* 0: they are not drawn */
    } strengths;
    const char *strengths_row; /* NULL: the best */
    bool dry_run, with_cost;
    int lock, children; /* descriptors of .lock and .children, -1 */
    struct sara_compare_time {
        int64_t planned, done, ran; /* processes; ran: by this call */
        double seconds;             /* that those took */
    } training, drawing;
} sara_comparison;

/* Reads the config and checks all that can be told before anything runs. sara_comparison_free()
 * in any case. */
SARA_NODISCARD sara_status sara_comparison_open(sara_context *ctx, sara_comparison *c,
                                                const sara_compare_options *options);
void sara_comparison_free(sara_comparison *c);
/* Sets a key of an object, or appends to a list. value is consumed, also on error; NULL: there was
 * no memory for it. */
SARA_NODISCARD sara_status sara_compare_put(const sara_comparison *c, json_t *object,
                                            const char *key, json_t *value);
/* Of config_eval.c and config_rows.c, for sara_comparison_open(). An object's keys are among
 * `known` (ended by NULL), or SARA_ERROR_INPUT names the other; where: "rows[2]". */
SARA_NODISCARD sara_status sara_compare_check_keys(const sara_comparison *c, const json_t *object,
                                                   const char *where, const char *const *known);
SARA_NODISCARD sara_status sara_compare_read_eval(sara_comparison *c);
SARA_NODISCARD sara_status sara_compare_read_rows(sara_comparison *c);
/* Whether a name can be a folder's: letters, digits, and ._+%- and spaces within. */
SARA_NODISCARD sara_status sara_compare_check_name(const sara_comparison *c, const char *where,
                                                   const char *name);
/* A string, number or boolean as the command line takes it, in the arena. */
SARA_NODISCARD sara_status sara_compare_text(sara_comparison *c, const char **out,
                                             const json_t *value, const char *where);
/* A row's options as `sara train --config` takes them; json_decref(). */
SARA_NODISCARD sara_status sara_compare_train_config(sara_comparison *c, json_t **out,
                                                     const sara_compare_row *row,
                                                     const sara_compare_data *data, double rate,
                                                     uint64_t seed, const char *run);
/* Each run's options, as `sara train` itself checks them. */
SARA_NODISCARD sara_status sara_compare_check_options(sara_comparison *c);
/* As sara_evaluation_prompts(), into the comparison's arena. */
SARA_NODISCARD sara_status sara_compare_prompts(sara_comparison *c, const char ***out,
                                                size_t *count, const char *path);

/* ------------------------------------------------------------------------------------ processes */

typedef struct sara_child {
    int exit_code; /* 128 + the number of the signal that ended it */
    double seconds;
    uint64_t peak_bytes; /* of its resident memory; not less than this process had at its start */
} sara_child;
/* Runs argv (ended by NULL) to its end, its output in two new files. An interruption is passed on
 * as SIGINT and waited for: SARA_INTERRUPTED. */
SARA_NODISCARD sara_status sara_compare_spawn(sara_comparison *c, sara_child *out,
                                              const char *const *argv, const char *out_path,
                                              const char *err_path);
/* Makes the output folder and takes its lock: SARA_ERROR_IO where another comparison has it; waits
 * for a child that a killed one has left. */
SARA_NODISCARD sara_status sara_compare_lock(sara_comparison *c);
void sara_compare_unlock(sara_comparison *c);

/* ----------------------------------------------------------------------------------------- jobs */

/* A process whose result is kept as folder/NAME.done.json:
 * {"hash", "command", "exit_code", "error", "seconds", "peak_bytes", and what collect() adds}. */
typedef struct sara_job {
    sara_comparison *comparison;
    const char *folder; /* of the output folder; in the arena, as all strings are */
    const char *name;
    const char **argv; /* [argc], ended by NULL */
    size_t argc, capacity;
    const char *const *inputs; /* files and folders that the result depends on */
    size_t input_count;
    const char *after;  /* the hash of a job that this one goes on from; NULL: none */
    const json_t *config; /* what a file among the arguments holds; NULL: there is none */
    const char *output; /* a folder that is made anew, removed before the process; NULL: none */
    bool makes_output;  /* the process needs it there */
    bool untimed;       /* it is beside the plan: no progress is told */
    /* Adds to the record what a process that ended well has left. */
    sara_status (*collect)(struct sara_job *job, json_t *record);
} sara_job;
/* Into the arena. */
SARA_NODISCARD sara_status sara_job_begin(sara_comparison *c, sara_job *job, const char *command,
                                          const char *name, const char *folder);
SARA_NODISCARD sara_status sara_job_add(sara_job *job, const char *option, const char *value);
SARA_NODISCARD sara_status sara_job_number(sara_job *job, const char *option, double value);
/* folder/NAME + ending */
SARA_NODISCARD sara_status sara_job_path(sara_job *job, const char **out, const char *ending);
/* The record: kept from before, or of the process that is run now; json_decref(). A process that
 * fails is no error here: its record has "error". */
SARA_NODISCARD sara_status sara_job_run(sara_job *job, json_t **record);
/* NULL: the record has none. */
const char *sara_record_error(const json_t *record);
/* Of what a job depends on, 64 digits. */
SARA_NODISCARD sara_status sara_job_hash(sara_job *job, char out[65]);

/* Of the output folder, in the arena: runs/ROW/DATA/lr-RATE-seed-N. */
SARA_NODISCARD sara_status sara_compare_run_folder(sara_comparison *c, const char **out,
                                                   const sara_compare_row *row,
                                                   const sara_compare_data *data, double rate,
                                                   uint64_t seed);
/* record: of training */
SARA_NODISCARD sara_status sara_compare_train(sara_comparison *c, json_t **record,
                                              const sara_compare_row *row,
                                              const sara_compare_data *data, double rate,
                                              uint64_t seed);
/* SARA_ERROR_USAGE where a run's folder was made with other options, naming the first. */
SARA_NODISCARD sara_status sara_compare_check_runs(sara_comparison *c);

/* What is measured of a trained row, or of the base. */
typedef struct sara_compare_draw {
    const char *folder, *name;    /* of the job */
    const json_t *trained;        /* a record of training; NULL: the base as it is */
    const json_t *options;        /* of training */
    const char *prompts, *prefix; /* prefix NULL: none */
    const char *references;       /* a folder for FID and KID; NULL: none */
    const char *before;           /* a folder with the base's pictures for drift; NULL: none */
    const char *after;            /* a hash, of the job whose pictures those are; NULL: none */
    bool keep;                    /* the pictures, in folder/NAME/ */
} sara_compare_draw;
SARA_NODISCARD sara_status sara_compare_evaluate(sara_comparison *c, json_t **record,
                                                 const sara_compare_draw *draw);
/* The model, with what training options say of it; whole: of its text encoder and VAE, too. */
SARA_NODISCARD sara_status sara_compare_add_model(sara_job *job, const json_t *options, bool whole);

/* The learning rate of a grid's best entry: *index, SIZE_MAX where all failed. */
SARA_NODISCARD sara_status sara_compare_choose(const sara_comparison *c, size_t *index,
                                               json_t *grid);
/* A few steps of `sara bench`. Its record has seconds_per_step, entries and parameters. */
typedef struct sara_compare_timing {
    const char *folder, *name, *method;
    const json_t *options; /* of a row; NULL: none */
    double batch, latent, steps;
} sara_compare_timing;
SARA_NODISCARD sara_status sara_compare_time(sara_comparison *c, json_t **record,
                                             const sara_compare_timing *timing);
/* Sorts them. */
double sara_compare_median(double *values, size_t count);
/* Of the config's "cost", and of --strengths. */
SARA_NODISCARD sara_status sara_compare_read_cost(sara_comparison *c);
SARA_NODISCARD sara_status sara_compare_read_strengths(sara_comparison *c, const char *list);
/* "cost" and "strengths" of the result. */
SARA_NODISCARD sara_status sara_compare_costs(sara_comparison *c, json_t *result);
SARA_NODISCARD sara_status sara_compare_draw_strengths(sara_comparison *c, json_t *result);
/* *out: the plan, as docs/comparison.md has it; some steps are timed for it. */
SARA_NODISCARD sara_status sara_compare_dry_run(sara_comparison *c, json_t **out);
/* All runs and evaluations. *out: an object as compare.json has it, without summaries. */
SARA_NODISCARD sara_status sara_compare_run(sara_comparison *c, json_t **out);
/* How many processes that is: training.planned and drawing.planned. */
void sara_compare_plan(sara_comparison *c);

/* -------------------------------------------------------------------------------------- numbers */

/* A number that a table has of each run. */
typedef struct sara_metric {
    const char *name, *unit, *title;
    const char *part, *key, *field; /* where seeds' records have it; field NULL: key itself */
    int better;                     /* as of report.h's sara_better */
    int digits;
    double scale;
} sara_metric;
extern const sara_metric sara_compare_metrics[];
extern const size_t sara_compare_metric_count;
const sara_metric *sara_compare_metric_named(const char *name); /* of those */
/* NaN: it is not there. */
double sara_metric_of(const sara_metric *metric, const json_t *seed);
bool sara_compare_in_group(const json_t *row, const char *group);
/* Adds "summary", "mean" and "vlhi" to rows and "mean" to their list. */
SARA_NODISCARD sara_status sara_compare_summarize(sara_comparison *c, json_t *result);

#endif
