/* The SaRA method (arXiv 2409.06633, sections 4.1-4.4): selection, the low-rank term, progressive
 * reselection, adapter files; sparse/optimizer.h is the AdamW that it adapts. Works on a set of
 * parameters and knows no model. */
#ifndef SARA_SPARSE_H
#define SARA_SPARSE_H

#include "sara_tensors.h"

#include "io/io.h"
#include "sparse/optimizer.h"

/* ---------------------------------------------------------------------------------- selection */

typedef struct sara_budget {
    sara_budget_kind kind;
    double value; /* threshold > 0, fraction in (0,1], or count >= 1 */
} sara_budget;
/* "5.8%", "0.058", "20M", "50k", "50000": a fraction if it ends in % or is a number below 1. */
SARA_NODISCARD sara_status sara_budget_parse(sara_context *ctx, sara_budget *out, const char *text);

/* The selected entries of one parameter; positions ascending row-major. */
typedef struct sara_selected {
    sara_param *param;
    uint32_t *positions; /* part of the selection's */
    size_t count;
} sara_selected;
typedef struct sara_selection {
    sara_selected *items; /* one for each parameter of the set, in its order; count may be 0 */
    size_t item_count;
    int64_t total;
    double threshold;     /* resolved; an entry is selected if |p| < (float)threshold */
    uint32_t *positions;  /* [total] of all items, one after the other */
} sara_selection;
/* SARA_ERROR_INPUT with the name and place of the first NaN or infinity, if there is one. */
SARA_NODISCARD sara_status sara_param_check_finite(sara_context *ctx, const sara_param *param);
/* Over all tensors. A budget that selects nothing is SARA_ERROR_USAGE; NaN or Inf weights are
 * SARA_ERROR_INPUT with the name. */
SARA_NODISCARD sara_status sara_select(sara_context *ctx, sara_selection *out,
                                       const sara_params *params, const sara_budget *budget);
void sara_selection_free(sara_context *ctx, sara_selection *selection);

/* Which entries a budget takes. It stands for as many as have |p| below its threshold; "smallest"
 * takes those, another mask as many of its own choice. Of equal ones the first are taken, in the
 * order of parameters and positions. */
typedef enum sara_mask_kind {
    SARA_MASK_SMALLEST,
    SARA_MASK_LARGEST,  /* of the largest |p| */
    SARA_MASK_RANDOM,   /* of the largest of 30 bits that are drawn for each */
    SARA_MASK_GRADIENT, /* of the largest |score| */
    /* Of the largest |p| of the best approximation of its matrix of a rank (arXiv 2506.00772), of
     * each matrix and convolution as many as its share of their entries; of no others. */
    SARA_MASK_LIFT
} sara_mask_kind;
typedef struct sara_mask_rule {
    sara_mask_kind kind;
    uint64_t seed;       /* of the draws */
    int rank;            /* of the approximation; at most that of the shorter side is taken */
    const float *scores; /* of all entries, one parameter's after the other's */
} sara_mask_rule;
/* SARA_ERROR_USAGE for a name that no mask has. */
SARA_NODISCARD sara_status sara_mask_parse(sara_context *ctx, sara_mask_kind *out,
                                           const char *name);
/* How many entries a mask chooses among: lift among those of matrices and convolutions. */
int64_t sara_mask_entries(const sara_params *params, sara_mask_kind kind);
/* As sara_select(); out->threshold is the budget's, by which only the smallest are selected.
 * Scores that are not finite are SARA_ERROR_DIVERGED. */
SARA_NODISCARD sara_status sara_select_masked(sara_context *ctx, sara_selection *out,
                                              const sara_params *params, const sara_budget *budget,
                                              const sara_mask_rule *rule);
/* Of each parameter so many entries, by the draws of "random" among its own; threshold NaN. */
SARA_NODISCARD sara_status sara_select_random(sara_context *ctx, sara_selection *out,
                                              const sara_params *params, const size_t *counts,
                                              uint64_t seed);
/* Of all so many of the largest |score|; threshold NaN. */
SARA_NODISCARD sara_status sara_select_scored(sara_context *ctx, sara_selection *out,
                                              const sara_params *params, const float *scores,
                                              int64_t most);
/* The threshold that a budget resolves to, without selecting (reference: threshold_for_count). */
SARA_NODISCARD sara_status sara_budget_resolve(sara_context *ctx, double *threshold,
                                               const sara_params *params,
                                               const sara_budget *budget);

