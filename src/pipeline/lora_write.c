#include "pipeline/lora_write.h"

#include "pipeline/export.h"

#include <stdlib.h>

#define WEIGHTS_NAME  "adapter_model.safetensors"
#define CONFIG_NAME   "adapter_config.json"
#define LAYER_TENSORS 5 /* at most */

/* The tensors of a file, and the floats that they are made of. */
typedef struct lora_tensors {
    sara_context *ctx;
    const sara_lora_output *output;
    sara_arena arena;
    sara_tensor_source *items;
    const float **values;
    size_t count;
} lora_tensors;

static sara_status tensors_init(lora_tensors *w, sara_context *ctx, const sara_lora_output *output)
{
    size_t most = LAYER_TENSORS * output->lora->count;
    sara_status status;
    for (int part = 1; output->texts && part < SARA_MOST_PARTS; part++)
        most += LAYER_TENSORS * output->texts[part].count;
    *w = (lora_tensors){.ctx = ctx, .output = output};
    sara_arena_init(&w->arena, ctx);
    TRY(sara_arena_alloc(&w->arena, &w->items, most, sizeof(*w->items)));
    TRY(sara_arena_alloc(&w->arena, &w->values, most, sizeof(*w->values)));
done:
    return status;
}

/* values NULL: the layer has none. */
static sara_status put_tensor(lora_tensors *w, const char *layer, const char *end, sara_dtype dtype,
                              sara_shape shape, const float *values)
{
    sara_tensor_source *tensor = &w->items[w->count];
    char *name = NULL;
    sara_status status;
    if (!values)
        return SARA_OK;
    *tensor = (sara_tensor_source){NULL, dtype, shape, NULL};
    TRY(sara_format(w->ctx, &name, "%s%s", layer, end));
    TRY(sara_arena_strdup(&w->arena, &tensor->name, name));
    w->values[w->count++] = values;
done:
    sara_free(w->ctx, name);
    return status;
}

static sara_status make_tensor(const void *user, size_t index, void *data)
{
    const lora_tensors *w = user;
    const sara_tensor_source *tensor = &w->items[index];
    sara_convert_from_f32(data, tensor->dtype, w->values[index],
                          (size_t)sara_shape_count(&tensor->shape));
    return SARA_OK;
}

static sara_status shape_of(const lora_tensors *w, sara_shape *out, const sara_lora_layer *layer,
                            const sara_params *params)
{
    const sara_param *param = sara_params_find(params, layer->name);
    if (!param)
        return sara_fail(w->ctx, SARA_ERROR_INPUT, "%s: the model has no such weight", layer->name);
    *out = param->value.shape;
    return SARA_OK;
}

/* Of the weight's own number of axes, of which the others are 1. */
static sara_shape factor_shape(const sara_shape *weight, int64_t rows, int64_t cols, bool convolves)
{
    sara_shape shape = *weight;
    shape.dims[0] = rows;
    shape.dims[1] = cols;
    for (int i = 2; i < shape.rank && !convolves; i++)
        shape.dims[i] = 1;
    return shape;
}

static sara_shape down_shape(const sara_shape *weight, const sara_lora_layer *layer)
{
    return factor_shape(weight, layer->rank, layer->in, !layer->mid);
}

/* --------------------------------------------------------------------------------------- kohya */

/* diffusers' loaders of such families know no alpha: the scale goes into the second factor. */
static sara_status add_diffusers_layer(lora_tensors *w, const sara_lora_layer *layer,
                                       const sara_shape *weight, const char *name)
{
    const size_t count = (size_t)(layer->out * layer->rank);
    sara_dtype dtype = w->output->dtype;
    float *up;
    sara_status status;
    if (layer->mid || layer->magnitude_of_inputs)
        TRY(sara_fail(w->ctx, SARA_ERROR_USAGE, "%s: has %s, which diffusers has nothing for",
                      layer->name, layer->mid ? "a middle matrix" : "a magnitude of inputs"));
    TRY(sara_arena_alloc(&w->arena, &up, count, sizeof(*up)));
    for (size_t i = 0; i < count; i++)
        up[i] = (float)(layer->up[i] * layer->scale);
    TRY(put_tensor(w, name, ".lora_A.weight", dtype, down_shape(weight, layer), layer->down));
    TRY(put_tensor(w, name, ".lora_B.weight", dtype,
                   factor_shape(weight, layer->out, layer->rank, false), up));
    TRY(put_tensor(w, name, ".lora_magnitude_vector", dtype, sara_shape1(layer->out),
                   layer->magnitude));
done:
    return status;
}

