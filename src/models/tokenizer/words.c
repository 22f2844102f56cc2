/* CLIP's split of normalised text:
 *     <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
 * with what lies between left out, then the byte-level split, which only the first two words of
 * the pattern still notice: "<|", "startoftext", "|>". By hand, since a regular expression engine
 * would bring its own Unicode tables and recursion limits. */
#include "models/tokenizer/tokenizer.h"

static bool starts_with(const char *text, size_t size, const char *prefix)
{
    size_t length = strlen(prefix);
    return size >= length && memcmp(text, prefix, length) == 0;
}

/* The length of a special token's name that stands in the text without being one; 0: none. */
static size_t literal_length(const char *text, size_t size)
{
    static const char *const literals[] = {"<|startoftext|>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof(literals) / sizeof(literals[0]); i++)
        if (starts_with(text, size, literals[i]))
            return strlen(literals[i]);
    return 0;
}

static size_t contraction_length(const char *text, size_t size)
{
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof(contractions) / sizeof(contractions[0]); i++)
        if (starts_with(text, size, contractions[i]))
            return strlen(contractions[i]);
    return 0;
}

/* The length of the run of one class at the start of text; numbers stand alone. */
static size_t run_length(sara_char_class *class, const char *text, size_t size)
{
    int32_t code;
    size_t length = sara_utf8_decode(&code, text, size);
    *class = sara_char_class_of(code);
    while (length < size && *class != SARA_CHAR_NUMBER) {
        size_t more = sara_utf8_decode(&code, text + length, size - length);
        if (sara_char_class_of(code) != *class)
            break;
        length += more;
    }
    return length;
}

static sara_status add_literal(sara_token_encoder *encoder, const char *text, size_t length)
{
    sara_status status;
    TRY(sara_token_encoder_word(encoder, text, 2));
    TRY(sara_token_encoder_word(encoder, text + 2, length - 4));
    TRY(sara_token_encoder_word(encoder, text + length - 2, 2));
done:
    return status;
}

sara_status sara_token_encoder_words(sara_token_encoder *encoder, const char *text, size_t size)
{
    sara_status status = SARA_OK;
    for (size_t at = 0, length; at < size; at += length) {
        sara_char_class class = SARA_CHAR_OTHER;
        length = literal_length(text + at, size - at);
        if (length > 0) {
            TRY(add_literal(encoder, text + at, length));
            continue;
        }
        length = contraction_length(text + at, size - at);
        if (length == 0)
            length = run_length(&class, text + at, size - at);
        if (class != SARA_CHAR_SPACE)
            TRY(sara_token_encoder_word(encoder, text + at, length));
    }
done:
    return status;
}
