#include "progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PLAIN_SECONDS    10.0
#define TERMINAL_SECONDS 0.1

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void format_left(char *text, size_t size, double seconds)
{
    long left = seconds > 0 && seconds < 1e9 ? lround(seconds) : 0;
    if (left >= 3600)
        snprintf(text, size, "%ld:%02ld:%02ld", left / 3600, left / 60 % 60, left % 60);
    else
        snprintf(text, size, "%ld:%02ld", left / 60, left % 60);
}

static void format_line(char *line, size_t size, const sara_progress *p)
{
    char loss[40] = "", rate[40], left[40];
    if (!isnan(p->loss))
        snprintf(loss, sizeof(loss), "  loss %.4f", p->loss);
    if (p->steps_per_second >= 1 || !(p->steps_per_second > 0))
        snprintf(rate, sizeof(rate), "%.1f/s", p->steps_per_second);
    else
        snprintf(rate, sizeof(rate), "%.1f s each", 1 / p->steps_per_second);
    format_left(left, sizeof(left), p->seconds_left);
    snprintf(line, size, "%s %lld/%lld%s  %s  %s left", p->phase, (long long)p->step,
             (long long)p->total, loss, rate, left);
}

/* A line that wraps could not be written over. */
static int columns(void)
{
    struct winsize window;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1
                                                                               : 79;
}

void progress_show(void *user, const sara_progress *progress)
{
    progress_view *view = user;
    char line[200];
    bool last = progress->step == progress->total;
    bool same = strncmp(view->phase, progress->phase, sizeof(view->phase) - 1) == 0;
    double time = now();
    if (!last && same &&
        time - view->last_shown < (view->terminal ? TERMINAL_SECONDS : PLAIN_SECONDS))
        return;
    view->last_shown = time;
    snprintf(view->phase, sizeof(view->phase), "%s", progress->phase);
    format_line(line, sizeof(line), progress);
    if (view->terminal)
        fprintf(stderr, "\r\033[K%.*s%s", columns(), line, last ? "\n" : "");
    else
        fprintf(stderr, "%s\n", line);
    view->open = view->terminal && !last;
}

void progress_end(progress_view *view)
{
    if (view->open)
        fputc('\n', stderr);
    view->open = false;
}

void progress_log(void *user, sara_log_level level, const char *line)
{
    progress_end(user);
    fprintf(stderr, "%s%s\n", level == SARA_LOG_WARNING ? "warning: " : "", line);
}
