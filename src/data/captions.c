/* What becomes of captions. */
#include "data/data.h"

#define WHITE_SPACE " \t\n\v\f\r"
/* Two braces, while one has a meaning: bytes that no UTF-8 text has. */
#define TWICE_OPEN  '\xFE'
#define TWICE_CLOSE '\xFF'

typedef struct caption_maker {
    sara_context *ctx;
    const sara_caption_rules *rules;
    uint64_t seed, element;
    uint64_t drawn; /* numbers so far */
    sara_buffer text;
} caption_maker;

bool sara_caption_varies(const sara_caption_rules *rules, const char *caption)
{
    return rules->dropout_rate > 0 || rules->tag_dropout_rate > 0 ||
           rules->dropout_every_n_epochs > 0 || rules->shuffle ||
           (rules->wildcard && strpbrk(caption, "{\n\r"));
}

static size_t caption_choice(caption_maker *m, size_t count)
{
    return (size_t)sara_draw_below(count, m->seed, SARA_DRAW_CAPTION, m->element, m->drawn++);
}

static bool caption_chance(caption_maker *m, double rate)
{
    const uint64_t whole = (uint64_t)1 << 53;
    if (!(rate > 0))
        return false;
    return (double)sara_draw_below(whole, m->seed, SARA_DRAW_CAPTION, m->element, m->drawn++) <
           rate * (double)whole;
}

/* ------------------------------------------------------------------------------------ wildcards */

/* The line number `chosen` of those that are not blank; *count: how many there are. */
static const char *find_caption_line(const char *lines, size_t *size, size_t *count, size_t chosen)
{
    *count = 0;
    for (const char *at = lines; *at; at += *at != '\0') {
        const char *line = at + strspn(at, " \t\v\f");
        at += strcspn(at, "\n\r");
        if (line < at && (*count)++ == chosen) {
            *size = (size_t)(at - line);
            while (strchr(WHITE_SPACE, line[*size - 1]))
                --*size;
            return line;
        }
    }
    return NULL;
}

/* The caption, or one of its lines where there are several, between prefix and suffix. */
static sara_status join_caption(caption_maker *m, const char *caption)
{
    const char *prefix = m->rules->prefix, *suffix = m->rules->suffix;
    size_t size = strlen(caption), count;
    sara_status status = SARA_OK;
    if (m->rules->wildcard && strpbrk(caption, "\n\r")) {
        find_caption_line(caption, &size, &count, SIZE_MAX);
        const char *line =
            count ? find_caption_line(caption, &size, &count, caption_choice(m, count)) : NULL;
        caption = line ? line : caption;
    }
    if (prefix && *prefix) {
        TRY(sara_buffer_put(&m->text, prefix));
        if (!strchr(WHITE_SPACE, prefix[strlen(prefix) - 1]))
            TRY(sara_buffer_put_char(&m->text, ' '));
    }
    TRY(sara_buffer_add(&m->text, caption, size));
    if (suffix && *suffix) {
        if (!strchr(WHITE_SPACE, suffix[0]))
            TRY(sara_buffer_put_char(&m->text, ' '));
        TRY(sara_buffer_put(&m->text, suffix));
    }
done:
    return status;
}

/* text with {{ and }} as one byte each; the other way round, where they are one brace. */
static void fold_braces(char *text)
{
    char *to = text;
    for (const char *at = text; *at; at++) {
        const bool twice = (*at == '{' || *at == '}') && at[1] == *at;
        *to++ = twice ? (*at == '{' ? TWICE_OPEN : TWICE_CLOSE) : *at;
        at += twice;
    }
    *to = '\0';
}

static void unfold_braces(char *text)
{
    for (; *text; text++)
        *text = *text == TWICE_OPEN ? '{' : *text == TWICE_CLOSE ? '}' : *text;
}

/* options [size]: a|b|c */
static sara_status choose_wildcard(caption_maker *m, const char *options, size_t size)
{
    const char *end = options + size;
    size_t count = 1;
    for (size_t i = 0; i < size; i++)
        count += options[i] == '|';
    for (size_t chosen = caption_choice(m, count); chosen; chosen--)
        options = (const char *)memchr(options, '|', (size_t)(end - options)) + 1;
    const char *next = memchr(options, '|', (size_t)(end - options));
    return sara_buffer_add(&m->text, options, (size_t)((next ? next : end) - options));
}

/* Of kohya's pattern \{([^}]+)\}, one of what stands between; a brace without another is one. */
static sara_status replace_wildcards(caption_maker *m)
{
    char *whole = NULL;
    sara_status status;
    if (!m->text.data)
        return SARA_OK;
    fold_braces(m->text.data);
    TRY(sara_strdup(m->ctx, &whole, m->text.data));
    sara_buffer_clear(&m->text);
    for (const char *at = whole; *at;) {
        const char *close = *at == '{' ? strchr(at, '}') : NULL;
        if (close && close > at + 1) {
            TRY(choose_wildcard(m, at + 1, (size_t)(close - at - 1)));
            at = close + 1;
        } else {
            TRY(sara_buffer_put_char(&m->text, *at++));
        }
    }
    if (m->text.data)
        unfold_braces(m->text.data);
done:
    sara_free(m->ctx, whole);
    return status;
}

