/* What the options say of images and captions, as a configuration of data sets. */
#include "train/dataset_cache.h"

static sara_subset subset_of(const sara_train_options *o)
{
    const bool kohya = o->enable_bucket || o->dataset_config;
    return (sara_subset){.image_dir = o->train_data_dir,
                         .num_repeats = 1,
                         .instance_prompt = o->instance_prompt,
                         .caption_extension = o->caption_extension,
                         .caption_column = o->caption_column,
                         .conditioning_data_dir = o->conditioning_data_dir,
                         .alpha_mask = o->alpha_mask,
                         .flip_aug = o->random_flip,
                         .color_aug = o->color_aug,
                         .random_crop = kohya ? o->random_crop : !o->center_crop,
                         .captions = {.prefix = o->caption_prefix,
                                      .suffix = o->caption_suffix,
                                      .separator = o->caption_separator,
                                      .keep_tokens_separator = o->keep_tokens_separator,
                                      .secondary_separator = o->secondary_separator,
                                      .dropout_rate = o->caption_dropout_rate,
                                      .tag_dropout_rate = o->caption_tag_dropout_rate,
                                      .dropout_every_n_epochs = o->caption_dropout_every_n_epochs,
                                      .keep_tokens = o->keep_tokens,
                                      .shuffle = o->shuffle_caption,
                                      .wildcard = o->enable_wildcard}};
}

/* One set of a folder, and one of class images where there are such. */
static sara_status config_of_folders(sara_data_config *out, const sara_image_set *set,
                                     const sara_subset *subset, const sara_train_options *o)
{
    sara_status status;
    TRY(sara_arena_alloc(&out->arena, &out->sets, 1, sizeof(*out->sets)));
    TRY(sara_arena_alloc(&out->arena, &out->subsets, 2, sizeof(*out->subsets)));
    out->sets[out->set_count++] = *set;
    out->subsets[out->subset_count++] = *subset;
    if (o->class_data_dir) {
        sara_subset *class = &out->subsets[out->subset_count++];
        *class = *subset;
        class->image_dir = o->class_data_dir;
        class->instance_prompt = o->class_prompt;
        class->is_reg = true;
        class->alpha_mask = false;
        class->conditioning_data_dir = NULL;
    }
done:
    return status;
}

/* That what the options ask of a configuration is in it. */
static sara_status check_config_subsets(sara_context *ctx, const sara_data_config *config,
                                        const sara_train_options *o)
{
    bool files = false, masks = false, classes = false;
    for (size_t i = 0; i < config->subset_count; i++) {
        const sara_subset *subset = &config->subsets[i];
        files = files || subset->conditioning_data_dir;
        masks = masks || subset->conditioning_data_dir || subset->alpha_mask;
        classes = classes || subset->is_reg;
    }
    if (files && !o->masked_loss)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: conditioning_data_dir: goes with --masked_loss", o->dataset_config);
    if (o->masked_loss && !masks)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--masked_loss: where are the masks? Give a subset of %s "
                         "conditioning_data_dir or alpha_mask",
                         o->dataset_config);
    if (o->with_prior_preservation && !classes)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--with_prior_preservation: where are the class images? Give a subset of "
                         "%s is_reg = true",
                         o->dataset_config);
    return SARA_OK;
}

sara_status sara_dataset_config(sara_context *ctx, sara_data_config *out,
                                const sara_train_options *o, int width, int height)
{
    const sara_image_set set = {.buckets = {.width = width,
                                            .height = height,
                                            .enabled = o->enable_bucket,
                                            .no_upscale = o->bucket_no_upscale,
                                            .least = o->min_bucket_reso,
                                            .most = o->max_bucket_reso,
                                            .steps = o->bucket_reso_steps},
                                .batch_size = o->train_batch_size};
    sara_subset subset = subset_of(o);
    sara_status status;
    *out = (sara_data_config){0};
    sara_arena_init(&out->arena, ctx);
    if (!o->dataset_config)
        return config_of_folders(out, &set, &subset, o);
    subset.image_dir = NULL;
    TRY(sara_data_config_read(ctx, out, o->dataset_config, &set, &subset));
    TRY(check_config_subsets(ctx, out, o));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- sizes */

sara_status sara_dataset_resolution(const sara_model *model, const sara_train_options *options,
                                    int *width, int *height)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    int sample =
        info->sample_height > info->sample_width ? info->sample_height : info->sample_width;
    sara_status status = SARA_OK;
    sara_train_options_sides(options, width, height);
    if (!*width) {
        TRY(sara_model_check_sample_size(model->ctx, model, "--resolution"));
        *width = *height = sample * model->vae->info.vae.factor;
    }
    TRY(sara_model_check_size(model->ctx, model, *width, *height, "--resolution"));
done:
    return status;
}

/* A size that `key` of --dataset_config, where that is from_file, or else --key gives. */
static sara_status check_given_size(const sara_model *model, int width, int height, const char *key,
                                    const char *file, bool from_file)
{
    const sara_name what = sara_name_of("%s%s", from_file ? "" : "--", key);
    const sara_status status = sara_model_check_size(model->ctx, model, width, height, what.text);
    if (status == SARA_ERROR_USAGE && from_file)
        return sara_fail_in(model->ctx, SARA_ERROR_INPUT, file);
    return status;
}

/* What a --dataset_config says of sizes of its own; that of --resolution is checked. */
static sara_status check_set_sizes(const sara_model *model, const sara_data_config *config,
                                   const sara_train_options *options)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; options->dataset_config && i < config->set_count; i++) {
        const sara_bucket_options *o = &config->sets[i].buckets;
        const sara_name where = sara_name_of("%.150s: datasets[%zu]", options->dataset_config, i);
        if (!o->enabled)
            TRY(check_given_size(model, o->width, o->height, "resolution", where.text, true));
    }
done:
    return status;
}

sara_status sara_dataset_check_sizes(const sara_model *model, const sara_data_config *config,
                                     const sara_data *data, const sara_train_options *options)
{
    sara_status status = SARA_OK;
    if (!data)
        return check_set_sizes(model, config, options);
    for (size_t i = 0; i < data->count; i++) {
        const sara_fit *fit = &data->images[i].fit;
        const size_t set = config->subsets[data->images[i].subset].set;
        const sara_bucket_options *o = &config->sets[set].buckets;
        const char *file = options->dataset_config ? options->dataset_config : "";
        const sara_name where = sara_name_of("%.150s: datasets[%zu]", file, set);
        if (o->enabled && !data->images[i].refused)
            TRY(check_given_size(model, fit->width, fit->height, "bucket_reso_steps", where.text,
                                 o->steps != options->bucket_reso_steps));
    }
done:
    return status;
}
