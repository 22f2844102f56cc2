#include "models/tokenizer/tokenizer.h"

#include <stdlib.h>

static int match_compare(const void *a, const void *b)
{
    const sara_added_token *left = *(const sara_added_token *const *)a;
    const sara_added_token *right = *(const sara_added_token *const *)b;
    size_t shorter = left->size < right->size ? left->size : right->size;
    int order = memcmp(left->match, right->match, shorter);
    if (order == 0)
        order = (left->size > right->size) - (left->size < right->size);
    return order ? order : (left->id > right->id) - (left->id < right->id);
}

static bool same_match(const sara_added_token *a, const sara_added_token *b)
{
    return a->size == b->size && memcmp(a->match, b->match, a->size) == 0;
}

sara_status sara_token_set_build(sara_arena *arena, sara_token_set *out,
                                 const sara_added_token *tokens, size_t count, bool normalized)
{
    const sara_added_token **items = NULL;
    size_t used = 0, kept = 0;
    sara_status status;
    *out = (sara_token_set){0};
    TRY(sara_arena_alloc(arena, &items, count, sizeof(*items)));
    for (size_t i = 0; i < count; i++)
        if (tokens[i].normalized == normalized && tokens[i].size > 0)
            items[used++] = &tokens[i];
    if (used > 1)
        qsort(items, used, sizeof(*items), match_compare);
    /* Where two tokens normalise alike, transformers takes either at random; here the lower id. */
    for (size_t i = 0; i < used; i++)
        if (kept == 0 || !same_match(items[kept - 1], items[i]))
            items[kept++] = items[i];
    for (size_t i = 0; i < kept; i++)
        out->first[(unsigned char)items[i]->match[0]] = true;
    out->items = items;
    out->count = kept;
done:
    return status;
}

/* The first of items [low, high), which share `at` bytes, whose byte there is at least `byte`. */
static size_t match_lower_bound(const sara_token_set *set, size_t low, size_t high, size_t at,
                                int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)set->items[middle]->match[at] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const sara_added_token *longest_at(const sara_token_set *set, const char *text, size_t size)
{
    const sara_added_token *best = NULL;
    size_t low = 0, high = set->count;
    for (size_t at = 0; low < high; at++) {
        if (set->items[low]->size == at)
            best = set->items[low++];
        if (at == size)
            break;
        low = match_lower_bound(set, low, high, at, (unsigned char)text[at]);
        high = match_lower_bound(set, low, high, at, (unsigned char)text[at] + 1);
    }
    return best;
}

static size_t previous(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static sara_char_class class_at(const char *text, size_t at, size_t size)
{
    int32_t code;
    sara_utf8_decode(&code, text + at, size - at);
    return sara_char_class_of(code);
}

static bool is_word_at(const char *text, size_t at, size_t size)
{
    int32_t code;
    sara_utf8_decode(&code, text + at, size - at);
    return sara_char_is_word(code);
}

static size_t match_skip_space(const char *text, size_t at, size_t size)
{
    int32_t code;
    while (at < size && class_at(text, at, size) == SARA_CHAR_SPACE)
        at += sara_utf8_decode(&code, text + at, size - at);
    return at;
}

bool sara_token_set_next(const sara_token_set *set, sara_token_match *out, size_t *scan,
                         size_t covered, const char *text, size_t size)
{
    for (size_t at = *scan; at < size; at++) {
        const sara_added_token *token =
            set->first[(unsigned char)text[at]] ? longest_at(set, text + at, size - at) : NULL;
        if (!token)
            continue;
        size_t start = at, stop = at + token->size;
        at = stop - 1; /* also where it is no single word */
        if (token->single_word && ((start > 0 && is_word_at(text, previous(text, start), size)) ||
                                   (stop < size && is_word_at(text, stop, size))))
            continue;
        *scan = stop;
        if (token->lstrip && start < covered)
            start = covered;
        while (token->lstrip && start > covered &&
               class_at(text, previous(text, start), size) == SARA_CHAR_SPACE)
            start = previous(text, start);
        if (token->rstrip) /* what is covered beyond stop is white space */
            stop = match_skip_space(text, stop > covered ? stop : covered, size);
        if (start >= stop) /* all of it went to the token before */
            continue;
        *out = (sara_token_match){token, start, stop};
        return true;
    }
    *scan = size;
    return false;
}
