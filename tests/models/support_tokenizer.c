#include "support_tokenizer.h"

#include <stdlib.h>

#define BASE TOKENIZER_BASE

tokenizer_fixture test_tokenizer_new(void)
{
    tokenizer_fixture f = {.ctx = test_context(), .folder = test_folder()};
    assert_ok(f.ctx, sara_file_read(f.ctx, &f.vocab, &f.vocab_size, BASE "/vocab.json", 1 << 20));
    assert_ok(f.ctx, sara_file_read(f.ctx, &f.merges, &f.merges_size, BASE "/merges.txt", 1 << 20));
    return f;
}

void test_tokenizer_free(tokenizer_fixture *f)
{
    sara_free(f->ctx, f->vocab);
    sara_free(f->ctx, f->merges);
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
}

void test_tokenizer_put(const tokenizer_fixture *f, const char *name, const char *data, size_t size)
{
    free(test_file(f->folder, name, data, size));
}

void test_tokenizer_put_text(const tokenizer_fixture *f, const char *name, const char *text)
{
    test_tokenizer_put(f, name, text, strlen(text));
}

void test_tokenizer_put_json(const tokenizer_fixture *f, const char *name, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENSURE_ASCII);
    assert_non_null(text);
    test_tokenizer_put_text(f, name, text);
    free(text);
}

void test_tokenizer_put_base(const tokenizer_fixture *f)
{
    test_tokenizer_put(f, "vocab.json", f->vocab, f->vocab_size);
    test_tokenizer_put(f, "merges.txt", f->merges, f->merges_size);
}

/* tokenizer.json as transformers 5 writes it: everything but vocabulary and merges. */
static const char whole_text[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "{\"id\": 3206, \"content\": \"<|startoftext|>\", \"single_word\": false, \"lstrip\": false,"
    " \"rstrip\": false, \"normalized\": false, \"special\": true},"
    "{\"id\": 3207, \"content\": \"<|endoftext|>\", \"single_word\": false, \"lstrip\": false,"
    " \"rstrip\": false, \"normalized\": false, \"special\": true}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"},"
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"content\": \" \"},"
    "{\"type\": \"Lowercase\"}]},"
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\","
    "\"pattern\": {\"Regex\": \"<\\\\|startoftext\\\\|>|<\\\\|endoftext\\\\|>|'s|'t|'re|'ve|'m|'ll"
    "|'d|[\\\\p{L}]+|[\\\\p{N}]|[^\\\\s\\\\p{L}\\\\p{N}]+\"},"
    "\"behavior\": \"Removed\", \"invert\": true},"
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true,"
    " \"use_regex\": true}]},"
    "\"post_processor\": {\"type\": \"RobertaProcessing\", \"sep\": [\"<|endoftext|>\", 3207],"
    "\"cls\": [\"<|startoftext|>\", 3206], \"trim_offsets\": false, \"add_prefix_space\": false},"
    "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true},"
    "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<|endoftext|>\","
    "\"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"</w>\", \"fuse_unk\": false,"
    "\"byte_fallback\": false, \"ignore_merges\": false}}";

static json_t *merges_list(const tokenizer_fixture *f, bool pairs)
{
    json_t *list = json_array();
    char *copy = strdup(f->merges), *rest = copy;
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        char *blank = strchr(line, ' ');
        if (!blank || line[0] == '#')
            continue;
        json_t *pair = json_pack("[s#, s]", line, (int)(blank - line), blank + 1);
        assert_int_equal(json_array_append_new(list, pairs ? pair : json_string(line)), 0);
        if (!pairs)
            json_decref(pair);
    }
    free(copy);
    assert_int_equal(json_array_size(list), 2694);
    return list;
}

json_t *test_tokenizer_whole(const tokenizer_fixture *f, bool pairs)
{
    json_t *whole = json_loads(whole_text, 0, NULL), *model = json_object_get(whole, "model");
    assert_non_null(model);
    json_object_set_new(model, "vocab", json_loads(f->vocab, 0, NULL));
    json_object_set_new(model, "merges", merges_list(f, pairs));
    return whole;
}
