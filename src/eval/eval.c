/* `sara eval`: from what is asked for to the report. */
#include "eval/eval.h"

#include <stdlib.h>

void sara_evaluation_close(sara_evaluation *e)
{
    sara_evaluation_close_output(e);
    sara_model_free(e->model);
    for (int by = 0; by < SARA_BACKBONES; by++) {
        for (int set = 0; set < SARA_EVAL_SETS; set++)
            sara_free(e->ctx, e->features[by][set].values);
        sara_backbone_close(e->backbones[by]);
    }
    sara_free(e->ctx, e->texts.values);
    sara_arena_free(&e->arena);
}

static sara_status check_page(const sara_evaluation *e)
{
    sara_writer *writer = NULL;
    sara_status status = SARA_OK;
    if (e->options.page)
        status = sara_writer_open(e->ctx, &writer, e->options.page);
    sara_writer_abort(&writer);
    return status;
}

sara_status sara_evaluation_open(sara_evaluation *e, const sara_eval_options *options)
{
    sara_status status;
    TRY(sara_evaluation_read(e, options));
    TRY(check_page(e));
    TRY(sara_evaluation_find(e));
    TRY(sara_evaluation_open_output(e));
    TRY(sara_evaluation_open_backbones(e));
    TRY(sara_evaluation_load(e));
    TRY(sara_evaluation_measure_texts(e));
    if (e->references)
        TRY(sara_evaluation_measure_files(e, SARA_SET_REFERENCES));
    if (e->before)
        TRY(sara_evaluation_measure_files(e, SARA_SET_BEFORE));
done:
    return status;
}

static sara_status measure_all(sara_evaluation *e)
{
    sara_status status;
    if (e->options.images)
        return sara_evaluation_measure_files(e, SARA_SET_PICTURES);
    e->draws = e->options.drift ? 2 : 1;
    TRY(sara_evaluation_draw(e, SARA_SET_PICTURES));
    if (e->options.drift)
        TRY(sara_evaluation_draw(e, SARA_SET_BEFORE));
done:
    return status;
}

sara_status sara_evaluation_text(sara_context *ctx, char **out, const json_t *report)
{
    char *text = sara_json_dump(report, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    sara_status status = text ? sara_strdup(ctx, out, text)
                              : sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: the report");
    free(text);
    return status;
}

sara_status sara_eval(sara_context *ctx, char **report, const sara_eval_options *options)
{
    sara_evaluation e = {.ctx = ctx};
    json_t *object = NULL;
    sara_status status;
    *report = NULL;
    TRY(sara_evaluation_open(&e, options));
    TRY(measure_all(&e));
    TRY(sara_evaluation_report(&e, &object));
    TRY(sara_evaluation_text(ctx, report, object));
    if (e.options.page)
        TRY(sara_evaluation_page(&e, object, e.options.page));
done:
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    json_decref(object);
    sara_evaluation_close(&e);
    return status;
}
