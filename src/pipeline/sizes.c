/* Which sizes of pictures a model takes, and how many pictures are drawn. */
#include "pipeline/pipeline.h"

#define LARGEST 16384

/* The multiple of unit below or above, at least `least`. */
static int nearest_side(int side, int unit, int least, bool above)
{
    int found = (side + (above ? unit - 1 : 0)) / unit * unit;
    return found > least ? found : least;
}

sara_status sara_model_check_size(sara_context *ctx, const sara_model *model, int width, int height,
                                  const char *what)
{
    const int unit = model->vae ? model->vae->info.vae.factor : 1;
    const int least = unit * model->denoiser->info.denoiser.least_side;
    bool whole = width % unit == 0 && height % unit == 0;
    if (width < 1 || height < 1 || width > LARGEST || height > LARGEST ||
        (whole && (width < least || height < least)))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s %dx%d: width and height must be %d to %d", what,
                         width, height, least, LARGEST);
    if (whole)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s %dx%d: width and height must be multiples of %d, the VAE's factor; the "
                     "nearest are %dx%d and %dx%d",
                     what, width, height, unit, nearest_side(width, unit, least, false),
                     nearest_side(height, unit, least, false),
                     nearest_side(width, unit, least, true),
                     nearest_side(height, unit, least, true));
}

sara_status sara_model_check_sample_size(sara_context *ctx, const sara_model *model,
                                         const char *instead)
{
    if (model->denoiser->info.denoiser.sample_width > 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: the %s's config has no sample_size, the size of its pictures; give %s",
                     model->path, model->family->parts[0].class->title, instead);
}

sara_status sara_generate_count(sara_context *ctx, int *out, const sara_generate_options *given)
{
    sara_generate_options options;
    const sara_tensor_info *info;
    sara_safetensors *file = NULL;
    sara_status status;
    TRY(sara_generate_options_read(ctx, &options, given));
    *out = options.batch_count;
    if (!options.init_latents)
        return SARA_OK;
    TRY(sara_safetensors_open(ctx, &file, options.init_latents));
    info = sara_safetensors_find(file, "latents");
    /* What else is wrong with it is told by what reads it. */
    if (info && info->shape.rank == 4 && info->shape.dims[0] >= 1 &&
        info->shape.dims[0] <= SARA_MAX_START_LATENTS)
        *out = (int)info->shape.dims[0];
done:
    sara_safetensors_close(file);
    return status;
}