static sara_status add_kohya_layer(lora_tensors *w, const sara_lora_layer *layer, int part)
{
    bool of_inputs = layer->magnitude_of_inputs;
    int64_t rank = layer->rank;
    sara_dtype dtype = w->output->dtype;
    const char *own, *name;
    float *alpha;
    bool is_bias;
    sara_shape weight;
    sara_status status;
    TRY(shape_of(w, &weight, layer, part ? w->output->text_params[part] : w->output->params));
    TRY(sara_export_layer(&w->arena, &own, &is_bias, layer->name));
    TRY(sara_export_kohya_name(&w->arena, &name, own, w->output->model, part));
    if (w->output->model->family->lora_of_diffusers)
        return add_diffusers_layer(w, layer, &weight, name);
    TRY(sara_arena_alloc(&w->arena, &alpha, 1, sizeof(*alpha)));
    *alpha = (float)(layer->scale * (double)rank);
    TRY(put_tensor(w, name, ".lora_down.weight", dtype, down_shape(&weight, layer), layer->down));
    TRY(put_tensor(w, name, ".lora_up.weight", dtype,
                   factor_shape(&weight, layer->out, rank, false), layer->up));
    TRY(put_tensor(w, name, ".alpha", SARA_F32, (sara_shape){.rank = 0}, alpha));
    TRY(put_tensor(w, name, ".lora_mid.weight", dtype, factor_shape(&weight, rank, rank, true),
                   layer->mid));
    TRY(put_tensor(
        w, name, ".dora_scale", dtype,
        factor_shape(&weight, of_inputs ? 1 : layer->out, of_inputs ? layer->in : 1, false),
        layer->magnitude));
done:
    return status;
}

sara_status sara_lora_write_kohya(sara_context *ctx, const sara_lora_output *output)
{
    lora_tensors w;
    sara_status status;
    TRY(tensors_init(&w, ctx, output));
    for (size_t i = 0; i < output->lora->count; i++)
        TRY(add_kohya_layer(&w, &output->lora->layers[i], 0));
    for (int part = 1; output->texts && part < SARA_MOST_PARTS; part++)
        for (size_t i = 0; i < output->texts[part].count; i++)
            TRY(add_kohya_layer(&w, &output->texts[part].layers[i], part));
    TRY(sara_safetensors_save_made(ctx, output->path, w.items, w.count, output->metadata,
                                   output->metadata_count, make_tensor, &w));
done:
    sara_arena_free(&w.arena);
    return status;
}

/* ---------------------------------------------------------------------------------------- PEFT */

static bool uses_dora(const sara_lora_file *lora)
{
    return lora->count > 0 && lora->layers[0].magnitude;
}

static sara_status check_peft_layer(const lora_tensors *w, const sara_lora_layer *layer)
{
    bool dora = uses_dora(w->output->lora);
    const char *what = layer->mid                           ? "a middle matrix"
                       : layer->magnitude_of_inputs         ? "a magnitude of inputs"
                       : (layer->magnitude != NULL) != dora ? "a magnitude unlike other layers"
                                                            : NULL;
    return what ? sara_fail(w->ctx, SARA_ERROR_USAGE, "%s: has %s, which PEFT has nothing for",
                            layer->name, what)
                : SARA_OK;
}

static sara_status add_peft_layer(lora_tensors *w, const sara_lora_layer *layer)
{
    sara_dtype dtype = w->output->dtype;
    const char *own;
    char *name = NULL;
    bool is_bias;
    sara_shape weight;
    sara_status status;
    TRY(check_peft_layer(w, layer));
    TRY(shape_of(w, &weight, layer, w->output->params));
    const sara_shape magnitude =
        weight.rank == 2 ? sara_shape1(layer->out) : factor_shape(&weight, 1, layer->out, false);
    TRY(sara_export_layer(&w->arena, &own, &is_bias, layer->name));
    TRY(sara_format(w->ctx, &name, "base_model.model.%s", own));
    TRY(put_tensor(w, name, ".lora_A.weight", dtype, down_shape(&weight, layer), layer->down));
    TRY(put_tensor(w, name, ".lora_B.weight", dtype,
                   factor_shape(&weight, layer->out, layer->rank, false), layer->up));
    TRY(put_tensor(w, name, ".lora_magnitude_vector", dtype, magnitude, layer->magnitude));
done:
    sara_free(w->ctx, name);
    return status;
}

