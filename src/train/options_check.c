/* Training options that are wrong or contradict each other. */
#include "train/methods/lora.h"

/* Texts that a program may have set wrongly. */
static sara_status check_missing(sara_context *ctx, const sara_train_options *options)
{
    if (!options->caption_column || !options->lr_scheduler || !options->mixed_precision ||
        !options->method || !options->mask)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--%s: a value is missing",
                         !options->caption_column    ? "caption_column"
                         : !options->lr_scheduler    ? "lr_scheduler"
                         : !options->mixed_precision ? "mixed_precision"
                         : !options->method          ? "method"
                                                     : "mask");
    if (options->validation_prompt_count < 0 || options->validation_prompt_count > SARA_MAX_PROMPTS)
        return sara_fail(ctx, SARA_ERROR_USAGE, "validation_prompt_count %d: expected 0 to %d",
                         options->validation_prompt_count, SARA_MAX_PROMPTS);
    for (int i = 0; i < options->validation_prompt_count; i++)
        if (!options->validation_prompts[i])
            return sara_fail(ctx, SARA_ERROR_USAGE, "--validation_prompt %d: a value is missing",
                             i);
    return SARA_OK;
}

/* value: one of "a, b or c". NULL: it is not given. */
static sara_status check_choice(sara_context *ctx, const char *name, const char *value,
                                const char *const *choices)
{
    sara_buffer text = {.ctx = ctx};
    size_t count = 0;
    sara_status status = SARA_OK;
    for (; choices[count]; count++)
        if (!value || strcmp(choices[count], value) == 0)
            return SARA_OK;
    for (size_t i = 0; i < count; i++)
        TRY(sara_buffer_put_choice(&text, choices[i], i, count));
    status = sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: expected %s", name, value, text.data);
done:
    sara_buffer_free(&text);
    return status;
}

/* How noise levels are drawn: what goes with one scheme alone. */
static sara_status check_weighting(sara_context *ctx, const sara_train_options *o)
{
    static const struct {
        const char *name;
        sara_weighting_scheme scheme;
    } own[] = {{"logit_mean", SARA_WEIGHTING_LOGIT_NORMAL},
               {"logit_std", SARA_WEIGHTING_LOGIT_NORMAL},
               {"mode_scale", SARA_WEIGHTING_MODE}};
    sara_weighting_scheme scheme = SARA_WEIGHTING_LOGIT_NORMAL;
    sara_status status = SARA_OK;
    if (o->weighting_scheme)
        TRY(sara_weighting_parse(ctx, &scheme, o->weighting_scheme, "--weighting_scheme"));
    for (size_t i = 0; i < sizeof(own) / sizeof(*own) && status == SARA_OK; i++) {
        char *value = NULL;
        TRY(sara_train_option_given(ctx, &value, o, own[i].name));
        if (value && scheme != own[i].scheme)
            status = sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: goes with --weighting_scheme %s",
                               own[i].name, value, sara_weighting_name(own[i].scheme));
        sara_free(ctx, value);
    }
done:
    return status;
}

/* Values that have a grammar of their own, before any work begins. */
static sara_status check_words(sara_context *ctx, const sara_train_options *o)
{
    static const char *const reports[] = {"none", "tensorboard", NULL};
    sara_prediction prediction;
    sara_storage storage;
    double factor;
    sara_status status;
    TRY(check_choice(ctx, "report_to", o->report_to, reports));
    if (o->logging_dir && (!o->report_to || strcmp(o->report_to, "none") == 0))
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "--logging_dir %s: goes with --report_to tensorboard",
                      o->logging_dir));
    if (o->embedding_dir && o->validation_prompt_count == 0)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE,
                      "--embedding_dir %s: its names stand in validation prompts alone; give "
                      "--validation_prompt or leave it out",
                      o->embedding_dir));
    TRY(sara_storage_parse(ctx, &storage, o->weight_dtype, "--weight_dtype"));
    TRY(sara_storage_parse(ctx, &storage, o->encoder_dtype, "--encoder_dtype"));
    TRY(sara_nn_device_check(ctx, o->device, "--device"));
    TRY(sara_lr_factor(ctx, &factor, o, 1.0, 0, 1));
    TRY(check_weighting(ctx, o));
    if (o->prediction_type)
        TRY(sara_prediction_parse(ctx, &prediction, o->prediction_type));
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
    if (!o->train_data_dir && !o->dataset_config && !o->replay && !o->unet_only)
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

