#include "models/single_file.h"

const sara_condition_kind sara_condition_kinds[SARA_CONDITION_KINDS] = {
    [SARA_CONDITION_STATES] = {"encoder_hidden_states", 3},
    [SARA_CONDITION_POOLED] = {"pooled", 2},
    [SARA_CONDITION_TIME_IDS] = {"time_ids", 2},
};

sara_status sara_network_configure(sara_device *device, sara_network **out,
                                   const sara_network_class *class, const sara_component *component)
{
    sara_context *ctx = device->ctx;
    sara_network *network = NULL;
    sara_model_config file;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &network, 1, class->size));
    network->class = class;
    network->ctx = ctx;
    network->device = device;
    sara_arena_init(&network->arena, ctx);
    TRY(sara_model_config_of(ctx, &file, component, class->key, class->value));
    TRY(class->read_config(network, &file));
    *out = network;
    network = NULL;
done:
    sara_network_free(network);
    return status;
}

/* What the names of a single file stand for is the network's to say; which of its layouts they are
 * in, the file's. */
static sara_status open_network_weights(const sara_network *network, sara_weights **out,
                                        const sara_component *component)
{
    sara_component as = *component;
    if (component->prefix && sara_network_ldm_shape(network, &as.shape) != SARA_OK)
        return sara_fail_in(network->ctx, SARA_ERROR_INPUT, component->source);
    as.shape.part = component->shape.part;
    as.shape.flat = component->shape.flat;
    return sara_component_weights(&as, out);
}

static sara_status read_from_files(const void *user, void *out, const sara_param *param)
{
    const sara_weights *weights = ((const sara_network *)user)->weights;
    const sara_tensor_info *info = sara_weights_find(weights, param->name);
    sara_status status;
    TRY(sara_weights_read_as(weights, out, param->value.dtype, info));
    TRY(sara_weights_check_unchanged(weights));
done:
    return status;
}

/* What settle() makes of the values is in no file. */
static void set_source(sara_network *network)
{
    network->source = (sara_param_source){read_from_files, network};
    for (size_t i = 0; !network->class->settle && i < sara_params_all(&network->params); i++)
        network->params.items[i].source = &network->source;
}

/* What could not be held would be found out by the system, which ends programs without a word. */
static sara_status network_check_room(const sara_network *network, sara_storage storage)
{
    uint64_t bytes = (uint64_t)sara_network_bytes(network);
    uint64_t limit = sara_memory_limit(network->ctx);
    sara_bytes_text needed, there;
    if (bytes <= limit)
        return SARA_OK;
    return sara_fail(network->ctx, SARA_ERROR_MEMORY, "%s: needs %s of memory, %s are available%s",
                     sara_weights_path(network->weights), sara_bytes_format(&needed, bytes),
                     sara_bytes_format(&there, limit),
                     storage == SARA_STORE_F32 ? " (16-bit weights take half)" : "");
}

static sara_status offload(sara_network *network)
{
    const sara_network_class *class = network->class;
    if (!class->regions || class->settle || class->streamed)
        return sara_fail(network->ctx, SARA_ERROR_USAGE,
                         "--disk_offload: %s has no regions that could be read one at a time; "
                         "leave it out",
                         class->name);
    network->offloaded = true;
    for (size_t i = 0; i < network->params.count; i++)
        network->params.items[i].away = sara_network_lends(network, &network->params.items[i]);
    return SARA_OK;
}

static sara_status open_network(sara_device *device, sara_network **out,
                                const sara_network_class *class, const sara_component *component,
                                sara_storage storage, bool offloaded)
{
    sara_network *network = NULL;
    sara_binder *binder = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_network_configure(device, &network, class, component));
    TRY(open_network_weights(network, &network->weights, component));
    TRY(sara_binder_new(device, &binder));
    sara_binder_store(binder, storage);
    TRY(class->bind(network, binder, network->weights));
    TRY(sara_binder_match(binder, &network->params, network->weights));
    set_source(network);
    if (offloaded)
        TRY(offload(network));
    TRY(network_check_room(network, storage));
    *out = network;
    network = NULL;
done:
    sara_binder_free(binder);
    sara_network_free(network);
    return status;
}

sara_status sara_network_open(sara_device *device, sara_network **out,
                              const sara_network_class *class, const sara_component *component,
                              sara_storage storage)
{
    return open_network(device, out, class, component, storage, false);
}