/* --------------------------------------------------------------------------------- low rank */

/* Nuclear norm of the [rows,cols] matrix that is values at positions and zero elsewhere, and its
 * subgradient U V^T at those positions. Finite for zero and rank-deficient matrices. */
SARA_NODISCARD sara_status sara_nuclear_norm(sara_context *ctx, double *value, float *subgradient,
                                             int64_t rows, int64_t cols,
                                             const uint32_t *positions, const float *values,
                                             size_t count);

/* Memory that it takes meanwhile, at most. */
size_t sara_nuclear_norm_bytes(int64_t rows, int64_t cols, size_t count);

/* ------------------------------------------------------------------------------- adaptation */

/* The selection's entries as trainables; other parameters of the set ask for nothing. On success
 * the selection is taken over and *selection is empty. */
SARA_NODISCARD sara_status sara_trainables_select(sara_context *ctx, sara_trainables *out,
                                                  sara_selection *selection);

/* What SaRA adds to an optimiser of selected entries: the low-rank term and the reselection. */
typedef struct sara_adaptation sara_adaptation;
typedef struct sara_adaptation_options {
    double threshold; /* below which a reselection keeps entries; NaN: none will be due */
    double lambda_rank;
    int64_t progressive_iter; /* reselect before this step (from 0); -1: never */
    uint64_t seed;            /* of the low-rank term's draws */
} sara_adaptation_options;
/* The optimiser must outlive it. */
SARA_NODISCARD sara_status sara_adaptation_new(sara_context *ctx, sara_adaptation **out,
                                               sara_optimizer *optimizer,
                                               const sara_adaptation_options *options);
void sara_adaptation_free(sara_adaptation *adaptation);
/* For sara_optimizer_step(). matrix: the one of the low-rank term; NULL: drawn by seed and step
 * among the candidates, "" for none. A name that is no trained matrix is SARA_ERROR_INPUT. Order as
 * in the reference: reselect, clip, low-rank term, AdamW. */
sara_step_hooks sara_adaptation_hooks(sara_adaptation *adaptation, const char *matrix);
/* SARA_ERROR_INPUT as for that name. */
SARA_NODISCARD sara_status sara_adaptation_check_matrix(sara_adaptation *adaptation,
                                                        const char *matrix);
/* Computes the term of every matrix that it is drawn from, for timing; *terms: how many. */
SARA_NODISCARD sara_status sara_adaptation_try_terms(sara_adaptation *adaptation, int *terms);
/* Memory beside the optimiser's that it may take once it has reselected, and within a step: for the
 * low-rank term of the largest matrix. */
size_t sara_adaptation_bytes(const sara_adaptation *adaptation);
size_t sara_adaptation_step_bytes(const sara_adaptation *adaptation);

/* The entries that a trainable began with; those it has now are among them. */
typedef struct sara_mask {
    const uint32_t *positions; /* [count] */
    float *masters; /* [count], the host's; NULL: the trainable or the parameter holds them */
    size_t count;
} sara_mask;
sara_mask sara_adaptation_mask(const sara_adaptation *adaptation, size_t index);
bool sara_adaptation_has_reselected(const sara_adaptation *adaptation);
/* Indices into the mask's positions of the entries that the trainable has: out [its count]. */
void sara_adaptation_active(const sara_adaptation *adaptation, uint32_t *out, size_t index);
/* Shrinks every trainable to entries with |master| < threshold; moments zero, Adam steps from 0;
 * gradients stay with their entries. */
SARA_NODISCARD sara_status sara_adaptation_reselect(sara_adaptation *adaptation);
/* The same to given entries, for resuming: kept and counts as of sara_trainables_keep(), which a
 * checkpoint may have wrong: SARA_ERROR_INPUT. Consumes kept on success. */
SARA_NODISCARD sara_status sara_adaptation_keep(sara_adaptation *adaptation, uint32_t *kept,
                                                const size_t *counts);

/* ---------------------------------------------------------------------------------- adapters */

typedef struct sara_adapter_entry {
    const char *name;
    uint32_t *positions;
    float *values;
    size_t count;
} sara_adapter_entry;
typedef struct sara_adapter {
    sara_adapter_entry *entries; /* ascending by name */
    size_t count;
    sara_metadata *metadata;     /* sara.* and others, as in the file */
    size_t metadata_count;
    sara_arena arena;
    /* Of the file that it was loaded from: what the values are, how much the positions take. */
    sara_dtype dtype; /* of the first entry */
    bool mixed;       /* there are others */
    uint64_t file_bytes, position_bytes;
} sara_adapter;
/* Strict: whatever is not as docs/formats.md has it is SARA_ERROR_INPUT, positions outside the
 * model's tensors excepted, which sara_applied_add() refuses. */
