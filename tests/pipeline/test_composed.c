/* Several adapters on a model whose weights are float32 or 16-bit in memory; those of a prompt's
 * tags, which are there for one generation. */
#include "support_pipeline.h"

#include <math.h>

#define FILES 3

typedef struct several {
    const char *paths[FILES];
    double strengths[FILES];
} several;

static several make(test_pipe *pipe)
{
    sara_model *model = test_model(pipe, TEST_TINY, true);
    several s = {{test_adapter(pipe, "a.safetensors", model, 3, 0.25f),
                  test_adapter(pipe, "b.safetensors", model, 5, -0.125f),
                  test_adapter(pipe, "c.safetensors", model, 2, 1.7f)},
                 {0.8, 0.6, -0.3}};
    sara_model_free(model);
    return s;
}

/* A byte for byte copy of the weights as they are stored. */
static const char *bits(test_pipe *pipe, const sara_model *model, size_t *size)
{
    const sara_params *params = &model->denoiser->params;
    char *all = NULL;
    size_t used = 0;
    *size = (size_t)sara_params_entries(params) * sizeof(float);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &all, *size, 1));
    for (size_t i = 0; i < params->count; i++) {
        const sara_tensor *value = &params->items[i].value;
        size_t bytes = (size_t)sara_shape_count(&value->shape) * sara_dtype_size(value->dtype);
        sara_param copy;
        assert_ok(pipe->ctx, sara_param_read(pipe->ctx, &copy, &params->items[i]));
        memcpy(all + used, copy.value.data, bytes);
        sara_param_read_end(pipe->ctx, &copy, &params->items[i]);
        used += bytes;
    }
    *size = used;
    return all;
}

static void check_orders(test_pipe *pipe, const several *s, const char *weight_dtype)
{
    static const int orders[6][FILES] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                         {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    sara_model *model = test_model_stored(pipe, TEST_TINY, true, weight_dtype);
    size_t size;
    const char *base = bits(pipe, model, &size), *expected = NULL;
    for (int o = 0; o < 6; o++) {
        for (int i = 0; i < FILES; i++)
            assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, s->paths[orders[o][i]],
                                                  s->strengths[orders[o][i]], false));
        const char *now = bits(pipe, model, &size);
        expected = expected ? expected : now;
        assert_memory_equal(now, expected, size);
        assert_memory_not_equal(now, base, size);
        sara_model_remove(model);
        assert_memory_equal(bits(pipe, model, &size), base, size);
    }
    sara_model_free(model);
}

static void test_orders(void **state)
{
    static const char *const dtypes[] = {"fp32", "fp16", "bf16"};
    test_pipe *pipe = *state;
    several s = make(pipe);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++)
        check_orders(pipe, &s, dtypes[i]);
}

/* P0 + sum a (P - P0) with P0 as it is in memory, rounded to the weights' dtype at the end. */
static void test_sums(void **state)
{
    test_pipe *pipe = *state;
    several s = make(pipe);
    sara_model *model = test_model_stored(pipe, TEST_TINY, true, "bf16");
    sara_adapter adapters[FILES] = {0};
    size_t count, overlaps = 0;
    sara_param *param = sara_params_find(&model->denoiser->params, "conv_in.weight");
    const float *base = test_values(pipe, model, &count);
    for (int i = 0; i < FILES; i++) {
        assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &adapters[i], s.paths[i]));
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, s.paths[i], s.strengths[i], false));
    }
    size_t first = (size_t)sara_shape_count(&model->denoiser->params.items[0].value.shape);
    assert_string_equal(model->denoiser->params.items[1].name, "conv_in.weight");
    for (size_t at = 0; at < (size_t)sara_shape_count(&param->value.shape); at++) {
        double p0 = base[first + at], sum = 0;
        int covering = 0;
        for (int i = 0; i < FILES; i++) {
            const sara_adapter_entry *entry = &adapters[i].entries[1];
            assert_string_equal(entry->name, "conv_in.weight");
            for (size_t k = 0; k < entry->count; k++)
                if (entry->positions[k] == at) {
                    sum += s.strengths[i] * ((double)entry->values[k] - p0);
                    covering++;
                }
        }
        overlaps += covering > 1;
        double got = sara_param_get(param, at), wanted = p0 + sum;
        /* The sum's order may move a value across a rounding boundary of bf16, no further. */
        assert_close(fabs(got - wanted), fabs(wanted) / 256 + 1e-30, "sum");
    }
    assert_true(overlaps > 10);
    for (int i = 0; i < FILES; i++)
        sara_adapter_free(&adapters[i]);
    sara_model_free(model);
}

