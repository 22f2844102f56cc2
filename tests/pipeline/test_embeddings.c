/* Prompts with embeddings: states and latents as diffusers has them, ids and chunks as A1111
 * (make_embeddings.py), and what is known of prompts by which embeddings are in them. */
#include "pipeline/embedding.h"
#include "support_golden.h"

#define RECORDED SARA_TEST_GOLDEN "/embeddings"

static sara_generate_options options_with(const char *folder, const char *prompt)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = prompt;
    options.embedding_dir = folder;
    return options;
}

/* Of the prompt alone; arrays: sara_free(). */
static sara_prompt_states embedded_states(test_pipe *pipe, sara_model *model,
                                          const sara_generate_options *options)
{
    const sara_text_source source = {.long_prompt = options->long_prompt};
    sara_prompt_states states;
    sara_prompts prompts;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, options));
    assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, options, false));
    assert_ok(pipe->ctx, sara_prompts_encode(pipe->ctx, &states, model, &prompts, false, &source));
    sara_prompts_free(pipe->ctx, &prompts);
    return states;
}

static void check_recorded(test_pipe *pipe, const sara_safetensors *file, const char *name,
                           const float *got, int64_t rows, int64_t width, int64_t every)
{
    size_t count;
    float *want = test_load_f32(pipe->ctx, file, name, &count), *kept = NULL;
    assert_int_equal(count, (rows + every - 1) / every * width);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &kept, count, sizeof(*kept)));
    for (int64_t row = 0; row < rows; row += every)
        memcpy(kept + row / every * width, got + row * width, (size_t)width * sizeof(*kept));
    assert_close(test_relative_l2(kept, want, count), 1e-5, name);
    sara_free(pipe->ctx, want);
}

static void check_recorded_prompts(test_pipe *pipe, const char *path, const char *folder,
                                   const char *const *names, int64_t every)
{
    sara_model *model = test_model(pipe, path, false);
    sara_safetensors *file = test_open(pipe->ctx, RECORDED "/expected.safetensors");
    for (; *names; names++) {
        const char *prompt = sara_safetensors_metadata(file, *names);
        sara_generate_options options = options_with(folder, prompt);
        sara_prompt_states s = embedded_states(pipe, model, &options);
        check_recorded(pipe, file, *names, s.data, s.lengths[0], s.width, every);
        if (s.pooled)
            check_recorded(pipe, file, test_text(pipe, "%s.pooled", *names), s.pooled, 1,
                           s.pooled_width, 1);
        sara_free(pipe->ctx, s.data);
        sara_free(pipe->ctx, s.pooled);
    }
    sara_safetensors_close(file);
    sara_model_free(model);
}

static void test_sd1_states(void **state)
{
    static const char *const names[] = {"single", "several", "both", "cut", "plain", NULL};
    check_recorded_prompts(*state, TEST_GOLDEN_MODEL, RECORDED "/sd1", names, 1);
}

static void test_sdxl_states(void **state)
{
    static const char *const names[] = {"xl", "xl_first", "xl_explicit", NULL};
    check_recorded_prompts(*state, test_family("sdxl").text, RECORDED "/sdxl", names, 2);
}

/* Of the folder above, each file is for one of the models. */
static void test_latents(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    sara_safetensors *file = test_open(pipe->ctx, RECORDED "/expected.safetensors");
    sara_generate_options options = options_with(RECORDED, NULL);
    const char *from = test_path(pipe, "start.safetensors");
    size_t count;
    float *start = test_load_f32(pipe->ctx, file, "start", &count);
    const sara_tensor_source source = {"latents", SARA_F32, sara_shape4(1, 4, 8, 8), start};
    sara_image *images;
    int drawn;
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, from, &source, 1, NULL, 0));
    options.prompt = sara_safetensors_metadata(file, "single");
    options.negative_prompt = sara_safetensors_metadata(file, "several");
    options.steps = 3;
    options.guidance_scale = 4;
    options.init_latents = from;
    options.save_latents = test_path(pipe, "end.safetensors");
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &drawn, model, &options));
    sara_images_free(pipe->ctx, images, drawn);
    sara_safetensors *end = test_open(pipe->ctx, options.save_latents);
    float *got = test_load_f32(pipe->ctx, end, "latents", &count);
    float *want = test_load_f32(pipe->ctx, file, "latents", &count);
    assert_close(test_relative_l2(got, want, count), 1e-4, "latents");
    sara_safetensors_close(end);
    sara_safetensors_close(file);
    sara_free(pipe->ctx, start);
    sara_free(pipe->ctx, got);
    sara_free(pipe->ctx, want);
    sara_model_free(model);
}

