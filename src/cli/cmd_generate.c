#include "generate.h"

#include <stdlib.h>

static const cli_refusal refusals[] = {
    {"vae", "-m takes a whole diffusers folder"},
    {"taesd", "the model's own VAE decodes"},
    {"clip_skip", "the text encoder's last layer is used"},
    {"rng", "noise comes from Philox; --init-latents takes noise from elsewhere"},
    {"vae_tiling", "leave it out"},
    {"offload_to_cpu", "everything runs on the CPU"},
    {"motion_module", "video is not supported"},
    {"video_frames", "video is not supported"},
    {"fps", "video is not supported"},
    {"prediction", "use --prediction_type epsilon or v_prediction"},
    {"mode", "generate draws images from text; sara merge and sara inspect do the rest"},
    {"M", "generate draws images from text; sara merge and sara inspect do the rest"},
    {"verbose", "leave it out"},
    {"v", "leave it out; sara --version tells the version"},
    {"i", "generate draws images from text"},
    {"init_img", "generate draws images from text"},
    {"strength", "an adapter's strength goes with it: --adapter FILE:0.8"},
    {"control_net", "control nets are not supported"},
    {"num_inference_steps", "use --steps"},
    {"guidance_scale", "use --cfg-scale"},
    {NULL, NULL},
};

static int generate_save(const cli *c, const sara_image *image, const char *path, const char *text)
{
    sara_status status = sara_image_save(c->ctx, image, path, text);
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    cli_print_path("", path, "");
    return 0;
}

static int save_numbered(const cli *c, sara_model *model, const generate_request *r,
                         const sara_image *image, int index, int number)
{
    char *text = NULL, *path = cli_numbered(r->output ? r->output : GENERATE_OUTPUT, number);
    sara_status status =
        sara_generate_text(c->ctx, &text, model, &r->generate, image->width, image->height, index);
    int code;
    if (status != SARA_OK)
        code = cli_fail_context(c, status);
    else if (!path)
        code = cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    else
        code = generate_save(c, image, path, text);
    sara_free(c->ctx, text);
    free(path);
    return code;
}

/* The number of the next picture where `left` are still to come. What another run has written
 * meanwhile is passed over. 0: out of memory. */
static int next_number(const generate_request *r, int last, int left)
{
    bool begun = last > 0;
    return r->output ? last + 1 : cli_first_new(GENERATE_OUTPUT, last + 1, begun ? 1 : left);
}

static int generate_each(const cli *c, sara_model *model, generate_request *r)
{
    int number = 0, code = 0;
    for (int p = 0; p < r->prompts.count && code == 0; p++) {
        sara_image *images;
        int count;
        r->generate.prompt = r->prompts.items[p];
        r->generate.release_parts = p == r->prompts.count - 1; /* the others' are wanted again */
        sara_status status = sara_generate(c->ctx, &images, &count, model, &r->generate);
        if (status != SARA_OK)
            return cli_fail_context(c, status);
        for (int i = 0; i < count && code == 0; i++) {
            number = next_number(r, number, count * r->prompts.count);
            code = number ? save_numbered(c, model, r, &images[i], i, number)
                          : cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
        }
        sara_images_free(c->ctx, images, count);
    }
    return code;
}

/* -------------------------------------------------------------------------------------- compare */

/* Prompt p with seed + p goes to cells[p]; they own their pixels. */
static int draw_row(const cli *c, sara_image *cells, sara_model *model, generate_request *r,
                    bool last)
{
    uint64_t seed = r->generate.seed;
    r->generate.batch_count = 1;
    for (int p = 0; p < r->prompts.count; p++) {
        sara_image *images;
        int count;
        r->generate.prompt = r->prompts.items[p];
        r->generate.seed = seed + (uint64_t)p;
        r->generate.release_parts = last && p == r->prompts.count - 1;
        sara_status status = sara_generate(c->ctx, &images, &count, model, &r->generate);
        if (status != SARA_OK)
            return cli_fail_context(c, status);
        cells[p] = images[0];
        images[0].pixels = NULL;
        sara_images_free(c->ctx, images, count);
    }
    r->generate.seed = seed;
    return 0;
}

