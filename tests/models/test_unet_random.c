/* U-Nets of named shapes with random weights. */
#include "support_models.h"

#include "models/unet/parts.h"

#include <math.h>

/* As diffusers counts them in the published models. */
static void test_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        int64_t entries;
        int heads[3], factor, cross_attention_dim, sample_size;
    } cases[] = {{"sd15", 859520964, {8, 8, 8}, 8, 768, 64},
                 {"sd21", 865910724, {5, 10, 20}, 8, 1024, 96},
                 {"sdxl", 2567463684, {5, 10, 20}, 4, 2048, 128}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_context *ctx = test_context();
        const sara_network_class *class = &sara_unet_class;
        sara_unet unet = {
            .network = {.ctx = ctx}}; /* bound only: the values would take gigabytes */
        sara_component component;
        sara_model_config file;
        sara_binder *binder = NULL;
        sara_arena_init(&unet.network.arena, ctx);
        assert_ok(ctx, sara_network_shape_of(ctx, &component, class, cases[i].shape));
        assert_ok(ctx, sara_model_config_of(ctx, &file, &component, class->key, class->value));
        assert_ok(ctx, class->read_config(&unet.network, &file));
        assert_ok(ctx, sara_binder_new(sara_host_device(ctx), &binder));
        assert_ok(ctx, class->bind(&unet.network, binder, NULL));
        assert_int_equal(sara_binder_entries(binder), cases[i].entries);
        assert_int_equal(unet.config.cross_attention_dim, cases[i].cross_attention_dim);
        assert_int_equal(unet.config.sample_size[0], cases[i].sample_size);
        assert_int_equal(unet.config.sample_size[1], cases[i].sample_size);
        for (int level = 0; level < 3; level++)
            assert_int_equal(unet.config.level[level].heads, cases[i].heads[level]);
        sara_binder_free(binder);
        sara_component_close(&component);
        sara_arena_free(&unet.network.arena);
        sara_context_free(ctx);
    }
}

static bool ends_in(const char *name, const char *suffix)
{
    size_t length = strlen(name), end = strlen(suffix);
    return length >= end && strcmp(name + length - end, suffix) == 0;
}

/* The weights of norms are 1; the rest has the variance of one over its inputs or its length. */
static void check_values(const sara_param *param)
{
    const float *values = param->value.data;
    const sara_shape *shape = &param->value.shape;
    int64_t count = sara_shape_count(shape);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
        squares += (double)values[i] * values[i];
    }
    if (shape->rank == 1 && ends_in(param->name, ".weight")) {
        assert_true(sum == (double)count && squares == (double)count);
        return;
    }
    double inputs = (double)count / (shape->rank > 1 ? (double)shape->dims[0] : 1.0);
    double spread = 6 / sqrt((double)count); /* of the estimates */
    assert_close(fabs(sum / (double)count) * sqrt(inputs), spread, param->name);
    assert_close(fabs(squares / (double)count * inputs - 1), 2 * spread, param->name);
}

static sara_status new_random(sara_context *ctx, sara_network **out, uint64_t seed,
                              sara_storage storage)
{
    sara_component component;
    sara_status status;
    *out = NULL;
    TRY(sara_network_shape_of(ctx, &component, &sara_unet_class, "tiny"));
    TRY(sara_network_draw(sara_host_device(ctx), out, &sara_unet_class, &component, seed, storage));
done:
    sara_component_close(&component);
    return status;
}

static void test_values(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_network *unet = NULL;
    assert_ok(ctx, new_random(ctx, &unet, 1, SARA_STORE_F32));
    sara_params *params = &unet->params;
    assert_true(params->count > 100);
    for (size_t i = 0; i < params->count; i++) {
        check_values(&params->items[i]);
        assert_int_equal(params->items[i].stored, SARA_F32);
        if (i)
            assert_true(strcmp(params->items[i - 1].name, params->items[i].name) < 0);
    }
    sara_param *conv_in = sara_params_find(params, "conv_in.weight");
    sara_shape shape = sara_shape4(32, 4, 3, 3);
    assert_non_null(conv_in);
    assert_true(sara_shape_equal(&conv_in->value.shape, &shape));
    sara_network_free(unet);
    sara_context_free(ctx);
}

