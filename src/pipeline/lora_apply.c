/* LoRA files on a model. */
#include "pipeline/lora.h"

static bool is_lora(const sara_adapter_source *source)
{
    const char *type = json_string_value(json_object_get(source->config, "peft_type"));
    sara_lora_role role;
    if (type)
        return strcmp(type, "LORA") == 0;
    for (size_t i = 0; i < sara_safetensors_count(source->file); i++) {
        const char *name = sara_safetensors_at(source->file, i)->name;
        if (sara_lora_key(name, &role) || sara_lora_other(name))
            return true;
    }
    return false;
}

/* A LoRA is for any model that has its layers: there is no base to check. */
static sara_status check_lora(sara_context *ctx, sara_model *model,
                              const sara_adapter_source *source, bool force)
{
    sara_lora_set set;
    sara_status status = sara_lora_read(ctx, &set, source, model, force);
    sara_lora_set_free(&set);
    return status;
}

static sara_status apply_part(sara_model *model, int part, sara_lora_file *file, double strength)
{
    sara_status status;
    TRY(sara_model_begin_applied(model, part, NULL));
    TRY(sara_applied_add_low_rank(model->parts[part].applied, file, strength));
done:
    return status;
}

static sara_status apply_lora(sara_context *ctx, sara_model *model,
                              const sara_adapter_source *source, double strength, bool force,
                              unsigned stages)
{
    sara_lora_set set;
    sara_status status;
    TRY(sara_lora_read(ctx, &set, source, model, force));
    if (set.left_out)
        sara_log(ctx, SARA_LOG_WARNING,
                 "%s: %zu layer%s that the model does not have %s left out%s", source->path,
                 set.left_out, set.left_out == 1 ? "" : "s", set.left_out == 1 ? "is" : "are",
                 set.foreign.text);
    if (set.assumed)
        sara_log(ctx, SARA_LOG_WARNING,
                 "%s: has neither alphas nor an adapter_config.json beside it: alpha is taken for "
                 "the rank",
                 source->path);
    for (int i = 0; i < model->family->part_count; i++)
        if (set.parts[i].count > 0 && (model->family->parts[i].stages & stages))
            TRY(apply_part(model, i, &set.parts[i], strength));
done:
    sara_lora_set_free(&set);
    return status;
}

const sara_adapter_kind sara_adapter_kind_lora = {.name = "LoRA",
                                                  .is = is_lora,
                                                  .check = check_lora,
                                                  .apply = apply_lora,
                                                  .describe = sara_lora_describe};
