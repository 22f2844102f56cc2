/* Tables, as HTML and as Markdown. */
#include "report/report.h"

#include <math.h>
#include <stdio.h>

#define TABLE_STAR     "★"
#define TABLE_NO_BREAK "\u00A0" /* a space at which no line ends */

typedef struct cell_text {
    char text[400];
} cell_text;

/* A number as a table shows it. */
static cell_text table_number(double value, int digits)
{
    cell_text out;
    if (isnan(value)) {
        snprintf(out.text, sizeof(out.text), "–");
        return out;
    }
    sara_print(out.text, sizeof(out.text), fabs(value) < 1e15 ? "%.*f" : "%.*g", digits, value);
    if (*out.text == '-' && strspn(out.text + 1, "0.") == strlen(out.text + 1))
        memmove(out.text, out.text + 1, strlen(out.text)); /* no "-0.00" */
    return out;
}

/* The best value of a column, NaN: none is marked. */
static double table_best(const sara_table *table, size_t column)
{
    const sara_column *c = &table->columns[column];
    double best = NAN, worst = NAN;
    for (size_t row = 0; row < table->row_count && c->better != SARA_BETTER_NONE; row++) {
        const sara_cell *cell = &table->cells[row * table->column_count + column];
        double value = c->better == SARA_BETTER_LOW ? -cell->value : cell->value;
        if (cell->text || cell->beside || !isfinite(value))
            continue;
        best = fmax(best, value);
        worst = fmin(worst, value);
    }
    if (strcmp(table_number(best, c->digits).text, table_number(worst, c->digits).text) == 0)
        return NAN;
    return c->better == SARA_BETTER_LOW ? -best : best;
}

/* What prints as the best does is as good. */
static bool table_is_best(const sara_table *table, size_t row, size_t column, double best)
{
    const sara_cell *cell = &table->cells[row * table->column_count + column];
    int digits = table->columns[column].digits;
    return !cell->text && !cell->beside && isfinite(best) && isfinite(cell->value) &&
           strcmp(table_number(cell->value, digits).text, table_number(best, digits).text) == 0;
}

/* space: between the sign and the spread. */
static cell_text table_cell_number(const sara_cell *cell, int digits, const char *space)
{
    cell_text out = table_number(cell->value, digits);
    size_t length = strlen(out.text);
    if (isfinite(cell->value) && isfinite(cell->spread))
        snprintf(out.text + length, sizeof(out.text) - length, " ±%s%.40s", space,
                 table_number(cell->spread, digits).text);
    return out;
}

/* space: before the arrow. */
static cell_text table_arrow(sara_better better, const char *space)
{
    cell_text out = {""};
    if (better != SARA_BETTER_NONE)
        snprintf(out.text, sizeof(out.text), "%s%s", space, better == SARA_BETTER_HIGH ? "↑" : "↓");
    return out;
}

/* Numbers stand to the right where any row has one. */
static bool table_is_numeric(const sara_table *table, size_t column)
{
    for (size_t row = 0; row < table->row_count; row++)
        if (!table->cells[row * table->column_count + column].text)
            return true;
    return false;
}

/* ---------------------------------------------------------------------------------------- HTML */

static sara_status table_put_head(sara_buffer *p, const sara_table *table)
{
    sara_status status;
    TRY(sara_buffer_put(p, "<div class=\"wide\" tabindex=\"0\"><table>"));
    if (table->caption) {
        TRY(sara_buffer_put(p, "<caption dir=\"auto\">"));
        TRY(sara_put_escaped(p, table->caption));
        TRY(sara_buffer_put(p, "</caption>"));
    }
    TRY(sara_buffer_put(p, "<thead><tr>"));
    for (size_t i = 0; i < table->column_count; i++) {
        const sara_column *column = &table->columns[i];
        TRY(sara_put_format(p, "<th scope=\"col\"%s>",
                            table_is_numeric(table, i) ? " class=\"n\"" : ""));
        TRY(sara_put_escaped(p, column->name));
        TRY(sara_buffer_put(p, table_arrow(column->better, TABLE_NO_BREAK).text));
        TRY(sara_buffer_put(p, column->unit ? "<br>" : ""));
        TRY(sara_put_escaped(p, column->unit ? column->unit : ""));
        TRY(sara_buffer_put(p, "</th>"));
    }
    TRY(sara_buffer_put(p, "</tr></thead><tbody>\n"));
done:
    return status;
}

