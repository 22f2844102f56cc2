#include "io/safetensors.h"

#include <stdio.h>
#include <utf8proc.h>

#define WINDOW_SIZE         ((size_t)64 * 1024)
#define LONGEST_WHITE_SPACE 1000000

sara_status sara_scan_open(sara_scan *scan, const sara_safetensors *file)
{
    memset(scan, 0, sizeof(*scan));
    scan->ctx = scan->text.ctx = file->ctx;
    scan->path = file->path;
    scan->fd = file->fd;
    scan->next = SARA_SAFETENSORS_PREAMBLE;
    scan->limit = file->data;
    return sara_alloc(scan->ctx, &scan->window, WINDOW_SIZE, 1);
}

void sara_scan_close(sara_scan *scan)
{
    sara_free(scan->ctx, scan->window);
    sara_buffer_free(&scan->text);
}

sara_status sara_scan_fail(sara_scan *scan, const char *format, ...)
{
    char reason[256];
    va_list args;
    if (scan->status != SARA_OK) /* that the text ended is not its fault */
        return scan->status;
    va_start(args, format);
    sara_print_args(reason, sizeof(reason), format, args);
    va_end(args);
    return sara_fail(scan->ctx, SARA_ERROR_INPUT, "%s: byte %llu: %s%.200s%s%s%s%s", scan->path,
                     (unsigned long long)(scan->next - (scan->filled - scan->at)),
                     scan->tensor ? "tensor " : "", scan->tensor ? scan->tensor : "",
                     scan->tensor ? ": " : "", scan->field ? scan->field : "",
                     scan->field ? ": " : "", reason);
}

/* The next byte without taking it; -1 at the end of the header or where reading failed. */
static int peek(sara_scan *scan)
{
    if (scan->at < scan->filled)
        return scan->window[scan->at];
    uint64_t left = scan->limit - scan->next;
    size_t size = left < WINDOW_SIZE ? (size_t)left : WINDOW_SIZE;
    if (size == 0 || scan->status != SARA_OK)
        return -1;
    scan->status = sara_file_pread(scan->ctx, scan->fd, scan->window, size, scan->next, scan->path);
    if (scan->status != SARA_OK)
        return -1;
    scan->next += size;
    scan->at = 0;
    scan->filled = size;
    return scan->window[0];
}

static int take(sara_scan *scan)
{
    int c = peek(scan);
    if (c >= 0)
        scan->at++;
    return c;
}

typedef struct byte_text {
    char text[24];
} byte_text;

static const char *show(byte_text *out, int c)
{
    if (c < 0)
        return "the end of the header";
    snprintf(out->text, sizeof(out->text), c > 0x20 && c < 0x7F ? "'%c'" : "byte 0x%02x", c);
    return out->text;
}

static sara_status skip_white_space(sara_scan *scan)
{
    size_t count = 0;
    for (int c = peek(scan); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = peek(scan)) {
        scan->at++;
        if (++count > LONGEST_WHITE_SPACE)
            return sara_scan_fail(scan, "more than %d bytes of white space", LONGEST_WHITE_SPACE);
    }
    return scan->status;
}

sara_status sara_scan_expect(sara_scan *scan, char wanted)
{
    byte_text text;
    sara_status status;
    TRY(skip_white_space(scan));
    int c = peek(scan);
    if (c != wanted)
        status = sara_scan_fail(scan, "%s, expected '%c'", show(&text, c), wanted);
    else
        scan->at++;
done:
    return status;
}

sara_status sara_scan_null(sara_scan *scan, bool *is_null)
{
    sara_status status;
    TRY(skip_white_space(scan));
    *is_null = peek(scan) == 'n';
    for (const char *c = "null"; *is_null && *c; c++)
        if (take(scan) != *c)
            return sara_scan_fail(scan, "expected an object or null");
done:
    return status;
}

sara_status sara_scan_more(sara_scan *scan, bool *more, bool first, char close)
{
    sara_status status;
    *more = true;
    TRY(skip_white_space(scan));
    if (peek(scan) == close) {
        scan->at++;
        *more = false;
    } else if (!first) {
        TRY(sara_scan_expect(scan, ','));
    }
done:
    return status;
}

