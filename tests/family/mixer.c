#include "mixer.h"

#include "models/layers.h"

#include <math.h>

#define SINUSOIDS 8

typedef struct mixer_layer {
    sara_layer norm1, norm2, fc1, fc2;
    sara_attention attention; /* to the text */
} mixer_layer;

typedef struct mixer {
    sara_network network;
    int64_t width, count;
    sara_layer time_in, pooled_in, time_ids_in, proj_in, norm_out, proj_out;
    mixer_layer *layers; /* [count] */
} mixer;

static sara_status mixer_read_config(sara_network *network, const sara_model_config *file)
{
    mixer *m = (mixer *)network;
    sara_denoiser_info *info = &network->info.denoiser;
    int64_t rank, channels, side, states, pooled;
    bool time_ids;
    sara_status status;
    TRY(sara_config_int(&file->fields, &rank, "rank", 4, 3, 5));
    TRY(sara_config_int(&file->fields, &channels, "in_channels", 4, 1, 64));
    TRY(sara_config_int(&file->fields, &side, "sample_size", 16, 1, 1024));
    TRY(sara_config_int(&file->fields, &states, "state_width", 128, 1, 4096));
    TRY(sara_config_int(&file->fields, &pooled, "pooled_width", 128, 1, 4096));
    TRY(sara_config_bool(&file->fields, &time_ids, "time_ids", false));
    TRY(sara_config_int(&file->fields, &m->width, "width", 32, 1, 4096));
    TRY(sara_config_int(&file->fields, &m->count, "layers", 2, 1, SARA_MAX_LEVELS));
    *info =
        (sara_denoiser_info){.rank = (int)rank,
                             .in_channels = (int)channels,
                             .out_channels = (int)channels,
                             .sample_height = (int)side,
                             .sample_width = (int)side,
                             .widths = {[SARA_CONDITION_STATES] = (int)states,
                                        [SARA_CONDITION_POOLED] = (int)pooled,
                                        [SARA_CONDITION_TIME_IDS] = time_ids ? SARA_TIME_IDS : 0},
                             .factor = 1,
                             .unit = 1,
                             .least_side = 1,
                             .levels = (int)m->count};
done:
    return status;
}

static sara_status bind_mixer_layer(sara_binder *binder, mixer_layer *layer, const mixer *m, int i)
{
    static const sara_attention_names names = {"to_q", "to_k", "to_v", "to_out"};
    const sara_name name = sara_name_of("layers.%d", i);
    int64_t width = m->width;
    sara_status status;
    layer->attention.heads = 2;
    TRY(sara_norm_bind(binder, &layer->norm1, sara_name_of("%s.norm1", name.text).text, width));
    TRY(sara_norm_bind(binder, &layer->norm2, sara_name_of("%s.norm2", name.text).text, width));
    TRY(sara_attention_bind(binder, &layer->attention, sara_name_of("%s.attn", name.text).text,
                            &names, width, width,
                            m->network.info.denoiser.widths[SARA_CONDITION_STATES], false));
    TRY(sara_linear_bind(binder, &layer->fc1, sara_name_of("%s.fc1", name.text).text, 2 * width,
                         width, true));
    TRY(sara_linear_bind(binder, &layer->fc2, sara_name_of("%s.fc2", name.text).text, width,
                         2 * width, true));
done:
    return status;
}

static sara_status mixer_bind(sara_network *network, sara_binder *binder,
                              const sara_weights *weights)
{
    mixer *m = (mixer *)network;
    const sara_denoiser_info *info = &network->info.denoiser;
    size_t bytes = (size_t)m->count * sizeof(*m->layers);
    sara_status status;
    (void)weights;
    TRY(sara_arena_alloc(&network->arena, &m->layers, 1, bytes));
    memset(m->layers, 0, bytes);
    TRY(sara_linear_bind(binder, &m->time_in, "time_in", m->width, SINUSOIDS, true));
    TRY(sara_linear_bind(binder, &m->pooled_in, "pooled_in", m->width,
                         info->widths[SARA_CONDITION_POOLED], true));
    if (info->widths[SARA_CONDITION_TIME_IDS])
        TRY(sara_linear_bind(binder, &m->time_ids_in, "time_ids_in", m->width, SARA_TIME_IDS,
                             false));
    TRY(sara_linear_bind(binder, &m->proj_in, "proj_in", m->width, info->in_channels, true));
    for (int i = 0; i < m->count; i++)
        TRY(bind_mixer_layer(binder, &m->layers[i], m, i));
    TRY(sara_norm_bind(binder, &m->norm_out, "norm_out", m->width));
    TRY(sara_linear_bind(binder, &m->proj_out, "proj_out", info->out_channels, m->width, true));
done:
    return status;
}

static json_t *mixer_settings(const sara_network *network)
{
    return json_pack("{s:i}", "layers", (int)((const mixer *)network)->count);
}

/* ------------------------------------------------------------------------------------- forward */

