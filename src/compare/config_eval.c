/* A comparison's "eval", as sara eval would refuse it: told before anything runs. */
#include "compare/compare.h"

/* The conventions of FID, and by which of the keys' networks they are. */
static const struct {
    const char *name, *backbone;
} fids[] = {{"torch-fidelity", "inception"}, {"clean", "inception"}, {"clip", "clip"},
            {"dino", "dino"}};

static sara_status check_eval_paths(sara_comparison *c, const sara_config *config)
{
    static const char *const folders[] = {"clip", "clip_tokenizer", "dino", "embedding_dir"};
    const char *path;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
        TRY(sara_config_string(config, &path, folders[i], NULL));
        if (path && !sara_path_is_directory(path))
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s %s: is no folder", config->source,
                          folders[i], path));
    }
    TRY(sara_config_string(config, &path, "inception", NULL));
    if (path && !sara_path_exists(path))
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: inception %s: is not there", config->source,
                      path));
    if (!json_object_get(config->object, "clip"))
        status = sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: clip is missing", config->source);
done:
    return status;
}

static sara_status check_fid(sara_comparison *c, const sara_config *config)
{
    const char *name, *backbone = NULL;
    sara_status status;
    TRY(sara_config_string(config, &name, "fid", NULL));
    if (!name)
        return SARA_OK;
    for (size_t i = 0; i < sizeof(fids) / sizeof(*fids); i++)
        if (strcmp(name, fids[i].name) == 0)
            backbone = fids[i].backbone;
    if (!backbone)
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: fid %s: expected torch-fidelity, clean, clip or dino", config->source,
                         name);
    if (!json_object_get(config->object, backbone))
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: fid %s: goes with %s", config->source, name,
                         backbone);
    if (json_object_get(config->object, "inception") && strcmp(backbone, "inception") != 0)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: inception: is of no use with fid %s",
                         config->source, name);
done:
    return status;
}

static sara_status check_sampler(sara_comparison *c, const sara_config *config)
{
    const char *const *methods = sara_sampling_methods(), *name;
    sara_status status;
    TRY(sara_config_string(config, &name, "sampling_method", NULL));
    for (; name && *methods; methods++)
        if (strcmp(*methods, name) == 0)
            return SARA_OK;
    if (name)
        status = sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: sampling_method %s: there is none",
                           config->source, name);
done:
    return status;
}

/* Of one that is not given the other's. */
static sara_status check_drawn_size(sara_comparison *c, const sara_config *config)
{
    int64_t width, height;
    sara_status status;
    TRY(sara_config_int(config, &width, "width", 0, 1, 16384));
    TRY(sara_config_int(config, &height, "height", 0, 1, 16384));
    if (!c->sides.unit || (!width && !height))
        return SARA_OK;
    status = sara_picture_sides_check(c->ctx, &c->sides, (int)(width ? width : height),
                                      (int)(height ? height : width), "size");
    if (status == SARA_ERROR_USAGE)
        status = sara_fail_in(c->ctx, SARA_ERROR_INPUT, config->source);
done:
    return status;
}

sara_status sara_compare_read_eval(sara_comparison *c)
{
    static const char *const known[] = {
        "clip",  "clip_tokenizer",  "clip_resize",   "dino",  "inception", "fid",
        "steps", "guidance_scale",  "kid_subsets",   "width", "height",    "sampling_method",
        "seed",  "kid_subset_size", "embedding_dir", NULL};
    static const struct {
        const char *key;
        int64_t low, high;
    } numbers[] = {{"clip_resize", 1, 16384},
                   {"kid_subset_size", 2, 1000000},
                   {"kid_subsets", 1, 1000000},
                   {"steps", 1, 1000},
                   {"seed", 0, INT64_MAX}}; /* none that is drawn: pictures are to be the same */
    const sara_name source = sara_name_of("%.150s: eval", c->source);
    sara_config config = {c->ctx, NULL, source.text};
    int64_t number;
    double guidance;
    sara_status status;
    c->eval = config.object = json_object_get(c->config, "eval");
    if (!c->eval)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: eval is missing: it names at least clip",
                         c->source);
    TRY(sara_compare_check_keys(c, c->eval, "eval", known));
    TRY(check_eval_paths(c, &config));
    TRY(check_fid(c, &config));
    TRY(check_sampler(c, &config));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        TRY(sara_config_int(&config, &number, numbers[i].key, numbers[i].low, numbers[i].low,
                            numbers[i].high));
    TRY(check_drawn_size(c, &config));
    TRY(sara_config_double(&config, &guidance, "guidance_scale", 0, 0, 1000));
done:
    return status;
}
