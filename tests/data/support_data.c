#include "support_data.h"

#include <stdlib.h>
#include <string.h>

static void keep_line(void *user, sara_log_level level, const char *line)
{
    data_test *test = user;
    char *longer = NULL;
    assert_true(asprintf(&longer, "%s%s%s\n", test->log,
                         level == SARA_LOG_WARNING ? "warning: " : "", line) > 0);
    free(test->log);
    test->log = longer;
}

int data_set_up(void **state)
{
    data_test *test = calloc(1, sizeof(*test));
    assert_non_null(test);
    const sara_context_options options = {.threads = 2, .log = keep_line, .user = test};
    test->log = strdup("");
    assert_ok(test->ctx, sara_context_new(&test->ctx, &options));
    sara_arena_init(&test->strings, test->ctx);
    test->folder = test_folder();
    *state = test;
    return 0;
}

int data_tear_down(void **state)
{
    data_test *test = *state;
    sara_arena_free(&test->strings);
    sara_context_free(test->ctx);
    test_folder_remove(test->folder);
    free(test->log);
    free(test);
    return 0;
}

const char *data_path(data_test *test, const char *name)
{
    const char *kept;
    char *path = NULL;
    assert_ok(test->ctx, sara_path_join(test->ctx, &path, test->folder, name));
    assert_ok(test->ctx, sara_arena_strdup(&test->strings, &kept, path));
    sara_free(test->ctx, path);
    return kept;
}

void data_put(data_test *test, const char *name, const char *content)
{
    test_put(test->folder, name, content, strlen(content));
}

void data_forget_log(data_test *test)
{
    test->log[0] = '\0';
}

void data_put_image(data_test *test, const char *name, int width, int height)
{
    sara_image image = {.width = width, .height = height};
    const size_t bytes = 3 * (size_t)width * (size_t)height;
    image.pixels = malloc(bytes);
    assert_non_null(image.pixels);
    memset(image.pixels, 127, bytes);
    data_put(test, name, ""); /* and the folders that it lies in */
    assert_ok(test->ctx, sara_image_save(test->ctx, &image, data_path(test, name), NULL));
    free(image.pixels);
}
