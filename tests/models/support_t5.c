#include "support_t5.h"

#include <stdlib.h>

test_name t5_folder(void)
{
    return test_family("sd3/text_encoder_3");
}

t5_run t5_open(const char *path, const char *device, sara_storage storage)
{
    t5_run r = {.ctx = test_context()};
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx, sara_network_load(r.device, &r.t5, &sara_t5_class, path, NULL, storage));
    return r;
}

void t5_close(t5_run *r)
{
    sara_free(r->ctx, r->ids);
    sara_network_free(r->t5);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

sara_safetensors *t5_golden(t5_run *r)
{
    sara_safetensors *golden =
        test_open(r->ctx, test_family("sd3/text_encoder_3/golden.safetensors").text);
    r->ids = test_load_ids(r->ctx, golden, &r->batch, &r->count);
    return golden;
}

float *t5_run_forward(t5_run *r, int64_t first, int64_t batch)
{
    sara_var *states;
    assert_ok(r->ctx,
              sara_t5_forward(r->tape, &states, r->t5, r->ids + first * r->count, batch, r->count));
    size_t bytes = (size_t)sara_shape_count(&states->shape) * sizeof(float);
    float *out = malloc(bytes);
    memcpy(out, states->data, bytes);
    sara_tape_reset(r->tape);
    return out;
}

void t5_assert_released(const t5_run *r)
{
    for (size_t i = 0; i < r->t5->params.count; i++)
        assert_null(r->t5->params.items[i].value.data);
}
