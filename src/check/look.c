/* What is worth a look: of each image, and of all of them side by side. */
#include "check/check.h"

#include <stdlib.h>

#define THUMBNAIL_SIDE 240
#define SMALL_SIDE     480 /* of images that are more than twice as large */
#define LEAST_LETTERS  2   /* of a caption that is not nearly empty */
#define MOST_ENLARGED  1.5 /* times, which is told beyond */
#define MOST_CROPPED   0.3 /* of the area, likewise */
#define LIKE_BITS      4   /* of 64 that differ at most in two images which look the same */

/* ------------------------------------------------------------------------------------ one image */

static const sara_subset *check_subset(const sara_check *c, const sara_data_image *image)
{
    return &c->config.subsets[image->subset];
}

/* Alpha that nothing uses. JPEG has none. */
static sara_status see_alpha(sara_context *own, sara_check_look *look, const sara_data_image *image)
{
    const char *extension = strrchr(image->path, '.');
    sara_image alpha = {0};
    size_t clear = 0;
    sara_status status;
    if (image->mask == image->path || sara_text_same(extension, ".jpg") ||
        sara_text_same(extension, ".jpeg"))
        return SARA_OK;
    TRY(sara_image_read_alpha(own, &alpha, image->path));
    const size_t count = (size_t)alpha.width * (size_t)alpha.height;
    for (size_t i = 0; i < count; i++)
        clear += alpha.pixels[3 * i] < 255;
    look->clear = (double)clear / (double)count;
done:
    sara_image_clear(own, &alpha);
    return status;
}

static sara_status see_mask(sara_context *own, sara_check_look *look, const sara_data_image *image)
{
    sara_image mask = {0};
    sara_status status;
    if (!image->mask)
        return SARA_OK;
    TRY(image->mask == image->path ? sara_image_read_alpha(own, &mask, image->mask)
                                   : sara_image_read(own, &mask, image->mask));
    const size_t count = (size_t)mask.width * (size_t)mask.height;
    look->black_mask = true;
    for (size_t i = 0; i < count && look->black_mask; i++)
        look->black_mask = mask.pixels[3 * i] == 0;
done:
    sara_image_clear(own, &mask);
    return status;
}

static sara_status look_at_fit(sara_check *c, const sara_data_image *image)
{
    const sara_fit *fit = &image->fit;
    const double enlarged = (double)fit->resized_width / image->width;
    const double used =
        (double)fit->width * fit->height / ((double)fit->resized_width * fit->resized_height);
    sara_status status = SARA_OK;
    if (enlarged > MOST_ENLARGED)
        TRY(sara_check_add(c, SARA_CHECK_ENLARGED, image->path, "%dx%d is enlarged %.1f times",
                           image->width, image->height, enlarged));
    if (1 - used > MOST_CROPPED)
        TRY(sara_check_add(c, SARA_CHECK_CROPPED, image->path, "%.0f %% of it is cropped away%s",
                           100 * (1 - used),
                           c->config.sets[check_subset(c, image)->set].buckets.enabled
                               ? ""
                               : "; --enable_bucket keeps more"));
done:
    return status;
}

/* Large images are looked at in small, as that is all that hashes and thumbnails show. */
static sara_status see_pixels(sara_context *own, const sara_check *c, size_t index,
                              const sara_image *pixels)
{
    const int longer = pixels->width > pixels->height ? pixels->width : pixels->height;
    const int width = (int)((int64_t)pixels->width * SMALL_SIDE / longer);
    const int height = (int)((int64_t)pixels->height * SMALL_SIDE / longer);
    sara_check_look *look = &c->looks[index];
    sara_image small = {0};
    sara_status status;
    if (longer > 2 * SMALL_SIDE && width > 0 && height > 0) {
        TRY(sara_image_resize(own, &small, pixels, width, height, SARA_RESAMPLE_BILINEAR));
        pixels = &small;
    }
    TRY(sara_perceptual_hash(own, &look->hash, &look->is_hashed, pixels));
    if (c->options.page && index < SARA_CHECK_SHOWN)
        TRY(sara_image_thumbnail(own, &look->thumbnail, &look->thumbnail_size, pixels,
                                 THUMBNAIL_SIDE));
done:
    sara_image_clear(own, &small);
    return status;
}

sara_status sara_check_see(sara_context *own, sara_check *c, const sara_data_image *image,
                           const sara_image *pixels)
{
    const size_t index = (size_t)(image - c->data.images);
    sara_check_look *look = &c->looks[index];
    sara_status status;
    TRY(see_pixels(own, c, index, pixels));
    TRY(see_alpha(own, look, image));
    TRY(see_mask(own, look, image));
    look->seen = true;
done:
    return status;
}

/* What was seen of its pixels. */
static sara_status tell_seen(sara_check *c, size_t index)
{
    const sara_data_image *image = &c->data.images[index];
    const sara_check_look *look = &c->looks[index];
    sara_status status = SARA_OK;
    if (look->clear > 0)
        TRY(sara_check_add(c, SARA_CHECK_ALPHA, image->path,
                           "%.0f %% of it is transparent; the colours below are trained on",
                           100.0 * look->clear));
    if (look->black_mask)
        TRY(sara_check_add(c, SARA_CHECK_MASK, image->path,
                           "its mask is black throughout: nothing is learned of it"));
    if (look->seen)
        TRY(look_at_fit(c, image));
done:
    return status;
}

