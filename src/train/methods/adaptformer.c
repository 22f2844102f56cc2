/* AdaptFormer (Chen et al. 2022): a bottleneck with ReLU beside each feed-forward is trained, the
 * denoiser itself stays as it is. */
#include "sparse/bottleneck.h"
#include "train/checkpoint.h"
#include "train/methods/methods.h"
#include "train/methods/origin.h"
#include "train/methods/size.h"
#include "train/methods/whole.h"

#define FILE_NAME "adaptformer.safetensors" /* the result, and the checkpoint's of the masters */
#define WIDTH     64

typedef struct adaptformer {
    sara_bottlenecks bottlenecks;
    sara_origin origin;
} adaptformer;

static adaptformer *adaptformer_of(const trainer *t)
{
    return t->method_state;
}

/* ------------------------------------------------------------------------------ what is trained */

static sara_status adaptformer_open(trainer *t)
{
    return sara_origin_open(t, &adaptformer_of(t)->origin, FILE_NAME);
}

/* Of the file that the run starts from, in memory of the model. */
static sara_status read_origin(const trainer *t)
{
    adaptformer *a = adaptformer_of(t);
    bool resumed = t->checkpoint.folder != NULL; /* the base is compared with the run's */
    const sara_base *base = resumed ? NULL : &t->model->base;
    sara_adapter_source source = {0};
    sara_status status;
    TRY(sara_origin_read(t, &source, a->origin.path, &sara_adapter_kind_beside));
    TRY(sara_bottlenecks_read(t->model->device, &a->bottlenecks, source.file));
    status = sara_bottlenecks_check(&a->bottlenecks, &t->model->denoiser->params, base);
    if (status != SARA_OK)
        sara_fail_in(t->ctx, status, sara_origin_source(t));
done:
    sara_adapter_source_close(&source);
    return status;
}

static sara_status adaptformer_check(const trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    if (sara_bottleneck_size_of(params).count == 0)
        return sara_fail(t->ctx, SARA_ERROR_USAGE,
                         "--method adaptformer: the %s has no feed-forward that it could go beside",
                         t->model->denoiser->class->title);
    return adaptformer_of(t)->origin.is ? read_origin(t) : SARA_OK;
}

static sara_status choose_width(const trainer *t, int64_t *out)
{
    const sara_bottleneck_size size = sara_bottleneck_size_of(&t->model->denoiser->params);
    const sara_size_unit unit = {.given = t->options.adapter_width,
                                 .automatic = WIDTH,
                                 .entries = size.per_width,
                                 .fixed = size.fixed};
    return sara_size_choose(t, out, &unit);
}

static sara_status adaptformer_prepare(trainer *t)
{
    adaptformer *a = adaptformer_of(t);
    const sara_params *params = &t->model->denoiser->params;
    int64_t width;
    sara_status status = SARA_OK;
    if (a->origin.is) {
        if (a->origin.strength != 1)
            TRY(sara_bottlenecks_multiply(&a->bottlenecks, a->origin.strength));
    } else {
        TRY(choose_width(t, &width));
        TRY(sara_bottlenecks_new(t->ctx, &a->bottlenecks, params, width, t->options.adapter_scale,
                                 t->options.seed));
    }
    TRY(sara_bottlenecks_attach(&a->bottlenecks, params, 1));
    TRY(sara_whole_use(t, &a->bottlenecks.params));
done:
    return status;
}

static sara_status adaptformer_resolve(const trainer *t, json_t *run)
{
    const adaptformer *a = adaptformer_of(t);
    if (json_object_set_new(run, "adapter_width", json_integer(a->bottlenecks.width)) |
        json_object_set_new(run, "adapter_scale", json_real(a->bottlenecks.scale)))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    json_object_del(run, "trainable");
    return sara_origin_resolve(t, &a->origin, run);
}

static void adaptformer_describe(const trainer *t, sara_method_text *out)
{
    const adaptformer *a = adaptformer_of(t);
    sara_print(out->entries, sizeof(out->entries), "beside %zu feed-forwards, width %lld, scale %g",
               a->bottlenecks.count, (long long)a->bottlenecks.width, a->bottlenecks.scale);
    out->default_rate = "of AdaptFormer";
}

static size_t adaptformer_bytes(const trainer *t)
{
    return (size_t)sara_params_bytes(&adaptformer_of(t)->bottlenecks.params);
}

/* --------------------------------------------------------------------------------------- files */

static sara_status save_bottlenecks(const trainer *t, const char *folder)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, FILE_NAME));
    TRY(sara_bottlenecks_save(&adaptformer_of(t)->bottlenecks, path, t->metadata.items,
                              t->metadata.count));
done:
    sara_free(t->ctx, path);
    return status;
}

static sara_status adaptformer_save(const trainer *t, const char *folder)
{
    sara_status status;
    TRY(save_bottlenecks(t, folder));
    TRY(sara_state_save(t->ctx, folder, &t->optimizer->trainables, NULL));
done:
    return status;
}

static sara_status adaptformer_load(trainer *t, const char *folder)
{
    return sara_whole_load(t, folder, FILE_NAME);
}

static sara_status adaptformer_finish(const trainer *t)
{
    return save_bottlenecks(t, t->run.folder);
}

static void adaptformer_close(trainer *t)
{
    adaptformer *a = adaptformer_of(t);
    sara_origin_close(t, &a->origin);
    sara_bottlenecks_free(&a->bottlenecks);
}

const sara_method sara_method_adaptformer = {
    .name = SARA_BOTTLENECK_METHOD,
    .title = "AdaptFormer",
    .state_size = sizeof(adaptformer),
    .options = (const char *const[]){"adapter", "trainable", "adapter_width", "adapter_scale",
                                     "disk_offload", NULL},
    .files = (const char *const[]){FILE_NAME, SARA_CHECKPOINT_STATE, NULL},
    .result = FILE_NAME,
    .entry_bytes = sizeof(float),
    .learning_rate = 1e-4,
    .open = adaptformer_open,
    .check = adaptformer_check,
    .prepare = adaptformer_prepare,
    .resolve = adaptformer_resolve,
    .describe = adaptformer_describe,
    .bytes = adaptformer_bytes,
    .save = adaptformer_save,
    .load = adaptformer_load,
    .finish = adaptformer_finish,
    .close = adaptformer_close,
};
