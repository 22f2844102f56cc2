/* spiece.model, a protobuf message: the dozen fields that matter are read by hand. */
#include "models/tokenizer/unigram.h"

typedef struct message {
    const unsigned char *at, *end;
} message;

typedef struct field {
    uint64_t number, kind, value; /* kind: 0 varint, 1 and 5 fixed, 2 bytes */
    message bytes;
} field;

static bool take_varint(message *in, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        unsigned char byte = *in->at++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool take_fixed(message *in, uint64_t *out, size_t size)
{
    if ((size_t)(in->end - in->at) < size)
        return false;
    *out = 0;
    for (size_t i = 0; i < size; i++)
        *out |= (uint64_t)*in->at++ << 8 * i;
    return true;
}

static bool take_bytes(message *in, message *out)
{
    uint64_t size;
    if (!take_varint(in, &size) || size > (uint64_t)(in->end - in->at))
        return false;
    *out = (message){in->at, in->at + size};
    in->at += size;
    return true;
}

static bool take_field(message *in, field *out)
{
    uint64_t tag;
    *out = (field){0};
    if (!take_varint(in, &tag))
        return false;
    out->number = tag >> 3;
    out->kind = tag & 7;
    switch (out->kind) {
    case 0:
        return take_varint(in, &out->value);
    case 1:
        return take_fixed(in, &out->value, 8);
    case 2:
        return take_bytes(in, &out->bytes);
    case 5:
        return take_fixed(in, &out->value, 4);
    default:
        return false;
    }
}

static sara_status refuse_bytes(const sara_unigram *unigram)
{
    return sara_fail(unigram->ctx, SARA_ERROR_INPUT,
                     "%s: not a SentencePiece model, or it is cut off or damaged", unigram->path);
}

static sara_status refuse_setting(const sara_unigram *unigram, const char *name, uint64_t value,
                                  const char *expected)
{
    return sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: %s: %llu, expected %s", unigram->path,
                     name, (unsigned long long)value, expected);
}

/* --------------------------------------------------------------------------------------- parts */

enum { NORMAL = 1, UNKNOWN, CONTROL }; /* types of pieces */

static sara_status read_piece(sara_unigram *unigram, message in)
{
    field f;
    message text = {NULL, NULL};
    uint64_t type = NORMAL;
    float score = 0;
    sara_status status;
    while (in.at < in.end) {
        if (!take_field(&in, &f))
            return refuse_bytes(unigram);
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.kind == 2)
            text = f.bytes;
        else if (f.number == 2 && f.kind == 5)
            memcpy(&score, &bits, sizeof(score));
        else if (f.number == 3 && f.kind == 0)
            type = f.value;
    }
    if (type < NORMAL || type > CONTROL)
        return refuse_setting(unigram, "type of a piece", type,
                              "1 to 3, as T5's tokenizer has them");
    if (type == UNKNOWN && unigram->unknown >= 0)
        return sara_fail(unigram->ctx, SARA_ERROR_INPUT, "%s: two pieces for what is unknown",
                         unigram->path);
    if (type == UNKNOWN)
        unigram->unknown = (int64_t)unigram->count;
    TRY(sara_unigram_add(unigram, (const char *)text.at, (size_t)(text.end - text.at),
                         (double)score));
done:
    return status;
}

/* A setting of which one value is T5's. */
typedef struct setting {
    uint64_t number, value;
    const char *name, *expected;
} setting;

static sara_status check_unigram_settings(const sara_unigram *unigram, message in,
                                          const setting *settings)
{
    field f;
    while (in.at < in.end) {
        if (!take_field(&in, &f))
            return refuse_bytes(unigram);
        for (const setting *s = settings; s->name; s++)
            if (f.number == s->number && f.kind == 0 && f.value != s->value)
                return refuse_setting(unigram, s->name, f.value, s->expected);
    }
    return SARA_OK;
}

static sara_status read_charsmap(sara_unigram *unigram, message in)
{
    field f;
    while (in.at < in.end) {
        if (!take_field(&in, &f))
            return refuse_bytes(unigram);
        if (f.number == 2 && f.kind == 2) {
            unigram->charsmap = (const char *)f.bytes.at;
            unigram->charsmap_size = (size_t)(f.bytes.end - f.bytes.at);
        }
    }
    return SARA_OK;
}

sara_status sara_unigram_read_model(sara_unigram *unigram, const char *data, size_t size)
{
    static const setting trainer[] = {{3, 1, "model_type", "1 (unigram)"},
                                      {24, 0, "treat_whitespace_as_suffix", "0"},
                                      {35, 0, "byte_fallback", "0"},
                                      {0, 0, NULL, NULL}};
    static const setting normalizer[] = {{3, 1, "add_dummy_prefix", "1"},
                                         {4, 1, "remove_extra_whitespaces", "1"},
                                         {5, 1, "escape_whitespaces", "1"},
                                         {0, 0, NULL, NULL}};
    message in = {(const unsigned char *)data, (const unsigned char *)data + size};
    bool whole = false; /* the pieces, which are first, are followed by the normaliser's settings */
    field f;
    sara_status status = SARA_OK;
    while (in.at < in.end) {
        if (!take_field(&in, &f))
            return refuse_bytes(unigram);
        if (f.kind == 2 && f.number == 1)
            TRY(read_piece(unigram, f.bytes));
        if (f.kind == 2 && f.number == 2)
            TRY(check_unigram_settings(unigram, f.bytes, trainer));
        if (f.kind != 2 || f.number != 3)
            continue;
        whole = true;
        TRY(check_unigram_settings(unigram, f.bytes, normalizer));
        TRY(read_charsmap(unigram, f.bytes));
    }
    if (unigram->count == 0 || !whole)
        return refuse_bytes(unigram);
done:
    return status;
}
