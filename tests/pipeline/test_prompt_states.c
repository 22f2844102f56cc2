/* The text encoder's states of prompts with weights and of long ones, against what
 * stable-diffusion-webui makes of them (make_prompt_weights.py). */
#include "support_pipeline.h"

#include <math.h>
#include <stdlib.h>

static sara_prompt_states states_of(test_pipe *pipe, sara_model *model,
                                    const sara_generate_options *options, bool guided)
{
    sara_prompts prompts;
    sara_prompt_states states;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, options));
    const sara_text_source source = {.long_prompt = options->long_prompt};
    assert_ok(pipe->ctx, sara_prompts_encode(pipe->ctx, &states, model, &prompts, guided, &source));
    sara_prompts_free(pipe->ctx, &prompts);
    return states;
}

/* Every fourth state was recorded. */
static void check_states(test_pipe *pipe, const sara_prompt_states *states,
                         const sara_safetensors *file, const char *name)
{
    size_t count, width = (size_t)states->width, rows = (size_t)states->lengths[0] / 4;
    float *expected = test_load_f32(pipe->ctx, file, name, &count), *got = NULL;
    assert_int_equal(states->lengths[1], 0);
    assert_int_equal(count, rows * width);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &got, count, sizeof(*got)));
    for (size_t i = 0; i < rows; i++)
        memcpy(got + i * width, states->data + 4 * i * width, width * sizeof(*got));
    assert_close(test_relative_l2(got, expected, count), 1e-4, name);
    sara_free(pipe->ctx, expected);
}

static void check_model(test_pipe *pipe, const char *folder, const char *kind)
{
    static const char *const names[] = {"weighted", "negative", "zero", "nested", "chunks"};
    sara_model *model = test_model(pipe, folder, false);
    sara_safetensors *file = test_open(pipe->ctx, SARA_TEST_GOLDEN "/prompt_states.safetensors");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        sara_generate_options options;
        sara_generate_options_init(&options);
        options.prompt = sara_safetensors_metadata(file, names[i]);
        options.long_prompt = true;
        sara_prompt_states states = states_of(pipe, model, &options, false);
        check_states(pipe, &states, file, test_text(pipe, "%s.%s", names[i], kind));
        sara_free(pipe->ctx, states.data);
    }
    sara_safetensors_close(file);
    sara_model_free(model);
}

/* Gives the model a copy of a component in the place of the link; its path. */
static const char *own_copy(test_pipe *pipe, const char *folder, const char *component)
{
    const char *from = test_text(pipe, TEST_BASE "/%s", component);
    const char *to = test_text(pipe, "%s-%s", folder, component);
    char **names;
    size_t count;
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, to));
    assert_ok(pipe->ctx, sara_directory_list(pipe->ctx, &names, &count, from));
    for (size_t i = 0; i < count; i++)
        assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, test_text(pipe, "%s/%s", from, names[i]),
                                            test_text(pipe, "%s/%s", to, names[i])));
    sara_directory_free(pipe->ctx, names, count);
    test_relink(pipe, folder, component, to);
    return to;
}

static void replace_text(test_pipe *pipe, const char *path, const char *old, const char *new)
{
    char *text = NULL, *at;
    size_t size;
    assert_ok(pipe->ctx, sara_file_read(pipe->ctx, &text, &size, path, 1 << 16));
    at = strstr(text, old);
    assert_non_null(at);
    test_write(pipe, path,
               test_text(pipe, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old)));
    sara_free(pipe->ctx, text);
}

static void test_first(void **state)
{
    check_model(*state, TEST_BASE, "first");
}

/* As SD2.x has it: OpenCLIP's activation, and padding with id 0. */
static void test_second(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "second");
    const char *old = "\"pad_token\": \"<|endoftext|>\"", *new = "\"pad_token\": \"!\"";
    const char *text = own_copy(pipe, folder, "text_encoder");
    const char *tokenizer = own_copy(pipe, folder, "tokenizer");
    replace_text(pipe, test_text(pipe, "%s/config.json", text), "\"quick_gelu\"", "\"gelu\"");
    replace_text(pipe, test_text(pipe, "%s/tokenizer_config.json", tokenizer), old, new);
    replace_text(pipe, test_text(pipe, "%s/special_tokens_map.json", tokenizer), old, new);
    check_model(pipe, folder, "second");
}

/* A prompt without brackets has the bits it has without weights, and those of a caption. */
static void test_same_bits(void **state)
{
    static const char *const texts[] = {"", "winking face, a hat", "(winking face:1)", "\\(a\\)"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        const char *plain = i == 2 ? texts[1] : texts[i];
        sara_generate_options options;
        sara_text_states expected;
        sara_generate_options_init(&options);
        options.prompt = i == 2 ? "(winking face:1), a hat" : texts[i];
        options.no_prompt_weights = i == 3;
        sara_prompt_states states = states_of(pipe, model, &options, false);
        assert_ok(pipe->ctx, sara_model_encode_text(pipe->ctx, &expected, model, plain));
        assert_int_equal(states.lengths[0], expected.length);
        assert_memory_equal(states.data, expected.states,
                            (size_t)(expected.length * states.width) * sizeof(float));
        sara_free(pipe->ctx, states.data);
        sara_text_states_free(pipe->ctx, &expected);
    }
    sara_model_free(model);
}

