/* The context of a command, the signals that interrupt it, and its error line. */
#include "progress.h"
#include "text.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_line(const cli *c, const char *line)
{
    if (c->view)
        progress_end(c->view);
    fprintf(stderr, "sara%s%s: %s%s%s\n", c->command ? " " : "", c->command ? c->command : "",
            c->config ? c->config : "", c->config ? ": " : "", line);
}

int cli_fail(const cli *c, sara_status status, const char *format, ...)
{
    char raw[2048], safe[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof(raw), format, args);
    va_end(args);
    text_escape(safe, sizeof(safe), raw);
    print_line(c, safe);
    return (int)status;
}

int cli_fail_context(const cli *c, sara_status status)
{
    print_line(c, sara_context_error(c->ctx));
    return (int)status;
}

/* ------------------------------------------------------------------------------------- signals */

/* A handler has no other way to them. */
static sara_context *volatile interrupted_context;
static volatile sig_atomic_t interrupted, notice;

static void on_signal(int number)
{
    static const char text[] = "\nstopping as soon as the work is saved; once more stops at once\n";
    if (interrupted)
        _exit(128 + number);
    interrupted = 1;
    if (interrupted_context)
        sara_context_interrupt(interrupted_context);
    if (notice && write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        notice = 0;
}

/* oneDNN's sgemm (2.6) keeps data below the stack pointer, further than the ABI allows: a handler
 * on that stack writes over it, and the product writes over the heap. */
static void use_own_stack(void)
{
    static char signal_stack[1 << 16];
    const stack_t own = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
    (void)sigaltstack(&own, NULL); /* it fails for arguments alone, which these are not */
}

/* What a shell or nohup has set to be ignored stays so. */
static void catch_signal(int number)
{
    struct sigaction action;
    if (sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
        return;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    sigaction(number, &action, NULL);
}

/* ------------------------------------------------------------------------------------- context */

int cli_open(cli *c)
{
    const sara_context_options options = {.size = sizeof(options),
                                          .threads = c->threads,
                                          .log = progress_log,
                                          .progress = progress_show,
                                          .user = c->view};
    cli_close(c);
    sara_status status = sara_context_new(&c->ctx, &options);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    interrupted_context = c->ctx;
    notice = c->view->terminal;
    use_own_stack();
    catch_signal(SIGINT);
    catch_signal(SIGTERM);
    catch_signal(SIGHUP);
    if (interrupted)
        sara_context_interrupt(c->ctx);
    return 0;
}

void cli_close(cli *c)
{
    interrupted_context = NULL;
    sara_context_free(c->ctx);
    c->ctx = NULL;
}
