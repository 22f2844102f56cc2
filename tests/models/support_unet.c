#include "support_unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Whole numbers, or any. */
static void load_timesteps(unet_run *r)
{
    const sara_tensor_info *info = sara_safetensors_find(r->golden, "timestep");
    sara_tensor tensor;
    sara_shape any = sara_shape1(-1);
    assert_ok(r->ctx, sara_safetensors_load(r->golden, &tensor, "timestep", info->dtype, &any));
    assert_true(tensor.shape.dims[0] <= 8);
    for (int64_t i = 0; i < tensor.shape.dims[0]; i++)
        r->timesteps[i] = info->dtype == SARA_I64 ? (double)((int64_t *)tensor.data)[i]
                                                  : (double)((float *)tensor.data)[i];
    sara_tensor_free(r->ctx, &tensor);
}

/* What the config says that it is. */
static const sara_network_class *class_of(sara_context *ctx, const char *folder)
{
    const sara_network_class *const classes[] = {&sara_unet_class, &sara_mmdit_class};
    const sara_network_class *found = NULL;
    sara_component component;
    assert_ok(ctx, sara_component_open(ctx, &component, folder, SARA_DIFFUSERS_STEM, NULL));
    const json_t *name = json_object_get(component.config, "_class_name");
    for (int i = 0; i < 2; i++)
        if (!name ? i == 0 : strcmp(json_string_value(name), classes[i]->value) == 0)
            found = classes[i];
    assert_non_null(found);
    sara_component_close(&component);
    return found;
}

unet_run unet_run_open_stored(const char *folder, const char *device, sara_storage storage)
{
    unet_run r = {.ctx = test_context()};
    char *path;
    size_t count;
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx,
              sara_network_load(r.device, &r.unet, class_of(r.ctx, folder), folder, NULL, storage));
    r.params = &r.unet->params;
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, folder, "golden.safetensors"));
    r.golden = test_open(r.ctx, path);
    sara_free(r.ctx, path);
    r.sample = test_load_f32(r.ctx, r.golden, "sample", &count);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        if (r.unet->info.denoiser.widths[i])
            r.condition[i] = test_load_f32(r.ctx, r.golden, sara_condition_kinds[i].name, &count);
    r.target = test_load_f32(r.ctx, r.golden, "target", &count);
    load_timesteps(&r);
    return r;
}

unet_run unet_run_open(const char *folder, const char *device)
{
    return unet_run_open_stored(folder, device, SARA_STORE_F32);
}

void unet_run_close(unet_run *r)
{
    for (size_t i = 0; i < r->params->count; i++)
        sara_free(r->ctx, r->params->items[i].grad);
    sara_free(r->ctx, r->sample);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        sara_free(r->ctx, r->condition[i]);
    sara_free(r->ctx, r->target);
    sara_safetensors_close(r->golden);
    sara_network_free(r->unet);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

void unet_run_want_dense(unet_run *r)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        size_t count = (size_t)sara_shape_count(&p->value.shape);
        p->want = SARA_GRAD_DENSE;
        assert_ok(r->ctx, sara_alloc_zero(r->ctx, &p->grad, count, sizeof(float)));
    }
}

void unet_run_forward(unet_run *r)
{
    sara_condition condition = {{NULL}};
    sara_var *sample;
    assert_ok(r->ctx,
              sara_tape_leaf(r->tape, &sample, &sara_safetensors_find(r->golden, "sample")->shape,
                             r->sample, false));
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        if (r->condition[i])
            assert_ok(r->ctx,
                      sara_tape_leaf(
                          r->tape, &condition.of[i],
                          &sara_safetensors_find(r->golden, sara_condition_kinds[i].name)->shape,
                          r->condition[i], false));
    assert_ok(r->ctx, sara_denoiser_forward(r->tape, &r->output, r->unet, sample, r->timesteps,
                                            &condition));
}

void unet_run_step(unet_run *r)
{
    sara_tape_record(r->tape, true);
    unet_run_forward(r);
    assert_ok(r->ctx, sara_nn_mse_loss(r->tape, &r->loss, r->output, r->target, NULL, NULL));
    assert_ok(r->ctx, sara_tape_backward(r->tape, r->loss, 1));
}

/* ------------------------------------------------------------------------------------ gradients */

double test_norm(const float *x, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

double test_distance(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum);
}

