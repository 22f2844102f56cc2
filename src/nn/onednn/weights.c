/* Convolution weights in the primitives' layouts. A parameter that is being trained changes with
 * every step, so its copy would serve once: it goes to scratch. A frozen one's is kept while there
 * is room. */
#include "nn/onednn/primitive.h"
#include "nn/weight.h"

/* Entries that so many look-ups did not need make room; a step of a U-Net has some hundreds. */
#define FORGET_AFTER 4096

static sara_cached_weights **bucket_of(sara_onednn *state, const sara_param *param)
{
    return &state->weights[((uintptr_t)param / sizeof(*param)) % SARA_ONEDNN_BUCKETS];
}

static void onednn_weights_drop(sara_onednn *state, sara_cached_weights **at)
{
    sara_cached_weights *entry = *at;
    *at = entry->next;
    state->weight_bytes -= entry->bytes;
    dnnl_memory_destroy(entry->memory);
    sara_free(state->ctx, entry->data);
    sara_free(state->ctx, entry);
}

void sara_primitive_weights_free(sara_onednn *state)
{
    for (int i = 0; i < SARA_ONEDNN_BUCKETS; i++)
        while (state->weights[i])
            onednn_weights_drop(state, &state->weights[i]);
}

void sara_onednn_forget(sara_onednn *state, const sara_param *param)
{
    for (sara_cached_weights **at = bucket_of(state, param); *at;)
        if ((*at)->param == param)
            onednn_weights_drop(state, at);
        else
            at = &(*at)->next;
}

static void drop_unused(sara_onednn *state)
{
    for (int i = 0; i < SARA_ONEDNN_BUCKETS; i++)
        for (sara_cached_weights **at = &state->weights[i]; *at;)
            if (state->clock - (*at)->used > FORGET_AFTER)
                onednn_weights_drop(state, at);
            else
                at = &(*at)->next;
}

static bool same_layout(dnnl_memory_t a, dnnl_memory_t b)
{
    sara_desc_ref x, y;
    return dnnl_memory_get_memory_desc(a, &x) == dnnl_success &&
           dnnl_memory_get_memory_desc(b, &y) == dnnl_success && dnnl_memory_desc_equal(x, y);
}

/* The entry of the parameter's present values; drops those of its past ones. */
static sara_cached_weights *onednn_weights_find(sara_onednn *state, const sara_primitive *op,
                                                const sara_param *weight)
{
    for (sara_cached_weights **at = bucket_of(state, weight); *at;) {
        sara_cached_weights *entry = *at;
        if (entry->param == weight && entry->version != weight->version) {
            onednn_weights_drop(state, at);
            continue;
        }
        if (entry->param == weight && same_layout(entry->memory, op->memory[SARA_SLOT_WEIGHTS])) {
            entry->used = state->clock;
            return entry;
        }
        at = &entry->next;
    }
    return NULL;
}

sara_status sara_primitive_reorder(sara_onednn *state, const sara_primitive *op, const float *from,
                                   float *to)
{
    bool back = op->key.kind == SARA_PRIMITIVE_CONV_DW;
    dnnl_memory_t chosen = op->memory[SARA_SLOT_WEIGHTS];
    dnnl_memory_t source = back ? chosen : op->plain, target = back ? op->plain : chosen;
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}};
    sara_trace_begin(state->ctx);
    dnnl_status_t status = dnnl_memory_set_data_handle(source, (void *)(uintptr_t)from);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(target, to);
    if (status == dnnl_success)
        status = dnnl_primitive_execute(op->reorder, state->stream, 2, arguments);
    if (status == dnnl_success)
        status = dnnl_stream_wait(state->stream);
    return sara_trace_end(
        state->ctx, "weight layout", 0,
        status == dnnl_success ? SARA_OK : sara_primitive_fail(state->ctx, &op->key, status));
}

/* w is the weight's, in floats. */
static sara_status onednn_weights_add(sara_onednn *state, const sara_primitive *op, const float *w,
                                      const sara_param *weight, const float **out)
{
    sara_cached_weights **bucket = bucket_of(state, weight), *entry = NULL;
    sara_desc_ref desc;
    dnnl_status_t made;
    sara_status status;
    TRY(sara_alloc_zero(state->ctx, &entry, 1, sizeof(*entry)));
    TRY(sara_alloc(state->ctx, &entry->data, op->weight_bytes, 1));
    made = dnnl_memory_get_memory_desc(op->memory[SARA_SLOT_WEIGHTS], &desc);
    if (made == dnnl_success)
        made = dnnl_memory_create(&entry->memory, desc, state->engine, DNNL_MEMORY_NONE);
    if (made != dnnl_success)
        TRY(sara_primitive_fail(state->ctx, &op->key, made));
    TRY(sara_primitive_reorder(state, op, w, entry->data));
    entry->param = weight;
    entry->version = weight->version;
    entry->used = state->clock;
    entry->bytes = op->weight_bytes;
    entry->next = *bucket;
    *bucket = entry;
    state->weight_bytes += entry->bytes;
    *out = entry->data;
    entry = NULL;
done:
    if (entry) {
        dnnl_memory_destroy(entry->memory);
        sara_free(state->ctx, entry->data);
        sara_free(state->ctx, entry);
    }
    return status;
}

static bool has_room(sara_onednn *state, size_t bytes)
{
    if (state->weight_bytes + bytes > SARA_ONEDNN_WEIGHT_BYTES)
        drop_unused(state);
    return state->weight_bytes + bytes <= SARA_ONEDNN_WEIGHT_BYTES;
}

static sara_status reorder(const sara_kernel_env *env, const sara_primitive *op, const float **out,
                           float **scratch, const float *w, const sara_param *weight)
{
    sara_onednn *state = env->device->state;
    sara_status status;
    if (weight && weight->want == SARA_GRAD_NONE && has_room(state, op->weight_bytes)) {
        status = onednn_weights_add(state, op, w, weight, out);
        if (status != SARA_ERROR_MEMORY) /* what is kept can be done without */
            return status;
    }
    TRY(sara_scratch(env, scratch, (op->weight_bytes + sizeof(float) - 1) / sizeof(float)));
    TRY(sara_primitive_reorder(state, op, w, *scratch));
    *out = *scratch;
done:
    return status;
}

static int64_t entries_of(const sara_primitive *op)
{
    sara_conv_shape s = sara_primitive_conv_shape(&op->key);
    return s.out * s.in * s.kh * s.kw;
}

sara_status sara_primitive_weights(const sara_kernel_env *env, const sara_primitive *op,
                                   const float **out, float **scratch, const sara_weight_view *w)
{
    const sara_param *weight = w->param;
    const sara_cached_weights *entry = NULL;
    const float *plain;
    float *wide = NULL;
    sara_status status;
    *scratch = NULL;
    if (op->reorder && weight && weight->want == SARA_GRAD_NONE)
        entry = onednn_weights_find(env->device->state, op, weight);
    if (entry) {
        *out = entry->data;
        return SARA_OK;
    }
    TRY(sara_weight_floats(env, &plain, &wide, w, entries_of(op)));
    if (op->reorder) {
        TRY(reorder(env, op, out, scratch, plain, weight));
    } else {
        *out = plain;
        *scratch = wide;
        wide = NULL;
    }
done:
    sara_unscratch(env, wide);
    return status;
}