static sara_status write_weights(sara_context *ctx, const sara_lora_output *output,
                                 const char *folder)
{
    const sara_metadata format = {"format", "pt"};
    lora_tensors w;
    char *path = NULL;
    sara_status status;
    TRY(tensors_init(&w, ctx, output));
    for (size_t i = 0; i < output->lora->count; i++)
        TRY(add_peft_layer(&w, &output->lora->layers[i]));
    TRY(sara_path_join(ctx, &path, folder, WEIGHTS_NAME));
    TRY(sara_safetensors_save_made(ctx, path, w.items, w.count, &format, 1, make_tensor, &w));
done:
    sara_free(ctx, path);
    sara_arena_free(&w.arena);
    return status;
}

/* "conv_in" of "conv_in.weight" */
static int layer_length(const sara_lora_layer *layer)
{
    const char *dot = strrchr(layer->name, '.');
    return (int)(dot ? dot - layer->name : (ptrdiff_t)strlen(layer->name));
}

/* A key of a pattern is a regular expression for PEFT, in which a dot stands for anything. */
static int set_pattern(json_t *object, const sara_lora_layer *layer, json_t *value)
{
    const char *name = layer->name, *end = name + layer_length(layer);
    char key[512];
    size_t used = 0;
    for (; name < end && used + 3 < sizeof(key); name++) {
        if (*name == '.')
            key[used++] = '\\';
        key[used++] = *name;
    }
    key[used] = '\0';
    return json_object_set_new(object, key, value);
}

/* Whole numbers without a point, as PEFT's own. */
static json_t *alpha_json(double alpha)
{
    return alpha == (double)(json_int_t)alpha ? json_integer((json_int_t)alpha) : json_real(alpha);
}

/* That of the product of rank and scale, which rounds. */
static double alpha_of(const sara_lora_layer *layer)
{
    return (double)(float)(layer->scale * (double)layer->rank);
}

/* NULL if memory ran out. */
static json_t *peft_make_config(const sara_lora_output *output)
{
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    const sara_lora_file *lora = output->lora;
    int failed = !targets || !ranks || !alphas;
    for (size_t i = 0; i < lora->count && !failed; i++) {
        const sara_lora_layer *layer = &lora->layers[i];
        failed =
            json_array_append_new(targets, json_stringn(layer->name, (size_t)layer_length(layer)));
        if (layer->rank != output->rank)
            failed |= set_pattern(ranks, layer, json_integer(layer->rank));
        if (alpha_of(layer) != output->alpha)
            failed |= set_pattern(alphas, layer, alpha_json(alpha_of(layer)));
    }
    json_t *config = json_pack(
        "{s:s,s:n,s:n,s:I,s:o,s:f,s:s,s:b,s:b,s:b,s:b,s:b,s:o,s:o,s:o}", "peft_type", "LORA",
        "task_type", "base_model_name_or_path", "r", (json_int_t)output->rank, "lora_alpha",
        alpha_json(output->alpha), "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0,
        "inference_mode", 1, "init_lora_weights", 1, "use_rslora", 0, "use_dora", uses_dora(lora),
        "target_modules", targets, "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!failed)
        return config;
    json_decref(config);
    return NULL;
}

static sara_status write_config(sara_context *ctx, const sara_lora_output *output,
                                const char *folder)
{
    json_t *config = peft_make_config(output);
    char *text = config ? sara_json_dump(config, JSON_INDENT(2)) : NULL, *path = NULL;
    sara_status status;
    if (!text) {
        status = sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: " CONFIG_NAME);
        goto done;
    }
    TRY(sara_path_join(ctx, &path, folder, CONFIG_NAME));
    TRY(sara_file_write(ctx, path, text, strlen(text)));
done:
    sara_free(ctx, path);
    free(text);
    json_decref(config);
    return status;
}

static sara_status write_peft_files(sara_context *ctx, const sara_lora_output *output,
                                    const char *folder)
{
    sara_status status;
    TRY(write_weights(ctx, output, folder));
    TRY(write_config(ctx, output, folder));
done:
    return status;
}

sara_status sara_lora_write_peft(sara_context *ctx, const sara_lora_output *output)
{
    size_t length = strlen(output->path);
    char *target = NULL;
    sara_partial partial = {.fd = -1};
    sara_status status;
    while (length > 1 && output->path[length - 1] == '/')
        length--;
    TRY(sara_format(ctx, &target, "%.*s", (int)length, output->path));
    if (sara_path_exists(target)) {
        status = write_peft_files(ctx, output, target);
        goto done;
    }
    TRY(sara_partial_make(ctx, &partial, target, true));
    TRY(write_peft_files(ctx, output, partial.path));
    TRY(sara_partial_publish(ctx, &partial, target));
done:
    sara_partial_discard(ctx, &partial);
    sara_free(ctx, target);
    return status;
}
