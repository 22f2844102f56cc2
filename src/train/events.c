/* --report_to tensorboard: event files. A record is a length, its checksum, an Event of
 * TensorBoard's event.proto and that one's checksum. The few fields are written here by their
 * numbers there. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define EVENTS_NAME "events.out.tfevents."

enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_FILE_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION_LOG = 7,
    SESSION_STATUS = 1, /* its value START is 1 */
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE = 2,
    VALUE_IMAGE = 4,
    IMAGE_HEIGHT = 1,
    IMAGE_WIDTH = 2,
    IMAGE_COLORSPACE = 3, /* RGB is 3 */
    IMAGE_ENCODED = 4
};
enum { WIRE_VARINT, WIRE_8_BYTES, WIRE_BYTES, WIRE_4_BYTES = 5 };

/* ------------------------------------------------------------------------------------- protobuf */

static sara_status put_varint(sara_buffer *out, uint64_t value)
{
    sara_status status = SARA_OK;
    for (; value >= 0x80 && status == SARA_OK; value >>= 7)
        status = sara_buffer_put_char(out, (char)(value | 0x80));
    return status == SARA_OK ? sara_buffer_put_char(out, (char)value) : status;
}

static sara_status put_integer(sara_buffer *out, int field, uint64_t value)
{
    sara_status status;
    TRY(put_varint(out, (uint64_t)field << 3 | WIRE_VARINT));
    TRY(put_varint(out, value));
done:
    return status;
}

static sara_status put_bytes(sara_buffer *out, int field, const char *data, size_t size)
{
    sara_status status;
    TRY(put_varint(out, (uint64_t)field << 3 | WIRE_BYTES));
    TRY(put_varint(out, size));
    TRY(sara_buffer_add(out, data, size));
done:
    return status;
}

/* The lowest `count` bytes, the lowest first. */
static sara_status put_fixed(sara_buffer *out, uint64_t bits, int count)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < count && status == SARA_OK; i++)
        status = sara_buffer_put_char(out, (char)(bits >> 8 * i));
    return status;
}

static sara_status put_float(sara_buffer *out, int field, double value)
{
    float single = (float)value;
    uint32_t bits;
    sara_status status;
    memcpy(&bits, &single, sizeof(bits));
    TRY(put_varint(out, (uint64_t)field << 3 | WIRE_4_BYTES));
    TRY(put_fixed(out, bits, 4));
done:
    return status;
}

/* -------------------------------------------------------------------------------------- records */

