/* The text in a picture from which image UIs read how it was made. */
#include "pipeline/pipeline.h"

#include <stdio.h>
#include <stdlib.h>

#define SHORT_HASH 10 /* digits, as A1111 shows a model's */

/* A name within quotes, as in JSON; what is no UTF-8 becomes question marks. */
static sara_status append_escaped(sara_buffer *out, const char *name)
{
    bool valid = sara_text_is_utf8(name, strlen(name));
    char code[8];
    sara_status status = SARA_OK;
    for (const char *at = name; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte == '"' || byte == '\\')
            snprintf(code, sizeof(code), "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7F)
            snprintf(code, sizeof(code), "\\u%04x", byte);
        else
            snprintf(code, sizeof(code), "%c", byte < 0x80 || valid ? *at : '?');
        TRY(sara_buffer_put(out, code));
    }
done:
    return status;
}

static int texts_compare(const void *a, const void *b)
{
    const sara_model_adapter *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->strength > y->strength) - (x->strength < y->strength);
}

/* [*count] of the model and of the tags, by name, so that equal pictures have equal texts; names
 * are borrowed. */
static sara_status texts_collect(sara_context *ctx, sara_model_adapter **out, size_t *count,
                                 const sara_model *model, const sara_prompts *prompts, bool ignore)
{
    size_t loras = ignore ? 0 : prompts->count;
    sara_status status;
    *count = model->adapter_count + loras;
    TRY(sara_alloc(ctx, out, *count, sizeof(**out)));
    for (size_t i = 0; i < model->adapter_count; i++)
        (*out)[i] = model->adapters[i];
    for (size_t i = 0; i < loras; i++)
        (*out)[model->adapter_count + i] = (sara_model_adapter){
            .name = prompts->loras[i].name, .strength = prompts->loras[i].strength};
    if (*count > 1)
        qsort(*out, *count, sizeof(**out), texts_compare);
done:
    return status;
}

/* `, Adapters: "ink: 0.8, wash: 0.6"`, or nothing. *out: sara_free(). */
static sara_status adapters_text(sara_context *ctx, char **out, const sara_model *model,
                                 const sara_generate_options *options)
{
    sara_buffer line = {.ctx = ctx};
    sara_prompts prompts = {0};
    sara_model_adapter *adapters = NULL;
    size_t count = 0;
    char number[40];
    sara_status status;
    TRY(sara_prompts_read(ctx, &prompts, options));
    TRY(texts_collect(ctx, &adapters, &count, model, &prompts, options->lora_ignore));
    TRY(sara_buffer_put(&line, count ? ", Adapters: \"" : ""));
    for (size_t i = 0; i < count; i++) {
        const char *slash = strrchr(adapters[i].name, '/'); /* of a tag */
        TRY(append_escaped(&line, slash ? slash + 1 : adapters[i].name));
        sara_print(number, sizeof(number), ": %.9g%s", adapters[i].strength,
                   i + 1 < count ? ", " : "\"");
        TRY(sara_buffer_put(&line, number));
    }
    *out = line.data;
    line.data = NULL;
done:
    sara_buffer_free(&line);
    sara_free(ctx, adapters);
    sara_prompts_free(ctx, &prompts);
    return status;
}

#define TI_HASH 12 /* digits of A1111's */

/* `NAME: HASH`, the name without what A1111 leaves out of it. */
static sara_status embedding_put(sara_buffer *line, const sara_embedding *embedding, bool first)
{
    char own[256], *to = own;
    sara_status status;
    for (const char *at = embedding->name; *at && to < own + sizeof(own) - 1; at++)
        if (*at != ':' && *at != ',')
            *to++ = *at;
    *to = '\0';
    TRY(sara_buffer_put(line, first ? ", TI hashes: \"" : ", "));
    TRY(append_escaped(line, own));
    TRY(sara_buffer_put(line, sara_name_of(": %.*s", TI_HASH, embedding->sha256).text));
done:
    return status;
}

/* `, TI hashes: "easynegative: 0123456789ab"`, as A1111 has it, or nothing. *out: sara_free(). */
static sara_status embeddings_text(sara_context *ctx, char **out, sara_model *model,
                                   const sara_generate_options *options)
{
    sara_buffer line = {.ctx = ctx};
    sara_prompts prompts = {0};
    sara_status status;
    TRY(sara_prompts_read(ctx, &prompts, options));
    TRY(sara_prompts_embed(ctx, model, &prompts, options, false));
    const sara_prompt *texts[] = {&prompts.text, &prompts.negative};
    TRY(sara_buffer_put(&line, ""));
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < texts[t]->embedding_count; i++)
            if (!t || !sara_prompt_has_embedding(texts[0], &texts[1]->embeddings[i]))
                TRY(embedding_put(&line, &texts[t]->embeddings[i], !line.data[0]));
    TRY(sara_buffer_put(&line, line.data[0] ? "\"" : ""));
    *out = line.data;
    line.data = NULL;
