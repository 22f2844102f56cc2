#include "nn/onednn/primitive.h"

static const char *const status_names[] = {
    [dnnl_success] = "success",
    [dnnl_out_of_memory] = "out of memory",
    [dnnl_invalid_arguments] = "invalid arguments",
    [dnnl_unimplemented] = "not implemented",
};

sara_status sara_primitive_fail(sara_context *ctx, const sara_primitive_key *key,
                                dnnl_status_t error)
{
    size_t known = sizeof(status_names) / sizeof(*status_names);
    const char *name = (size_t)error < known && status_names[error] ? status_names[error] : "error";
    sara_status status = error == dnnl_out_of_memory ? SARA_ERROR_MEMORY : SARA_ERROR_DEVICE;
    const int64_t *v = key->numbers;
    if (key->kind == SARA_PRIMITIVE_MATMUL)
        return sara_fail(ctx, status, "linear: oneDNN: %s (%d), m %lld, n %lld, k %lld", name,
                         (int)error, (long long)v[0], (long long)v[1], (long long)v[2]);
    return sara_fail(ctx, status,
                     "conv2d: oneDNN: %s (%d), input [%lld,%lld,%lld,%lld], weight "
                     "[%lld,%lld,%lld,%lld], stride %lld",
                     name, (int)error, (long long)v[0], (long long)v[1], (long long)v[2],
                     (long long)v[3], (long long)v[6], (long long)v[3], (long long)v[7],
                     (long long)v[8], (long long)v[9]);
}

sara_status sara_onednn_new(sara_context *ctx, sara_onednn **out)
{
    sara_onednn *state = NULL;
    dnnl_status_t made;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &state, 1, sizeof(*state)));
    state->ctx = ctx;
    made = dnnl_engine_create(&state->engine, dnnl_cpu, 0);
    if (made == dnnl_success)
        made = dnnl_stream_create(&state->stream, state->engine, dnnl_stream_default_flags);
    if (made != dnnl_success)
        TRY(sara_fail(ctx, made == dnnl_out_of_memory ? SARA_ERROR_MEMORY : SARA_ERROR_DEVICE,
                      "device cpu: oneDNN's engine failed (%d)", (int)made));
    *out = state;
    state = NULL;
done:
    sara_onednn_free(state);
    return status;
}

void sara_onednn_free(sara_onednn *state)
{
    if (!state)
        return;
    for (int i = 0; i < SARA_ONEDNN_BUCKETS; i++)
        for (sara_primitive *op = state->ops[i], *next; op; op = next) {
            next = op->next;
            sara_primitive_free(state->ctx, op);
        }
    sara_primitive_weights_free(state);
    dnnl_stream_destroy(state->stream);
    dnnl_engine_destroy(state->engine);
    sara_free(state->ctx, state);
}

/* Wider instruction sets have all the bits of those that they include. */
static bool has_isa(dnnl_cpu_isa_t wanted)
{
    return ((int)dnnl_get_effective_cpu_isa() & (int)wanted) == (int)wanted;
}

bool sara_onednn_has_bf16(void)
{
    return has_isa(dnnl_cpu_isa_avx512_core_bf16);
}

bool sara_onednn_has_amx(void)
{
    return has_isa(dnnl_cpu_isa_avx512_core_amx);
}

/* ------------------------------------------------------------------------------------ caching */

static size_t hash(const sara_primitive_key *key)
{
    uint64_t h = sara_hash_bytes(key, sizeof(*key));
    return (size_t)(h ^ (h >> 32)) % SARA_ONEDNN_BUCKETS;
}

static void drop_oldest(sara_onednn *state)
{
    sara_primitive **oldest = NULL;
    for (int i = 0; i < SARA_ONEDNN_BUCKETS; i++)
        for (sara_primitive **at = &state->ops[i]; *at; at = &(*at)->next)
            if (!oldest || (*at)->used < (*oldest)->used)
                oldest = at;
    if (!oldest)
        return;
    sara_primitive *op = *oldest;
    *oldest = op->next;
    state->op_count--;
    sara_primitive_free(state->ctx, op);
}

static sara_status onednn_build(sara_onednn *state, sara_primitive *op)
{
    dnnl_status_t made = sara_primitive_build(op, state->engine);
    return made == dnnl_success ? SARA_OK : sara_primitive_fail(state->ctx, &op->key, made);
}