/* y [N,width] = silu(time_in(sinusoids) + pooled_in(pooled) + time_ids_in(time_ids)) */
static sara_status mixer_embed(sara_tape *tape, sara_var **y, const mixer *m,
                               const double *timesteps, const sara_condition *condition)
{
    sara_var *pooled = condition->of[SARA_CONDITION_POOLED];
    sara_var *time_ids = condition->of[SARA_CONDITION_TIME_IDS];
    int64_t batch = pooled->shape.dims[0];
    const sara_shape shape = sara_shape2(batch, SINUSOIDS);
    float *sinusoids; /* [N,SINUSOIDS] */
    sara_var *h, *p;
    sara_status status;
    TRY(sara_tape_memory(tape, &sinusoids, (size_t)batch * SINUSOIDS, sizeof(*sinusoids)));
    for (int64_t i = 0; timesteps && i < batch * SINUSOIDS; i++)
        sinusoids[i] =
            (float)sin(timesteps[i / SINUSOIDS] / 1000 * pow(2, (double)(i % SINUSOIDS)));
    TRY(sara_tape_leaf(tape, &h, &shape, sinusoids, false)); /* [N,SINUSOIDS] */
    TRY(sara_linear_forward(tape, &h, &m->time_in, h));      /* [N,width] */
    TRY(sara_linear_forward(tape, &p, &m->pooled_in, pooled));
    TRY(sara_nn_add(tape, &h, h, p));
    if (time_ids) {
        TRY(sara_linear_forward(tape, &p, &m->time_ids_in, time_ids));
        TRY(sara_nn_add(tape, &h, h, p));
    }
    TRY(sara_nn_activate(tape, y, h, SARA_SILU));
done:
    return status;
}

/* in: tokens [N,T,width], states [N,S,state_width]; y [N,T,width] */
static sara_status run_mixer_layer(sara_tape *tape, sara_var **y, sara_var *const *in,
                                   const void *argument)
{
    const mixer_layer *layer = *(const mixer_layer *const *)argument;
    size_t scope = sara_tape_open(tape);
    sara_var *h, *x;
    sara_status status;
    TRY(sara_nn_layer_norm(tape, &h, in[0], layer->norm1.weight, layer->norm1.bias, 1e-5f));
    TRY(sara_attention_forward(tape, &h, &layer->attention, h, in[1], false));
    TRY(sara_nn_add(tape, &x, in[0], h));
    TRY(sara_nn_layer_norm(tape, &h, x, layer->norm2.weight, layer->norm2.bias, 1e-5f));
    TRY(sara_linear_forward(tape, &h, &layer->fc1, h)); /* [N,T,2 width] */
    TRY(sara_nn_activate(tape, &h, h, SARA_GELU));
    TRY(sara_linear_forward(tape, &h, &layer->fc2, h));
    TRY(sara_nn_add(tape, y, x, h));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static sara_status mixer_forward(sara_tape *tape, sara_var **out, sara_network *network,
                                 sara_var *sample, const double *timesteps,
                                 const sara_condition *condition)
{
    mixer *m = (mixer *)network;
    const int64_t *dims = sample->shape.dims;
    const int64_t count = sara_shape_count(&sample->shape) / (dims[0] * dims[1]);
    const sara_shape tokens = sara_shape3(dims[0], count, dims[1]);
    const sara_shape flat = sara_shape4(dims[0], dims[1], 1, count);
    const sara_shape image = sara_shape4(dims[0], 1, count, dims[1]);
    size_t scope = sara_tape_open(tape);
    sara_var *h, *embedding;
    sara_status status;
    TRY(mixer_embed(tape, &embedding, m, timesteps, condition));
    TRY(sara_tape_view(tape, &h, sample, &flat));    /* [N,C,1,T], whatever the axes after C */
    TRY(sara_nn_to_channels_last(tape, &h, h));      /* [N,1,T,C] */
    TRY(sara_tape_view(tape, &h, h, &tokens));       /* [N,T,C] */
    TRY(sara_linear_forward(tape, &h, &m->proj_in, h)); /* [N,T,width] */
    TRY(sara_nn_add_per_sample(tape, &h, h, embedding));
    for (int i = 0; i < m->count; i++) {
        const mixer_layer *layer = &m->layers[i];
        sara_var *const in[] = {h, condition->of[SARA_CONDITION_STATES]};
        TRY(i < network->checkpoint_levels
                ? sara_tape_checkpoint(tape, &h, run_mixer_layer, in, 2, &layer, sizeof(layer))
                : run_mixer_layer(tape, &h, in, &layer));
    }
    TRY(sara_nn_layer_norm(tape, &h, h, m->norm_out.weight, m->norm_out.bias, 1e-5f));
    TRY(sara_linear_forward(tape, &h, &m->proj_out, h)); /* [N,T,C] */
    TRY(sara_tape_view(tape, &h, h, &image));
    TRY(sara_nn_to_channels_first(tape, &h, h));
    TRY(sara_tape_view(tape, out, h, &sample->shape));
    sara_tape_close(tape, scope, out, 1);
done:
    return status;
}

static const sara_network_shape mixer_shapes[] = {
    {"mixer", "{\"_class_name\": \"TestMixer\", \"layers\": 3}"}, {NULL, NULL}};
static const sara_block_list mixer_blocks[] = {{"layers", SARA_MAX_LEVELS}, {NULL, 0}};

const sara_network_class test_mixer_class = {.library = "diffusers",
                                             .name = "TestMixer",
                                             .key = "_class_name",
                                             .value = "TestMixer",
                                             .stem = SARA_DIFFUSERS_STEM,
                                             .title = "mixer",
                                             .size = sizeof(mixer),
                                             .read_config = mixer_read_config,
                                             .bind = mixer_bind,
                                             .settings = mixer_settings,
                                             .forward = mixer_forward,
                                             .shapes = mixer_shapes,
                                             .blocks = mixer_blocks};
