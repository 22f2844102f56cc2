/* Which parts of a model are in memory: read when a stage needs them, given back after it. */
#include "support/memory.h"
#include "support_pipeline.h"

#include "pipeline/metadata.h"

#include <stdlib.h>
#include <unistd.h>

#define VAE_FILE "diffusion_pytorch_model.safetensors"

/* Whether a part's values are there, all or none of them. */
static bool is_there(const sara_model *model, int part)
{
    const sara_network *network = model->parts[part].network;
    for (size_t i = 0; i < network->params.count; i++)
        assert_int_equal(network->params.items[i].value.data != NULL, network->there);
    return network->there;
}

static void assert_there(const sara_model *model, bool text, bool vae)
{
    assert_int_equal(is_there(model, TEST_TEXT), text);
    assert_int_equal(is_there(model, TEST_VAE), vae);
}

static size_t bytes_of(const sara_param *param)
{
    return (size_t)sara_shape_count(&param->value.shape) * sara_dtype_size(param->value.dtype);
}

/* All values of a part; lives as long as the test. */
static char *values_of(test_pipe *pipe, const sara_model *model, int part, size_t *size)
{
    const sara_params *params = &model->parts[part].network->params;
    char *all = NULL, *at;
    *size = (size_t)sara_params_bytes(params);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &all, *size, 1));
    at = all;
    for (size_t i = 0; i < params->count; at += bytes_of(&params->items[i++]))
        memcpy(at, params->items[i].value.data, bytes_of(&params->items[i]));
    return all;
}

static void test_need_and_give_back(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    size_t size, again;
    assert_there(model, false, false);
    assert_true(is_there(model, TEST_DENOISER));
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT | SARA_STAGE_DENOISE));
    assert_there(model, true, false);
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_IMAGES));
    assert_there(model, true, true);
    const char *text = values_of(pipe, model, TEST_TEXT, &size);
    sara_model_give_back(model, SARA_STAGE_DENOISE | SARA_STAGE_DECODE);
    assert_there(model, false, true);
    sara_model_release(model);
    assert_there(model, false, false);
    assert_true(is_there(model, TEST_DENOISER));
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_TEXT | SARA_STAGE_DECODE));
    assert_there(model, true, true);
    assert_memory_equal(values_of(pipe, model, TEST_TEXT, &again), text, size);
    assert_int_equal(size, again);
    sara_model_free(model);
}

/* A denoiser stays, with drawn weights too. */
static void test_drawn_stays(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_new_random(pipe->ctx, &model, "tiny", 1, NULL, NULL));
    sara_model_give_back(model, 0);
    assert_true(is_there(model, TEST_DENOISER));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------- changed files */

/* A model whose VAE is a file of its own, which may be changed. */
static const char *with_own_vae(test_pipe *pipe, const char *name)
{
    const char *folder = test_linked_model(pipe, name);
    const char *vae = test_text(pipe, "%s-vae", folder);
    static const char *const files[] = {"config.json", VAE_FILE};
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, vae));
    for (size_t i = 0; i < 2; i++)
        assert_ok(pipe->ctx,
                  sara_file_copy(pipe->ctx, test_text(pipe, TEST_BASE "/vae/%s", files[i]),
                                 test_text(pipe, "%s/%s", vae, files[i])));
    test_relink(pipe, folder, "vae", vae);
    return folder;
}

static void check_refused(test_pipe *pipe, sara_model *model, const char *file, const char *how)
{
    const char *line = test_text(pipe, "%s: was %s since it was opened", file, how);
    assert_refused(pipe->ctx, SARA_ERROR_IO, line, sara_model_need(model, SARA_STAGE_DECODE));
    assert_there(model, false, false);
}

