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
    *out = (sara_data_config){0};
    sara_arena_init(&out->arena, ctx);
    if (!o->dataset_config)
        return config_of_folders(out, &set, &subset, o);
    subset.image_dir = NULL;
    return sara_data_config_read(ctx, out, o->dataset_config, &set, &subset);
}
