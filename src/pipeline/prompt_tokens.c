/* What a prompt with embeddings comes to, for users to see. */
#include "pipeline/embedding.h"

#include <stdio.h>

#define VECTOR_DIGITS 24 /* of "[0]", at most, with its end */

/* The embedding that the id is a vector of, and which; NULL: it is a token. */
static const sara_embedding *embedding_of_id(const sara_prompt *prompt, int32_t id, int64_t *vector)
{
    *vector = -1 - (int64_t)id;
    for (size_t i = 0; id < 0 && i < prompt->embedding_count; i++) {
        if (*vector < prompt->embeddings[i].count)
            return &prompt->embeddings[i];
        *vector -= prompt->embeddings[i].count;
    }
    return NULL;
}

/* names [count], of vectors behind them in one piece of memory. */
static sara_status name_ids(sara_context *ctx, char ***out, const sara_prompt *prompt,
                            const int32_t *ids, size_t count)
{
    const sara_embedding *embedding;
    size_t bytes = count * sizeof(char *);
    int64_t vector;
    char **names = NULL;
    sara_status status;
    for (size_t i = 0; i < count; i++)
        if ((embedding = embedding_of_id(prompt, ids[i], &vector)))
            bytes += strlen(embedding->name) + VECTOR_DIGITS;
    TRY(sara_alloc_zero(ctx, &names, bytes, 1));
    char *at = (char *)(names + count);
    for (size_t i = 0; i < count; i++)
        if ((embedding = embedding_of_id(prompt, ids[i], &vector))) {
            names[i] = at;
            at += snprintf(at, strlen(embedding->name) + VECTOR_DIGITS, "%s[%lld]", embedding->name,
                           (long long)vector) +
                  1;
        }
    *out = names;
done:
    return status;
}

sara_status sara_model_tokenize_prompt(sara_context *ctx, int32_t **ids, char ***names,
                                       size_t *count, sara_model *model,
                                       const sara_generate_options *given)
{
    sara_generate_options options;
    sara_prompts prompts = {.count = 0};
    sara_prompt_chunks chunks = {0};
    sara_status status;
    *ids = NULL;
    *names = NULL;
    *count = 0;
    TRY(sara_generate_options_settle(ctx, &options, given, model));
    TRY(sara_generate_options_check(ctx, model, &options));
    TRY(sara_prompts_read(ctx, &prompts, &options));
    TRY(sara_prompts_embed(ctx, model, &prompts, &options, true));
    TRY(sara_prompt_chunks_make(ctx, &chunks, sara_model_tokenizer(model), &prompts.text,
                                options.long_prompt));
    TRY(name_ids(ctx, names, &prompts.text, chunks.ids, chunks.count * chunks.length));
    *count = chunks.count * chunks.length;
    *ids = chunks.ids;
    chunks.ids = NULL;
done:
    sara_prompt_chunks_free(ctx, &chunks);
    sara_prompts_free(ctx, &prompts);
    return status;
}