/* ------------------------------------------------------------------------------------- captions */

/* As it comes to at most: nothing is dropped. */
static sara_status make_check_caption(sara_check *c, const char **out, const sara_data_image *image)
{
    sara_caption_rules rules = check_subset(c, image)->captions;
    char *text = NULL;
    sara_status status;
    *out = image->caption;
    if (!image->varies)
        return SARA_OK;
    rules.dropout_rate = rules.tag_dropout_rate = 0;
    rules.dropout_every_n_epochs = 0;
    TRY(sara_caption_make(c->ctx, &text, &rules, image->caption, c->options.train->seed, 0, 0));
    TRY(sara_arena_strdup(&c->strings, out, text));
done:
    sara_free(c->ctx, text);
    return status;
}

static sara_status count_check_tokens(sara_check *c, sara_check_look *look)
{
    int32_t *ids = NULL;
    sara_status status = SARA_OK;
    for (int t5 = 0; c->model && t5 < 2; t5++)
        TRY(sara_model_count_ids(c->model, &look->tokens[t5], &look->most[t5], t5 != 0,
                                 look->caption));
    if (c->tokenizer) {
        TRY(sara_tokenizer_encode(c->tokenizer, &ids, &look->tokens[0], look->caption));
        look->most[0] = (size_t)sara_tokenizer_length(c->tokenizer);
    }
done:
    sara_free(c->ctx, ids);
    return status;
}

/* Letters and digits, whatever the script. */
static size_t count_letters(const char *text)
{
    size_t count = 0;
    for (; *text; text++) {
        const unsigned char byte = (unsigned char)*text, letter = byte | 0x20;
        count += (byte >= '0' && byte <= '9') || (letter >= 'a' && letter <= 'z') || byte >= 0xC0;
    }
    return count;
}

static sara_status look_at_caption(sara_check *c, size_t index)
{
    static const char *const encoders[] = {"CLIP", "T5"};
    const sara_data_image *image = &c->data.images[index];
    sara_check_look *look = &c->looks[index];
    sara_status status;
    TRY(make_check_caption(c, &look->caption, image));
    TRY(count_check_tokens(c, look));
    for (int t5 = 0; t5 < 2; t5++)
        if (look->tokens[t5] > look->most[t5])
            TRY(sara_check_add(c, SARA_CHECK_TOKENS, image->path,
                               "its caption has %zu tokens for %s, which is cut at %zu",
                               look->tokens[t5], encoders[t5], look->most[t5]));
    if (count_letters(look->caption) < LEAST_LETTERS)
        TRY(sara_check_add(c, SARA_CHECK_CAPTION, image->path, "its caption is %s%s%s",
                           *look->caption ? "\"" : "empty", look->caption,
                           *look->caption ? "\"" : ""));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- duplicates */

/* The image before it that it is most like; SIZE_MAX: none. */
static size_t find_like(const sara_check *c, size_t index)
{
    const sara_check_look *looks = c->looks;
    size_t found = SIZE_MAX;
    int least = LIKE_BITS + 1;
    for (size_t i = 0; i < index && least > 0; i++) {
        const int bits = __builtin_popcountll(looks[i].hash ^ looks[index].hash);
        if (looks[i].is_hashed && bits < least) {
            least = bits;
            found = i;
        }
    }
    return found;
}

static sara_status look_for_same(sara_check *c, size_t index)
{
    const sara_data_image *image = &c->data.images[index];
    const size_t like = c->looks[index].is_hashed ? find_like(c, index) : SIZE_MAX;
    if (like == SIZE_MAX)
        return SARA_OK;
    const sara_data_image *other = &c->data.images[like];
    const bool equal = *image->sha256 && strcmp(image->sha256, other->sha256) == 0;
    return sara_check_add(c, SARA_CHECK_SAME, image->path, "%s %s",
                          equal ? "is the same file as" : "looks the same as", other->path);
}

/* -------------------------------------------------------------------------------------- buckets */

static sara_status look_at_group(sara_check *c, const sara_data_group *group)
{
    sara_status status = SARA_OK;
    if (group->order.shape_count < 2)
        return SARA_OK;
    for (size_t i = 0; i < group->order.shape_count; i++) {
        const sara_order_shape *shape = &group->order.shapes[i];
        if (shape->elements < shape->batch)
            TRY(sara_check_add(c, SARA_CHECK_BUCKET, "",
                               "bucket %dx%d: %lld in an epoch, a micro-batch has %d",
                               group->shapes[i].width, group->shapes[i].height,
                               (long long)shape->elements, shape->batch));
    }
done:
    return status;
}

sara_status sara_check_compare(sara_check *c)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->data.count; i++) {
        if (sara_interrupted(c->ctx))
            TRY(sara_fail(c->ctx, SARA_INTERRUPTED, "interrupted; nothing was written"));
        TRY(tell_seen(c, i));
        TRY(look_for_same(c, i));
        if (!c->data.images[i].refused)
            TRY(look_at_caption(c, i));
        else
            c->looks[i].caption = c->data.images[i].caption;
    }
    TRY(look_at_group(c, &c->data.instance));
    TRY(look_at_group(c, &c->data.class));
done:
    return status;
}
