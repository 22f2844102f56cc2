#include "models/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <utf8proc.h>

static const char suffix[] = "</w>";

typedef struct named_id {
    const char *token;
    int32_t id;
    bool reached; /* a byte, the outcome of a merge, or an added token */
} named_id;

typedef struct builder {
    sara_context *ctx;
    sara_tokenizer *tokenizer;
    sara_token_list *list;
    const sara_tokenizer_source *source;
    named_id *ids; /* ascending by id */
    size_t count;
    char *scratch;
    size_t scratch_capacity;
} builder;

/* ------------------------------------------------------------------------------------- vocab */

static int32_t id_of(const builder *in, const char *token)
{
    const json_t *id = json_object_get(in->source->vocab, token);
    return id ? (int32_t)json_integer_value(id) : -1;
}

static int vocab_compare(const void *a, const void *b)
{
    const named_id *left = a, *right = b;
    return (left->id > right->id) - (left->id < right->id);
}

static void reach(builder *in, int32_t id)
{
    const named_id key = {.id = id};
    named_id *found = bsearch(&key, in->ids, in->count, sizeof(*in->ids), vocab_compare);
    if (found)
        found->reached = true;
}

static sara_status read_vocab(builder *in)
{
    json_t *vocab = in->source->vocab, *value;
    const char *token;
    sara_status status;
    TRY(sara_alloc(in->ctx, &in->ids, json_object_size(vocab) + in->list->count, sizeof(*in->ids)));
    json_object_foreach(vocab, token, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= INT32_MAX)
            return sara_tokenizer_refuse(in->ctx, in->source->vocab_source, token, value,
                                         "an id from 0 to 2147483646");
        in->ids[in->count++] = (named_id){token, (int32_t)id, false};
    }
done:
    return status;
}

/* Gives each added token the id of its entry in the vocabulary, or the next free one as
 * transformers does; a file that says otherwise is wrong. */
static sara_status number_added(builder *in)
{
    int64_t size = (int64_t)json_object_size(in->source->vocab), next = size;
    for (size_t i = 0; i < in->list->count; i++) {
        sara_added_token *token = &in->list->items[i];
        token->id = id_of(in, token->content);
        for (size_t j = 0; j < i && token->id < 0; j++)
            if (strcmp(in->list->items[j].content, token->content) == 0)
                token->id = in->list->items[j].id;
        if (token->id < 0) {
            if (next >= INT32_MAX)
                return sara_fail(in->ctx, SARA_ERROR_INPUT,
                                 "%s: no id below 2147483647 is left for added token \"%.100s\"",
                                 in->source->vocab_source, token->content);
            token->id = (int32_t)next;
            in->ids[in->count++] = (named_id){token->content, token->id, true};
        }
        if (token->index >= 0 && token->index != token->id)
            return sara_fail(
                in->ctx, SARA_ERROR_INPUT, "%s: added token \"%.100s\" has id %lld, expected %d",
                in->source->vocab_source, token->content, (long long)token->index, token->id);
        next = token->id >= next ? (int64_t)token->id + 1 : next;
    }
    return SARA_OK;
}

static sara_status sort_ids(builder *in)
{
    qsort(in->ids, in->count, sizeof(*in->ids), vocab_compare);
    for (size_t i = 1; i < in->count; i++)
        if (in->ids[i - 1].id == in->ids[i].id)
            return sara_fail(
                in->ctx, SARA_ERROR_INPUT, "%s: tokens \"%.100s\" and \"%.100s\" both have id %d",
                in->source->vocab_source, in->ids[i - 1].token, in->ids[i].token, in->ids[i].id);
    for (size_t i = 0; i < in->list->count; i++)
        reach(in, in->list->items[i].id);
    return SARA_OK;
}

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100. */
void sara_byte_symbol(char out[3], int byte)
{
    int code = byte, length;
    if (byte <= 0x20)
        code = 0x100 + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
        code = 0x100 + 0x21 + (byte - 0x7F);
    else if (byte == 0xAD)
        code = 0x100 + 0x43;
    length = (int)utf8proc_encode_char(code, (utf8proc_uint8_t *)out);
    out[length] = '\0';
}

static sara_status vocab_read_bytes(builder *in)
{
    const sara_token_list *list = in->list;
    int32_t unknown = list->unknown ? id_of(in, list->unknown) : -1;
    char symbol[16];
    for (int i = 0; i < 512; i++) {
        int last = i / 256, byte = i % 256;
        sara_byte_symbol(symbol, byte);
        if (last)
            strcat(symbol, suffix);
        int32_t id = id_of(in, symbol);
        if (id >= 0)
            reach(in, id);
        else if (unknown < 0)
            return sara_fail(in->ctx, SARA_ERROR_INPUT,
                             "%s: no token \"%s\" for the byte 0x%02x, nor the unk_token "
                             "\"%.100s\"",
                             in->source->vocab_source, symbol, (unsigned)byte,
                             list->unknown ? list->unknown : "");
        in->tokenizer->bytes[last][byte] = id >= 0 ? id : unknown;
    }
    return SARA_OK;
}

