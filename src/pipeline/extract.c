/* An adapter from two models. */
#include "pipeline/metadata.h"

#include <math.h>

#define DENSE 0.5 /* share of entries that differ above which an adapter is no gain */

static const sara_options_type extract_options_type =
    SARA_OPTIONS_TYPE(sara_extract_options, save_precision);
static const sara_extract_options extract_defaults = {.tolerance = -1};

void sara_extract_options_init_sized(sara_extract_options *options, size_t size)
{
    sara_options_init(options, size, &extract_defaults, &extract_options_type);
}

static sara_status read_extract_options(sara_context *ctx, sara_extract_options *out,
                                        const sara_extract_options *given)
{
    *out = extract_defaults;
    return sara_options_read(ctx, out, &extract_options_type, given);
}

static sara_status check_extract_format(sara_context *ctx, const sara_extract_options *o,
                                        bool *lora)
{
    *lora = o->format && strcmp(o->format, "lora") == 0;
    if (o->format && !*lora && strcmp(o->format, "sara") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "format %s: expected sara or lora", o->format);
    if (*lora && o->rank == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "format lora: no rank given");
    if (o->rank < 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "rank %d: expected at least 1", o->rank);
    if (!*lora && o->rank)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "rank %d: sara's adapter keeps entries; format lora has a rank", o->rank);
    if (*lora && (o->top_fraction > 0 || o->tolerance >= 0))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s %g: format lora keeps a rank, not entries",
                         o->top_fraction > 0 ? "top_fraction" : "tolerance",
                         o->top_fraction > 0 ? o->top_fraction : o->tolerance);
    return SARA_OK;
}

static sara_status check_values(sara_context *ctx, const sara_extract_options *o, sara_dtype *dtype,
                                bool *lora)
{
    sara_status status;
    TRY(check_extract_format(ctx, o, lora));
    *dtype = *lora ? SARA_F16 : SARA_F32;
    if (o->save_precision && !sara_dtype_parse(dtype, o->save_precision))
        return sara_fail(ctx, SARA_ERROR_USAGE, "save_precision %s: expected fp32, fp16 or bf16",
                         o->save_precision);
    if (!(o->top_fraction >= 0 && o->top_fraction <= 1))
        return sara_fail(ctx, SARA_ERROR_USAGE, "top_fraction %g: expected more than 0, at most 1",
                         o->top_fraction);
    if (isnan(o->tolerance) || isinf(o->tolerance))
        return sara_fail(ctx, SARA_ERROR_USAGE, "tolerance %g: expected a finite number",
                         o->tolerance);
    if (o->top_fraction > 0 && o->tolerance >= 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "top_fraction %g and tolerance %g: give one of them", o->top_fraction,
                         o->tolerance);
done:
    return status;
}

sara_status sara_extract_check(sara_context *ctx, const char *path,
                               const sara_extract_options *given)
{
    sara_extract_options options;
    sara_dtype dtype;
    bool lora;
    sara_status status;
    TRY(read_extract_options(ctx, &options, given));
    TRY(check_values(ctx, &options, &dtype, &lora));
    TRY(sara_check_new_file(ctx, path));
done:
    return status;
}

static sara_status check_models(sara_context *ctx, const sara_model *base, const sara_model *tuned)
{
    bool changed;
    sara_status status;
    TRY(sara_model_check_exact(base, ""));
    TRY(sara_model_check_exact(tuned, ""));
    TRY(sara_model_is_changed(base, &changed));
    if (changed)
        status =
            sara_fail(ctx, SARA_ERROR_USAGE,
                      "%s: adapters are applied to it; the base has to be without", base->path);
done:
    return status;
}

/* What the rule keeps of so many differing entries of all. */
static sara_status make_rule(sara_context *ctx, sara_difference_rule *rule,
                             const sara_extract_options *o, const sara_difference_size *size,
                             int64_t entries)
{
    double share = (double)size->differing / (double)entries;
    *rule = (sara_difference_rule){.tolerance = o->tolerance >= 0 ? o->tolerance : -1};
    if (size->differing == 0)
        return sara_fail(ctx, SARA_ERROR_INPUT, "no entry differs: there is nothing to extract");
    if (o->top_fraction > 0)
        rule->most = (int64_t)fmax(1, rint(o->top_fraction * (double)entries));
    else if (o->tolerance < 0 && share > DENSE)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%lld of %lld entries differ (%.1f %%): too many for an exact adapter; "
                         "give top_fraction (e.g. 0.05: keep the 5 %% that changed most) or "
                         "tolerance (keep changes above it; the largest is %.3g)",
                         (long long)size->differing, (long long)entries, 100 * share,
                         (double)size->largest);
    return SARA_OK;
}

static sara_status check_kept(sara_context *ctx, const sara_difference *difference,
                              double tolerance, float largest)
{
    if (difference->kept > 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "tolerance %g keeps nothing: the largest change is %.9g", tolerance,
                     (double)largest);
}

