/* What libsentencepiece reads, written of either form; and the check of the charsmap before. */
#include "models/tokenizer/unigram.h"

#include <math.h>

/* ------------------------------------------------------------------------------------ charsmap */

static uint32_t unit_at(const char *data, size_t index)
{
    const unsigned char *at = (const unsigned char *)data + 4 * index;
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

/* A double array (darts-clone): units of 32 bits, whose offset XORed with the place of a unit leads
 * to its children, and a place in the texts at a key's end. None may lead outside. */
static bool is_sound_trie(const char *units, size_t count, size_t texts)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t unit = unit_at(units, i);
        if (unit >> 31) /* a place in the texts: no step leads from it */
            continue;
        size_t children = i ^ unit_offset(unit);
        if ((children | 0xff) >= count)
            return false;
        if ((unit & 0x100) && (unit_at(units, children) & 0x7fffffff) >= texts)
            return false;
    }
    return count > 0;
}

static sara_status check_charsmap(const sara_unigram *unigram)
{
    const char *data = unigram->charsmap;
    size_t size = unigram->charsmap_size, trie = 0;
    if (size == 0)
        return SARA_OK;
    if (size > 4)
        trie = unit_at(data, 0);
    if (size <= 4 || trie % 4 || trie >= size - 4 || data[size - 1] != '\0' ||
        !is_sound_trie(data + 4, trie / 4, size - 4 - trie))
        return sara_fail(unigram->ctx, SARA_ERROR_INPUT,
                         "%s: the table that normalises characters (precompiled_charsmap) is "
                         "damaged",
                         unigram->path);
    return SARA_OK;
}

/* --------------------------------------------------------------------------------------- proto */

static size_t proto_number(char *out, uint64_t value)
{
    size_t size = 0;
    for (; value >= 0x80; value >>= 7, size++)
        if (out)
            out[size] = (char)(value | 0x80);
    if (out)
        out[size] = (char)value;
    return size + 1;
}

/* The head of a field of so many bytes. */
static size_t put_head(char *out, unsigned number, size_t size)
{
    size_t used = proto_number(out, number << 3 | 2);
    return used + proto_number(out ? out + used : NULL, size);
}

static size_t put_field(char *out, unsigned number, const char *data, size_t size)
{
    size_t used = put_head(out, number, size);
    if (out && size)
        memcpy(out + used, data, size);
    return used + size;
}

/* Of a piece: its text, score and type, 1 (normal) or 2 (unknown). */
static size_t put_piece(char *out, const sara_piece *piece, bool unknown)
{
    size_t used = put_field(out, 1, piece->text, piece->size);
    uint32_t bits;
    memcpy(&bits, &piece->score, sizeof(bits));
    if (out) {
        out[used] = 2 << 3 | 5;
        for (int i = 0; i < 4; i++)
            out[used + 1 + (size_t)i] = (char)(bits >> 8 * i);
        out[used + 5] = 3 << 3;
        out[used + 6] = unknown ? 2 : 1;
    }
    return used + 7;
}

/* The ModelProto's size, and where there is `out` its bytes. */
static size_t put_proto(char *out, const sara_unigram *unigram)
{
    const size_t charsmap = put_field(NULL, 2, NULL, unigram->charsmap_size);
    size_t used = 0;
    for (size_t i = 0; i < unigram->count; i++) {
        bool unknown = (int64_t)i == unigram->unknown;
        used += put_head(out ? out + used : NULL, 1, put_piece(NULL, &unigram->items[i], unknown));
        used += put_piece(out ? out + used : NULL, &unigram->items[i], unknown);
    }
    used += put_head(out ? out + used : NULL, 3, charsmap);
    used += put_field(out ? out + used : NULL, 2, unigram->charsmap, unigram->charsmap_size);
    return used;
}

sara_status sara_unigram_load(const sara_unigram *unigram, sara_sentencepiece **out)
{
    size_t size = put_proto(NULL, unigram);
    char why[256] = "", *proto = NULL;
    sara_status status;
    *out = NULL;
    if (unigram->unknown < 0)
        return sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: no piece for what is unknown",
                         unigram->path);
    TRY(check_charsmap(unigram));
    TRY(sara_alloc(unigram->ctx, &proto, size, 1));
    put_proto(proto, unigram);
    *out = sara_sentencepiece_new(proto, size, why, sizeof(why));
    if (!*out)
        status = sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: libsentencepiece: %s",
                           unigram->path, why);
done:
    sara_free(unigram->ctx, proto);
    return status;
}

/* -------------------------------------------------------------------------------------- pieces */

sara_status sara_unigram_add(sara_unigram *unigram, const char *text, size_t size, double score)
{
    sara_status status;
    if (size == 0 || !isfinite((float)score))
        return sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: piece %zu: %s", unigram->path,
                         unigram->count, size ? "its score is not finite" : "it has no characters");
    if (unigram->count == 1 << 22)
        return sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: more than %d pieces", unigram->path,
                         1 << 22);
    TRY(sara_grow(unigram->ctx, &unigram->items, &unigram->capacity, unigram->count + 1,
                  sizeof(*unigram->items)));
    unigram->items[unigram->count++] = (sara_piece){text, size, (float)score};
done:
    return status;
}

void sara_unigram_free(sara_unigram *unigram)
{
    sara_free(unigram->ctx, unigram->items);
    sara_free(unigram->ctx, unigram->decoded);
}
