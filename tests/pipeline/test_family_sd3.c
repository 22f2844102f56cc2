/* StableDiffusion3Pipeline as diffusers runs it, with T5 and without: embeddings, latents and
 * pictures. A tiny model is committed; those of the whole set of golden files are larger. */
#include "support_pipeline.h"

#include <math.h>
#include <stdlib.h>

enum { SD3_TEXT_3 = 4 };

typedef struct sd3_expected {
    sara_safetensors *file;
    json_t *prompts, *negative; /* null: it is not given */
    int sequence;
    sara_model *model;
} sd3_expected;

static json_t *sd3_metadata(const sara_safetensors *file, const char *key)
{
    json_t *value = json_loads(sara_safetensors_metadata(file, key), JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    return value;
}

static const char *sd3_tiny(void)
{
    return SARA_TEST_GOLDEN "/sd3_tiny";
}

static sd3_expected sd3_open(test_pipe *pipe, const char *folder, const char *name, bool no_t5)
{
    const sara_model_options options = {.size = sizeof(options), .no_t5 = no_t5};
    sd3_expected e = {
        .file = test_open(pipe->ctx, test_text(pipe, "%s/expected/%s.safetensors", folder, name))};
    const char *sequence = sara_safetensors_metadata(e.file, "max_sequence_length");
    e.prompts = sd3_metadata(e.file, "prompts");
    e.negative = sd3_metadata(e.file, "negative_prompt");
    e.sequence = sequence ? atoi(sequence) : 0;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &e.model, folder, &options));
    return e;
}

static void sd3_close(sd3_expected *e)
{
    json_decref(e->prompts);
    json_decref(e->negative);
    sara_safetensors_close(e->file);
    sara_model_free(e->model);
}

static sara_generate_options sd3_options(const sd3_expected *e, size_t row)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = json_string_value(json_array_get(e->prompts, row));
    options.negative_prompt = json_string_value(e->negative);
    options.steps = atoi(sara_safetensors_metadata(e->file, "steps")); /* guidance 7: its own */
    options.max_sequence_length = e->sequence;
    return options;
}

static void check_sd3_values(test_pipe *pipe, const sd3_expected *e, const char *name,
                             const float *got, int64_t count)
{
    size_t size;
    float *want = test_load_f32(pipe->ctx, e->file, name, &size);
    assert_int_equal(size, count);
    assert_close(test_relative_l2(got, want, size), 1e-5, name);
    sara_free(pipe->ctx, want);
}

static void check_sd3_embeddings(test_pipe *pipe, const sd3_expected *e)
{
    const sara_generate_options options = sd3_options(e, 0);
    const sara_text_source source = {.sequence = e->sequence};
    sara_prompt_states s;
    sara_prompts prompts;
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_ok(pipe->ctx, sara_prompts_encode(pipe->ctx, &s, e->model, &prompts, true, &source));
    int64_t count = s.lengths[0] * s.width;
    check_sd3_values(pipe, e, "negative_prompt_embeds", s.data, count);
    check_sd3_values(pipe, e, "prompt_embeds", s.data + count, s.lengths[1] * s.width);
    check_sd3_values(pipe, e, "negative_pooled_prompt_embeds", s.pooled, s.pooled_width);
    check_sd3_values(pipe, e, "pooled_prompt_embeds", s.pooled + s.pooled_width, s.pooled_width);
    sara_free(pipe->ctx, s.data);
    sara_free(pipe->ctx, s.pooled);
    sara_prompts_free(pipe->ctx, &prompts);
}

/* Of the first prompt. */
static void check_sd3_picture(test_pipe *pipe, const sd3_expected *e, const sara_image *image)
{
    const size_t plane = (size_t)image->width * (size_t)image->height;
    size_t count;
    float *want = test_load_f32(pipe->ctx, e->file, "image", &count);
    assert_true(count >= 3 * plane);
    for (size_t i = 0; i < 3 * plane; i++)
        assert_close(fabs(image->pixels[i % plane * 3 + i / plane] - 255 * (double)want[i]), 1.0,
                     "picture");
    sara_free(pipe->ctx, want);
}

static void check_sd3_row(test_pipe *pipe, const sd3_expected *e, size_t row)
{
    const char *from = test_path(pipe, "start.safetensors");
    const char *to = test_path(pipe, "end.safetensors");
    sara_generate_options options = sd3_options(e, row);
    sara_shape shape = sara_safetensors_find(e->file, "start")->shape;
    sara_image *images;
    size_t count;
    int drawn;
    shape.dims[0] = 1;
    const size_t size = (size_t)sara_shape_count(&shape);
    float *start = test_load_f32(pipe->ctx, e->file, "start", &count);
    float *want = test_load_f32(pipe->ctx, e->file, "latents", &count);
    const sara_tensor_source source = {"latents", SARA_F32, shape, start + row * size};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, from, &source, 1, NULL, 0));
    options.init_latents = from;
    options.save_latents = to;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &drawn, e->model, &options));
    sara_safetensors *file = test_open(pipe->ctx, to);
    float *got = test_load_f32(pipe->ctx, file, "latents", &count);
    assert_int_equal(count, size);
    assert_close(test_relative_l2(got, want + row * size, size), 1e-4, options.prompt);
    if (row == 0)
        check_sd3_picture(pipe, e, images);
    sara_images_free(pipe->ctx, images, drawn);
    sara_free(pipe->ctx, got);
    sara_free(pipe->ctx, want);
    sara_free(pipe->ctx, start);
    sara_safetensors_close(file);
}

