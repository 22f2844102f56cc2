/* InceptionV3's features and what comes before equal torch-fidelity's and clean-fid's. */
#include "eval/inception_picture.h"
#include "sara_eval.h"
#include "models/inception.h"
#include "support/memory.h"
#include "support_eval.h"
#include "support_formula.h"

#include <math.h>
#include <stdio.h>

#include "eval/recorded_inception.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const sara_fid_convention *convention_of(sara_context *ctx, const char *name)
{
    const sara_fid_convention *convention;
    assert_ok(ctx, sara_fid_convention_find(ctx, &convention, name));
    return convention;
}

static void test_pictures(void **state)
{
    sara_context *ctx = test_context();
    const size_t all = SARA_INCEPTION_SIDE * SARA_INCEPTION_SIDE;
    for (size_t i = 0; i < COUNT(recorded); i++) {
        const sara_fid_convention *convention = convention_of(ctx, recorded[i].convention);
        sara_image image = test_formula_image(ctx, recorded[i].width, recorded[i].height);
        float *pixels;
        assert_ok(ctx, sara_fid_picture(ctx, &pixels, convention, &image));
        for (size_t k = 0; k < COUNT(recorded[i].pixels); k++) {
            size_t at = k * 7919 % (all * 3);
            assert_true(pixels[at % 3 * all + at / 3] == recorded[i].pixels[k]);
        }
        sara_free(ctx, pixels);
        sara_image_clear(ctx, &image);
    }
    assert_true(convention_of(ctx, NULL) == convention_of(ctx, "torch-fidelity"));
    sara_context_free(ctx);
    (void)state;
}

/* ------------------------------------------------------------------------------------ network */

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name);
    return length >= strlen(end) && strcmp(name + length - strlen(end), end) == 0;
}

/* inception_weights.py's fill(); its streams count names in the order of their bytes. */
static sara_status fill(const void *user, size_t index, void *data)
{
    const sara_tensor_source *tensor = (const sara_tensor_source *)user + index;
    size_t count = (size_t)sara_shape_count(&tensor->shape);
    float *x = data, offset = -0.5f, scale = 1;
    bool kernel = ends_with(tensor->name, "conv.weight");
    if (ends_with(tensor->name, "running_var"))
        offset = 0.5f;
    else if (ends_with(tensor->name, "bn.weight"))
        offset = 0.75f, scale = 0.5f;
    test_fill(x, count, (uint32_t)index, kernel ? -1 : offset, kernel ? 2 : scale);
    float bound = (float)sqrt(6 / ((double)count / (double)tensor->shape.dims[0]));
    for (size_t i = 0; kernel && i < count; i++)
        x[i] *= bound;
    return SARA_OK;
}

/* What the network wants, and its classifier, which is passed over; `count`: so many alone. */
static char *write_weights(sara_context *ctx, const char *folder, size_t count)
{
    const sara_shape logits = sara_shape1(1008);
    sara_component component;
    sara_device *device;
    sara_network *network;
    sara_tensor_source tensors[512];
    char *path;
    assert_ok(ctx, sara_nn_device_open(ctx, &device, "dry"));
    assert_ok(ctx, sara_network_shape_of(ctx, &component, &sara_inception_class, "fid"));
    assert_ok(ctx, sara_network_draw(device, &network, &sara_inception_class, &component, 1,
                                     SARA_STORE_F32));
    assert_int_equal(network->params.count, 94 * 5);
    count = count ? count : network->params.count + 1;
    for (size_t i = 0; i < count; i++) {
        const sara_param *param = &network->params.items[i];
        tensors[i] = i == network->params.count
                         ? (sara_tensor_source){"fc.bias", SARA_F32, logits, NULL}
                         : (sara_tensor_source){param->name, SARA_F32, param->value.shape, NULL};
    }
    assert_ok(ctx, sara_path_join(ctx, &path, folder, "inception.safetensors"));
    assert_ok(ctx, sara_safetensors_save_made(ctx, path, tensors, count, NULL, 0, fill, tensors));
    sara_network_free(network);
    sara_component_close(&component);
    sara_nn_device_close(device);
    return path;
}

static void check_features(const float *features, size_t i)
{
    double norm = 0;
    for (int k = 0; k < SARA_INCEPTION_WIDTH; k++)
        norm += (double)features[k] * features[k];
    norm = sqrt(norm);
    assert_close(test_relative_l2(features, recorded[i].features, COUNT(recorded[i].features)),
                 1e-5, recorded[i].convention);
    for (uint32_t s = 0; s < COUNT(recorded[i].sums); s++) {
        double sum = 0;
        for (uint32_t k = 0; k < SARA_INCEPTION_WIDTH; k++)
            sum += (double)features[k] * ((double)test_formula(k, s) - 0.5);
        assert_close(fabs(sum - (double)recorded[i].sums[s]) / norm, 1e-5, "sum of features");
    }
}