/* ---------------------------------------------------------------------------------------- A1111 */

/* A file of `count` vectors, each of one value: 1, 2, ... */
static void put_embedding(test_pipe *pipe, const char *name, int64_t count, int64_t width)
{
    float *values = NULL;
    const sara_tensor_source source = {"emb_params", SARA_F32, sara_shape2(count, width), NULL};
    sara_tensor_source made = source;
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &values, (size_t)(count * width), sizeof(*values)));
    for (int64_t i = 0; i < count * width; i++)
        values[i] = (float)(1 + i / width);
    made.data = values;
    assert_ok(pipe->ctx,
              sara_safetensors_save(pipe->ctx, test_path(pipe, name), &made, 1, NULL, 0));
    sara_free(pipe->ctx, values);
}

/* "a (toy:1.2) x" of the parts [text, weight] */
static const char *prompt_of(test_pipe *pipe, const json_t *parts)
{
    const char *prompt = "";
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *text = json_string_value(json_array_get(part, 0));
        double weight = json_number_value(json_array_get(part, 1));
        prompt = weight == 1 ? test_text(pipe, "%s%s", prompt, text)
                             : test_text(pipe, "%s(%s:%g)", prompt, text, weight);
    }
    return prompt;
}

/* The id that stands for what was recorded: a number, or of vectors ["name", number]. */
static int32_t recorded_id(const sara_prompt *prompt, const json_t *item)
{
    int32_t id = -1;
    if (json_is_integer(item))
        return (int32_t)json_integer_value(item);
    const char *name = json_string_value(json_array_get(item, 0));
    for (size_t i = 0; i < prompt->embedding_count; i++) {
        if (strcmp(prompt->embeddings[i].name, name) == 0)
            return id - (int32_t)json_integer_value(json_array_get(item, 1));
        id -= (int32_t)prompt->embeddings[i].count;
    }
    fail_msg("%s is not in the prompt", name);
    return 0;
}

static void check_chunk(const sara_prompt *prompt, const sara_prompt_chunks *chunks, size_t number,
                        const json_t *chunk, const char *text)
{
    for (size_t i = 0; i < json_array_size(chunk); i++) {
        const json_t *item = json_array_get(chunk, i);
        size_t at = number * chunks->length + 1 + i;
        if (chunks->ids[at] != recorded_id(prompt, json_array_get(item, 0)))
            fail_msg("%s: chunk %zu, id %zu: %d", text, number, i, chunks->ids[at]);
        assert_true(chunks->weights[at] == (float)json_number_value(json_array_get(item, 1)));
    }
    assert_true(chunks->ids[number * chunks->length + 1 + json_array_size(chunk)] > 0);
}

static const sara_tokenizer *first_tokenizer(const sara_model *model)
{
    int part;
    assert_ok(model->ctx, sara_model_find_tokenizer(model->ctx, &part, model, 0));
    return model->parts[part].tokenizer;
}

static void check_case(test_pipe *pipe, sara_model *model, const json_t *row)
{
    const json_t *expected = json_object_get(row, "chunks");
    sara_generate_options options =
        options_with(pipe->folder, prompt_of(pipe, json_object_get(row, "parts")));
    sara_prompt_chunks chunks;
    sara_prompts prompts;
    options.long_prompt = true;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, &options, false));
    assert_ok(pipe->ctx, sara_prompt_chunks_make(pipe->ctx, &chunks, first_tokenizer(model),
                                                 &prompts.text, true));
    if (chunks.count != json_array_size(expected))
        fail_msg("%s: %zu chunks, expected %zu", options.prompt, chunks.count,
                 json_array_size(expected));
    for (size_t i = 0; i < chunks.count; i++)
        check_chunk(&prompts.text, &chunks, i, json_array_get(expected, i), options.prompt);
    sara_prompt_chunks_free(pipe->ctx, &chunks);
    sara_prompts_free(pipe->ctx, &prompts);
}