static sara_network *draw(sara_context **ctx, int threads, uint64_t seed)
{
    const sara_context_options options = {.threads = threads};
    sara_network *unet = NULL;
    assert_ok(*ctx, sara_context_new(ctx, &options));
    assert_ok(*ctx, new_random(*ctx, &unet, seed, SARA_STORE_F32));
    return unet;
}

static bool same_values(sara_network *a, sara_network *b, const char *name)
{
    const sara_param *x = sara_params_find((&a->params), name);
    const sara_param *y = sara_params_find((&b->params), name);
    size_t bytes = (size_t)sara_shape_count(&x->value.shape) * sizeof(float);
    return memcmp(x->value.data, y->value.data, bytes) == 0;
}

static void test_seeds(void **state)
{
    (void)state;
    sara_context *ctx[3] = {NULL};
    sara_network *one = draw(&ctx[0], 1, 5), *two = draw(&ctx[1], 2, 5),
                 *other = draw(&ctx[2], 2, 6);
    sara_params *params = (&one->params);
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        assert_true(same_values(one, two, param->name));
        if (param->value.shape.rank > 1 || ends_in(param->name, ".bias"))
            assert_false(same_values(one, other, param->name));
    }
    /* two tensors of one shape differ too */
    const sara_param *q = sara_params_find(
        params, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight");
    const sara_param *k = sara_params_find(
        params, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight");
    assert_memory_not_equal(q->value.data, k->value.data, 32 * 32 * sizeof(float));
    sara_network_free(one);
    sara_network_free(two);
    sara_network_free(other);
    for (int i = 0; i < 3; i++)
        sara_context_free(ctx[i]);
}

/* The floats that would be drawn, rounded. */
static void check_drawn_narrow(sara_storage storage, sara_dtype dtype)
{
    sara_context *ctx[2] = {NULL, test_context()};
    sara_network *wide = draw(&ctx[0], 1, 5), *narrow = NULL;
    assert_ok(ctx[1], new_random(ctx[1], &narrow, 5, storage));
    const sara_params *floats = (&wide->params), *params = (&narrow->params);
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *a = &params->items[i], *b = &floats->items[i];
        size_t count = (size_t)sara_shape_count(&a->value.shape);
        bool matrix = a->value.shape.rank > 1;
        assert_int_equal(a->value.dtype, matrix ? dtype : SARA_F32);
        assert_false(sara_param_is_rounded(a)); /* nothing holds more */
        for (size_t j = 0; j < count; j++) {
            float expected = sara_param_get(b, j);
            if (matrix && dtype == SARA_F16)
                expected = sara_f16_to_f32(sara_f32_to_f16(expected));
            else if (matrix && dtype == SARA_BF16)
                expected = sara_bf16_to_f32(sara_f32_to_bf16(expected));
            assert_true(sara_param_get(a, j) == expected);
        }
    }
    sara_network_free(wide);
    sara_network_free(narrow);
    for (int i = 0; i < 2; i++)
        sara_context_free(ctx[i]);
}

static void test_16_bits(void **state)
{
    (void)state;
    check_drawn_narrow(SARA_STORE_F16, SARA_F16);
    check_drawn_narrow(SARA_STORE_BF16, SARA_BF16);
    check_drawn_narrow(SARA_STORE_AUTO, SARA_F32);
}

static void test_unknown_shape(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_component component;
    assert_refused(ctx, SARA_ERROR_USAGE, "sd3: no shape of UNet2DConditionModel",
                   sara_network_shape_of(ctx, &component, &sara_unet_class, "sd3"));
    assert_null(component.config);
    sara_context_free(ctx);
}

static sara_status draw_tiny(sara_context *ctx)
{
    sara_network *unet = NULL;
    sara_status status = new_random(ctx, &unet, 1, SARA_STORE_F32);
    sara_network_free(unet);
    return status;
}

static sara_status draw_narrow(sara_context *ctx)
{
    sara_network *unet = NULL;
    sara_status status = new_random(ctx, &unet, 1, SARA_STORE_BF16);
    sara_network_free(unet);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_allocation_failures(draw_tiny);
    test_allocation_failures(draw_narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes), cmocka_unit_test(test_values),
        cmocka_unit_test(test_seeds),           cmocka_unit_test(test_16_bits),
        cmocka_unit_test(test_unknown_shape),   cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