/* ---------------------------------------------------------------------------------------- tags */

static sara_generate_options small(const char *prompt)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = prompt;
    options.steps = 1;
    options.width = 32;
    options.height = 16;
    return options;
}

static const uint8_t *draw(test_pipe *pipe, sara_model *model, const sara_generate_options *options)
{
    sara_image *images = NULL;
    uint8_t *pixels = NULL;
    int count;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, options));
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &pixels, 32 * 16 * 3, 1));
    memcpy(pixels, images[0].pixels, 32 * 16 * 3);
    sara_images_free(pipe->ctx, images, count);
    return pixels;
}
#define PIXELS ((size_t)32 * 16 * 3)

/* A tag draws what its adapter applied by hand draws, and leaves the model as it found it. */
static void check_tag(test_pipe *pipe, const char *weight_dtype)
{
    sara_model *wide = test_model(pipe, TEST_BASE, false);
    const char *ink = test_adapter(pipe, "ink.safetensors", wide, 7, 0.02f);
    const char *wash = test_adapter(pipe, "wash.safetensors", wide, 5, -0.01f);
    sara_model_free(wide);
    sara_model *model = test_model_stored(pipe, TEST_BASE, false, weight_dtype);
    sara_generate_options plain = small("a cat"), tagged = small("a <lora:ink:0.5>cat");
    tagged.lora_model_dir = pipe->folder;
    size_t size;
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, wash, 0.4, false));
    const char *before = bits(pipe, model, &size);
    const uint8_t *without = draw(pipe, model, &plain);
    const uint8_t *with = draw(pipe, model, &tagged);
    assert_memory_equal(bits(pipe, model, &size), before, size);
    assert_memory_not_equal(with, without, PIXELS);
    tagged.lora_ignore = true;
    assert_memory_equal(draw(pipe, model, &tagged), without, PIXELS);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, ink, 0.5, false));
    assert_memory_equal(draw(pipe, model, &plain), with, PIXELS);
    sara_model_remove(model);
    sara_model_free(model);
}

static void test_tags(void **state)
{
    check_tag(*state, "fp32");
    check_tag(*state, "bf16");
}