double unet_run_norm(const unet_run *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->params->count; i++) {
        const sara_param *p = &r->params->items[i];
        double norm = test_norm(p->grad, (size_t)sara_shape_count(&p->value.shape));
        sum += norm * norm;
    }
    return sqrt(sum);
}

/* Of each how-many-th entry the golden file holds a gradient: tests/golden/thin_golden.py. */
static size_t stride_of(const unet_run *r, size_t count)
{
    const char *stride = sara_safetensors_metadata(r->golden, "gradient_stride");
    const char *large = sara_safetensors_metadata(r->golden, "gradient_large");
    return stride && large && count > (size_t)atol(large) ? (size_t)atol(stride) : 1;
}

/* Every stride-th entry, moved to the front of a copy; sara_free(). */
static float *thinned(unet_run *r, const float *grad, size_t count, size_t stride)
{
    float *kept;
    assert_ok(r->ctx, sara_alloc(r->ctx, &kept, (count + stride - 1) / stride, sizeof(*kept)));
    for (size_t i = 0; i < count; i += stride)
        kept[i / stride] = grad[i];
    return kept;
}

void unet_run_check_gradients(unet_run *r, double relative, double floor)
{
    double all = unet_run_norm(r);
    char name[256];
    for (size_t i = 0; i < r->params->count; i++) {
        const sara_param *p = &r->params->items[i];
        size_t whole = (size_t)sara_shape_count(&p->value.shape), count;
        size_t stride = stride_of(r, whole);
        snprintf(name, sizeof(name), "grad.%s", p->name);
        float *expected = test_load_f32(r->ctx, r->golden, name, &count);
        float *ours = thinned(r, p->grad, whole, stride);
        assert_int_equal(count, (whole + stride - 1) / stride);
        assert_close(test_distance(ours, expected, count),
                     relative * test_norm(expected, count) + floor * all, name);
        sara_free(r->ctx, expected);
        sara_free(r->ctx, ours);
    }
}

void unet_run_want_sampled(unet_run *r, uint32_t **positions)
{
    for (size_t i = 0; i < r->params->count; i++) {
        sara_param *p = &r->params->items[i];
        size_t count = (size_t)sara_shape_count(&p->value.shape);
        float *draw;
        positions[i] = NULL;
        if (sara_draw_below(3, 1, SARA_DRAW_TEST, 0, i) == 0)
            continue;
        assert_ok(r->ctx, sara_alloc(r->ctx, &draw, count, sizeof(*draw)));
        assert_ok(r->ctx, sara_alloc(r->ctx, &positions[i], count, sizeof(**positions)));
        sara_draw_uniform(draw, count, 2, SARA_DRAW_TEST, i);
        for (size_t j = 0; j < count; j++)
            if (draw[j] < 0.06f)
                positions[i][p->selected++] = (uint32_t)j;
        p->want = SARA_GRAD_SAMPLED;
        p->positions = positions[i];
        assert_ok(r->ctx, sara_alloc_zero(r->ctx, &p->grad, p->selected, sizeof(float)));
        sara_free(r->ctx, draw);
    }
}

void test_check_sampled(sara_context *ctx, const sara_param *sampled, const float *dense,
                        double all)
{
    float *gathered;
    assert_ok(ctx, sara_alloc_zero(ctx, &gathered, sampled->selected + 1, sizeof(float)));
    for (size_t j = 0; j < sampled->selected; j++)
        gathered[j] = dense[sampled->positions[j]];
    assert_close(test_distance(sampled->grad, gathered, sampled->selected),
                 1e-5 * test_norm(gathered, sampled->selected) + 1e-7 * all, sampled->name);
    sara_free(ctx, gathered);
}

void unet_run_check_model(const char *folder, const char *device, sara_storage storage, int levels)
{
    unet_run r = unet_run_open_stored(folder, device, storage);
    size_t count;
    float *loss = test_load_f32(r.ctx, r.golden, "loss", &count);
    unet_run_want_dense(&r);
    r.unet->checkpoint_levels = levels;
    unet_run_step(&r);
    assert_close(test_var_error(r.ctx, r.output, r.golden, "output"), 1e-5, "output");
    assert_close(fabs((double)r.loss->data[0] - loss[0]), 1e-5 * fabs((double)loss[0]), "loss");
    unet_run_check_gradients(&r, 1e-4, 0);
    sara_free(r.ctx, loss);
    unet_run_close(&r);
}
