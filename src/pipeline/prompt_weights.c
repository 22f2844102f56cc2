/* Weights of a prompt's parts as A1111 reads them: (a) times 1.1, (a:1.4) times 1.4, [a] by 1.1;
 * \( \) \[ \] are brackets of the text. A bracket that is never closed reaches to the end, one that
 * was never opened is text. */
#include "models/unicode.h"
#include "pipeline/embedding.h"

#include <math.h>

#define ROUND_FACTOR  1.1
#define SQUARE_FACTOR (1 / 1.1)
#define DEEPEST       1000  /* brackets open at a time; 1.1^1000 is beyond float32 */
#define HEAVIEST      100.0 /* beyond it only slips of the keyboard are to be expected */
#define BREAK_WORD    "BREAK"

typedef struct weight_bracket {
    size_t part; /* the first that it weighs */
    size_t at;   /* in the source */
    bool bar;    /* a | stands directly in it */
} weight_bracket;

enum { ROUND, SQUARE };

typedef struct weight_parser {
    sara_context *ctx;
    sara_prompt *out;
    const char *what;   /* for errors: which prompt */
    const char *source; /* size bytes, read up to at */
    size_t size, at, used;
    bool breaks;             /* BREAK begins a chunk */
    bool fresh;              /* what comes next begins a part */
    weight_bracket *open[2]; /* by kind, which close independently of each other */
    size_t depth[2], capacity[2];
} weight_parser;

/* ---------------------------------------------------------------------------------------- parts */

static sara_status add_part(weight_parser *p, bool is_break)
{
    sara_prompt *out = p->out;
    sara_status status =
        sara_grow(p->ctx, &out->parts, &out->capacity, out->count + 1, sizeof(*out->parts));
    if (status == SARA_OK)
        out->parts[out->count++] =
            (sara_prompt_part){.start = p->used, .weight = 1, .is_break = is_break};
    p->fresh = is_break;
    return status;
}

static sara_status add_prompt_text(weight_parser *p, const char *text, size_t size)
{
    sara_status status = SARA_OK;
    if (size == 0)
        return SARA_OK;
    if (p->fresh)
        TRY(add_part(p, false));
    memcpy(p->out->text + p->used, text, size);
    p->used += size;
    p->out->parts[p->out->count - 1].size += size;
done:
    return status;
}

static void weigh_from(weight_parser *p, size_t part, double factor)
{
    for (; part < p->out->count; part++)
        if (!p->out->parts[part].is_break)
            p->out->parts[part].weight *= factor;
}

/* ----------------------------------------------------------------------------------------- text */

static bool is_word_before(const char *text, size_t at)
{
    int32_t code;
    size_t start = at;
    if (at == 0)
        return false;
    do
        start--;
    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80);
    sara_utf8_decode(&code, text + start, at - start);
    return sara_char_is_word(code);
}

/* Whether the word stands there by itself. */
static bool is_prompt_word_at(const char *text, size_t size, size_t at, const char *word)
{
    size_t length = strlen(word), end = at + length;
    int32_t code;
    if (size - at < length || memcmp(text + at, word, length) != 0 || is_word_before(text, at))
        return false;
    if (end == size)
        return true;
    sara_utf8_decode(&code, text + end, size - end);
    return !sara_char_is_word(code);
}

/* Notes a | for the bracket that it stands directly in, if that is a square one. */
static void note_bar(weight_parser *p)
{
    size_t rounds = p->depth[ROUND], squares = p->depth[SQUARE];
    if (squares == 0)
        return;
    weight_bracket *square = &p->open[SQUARE][squares - 1];
    if (rounds == 0 || p->open[ROUND][rounds - 1].at < square->at)
        square->bar = true;
}

/* A run without brackets, colons and backslashes. */
static sara_status add_run(weight_parser *p, const char *run, size_t size)
{
    size_t added = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < size; i++) {
        if (run[i] == '|') {
            note_bar(p);
        } else if (is_prompt_word_at(run, size, i, "AND")) {
            p->out->has_and = true;
        } else if (is_prompt_word_at(run, size, i, BREAK_WORD)) {
            p->out->has_break = true;
            if (!p->breaks)
                continue;
            TRY(add_prompt_text(p, run + added, i - added));
            TRY(add_part(p, true));
            added = i + strlen(BREAK_WORD);
            i = added - 1;
        }
    }
    TRY(add_prompt_text(p, run + added, size - added));