/* ------------------------------------------------------------------------------------ merges */

static sara_status refuse_merge(builder *in, const char *unit, size_t number, const char *token)
{
    return sara_fail(in->ctx, SARA_ERROR_INPUT,
                     "%s: %s %zu: token \"%.100s\" is not in the vocabulary",
                     in->source->merges_source, unit, number, token);
}

/* number: of the line or entry, in errors. */
static sara_status add_merge(builder *in, const char *left, const char *right, size_t rank,
                             const char *unit, size_t number)
{
    size_t left_size = strlen(left), right_size = strlen(right);
    sara_merge merge = {id_of(in, left), id_of(in, right), -1, (uint32_t)rank};
    sara_status status;
    TRY(sara_grow(in->ctx, &in->scratch, &in->scratch_capacity, left_size + right_size + 1, 1));
    memcpy(in->scratch, left, left_size);
    memcpy(in->scratch + left_size, right, right_size + 1);
    merge.merged = id_of(in, in->scratch);
    if (merge.left < 0 || merge.right < 0)
        return refuse_merge(in, unit, number, merge.left < 0 ? left : right);
    if (merge.merged < 0)
        return refuse_merge(in, unit, number, in->scratch);
    sara_merges_put(&in->tokenizer->merges, &merge);
    reach(in, merge.merged);
done:
    return status;
}

static sara_status refuse_pair(builder *in, const char *unit, size_t number, const char *text)
{
    return sara_fail(in->ctx, SARA_ERROR_INPUT,
                     "%s: %s %zu: \"%.100s\", expected two tokens and a blank between",
                     in->source->merges_source, unit, number, text);
}

/* Cuts "a b" in two in place. */
static sara_status add_pair(builder *in, char *text, size_t size, size_t rank, const char *unit,
                            size_t number)
{
    char *blank = memchr(text, ' ', size);
    if (strlen(text) != size || !blank || blank == text || blank + 1 == text + size ||
        strchr(blank + 1, ' '))
        return refuse_pair(in, unit, number, text);
    *blank = '\0';
    return add_merge(in, text, blank + 1, rank, unit, number);
}

static bool is_version(const char *line, size_t size)
{
    return size >= 8 && memcmp(line, "#version", 8) == 0;
}

static sara_status read_merges_text(builder *in)
{
    char *text = in->source->merges;
    size_t size = in->source->merges_size, rank = 0, number = 1;
    sara_status status;
    for (size_t i = 0; i < size; i++)
        rank += text[i] == '\n';
    TRY(sara_merges_new(&in->tokenizer->arena, &in->tokenizer->merges, rank + 1));
    rank = 0;
    for (size_t at = 0; at < size; number++) {
        char *line = text + at, *newline = memchr(line, '\n', size - at);
        size_t length = newline ? (size_t)(newline - line) : size - at;
        at += length + (newline != NULL);
        if (length > 0 && line[length - 1] == '\r')
            length--;
        line[length] = '\0'; /* the file has a NUL beyond its end */
        if (length > 0 && !is_version(line, length))
            TRY(add_pair(in, line, length, rank++, "line", number));
    }
done:
    return status;
}

/* Entries are "a b" or ["a", "b"]. */
static sara_status read_merges_list(builder *in)
{
    static const char unit[] = "model.merges entry";
    const json_t *list = in->source->merges_list;
    char *copy = NULL;
    size_t capacity = 0;
    sara_status status;
    TRY(sara_merges_new(&in->tokenizer->arena, &in->tokenizer->merges, json_array_size(list)));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *left = json_string_value(json_array_get(entry, 0));
        const char *right = json_string_value(json_array_get(entry, 1));
        if (json_is_string(entry)) {
            size_t size = json_string_length(entry);
            TRY(sara_grow(in->ctx, &copy, &capacity, size + 1, 1));
            memcpy(copy, json_string_value(entry), size + 1);
            TRY(add_pair(in, copy, size, i, unit, i));
        } else if (left && right && json_array_size(entry) == 2) {
            TRY(add_merge(in, left, right, i, unit, i));
        } else {
            TRY(refuse_pair(in, unit, i, json_is_array(entry) ? "a list" : "no string"));
        }
    }
done:
    sara_free(in->ctx, copy);
    return status;
}

