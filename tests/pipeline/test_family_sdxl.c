/* StableDiffusionXLPipeline as diffusers runs it: ids, embeddings, latents after each step and
 * pictures; which folders are one. */
#include "support_pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { SDXL_DENOISER, SDXL_VAE, SDXL_TEXT, SDXL_TEXT_2 };

typedef struct xl_expected {
    sara_safetensors *file;
    json_t *prompts, *negative; /* null: it is not given */
    int height, width, steps;
} xl_expected;

static json_t *metadata_json(const sara_safetensors *file, const char *key)
{
    json_t *value = json_loads(sara_safetensors_metadata(file, key), JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    return value;
}

static int metadata_int(const sara_safetensors *file, const char *key)
{
    return atoi(sara_safetensors_metadata(file, key));
}

static xl_expected xl_open(test_pipe *pipe, const char *name)
{
    const char *path = test_family(test_text(pipe, "sdxl/expected/%s.safetensors", name)).text;
    xl_expected e = {.file = test_open(pipe->ctx, test_text(pipe, "%s", path))};
    e.prompts = metadata_json(e.file, "prompts");
    e.negative = metadata_json(e.file, "negative_prompt");
    e.height = metadata_int(e.file, "height");
    e.width = metadata_int(e.file, "width");
    e.steps = metadata_int(e.file, "steps");
    return e;
}

static void xl_close(xl_expected *e)
{
    json_decref(e->prompts);
    json_decref(e->negative);
    sara_safetensors_close(e->file);
}

static sara_model *xl_model(test_pipe *pipe, const xl_expected *e)
{
    sara_model *model = test_model(pipe, test_family("sdxl").text, false);
    const char *text = sara_safetensors_metadata(e->file, "scheduler_config");
    json_t *config = NULL;
    assert_ok(pipe->ctx, sara_json_parse(pipe->ctx, &config, text, strlen(text), "expected", true));
    assert_ok(pipe->ctx,
              sara_scheduler_config_parse(pipe->ctx, &model->scheduler, config, "expected", NULL));
    json_decref(config);
    return model;
}

static const char *xl_prompt(const xl_expected *e, size_t row)
{
    return json_string_value(json_array_get(e->prompts, row));
}

/* --------------------------------------------------------------------------------- embeddings */

static void check_xl_ids(test_pipe *pipe, const xl_expected *e, const sara_tokenizer *tokenizer,
                         const char *name, size_t row, const char *text)
{
    const sara_shape any = sara_shape2(-1, 32);
    sara_tensor want;
    int32_t ids[32];
    assert_ok(pipe->ctx, sara_safetensors_load(e->file, &want, name, SARA_I64, &any));
    assert_ok(pipe->ctx, sara_tokenizer_pad(tokenizer, ids, NULL, text));
    for (size_t i = 0; i < 32; i++)
        assert_int_equal(ids[i], ((const int64_t *)want.data)[row * 32 + i]);
    sara_tensor_free(pipe->ctx, &want);
}

static void test_ids(void **state)
{
    test_pipe *pipe = *state;
    xl_expected e = xl_open(pipe, "euler");
    sara_model *model = xl_model(pipe, &e);
    assert_int_equal(json_array_size(e.prompts), 3);
    for (int i = 0; i < 2; i++) {
        const sara_tokenizer *tokenizer = model->parts[SDXL_TEXT + i].tokenizer;
        for (size_t row = 0; row < 3; row++)
            check_xl_ids(pipe, &e, tokenizer, test_text(pipe, "input_ids_%d", i + 1), row,
                         xl_prompt(&e, row));
        check_xl_ids(pipe, &e, tokenizer, test_text(pipe, "negative_input_ids_%d", i + 1), 0,
                     json_string_value(e.negative));
    }
    sara_model_free(model);
    xl_close(&e);
}

static void check_values(test_pipe *pipe, const xl_expected *e, const char *name, const float *got,
                         int64_t count)
{
    size_t size;
    float *want = test_load_f32(pipe->ctx, e->file, name, &size);
    assert_int_equal(size, count);
    assert_close(test_relative_l2(got, want, size), 1e-5, name);
    sara_free(pipe->ctx, want);
}

/* [the negative prompt's, the prompt's] of the first prompt; arrays: sara_free(). */
static sara_prompt_states xl_states(test_pipe *pipe, const xl_expected *e, sara_model *model)
{
    sara_generate_options options;
    sara_prompt_states states;
    sara_prompts prompts;
    sara_generate_options_init(&options);
    options.prompt = xl_prompt(e, 0);
    options.negative_prompt = json_string_value(e->negative);
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_ok(pipe->ctx, sara_prompts_encode(pipe->ctx, &states, model, &prompts, true,
                                             &(sara_text_source){.sequence = 0}));
    assert_int_equal(states.lengths[0], states.lengths[1]);
    sara_prompts_free(pipe->ctx, &prompts);
    return states;
}

static void check_embeddings(test_pipe *pipe, const char *name)
{
    xl_expected e = xl_open(pipe, name);
    sara_model *model = xl_model(pipe, &e);
    sara_prompt_states s = xl_states(pipe, &e, model);
    int64_t count = s.lengths[0] * s.width;
    check_values(pipe, &e, "negative_prompt_embeds", s.data, count);
    check_values(pipe, &e, "prompt_embeds", s.data + count, count);
    check_values(pipe, &e, "negative_pooled_prompt_embeds", s.pooled, s.pooled_width);
    check_values(pipe, &e, "pooled_prompt_embeds", s.pooled + s.pooled_width, s.pooled_width);
    sara_free(pipe->ctx, s.data);
    sara_free(pipe->ctx, s.pooled);
    sara_model_free(model);
    xl_close(&e);
}

static void test_embeddings(void **state)
{
    static const char *const names[] = {"euler", "euler_zero_negative", "euler_empty_negative",
                                        "dpmpp2m_karras"};
    for (int i = 0; i < (test_families_whole() ? 4 : 1); i++)
        check_embeddings(*state, names[i]);
}

/* -------------------------------------------------------------------------------------- latents */

/* output [2][size]: predictions without and with the prompt; the first becomes the guided one */
static void xl_predict(test_pipe *pipe, sara_model *model, const sara_prompt_states *s,
                       const float *input, const sara_shape *shape, double timestep, float *output)
{
    static const float sizes[12] = {32, 48, 0, 0, 32, 48, 32, 48, 0, 0, 32, 48};
    const size_t size = (size_t)sara_shape_count(shape);
    const double timesteps[2] = {timestep, timestep};
    float *twice = NULL, *ids = NULL;
    const float *values;
    sara_tape *tape;
    sara_var *out;
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &twice, 2 * size, sizeof(float)));
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &ids, 12, sizeof(float)));
    memcpy(ids, sizes, sizeof(sizes));
    memcpy(twice, input, size * sizeof(float));
    memcpy(twice + size, input, size * sizeof(float));
    const sara_tensor sample = {SARA_F32, sara_shape4(2, 4, shape->dims[2], shape->dims[3]), twice};
    const sara_tensor condition[SARA_CONDITION_KINDS] = {
        [SARA_CONDITION_STATES] = {SARA_F32, sara_shape3(2, s->lengths[0], s->width), s->data},
        [SARA_CONDITION_POOLED] = {SARA_F32, sara_shape2(2, s->pooled_width), s->pooled},
        [SARA_CONDITION_TIME_IDS] = {SARA_F32, sara_shape2(2, 6), ids}};
    assert_ok(pipe->ctx, sara_tape_new(pipe->ctx, &tape, model->device));
    assert_ok(pipe->ctx,
              sara_denoiser_predict(tape, &out, model->denoiser, &sample, timesteps, condition));
    assert_ok(pipe->ctx, sara_tape_read(tape, &values, out));
    for (size_t i = 0; i < size; i++)
        output[i] = values[i] + 5 * (values[size + i] - values[i]);
    sara_tape_free(tape);
    sara_free(pipe->ctx, twice);
    sara_free(pipe->ctx, ids);
}

