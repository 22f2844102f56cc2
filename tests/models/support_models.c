#include "support_models.h"

#include <stdio.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------- folders */

static void copy_files(sara_context *ctx, const char *source, const char *folder)
{
    char **names, *from, *to;
    size_t count;
    assert_ok(ctx, sara_directory_list(ctx, &names, &count, source));
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], "config.json") == 0)
            continue;
        assert_ok(ctx, sara_path_join(ctx, &from, source, names[i]));
        assert_ok(ctx, sara_path_join(ctx, &to, folder, names[i]));
        assert_ok(ctx, sara_file_copy(ctx, from, to));
        sara_free(ctx, from);
        sara_free(ctx, to);
    }
    sara_directory_free(ctx, names, count);
}

char *test_model_copy(const char *source, const char *edits, bool with_files)
{
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path;
    assert_ok(ctx, sara_path_join(ctx, &path, source, "config.json"));
    json_t *config = json_load_file(path, 0, NULL);
    json_t *changes = json_loads(edits, 0, NULL);
    if (!config || !changes || json_object_update(config, changes))
        fail_msg("%s or %s is not JSON", path, edits);
    char *text = json_dumps(config, JSON_INDENT(2));
    free(test_file(folder, "config.json", text, strlen(text)));
    if (with_files)
        copy_files(ctx, source, folder);
    free(text);
    json_decref(changes);
    json_decref(config);
    sara_free(ctx, path);
    sara_context_free(ctx);
    return folder;
}

/* --------------------------------------------------------------------------------- allocations */

typedef struct counter {
    size_t left, alive; /* allocations until one fails; blocks not given back */
} counter;

static void *count_allocate(void *user, size_t size)
{
    counter *c = user;
    void *memory = c->left ? malloc(size) : NULL;
    c->left -= c->left > 0;
    c->alive += memory != NULL;
    return memory;
}

static void count_release(void *user, void *memory)
{
    counter *c = user;
    c->alive--;
    free(memory);
}

void test_allocation_failures(sara_status (*work)(sara_context *ctx))
{
    sara_status status = SARA_ERROR_MEMORY;
    size_t failures = 0;
    for (size_t n = 0; status != SARA_OK; n++) {
        counter c = {n, 0};
        sara_allocator allocator = {count_allocate, count_release, &c};
        sara_context_options options = {.allocator = &allocator, .threads = 1};
        sara_context *ctx = NULL;
        status = sara_context_new(&ctx, &options);
        if (status == SARA_OK)
            status = work(ctx);
        if (status != SARA_OK && status != SARA_ERROR_MEMORY)
            fail_msg("allocation %zu failed: status %d: %s", n, status, sara_context_error(ctx));
        failures += status != SARA_OK;
        sara_context_free(ctx);
        if (c.alive)
            fail_msg("allocation %zu failed: %zu blocks were not given back", n, c.alive);
    }
    assert_true(failures > 100);
}

/* ----------------------------------------------------------------------------------- variables */

sara_var *test_leaf(sara_tape *tape, const sara_safetensors *golden, const char *name, float **data)
{
    sara_context *ctx = sara_tape_context(tape);
    sara_var *var = NULL;
    size_t count;
    *data = test_load_f32(ctx, golden, name, &count);
    assert_ok(
        ctx, sara_tape_leaf(tape, &var, &sara_safetensors_find(golden, name)->shape, *data, false));
    return var;
}

double test_var_error(sara_context *ctx, const sara_var *var, const sara_safetensors *golden,
                      const char *name)
{
    size_t count;
    float *expected = test_load_f32(ctx, golden, name, &count);
    sara_shape_text got, want;
    const sara_shape *shape = &sara_safetensors_find(golden, name)->shape;
    if (!sara_shape_equal(&var->shape, shape))
        fail_msg("%s: shape %s, expected %s", name, sara_shape_format(&got, &var->shape),
                 sara_shape_format(&want, shape));
    double error = test_relative_l2(var->data, expected, count);
    sara_free(ctx, expected);
    return error;
}

int32_t *test_load_ids(sara_context *ctx, const sara_safetensors *golden, int64_t *batch,
                       int64_t *count)
{
    const sara_shape any = sara_shape2(-1, -1);
    sara_tensor tensor;
    int32_t *ids;
    assert_ok(ctx, sara_safetensors_load(golden, &tensor, "input_ids", SARA_I64, &any));
    *batch = tensor.shape.dims[0];
    *count = tensor.shape.dims[1];
    size_t total = (size_t)(*batch * *count);
    assert_ok(ctx, sara_alloc(ctx, &ids, total, sizeof(*ids)));
    for (size_t i = 0; i < total; i++)
        ids[i] = (int32_t)((int64_t *)tensor.data)[i];
    sara_tensor_free(ctx, &tensor);
    return ids;
}