/* Without this a merges.txt that lost its end would go unnoticed and give other ids. */
static sara_status check_reached(const builder *in)
{
    size_t missing = 0, first = 0;
    for (size_t i = in->count; i-- > 0;)
        if (!in->ids[i].reached) {
            missing++;
            first = i;
        }
    if (missing == 0)
        return SARA_OK;
    return sara_fail(in->ctx, SARA_ERROR_INPUT,
                     "%s: no merge makes \"%.100s\" (id %d) of the vocabulary, nor %zu others: "
                     "merges are missing",
                     in->source->merges_source, in->ids[first].token, in->ids[first].id,
                     missing - 1);
}

/* -------------------------------------------------------------------------------- the whole */

static sara_status check_post_id(const builder *in, const json_t *pair, const char *item,
                                 int32_t expected)
{
    const json_t *id = json_array_get(pair, 1);
    char text[32];
    if (json_is_integer(id) && json_integer_value(id) == expected)
        return SARA_OK;
    snprintf(text, sizeof(text), "id %d", expected);
    return sara_tokenizer_refuse(in->ctx, in->source->vocab_source, item, id, text);
}

/* tokenizer.json's post_processor puts the start and end tokens around the text: the same ones? */
static sara_status check_post_processor(const builder *in)
{
    const json_t *post = json_object_get(in->source->json[SARA_FILE_WHOLE], "post_processor");
    const char *type = json_string_value(json_object_get(post, "type"));
    sara_status status = SARA_OK;
    if (!post || json_is_null(post))
        return SARA_OK;
    if (!type || strcmp(type, "RobertaProcessing"))
        return sara_tokenizer_refuse(in->ctx, in->source->vocab_source, "post_processor", post,
                                     "RobertaProcessing, CLIP's");
    TRY(check_post_id(in, json_object_get(post, "cls"), "post_processor.cls",
                      in->tokenizer->start));
    TRY(check_post_id(in, json_object_get(post, "sep"), "post_processor.sep", in->tokenizer->end));
done:
    return status;
}

static int32_t added_id(const sara_token_list *list, const char *content)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].content, content) == 0)
            return list->items[i].id;
    return -1; /* cannot be: the named tokens are in the list */
}

/* The last one of a content rules. */
static bool is_overridden(const sara_token_list *list, size_t index)
{
    for (size_t i = index + 1; i < list->count; i++)
        if (list->items[i].id == list->items[index].id)
            return true;
    return false;
}

/* Moves the tokens to the tokenizer, with what each is looked for by. */
static sara_status keep_tokens(const builder *in, const sara_added_token **out, size_t *count)
{
    sara_text_work work = {.ctx = in->ctx};
    sara_arena *arena = &in->tokenizer->arena;
    sara_added_token *kept = NULL;
    sara_status status;
    *count = 0;
    TRY(sara_arena_alloc(arena, &kept, in->list->count, sizeof(*kept)));
    for (size_t i = 0; i < in->list->count; i++) {
        sara_added_token token = in->list->items[i];
        char *match = NULL;
        if (is_overridden(in->list, i))
            continue;
        TRY(token.normalized ? sara_text_normalize(&work, token.content, strlen(token.content))
                             : sara_text_repair(&work, token.content, strlen(token.content)));
        TRY(sara_arena_alloc(arena, &match, work.size, 1));
        memcpy(match, work.text, work.size);
        token.match = match;
        token.size = work.size;
        token.content = NULL;
        kept[(*count)++] = token;
    }
    *out = kept;
done:
    sara_text_work_free(&work);
    return status;
}

static sara_status vocab_build(builder *in)
{
    sara_tokenizer *tokenizer = in->tokenizer;
    const sara_added_token *kept = NULL;
    size_t count = 0;
    sara_status status;
    TRY(read_vocab(in));
    TRY(number_added(in));
    TRY(sort_ids(in));
    tokenizer->vocab_size = in->ids[in->count - 1].id + 1;
    tokenizer->start = added_id(in->list, in->list->start);
    tokenizer->end = added_id(in->list, in->list->end);
    tokenizer->pad = added_id(in->list, in->list->pad);
    TRY(check_post_processor(in));
    TRY(vocab_read_bytes(in));
    TRY(in->source->merges_list ? read_merges_list(in) : read_merges_text(in));
    TRY(check_reached(in));
    TRY(keep_tokens(in, &kept, &count));
    TRY(sara_token_set_build(&tokenizer->arena, &tokenizer->raw, kept, count, false));
    TRY(sara_token_set_build(&tokenizer->arena, &tokenizer->normalized, kept, count, true));
done:
    return status;
}

sara_status sara_tokenizer_build(sara_tokenizer *tokenizer, sara_token_list *list,
                                 const sara_tokenizer_source *source)
{
    builder in = {.ctx = source->ctx, .tokenizer = tokenizer, .list = list, .source = source};
    sara_status status = vocab_build(&in);
    sara_free(in.ctx, in.ids);
    sara_free(in.ctx, in.scratch);
    return status;
}