sara_status sara_network_open_offloaded(sara_device *device, sara_network **out,
                                        const sara_network_class *class,
                                        const sara_component *component, sara_storage storage)
{
    return open_network(device, out, class, component, storage, true);
}

static bool is_of(const sara_param *param, const char *prefix)
{
    return strncmp(param->name, prefix, strlen(prefix)) == 0;
}

static sara_status read_values(sara_context *ctx, sara_param *param, const sara_weights *weights)
{
    const sara_tensor_info *info = sara_weights_find(weights, param->name);
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_alloc(param, param->device, param->value.dtype, &param->value.shape));
    TRY(sara_param_stage(ctx, &copy, param));
    TRY(sara_weights_read_as(weights, copy.value.data, param->value.dtype, info));
    TRY(sara_param_write(param, &copy));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

static void release_params(sara_context *ctx, sara_params *params)
{
    for (size_t i = 0; i < sara_params_all(params); i++)
        sara_param_release(ctx, &params->items[i]);
}

/* device: the one that computes, and keeps what it made of the values. */
static void release_param(sara_network *network, sara_device *device, sara_param *param)
{
    sara_nn_device_forget(device, param);
    sara_param_release(network->ctx, param);
}

sara_status sara_params_fill(sara_context *ctx, sara_params *params, const sara_weights *weights)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sara_params_all(params); i++)
        if (!params->items[i].away)
            TRY(read_values(ctx, &params->items[i], weights));
    TRY(sara_weights_check_unchanged(weights));
done:
    if (status != SARA_OK)
        release_params(ctx, params);
    return status;
}

sara_status sara_network_read(sara_network *network)
{
    sara_status status;
    if (network->there || network->class->streamed)
        return SARA_OK;
    TRY(sara_params_fill(network->ctx, &network->params, network->weights));
    network->there = true;
    if (network->class->settle)
        TRY(network->class->settle(network));
done:
    if (status != SARA_OK)
        sara_network_release(network);
    return status;
}

void sara_network_release(sara_network *network)
{
    if (!network->weights || !network->there)
        return;
    for (size_t i = 0; i < sara_params_all(&network->params); i++)
        release_param(network, network->device, &network->params.items[i]);
    network->there = false;
}

/* ------------------------------------------------------------------------------ piece by piece */

/* From wherever the parameter says. */
static sara_status lend_values(sara_context *ctx, sara_param *param)
{
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_alloc(param, param->device, param->value.dtype, &param->value.shape));
    TRY(sara_param_stage(ctx, &copy, param));
    TRY(param->source->read(param->source->user, copy.value.data, param));
    TRY(sara_param_write(param, &copy));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

static bool lends(const sara_tape *tape, const sara_network *network)
{
    return (!network->there || network->offloaded) && !sara_tape_is_dry(tape);
}

sara_status sara_network_lend(sara_tape *tape, sara_network *network, const char *prefix)
{
    sara_status status = SARA_OK;
    if (!lends(tape, network))
        return SARA_OK;
    for (size_t i = 0; i < network->params.count; i++)
        if (is_of(&network->params.items[i], prefix))
            TRY(lend_values(network->ctx, &network->params.items[i]));
done:
    return status;
}

void sara_network_return(sara_tape *tape, sara_network *network, const char *prefix)
{
    sara_device *device = sara_tape_device(tape);
    const bool dry = sara_tape_is_dry(tape);
    if (!dry && !lends(tape, network))
        return;
    for (size_t i = 0; i < network->params.count; i++) {
        sara_param *param = &network->params.items[i];
        if (!is_of(param, prefix))
            continue;
        if (dry)
            sara_nn_device_forget(device, param);
        else
            release_param(network, device, param);
    }
}

/* How long the start of the name is that all of its piece share. */
static size_t piece_length(const char *name)
{
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        size_t digits = strspn(dot + 1, "0123456789");
        if (digits > 0 && dot[1 + digits] == '.')
            return (size_t)(dot - name) + digits + 2;
    }
    return strlen(name) + 1;
}