/* Told before anything is drawn, which would be lost. */
static void check_refused_drawing(test_pipe *pipe, sara_model *model, const char *file)
{
    sara_generate_options options;
    sara_image *images = NULL;
    int count;
    sara_generate_options_init(&options);
    options.prompt = "a fox";
    options.steps = 1;
    options.save_latents = test_text(pipe, "%s/latents.safetensors", pipe->folder);
    assert_refused(pipe->ctx, SARA_ERROR_IO, test_text(pipe, "%s: was changed", file),
                   sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_false(sara_path_exists(options.save_latents));
    sara_model_release(model);
}

/* Between two prompts is time to stop. */
static void test_interrupted(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "a fox";
    sara_context_interrupt(pipe->ctx);
    assert_refused(pipe->ctx, SARA_INTERRUPTED, "interrupted",
                   sara_generate_encode(pipe->ctx, model, &options));
    assert_there(model, false, false);
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
    assert_there(model, true, false);
    sara_model_free(model);
}

static void test_changed_files(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = with_own_vae(pipe, "work");
    const char *file = test_text(pipe, "%s/vae/" VAE_FILE, folder);
    sara_model *model = test_model(pipe, folder, false);
    size_t size, again;
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_DECODE));
    const char *values = values_of(pipe, model, TEST_VAE, &size);
    sara_model_release(model);
    /* Removed, it is still open. */
    const char *aside = test_text(pipe, "%s.aside", file);
    assert_int_equal(rename(file, aside), 0);
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_DECODE));
    assert_memory_equal(values_of(pipe, model, TEST_VAE, &again), values, size);
    sara_model_release(model);
    assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, aside, file));
    check_refused(pipe, model, file, "replaced");
    assert_int_equal(rename(aside, file), 0);
    FILE *written = fopen(file, "r+");
    assert_non_null(written);
    assert_int_equal(fputc(1, written), 1);
    assert_int_equal(fclose(written), 0);
    check_refused(pipe, model, file, "changed");
    check_refused_drawing(pipe, model, file);
    assert_int_equal(truncate(file, 4096), 0);
    assert_refused(pipe->ctx, SARA_ERROR_IO, file, sara_model_need(model, SARA_STAGE_DECODE));
    assert_there(model, false, false);
    sara_model_free(model);
}

/* ----------------------------------------------------------------------------------- no memory */

static void test_failing_allocations(void **state)
{
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    sara_model *model = NULL;
    long before, n = 0;
    (void)state;
    assert_ok(ctx, sara_model_load(ctx, &model, TEST_BASE, NULL));
    before = allocator.alive;
    for (sara_status status = SARA_ERROR_MEMORY; status != SARA_OK; n++) {
        allocator.left = n;
        status = sara_model_need(model, SARA_STAGE_TEXT);
        allocator.left = -1;
        if (status != SARA_OK) {
            assert_int_equal(status, SARA_ERROR_MEMORY);
            assert_int_equal(allocator.alive, before);
        }
        assert_there(model, status == SARA_OK, false);
    }
    assert_true(n > 20);
    sara_model_release(model);
    assert_int_equal(allocator.alive, before);
    sara_model_free(model);
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

/* ------------------------------------------------------------------------------- prompts ahead */

#define PICTURE_SIZE ((size_t)32 * 16 * 3)

static const uint8_t *draw(test_pipe *pipe, sara_model *model, const char *prompt)
{
    sara_generate_options options;
    sara_image *images = NULL;
    uint8_t *pixels = NULL;
    int count;
    sara_generate_options_init(&options);
    options.prompt = prompt;
    options.negative_prompt = "sad";
    options.steps = 2;
    options.width = 32;
    options.height = 16;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &pixels, PICTURE_SIZE, 1));
    memcpy(pixels, images[0].pixels, PICTURE_SIZE);
    sara_images_free(pipe->ctx, images, count);
    return pixels;
}

static void encode(test_pipe *pipe, sara_model *model, const char *prompt)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = prompt;
    options.negative_prompt = "sad";
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
}

/* Prompts that were encoded ahead need no text encoder, and the pictures are the same. They differ
 * in weights alone. */
