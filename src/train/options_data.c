/* Training options about images and captions that contradict each other. */
#include "train/train.h"

/* Options of whose kind one at least is given, without what they go with. */
typedef struct option_beside {
    const char *name, *with;
} option_beside;

static sara_status check_beside_data(sara_context *ctx, const sara_train_options *o,
                                     const option_beside *list, bool with)
{
    sara_status status = SARA_OK;
    for (; !with && list->name && status == SARA_OK; list++) {
        char *value = NULL;
        TRY(sara_train_option_given(ctx, &value, o, list->name));
        if (value)
            status = sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: goes with --%s", list->name, value,
                               list->with);
        sara_free(ctx, value);
    }
done:
    return status;
}

static sara_status check_data_crops(sara_context *ctx, const sara_train_options *o)
{
    const bool kohya = o->enable_bucket || o->dataset_config;
    if (o->random_crop && o->center_crop)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--random_crop and --center_crop: give one of them");
    if (o->color_aug && o->cache_latents_to_disk)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--color_aug: images are encoded at each step; leave "
                         "--cache_latents_to_disk out");
    if (o->random_crop && kohya && o->cache_latents_to_disk)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--random_crop: images are encoded at each step; leave "
                         "--cache_latents_to_disk out");
    return SARA_OK;
}

/* That masks are somewhere, in one place. */
static sara_status check_masks(sara_context *ctx, const sara_train_options *o)
{
    if (o->alpha_mask && o->conditioning_data_dir)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--alpha_mask and --conditioning_data_dir %s: give one of them",
                         o->conditioning_data_dir);
    if (o->masked_loss && !o->alpha_mask && !o->conditioning_data_dir && !o->dataset_config)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--masked_loss: where are the masks? Give --conditioning_data_dir DIR or "
                         "--alpha_mask");
    if (o->masked_loss && o->replay)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--masked_loss: a replay has no images; leave it out");
    return SARA_OK;
}

/* Where class images are, and that they are wanted. */
static sara_status check_prior(sara_context *ctx, const sara_train_options *o)
{
    if (o->class_data_dir && o->replay)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--class_data_dir %s: a replay has no images; leave it out",
                         o->class_data_dir);
    if (o->with_prior_preservation && !o->class_data_dir && !o->dataset_config)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--with_prior_preservation: --class_data_dir is missing: name the folder "
                         "of class images");
    return SARA_OK;
}

static sara_status check_config_alone(sara_context *ctx, const sara_train_options *o)
{
    const struct {
        const char *name, *value;
    } others[] = {{"train_data_dir", o->train_data_dir},
                  {"class_data_dir", o->class_data_dir},
                  {"instance_prompt", o->instance_prompt},
                  {"replay", o->replay}};
    for (size_t i = 0; o->dataset_config && i < sizeof(others) / sizeof(*others); i++)
        if (others[i].value)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "--dataset_config %s: says what is trained on; leave --%s %s out",
                             o->dataset_config, others[i].name, others[i].value);
    return SARA_OK;
}

sara_status sara_train_options_check_data(sara_context *ctx, const sara_train_options *o)
{
    static const option_beside buckets[] = {{"bucket_no_upscale", "enable_bucket"},
                                            {"min_bucket_reso", "enable_bucket"},
                                            {"max_bucket_reso", "enable_bucket"},
                                            {"bucket_reso_steps", "enable_bucket"},
                                            {NULL, NULL}};
    static const option_beside masks[] = {
        {"alpha_mask", "masked_loss"}, {"conditioning_data_dir", "masked_loss"}, {NULL, NULL}};
    static const option_beside classes[] = {{"prior_loss_weight", "class_data_dir"}, {NULL, NULL}};
    static const option_beside prompts[] = {{"class_prompt", "class_data_dir"}, {NULL, NULL}};
    static const option_beside drawn[] = {{"num_class_images", "class_prompt"}, {NULL, NULL}};
    sara_status status;
    if (!o->caption_separator || !*o->caption_separator)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--caption_separator: is empty");
    TRY(check_config_alone(ctx, o));
    TRY(check_data_crops(ctx, o));
    TRY(check_prior(ctx, o));
    TRY(check_masks(ctx, o));
    TRY(check_beside_data(ctx, o, drawn, o->class_prompt != NULL));
    TRY(check_beside_data(ctx, o, prompts, o->class_data_dir != NULL));
    TRY(check_beside_data(ctx, o, masks, o->masked_loss));
    TRY(check_beside_data(ctx, o, buckets, o->enable_bucket || o->dataset_config));
    TRY(check_beside_data(ctx, o, classes, o->class_data_dir || o->dataset_config));
done:
    return status;
}
