/* Option values from text. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int set_double(cli *c, const cli_option *o, const char *value)
{
    char *end;
    errno = 0;
    double number = strtod(value, &end);
    if (end == value || *end || errno || !(number >= o->low && number <= o->high))
        return cli_fail(c, SARA_ERROR_USAGE, "--%s %s: expected a number, %g to %g", o->name, value,
                        o->low, o->high);
    *(double *)o->target = number;
    return 0;
}

static int set_int(cli *c, const cli_option *o, const char *value)
{
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (end == value || *end || errno || (double)number < o->low || (double)number > o->high)
        return cli_fail(c, SARA_ERROR_USAGE, "--%s %s: expected a whole number, %.0f to %.0f",
                        o->name, value, o->low, o->high);
    *(int *)o->target = (int)number;
    return 0;
}

static int set_pair(cli *c, const cli_option *o, const char *value)
{
    char *middle, *end;
    errno = 0;
    long first = strtol(value, &middle, 10), second = 0;
    bool whole = middle > value && *middle == ',';
    if (whole) {
        second = strtol(middle + 1, &end, 10);
        whole = end > middle + 1 && *end == '\0' && !errno;
    }
    if (!whole || (double)first < o->low || (double)first > o->high || (double)second < o->low ||
        (double)second > o->high)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--%s %s: expected %s, two whole numbers, %.0f to %.0f", o->name, value,
                        o->metavar, o->low, o->high);
    ((int *)o->target)[0] = (int)first;
    ((int *)o->target)[1] = (int)second;
    return 0;
}

static int set_seed(cli *c, const cli_option *o, const char *value)
{
    char *end;
    errno = 0;
    bool negative = strchr(value, '-') != NULL;
    long long below = negative ? strtoll(value, &end, 10) : 0;
    unsigned long long number = negative ? 0 : strtoull(value, &end, 10);
    if (end == value || *end || errno)
        return cli_fail(c, SARA_ERROR_USAGE,
                        "--%s %s: expected a whole number, 0 to 2^64-1, or -1: drawn", o->name,
                        value);
    *(cli_seed *)o->target = (cli_seed){number, below < 0};
    return 0;
}

static int value_set_switch(cli *c, const cli_option *o, const char *value)
{
    if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        return cli_fail(c, SARA_ERROR_USAGE, "--%s %s: expected true or false", o->name, value);
    *(bool *)o->target = !value || strcmp(value, "true") == 0;
    return 0;
}

static int value_add_item(cli *c, const cli_option *o, const char *value)
{
    cli_list *list = o->target;
    if (list->from_config && !c->config)
        list->count = 0;
    list->from_config = c->config != NULL;
    if (list->count == CLI_LIST_MAX)
        return cli_fail(c, SARA_ERROR_USAGE, "--%s %s: at most %d times", o->name, value,
                        CLI_LIST_MAX);
    list->items[list->count++] = value;
    return 0;
}

int cli_set_option(cli *c, const cli_command *command, const cli_option *o, const char *value)
{
    switch (o->kind) {
    case CLI_STRING:
        *(const char **)o->target = value;
        return 0;
    case CLI_LIST:
        return value_add_item(c, o, value);
    case CLI_INT:
        return set_int(c, o, value);
    case CLI_PAIR:
        return set_pair(c, o, value);
    case CLI_SEED:
        return set_seed(c, o, value);
    case CLI_DOUBLE:
        return set_double(c, o, value);
    case CLI_SWITCH:
        return value_set_switch(c, o, value);
    case CLI_FORWARD:
        return command->set(c, command->user, o->target, value);
    case CLI_CONFIG:
        break;
    }
    return cli_fail(c, SARA_ERROR_USAGE, "--%s %s: goes on the command line only", o->name, value);
}
