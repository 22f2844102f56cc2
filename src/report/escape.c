#include "report/report.h"

#include <utf8proc.h>

/* The entity or the character that stands for a code point; NULL: itself. */
static const char *report_stand_in(utf8proc_int32_t code)
{
    switch (code) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        break;
    }
    if ((code & 0xFFFE) == 0xFFFE || /* -1, of invalid UTF-8, too */
        (code >= 0xFDD0 && code < 0xFDF0))
        return "\uFFFD";
    return code < 0x20 || (code >= 0x7F && code < 0xA0) ? " " : NULL;
}

sara_status sara_put_escaped(sara_buffer *p, const char *text)
{
    sara_status status = SARA_OK;
    while (*text && status == SARA_OK) {
        utf8proc_int32_t code;
        utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code);
        const char *other = report_stand_in(bytes < 1 ? -1 : code);
        bytes = bytes < 1 ? 1 : bytes;
        status = other ? sara_buffer_put(p, other) : sara_buffer_add(p, text, (size_t)bytes);
        text += bytes;
    }
    return status;
}

sara_status sara_put_format(sara_buffer *out, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int length = sara_print_args(text, sizeof(text), format, args);
    va_end(args);
    if (length < 0)
        return sara_fail(out->ctx, SARA_ERROR_MEMORY, "out of memory: a page");
    SARA_ASSERT((size_t)length < sizeof(text));
    return sara_buffer_put(out, text);
}
