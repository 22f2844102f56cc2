/* The images of all folders: under which captions, in which shapes, in which order. */
#include "data/data_inner.h"

#include <stdlib.h>

/* ------------------------------------------------------------------------------------- scanning */

static sara_status scan_subset(sara_data *data, size_t index, const sara_data_options *options)
{
    const sara_subset *subset = &data->config->subsets[index];
    const sara_dataset_options source = {
        .folder = subset->image_dir,
        .caption_column = subset->caption_column,
        .caption_extension = subset->caption_extension,
        .instance_prompt = subset->instance_prompt,
        .class_tokens = subset->class_tokens,
        .flat = options->dataset_config != NULL,
        .output_dir = options->output_dir,
        .masks_dir = options->masked_loss ? subset->conditioning_data_dir : NULL,
        .instead = options->dataset_config ? "one for all by class_tokens"
                   : subset->is_reg        ? "one caption for all by --class_prompt"
                                           : NULL,
        .refused = options->listener ? options->listener->refused : NULL,
        .user = options->listener ? options->listener->user : NULL};
    return sara_data_hear(data->ctx, options->listener, subset->image_dir,
                          sara_dataset_scan(data->ctx, &data->scans[index], &source));
}

/* The image's name without its extension, in the folder of masks, with any that is read. */
static sara_status find_mask(sara_data *data, sara_data_image *image, const char *folder,
                             const char *name)
{
    static const char *const extensions[] = {".png", ".jpg", ".jpeg", ".webp",
                                             ".PNG", ".JPG", ".JPEG", ".WEBP"};
    const int stem = (int)(strrchr(name, '.') - name);
    char *path = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; !image->mask && i < sizeof(extensions) / sizeof(*extensions); i++) {
        TRY(sara_format(data->ctx, &path, "%s/%.*s%s", folder, stem, name, extensions[i]));
        if (sara_path_exists(path))
            TRY(sara_arena_strdup(&data->arena, &image->mask, path));
        sara_free(data->ctx, path);
        path = NULL;
    }
    if (!image->mask)
        TRY(sara_fail(data->ctx, SARA_ERROR_INPUT,
                      "%s: has no mask: expected %.*s.png (.jpg, .jpeg, .webp) in %s", image->path,
                      stem, name, folder));
done:
    sara_free(data->ctx, path);
    return status;
}

static sara_status add_image(sara_data *data, size_t index, const sara_dataset_item *item,
                             const sara_data_options *options)
{
    const sara_subset *subset = &data->config->subsets[index];
    sara_data_image *image = &data->images[data->count++];
    char *caption = NULL;
    sara_status status = SARA_OK;
    *image = (sara_data_image){.path = item->path,
                               .caption = item->caption,
                               .repeats = item->repeats * subset->num_repeats,
                               .subset = index,
                               .refused = item->refused,
                               .varies = sara_caption_varies(&subset->captions, item->caption)};
    if (!image->varies) {
        TRY(sara_caption_make(data->ctx, &caption, &subset->captions, item->caption, 0, 0, 0));
        TRY(sara_arena_strdup(&data->arena, &image->caption, caption));
    }
    if (subset->alpha_mask) /* of a configuration it is enough, as in kohya's scripts */
        image->mask = image->path;
    else if (options->masked_loss && subset->conditioning_data_dir) {
        TRY(sara_data_hear(data->ctx, options->listener, image->path,
                           find_mask(data, image, subset->conditioning_data_dir, item->name)));
        image->refused = image->refused || !image->mask;
    }
done:
    sara_free(data->ctx, caption);
    return status;
}

static sara_status collect_images(sara_data *data, const sara_data_options *options)
{
    const size_t subsets = data->config->subset_count;
    size_t count = 0;
    sara_status status;
    TRY(sara_alloc_zero(data->ctx, &data->scans, subsets, sizeof(*data->scans)));
    for (size_t i = 0; i < subsets; i++) {
        TRY(scan_subset(data, i, options));
        count += data->scans[i].count;
    }
    TRY(sara_alloc(data->ctx, &data->images, count, sizeof(*data->images)));
    for (size_t i = 0; i < subsets; i++)
        for (size_t k = 0; k < data->scans[i].count; k++)
            TRY(add_image(data, i, &data->scans[i].items[k], options));
done:
    return status;
}

/* --------------------------------------------------------------------------------------- groups */

typedef struct shape_key {
    sara_data_shape shape;
    size_t set;
} shape_key;

static int64_t shape_pixels(const sara_data_shape *shape)
{
    return (int64_t)shape->width * shape->height * shape->batch;
}

/* The most pixels first, as the plan of memory asks for. */
static int compare_shape_keys(const void *a, const void *b)
{
    const shape_key *x = a, *y = b;
    const int64_t differences[] = {shape_pixels(&y->shape) - shape_pixels(&x->shape),
                                   y->shape.width - x->shape.width,
                                   (int64_t)x->set - (int64_t)y->set};
    for (size_t i = 0; i < sizeof(differences) / sizeof(*differences); i++)
        if (differences[i])
            return differences[i] < 0 ? -1 : 1;
    return 0;
}

static shape_key shape_key_of(const sara_data *data, const sara_data_image *image)
{
    const size_t set = data->config->subsets[image->subset].set;
    return (shape_key){{image->fit.width, image->fit.height, data->config->sets[set].batch_size},
                       set};
}

