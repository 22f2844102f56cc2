/* What text encoders are not given of a text: what is beyond their length; weights, of T5. */
#include "pipeline/pipeline.h"

int64_t sara_text_sequence(const sara_text_source *source)
{
    return source->sequence ? source->sequence : SARA_SEQUENCE_LENGTH;
}

/* What the CLIP encoders make of a prompt, of which each has its own tokenizer. */
typedef struct told_chunks {
    size_t length, count,
        cut; /* of a chunk; chunks; ids left out by the one that leaves out most */
} told_chunks;

static sara_status count_chunks(sara_context *ctx, told_chunks *told,
                                const sara_tokenizer *tokenizer, const sara_prompt *prompt,
                                const sara_text_source *source)
{
    sara_prompt_chunks chunks = {0};
    sara_status status;
    TRY(sara_prompt_chunks_make(ctx, &chunks, tokenizer, prompt, source->long_prompt));
    told->length = chunks.length;
    told->count = chunks.count > told->count ? chunks.count : told->count;
    told->cut = chunks.cut > told->cut ? chunks.cut : told->cut;
done:
    sara_prompt_chunks_free(ctx, &chunks);
    return status;
}

static void tell_chunks(sara_context *ctx, const told_chunks *told, const char *what)
{
    if (told->cut)
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s is too long: %zu tokens were cut off at %zu; --long-prompt keeps them",
                 what, told->cut, told->length);
    if (told->count > 1)
        sara_log(ctx, SARA_LOG_INFO, "the %s is encoded in %zu chunks of %zu tokens", what,
                 told->count, told->length - 2);
}

static sara_status tell_t5(sara_context *ctx, const sara_tokenizer *tokenizer,
                           const sara_prompt *prompt, const sara_text_source *source)
{
    const long long most = sara_text_sequence(source);
    int32_t *ids = NULL;
    char *text = NULL;
    size_t count;
    sara_status status;
    TRY(sara_prompt_t5_text(ctx, &text, prompt));
    TRY(sara_tokenizer_encode(tokenizer, &ids, &count, text));
    if (prompt->weighted)
        sara_log(ctx, SARA_LOG_INFO, "the %s's weights scale CLIP's states; T5 takes it without",
                 source->name);
    if (prompt->embedding_count)
        sara_log(ctx, SARA_LOG_INFO,
                 "the %s's embeddings are for CLIP; T5 takes it without them and their names",
                 source->name);
    if (count > (size_t)most)
        sara_log(ctx, SARA_LOG_WARNING,
                 "the %s is too long for T5: %zu tokens were cut off at %lld%s", source->name,
                 count - (size_t)most, most,
                 most < SARA_MOST_SEQUENCE ? "; generate --max_sequence_length takes more" : "");
done:
    sara_free(ctx, ids);
    sara_free(ctx, text);
    return status;
}

sara_status sara_prompt_tell_cut(sara_context *ctx, const sara_model *model,
                                 const sara_prompt *prompt, const sara_text_source *source)
{
    told_chunks told = {.count = 0};
    const sara_tokenizer *t5 = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_tokenizer *tokenizer = model->parts[i].tokenizer;
        if (model->family->parts[i].t5_tokenizer)
            t5 = tokenizer;
        else if (tokenizer)
            TRY(count_chunks(ctx, &told, tokenizer, prompt, source));
    }
    tell_chunks(ctx, &told, source->name);
    if (t5)
        TRY(tell_t5(ctx, t5, prompt, source));
done:
    return status == SARA_OK ? status : sara_fail_in(ctx, status, source->name);
}

sara_status sara_model_count_ids(const sara_model *model, size_t *count, size_t *most, bool t5,
                                 const char *text)
{
    int32_t *ids = NULL;
    sara_status status = SARA_OK;
    *count = *most = 0;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_tokenizer *tokenizer = model->parts[i].tokenizer;
        size_t all;
        if (!tokenizer || model->family->parts[i].t5_tokenizer != t5)
            continue;
        TRY(sara_tokenizer_encode(tokenizer, &ids, &all, text));
        sara_free(model->ctx, ids);
        ids = NULL;
        *count = all > *count ? all : *count;
        *most = t5 ? (size_t)sara_model_caption_length(model)
                   : (size_t)sara_tokenizer_length(tokenizer);
    }
done:
    sara_free(model->ctx, ids);
    return status;
}
