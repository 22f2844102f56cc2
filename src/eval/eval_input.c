/* The pictures of an evaluation, their texts, and what they are measured against. */
#include "eval/eval.h"

#include <stdlib.h>

#define MAX_PROMPTS_FILE ((size_t)1 << 26)
#define FID_PICTURES     2048    /* as many as the features of InceptionV3 have dimensions */
#define MAX_PICTURES     1000000 /* that six digits number */

/* ------------------------------------------------------------------------------------ prompts */

typedef struct prompt_list {
    const char **items;
    size_t count;
} prompt_list;

static sara_status add_prompt_line(sara_arena *arena, const char **items, size_t *count, char *line)
{
    size_t length = strlen(line);
    sara_status status = SARA_OK;
    if (length > 0 && line[length - 1] == '\r')
        line[--length] = '\0';
    if (strspn(line, " \t") == length)
        return SARA_OK;
    TRY(sara_arena_strdup(arena, &items[*count], line));
    ++*count;
done:
    return status;
}

sara_status sara_evaluation_prompts(sara_context *ctx, sara_arena *arena, const char ***out,
                                    size_t *count, const char *path)
{
    char *text = NULL;
    size_t size = 0, lines = 1;
    sara_status status;
    *count = 0;
    TRY(sara_file_read(ctx, &text, &size, path, MAX_PROMPTS_FILE));
    if (!sara_text_is_utf8(text, size) || strlen(text) != size)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: is no text in UTF-8", path));
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    TRY(sara_arena_alloc(arena, out, lines, sizeof(**out)));
    char *at = text + (strncmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0);
    for (char *next; at; at = next) {
        next = strchr(at, '\n');
        if (next)
            *next++ = '\0';
        TRY(add_prompt_line(arena, *out, count, at));
    }
    if (*count == 0)
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: holds no prompt", path);
done:
    sara_free(ctx, text);
    return status;
}

/* ------------------------------------------------------------------------------------ folders */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const sara_eval_picture *)a)->name, ((const sara_eval_picture *)b)->name);
}

static sara_status take_item(sara_evaluation *e, sara_eval_picture *out, const char *folder,
                             const sara_dataset_item *item, bool captions)
{
    sara_status status;
    TRY(sara_arena_strdup(&e->arena, &out->path, item->path));
    out->name = out->path + strlen(folder);
    while (*out->name == '/')
        out->name++;
    if (captions)
        TRY(sara_arena_strdup(&e->arena, &out->text, item->caption));
done:
    return status;
}

/* The images of a data set's folder, ascending by name's bytes. Without captions they need none. */
static sara_status scan_folder(sara_evaluation *e, sara_eval_picture **out, size_t *count,
                               const char *folder, bool captions)
{
    const sara_dataset_options options = {.folder = folder,
                                          .instance_prompt = captions ? NULL : "a picture",
                                          .captions_aside = true,
                                          .instead = "a file of prompts by --prompts"};
    sara_dataset dataset = {0};
    sara_status status;
    TRY(sara_dataset_scan(e->ctx, &dataset, &options));
    TRY(sara_arena_alloc(&e->arena, out, dataset.count, sizeof(**out)));
    memset(*out, 0, dataset.count * sizeof(**out));
    for (size_t i = 0; i < dataset.count; i++)
        TRY(take_item(e, &(*out)[i], folder, &dataset.items[i], captions));
    qsort(*out, dataset.count, sizeof(**out), compare_names);
    *count = dataset.count;
done:
    sara_dataset_free(&dataset);
    return status;
}

/* Where CLIP is there for references too, a folder without captions has no score. */
static sara_status find_images(sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    bool captions = o->clip && !o->prompts;
    bool other_use = o->references || e->drift == SARA_BY_CLIP;
    sara_status status = scan_folder(e, &e->pictures, &e->count, o->images, captions);
    if (status != SARA_ERROR_INPUT || !captions || !other_use)
        return status;
    sara_log(e->ctx, SARA_LOG_WARNING, "no CLIP score: %s", sara_context_error(e->ctx));
    return scan_folder(e, &e->pictures, &e->count, o->images, false);
}

/* The prompts of a folder's pictures instead of its captions. */
static sara_status give_prompts(sara_evaluation *e, const prompt_list *prompts)
{
    if (prompts->count != e->count)
        return sara_fail(e->ctx, SARA_ERROR_INPUT, "%s: holds %zu prompts, %s %zu pictures",
                         e->options.prompts, prompts->count, e->options.images, e->count);
    for (size_t i = 0; i < e->count; i++)
        e->pictures[i].text = prompts->items[i];
    return SARA_OK;
}

