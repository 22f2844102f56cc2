/* Pixels of a sample: cropped, and with other colours. */
#include "train/dataset_cache.h"

#include <math.h>

#define VARIED_SHARE 0.33
#define HUE_STEPS    8.0 /* of 180, as OpenCV counts hues in bytes */
#define LEAST_GAMMA  0.95
#define MOST_GAMMA   1.05

void sara_dataset_crop_pixels(float *out, const sara_image *image, const sara_fit *fit,
                              const sara_dataset_crop *crop)
{
    const size_t wide = (size_t)fit->width, plane = wide * (size_t)fit->height;
    for (size_t y = 0; y < (size_t)fit->height; y++)
        for (size_t x = 0; x < wide; x++) {
            const size_t from = (size_t)crop->left + (crop->flip ? wide - 1 - x : x);
            const uint8_t *pixel =
                image->pixels + (((size_t)crop->top + y) * (size_t)image->width + from) * 3;
            for (size_t c = 0; c < 3; c++)
                out[c * plane + y * wide + x] = (float)pixel[c] / 255.0f * 2.0f - 1.0f;
        }
}

/* -------------------------------------------------------------------------------------- colours */

static double color_uniform(uint64_t seed, uint64_t number, uint64_t which)
{
    const uint64_t whole = (uint64_t)1 << 53;
    return (double)sara_draw_below(whole, seed, SARA_DRAW_COLOR, number, which) / (double)whole;
}

/* Of a pixel with the hue turned by so many sixths of the circle: its largest and smallest value
 * stay. */
static void turn_hue(uint8_t rgb[3], double sixths)
{
    const double r = rgb[0], g = rgb[1], b = rgb[2];
    const double most = fmax(r, fmax(g, b)), least = fmin(r, fmin(g, b)), range = most - least;
    double hue;
    if (!(range > 0))
        return;
    hue = most == r ? (g - b) / range : most == g ? 2 + (b - r) / range : 4 + (r - g) / range;
    hue += sixths;
    for (int c = 0; c < 3; c++) { /* red peaks at 0, green at 2, blue at 4 */
        double away = fmod(hue - 2 * c + 12, 6);
        away = away > 3 ? 6 - away : away;
        const double share = fmin(1, fmax(0, 2 - away));
        rgb[c] = (uint8_t)(least + share * range + 0.5);
    }
}

void sara_dataset_color_pixels(sara_image *image, uint64_t seed, uint64_t number)
{
    const size_t count = (size_t)image->width * (size_t)image->height;
    const double amount = color_uniform(seed, number, 2);
    uint8_t table[256];
    if (!(color_uniform(seed, number, 0) < VARIED_SHARE))
        return;
    if (color_uniform(seed, number, 1) < 0.5) {
        for (size_t i = 0; i < count; i++)
            turn_hue(image->pixels + 3 * i, (2 * amount - 1) * HUE_STEPS / 30);
        return;
    }
    const double gamma = LEAST_GAMMA + amount * (MOST_GAMMA - LEAST_GAMMA);
    for (int value = 0; value < 256; value++)
        table[value] = (uint8_t)fmin(255, pow(value, gamma));
    for (size_t i = 0; i < 3 * count; i++)
        image->pixels[i] = table[image->pixels[i]];
}
