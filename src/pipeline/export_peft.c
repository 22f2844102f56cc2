/* A folder that PEFT's PeftModel.from_pretrained(denoiser, FOLDER) loads. */
#include "pipeline/export.h"

#include <stdlib.h>

#define WEIGHTS_NAME "adapter_model.safetensors"
#define CONFIG_NAME  "adapter_config.json"

typedef struct writing {
    const sara_export *e;
    const sara_low_rank_layer *layers;
    sara_arena arena;
    sara_tensor_source *tensors; /* of each layer A and B */
} writing;

static void peft_fill(const void *user, size_t index, void *data)
{
    const writing *w = user;
    const sara_low_rank_layer *layer = &w->layers[index / 2];
    sara_convert_from_f32(data, w->e->dtype, index % 2 ? layer->up : layer->down,
                          (size_t)sara_shape_count(&w->tensors[index].shape));
}

static sara_status peft_describe(writing *w, size_t index)
{
    const sara_low_rank_layer *layer = &w->layers[index / 2];
    sara_tensor_source *tensor = &w->tensors[index];
    bool second = index % 2;
    char *key = NULL;
    sara_status status;
    *tensor =
        (sara_tensor_source){NULL, w->e->dtype, second ? layer->up_shape : layer->down_shape, NULL};
    TRY(sara_format(w->e->ctx, &key, "base_model.model.%s.lora_%s.weight", layer->name,
                    second ? "B" : "A"));
    TRY(sara_arena_strdup(&w->arena, &tensor->name, key));
done:
    sara_free(w->e->ctx, key);
    return status;
}

static sara_status write_weights(const sara_export *e, const char *folder,
                                 const sara_low_rank_layer *layers, size_t count)
{
    const sara_metadata format = {"format", "pt"};
    writing w = {.e = e, .layers = layers};
    char *path = NULL;
    sara_status status;
    sara_arena_init(&w.arena, e->ctx);
    TRY(sara_arena_alloc(&w.arena, &w.tensors, 2 * count, sizeof(*w.tensors)));
    for (size_t i = 0; i < 2 * count; i++)
        TRY(peft_describe(&w, i));
    TRY(sara_path_join(e->ctx, &path, folder, WEIGHTS_NAME));
    TRY(sara_safetensors_save_made(e->ctx, path, w.tensors, 2 * count, &format, 1, peft_fill, &w));
done:
    sara_free(e->ctx, path);
    sara_arena_free(&w.arena);
    return status;
}

/* A key of a pattern is a regular expression for PEFT, in which a dot stands for anything. */
static int set_pattern(json_t *object, const char *name, int64_t rank)
{
    char key[512];
    size_t used = 0;
    for (; *name && used + 3 < sizeof(key); name++) {
        if (*name == '.')
            key[used++] = '\\';
        key[used++] = *name;
    }
    key[used] = '\0';
    return json_object_set_new(object, key, json_integer(rank));
}

/* NULL if memory ran out. alpha = rank everywhere: the factors' product is the change. */
static json_t *peft_make_config(const sara_export *e, const sara_low_rank_layer *layers,
                                size_t count)
{
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    int failed = !targets || !ranks || !alphas;
    for (size_t i = 0; i < count && !failed; i++) {
        failed = json_array_append_new(targets, json_string(layers[i].name));
        if (layers[i].rank != e->rank)
            failed |= set_pattern(ranks, layers[i].name, layers[i].rank) |
                      set_pattern(alphas, layers[i].name, layers[i].rank);
    }
    json_t *config =
        json_pack("{s:s,s:n,s:n,s:i,s:i,s:f,s:s,s:b,s:b,s:b,s:b,s:b,s:o,s:o,s:o}", "peft_type",
                  "LORA", "task_type", "base_model_name_or_path", "r", e->rank, "lora_alpha",
                  e->rank, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0,
                  "inference_mode", 1, "init_lora_weights", 1, "use_rslora", 0, "use_dora", 0,
                  "target_modules", targets, "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!failed)
        return config;
    json_decref(config);
    return NULL;
}

static sara_status write_config(const sara_export *e, const char *folder,
                                const sara_low_rank_layer *layers, size_t count)
{
    json_t *config = peft_make_config(e, layers, count);
    char *text = config ? sara_json_dump(config, JSON_INDENT(2)) : NULL, *path = NULL;
    sara_status status;
    if (!text) {
        status = sara_fail(e->ctx, SARA_ERROR_MEMORY, "out of memory: " CONFIG_NAME);
        goto done;
    }
    TRY(sara_path_join(e->ctx, &path, folder, CONFIG_NAME));
    TRY(sara_file_write(e->ctx, path, text, strlen(text)));
done:
    sara_free(e->ctx, path);
    free(text);
    json_decref(config);
    return status;
}

sara_status sara_export_peft(const sara_export *e, const sara_low_rank_layer *layers, size_t count)
{
    size_t length = strlen(e->out);
    char *target = NULL;
    sara_partial partial = {.fd = -1};
    sara_status status;
    while (length > 1 && e->out[length - 1] == '/')
        length--;
    TRY(sara_format(e->ctx, &target, "%.*s", (int)length, e->out));
    TRY(sara_partial_make(e->ctx, &partial, target, true));
    TRY(write_weights(e, partial.path, layers, count));
    TRY(write_config(e, partial.path, layers, count));
    TRY(sara_partial_publish(e->ctx, &partial, target));
done:
    sara_partial_discard(e->ctx, &partial);
    sara_free(e->ctx, target);
    return status;
}
