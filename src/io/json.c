#include "io/file.h"

#include <float.h>
#include <math.h>

#define DEEPEST      128
#define MOST_VALUES  1000000
#define LARGEST_FILE ((size_t)64 * 1024 * 1024)

/* jansson refuses numbers that are not finite, so in lenient mode each stands in the text that
 * jansson gets as an object with this one key. */
#define NOT_FINITE_KEY                                                                             \
    "\x7f"                                                                                         \
    "not finite"
static const struct {
    const char *token, *stand_in;
    double value;
} not_finite[] = {
    {"NaN", "{\"" NOT_FINITE_KEY "\":0}", NAN},
    {"Infinity", "{\"" NOT_FINITE_KEY "\":1}", INFINITY},
    {"-Infinity", "{\"" NOT_FINITE_KEY "\":2}", -INFINITY},
};
#define NOT_FINITE_COUNT (sizeof(not_finite) / sizeof(not_finite[0]))

typedef struct json_text {
    sara_context *ctx;
    const char *text, *source;
    size_t size;
} json_text;

static sara_status fail_at(const json_text *in, size_t at, const char *reason)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < in->size; i++) {
        if (in->text[i] == '\n') {
            line++;
            column = 1;
        } else if ((in->text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return sara_fail(in->ctx, SARA_ERROR_INPUT, "%s: line %zu column %zu: %s", in->source, line,
                     column, reason);
}

/* The end of the piece of text at `at`: a whole string, a token that is not finite (*which says
 * which), or one byte. */
static size_t json_piece_end(const json_text *in, size_t at, size_t *which)
{
    const char *text = in->text;
    *which = NOT_FINITE_COUNT;
    if (text[at] == '"') {
        for (at++; at < in->size && text[at] != '"'; at++)
            if (text[at] == '\\')
                at++;
        return at < in->size ? at + 1 : in->size;
    }
    if (text[at] == 'N' || text[at] == 'I' || text[at] == '-') {
        for (size_t i = 0; i < NOT_FINITE_COUNT; i++) {
            size_t length = strlen(not_finite[i].token);
            if (in->size - at >= length && memcmp(text + at, not_finite[i].token, length) == 0) {
                *which = i;
                return at + length;
            }
        }
    }
    return at + 1;
}

/* Bounds what jansson will recurse into and allocate; *growth is what the stand-ins add. */
static sara_status json_check(const json_text *in, size_t *growth)
{
    size_t which, depth = 0, values = 0;
    *growth = 0;
    for (size_t at = 0, end; at < in->size; at = end) {
        char c = in->text[at];
        end = json_piece_end(in, at, &which);
        if (which < NOT_FINITE_COUNT)
            *growth += strlen(not_finite[which].stand_in);
        if ((c == '[' || c == '{') && ++depth > DEEPEST)
            return fail_at(in, at, "nested more than 128 deep");
        if ((c == ']' || c == '}') && depth > 0)
            depth--;
        if ((c == '[' || c == '{' || c == ',') && ++values > MOST_VALUES)
            return fail_at(in, at, "more than 1000000 values");
    }
    return SARA_OK;
}

/* The text with stand-ins, which ends before the piece that would pass `limit` bytes. Returns how
 * much of the input that is; out may be NULL. */
static size_t substitute(const json_text *in, char *out, size_t limit, size_t *used)
{
    size_t at = 0, end, which;
    for (*used = 0; at < in->size; at = end) {
        end = json_piece_end(in, at, &which);
        const char *from = which < NOT_FINITE_COUNT ? not_finite[which].stand_in : in->text + at;
        size_t length = which < NOT_FINITE_COUNT ? strlen(from) : end - at;
        if (length > limit - *used)
            break;
        if (out)
            memcpy(out + *used, from, length);
        *used += length;
    }
    return at;
}

/* jansson reads and writes numbers by localeconv(), and aborts on points of several bytes. */
static sara_status json_parse(const json_text *in, json_t **out, const char *text, size_t size,
                              bool substituted)
{
    json_error_t error;
    sara_c_locale scope;
    if (!sara_c_locale_enter(&scope))
        return sara_fail(in->ctx, SARA_ERROR_MEMORY, "%s: out of memory", in->source);
    json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    sara_c_locale_leave(&scope);
    if (value) {
        *out = value;
        return SARA_OK;
    }
    if (json_error_code(&error) == json_error_out_of_memory)
        return sara_fail(in->ctx, SARA_ERROR_MEMORY, "%s: out of memory", in->source);
    size_t at = error.position > 0 ? (size_t)error.position : 0, used;
    if (substituted) {
        size_t start = substitute(in, NULL, at, &used);
        at = start + (at - used);
    }
    return fail_at(in, at, error.text);
}

sara_status sara_json_parse(sara_context *ctx, json_t **out, const char *text, size_t size,
                            const char *source, bool lenient)
{
    const json_text in = {ctx, text, source, size};
    char *copy = NULL;
    size_t growth = 0, used = 0;
    sara_status status;
    *out = NULL;
    TRY(json_check(&in, &growth));
    if (!lenient || growth == 0) {
        TRY(json_parse(&in, out, text, size, false));
    } else {
        TRY(sara_alloc(ctx, &copy, size + growth, 1));
        substitute(&in, copy, size + growth, &used);
        TRY(json_parse(&in, out, copy, used, true));
    }
done:
    sara_free(ctx, copy);
    return status;
}

sara_status sara_json_load(sara_context *ctx, json_t **out, const char *path, bool lenient)
{
    char *text = NULL;
    size_t size = 0;
    sara_status status;
    *out = NULL;
    TRY(sara_file_read(ctx, &text, &size, path, LARGEST_FILE));
    TRY(sara_json_parse(ctx, out, text, size, path, lenient));
done:
    sara_free(ctx, text);
    return status;
}

bool sara_json_number(double *out, const json_t *value)
{
    if (json_is_object(value) && json_object_size(value) == 1) {
        const json_t *index = json_object_get(value, NOT_FINITE_KEY);
        if (!json_is_integer(index) || json_integer_value(index) < 0 ||
            json_integer_value(index) >= (json_int_t)NOT_FINITE_COUNT)
            return false;
        *out = not_finite[json_integer_value(index)].value;
        return true;
    }
    if (!json_is_number(value))
        return false;
    *out = json_number_value(value);
    return true;
}

static char *json_skip_space(char *at, int step)
{
    while (*at == ' ' || *at == '\n')
        at += step;
    return at;
}

/* Puts the token back in the place of the stand-in whose key begins at `key`, or of nothing where
 * the key is within a string. Returns where to go on. */
static char *put_back(char *key)
{
    char *first = json_skip_space(key - 1, -1),
         *end = json_skip_space(key + strlen(NOT_FINITE_KEY) + 2, 1);
    if (*first != '{' || *end != ':')
        return key + 1;
    const char *token = not_finite[*json_skip_space(end + 1, 1) - '0'].token;
    size_t length = strlen(token);
    end = strchr(end, '}') + 1;
    memcpy(first, token, length);
    memmove(first + length, end, strlen(end) + 1);
    return first + length;
}

/* Whether the text reads back as the value to the bit. */
static bool reads_back(const char *text, const json_t *value)
{
    json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
    bool same = back && json_equal(back, value);
    json_decref(back);
    return same;
}

static char *dump_shortest(const json_t *value, size_t flags)
{
    for (size_t digits = DBL_DIG; digits < DBL_DECIMAL_DIG; digits++) {
        char *text = json_dumps(value, flags | JSON_REAL_PRECISION(digits));
        if (!text || reads_back(text, value))
            return text;
        free(text);
    }
    return json_dumps(value, flags | JSON_REAL_PRECISION(DBL_DECIMAL_DIG));
}

char *sara_json_dump(const json_t *value, size_t flags)
{
    sara_c_locale scope;
    char *text = NULL, *at;
    if (sara_c_locale_enter(&scope))
        text = flags & JSON_REAL_PRECISION(31) ? json_dumps(value, flags)
                                               : dump_shortest(value, flags);
    sara_c_locale_leave(&scope);
    at = text;
    while (at && (at = strstr(at, "\"" NOT_FINITE_KEY "\"")) != NULL)
        at = put_back(at);
    return text;
}

sara_status sara_json_text(sara_context *ctx, json_t **out, const char *text)
{
    const size_t length = strlen(text), size = 4 * length + 1;
    char *escaped = NULL;
    sara_status status = SARA_OK;
    if (!sara_text_is_utf8(text, length)) {
        TRY(sara_alloc(ctx, &escaped, size, 1));
        sara_text_escape(escaped, size, text);
    }
    *out = json_string(escaped ? escaped : text);
    if (!*out)
        status = sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: a report");
done:
    sara_free(ctx, escaped);
    return status;
}

sara_status sara_json_save(sara_context *ctx, const char *folder, const char *name,
                           const json_t *object, size_t flags)
{
    char *path = NULL, *text = sara_json_dump(object, flags);
    sara_status status;
    if (!text)
        return sara_fail(ctx, SARA_ERROR_MEMORY, "%s/%s: out of memory", folder, name);
    TRY(sara_directory_make(ctx, folder));
    TRY(sara_path_join(ctx, &path, folder, name));
    TRY(sara_file_write(ctx, path, text, strlen(text)));
done:
    free(text);
    sara_free(ctx, path);
    return status;
}
