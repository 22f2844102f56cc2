/* Names and metadata of LoRA files. */
#include "pipeline/export.h"
#include "pipeline/lora_write.h"

#include <time.h>

sara_status sara_export_layer(sara_arena *arena, const char **out, bool *is_bias,
                              const char *param_name)
{
    const char *dot = strrchr(param_name, '.');
    sara_status status;
    char *copy = NULL;
    *is_bias = dot && strcmp(dot, ".bias") == 0;
    if (!*is_bias && !(dot && strcmp(dot, ".weight") == 0))
        return sara_fail(arena->ctx, SARA_ERROR_INPUT,
                         "%s: neither a weight nor a bias; LoRA files have no name for it",
                         param_name);
    TRY(sara_format(arena->ctx, &copy, "%.*s", (int)(dot - param_name), param_name));
    TRY(sara_arena_strdup(arena, out, copy));
done:
    sara_free(arena->ctx, copy);
    return status;
}

sara_status sara_export_ldm_name(sara_arena *arena, const char **out, const char *layer,
                                 const sara_ldm_shape *shape)
{
    char *ldm = NULL, *name = NULL;
    sara_status status;
    TRY(sara_ldm_from_diffusers(arena->ctx, &ldm, shape, layer));
    if (!ldm) {
        status =
            sara_fail(arena->ctx, SARA_ERROR_INPUT, "%s: no such layer in LDM's layout", layer);
        goto done;
    }
    TRY(sara_format(arena->ctx, &name, "diffusion_model.%s", ldm));
    TRY(sara_arena_strdup(arena, out, name));
done:
    sara_free(arena->ctx, ldm);
    sara_free(arena->ctx, name);
    return status;
}

/* "2" of the second of several text encoders, "" of the only one. */
static sara_name text_number(const sara_family *family, int part)
{
    int number = 0, count = 0;
    for (int i = 1; i < family->part_count; i++) {
        count += (family->parts[i].stages & SARA_STAGE_TEXT) != 0;
        number = i == part ? count : number;
    }
    return count > 1 ? sara_name_of("%d", number) : (sara_name){""};
}

/* A1111 knows the last norm under its LDM name alone. */
static sara_status kohya_denoiser_name(sara_context *ctx, char **out, const char *layer,
                                       const sara_model *model)
{
    bool last = strcmp(layer, "conv_norm_out") == 0;
    char *ldm = NULL;
    sara_ldm_shape shape;
    sara_status status;
    if (model->family->kohya_single && sara_network_ldm_shape(model->denoiser, &shape) == SARA_OK)
        TRY(sara_ldm_from_diffusers(ctx, &ldm, &shape, layer));
    TRY(sara_format(ctx, out, "lora_unet_%s", ldm ? ldm : last ? "out_0" : layer));
done:
    sara_free(ctx, ldm);
    return status;
}

sara_status sara_export_kohya_name(sara_arena *arena, const char **out, const char *layer,
                                   const sara_model *model, int part)
{
    sara_status status;
    char *name = NULL;
    static const char text[] = "text_model.";
    /* newer transformers leave text_model. out */
    const char *stem = part > 0 && strncmp(layer, text, strlen(text)) != 0 ? text : "";
    bool dots = model->family->lora_of_diffusers;
    if (dots)
        TRY(sara_format(arena->ctx, &name, "%s.%s%s", model->family->parts[part].folder, stem,
                        layer));
    else if (part > 0)
        TRY(sara_format(arena->ctx, &name, "lora_te%s_%s%s", text_number(model->family, part).text,
                        stem, layer));
    else
        TRY(kohya_denoiser_name(arena->ctx, &name, layer, model));
    for (char *at = name; !dots && *at; at++)
        if (*at == '.')
            *at = '_';
    TRY(sara_arena_strdup(arena, out, name));
done:
    sara_free(arena->ctx, name);
    return status;
}

/* ----------------------------------------------------------------------------------- metadata */

/* The last part of a path, without ".safetensors"; "sara" where it is not UTF-8, as metadata must
 * be. */
static int stem_of(const char **out, const char *path)
{
    static const char ending[] = ".safetensors";
    size_t length = strlen(path), tail = sizeof(ending) - 1;
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t first = length;
    while (first > 0 && path[first - 1] != '/')
        first--;
    if (length - first > tail && memcmp(path + length - tail, ending, tail) == 0)
        length -= tail;
    *out = path + first;
    if (sara_text_is_utf8(*out, length - first))
        return (int)(length - first);
    *out = "sara";
    return (int)strlen(*out);
}

static sara_status add_date(sara_metadata_list *list, int64_t date)
{
    time_t seconds = date ? (time_t)date : time(NULL);
    struct tm utc;
    char text[32];
    if (!gmtime_r(&seconds, &utc) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc))
        return sara_fail(list->arena.ctx, SARA_ERROR_USAGE, "date %lld: no such time",
                         (long long)date);
    return sara_metadata_list_add(list, "modelspec.date", "%s", text);
}

/* A1111 tells the kinds of models apart by the first two. */
sara_status sara_metadata_list_add_kohya(sara_metadata_list *list, const sara_model *model,
                                         const char *module, const char *rank, const char *alpha,
                                         const char *args)
{
    const sara_family *family = model->family;
    bool v = model->scheduler.prediction_type == SARA_PREDICT_V;
    sara_status status;
    TRY(sara_metadata_list_add(list, "ss_v2", "%s", family->kohya_v2 ? "True" : "False"));
    TRY(sara_metadata_list_add(list, "ss_base_model_version", "%s", family->kohya[v]));
    TRY(sara_metadata_list_add(list, "ss_network_module", "%s", module));
    TRY(sara_metadata_list_add(list, "ss_network_dim", "%s", rank));
    TRY(sara_metadata_list_add(list, "ss_network_alpha", "%s", alpha));
    TRY(sara_metadata_list_add(list, "ss_network_args", "%s", args));
done:
    return status;
}

/* Kohya's minimum. */
static sara_status add_kohya(sara_metadata_list *list, const sara_export *e, const char *module,
                             int rank, const char *args)
{
    const char *stem, *base;
    int length = stem_of(&stem, e->out), base_length = stem_of(&base, e->model->path);
    const sara_name number = sara_name_of("%d", rank);
    sara_status status;
    TRY(sara_metadata_list_add_kohya(list, e->model, module, number.text, number.text, args));
    TRY(sara_metadata_list_add(list, "ss_output_name", "%.*s", length, stem));
    TRY(sara_metadata_list_add(list, "ss_sd_model_name", "%.*s", base_length, base));
done:
    return status;
}

sara_status sara_export_metadata(sara_metadata_list *list, const sara_export *e, const char *module,
                                 int rank, const char *args)
{
    const char *stem;
    char title[256];
    int length = stem_of(&stem, e->out);
    sara_base base;
    sara_status status;
    snprintf(title, sizeof(title), "%.*s", length, stem);
    TRY(sara_metadata_list_add(list, "format", "pt"));
    TRY(add_kohya(list, e, module, rank, args));
    TRY(sara_metadata_list_add_model(list, e->model, "lora", title));
    TRY(add_date(list, e->date));
    TRY(sara_model_read_base(e->ctx, &base, e->model));
    TRY(sara_metadata_list_add(list, "sara.base_sha256", "%s", base.sha256));
done:
    return status;
}