/* The latents after each step. */
static void check_trail(test_pipe *pipe, const char *name)
{
    xl_expected e = xl_open(pipe, name);
    sara_model *model = xl_model(pipe, &e);
    sara_prompt_states s = xl_states(pipe, &e, model);
    const sara_shape shape = sara_shape4(1, 4, e.height / 4, e.width / 4);
    const size_t size = (size_t)sara_shape_count(&shape);
    size_t count;
    float *x = test_load_f32(pipe->ctx, e.file, "start", &count);
    float *trail = test_load_f32(pipe->ctx, e.file, "trail", &count);
    float *input = NULL, *output = NULL;
    sara_sampler *sampler;
    assert_int_equal(count, size * (size_t)e.steps);
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &input, size, sizeof(float)));
    assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &output, size, sizeof(float)));
    assert_ok(pipe->ctx, sara_sampler_new(pipe->ctx, &sampler, &model->scheduler, e.steps));
    for (size_t i = 0; i < size; i++)
        x[i] *= (float)sara_sampler_init_noise_sigma(sampler);
    for (int i = 0; i < e.steps; i++) {
        sara_sampler_scale_input(sampler, i, input, x, size);
        xl_predict(pipe, model, &s, input, &shape, sara_sampler_timestep(sampler, i), output);
        assert_ok(pipe->ctx, sara_sampler_step(sampler, i, x, output, NULL, size));
        assert_close(test_relative_l2(x, trail + (size_t)i * size, size), 1e-4, name);
    }
    sara_sampler_free(sampler);
    sara_free(pipe->ctx, input);
    sara_free(pipe->ctx, output);
    sara_free(pipe->ctx, trail);
    sara_free(pipe->ctx, x);
    sara_free(pipe->ctx, s.data);
    sara_free(pipe->ctx, s.pooled);
    sara_model_free(model);
    xl_close(&e);
}

