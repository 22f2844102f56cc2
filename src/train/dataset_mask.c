/* Masks of the loss: resized and cropped with their images, then of the latents' size. */
#include "train/dataset_cache.h"

void sara_dataset_mask_average(float *out, int width, int height, const sara_image *mask,
                               const sara_fit *fit, const sara_dataset_crop *crop)
{
    const size_t stride = 3 * (size_t)mask->width;
    const uint8_t *red = mask->pixels + (size_t)crop->top * stride + 3 * (size_t)crop->left;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            const int top = y * fit->height / height;
            const int bottom = ((y + 1) * fit->height + height - 1) / height;
            const int left = x * fit->width / width;
            const int right = ((x + 1) * fit->width + width - 1) / width;
            uint64_t sum = 0;
            for (int row = top; row < bottom; row++)
                for (int column = left; column < right; column++) {
                    const int from = crop->flip ? fit->width - 1 - column : column;
                    sum += red[(size_t)row * stride + 3 * (size_t)from];
                }
            out[y * width + x] = (float)((double)sum / (255.0 * (bottom - top) * (right - left)));
        }
}

sara_status sara_dataset_mask_make(const sara_dataset_cache *cache, float *out, size_t index,
                                   const sara_dataset_crop *crop)
{
    const sara_data_image *image = &cache->data.images[index];
    const int width = image->fit.width / cache->factor, height = image->fit.height / cache->factor;
    sara_image mask = {0};
    sara_status status = SARA_OK;
    if (!image->mask) {
        for (int i = 0; i < width * height; i++)
            out[i] = 1;
        return SARA_OK;
    }
    TRY(sara_data_mask_load(cache->ctx, &mask, image));
    sara_dataset_mask_average(out, width, height, &mask, &image->fit, crop);
done:
    sara_image_clear(cache->ctx, &mask);
    return status;
}
