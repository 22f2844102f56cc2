/* On a device whose memory the host cannot touch, networks compute what they do on "cpu", to the
 * bit. */
#include "support_unet.h"

#include "models/clip.h"
#include "models/vae.h"
#include "models/vit.h"

#include <stdlib.h>

/* A third of the parameters wants nothing, the others all or some entries; gradients are zero. */
static void want_gradients(unet_run *r)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        size_t count = (size_t)sara_shape_count(&p->value.shape), kept = (count + 6) / 7;
        uint32_t *host, *positions;
        p->want = i % 3 == 0 ? SARA_GRAD_NONE : i % 3 == 1 ? SARA_GRAD_DENSE : SARA_GRAD_SAMPLED;
        if (p->want == SARA_GRAD_SAMPLED) {
            host = calloc(kept, sizeof(*host));
            for (size_t k = 0; k < kept; k++)
                host[k] = (uint32_t)(7 * k);
            assert_ok(r->ctx, sara_device_alloc(r->device, &positions, kept, sizeof(*host)));
            assert_ok(r->ctx,
                      sara_device_copy_in(r->device, positions, host, kept * sizeof(*host)));
            p->positions = positions;
            p->selected = count = kept;
            free(host);
        }
        if (p->want == SARA_GRAD_NONE)
            continue;
        assert_ok(r->ctx, sara_device_alloc(r->device, &p->grad, count, sizeof(*p->grad)));
        assert_ok(r->ctx, sara_device_fill(r->device, p->grad, 0, count * sizeof(*p->grad)));
    }
}

static void give_back(unet_run *r)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        sara_device_free(r->device, (void *)(uintptr_t)p->positions);
        sara_device_free(r->device, p->grad);
        p->grad = NULL;
    }
    unet_run_close(r);
}

/* The device's data as the host's; free(). */
static float *fetch(const unet_run *r, const float *data, size_t count)
{
    float *out = malloc(count * sizeof(*out));
    assert_non_null(out);
    assert_ok(r->ctx, sara_device_copy_out(r->device, out, data, count * sizeof(*out)));
    return out;
}

static void compare_step(const char *folder, sara_storage storage, int levels)
{
    unet_run runs[2];
    for (int k = 0; k < 2; k++) {
        runs[k] = unet_run_open_stored(folder, k ? "cpu-apart" : "cpu", storage);
        runs[k].unet->checkpoint_levels = levels;
        want_gradients(&runs[k]);
        unet_run_step(&runs[k]);
    }
    const unet_run *cpu = &runs[0], *apart = &runs[1];
    size_t count = (size_t)sara_shape_count(&cpu->output->shape);
    float *output = fetch(apart, apart->output->data, count);
    float *loss = fetch(apart, apart->loss->data, 1);
    assert_memory_equal(output, cpu->output->data, count * sizeof(*output));
    assert_true(loss[0] == cpu->loss->data[0]);
    for (size_t i = 0; i < cpu->params->count; i++) {
        const sara_param *a = &cpu->params->items[i], *b = &apart->params->items[i];
        if (a->want == SARA_GRAD_NONE)
            continue;
        count =
            a->want == SARA_GRAD_SAMPLED ? a->selected : (size_t)sara_shape_count(&a->value.shape);
        float *gradient = fetch(apart, b->grad, count);
        if (memcmp(gradient, a->grad, count * sizeof(*gradient)) != 0)
            fail_msg("%s: the gradients differ", a->name);
        free(gradient);
    }
    free(output);
    free(loss);
    give_back(&runs[0]);
    give_back(&runs[1]);
}

static void test_unet(void **state)
{
    (void)state;
    compare_step(SD1, SARA_STORE_F32, 0);
    compare_step(SD1, SARA_STORE_BF16, 2);
    compare_step(SDXL, SARA_STORE_F32, 1);
    compare_step(SD2, SARA_STORE_F32, 9);
    compare_step(SD2, SARA_STORE_F16, 0);
}

typedef struct network_run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *network;
} network_run;

static network_run run_open(const sara_network_class *class, const char *folder, bool apart)
{
    network_run r = {.ctx = test_context()};
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, apart ? "cpu-apart" : "cpu"));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_network_load(r.device, &r.network, class, folder, NULL, SARA_STORE_AUTO));
    return r;
}

static void run_close(network_run *r)
{
    sara_network_free(r->network);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

/* Adds what the host reads of a variable to out; free(). */
static void keep(network_run *r, float **out, size_t *used, const sara_var *var)
{
    size_t count = (size_t)sara_shape_count(&var->shape);
    const float *values;
    assert_ok(r->ctx, sara_tape_read(r->tape, &values, var));
    *out = realloc(*out, (*used + count) * sizeof(**out));
    assert_non_null(*out);
    memcpy(*out + *used, values, count * sizeof(**out));
    *used += count;
}

static void check_equal(float *values[2], const size_t used[2])
{
    assert_true(used[0] > 0 && used[0] == used[1]);
    assert_memory_equal(values[0], values[1], used[0] * sizeof(*values[0]));
    free(values[0]);
    free(values[1]);
}

static void test_vae(void **state)
{
    (void)state;
    float *values[2] = {NULL, NULL}, image[2 * 3 * 16 * 24];
    size_t used[2] = {0, 0};
    const sara_shape shape = sara_shape4(2, 3, 16, 24);
    sara_draw_uniform(image, sizeof(image) / sizeof(*image), 5, SARA_DRAW_TEST, 0);
    for (int apart = 0; apart < 2; apart++) {
        network_run r = run_open(&sara_vae_class, SARA_TEST_GOLDEN "/vae", apart);
        sara_var *leaf, *mean, *logvar, *decoded;
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, image, false));
        assert_ok(r.ctx, sara_vae_encode(r.tape, &mean, &logvar, r.network, leaf));
        assert_ok(r.ctx, sara_vae_decode(r.tape, &decoded, r.network, mean));
        keep(&r, &values[apart], &used[apart], mean);
        keep(&r, &values[apart], &used[apart], logvar);
        keep(&r, &values[apart], &used[apart], decoded);
        run_close(&r);
    }
    check_equal(values, used);
}

