/* Which of the embeddings that a prompt names fits the model. */
#include "pipeline/embedding.h"

typedef struct chooser {
    sara_context *ctx;
    const sara_model *model;
    sara_embedding_folder *folder;
    sara_embedding_entry *chosen; /* NULL: none yet */
    sara_embedding_file file;     /* its */
    int parts[SARA_EMBEDDED_ENCODERS], part_count;
    const sara_embedding_entry *pickled; /* the first; NULL: none */
    char *refused; /* what is wrong with the first that does not fit; NULL: all do */
    bool tell;
} chooser;

int sara_embedding_parts(const sara_model *model, int parts[SARA_EMBEDDED_ENCODERS])
{
    int count = 0;
    for (int i = 0; i < model->family->part_count && count < SARA_EMBEDDED_ENCODERS; i++)
        if (model->parts[i].tokenizer && !model->family->parts[i].t5_tokenizer)
            parts[count++] = i;
    return count;
}

static int64_t encoder_width(const chooser *c, int encoder)
{
    return encoder < c->part_count
               ? c->model->parts[c->parts[encoder]].network->info.text.hidden_size
               : 0;
}

static sara_name widths_text(int64_t first, int64_t second)
{
    return second ? sara_name_of("%lld + %lld", (long long)first, (long long)second)
                  : sara_name_of("%lld", (long long)first);
}

/* *out: why the file does not fit, sara_free(); NULL: it does. */
static sara_status why_it_does_not_fit(const chooser *c, char **out,
                                       const sara_embedding_file *file)
{
    const char *path = sara_safetensors_path(file->file), *model = c->model->path;
    const sara_tokenizer *tokenizer = c->model->parts[c->parts[0]].tokenizer;
    const int64_t room = sara_tokenizer_length(tokenizer) - 2;
    bool same = true;
    *out = NULL;
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++)
        same &= sara_embedding_width(file, i) == encoder_width(c, i);
    if (!same)
        return sara_format(
            c->ctx, out,
            "%s: vectors of width %s, and %s (%s) has text encoders of width %s; use an embedding "
            "that was made for it",
            path, widths_text(sara_embedding_width(file, 0), sara_embedding_width(file, 1)).text,
            model, c->model->family->product,
            widths_text(encoder_width(c, 0), encoder_width(c, 1)).text);
    if (file->count > room)
        return sara_format(c->ctx, out, "%s: %lld vectors, and a text encoder of %s takes %lld",
                           path, (long long)file->count, model, (long long)room);
    return SARA_OK;
}

static sara_status try_entry(chooser *c, sara_embedding_entry *entry)
{
    sara_embedding_file file = {.file = NULL};
    char *why = NULL;
    sara_status status;
    if (entry->pickled) {
        c->pickled = c->pickled ? c->pickled : entry;
        return SARA_OK;
    }
    TRY(sara_embedding_open(c->ctx, &file, entry->path));
    TRY(why_it_does_not_fit(c, &why, &file));
    if (why && !c->refused) {
        c->refused = why;
        why = NULL;
    } else if (why) {
        status = SARA_OK; /* one is told of */
    } else if (!c->chosen) {
        c->chosen = entry;
        c->file = file;
        file.file = NULL;
    } else if (c->tell) {
        sara_log(c->ctx, SARA_LOG_WARNING,
                 "embeddings %s and %s have one name; the first is taken: rename the other, or "
                 "write embedding: and its path below the folder",
                 c->chosen->path, entry->path);
    }
done:
    sara_free(c->ctx, why);
    sara_safetensors_close(file.file);
    return status;
}

static sara_status refuse_all(const chooser *c)
{
    if (c->refused)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s", c->refused);
    return sara_fail(c->ctx, SARA_ERROR_INPUT,
                     "%s: a pickled file, which may run code when it is read; convert it: in "
                     "Python safetensors.torch.save_file({\"emb_params\": "
                     "torch.load(FILE)[\"string_to_param\"][\"*\"].data}, \"%s.safetensors\")",
                     c->pickled->path, c->pickled->name);
}

/* A model that keeps embeddings keeps what it reads. */
static sara_status load_chosen(const chooser *c, sara_embedding *out)
{
    sara_embedding *kept = NULL;
    sara_status status;
    TRY(sara_embedding_load(c->ctx, out, &c->file, c->chosen->name));
    if (c->file.t5 && c->tell)
        sara_log(c->ctx, SARA_LOG_INFO,
                 "embedding %s: its vectors for T5 are not used; CLIP's encoders get theirs",
                 c->chosen->path);
    if (!c->model->keeps_embeddings)
        return SARA_OK;
    TRY(sara_alloc_zero(c->ctx, &kept, 1, sizeof(*kept)));
    TRY(sara_embedding_copy(c->ctx, kept, out));
    c->chosen->kept = kept;
    kept = NULL;
done:
    if (kept)
        sara_embedding_free(c->ctx, kept);
    sara_free(c->ctx, kept);
    return status;
}

static sara_embedding *kept_of(const sara_embedding_folder *folder)
{
    for (size_t i = 0; i < folder->found_count; i++)
        if (folder->entries[folder->found[i]].kept)
            return folder->entries[folder->found[i]].kept;
    return NULL;
}

sara_status sara_embedding_choose(sara_context *ctx, sara_embedding *out, const sara_model *model,
                                  sara_embedding_folder *folder, bool tell)
{
    chooser c = {.ctx = ctx, .model = model, .folder = folder, .tell = tell};
    const sara_embedding *kept = kept_of(folder);
    sara_status status = SARA_OK;
    *out = (sara_embedding){.count = 0};
    if (kept)
        return sara_embedding_copy(ctx, out, kept);
    c.part_count = sara_embedding_parts(model, c.parts);
    for (size_t i = 0; i < folder->found_count; i++)
        TRY(try_entry(&c, &folder->entries[folder->found[i]]));
    if (c.chosen)
        status = load_chosen(&c, out);
    else
        status = refuse_all(&c);
done:
    sara_free(ctx, c.refused);
    sara_safetensors_close(c.file.file);
    return status;
}