/* The squared difference that storing the values makes. */
static double rounding2(const sara_difference *d, sara_dtype dtype)
{
    double sum = 0;
    for (size_t i = 0; i < d->count && dtype != SARA_F32; i++)
        for (size_t j = 0; j < d->entries[i].count; j++) {
            float value = d->entries[i].values[j], stored;
            uint16_t half;
            sara_convert_from_f32(&half, dtype, &value, 1);
            sara_convert_to_f32(&stored, &half, dtype, 1);
            sum += ((double)stored - (double)value) * ((double)stored - (double)value);
        }
    return sum;
}

static sara_status extract_add_metadata(sara_metadata_list *list, sara_model *base,
                                        const sara_extract_options *o, int64_t kept)
{
    const sara_base *own;
    sara_status status;
    TRY(sara_model_base(list->arena.ctx, &own, base));
    TRY(sara_metadata_list_add(list, "sara.target", "%s", base->family->target));
    TRY(sara_metadata_list_add(list, "sara.method", "extract"));
    TRY(sara_metadata_list_add(list, "sara.base_sha256", "%s", own->sha256));
    TRY(sara_metadata_list_add(list, "sara.base_precision", "%s",
                               sara_precision_name(own->precision)));
    TRY(sara_metadata_list_add(list, "sara.selected", "%lld", (long long)kept));
    if (o->top_fraction > 0)
        TRY(sara_metadata_list_add(list, "sara.top_fraction", "%.17g", o->top_fraction));
    if (o->tolerance >= 0)
        TRY(sara_metadata_list_add(list, "sara.tolerance", "%.17g", o->tolerance));
    TRY(sara_metadata_list_add_model(list, base, "sara", "extracted adapter"));
done:
    return status;
}

static sara_status extract_adapter(sara_context *ctx, sara_extract_report *report, sara_model *base,
                                   const sara_model *tuned, const char *path,
                                   const sara_extract_options *options, sara_dtype dtype)
{
    const sara_params *from = &base->denoiser->params, *to = &tuned->denoiser->params;
    int64_t entries = sara_params_entries(from);
    sara_difference difference = {NULL, 0, 0, 0};
    sara_difference_size size;
    sara_difference_rule rule;
    sara_metadata_list list;
    sara_status status;
    sara_metadata_list_init(&list, ctx);
    TRY(sara_difference_measure(ctx, &size, from, to));
    TRY(sara_extract_warn(ctx, base, tuned, false));
    TRY(make_rule(ctx, &rule, options, &size, entries));
    TRY(sara_difference_new(ctx, &difference, from, to, &rule));
    TRY(check_kept(ctx, &difference, options->tolerance, size.largest));
    TRY(extract_add_metadata(&list, base, options, difference.kept));
    TRY(sara_adapter_save(ctx, path, difference.entries, difference.count, list.items, list.count,
                          dtype));
    double lost = difference.left_out2 + rounding2(&difference, dtype);
    *report = (sara_extract_report){.parameters = entries,
                                    .differing = size.differing,
                                    .kept = difference.kept,
                                    .change_norm = sqrt(size.sum2),
                                    .left_out = size.sum2 > 0 ? sqrt(lost / size.sum2) : 0};
done:
    sara_metadata_list_free(&list);
    sara_difference_free(ctx, &difference);
    return status;
}

/* The base's hash is in a LoRA's metadata. */
static sara_status extract_lora(sara_context *ctx, sara_extract_report *report, sara_model *base,
                                const sara_model *tuned, const char *path,
                                const sara_extract_options *options, sara_dtype dtype)
{
    const sara_base *own;
    sara_status status;
    TRY(sara_model_base(ctx, &own, base));
    TRY(sara_extract_warn(ctx, base, tuned, true));
    TRY(sara_extract_lora(ctx, report, base, tuned, path, options, dtype));
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    return status;
}

sara_status sara_model_extract_sized(sara_context *ctx, sara_extract_report *report,
                                     size_t report_size, sara_model *base, const sara_model *tuned,
                                     const char *path, const sara_extract_options *given)
{
    sara_extract_options options;
    sara_extract_report full;
    sara_dtype dtype;
    bool lora;
    sara_status status;
    TRY(sara_extract_check(ctx, path, given));
    TRY(read_extract_options(ctx, &options, given));
    TRY(check_values(ctx, &options, &dtype, &lora));
    TRY(check_models(ctx, base, tuned));
    TRY(sara_model_need_part(base, 0));
    TRY(sara_model_need_part(tuned, 0));
    TRY(lora ? extract_lora(ctx, &full, base, tuned, path, &options, dtype)
             : extract_adapter(ctx, &full, base, tuned, path, &options, dtype));
    sara_sized_write(report, report_size, &full, sizeof(full));
done:
    return status;
}
