/* The prompts of a generation: encoded ahead and kept, or when they are wanted. */
#include "pipeline/pipeline.h"

/* For messages. */
static const char positive[] = "prompt", negative[] = "negative prompt";

static bool is_same_part(const sara_prompt_part *a, const sara_prompt_part *b)
{
    return a->size == b->size && a->weight == b->weight && a->is_break == b->is_break &&
           a->is_blank == b->is_blank && a->embedding == b->embedding;
}

static bool is_same_prompt(const sara_prompt *a, const sara_prompt *b)
{
    if (a->count != b->count || a->embedding_count != b->embedding_count ||
        strcmp(a->text, b->text) != 0)
        return false;
    for (size_t i = 0; i < a->embedding_count; i++)
        if (strcmp(a->embeddings[i].sha256, b->embeddings[i].sha256) != 0)
            return false;
    for (size_t i = 0; i < a->count; i++)
        if (!is_same_part(&a->parts[i], &b->parts[i]))
            return false;
    return true;
}

/* Of the adapters that are on text encoders now. */
static sara_status hash_adapters(const sara_model *model, char out[65])
{
    char text[65 * SARA_MOST_PARTS] = "";
    sara_sha256 *hash = NULL;
    sara_status status = SARA_OK;
    out[0] = '\0';
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_applied *applied = model->parts[i].applied;
        if ((model->family->parts[i].stages & SARA_STAGE_TEXT) && applied &&
            sara_applied_changes(applied))
            TRY(sara_applied_hash(applied, text + 65 * i));
        *out |= text[65 * i];
    }
    if (!*out)
        return SARA_OK;
    TRY(sara_sha256_new(model->ctx, &hash));
    TRY(sara_sha256_add(hash, text, sizeof(text)));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

/* *out NULL: it is not kept. */
static sara_status find_kept(const sara_model *model, const sara_text_states **out,
                             const sara_prompt *prompt, const sara_text_source *source)
{
    char adapters[65];
    sara_status status;
    *out = NULL;
    if (model->prompt_count == 0)
        return SARA_OK;
    TRY(hash_adapters(model, adapters));
    for (size_t i = 0; i < model->prompt_count && !*out; i++)
        if (model->prompts[i].long_prompt == source->long_prompt &&
            model->prompts[i].sequence == source->sequence &&
            strcmp(model->prompts[i].adapters, adapters) == 0 &&
            is_same_prompt(&model->prompts[i].prompt, prompt))
            *out = &model->prompts[i].states;
done:
    return status;
}

void sara_kept_prompt_free(sara_context *ctx, sara_kept_prompt *kept)
{
    sara_prompt_free(ctx, &kept->prompt);
    sara_text_states_free(ctx, &kept->states);
}

/* Where embeddings are in the prompt, and of which files. */
static sara_status hash_embeddings(sara_sha256 *hash, const sara_prompt *prompt)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; prompt->embedding_count > 0 && i < prompt->count; i++)
        TRY(sara_sha256_add(hash, &prompt->parts[i].embedding, sizeof(prompt->parts[i].embedding)));
    for (size_t i = 0; i < prompt->embedding_count; i++)
        TRY(sara_sha256_add(hash, prompt->embeddings[i].sha256,
                            sizeof(prompt->embeddings[i].sha256)));
done:
    return status;
}

/* Of the prompt, what the tokenizers make of its text, and the adapters that are on encoders. */
static sara_status prompt_key(const sara_model *model, char out[65], const sara_prompt *prompt,
                              const sara_kept_prompt *kept)
{
    const char *const texts[] = {prompt->text, kept->adapters, kept->long_prompt ? "long" : ""};
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(model->ctx, &hash));
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        TRY(sara_sha256_add(hash, texts[i], strlen(texts[i]) + 1));
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        const double values[] = {(double)part->start, (double)part->size, part->weight,
                                 part->is_break, part->is_blank};
        TRY(sara_sha256_add(hash, values, sizeof(values)));
    }
    TRY(hash_embeddings(hash, prompt));
    TRY(sara_model_hash_ids(model, hash, prompt->text));
    TRY(sara_sha256_add(hash, &kept->states.length, sizeof(kept->states.length)));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

static sara_status find_or_encode(sara_context *ctx, sara_model *model, sara_kept_prompt *kept,
                                  const sara_prompt *prompt, const sara_text_source *source)
{
    const sara_prompt_store *store = model->prompt_store;
    bool there = false;
    char key[65];
    sara_status status;
    if (store) {
        TRY(model->family->measure(ctx, &kept->states.length, model, prompt, source));
        TRY(prompt_key(model, key, prompt, kept));
        TRY(store->find(store->user, &there, &kept->states, key));
    }
    TRY(sara_prompt_tell_cut(ctx, model, prompt, source));
    if (there)
        return SARA_OK;
    TRY(sara_model_need(model, SARA_STAGE_TEXT));
    TRY(model->family->encode(ctx, &kept->states, model, prompt, source));
    if (store && !kept->states.warned) /* of which nobody would be told the next time */
        TRY(store->keep(store->user, &kept->states, key));
done:
    return status;
}

