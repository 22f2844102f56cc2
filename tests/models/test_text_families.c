/* CLIP's text encoders of SDXL and SD3 against transformers: hidden states counted from the end,
 * pooled states through projections, and the tokenizer that pads with "!". */
#include "support_models.h"

#include "models/clip.h"

#include <stdlib.h>

typedef struct family_run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *text;
    sara_safetensors *golden;
    int32_t *ids;
    int64_t batch, count;
} family_run;

static family_run family_open(const char *name, const sara_network_class *class, const char *device)
{
    const test_name folder = test_family(name);
    family_run r = {.ctx = test_context()};
    char *path;
    assert_ok(r.ctx, sara_nn_device_open(r.ctx, &r.device, device));
    assert_ok(r.ctx, sara_tape_new(r.ctx, &r.tape, r.device));
    assert_ok(r.ctx,
              sara_network_load(r.device, &r.text, class, folder.text, NULL, SARA_STORE_F32));
    assert_ok(r.ctx, sara_path_join(r.ctx, &path, folder.text, "golden.safetensors"));
    r.golden = test_open(r.ctx, path);
    sara_free(r.ctx, path);
    r.ids = test_load_ids(r.ctx, r.golden, &r.batch, &r.count);
    return r;
}

static void family_close(family_run *r)
{
    sara_free(r->ctx, r->ids);
    sara_safetensors_close(r->golden);
    sara_network_free(r->text);
    sara_tape_free(r->tape);
    sara_nn_device_close(r->device);
    sara_context_free(r->ctx);
}

static void check_family(const char *name, const sara_network_class *class, const char *device)
{
    static const char *const states_of[] = {"last_hidden_state", "penultimate", "third_last"};
    family_run r = family_open(name, class, device);
    bool plain = class == &sara_clip_text_class;
    for (int skip = 0; skip < 3; skip++)
        for (int with = 0; with < 2; with++) {
            sara_var *states, *pooled;
            assert_ok(r.ctx, sara_clip_text_forward(r.tape, &states, with ? &pooled : NULL, r.text,
                                                    skip, r.ids, r.batch, r.count));
            assert_close(test_var_error(r.ctx, states, r.golden, states_of[skip]), 1e-5, name);
            if (with)
                assert_close(test_var_error(r.ctx, pooled, r.golden,
                                            plain ? "pooler_output" : "text_embeds"),
                             1e-5, name);
            sara_tape_reset(r.tape);
        }
    family_close(&r);
}

static void states_and_projections_of_transformers(void **state)
{
    static const struct {
        const char *name;
        const sara_network_class *class;
        bool committed;
    } encoders[] = {
        {"sdxl/text_encoder", &sara_clip_text_class, true},
        {"sdxl/text_encoder_2", &sara_clip_text_projection_class, true},
        {"sd3/text_encoder", &sara_clip_text_projection_class, false},
        {"sd3/text_encoder_2", &sara_clip_text_projection_class, false},
        {"sd35_medium/text_encoder", &sara_clip_text_projection_class, false},
        {"sd35_medium/text_encoder_2", &sara_clip_text_projection_class, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(encoders) / sizeof(*encoders); i++) {
        if (!encoders[i].committed && !test_families_whole())
            continue;
        check_family(encoders[i].name, encoders[i].class, "cpu-plain");
        check_family(encoders[i].name, encoders[i].class, "cpu");
    }
}

/* ids without their second to fourth, whose rows of the table are the vectors [3][width], last
 * first; sara_free(). */
static float *take_rows(const family_run *r, int32_t *ids)
{
    const sara_param *table =
        sara_params_find(&r->text->params, "text_model.embeddings.token_embedding.weight");
    const size_t width = (size_t)table->value.shape.dims[1];
    sara_param copy;
    float *vectors = NULL;
    assert_ok(r->ctx, sara_alloc(r->ctx, &vectors, 3, width * sizeof(float)));
    assert_ok(r->ctx, sara_param_read(r->ctx, &copy, table));
    for (int32_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < width; k++)
            vectors[(size_t)(2 - i) * width + k] =
                sara_param_get(&copy, (size_t)ids[1 + i] * width + k);
        ids[1 + i] = -3 + i;
    }
    sara_param_read_end(r->ctx, &copy, table);
    return vectors;
}

