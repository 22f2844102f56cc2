/* <lora:NAME:WEIGHT> tags of prompts, as A1111 and stable-diffusion.cpp have them. */
#include "pipeline/pipeline.h"

#include <math.h>

#define OPENING "<lora:"

typedef struct tag {
    const char *text; /* from its "<" on */
    int size;         /* with its ">" */
    const char *name, *weight;
    int name_size, weight_size; /* weight_size -1: there is no weight */
} tag;

typedef struct reader {
    sara_context *ctx;
    sara_prompts *out;
    const char *folder, *save_latents;
    const char *what; /* for errors: which prompt */
} reader;

/* The next tag of the text; *found false: none. */
static sara_status find_tag(const reader *r, tag *out, bool *found, const char *text)
{
    const char *start = strstr(text, OPENING);
    memset(out, 0, sizeof(*out));
    *found = start != NULL;
    if (!start)
        return SARA_OK;
    const char *end = strchr(start, '>');
    if (!end)
        return sara_fail(r->ctx, SARA_ERROR_USAGE, "%s: %.200s: a tag without its >", r->what,
                         start);
    out->text = start;
    out->size = (int)(end + 1 - start);
    out->name = start + strlen(OPENING);
    const char *colon = memchr(out->name, ':', (size_t)(end - out->name));
    out->name_size = (int)((colon ? colon : end) - out->name);
    out->weight = colon ? colon + 1 : end;
    out->weight_size = colon ? (int)(end - out->weight) : -1;
    return SARA_OK;
}

static sara_status tags_refuse(const reader *r, const tag *t, const char *why)
{
    return sara_fail(r->ctx, SARA_ERROR_USAGE, "%s: %.*s: %s", r->what, t->size, t->text, why);
}

static sara_status read_weight(const reader *r, double *out, const tag *t)
{
    char text[40], *end = text;
    *out = 1;
    if (t->weight_size < 0)
        return SARA_OK;
    snprintf(text, sizeof(text), "%.*s", t->weight_size, t->weight);
    if (*text && strspn(text, "0123456789+-.eE") == (size_t)t->weight_size)
        *out = sara_parse_double(text, &end);
    if (end == text || *end || !(fabs(*out) <= SARA_STRONGEST))
        return sara_fail(r->ctx, SARA_ERROR_USAGE, "%s: %.*s: weight %s, expected %g to %g",
                         r->what, t->size, t->text, text, -SARA_STRONGEST, SARA_STRONGEST);
    return SARA_OK;
}

/* A prompt may come from anywhere: it names files below the folder only. */
static bool leads_out(const char *name)
{
    if (*name == '/')
        return true;
    for (const char *part = name; part;) {
        size_t length = strcspn(part, "/");
        if (length == 2 && strncmp(part, "..", 2) == 0)
            return true;
        part = part[length] ? part + length + 1 : NULL;
    }
    return false;
}

/* A file, or a folder of PEFT's. */
static sara_status find_lora_file(const reader *r, sara_lora *lora)
{
    char *folder = NULL;
    sara_status status;
    TRY(sara_format(r->ctx, &lora->path, "%s/%s.safetensors", r->folder, lora->name));
    TRY(sara_format(r->ctx, &folder, "%s/%s", r->folder, lora->name));
    if (!sara_path_is_named(lora->path) && sara_path_is_directory(folder)) {
        sara_free(r->ctx, lora->path);
        lora->path = folder;
        folder = NULL;
    }
done:
    sara_free(r->ctx, folder);
    return status;
}

static sara_status add_lora(const reader *r, const tag *t)
{
    sara_prompts *out = r->out;
    sara_lora lora = {NULL, NULL, 0};
    sara_status status;
    TRY(read_weight(r, &lora.strength, t));
    TRY(sara_format(r->ctx, &lora.name, "%.*s", t->name_size, t->name));
    if (!*lora.name || leads_out(lora.name)) {
        status = tags_refuse(r, t, *lora.name ? "leads out of the folder" : "names no file");
        goto done;
    }
    TRY(find_lora_file(r, &lora));
    if (!sara_path_is_named(lora.path)) {
        status = sara_fail(r->ctx, SARA_ERROR_IO, "%s: no such file; %s asks for it with %.*s",
                           lora.path, r->what, t->size, t->text);
        goto done;
    }
    if (r->save_latents && sara_path_is_same(r->save_latents, lora.path)) {
        status = sara_fail(r->ctx, SARA_ERROR_USAGE,
                           "save_latents %s: is the adapter of %.*s, "
                           "which would be lost",
                           r->save_latents, t->size, t->text);
        goto done;
    }
    TRY(sara_grow(r->ctx, &out->loras, &out->capacity, out->count + 1, sizeof(*out->loras)));
    out->loras[out->count++] = lora;
    lora = (sara_lora){NULL, NULL, 0};
done:
    sara_free(r->ctx, lora.name);
    sara_free(r->ctx, lora.path);
    return status;
}

