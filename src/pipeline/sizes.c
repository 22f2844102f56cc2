/* Which sizes of pictures a model takes, and how many pictures are drawn. */
#include "models/vae.h"
#include "nn/nn.h"
#include "pipeline/pipeline.h"

#define LARGEST 16384

static sara_picture_sides sides_of(const sara_network *denoiser, const sara_network *vae)
{
    const sara_denoiser_info *info = &denoiser->info.denoiser;
    const int factor = vae ? vae->info.vae.factor : 1;
    const int64_t most = info->most_side ? (int64_t)factor * info->most_side : LARGEST;
    return (sara_picture_sides){.factor = factor,
                                .unit = factor * info->unit,
                                .least = factor * info->least_side,
                                .most = most < LARGEST ? (int)most : LARGEST,
                                .title = denoiser->class->title};
}

/* Of a part, by its config alone. */
static sara_status configure_part(sara_device *device, sara_network **out,
                                  const sara_family_part *part, const char *path)
{
    sara_component component = {.ctx = device->ctx};
    char *folder = NULL;
    sara_status status;
    TRY(sara_path_join(device->ctx, &folder, path, part->folder));
    TRY(sara_component_open(device->ctx, &component, folder, part->class->stem, NULL));
    TRY(sara_network_configure(device, out, part->class, &component));
done:
    sara_component_close(&component);
    sara_free(device->ctx, folder);
    return status;
}

sara_status sara_folder_sides(sara_context *ctx, sara_picture_sides *out, const char *path)
{
    const sara_family *family;
    sara_device *device = NULL;
    sara_network *denoiser = NULL, *vae = NULL;
    json_t *index = NULL;
    sara_status status;
    TRY(sara_family_of_folder(ctx, &family, &index, path));
    TRY(sara_nn_device_open(ctx, &device, "cpu"));
    TRY(configure_part(device, &denoiser, &family->parts[0], path));
    for (int i = 1; i < family->part_count && !vae; i++)
        if (family->parts[i].class == &sara_vae_class)
            TRY(configure_part(device, &vae, &family->parts[i], path));
    *out = sides_of(denoiser, vae);
done:
    sara_network_free(denoiser);
    sara_network_free(vae);
    sara_nn_device_close(device);
    json_decref(index);
    return status;
}

static bool is_side(const sara_picture_sides *sides, int side)
{
    return side >= sides->least && side <= sides->most;
}

/* The multiple below or above. */
static int nearest_side(const sara_picture_sides *sides, int side, bool above)
{
    const int unit = sides->unit, found = (side + (above ? unit - 1 : 0)) / unit * unit;
    return found > sides->least ? found : sides->least;
}

/* "8, the VAE's factor", or "16, the VAE's factor 8 by the transformer's 2" */
static sara_name name_unit(const sara_picture_sides *sides)
{
    const int unit = sides->unit / sides->factor;
    if (unit == 1)
        return sara_name_of("%d, the VAE's factor", sides->unit);
    return sara_name_of("%d, the VAE's factor %d by the %s's %d", sides->unit, sides->factor,
                        sides->title, unit);
}

sara_status sara_picture_sides_check(sara_context *ctx, const sara_picture_sides *sides, int width,
                                     int height, const char *what)
{
    const bool whole = width % sides->unit == 0 && height % sides->unit == 0;
    const bool of_table = sides->most < LARGEST;
    const bool within = width >= 1 && height >= 1 && width <= sides->most && height <= sides->most;
    if (!within || (whole && !(is_side(sides, width) && is_side(sides, height))))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s %dx%d: width and height must be %d to %d%s%s%s",
                         what, width, height, sides->least, sides->most, of_table ? "; the " : "",
                         of_table ? sides->title : "",
                         of_table ? " has positions for no more" : "");
    if (whole)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s %dx%d: width and height must be multiples of %s; the nearest are %dx%d "
                     "and %dx%d",
                     what, width, height, name_unit(sides).text, nearest_side(sides, width, false),
                     nearest_side(sides, height, false), nearest_side(sides, width, true),
                     nearest_side(sides, height, true));
}

sara_status sara_model_check_size(sara_context *ctx, const sara_model *model, int width, int height,
                                  const char *what)
{
    const sara_picture_sides sides = sides_of(model->denoiser, model->vae);
    return sara_picture_sides_check(ctx, &sides, width, height, what);
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