done:
    sara_buffer_free(&line);
    sara_prompts_free(ctx, &prompts);
    return status;
}

/* The last part of a path, cut: without a file's ending; in quotes, as A1111 has it, where it would
 * break the line of settings. *out: sara_free(). */
static sara_status name_text(sara_context *ctx, char **out, const char *path, bool cut)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash && slash[1] ? slash + 1 : path, *dot = strrchr(name, '.');
    bool quoted = false;
    sara_buffer line = {.ctx = ctx};
    char *own = NULL;
    sara_status status;
    cut = cut && dot && dot > name;
    TRY(sara_format(ctx, &own, "%.*s", (int)(cut ? dot - name : (ptrdiff_t)strlen(name)), name));
    for (const char *at = own; *at; at++)
        quoted |= strchr(",:\"\\", *at) || (unsigned char)*at < 0x20 || *at == 0x7F;
    quoted |= !sara_text_is_utf8(own, strlen(own));
    TRY(sara_buffer_put(&line, quoted ? "\"" : ""));
    TRY(append_escaped(&line, own));
    TRY(sara_buffer_put(&line, quoted ? "\"" : ""));
    *out = line.data;
    line.data = NULL;
done:
    sara_free(ctx, own);
    sara_buffer_free(&line);
    return status;
}

/* As A1111 tells that brackets in the prompts have no effect. */
static const char *emphasis_text(const sara_generate_options *options, const char *negative)
{
    bool brackets = strpbrk(options->prompt, "([") || (negative && strpbrk(negative, "(["));
    return options->no_prompt_weights && brackets ? ", Emphasis: None" : "";
}

/* ", VAE hash: 0123456789, VAE: NAME" as A1111 has it where the VAE is not the model's own, else
 * nothing. *out: sara_free(). */
static sara_status vae_text(sara_context *ctx, char **out, sara_model *model)
{
    const char *hash;
    char *name = NULL;
    sara_status status;
    if (!model->vae_path)
        return sara_strdup(ctx, out, "");
    TRY(sara_model_vae_hash(ctx, &hash, model));
    TRY(name_text(ctx, &name, model->vae_path, false));
    TRY(sara_format(ctx, out, "%s%.*s, VAE: %s", hash ? ", VAE hash: " : "", SHORT_HASH,
                    hash ? hash : "", name));
done:
    sara_free(ctx, name);
    return status;
}

sara_status sara_generate_text(sara_context *ctx, char **out, sara_model *model,
                               const sara_generate_options *given, int width, int height, int index)
{
    sara_generate_options own, *options = &own;
    const char *negative, *hash;
    sara_scheduler_config scheduler;
    char *adapters = NULL, *embeddings = NULL, *name = NULL, *vae = NULL;
    sara_status status;
    TRY(sara_generate_options_settle(ctx, options, given, model));
    negative = options->negative_prompt;
    bool has_negative = negative && *negative;
    TRY(sara_generate_scheduler(ctx, &scheduler, model, options));
    TRY(sara_model_picture_hash(ctx, &hash, model));
    TRY(adapters_text(ctx, &adapters, model, options));
    TRY(embeddings_text(ctx, &embeddings, model, options));
    TRY(name_text(ctx, &name, model->path, model->single != NULL));
    TRY(vae_text(ctx, &vae, model));
    status = sara_format(
        ctx, out,
        "%s%s%s\nSteps: %d, Sampler: %s%s, CFG scale: %g, Seed: %llu, Size: %dx%d, "
        "Model hash: %.*s, Model: %s%s%s%s%s, Version: sara %s",
        options->prompt, has_negative ? "\nNegative prompt: " : "", has_negative ? negative : "",
        options->steps, sara_sampler_kind_name(scheduler.kind),
        scheduler.use_karras_sigmas ? " Karras" : "", options->guidance_scale,
        (unsigned long long)(options->seed + (uint64_t)index), width, height, SHORT_HASH, hash,
        name, vae, emphasis_text(options, negative), adapters, embeddings, sara_version());
done:
    sara_free(ctx, name);
    sara_free(ctx, vae);
    sara_free(ctx, adapters);
    sara_free(ctx, embeddings);
    return status;
}
