/* What the files of sara_analyze() share. */
#ifndef SARA_EVAL_ANALYZE_H
#define SARA_EVAL_ANALYZE_H

#include "pipeline/pipeline.h"

#include <sara_eval.h>

/* Of |p|, eight a decade: the first begins at 1e-8 and takes what is below, the last takes what is
 * above 10. */
#define SARA_ANALYSIS_BINS 72
double sara_analysis_edge(int bin); /* 0..SARA_ANALYSIS_BINS */
/* Of p, of equal width, five standard deviations to each side of the mean; what is beyond is in
 * none. */
#define SARA_ANALYSIS_PARTS 100

/* What is trained of the paper's models (5M, 20M, 50M of Stable Diffusion 1.5's 860M), and its
 * thresholds (its table 8). */
#define SARA_ANALYSIS_BUDGETS    3
#define SARA_ANALYSIS_THRESHOLDS (2 * SARA_ANALYSIS_BUDGETS) /* the budgets' first */
extern const char *const sara_analysis_names[SARA_ANALYSIS_THRESHOLDS];

typedef struct sara_analysis_group {
    sara_name name;
    int64_t tensors, count;
    double mean, magnitude; /* means of p and |p| */
    double m2, m3, m4;      /* sums of powers of p - mean */
    int64_t within;         /* |p| < 1e-3 */
    int64_t selected[SARA_ANALYSIS_THRESHOLDS];
    int64_t histogram[SARA_ANALYSIS_BINS];
} sara_analysis_group;
double sara_analysis_deviation(const sara_analysis_group *group); /* of all entries, not a sample */
double sara_analysis_kurtosis(const sara_analysis_group *group);  /* excess; NaN: all are equal */

typedef struct sara_analysis {
    const char *title; /* of the network */
    double thresholds[SARA_ANALYSIS_THRESHOLDS];
    sara_analysis_group whole, kinds[SARA_MAX_KINDS], blocks[SARA_MAX_BLOCKS]; /* count 0: unused */
    int64_t parts[SARA_ANALYSIS_PARTS];
} sara_analysis;
/* The groups of a list that have entries; their number. */
int sara_analysis_used(const sara_analysis_group **out, const sara_analysis_group *groups,
                       int count);
SARA_NODISCARD sara_status sara_analysis_json(sara_context *ctx, char **out,
                                              const sara_analysis *analysis);
SARA_NODISCARD sara_status sara_analysis_page(sara_context *ctx, const sara_analysis *analysis,
                                              const char *path);

#endif
