/* A prompt: its weights are read, embeddings found, and it becomes ids in chunks. The first byte
 * tells how. */
#include "fuzz/fuzz.h"

#include "models/tokenizer/tokenizer.h"
#include "pipeline/embedding.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LENGTH 7 /* ids of a chunk, so that small inputs fill several */

/* Bytes, commas and a few merged letters; made once. */
static const sara_tokenizer *small_tokenizer(void)
{
    static sara_tokenizer *tokenizer;
    static sara_context *ctx;
    static char vocab[16384];
    static const char config[] = "{\"model_max_length\":77,\"bos_token\":\"<|startoftext|>\","
                                 "\"eos_token\":\"<|endoftext|>\",\"pad_token\":\"a\"}";
    static const char merges[] = "#version: 0.2\na b\nab c</w>\n";
    char symbol[3];
    int used = 0, id = 0;
    if (tokenizer)
        return tokenizer;
    for (int end = 0; end < 2; end++)
        for (int byte = 0; byte < 256; byte++) {
            sara_byte_symbol(symbol, byte);
            const char *quote = byte == '"' || byte == '\\' ? "\\" : "";
            used += snprintf(vocab + used, sizeof(vocab) - (size_t)used, "%c\"%s%s%s\":%d",
                             id ? ',' : '{', quote, symbol, end ? "</w>" : "", id);
            id++;
        }
    used += snprintf(vocab + used, sizeof(vocab) - (size_t)used,
                     ",\"ab\":512,\"abc</w>\":513,\"<|startoftext|>\":514,"
                     "\"<|endoftext|>\":515}");
    ctx = fuzz_context();
    fuzz_put("tokenizer_config.json", (const uint8_t *)config, strlen(config));
    fuzz_put("vocab.json", (const uint8_t *)vocab, (size_t)used);
    fuzz_put("merges.txt", (const uint8_t *)merges, strlen(merges));
    fuzz_assert(sara_tokenizer_load(ctx, &tokenizer, fuzz_folder(), LENGTH) == SARA_OK);
    return tokenizer;
}

#define WIDTH 4 /* of embeddings */

static void put_embedding(const char *file, const char *tensor, int64_t count)
{
    static const float values[3 * WIDTH] = {1};
    const sara_tensor_source source = {tensor, SARA_F32, sara_shape2(count, WIDTH), values};
    sara_context *ctx = fuzz_context();
    char path[256];
    fuzz_path(path, file);
    fuzz_assert(sara_safetensors_save(ctx, path, &source, 1, NULL, 0) == SARA_OK);
    sara_context_free(ctx);
}

static void put_embeddings(void)
{
    static bool there;
    if (there)
        return;
    put_embedding("abc.safetensors", "emb_params", 2);
    put_embedding("b.safetensors", "<b>", 1);
    put_embedding("abc b.safetensors", "emb_params", 3);
    there = true;
}

/* Three files are there; names of others are refused. */
static bool embed_prompt_of(sara_context *ctx, sara_prompt *prompt)
{
    sara_network network = {.class = NULL};
    sara_model model = {.ctx = ctx, .family = sara_families[0]};
    const sara_generate_options options = {.embedding_dir = fuzz_folder()};
    sara_prompts prompts = {.text = *prompt};
    network.info.text.hidden_size = WIDTH;
    for (int i = 0; i < model.family->part_count; i++) {
        model.parts[i].network = &network;
        if (model.family->parts[i].tokenizer)
            model.parts[i].tokenizer = (sara_tokenizer *)(uintptr_t)small_tokenizer();
    }
    put_embeddings();
    sara_status status = sara_prompts_embed(ctx, &model, &prompts, &options, false);
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_IO);
    *prompt = prompts.text;
    return status == SARA_OK;
}

