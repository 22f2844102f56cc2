/* sara_compare(): from the config to what is written. */
#include "compare/tables.h"

#include <stdlib.h>

sara_status sara_compare_put(const sara_comparison *c, json_t *object, const char *key,
                             json_t *value)
{
    int failed = json_is_array(object) ? json_array_append_new(object, value)
                                       : json_object_set_new(object, key, value);
    return failed ? sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source) : SARA_OK;
}

/* A JSON object as the caller's text. */
static sara_status give_report(const sara_comparison *c, char **report, const json_t *result)
{
    char *text = sara_json_dump(result, JSON_INDENT(1));
    sara_status status = text
                             ? sara_strdup(c->ctx, report, text)
                             : sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source);
    free(text);
    return status;
}

static sara_status compare_all(sara_comparison *c, json_t **result, bool cost)
{
    sara_status status;
    TRY(sara_compare_run(c, result));
    TRY(sara_compare_summarize(c, *result));
    if (cost)
        TRY(sara_compare_costs(c, *result));
    if (c->strengths.count)
        TRY(sara_compare_draw_strengths(c, *result));
    TRY(sara_json_save(c->ctx, c->output, "compare.json", *result, JSON_INDENT(1)));
    TRY(sara_compare_markdown(c, *result));
    TRY(sara_compare_page(c, *result));
done:
    return status;
}

sara_status sara_compare(sara_context *ctx, char **report, const sara_compare_options *options)
{
    sara_comparison c;
    json_t *result = NULL;
    sara_status status;
    *report = NULL;
    TRY(sara_comparison_open(ctx, &c, options));
    TRY(sara_compare_lock(&c));
    if (c.dry_run)
        TRY(sara_compare_dry_run(&c, &result));
    else
        TRY(compare_all(&c, &result, c.with_cost));
    TRY(sara_compare_put(&c, result, "output_dir", json_string(c.output)));
    TRY(give_report(&c, report, result));
done:
    json_decref(result);
    sara_comparison_free(&c);
    return status;
}
