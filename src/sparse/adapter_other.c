/* What a file is that is no sara adapter: people keep several kinds in one folder. */
#include "sparse/adapter.h"

/* By a part of a tensor's name. */
static const struct {
    const char *part, *what;
} others[] = {
    {"model.diffusion_model.", "a whole checkpoint"}, /* before .diff, which is a part of it */
    {".lora_down.", "a LoRA file"},
    {".lora_up.", "a LoRA file"},
    {".lora_A.", "a LoRA file"},
    {".lora_B.", "a LoRA file"},
    {"_lora.down.", "a LoRA file"},
    {"_lora.up.", "a LoRA file"},
    {".hada_w", "a LoHa file"},
    {".lokr_w", "a LoKr file"},
    {".oft_", "an OFT file"},
    {".diff", "a file of whole differences"},
    {"emb_params", "a textual inversion"},
    {"control_model.", "a control net"},
    {"conv_in.weight", "a whole model"},
};
#define KINDS (sizeof(others) / sizeof(*others))

sara_status sara_adapter_refuse_other(sara_context *ctx, const sara_safetensors *file)
{
    const char *path = sara_safetensors_path(file);
    for (size_t k = 0; k < KINDS; k++)
        for (size_t i = 0; i < sara_safetensors_count(file); i++) {
            const char *name = sara_safetensors_at(file, i)->name;
            if (strstr(name, others[k].part))
                return sara_fail(ctx, SARA_ERROR_INPUT,
                                 "%s: is %s (tensor %.120s), not a sara adapter: metadata "
                                 "sara.format is missing",
                                 path, others[k].what, name);
        }
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "%s: metadata sara.format is missing; this is no sara adapter", path);
}