/* *out: the text without its tags, sara_free(). */
static sara_status take_tags(const reader *r, char **out, const char *text)
{
    char *rest = NULL, *to;
    tag t;
    bool found;
    sara_status status;
    TRY(sara_strdup(r->ctx, &rest, text));
    to = rest;
    for (;;) {
        TRY(find_tag(r, &t, &found, text));
        if (!found)
            break;
        if (!r->folder) {
            status = tags_refuse(r, &t,
                                 "no folder of adapters is given (--lora-model-dir DIR); or use "
                                 "--adapter FILE:strength instead");
            goto done;
        }
        TRY(add_lora(r, &t));
        memcpy(to, text, (size_t)(t.text - text));
        to += t.text - text;
        text = t.text + t.size;
    }
    memcpy(to, text, strlen(text) + 1);
    *out = rest;
    rest = NULL;
done:
    sara_free(r->ctx, rest);
    return status;
}

static sara_status read_prompt(const reader *r, sara_prompt *out, const char *text,
                               const sara_generate_options *options)
{
    char *rest = NULL;
    sara_status status;
    TRY(take_tags(r, &rest, text));
    if (options->no_prompt_weights)
        TRY(sara_prompt_literal(r->ctx, out, rest));
    else
        TRY(sara_prompt_parse(r->ctx, out, rest, r->what, options->long_prompt));
done:
    sara_free(r->ctx, rest);
    return status;
}

static int compare_loras(const void *a, const void *b)
{
    const sara_lora *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->strength > y->strength) - (x->strength < y->strength);
}

/* Weights of one name add up, in ascending order so that that of the tags has no effect. */
static void tags_add_up(sara_context *ctx, sara_prompts *prompts)
{
    size_t kept = 0;
    if (prompts->count > 1)
        qsort(prompts->loras, prompts->count, sizeof(*prompts->loras), compare_loras);
    for (size_t i = 0; i < prompts->count; i++) {
        sara_lora *lora = &prompts->loras[i];
        if (kept > 0 && strcmp(prompts->loras[kept - 1].name, lora->name) == 0) {
            prompts->loras[kept - 1].strength += lora->strength;
            sara_free(ctx, lora->name);
            sara_free(ctx, lora->path);
        } else {
            prompts->loras[kept++] = *lora;
        }
    }
    prompts->count = kept;
}

static sara_status check_sums(sara_context *ctx, const sara_prompts *prompts)
{
    for (size_t i = 0; i < prompts->count; i++)
        if (!(fabs(prompts->loras[i].strength) <= SARA_STRONGEST))
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "<lora:%.200s>: the weights of its tags add up to %g, expected %g to "
                             "%g",
                             prompts->loras[i].name, prompts->loras[i].strength, -SARA_STRONGEST,
                             SARA_STRONGEST);
    return SARA_OK;
}

sara_status sara_prompts_read(sara_context *ctx, sara_prompts *out,
                              const sara_generate_options *options)
{
    reader r = {ctx, out, options->lora_model_dir, options->save_latents, "prompt"};
    const char *negative = options->negative_prompt ? options->negative_prompt : "";
    sara_status status;
    memset(out, 0, sizeof(*out));
    out->has_negative = options->negative_prompt != NULL;
    TRY(read_prompt(&r, &out->text, options->prompt, options));
    r.what = "negative prompt";
    TRY(read_prompt(&r, &out->negative, negative, options));
    tags_add_up(ctx, out);
    TRY(check_sums(ctx, out));
done:
    return status;
}

void sara_prompts_free(sara_context *ctx, sara_prompts *prompts)
{
    for (size_t i = 0; i < prompts->count; i++) {
        sara_free(ctx, prompts->loras[i].name);
        sara_free(ctx, prompts->loras[i].path);
    }
    sara_free(ctx, prompts->loras);
    sara_prompt_free(ctx, &prompts->text);
    sara_prompt_free(ctx, &prompts->negative);
    memset(prompts, 0, sizeof(*prompts));
}
