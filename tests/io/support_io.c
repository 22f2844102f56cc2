#include "support_io.h"

#include <stdio.h>
#include <stdlib.h>

char *test_safetensors(const char *folder, const char *header, size_t data_size)
{
    uint64_t length = strlen(header);
    size_t size = 8 + (size_t)length + data_size;
    char *bytes = malloc(size);
    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, (size_t)length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (char)i;
    char *path = test_file(folder, "t.safetensors", bytes, size);
    free(bytes);
    return path;
}

char *test_join(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        fail_msg("out of memory");
    return path;
}

void test_assert_names(sara_context *ctx, const char *folder, size_t count)
{
    char **names = NULL;
    size_t found = 0;
    assert_ok(ctx, sara_directory_list(ctx, &names, &found, folder));
    sara_directory_free(ctx, names, found);
    assert_int_equal(found, count);
}