/* ------------------------------------------------------------------------------------- drawing */

static sara_status plan_picture(sara_evaluation *e, size_t index, const char *prompt)
{
    const char *prefix = e->options.prompt_prefix ? e->options.prompt_prefix : "";
    sara_eval_picture *picture = &e->pictures[index];
    const sara_name name = sara_name_of("%06zu.png", index);
    char *whole = NULL;
    sara_status status;
    TRY(sara_arena_strdup(&e->arena, &picture->name, name.text));
    TRY(sara_format(e->ctx, &whole, "%s%s", prefix, prompt));
    TRY(sara_arena_strdup(&e->arena, &picture->prompt, whole));
    picture->text = prompt;
done:
    sara_free(e->ctx, whole);
    return status;
}

/* batch_count pictures of each prompt. */
static sara_status plan_pictures(sara_evaluation *e, const prompt_list *prompts)
{
    size_t batch = (size_t)e->generate.batch_count;
    sara_status status;
    if (prompts->count * batch > MAX_PICTURES)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "%s: %zu prompts of %zu pictures each: at most "
                         "%d pictures",
                         e->options.prompts, prompts->count, batch, MAX_PICTURES);
    e->count = prompts->count * batch;
    TRY(sara_arena_alloc(&e->arena, &e->pictures, e->count, sizeof(*e->pictures)));
    memset(e->pictures, 0, e->count * sizeof(*e->pictures));
    for (size_t i = 0; i < e->count; i++)
        TRY(plan_picture(e, i, prompts->items[i / batch]));
done:
    return status;
}

/* ------------------------------------------------------------------------------- the other sets */

static sara_status find_references(sara_evaluation *e)
{
    sara_eval_picture *found = NULL;
    sara_status status;
    TRY(scan_folder(e, &found, &e->reference_count, e->options.references, false));
    TRY(sara_arena_alloc(&e->arena, &e->references, e->reference_count, sizeof(*e->references)));
    for (size_t i = 0; i < e->reference_count; i++)
        e->references[i] = found[i].path;
done:
    return status;
}

/* What FID is not made of, and what it says little of. */
static sara_status check_counts(sara_evaluation *e)
{
    size_t count = e->count, references = e->own ? count : e->reference_count;
    sara_status status = SARA_OK;
    if (e->fid == SARA_BACKBONES)
        return SARA_OK;
    if (count < 2 || references < 2) {
        if (e->options.fid || e->options.inception)
            status = sara_fail(e->ctx, SARA_ERROR_INPUT,
                               "FID of %zu and %zu pictures: at least two of each are needed",
                               count, references);
        e->fid = SARA_BACKBONES;
    } else if (count < FID_PICTURES || references < FID_PICTURES) {
        sara_log(e->ctx, SARA_LOG_WARNING,
                 "FID of %zu and %zu pictures: with fewer than %d of each it is biased upwards; "
                 "the KID beside it is not",
                 count, references, FID_PICTURES);
    }
    return status;
}

static sara_status find_before(sara_evaluation *e)
{
    sara_status status;
    TRY(sara_arena_alloc(&e->arena, &e->before, e->count, sizeof(*e->before)));
    for (size_t i = 0; i < e->count; i++) {
        char *path = NULL;
        TRY(sara_path_join(e->ctx, &path, e->options.before, e->pictures[i].name));
        bool there = sara_path_exists(path);
        status = sara_arena_strdup(&e->arena, &e->before[i], path);
        sara_free(e->ctx, path);
        if (status == SARA_OK && !there)
            status = sara_fail(e->ctx, SARA_ERROR_INPUT,
                               "--before %s: has no %s; pictures before and after have the same "
                               "names",
                               e->options.before, e->pictures[i].name);
        TRY(status);
    }
done:
    return status;
}

sara_status sara_evaluation_find(sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    prompt_list prompts = {0};
    sara_status status = SARA_OK;
    if (o->prompts)
        TRY(sara_evaluation_prompts(e->ctx, &e->arena, &prompts.items, &prompts.count, o->prompts));
    if (o->images)
        TRY(find_images(e));
    else
        TRY(plan_pictures(e, &prompts));
    if (o->images && o->prompts)
        TRY(give_prompts(e, &prompts));
    if (o->references)
        TRY(find_references(e));
    TRY(check_counts(e));
    if (o->before)
        TRY(find_before(e));
done:
    return status;
}
