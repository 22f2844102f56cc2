/* Characters, as tokenizers and prompts tell them apart (tokenizer/unicode.c, tokenizer/text.c). */
#ifndef SARA_MODELS_UNICODE_H
#define SARA_MODELS_UNICODE_H

#include "core/core.h"

typedef enum sara_char_class {
    SARA_CHAR_SPACE,
    SARA_CHAR_LETTER,
    SARA_CHAR_NUMBER,
    SARA_CHAR_OTHER
} sara_char_class;
sara_char_class sara_char_class_of(int32_t code); /* \s, \p{L}, \p{N}, the rest */
bool sara_char_is_word(int32_t code);             /* \w */
/* One or two codes into out; returns how many. */
int sara_char_lower(int32_t out[2], int32_t code);
/* No character composes with it or moves past it under NFC. */
bool sara_char_is_isolated(int32_t code);

/* The first character of size > 0 bytes; invalid bytes give U+FFFD, one per maximal part of a
 * sequence, as Python's errors="replace". Returns the bytes taken. */
size_t sara_utf8_decode(int32_t *code, const char *text, size_t size);

#endif
