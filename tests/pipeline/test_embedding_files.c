/* Files of textual inversion that are refused, and by which words; what memory may run out at. */
#include "pipeline/embedding.h"
#include "support/memory.h"
#include "support_golden.h"

#include <math.h>
#include <unistd.h>

#define RECORDED SARA_TEST_GOLDEN "/embeddings"

typedef struct emb_tensor {
    const char *name;
    sara_shape shape;
    sara_dtype dtype;
} emb_tensor;

/* Of zeros but for the last value of the last tensor; tensors end with a name NULL. */
static const char *put_tensors(test_pipe *pipe, const char *name, const emb_tensor *tensors,
                               float last)
{
    sara_tensor_source sources[4];
    size_t count = 0;
    for (; tensors[count].name; count++) {
        int64_t entries = sara_shape_count(&tensors[count].shape);
        float *values = NULL;
        assert_ok(pipe->ctx,
                  sara_arena_alloc(&pipe->strings, &values, (size_t)entries + 1, sizeof(*values)));
        memset(values, 0, ((size_t)entries + 1) * sizeof(*values));
        if (!tensors[count + 1].name && entries > 0)
            values[entries - 1] = last;
        sources[count] = (sara_tensor_source){tensors[count].name, tensors[count].dtype,
                                              tensors[count].shape, values};
    }
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, sources, count, NULL, 0));
    return path;
}

/* What the whole way from the prompt says. */
static void check_refused(test_pipe *pipe, sara_model *model, sara_status expected,
                          const char *text, const char *prompt)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = prompt;
    options.embedding_dir = pipe->folder;
    assert_refused(pipe->ctx, expected, text,
                   sara_generate_check_model(pipe->ctx, model, &options));
}

static void test_shapes(void **state)
{
    static const struct {
        emb_tensor tensors[4];
        float last;
        const char *text;
    } cases[] = {
        {{{"emb_params", {2, {0, 8}}, SARA_F32}}, 0, "0 vectors of width 8, expected 1 to 1024"},
        {{{"emb_params", {2, {1, 0}}, SARA_F32}}, 0, "1 vectors of width 0"},
        {{{"emb_params", {2, {1025, 8}}, SARA_F32}}, 0, "1025 vectors of width 8"},
        {{{"emb_params", {3, {1, 1, 8}}, SARA_F32}},
         0,
         "shape [1,1,8], expected [width] or [vectors,width]"},
        {{{"emb_params", {2, {2, 8}}, SARA_F32}}, NAN, "vector 1, entry 7 is nan: not finite"},
        {{{"emb_params", {2, {2, 8}}, SARA_F32}}, INFINITY, "is inf: not finite"},
        {{{"emb_params", {2, {2, 8}}, SARA_I32}}, 0, "I32"},
        {{{"emb_params", {1, {8}}, SARA_F32}, {"other", {1, {8}}, SARA_F32}},
         0,
         "no embedding: 2 tensors, the first emb_params"},
        {{{"<a>", {1, {8}}, SARA_F32}, {"<b>", {1, {8}}, SARA_F32}}, 0, "no embedding: 2 tensors"},
        {{{"clip_g", {2, {2, 8}}, SARA_F32}}, 0, "no embedding: 1 tensor, the first clip_g"},
        {{{"clip_l", {2, {2, 8}}, SARA_F32}, {"clip_g", {2, {3, 9}}, SARA_F32}},
         0,
         "2 vectors in clip_l, 3 in clip_g"},
        {{{"a.weight", {2, {2, 8}}, SARA_F32}}, 0, "no embedding: 1 tensor, the first a.weight"},
        {{{NULL, {0, {0}}, SARA_F32}}, 0, "no embedding: 0 tensors, expected emb_params"},
        {{{"emb_params", {2, {2, 24}}, SARA_F32}},
         0,
         "vectors of width 24, and " TEST_GOLDEN_MODEL
         " (Stable Diffusion) has text encoders of width 8; use an embedding that was made for it"},
        {{{"clip_l", {2, {2, 8}}, SARA_F32}, {"clip_g", {2, {2, 9}}, SARA_F32}},
         0,
         "vectors of width 8 + 9, and "},
        {{{"emb_params", {2, {15, 8}}, SARA_F32}}, 0, "15 vectors, and a text encoder of "},
    };
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        put_tensors(pipe, "toy.safetensors", cases[i].tensors, cases[i].last);
        check_refused(pipe, model, SARA_ERROR_INPUT, cases[i].text, "a toy");
        check_refused(pipe, model, SARA_ERROR_INPUT, "toy.safetensors: ", "a toy");
    }
    sara_model_free(model);
}

/* Those of SDXL have two text encoders. */
static void test_sdxl_width(void **state)
{
    static const emb_tensor one[] = {{"<a>", {1, {24}}, SARA_F32}, {NULL, {0, {0}}, SARA_F32}};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, test_family("sdxl").text, false);
    put_tensors(pipe, "toy.safetensors", one, 0);
    check_refused(pipe, model, SARA_ERROR_INPUT,
                  "(Stable Diffusion XL) has text encoders of width 24 + 32", "a toy");
    sara_model_free(model);
}

