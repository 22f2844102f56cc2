/* A tokenizer's files and a text to encode, separated by NUL and newline; empty: there is none. */
#include "fuzz/fuzz.h"

#include "models/models.h"

#include <stdlib.h>

#define PARTS 8

static void encode(sara_context *ctx, const sara_tokenizer *tokenizer, const char *text)
{
    int length = sara_tokenizer_length(tokenizer), most = sara_tokenizer_vocab_size(tokenizer);
    int32_t *ids = NULL;
    size_t count = 0, cut;
    fuzz_assert(length >= 2 && length <= 512 && most >= 1);
    fuzz_assert(sara_tokenizer_encode(tokenizer, &ids, &count, text) == SARA_OK);
    fuzz_assert(count >= 1);
    for (size_t i = 0; i < count; i++)
        fuzz_assert(ids[i] >= 0 && ids[i] < most);
    sara_free(ctx, ids);
    int32_t padded[512];
    fuzz_assert(sara_tokenizer_pad(tokenizer, padded, &cut, text) == SARA_OK);
    fuzz_assert(cut == (count > (size_t)length ? count - (size_t)length : 0));
}

/* The end of the part at data. */
static size_t part_size(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 1 < size; i++)
        if (data[i] == 0 && data[i + 1] == '\n')
            return i;
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[PARTS] = {NULL,
                                             "tokenizer_config.json",
                                             "vocab.json",
                                             "merges.txt",
                                             "tokenizer.json",
                                             "special_tokens_map.json",
                                             "added_tokens.json",
                                             "spiece.model"};
    sara_context *ctx = fuzz_context();
    sara_tokenizer *tokenizer = NULL;
    char *text = NULL;
    for (int i = 0; i < PARTS; i++) {
        size_t part = part_size(data, size);
        if (names[i]) {
            fuzz_put(names[i], part > 0 ? data : NULL, part);
        } else {
            text = calloc(part + 1, 1);
            fuzz_assert(text != NULL);
            memcpy(text, data, part);
        }
        data += part < size ? part + 2 : part;
        size -= part < size ? part + 2 : part;
    }
    for (int t5 = 0; t5 < 2; t5++) {
        sara_status status = t5 ? sara_tokenizer_load_t5(ctx, &tokenizer, fuzz_folder())
                                : sara_tokenizer_load(ctx, &tokenizer, fuzz_folder(), 77);
        fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT || status == SARA_ERROR_IO);
        fuzz_assert((status == SARA_OK) == (tokenizer != NULL));
        if (tokenizer)
            encode(ctx, tokenizer, text);
        sara_tokenizer_free(tokenizer);
    }
    free(text);
    sara_context_free(ctx);
    return 0;
}
