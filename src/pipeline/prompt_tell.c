/* What a generation tells of its prompts: the weights it took, and what it does not do. */
#include "pipeline/pipeline.h"

#include <stdio.h>

#define TOLD_PARTS 16 /* of a prompt; the rest is counted */
#define TOLD_BYTES 40 /* of a part's text */

typedef struct told_line {
    char text[TOLD_PARTS * 2 * (TOLD_BYTES + 32) + 128];
    size_t used;
} told_line;

/* Without memory for it the piece is left out. */
static void add_to_told(told_line *line, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_to_told(told_line *line, const char *format, ...)
{
    size_t room = sizeof(line->text) - line->used;
    va_list args;
    va_start(args, format);
    int size = sara_print_args(line->text + line->used, room, format, args);
    va_end(args);
    if (size > 0)
        line->used += (size_t)size < room ? (size_t)size : room - 1;
}

static bool is_prompt_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* `, "red" 1.4` */
static void tell_part(told_line *line, const sara_prompt *prompt, const sara_prompt_part *part,
                      bool first)
{
    const char *text = prompt->text + part->start;
    size_t size = part->size, kept;
    for (; size > 0 && is_prompt_space(*text); size--)
        text++;
    while (size > 0 && is_prompt_space(text[size - 1]))
        size--;
    kept = size < TOLD_BYTES ? size : TOLD_BYTES;
    while (kept < size && kept > 0 && ((unsigned char)text[kept] & 0xC0) == 0x80)
        kept--;
    add_to_told(line, "%s\"%.*s%s\" %.6g", first ? "" : ", ", (int)kept, text,
                kept < size ? "..." : "", part->weight);
}

static void tell_weights(told_line *line, const char *what, const sara_prompt *prompt)
{
    size_t told = 0;
    if (!prompt->weighted)
        return;
    add_to_told(line, "%s%s weights: ", line->used ? "; " : "", what);
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        if (part->is_break || part->is_blank)
            continue;
        if (told < TOLD_PARTS)
            tell_part(line, prompt, part, told == 0);
        told++;
    }
    if (told > TOLD_PARTS)
        add_to_told(line, ", and %zu more", told - TOLD_PARTS);
}

static void tell_unsupported(sara_context *ctx, const sara_prompt *prompt, const char *what,
                             bool breaks)
{
    if (prompt->note)
        sara_log(ctx, SARA_LOG_WARNING, "%s: %s", what, prompt->note);
    if (prompt->has_and)
        sara_log(ctx, SARA_LOG_WARNING, "%s: AND: joining prompts is not supported; read as a word",
                 what);
    if (prompt->has_break && !breaks)
        sara_log(ctx, SARA_LOG_WARNING,
                 "%s: BREAK: begins a new chunk with --long-prompt alone; read as a word", what);
}

void sara_prompts_tell(sara_context *ctx, const sara_prompts *prompts, bool breaks)
{
    told_line line = {.used = 0};
    tell_weights(&line, "prompt", &prompts->text);
    tell_weights(&line, "negative prompt", &prompts->negative);
    if (line.used)
        sara_log(ctx, SARA_LOG_INFO, "%s", line.text);
    tell_unsupported(ctx, &prompts->text, "prompt", breaks);
    tell_unsupported(ctx, &prompts->negative, "negative prompt", breaks);
}
