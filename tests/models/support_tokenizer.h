/* A folder for tokenizer files and the base tokenizer's own to fill it with. */
#ifndef SARA_TEST_SUPPORT_TOKENIZER_H
#define SARA_TEST_SUPPORT_TOKENIZER_H

#include "models/models.h"
#include "support/support.h"

#define TOKENIZER_BASE SARA_TEST_EMOJI "/base/tokenizer"

typedef struct tokenizer_fixture {
    sara_context *ctx;
    char *folder;
    char *vocab, *merges; /* the base tokenizer's files */
    size_t vocab_size, merges_size;
} tokenizer_fixture;
tokenizer_fixture test_tokenizer_new(void);
void test_tokenizer_free(tokenizer_fixture *f);
void test_tokenizer_put(const tokenizer_fixture *f, const char *name, const char *data,
                        size_t size);
void test_tokenizer_put_text(const tokenizer_fixture *f, const char *name, const char *text);
void test_tokenizer_put_json(const tokenizer_fixture *f, const char *name, const json_t *value);
void test_tokenizer_put_base(const tokenizer_fixture *f); /* vocab.json and merges.txt */
/* tokenizer.json with the base's vocabulary and merges, as pairs or as strings. */
json_t *test_tokenizer_whole(const tokenizer_fixture *f, bool pairs);

#endif
