/* What an evaluation is asked for. */
#include "eval/eval.h"

static const sara_options_type eval_options_type =
    SARA_OPTIONS_TYPE(sara_eval_options, kid_subsets);
static const sara_eval_options eval_defaults = {.kid_subset_size = 1000, .kid_subsets = 100};

void sara_eval_options_init_sized(sara_eval_options *options, size_t size)
{
    sara_options_init(options, size, &eval_defaults, &eval_options_type);
}

const char *sara_evaluation_backbone(const sara_evaluation *e, sara_eval_by by, const char **name)
{
    static const char *const names[] = {"clip", "dino", "inception"};
    const char *const given[] = {e->options.clip, e->options.dino, e->options.inception};
    if (name)
        *name = names[by];
    return given[by];
}

static bool has_backbone(const sara_evaluation *e, sara_eval_by by)
{
    return sara_evaluation_backbone(e, by, NULL) != NULL;
}

bool sara_evaluation_has_references(const sara_evaluation *e)
{
    return e->own || e->options.references;
}

bool sara_evaluation_needs(const sara_evaluation *e, sara_eval_by by, sara_eval_set set)
{
    if (!has_backbone(e, by))
        return false;
    if (set == SARA_SET_BEFORE)
        return e->drift == by;
    return set == SARA_SET_PICTURES ||
           (sara_evaluation_has_references(e) && (by != SARA_BY_INCEPTION || e->fid == by));
}

/* ---------------------------------------------------------------------------------- measures */

static sara_status choose_fid(sara_evaluation *e)
{
    static const struct {
        const char *name;
        sara_eval_by by;
    } conventions[] = {{"torch-fidelity", SARA_BY_INCEPTION},
                       {"clean", SARA_BY_INCEPTION},
                       {"clip", SARA_BY_CLIP},
                       {"dino", SARA_BY_DINO}};
    const char *wanted = e->options.fid, *name;
    e->fid = SARA_BACKBONES;
    for (size_t i = 0; i < sizeof(conventions) / sizeof(*conventions); i++) {
        bool is = wanted ? strcmp(wanted, conventions[i].name) == 0
                         : sara_evaluation_has_references(e) && has_backbone(e, conventions[i].by);
        if (!is || e->fid != SARA_BACKBONES)
            continue;
        e->fid = conventions[i].by;
        e->convention = conventions[i].name;
    }
    if (!wanted)
        return SARA_OK;
    if (e->fid == SARA_BACKBONES)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "--fid %s: expected torch-fidelity, clean, clip or dino", wanted);
    if (!sara_evaluation_has_references(e))
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--fid %s: goes with --references", wanted);
    if (!sara_evaluation_backbone(e, e->fid, &name))
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--fid %s: goes with --%s", wanted, name);
    return SARA_OK;
}

static sara_status choose_drift(sara_evaluation *e)
{
    static const sara_eval_by order[] = {SARA_BY_DINO, SARA_BY_CLIP, SARA_BY_INCEPTION};
    const char *before = e->options.before;
    e->drift = SARA_BACKBONES;
    if (!before && !e->options.drift)
        return SARA_OK;
    for (size_t i = 0; i < SARA_BACKBONES && e->drift == SARA_BACKBONES; i++)
        if (has_backbone(e, order[i]))
            e->drift = order[i];
    if (e->drift == SARA_BACKBONES)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "--%s%s: goes with --dino, --clip or --inception",
                         before ? "before " : "drift", before ? before : "");
    return SARA_OK;
}

/* Of CLIP's a folder's captions may be the use. */
static sara_status check_uses(const sara_evaluation *e)
{
    bool any = false;
    for (int by = 0; by < SARA_BACKBONES; by++) {
        const char *name, *given = sara_evaluation_backbone(e, by, &name);
        bool used = by == SARA_BY_CLIP || (int)e->drift == by ||
                    sara_evaluation_needs(e, by, SARA_SET_REFERENCES);
        any |= given != NULL;
        if (given && !used && sara_evaluation_has_references(e))
            return sara_fail(e->ctx, SARA_ERROR_USAGE, "--%s %s: is of no use with --fid %s", name,
                             given, e->convention);
        if (given && !used)
            return sara_fail(e->ctx, SARA_ERROR_USAGE,
                             "--%s %s: measures nothing without --references, --before or --drift",
                             name, given);
    }
    if (any)
        return SARA_OK;
    return sara_fail(e->ctx, SARA_ERROR_USAGE,
                     "nothing to measure with: --clip, --dino or --inception names a backbone");
}