/* CRC-32C (Castagnoli), as records have it: rotated, with a constant added. */
static uint32_t masked_checksum(const char *data, size_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= (unsigned char)data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* Appends an Event of this time whose one field, of bytes, is the last. */
static sara_status write_event(const sara_run *run, int64_t step, int field, const char *data,
                               size_t size)
{
    sara_buffer event = {.ctx = run->ctx}, record = {.ctx = run->ctx};
    struct timespec now;
    uint64_t bits;
    sara_status status;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    memcpy(&bits, &seconds, sizeof(bits));
    TRY(put_varint(&event, EVENT_WALL_TIME << 3 | WIRE_8_BYTES));
    TRY(put_fixed(&event, bits, 8));
    TRY(put_integer(&event, EVENT_STEP, (uint64_t)step));
    TRY(put_bytes(&event, field, data, size));
    TRY(put_fixed(&record, event.length, 8));
    TRY(put_fixed(&record, masked_checksum(record.data, 8), 4));
    TRY(sara_buffer_add(&record, event.data, event.length));
    TRY(put_fixed(&record, masked_checksum(event.data, event.length), 4));
    if (fwrite(record.data, 1, record.length, run->events) != record.length ||
        fflush(run->events) != 0)
        status = sara_fail_errno(run->ctx, run->events_path, "write");
done:
    sara_buffer_free(&event);
    sara_buffer_free(&record);
    return status;
}

/* ------------------------------------------------------------------------------------- the file */

/* TensorBoard reads a folder's files by name: this one's time is later than all others'. */
static sara_status name_events(sara_run *run, const char *folder)
{
    char **names = NULL;
    size_t count = 0;
    long long after = (long long)time(NULL);
    sara_status status;
    TRY(sara_directory_list(run->ctx, &names, &count, folder));
    for (size_t i = 0; i < count; i++) {
        long long other = strncmp(names[i], EVENTS_NAME, strlen(EVENTS_NAME)) == 0
                              ? strtoll(names[i] + strlen(EVENTS_NAME), NULL, 10)
                              : 0;
        after = other >= after && other < 9999999999 ? other + 1 : after;
    }
    TRY(sara_format(run->ctx, &run->events_path, "%s/" EVENTS_NAME "%010lld.sara", folder, after));
done:
    sara_directory_free(run->ctx, names, count);
    return status;
}

sara_status sara_run_events_open(sara_run *run, const char *logging_dir, int64_t step)
{
    static const char version[] = "brain.Event:2", start[] = {SESSION_STATUS << 3 | WIRE_VARINT, 1};
    char *folder = NULL;
    sara_status status;
    TRY(*logging_dir == '/' ? sara_strdup(run->ctx, &folder, logging_dir)
                            : sara_path_join(run->ctx, &folder, run->folder, logging_dir));
    TRY(sara_directory_make(run->ctx, folder));
    TRY(name_events(run, folder));
    run->events = fopen(run->events_path, "wxe");
    if (!run->events)
        TRY(sara_fail_errno(run->ctx, run->events_path, "open"));
    TRY(write_event(run, 0, EVENT_FILE_VERSION, version, strlen(version)));
    /* what an earlier file has of this step or later is no longer shown */
    TRY(write_event(run, step, EVENT_SESSION_LOG, start, sizeof(start)));
done:
    sara_free(run->ctx, folder);
    return status;
}

void sara_run_events_close(sara_run *run)
{
    if (run->events)
        fclose(run->events);
    sara_free(run->ctx, run->events_path);
    run->events = NULL;
    run->events_path = NULL;
}

/* What cannot be written is no reason to lose what is trained: it is told, and nothing more is. */
static void events_end(sara_run *run, sara_status status)
{
    if (status == SARA_OK)
        return;
    sara_log(run->ctx, SARA_LOG_WARNING, "--report_to tensorboard: %s; the run goes on without it",
             sara_context_error(run->ctx));
    sara_run_events_close(run);
}

/* Appends a Value of which the rest is given to the summary. */
static sara_status events_add_value(sara_buffer *summary, const char *tag, const sara_buffer *rest)
{
    sara_buffer value = {.ctx = summary->ctx};
    sara_status status;
    TRY(put_bytes(&value, VALUE_TAG, tag, strlen(tag)));
    TRY(sara_buffer_add(&value, rest->data, rest->length));
    TRY(put_bytes(summary, SUMMARY_VALUE, value.data, value.length));
done:
    sara_buffer_free(&value);
    return status;
}

void sara_run_events_scalars(sara_run *run, const json_t *line)
{
    sara_buffer summary = {.ctx = run->ctx}, number = {.ctx = run->ctx};
    const char *key;
    json_t *value;
    sara_status status = SARA_OK;
    if (!run->events)
        return;
    json_object_foreach((json_t *)(uintptr_t)line, key, value)
    {
        if (!json_is_number(value) || strcmp(key, "step") == 0)
            continue;
        sara_buffer_clear(&number);
        TRY(put_float(&number, VALUE_SIMPLE, json_number_value(value)));
        TRY(events_add_value(&summary, key, &number));
    }
    TRY(write_event(run, json_integer_value(json_object_get(line, "step")), EVENT_SUMMARY,
                    summary.data, summary.length));
done:
    sara_buffer_free(&summary);
    sara_buffer_free(&number);
    events_end(run, status);
}

/* image { height, width, colorspace, encoded_image_string } */
static sara_status put_image(sara_buffer *out, const sara_image *image, const char *data,
                             size_t size)
{
    sara_buffer inner = {.ctx = out->ctx};
    sara_status status;
    TRY(put_integer(&inner, IMAGE_HEIGHT, (uint64_t)image->height));
    TRY(put_integer(&inner, IMAGE_WIDTH, (uint64_t)image->width));
    TRY(put_integer(&inner, IMAGE_COLORSPACE, 3));
    TRY(put_bytes(&inner, IMAGE_ENCODED, data, size));
    TRY(put_bytes(out, VALUE_IMAGE, inner.data, inner.length));
done:
    sara_buffer_free(&inner);
    return status;
}

void sara_run_events_image(sara_run *run, int64_t step, int index, const sara_image *image,
                           const char *path)
{
    sara_buffer summary = {.ctx = run->ctx}, value = {.ctx = run->ctx};
    char *data = NULL;
    size_t size = 0;
    sara_status status = SARA_OK;
    if (!run->events)
        return;
    TRY(sara_file_read(run->ctx, &data, &size, path, (size_t)1 << 30));
    TRY(put_image(&value, image, data, size));
    TRY(events_add_value(&summary, sara_name_of("validation/%d", index).text, &value));
    TRY(write_event(run, step, EVENT_SUMMARY, summary.data, summary.length));
done:
    sara_free(run->ctx, data);
    sara_buffer_free(&summary);
    sara_buffer_free(&value);
    events_end(run, status);
}
