#include "progress.h"
#include "text.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const struct {
    const char *name, *summary;
    int (*run)(cli *c);
} commands[] = {
    {"train", "fine-tune a model with SaRA on a folder of images", cmd_train},
    {"data", "look at a data set before training: data check", cmd_data},
    {"generate", "draw images from prompts, with adapters if wanted", cmd_generate},
    {"merge", "write a model with adapters merged in", cmd_merge},
    {"extract", "make an adapter of what two models differ in", cmd_extract},
    {"export", "write an adapter as ComfyUI, A1111, diffusers or PEFT load it", cmd_export},
    {"inspect", "show what a model or an adapter consists of, what budgets train", cmd_inspect},
    {"eval", "measure pictures: CLIP score, FID, KID, CMMD, CLIP-I, DINO, drift", cmd_eval},
    {"bench", "time training steps on this machine", cmd_bench},
    {"compare", "train with several methods, measure what each learns and forgets", cmd_compare},
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(*commands))

static void print_help(FILE *out)
{
    fprintf(out,
            "sara %s - fine-tunes Stable Diffusion with SaRA: trains only the parameters that "
            "the\npretrained model hardly uses\n\nUsage: sara COMMAND [options]\n\n",
            sara_version());
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out,
            "\nExamples:\n"
            "  sara train -m base --train_data_dir photos --caption_prefix \"ink style, \" -o run\n"
            "  sara generate -m base --adapter run/adapter.safetensors -p \"ink style, a fox\"\n"
            "  sara merge -m base --adapter run/adapter.safetensors -o ink-model\n"
            "\n`sara COMMAND --help` tells each one's options; sara --version tells the version.\n"
            "Exit codes: 2 usage, 3 bad input file, 4 I/O, 5 memory, 6 diverged, 7 interrupted\n"
            "(training: and saved), 8 device.\n");
}

static int cli_run(size_t index, int argc, char **argv)
{
    const char *term = getenv("TERM");
    bool smart = term && strcmp(term, "dumb") != 0;
    progress_view view = {.terminal = smart && isatty(STDERR_FILENO)};
    cli c = {.command = commands[index].name, .argc = argc, .argv = argv, .view = &view};
    int code = cli_open(&c);
    if (code == 0)
        code = commands[index].run(&c);
    progress_end(&view);
    text_free(&c);
    cli_close(&c);
    return code;
}

static int find_and_run(int argc, char **argv)
{
    cli none = {.command = NULL};
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return cli_run(i, argc - 2, argv + 2);
    return cli_fail(&none, SARA_ERROR_USAGE, "%s: no such command; see sara --help", argv[1]);
}

static int dispatch(int argc, char **argv)
{
    const char *first = argc > 1 ? argv[1] : "";
    bool help = strcmp(first, "help") == 0;
    char *shown[] = {argv[0], argc > 2 ? argv[2] : NULL, (char[]){"--help"}};
    if (argc < 2) {
        print_help(stderr);
        return SARA_ERROR_USAGE;
    }
    if (help && argc == 3)
        return find_and_run(3, shown);
    if (help || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(first, "--version") == 0) {
        printf("sara %s\n", sara_version());
        return 0;
    }
    return find_and_run(argc, argv);
}

/* A file opened under the number of a closed stream would take what is printed. What goes to a
 * closed standard output is still an error: the substitute cannot be written to. */
static void open_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* What `sara compare` has started ends with it, its work saved, however that ends. */
static void end_with_parent(void)
{
    const char *parent = getenv("SARA_PARENT");
    if (!parent || strtol(parent, NULL, 10) != (long)getppid())
        return;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (strtol(parent, NULL, 10) != (long)getppid())
        raise(SIGTERM);
}

int main(int argc, char **argv)
{
    end_with_parent();
    open_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe or a full quota is a write error, not a death */
    signal(SIGXFSZ, SIG_IGN);
    int code = dispatch(argc, argv);
    bool lost = ferror(stdout);
    if ((fflush(stdout) != 0 || lost) && code == 0) {
        fprintf(stderr, "sara: writing to standard output failed\n");
        code = SARA_ERROR_IO;
    }
    return code;
}
