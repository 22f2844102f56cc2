/* A VAE that is a file: where its config comes from, and that its tensors are the folder's. */
#include "support_pipeline.h"

#include "models/vae.h"

#include "support/memory.h"

#include <stdlib.h>

#define FOLDER  SARA_TEST_GOLDEN "/vae"
#define WEIGHTS "diffusion_pytorch_model.safetensors"

typedef struct fixture {
    sara_context *ctx;
    char *folder, *file; /* a copy of the golden weights, alone in the folder */
    json_t *config;      /* the golden one */
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->ctx = test_context();
    f->folder = test_folder();
    assert_ok(f->ctx, sara_path_join(f->ctx, &f->file, f->folder, "vae.safetensors"));
    assert_ok(f->ctx, sara_file_copy(f->ctx, FOLDER "/" WEIGHTS, f->file));
    assert_ok(f->ctx, sara_json_load(f->ctx, &f->config, FOLDER "/config.json", true));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    json_decref(f->config);
    test_folder_remove(f->folder);
    sara_free(f->ctx, f->file);
    sara_context_free(f->ctx);
    free(f);
    return 0;
}

static sara_status load(sara_context *ctx, sara_network **out, const char *path, const json_t *like)
{
    sara_single_file *file = NULL;
    sara_component component = {.ctx = ctx};
    sara_status status;
    *out = NULL;
    TRY(sara_family_open_vae(ctx, sara_families[0], TEST_VAE, &file, path, like));
    TRY(sara_single_component(file, &component, TEST_VAE));
    TRY(sara_network_open(sara_host_device(ctx), out, &sara_vae_class, &component, SARA_STORE_F32));
    TRY(sara_network_read(*out));
done:
    sara_component_close(&component);
    sara_single_close(file);
    return status;
}

static void assert_is_golden(fixture *f, const char *path, const json_t *like)
{
    sara_network *vae = NULL, *golden = NULL;
    assert_ok(f->ctx, sara_network_load(sara_host_device(f->ctx), &golden, &sara_vae_class, FOLDER,
                                        NULL, SARA_STORE_F32));
    assert_ok(f->ctx, load(f->ctx, &vae, path, like));
    const sara_params *a = &vae->params, *b = &golden->params;
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_string_equal(a->items[i].name, b->items[i].name);
        assert_true(sara_shape_equal(&a->items[i].value.shape, &b->items[i].value.shape));
        assert_memory_equal(a->items[i].value.data, b->items[i].value.data,
                            (size_t)sara_shape_count(&a->items[i].value.shape) * sizeof(float));
    }
    const sara_vae_info *info = &vae->info.vae, *wanted = &golden->info.vae;
    assert_int_equal(info->factor, wanted->factor);
    assert_int_equal(info->latent_channels, wanted->latent_channels);
    assert_true(info->scaling_factor == wanted->scaling_factor);
    sara_network_free(vae);
    sara_network_free(golden);
}

/* Beside the file; the names are diffusers'. */
static void test_beside(void **state)
{
    assert_is_golden(*state, FOLDER "/" WEIGHTS, NULL);
}

/* By its shapes, the rest from the VAE in whose place it is. */
static void test_like(void **state)
{
    fixture *f = *state;
    assert_is_golden(f, f->file, f->config);
}

/* A config beside it that is another part's says nothing. */
static void test_other_config_beside(void **state)
{
    fixture *f = *state;
    static const char text[] = "{\"_class_name\": \"UNet2DConditionModel\"}";
    free(test_file(f->folder, "config.json", text, strlen(text)));
    assert_is_golden(f, f->file, f->config);
}

static void test_none(void **state)
{
    fixture *f = *state;
    sara_single_file *file = NULL;
    char *path = NULL;
    const float value = 0;
    const sara_tensor_source tensors[] = {
        {"encoder.layers.0.bias", SARA_F32, sara_shape1(1), &value}};
    assert_ok(f->ctx, sara_path_join(f->ctx, &path, f->folder, "x.safetensors"));
    assert_ok(f->ctx, sara_safetensors_save(f->ctx, path, tensors, 1, NULL, 0));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "x.safetensors: holds no VAE (no tensor decoder.conv_",
                   sara_family_open_vae(f->ctx, sara_families[0], TEST_VAE, &file, path, NULL));
    assert_null(file);
    sara_free(f->ctx, path);
}

static const json_t *like_this; /* of the next function */

static sara_status load_once(sara_context *ctx, const char *path)
{
    sara_network *vae = NULL;
    sara_status status = load(ctx, &vae, path, like_this);
    sara_network_free(vae);
    return status;
}

static void test_memory(void **state)
{
    fixture *f = *state;
    like_this = f->config;
    test_every_allocation(load_once, f->file);
    test_every_allocation(load_once, FOLDER "/" WEIGHTS);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(test_beside), TEST(test_like),
                                       TEST(test_other_config_beside), TEST(test_none),
                                       TEST(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