/* Takes the prompt over unless it is kept already. */
static sara_status keep_prompt(sara_context *ctx, sara_model *model, sara_prompt *prompt,
                               const sara_text_source *source)
{
    sara_kept_prompt kept = {.long_prompt = source->long_prompt, .sequence = source->sequence};
    const sara_text_states *known;
    sara_status status;
    TRY(find_kept(model, &known, prompt, source));
    if (known)
        return SARA_OK;
    if (sara_interrupted(ctx))
        return sara_fail(ctx, SARA_INTERRUPTED, "interrupted");
    TRY(sara_grow(ctx, &model->prompts, &model->prompt_capacity, model->prompt_count + 1,
                  sizeof(*model->prompts)));
    TRY(hash_adapters(model, kept.adapters));
    TRY(find_or_encode(ctx, model, &kept, prompt, source));
    kept.prompt = *prompt;
    *prompt = (sara_prompt){.text = NULL};
    model->prompts[model->prompt_count++] = kept;
    kept = (sara_kept_prompt){.long_prompt = false};
done:
    sara_kept_prompt_free(ctx, &kept);
    return status;
}

/* Whether zeros stand for the states of the negative prompt. */
static bool gets_zeros(const sara_model *model, const sara_prompts *prompts)
{
    return model->zero_negative && !prompts->has_negative;
}

sara_status sara_generate_encode(sara_context *ctx, sara_model *model,
                                 const sara_generate_options *given)
{
    sara_generate_options options;
    sara_prompts prompts = {.count = 0};
    size_t applied = model->adapter_count;
    sara_status status;
    TRY(sara_generate_options_settle(ctx, &options, given, model));
    TRY(sara_generate_options_check(ctx, model, &options));
    TRY(sara_prompts_read(ctx, &prompts, &options));
    TRY(sara_prompts_embed(ctx, model, &prompts, &options, false));
    TRY(sara_prompts_apply(ctx, model, &prompts, &options, SARA_STAGE_TEXT));
    const sara_text_source sources[] = {
        {negative, options.long_prompt, options.max_sequence_length},
        {positive, options.long_prompt, options.max_sequence_length}};
    if (sara_generate_is_guided(&options) && !gets_zeros(model, &prompts))
        TRY(keep_prompt(ctx, model, &prompts.negative, &sources[0]));
    TRY(keep_prompt(ctx, model, &prompts.text, &sources[1]));
    TRY(sara_model_truncate(model, applied));
done:
    sara_model_untag(model, status, applied);
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    sara_prompts_free(ctx, &prompts);
    return status;
}

static sara_status join_states(sara_context *ctx, sara_prompt_states *out,
                               const sara_text_states *const *each)
{
    size_t first = (size_t)(out->lengths[0] * out->width);
    size_t second = (size_t)(out->lengths[1] * out->width);
    size_t pooled = (size_t)out->pooled_width;
    sara_status status;
    TRY(sara_alloc(ctx, &out->data, first + second, sizeof(float)));
    memcpy(out->data, each[0]->states, first * sizeof(float));
    if (second)
        memcpy(out->data + first, each[1]->states, second * sizeof(float));
    if (pooled)
        TRY(sara_alloc(ctx, &out->pooled, 2 * pooled, sizeof(float)));
    for (size_t i = 0; pooled && i < (second ? 2 : 1); i++)
        memcpy(out->pooled + i * pooled, each[i]->pooled, pooled * sizeof(float));
done:
    return status;
}

/* *out: kept, or *own, which is encoded; sara_text_states_free() of that. */
static sara_status states_of(sara_context *ctx, const sara_text_states **out, sara_text_states *own,
                             sara_model *model, const sara_prompt *prompt,
                             const sara_text_source *source)
{
    sara_status status;
    TRY(find_kept(model, out, prompt, source));
    if (*out)
        return SARA_OK;
    *out = own;
    TRY(sara_prompt_tell_cut(ctx, model, prompt, source));
    TRY(sara_model_need(model, SARA_STAGE_TEXT));
    TRY(model->family->encode(ctx, own, model, prompt, source));
done:
    return status;
}

/* As many states as the prompt has. *out: sara_text_states_free() */
static sara_status zeros_like(sara_context *ctx, sara_text_states *out,
                              const sara_prompt_states *as, const sara_text_states *prompt)
{
    sara_status status;
    out->length = prompt->length;
    TRY(sara_alloc_zero(ctx, &out->states, (size_t)(prompt->length * as->width), sizeof(float)));
    if (as->pooled_width)
        TRY(sara_alloc_zero(ctx, &out->pooled, (size_t)as->pooled_width, sizeof(float)));
done:
    return status;
}

sara_status sara_prompts_encode(sara_context *ctx, sara_prompt_states *out, sara_model *model,
                                const sara_prompts *prompts, bool guided,
                                const sara_text_source *source)
{
    const sara_text_source sources[2] = {{negative, source->long_prompt, source->sequence},
                                         {positive, source->long_prompt, source->sequence}};
    const sara_prompt *given[2] = {&prompts->negative, &prompts->text};
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    sara_text_states own[2] = {{.states = NULL}, {.states = NULL}};
    const sara_text_states *each[2] = {&own[0], &own[1]};
    int first = guided ? 0 : 1;
    bool zeros = guided && gets_zeros(model, prompts);
    sara_status status = SARA_OK;
    memset(out, 0, sizeof(*out));
    out->width = info->widths[SARA_CONDITION_STATES];
    out->pooled_width = info->widths[SARA_CONDITION_POOLED];
    for (int i = zeros ? 1 : first; i < 2; i++)
        TRY(states_of(ctx, &each[i - first], &own[i - first], model, given[i], &sources[i]));
    if (zeros)
        TRY(zeros_like(ctx, &own[0], out, each[1]));
    out->lengths[0] = each[0]->length;
    out->lengths[1] = each[1]->length;
    TRY(join_states(ctx, out, each));
done:
    sara_text_states_free(ctx, &own[0]);
    sara_text_states_free(ctx, &own[1]);
    return status;
}
