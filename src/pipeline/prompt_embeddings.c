/* Embeddings in prompts: embedding:NAME as ComfyUI has it, a file's name among the words as A1111,
 * the token by which a file of diffusers names itself. */
#include "models/unicode.h"
#include "pipeline/embedding.h"

#define IDENTIFIER "embedding:"

static bool is_blank_byte(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char lower_byte(char c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static bool is_word_byte(char c)
{
    char lower = lower_byte(c);
    return (lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* ------------------------------------------------------------------------------ embedding:NAME */

/* Where a name behind embedding: ends, of its ways to be read: up to white space, the same without
 * commas, up to the first comma. */
static size_t way_to_end(const char *name, size_t size, int way)
{
    size_t end = 0;
    while (end < size && !is_blank_byte(name[end]))
        end++;
    for (; way == 1 && end > 0 && name[end - 1] == ','; end--)
        ;
    const char *comma = way == 2 ? memchr(name, ',', end) : NULL;
    return comma ? (size_t)(comma - name) : end;
}
#define WAYS 3

/* Whether embedding:NAME begins there. */
static bool names_embedding(const char *text, size_t size, size_t at)
{
    const size_t length = strlen(IDENTIFIER);
    if (size - at < length || memcmp(text + at, IDENTIFIER, length) != 0 ||
        way_to_end(text + at + length, size - at - length, 2) == 0)
        return false;
    return at == 0 || !is_word_byte(text[at - 1]);
}

/* The files of the name behind embedding: at text, and where it ends. */
static sara_status find_embedding_named(sara_context *ctx, sara_embedding_folder *folder,
                                        size_t *stop, const char *what, const char *text,
                                        size_t size)
{
    const size_t length = strlen(IDENTIFIER);
    const char *name = text + length;
    size_t end = way_to_end(name, size - length, 1);
    if (!folder)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: %.*s: no folder of embeddings is given (--embedding-dir DIR)", what,
                         (int)(length + end), text);
    folder->found_count = 0;
    for (int way = 0; way < WAYS && folder->found_count == 0; way++) {
        size_t tried = way_to_end(name, size - length, way);
        if (tried > 0)
            sara_embedding_find_path(folder, name, tried);
        *stop = length + tried;
    }
    if (folder->found_count == 0)
        return sara_fail(ctx, SARA_ERROR_IO,
                         "%s/%.*s.safetensors: no such file; %s asks for it "
                         "with %.*s",
                         folder->path, (int)end, name, what, (int)(length + end), text);
    return SARA_OK;
}

static sara_status check_named(sara_context *ctx, sara_embedding_folder *folder, const char *what,
                               const sara_prompt *prompt)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        const char *text = prompt->text + part->start;
        size_t stop;
        for (size_t at = 0; at < part->size; at++)
            if (names_embedding(text, part->size, at))
                TRY(find_embedding_named(ctx, folder, &stop, what, text + at, part->size - at));
    }
done:
    return status;
}

sara_status sara_prompts_check_embeddings(sara_context *ctx, const sara_prompts *prompts,
                                          const sara_generate_options *options)
{
    sara_embedding_folder *folder = NULL;
    sara_status status = SARA_OK;
    if (options->embedding_dir)
        TRY(sara_embedding_folder_open(ctx, &folder, options->embedding_dir));
    TRY(check_named(ctx, folder, "prompt", &prompts->text));
    TRY(check_named(ctx, folder, "negative prompt", &prompts->negative));
done:
    sara_embedding_folder_free(folder);
    return status;
}

/* ---------------------------------------------------------------------------------------- words */

/* A run of letters or of other signs, or a digit. */
typedef struct embed_word {
    size_t start, end; /* bytes of the part's text */
    size_t id;         /* its first */
} embed_word;

typedef struct embedder {
    sara_context *ctx;
    sara_model *model;
    sara_embedding_folder *folder;
    const sara_tokenizer *tokenizer;
    sara_prompt *prompt;
    const char *what;
    bool tell;
    sara_prompt_part *parts; /* the new ones */
    size_t count, capacity;
    embed_word *words; /* of the part that is read; one more ends them */
    size_t word_count, word_capacity;
    int32_t *ids;
    size_t id_count, id_capacity;
} embedder;

static size_t word_end(const char *text, size_t size, size_t at, sara_char_class *class)
{
    int32_t code;
    size_t end = at + sara_utf8_decode(&code, text + at, size - at);
    *class = sara_char_class_of(code);
    while (end < size && *class != SARA_CHAR_NUMBER) {
        size_t more = sara_utf8_decode(&code, text + end, size - end);
        if (sara_char_class_of(code) != *class)
            break;
        end += more;
    }
    return end;
}

/* The words of CLIP's tokenizer, with their ids. */
static sara_status split_words(embedder *e, const char *text, size_t size)
{
    sara_char_class class;
    sara_status status = SARA_OK;
    e->word_count = e->id_count = 0;
    for (size_t at = 0, end; at <= size; at = end) {
        TRY(sara_grow(e->ctx, &e->words, &e->word_capacity, e->word_count + 1, sizeof(*e->words)));
        if (at == size)
            break;
        end = word_end(text, size, at, &class);
        if (class == SARA_CHAR_SPACE)
            continue;
        e->words[e->word_count++] = (embed_word){at, end, e->id_count};
        TRY(sara_tokenizer_append(e->tokenizer, &e->ids, &e->id_count, &e->id_capacity, text + at,
                                  end - at));
    }
    e->words[e->word_count] = (embed_word){size, size, e->id_count};
done:
    return status;
}

/* 's and the like are one word for CLIP. */
static bool is_contracted(const embedder *e, const char *text, size_t word)
{
    static const char *const endings[] = {"re", "ve", "ll", "s", "t", "m", "d"};
    const embed_word *own = &e->words[word], *before = own - 1;
    if (word == 0 || before->end != own->start || before->end - before->start != 1 ||
        text[before->start] != '\'')
        return false;
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
        size_t length = strlen(endings[i]), k = 0;
        while (k < length && own->start + k < own->end &&
               lower_byte(text[own->start + k]) == endings[i][k])
            k++;
        if (k == length)
            return true;
    }
    return false;
}