/* The group's shapes, each once, and which of them its images have. */
static sara_status find_shapes(sara_data *data, sara_data_group *group, size_t *shape_count)
{
    shape_key *keys = NULL;
    size_t kept = 0;
    sara_status status;
    TRY(sara_alloc(data->ctx, &keys, group->count, sizeof(*keys)));
    for (size_t i = 0; i < group->count; i++)
        keys[i] = shape_key_of(data, &data->images[group->images[i]]);
    qsort(keys, group->count, sizeof(*keys), compare_shape_keys);
    for (size_t i = 0; i < group->count; i++)
        if (i == 0 || compare_shape_keys(&keys[i], &keys[kept - 1]) != 0)
            keys[kept++] = keys[i];
    for (size_t i = 0; i < group->count; i++) {
        sara_data_image *image = &data->images[group->images[i]];
        const shape_key key = shape_key_of(data, image);
        const shape_key *found = bsearch(&key, keys, kept, sizeof(*keys), compare_shape_keys);
        image->shape = (size_t)(found - keys);
    }
    TRY(sara_alloc(data->ctx, &group->shapes, kept, sizeof(*group->shapes)));
    for (size_t i = 0; i < kept; i++)
        group->shapes[i] = keys[i].shape;
    *shape_count = kept;
done:
    sara_free(data->ctx, keys);
    return status;
}

static sara_status order_group(sara_data *data, sara_data_group *group, uint64_t seed)
{
    sara_order_image *images = NULL;
    size_t shape_count;
    int *batches = NULL;
    sara_status status;
    TRY(find_shapes(data, group, &shape_count));
    TRY(sara_alloc(data->ctx, &images, group->count, sizeof(*images)));
    TRY(sara_alloc(data->ctx, &batches, shape_count, sizeof(*batches)));
    for (size_t i = 0; i < group->count; i++) {
        const sara_data_image *image = &data->images[group->images[i]];
        images[i] = (sara_order_image){image->repeats, image->shape};
    }
    for (size_t i = 0; i < shape_count; i++)
        batches[i] = group->shapes[i].batch;
    TRY(sara_order_make(data->ctx, &group->order, images, group->count, batches, shape_count,
                        seed));
done:
    sara_free(data->ctx, images);
    sara_free(data->ctx, batches);
    return status;
}

static sara_status make_group(sara_data *data, sara_data_group *group, bool is_reg, uint64_t seed)
{
    sara_status status;
    TRY(sara_alloc(data->ctx, &group->images, data->count, sizeof(*group->images)));
    for (size_t i = 0; i < data->count; i++)
        if (!data->images[i].refused &&
            data->config->subsets[data->images[i].subset].is_reg == is_reg)
            group->images[group->count++] = i;
    if (group->count)
        TRY(order_group(data, group, seed));
done:
    return status;
}

static void free_group(sara_context *ctx, sara_data_group *group)
{
    sara_free(ctx, group->images);
    sara_free(ctx, group->shapes);
    sara_order_free(ctx, &group->order);
}

/* ---------------------------------------------------------------------------------------- whole */

/* What a configuration says wrongly of sizes is told with the data set. */
static sara_status make_buckets(sara_data *data, sara_buckets *out, size_t set, const char *file)
{
    const sara_status status = sara_buckets_make(data->ctx, out, &data->config->sets[set].buckets);
    if (status != SARA_ERROR_USAGE || !file)
        return status;
    const sara_name where = sara_name_of("%.150s: datasets[%zu]", file, set);
    return sara_fail_in(data->ctx, SARA_ERROR_INPUT, where.text);
}

static sara_status check_data(sara_data *data, const sara_data_options *options)
{
    const sara_data_config *config = data->config;
    sara_buckets *buckets = NULL;
    sara_status status;
    TRY(sara_alloc_zero(data->ctx, &buckets, config->set_count, sizeof(*buckets)));
    for (size_t i = 0; i < config->set_count; i++)
        TRY(make_buckets(data, &buckets[i], i, options->dataset_config));
    TRY(sara_data_check_images(data, buckets, options->listener));
done:
    for (size_t i = 0; buckets && i < config->set_count; i++)
        sara_buckets_free(data->ctx, &buckets[i]);
    sara_free(data->ctx, buckets);
    return status;
}

static bool has_class_alone(const sara_data_config *config)
{
    for (size_t i = 0; i < config->subset_count; i++)
        if (!config->subsets[i].is_reg)
            return false;
    return true;
}

sara_status sara_data_open(sara_context *ctx, sara_data *out, const sara_data_config *config,
                           const sara_data_options *options)
{
    sara_status status;
    *out = (sara_data){.ctx = ctx, .config = config, .seed = options->seed};
    sara_arena_init(&out->arena, ctx);
    TRY(collect_images(out, options));
    TRY(check_data(out, options));
    TRY(sara_data_hash(out, options->dataset_config != NULL));
    TRY(make_group(out, &out->instance, false, options->seed));
    TRY(make_group(out, &out->class, true, options->seed + 1));
    if (has_class_alone(config)) {
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: all images are class images (is_reg)",
                           options->dataset_config);
        TRY(sara_data_hear(ctx, options->listener, options->dataset_config, status));
    }
done:
    return status;
}

void sara_data_free(sara_data *data)
{
    if (!data->ctx)
        return;
    for (size_t i = 0; data->scans && i < data->config->subset_count; i++)
        sara_dataset_free(&data->scans[i]);
    sara_free(data->ctx, data->scans);
    sara_free(data->ctx, data->images);
    free_group(data->ctx, &data->instance);
    free_group(data->ctx, &data->class);
    sara_arena_free(&data->arena);
    *data = (sara_data){0};
}

sara_status sara_data_caption(const sara_data *data, char **out, size_t image, uint64_t element,
                              uint64_t epoch)
{
    const sara_data_image *of = &data->images[image];
    if (!of->varies)
        return sara_strdup(data->ctx, out, of->caption);
    return sara_caption_make(data->ctx, out, &data->config->subsets[of->subset].captions,
                             of->caption, data->seed, element, epoch);
}