#define TEXT_WIDTH 64 /* of golden/text_gelu */

static void test_text_encoder(void **state)
{
    (void)state;
    static const int32_t ids[] = {298, 5, 299, 299, 298, -1, -2, 2};
    float *values[2] = {NULL, NULL}, data[2 * TEXT_WIDTH];
    size_t used[2] = {0, 0};
    const sara_clip_vectors vectors = {data, 2};
    sara_draw_normal(data, 2 * TEXT_WIDTH, 6, SARA_DRAW_TEST, 0);
    for (int apart = 0; apart < 2; apart++) {
        network_run r = run_open(&sara_clip_text_class, SARA_TEST_GOLDEN "/text_gelu", apart);
        sara_var *states, *pooled;
        assert_ok(r.ctx, sara_clip_text_forward_with(r.tape, &states, &pooled, r.network, 0, ids, 2,
                                                     4, &vectors));
        keep(&r, &values[apart], &used[apart], states);
        keep(&r, &values[apart], &used[apart], pooled);
        run_close(&r);
    }
    check_equal(values, used);
}

static void test_clip(void **state)
{
    (void)state;
    static const int32_t ids[] = {512, 5, 513, 513, 512, 513, 1, 2};
    float *values[2] = {NULL, NULL}, pixels[2 * 3 * 15 * 15];
    size_t used[2] = {0, 0};
    const sara_shape shape = sara_shape4(2, 3, 15, 15);
    sara_draw_normal(pixels, sizeof(pixels) / sizeof(*pixels), 5, SARA_DRAW_TEST, 0);
    for (int apart = 0; apart < 2; apart++) {
        network_run r = run_open(&sara_clip_class, VISION_MODELS "/clip", apart);
        double scale;
        sara_var *leaf, *features;
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, pixels, false));
        assert_ok(r.ctx, sara_clip_image_features(r.tape, &features, r.network, leaf));
        keep(&r, &values[apart], &used[apart], features);
        assert_ok(r.ctx, sara_clip_text_features(r.tape, &features, r.network, ids, 2, 4));
        keep(&r, &values[apart], &used[apart], features);
        assert_ok(r.ctx, sara_clip_logit_scale(r.network, &scale));
        assert_true(scale > 0);
        run_close(&r);
    }
    check_equal(values, used);
}

/* With a table of positions, and blocks with and without a second attention. */
static void test_mmdit(void **state)
{
    (void)state;
    compare_step(MMDIT, SARA_STORE_F32, 0);
    compare_step(SD35, SARA_STORE_F32, 1);
    compare_step(SD35, SARA_STORE_AUTO, SARA_MAX_LEVELS);
}

/* With registers and interpolated positions. */
static void test_vit(void **state)
{
    (void)state;
    float *values[2] = {NULL, NULL}, pixels[2 * 3 * 12 * 28];
    size_t used[2] = {0, 0};
    const sara_shape shape = sara_shape4(2, 3, 12, 28);
    sara_draw_normal(pixels, sizeof(pixels) / sizeof(*pixels), 5, SARA_DRAW_TEST, 0);
    for (int apart = 0; apart < 2; apart++) {
        network_run r =
            run_open(&sara_dinov2_registers_class, VISION_MODELS "/dinov2_registers", apart);
        sara_var *leaf, *features;
        assert_ok(r.ctx, sara_tape_leaf(r.tape, &leaf, &shape, pixels, false));
        assert_ok(r.ctx, sara_vit_features(r.tape, &features, r.network, leaf));
        keep(&r, &values[apart], &used[apart], features);
        run_close(&r);
    }
    check_equal(values, used);
}

/* Random weights are drawn to the same values. */
static void test_drawn_weights(void **state)
{
    (void)state;
    sara_component component;
    sara_context *ctx = test_context();
    sara_network *networks[2];
    sara_device *devices[2];
    assert_ok(ctx, sara_network_shape_of(ctx, &component, &sara_unet_class, "tiny"));
    for (int k = 0; k < 2; k++) {
        assert_ok(ctx, sara_nn_device_open(ctx, &devices[k], k ? "cpu-apart" : "cpu"));
        assert_ok(ctx, sara_network_draw(devices[k], &networks[k], &sara_unet_class, &component, 3,
                                         SARA_STORE_BF16));
    }
    for (size_t i = 0; i < networks[0]->params.count; i++) {
        const sara_param *a = &networks[0]->params.items[i], *b = &networks[1]->params.items[i];
        size_t bytes = (size_t)sara_shape_count(&a->value.shape) * sara_dtype_size(a->value.dtype);
        sara_param copy;
        assert_ok(ctx, sara_param_read(ctx, &copy, b));
        assert_memory_equal(a->value.data, copy.value.data, bytes);
        sara_param_read_end(ctx, &copy, b);
    }
    for (int k = 0; k < 2; k++) {
        sara_network_free(networks[k]);
        sara_nn_device_close(devices[k]);
    }
    sara_component_close(&component);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet),          cmocka_unit_test(test_mmdit),
        cmocka_unit_test(test_vae),           cmocka_unit_test(test_text_encoder),
        cmocka_unit_test(test_clip),          cmocka_unit_test(test_vit),
        cmocka_unit_test(test_drawn_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
