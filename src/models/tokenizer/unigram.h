/* The inside of T5's tokenizer: a SentencePiece unigram model from either form of file, which
 * libsentencepiece then runs. */
#ifndef SARA_MODELS_UNIGRAM_H
#define SARA_MODELS_UNIGRAM_H

#include "models/tokenizer/sentencepiece.h"
#include "models/tokenizer/tokenizer.h"

typedef struct sara_piece {
    const char *text; /* size bytes, not ended */
    size_t size;
    float score;
} sara_piece;

/* What both forms say. Texts and the charsmap are borrowed from the files' content. */
typedef struct sara_unigram {
    sara_context *ctx;
    const char *path; /* for errors */
    sara_piece *items;
    size_t count, capacity;
    int64_t unknown;      /* whose piece stands for what has none; -1: none so far */
    const char *charsmap; /* how characters are normalised: a trie, then texts; NULL: not at all */
    size_t charsmap_size;
    char *decoded; /* the charsmap where it was in base64 */
} sara_unigram;
void sara_unigram_free(sara_unigram *unigram);
/* text is size bytes; SARA_ERROR_INPUT where it is empty, or the score is not finite. */
SARA_NODISCARD sara_status sara_unigram_add(sara_unigram *unigram, const char *text, size_t size,
                                            double score);
/* spiece.model's content, which must be as T5's: settings that would change ids are refused. */
SARA_NODISCARD sara_status sara_unigram_read_model(sara_unigram *unigram, const char *data,
                                                   size_t size);
/* The same of a tokenizer.json. */
SARA_NODISCARD sara_status sara_unigram_read_json(sara_unigram *unigram, const json_t *whole);
/* Makes a model of it. The charsmap is checked, whose trie libsentencepiece follows blindly. */
SARA_NODISCARD sara_status sara_unigram_load(const sara_unigram *unigram, sara_sentencepiece **out);

/* Fills pieces, tokens, ids and vocab_size from a source whose kind is a unigram's. */
SARA_NODISCARD sara_status sara_unigram_build(sara_tokenizer *tokenizer,
                                              const sara_tokenizer_source *source);
/* Appends the ids of a text without special tokens. */
SARA_NODISCARD sara_status sara_unigram_encode(sara_token_encoder *encoder, const char *text,
                                               size_t size);

#endif