/* With the text of the first image that the adapters changed, as A1111's grids have their first
 * image's. */
static int save_grid(const cli *c, sara_model *model, generate_request *r, const sara_image *cells)
{
    int columns = r->prompts.count, enlarge = cells[0].width < 256 ? 2 : 1, code;
    int number = next_number(r, 0, 1);
    char *path = number ? cli_numbered(r->output ? r->output : GENERATE_OUTPUT, number) : NULL;
    sara_image *grid = NULL;
    char *text = NULL;
    r->generate.prompt = r->prompts.items[0];
    sara_status status = sara_image_grid(c->ctx, &grid, cells, columns * 2, columns, enlarge);
    if (status == SARA_OK)
        status = sara_generate_text(c->ctx, &text, model, &r->generate, cells[columns].width,
                                    cells[columns].height, 0);
    if (status != SARA_OK)
        code = cli_fail_context(c, status);
    else
        code = path ? generate_save(c, grid, path, text)
                    : cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    free(path);
    sara_images_free(c->ctx, grid, 1);
    sara_free(c->ctx, text);
    return code;
}

/* One picture: upper row the base, lower row with the adapters, prompt by prompt. */
static int generate_compare(const cli *c, sara_model *model, generate_request *r)
{
    int columns = r->prompts.count;
    sara_image *cells = calloc((size_t)columns * 2, sizeof(*cells));
    r->generate.lora_ignore = true;
    int code = cells ? draw_row(c, cells, model, r, false)
                     : cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
    r->generate.lora_ignore = false;
    if (code == 0)
        code = cli_apply(c, model, &r->adapters, r->generate.lora_force);
    if (code == 0)
        code = draw_row(c, cells + columns, model, r, true);
    if (code == 0)
        code = save_grid(c, model, r, cells);
    for (int i = 0; cells && i < columns * 2; i++)
        sara_free(c->ctx, cells[i].pixels);
    free(cells);
    return code;
}

/* -------------------------------------------------------------------------------- end to end */

typedef sara_status (*prompt_fn)(sara_context *ctx, sara_model *model,
                                 const sara_generate_options *options);

/* Of every prompt before the first is drawn. */
static int each_prompt(const cli *c, sara_model *model, generate_request *r, prompt_fn fn)
{
    for (int i = 0; i < r->prompts.count; i++) {
        r->generate.prompt = r->prompts.items[i];
        sara_status status = fn(c->ctx, model, &r->generate);
        if (status != SARA_OK)
            return cli_fail_context(c, status);
    }
    return 0;
}

/* For the upper row of a comparison: adapters may change text encoders. They come off. */
static int encode_bare(const cli *c, sara_model *model, generate_request *r)
{
    if (sara_model_remove(model) != SARA_OK)
        return cli_fail_context(c, SARA_ERROR_DEVICE);
    r->generate.lora_ignore = true;
    int code = each_prompt(c, model, r, sara_generate_encode);
    r->generate.lora_ignore = false;
    return code;
}

/* The text encoder's memory is free while pictures are drawn. */
static int encode_prompts(const cli *c, sara_model *model, generate_request *r)
{
    int code = each_prompt(c, model, r, sara_generate_encode);
    if (code == 0 && r->compare)
        code = encode_bare(c, model, r);
    sara_model_release(model);
    return code;
}

static int generate(const cli *c, generate_request *r)
{
    sara_model *model = NULL;
    int code = generate_check(c, r);
    if (code == 0)
        code =
            cli_take_seed(c, &r->generate.seed, &r->seed, r->compare ? r->prompts.count : r->count);
    if (code == 0)
        code = cli_load(c, &model, &r->model);
    if (code == 0)
        code = cli_apply(c, model, &r->adapters, r->generate.lora_force);
    if (code == 0)
        code = each_prompt(c, model, r, sara_generate_check_model);
    if (code == 0)
        code = encode_prompts(c, model, r);
    if (code == 0)
        code = r->compare ? generate_compare(c, model, r) : generate_each(c, model, r);
    sara_model_free(model);
    return code;
}