/* The prompts may have different numbers of chunks. */
static void test_lengths(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "a BREAK b BREAK c";
    options.negative_prompt = "d BREAK e";
    options.long_prompt = true;
    sara_prompt_states states = states_of(pipe, model, &options, true), alone;
    assert_int_equal(states.lengths[0], 64);
    assert_int_equal(states.lengths[1], 96);
    alone = states_of(pipe, model, &options, false);
    assert_int_equal(alone.lengths[0], 96);
    assert_memory_equal(alone.data, states.data + 64 * states.width,
                        (size_t)(96 * states.width) * sizeof(float));
    sara_free(pipe->ctx, states.data);
    sara_free(pipe->ctx, alone.data);
    sara_model_free(model);
}

/* Where the mean is 0 no factor restores it: the states stay scaled and finite, and a line says
 * so. */
static void test_no_mean(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_params *params = &model->parts[TEST_TEXT].network->params;
    sara_generate_options options;
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT));
    for (size_t i = 0; i < params->count; i++)
        if (strstr(params->items[i].name, "final_layer_norm"))
            memset(params->items[i].value.data, 0,
                   (size_t)sara_shape_count(&params->items[i].value.shape) * sizeof(float));
    sara_generate_options_init(&options);
    options.prompt = "(red:1.4) face";
    sara_prompt_states states = states_of(pipe, model, &options, true);
    for (int64_t i = 0; i < (states.lengths[0] + states.lengths[1]) * states.width; i++)
        assert_true(states.data[i] == 0);
    assert_non_null(strstr(pipe->log, "the prompt's weights make the mean of its states 0;"));
    assert_null(strstr(pipe->log, "the negative prompt's"));
    sara_free(pipe->ctx, states.data);
    sara_model_free(model);
}

/* So is a mean so near to 0 that restoring it changes everything. */
static void test_large_factor(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "(grinning:0) face with (hat)";
    sara_prompt_states states = states_of(pipe, model, &options, false);
    assert_non_null(strstr(pipe->log, "the prompt's weights change the mean of its states; "
                                      "restoring it scales all of them by 3."));
    sara_free(pipe->ctx, states.data);
    sara_model_free(model);
}

/* What is told before anything is drawn, each once. */
static void test_told(void **state)
{
    test_pipe *pipe = *state;
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "(red:1.4) face, [[hat]]";
    options.negative_prompt = "[a:b:0.5], c AND (d|e) BREAK";
    assert_ok(pipe->ctx, sara_generate_check(pipe->ctx, &options));
    assert_string_equal(
        pipe->log,
        "prompt weights: \"red\" 1.4, \"face,\" 1, \"hat\" 0.826446; negative prompt weights: "
        "\"a:b:0.5\" 0.909091, \", c AND\" 1, \"d|e\" 1.1, \"BREAK\" 1\n"
        "negative prompt: [a:b:0.5]: prompt editing is not supported; read as weighted text\n"
        "negative prompt: AND: joining prompts is not supported; read as a word\n"
        "negative prompt: BREAK: begins a new chunk with --long-prompt alone; read as a word\n");
    free(pipe->log);
    pipe->log = NULL;
    options.prompt = "(a:1) [b|c] \\(d\\)";
    options.negative_prompt = "a BREAK b";
    options.long_prompt = true;
    assert_ok(pipe->ctx, sara_generate_check(pipe->ctx, &options));
    assert_string_equal(pipe->log,
                        "prompt weights: \"a\" 1, \"b|c\" 0.909091, \"(d)\" 1\n"
                        "prompt: [b|c]: alternation is not supported; read as weighted text\n");
    free(pipe->log);
    pipe->log = NULL;
    options.no_prompt_weights = true;
    assert_ok(pipe->ctx, sara_generate_check(pipe->ctx, &options));
    options.no_prompt_weights = false;
    options.prompt = "a \\(b\\) c)";
    assert_ok(pipe->ctx, sara_generate_check(pipe->ctx, &options));
    assert_null(pipe->log);
    options.prompt = "(a:1e3) (b:200)";
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "prompt: \"b\": weight 200, expected -100 to 100",
                   sara_generate_check(pipe->ctx, &options));
}

/* Only so many parts, and so much of each, stand in the line. */
static void test_told_long(void **state)
{
    test_pipe *pipe = *state;
    sara_generate_options options;
    const char *text = "(\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                       "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                       "\xc3\xa9x\xc3\xa9\xc3\xa9)";
    for (int i = 0; i < 20; i++)
        text = test_text(pipe, "%s(%d:%d)", text, i, 2 + i);
    sara_generate_options_init(&options);
    options.prompt = text;
    assert_ok(pipe->ctx, sara_generate_check(pipe->ctx, &options));
    assert_non_null(strstr(pipe->log, "\xc3\xa9x...\" 1.1, \"0\" 2, "));
    assert_non_null(strstr(pipe->log, "\"14\" 16, and 5 more\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_first),     TEST_CASE(test_second),       TEST_CASE(test_same_bits),
        TEST_CASE(test_lengths),   TEST_CASE(test_no_mean),      TEST_CASE(test_told),
        TEST_CASE(test_told_long), TEST_CASE(test_large_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
