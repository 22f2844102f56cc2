#include "models/tokenizer/tokenizer.h"

#include <utf8proc.h>

#define REPLACEMENT 0xFFFD
/* No character decomposes into more. */
#define LONGEST_DECOMPOSITION 18

void sara_text_work_free(sara_text_work *work)
{
    sara_free(work->ctx, work->text);
    sara_free(work->ctx, work->codes);
    sara_free(work->ctx, work->marks);
    *work = (sara_text_work){.ctx = work->ctx};
}

size_t sara_utf8_decode(int32_t *code, const char *text, size_t size)
{
    const unsigned char *in = (const unsigned char *)text;
    unsigned char lead = in[0];
    size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    /* Overlong forms, surrogates and what lies beyond U+10FFFF end at their second byte. */
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    int32_t result = length < 2 ? lead : lead & (0xFF >> (length + 1));
    *code = REPLACEMENT;
    if (length == 0 || lead > 0xF4)
        return 1;
    for (size_t i = 1; i < length; i++) {
        if (i >= size || in[i] < low || in[i] > high)
            return i;
        result = result << 6 | (in[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *code = result;
    return length;
}

static sara_status text_append(sara_text_work *work, int32_t code)
{
    sara_status status = sara_grow(work->ctx, &work->text, &work->text_capacity, work->size + 4, 1);
    if (status != SARA_OK)
        return status;
    utf8proc_uint8_t *end = (utf8proc_uint8_t *)work->text + work->size;
    work->size += (size_t)utf8proc_encode_char(code, end);
    return SARA_OK;
}

sara_status sara_text_repair(sara_text_work *work, const char *text, size_t size)
{
    sara_status status = SARA_OK;
    int32_t code;
    work->size = 0;
    for (size_t at = 0; at < size && status == SARA_OK;) {
        at += sara_utf8_decode(&code, text + at, size - at);
        status = text_append(work, code);
    }
    return status;
}

static int combining_class(int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Marks after one base character, stably by combining class: counted, because a run may be as
 * long as the text. */
static sara_status sort_marks(sara_text_work *work, int32_t *run, size_t count)
{
    size_t starts[257] = {0};
    sara_status status;
    TRY(sara_grow(work->ctx, &work->marks, &work->marks_capacity, count, sizeof(*work->marks)));
    for (size_t i = 0; i < count; i++)
        starts[combining_class(run[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < count; i++)
        work->marks[starts[combining_class(run[i])]++] = run[i];
    memcpy(run, work->marks, count * sizeof(*run));
done:
    return status;
}

/* NFC of the codes collected so far. */
static sara_status compose(sara_text_work *work)
{
    sara_status status = SARA_OK;
    for (size_t at = 0, end; at < work->count; at = end) {
        end = at;
        while (end < work->count && combining_class(work->codes[end]) != 0)
            end++;
        if (end - at > 1)
            TRY(sort_marks(work, work->codes + at, end - at));
        if (end == at)
            end++;
    }
    utf8proc_ssize_t count = utf8proc_normalize_utf32(work->codes, (utf8proc_ssize_t)work->count,
                                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    work->count = count < 0 ? work->count : (size_t)count;
done:
    return status;
}

static sara_status text_decompose(sara_text_work *work, int32_t code)
{
    int boundary = 0;
    sara_status status = sara_grow(work->ctx, &work->codes, &work->codes_capacity,
                                   work->count + LONGEST_DECOMPOSITION, sizeof(*work->codes));
    if (status != SARA_OK)
        return status;
    utf8proc_ssize_t count =
        utf8proc_decompose_char(code, work->codes + work->count, LONGEST_DECOMPOSITION,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    if (count < 0 || count > LONGEST_DECOMPOSITION) {
        work->codes[work->count] = code;
        count = 1;
    }
    work->count += (size_t)count;
    return SARA_OK;
}

/* Blanks and lower case; *blank: whether the last character was white space. */
static sara_status append_lower(sara_text_work *work, int32_t code, bool *blank)
{
    int32_t lower[2];
    sara_status status = SARA_OK;
    bool space = sara_char_class_of(code) == SARA_CHAR_SPACE, again = space && *blank;
    *blank = space;
    if (again)
        return SARA_OK;
    int count = sara_char_lower(lower, space ? ' ' : code);
    for (int i = 0; i < count && status == SARA_OK; i++)
        status = text_append(work, lower[i]);
    return status;
}

static sara_status text_flush(sara_text_work *work, bool *blank)
{
    sara_status status;
    TRY(compose(work));
    for (size_t i = 0; i < work->count; i++)
        TRY(append_lower(work, work->codes[i], blank));
    work->count = 0;
done:
    return status;
}

sara_status sara_text_normalize(sara_text_work *work, const char *text, size_t size)
{
    bool blank = false;
    int32_t code;
    sara_status status = SARA_OK;
    work->size = 0;
    work->count = 0;
    for (size_t at = 0; at < size;) {
        at += sara_utf8_decode(&code, text + at, size - at);
        if (sara_char_is_isolated(code)) {
            TRY(text_flush(work, &blank));
            TRY(append_lower(work, code, &blank));
        } else {
            TRY(text_decompose(work, code));
        }
    }
    TRY(text_flush(work, &blank));
done:
    return status;
}