static void check_sd3(test_pipe *pipe, const char *folder, const char *name, bool no_t5, int parts)
{
    sd3_expected e = sd3_open(pipe, folder, name, no_t5);
    assert_int_equal(e.model->family->part_count, parts);
    check_sd3_embeddings(pipe, &e);
    for (size_t row = 0; row < json_array_size(e.prompts); row++)
        check_sd3_row(pipe, &e, row);
    sd3_close(&e);
}

/* States, latents and pictures, with T5 and without. */
static void test_sd3_tiny(void **state)
{
    check_sd3(*state, sd3_tiny(), "flow_euler", false, 5);
    check_sd3(*state, sd3_tiny(), "without_t5", true, 4);
}

/* A negative prompt that is not given is an empty one's states, never zeros. */
static void test_sd3_whole(void **state)
{
    if (!test_families_whole())
        return;
    check_sd3(*state, test_family("sd3").text, "flow_euler", false, 5);
    check_sd3(*state, test_family("sd3").text, "flow_euler_empty_negative", false, 5);
    check_sd3(*state, test_family("sd35_medium").text, "flow_euler", false, 4);
}

/* How many states T5 gives is the caller's to say; CLIP's stay. */
static void test_sequences(void **state)
{
    static const int sequences[] = {40, 77};
    test_pipe *pipe = *state;
    sara_text_states states[2] = {{0}, {0}};
    sara_prompt prompt;
    int64_t length;
    sara_model *model = test_model(pipe, sd3_tiny(), false);
    assert_ok(pipe->ctx, sara_prompt_literal(pipe->ctx, &prompt, "a red dragon"));
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT));
    for (int i = 0; i < 2; i++) {
        const sara_text_source source = {.sequence = sequences[i]};
        assert_ok(pipe->ctx, model->family->encode(pipe->ctx, &states[i], model, &prompt, &source));
        assert_int_equal(states[i].length, 32 + sequences[i]);
        assert_ok(pipe->ctx, model->family->measure(pipe->ctx, &length, model, &prompt, &source));
        assert_int_equal(length, 32 + sequences[i]);
    }
    assert_memory_equal(states[0].states, states[1].states, 32 * 10 * sizeof(float));
    assert_memory_equal(states[0].pooled, states[1].pooled, 6 * sizeof(float));
    /* Captions have 77. */
    assert_ok(pipe->ctx, sara_model_text_length(pipe->ctx, &length, model));
    assert_int_equal(length, 32 + SARA_CAPTION_LENGTH);
    sara_text_states_free(pipe->ctx, &states[0]);
    sara_text_states_free(pipe->ctx, &states[1]);
    sara_prompt_free(pipe->ctx, &prompt);
    sara_model_free(model);
}

/* Weights scale CLIP's states: T5's are those of the text without them. */
static void test_prompt_weights(void **state)
{
    const sara_text_source source = {.sequence = 20};
    test_pipe *pipe = *state;
    sara_text_states plain = {0}, weighted = {0};
    sara_prompt prompts[2];
    sara_model *model = test_model(pipe, sd3_tiny(), false);
    assert_ok(pipe->ctx, sara_prompt_literal(pipe->ctx, &prompts[0], "a red dragon"));
    assert_ok(pipe->ctx,
              sara_prompt_parse(pipe->ctx, &prompts[1], "a (red:1.5) dragon", "prompt", false));
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT));
    assert_ok(pipe->ctx, model->family->encode(pipe->ctx, &plain, model, &prompts[0], &source));
    assert_ok(pipe->ctx, model->family->encode(pipe->ctx, &weighted, model, &prompts[1], &source));
    assert_true(memcmp(plain.states, weighted.states, 32 * 10 * sizeof(float)) != 0);
    assert_memory_equal(plain.states + 32 * 10, weighted.states + 32 * 10, 20 * 10 * sizeof(float));
    for (int i = 0; i < 2; i++)
        sara_prompt_free(pipe->ctx, &prompts[i]);
    sara_text_states_free(pipe->ctx, &plain);
    sara_text_states_free(pipe->ctx, &weighted);
    sara_model_free(model);
}

static void test_sd3_options_refused(void **state)
{
    const sara_model_options options = {.size = sizeof(options), .no_t5 = true};
    test_pipe *pipe = *state;
    sara_model *model = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "has no T5 text encoder; that goes with SD3",
                   sara_model_load(pipe->ctx, &model, TEST_BASE, &options));
    assert_null(model);
    model = test_model(pipe, sd3_tiny(), false);
    sara_generate_options draw;
    sara_generate_options_init(&draw);
    draw.prompt = "a cat";
    draw.max_sequence_length = 513;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "max_sequence_length 513: expected 1 to 512",
                   sara_generate_encode(pipe->ctx, model, &draw));
    sara_model_free(model);
    model = test_model(pipe, TEST_BASE, false);
    draw.max_sequence_length = 77;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE,
                   "max_sequence_length 77: ", sara_generate_encode(pipe->ctx, model, &draw));
    sara_model_free(model);
}

static void test_sd3_unsupported(void **state)
{
    (void)state;
    json_t *config = json_loads("{\"_class_name\": \"SD3Transformer2DModel\", "
                                "\"in_channels\": 33, \"out_channels\": 16}",
                                0, NULL);
    sara_context *ctx = test_context();
    const sara_family *family;
    assert_refused(ctx, SARA_ERROR_INPUT, "is of an inpainting, edit or depth model of SD3",
                   sara_family_of_config(ctx, &family, config, "config.json"));
    json_decref(config);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd3_tiny),
        TEST_CASE(test_sd3_whole),
        TEST_CASE(test_sequences),
        TEST_CASE(test_prompt_weights),
        TEST_CASE(test_sd3_options_refused),
        TEST_CASE(test_sd3_unsupported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
