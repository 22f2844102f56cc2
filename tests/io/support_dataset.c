#include "support_dataset.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep_line(void *user, sara_log_level level, const char *line)
{
    dataset_test *test = user;
    char *longer = NULL;
    assert_true(asprintf(&longer, "%s%s%s\n", test->log ? test->log : "",
                         level == SARA_LOG_WARNING ? "warning: " : "", line) > 0);
    free(test->log);
    test->log = longer;
}

int dataset_set_up(void **state)
{
    dataset_test *test = calloc(1, sizeof(*test));
    assert_non_null(test);
    const sara_context_options options = {.threads = 2, .log = keep_line, .user = test};
    assert_ok(test->ctx, sara_context_new(&test->ctx, &options));
    test->path = test_folder();
    test->options.folder = test->path;
    *state = test;
    return 0;
}

int dataset_tear_down(void **state)
{
    dataset_test *test = *state;
    sara_dataset_free(&test->data);
    sara_context_free(test->ctx);
    test_folder_remove(test->path);
    free(test->log);
    free(test);
    return 0;
}

void dataset_put(const dataset_test *test, const char *name, const char *content)
{
    test_put(test->path, name, content, strlen(content));
}

char *dataset_path(const dataset_test *test, const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", test->path, name) > 0);
    return path;
}

void dataset_link(const dataset_test *test, const char *name, const char *target)
{
    char *path = dataset_path(test, name);
    assert_int_equal(symlink(target, path), 0);
    free(path);
}

sara_status dataset_scan(dataset_test *test)
{
    sara_dataset_free(&test->data);
    free(test->log);
    test->log = NULL;
    return sara_dataset_scan(test->ctx, &test->data, &test->options);
}

void dataset_assert(dataset_test *test, const char *const *lines, size_t count)
{
    assert_ok(test->ctx, dataset_scan(test));
    for (size_t i = 0; i < test->data.count && i < count; i++) {
        const sara_dataset_item *item = &test->data.items[i];
        char repeats[32] = "", *line = NULL;
        assert_memory_equal(item->path, test->path, strlen(test->path));
        if (item->repeats != 1)
            snprintf(repeats, sizeof(repeats), " x%lld", (long long)item->repeats);
        assert_true(asprintf(&line, "%s: %s%s", item->path + strlen(test->path) + 1, item->caption,
                             repeats) > 0);
        assert_string_equal(line, lines[i]);
        free(line);
    }
    assert_int_equal(test->data.count, count);
}

void dataset_assert_logged(const dataset_test *test, const char *text)
{
    test_assert_contains(test->log ? test->log : "", text, __FILE__, __LINE__);
}
