/* Writing a single-file checkpoint: the denoiser from memory, the other parts from the source, but
 * for what adapters change, all under the names of the LDM repository. What names and shapes do not
 * tell goes into the metadata. */
#include "models/t5.h"
#include "pipeline/save.h"

#include <stdlib.h>

typedef struct single {
    sara_context *ctx;
    const sara_model *model;
    const sara_dtype *dtype;
    sara_save_list list;
    sara_metadata_list metadata;
} single;

/* -------------------------------------------------------------------------------- the denoiser */

/* That of the source's tensors, if it is none of averages, whose place they take; beside the other
 * parts it needs one. */
static const char *denoiser_prefix(const single *s)
{
    const sara_single_place *places = s->model->family->parts[0].places;
    const char *own = s->model->single ? s->model->single->parts[0].prefix : NULL;
    for (const sara_single_place *place = places; own && place->prefix; place++)
        if (strcmp(own, place->prefix) == 0 && (*own || s->model->denoiser_only))
            return own;
    return places->prefix;
}

static sara_status add_denoiser(single *s)
{
    const sara_network *denoiser = s->model->denoiser;
    sara_ldm_shape shape;
    sara_status status;
    TRY(sara_network_ldm_shape(denoiser, &shape)); /* without one there are no places */
    TRY(sara_model_need_changed(s->model, 0));
    TRY(sara_save_list_network(&s->list, denoiser, denoiser_prefix(s), s->dtype));
done:
    return status;
}

/* ------------------------------------------------------------------------------- another part */

typedef struct written {
    single *s;
    const sara_weights *weights;
    const char *prefix;
    sara_ldm_shape shape;
} written;

/* Matrices of a VAE's attention are 1x1 convolutions there. */
static sara_shape shape_in_file(const written *w, const char *name, const sara_tensor_info *info)
{
    sara_shape shape = info->shape;
    if (w->shape.part == SARA_LDM_VAE && strstr(name, ".attn_1.") && shape.rank == 2)
        shape = sara_shape4(shape.dims[0], shape.dims[1], 1, 1);
    return shape;
}

/* Query, key and value one below the other, in one dtype. info: the query's */
static sara_status add_fused(const written *t, const char *name, const sara_tensor_info *info,
                             const sara_name thirds[3])
{
    sara_save_recipe recipe = {.count = 3};
    sara_shape whole = info->shape;
    sara_dtype dtype = info->dtype;
    for (int i = 0; i < 3; i++) {
        const sara_tensor_info *found = sara_weights_find(t->weights, thirds[i].text);
        if (!found || !sara_shape_equal(&found->shape, &info->shape))
            return sara_fail(t->s->ctx, SARA_ERROR_INPUT, "%s: tensor %s: expected one like %.200s",
                             sara_weights_path(t->weights), thirds[i].text, info->name);
        dtype = sara_save_common_dtype(dtype, found->dtype);
        recipe.values[i] = sara_save_list_value(&t->s->list, t->weights, found);
    }
    whole.dims[0] *= 3;
    return sara_save_list_made(
        &t->s->list, name,
        sara_save_value_dtype(&recipe.values[0], t->s->dtype ? t->s->dtype : &dtype), &whole,
        &recipe);
}

/* In the file it lies transposed. */
static sara_status add_turned(const written *t, const char *name, const sara_tensor_info *info)
{
    const sara_shape turned = sara_shape2(info->shape.dims[1], info->shape.dims[0]);
    const sara_save_recipe recipe = {
        .values = {sara_save_list_value(&t->s->list, t->weights, info)},
        .count = 1,
        .form = SARA_SAVE_TURNED};
    return sara_save_list_made(
        &t->s->list, name, sara_save_value_dtype(&recipe.values[0], t->s->dtype), &turned, &recipe);
}

/* Readers of SD2 files build a layer more than is used, and want its weights: the last one's. */
static sara_status repeat_last_layer(const written *t)
{
    sara_name last = sara_name_of("%stransformer.resblocks.%d.", t->prefix, t->shape.layers - 1);
    size_t length = strlen(last.text), count = t->s->list.count;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++) {
        const char *name = t->s->list.sources[i].name;
        if (strncmp(name, last.text, length) == 0)
            TRY(sara_save_list_again(&t->s->list,
                                     sara_name_of("%stransformer.resblocks.%d.%s", t->prefix,
                                                  t->shape.layers, name + length)
                                         .text,
                                     i));
    }
done:
    return status;
}

/* Readers of T5 build its table of tokens twice, as one, and fill each from a name of its own. */
static sara_status repeat_tokens(const written *t)
{
    static const char *const names[] = {SARA_T5_TOKENS, SARA_T5_TOKENS_AGAIN};
    size_t found[2] = {SIZE_MAX, SIZE_MAX};
    sara_name full[2];
    for (int i = 0; i < 2; i++) {
        full[i] = sara_name_of("%s%s", t->prefix, names[i]);
        for (size_t j = 0; j < t->s->list.count; j++)
            if (strcmp(t->s->list.sources[j].name, full[i].text) == 0)
                found[i] = j;
    }
    if ((found[0] == SIZE_MAX) == (found[1] == SIZE_MAX))
        return SARA_OK;
    const int there = found[0] == SIZE_MAX;
    return sara_save_list_again(&t->s->list, full[!there].text, found[there]);
}

