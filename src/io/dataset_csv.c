/* Rows of comma-separated values: quotes at a field's start hold commas, line breaks and doubled
 * quotes; elsewhere a quote is a letter. Lines end with LF, CRLF or CR. */
#include "io/dataset_scan.h"

/* Goes past a line break, if there is one. */
static bool take_break(sara_csv *csv)
{
    if (csv->at == csv->end || (*csv->at != '\n' && *csv->at != '\r'))
        return false;
    csv->at += *csv->at == '\r' && csv->end - csv->at > 1 && csv->at[1] == '\n' ? 2 : 1;
    csv->next_line++;
    return true;
}

static sara_status read_quoted(sara_context *ctx, sara_csv *csv, const char *path)
{
    size_t opened = csv->next_line;
    sara_status status;
    for (csv->at++; csv->at < csv->end; csv->at++) {
        if (*csv->at == '"') {
            if (++csv->at == csv->end || *csv->at != '"')
                return SARA_OK;
        } else if (*csv->at == '\n' ||
                   (*csv->at == '\r' && csv->at + 1 < csv->end && csv->at[1] != '\n')) {
            csv->next_line++;
        }
        TRY(sara_buffer_put_char(&csv->text, *csv->at));
    }
    status = sara_fail(ctx, SARA_ERROR_INPUT,
                       "%s: line %zu: a quoted field that does not end: expected \" at its end and "
                       "\"\" for each quote within",
                       path, opened);
done:
    return status;
}

static sara_status read_csv_field(sara_context *ctx, sara_csv *csv, const char *path)
{
    sara_status status;
    TRY(sara_grow(ctx, &csv->fields, &csv->field_capacity, csv->count + 1, sizeof(*csv->fields)));
    csv->fields[csv->count++] = csv->text.length;
    if (csv->at < csv->end && *csv->at == '"')
        TRY(read_quoted(ctx, csv, path));
    for (; csv->at < csv->end && !strchr(",\r\n", *csv->at); csv->at++)
        TRY(sara_buffer_put_char(&csv->text, *csv->at));
    TRY(sara_buffer_put_char(&csv->text, '\0'));
done:
    return status;
}

static void skip_blank_lines(sara_csv *csv)
{
    const char *line = csv->at;
    while (csv->at < csv->end) {
        if (take_break(csv))
            line = csv->at;
        else if (*csv->at == ' ' || *csv->at == '\t')
            csv->at++;
        else
            break;
    }
    if (csv->at < csv->end)
        csv->at = line; /* white space before the first field belongs to it */
}

sara_status sara_csv_next(sara_context *ctx, bool *more, sara_csv *csv, const char *path)
{
    sara_status status = SARA_OK;
    skip_blank_lines(csv);
    *more = csv->at < csv->end;
    csv->count = 0;
    sara_buffer_clear(&csv->text);
    csv->line = csv->next_line;
    while (*more) {
        TRY(read_csv_field(ctx, csv, path));
        if (csv->at == csv->end || take_break(csv))
            break;
        csv->at++; /* the comma */
    }
done:
    return status;
}

void sara_csv_free(sara_context *ctx, sara_csv *csv)
{
    sara_buffer_free(&csv->text);
    sara_free(ctx, csv->fields);
}
