#include "core/context.h"

#include <errno.h>
#include <stdio.h>

/* Overlong forms, surrogates and what lies beyond 10FFFF. */
static bool status_is_misformed(const unsigned char *text)
{
    return text[0] == 0xC0 || text[0] == 0xC1 || (text[0] == 0xE0 && text[1] < 0xA0) ||
           (text[0] == 0xED && text[1] > 0x9F) || (text[0] == 0xF0 && text[1] < 0x90) ||
           (text[0] == 0xF4 && text[1] > 0x8F) || text[0] > 0xF4;
}

/* Length of the valid UTF-8 sequence at text, 0 if there is none. */
static size_t utf8_length(const unsigned char *text)
{
    size_t length = text[0] < 0x80 ? 1 : (text[0] & 0xE0) == 0xC0 ? 2 : (text[0] & 0xF0) == 0xE0 ? 3
                  : (text[0] & 0xF8) == 0xF0 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return status_is_misformed(text) ? 0 : length;
}

/* C0, DEL and the two-byte C1 controls would reach the terminal as commands. */
static bool status_is_control(const unsigned char *text)
{
    return text[0] < 0x20 || text[0] == 0x7F || (text[0] == 0xC2 && text[1] < 0xA0);
}

void sara_text_escape(char *out, size_t size, const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    size_t used = 0;
    while (*in) {
        size_t length = utf8_length(in);
        if (length == 0 || status_is_control(in)) {
            if (used + 5 > size)
                break;
            snprintf(out + used, 5, "\\x%02x", *in++);
            used += 4;
        } else {
            if (used + length + 1 > size)
                break;
            memcpy(out + used, in, length);
            used += length;
            in += length;
        }
    }
    out[used] = '\0';
}

sara_status sara_fail(sara_context *ctx, sara_status status, const char *format, ...)
{
    char raw[SARA_ERROR_SIZE];
    va_list args;
    va_start(args, format);
    sara_print_args(raw, sizeof(raw), format, args);
    va_end(args);
    sara_text_escape(ctx->error, sizeof(ctx->error), raw);
    return status;
}

sara_status sara_fail_in(sara_context *ctx, sara_status status, const char *prefix)
{
    char rest[SARA_ERROR_SIZE];
    memcpy(rest, ctx->error, sizeof(rest));
    char safe[SARA_ERROR_SIZE];
    sara_text_escape(safe, sizeof(safe), prefix);
    int used = snprintf(ctx->error, sizeof(ctx->error), "%s: ", safe);
    if (used > 0 && (size_t)used < sizeof(ctx->error))
        sara_text_escape(ctx->error + used, sizeof(ctx->error) - (size_t)used, rest);
    return status;
}

sara_status sara_fail_errno(sara_context *ctx, const char *path, const char *what)
{
    char reason[128];
    return sara_fail(ctx, SARA_ERROR_IO, "%s: %s: %s", path, what, sara_errno_text(reason, errno));
}

void sara_log(sara_context *ctx, sara_log_level level, const char *format, ...)
{
    char raw[SARA_ERROR_SIZE], safe[SARA_ERROR_SIZE];
    if (!ctx->log)
        return;
    va_list args;
    va_start(args, format);
    sara_print_args(raw, sizeof(raw), format, args);
    va_end(args);
    sara_text_escape(safe, sizeof(safe), raw);
    ctx->log(ctx->user, level, safe);
}
