/* Child processes: started, waited for, measured; and the locks that keep comparisons apart. */
#include "compare/compare.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define LONGEST_WAIT 20000000L /* nanoseconds */

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Longer each time: *nanoseconds is 0 at first. */
static void wait_a_moment(long *nanoseconds)
{
    *nanoseconds = *nanoseconds ? 2 * *nanoseconds : 1000000;
    if (*nanoseconds > LONGEST_WAIT)
        *nanoseconds = LONGEST_WAIT;
    const struct timespec moment = {0, *nanoseconds};
    nanosleep(&moment, NULL);
}

/* The surroundings with this process's number, by which the child knows whom it ends with. */
static sara_status make_environment(sara_comparison *c, char ***out, char *parent, size_t size)
{
    size_t count = 0, kept = 0;
    sara_status status;
    while (environ[count])
        count++;
    TRY(sara_alloc(c->ctx, out, count + 2, sizeof(**out)));
    sara_print(parent, size, "SARA_PARENT=%ld", (long)getpid());
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "SARA_PARENT=", 12) != 0)
            (*out)[kept++] = environ[i];
    (*out)[kept++] = parent;
    (*out)[kept] = NULL;
done:
    return status;
}

/* A group of its own: what the terminal sends to this process's group is passed on once. The lock
 * .children stays open in it, so that it is held for as long as the child lives. */
static int start_child(const sara_comparison *c, pid_t *pid, const char *const *argv,
                       char *const *environment, const char *out_path, const char *err_path)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (error) {
        posix_spawn_file_actions_destroy(&actions);
        return error;
    }
    if (!(error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP)) &&
        !(error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)) &&
        !(error = posix_spawn_file_actions_addopen(&actions, 1, out_path, flags, 0666)) &&
        !(error = posix_spawn_file_actions_addopen(&actions, 2, err_path, flags, 0666)) &&
        !(error = posix_spawn_file_actions_adddup2(&actions, c->children, c->children)))
        error =
            posix_spawn(pid, argv[0], &actions, &attributes, (char **)(uintptr_t)argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* Until it has ended; *interrupted: it was asked to. */
static sara_status wait_child(const sara_comparison *c, pid_t pid, sara_child *out,
                              bool *interrupted)
{
    struct rusage usage;
    long pause = 0;
    pid_t got;
    int state = 0;
    *interrupted = false;
    while ((got = wait4(pid, &state, WNOHANG, &usage)) == 0 || (got < 0 && errno == EINTR)) {
        if (!*interrupted && sara_interrupted(c->ctx)) {
            *interrupted = true;
            kill(pid, SIGINT);
        }
        wait_a_moment(&pause);
    }
    if (got < 0)
        return sara_fail_errno(c->ctx, c->program, "cannot wait for it");
    out->exit_code = WIFSIGNALED(state) ? 128 + WTERMSIG(state) : WEXITSTATUS(state);
    out->peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
    return SARA_OK;
}

static sara_status stop_here(const sara_comparison *c)
{
    sara_interrupt_clear(c->ctx);
    return sara_fail(c->ctx, SARA_INTERRUPTED,
                     "%s: interrupted; the same command goes on from here", c->output);
}

sara_status sara_compare_spawn(sara_comparison *c, sara_child *out, const char *const *argv,
                               const char *out_path, const char *err_path)
{
    char **environment = NULL, parent[40], text[128];
    const double start = seconds_now();
    bool interrupted;
    pid_t pid;
    sara_status status;
    *out = (sara_child){0};
    if (sara_interrupted(c->ctx))
        return stop_here(c);
    TRY(make_environment(c, &environment, parent, sizeof(parent)));
    int error = start_child(c, &pid, argv, environment, out_path, err_path);
    if (error)
        TRY(sara_fail(c->ctx, SARA_ERROR_IO, "%s: cannot be started: %s", argv[0],
                      sara_errno_text(text, error)));
    TRY(wait_child(c, pid, out, &interrupted));
    out->seconds = seconds_now() - start;
    if (interrupted)
        status = stop_here(c);
done:
    sara_free(c->ctx, environment);
    return status;
}

/* --------------------------------------------------------------------------------------- locks */

static sara_status open_lock(sara_comparison *c, int *fd, const char *name)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(c->ctx, &path, c->output, name));
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        status = sara_fail_errno(c->ctx, path, "open");
done:
    sara_free(c->ctx, path);
    return status;
}

sara_status sara_compare_lock(sara_comparison *c)
{
    long pause = 0;
    bool told = false;
    sara_status status;
    TRY(sara_directory_make(c->ctx, c->output));
    TRY(open_lock(c, &c->lock, ".lock"));
    TRY(open_lock(c, &c->children, ".children"));
    if (flock(c->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        TRY(sara_fail(c->ctx, SARA_ERROR_IO,
                      "%s: another comparison is at work here; wait for it or name another "
                      "output_dir",
                      c->output));
    while (flock(c->children, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        if (!told)
            sara_log(c->ctx, SARA_LOG_INFO,
                     "%s: waiting for a run that a comparison which was killed has left",
                     c->output);
        told = true;
        if (sara_interrupted(c->ctx))
            return stop_here(c);
        wait_a_moment(&pause);
    }
done:
    return status;
}

void sara_compare_unlock(sara_comparison *c)
{
    if (c->lock >= 0)
        close(c->lock);
    if (c->children >= 0)
        close(c->children);
    c->lock = c->children = -1;
}