sara_status sara_train_options_check_beside(sara_context *ctx, const sara_train_options *o,
                                            const char *started)
{
    static const char *const decided[] = {
        "trainable",  "threshold",    "mask",        "mask_steps",    "rank",
        "lora_alpha", "lora_targets", "ltsft_steps", "adapter_width", "adapter_scale"};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(decided) / sizeof(*decided); i++) {
        char *value = NULL;
        TRY(sara_train_option_given(ctx, &value, o, decided[i]));
        if (value && started)
            status = sara_fail(ctx, SARA_ERROR_USAGE,
                               "%s: the run trains the entries of the adapter that it began with; "
                               "leave --%s out",
                               started, decided[i]);
        else if (value)
            status = sara_fail(ctx, SARA_ERROR_USAGE,
                               "--adapter %s: it says what is trained; leave --%s out", o->adapter,
                               decided[i]);
        sara_free(ctx, value);
        if (status != SARA_OK)
            break;
    }
done:
    return status;
}

/* What is trained, and how much of it: each is said once. */
static sara_status check_one_size(sara_context *ctx, const sara_train_options *o)
{
    bool is_sara = strcmp(o->method, "sara") == 0; /* whose rank is its mask's */
    if (o->threshold > 0 && o->trainable)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--threshold %g and --trainable %s: give one of them", o->threshold,
                         o->trainable);
    if (o->trainable && o->rank && !is_sara)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--rank %d and --trainable %s: give one of them",
                         o->rank, o->trainable);
    if (o->trainable && o->adapter_width)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--adapter_width %d and --trainable %s: give one of them",
                         o->adapter_width, o->trainable);
    return SARA_OK;
}

/* Of SaRA's masks: what goes with one alone. */
static sara_status check_mask(sara_context *ctx, const sara_train_options *o)
{
    if (strcmp(o->method, "sara") != 0)
        return SARA_OK;
    if (o->mask_steps && strcmp(o->mask, "gradient") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--mask_steps %d: goes with --mask gradient, not %s", o->mask_steps,
                         o->mask);
    if (o->rank && strcmp(o->mask, "lift") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--rank %d: goes with --mask lift, or with --method lora, dora or shira; "
                         "SaRA's size is --trainable or --threshold",
                         o->rank);
    if (o->progressive_iter > 0 && strcmp(o->mask, "smallest") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--progressive_iter %lld: --mask %s has no reselection; leave it out",
                         (long long)o->progressive_iter, o->mask);
    return SARA_OK;
}

sara_status sara_train_options_check_method(sara_context *ctx, const sara_train_options *o)
{
    static const char *const formats[] = {"kohya", "peft", NULL};
    sara_lora_targets targets;
    sara_mask_kind mask;
    sara_budget budget;
    sara_status status = SARA_OK;
    if (o->trainable)
        TRY(sara_budget_parse(ctx, &budget, o->trainable));
    TRY(sara_mask_parse(ctx, &mask, o->mask));
    TRY(sara_lora_targets_parse(ctx, &targets, o->lora_targets));
    TRY(check_choice(ctx, "save_as", o->save_as, formats));
    TRY(check_one_size(ctx, o));
    TRY(check_mask(ctx, o));
    if (o->adapter)
        TRY(sara_train_options_check_beside(ctx, o, NULL));
done:
    return status;
}

static sara_status check_given_steps(sara_context *ctx, const sara_train_options *o)
{
    if (o->max_train_steps > 0 && o->num_train_epochs > 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--max_train_steps %lld and --num_train_epochs %lld: give one of them",
                         (long long)o->max_train_steps, (long long)o->num_train_epochs);
    if (o->replay && o->num_train_epochs > 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--num_train_epochs %lld: a replay is used once; give --max_train_steps",
                         (long long)o->num_train_epochs);
    return SARA_OK;
}

sara_status sara_train_options_check(sara_context *ctx, const sara_train_options *o)
{
    sara_status status;
    TRY(sara_train_options_check_values(ctx, o));
    TRY(check_missing(ctx, o));
    TRY(check_sources(ctx, o));
    TRY(check_words(ctx, o));
    TRY(sara_train_options_check_data(ctx, o));
    TRY(sara_train_options_check_method(ctx, o));
    TRY(check_given_steps(ctx, o));
done:
    return status;
}