static sara_status scan_put(sara_scan *scan, int byte, size_t longest)
{
    if (scan->text.length >= longest)
        return sara_scan_fail(scan, "a string of more than %zu bytes", longest);
    return sara_buffer_put_char(&scan->text, (char)byte);
}

static sara_status take_hex4(sara_scan *scan, utf8proc_int32_t *out)
{
    byte_text text;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(scan);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return sara_scan_fail(scan, "%s, expected a hexadecimal digit", show(&text, c));
        *out = *out * 16 + digit;
        scan->at++;
    }
    return SARA_OK;
}

static sara_status take_unicode(sara_scan *scan, size_t longest)
{
    utf8proc_int32_t code = 0, low = 0;
    utf8proc_uint8_t bytes[4];
    sara_status status;
    TRY(take_hex4(scan, &code));
    if (code == 0)
        return sara_scan_fail(scan, "NUL in a string");
    bool high = code >= 0xD800 && code < 0xDC00;
    if (high && (take(scan) != '\\' || take(scan) != 'u'))
        return sara_scan_fail(scan, "lone surrogate \\u%04x", (unsigned)code);
    if (high)
        TRY(take_hex4(scan, &low));
    if (high ? low < 0xDC00 || low > 0xDFFF : code >= 0xDC00 && code <= 0xDFFF)
        return sara_scan_fail(scan, "lone surrogate \\u%04x", (unsigned)code);
    if (high)
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    utf8proc_ssize_t count = utf8proc_encode_char(code, bytes);
    for (utf8proc_ssize_t i = 0; i < count; i++)
        TRY(scan_put(scan, bytes[i], longest));
done:
    return status;
}

static sara_status take_escape(sara_scan *scan, size_t longest)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    byte_text text;
    int c = peek(scan);
    if (c == 'u') {
        scan->at++;
        return take_unicode(scan, longest);
    }
    const char *name = c > 0 ? strchr(names, c) : NULL;
    if (!name)
        return sara_scan_fail(scan, "%s after a backslash", show(&text, c));
    scan->at++;
    return scan_put(scan, values[name - names], longest);
}

sara_status sara_scan_string(sara_scan *scan, size_t longest)
{
    sara_status status;
    sara_buffer_clear(&scan->text);
    TRY(sara_scan_expect(scan, '"'));
    TRY(sara_buffer_put(&scan->text, "")); /* no NULL, empty as it may be */
    for (int c = take(scan); c != '"'; c = take(scan)) {
        if (c < 0)
            return sara_scan_fail(scan, "a string that does not end");
        if (c < 0x20)
            return sara_scan_fail(scan, "control byte 0x%02x in a string", c);
        if (c == '\\')
            TRY(take_escape(scan, longest));
        else
            TRY(scan_put(scan, c, longest));
    }
    if (!sara_text_is_utf8(scan->text.data, scan->text.length))
        status = sara_scan_fail(scan, "the string that ends here is not UTF-8");
done:
    return status;
}

sara_status sara_scan_integer(sara_scan *scan, uint64_t *out)
{
    byte_text text;
    uint64_t value = 0;
    sara_status status;
    TRY(skip_white_space(scan));
    int first = peek(scan);
    if (first < '0' || first > '9')
        return sara_scan_fail(scan, "%s, expected an integer of at least 0", show(&text, first));
    for (int c = first; c >= '0' && c <= '9'; c = peek(scan)) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(c - '0'), &value))
            return sara_scan_fail(scan, "an integer of more than 64 bits");
        scan->at++;
        if (first == '0' && peek(scan) >= '0' && peek(scan) <= '9')
            return sara_scan_fail(scan, "an integer with a leading 0");
    }
    if (peek(scan) == '.' || peek(scan) == 'e' || peek(scan) == 'E')
        return sara_scan_fail(scan, "%s, expected an integer", show(&text, peek(scan)));
    *out = value;
done:
    return status;
}

sara_status sara_scan_end(sara_scan *scan)
{
    byte_text text;
    sara_status status;
    TRY(skip_white_space(scan));
    if (peek(scan) >= 0)
        status = sara_scan_fail(scan, "%s after the header's end", show(&text, peek(scan)));
    else
        status = scan->status;
done:
    return status;
}