static sara_status table_put_cell(sara_buffer *p, const sara_table *table, size_t row,
                                  size_t column, double best)
{
    const sara_cell *cell = &table->cells[row * table->column_count + column];
    bool marked = table_is_best(table, row, column, best);
    sara_status status;
    if (cell->text) {
        TRY(sara_buffer_put(p, "<td dir=\"auto\">"));
        TRY(sara_put_escaped(p, cell->text));
    } else {
        TRY(sara_buffer_put(p, marked ? "<td class=\"n best\"><strong>" : "<td class=\"n\">"));
        TRY(sara_buffer_put(
            p, table_cell_number(cell, table->columns[column].digits, TABLE_NO_BREAK).text));
        TRY(sara_buffer_put(p, marked ? TABLE_NO_BREAK TABLE_STAR "</strong>" : ""));
    }
    TRY(sara_buffer_put(p, "</td>"));
done:
    return status;
}

sara_status sara_page_table(sara_page *page, const sara_table *table)
{
    sara_buffer *p = &page->text;
    sara_status status;
    TRY(table_put_head(p, table));
    for (size_t row = 0; row < table->row_count; row++) {
        TRY(sara_buffer_put(p, "<tr>"));
        for (size_t i = 0; i < table->column_count; i++)
            TRY(table_put_cell(p, table, row, i, table_best(table, i)));
        TRY(sara_buffer_put(p, "</tr>\n"));
    }
    TRY(sara_buffer_put(p, "</tbody></table></div>\n"));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ Markdown */

static sara_status put_markdown(sara_buffer *out, const char *text)
{
    sara_status status = SARA_OK;
    for (; *text && status == SARA_OK; text++) {
        if (strchr("\\`*_[]<>|#~", *text))
            status = sara_buffer_put_char(out, '\\');
        if (status == SARA_OK)
            status = sara_buffer_put_char(out, (unsigned char)*text < 0x20 ? ' ' : *text);
    }
    return status;
}

static sara_status markdown_put_head(sara_buffer *out, const sara_table *table)
{
    sara_status status = SARA_OK;
    if (table->caption) {
        TRY(put_markdown(out, table->caption));
        TRY(sara_buffer_put(out, "\n\n"));
    }
    for (size_t i = 0; i < table->column_count; i++) {
        const sara_column *column = &table->columns[i];
        TRY(sara_buffer_put(out, "| "));
        TRY(put_markdown(out, column->name));
        TRY(sara_buffer_put(out, table_arrow(column->better, " ").text));
        TRY(sara_buffer_put(out, column->unit ? ", " : ""));
        TRY(put_markdown(out, column->unit ? column->unit : ""));
        TRY(sara_buffer_put_char(out, ' '));
    }
    TRY(sara_buffer_put(out, "|\n"));
    for (size_t i = 0; i < table->column_count; i++)
        TRY(sara_buffer_put(out, table_is_numeric(table, i) ? "|---:" : "|---"));
    TRY(sara_buffer_put(out, "|\n"));
done:
    return status;
}

sara_status sara_table_markdown(sara_buffer *out, const sara_table *table)
{
    sara_status status;
    TRY(markdown_put_head(out, table));
    for (size_t at = 0; at < table->row_count * table->column_count; at++) {
        size_t row = at / table->column_count, column = at % table->column_count;
        const sara_cell *cell = &table->cells[at];
        bool marked = table_is_best(table, row, column, table_best(table, column));
        TRY(sara_buffer_put(out, marked ? "| **" : "| "));
        if (cell->text)
            TRY(put_markdown(out, cell->text));
        else
            TRY(sara_buffer_put(out,
                                table_cell_number(cell, table->columns[column].digits, " ").text));
        TRY(sara_buffer_put(out, marked ? " " TABLE_STAR "** " : " "));
        if (column + 1 == table->column_count)
            TRY(sara_buffer_put(out, "|\n"));
    }
done:
    return status;
}
