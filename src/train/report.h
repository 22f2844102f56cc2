/* What the files of report.html share. */
#ifndef SARA_TRAIN_REPORT_H
#define SARA_TRAIN_REPORT_H

#include "train/train.h"

#include "report/report.h"

#define SARA_REPORT_RESELECTIONS 8 /* that are shown */

/* What the log says, whatever its length. */
typedef struct sara_run_curves {
    sara_curve loss, rate, grad_norm, rank_loss, small_still_small, large_now_small;
    double seconds; /* of all steps */
    int64_t steps, skipped;
    double reselected[SARA_REPORT_RESELECTIONS]; /* steps */
    size_t reselections;
} sara_run_curves;
/* *out: sara_free(). Lines that are damaged are passed over. */
SARA_NODISCARD sara_status sara_run_read_curves(const sara_run *run, sara_run_curves **out);
SARA_NODISCARD sara_status sara_report_put_pictures(sara_page *page, const sara_run *run,
                                                    const sara_run_facts *facts);
SARA_NODISCARD sara_status sara_report_put_settings(sara_page *page, const json_t *identity);

#endif