/* How long the start of the name is that all of its region share; 0: it is of none. */
static size_t region_length(const sara_network_class *class, const char *name)
{
    for (const char *dot = name; class->regions && dot; dot = strchr(dot, '.')) {
        dot += *dot == '.';
        for (const char *const *region = class->regions; *region; region++) {
            size_t length = strlen(*region);
            if (strncmp(dot, *region, length) != 0 || dot[length] != '.')
                continue;
            size_t digits = strspn(dot + length + 1, "0123456789");
            if (digits > 0 && dot[length + 1 + digits] == '.')
                return (size_t)(dot - name) + length + digits + 2;
        }
    }
    return 0;
}

static sara_name region_of(const sara_network *network, const sara_param *param)
{
    return sara_name_of("%.*s", (int)region_length(network->class, param->name), param->name);
}

sara_status sara_network_lend_region(sara_tape *tape, sara_network *network, const sara_param *of)
{
    return of->away ? sara_network_lend(tape, network, region_of(network, of).text) : SARA_OK;
}

void sara_network_return_region(sara_tape *tape, sara_network *network, const sara_param *of)
{
    if (of->away)
        sara_network_return(tape, network, region_of(network, of).text);
}

bool sara_network_lends(const sara_network *network, const sara_param *param)
{
    return region_length(network->class, param->name) > 0;
}

static int64_t bytes_of(const sara_param *param, bool narrow)
{
    const sara_tensor *value = &param->value;
    bool halved = narrow && value->shape.rank > 1 && value->dtype == SARA_F32;
    return sara_shape_count(&value->shape) *
           (int64_t)sara_dtype_size(halved ? SARA_BF16 : value->dtype);
}

int64_t sara_network_bytes_as(const sara_network *network, bool offloaded, bool narrow)
{
    const sara_params *params = &network->params;
    int64_t always = 0, largest = 0, region = 0;
    for (size_t i = 0; i < sara_params_all(params); i++) { /* in the order of their names */
        const sara_param *param = &params->items[i];
        const bool buffer = i >= params->count;
        size_t length = offloaded && !buffer ? region_length(network->class, param->name) : 0;
        if (length == 0) {
            always += bytes_of(param, narrow);
            continue;
        }
        if (i == 0 || strncmp(param->name, params->items[i - 1].name, length) != 0)
            region = 0;
        region += bytes_of(param, narrow);
        largest = region > largest ? region : largest;
    }
    return always + largest;
}

int64_t sara_network_bytes(const sara_network *network)
{
    const sara_params *params = &network->params;
    int64_t largest = 0, piece = 0;
    if (!network->class->streamed || network->there)
        return sara_network_bytes_as(network, network->offloaded, false);
    for (size_t i = 0; i < params->count; i++) { /* in the order of their names */
        const sara_params one = {.items = &params->items[i], .count = 1};
        const char *name = params->items[i].name;
        if (i == 0 || strncmp(name, params->items[i - 1].name, piece_length(name)) != 0)
            piece = 0;
        piece += sara_params_bytes(&one);
        largest = piece > largest ? piece : largest;
    }
    return largest;
}

/* ----------------------------------------------------------------------------------------- ends */

static void close_files(sara_network *network)
{
    for (size_t i = 0; i < sara_params_all(&network->params); i++)
        network->params.items[i].source = NULL;
    sara_weights_close(network->weights);
    network->weights = NULL;
}

void sara_network_close_files(sara_network *network)
{
    if (!network->offloaded)
        close_files(network);
}

sara_status sara_network_load(sara_device *device, sara_network **out,
                              const sara_network_class *class, const char *folder,
                              const char *variant, sara_storage storage)
{
    sara_network *network = NULL;
    sara_component component;
    sara_status status;
    *out = NULL;
    TRY(sara_component_open(device->ctx, &component, folder, class->stem, variant));
    TRY(sara_network_open(device, &network, class, &component, storage));
    TRY(sara_network_read(network));
    *out = network;
    network = NULL;
done:
    sara_component_close(&component);
    sara_network_free(network);
    return status;
}

sara_status sara_network_draw(sara_device *device, sara_network **out,
                              const sara_network_class *class, const sara_component *component,
                              uint64_t seed, sara_storage storage)
{
    sara_network *network = NULL;
    sara_binder *binder = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_network_configure(device, &network, class, component));
    TRY(sara_binder_new(device, &binder));
    sara_binder_store(binder, storage);
    TRY(class->bind(network, binder, NULL));
    TRY(sara_binder_draw(binder, &network->params, seed));
    network->there = true;
    *out = network;
    network = NULL;
