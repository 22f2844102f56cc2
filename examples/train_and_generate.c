/* Fine-tunes a model folder on a folder of images and draws a picture with the result.
 *
 *     train_and_generate MODEL_DIR IMAGES_DIR RUN_DIR PROMPT [STEPS]
 */
#include <sara.h>

#include <stdio.h>
#include <stdlib.h>

static void show(void *user, const sara_progress *p)
{
    (void)user;
    if (p->step % 10 == 0 || p->step == p->total)
        fprintf(stderr, "%s %lld/%lld\n", p->phase, (long long)p->step, (long long)p->total);
}

static sara_status train(sara_context *ctx, char **argv, int argc)
{
    sara_train_options options;
    sara_train_result result;
    sara_train_options_init(&options);
    options.pretrained_model_name_or_path = argv[1];
    options.train_data_dir = argv[2];
    options.output_dir = argv[3];
    options.max_train_steps = argc > 5 ? atoi(argv[5]) : 100;
    sara_status status = sara_train(ctx, &result, &options);
    if (status == SARA_OK)
        printf("trained %lld of %lld parameters, loss %.4f -> %.4f\n", (long long)result.selected,
               (long long)result.parameters, result.first_loss, result.last_loss);
    return status;
}

static sara_status draw(sara_context *ctx, char **argv)
{
    sara_model *model = NULL;
    sara_image *images = NULL;
    sara_generate_options options;
    char adapter[4096];
    int count = 0;
    snprintf(adapter, sizeof(adapter), "%s/adapter.safetensors", argv[3]);
    sara_generate_options_init(&options);
    options.prompt = argv[4];
    options.guidance_scale = 3.0;

    sara_status status = sara_model_load(ctx, &model, argv[1], NULL);
    if (status == SARA_OK)
        status = sara_model_apply(ctx, model, adapter, 1.0, false);
    if (status == SARA_OK)
        status = sara_generate(ctx, &images, &count, model, &options);
    if (status == SARA_OK)
        status = sara_image_save(ctx, &images[0], "picture.png", NULL);
    if (status == SARA_OK)
        printf("picture.png\n");
    sara_images_free(ctx, images, count);
    sara_model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    const sara_context_options options = {.progress = show};
    sara_context *ctx = NULL;
    if (argc < 5) {
        fprintf(stderr, "usage: %s MODEL_DIR IMAGES_DIR RUN_DIR PROMPT [STEPS]\n", argv[0]);
        return SARA_ERROR_USAGE;
    }
    sara_status status = sara_context_new(&ctx, &options);
    if (status == SARA_OK)
        status = train(ctx, argv, argc);
    if (status == SARA_OK)
        status = draw(ctx, argv);
    if (status != SARA_OK)
        fprintf(stderr, "%s\n", sara_context_error(ctx));
    sara_context_free(ctx);
    return status;
}
