/* report.html: what the run is, its loss curve and its samples. One file, no scripts; whatever came
 * from outside is escaped. */
#include "train/train.h"

#include "report/report.h"

#include <math.h>
#include <stdlib.h>

#define CURVE_WIDTH  720.0
#define CURVE_HEIGHT 220.0

/* ---------------------------------------------------------------------------------------- loss */

/* Losses of the log, in order; sara_free(). */
static sara_status read_losses(const sara_run *run, double **out, size_t *count)
{
    char *text = NULL;
    size_t size = 0, capacity = 0;
    sara_status status;
    *out = NULL;
    *count = 0;
    TRY(sara_file_read(run->ctx, &text, &size, run->log_path, (size_t)1 << 32));
    for (const char *line = text; line && *line;) {
        const char *end = strchr(line, '\n');
        json_t *object = NULL;
        if (end)
            status = sara_json_parse(run->ctx, &object, line, (size_t)(end - line), run->log_path,
                                     false);
        if (status == SARA_ERROR_INPUT)
            status = SARA_OK; /* a line that a crash has spoilt */
        const json_t *loss = json_object_get(object, "loss");
        if (status == SARA_OK && loss) {
            status = sara_grow(run->ctx, out, &capacity, *count + 1, sizeof(**out));
            if (status == SARA_OK)
                (*out)[(*count)++] = json_number_value(loss);
        }
        json_decref(object);
        if (status != SARA_OK)
            goto done;
        line = end ? end + 1 : NULL;
    }
done:
    sara_free(run->ctx, text);
    return status;
}

/* Means over as many equal stretches as there are points: single losses are mostly noise. */
static sara_status put_curve(sara_buffer *p, const double *losses, size_t count)
{
    size_t points = count < 120 ? count : 120;
    double means[120], low = INFINITY, high = -INFINITY;
    char text[256];
    sara_status status;
    for (size_t i = 0; i < points; i++) {
        size_t from = i * count / points, to = (i + 1) * count / points;
        means[i] = 0;
        for (size_t j = from; j < to; j++)
            means[i] += losses[j] / (double)(to - from);
        low = fmin(low, means[i]);
        high = fmax(high, means[i]);
    }
    if (points < 2)
        return sara_buffer_put(p, "<p>Too few steps for a curve.</p>");
    sara_print(text, sizeof(text),
               "<svg viewBox=\"0 0 %g %g\" role=\"img\"><title>loss</title><polyline fill=\"none\" "
               "stroke=\"#246\" stroke-width=\"2\" points=\"",
               CURVE_WIDTH, CURVE_HEIGHT);
    TRY(sara_buffer_put(p, text));
    for (size_t i = 0; i < points; i++) {
        double height = high > low ? (means[i] - low) / (high - low) : 0.5;
        sara_print(text, sizeof(text), "%.1f,%.1f ", CURVE_WIDTH * (double)i / (double)(points - 1),
                   (CURVE_HEIGHT - 10) * (1 - height) + 5);
        TRY(sara_buffer_put(p, text));
    }
    sara_print(
        text, sizeof(text),
        "\"/></svg><p>Loss over %zu steps, from %.4g down to %.4g (means of %zu stretches).</p>",
        count, high, low, points);
    TRY(sara_buffer_put(p, text));
done:
    return status;
}

/* ------------------------------------------------------------------------------------- sections */

static sara_status put_setting(sara_buffer *p, const char *key, const json_t *value)
{
    char *text = sara_json_dump(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    sara_status status = SARA_OK;
    if (!text)
        return SARA_OK;
    TRY(sara_buffer_put(p, "<tr><td>"));
    TRY(sara_put_escaped(p, key));
    TRY(sara_buffer_put(p, "</td><td>"));
    TRY(sara_put_escaped(p, json_is_string(value) ? json_string_value(value) : text));
    TRY(sara_buffer_put(p, "</td></tr>"));
done:
    free(text);
    return status;
}

static sara_status put_settings(sara_buffer *p, const json_t *identity)
{
    const char *key;
    json_t *value;
    sara_status status;
    TRY(sara_buffer_put(p, "<h2>Settings</h2><table>"));
    json_object_foreach((json_t *)(uintptr_t)identity, key, value) if (!json_is_null(value))
        TRY(put_setting(p, key, value));
    TRY(sara_buffer_put(p, "</table>"));
done:
    return status;
}

/* What sara_run_validate() writes; other names could lead anywhere. */
static bool is_sample(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-.";
    size_t length = strlen(name);
    return strncmp(name, "step-", 5) == 0 && strspn(name, allowed) == length &&
           strcmp(name + length - 4, ".png") == 0;
}

static sara_status put_samples(sara_buffer *p, const sara_run *run)
{
    char *folder = NULL, **names = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_path_join(run->ctx, &folder, run->folder, "samples"));
    if (!sara_path_is_directory(folder))
        goto done;
    TRY(sara_directory_list(run->ctx, &names, &count, folder));
    TRY(sara_buffer_put(p, "<h2>Samples</h2>"));
    for (size_t i = 0; i < count; i++) {
        if (!is_sample(names[i]))
            continue;
        TRY(sara_buffer_put(p, "<figure><img src=\"samples/"));
        TRY(sara_put_escaped(p, names[i]));
        TRY(sara_buffer_put(p, "\" alt=\"\"><figcaption>"));
        TRY(sara_put_escaped(p, names[i]));
        TRY(sara_buffer_put(p, "</figcaption></figure>"));
    }
done:
    sara_free(run->ctx, folder);
    sara_directory_free(run->ctx, names, count);
    return status;
}

sara_status sara_run_report(sara_run *run, const json_t *identity)
{
    sara_buffer p = {.ctx = run->ctx};
    double *losses = NULL;
    char *path = NULL;
    size_t count = 0;
    sara_status status;
    TRY(read_losses(run, &losses, &count));
    TRY(sara_buffer_put(
        &p, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src "
            "'self' file:; style-src 'unsafe-inline'\">"
            "<title>sara run</title><style>body{font:16px/1.5 "
            "sans-serif;max-width:760px;margin:2em auto;padding:0 1em}"
            "td{padding:.1em 1em .1em 0;vertical-align:top}svg{width:100%;border:1px solid #ccc}"
            "figure{display:inline-block;margin:.3em}img{min-width:128px;image-rendering:pixelated}"
            "figcaption{font-size:.8em}</style></head><body><h1>Training run</h1><h2>Loss</h2>"));
    TRY(put_curve(&p, losses, count));
    TRY(put_samples(&p, run));
    TRY(put_settings(&p, identity));
    TRY(sara_buffer_put(&p, "</body></html>\n"));
    TRY(sara_path_join(run->ctx, &path, run->folder, "report.html"));
    TRY(sara_file_write(run->ctx, path, p.data, p.length));
done:
    sara_free(run->ctx, path);
    sara_free(run->ctx, losses);
    sara_buffer_free(&p);
    return status;
}
