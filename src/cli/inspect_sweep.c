/* sara inspect --zero_sweep: what a model draws without its small entries. */
#include "inspect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void inspect_sweep_init(inspect_sweep *s)
{
    *s = (inspect_sweep){.thresholds = NULL};
    sara_eval_options_init(&s->eval);
    sara_generate_options_init(&s->generate);
    s->seed.number = s->generate.seed;
}

/* The first of what is for a sweep alone; NULL: none is given. */
static const char *sweep_extra(const inspect_sweep *s)
{
    const struct {
        const char *name;
        bool given;
    } extras[] = {{"--prompts", s->eval.prompts != NULL},
                  {"--clip", s->eval.clip != NULL},
                  {"--clip_tokenizer", s->eval.clip_tokenizer != NULL},
                  {"--clip_resize", s->eval.clip_resize != 0},
                  {"--inception", s->eval.inception != NULL},
                  {"--references", s->eval.references != NULL},
                  {"--fid", s->eval.fid != NULL}};
    for (size_t i = 0; i < sizeof(extras) / sizeof(*extras); i++)
        if (extras[i].given)
            return extras[i].name;
    return NULL;
}

int inspect_sweep_check(const cli *c, const inspect_sweep *s, const char *other)
{
    const char *extra = sweep_extra(s);
    sara_generate_options defaults;
    sara_generate_options_init(&defaults);
    if (s->thresholds && other)
        return cli_fail(c, SARA_ERROR_USAGE, "--zero_sweep %s and %s: give one of them",
                        s->thresholds, other);
    if (!extra && (s->scheduler || s->seed.draw || s->seed.number != defaults.seed ||
                   memcmp(&s->generate, &defaults, sizeof(defaults)) != 0))
        extra = "what pictures are drawn with";
    if (!s->thresholds && extra)
        return cli_fail(c, SARA_ERROR_USAGE, "%s: goes with --zero_sweep", extra);
    return 0;
}

static double sweep_value(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int print_sweep(const cli *c, const char *text)
{
    json_t *report = json_loads(text, 0, NULL);
    const char *convention = json_string_value(json_object_get(report, "convention"));
    char fid[64];
    const json_t *row;
    size_t index;
    if (!report)
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    snprintf(fid, sizeof(fid), "FID (%s)", convention ? convention : "-");
    printf("%12s %14s %9s %20s %12s %12s\n", "t", "entries", "share", fid, "KID", "CLIP score");
    json_array_foreach(json_object_get(report, "rows"), index, row)
        printf("%12g %14.0f %7.2f %% %20.4f %12.6f %12.4f\n", sweep_value(row, "t"),
               sweep_value(row, "entries"), 100 * sweep_value(row, "share"),
               sweep_value(row, "fid"), sweep_value(row, "kid"), sweep_value(row, "clip_score"));
    json_decref(report);
    return 0;
}

int inspect_sweep_run(const cli *c, inspect_sweep *s, const cli_model *model, const char *output,
                      bool json)
{
    sara_zero_sweep_options options;
    sara_model_options of_model = model->options;
    char *report = NULL;
    int code = cli_check_sigmas(c, s->scheduler, &s->generate.karras);
    if (code == 0)
        code = cli_take_seed(c, &s->generate.seed, &s->seed, 1000000);
    if (code)
        return code;
    of_model.size = sizeof(of_model);
    if (strcmp(of_model.weight_dtype, "auto") == 0) /* as pictures are drawn elsewhere */
        of_model.weight_dtype = NULL;
    s->eval.model_path = model->model;
    s->eval.model = &of_model;
    s->eval.generate = &s->generate;
    sara_zero_sweep_options_init(&options);
    options.eval = &s->eval;
    options.thresholds = s->thresholds;
    options.output = output;
    sara_status status = sara_zero_sweep(c->ctx, &report, &options);
    if (report && json)
        printf("%s\n", report);
    else if (report)
        code = print_sweep(c, report);
    sara_free(c->ctx, report);
    return status == SARA_OK ? code : cli_fail_context(c, status);
}