/* What there are no names for. */
static bool is_passed_over(const written *w, const char *name)
{
    bool open = w->shape.part == SARA_LDM_OPEN_CLIP;
    if (w->shape.part != SARA_LDM_CLIP && !open)
        return false;
    return (strstr(name, "text_projection.weight") && !w->shape.projection) ||
           (open && strstr(name, "position_ids"));
}

static sara_status add_tensor_of_part(const written *w, const sara_tensor_info *info)
{
    sara_name thirds[3];
    const int third = sara_ldm_third(&w->shape, thirds, info->name);
    char *name = NULL;
    sara_status status;
    if (is_passed_over(w, info->name) || third > 0) /* that goes with the query */
        return SARA_OK;
    TRY(sara_save_name_in_file(w->s->ctx, &name, w->prefix, &w->shape, info->name));
    const sara_shape shape = shape_in_file(w, name, info);
    if (third == 0)
        TRY(add_fused(w, name, info, thirds));
    else if (w->shape.part == SARA_LDM_OPEN_CLIP && strstr(info->name, "text_projection"))
        TRY(add_turned(w, name, info));
    else
        TRY(sara_save_list_weight(&w->s->list, name, &shape, w->weights, info, w->s->dtype));
done:
    sara_free(w->s->ctx, name);
    return status;
}

static sara_status add_other_part(single *s, int part)
{
    const sara_single_place *place = s->model->family->parts[part].places;
    sara_component component;
    sara_weights *weights = NULL;
    written w = {.s = s};
    sara_status status;
    TRY(sara_model_need_changed(s->model, part));
    TRY(sara_model_component(s->model, &component, part));
    TRY(sara_component_weights(&component, &weights));
    TRY(sara_save_list_keep(&s->list, weights));
    TRY(sara_network_ldm_shape(s->model->parts[part].network, &w.shape));
    while (place->prefix && place->names != w.shape.part)
        place++;
    if (!place->prefix) { /* the file has it under other names than another family's has */
        place = s->model->family->parts[part].places;
        w.shape.part = place->names;
    }
    w.weights = weights;
    w.prefix = place->prefix;
    s->list.applied = s->model->parts[part].applied;
    for (size_t i = 0; i < sara_weights_count(weights); i++)
        TRY(add_tensor_of_part(&w, sara_weights_at(weights, i)));
    if (w.shape.part == SARA_LDM_OPEN_CLIP && !w.shape.projection)
        TRY(repeat_last_layer(&w));
    if (w.shape.part == SARA_LDM_T5)
        TRY(repeat_tokens(&w));
done:
    s->list.applied = NULL;
    sara_component_close(&component);
    return status;
}

/* ------------------------------------------------------------------------ what is carried along */

static bool begins_with(const char *name, const char *start, size_t length)
{
    return length > 0 && strncmp(name, start, length) == 0;
}

/* The denoiser under its own prefix and as averages, which would be of other weights. */
static bool is_of_denoiser(const single *s, const char *name)
{
    const sara_family_part *record = &s->model->family->parts[0];
    const char *own = s->model->single->parts[0].prefix, *first = record->places->prefix;
    const char *averages = record->averages ? record->averages->prefix : "";
    const char *const *bare = record->class->single->bare;
    if (begins_with(name, own, strlen(own)) || begins_with(name, first, strlen(first)) ||
        begins_with(name, averages, strcspn(averages, ".") + 1))
        return true;
    for (; !*own && *bare; bare++)
        if (begins_with(name, *bare, strlen(*bare)))
            return true;
    return false;
}

static bool is_changed(const sara_model *model, int part)
{
    const sara_applied *applied = model->parts[part].applied;
    return applied && sara_applied_count(applied) > 0;
}

/* The VAE in whose place another was asked for, and what adapters change. */
static bool is_replaced(const single *s, const char *name)
{
    for (int i = 1; i < s->model->family->part_count; i++) {
        const char *own = s->model->single->parts[i].prefix;
        bool other = s->model->vae_path && sara_model_is_vae(s->model, i);
        if (own && (other || is_changed(s->model, i)) && begins_with(name, own, strlen(own)))
            return true;
    }
    return false;
}

static bool is_kind_marker(const single *s, const char *name)
{
    const sara_family *family = s->model->family;
    return (family->v_marker && strcmp(name, family->v_marker) == 0) ||
           (family->zero_snr_marker && strcmp(name, family->zero_snr_marker) == 0);
}