done:
    sara_binder_free(binder);
    sara_network_free(network);
    return status;
}

sara_status sara_network_shape_of(sara_context *ctx, sara_component *out,
                                  const sara_network_class *class, const char *name)
{
    const sara_network_shape *shape = class->shapes;
    sara_status status;
    *out = (sara_component){.ctx = ctx};
    while (shape && shape->name && strcmp(shape->name, name) != 0)
        shape++;
    if (!shape || !shape->name)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%.100s: no shape of %s", name, class->name);
    TRY(sara_strdup(ctx, &out->source, name));
    TRY(sara_json_parse(ctx, &out->config, shape->config, strlen(shape->config), name, false));
done:
    if (status != SARA_OK)
        sara_component_close(out);
    return status;
}

void sara_network_free(sara_network *network)
{
    if (!network)
        return;
    sara_params_free(network->ctx, &network->params);
    close_files(network);
    sara_arena_free(&network->arena);
    sara_free(network->ctx, network);
}

/* x [N,...,width] of this kind's rank; NULL: it is not there */
static sara_status check_condition(const sara_network *denoiser, const char *title, int kind,
                                   const sara_var *x, int64_t samples)
{
    const int width = denoiser->info.denoiser.widths[kind];
    const sara_condition_kind *k = &sara_condition_kinds[kind];
    sara_shape_text text;
    if (!width || (x && x->shape.rank == k->rank && x->shape.dims[0] == samples &&
                   x->shape.dims[k->rank - 1] == width))
        return SARA_OK;
    return sara_fail(denoiser->ctx, SARA_ERROR_INPUT, "%s: %s %s, expected [%lld,%s%d]", title,
                     k->name, x ? sara_shape_format(&text, &x->shape) : "is missing",
                     (long long)samples, k->rank == 3 ? "T," : "", width);
}

bool sara_denoiser_takes_side(const sara_denoiser_info *info, int64_t side)
{
    return side >= info->least_side && side % info->unit == 0 &&
           (!info->most_side || side <= info->most_side);
}

sara_name sara_denoiser_sides(const sara_denoiser_info *info)
{
    const sara_name least =
        info->unit > 1 ? sara_name_of("multiples of %d", info->unit)
                       : sara_name_of("%d%s", info->least_side, info->most_side ? "" : " or more");
    return info->most_side ? sara_name_of("%s up to %d", least.text, info->most_side) : least;
}

sara_status sara_denoiser_check(const sara_network *denoiser, const char *title,
                                const sara_shape *sample, const sara_condition *condition)
{
    const int channels = denoiser->info.denoiser.in_channels;
    sara_shape_text text;
    sara_status status = SARA_OK;
    if (sample->rank != 4 || sample->dims[1] != channels)
        return sara_fail(denoiser->ctx, SARA_ERROR_INPUT, "%s: sample %s, expected [N,%d,H,W]",
                         title, sara_shape_format(&text, sample), channels);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        TRY(check_condition(denoiser, title, i, condition->of[i], sample->dims[0]));
done:
    return status;
}

sara_status sara_denoiser_forward(sara_tape *tape, sara_var **out, sara_network *denoiser,
                                  sara_var *sample, const double *timesteps,
                                  const sara_condition *condition)
{
    return denoiser->class->forward(tape, out, denoiser, sample, timesteps, condition);
}

sara_status sara_denoiser_predict(sara_tape *tape, sara_var **out, sara_network *denoiser,
                                  const sara_tensor *sample, const double *timesteps,
                                  const sara_tensor *condition)
{
    sara_condition leaves = {{NULL}};
    sara_var *x; /* [N,C,...] */
    sara_status status;
    TRY(sara_tape_leaf(tape, &x, &sample->shape, sample->data, false));
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        if (condition[i].shape.rank)
            TRY(sara_tape_leaf(tape, &leaves.of[i], &condition[i].shape, condition[i].data, false));
    TRY(sara_denoiser_forward(tape, out, denoiser, x, timesteps, &leaves));
done:
    return status;
}

sara_status sara_network_ldm_shape(const sara_network *network, sara_ldm_shape *out)
{
    if (network->class->single)
        return network->class->single->names_of(network, out);
    return sara_fail(network->ctx, SARA_ERROR_INPUT,
                     "%s: single-file checkpoints have no names for it", network->class->name);
}
