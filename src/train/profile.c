/* The trace as a file: when each kernel ran, and for how long. */
#include "train/profile.h"

static const char head[] = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";

/* What lies at path is lost when the trace is written: only an older trace may be. */
static sara_status check_old(sara_context *ctx, const char *path)
{
    char start[sizeof(head)] = {0};
    size_t length = strlen(path), read = 0;
    FILE *file = NULL;
    if (length <= 5 || strcmp(path + length - 5, ".json") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--profile %s: expected a name ending in .json",
                         path);
    file = fopen(path, "rb");
    if (!file)
        return SARA_OK; /* new; or opening it for writing tells */
    read = fread(start, 1, sizeof(head) - 1, file);
    fclose(file);
    if (read == 0 || strcmp(start, head) == 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "--profile %s: exists and is no trace; name another file or remove it", path);
}

sara_status sara_profile_open(sara_context *ctx, sara_writer **out, const char *path,
                              const char *const *inputs, size_t count)
{
    bool inside;
    sara_status status;
    for (size_t i = 0; i < count; i++) {
        if (!inputs[i])
            continue;
        TRY(sara_path_is_within(ctx, &inside, path, inputs[i]));
        if (inside)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "--profile %s: is within %s, which is read; name a file elsewhere",
                             path, inputs[i]);
    }
    TRY(check_old(ctx, path));
    TRY(sara_writer_open(ctx, out, path));
done:
    return status;
}

static double earliest(const sara_trace_event *events, size_t count)
{
    double start = count ? events[0].start : 0;
    for (size_t i = 1; i < count; i++)
        start = events[i].start < start ? events[i].start : start;
    return start;
}

static sara_status write_events(sara_context *ctx, sara_writer *writer)
{
    static const char tail[] = "]}\n";
    size_t count;
    const sara_trace_event *events = sara_trace_events(ctx, &count);
    double origin = earliest(events, count);
    sara_status status;
    TRY(sara_writer_write(writer, head, sizeof(head) - 1));
    for (size_t i = 0; i < count; i++) {
        const sara_trace_event *e = &events[i];
        char line[256];
        sara_print(line, sizeof(line),
                   "{\"name\":\"%s\",\"ph\":\"X\",\"ts\":%.3f,\"dur\":%.3f,\"pid\":1,"
                   "\"tid\":1,\"args\":{\"flops\":%.0f}}%s\n",
                   e->kind, (e->start - origin) * 1e6, e->seconds * 1e6, e->flops,
                   i + 1 < count ? "," : "");
        TRY(sara_writer_write(writer, line, strlen(line)));
    }
    TRY(sara_writer_write(writer, tail, sizeof(tail) - 1));
done:
    return status;
}

sara_status sara_profile_save(sara_context *ctx, sara_writer **writer)
{
    sara_status status;
    TRY(write_events(ctx, *writer));
    TRY(sara_writer_commit(writer));
done:
    return status;
}