/* From a single file all but the denoiser and what is replaced is copied as it is. */
static sara_status add_others(single *s)
{
    sara_weights *weights = NULL;
    sara_status status;
    TRY(sara_weights_open_file(s->ctx, &weights, s->model->path));
    TRY(sara_save_list_keep(&s->list, weights));
    for (size_t i = 0; i < sara_weights_count(weights); i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        if (!is_of_denoiser(s, info->name) && !is_replaced(s, info->name) &&
            !is_kind_marker(s, info->name))
            TRY(sara_save_list_weight(&s->list, NULL, NULL, weights, info, s->dtype));
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------ metadata */

static sara_status add_config(single *s, const char *key, const json_t *config)
{
    char *value = sara_json_dump(config, JSON_COMPACT | JSON_SORT_KEYS);
    sara_status status = value ? sara_metadata_list_set(&s->metadata, key, value)
                               : sara_fail(s->ctx, SARA_ERROR_MEMORY, "out of memory: %s", key);
    free(value);
    return status;
}

static sara_status add_component_config(single *s, int part)
{
    sara_component component;
    sara_status status;
    TRY(sara_model_component(s->model, &component, part));
    TRY(add_config(s, sara_name_of("sara.config.%s", s->model->family->parts[part].folder).text,
                   component.config));
done:
    sara_component_close(&component);
    return status;
}

/* Hashes of the source's tensors are not those of the new file. */
static bool is_hash(const char *key)
{
    static const char *const hashes[] = {"modelspec.hash_sha256", "sshs_model_hash",
                                         "sshs_legacy_hash"};
    for (size_t i = 0; i < sizeof(hashes) / sizeof(*hashes); i++)
        if (strcmp(key, hashes[i]) == 0)
            return true;
    return false;
}

static sara_status add_own_metadata(single *s)
{
    size_t count;
    const sara_metadata *own = sara_safetensors_metadata_all(s->model->single->file, &count);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++)
        if (!is_hash(own[i].key))
            TRY(sara_metadata_list_set(&s->metadata, own[i].key, own[i].value));
done:
    return status;
}

/* What the model was loaded as, whatever the source said. */
static sara_status add_single_kind(single *s)
{
    bool v = s->model->scheduler.prediction_type == SARA_PREDICT_V;
    sara_status status;
    TRY(sara_metadata_list_set(&s->metadata, "modelspec.architecture",
                               sara_model_architecture(s->model, v)));
    if (sara_model_predicts(s->model))
        TRY(sara_metadata_list_set(&s->metadata, "modelspec.prediction_type",
                                   sara_model_predicts(s->model)));
done:
    return status;
}

static sara_status make_metadata(single *s)
{
    sara_status status;
    TRY(sara_metadata_list_set(&s->metadata, "modelspec.sai_model_spec", "1.0.0"));
    TRY(sara_metadata_list_set(&s->metadata, "modelspec.implementation", "sara"));
    TRY(sara_metadata_list_set(&s->metadata, "modelspec.title", s->model->family->product));
    if (s->model->single)
        TRY(add_own_metadata(s));
    TRY(add_single_kind(s));
    TRY(sara_metadata_list_set(&s->metadata, "format", "pt"));
    for (int i = 0; i < (s->model->denoiser_only ? 1 : s->model->family->part_count); i++)
        TRY(add_component_config(s, i));
    if (s->model->scheduler_json)
        TRY(add_config(s, "sara.config.scheduler", s->model->scheduler_json));
done:
    return status;
}

/* For UIs that do not read metadata. */
static sara_status add_markers(single *s)
{
    const sara_family *family = s->model->family;
    const sara_scheduler_config *scheduler = &s->model->scheduler;
    const sara_shape nothing = sara_shape1(0);
    sara_status status = SARA_OK;
    if (!s->model->has_scheduler || scheduler->prediction_type != SARA_PREDICT_V)
        return SARA_OK;
    if (family->v_marker)
        TRY(sara_save_list_add(&s->list, family->v_marker, SARA_F32, &nothing, ""));
    if (family->zero_snr_marker && scheduler->rescale_betas_zero_snr)
        TRY(sara_save_list_add(&s->list, family->zero_snr_marker, SARA_F32, &nothing, ""));
done:
    return status;
}

/* Not copied with the rest of a single file. */
static bool is_written_anew(const sara_model *model, int part)
{
    return !model->denoiser_only &&
           (!model->single || model->parts[part].elsewhere ||
            (sara_model_is_vae(model, part) && model->vae_file) || is_changed(model, part));
}

sara_status sara_save_single(sara_context *ctx, const char *to, const sara_model *model,
                             const sara_dtype *dtype)
{
    single s = {.ctx = ctx, .model = model, .dtype = dtype};
    sara_status status;
    sara_metadata_list_init(&s.metadata, ctx);
    sara_save_list_init(&s.list, ctx);
    TRY(add_denoiser(&s));
    TRY(sara_save_check_interrupted(ctx));
    if (model->single)
        TRY(add_others(&s));
    for (int i = 1; i < model->family->part_count; i++)
        if (is_written_anew(model, i))
            TRY(add_other_part(&s, i));
    TRY(add_markers(&s));
    TRY(make_metadata(&s));
    TRY(sara_save_check_interrupted(ctx));
    TRY(sara_save_list_write(&s.list, to, s.metadata.items, s.metadata.count));
done:
    sara_metadata_list_free(&s.metadata);
    sara_save_list_free(&s.list);
    return status;
}
