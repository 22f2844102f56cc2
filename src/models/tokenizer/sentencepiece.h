/* libsentencepiece, which is C++ (Kudo, Richardson 2018). */
#ifndef SARA_MODELS_SENTENCEPIECE_H
#define SARA_MODELS_SENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sara_sentencepiece sara_sentencepiece;
/* Of a serialised ModelProto; NULL: `why` [why_size] tells what is wrong with it.
 * sara_sentencepiece_free(). */
sara_sentencepiece *sara_sentencepiece_new(const char *proto, size_t size, char *why,
                                           size_t why_size);
void sara_sentencepiece_free(sara_sentencepiece *model); /* NULL is fine */
/* Gives the ids of `size` bytes of UTF-8 to put(), which returns false to end. False: it did, or
 * memory ran out. */
bool sara_sentencepiece_encode(const sara_sentencepiece *model, const char *text, size_t size,
                               bool (*put)(void *user, int32_t id), void *user);

#ifdef __cplusplus
}
#endif

#endif