static sara_status check_eval_numbers(const sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    if (o->clip_resize < 0 || o->clip_resize > 16384)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--clip_resize %d: expected 0 to 16384",
                         o->clip_resize);
    if (o->clip_resize && !o->clip)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--clip_resize %d: goes with --clip",
                         o->clip_resize);
    if (o->clip_tokenizer && !o->clip)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--clip_tokenizer %s: goes with --clip",
                         o->clip_tokenizer);
    if (o->kid_subset_size < 2)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--kid_subset_size %d: expected at least 2",
                         o->kid_subset_size);
    if (o->kid_subsets < 1)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--kid_subsets %d: expected at least 1",
                         o->kid_subsets);
    return SARA_OK;
}

/* ---------------------------------------------------------------------------------- pictures */

sara_model_options sara_evaluation_model_options(const sara_evaluation *e)
{
    const sara_model_options *given = e->options.model;
    sara_model_options options;
    sara_model_options_init(&options);
    if (given)
        memcpy(&options, given, given->size < sizeof(options) ? given->size : sizeof(options));
    return options;
}

bool sara_evaluation_has_denoiser(const sara_evaluation *e)
{
    return sara_evaluation_model_options(e).denoiser != NULL;
}

static sara_status refuse_drawing(const sara_evaluation *e, const char *what)
{
    return sara_fail(e->ctx, SARA_ERROR_USAGE,
                     "%s: goes with --model; the pictures of --images %s are there", what,
                     e->options.images);
}

/* What is said of a model, where there is none. */
static sara_status check_no_model(const sara_evaluation *e)
{
    const sara_model_options m = sara_evaluation_model_options(e);
    const struct {
        const char *name;
        bool given;
    } options[] = {{"--denoiser", m.denoiser != NULL},
                   {"--variant", m.variant != NULL},
                   {"--prediction_type", m.prediction_type != NULL},
                   {"--model_config", m.model_config != NULL},
                   {"--tokenizer", m.tokenizer != NULL},
                   {"--vae", m.vae != NULL},
                   {"--use_ema_weights", m.use_ema_weights},
                   {"--weight_dtype", m.weight_dtype != NULL},
                   {"--device", m.device != NULL},
                   {"--force", e->options.force}};
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
        if (options[i].given)
            return refuse_drawing(e, options[i].name);
    return SARA_OK;
}

static sara_status check_images(const sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    sara_generate_options defaults;
    if (o->model_path)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--images %s and --model %s: give one of them",
                         o->images, o->model_path);
    if (o->adapter_count > 0)
        return refuse_drawing(e, "--adapter");
    if (o->output)
        return refuse_drawing(e, "--output");
    if (o->prompt_prefix)
        return refuse_drawing(e, "--prompt_prefix");
    sara_generate_options_init(&defaults);
    if (memcmp(&e->generate, &defaults, sizeof(defaults)) != 0)
        return refuse_drawing(e, "what pictures are drawn with");
    if (o->drift)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "--drift: goes with --model; of a folder --before DIR names the pictures "
                         "before");
    return check_no_model(e);
}

static sara_status check_drawing(const sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    const sara_generate_options *g = &e->generate;
    if (!o->model_path)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "no pictures given: --images names a folder, --model what draws them");
    if (!o->prompts)
        return sara_fail(e->ctx, SARA_ERROR_USAGE,
                         "no prompts given: --prompts names a file with one a line");
    if (o->before && o->drift)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--before %s and --drift: give one of them",
                         o->before);
    if (g->init_latents || g->save_latents)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "%s: goes with sara generate",
                         g->init_latents ? "--init-latents" : "--save-latents");
    if (g->batch_count < 1)
        return sara_fail(e->ctx, SARA_ERROR_USAGE, "--batch-count %d: expected at least 1",
                         g->batch_count);
    return SARA_OK;
}

sara_status sara_evaluation_read(sara_evaluation *e, const sara_eval_options *given)
{
    sara_status status;
    e->options = eval_defaults;
    sara_arena_init(&e->arena, e->ctx);
    TRY(sara_options_read(e->ctx, &e->options, &eval_options_type, given));
    sara_generate_options_init(&e->generate);
    if (e->options.generate)
        TRY(sara_generate_options_read(e->ctx, &e->generate, e->options.generate));
    TRY(e->options.images ? check_images(e) : check_drawing(e));
    TRY(check_eval_numbers(e));
    TRY(choose_fid(e));
    TRY(choose_drift(e));
    TRY(check_uses(e));
done:
    return status;
}
