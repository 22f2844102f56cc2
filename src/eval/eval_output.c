/* The folder that drawn pictures are kept in: a data set, with a row for each. */
#include "eval/eval.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define ROWS "metadata.jsonl"

/* What is measured would be another when it is read again. */
static sara_status check_output_apart(const sara_evaluation *e)
{
    const sara_eval_options *o = &e->options;
    const char *const folders[] = {o->references, o->before, o->model_path};
    bool within;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
        if (!folders[i])
            continue;
        TRY(sara_path_is_within(e->ctx, &within, o->output, folders[i]));
        if (within)
            return sara_fail(e->ctx, SARA_ERROR_USAGE,
                             "--output %s: is within %s; name a folder elsewhere", o->output,
                             folders[i]);
    }
done:
    return status;
}

sara_status sara_evaluation_open_output(sara_evaluation *e)
{
    const char *folder = e->options.output;
    char *path = NULL;
    sara_status status = SARA_OK;
    if (!folder)
        return SARA_OK;
    TRY(check_output_apart(e));
    TRY(sara_check_new_folder(e->ctx, folder));
    e->made_output = !sara_path_exists(folder);
    TRY(sara_directory_make(e->ctx, folder));
    TRY(sara_path_join(e->ctx, &path, folder, ROWS));
    e->rows = fopen(path, "we");
    if (!e->rows)
        status = sara_fail_errno(e->ctx, path, "open");
done:
    sara_free(e->ctx, path);
    return status;
}

/* Picture and row are there together, whenever the process ends. */
static sara_status add_row_of(sara_evaluation *e, const sara_eval_picture *picture, uint64_t seed)
{
    json_t *row = json_pack("{s:s,s:s,s:s,s:I}", "file_name", picture->name, "text", picture->text,
                            "prompt", picture->prompt, "seed", (json_int_t)seed);
    char *text = row ? sara_json_dump(row, JSON_COMPACT) : NULL;
    sara_status status = SARA_OK;
    if (!text)
        status = sara_fail(e->ctx, SARA_ERROR_MEMORY, "out of memory: a row of " ROWS);
    else if (fprintf(e->rows, "%s\n", text) < 0 || fflush(e->rows) != 0)
        status = sara_fail_errno(e->ctx, e->options.output, "write " ROWS);
    free(text);
    json_decref(row);
    return status;
}

sara_status sara_evaluation_keep(sara_evaluation *e, size_t index, const sara_image *image,
                                 const sara_generate_options *options, int place)
{
    const sara_eval_picture *picture = &e->pictures[index];
    char *path = NULL, *text = NULL;
    sara_status status = SARA_OK;
    if (!e->rows)
        return SARA_OK;
    TRY(sara_path_join(e->ctx, &path, e->options.output, picture->name));
    TRY(sara_generate_text(e->ctx, &text, e->model, options, image->width, image->height, place));
    TRY(sara_image_save(e->ctx, image, path, text));
    TRY(add_row_of(e, picture, options->seed + (uint64_t)place));
    e->kept++;
done:
    sara_free(e->ctx, text);
    sara_free(e->ctx, path);
    return status;
}

void sara_evaluation_close_output(sara_evaluation *e)
{
    char *path = NULL;
    if (!e->rows)
        return;
    fclose(e->rows);
    e->rows = NULL;
    if (e->kept > 0 || sara_path_join(e->ctx, &path, e->options.output, ROWS) != SARA_OK)
        return;
    unlink(path);
    if (e->made_output)
        rmdir(e->options.output);
    sara_free(e->ctx, path);
}