/* -------------------------------------------------------------------------------------- options */

static int parse_generate(cli *c, const cli_option *options, bool *help)
{
    const cli_command command = {
        .name = "generate",
        .summary = "draw images from prompts",
        .usage = "-m DIR -p TEXT [options]",
        .examples =
            "  sara generate -m base -p \"a fox\" -o fox.png\n"
            "  sara generate -m base --adapter run/adapter.safetensors:0.8 -p \"ink style, a "
            "fox\"\n"
            "  sara generate -m base -p \"a (red:1.4) fox, [snow]\" -n \"(blurry)\"\n"
            "  sara generate -m base --lora-model-dir runs -p \"a fox <lora:ink:0.8>\"\n"
            "  sara generate -m base --embedding-dir embeddings -p \"a fox\" -n "
            "\"(easynegative:1.2)\"\n"
            "  sara generate -m base --adapter a.safetensors --compare -p cat -p dog -o grid.png\n",
        .options = options,
        .refusals = refusals,
    };
    return cli_parse(c, &command, help);
}

int cmd_generate(cli *c)
{
    generate_request r = {.output = NULL};
    sara_generate_options *g = &r.generate;
    bool help;
    sara_generate_options_init(g);
    r.seed.number = g->seed;
    const cli_option options[] = {
        {"model", 'm', CLI_STRING, &r.model.model, 0, 0, "PATH",
         "a diffusers folder or a .safetensors file"},
        {"prompt", 'p', CLI_LIST, &r.prompts, 0, 0, "TEXT", "what to draw; repeatable"},
        {"output", 'o', CLI_STRING, &r.output, 0, 0, "FILE",
         "a PNG; more: NAME_2.png, ... (output.png, always new)"},
        {"adapter", 0, CLI_LIST, &r.adapters, 0, 0, "FILE[:X]",
         "apply at strength X (1); repeatable"},
        CLI_DRAW_OPTIONS(g, &r.seed, &r.scheduler, true),
        CLI_SIZES_OPTIONS(g, true),
        {"batch-count", 'b', CLI_INT, &g->batch_count, 1, 100000, "N",
         "images for each prompt (1)"},
        {"compare", 0, CLI_SWITCH, &r.compare, 0, 0, NULL,
         "one PNG: without the adapters above, with them below; prompt i "
         "uses seed + i"},
        {"init-latents", 0, CLI_STRING, &g->init_latents, 0, 0, "FILE",
         "start noise, key latents [N,4,h,w], unit variance"},
        {"save-latents", 0, CLI_STRING, &g->save_latents, 0, 0, "FILE",
         "final latents, before the VAE"},
        {"force", 0, CLI_SWITCH, &g->lora_force, 0, 0, NULL,
         "apply adapters of other bases; of a LoRA what fits"},
        {"type", 0, CLI_STRING, &r.type, 0, 0, "TYPE",
         "in memory: f32, f16, bf16; auto: the file's (f32)"},
        {"weight_dtype", 0, CLI_STRING, &r.model.options.weight_dtype, 0, 0, "TYPE", "the same"},
        {"encoder_dtype", 0, CLI_STRING, &r.model.options.encoder_dtype, 0, 0, "TYPE",
         "likewise of text encoders and VAE (auto)"},
        {"device", 0, CLI_STRING, &r.model.options.device, 0, 0, "NAME",
         "where to compute: cpu (cpu)"},
        CLI_MODEL_OPTIONS(&r.model),
        CLI_PARTS_OPTIONS(&r.model),
        CLI_THREADS_OPTION(c),
        CLI_CONFIG_OPTION,
        {0},
    };
    int code = parse_generate(c, options, &help);
    return code || help ? code : generate(c, &r);
}