/* Vectors of textual inversion, which are those of words here. */
static void vectors_in_the_place_of_ids(void **state)
{
    static const char *const devices[] = {"cpu-plain", "cpu"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        family_run r =
            family_open("sdxl/text_encoder_2", &sara_clip_text_projection_class, devices[i]);
        float *data = take_rows(&r, r.ids);
        sara_clip_vectors vectors = {data, 3};
        sara_var *states, *pooled;
        assert_ok(r.ctx, sara_clip_text_forward_with(r.tape, &states, &pooled, r.text, 1, r.ids,
                                                     r.batch, r.count, &vectors));
        assert_close(test_var_error(r.ctx, states, r.golden, "penultimate"), 1e-5, devices[i]);
        assert_close(test_var_error(r.ctx, pooled, r.golden, "text_embeds"), 1e-5, devices[i]);
        sara_tape_reset(r.tape);
        vectors.count = 2;
        assert_refused(r.ctx, SARA_ERROR_INPUT, "id -3, and 2 vectors beside its table",
                       sara_clip_text_forward_with(r.tape, &states, NULL, r.text, 1, r.ids, r.batch,
                                                   r.count, &vectors));
        sara_free(r.ctx, data);
        family_close(&r);
    }
}

static void more_layers_than_there_are(void **state)
{
    family_run r = family_open("sdxl/text_encoder", &sara_clip_text_class, "cpu");
    sara_var *states;
    (void)state;
    assert_refused(r.ctx, SARA_ERROR_INPUT, "4 layers left out, expected 0 to 3",
                   sara_clip_text_forward(r.tape, &states, NULL, r.text, 4, r.ids, 1, 8));
    assert_ok(r.ctx, sara_clip_text_forward(r.tape, &states, NULL, r.text, 3, r.ids, 1, 8));
    family_close(&r);
}

/* A width that the weights do not have. */
static void projections_of_other_widths(void **state)
{
    char *folder =
        test_model_copy(test_family("sdxl/text_encoder_2").text, "{\"projection_dim\": 29}", true);
    sara_context *ctx = test_context();
    sara_network *text = NULL;
    (void)state;
    assert_refused(ctx, SARA_ERROR_INPUT, "text_projection.weight: shape [28,32], expected [29,32]",
                   sara_network_load(sara_host_device(ctx), &text, &sara_clip_text_projection_class,
                                     folder, NULL, SARA_STORE_F32));
    sara_context_free(ctx);
    test_folder_remove(folder);
}

/* -------------------------------------------------------------------------------- the tokenizer */

static void check_list(const int32_t *ids, size_t count, const json_t *expected, const char *text)
{
    assert_int_equal(json_array_size(expected), count);
    for (size_t i = 0; i < count; i++)
        if (ids[i] != (int32_t)json_integer_value(json_array_get(expected, i)))
            fail_msg("\"%s\": id %zu is %d", text, i, ids[i]);
}

/* Every "!" is the padding's token, id 0, whatever stands around it. */
static void ids_of_the_second_tokenizer(void **state)
{
    sara_context *ctx = test_context();
    sara_tokenizer *tokenizer = NULL;
    json_t *rows = json_load_file(test_family("tokens_clip_2.json").text, JSON_ALLOW_NUL, NULL);
    (void)state;
    assert_ok(ctx, sara_tokenizer_load(ctx, &tokenizer, test_family("sdxl/tokenizer_2").text, 32));
    assert_true(json_array_size(rows) > 30);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *text = json_string_value(json_object_get(row, "text"));
        int32_t padded[32], *ids = NULL;
        size_t count;
        if (strlen(text) != json_string_length(json_object_get(row, "text")))
            continue; /* no string of C */
        assert_ok(ctx, sara_tokenizer_pad(tokenizer, padded, NULL, text));
        check_list(padded, 32, json_object_get(row, "ids"), text);
        assert_ok(ctx, sara_tokenizer_encode(tokenizer, &ids, &count, text));
        check_list(ids, count, json_object_get(row, "full"), text);
        sara_free(ctx, ids);
    }
    json_decref(rows);
    sara_tokenizer_free(tokenizer);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_and_projections_of_transformers),
        cmocka_unit_test(vectors_in_the_place_of_ids),
        cmocka_unit_test(more_layers_than_there_are),
        cmocka_unit_test(projections_of_other_widths),
        cmocka_unit_test(ids_of_the_second_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