/* The files whose names the words begin with, of which the longest; *stop: where it ends, as it was
 * if there is none. */
static sara_status find_words(embedder *e, size_t *stop, const char *text, size_t word)
{
    const size_t first = e->words[word].id;
    size_t length, last = word;
    sara_status status;
    e->folder->found_count = 0;
    if (is_contracted(e, text, word))
        return SARA_OK;
    TRY(sara_embedding_find_ids(e->folder, &length, e->tokenizer, e->ids + first,
                                e->id_count - first));
    if (length == 0)
        return SARA_OK;
    while (e->words[last].id < first + length)
        last++;
    *stop = e->words[last - 1].end;
done:
    return status;
}

/* The files that name themselves as <...> does there. */
static sara_status find_token(embedder *e, size_t *stop, const char *text, size_t size, size_t at)
{
    const char *end = memchr(text + at, '>', size - at);
    sara_status status;
    e->folder->found_count = 0;
    if (!end)
        return SARA_OK;
    const size_t length = (size_t)(end + 1 - (text + at));
    TRY(sara_embedding_find_token(e->folder, text + at, length));
    if (e->folder->found_count > 0)
        *stop = at + length;
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- parts */

static sara_status put_part(embedder *e, const sara_prompt_part *of, size_t from, size_t to,
                            int embedding)
{
    sara_prompt_part part = *of;
    sara_status status;
    if (from == to && !of->is_break)
        return SARA_OK;
    part.start = of->start + from;
    part.size = to - from;
    part.embedding = embedding;
    TRY(sara_grow(e->ctx, &e->parts, &e->capacity, e->count + 1, sizeof(*e->parts)));
    e->parts[e->count++] = part;
done:
    return status;
}

/* The number of the embedding that was found, among the prompt's. */
static sara_status number_found(embedder *e, int *number)
{
    sara_prompt *prompt = e->prompt;
    sara_embedding embedding;
    sara_status status;
    TRY(sara_embedding_choose(e->ctx, &embedding, e->model, e->folder, e->tell));
    for (size_t i = 0; i < prompt->embedding_count; i++)
        if (strcmp(prompt->embeddings[i].path, embedding.path) == 0) {
            *number = (int)i + 1;
            goto done;
        }
    TRY(sara_grow(e->ctx, &prompt->embeddings, &prompt->embedding_capacity,
                  prompt->embedding_count + 1, sizeof(*prompt->embeddings)));
    prompt->embeddings[prompt->embedding_count++] = embedding;
    *number = (int)prompt->embedding_count;
    embedding = (sara_embedding){.count = 0};
done:
    sara_embedding_free(e->ctx, &embedding);
    return status;
}

/* What is found at a place of the part's text, which ends at *stop; as it was: nothing. */
static sara_status find_at(embedder *e, size_t *stop, const char *text, size_t size, size_t at,
                           const size_t *word)
{
    sara_status status = SARA_OK;
    if (names_embedding(text, size, at)) {
        TRY(find_embedding_named(e->ctx, e->folder, stop, e->what, text + at, size - at));
        *stop += at;
        return SARA_OK;
    }
    if (text[at] == '<')
        TRY(find_token(e, stop, text, size, at));
    if (*stop == at && e->words[*word].start == at)
        TRY(find_words(e, stop, text, *word));
done:
    return status;
}

static sara_status embed_part(embedder *e, const sara_prompt_part *part)
{
    const char *text = e->prompt->text + part->start;
    size_t done_to = 0, word = 0;
    sara_status status;
    TRY(split_words(e, text, part->size));
    for (size_t at = 0; at < part->size;) {
        size_t stop = at;
        int number;
        for (; e->words[word].start < at; word++)
            ;
        TRY(find_at(e, &stop, text, part->size, at, &word));
        if (stop == at) {
            at++;
            continue;
        }
        TRY(number_found(e, &number));
        TRY(put_part(e, part, done_to, at, 0));
        TRY(put_part(e, part, at, stop, number));
        at = done_to = stop;
    }
    TRY(put_part(e, part, done_to, part->size, 0));
done:
    return status;
}

static sara_status embed_prompt(embedder *e, sara_prompt *prompt, const char *what)
{
    sara_status status = SARA_OK;
    e->prompt = prompt;
    e->what = what;
    e->parts = NULL;
    e->count = e->capacity = 0;
    for (size_t i = 0; i < prompt->count; i++)
        TRY(prompt->parts[i].is_break ? put_part(e, &prompt->parts[i], 0, 0, 0)
                                      : embed_part(e, &prompt->parts[i]));
    sara_free(e->ctx, prompt->parts);
    prompt->parts = e->parts;
    prompt->count = e->count;
    prompt->capacity = e->capacity;
    e->parts = NULL;
done:
    sara_free(e->ctx, e->parts);
    for (size_t i = 0; status == SARA_OK && e->tell && i < prompt->embedding_count; i++)
        sara_log(e->ctx, SARA_LOG_INFO, "%s: %s is an embedding of %lld vector%s, %s", what,
                 prompt->embeddings[i].name, (long long)prompt->embeddings[i].count,
                 prompt->embeddings[i].count == 1 ? "" : "s", prompt->embeddings[i].path);
    return status;
}

/* *own: to be freed; NULL: the model keeps it. */
static sara_status folder_of(sara_context *ctx, sara_embedding_folder **out,
                             sara_embedding_folder **own, sara_model *model, const char *path)
{
    sara_status status;
    *own = NULL;
    if (model->keeps_embeddings && model->embeddings) {
        *out = model->embeddings;
        return SARA_OK;
    }
    TRY(sara_embedding_folder_open(ctx, out, path));
    if (model->keeps_embeddings)
        model->embeddings = *out;
    else
        *own = *out;
done:
    return status;
}

sara_status sara_prompts_embed(sara_context *ctx, sara_model *model, sara_prompts *prompts,
                               const sara_generate_options *options, bool tell)
{
    embedder e = {.ctx = ctx, .model = model, .tell = tell};
    sara_embedding_folder *own = NULL;
    int parts[SARA_EMBEDDED_ENCODERS];
    sara_status status;
    if (!options->embedding_dir)
        return sara_prompts_check_embeddings(ctx, prompts, options);
    if (sara_embedding_parts(model, parts) == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "embedding_dir %s: %s (%s) has no CLIP text encoder; leave it out",
                         options->embedding_dir, model->path, model->family->product);
    e.tokenizer = model->parts[parts[0]].tokenizer;
    TRY(folder_of(ctx, &e.folder, &own, model, options->embedding_dir));
    TRY(embed_prompt(&e, &prompts->text, "prompt"));
    TRY(embed_prompt(&e, &prompts->negative, "negative prompt"));
done:
    sara_embedding_folder_free(own);
    sara_free(ctx, e.words);
    sara_free(ctx, e.ids);
    return status;
}

bool sara_prompt_has_embedding(const sara_prompt *prompt, const sara_embedding *embedding)
{
    for (size_t i = 0; i < prompt->embedding_count; i++)
        if (strcmp(prompt->embeddings[i].path, embedding->path) == 0)
            return true;
    return false;
}

void sara_model_keep_embeddings(sara_model *model)
{
    model->keeps_embeddings = true;
}

sara_status sara_prompt_t5_text(sara_context *ctx, char **out, const sara_prompt *prompt)
{
    size_t used = 0;
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, strlen(prompt->text) + 1, 1));
    for (size_t i = 0; i < prompt->count; i++) {
        const sara_prompt_part *part = &prompt->parts[i];
        if (part->embedding)
            continue;
        memcpy(*out + used, prompt->text + part->start, part->size);
        used += part->size;
    }
done:
    return status;
}