/* Whatever goes wrong on the way, the tags' adapters come off. */
static void test_come_off(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small("a cat<lora:a><lora:z>");
    sara_image *images = NULL;
    int count;
    size_t size;
    test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    test_write(pipe, test_path(pipe, "z.safetensors"), "no safetensors file");
    options.lora_model_dir = pipe->folder;
    const char *before = bits(pipe, model, &size);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "z.safetensors",
                   sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_null(images);
    assert_memory_equal(bits(pipe, model, &size), before, size);
    options.prompt = "a cat<lora:a>";
    pipe->interrupt_at = 1;
    options.steps = 2;
    assert_refused(pipe->ctx, SARA_INTERRUPTED, "interrupted",
                   sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_memory_equal(bits(pipe, model, &size), before, size);
    sara_model_free(model);
}

/* -------------------------------------------------------------------------------- what they say */

static void check_prompts(test_pipe *pipe, const char *prompt, const char *negative,
                          const char *text, const char *negative_text, const char *loras)
{
    sara_generate_options options = small(prompt);
    sara_prompts prompts;
    const char *got = "";
    options.negative_prompt = negative;
    options.lora_model_dir = pipe->folder;
    options.no_prompt_weights = true;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_string_equal(prompts.text.text, text);
    assert_string_equal(prompts.negative.text, negative_text);
    for (size_t i = 0; i < prompts.count; i++) {
        got = test_text(pipe, "%s%s=%.17g ", got, prompts.loras[i].name, prompts.loras[i].strength);
        assert_string_equal(prompts.loras[i].path, test_text(pipe, "%s/%s.safetensors",
                                                             pipe->folder, prompts.loras[i].name));
    }
    assert_string_equal(got, loras);
    sara_prompts_free(pipe->ctx, &prompts);
}

static void make_files(test_pipe *pipe)
{
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_path(pipe, "in")));
    test_write(pipe, test_path(pipe, "ink.safetensors"), "");
    test_write(pipe, test_path(pipe, "in/a b.c.safetensors"), "");
}

static void test_grammar(void **state)
{
    test_pipe *pipe = *state;
    make_files(pipe);
    check_prompts(pipe, "a cat", NULL, "a cat", "", "");
    check_prompts(pipe, "a <lora:ink:0.5>cat", "", "a cat", "", "ink=0.5 ");
    check_prompts(pipe, "<lora:ink>", "<lora:ink:-.25>", "", "", "ink=0.75 ");
    check_prompts(pipe, "a<lora:ink:1e-1>b<lora:in/a b.c:+2.>c", "no <lora:ink:0.5> text", "abc",
                  "no  text", "in/a b.c=2 ink=0.59999999999999998 ");
    check_prompts(pipe, "<hypernet:x:1> < lora:y> (a:1.2)", NULL,
                  "<hypernet:x:1> < lora:y> (a:1.2)", "", "");
}

/* The tags are taken out before weights are read. */
static void test_weights_around_tags(void **state)
{
    test_pipe *pipe = *state;
    sara_generate_options options = small("(a<lora:ink:0.5>b:1.2)<lora:in/a b.c:2> [c]");
    sara_prompts prompts;
    make_files(pipe);
    options.lora_model_dir = pipe->folder;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_int_equal(prompts.count, 2);
    assert_int_equal(prompts.text.count, 3);
    assert_string_equal(prompts.text.text, "ab c");
    assert_int_equal(prompts.text.parts[0].size, 2);
    assert_true(prompts.text.parts[0].weight == 1.2);
    assert_true(prompts.text.parts[2].weight == 1 / 1.1);
    sara_prompts_free(pipe->ctx, &prompts);
}

/* 0.1 + 0.2 + 0.3 depends on the order of its terms. */
static void test_order_of_weights(void **state)
{
    static const char *const prompts[] = {"<lora:ink:0.1><lora:ink:0.2><lora:ink:0.3>",
                                          "<lora:ink:0.3><lora:ink:0.2><lora:ink:0.1>"};
    test_pipe *pipe = *state;
    make_files(pipe);
    for (int i = 0; i < 2; i++)
        check_prompts(pipe, prompts[i], NULL, "", "", "ink=0.60000000000000009 ");
}