static void test_features(void **state)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path = write_weights(ctx, folder, 0);
    for (size_t i = 0; i < COUNT(recorded);) {
        const char *convention = recorded[i].convention;
        const sara_backbone_options options = {.path = path, .convention = convention};
        sara_backbone *backbone = test_backbone(ctx, &sara_backbone_inception, &options);
        assert_int_equal(backbone->width, SARA_INCEPTION_WIDTH);
        for (; i < COUNT(recorded) && strcmp(recorded[i].convention, convention) == 0; i++) {
            sara_image image = test_formula_image(ctx, recorded[i].width, recorded[i].height);
            float features[SARA_INCEPTION_WIDTH];
            if (recorded[i].has_features) {
                assert_ok(ctx, sara_backbone_image(backbone, features, &image));
                check_features(features, i);
            }
            sara_image_clear(ctx, &image);
        }
        sara_backbone_close(backbone);
    }
    sara_free(ctx, path);
    test_folder_remove(folder);
    sara_context_free(ctx);
    (void)state;
}

/* [count] pictures of these sizes as DIRECTORY/0.png and so on. */
static void write_pictures(sara_context *ctx, const char *directory, const int sizes[][2],
                           int count)
{
    for (int i = 0; i < count; i++) {
        sara_image image = test_formula_image(ctx, sizes[i][0], sizes[i][1]);
        char name[16], *path;
        snprintf(name, sizeof(name), "%d.png", i);
        assert_ok(ctx, sara_path_join(ctx, &path, directory, name));
        assert_ok(ctx, sara_image_save(ctx, &image, path, NULL));
        sara_free(ctx, path);
        sara_image_clear(ctx, &image);
    }
}

static double number_of(const char *report, const char *measure, const char *key)
{
    char text[32];
    snprintf(text, sizeof(text), "\"%s\"", measure);
    const char *at = strstr(report, text);
    assert_non_null(at);
    snprintf(text, sizeof(text), "\"%s\"", key);
    at = strstr(at, text);
    assert_non_null(at);
    return strtod(strchr(at, ':') + 1, NULL);
}

/* FID and KID of folders, by the convention that is asked for. */
static void test_eval(void **state)
{
    static const int references[][2] = {{50, 41}, {64, 64}, {20, 90}};
    sara_context *ctx = test_context();
    char *weights = test_folder(), *path = write_weights(ctx, weights, 0);
    char *folders[2] = {test_folder(), test_folder()};
    int sizes[3][2];
    for (int i = 0; i < 3; i++) {
        sizes[i][0] = recorded[i].width;
        sizes[i][1] = recorded[i].height;
    }
    write_pictures(ctx, folders[0], sizes, 3);
    write_pictures(ctx, folders[1], references, 3);
    for (size_t i = 0; i < COUNT(distances); i++) {
        sara_eval_options options;
        char *report;
        sara_eval_options_init(&options);
        options.images = folders[0];
        options.references = folders[1];
        options.inception = path;
        options.fid = distances[i].convention;
        assert_ok(ctx, sara_eval(ctx, &report, &options));
        test_assert_contains(report, distances[i].convention, __FILE__, __LINE__);
        assert_close(fabs(number_of(report, "fid", "value") / distances[i].fid - 1), 1e-5, "FID");
        assert_close(fabs(number_of(report, "kid", "mean") / distances[i].kid - 1), 1e-5, "KID");
        sara_free(ctx, report);
    }
    sara_free(ctx, path);
    for (int i = 0; i < 2; i++)
        test_folder_remove(folders[i]);
    test_folder_remove(weights);
    sara_context_free(ctx);
    (void)state;
}

static void test_refusals(void **state)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path = write_weights(ctx, folder, 7);
    sara_backbone_options options = {.path = path, .convention = "cleaner"};
    sara_backbone *backbone;
    assert_refused(ctx, SARA_ERROR_USAGE, "convention cleaner, expected \"torch-fidelity\"",
                   sara_backbone_open(ctx, &backbone, &sara_backbone_inception, &options));
    options.convention = "clean";
    assert_refused(ctx, SARA_ERROR_INPUT, "Conv2d_2a_3x3.bn.running_var",
                   sara_backbone_open(ctx, &backbone, &sara_backbone_inception, &options));
    test_assert_contains(sara_context_error(ctx), path, __FILE__, __LINE__);
    options.path = "nowhere.safetensors";
    assert_refused(ctx, SARA_ERROR_IO, "nowhere.safetensors",
                   sara_backbone_open(ctx, &backbone, &sara_backbone_inception, &options));
    assert_null(backbone);
    sara_free(ctx, path);
    test_folder_remove(folder);
    sara_context_free(ctx);
    (void)state;
}

/* ------------------------------------------------------------------------------------- memory */

static sara_status resize_all(sara_context *ctx, const char *argument)
{
    uint8_t bytes[6] = {1, 2, 3, 4, 5, 6};
    const sara_image image = {.width = 1, .height = 2, .pixels = bytes};
    const sara_fid_convention *convention;
    float *pixels = NULL;
    sara_status status;
    TRY(sara_fid_convention_find(ctx, &convention, argument));
    TRY(sara_fid_picture(ctx, &pixels, convention, &image));
done:
    sara_free(ctx, pixels);
    return status;
}

static void test_memory(void **state)
{
    test_every_allocation(resize_all, "torch-fidelity");
    test_every_allocation(resize_all, "clean");
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pictures), cmocka_unit_test(test_features),
        cmocka_unit_test(test_eval),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