/* ----------------------------------------------------------------------------------------- tags */

/* Texts within one that was cut. */
typedef struct caption_tags {
    char **list;
    size_t count, capacity;
} caption_tags;

static char *trim_tag(char *tag)
{
    tag += strspn(tag, WHITE_SPACE);
    for (size_t size = strlen(tag); size > 0 && strchr(WHITE_SPACE, tag[size - 1]); size--)
        tag[size - 1] = '\0';
    return tag;
}

/* Cuts the text at its separators. */
static sara_status split_tags(caption_maker *m, caption_tags *tags, char *text, bool keep_empty)
{
    const char *separator = m->rules->separator;
    for (char *next; text; text = next) {
        next = strstr(text, separator);
        if (next) {
            *next = '\0';
            next += strlen(separator);
        }
        char *tag = trim_tag(text);
        if (!*tag && !keep_empty)
            continue;
        const sara_status status =
            sara_grow(m->ctx, &tags->list, &tags->capacity, tags->count + 1, sizeof(*tags->list));
        if (status != SARA_OK)
            return status;
        tags->list[tags->count++] = tag;
    }
    return SARA_OK;
}

/* Where the text's part begins that follows the separator, before which it ends; NULL: nowhere. */
static char *cut_caption_at(char *text, const char *separator)
{
    char *at = separator && *separator && text ? strstr(text, separator) : NULL;
    if (!at)
        return NULL;
    *at = '\0';
    return at + strlen(separator);
}

/* The order of the tags from `first` to before `end`, and which of them are left out. */
static void vary_tags(caption_maker *m, caption_tags *tags, size_t first, size_t end)
{
    size_t kept = first;
    for (size_t left = end - first; m->rules->shuffle && left > 1; left--) {
        const size_t i = first + left - 1, j = first + caption_choice(m, left);
        char *tag = tags->list[i];
        tags->list[i] = tags->list[j];
        tags->list[j] = tag;
    }
    for (size_t i = first; i < end; i++)
        if (!caption_chance(m, m->rules->tag_dropout_rate))
            tags->list[kept++] = tags->list[i];
    memmove(tags->list + kept, tags->list + end, (tags->count - end) * sizeof(*tags->list));
    tags->count -= end - kept;
}

/* Tags that stay, those that vary, and those that stay behind them. */
static sara_status change_tags(caption_maker *m)
{
    const sara_caption_rules *rules = m->rules;
    caption_tags tags = {0};
    char *text = NULL;
    size_t first, end;
    sara_status status;
    TRY(sara_strdup(m->ctx, &text, m->text.data ? m->text.data : ""));
    char *flexible = cut_caption_at(text, rules->keep_tokens_separator);
    char *behind = cut_caption_at(flexible, rules->keep_tokens_separator);
    TRY(split_tags(m, &tags, text, !flexible));
    first = tags.count;
    if (!flexible)
        first = rules->keep_tokens < (int64_t)first ? (size_t)rules->keep_tokens : first;
    TRY(split_tags(m, &tags, flexible, false));
    end = tags.count;
    TRY(split_tags(m, &tags, behind, false));
    vary_tags(m, &tags, first, end);
    sara_buffer_clear(&m->text);
    for (size_t i = 0; i < tags.count; i++) {
        TRY(sara_buffer_put(&m->text, i ? ", " : ""));
        TRY(sara_buffer_put(&m->text, tags.list[i]));
    }
done:
    sara_free(m->ctx, text);
    sara_free(m->ctx, tags.list);
    return status;
}

static sara_status replace_secondary(caption_maker *m)
{
    const char *secondary = m->rules->secondary_separator;
    char *whole = NULL;
    sara_status status = SARA_OK;
    if (!secondary || !*secondary || !m->text.data)
        return SARA_OK;
    TRY(sara_strdup(m->ctx, &whole, m->text.data));
    sara_buffer_clear(&m->text);
    for (char *part = whole, *next; part; part = next) {
        next = cut_caption_at(part, secondary);
        TRY(sara_buffer_put(&m->text, part));
        TRY(sara_buffer_put(&m->text, next ? m->rules->separator : ""));
    }
done:
    sara_free(m->ctx, whole);
    return status;
}

sara_status sara_caption_make(sara_context *ctx, char **out, const sara_caption_rules *rules,
                              const char *caption, uint64_t seed, uint64_t element, uint64_t epoch)
{
    caption_maker m = {ctx, rules, seed, element, 0, {.ctx = ctx}};
    const uint64_t every = (uint64_t)rules->dropout_every_n_epochs;
    const bool dropped =
        caption_chance(&m, rules->dropout_rate) || (every && (epoch + 1) % every == 0);
    sara_status status = SARA_OK;
    *out = NULL;
    if (!dropped) {
        TRY(join_caption(&m, caption));
        if (rules->wildcard)
            TRY(replace_wildcards(&m));
        if (rules->shuffle || rules->tag_dropout_rate > 0)
            TRY(change_tags(&m));
        TRY(replace_secondary(&m));
    }
    TRY(sara_strdup(ctx, out, m.text.data ? m.text.data : ""));
done:
    sara_buffer_free(&m.text);
    return status;
}