static void test_trail(void **state)
{
    check_trail(*state, "euler");
    if (test_families_whole())
        check_trail(*state, "dpmpp2m_karras");
}

/* image: 0 to 1, [3][plane] */
static void check_xl_image(const sara_image *got, const float *image)
{
    const size_t plane = (size_t)got->width * (size_t)got->height;
    for (size_t i = 0; i < 3 * plane; i++) {
        double level = 255 * (double)image[i];
        assert_close(fabs(got->pixels[i % plane * 3 + i / plane] - level), 1.0, "picture");
    }
}

static void check_row(test_pipe *pipe, const xl_expected *e, sara_model *model, size_t row)
{
    const sara_tensor_info *pictures = sara_safetensors_find(e->file, "image");
    const sara_shape shape = sara_shape4(1, 4, e->height / 4, e->width / 4);
    const size_t size = (size_t)sara_shape_count(&shape);
    const char *from = test_path(pipe, "start.safetensors"),
               *to = test_path(pipe, "end.safetensors");
    size_t count;
    float *start = test_load_f32(pipe->ctx, e->file, "start", &count);
    float *want = test_load_f32(pipe->ctx, e->file, "latents", &count);
    const sara_tensor_source source = {"latents", SARA_F32, shape, start + row * size};
    sara_generate_options options;
    sara_image *images;
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, from, &source, 1, NULL, 0));
    sara_generate_options_init(&options);
    options.prompt = xl_prompt(e, row);
    options.negative_prompt = json_string_value(e->negative);
    options.steps = e->steps; /* guidance 5 is the family's */
    options.init_latents = from;
    options.save_latents = to;
    int drawn;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &drawn, model, &options));
    sara_safetensors *file = test_open(pipe->ctx, to);
    float *got = test_load_f32(pipe->ctx, file, "latents", &count);
    assert_close(test_relative_l2(got, want + row * size, size), 1e-4, options.prompt);
    if (pictures && (int64_t)row < pictures->shape.dims[0]) {
        float *image = test_load_f32(pipe->ctx, e->file, "image", &count);
        check_xl_image(images, image + row * 48 * size / 4);
        sara_free(pipe->ctx, image);
    }
    sara_images_free(pipe->ctx, images, drawn);
    sara_free(pipe->ctx, got);
    sara_free(pipe->ctx, want);
    sara_free(pipe->ctx, start);
    sara_safetensors_close(file);
}

static void check_file(test_pipe *pipe, const char *name)
{
    xl_expected e = xl_open(pipe, name);
    sara_model *model = xl_model(pipe, &e);
    for (size_t row = 0; row < json_array_size(e.prompts); row++)
        check_row(pipe, &e, model, row);
    sara_model_free(model);
    xl_close(&e);
}

