/* Training options that are wrong or contradict each other. */
#include "train/train.h"

/* Texts that a program may have set wrongly. */
static sara_status check_missing(sara_context *ctx, const sara_train_options *options)
{
    if (!options->caption_column || !options->lr_scheduler || !options->mixed_precision ||
        !options->method)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--%s: a value is missing",
                         !options->caption_column    ? "caption_column"
                         : !options->lr_scheduler    ? "lr_scheduler"
                         : !options->mixed_precision ? "mixed_precision"
                                                     : "method");
    if (options->validation_prompt_count < 0 || options->validation_prompt_count > SARA_MAX_PROMPTS)
        return sara_fail(ctx, SARA_ERROR_USAGE, "validation_prompt_count %d: expected 0 to %d",
                         options->validation_prompt_count, SARA_MAX_PROMPTS);
    for (int i = 0; i < options->validation_prompt_count; i++)
        if (!options->validation_prompts[i])
            return sara_fail(ctx, SARA_ERROR_USAGE, "--validation_prompt %d: a value is missing",
                             i);
    return SARA_OK;
}

/* Values that have a grammar of their own, before any work begins. */
static sara_status check_words(sara_context *ctx, const sara_train_options *o)
{
    sara_prediction prediction;
    sara_storage storage;
    sara_budget budget;
    double factor;
    sara_status status;
    TRY(sara_storage_parse(ctx, &storage, o->weight_dtype, "--weight_dtype"));
    TRY(sara_nn_device_check(ctx, o->device, "--device"));
    TRY(sara_lr_factor(ctx, &factor, o, 1.0, 0, 1));
    if (o->prediction_type)
        TRY(sara_prediction_parse(ctx, &prediction, o->prediction_type));
    if (o->trainable)
        TRY(sara_budget_parse(ctx, &budget, o->trainable));
done:
    return status;
}

const char *sara_train_options_model(const sara_train_options *o, bool *alone)
{
    if (alone)
        *alone = o->unet_only != NULL;
    return o->unet_only ? o->unet_only : o->pretrained_model_name_or_path;
}

static sara_status check_sources(sara_context *ctx, const sara_train_options *o)
{
    const sara_status status = SARA_ERROR_USAGE;
    if (!o->pretrained_model_name_or_path && !o->unet_only)
        return sara_fail(ctx, status,
                         "--pretrained_model_name_or_path is missing: name the base, a diffusers "
                         "folder");
    if (o->pretrained_model_name_or_path && o->unet_only)
        return sara_fail(ctx, status,
                         "--unet-only %s: takes the place of --pretrained_model_name_or_path; give "
                         "one of them",
                         o->unet_only);
    if (!o->output_dir || !*o->output_dir)
        return sara_fail(ctx, status, "--output_dir is missing: name the run folder");
    if (!o->train_data_dir && !o->replay && !o->unet_only)
        return sara_fail(ctx, status,
                         "--train_data_dir is missing: name the folder of training images");
    if (o->train_data_dir && o->replay)
        return sara_fail(ctx, status,
                         "--replay %s: takes the place of --train_data_dir; give one of them",
                         o->replay);
    if (o->unet_only && !o->replay)
        return sara_fail(ctx, status,
                         "--unet-only %s: has no VAE or text encoder; give --replay FILE",
                         o->unet_only);
    if (o->unet_only && o->validation_prompt_count)
        return sara_fail(ctx, status, "--validation_prompt %s: --unet-only cannot draw it",
                         o->validation_prompts[0]);
    return SARA_OK;
}

sara_status sara_train_options_check(sara_context *ctx, const sara_train_options *o)
{
    sara_status status;
    TRY(sara_train_options_check_values(ctx, o));
    TRY(check_missing(ctx, o));
    TRY(check_sources(ctx, o));
    TRY(check_words(ctx, o));
    if (o->threshold > 0 && o->trainable)
        status =
            sara_fail(ctx, SARA_ERROR_USAGE, "--threshold %g and --trainable %s: give one of them",
                      o->threshold, o->trainable);
    else if (o->adapter && (o->threshold > 0 || o->trainable))
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "--adapter %s: its entries are trained; leave --%s out", o->adapter,
                           o->trainable ? "trainable" : "threshold");
    else if (o->max_train_steps > 0 && o->num_train_epochs > 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "--max_train_steps %lld and --num_train_epochs %lld: give one of them",
                           (long long)o->max_train_steps, (long long)o->num_train_epochs);
    else if (o->replay && o->num_train_epochs > 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "--num_train_epochs %lld: a replay is used once; give --max_train_steps",
                           (long long)o->num_train_epochs);
done:
    return status;
}