SARA_NODISCARD sara_status sara_adapter_load(sara_context *ctx, sara_adapter *out,
                                             const char *path);
void sara_adapter_free(sara_adapter *adapter);
/* What an adapter is made for: the values of the base's parameters, as its file has them. */
typedef struct sara_base {
    char sha256[65];      /* docs/formats.md */
    sara_dtype precision; /* the first of F16, BF16 and F32 that holds every value */
} sara_base;
/* Whether it can be applied: made for this base unless force, and every entry is one of the
 * parameters. Otherwise SARA_ERROR_INPUT, which names the precisions if they are not the same. */
SARA_NODISCARD sara_status sara_adapter_check(sara_context *ctx, const sara_adapter *adapter,
                                              const sara_params *params, const sara_base *base,
                                              bool force);
/* Training that starts from an adapter. The value of an entry at a strength, to the bits that
 * sara_applied_add() makes of a float32 parameter. */
float sara_adapter_value(float original, float value, double strength);
/* The adapter's entries as a selection; sara_adapter_check() has passed. threshold: for a
 * reselection, NaN if none will be due. */
SARA_NODISCARD sara_status sara_select_adapter(sara_context *ctx, sara_selection *out,
                                               const sara_params *params,
                                               const sara_adapter *adapter,
                                               double threshold);
/* Masters and parameters of that selection, before the first step: original + strength (value -
 * original). */
SARA_NODISCARD sara_status sara_trainables_start(sara_trainables *trainables,
                                                 const sara_adapter *adapter, double strength);
const char *sara_adapter_metadata(const sara_adapter *adapter, const char *key); /* NULL: absent */
/* values_dtype: F32, F16 or BF16. Deterministic bytes. sara.format is added; the metadata must hold
 * sara.target and sara.base_sha256; sara.selected, if given, must be the number of entries, and
 * sara.base_precision one of sara_precision_name(). */
SARA_NODISCARD sara_status sara_adapter_save(sara_context *ctx, const char *path,
                                             const sara_adapter_entry *entries, size_t count,
                                             const sara_metadata *metadata, size_t metadata_count,
                                             sara_dtype values_dtype);

/* The adapter of everything that is or was trained. */
SARA_NODISCARD sara_status sara_adaptation_save(sara_adaptation *adaptation, const char *path,
                                                const sara_metadata *metadata,
                                                size_t metadata_count, sara_dtype values_dtype);

/* Of the parameters' values. */
SARA_NODISCARD sara_status sara_params_base(sara_context *ctx, sara_base *out,
                                            const sara_params *params);
/* Of values from elsewhere: out [as many as the parameter has]. */
typedef sara_status (*sara_values_fn)(void *user, float *out, const sara_param *param);
SARA_NODISCARD sara_status sara_values_base(sara_context *ctx, sara_base *out,
                                            const sara_params *params, sara_values_fn values,
                                            void *user);
/* "fp16", "bf16" and "fp32", as metadata has them. */
const char *sara_precision_name(sara_dtype precision);

/* Adapters on a set of parameters, with what is needed to take them off bit-exactly, and visiting
 * what they cover, which fails only where the parameters' memory is not the host's. */
typedef struct sara_applied sara_applied;
/* base: that sara_applied_add() asks for; NULL: it is not needed (force, LoRA). */
SARA_NODISCARD sara_status sara_applied_new(sara_context *ctx, sara_applied **out,
                                            sara_params *params, const sara_base *base);
void sara_applied_know_base(sara_applied *applied, const sara_base *base);
void sara_applied_free(sara_applied *applied); /* does not take off */
/* Checks names, positions and base (unless force) before anything is changed. Several sum up as
 * changes, in any order to the same bits. */
SARA_NODISCARD sara_status sara_applied_add(sara_applied *applied, const sara_adapter *adapter,
                                            double strength, bool force);
/* A LoRA's layers, whose memory is taken over on success. W0 + strength (W - W0) of the new weights
 * W, also of a DoRA's: all changes are of the original weights, and sum up with others. */
struct sara_lora_file;
SARA_NODISCARD sara_status sara_applied_add_low_rank(sara_applied *applied,
                                                     struct sara_lora_file *file, double strength);