sara_status sara_primitive_get(sara_onednn *state, sara_primitive **out,
                               const sara_primitive_key *key)
{
    sara_primitive **bucket = &state->ops[hash(key)], *op = NULL;
    sara_status status;
    state->clock++;
    for (sara_primitive *at = *bucket; at; at = at->next)
        if (memcmp(&at->key, key, sizeof(*key)) == 0) {
            at->used = state->clock;
            *out = at;
            return SARA_OK;
        }
    if (state->op_count >= SARA_ONEDNN_OPS)
        drop_oldest(state);
    TRY(sara_alloc_zero(state->ctx, &op, 1, sizeof(*op)));
    op->key = *key;
    TRY(SARA_TRACED(state->ctx, "primitives", 0, onednn_build(state, op)));
    op->used = state->clock;
    op->next = *bucket;
    *bucket = op;
    state->op_count++;
    *out = op;
    op = NULL;
done:
    sara_primitive_free(state->ctx, op);
    return status;
}

/* ------------------------------------------------------------------------------------ running */

/* Runs the op on data[slot]; the scratchpad is added here. */
static sara_status onednn_run(const sara_kernel_env *env, sara_primitive *op,
                              const void *const *data)
{
    sara_onednn *state = env->device->state;
    dnnl_exec_arg_t arguments[SARA_SLOTS];
    float *scratch = NULL;
    dnnl_status_t done = dnnl_success;
    int count = 0;
    sara_status status;
    TRY(sara_scratch(env, &scratch, (op->scratch_bytes + sizeof(float) - 1) / sizeof(float)));
    for (int slot = 0; slot < SARA_SLOTS && done == dnnl_success; slot++) {
        const void *p = slot == SARA_SLOT_SCRATCH ? scratch : data[slot];
        if (!op->memory[slot])
            continue;
        done = dnnl_memory_set_data_handle(op->memory[slot], (void *)(uintptr_t)p);
        arguments[count++] = (dnnl_exec_arg_t){op->argument[slot], op->memory[slot]};
    }
    if (done == dnnl_success)
        done = dnnl_primitive_execute(op->primitive, state->stream, count, arguments);
    if (done == dnnl_success)
        done = dnnl_stream_wait(state->stream);
    if (done != dnnl_success)
        status = sara_primitive_fail(env->ctx, &op->key, done);
done:
    sara_unscratch(env, scratch);
    return status;
}

/* Every row of y is the bias. */
static void fill_with_bias(const sara_kernel_env *env, float *y, const float *bias,
                           const sara_matmul_shape *s)
{
    const int64_t row = s->y_row ? s->y_row : s->n;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < s->m; i++)
        memcpy(y + i * row, bias, (size_t)s->n * sizeof(*y));
}

/* oneDNN's sgemm is up to 2.5 times as fast as its matmul primitive (2.6, AVX-512) with both
 * operands as they lie and a twentieth faster with b transposed, and never slower by more than a
 * tenth. */
static sara_status matmul_plain(const sara_kernel_env *env, float *y, const float *a,
                                const float *b, const float *bias, const sara_matmul_shape *s)
{
    if (bias)
        fill_with_bias(env, y, bias, s);
    dnnl_status_t done =
        dnnl_sgemm('N', s->transpose_b ? 'T' : 'N', s->m, s->n, s->k, 1.0f, a,
                   s->a_row ? s->a_row : s->k, b, s->transpose_b ? s->k : s->n,
                   s->accumulate || bias ? 1.0f : 0.0f, y, s->y_row ? s->y_row : s->n);
    const sara_primitive_key key = {SARA_PRIMITIVE_MATMUL, bias != NULL, false, {s->m, s->n, s->k}};
    return done == dnnl_success ? SARA_OK : sara_primitive_fail(env->ctx, &key, done);
}

static sara_status matmul_primitive(const sara_kernel_env *env, float *y, const void *a,
                                    const void *b, const float *bias, const sara_matmul_shape *s,
                                    bool narrow)
{
    sara_primitive_key key = {
        SARA_PRIMITIVE_MATMUL,
        bias != NULL,
        narrow,
        {s->m, s->n, s->k, s->transpose_a, s->transpose_b, s->accumulate, s->a_row, s->y_row}};
    const void *data[SARA_SLOTS] = {a, b, bias, y, NULL};
    sara_primitive *op;
    sara_status status;
    TRY(sara_primitive_get(env->device->state, &op, &key));
    TRY(onednn_run(env, op, data));
done:
    return status;
}

