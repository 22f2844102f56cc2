/* config.json of a component: the first byte says of which, the rest is the file. */
#include "fuzz/fuzz.h"

#include "diffusion/diffusion.h"
#include "models/clip.h"
#include "models/unet/config.h"
#include "models/vae.h"
#include "models/vit.h"

#include <math.h>

static void draw_steps(sara_context *ctx, const sara_scheduler_config *config)
{
    float sample[4] = {1, -1, 0.5f, 0}, model[4] = {0.1f, 0.2f, -0.3f, 0}, noise[4] = {0};
    sara_sampler *sampler = NULL;
    if (config->num_train_timesteps > 5000 || sara_sampler_new(ctx, &sampler, config, 5) != SARA_OK)
        return;
    fuzz_assert(!isnan(sara_sampler_init_noise_sigma(sampler)));
    for (int i = 0; i < sara_sampler_evaluations(sampler); i++) {
        float input[4];
        double timestep = sara_sampler_timestep(sampler, i);
        /* A shifted flow's first sigma is 1 within the rounding of diffusers' float32 formula. */
        fuzz_assert(timestep >= 0 && timestep <= 1.01 * config->num_train_timesteps);
        sara_sampler_scale_input(sampler, i, input, sample, 4);
        if (sara_sampler_step(sampler, i, sample, model, noise, 4) != SARA_OK)
            break;
    }
    sara_sampler_free(sampler);
}

static sara_status read_scheduler(sara_context *ctx, const char *path)
{
    const char *const *methods = sara_sampling_methods();
    sara_scheduler_config config, other;
    json_t *object = NULL;
    sara_status status = sara_json_load(ctx, &object, path, true);
    if (status == SARA_OK)
        status = sara_scheduler_config_parse(ctx, &config, object, path, NULL);
    if (status == SARA_OK) {
        draw_steps(ctx, &config);
        for (int i = 0; methods[i]; i++) {
            other = config;
            if (sara_scheduler_config_switch(ctx, &other, methods[i]) == SARA_OK)
                draw_steps(ctx, &other);
        }
    }
    json_decref(object);
    return status;
}

static sara_status read_unet(sara_context *ctx)
{
    sara_unet_config config = {0};
    const sara_network_class *class = &sara_unet_class;
    sara_model_config file;
    sara_component component;
    sara_status status = sara_component_open(ctx, &component, fuzz_folder(), class->stem, NULL);
    if (status == SARA_OK)
        status = sara_model_config_of(ctx, &file, &component, class->key, class->value);
    if (status == SARA_OK)
        status = sara_unet_config_read(&file, &config);
    sara_component_close(&component);
    if (status == SARA_OK)
        fuzz_assert(config.levels >= 1 && config.levels <= SARA_MAX_LEVELS && config.groups >= 1);
    return status;
}

/* There are no weights: the config is all that can be read. */
static sara_status read_network(sara_context *ctx, const sara_network_class *class)
{
    sara_network *network = NULL;
    sara_status status = sara_network_load(sara_host_device(ctx), &network, class, fuzz_folder(),
                                           NULL, SARA_STORE_F32);
    sara_network_free(network);
    return status;
}

static sara_status read_strict(sara_context *ctx, const char *path)
{
    json_t *object = NULL;
    sara_status status = sara_json_load(ctx, &object, path, false);
    json_decref(object);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sara_context *ctx = fuzz_context();
    char path[256];
    char kind = size > 0 ? (char)data[0] : 's';
    fuzz_put("config.json", size > 0 ? data + 1 : (const uint8_t *)"", size > 0 ? size - 1 : 0);
    fuzz_path(path, "config.json");
    sara_status status = kind == 'u'   ? read_unet(ctx)
                         : kind == 'v' ? read_network(ctx, &sara_vae_class)
                         : kind == 't' ? read_network(ctx, &sara_clip_text_class)
                         : kind == 'c' ? read_network(ctx, &sara_clip_class)
                         : kind == 'w' ? read_network(ctx, &sara_vit_class)
                         : kind == 'd' ? read_network(ctx, &sara_dinov2_class)
                         : kind == 'r' ? read_network(ctx, &sara_dinov2_registers_class)
                         : kind == 'j' ? read_strict(ctx, path)
                                       : read_scheduler(ctx, path);
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
    fuzz_assert(status == SARA_OK || *sara_context_error(ctx));
    sara_context_free(ctx);
    return 0;
}