static void test_prompts_ahead(void **state)
{
    static const char *const prompts[] = {"red face", "(red:1.4) face", "(red:0.6) face"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const uint8_t *expected[3];
    for (int i = 0; i < 3; i++)
        expected[i] = draw(pipe, model, prompts[i]);
    assert_there(model, true, true); /* a caller's model keeps its parts */
    for (int i = 0; i < 3; i++)
        encode(pipe, model, prompts[i]);
    assert_int_equal(model->prompt_count, 4); /* with the one negative prompt */
    sara_model_release(model);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(draw(pipe, model, prompts[i]), expected[i], PICTURE_SIZE);
    assert_there(model, false, true);
    assert_memory_not_equal(expected[0], expected[1], PICTURE_SIZE);
    draw(pipe, model, "another");
    assert_there(model, true, true);
    sara_model_free(model);
}

/* ------------------------------------------------------------------------ the denoiser, too */

/* As the command has it: nothing is in memory before it is needed, or after. */
static sara_model *opened(sara_context *ctx)
{
    sara_model *model = NULL;
    assert_ok(ctx, sara_model_load(ctx, &model, TEST_BASE, NULL));
    assert_false(is_there(model, TEST_DENOISER));
    assert_there(model, false, false);
    return model;
}

static const uint8_t *draw_releasing(test_pipe *pipe, sara_model *model, const char *adapter)
{
    sara_generate_options options;
    sara_image *images = NULL;
    uint8_t *pixels = NULL;
    int count;
    sara_generate_options_init(&options);
    options.prompt = "red face";
    options.negative_prompt = "sad";
    options.steps = 2;
    options.width = 32;
    options.height = 16;
    options.release_parts = true;
    if (adapter)
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    assert_false(is_there(model, TEST_DENOISER));
    assert_ok(pipe->ctx, sara_generate_encode(pipe->ctx, model, &options));
    assert_false(is_there(model, TEST_DENOISER));
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_false(is_there(model, TEST_DENOISER));
    assert_there(model, false, true);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &pixels, PICTURE_SIZE, 1));
    memcpy(pixels, images[0].pixels, PICTURE_SIZE);
    sara_images_free(pipe->ctx, images, count);
    return pixels;
}

/* Adapters that were applied before it is read are on it then. */
static void test_denoiser(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const char *adapter = test_adapter(pipe, "ink.safetensors", model, 7, 0.05f);
    const uint8_t *expected = draw(pipe, model, "red face");
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    const uint8_t *inked = draw(pipe, model, "red face");
    sara_model_free(model);
    model = opened(pipe->ctx);
    assert_memory_equal(draw_releasing(pipe, model, NULL), expected, PICTURE_SIZE);
    assert_memory_equal(draw_releasing(pipe, model, adapter), inked, PICTURE_SIZE);
    assert_memory_not_equal(inked, expected, PICTURE_SIZE);
    sara_model_free(model);
}

/* What adapters change is exported, saved and measured though the denoiser was not read. */
static void test_denoiser_saved(void **state)
{
    test_pipe *pipe = *state;
    const char *const folders[] = {test_text(pipe, "%s/read", pipe->folder),
                                   test_text(pipe, "%s/unread", pipe->folder)};
    char sha256[2][65], single[2][65];
    for (int i = 0; i < 2; i++) {
        const char *file = test_text(pipe, "%s/%d.safetensors", pipe->folder, i);
        sara_model *model = i ? opened(pipe->ctx) : test_model(pipe, TEST_BASE, false);
        const char *adapter = test_adapter(pipe, "ink.safetensors", model, 7, 0.05f);
        bool changed;
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, file, NULL));
        assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, single[i], file));
        sara_model_give_back(model, i ? 0 : SARA_STAGE_DENOISE);
        assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, folders[i], NULL));
        assert_ok(pipe->ctx, sara_model_is_changed(model, &changed));
        assert_true(changed);
        sara_model_free(model);
        assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, sha256[i],
                                              test_text(pipe, "%s/unet/" VAE_FILE, folders[i])));
    }
    assert_string_equal(sha256[0], sha256[1]);
    assert_string_equal(single[0], single[1]);
}