static void test_not_there(void **state)
{
    static const char pickle[] = "\x80\x02}q\x01.";
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    sara_generate_options options;
    test_put(pipe->folder, "sub/old.pt", pickle, sizeof(pickle) - 1);
    test_put(pipe->folder, "empty.safetensors", "", 0);
    check_refused(pipe, model, SARA_ERROR_INPUT, "sub/old.pt: a pickled file", "an old face");
    check_refused(pipe, model, SARA_ERROR_INPUT, "\"old.safetensors\")", "embedding:old");
    check_refused(pipe, model, SARA_ERROR_INPUT, "empty.safetensors: ", "an empty face");
    check_refused(pipe, model, SARA_ERROR_IO,
                  "/toy.safetensors: no such file; prompt asks for it with embedding:toy",
                  "a embedding:toy, b");
    sara_generate_options_init(&options);
    options.prompt = "a face"; /* what is not named is not read */
    options.negative_prompt = "embedding:toy";
    options.embedding_dir = pipe->folder;
    assert_refused(pipe->ctx, SARA_ERROR_IO, "negative prompt asks for it with embedding:toy",
                   sara_generate_check(pipe->ctx, &options));
    options.negative_prompt = NULL;
    assert_ok(pipe->ctx, sara_generate_check_model(pipe->ctx, model, &options));
    options.prompt = "embedding:toy";
    options.embedding_dir = NULL;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE,
                   "prompt: embedding:toy: no folder of embeddings is given (--embedding-dir DIR)",
                   sara_generate_check(pipe->ctx, &options));
    options.embedding_dir = test_path(pipe, "nowhere");
    assert_refused(pipe->ctx, SARA_ERROR_IO, "nowhere: there is no such folder",
                   sara_generate_check(pipe->ctx, &options));
    sara_model_free(model);
}

static void test_circle(void **state)
{
    test_pipe *pipe = *state;
    sara_embedding_folder *folder;
    assert_int_equal(symlink(".", test_path(pipe, "round")), 0);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "does a link lead in a circle?",
                   sara_embedding_folder_open(pipe->ctx, &folder, pipe->folder));
    assert_null(folder);
}

/* Of files with one name, pickled ones and those of other widths are passed over; of two that fit,
 * the first is taken and both are told. */
static void test_one_name(void **state)
{
    static const emb_tensor wide[] = {{"<a>", {1, {24}}, SARA_F32}, {NULL, {0, {0}}, SARA_F32}};
    static const emb_tensor one[] = {{"<a>", {1, {8}}, SARA_F32}, {NULL, {0, {0}}, SARA_F32}};
    static const emb_tensor two[] = {{"<a>", {2, {2, 8}}, SARA_F32}, {NULL, {0, {0}}, SARA_F32}};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_GOLDEN_MODEL, false);
    sara_generate_options options;
    sara_prompts prompts;
    test_put(pipe->folder, "a/toy.bin", "x", 1);
    test_put(pipe->folder, "b/x", "", 0);
    test_put(pipe->folder, "c/x", "", 0);
    put_tensors(pipe, "toy.safetensors", wide, 0);
    put_tensors(pipe, "b/toy.safetensors", one, 0);
    sara_generate_options_init(&options);
    options.prompt = "a toy";
    options.embedding_dir = test_text(pipe, "%s//", pipe->folder);
    for (int i = 0; i < 2; i++) {
        assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
        assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, &options, true));
        assert_int_equal(prompts.text.embedding_count, 1);
        assert_string_equal(prompts.text.embeddings[0].path, test_path(pipe, "b/toy.safetensors"));
        assert_int_equal(strstr(pipe->log, "b/toy.safetensors and ") != NULL, i);
        sara_prompts_free(pipe->ctx, &prompts);
        put_tensors(pipe, "c/toy.safetensors", two, 0);
    }
    options.prompt = "a embedding:c/toy";
    assert_ok(pipe->ctx, sara_prompts_read(pipe->ctx, &prompts, &options));
    assert_ok(pipe->ctx, sara_prompts_embed(pipe->ctx, model, &prompts, &options, true));
    assert_int_equal(prompts.text.embeddings[0].count, 2);
    sara_prompts_free(pipe->ctx, &prompts);
    sara_model_free(model);
}

/* A model of which nothing but the tokenizer is there. */
static sara_status embed_prompts(sara_context *ctx, const char *folder)
{
    sara_network network = {.class = NULL};
    sara_model model = {.ctx = ctx, .family = sara_families[0], .path = (char *)(uintptr_t) "m"};
    sara_generate_options options;
    sara_prompts prompts = {.count = 0};
    sara_prompt_chunks chunks = {0};
    char *text = NULL;
    sara_status status;
    sara_generate_options_init(&options);
    options.prompt = "a <cat-toy>, (bad-hands:1.2) embedding:bad-hands";
    options.negative_prompt = "bad-hands";
    options.embedding_dir = folder;
    network.info.text.hidden_size = 8;
    model.keeps_embeddings = true;
    for (int i = 0; i < model.family->part_count; i++)
        model.parts[i].network = &network;
    TRY(sara_tokenizer_load(ctx, &model.parts[TEST_TEXT].tokenizer, TEST_GOLDEN_MODEL "/tokenizer",
                            16));
    TRY(sara_generate_check(ctx, &options));
    TRY(sara_prompts_read(ctx, &prompts, &options));
    TRY(sara_prompts_embed(ctx, &model, &prompts, &options, true));
    TRY(sara_prompt_chunks_make(ctx, &chunks, model.parts[TEST_TEXT].tokenizer, &prompts.text,
                                true));
    TRY(sara_prompt_t5_text(ctx, &text, &prompts.text));
done:
    sara_free(ctx, text);
    sara_prompt_chunks_free(ctx, &chunks);
    sara_prompts_free(ctx, &prompts);
    sara_embedding_folder_free(model.embeddings);
    sara_tokenizer_free(model.parts[TEST_TEXT].tokenizer);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(embed_prompts, RECORDED "/sd1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_shapes), TEST_CASE(test_sdxl_width), TEST_CASE(test_not_there),
        TEST_CASE(test_circle), TEST_CASE(test_one_name),   TEST_CASE(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
