/* What applied adapters change, as LoRA files of other tools. */
#include "pipeline/export.h"

#include <math.h>

static const char *const formats[] = {[SARA_EXPORT_COMFYUI] = "comfyui",
                                      [SARA_EXPORT_A1111] = "a1111",
                                      [SARA_EXPORT_LORA] = "lora",
                                      [SARA_EXPORT_PEFT] = "peft",
                                      [SARA_EXPORT_SHIRA] = "shira"};
#define FORMAT_COUNT (sizeof(formats) / sizeof(*formats))

#define ENDING ".safetensors"

static const sara_options_type export_options_type = SARA_OPTIONS_TYPE(sara_export_options, date);

void sara_export_options_init_sized(sara_export_options *options, size_t size)
{
    const sara_export_options defaults = {0};
    sara_options_init(options, size, &defaults, &export_options_type);
}

static sara_status parse_format(sara_context *ctx, sara_export_format *out, const char *name)
{
    for (size_t i = 0; name && i < FORMAT_COUNT; i++)
        if (strcmp(formats[i], name) == 0) {
            *out = (sara_export_format)i;
            return SARA_OK;
        }
    return sara_fail(ctx, SARA_ERROR_USAGE, "%s%s: expected comfyui, a1111, lora, peft or shira",
                     name ? "format " : "no format given", name ? name : "");
}

static sara_status export_parse(sara_context *ctx, sara_export *e, const sara_export_options *given)
{
    sara_export_options own = {0}, *o = &own;
    sara_status status;
    TRY(sara_options_read(ctx, o, &export_options_type, given));
    TRY(parse_format(ctx, &e->format, o->format));
    bool ranked = e->format == SARA_EXPORT_LORA || e->format == SARA_EXPORT_PEFT;
    e->rank = o->rank;
    e->date = o->date;
    e->dtype = SARA_F16;
    if (o->save_precision && !sara_dtype_parse(&e->dtype, o->save_precision))
        status = sara_fail(ctx, SARA_ERROR_USAGE, "save_precision %s: expected fp32, fp16 or bf16",
                           o->save_precision);
    else if (ranked && o->rank == 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE, "format %s: no rank given", o->format);
    else if (ranked && o->rank < 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE, "rank %d: expected at least 1", o->rank);
    else if (e->format == SARA_EXPORT_SHIRA &&
             (o->rank || (o->save_precision && e->dtype != SARA_F32)))
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "format shira: has the run's rank and fp32; leave %s out",
                           o->rank ? "rank" : "save_precision");
    else if (!ranked && o->rank != 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "rank %d: format %s holds the whole change; lora and peft have a rank",
                           o->rank, o->format);
done:
    return status;
}

static bool is_folder(const sara_export *e)
{
    return e->format == SARA_EXPORT_PEFT || e->format == SARA_EXPORT_SHIRA;
}

/* Whoever loads it goes by the name. */
static sara_status export_check_name(sara_context *ctx, const sara_export *e, const char *out)
{
    size_t length = strlen(out);
    bool folder = is_folder(e);
    while (length > 1 && out[length - 1] == '/')
        length--;
    bool ending = length >= strlen(ENDING) &&
                  strncmp(out + length - strlen(ENDING), ENDING, strlen(ENDING)) == 0;
    if (folder && ending)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: format %s is a folder; name it %.*s", out,
                         formats[e->format], (int)(length - strlen(ENDING)), out);
    if (!folder && (!ending || out[length]))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: format %s is a file; name it %.*s%s", out,
                         formats[e->format], (int)length, out, ending ? "" : ENDING);
    return SARA_OK;
}

sara_status sara_export_check(sara_context *ctx, const char *out,
                              const sara_export_options *options)
{
    sara_export e;
    sara_status status;
    TRY(export_parse(ctx, &e, options));
    if (out && *out)
        TRY(export_check_name(ctx, &e, out));
    TRY(is_folder(&e) ? sara_check_new_folder(ctx, out) : sara_check_new_file(ctx, out));
done:
    return status;
}

/* A1111 finds layers of SD3 for LoRAs alone, and ComfyUI drops biases under diffusers' names. */
static sara_status export_check_family(sara_context *ctx, const sara_export *e)
{
    const sara_family *family = e->model->family;
    if (e->format != SARA_EXPORT_A1111 || !family->lora_of_diffusers)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "format a1111: A1111 takes no whole changes of %s; format comfyui holds them "
                     "for ComfyUI and stable-diffusion.cpp, format lora a part of them",
                     family->product);
}

/* 16-bit weights would have rounded what the adapters made of them. */
static sara_status export_check_stored(sara_context *ctx, const sara_model *model)
{
    const char *name = sara_storage_name(&model->denoiser->params);
    if (strcmp(name, "fp32") == 0)
        return SARA_OK;
    return sara_fail(
        ctx, SARA_ERROR_USAGE,
        "%s: was loaded with weight_dtype %s, which rounds adapters; load it with fp32 "
        "to export them",
        model->path, name);
}

static void find_texts(sara_export *e)
{
    const sara_family *family = e->model->family;
    for (int i = 1; i < family->part_count; i++)
        if ((family->parts[i].stages & SARA_STAGE_TEXT) && e->model->parts[i].network)
            e->text_params[i] = &e->model->parts[i].network->params;
}

static void export_fill_report(sara_export *e)
{
    const sara_changes *c = &e->changes;
    e->report = (sara_export_report){.changed = c->entries,
                                     .inexact = c->inexact,
                                     .change_norm = sqrt(c->sum2),
                                     .kept = 1,
                                     .error = sqrt(c->error2 / c->sum2)};
}

sara_status sara_model_export_sized(sara_context *ctx, sara_export_report *report,
                                    size_t report_size, const sara_model *model, const char *out,
                                    const sara_export_options *options)
{
    sara_export e = {.ctx = ctx, .model = model, .out = out};
    sara_status status;
    TRY(sara_export_check(ctx, out, options));
    TRY(export_parse(ctx, &e, options));
    TRY(export_check_family(ctx, &e));
    TRY(sara_model_check_weights(ctx, model));
    TRY(export_check_stored(ctx, model));
    bool dense = e.format == SARA_EXPORT_COMFYUI || e.format == SARA_EXPORT_A1111;
    TRY(sara_changes_new(ctx, &e.changes, model, dense ? e.dtype : SARA_F32, !dense));
    export_fill_report(&e);
    find_texts(&e);
    if (e.format == SARA_EXPORT_SHIRA)
        TRY(sara_export_shira(&e));
    else
        TRY(dense ? sara_export_dense(&e) : sara_export_low_rank(&e));
    sara_sized_write(report, report_size, &e.report, sizeof(e.report));
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    sara_changes_free(&e.changes);
    return status;
}