static void test_refusals(void **state)
{
    static const struct {
        const char *prompt, *message;
    } bad[] = {
        {"<lora:ink:abc>", "prompt: <lora:ink:abc>: weight abc, expected -100 to 100"},
        {"<lora:ink:>", "<lora:ink:>: weight , expected"},
        {"<lora:ink:0.5:0.5>", "weight 0.5:0.5, expected"},
        {"<lora:ink:101>", "weight 101, expected"},
        {"<lora:ink:1e999>", "weight 1e999, expected"},
        {"<lora:ink:nan>", "weight nan, expected"},
        {"<lora:ink: 1>", "weight  1, expected"},
        {"<lora:ink:0000000000000000000000000000000000000000000001>", "expected -100 to 100"},
        {"<lora::1>", "<lora::1>: names no file"},
        {"<lora:>", "names no file"},
        {"a <lora:ink:1", "<lora:ink:1: a tag without its >"},
        {"<lora:../ink>", "leads out of the folder"},
        {"<lora:in/../../ink:1>", "leads out of the folder"},
        {"<lora:in/..>", "leads out of the folder"},
        {"<lora:/etc/ink>", "leads out of the folder"},
        {"<lora:ink:60>a<lora:ink:60>", "<lora:ink>: the weights of its tags add up to 120"},
    };
    test_pipe *pipe = *state;
    make_files(pipe);
    sara_generate_options options = small("");
    options.lora_model_dir = pipe->folder;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        options.prompt = bad[i].prompt;
        assert_refused(pipe->ctx, SARA_ERROR_USAGE, bad[i].message,
                       sara_generate_check(pipe->ctx, &options));
    }
    options.prompt = "<lora:ink:1><lora:none:0.5>";
    assert_refused(pipe->ctx, SARA_ERROR_IO,
                   "/none.safetensors: no such file; prompt asks for it with <lora:none:0.5>",
                   sara_generate_check(pipe->ctx, &options));
    options.prompt = "<lora:ink>";
    options.save_latents = test_path(pipe, "in/../ink.safetensors");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "ink.safetensors: is the adapter of <lora:ink>",
                   sara_generate_check(pipe->ctx, &options));
    options.save_latents = NULL;
    options.prompt = "a cat";
    options.negative_prompt = "<lora:ink:x>";
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "negative prompt: <lora:ink:x>: weight x",
                   sara_generate_check(pipe->ctx, &options));
    options.negative_prompt = "<lora:ink>";
    options.lora_model_dir = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "negative prompt: <lora:ink>: no folder of",
                   sara_generate_check(pipe->ctx, &options));
}

static void test_text_of_picture(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small("a <lora:ink:0.5>cat");
    const char *base;
    char *text = NULL;
    test_adapter(pipe, "ink.safetensors", model, 70, 0.25f);
    const char *odd = test_adapter(pipe, "b \"\\\xff.safetensors", model, 70, 0.25f);
    options.lora_model_dir = pipe->folder;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    assert_ok(pipe->ctx, sara_generate_text(pipe->ctx, &text, model, &options, 32, 16, 0));
    test_assert_contains(text,
                         test_text(pipe,
                                   "a <lora:ink:0.5>cat\nSteps: 1, Sampler: dpm++2m Karras, "
                                   "CFG scale: 7, Seed: 42, Size: 32x16, Model hash: %.10s, "
                                   "Model: base, Adapters: \"ink: 0.5\", Version: sara ",
                                   base),
                         __FILE__, __LINE__);
    sara_free(pipe->ctx, text);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, odd, 0.1 + 0.2, false));
    assert_ok(pipe->ctx, sara_generate_text(pipe->ctx, &text, model, &options, 32, 16, 0));
    test_assert_contains(text, ", Adapters: \"b \\\"\\\\?: 0.3, ink: 0.5\", Version", __FILE__,
                         __LINE__);
    sara_free(pipe->ctx, text);
    sara_model_remove(model);
    options.lora_ignore = true;
    assert_ok(pipe->ctx, sara_generate_text(pipe->ctx, &text, model, &options, 32, 16, 0));
    assert_null(strstr(text, "Adapters"));
    sara_free(pipe->ctx, text);
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_orders),
        TEST_CASE(test_sums),
        TEST_CASE(test_tags),
        TEST_CASE(test_come_off),
        TEST_CASE(test_grammar),
        TEST_CASE(test_order_of_weights),
        TEST_CASE(test_text_of_picture),
        TEST_CASE(test_refusals),
        TEST_CASE(test_weights_around_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
