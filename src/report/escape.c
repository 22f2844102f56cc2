#include "report/report.h"

/* C0, DEL, and the C1 controls that begin with this byte in UTF-8. */
static bool report_is_control(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    return byte[0] < 0x20 || byte[0] == 0x7F || (byte[0] == 0xC2 && byte[1] < 0xA0);
}

sara_status sara_put_escaped(sara_buffer *p, const char *text)
{
    sara_status status = SARA_OK;
    for (; *text && status == SARA_OK; text++) {
        const char one[2] = {*text, '\0'};
        bool control = report_is_control(text);
        status = sara_buffer_put(p, control         ? " "
                                    : *text == '<'  ? "&lt;"
                                    : *text == '>'  ? "&gt;"
                                    : *text == '&'  ? "&amp;"
                                    : *text == '"'  ? "&quot;"
                                    : *text == '\'' ? "&#39;"
                                                    : one);
        if (control && (unsigned char)*text == 0xC2)
            text++;
    }
    return status;
}
