#include "cli.h"

#include "sara_eval.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define THIS_PROGRAM "/proc/self/exe"

/* Its children are this very program. */
static int find_program(const cli *c, char *path, size_t size)
{
    ssize_t length = readlink(THIS_PROGRAM, path, size - 1);
    if (length <= 0 || (size_t)length >= size - 1)
        return cli_fail(c, SARA_ERROR_IO, "%s: cannot be read: %s", THIS_PROGRAM,
                        strerror(length < 0 ? errno : ENAMETOOLONG));
    path[length] = '\0';
    return 0;
}

static double number_at(const json_t *plan, const char *key)
{
    return json_number_value(json_object_get(plan, key));
}

/* seconds null: what they were to come from could not be timed. */
static void print_hours(const char *what, const json_t *plan, const char *key)
{
    const json_t *number = json_object_get(plan, key);
    const double seconds = json_number_value(number);
    if (json_is_null(number)) {
        printf("%s: unknown, as not all of it could be timed\n", what);
        return;
    }
    printf("%s: about %.0f:%02.0f hours\n", what, floor(seconds / 3600),
           floor(fmod(seconds, 3600) / 60));
}

static void print_plan(const json_t *plan, bool cost)
{
    size_t index;
    json_t *timed;
    printf("%.0f rows, %.0f data sets, %.0f seeds: %.0f training runs, %.0f evaluations that draw "
           "%.0f pictures\n",
           number_at(plan, "rows"), number_at(plan, "data"), number_at(plan, "seeds"),
           number_at(plan, "trainings"), number_at(plan, "evaluations"),
           number_at(plan, "pictures"));
    print_hours("training", plan, "training_seconds");
    print_hours("drawing", plan, "drawing_seconds");
    if (cost)
        print_hours("--cost", plan, "cost_seconds");
    printf("disk: about %.0f MiB\n", ceil(number_at(plan, "bytes") / 1048576));
    json_array_foreach(json_object_get(plan, "timed"), index, timed)
    {
        printf("  %-12s batch %2.0f: %.3f s a step, %.0f entries trained, %.0f MiB\n",
               json_string_value(json_object_get(timed, "method")), number_at(timed, "batch"),
               number_at(timed, "seconds_per_step"), number_at(timed, "entries"),
               number_at(timed, "peak_bytes") / 1048576);
    }
}

static int print_comparison(const cli *c, const sara_compare_options *o, const char *report)
{
    json_t *result = json_loads(report, 0, NULL);
    if (!result)
        return cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    const char *folder = json_string_value(json_object_get(result, "output_dir"));
    if (o->dry_run) {
        print_plan(result, o->cost);
    } else {
        cli_print_path("table:   ", folder, "/table.md");
        cli_print_path("report:  ", folder, "/report.html");
        cli_print_path("numbers: ", folder, "/compare.json");
    }
    json_decref(result);
    return 0;
}

static int compare(const cli *c, sara_compare_options *o, bool json)
{
    char program[4096], *report = NULL;
    int code = find_program(c, program, sizeof(program));
    if (code)
        return code;
    o->program = program;
    sara_status status = sara_compare(c->ctx, &report, o);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    if (json)
        printf("%s\n", report);
    else
        code = print_comparison(c, o, report);
    sara_free(c->ctx, report);
    return code;
}

int cmd_compare(cli *c)
{
    sara_compare_options o;
    bool json = false, help;
    sara_compare_options_init(&o);
    const cli_option options[] = {
        {"config", 0, CLI_STRING, &o.config, 0, 0, "FILE", "what is compared: docs/comparison.md"},
        {"output_dir", 'o', CLI_STRING, &o.output_dir, 0, 0, "DIR", "(the config's)"},
        {"dry-run", 0, CLI_SWITCH, &o.dry_run, 0, 0, NULL,
         "tell what would be run, how long and how large"},
        {"cost", 0, CLI_SWITCH, &o.cost, 0, 0, NULL,
         "memory and seconds of a step by method and batch too"},
        {"strengths", 0, CLI_STRING, &o.strengths, 0, 0, "LIST",
         "pictures of an adapter at these strengths too, e.g. 0,0.5,1,1.5,2"},
        {"json", 0, CLI_SWITCH, &json, 0, 0, NULL, "print compare.json, or the plan"},
        CLI_THREADS_OPTION(c),
        {0},
    };
    const cli_command command = {
        .name = "compare",
        .summary = "train with several methods and measure what each learns and forgets",
        .usage = "--config FILE [options]",
        .note =
            "Each run is a process of its own. The same command goes on where it was stopped.\n",
        .examples = "  sara compare --config compare.json --dry-run\n"
                    "  sara compare --config compare.json\n",
        .options = options,
    };
    int code = cli_parse(c, &command, &help);
    return code || help ? code : compare(c, &o, json);
}
