/* The pictures of validation prompts: a row for each prompt, a column for each step shown. */
#include "train/report.h"

#include <stdlib.h>

#define PICTURE_STEPS   8 /* that are shown: the first, the last and evenly between */
#define PICTURE_PROMPTS 16

typedef struct picture_list {
    int64_t *steps; /* that have pictures, ascending, each once */
    size_t count, capacity;
    int prompts; /* one more than the largest number of one */
} picture_list;

/* What sara_run_validate() writes; other names could lead anywhere. */
static bool read_picture_name(const char *name, int64_t *step, int *prompt)
{
    const char *digits = name + 5;
    if (strncmp(name, "step-", 5) != 0)
        return false;
    size_t length = strspn(digits, "0123456789"), more;
    if (length < 6 || length > 15 || digits[length] != '-')
        return false;
    more = strspn(digits + length + 1, "0123456789");
    if (more < 1 || more > 4 || strcmp(digits + length + 1 + more, ".png") != 0)
        return false;
    *step = strtoll(digits, NULL, 10);
    *prompt = atoi(digits + length + 1);
    return true;
}

static int by_step(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static sara_status find_pictures(const sara_run *run, picture_list *list)
{
    char *folder = NULL, **names = NULL;
    size_t count = 0, kept = 0;
    sara_status status;
    TRY(sara_path_join(run->ctx, &folder, run->folder, "samples"));
    if (!sara_path_is_directory(folder))
        goto done;
    TRY(sara_directory_list(run->ctx, &names, &count, folder));
    for (size_t i = 0; i < count; i++) {
        int64_t step;
        int prompt;
        if (!read_picture_name(names[i], &step, &prompt))
            continue;
        TRY(sara_grow(run->ctx, &list->steps, &list->capacity, list->count + 1, sizeof(step)));
        list->steps[list->count++] = step;
        list->prompts = prompt >= list->prompts ? prompt + 1 : list->prompts;
    }
    if (list->count)
        qsort(list->steps, list->count, sizeof(*list->steps), by_step);
    for (size_t i = 0; i < list->count; i++)
        if (i == 0 || list->steps[i] != list->steps[kept - 1])
            list->steps[kept++] = list->steps[i];
    list->count = kept;
done:
    sara_free(run->ctx, folder);
    sara_directory_free(run->ctx, names, count);
    return status;
}

static sara_status put_grid(sara_page *page, const sara_run *run, const sara_run_facts *facts,
                            const picture_list *list, sara_arena *arena)
{
    const char *columns[PICTURE_STEPS], *rows[PICTURE_PROMPTS];
    const char *paths[PICTURE_PROMPTS * PICTURE_STEPS];
    size_t steps = list->count < PICTURE_STEPS ? list->count : PICTURE_STEPS;
    size_t prompts =
        (size_t)list->prompts < PICTURE_PROMPTS ? (size_t)list->prompts : PICTURE_PROMPTS;
    char *path = NULL;
    sara_status status = SARA_OK;
    const sara_name caption =
        sara_name_of("%zu of %zu steps with pictures, %zu of %d prompts; samples/ has all", steps,
                     list->count, prompts, list->prompts);
    for (size_t i = 0; i < steps * prompts; i++) {
        size_t column = i % steps, row = i / steps;
        int64_t step = list->steps[steps > 1 ? column * (list->count - 1) / (steps - 1) : 0];
        if (row == 0)
            TRY(sara_arena_strdup(arena, &columns[column],
                                  sara_name_of("step %lld", (long long)step).text));
        if (column == 0)
            TRY((int)row < facts->prompt_count
                    ? sara_arena_strdup(arena, &rows[row], facts->prompts[row])
                    : sara_arena_strdup(arena, &rows[row], sara_name_of("prompt %zu", row).text));
        TRY(sara_format(run->ctx, &path, "%s/samples/step-%06lld-%zu.png", run->folder,
                        (long long)step, row));
        paths[i] = NULL;
        if (sara_path_exists(path))
            TRY(sara_arena_strdup(arena, &paths[i], path));
        sara_free(run->ctx, path);
        path = NULL;
    }
    TRY(sara_page_pictures(
        page, &(sara_picture_grid){caption.text, "prompt", columns, rows, paths, steps, prompts}));
done:
    sara_free(run->ctx, path);
    return status;
}

sara_status sara_report_put_pictures(sara_page *page, const sara_run *run,
                                     const sara_run_facts *facts)
{
    picture_list list = {0};
    sara_arena arena;
    sara_status status;
    sara_arena_init(&arena, run->ctx);
    TRY(find_pictures(run, &list));
    if (list.count == 0)
        goto done;
    TRY(sara_page_heading(page, "Validation prompts"));
    TRY(put_grid(page, run, facts, &list, &arena));
done:
    sara_arena_free(&arena);
    sara_free(run->ctx, list.steps);
    return status;
}
