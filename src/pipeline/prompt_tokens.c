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

/* What T5 takes of a prompt: neither embeddings nor their names. */
static sara_status tokenize_for_t5(sara_context *ctx, int32_t **ids, size_t *count,
                                   const sara_model *model, int number, const sara_prompt *prompt)
{
    char *text = NULL;
    sara_status status;
    TRY(sara_prompt_t5_text(ctx, &text, prompt));
    TRY(sara_model_tokenize_by(ctx, ids, count, model, number, text));
done:
    sara_free(ctx, text);
    return status;
}

static sara_status tokenize_for_clip(sara_context *ctx, int32_t **ids, size_t *count,
                                     const sara_tokenizer *tokenizer, const sara_prompt *prompt,
                                     bool long_prompt)
{
    sara_prompt_chunks chunks = {0};
    sara_status status;
    TRY(sara_prompt_chunks_make(ctx, &chunks, tokenizer, prompt, long_prompt));
    *count = chunks.count * chunks.length;
    *ids = chunks.ids;
    chunks.ids = NULL;
done:
    sara_prompt_chunks_free(ctx, &chunks);
    return status;
}

sara_status sara_model_tokenize_prompt(sara_context *ctx, int32_t **ids, char ***names,
                                       size_t *count, sara_model *model, int number,
                                       const sara_generate_options *given)
{
    sara_generate_options options;
    sara_prompts prompts = {.count = 0};
    int part;
    sara_status status;
    *ids = NULL;
    *names = NULL;
    *count = 0;
    TRY(sara_model_find_tokenizer(ctx, &part, model, number));
    TRY(sara_generate_options_settle(ctx, &options, given, model));
    TRY(sara_generate_options_check(ctx, model, &options));
    TRY(sara_prompts_read(ctx, &prompts, &options));
    TRY(sara_prompts_embed(ctx, model, &prompts, &options, true));
    if (model->family->parts[part].t5_tokenizer)
        TRY(tokenize_for_t5(ctx, ids, count, model, number, &prompts.text));
    else
        TRY(tokenize_for_clip(ctx, ids, count, model->parts[part].tokenizer, &prompts.text,
                              options.long_prompt));
    TRY(name_ids(ctx, names, &prompts.text, *ids, *count));
done:
    if (status != SARA_OK) {
        sara_free(ctx, *ids);
        *ids = NULL;
    }
    sara_prompts_free(ctx, &prompts);
    return status;
}