done:
    return status;
}

/* A backslash: before a bracket it makes that text, else it is text itself. */
static sara_status add_escaped(weight_parser *p)
{
    const char *text = p->source + p->at;
    bool bracket = text[1] && strchr("()[]", text[1]), pair = bracket || text[1] == '\\';
    p->at += pair ? 2 : 1;
    return add_prompt_text(p, bracket ? text + 1 : text, pair && !bracket ? 2 : 1);
}

/* ------------------------------------------------------------------------------------- brackets */

static sara_status open_bracket(weight_parser *p, int kind)
{
    sara_status status;
    if (p->depth[ROUND] + p->depth[SQUARE] == DEEPEST)
        return sara_fail(p->ctx, SARA_ERROR_USAGE,
                         "%s: byte %zu: brackets are more than %d deep; write \\( for a bracket of "
                         "the text, or use --no-prompt-weights",
                         p->what, p->at, DEEPEST);
    TRY(sara_grow(p->ctx, &p->open[kind], &p->capacity[kind], p->depth[kind] + 1,
                  sizeof(*p->open[kind])));
    p->open[kind][p->depth[kind]++] = (weight_bracket){p->out->count, p->at, false};
    p->fresh = true;
    p->at++;
done:
    return status;
}

static void close_bracket(weight_parser *p, int kind, double factor)
{
    weigh_from(p, p->open[kind][--p->depth[kind]].part, factor);
    p->fresh = true;
}

/* A1111 would change the prompt with the steps: [a:b:0.5], [a|b]. The bracket ends at p->at. */
static sara_status note_editing(weight_parser *p, const weight_bracket *square)
{
    const char *start = p->source + square->at, *end = p->source + p->at, *colon = end - 1;
    bool digits = false;
    for (; strchr("0123456789.+-eE \t", *colon); colon--)
        digits |= *colon >= '0' && *colon <= '9';
    bool edits = digits && *colon == ':';
    if (p->out->note || !(edits || square->bar))
        return SARA_OK;
    size_t size = (size_t)(end + 1 - start);
    return sara_format(p->ctx, &p->out->note, "%.*s%s: %s is not supported; read as weighted text",
                       (int)(size > 60 ? 60 : size), start, size > 60 ? "..." : "",
                       edits ? "prompt editing" : "alternation");
}

static size_t skip_blanks(const char *text, const char *end)
{
    size_t skipped = 0;
    int32_t code;
    while (text + skipped < end) {
        size_t size = sara_utf8_decode(&code, text + skipped, (size_t)(end - text) - skipped);
        if (sara_char_class_of(code) != SARA_CHAR_SPACE)
            break;
        skipped += size;
    }
    return skipped;
}

/* Closes the round bracket if a weight and its ) follow the colon. */
static sara_status close_weighted(weight_parser *p, bool *closed)
{
    const char *colon = p->source + p->at, *end = p->source + p->size;
    const char *number = colon + 1 + skip_blanks(colon + 1, end);
    size_t sign = *number == '+' || *number == '-';
    size_t digits = strspn(number + sign, "0123456789.");
    const char *last = number + sign + digits;
    char *stop;
    last += skip_blanks(last, end);
    *closed = digits > 0 && *last == ')' && p->depth[ROUND] > 0;
    if (!*closed)
        return SARA_OK;
    double weight = sara_parse_double(number, &stop);
    if (stop != number + sign + digits)
        return sara_fail(p->ctx, SARA_ERROR_USAGE,
                         "%s: %.*s: weight %.*s, expected a number; write \\( and \\) for brackets "
                         "of the text",
                         p->what, (int)(last + 1 - colon < 60 ? last + 1 - colon : 60), colon,
                         (int)(sign + digits < 40 ? sign + digits : 40), number);
    close_bracket(p, ROUND, weight);
    p->at += (size_t)(last + 1 - colon);
    return SARA_OK;
}

