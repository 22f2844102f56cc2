/* Features of CLIP models equal transformers'. */
#include "support_eval.h"

#include <math.h>
#include <stdio.h>

#define EMOJI_CLIP SARA_TEST_EMOJI "/clip"
#define TOKENIZER  SARA_TEST_GOLDEN "/pipeline/tokenizer"
#define WIDTH      128

static const char *const pictures[] = {"u1f307", "u1f30d", "u1f313"};

static sara_image read_picture(sara_context *ctx, const char *name)
{
    char path[512];
    sara_image image;
    snprintf(path, sizeof(path), SARA_TEST_EMOJI "/ink-reference/%s.png", name);
    assert_ok(ctx, sara_image_read(ctx, &image, path));
    return image;
}

/* "sunset", capitals, nothing, and far more than fits: TEXTS of make_backbones.py. */
static void check_texts(sara_context *ctx, sara_backbone *clip, float *out,
                        const sara_safetensors *file, const char *key)
{
    char longest[480] = "";
    const char *const texts[] = {"sunset", "Globe showing Europe-Africa!", "", longest};
    const size_t width = (size_t)clip->width;
    float *expected = test_load_f32(ctx, file, key, &(size_t){0});
    for (int i = 0; i < 40; i++)
        strcat(longest, "crocodile ");
    for (size_t i = 0; i < 4; i++) {
        assert_ok(ctx, sara_backbone_text(clip, out + i * width, texts[i]));
        assert_close(test_relative_l2(out + i * width, expected + i * width, width), 1e-5,
                     texts[i]);
    }
    sara_free(ctx, expected);
}

static double length_of(const float *v)
{
    double sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += (double)v[i] * v[i];
    return sqrt(sum);
}

static double cosine(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += (double)a[i] * b[i];
    return sum / (length_of(a) * length_of(b));
}

static void check_pictures(sara_context *ctx, sara_backbone *clip, float out[3][WIDTH],
                           const sara_safetensors *file, const char *key)
{
    float *expected = test_load_f32(ctx, file, key, &(size_t){0});
    for (int i = 0; i < 3; i++) {
        sara_image image = read_picture(ctx, pictures[i]);
        assert_ok(ctx, sara_backbone_image(clip, out[i], &image));
        assert_close(test_relative_l2(out[i], expected + (size_t)i * WIDTH, WIDTH), 1e-5, key);
        sara_image_clear(ctx, &image);
    }
    sara_free(ctx, expected);
}

/* The demo's; texts short, of other letters, empty and too
 * long. */
static void test_emoji(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/emoji.safetensors");
    sara_backbone_options options = {.path = EMOJI_CLIP};
    float images[3][WIDTH], texts[4][WIDTH];
    sara_backbone *clip = test_backbone(ctx, &sara_backbone_clip, &options);
    assert_int_equal(clip->width, WIDTH);
    check_pictures(ctx, clip, images, file, "images");
    sara_backbone_close(clip);
    options.resize = 512;
    clip = test_backbone(ctx, &sara_backbone_clip, &options);
    check_pictures(ctx, clip, images, file, "images_512");
    check_texts(ctx, clip, texts[0], file, "texts");
    float *logits = test_load_f32(ctx, file, "logits_per_image_512", &(size_t){0});
    for (int i = 0; i < 3 * 4; i++) {
        double got = clip->logit_scale * cosine(images[i / 4], texts[i % 4]);
        assert_close(fabs(got - (double)logits[i]), 1e-4, "logits");
    }
    sara_free(ctx, logits);
    sara_backbone_close(clip);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* Another activation and epsilon, a tokenizer of its own and a projection narrower than both
 * towers. */
static void test_tiny(void **state)
{
    (void)state;
    float texts[4 * 12];
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/models.safetensors");
    sara_backbone *clip = test_model(ctx, &sara_backbone_clip, "clip", TOKENIZER);
    assert_int_equal(clip->width, 12);
    assert_int_equal(test_model_pictures(clip, file, "clip"), 3);
    check_texts(ctx, clip, texts, file, "clip/texts");
    sara_backbone_close(clip);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------ CLIP's own vocabulary */

/* The tiny model in a new folder, with tables for so many ids and positions, which are zeros but
 * for what it had of them. */
static char *widen_tiny(sara_context *ctx, int64_t ids, int64_t positions)
{
    char *folder = test_folder(), path[512], config[512];
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/models/clip/model.safetensors");
    size_t count = sara_safetensors_count(file);
    sara_tensor_source sources[128];
    void *data[128];
    assert_true(count <= 128);
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        sara_tensor_source *source = &sources[i];
        *source = (sara_tensor_source){info->name, info->dtype, info->shape, NULL};
        if (strcmp(info->name, "text_model.embeddings.token_embedding.weight") == 0)
            source->shape.dims[0] = ids;
        if (strcmp(info->name, "text_model.embeddings.position_embedding.weight") == 0)
            source->shape.dims[0] = positions;
        assert_ok(ctx, sara_alloc_zero(ctx, &data[i], (size_t)sara_shape_count(&source->shape),
                                       sara_dtype_size(info->dtype)));
        assert_ok(ctx, sara_safetensors_read(file, data[i], info));
        source->data = data[i];
    }
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    assert_ok(ctx, sara_safetensors_save(ctx, path, sources, count, NULL, 0));
    for (size_t i = 0; i < count; i++)
        sara_free(ctx, data[i]);
    json_t *object = json_load_file(EVAL_DATA "/models/clip/config.json", 0, NULL);
    json_t *text = json_object_get(object, "text_config");
    json_object_set_new(text, "vocab_size", json_integer((json_int_t)ids));
    json_object_set_new(text, "max_position_embeddings", json_integer((json_int_t)positions));
    json_object_set_new(text, "eos_token_id", json_integer(49407));
    snprintf(config, sizeof(config), "%s/config.json", folder);
    assert_int_equal(json_dump_file(object, config, 0), 0);
    json_decref(object);
    sara_safetensors_close(file);
    return folder;
}

/* Where the folder has none and it fits, texts are read with it; with fewer positions than it pads
 * to, or fewer ids, they are refused. */
static void test_own_vocabulary(void **state)
{
    (void)state;
    static const int64_t sizes[3][2] = {{49408, 77}, {49408, 76}, {49407, 77}};
    sara_context *ctx = test_context();
    for (int i = 0; i < 3; i++) {
        char *folder = widen_tiny(ctx, sizes[i][0], sizes[i][1]), *own = test_folder();
        sara_backbone_options options = {.path = folder};
        float out[2][12];
        sara_backbone *clip = test_backbone(ctx, &sara_backbone_clip, &options);
        if (i || !sara_tokenizer_has_builtin()) {
            assert_refused(ctx, SARA_ERROR_USAGE, "CLIP's own does not fit",
                           sara_backbone_text(clip, out[0], "a cat"));
        } else {
            assert_ok(ctx, sara_backbone_text(clip, out[0], "a cat"));
            sara_backbone_close(clip);
            assert_ok(ctx, sara_tokenizer_save_builtin(ctx, own, false));
            options.tokenizer = own;
            clip = test_backbone(ctx, &sara_backbone_clip, &options);
            assert_ok(ctx, sara_backbone_text(clip, out[1], "a cat"));
            assert_memory_equal(out[0], out[1], sizeof(out[0]));
        }
        sara_backbone_close(clip);
        test_folder_remove(folder);
        test_folder_remove(own);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_emoji),
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_own_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
