#include "text.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cli_texts {
    struct cli_texts *next;
    char text[];
};

const char *text_keep(cli *c, const char *text)
{
    size_t size = strlen(text) + 1;
    struct cli_texts *kept = malloc(sizeof(*kept) + size);
    if (!kept)
        return NULL;
    memcpy(kept->text, text, size);
    kept->next = c->texts;
    c->texts = kept;
    return kept->text;
}

void text_free(cli *c)
{
    while (c->texts) {
        struct cli_texts *next = c->texts->next;
        free(c->texts);
        c->texts = next;
    }
}

/* Overlong forms, surrogates and what lies beyond 10FFFF. */
static bool text_is_misformed(const unsigned char *text)
{
    return text[0] == 0xC0 || text[0] == 0xC1 || (text[0] == 0xE0 && text[1] < 0xA0) ||
           (text[0] == 0xED && text[1] > 0x9F) || (text[0] == 0xF0 && text[1] < 0x90) ||
           (text[0] == 0xF4 && text[1] > 0x8F) || text[0] > 0xF4;
}

/* Bytes of the UTF-8 character at text that a terminal only shows; 0 if it is none. */
static size_t shown_length(const unsigned char *text)
{
    size_t length = text[0] < 0x80             ? 1
                    : (text[0] & 0xE0) == 0xC0 ? 2
                    : (text[0] & 0xF0) == 0xE0 ? 3
                    : (text[0] & 0xF8) == 0xF0 ? 4
                                               : 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    bool control = text[0] < 0x20 || text[0] == 0x7F || (text[0] == 0xC2 && text[1] < 0xA0);
    return control || text_is_misformed(text) ? 0 : length;
}

void text_escape(char *out, size_t size, const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    size_t used = 0;
    while (*in) {
        size_t length = shown_length(in), wanted = length ? length : 4;
        if (used + wanted >= size)
            break;
        if (length)
            memcpy(out + used, in, length);
        else
            snprintf(out + used, 5, "\\x%02x", *in);
        used += wanted;
        in += length ? length : 1;
    }
    out[used] = '\0';
}

#define MANY_DIGITS 16 /* what %.17g leaves of a number that is not short by itself */

/* A text that is one number of many digits. */
static bool is_long_number(const char *text, double *number)
{
    size_t digits = 0;
    char *end;
    for (const char *at = text; *at; at++)
        digits += *at >= '0' && *at <= '9';
    if (digits < MANY_DIGITS || text[strspn(text, "0123456789+-.eE")] || !strpbrk(text, ".eE"))
        return false;
    *number = strtod(text, &end);
    return !*end && isfinite(*number);
}

static void shorten_number(char *text)
{
    char shorter[40];
    double number;
    if (!is_long_number(text, &number))
        return;
    bool single = fabs(number) <= FLT_MAX && (double)(float)number == number;
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(shorter, sizeof(shorter), "%.*g", digits, number);
        if (single ? strtof(shorter, NULL) == (float)number : strtod(shorter, NULL) == number)
            break;
    }
    if (strlen(shorter) < strlen(text))
        memcpy(text, shorter, strlen(shorter) + 1);
}

void text_shorten(char *text)
{
    char *out = text;
    for (bool more = true; more;) {
        size_t length = strcspn(text, ",");
        more = text[length] == ',';
        text[length] = '\0';
        shorten_number(text);
        size_t kept = strlen(text);
        memmove(out, text, kept);
        out[kept] = more ? ',' : '\0';
        out += kept + 1;
        text += length + 1;
    }
}

void cli_print_path(const char *before, const char *path, const char *after)
{
    char safe[4096];
    if (isatty(STDOUT_FILENO)) {
        text_escape(safe, sizeof(safe), path);
        path = safe;
    }
    printf("%s%s%s\n", before, path, after);
}