static void test_euler(void **state)
{
    check_file(*state, "euler");
}

/* A negative prompt that is not given is zeros, an empty one is not. */
static void test_negative_prompts(void **state)
{
    check_file(*state, "euler_zero_negative");
    check_file(*state, "euler_empty_negative");
}

static void test_dpmpp2m_karras(void **state)
{
    check_file(*state, "dpmpp2m_karras");
}

/* ----------------------------------------------------------------------------------- the folder */

/* A folder of links to the parts of the model, with an index and a U-Net config of its own. */
static const char *xl_folder(test_pipe *pipe, const char *name, const char *index, const char *unet)
{
    static const char *const linked[] = {"vae",         "text_encoder", "text_encoder_2",
                                         "tokenizer_2", "tokenizer",    "scheduler"};
    const char *folder = test_path(pipe, name),
               *source = test_text(pipe, "%s", test_family("sdxl").text);
    const char *const edits[] = {index, unet};
    const char *const files[] = {"model_index.json", "unet/config.json"};
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_text(pipe, "%s/unet", folder)));
    for (size_t i = 0; i < sizeof(linked) / sizeof(*linked); i++)
        assert_int_equal(symlink(test_text(pipe, "%s/%s", source, linked[i]),
                                 test_text(pipe, "%s/%s", folder, linked[i])),
                         0);
    assert_int_equal(
        symlink(test_text(pipe, "%s/unet/diffusion_pytorch_model.safetensors", source),
                test_text(pipe, "%s/unet/diffusion_pytorch_model.safetensors", folder)),
        0);
    for (int i = 0; i < 2; i++) {
        json_t *json = json_load_file(test_text(pipe, "%s/%s", source, files[i]), 0, NULL);
        json_t *changes = json_loads(edits[i], 0, NULL);
        assert_int_equal(json_object_update(json, changes), 0);
        char *text = json_dumps(json, 0);
        test_write(pipe, test_text(pipe, "%s/%s", folder, files[i]), text);
        free(text);
        json_decref(json);
        json_decref(changes);
    }
    return folder;
}

static void test_other_kinds(void **state)
{
    static const struct {
        const char *unet, *error;
    } cases[] = {
        {"{\"in_channels\": 9}", "unet/config.json: in_channels: 9: an inpainting model, which is"},
        {"{\"in_channels\": 8}", "in_channels: 8: an edit model (InstructPix2Pix), which is given"},
        {"{\"in_channels\": 5}", "in_channels: 5: a depth model, which is given depths too"},
        {"{\"cross_attention_dim\": 36, \"addition_time_embed_dim\": 8}",
         "unet/config.json: is of SDXL's refiner, which goes over what another model has drawn; "
         "use "
         "the base model"},
        {"{\"addition_embed_type\": \"text_image\"}", "of another kind than those of SD1.x"},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *folder = xl_folder(pipe, test_text(pipe, "kind-%zu", i), "{}", cases[i].unet);
        sara_model *model = NULL;
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_model_load(pipe->ctx, &model, folder, NULL));
        assert_null(model);
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, cases[i].error,
                       sara_model_load(pipe->ctx, &model, test_text(pipe, "%s/unet", folder),
                                       &(sara_model_options){.unet_only = true}));
    }
}

/* A text encoder of another width, and one whose pooled states are wider. */
static void test_other_widths(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = xl_folder(pipe, "widths", "{}", "{}");
    sara_model *model = test_model(pipe, folder, false);
    model->parts[SDXL_TEXT_2].network->info.text.pooled_size++;
    assert_refused(pipe->ctx, SARA_ERROR_INPUT,
                   "text encoders' pooled states of width 29, the U-Net takes 28: they must agree",
                   model->family->check_texts(model));
    sara_model_free(model);
    test_relink(pipe, folder, "text_encoder", TEST_BASE "/text_encoder");
    assert_refused(
        pipe->ctx, SARA_ERROR_INPUT,
        "text_encoder + text_encoder_2 hidden_size 128 + 32, unet cross_attention_dim 56: "
        "they must agree",
        sara_model_load(pipe->ctx, &model, folder, NULL));
    assert_null(model);
}