sara_status sara_onednn_matmul(const sara_kernel_env *env, float *y, const float *a, const float *b,
                               const float *bias, const sara_matmul_shape *s)
{
    if (!s->transpose_a)
        return matmul_plain(env, y, a, b, bias, s);
    return matmul_primitive(env, y, a, b, bias, s, false);
}

sara_status sara_onednn_matmul_bf16(const sara_kernel_env *env, float *y, const uint16_t *a,
                                    const uint16_t *b, const float *bias,
                                    const sara_matmul_shape *s)
{
    return matmul_primitive(env, y, a, b, bias, s, true);
}

static sara_primitive_key conv_key(sara_primitive_kind kind, bool bias, bool narrow,
                                   const sara_conv_shape *s)
{
    return (sara_primitive_key){kind,
                                bias,
                                narrow,
                                {s->n, s->h, s->w, s->in, s->oh, s->ow, s->out, s->kh, s->kw,
                                 s->stride, s->pad_top, s->pad_left, s->pad_bottom, s->pad_right}};
}

/* Forward and backward data differ in their key and in which way src and dst go. */
static sara_status conv(const sara_kernel_env *env, const sara_primitive_key *key, const void *src,
                        const void *dst, const sara_weight_view *w, const float *b)
{
    const float *ready;
    float *scratch = NULL;
    sara_primitive *op;
    sara_status status;
    TRY(sara_primitive_get(env->device->state, &op, key));
    TRY(sara_primitive_weights(env, op, &ready, &scratch, w));
    const void *data[SARA_SLOTS] = {src, ready, b, dst, NULL};
    TRY(onednn_run(env, op, data));
done:
    sara_unscratch(env, scratch);
    return status;
}

sara_status sara_onednn_conv_forward(const sara_kernel_env *env, float *y, const float *x,
                                     const sara_weight_view *w, const float *b,
                                     const sara_conv_shape *shape)
{
    sara_primitive_key key = conv_key(SARA_PRIMITIVE_CONV_FORWARD, b != NULL, false, shape);
    return conv(env, &key, x, y, w, b);
}

sara_status sara_onednn_conv_forward_bf16(const sara_kernel_env *env, float *y, const uint16_t *x,
                                          const sara_weight_view *w, const float *b,
                                          const sara_conv_shape *shape)
{
    sara_primitive_key key = conv_key(SARA_PRIMITIVE_CONV_FORWARD, b != NULL, true, shape);
    return conv(env, &key, x, y, w, b);
}

sara_status sara_onednn_conv_dx_bf16(const sara_kernel_env *env, float *dx, const uint16_t *dy,
                                     const sara_weight_view *w, const sara_conv_shape *shape)
{
    sara_primitive_key key = conv_key(SARA_PRIMITIVE_CONV_DX, false, true, shape);
    return conv(env, &key, dx, dy, w, NULL);
}

sara_status sara_onednn_conv_dx(const sara_kernel_env *env, float *dx, const float *dy,
                                const sara_weight_view *w, const sara_conv_shape *shape)
{
    sara_primitive_key key = conv_key(SARA_PRIMITIVE_CONV_DX, false, false, shape);
    return conv(env, &key, dx, dy, w, NULL);
}

sara_status sara_onednn_conv_dw(const sara_kernel_env *env, float *dw, const float *dy,
                                const float *x, const sara_conv_shape *shape)
{
    sara_primitive_key key = conv_key(SARA_PRIMITIVE_CONV_DW, false, false, shape);
    float *scratch = NULL;
    sara_primitive *op;
    sara_status status;
    TRY(sara_primitive_get(env->device->state, &op, &key));
    if (op->reorder)
        TRY(sara_scratch(env, &scratch, op->weight_bytes / sizeof(float)));
    const void *data[SARA_SLOTS] = {x, scratch ? scratch : dw, NULL, dy, NULL};
    TRY(onednn_run(env, op, data));
    if (op->reorder)
        TRY(sara_primitive_reorder(env->device->state, op, scratch, dw));
done:
    sara_unscratch(env, scratch);
    return status;
}
