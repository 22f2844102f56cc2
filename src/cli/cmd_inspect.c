#include "inspect.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double bin_edge(int index)
{
    return pow(10.0, (index - 20) / 4.0);
}

static int64_t total(const sara_model_report *report)
{
    return report->components[0].parameters;
}

static int print_json_as(const cli *c, json_t *root, size_t flags)
{
    char *text = root ? json_dumps(root, flags) : NULL;
    json_decref(root);
    if (!text)
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    printf("%s\n", text);
    free(text);
    return 0;
}

int inspect_print_json(const cli *c, json_t *root)
{
    return print_json_as(c, root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
}

static json_t *component_json(const sara_model_report *report, int index)
{
    const sara_component_report *part = &report->components[index];
    return json_pack("{s:s,s:s,s:s,s:I,s:I}", "name", part->name, "class", part->class_name,
                     "dtype", part->dtype, "tensors", (json_int_t)part->tensors, "parameters",
                     (json_int_t)part->parameters);
}

static json_t *bin_json(const sara_model_report *report, int index)
{
    return json_pack("{s:f,s:f,s:I}", "from", index ? bin_edge(index) : 0.0, "to",
                     bin_edge(index + 1), "count", (json_int_t)report->histogram[index]);
}

static json_t *inspect_threshold_json(const sara_model_report *report, int index)
{
    int64_t selected = report->selected[index];
    return json_pack("{s:f,s:I,s:f}", "threshold", report->thresholds[index], "selected",
                     (json_int_t)selected, "fraction", (double)selected / (double)total(report));
}

/* NULL if memory ran out. */
static json_t *list_json(const sara_model_report *report, int count,
                         json_t *(*item)(const sara_model_report *report, int index))
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        if (json_array_append_new(list, item(report, i)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *model_report_json(const sara_model_report *report)
{
    json_t *components = list_json(report, report->component_count, component_json);
    json_t *histogram = list_json(report, SARA_HISTOGRAM_BINS, bin_json);
    json_t *thresholds = list_json(report, report->threshold_count, inspect_threshold_json);
    const char *type = *report->prediction_type ? report->prediction_type : NULL;
    return json_pack("{s:s,s:s?,s:o,s:o,s:o,s:s,s:s}", "architecture", report->architecture,
                     "prediction_type", type, "components", components, "histogram", histogram,
                     "thresholds", thresholds, "base_sha256", report->base_sha256, "base_precision",
                     report->base_precision);
}

static int wider(int width, const char *text)
{
    return (int)strlen(text) > width ? (int)strlen(text) : width;
}

static void print_components(const sara_model_report *report)
{
    int name = 13, class_name = 22;
    for (int i = 0; i < report->component_count; i++) {
        name = wider(name, report->components[i].name);
        class_name = wider(class_name, report->components[i].class_name);
    }
    for (int i = 0; i < report->component_count; i++) {
        const sara_component_report *part = &report->components[i];
        printf("%-*s %-*s %-6s %6lld tensors %13lld parameters\n", name, part->name, class_name,
               part->class_name, part->dtype, (long long)part->tensors,
               (long long)part->parameters);
    }
}

static void print_model_report(const sara_model_report *report)
{
    int64_t most = 1;
    print_components(report);
    printf("architecture  %s%s%s\n", report->architecture,
           *report->prediction_type ? ", predicts " : "", report->prediction_type);
    printf("base_sha256   %s, in %s\n\nThe %s's parameters by |p|:\n", report->base_sha256,
           report->base_precision, report->denoiser);
    for (int i = 0; i < SARA_HISTOGRAM_BINS; i++)
        most = report->histogram[i] > most ? report->histogram[i] : most;
    for (int i = 0; i < SARA_HISTOGRAM_BINS; i++) {
        int width = (int)lround(50.0 * (double)report->histogram[i] / (double)most);
        printf("  %8.1e .. %8.1e %12lld %.*s\n", i ? bin_edge(i) : 0.0, bin_edge(i + 1),
               (long long)report->histogram[i], width,
               "##################################################");
    }
    printf("\nWhat a threshold selects:\n  --threshold      entries   share   default learning "
           "rate\n");
    for (int i = 0; i < report->threshold_count; i++)
        printf("  %11.5g %12lld %6.2f %%   %.3g\n", report->thresholds[i],
               (long long)report->selected[i],
               100.0 * (double)report->selected[i] / (double)total(report),
               1e-3 * exp(-350.0 * report->thresholds[i]));
}

static int show_report(const cli *c, const sara_model *model, bool json)
{
    sara_model_report report;
    sara_status status = sara_model_inspect(c->ctx, &report, model);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    if (json)
        return inspect_print_json(c, model_report_json(&report));
    print_model_report(&report);
    return 0;
}

typedef struct request {
    cli_model model;
    const char *text, *adapter, *page;
    const char *embedding_dir; /* of text; NULL: none */
    bool json, force, analyze;
    inspect_sweep sweep;
} request;

typedef struct shown_tokens {
    int32_t *ids; /* [count] */
    char **names; /* [count]: of those that are an embedding's vectors; NULL: none can be */
    size_t count;
} shown_tokens;

/* Of the text by a tokenizer; embeddings are looked for where their folder is given. */
static sara_status take_tokens(const cli *c, shown_tokens *out, sara_model *model, int number,
                               const request *r)
{
    sara_generate_options options;
    *out = (shown_tokens){NULL, NULL, 0};
    if (!r->embedding_dir)
        return sara_model_tokenize_by(c->ctx, &out->ids, &out->count, model, number, r->text);
    sara_generate_options_init(&options);
    options.prompt = r->text;
    options.embedding_dir = r->embedding_dir;
    options.no_prompt_weights = true;
    return sara_model_tokenize_prompt(c->ctx, &out->ids, &out->names, &out->count, model, number,
                                      &options);
}

/* Ids, and where embeddings stand. */
static json_t *tokens_json(const shown_tokens *t)
{
    json_t *list = json_array(), *places = json_array(), *object = json_object();
    int failed = !list || !places || !object;
    for (size_t i = 0; i < t->count; i++) {
        failed |= json_array_append_new(list, json_integer(t->ids[i]));
        if (t->names && t->names[i])
            failed |= json_array_append_new(
                places, json_pack("{s:I,s:s}", "at", (json_int_t)i, "vector", t->names[i]));
    }
    failed |= json_object_set(object, "ids", list);
    if (t->names)
        failed |= json_object_set(object, "embeddings", places);
    json_decref(list);
    json_decref(places);
    if (failed) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* In a line; vectors by their names. */
static void print_tokens(const shown_tokens *t, const char *tokenizer)
{
    if (tokenizer)
        printf("%s: ", tokenizer);
    for (size_t i = 0; i < t->count; i++) {
        char name[300];
        snprintf(name, sizeof(name), "%ld", (long)t->ids[i]);
        if (t->names && t->names[i])
            text_escape(name, sizeof(name), t->names[i]);
        printf("%s%s", i ? " " : "", name);
    }
    printf("\n");
}

/* By each of the model's tokenizers: in JSON those behind the first under their names. */
static int show_prompt(const cli *c, sara_model *model, const request *r)
{
    const bool several = sara_model_tokenizer_name(model, 1) != NULL;
    json_t *report = NULL, *one;
    int number = 0;
    do {
        shown_tokens tokens;
        const char *name = sara_model_tokenizer_name(model, number);
        const sara_status status = take_tokens(c, &tokens, model, number, r);
        if (status != SARA_OK) {
            json_decref(report);
            return cli_fail_context(c, status);
        }
        if (!r->json) {
            print_tokens(&tokens, several ? name : NULL);
        } else {
            one = tokens_json(&tokens);
            if (number == 0)
                report = one;
            else if (json_object_set_new(report, name, one) != 0) {
                json_decref(report);
                report = NULL;
            }
        }
        sara_free(c->ctx, tokens.ids);
        sara_free(c->ctx, tokens.names);
    } while (sara_model_tokenizer_name(model, ++number));
    return r->json ? print_json_as(c, report, 0) : 0;
}

static int show_analysis(const cli *c, const sara_model *model, const request *r)
{
    char *report = NULL;
    sara_status status = sara_analyze(c->ctx, &report, model, r->page);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    if (r->json)
        printf("%s\n", report);
    else
        printf("analysis: %s\n", r->page);
    sara_free(c->ctx, report);
    return 0;
}

static bool has_model(const request *r)
{
    return r->model.model || r->model.denoiser_only;
}

/* Of an adapter alone, options for a model say nothing. */
static int check_inspect_args(const cli *c, const request *r)
{
    const sara_model_options *o = &r->model.options;
    const struct {
        const char *name, *value;
    } of_models[] = {{"variant", o->variant},
                     {"prediction_type", o->prediction_type},
                     {"model_config", o->model_config},
                     {"tokenizer", o->tokenizer},
                     {"vae", o->vae},
                     {"denoiser", o->denoiser}};
    const char *dot = r->page ? strrchr(r->page, '.') : NULL;
    if (r->adapter && r->text)
        return cli_fail(c, SARA_ERROR_USAGE, "--adapter %s and --tokenize %s: give one of them",
                        r->adapter, r->text);
    if (r->analyze && (r->adapter || r->text))
        return cli_fail(c, SARA_ERROR_USAGE, "--analyze and %s %s: give one of them",
                        r->adapter ? "--adapter" : "--tokenize", r->adapter ? r->adapter : r->text);
    if (r->analyze && !r->page && !r->json)
        return cli_fail(c, SARA_ERROR_USAGE, "--analyze: -o FILE.html or --json is missing");
    if (r->analyze && r->page && (!dot || strcmp(dot, ".html") != 0))
        return cli_fail(c, SARA_ERROR_USAGE, "-o %s: expected FILE.html; --json prints the numbers",
                        r->page);
    if (r->page && !r->analyze && !r->sweep.thresholds)
        return cli_fail(c, SARA_ERROR_USAGE, "-o %s: goes with --analyze or --zero_sweep", r->page);
    for (size_t i = 0; i < sizeof(of_models) / sizeof(*of_models); i++)
        if (r->adapter && !has_model(r) && of_models[i].value)
            return cli_fail(c, SARA_ERROR_USAGE,
                            "--%s %s: goes with a model, and none is given: -m", of_models[i].name,
                            of_models[i].value);
    if (r->adapter && !has_model(r) && o->use_ema_weights)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--use_ema_weights: goes with a model, and none is given: -m");
    return 0;
}

/* What else is asked for; NULL: nothing. */
static const char *other_than_sweep(const request *r)
{
    return r->adapter               ? "--adapter"
           : r->text                ? "--tokenize"
           : r->analyze             ? "--analyze"
           : r->model.denoiser_only ? "--unet-only"
                                    : NULL;
}

static int inspect(const cli *c, request *r)
{
    sara_model *model = NULL;
    if (r->text) { /* no more of what pictures are drawn with */
        r->embedding_dir = r->sweep.generate.embedding_dir;
        r->sweep.generate.embedding_dir = NULL;
    }
    int code = inspect_sweep_check(c, &r->sweep, other_than_sweep(r));
    if (code == 0)
        code = check_inspect_args(c, r);
    if (code == 0 && r->sweep.thresholds)
        return inspect_sweep_run(c, &r->sweep, &r->model, r->page, r->json);
    if (code == 0 && (!r->adapter || has_model(r)))
        code = cli_load(c, &model, &r->model);
    if (code == 0 && r->adapter)
        code = inspect_adapter(c, r->adapter, model, r->force, r->json);
    else if (code == 0 && r->analyze)
        code = show_analysis(c, model, r);
    else if (code == 0)
        code = r->text ? show_prompt(c, model, r) : show_report(c, model, r->json);
    sara_model_free(model);
    return code;
}

int cmd_inspect(cli *c)
{
    request r = {.model = {.options = {.weight_dtype = "auto"}}};
    bool help;
    inspect_sweep_init(&r.sweep);
    const cli_option options[] = {
        {"model", 'm', CLI_STRING, &r.model.model, 0, 0, "PATH",
         "a diffusers folder or a .safetensors file"},
        {"unet-only", 0, CLI_STRING, &r.model.denoiser_only, 0, 0, "DIR",
         "a bare unet/ folder instead"},
        {"tokenize", 0, CLI_STRING, &r.text, 0, 0, "TEXT",
         "print the token ids of a prompt, padded and cut; --embedding-dir shows embeddings"},
        {"adapter", 0, CLI_STRING, &r.adapter, 0, 0, "FILE",
         "show what an adapter or an embedding holds; with its base (-m) also how far it "
         "changes that"},
        {"analyze", 0, CLI_SWITCH, &r.analyze, 0, 0, NULL,
         "magnitudes by kind of layer and block, and what budgets select of them"},
        {"output", 'o', CLI_STRING, &r.page, 0, 0, "FILE.html",
         "of --analyze, --zero_sweep (also .json), as a page"},
        INSPECT_SWEEP_OPTIONS(&r.sweep),
        {"force", 0, CLI_SWITCH, &r.force, 0, 0, NULL,
         "with another base than the adapter was made for"},
        {"json", 0, CLI_SWITCH, &r.json, 0, 0, NULL, "print JSON"},
        CLI_MODEL_OPTIONS(&r.model),
        CLI_PARTS_OPTIONS(&r.model),
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_command command = {
        .name = "inspect",
        .summary = "show what a model or an adapter consists of, what budgets train",
        .usage = "-m DIR | [--adapter] FILE [-m DIR] [options]",
        .examples = "  sara inspect -m base\n"
                    "  sara inspect -m base --json\n"
                    "  sara inspect -m base --analyze -o analysis.html\n"
                    "  sara inspect -m base --zero_sweep 1e-4,1e-3 --prompts p.txt --clip clip "
                    "-o sweep.html\n"
                    "  sara inspect --adapter run/adapter.safetensors -m base\n"
                    "  sara inspect embeddings/easynegative.safetensors\n"
                    "  sara inspect -m base --tokenize \"ink style, a fox\"\n",
        .note = "What pictures are drawn with and measured by goes with --zero_sweep.\n",
        .operand = "adapter",
        .options = options,
    };
    int code = cli_parse(c, &command, &help);
    return code || help ? code : inspect(c, &r);
}
