#include "text.h"

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
static bool is_misformed(const unsigned char *text)
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
    return control || is_misformed(text) ? 0 : length;
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

void cli_print_path(const char *before, const char *path, const char *after)
{
    char safe[4096];
    if (isatty(STDOUT_FILENO)) {
        text_escape(safe, sizeof(safe), path);
        path = safe;
    }
    printf("%s%s%s\n", before, path, after);
}
