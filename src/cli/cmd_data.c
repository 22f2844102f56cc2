#include "cli.h"

#include <jansson.h>
#include <sara_data.h>
#include <stdio.h>
#include <string.h>

#define MOST_PRINTED 20 /* notes of a kind; the page has all */

/* The options of sara train that say what is trained on; the others are taken and have no effect. */
static const char *const data_options[] = {"train_data_dir",
                                           "dataset_config",
                                           "pretrained_model_name_or_path",
                                           "resolution",
                                           "train_batch_size",
                                           "caption_extension",
                                           "caption_column",
                                           "instance_prompt",
                                           "caption_prefix",
                                           "caption_suffix",
                                           "caption_separator",
                                           "shuffle_caption",
                                           "keep_tokens",
                                           "enable_wildcard",
                                           "center_crop",
                                           "random_crop",
                                           "random_flip",
                                           "enable_bucket",
                                           "min_bucket_reso",
                                           "max_bucket_reso",
                                           "bucket_reso_steps",
                                           "bucket_no_upscale",
                                           "masked_loss",
                                           "conditioning_data_dir",
                                           "alpha_mask",
                                           "class_data_dir",
                                           "class_prompt",
                                           "max_sequence_length",
                                           "no_t5",
                                           "tokenizer",
                                           NULL};

typedef struct data_target {
    sara_train_options train;
    const char *what; /* DIR or FILE as an operand */
} data_target;

static const char *data_resolve(const char *name, bool *takes_value)
{
    const sara_option_info *info = sara_train_option_find(name);
    if (!info)
        return NULL;
    *takes_value = info->metavar != NULL;
    return info->name;
}

static bool data_shows(const cli *c, const char *name)
{
    (void)c;
    for (size_t i = 0; data_options[i]; i++)
        if (strcmp(data_options[i], name) == 0)
            return true;
    return false;
}

static int data_set(cli *c, void *user, const char *name, const char *value)
{
    data_target *t = user;
    const sara_status status = sara_train_options_set(c->ctx, &t->train, name, value);
    return status == SARA_OK ? 0 : cli_fail_context(c, status);
}

/* ------------------------------------------------------------------------------------- printing */

static long long data_number(const json_t *json, const char *key)
{
    return (long long)json_integer_value(json_object_get(json, key));
}

static void print_sizes(const json_t *report)
{
    size_t index;
    json_t *one;
    printf("%-13s %10s %12s %14s\n", "size", "images", "in an epoch", "micro-batches");
    json_array_foreach(json_object_get(report, "buckets"), index, one)
    {
        char size[32];
        snprintf(size, sizeof(size), "%lldx%lld", data_number(one, "width"),
                 data_number(one, "height"));
        printf("%-13s %10lld %12lld %14lld%s\n", size, data_number(one, "images"),
               data_number(one, "in_epoch"), data_number(one, "micro_batches"),
               json_is_true(json_object_get(one, "class")) ? "  of the class" : "");
    }
}

/* Lines tell of their file where its path does not begin them. */
static void print_note(const json_t *note)
{
    const char *path = json_string_value(json_object_get(note, "path"));
    const char *text = json_string_value(json_object_get(note, "text"));
    const bool named = !path || strncmp(text, path, strlen(path)) == 0;
    char line[4096];
    snprintf(line, sizeof(line), "%s%s%s", named ? "" : path, named ? "" : ": ", text);
    cli_print_path("  ", line, "");
}

static void print_notes(const json_t *report, const char *key, const char *heading)
{
    const json_t *notes = json_object_get(report, key);
    const size_t count = json_array_size(notes);
    if (!count)
        return;
    printf("%zu %s\n", count, heading);
    for (size_t i = 0; i < count && i < MOST_PRINTED; i++)
        print_note(json_array_get(notes, i));
    if (count > MOST_PRINTED)
        printf("  and %zu more, which the page has\n", count - MOST_PRINTED);
}