/* Bottlenecks of a file, which are taken over on success, on the device of the parameters. They
 * stand beside layers: nothing is visited of them. SARA_ERROR_INPUT where the parameters have no
 * such layer. */
struct sara_bottlenecks;
SARA_NODISCARD sara_status sara_applied_add_bottlenecks(sara_applied *applied,
                                                        struct sara_bottlenecks *bottlenecks,
                                                        double strength);
SARA_NODISCARD sara_status sara_applied_remove(sara_applied *applied); /* all of them */
/* Before the parameters' values are given back, and when they are there again as they were: takes
 * off what is on and puts it on. What is added meanwhile waits. */
SARA_NODISCARD sara_status sara_applied_leave(sara_applied *applied);
SARA_NODISCARD sara_status sara_applied_return(sara_applied *applied);
/* Whether something is on, at a strength that is not 0; and the hash of that. */
bool sara_applied_changes(const sara_applied *applied);
SARA_NODISCARD sara_status sara_applied_hash(const sara_applied *applied, char out[65]);
size_t sara_applied_count(const sara_applied *applied);
/* Takes off those that were added after the first `count`. */
SARA_NODISCARD sara_status sara_applied_truncate(sara_applied *applied, size_t count);
/* The parameter of this name if something covers it; NULL: its value is the base's. */
const sara_param *sara_applied_covered(const sara_applied *applied, const char *name);
/* Calls back for every entry that an adapter covers, or covered: original and current value. */
typedef void (*sara_applied_fn)(void *user, const sara_param *param, uint32_t position,
                                float original, float current);
SARA_NODISCARD sara_status sara_applied_visit(const sara_applied *applied, sara_applied_fn fn,
                                              void *user);
/* The same of one parameter; and whether all of its entries are covered. */
SARA_NODISCARD sara_status sara_applied_visit_param(const sara_applied *applied,
                                                    const sara_param *param, sara_applied_fn fn,
                                                    void *user);
bool sara_applied_is_whole(const sara_applied *applied, const sara_param *param);

/* ------------------------------------------------------------------------------- differences */

/* How two sets of the same parameters differ. */
typedef struct sara_difference_size {
    int64_t differing; /* entries whose bits differ */
    double sum2;       /* of the squared changes */
    float largest;     /* magnitude of a change */
} sara_difference_size;
/* Sets with other names or shapes, and changes that are not finite, are SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_difference_measure(sara_context *ctx, sara_difference_size *out,
                                                   const sara_params *base,
                                                   const sara_params *tuned);

/* What to keep of a difference. */
typedef struct sara_difference_rule {
    double tolerance; /* changes above it; below 0: all that differ */
    int64_t most;     /* so many that changed most, of equal ones the first; 0: all */
} sara_difference_rule;
/* The entries that are kept, one item for each parameter in their order. */
typedef struct sara_difference {
    sara_adapter_entry *entries; /* names are those of the base's parameters; values the tuned */
    size_t count;
    int64_t kept;
    double left_out2; /* sum of the squared changes that are not kept */
} sara_difference;
/* Of sets that sara_difference_measure() has accepted. */
SARA_NODISCARD sara_status sara_difference_new(sara_context *ctx, sara_difference *out,
                                               const sara_params *base, const sara_params *tuned,
                                               const sara_difference_rule *rule);
void sara_difference_free(sara_context *ctx, sara_difference *difference);

/* ------------------------------------------------------------------------------ approximation */

/* The best approximation of a rank (Eckart and Young 1936), at most the shorter side, of the
 * [rows,cols] matrix that is values at ascending positions and zero elsewhere, or without positions
 * values [rows][cols]: up [rows][rank] times down [rank][cols], the square roots of the singular
 * values in both; singular [rank] descending. What lies beyond the matrix's own rank is zero. */
SARA_NODISCARD sara_status sara_truncated_svd(sara_context *ctx, float *up, float *down,
                                              double *singular, int64_t rows, int64_t cols,
                                              int64_t rank, const uint32_t *positions,
                                              const float *values, size_t count);
/* By how much the product scale up down comes nearer to that matrix than zero does, in squared
 * distances: the squared norm of what it holds, for the factors above the sum of the squared
 * singular values; below zero where it leads away. */
SARA_NODISCARD sara_status sara_product_gain(sara_context *ctx, double *gain, const float *up,
                                             const float *down, double scale, int64_t rows,
                                             int64_t cols, int64_t rank, const uint32_t *positions,
                                             const float *values, size_t count);

#endif