/* They still hold all of the text; what stands for an embedding is some of it. */
static void check_embedded(const sara_prompt *prompt)
{
    size_t at = 0;
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        fuzz_assert(part->start == at);
        fuzz_assert(part->embedding >= 0 && (size_t)part->embedding <= prompt->embedding_count);
        fuzz_assert(part->is_break || part->size > 0);
        at += part->size;
    }
    fuzz_assert(strlen(prompt->text) == at);
}

/* Parts follow each other and hold all of the text; neighbours differ. */
static void check_parts(const sara_prompt *prompt)
{
    size_t at = 0;
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        fuzz_assert(part->start == at);
        fuzz_assert(part->is_break ? part->size == 0 && part->weight == 1 : part->size > 0);
        fuzz_assert(part->is_blank || fabs(part->weight) <= 100);
        fuzz_assert(i == 0 || part->is_break || part[-1].is_break ||
                    part->weight != part[-1].weight);
        at += part->size;
    }
    fuzz_assert(strlen(prompt->text) == at);
}

static size_t count_ids(const sara_prompt *prompt)
{
    int32_t *ids = NULL;
    size_t count = 0, capacity = 0, vectors = 0;
    for (size_t i = 0; i < prompt->count; i++)
        if (prompt->parts[i].embedding)
            vectors += (size_t)prompt->embeddings[prompt->parts[i].embedding - 1].count;
        else
            fuzz_assert(sara_tokenizer_append(small_tokenizer(), &ids, &count, &capacity,
                                              prompt->text + prompt->parts[i].start,
                                              prompt->parts[i].size) == SARA_OK);
    sara_free(small_tokenizer()->ctx, ids);
    return count + vectors;
}

/* No id is lost: those of the text, up to the first end and padding of each chunk. */
static void check_chunks(const sara_prompt_chunks *chunks, size_t expected)
{
    sara_tokenizer_marks marks = sara_tokenizer_marks_of(small_tokenizer());
    size_t kept = 0;
    fuzz_assert(chunks->length == LENGTH && chunks->count >= 1 && chunks->count <= 64);
    for (size_t c = 0; c < chunks->count; c++) {
        const int32_t *ids = chunks->ids + c * LENGTH;
        const float *weights = chunks->weights + c * LENGTH;
        size_t end = LENGTH - 1;
        for (; ids[end] == marks.pad; end--)
            fuzz_assert(end > 1 && weights[end] == 1);
        fuzz_assert(ids[end] == marks.end && weights[end] == 1);
        fuzz_assert(ids[0] == marks.start && weights[0] == 1);
        kept += end - 1;
    }
    fuzz_assert(kept + chunks->cut == expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool several = size > 0 && (data[0] & 1), literal = size > 0 && (data[0] & 2);
    bool embeds = size > 0 && (data[0] & 4);
    sara_context *ctx = fuzz_context();
    sara_prompt prompt = {0};
    sara_prompt_chunks chunks = {0};
    char *text = calloc(size + 1, 1);
    fuzz_assert(text != NULL);
    if (size > 0)
        memcpy(text, data + 1, size - 1);
    sara_status status = literal ? sara_prompt_literal(ctx, &prompt, text)
                                 : sara_prompt_parse(ctx, &prompt, text, "prompt", several);
    fuzz_assert(status == SARA_OK || (status == SARA_ERROR_USAGE && !literal));
    if (status == SARA_OK) {
        if (!literal)
            check_parts(&prompt);
        if (embeds && embed_prompt_of(ctx, &prompt))
            check_embedded(&prompt);
        status = sara_prompt_chunks_make(ctx, &chunks, small_tokenizer(), &prompt, several);
        fuzz_assert(status == SARA_OK || (status == SARA_ERROR_USAGE && several));
        fuzz_assert(status != SARA_OK || !several || chunks.cut == 0);
        if (status == SARA_OK)
            check_chunks(&chunks, count_ids(&prompt));
    }
    sara_prompt_chunks_free(ctx, &chunks);
    sara_prompt_free(ctx, &prompt);
    free(text);
    sara_context_free(ctx);
    return 0;
}
