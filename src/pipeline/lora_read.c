/* Reading LoRA files. Tensors are sorted by what they are of: a parameter of the model, and which
 * of its factors; what is found for a parameter is its layer. */
#include "pipeline/lora_read.h"

#include <math.h>

/* What of the file is known to be for another kind of model. */
static const struct {
    const char *part, *what;
} lora_foreign[] = {
    {"lora_te2_", "SDXL"},
    {"text_encoder_2.", "SDXL"},
    {"transformer_blocks_9_attn", "SDXL"}, /* others' transformers have one block */
    {"transformer_blocks.9.attn", "SDXL"},
    {"label_emb", "SDXL"},
    {"add_embedding", "SDXL"},
    {"joint_blocks", "Stable Diffusion 3"},
    {"single_blocks", "Flux"},
    {"double_blocks", "Flux"},
    {"single_transformer_blocks", "Flux"},
    {"attn_add_k_proj", "Stable Diffusion 3"},
    {"attn.add_k_proj", "Stable Diffusion 3"},
    {"motion_modules", "AnimateDiff"},
};

/* "; it is for sdxl_base_v1-0", in the file's own words where it has some, or "". */
static sara_name tell_foreign(const sara_lora_reading *r)
{
    const sara_safetensors *file = r->source->file;
    const char *base = sara_safetensors_metadata(file, "ss_base_model_version");
    if (!base)
        base = sara_safetensors_metadata(file, "modelspec.architecture");
    if (base)
        return sara_name_of("; its metadata calls its base %.60s", base);
    for (size_t k = 0; k < sizeof(lora_foreign) / sizeof(*lora_foreign); k++)
        for (size_t i = 0; i < sara_safetensors_count(file); i++)
            if (strstr(sara_safetensors_at(file, i)->name, lora_foreign[k].part))
                return sara_name_of("; its layers are those of %s", lora_foreign[k].what);
    return sara_name_of("%s", "");
}

sara_status sara_lora_refuse_foreign(const sara_lora_reading *r, const char *fault)
{
    return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s%s", r->source->path, fault,
                     tell_foreign(r).text);
}

/* ------------------------------------------------------------------------------ what is of what */

static sara_status refuse_tensor(const sara_lora_reading *r, const char *name)
{
    const char *what = sara_lora_other(name);
    if (what)
        return sara_fail(
            r->ctx, SARA_ERROR_INPUT,
            "%s: %.200s: is of %s, which is not supported; LoRA, LoCon, DoRA and whole "
            "differences are",
            r->source->path, name, what);
    return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %.200s: is no part of a LoRA", r->source->path,
                     name);
}

/* Layers' tensors mostly lie together. */
static sara_status note_missing(sara_lora_reading *r, const char *layer)
{
    if (r->missing_last && strcmp(r->missing_last, layer) == 0)
        return SARA_OK;
    r->missing_count++;
    sara_status status = sara_arena_strdup(&r->arena, &r->missing_last, layer);
    if (!r->missing)
        r->missing = r->missing_last;
    return status;
}

/* A bias has its layer's name. *param becomes its own; false: the model has none. */
static bool to_bias(const sara_params *params, size_t *param)
{
    const char *weight = params->items[*param].name;
    int length = (int)(strlen(weight) - strlen("weight"));
    const sara_param *bias =
        sara_params_find(params, sara_name_of("%.*sbias", length, weight).text);
    if (bias)
        *param = (size_t)(bias - params->items);
    return bias != NULL;
}

static const sara_tensor_info *some_tensor(const sara_lora_tensors *tensors)
{
    for (int role = 0; role < SARA_LORA_ROLES; role++)
        if (tensors->of[role])
            return tensors->of[role];
    return NULL;
}

