/* `sara eval`: pictures against prompts, references and what a base draws. */
#include "cli.h"
#include "sara_eval.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct eval_request {
    sara_eval_options eval;
    sara_generate_options generate;
    cli_model model;
    cli_seed seed;
    cli_list adapters;
    const char *scheduler;
    bool json;
} eval_request;

/* -------------------------------------------------------------------------------------- report */

static double measure_at(const json_t *report, const char *measure, const char *key)
{
    const json_t *value = json_object_get(json_object_get(report, measure), key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *word_at(const json_t *report, const char *measure, const char *key)
{
    return json_string_value(json_object_get(json_object_get(report, measure), key));
}

static void print_row(const char *measure, double value, int digits, const char *of)
{
    printf("  %-16s %12.*f  %s\n", measure, digits, value, of);
}

static void print_distances(const json_t *report)
{
    char text[96];
    if (!json_object_get(report, "fid"))
        return;
    snprintf(text, sizeof(text), "(%s)", word_at(report, "fid", "convention"));
    print_row("FID", measure_at(report, "fid", "value"), 4, text);
    snprintf(text, sizeof(text), "(%s; ± %.5f, %.0f x %.0f pictures)",
             word_at(report, "kid", "convention"), measure_at(report, "kid", "deviation"),
             measure_at(report, "kid", "subsets"), measure_at(report, "kid", "subset_size"));
    print_row("KID", measure_at(report, "kid", "mean"), 6, text);
}

static void print_eval_report(const json_t *report)
{
    static const struct {
        const char *measure, *key, *title, *of;
        int digits;
    } rows[] = {{"cmmd", "value", "CMMD", "(CLIP, sigma 10, x 1000)", 4},
                {"clip_i", "mean", "CLIP-I", "(mean cosine with the references)", 4},
                {"dino", "mean", "DINO", "(mean cosine with the references)", 4}};
    const json_t *references = json_object_get(report, "references");
    char text[64];
    printf("%lld pictures", (long long)json_integer_value(json_object_get(report, "images")));
    if (references)
        printf(", %lld references", (long long)json_integer_value(references));
    printf("\n");
    if (json_object_get(report, "clip_score")) {
        const json_t *cosine = json_object_get(report, "clip_cosine"); /* null: of features of 0 */
        snprintf(text, sizeof(text), "(cosine %.4f)",
                 json_is_number(cosine) ? json_number_value(cosine) : NAN);
        print_row("CLIP score", measure_at(report, "clip_score", "mean"), 4, text);
    }
    print_distances(report);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        if (json_object_get(report, rows[i].measure))
            print_row(rows[i].title, measure_at(report, rows[i].measure, rows[i].key),
                      rows[i].digits, rows[i].of);
    if (json_object_get(report, "drift")) {
        snprintf(text, sizeof(text), "(1 - cosine, %s)", word_at(report, "drift", "backbone"));
        print_row("drift", measure_at(report, "drift", "mean"), 6, text);
    }
}

static int show_measures(const cli *c, const char *text, bool json)
{
    json_t *report;
    if (json) {
        printf("%s\n", text);
        return 0;
    }
    report = json_loads(text, 0, NULL);
    if (!report)
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    print_eval_report(report);
    json_decref(report);
    return 0;
}

/* ----------------------------------------------------------------------------------- end to end */

static int check_request(const cli *c, eval_request *r)
{
    int code = cli_check_sigmas(c, r->scheduler, &r->generate.karras);
    if (code == 0)
        code = cli_check_adapters(c, &r->adapters);
    if (code == 0)
        code = cli_take_seed(c, &r->generate.seed, &r->seed, 1000000);
    return code;
}

static int evaluate(const cli *c, eval_request *r)
{
    char *report = NULL;
    int code = check_request(c, r);
    if (code)
        return code;
    r->model.options.size = sizeof(r->model.options);
    r->eval.model_path = r->model.model;
    r->eval.model = &r->model.options;
    r->eval.generate = &r->generate;
    r->eval.adapters = r->adapters.items;
    r->eval.adapter_count = r->adapters.count;
    sara_status status = sara_eval(c->ctx, &report, &r->eval);
    if (report)
        code = show_measures(c, report, r->json);
    sara_free(c->ctx, report);
    return status == SARA_OK ? code : cli_fail_context(c, status);
}

static int parse_eval(cli *c, const cli_option *options, bool *help)
{
    const cli_command command = {
        .name = "eval",
        .summary = "measure pictures, of a folder or drawn by a model",
        .usage = "--images DIR | -m PATH --prompts FILE [options]",
        .note = "What sara generate draws with goes here, too: --negative-prompt, "
                "--sampling-method, ...\n",
        .examples = "  sara eval --images drawn --clip clip-vit-large-patch14 --references photos\n"
                    "  sara eval -m base --prompts p.txt -o drawn --clip clip\n"
                    "  sara eval -m base --adapter a.safetensors --prompts p.txt --dino dino "
                    "--drift\n",
        .options = options,
    };
    return cli_parse(c, &command, help);
}

int cmd_eval(cli *c)
{
    eval_request r = {.scheduler = NULL};
    sara_eval_options *e = &r.eval;
    sara_generate_options *g = &r.generate;
    bool help;
    sara_eval_options_init(e);
    sara_generate_options_init(g);
    r.seed.number = g->seed;
    const cli_option options[] = {
        {"images", 'i', CLI_STRING, &e->images, 0, 0, "DIR",
         "the pictures, with captions as a data set"},
        {"model", 'm', CLI_STRING, &r.model.model, 0, 0, "PATH",
         "or what draws them: a diffusers folder or a file"},
        {"prompts", 0, CLI_STRING, &e->prompts, 0, 0, "FILE",
         "one a line; of --images instead of captions"},
        {"prompt_prefix", 0, CLI_STRING, &e->prompt_prefix, 0, 0, "TEXT",
         "before prompts where they are drawn, not scored"},
        {"adapter", 0, CLI_LIST, &r.adapters, 0, 0, "FILE[:X]",
         "apply at strength X (1); repeatable"},
        {"output", 'o', CLI_STRING, &e->output, 0, 0, "DIR",
         "keep what is drawn in this new folder, with its prompts"},
        {"references", 0, CLI_STRING, &e->references, 0, 0, "DIR",
         "pictures for FID, KID, CMMD, CLIP-I, DINO"},
        {"before", 0, CLI_STRING, &e->before, 0, 0, "DIR",
         "pictures of the same names: drift from them"},
        {"drift", 0, CLI_SWITCH, &e->drift, 0, 0, NULL,
         "drift from what it draws without --adapter, --denoiser"},
        {"clip", 0, CLI_STRING, &e->clip, 0, 0, "DIR", "a CLIPModel: CLIP score, CLIP-I, CMMD"},
        {"clip_tokenizer", 0, CLI_STRING, &e->clip_tokenizer, 0, 0, "DIR",
         "(the CLIP folder's, else CLIP's own)"},
        {"clip_resize", 0, CLI_INT, &e->clip_resize, 1, 16384, "N",
         "make pictures NxN first (SaRA's published scores: 512)"},
        {"dino", 0, CLI_STRING, &e->dino, 0, 0, "DIR", "a ViTModel (DINO) or Dinov2Model"},
        {"inception", 0, CLI_STRING, &e->inception, 0, 0, "FILE",
         "for FID, as scripts/convert_inception.py writes it"},
        {"fid", 0, CLI_STRING, &e->fid, 0, 0, "NAME",
         "torch-fidelity, clean, clip, dino (the first given)"},
        {"kid_subset_size", 0, CLI_INT, &e->kid_subset_size, 2, 1000000, "N",
         "(1000, or the smaller set)"},
        {"kid_subsets", 0, CLI_INT, &e->kid_subsets, 1, 1000000, "N", "(100)"},
        CLI_DRAW_OPTIONS(g, &r.seed, &r.scheduler, false),
        CLI_SIZES_OPTIONS(g, false),
        {"batch-count", 'b', CLI_INT, &g->batch_count, 1, 100000, "N",
         "pictures of each prompt (1)"},
        {"force", 0, CLI_SWITCH, &e->force, 0, 0, NULL, "apply adapters of other bases"},
        {"weight_dtype", 0, CLI_STRING, &r.model.options.weight_dtype, 0, 0, "TYPE",
         "in memory: fp32, fp16, bf16, auto (fp32)"},
        {"type", 0, CLI_STRING, &r.model.options.weight_dtype, 0, 0, "TYPE", NULL},
        {"device", 0, CLI_STRING, &r.model.options.device, 0, 0, "NAME",
         "where to compute: cpu (cpu)"},
        {"report", 0, CLI_STRING, &e->page, 0, 0, "FILE.html", "as a page, with pictures"},
        {"json", 0, CLI_SWITCH, &r.json, 0, 0, NULL, "print JSON (docs/formats.md)"},
        CLI_MODEL_OPTIONS(&r.model),
        CLI_PARTS_OPTIONS(&r.model),
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    int code = parse_eval(c, options, &help);
    return code || help ? code : evaluate(c, &r);
}
