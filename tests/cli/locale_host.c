/* A program that sets the locale of its environment, as GTK and Qt do, and then uses the library:
 *     locale_host POINT BASE IMAGES FOLDER THRESHOLD
 * POINT: the decimal point that the locale must have. What the library logs goes to stdout. */
#include <sara.h>

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sara_context *ctx;
static const char *folder;

static void must(sara_status status, const char *what)
{
    if (status == SARA_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, sara_context_error(ctx));
    exit(status);
}

static void print_log(void *user, sara_log_level level, const char *line)
{
    (void)user;
    printf("%d %s\n", (int)level, line);
}

static const char *below(const char *name)
{
    static char paths[8][4096];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static void train(const char *base, const char *images, const char *threshold)
{
    sara_train_options o;
    sara_train_options_init(&o);
    o.pretrained_model_name_or_path = base;
    o.train_data_dir = images;
    o.output_dir = below("run");
    must(sara_train_options_set(ctx, &o, "lambda_rank", " 0.0005"), "lambda_rank");
    if (*threshold)
        must(sara_train_options_set(ctx, &o, "threshold", threshold), "threshold");
    o.max_train_steps = 2;
    o.train_batch_size = 1;
    o.checkpointing_steps = 1;
    o.validation_prompts[0] = "x";
    o.validation_prompt_count = 1;
    must(sara_train(ctx, NULL, &o), "train");
    o.resume_from_checkpoint = "latest"; /* reads the manifest's numbers */
    must(sara_train(ctx, NULL, &o), "resume");
}

static void draw(sara_model *model)
{
    sara_generate_options g;
    sara_image *images = NULL;
    char *text = NULL;
    int count = 0;
    sara_generate_options_init(&g);
    g.prompt = "(x:1.4) fox <lora:adapter:0.5>"; /* its weight is logged */
    g.lora_model_dir = below("run");
    g.guidance_scale = 2.5;
    g.steps = 1;
    must(sara_generate(ctx, &images, &count, model, &g), "generate");
    must(sara_generate_text(ctx, &text, model, &g, images->width, images->height, 0), "text");
    must(sara_image_save(ctx, images, below("x.png"), text), "save");
    sara_free(ctx, text);
    sara_images_free(ctx, images, count);
}

static void write_files(sara_model *model, const char *base)
{
    sara_export_options e;
    sara_extract_options x;
    sara_model *merged = NULL;
    must(sara_model_apply(ctx, model, below("run/adapter.safetensors"), 0.75, false), "apply");
    must(sara_model_save(ctx, NULL, model, below("merged"), NULL), "merge");
    must(sara_model_save(ctx, NULL, model, below("merged.safetensors"), NULL), "merge");
    sara_export_options_init(&e);
    e.date = 1;
    const char *const formats[] = {"a1111", "lora", "peft"};
    for (int i = 0; i < 3; i++) {
        e.format = formats[i];
        e.rank = i ? 1 : 0;
        must(sara_model_export(ctx, NULL, model, below(i == 2 ? "peft" : i ? "l.safetensors"
                                                                           : "a.safetensors"), &e),
             formats[i]);
    }
    sara_model_remove(model);
    must(sara_model_load(ctx, &merged, below("merged"), NULL), "load merged");
    sara_extract_options_init(&x);
    x.top_fraction = 0.01;
    must(sara_model_extract(ctx, NULL, model, merged, below("x.safetensors"), &x), "extract");
    sara_model_free(merged);
    must(sara_model_load(ctx, &merged, below("merged.safetensors"), &(sara_model_options){
             .model_config = base}), "load the single file");
    sara_model_free(merged);
}

static void bench(void)
{
    sara_bench_options b;
    char *report = NULL;
    sara_bench_options_init(&b);
    b.shape = "tiny";
    b.latent = 8;
    b.steps = 1;
    b.profile = below("trace.json");
    must(sara_bench(ctx, &report, &b), "bench");
    FILE *file = fopen(below("bench.json"), "w");
    if (!file || fputs(report, file) == EOF || fclose(file) != 0)
        exit(98);
    sara_free(ctx, report);
}

/* Lines of errors, with numbers of each kind. */
static void refused(void)
{
    sara_generate_options g;
    sara_train_options o;
    sara_train_options_init(&o);
    sara_generate_options_init(&g);
    g.prompt = "x <lora:adapter:0,5>";
    g.lora_model_dir = below("run");
    if (sara_generate_check(ctx, &g) != SARA_ERROR_USAGE)
        exit(97);
    printf("%s\n", sara_context_error(ctx));
    if (sara_train_options_set(ctx, &o, "adam_beta1", "1,5") != SARA_ERROR_USAGE)
        exit(97);
    printf("%s\n", sara_context_error(ctx));
}

int main(int argc, char **argv)
{
    const sara_context_options options = {.threads = 1, .log = print_log};
    sara_model *model = NULL;
    if (argc != 6 || !setlocale(LC_ALL, "") || strcmp(localeconv()->decimal_point, argv[1]) != 0) {
        fprintf(stderr, "the locale is not as it should be\n");
        return 99;
    }
    folder = argv[4];
    must(sara_context_new(&ctx, &options), "context");
    train(argv[2], argv[3], argv[5]);
    must(sara_model_load(ctx, &model, argv[2], NULL), "load");
    draw(model);
    write_files(model, argv[2]);
    bench();
    refused();
    sara_model_free(model);
    sara_context_free(ctx);
    return strcmp(localeconv()->decimal_point, argv[1]) == 0 ? 0 : 96;
}