static sara_status add_closing(weight_parser *p, int kind)
{
    sara_status status = SARA_OK;
    if (p->depth[kind] == 0) {
        TRY(add_prompt_text(p, p->source + p->at, 1));
    } else {
        if (kind == SQUARE)
            TRY(note_editing(p, &p->open[SQUARE][p->depth[SQUARE] - 1]));
        close_bracket(p, kind, kind == ROUND ? ROUND_FACTOR : SQUARE_FACTOR);
    }
    p->at++;
done:
    return status;
}

static sara_status add_colon(weight_parser *p)
{
    bool closed;
    sara_status status;
    TRY(close_weighted(p, &closed));
    if (!closed)
        TRY(add_prompt_text(p, p->source + p->at++, 1));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- parse */

static sara_status read_next(weight_parser *p)
{
    const char *text = p->source + p->at;
    size_t run = strcspn(text, "\\()[]:");
    p->at += run;
    if (run > 0)
        return add_run(p, text, run);
    switch (*text) {
    case '\\':
        return add_escaped(p);
    case '(':
        return open_bracket(p, ROUND);
    case '[':
        return open_bracket(p, SQUARE);
    case ')':
        return add_closing(p, ROUND);
    case ']':
        return add_closing(p, SQUARE);
    default:
        return add_colon(p);
    }
}

/* Neighbours of equal weight become one part, so that words are not torn apart. */
static void join_parts(sara_prompt *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < out->count; i++) {
        const sara_prompt_part *part = &out->parts[i];
        sara_prompt_part *last = kept > 0 ? &out->parts[kept - 1] : NULL;
        if (last && !last->is_break && !part->is_break && last->weight == part->weight)
            last->size += part->size;
        else
            out->parts[kept++] = *part;
    }
    out->count = kept;
}

static sara_status check_weights(sara_context *ctx, sara_prompt *out, const char *what)
{
    for (size_t i = 0; i < out->count; i++) {
        sara_prompt_part *part = &out->parts[i];
        const char *text = out->text + part->start;
        part->is_blank = skip_blanks(text, text + part->size) == part->size;
        if (part->is_blank)
            continue;
        out->weighted |= part->weight != 1;
        if (!(fabs(part->weight) <= HEAVIEST))
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s: \"%.*s\": weight %g, expected %g to %g",
                             what, (int)(part->size < 60 ? part->size : 60), text, part->weight,
                             -HEAVIEST, HEAVIEST);
    }
    return SARA_OK;
}

sara_status sara_prompt_parse(sara_context *ctx, sara_prompt *out, const char *text,
                              const char *what, bool breaks)
{
    weight_parser p = {.ctx = ctx, .out = out, .what = what, .source = text, .breaks = breaks};
    sara_status status;
    p.size = strlen(text);
    p.fresh = true;
    memset(out, 0, sizeof(*out));
    TRY(sara_alloc_zero(ctx, &out->text, p.size + 1, 1));
    while (p.at < p.size)
        TRY(read_next(&p));
    for (size_t i = 0; i < p.depth[ROUND]; i++)
        weigh_from(&p, p.open[ROUND][i].part, ROUND_FACTOR);
    for (size_t i = 0; i < p.depth[SQUARE]; i++)
        weigh_from(&p, p.open[SQUARE][i].part, SQUARE_FACTOR);
    join_parts(out);
    TRY(check_weights(ctx, out, what));
done:
    sara_free(ctx, p.open[ROUND]);
    sara_free(ctx, p.open[SQUARE]);
    return status;
}

sara_status sara_prompt_literal(sara_context *ctx, sara_prompt *out, const char *text)
{
    sara_status status;
    memset(out, 0, sizeof(*out));
    TRY(sara_strdup(ctx, &out->text, text));
    TRY(sara_grow(ctx, &out->parts, &out->capacity, 1, sizeof(*out->parts)));
    out->parts[out->count++] = (sara_prompt_part){.size = strlen(text), .weight = 1};
done:
    return status;
}

void sara_prompt_free(sara_context *ctx, sara_prompt *prompt)
{
    sara_free(ctx, prompt->text);
    sara_free(ctx, prompt->parts);
    sara_free(ctx, prompt->note);
    for (size_t i = 0; i < prompt->embedding_count; i++)
        sara_embedding_free(ctx, &prompt->embeddings[i]);
    sara_free(ctx, prompt->embeddings);
    memset(prompt, 0, sizeof(*prompt));
}