/* SD2's files tell what they predict by a pass of the denoiser, which does not stay for it. */
static void test_forward_at_loading(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = opened(pipe->ctx);
    const char *prediction = NULL, *reason = NULL;
    int guesses = 0;
    for (int i = 0; sara_families[i]; i++) {
        if (!sara_families[i]->name || strcmp(sara_families[i]->name, "SD2.x") != 0)
            continue;
        assert_ok(pipe->ctx, sara_families[i]->guess(model, &prediction, &reason));
        assert_string_equal(prediction, "epsilon");
        assert_string_equal(reason, "by a test forward");
        assert_false(is_there(model, TEST_DENOISER));
        guesses++;
    }
    assert_true(guesses > 0);
    sara_model_free(model);
}

/* What is read of its files before it is in memory is of those that were opened. */
static void test_denoiser_changed(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = test_linked_model(pipe, "changed");
    const char *unet = test_text(pipe, "%s-unet", folder);
    const char *file = test_text(pipe, "%s/" VAE_FILE, unet);
    const char *line = test_text(pipe, "unet/" VAE_FILE ": was changed");
    sara_model *model = NULL;
    const sara_base *base;
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, unet));
    assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, TEST_BASE "/unet/config.json",
                                        test_text(pipe, "%s/config.json", unet)));
    assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, TEST_BASE "/unet/" VAE_FILE, file));
    test_relink(pipe, folder, "unet", unet);
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, folder, NULL));
    FILE *written = fopen(file, "r+");
    assert_non_null(written);
    assert_int_equal(fputc(0x77, written), 0x77);
    assert_int_equal(fclose(written), 0);
    assert_refused(pipe->ctx, SARA_ERROR_IO, line, sara_model_base(pipe->ctx, &base, model));
    assert_refused(
        pipe->ctx, SARA_ERROR_IO, line,
        sara_model_save(pipe->ctx, NULL, model, test_text(pipe, "%s/saved", pipe->folder), NULL));
    assert_refused(pipe->ctx, SARA_ERROR_IO, line, sara_model_need(model, SARA_STAGE_DENOISE));
    sara_model_free(model);
}

/* Where there is no room for the decoder beside it, the denoiser goes without being asked to. */
static void test_no_room(void **state)
{
    test_pipe *pipe = *state;
    sara_context *own = pipe->ctx;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const uint8_t *expected = draw(pipe, model, "red face");
    assert_true(is_there(model, TEST_DENOISER));
    const uint64_t bytes = (uint64_t)sara_network_bytes(model->denoiser);
    sara_model_free(model);
    const sara_context_options limited = {.size = sizeof(limited),
                                          .memory_limit = bytes + (1 << 20)};
    assert_ok(own, sara_context_new(&pipe->ctx, &limited));
    model = opened(pipe->ctx);
    assert_memory_equal(draw(pipe, model, "red face"), expected, PICTURE_SIZE);
    assert_false(is_there(model, TEST_DENOISER));
    assert_there(model, false, true);
    sara_model_free(model);
    sara_context_free(pipe->ctx);
    pipe->ctx = own;
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_need_and_give_back),
                                       TEST_CASE(test_drawn_stays),
                                       TEST_CASE(test_changed_files),
                                       TEST_CASE(test_interrupted),
                                       TEST_CASE(test_failing_allocations),
                                       TEST_CASE(test_prompts_ahead),
                                       TEST_CASE(test_denoiser),
                                       TEST_CASE(test_denoiser_saved),
                                       TEST_CASE(test_forward_at_loading),
                                       TEST_CASE(test_denoiser_changed),
                                       TEST_CASE(test_no_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
