/* Runs a target once on every file of a folder: fuzz_TARGET_corpus FOLDER */
#include "fuzz/fuzz.h"

#include <stdio.h>

static void run(sara_context *ctx, const char *folder, const char *name)
{
    char *path = NULL, *data = NULL;
    size_t size;
    fuzz_assert(sara_path_join(ctx, &path, folder, name) == SARA_OK);
    fuzz_assert(sara_file_read(ctx, &data, &size, path, 1 << 20) == SARA_OK);
    fprintf(stderr, "%s, %zu bytes\n", name, size);
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    sara_free(ctx, data);
    sara_free(ctx, path);
}

int main(int argc, char **argv)
{
    sara_context *ctx = fuzz_context();
    char **names = NULL;
    size_t count = 0;
    fuzz_assert(argc == 2);
    fuzz_assert(sara_directory_list(ctx, &names, &count, argv[1]) == SARA_OK);
    fuzz_assert(count >= 3);
    for (size_t i = 0; i < count; i++)
        run(ctx, argv[1], names[i]);
    sara_directory_free(ctx, names, count);
    sara_context_free(ctx);
    return 0;
}
