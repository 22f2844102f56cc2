/* The inside of the tokenizers. CLIP's: text -> added tokens -> normalised text -> words -> merged
 * bytes; T5's: text -> special tokens -> libsentencepiece. */
#ifndef SARA_MODELS_TOKENIZER_H
#define SARA_MODELS_TOKENIZER_H

#include "models/models.h"
#include "models/unicode.h"

/* ------------------------------------------------------------------------------------- text */

/* Working memory that grows with the longest text seen. */
typedef struct sara_text_work {
    sara_context *ctx;
    char *text; /* the result */
    size_t size, text_capacity;
    int32_t *codes, *marks;
    size_t count, codes_capacity, marks_capacity;
} sara_text_work;
void sara_text_work_free(sara_text_work *work);
/* Valid UTF-8 out of any bytes. */
SARA_NODISCARD sara_status sara_text_repair(sara_text_work *work, const char *text, size_t size);
/* NFC, runs of white space to one blank, lower case; text is valid UTF-8. */
SARA_NODISCARD sara_status sara_text_normalize(sara_text_work *work, const char *text, size_t size);

/* ----------------------------------------------------------------------------- added tokens */

/* A token that is found in the text as a whole, before words are split and merged. */
typedef struct sara_added_token {
    const char *content; /* as written */
    const char *match;   /* what is looked for: normalised where `normalized` */
    size_t size;         /* of match */
    int64_t index;       /* the id that the file gives it; -1: none */
    int32_t id;
    bool single_word, lstrip, rstrip;
    bool normalized; /* looked for in the normalised text, else in the text as it is */
    bool plain;      /* a string in its file, not an object with flags */
    bool special, normalized_by_file; /* as the file alone has them */
} sara_added_token;

/* Tokens ascending by match's bytes, each once. */
typedef struct sara_token_set {
    const sara_added_token **items;
    size_t count;
    bool first[256]; /* bytes that a match starts with */
} sara_token_set;

typedef struct sara_token_match {
    const sara_added_token *token;
    size_t start, stop;
} sara_token_match;
SARA_NODISCARD sara_status sara_token_set_build(sara_arena *arena, sara_token_set *out,
                                                const sara_added_token *tokens, size_t count,
                                                bool normalized);
/* The next token from *scan on, leftmost and longest; `covered` is where the last one stopped. */
bool sara_token_set_next(const sara_token_set *set, sara_token_match *out, size_t *scan,
                         size_t covered, const char *text, size_t size);

/* ------------------------------------------------------------------------------------ merges */

typedef struct sara_merge {
    int32_t left, right; /* left < 0: an empty slot */
    int32_t merged;
    uint32_t rank;
} sara_merge;

/* An open-addressed table keyed by (left, right). */
typedef struct sara_merges {
    sara_merge *slots;
    size_t mask; /* slots - 1 */
} sara_merges;
SARA_NODISCARD sara_status sara_merges_new(sara_arena *arena, sara_merges *out, size_t count);
void sara_merges_put(sara_merges *merges, const sara_merge *merge); /* the last of a pair rules */
const sara_merge *sara_merges_find(const sara_merges *merges, int32_t left, int32_t right);

/* --------------------------------------------------------------------------------- tokenizer */

struct sara_tokenizer {
    sara_context *ctx;
    sara_arena arena;
    int length, vocab_size;
    int32_t start, end, pad;
    int32_t bytes[2][256]; /* ids of a byte inside a word and at its end; unk's where it has none */
    sara_merges merges;
    sara_token_set raw, normalized;
    struct sara_sentencepiece *pieces; /* T5's, which has no start (-1); NULL: CLIP's */
};