static void test_chunks(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    json_t *recorded = NULL, *count;
    const char *name;
    assert_ok(pipe->ctx, sara_json_load(pipe->ctx, &recorded, RECORDED "/chunks.json", false));
    json_object_foreach(json_object_get(recorded, "names"), name, count) put_embedding(
        pipe, test_text(pipe, "%s.safetensors", name), json_integer_value(count), 128);
    const json_t *rows = json_object_get(recorded, "cases");
    assert_int_equal(json_array_size(rows), 20);
    for (size_t i = 0; i < json_array_size(rows); i++)
        check_case(pipe, model, json_array_get(rows, i));
    json_decref(recorded);
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------ not A1111 */

/* The ids of a prompt's first chunk up to its end, as text. */
static const char *ids_text(test_pipe *pipe, sara_model *model,
                            const sara_generate_options *options, size_t chunk)
{
    sara_prompt_chunks chunks;
    sara_prompts prompts;
    const char *text = "";
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, options));
    assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, options, false));
    assert_ok(pipe->ctx, sara_prompt_chunks_make(pipe->ctx, &chunks, first_tokenizer(model),
                                                 &prompts.text, options->long_prompt));
    const sara_tokenizer_marks marks = sara_tokenizer_marks_of(first_tokenizer(model));
    const int32_t *ids = chunks.ids + chunk * chunks.length + 1;
    assert_true(chunk < chunks.count);
    for (; *ids != marks.end; ids++)
        text = test_text(pipe, "%s%d ", text, *ids);
    sara_prompt_chunks_free(pipe->ctx, &chunks);
    sara_prompts_free(pipe->ctx, &prompts);
    return text;
}

/* Ways to name one file, and what names none. */
static void test_names(void **state)
{
    static const char *const same[] = {
        "embedding:toy",
        "embedding:toy,",
        "embedding:toy.safetensors",
        "embedding:sub/deep/toy",
        "embedding:deep/toy",
        "TOY",
        "(embedding:toy:1.0)",
        "embedding:toy,embedding:toy",
        "\nembedding:toy\t",
    };
    static const char *const others[] = {"toys", "embedding:", "", "to y", "<toyx>", "'toy'"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_path(pipe, "sub/deep")));
    put_embedding(pipe, "sub/deep/toy.safetensors", 2, 8);
    for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
        sara_generate_options options = options_with(pipe->folder, same[i]);
        const char *got = ids_text(pipe, model, &options, 0);
        if (strncmp(got, "-1 -2 ", 6) != 0)
            fail_msg("%s: %s", same[i], got);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        sara_generate_options options = options_with(pipe->folder, others[i]);
        if (strchr(ids_text(pipe, model, &options, 0), '-'))
            fail_msg("%s: is found", others[i]);
    }
    sara_model_free(model);
}

/* What follows a comma goes to the next chunk with its vectors. */
static void test_moved(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    sara_generate_options options = options_with(pipe->folder, "bbbbbbbbbb,toy b");
    put_embedding(pipe, "toy.safetensors", 3, 8);
    options.long_prompt = true;
    assert_ptr_not_equal(strstr(ids_text(pipe, model, &options, 1), "-1 -2 -3 "), NULL);
    assert_null(strstr(ids_text(pipe, model, &options, 0), "-1"));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- identity */

static sara_image *drawn_again(test_pipe *pipe, sara_model *model,
                               const sara_generate_options *options)
{
    sara_image *images;
    int count;
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, options));
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, options));
    assert_int_equal(count, 1);
    return images;
}

static bool same_pixels(const sara_image *a, const sara_image *b)
{
    return memcmp(a->pixels, b->pixels, (size_t)a->width * (size_t)a->height * 3) == 0;
}

/* A prompt that is kept is another when its embedding's file changes; a model that keeps them does
 * not look again. */
static void test_changed(void **state)
{
    test_pipe *pipe = *state;
    for (int keeps = 0; keeps < 2; keeps++) {
        sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
        sara_generate_options options = options_with(pipe->folder, "a toy");
        options.steps = 2;
        if (keeps)
            sara_model_keep_embeddings(model);
        put_embedding(pipe, "toy.safetensors", 2, 8);
        sara_image *first = drawn_again(pipe, model, &options);
        assert_int_equal(model->prompt_count, 2);
        put_embedding(pipe, "toy.safetensors", 5, 8);
        sara_image *second = drawn_again(pipe, model, &options);
        assert_int_equal(model->prompt_count, keeps ? 2 : 3);
        assert_int_equal(same_pixels(first, second), keeps);
        sara_images_free(pipe->ctx, first, 1);
        sara_images_free(pipe->ctx, second, 1);
        sara_model_free(model);
    }
}

typedef struct noted_keys {
    char keys[4][65];
    size_t count;
} noted_keys;

static sara_status note_key(void *user, bool *there, sara_text_states *out, const char *key)
{
    noted_keys *keys = user;
    (void)out;
    *there = false;
    memcpy(keys->keys[keys->count++], key, 65);
    return SARA_OK;
}

static sara_status keep_nothing(void *user, const sara_text_states *states, const char *key)
{
    (void)user, (void)states, (void)key;
    return SARA_OK;
}

