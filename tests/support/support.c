#include "support/support.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void test_assert_status(sara_context *ctx, sara_status got, sara_status expected, const char *call,
                        const char *file, int line)
{
    if (got == expected)
        return;
    print_error("%s: status %d, expected %d: %s\n", call, got, expected, sara_context_error(ctx));
    _fail(file, line);
}

void test_assert_contains(const char *text, const char *part, const char *file, int line)
{
    if (strstr(text, part))
        return;
    print_error("\"%s\" does not contain \"%s\"\n", text, part);
    _fail(file, line);
}

void test_assert_close(double error, double tolerance, const char *what, const char *file, int line)
{
    if (error <= tolerance)
        return;
    print_error("%s: error %.3g, tolerance %.3g\n", what, error, tolerance);
    _fail(file, line);
}

void test_set_locale(const char *name)
{
    if (!setlocale(LC_ALL, name))
        fail_msg("no locale %s: run by ctest, which makes it (package locales)", name);
}

sara_context *test_context(void)
{
    sara_context *ctx = NULL;
    sara_context_options options = {.threads = 2};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    return ctx;
}

double test_relative_l2(const float *a, const float *b, size_t count)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)a[i] - b[i];
        error += d * d;
        norm += (double)b[i] * b[i];
    }
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

sara_safetensors *test_open(sara_context *ctx, const char *path)
{
    sara_safetensors *file = NULL;
    assert_ok(ctx, sara_safetensors_open(ctx, &file, path));
    return file;
}

float *test_load_f32(sara_context *ctx, const sara_safetensors *file, const char *name,
                     size_t *count)
{
    float *data = NULL;
    const sara_tensor_info *info = sara_safetensors_find(file, name);
    if (!info)
        fail_msg("%s: no tensor %s", sara_safetensors_path(file), name);
    *count = (size_t)sara_shape_count(&info->shape);
    assert_ok(ctx, sara_alloc(ctx, &data, *count, sizeof(*data)));
    assert_ok(ctx, sara_safetensors_read_f32(file, data, info));
    return data;
}

char *test_folder(void)
{
    const char *top = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/sara-test-XXXXXX", top ? top : "/tmp") < 0 || !mkdtemp(path))
        fail_msg("mkdtemp failed");
    return path;
}

void test_folder_remove(char *folder)
{
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_directory_remove(ctx, folder));
    sara_context_free(ctx);
    free(folder);
}

char *test_file(const char *folder, const char *name, const void *data, size_t size)
{
    char *path = NULL;
    FILE *file = asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : fopen(path, "wb");
    if (!file || (size && fwrite(data, 1, size, file) != size) || fclose(file))
        fail_msg("cannot write %s/%s", folder, name);
    return path;
}

void test_put(const char *folder, const char *name, const void *data, size_t size)
{
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        char *path = NULL;
        int length = asprintf(&path, "%s/%.*s", folder, (int)(slash - name), name);
        if (length < 0 || (mkdir(path, 0777) != 0 && errno != EEXIST))
            fail_msg("cannot make the folders of %s/%s", folder, name);
        free(path);
    }
    free(test_file(folder, name, data, size));
}

long test_stride(long every)
{
    const char *text = getenv("SARA_LONG");
    return text && strcmp(text, "1") == 0 ? 1 : every;
}

static const char *families_root(void)
{
    const char *root = getenv("SARA_GOLDEN_FAMILIES");
    return root && *root ? root : NULL;
}

test_name test_family(const char *name)
{
    const char *root = families_root();
    test_name out;
    snprintf(out.text, sizeof(out.text), "%s/%s", root ? root : SARA_TEST_GOLDEN "/families", name);
    return out;
}

bool test_families_whole(void)
{
    return families_root() != NULL;
}