/* *found false: the model has no such bias. */
static sara_status place_tensor(sara_lora_reading *r, bool *found, const sara_tensor_info *info,
                                sara_lora_role role, int part, const sara_lora_name *name)
{
    size_t param = name->param;
    *found = role != SARA_LORA_DIFF_BIAS || to_bias(&r->model->parts[part].network->params, &param);
    if (!*found)
        return SARA_OK;
    role = role == SARA_LORA_DIFF_BIAS ? SARA_LORA_DIFF : role;
    sara_lora_tensors *to = &r->of[part][param];
    const sara_tensor_info *other = to->of[role];
    if (!other && to->name && to->name->third != name->third)
        other = some_tensor(to);
    if (other)
        return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %.200s: the same as %.200s",
                         r->source->path, info->name, other->name);
    to->of[role] = info;
    to->name = name;
    return SARA_OK;
}

static sara_status lora_sort_tensor(sara_lora_reading *r, const sara_tensor_info *info)
{
    sara_lora_role role;
    size_t length = sara_lora_key(info->name, &role);
    char *layer = NULL;
    const sara_lora_name *name;
    bool found = false;
    int part;
    sara_status status;
    if (length == 0)
        return refuse_tensor(r, info->name);
    TRY(sara_format(r->ctx, &layer, "%.*s", (int)length, info->name));
    TRY(sara_lora_find(r->ctx, &name, &part, r->model->family, r->names, layer));
    if (name && r->model->family->parts[part].class->streamed)
        name = NULL;
    for (int i = 0, count = !name ? 0 : name->third < 0 ? 1 : 3; i < count; i++)
        TRY(place_tensor(r, &found, info, role, part, &name[i]));
    if (!found)
        TRY(note_missing(r, layer));
done:
    sara_free(r->ctx, layer);
    return status;
}

/* "; what was loaded has no text_encoder", "; text_encoder_3 takes no adapters", or "". */
static sara_name tell_bare(const sara_lora_reading *r)
{
    const sara_family *family = r->model->family;
    int part;
    sara_lora_strip(family, &part, r->missing);
    if (part > 0 && !r->model->parts[part].network)
        return sara_name_of("; what was loaded has no %s", family->parts[part].folder);
    if (part > 0 && family->parts[part].class->streamed)
        return sara_name_of("; %s takes no adapters", family->parts[part].folder);
    return sara_name_of("%s", "");
}

static sara_status lora_check_missing(const sara_lora_reading *r, size_t found)
{
    char *fault = NULL;
    sara_status status = SARA_OK;
    if (found > 0 && (r->missing_count == 0 || r->force))
        return SARA_OK;
    if (r->missing_count == 0)
        return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: holds nothing", r->source->path);
    TRY(sara_format(r->ctx, &fault,
                    "the model does not have %zu of its layers, the first is %.200s%s%s",
                    r->missing_count, r->missing, tell_bare(r).text,
                    found > 0 ? "; force applies the others" : ", and no layer is the model's"));
    status = sara_lora_refuse_foreign(r, fault);
done:
    sara_free(r->ctx, fault);
    return status;
}

static sara_status lora_sort_tensors(sara_lora_reading *r)
{
    size_t count = sara_safetensors_count(r->source->file);
    sara_status status;
    TRY(sara_lora_names_make(&r->arena, r->names, r->model));
    for (int i = 0; i < r->model->family->part_count; i++) {
        const sara_network *network = r->model->parts[i].network;
        size_t params = network ? network->params.count : 0;
        TRY(sara_arena_alloc(&r->arena, &r->of[i], params, sizeof(*r->of[i])));
        if (params > 0)
            memset(r->of[i], 0, params * sizeof(*r->of[i]));
    }
    for (size_t i = 0; i < count; i++)
        TRY(lora_sort_tensor(r, sara_safetensors_at(r->source->file, i)));
done:
    return status;
}

/* ------------------------------------------------------------------------------- the whole file */

static size_t count_found(const sara_lora_reading *r, int part)
{
    const sara_network *network = r->model->parts[part].network;
    size_t count = 0;
    for (size_t i = 0; network && i < network->params.count; i++)
        count += some_tensor(&r->of[part][i]) != NULL;
    return count;
}

/* Makes the config that of a part. */
static sara_status choose_config(sara_lora_reading *r, int part)
{
    if (!r->config_is_of_parts)
        return SARA_OK;
    return sara_arena_strdup(&r->arena, &r->config.prefix,
                             sara_name_of("%s.", r->model->family->parts[part].folder).text);
}

