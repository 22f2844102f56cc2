/* --help from the tables. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

#define COLUMN 44 /* where the explanations begin */
#define WIDTH  100

/* Breaks the text at spaces; its first line begins at COLUMN already. */
static void print_wrapped(const char *text)
{
    size_t left = strlen(text), room = WIDTH - COLUMN;
    while (left > room) {
        size_t cut = room;
        while (cut > 0 && text[cut] != ' ')
            cut--;
        if (cut == 0)
            break;
        printf("%.*s\n%*s", (int)cut, text, COLUMN, "");
        text += cut + 1;
        left -= cut + 1;
    }
    printf("%s\n", text);
}

static void print_option(char letter, const char *name, const char *metavar, const char *help)
{
    char left[128];
    int used = letter ? snprintf(left, sizeof(left), "  -%c, --%s", letter, name)
                      : snprintf(left, sizeof(left), "      --%s", name);
    snprintf(left + used, sizeof(left) - (size_t)used, "%s%s", metavar ? " " : "",
             metavar ? metavar : "");
    if (strlen(left) + 1 < COLUMN)
        printf("%-*s", COLUMN, left);
    else
        printf("%s\n%*s", left, COLUMN, "");
    print_wrapped(help);
}

/* The letter that stands for an option of cli_command.set. */
static char letter_of(const cli_command *command, const char *name)
{
    for (const cli_option *o = command->options; o->name; o++)
        if (o->kind == CLI_FORWARD && strcmp(o->target, name) == 0)
            return o->letter;
    return 0;
}

static void print_all(const cli *c, const cli_command *command)
{
    printf("sara %s - %s\n\nUsage: sara %s %s\n", command->name, command->summary, command->name,
           command->usage);
    printf("In parentheses: what holds where an option is not given. '-' and '_' are alike.\n");
    printf("%s\n", command->note ? command->note : "");
    for (size_t i = 0; command->set && sara_train_option_at(i); i++) {
        const sara_option_info *info = sara_train_option_at(i);
        if (command->shows(c, info->name))
            print_option(letter_of(command, info->name), info->name, info->metavar, info->help);
    }
    for (const cli_option *o = command->options; o->name; o++)
        if (o->help)
            print_option(o->letter, o->name, o->metavar, o->help);
    printf("\nExamples:\n%s", command->examples);
}

int cli_print_help(const cli *c, const cli_command *command)
{
    int code = command->check_help ? command->check_help(c) : 0;
    if (code == 0)
        print_all(c, command);
    return code;
}
