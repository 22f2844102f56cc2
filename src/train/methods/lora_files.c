/* LoRA files of a run: what it starts from, its checkpoints and its result. */
#include "pipeline/lora_write.h"
#include "train/checkpoint.h"
#include "train/methods/lora.h"

/* -------------------------------------------------------------------------------------- reading */

/* Whether these layers can be trained by the run's method. */
static sara_status check_layer(const trainer *t, const sara_lora_layer *layer)
{
    bool dora = t->method == &sara_method_dora;
    const char *fault =
        layer->whole || layer->mid || layer->magnitude_of_inputs
            ? "its change is not of a down and an up alone, which are trained"
        : dora && !layer->magnitude ? "has no magnitude (a LoRA); --method lora goes on from it"
        : !dora && layer->magnitude ? "has a magnitude (a DoRA); --method dora goes on from it"
                                    : NULL;
    return fault ? sara_fail(t->ctx, SARA_ERROR_INPUT, "%s: %s", layer->name, fault) : SARA_OK;
}

static sara_status check_set(const trainer *t, const sara_lora_set *set)
{
    sara_status status = SARA_OK;
    if (set->left_out > 0)
        return sara_fail(t->ctx, SARA_ERROR_INPUT,
                         "changes %zu layers that the model does not have, of which a run would "
                         "lose the changes",
                         set->left_out);
    for (int i = 1; i < t->model->family->part_count; i++)
        if (set->parts[i].count > 0)
            return sara_fail(t->ctx, SARA_ERROR_INPUT,
                             "changes %zu layers of %s, of which a run would lose the changes: the "
                             "denoiser alone is trained",
                             set->parts[i].count, t->model->family->parts[i].folder);
    for (size_t i = 0; i < set->parts[0].count; i++)
        TRY(check_layer(t, &set->parts[0].layers[i]));
done:
    return status;
}

sara_status sara_lora_run_read(const trainer *t, sara_lora_set *out, const char *path)
{
    sara_adapter_source source = {0};
    sara_status status;
    TRY(sara_origin_read(t, &source, path, &sara_adapter_kind_lora));
    TRY(sara_lora_read(t->ctx, out, &source, t->model, true)); /* check_set() refuses the rest */
    status = check_set(t, out);
    if (status != SARA_OK)
        sara_fail_in(t->ctx, status, path);
done:
    sara_adapter_source_close(&source);
    return status;
}

sara_status sara_lora_run_load(trainer *t, const char *folder)
{
    sara_lora_set set = {0};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, SARA_LORA_RESULT));
    TRY(sara_lora_run_read(t, &set, path));
    status = sara_loras_take(t->ctx, &lora_run_of(t)->loras, &set.parts[0], 1);
    if (status != SARA_OK)
        TRY(sara_fail_in(t->ctx, status, path));
    TRY(sara_state_load(t->ctx, folder, &t->optimizer->trainables));
done:
    sara_lora_set_free(&set);
    sara_free(t->ctx, path);
    return status;
}

/* -------------------------------------------------------------------------------------- writing */

static float *values_of(const sara_param *copies, const sara_loras *loras, const sara_param *param)
{
    return param ? copies[param - loras->params.items].value.data : NULL;
}

/* Layers of what the copies hold of the parameters. */
static sara_status list_layers(const sara_loras *loras, const sara_params *copies,
                               sara_lora_file *out)
{
    sara_status status;
    TRY(sara_arena_alloc(&out->arena, &out->layers, loras->count, sizeof(*out->layers)));
    for (size_t i = 0; i < loras->count; i++) {
        const sara_trained_lora *mine = &loras->layers[i];
        const sara_shape *shape = &mine->weight->value.shape;
        out->layers[out->count++] =
            (sara_lora_layer){.name = mine->weight->name,
                              .rank = mine->rank,
                              .out = shape->dims[0],
                              .in = shape->dims[1],
                              .kh = shape->rank > 2 ? shape->dims[2] : 1,
                              .kw = shape->rank > 3 ? shape->dims[3] : 1,
                              .down = values_of(copies->items, loras, mine->branch.down),
                              .up = values_of(copies->items, loras, mine->branch.up),
                              .magnitude = values_of(copies->items, loras, mine->branch.magnitude),
                              .scale = mine->scale};
    }
done:
    return status;
}

/* What kohya's own files say of the network, beside the run's own metadata. */
static sara_status add_network(const trainer *t, sara_metadata_list *list)
{
    const sara_lora_run *run = lora_run_of(t);
    char rank[32] = "Dynamic", alpha[32] = "Dynamic", args[96];
    sara_status status = SARA_OK;
    for (size_t i = 0; i < t->metadata.count; i++) {
        const sara_metadata *own = &t->metadata.items[i];
        if (strcmp(own->key, "sara.format") != 0) /* of sara's own adapters */
            TRY(sara_metadata_list_add(list, own->key, "%s", own->value));
    }
    if (run->rank) {
        snprintf(rank, sizeof(rank), "%lld", (long long)run->rank);
        sara_print(alpha, sizeof(alpha), "%.15g", run->alpha);
    }
    snprintf(args, sizeof(args), "{\"conv_dim\": \"%s\", \"conv_alpha\": \"%s\"}", rank, alpha);
    TRY(sara_metadata_list_add_kohya(list, t->model, "networks.lora", rank, alpha, args));
done:
    return status;
}

static sara_status write_to(const trainer *t, const char *path, bool peft)
{
    const sara_lora_run *run = lora_run_of(t);
    sara_lora_file lora = {0};
    sara_params copies = {0};
    sara_metadata_list list;
    sara_status status;
    sara_arena_init(&lora.arena, t->ctx);
    sara_metadata_list_init(&list, t->ctx);
    TRY(sara_params_read(t->ctx, &copies, &run->loras.params));
    TRY(list_layers(&run->loras, &copies, &lora));
    TRY(add_network(t, &list));
    const sara_lora_layer *first = lora.layers;
    const sara_lora_output output = {.path = path,
                                     .lora = &lora,
                                     .params = &t->model->denoiser->params,
                                     .model = t->model,
                                     .dtype = SARA_F32,
                                     .metadata = list.items,
                                     .metadata_count = list.count,
                                     .rank = first->rank,
                                     .alpha = run->rank ? run->alpha
                                                        : first->scale * (double)first->rank};
    TRY(peft ? sara_lora_write_peft(t->ctx, &output) : sara_lora_write_kohya(t->ctx, &output));
done:
    sara_params_read_end(t->ctx, &copies, &run->loras.params);
    sara_metadata_list_free(&list);
    sara_arena_free(&lora.arena);
    return status;
}

sara_status sara_lora_run_save(const trainer *t, const char *folder)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, SARA_LORA_RESULT));
    TRY(write_to(t, path, false));
    TRY(sara_state_save(t->ctx, folder, &t->optimizer->trainables, NULL));
done:
    sara_free(t->ctx, path);
    return status;
}

sara_status sara_lora_run_finish(const trainer *t)
{
    const char *result = sara_method_result(t->method, t->model->family, &t->options);
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, t->run.folder, result));
    TRY(write_to(t, path, strcmp(result, SARA_LORA_RESULT) != 0));
done:
    sara_free(t->ctx, path);
    return status;
}
