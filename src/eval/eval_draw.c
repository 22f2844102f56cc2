/* Drawn pictures of an evaluation. */
#include "eval/eval.h"

static sara_status load_base(sara_evaluation *e)
{
    sara_model_options options = sara_evaluation_model_options(e);
    options.denoiser = NULL;
    return sara_model_load(e->ctx, &e->model, e->options.model_path, &options);
}

static void unload(sara_evaluation *e)
{
    sara_model_free(e->model);
    e->model = NULL;
}

/* The model as it is without what is evaluated. */
static sara_status make_bare(sara_evaluation *e)
{
    if (!sara_evaluation_has_denoiser(e))
        return sara_model_remove(e->model);
    unload(e);
    return load_base(e);
}

/* The options of a prompt's pictures, from the first on. bare: nothing is on the model. */
static sara_generate_options options_of(const sara_evaluation *e, size_t first, bool bare)
{
    sara_generate_options options = e->generate;
    options.prompt = e->pictures[first].prompt;
    options.seed += first;
    options.lora_ignore |= bare;
    return options;
}

typedef sara_status (*prompt_use)(sara_context *ctx, sara_model *model,
                                  const sara_generate_options *options);

static sara_status for_each_prompt(sara_evaluation *e, prompt_use use, bool bare)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < e->count; i += (size_t)e->generate.batch_count) {
        const sara_generate_options options = options_of(e, i, bare);
        if (sara_interrupted(e->ctx))
            return sara_fail(e->ctx, SARA_INTERRUPTED, "interrupted");
        TRY(use(e->ctx, e->model, &options));
    }
done:
    return status;
}

static sara_status check_text(sara_context *ctx, sara_model *model,
                              const sara_generate_options *options)
{
    (void)model;
    return sara_generate_check(ctx, options);
}

static sara_status apply_all(sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    sara_status status = SARA_OK;
    for (int i = 0; i < o->adapter_count; i++) {
        double strength;
        char *path = NULL;
        TRY(sara_adapter_split(e->ctx, &path, &strength, o->adapters[i]));
        status = sara_model_apply(e->ctx, e->model, path, strength, o->force);
        sara_free(e->ctx, path);
        TRY(status);
    }
done:
    return status;
}

sara_status sara_evaluation_load(sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    sara_status status = SARA_OK;
    if (o->images)
        return SARA_OK;
    TRY(for_each_prompt(e, check_text, false));
    if (o->drift && sara_evaluation_has_denoiser(e)) { /* whether the model has its own, too */
        TRY(load_base(e));
        unload(e);
    }
    TRY(sara_model_load(e->ctx, &e->model, o->model_path, o->model));
    TRY(apply_all(e));
    TRY(for_each_prompt(e, sara_generate_check_model, false));
done:
    return status;
}

/* A prompt's pictures, drawn, kept and measured. */
static sara_status draw_prompt(sara_evaluation *e, sara_eval_set set, size_t first)
{
    const sara_generate_options options = options_of(e, first, set == SARA_SET_BEFORE);
    sara_image *images = NULL;
    int count = 0;
    sara_status status;
    TRY(sara_generate(e->ctx, &images, &count, e->model, &options));
    for (int i = 0; i < count; i++) {
        if (set == SARA_SET_PICTURES)
            TRY(sara_evaluation_keep(e, first + (size_t)i, &images[i], &options, i));
        TRY(sara_evaluation_measure(e, set, first + (size_t)i, &images[i]));
    }
done:
    sara_images_free(e->ctx, images, count);
    return status;
}

sara_status sara_evaluation_draw(sara_evaluation *e, sara_eval_set set)
{
    size_t batch = (size_t)e->generate.batch_count, prompts = e->count / batch;
    sara_status status;
    if (set == SARA_SET_BEFORE)
        TRY(make_bare(e));
    TRY(for_each_prompt(e, sara_generate_encode, set == SARA_SET_BEFORE));
    sara_model_release(e->model); /* the text encoder; pictures need none */
    for (size_t i = 0; i < prompts; i++) {
        sara_progress_part(e->ctx, (int64_t)(i + prompts * (size_t)e->drawn),
                           (int64_t)(prompts * (size_t)(e->draws ? e->draws : 1)));
        status = draw_prompt(e, set, i * batch);
        if (status == SARA_INTERRUPTED)
            status = sara_fail(e->ctx, status, "interrupted after %zu of %zu pictures%s%s",
                               i * batch, e->count, e->kept ? ", which are in " : "",
                               e->kept ? e->options.output : "");
        TRY(status);
    }
    e->drawn++;
done:
    sara_progress_part(e->ctx, 0, 0);
    return status;
}