/* The ids of a text while it is encoded, and the working memory. */
typedef struct sara_token_encoder {
    const sara_tokenizer *tokenizer;
    int32_t *ids;
    size_t count, capacity;
    sara_text_work work;
    struct sara_symbol *symbols;
    struct sara_candidate *heap;
    size_t symbols_capacity, heap_capacity;
} sara_token_encoder;
SARA_NODISCARD sara_status sara_token_encoder_push(sara_token_encoder *encoder, int32_t id);
/* Splits normalised text into words and appends the ids of each. */
SARA_NODISCARD sara_status sara_token_encoder_words(sara_token_encoder *encoder, const char *text,
                                                    size_t size);
/* Appends the ids of one word of size > 0 bytes. */
SARA_NODISCARD sara_status sara_token_encoder_word(sara_token_encoder *encoder, const char *word,
                                                   size_t size);

/* ----------------------------------------------------------------------------------- loading */

/* What a tokenizer folder holds; the JSON texts are kept because tokens are borrowed from them. */
typedef struct sara_tokenizer_source {
    sara_context *ctx;
    char *paths[7];  /* by sara_tokenizer_file */
    json_t *json[7]; /* NULL: no such file; the last two are none */
    char *merges;    /* of merges.txt */
    size_t merges_size;
    char *pieces; /* of spiece.model */
    size_t pieces_size;
    bool unigram; /* T5's; the fields below are CLIP's, but for vocab_source */
    json_t *vocab;                            /* token -> id; borrowed */
    const json_t *merges_list;                /* tokenizer.json's merges; NULL: merges.txt */
    const char *vocab_source, *merges_source; /* names in errors */
} sara_tokenizer_source;
enum sara_tokenizer_file {
    SARA_FILE_CONFIG,  /* tokenizer_config.json */
    SARA_FILE_SPECIAL, /* special_tokens_map.json */
    SARA_FILE_ADDED,   /* added_tokens.json */
    SARA_FILE_WHOLE,   /* tokenizer.json */
    SARA_FILE_VOCAB,   /* vocab.json */
    SARA_FILE_MERGES,  /* merges.txt */
    SARA_FILE_PIECES   /* spiece.model */
};
#define SARA_FILE_COUNT 7
SARA_NODISCARD sara_status sara_tokenizer_source_read(sara_context *ctx, sara_tokenizer_source *out,
                                                      const char *folder, bool unigram);
/* As if read from a folder; see sara_tokenizer_load_builtin(). */
SARA_NODISCARD sara_status sara_tokenizer_source_builtin(sara_context *ctx,
                                                         sara_tokenizer_source *out, bool second);
void sara_tokenizer_source_free(sara_tokenizer_source *source);
/* Refuses a tokenizer.json that does something else than CLIP's tokenizer. */
SARA_NODISCARD sara_status sara_tokenizer_check_whole(sara_context *ctx, const json_t *whole,
                                                      const char *path);
/* SARA_ERROR_INPUT: "PATH: ITEM: VALUE, expected EXPECTED". */
sara_status sara_tokenizer_refuse(sara_context *ctx, const char *path, const char *item,
                                  const json_t *value, const char *expected);

/* The special and added tokens in the order in which transformers adds them. */
typedef struct sara_token_list {
    sara_added_token *items;
    size_t count, capacity;
    const char *start, *end, *pad, *unknown; /* unknown: NULL if null */
} sara_token_list;
SARA_NODISCARD sara_status sara_token_list_read(sara_token_list *out,
                                                const sara_tokenizer_source *source);
void sara_token_list_free(sara_context *ctx, sara_token_list *list);

/* Fills ids, byte symbols, merges and vocab_size. Every token of the vocabulary must be a byte,
 * come out of a merge or be an added token, and have an id of its own. */
SARA_NODISCARD sara_status sara_tokenizer_build(sara_tokenizer *tokenizer, sara_token_list *list,
                                                const sara_tokenizer_source *source);
/* "Ġ" and the like: the character that stands for a byte in the vocabulary, as UTF-8 with NUL. */
void sara_byte_symbol(char out[3], int byte);

#endif