static void print_check(const json_t *report)
{
    const char *page = json_string_value(json_object_get(report, "page"));
    printf("%lld images, %lld in an epoch", data_number(report, "usable"),
           data_number(report, "in_epoch"));
    if (data_number(report, "class_usable"))
        printf("; %lld class images, %lld in an epoch", data_number(report, "class_usable"),
               data_number(report, "class_in_epoch"));
    printf("\n");
    if (json_array_size(json_object_get(report, "buckets")))
        print_sizes(report);
    print_notes(report, "refused", "would be refused:");
    print_notes(report, "warnings", "worth a look:");
    if (page)
        cli_print_path("page: ", page, "");
}

/* What would be refused is the exit code of a training that is refused for it. */
static int data_check(const cli *c, const sara_data_check_options *o, bool as_json)
{
    char *text = NULL;
    const sara_status status = sara_data_check(c->ctx, &text, o);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    json_t *report = json_loads(text, 0, NULL);
    if (!report) {
        sara_free(c->ctx, text);
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    }
    if (as_json)
        printf("%s\n", text);
    else
        print_check(report);
    const bool refused = json_array_size(json_object_get(report, "refused")) > 0;
    json_decref(report);
    sara_free(c->ctx, text);
    return refused ? SARA_ERROR_INPUT : 0;
}

/* ------------------------------------------------------------------------------------- command */

/* A folder, or a file of settings. */
static int take_operand(const cli *c, data_target *t)
{
    if (!t->what)
        return 0;
    if (t->train.train_data_dir || t->train.dataset_config)
        return cli_fail(c, SARA_ERROR_USAGE, "%s and %s: give one of them", t->what,
                        t->train.train_data_dir ? t->train.train_data_dir
                                                : t->train.dataset_config);
    const char *extension = strrchr(t->what, '.');
    const bool is_file = extension && !cli_is_folder(t->what) &&
                         (strcmp(extension, ".toml") == 0 || strcmp(extension, ".json") == 0);
    if (is_file)
        t->train.dataset_config = t->what;
    else
        t->train.train_data_dir = t->what;
    return 0;
}

/* "check" is the one thing that is done with data. */
static bool take_action(cli *c)
{
    if (!c->argc || strcmp(c->argv[0], "check") != 0)
        return false;
    c->argc--;
    c->argv++;
    return true;
}

static int refuse_action(const cli *c, const char *what)
{
    return cli_fail(c, SARA_ERROR_USAGE,
                    "%s%sexpected sara data check DIR|FILE.toml; see sara data "
                    "--help",
                    what ? what : "", what ? ": " : "");
}

int cmd_data(cli *c)
{
    data_target t = {.what = NULL};
    sara_data_check_options o;
    bool json = false, help;
    sara_train_options_init(&t.train);
    sara_data_check_options_init(&o);
    o.train = &t.train;
    o.page = "data-check.html";
    const cli_option options[] = {
        {"data", 0, CLI_STRING, &t.what, 0, 0, "PATH", NULL},
        {"page", 0, CLI_STRING, &o.page, 0, 0, "FILE", "the contact sheet (data-check.html)"},
        {"json", 0, CLI_SWITCH, &json, 0, 0, NULL, "print the report as JSON"},
        {"model", 'm', CLI_FORWARD, (char *)"pretrained_model_name_or_path", 0, 0, "DIR", NULL},
        {"output", 'o', CLI_FORWARD, (char *)"output_dir", 0, 0, "DIR", NULL},
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    const cli_command command = {
        .name = "data",
        .summary = "look at a data set before training: what would be refused, cropped, cut",
        .usage = "check DIR|FILE.toml [-m DIR] [options of sara train]",
        .note = "Writes a contact sheet. Exit code 3 where sara train would refuse anything. Takes "
                "all\noptions of sara train, of which these count:\n",
        .examples =
            "  sara data check photos --enable_bucket --resolution 768\n"
            "  sara data check data.toml -m base          sizes and tokens as this model has them\n"
            "  sara data check --config train.json --page check.html\n",
        .operand = "data",
        .options = options,
        .resolve = data_resolve,
        .set = data_set,
        .shows = data_shows,
        .user = &t,
    };
    const bool is_check = take_action(c);
    int code = cli_parse(c, &command, &help);
    if (code || help)
        return code;
    if (!is_check)
        return refuse_action(c, t.what);
    code = take_operand(c, &t);
    return code ? code : data_check(c, &o, json);
}
