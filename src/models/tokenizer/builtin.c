/* CLIP's vocabulary, which single-file checkpoints do not hold (Radford et al. 2021): the merges
 * are part of the library where set-up found them, and the tokens follow from them. */
#include "models/tokenizer/tokenizer.h"

/* Generated, cmake/vocabulary.cmake: merges.txt as published; empty where there was none. */
extern const char sara_clip_merges[];
extern const size_t sara_clip_merges_size;

static const char start[] = "<|startoftext|>", end[] = "<|endoftext|>";

/* The bytes in the vocabulary's order: those that print stand for themselves, then the others. */
static void byte_order(int32_t codes[256])
{
    int used = 0, others = 0;
    for (int b = 0; b < 256; b++)
        if ((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE)
            codes[used++] = b;
    while (used < 256)
        codes[used++] = 256 + others++;
}

/* code below 0x800 as UTF-8 */
static void builtin_encode(char out[3], int32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        out[1] = '\0';
        return;
    }
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    out[2] = '\0';
}

static int add_token(json_t *vocab, const char *token)
{
    return json_object_set_new(vocab, token, json_integer((json_int_t)json_object_size(vocab)));
}

static int add_bytes(json_t *vocab)
{
    int32_t codes[256];
    int failed = 0;
    byte_order(codes);
    for (int whole = 0; whole < 2; whole++)
        for (int i = 0; i < 256; i++) {
            char text[3];
            builtin_encode(text, codes[i]);
            failed |= add_token(vocab, sara_name_of("%s%s", text, whole ? "</w>" : "").text);
        }
    return failed;
}

/* "a b" makes the token "ab"; the first line is the version. */
static int add_merges(json_t *vocab)
{
    const char *line = strchr(sara_clip_merges, '\n');
    int failed = 0;
    while (line && line[1]) {
        const char *left = line + 1, *right = strchr(left, ' '), *stop = strchr(left, '\n');
        if (!right || !stop || right > stop)
            break;
        failed |= add_token(vocab, sara_name_of("%.*s%.*s", (int)(right - left), left,
                                                (int)(stop - right - 1), right + 1)
                                       .text);
        line = stop;
    }
    return failed;
}

static json_t *make_vocab(void)
{
    json_t *vocab = json_object();
    if (!vocab || add_bytes(vocab) | add_merges(vocab) | add_token(vocab, start) |
                      add_token(vocab, end)) {
        json_decref(vocab);
        return NULL;
    }
    return vocab;
}

/* SD1 pads with the end's token, SD2 with the one whose id is 0. */
static json_t *make_special(bool second)
{
    return json_pack("{s:s,s:s,s:s,s:s}", "bos_token", start, "eos_token", end, "pad_token",
                     second ? "!" : end, "unk_token", end);
}

static json_t *builtin_make_config(bool second)
{
    json_t *config = make_special(second);
    json_t *more = json_pack("{s:s,s:i,s:b,s:b,s:s}", "tokenizer_class", "CLIPTokenizer",
                             "model_max_length", 77, "add_prefix_space", 0, "do_lower_case", 1,
                             "errors", "replace");
    if (config && more)
        json_object_update(config, more);
    json_decref(more);
    return config;
}

bool sara_tokenizer_has_builtin(void)
{
    return sara_clip_merges_size > 0;
}

sara_status sara_tokenizer_source_builtin(sara_context *ctx, sara_tokenizer_source *out,
                                          bool second)
{
    sara_status status;
    *out = (sara_tokenizer_source){.ctx = ctx};
    for (int i = 0; i < SARA_FILE_COUNT; i++)
        TRY(sara_strdup(ctx, &out->paths[i], "the built-in vocabulary"));
    TRY(sara_strdup(ctx, &out->merges, sara_clip_merges));
    out->merges_size = sara_clip_merges_size;
    out->json[SARA_FILE_VOCAB] = make_vocab();
    out->json[SARA_FILE_CONFIG] = builtin_make_config(second);
    out->json[SARA_FILE_SPECIAL] = make_special(second);
    if (!out->json[SARA_FILE_VOCAB] || !out->json[SARA_FILE_CONFIG] ||
        !out->json[SARA_FILE_SPECIAL])
        status = sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: vocabulary");
    out->vocab = out->json[SARA_FILE_VOCAB];
    out->vocab_source = out->paths[SARA_FILE_VOCAB];
    out->merges_source = out->paths[SARA_FILE_MERGES];
done:
    return status;
}

/* Takes the object over; NULL: memory ran out when it was made. */
static sara_status builtin_write_json(sara_context *ctx, const char *folder, const char *name,
                                      json_t *object, size_t flags)
{
    sara_status status = sara_json_save(ctx, folder, name, object, flags);
    json_decref(object);
    return status;
}

sara_status sara_tokenizer_save_builtin(sara_context *ctx, const char *folder, bool second)
{
    char *merges = NULL;
    sara_status status;
    TRY(sara_directory_make(ctx, folder));
    TRY(sara_path_join(ctx, &merges, folder, "merges.txt"));
    TRY(sara_file_write(ctx, merges, sara_clip_merges, sara_clip_merges_size));
    TRY(builtin_write_json(ctx, folder, "vocab.json", make_vocab(), JSON_COMPACT));
    TRY(builtin_write_json(ctx, folder, "tokenizer_config.json", builtin_make_config(second),
                           JSON_INDENT(2) | JSON_SORT_KEYS));
    TRY(builtin_write_json(ctx, folder, "special_tokens_map.json", make_special(second),
                           JSON_INDENT(2) | JSON_SORT_KEYS));
done:
    sara_free(ctx, merges);
    return status;
}
