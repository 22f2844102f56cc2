/* Many things, each worked on by one of several threads. */
#include "core/context.h"

#include "core/trace.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define MOST_WORKERS   64
#define LOOK_SECONDS   0.1 /* how often the caller looks for an interruption */
#define SILENT_SECONDS 1.0 /* short work is no news */

/* All that threads share, under the lock. */
typedef struct crew_work {
    sara_context *ctx;
    const sara_crew *crew;
    size_t count, next, done;
    size_t failed; /* the least index that failed; SIZE_MAX: none */
    sara_status status;
    bool stop;
    int running;
    pthread_mutex_t lock; /* what calls back, too */
    pthread_cond_t news;
    pthread_mutex_t memory; /* the allocator's, which need not know of threads */
} crew_work;

/* A thread's own part of it. */
typedef struct crew_worker {
    crew_work *work;
    sara_context *ctx;
    size_t index; /* what it is at */
} crew_worker;

/* -------------------------------------------------------------------------------------- threads */

static void *crew_allocate(void *user, size_t size)
{
    crew_work *work = user;
    const sara_allocator *allocator = &work->ctx->allocator;
    pthread_mutex_lock(&work->memory);
    void *memory = allocator->allocate(allocator->user, size);
    pthread_mutex_unlock(&work->memory);
    return memory;
}

static void crew_release(void *user, void *memory)
{
    crew_work *work = user;
    const sara_allocator *allocator = &work->ctx->allocator;
    pthread_mutex_lock(&work->memory);
    allocator->release(allocator->user, memory);
    pthread_mutex_unlock(&work->memory);
}

static void crew_log(void *user, sara_log_level level, const char *line)
{
    const crew_worker *worker = user;
    crew_work *work = worker->work;
    if (work->crew->log) {
        work->crew->log(worker->ctx, work->crew->user, worker->index, line);
        return;
    }
    pthread_mutex_lock(&work->lock);
    sara_log(work->ctx, level, "%s", line);
    pthread_mutex_unlock(&work->lock);
}

/* Of all errors that of the least index stays. */
static void note_failure(crew_work *work, size_t index, sara_status status, const char *line)
{
    if (work->failed != SIZE_MAX && work->failed <= index)
        return;
    work->failed = index;
    work->status = status;
    work->stop = true;
    sara_fail(work->ctx, status, "%s", line);
}

static void work_along(crew_worker *worker)
{
    crew_work *work = worker->work;
    pthread_mutex_lock(&work->lock);
    while (!work->stop && work->next < work->count) {
        worker->index = work->next++;
        pthread_mutex_unlock(&work->lock);
        const sara_status status = work->crew->work(worker->ctx, work->crew->user, worker->index);
        pthread_mutex_lock(&work->lock);
        if (status != SARA_OK)
            note_failure(work, worker->index, status, sara_context_error(worker->ctx));
        work->done++;
        pthread_cond_signal(&work->news);
    }
    pthread_mutex_unlock(&work->lock);
}

static void *crew_thread(void *user)
{
    crew_worker worker = {.work = user};
    crew_work *work = user;
    const sara_allocator allocator = {crew_allocate, crew_release, work};
    const sara_context_options options = {.size = sizeof(options),
                                          .allocator = &allocator,
                                          .threads = 1,
                                          .log = crew_log,
                                          .user = &worker};
    const sara_status status = sara_context_new(&worker.ctx, &options);
    if (status == SARA_OK)
        work_along(&worker);
    pthread_mutex_lock(&work->lock);
    if (status != SARA_OK)
        note_failure(work, 0, status, sara_context_error(worker.ctx));
    sara_context_free(worker.ctx);
    work->running--;
    pthread_cond_signal(&work->news);
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

/* -------------------------------------------------------------------------------------- calling */

static void report_crew(crew_work *work, double started)
{
    const double seconds = sara_clock() - started, rate = (double)work->done / seconds;
    if (seconds < SILENT_SECONDS || !work->done)
        return;
    const sara_progress progress = {work->crew->phase,
                                    (int64_t)work->done,
                                    (int64_t)work->count,
                                    (double)NAN,
                                    (double)NAN,
                                    rate,
                                    (double)(work->count - work->done) / rate};
    sara_report_progress(work->ctx, &progress);
}

/* Until all threads have ended. */
static void watch_crew(crew_work *work)
{
    const double started = sara_clock();
    size_t told = 0;
    pthread_mutex_lock(&work->lock);
    while (work->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(LOOK_SECONDS * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&work->news, &work->lock, &until);
        if (sara_interrupted(work->ctx))
            work->stop = true;
        if (work->done != told && !work->stop)
            report_crew(work, started);
        told = work->done;
    }
    pthread_mutex_unlock(&work->lock);
}

/* Signals are the caller's thread's. Fewer threads than wanted will do. */
static int start_crew(crew_work *work, pthread_t *threads)
{
    const int wanted = work->ctx->threads < MOST_WORKERS ? work->ctx->threads : MOST_WORKERS;
    int started = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&work->lock);
    while (started < wanted && (size_t)started < work->count &&
           pthread_create(&threads[started], NULL, crew_thread, work) == 0)
        work->running = ++started;
    pthread_mutex_unlock(&work->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

sara_status sara_crew_run(sara_context *ctx, const sara_crew *crew, size_t count)
{
    crew_work work = {.ctx = ctx,
                      .crew = crew,
                      .count = count,
                      .failed = SIZE_MAX,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .news = PTHREAD_COND_INITIALIZER,
                      .memory = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[MOST_WORKERS];
    if (count == 0)
        return SARA_OK;
    const int started = start_crew(&work, threads);
    if (!started)
        return sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: no thread can be started");
    watch_crew(&work);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (work.status == SARA_OK && sara_interrupted(ctx))
        return sara_fail(ctx, SARA_INTERRUPTED, "%s", crew->interrupted);
    return work.status;
}