/* The names of states on the disk depend on the embeddings' files. */
static void test_keys(void **state)
{
    test_pipe *pipe = *state;
    noted_keys keys = {.count = 0};
    const sara_prompt_store store = {&keys, note_key, keep_nothing};
    for (int i = 0; i < 4; i++) {
        sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
        sara_generate_options options = options_with(i == 3 ? NULL : pipe->folder, "a toy");
        options.guidance_scale = 1;
        put_embedding(pipe, "toy.safetensors", i == 1 ? 3 : 2, 8);
        model->prompt_store = &store;
        assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
        sara_model_free(model);
    }
    assert_int_equal(keys.count, 4);
    assert_string_equal(keys.keys[0], keys.keys[2]);
    assert_string_not_equal(keys.keys[0], keys.keys[1]);
    assert_string_not_equal(keys.keys[0], keys.keys[3]);
}

/* SD3's CLIP encoders get theirs, T5 the text without the name. */
static void test_sd3(void **state)
{
    static const float values[8] = {1, -1, 2, 0.5f, -3, 1, 1, 2};
    static const sara_tensor_source pair[] = {{"clip_g", SARA_F32, {2, {2, 4}}, values},
                                              {"clip_l", SARA_F32, {2, {2, 4}}, values}};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SARA_TEST_GOLDEN "/sd3_tiny", false);
    sara_generate_options options = options_with(pipe->folder, "a embedding:toy b");
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, test_path(pipe, "toy.safetensors"), pair,
                                               2, NULL, 0));
    sara_prompt_states s = embedded_states(pipe, model, &options), plain;
    options.prompt = "a  b";
    plain = embedded_states(pipe, model, &options);
    const size_t clip = (size_t)(32 * s.width), all = (size_t)(s.lengths[0] * s.width);
    assert_int_equal(s.lengths[0], plain.lengths[0]);
    assert_true(test_relative_l2(s.data, plain.data, clip) > 0.1);
    assert_memory_equal(s.data + clip, plain.data + clip, (all - clip) * sizeof(float));
    sara_free(pipe->ctx, s.data);
    sara_free(pipe->ctx, s.pooled);
    sara_free(pipe->ctx, plain.data);
    sara_free(pipe->ctx, plain.pooled);
    sara_model_free(model);
}

/* What is cut of T5's text is told without names. */
static void test_sd3_cut(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, SARA_TEST_GOLDEN "/sd3_tiny", false);
    const sara_tokenizer *t5 = model->parts[model->family->part_count - 1].tokenizer;
    const sara_tensor_source pair[] = {
        {"clip_g", SARA_F32, {1, {4}}, (const float[4]){1, 2, 0, -1}},
        {"clip_l", SARA_F32, {1, {4}}, (const float[4]){1, 2, 0, -1}}};
    sara_generate_options options = options_with(pipe->folder, "a embedding:toy b");
    int32_t *ids;
    size_t count;
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, test_path(pipe, "toy.safetensors"), pair,
                                               2, NULL, 0));
    assert_ok(pipe->ctx, sara_tokenizer_encode(t5, &ids, &count, "a  b"));
    options.max_sequence_length = (int)count;
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
    assert_non_null(strstr(pipe->log, "the prompt's embeddings are for CLIP; T5 takes it without"));
    assert_null(strstr(pipe->log, "too long for T5"));
    options.max_sequence_length--;
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
    assert_non_null(strstr(pipe->log, "the prompt is too long for T5: 1 tokens were cut off"));
    sara_free(pipe->ctx, ids);
    sara_model_free(model);
}

/* T5 gets what is left of the text. */
static void test_t5_text(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    sara_generate_options options = options_with(RECORDED "/sd1", "a <cat-toy>, (bad-hands:1.2) b");
    sara_prompts prompts;
    char *text;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, &options, true));
    assert_ok(pipe->ctx, sara_prompt_t5_text(pipe->ctx, &text, &prompts.text));
    assert_string_equal(text, "a ,  b");
    assert_non_null(strstr(pipe->log, "prompt: learned_embeds is an embedding of 1 vector, "));
    assert_non_null(strstr(pipe->log, "prompt: bad-hands is an embedding of 3 vectors, "));
    sara_free(pipe->ctx, text);
    sara_prompts_free(pipe->ctx, &prompts);
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd1_states), TEST_CASE(test_sdxl_states), TEST_CASE(test_latents),
        TEST_CASE(test_chunks),     TEST_CASE(test_names),       TEST_CASE(test_moved),
        TEST_CASE(test_changed),    TEST_CASE(test_keys),        TEST_CASE(test_t5_text),
        TEST_CASE(test_sd3),        TEST_CASE(test_sd3_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
