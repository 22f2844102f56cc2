/* Preloaded into the program under test: makes the n-th call that changes something below a folder
 * fail, or ends the process there.
 *
 *     FAIL_IO_UNDER   the folder; calls on other files are passed on
 *     FAIL_IO_AT      n, counted from 1; 0 or unset: none fails
 *     FAIL_IO_ERRNO   errno of the failure; 0: SIGKILL instead
 *     FAIL_IO_STICKY  1: all further calls that need space fail too, as on a full disk
 *     FAIL_IO_READS   1: calls that read, instead of those that change something
 *     FAIL_IO_COUNT   a file that takes the number of calls when the process ends
 *     FAIL_IO_LOG     a file that takes a line for each call: its name, the path, and where to
 */
#undef _FILE_OFFSET_BITS /* open and open64 are two names here */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int calls;

static int setting(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void note(const char *call, const char *path, const char *to)
{
    const char *log = getenv("FAIL_IO_LOG");
    FILE *(*real)(const char *, const char *) =
        (FILE * (*)(const char *, const char *)) next("fopen");
    FILE *file = log ? real(log, "a") : NULL;
    if (file) {
        fprintf(file, "%s\t%s\t%s\n", call, path, to);
        fclose(file);
    }
}

/* Whether the call on this path is to fail; errno is set. from: what is renamed to the path, or
 * NULL. */
static int fails(const char *call, const char *path, const char *from, int needs_space)
{
    const char *under = getenv("FAIL_IO_UNDER");
    if (!under || strncmp(path, under, strlen(under)) != 0)
        return 0;
    if ((strcmp(call, "read") == 0) != (setting("FAIL_IO_READS") == 1))
        return 0;
    note(call, from ? from : path, from ? path : "");
    int at = setting("FAIL_IO_AT"), now = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (at == 0 || now < at || (now > at && !(needs_space && setting("FAIL_IO_STICKY"))))
        return 0;
    if (setting("FAIL_IO_ERRNO") == 0)
        kill(getpid(), SIGKILL);
    errno = setting("FAIL_IO_ERRNO");
    return 1;
}

static int fails_fd(const char *call, int fd, int needs_space)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return fails(call, path, NULL, needs_space);
}

__attribute__((destructor)) static void write_count(void)
{
    const char *path = getenv("FAIL_IO_COUNT");
    FILE *(*real)(const char *, const char *) =
        (FILE * (*)(const char *, const char *)) next("fopen");
    FILE *file = path ? real(path, "w") : NULL;
    if (file) {
        fprintf(file, "%d\n", calls);
        fclose(file);
    }
}

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t(*)(int, const void *, size_t))next("write");
    return fails_fd("write", fd, 1) ? -1 : real(fd, data, size);
}

#define PREAD(name)                                                                                \
    ssize_t name(int fd, void *data, size_t size, off64_t at)                                      \
    {                                                                                              \
        ssize_t (*real)(int, void *, size_t, off64_t) =                                            \
            (ssize_t(*)(int, void *, size_t, off64_t))next(#name);                                 \
        return fails_fd("read", fd, 0) ? -1 : real(fd, data, size, at);                            \
    }
PREAD(pread)
PREAD(pread64)

int fflush(FILE *file)
{
    int (*real)(FILE *) = (int (*)(FILE *))next("fflush");
    return file && fails_fd("write", fileno(file), 1) ? EOF : real(file);
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))next("fsync");
    return fails_fd("fsync", fd, 1) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))next("rename");
    return fails("rename", to, from, 0) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t) = (int (*)(const char *, mode_t))next("mkdir");
    int exists = access(path, F_OK) == 0; /* that it does is no failure to its callers */
    return !exists && fails("mkdir", path, NULL, 1) ? -1 : real(path, mode);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))next(#name);        \
        mode_t mode = 0;                                                                           \
        if (flags & O_CREAT) {                                                                     \
            va_list rest;                                                                          \
            va_start(rest, flags);                                                                 \
            mode = va_arg(rest, mode_t);                                                           \
            va_end(rest);                                                                          \
        }                                                                                          \
        int writes = (flags & O_ACCMODE) != O_RDONLY;                                              \
        return writes && fails("open", path, NULL, flags & O_CREAT) ? -1                           \
                                                                    : real(path, flags, mode);     \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                                                \
    FILE *name(const char *path, const char *mode)                                                 \
    {                                                                                              \
        FILE *(*real)(const char *, const char *) =                                                \
            (FILE * (*)(const char *, const char *)) next(#name);                                  \
        return mode[0] != 'r' && fails("open", path, NULL, 1) ? NULL : real(path, mode);           \
    }
FOPEN(fopen)
FOPEN(fopen64)
