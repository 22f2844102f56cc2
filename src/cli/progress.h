#ifndef SARA_CLI_PROGRESS_H
#define SARA_CLI_PROGRESS_H

#include "sara.h"

/* On a terminal one line that is written over; elsewhere a plain line now and then. */
typedef struct progress_view {
    bool terminal;
    bool open;         /* a line without its newline is on the terminal */
    double last_shown; /* when a line was last written */
    char phase[16];    /* of that line */
} progress_view;

void progress_show(void *user, const sara_progress *progress); /* user: progress_view */
void progress_log(void *user, sara_log_level level, const char *line);
void progress_end(progress_view *view);

#endif
