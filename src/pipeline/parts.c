/* Where a model's parts are: in its folder, plain or in a variant, or in its file; and whether
 * their values are in memory. */
#include "pipeline/pipeline.h"

bool sara_model_is_vae(const sara_model *model, int part)
{
    return (model->family->parts[part].stages & SARA_STAGE_DECODE) != 0;
}

bool sara_model_has_part(const sara_model *model, int part)
{
    if (model->parts[part].elsewhere || (sara_model_is_vae(model, part) && model->vae_file))
        return true;
    return model->single ? model->single->parts[part].prefix != NULL
                         : part == 0 || !model->denoiser_only;
}

/* *out: sara_free(); NULL: the part is in a file, or there is none */
static sara_status part_folder(const sara_model *model, char **out, int part)
{
    sara_context *ctx = model->ctx;
    bool in_file = model->single || (sara_model_is_vae(model, part) && model->vae_file);
    *out = NULL;
    if (model->parts[part].elsewhere)
        return sara_strdup(ctx, out, model->parts[part].elsewhere);
    if (in_file || (model->denoiser_only && part > 0))
        return SARA_OK;
    return model->denoiser_only
               ? sara_strdup(ctx, out, model->path)
               : sara_path_join(ctx, out, model->path, model->family->parts[part].folder);
}

sara_status sara_model_component(const sara_model *model, sara_component *out, int part)
{
    const sara_single_file *file =
        sara_model_is_vae(model, part) && model->vae_file ? model->vae_file : model->single;
    char *folder = NULL;
    sara_status status;
    *out = (sara_component){.ctx = model->ctx};
    TRY(part_folder(model, &folder, part));
    TRY(folder
            ? sara_component_open(model->ctx, out, folder, model->family->parts[part].class->stem,
                                  model->parts[part].has_variant ? model->variant : NULL)
            : sara_single_component(file, out, part));
done:
    sara_free(model->ctx, folder);
    return status;
}

/* -------------------------------------------------------------------------------- their values */

/* With the adapters that are on it. */
static sara_status part_need(sara_model_part *part)
{
    sara_status status;
    TRY(sara_network_read(part->network));
    if (part->applied)
        TRY(sara_applied_return(part->applied));
done:
    return status;
}

sara_status sara_model_need(sara_model *model, unsigned stages)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].network && (model->family->parts[i].stages & stages))
            TRY(part_need(&model->parts[i]));
done:
    return status;
}

sara_status sara_model_need_part(const sara_model *model, int part)
{
    return part_need(&((sara_model *)(uintptr_t)model)->parts[part]);
}

sara_status sara_model_need_changed(const sara_model *model, int part)
{
    const sara_applied *applied = model->parts[part].applied;
    bool changed = applied && sara_applied_count(applied) > 0;
    return changed ? sara_model_need_part(model, part) : SARA_OK;
}

sara_status sara_model_begin_applied(sara_model *model, int part, const sara_base *base)
{
    sara_model_part *to = &model->parts[part];
    sara_status status;
    if (to->applied)
        return SARA_OK;
    TRY(sara_applied_new(model->ctx, &to->applied, &to->network->params, base));
    if (!to->network->there)
        TRY(sara_applied_leave(to->applied));
done:
    return status;
}

sara_status sara_model_check_files(const sara_model *model, unsigned stages)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_network *network = model->parts[i].network;
        if (network && !network->there && (model->family->parts[i].stages & stages))
            TRY(sara_weights_check_unchanged(network->weights));
    }
done:
    return status;
}

/* What cannot be taken off stays in memory with the part. */
static void part_give_back(sara_model_part *part)
{
    if (part->applied && sara_applied_leave(part->applied) != SARA_OK)
        return;
    sara_network_release(part->network);
}

void sara_model_give_back(sara_model *model, unsigned still_needed)
{
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].network && !(model->family->parts[i].stages & still_needed))
            part_give_back(&model->parts[i]);
    sara_memory_trim(); /* parts of a few MiB lie among what stays */
}

void sara_model_release(sara_model *model)
{
    sara_model_give_back(model, SARA_STAGE_DENOISE);
}

/* ---------------------------------------------------------------------------------- the variant */

/* *any: whether any of the parts that are in folders has it. */
static sara_status find_variant(sara_model *model, bool *any, const char *variant)
{
    char *folder = NULL;
    sara_status status = SARA_OK;
    *any = false;
    for (int i = 0; i < model->family->part_count; i++) {
        TRY(part_folder(model, &folder, i));
        bool *has = &model->parts[i].has_variant;
        *has = false;
        if (folder)
            TRY(sara_weights_are_there(model->ctx, has, folder, model->family->parts[i].class->stem,
                                       variant));
        *any |= *has;
        sara_free(model->ctx, folder);
        folder = NULL;
    }
done:
    sara_free(model->ctx, folder);
    return status;
}

/* Appends "; vae: plain, fp16" to *text. */
static sara_status describe_part(const sara_model *model, char **text, int part)
{
    const sara_family_part *record = &model->family->parts[part];
    sara_context *ctx = model->ctx;
    char *folder = NULL, *what = NULL, *longer;
    sara_status status;
    TRY(part_folder(model, &folder, part));
    if (!folder)
        return SARA_OK;
    TRY(sara_weights_describe(ctx, &what, folder, record->class->stem));
    TRY(sara_format(ctx, &longer, "%s%s%s: %s", *text ? *text : "", *text ? "; " : "",
                    record->folder, what));
    sara_free(ctx, *text);
    *text = longer;
done:
    sara_free(ctx, what);
    sara_free(ctx, folder);
    return status;
}

static sara_status refuse_variant(const sara_model *model)
{
    char *text = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++)
        TRY(describe_part(model, &text, i));
    status = sara_fail(model->ctx, SARA_ERROR_INPUT,
                       "%s: no weight files of the variant %s; there are (%s)", model->path,
                       model->variant, text ? text : "none");
done:
    sara_free(model->ctx, text);
    return status;
}

static sara_status tell_plain(const sara_model *model)
{
    sara_name plain = {""};
    int count = 0;
    char *folder = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        TRY(part_folder(model, &folder, i));
        if (folder && !model->parts[i].has_variant)
            plain = sara_name_of("%s%s%s", plain.text, count++ ? ", " : "",
                                 model->family->parts[i].folder);
        sara_free(model->ctx, folder);
        folder = NULL;
    }
    if (count)
        sara_log(model->ctx, SARA_LOG_INFO,
                 "%s: variant %s: not of %s, read from the plain weight files", model->path,
                 model->variant, plain.text);
done:
    return status;
}

sara_status sara_model_choose_variant(sara_model *model, const char *variant)
{
    bool any;
    sara_status status;
    if (!variant || !*variant)
        return SARA_OK;
    TRY(sara_strdup(model->ctx, &model->variant, variant));
    TRY(find_variant(model, &any, variant));
    if (!any)
        return refuse_variant(model);
    TRY(tell_plain(model));
done:
    return status;
}

sara_status sara_model_has_variant(sara_context *ctx, bool *out, const char *path,
                                   bool denoiser_only, const char *variant)
{
    sara_model model = {
        .ctx = ctx, .path = (char *)(uintptr_t)path, .denoiser_only = denoiser_only};
    sara_status status = SARA_OK;
    *out = false;
    for (int i = 0; sara_families[i] && sara_path_is_directory(path) && !*out; i++) {
        model.family = sara_families[i];
        TRY(find_variant(&model, out, variant));
    }
done:
    return status;
}