/* What is not supported is told as the config calls it, before tensors are found to be of it. */
static sara_status check_configs(sara_lora_reading *r)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < r->model->family->part_count; i++) {
        TRY(choose_config(r, i));
        TRY(sara_lora_config_check(&r->config));
    }
done:
    return status;
}

/* PEFT's own names, without a config and without alphas. */
static bool is_assumed(const sara_lora_reading *r)
{
    static const char peft[] = "base_model.model.";
    sara_lora_role role;
    bool named = false;
    for (size_t i = 0; i < sara_safetensors_count(r->source->file); i++) {
        const char *name = sara_safetensors_at(r->source->file, i)->name;
        if (sara_lora_key(name, &role) && role == SARA_LORA_ALPHA)
            return false;
        named |= strncmp(name, peft, strlen(peft)) == 0;
    }
    return named && !r->config.object;
}

static sara_status read_part(sara_lora_reading *r, sara_lora_file *out, int part)
{
    const sara_network *network = r->model->parts[part].network;
    size_t count = count_found(r, part);
    sara_status status = SARA_OK;
    if (count == 0)
        return SARA_OK;
    TRY(choose_config(r, part));
    TRY(sara_arena_alloc(&out->arena, &out->layers, count, sizeof(*out->layers)));
    for (size_t i = 0; i < network->params.count; i++) {
        bool kept = some_tensor(&r->of[part][i]) != NULL;
        if (kept)
            TRY(sara_lora_read_layer(r, &out->layers[out->count], &kept, &out->arena,
                                     &network->params.items[i], &r->of[part][i]));
        out->count += kept;
    }
done:
    return status;
}

/* A folder's config, or diffusers' in the header. */
static sara_status find_config(sara_lora_reading *r)
{
    static const char key[] = "lora_adapter_metadata";
    const char *text = sara_safetensors_metadata(r->source->file, key);
    char *source = NULL;
    sara_status status = SARA_OK;
    r->config = (sara_lora_config){.ctx = r->ctx, .prefix = ""};
    r->config.object = r->source->config;
    r->config.source = r->source->config_path;
    if (r->source->config || !text)
        return SARA_OK;
    TRY(sara_format(r->ctx, &source, "%s: %s", r->source->path, key));
    TRY(sara_arena_strdup(&r->arena, &r->config.source, source));
    TRY(sara_json_parse(r->ctx, &r->header, text, strlen(text), r->config.source, true));
    r->config.object = r->header;
    r->config_is_of_parts = true;
done:
    sara_free(r->ctx, source);
    return status;
}

sara_status sara_lora_read(sara_context *ctx, sara_lora_set *out, const sara_adapter_source *source,
                           const sara_model *model, bool force)
{
    sara_lora_reading r = {.ctx = ctx, .source = source, .model = model, .force = force};
    size_t found = 0;
    sara_status status;
    memset(out, 0, sizeof(*out));
    sara_arena_init(&r.arena, ctx);
    for (int i = 0; i < SARA_MOST_PARTS; i++)
        sara_arena_init(&out->parts[i].arena, ctx);
    TRY(find_config(&r));
    TRY(check_configs(&r));
    TRY(lora_sort_tensors(&r));
    for (int i = 0; i < model->family->part_count; i++)
        found += count_found(&r, i);
    TRY(lora_check_missing(&r, found));
    for (int i = 0; i < model->family->part_count; i++)
        TRY(read_part(&r, &out->parts[i], i));
    out->left_out = r.missing_count;
    out->foreign = r.missing_count ? tell_foreign(&r) : out->foreign;
    out->assumed = is_assumed(&r);
done:
    json_decref(r.header);
    sara_arena_free(&r.arena);
    if (status != SARA_OK)
        sara_lora_set_free(out);
    return status;
}

void sara_lora_set_free(sara_lora_set *set)
{
    for (int i = 0; i < SARA_MOST_PARTS; i++)
        sara_arena_free(&set->parts[i].arena);
    memset(set, 0, sizeof(*set));
}
