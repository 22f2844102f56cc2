/* Options from the arguments. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

bool cli_same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
            return false;
    return *a == *b;
}

/* One argument with its value. */
typedef struct argument {
    const cli_option *option; /* NULL: resolved is set, unless it asks for help */
    const char *resolved;     /* proper name of an option of cli_command.set */
    const char *value;        /* NULL: a switch without one */
    bool help;
} argument;

static int args_refuse(cli *c, const cli_command *command, const char *name)
{
    const char *dashes = name[0] && !name[1] ? "-" : "--";
    for (const cli_refusal *r = command->refusals; r && r->name; r++)
        if (cli_same_name(r->name, name))
            return cli_fail(c, SARA_ERROR_USAGE, "%s%s is not supported: %s", dashes, name,
                            r->advice);
    return cli_fail(c, SARA_ERROR_USAGE, "%s%s: no such option; see sara %s --help", dashes, name,
                    command->name);
}

/* Finds the option of a name, or of a letter as a name of one character with is_letter. */
static bool args_find(argument *out, bool *takes_value, const cli_command *command,
                      const char *name, bool is_letter)
{
    memset(out, 0, sizeof(*out));
    *takes_value = false;
    out->help = is_letter ? name[0] == 'h' : strcmp(name, "help") == 0;
    for (const cli_option *o = command->options; o->name; o++)
        if (is_letter ? o->letter == name[0] : cli_same_name(o->name, name)) {
            out->option = o;
            *takes_value = o->kind != CLI_SWITCH;
            return true;
        }
    if (!is_letter && command->resolve)
        out->resolved = command->resolve(name, takes_value);
    return out->help || out->resolved;
}

static int set_argument(cli *c, const cli_command *command, const argument *a)
{
    return a->option ? cli_set_option(c, command, a->option, a->value)
                     : command->set(c, command->user, a->resolved, a->value);
}

static int set_from_config(cli *c, const cli_command *command, const char *name, const char *value)
{
    argument a;
    bool takes_value;
    if (!args_find(&a, &takes_value, command, name, false) || a.help)
        return args_refuse(c, command, name);
    a.value = value;
    return set_argument(c, command, &a);
}

/* Whether a text in the place of a value is rather the next option, its value having been left out.
 * A prompt may begin with dashes. */
static bool args_is_option(const cli_command *command, const char *text)
{
    argument unused;
    bool takes_value;
    return strncmp(text, "--", 2) == 0 &&
           args_find(&unused, &takes_value, command, text + 2, false);
}

/* Splits "--name=value" or "-nvalue". name has room for 128 bytes; *value NULL: none attached. */
static bool args_split(const char *text, char *name, bool *is_letter, const char **value)
{
    *value = NULL;
    if (text[0] != '-' || !text[1])
        return false;
    *is_letter = text[1] != '-';
    if (*is_letter) {
        snprintf(name, 128, "%c", text[1]);
        *value = text[2] ? text + 2 : NULL;
        return true;
    }
    const char *equals = strchr(text, '=');
    snprintf(name, 128, "%.*s", (int)(equals ? equals - text - 2 : 127), text + 2);
    *value = equals ? equals + 1 : NULL;
    return true;
}

const char *cli_value_of(const cli *c, const char *name)
{
    const char *found = NULL;
    for (int i = 0; i < c->argc; i++) {
        const char *value;
        char given[128];
        bool is_letter;
        if (!args_split(c->argv[i], given, &is_letter, &value) || !cli_same_name(given, name))
            continue;
        if (!value && i + 1 < c->argc)
            value = c->argv[i + 1];
        found = value ? value : found;
    }
    return found;
}

static int refuse_missing(cli *c, const cli_command *command, const char *name, bool is_letter,
                          const char *next)
{
    const char *advice = NULL;
    for (const cli_refusal *r = command->missing; r && r->name; r++)
        advice = cli_same_name(r->name, name) ? r->advice : advice;
    return cli_fail(c, SARA_ERROR_USAGE, "%s%s: a value is missing%s%s%s%s", is_letter ? "-" : "--",
                    name, next ? " before " : "", next ? next : "", advice ? "; " : "",
                    advice ? advice : "");
}

/* The argument at *index, which moves on to its last word. */
static int read_argument(cli *c, argument *out, const cli_command *command, int *index)
{
    const char *text = c->argv[*index], *next = *index + 1 < c->argc ? c->argv[*index + 1] : NULL;
    const char *value;
    char name[128];
    bool is_letter, takes_value;
    if (command->operand && text[0] && text[0] != '-') {
        args_find(out, &takes_value, command, command->operand, false);
        out->value = text;
        return 0;
    }
    if (!args_split(text, name, &is_letter, &value))
        return cli_fail(c, SARA_ERROR_USAGE, "\"%s\": unexpected argument; see sara %s --help",
                        text, command->name);
    if (!args_find(out, &takes_value, command, name, is_letter))
        return args_refuse(c, command, name);
    if (!value && takes_value && (!next || args_is_option(command, next)))
        return refuse_missing(c, command, name, is_letter, next);
    if (!value && takes_value) {
        value = next;
        ++*index;
    }
    if (value && is_letter && !takes_value && !out->help)
        return cli_fail(c, SARA_ERROR_USAGE, "%s: -%s takes no value", text, name);
    out->value = value;
    return 0;
}

/* All arguments: of the config files only what is in them, or of the others. */
static int read_arguments(cli *c, const cli_command *command, bool configs, bool *help)
{
    int code = 0;
    for (int i = 0; code == 0 && i < c->argc; i++) {
        argument a;
        code = read_argument(c, &a, command, &i);
        if (code)
            break;
        if (a.help) {
            *help = true;
            code = cli_print_help(c, command);
            break;
        }
        bool is_config = a.option && a.option->kind == CLI_CONFIG;
        if (is_config && configs)
            code = cli_read_config(c, command, a.value, set_from_config);
        else if (!is_config && !configs)
            code = set_argument(c, command, &a);
    }
    return code;
}

int cli_parse(cli *c, const cli_command *command, bool *help)
{
    *help = false;
    int code = read_arguments(c, command, true, help);
    if (code == 0 && !*help)
        code = read_arguments(c, command, false, help);
    if (code == 0 && !*help && c->threads)
        code = cli_open(c);
    return code;
}