/* Where the index says so, a negative prompt that is not given is encoded as an empty one. */
static void test_encoded_negative(void **state)
{
    test_pipe *pipe = *state;
    xl_expected zero = xl_open(pipe, "euler_zero_negative"),
                e = xl_open(pipe, "euler_empty_negative");
    const char *folder =
        xl_folder(pipe, "model", "{\"force_zeros_for_empty_prompt\": false}", "{}");
    sara_model *models[2] = {test_model(pipe, folder, false), xl_model(pipe, &e)};
    sara_prompt_states given = xl_states(pipe, &e, models[1]);
    sara_prompt_states absent = xl_states(pipe, &zero, models[0]);
    assert_memory_equal(absent.data, given.data,
                        (size_t)((given.lengths[0] + given.lengths[1]) * given.width) *
                            sizeof(float));
    assert_memory_equal(absent.pooled, given.pooled,
                        2 * (size_t)given.pooled_width * sizeof(float));
    for (int i = 0; i < 2; i++) {
        sara_free(pipe->ctx, i ? given.data : absent.data);
        sara_free(pipe->ctx, i ? given.pooled : absent.pooled);
        sara_model_free(models[i]);
    }
    xl_close(&zero);
    xl_close(&e);
}

/* The first tokenizer, to which "cat</w>" in a text is one token. */
static sara_tokenizer *other_tokenizer(test_pipe *pipe)
{
    static const char *const linked[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    const char *folder = test_path(pipe, "words");
    const char *source = test_text(pipe, "%s", test_family("sdxl/tokenizer").text);
    sara_tokenizer *tokenizer = NULL;
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    for (int i = 0; i < 3; i++)
        assert_int_equal(symlink(test_text(pipe, "%s/%s", source, linked[i]),
                                 test_text(pipe, "%s/%s", folder, linked[i])),
                         0);
    test_write(pipe, test_text(pipe, "%s/special_tokens_map.json", folder),
               "{\"additional_special_tokens\": [\"cat</w>\"]}");
    assert_ok(pipe->ctx, sara_tokenizer_load(pipe->ctx, &tokenizer, folder, 32));
    return tokenizer;
}

/* A chunk more of both encoders where one tokenizer alone needs it. */
static void test_long_prompts(void **state)
{
    static const char text[] = "cat</w> cat</w> cat</w> cat</w> cat</w> cat</w> cat</w>";
    test_pipe *pipe = *state;
    xl_expected e = xl_open(pipe, "euler");
    sara_model *model = xl_model(pipe, &e);
    const sara_text_source source = {.name = "prompt", .long_prompt = true};
    sara_text_states states = {0}, first = {0};
    sara_prompt prompt;
    int64_t length;
    sara_tokenizer_free(model->parts[SDXL_TEXT].tokenizer);
    model->parts[SDXL_TEXT].tokenizer = other_tokenizer(pipe);
    assert_ok(pipe->ctx, sara_prompt_literal(pipe->ctx, &prompt, text));
    assert_ok(pipe->ctx, model->family->measure(pipe->ctx, &length, model, &prompt, &source));
    assert_int_equal(length, 64);
    assert_ok(pipe->ctx, sara_model_encode_text(pipe->ctx, &first, model, ""));
    assert_ok(pipe->ctx, model->family->encode(pipe->ctx, &states, model, &prompt, &source));
    assert_int_equal(states.length, 64);
    /* The first encoder's second chunk is one of an empty text. */
    for (int64_t row = 0; row < 32; row++)
        assert_memory_equal(states.states + (32 + row) * 56, first.states + row * 56,
                            24 * sizeof(float));
    assert_true(memcmp(states.states + 33 * 56 + 24, first.states + 56 + 24, 32 * sizeof(float)));
    sara_text_states_free(pipe->ctx, &states);
    sara_text_states_free(pipe->ctx, &first);
    sara_prompt_free(pipe->ctx, &prompt);
    sara_model_free(model);
    xl_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_ids),
        TEST_CASE(test_embeddings),
        TEST_CASE(test_trail),
        TEST_CASE(test_euler),
        TEST_CASE(test_negative_prompts),
        TEST_CASE(test_dpmpp2m_karras),
        TEST_CASE(test_other_kinds),
        TEST_CASE(test_other_widths),
        TEST_CASE(test_encoded_negative),
        TEST_CASE(test_long_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
