/* What sara inspect --adapter shows. */
#include "inspect.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAR "##############################"

/* What the report has in fields of its own; the others are options of the training. */
static bool adapter_is_option(const char *key)
{
    static const char *const fields[] = {"format",      "target",         "method",
                                         "base_sha256", "base_precision", "selected"};
    if (strncmp(key, "sara.", 5) != 0)
        return false;
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        if (strcmp(key + 5, fields[i]) == 0)
            return false;
    return true;
}

/* An option's value as it is shown; free(). NULL if memory ran out. */
static char *shown(const char *value)
{
    char *text = strdup(value);
    if (text)
        text_shorten(text);
    return text;
}

static double share(const sara_adapter_report *report, int64_t entries)
{
    return report->entries ? (double)entries / (double)report->entries : 0;
}

/* 0 where there is none. */
static double bytes_per_position(const sara_adapter_report *report)
{
    return report->entries ? (double)report->position_bytes / (double)report->entries : 0;
}

/* ----------------------------------------------------------------------------------------- JSON */

static json_t *strings_json(const sara_adapter_report *report, bool options)
{
    json_t *object = json_object();
    for (size_t i = 0; i < report->metadata_count; i++) {
        const char *key = report->metadata[i].key, *value = report->metadata[i].value;
        if (options && !adapter_is_option(key))
            continue;
        char *text = options ? shown(value) : NULL;
        json_t *string = json_string(options ? text : value);
        free(text);
        if (json_object_set_new(object, options ? key + 5 : key, string) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

/* A number, null for NaN. */
static json_t *number_json(double number)
{
    return isnan(number) ? json_null() : json_real(number);
}

static json_t *blocks_json(const sara_adapter_report *report)
{
    json_t *list = json_array();
    for (int i = 0; i < report->block_count; i++) {
        const sara_adapter_block *block = &report->blocks[i];
        json_t *item = json_pack("{s:s,s:I,s:I,s:f,s:o}", "name", block->name, "tensors",
                                 (json_int_t)block->tensors, "entries", (json_int_t)block->entries,
                                 "share", share(report, block->entries), "change_norm",
                                 number_json(block->change_norm));
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* What LoRA files and AdaptFormers have more. */
static json_t *add_others_json(json_t *root, const sara_adapter_report *report)
{
    json_t *more = json_pack(
        "{s:s,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o}", "layout", report->layout, "layers",
        (json_int_t)report->layers, "text_layers", (json_int_t)report->text_layers, "rank_low",
        (json_int_t)report->rank_low, "rank_high", (json_int_t)report->rank_high, "alpha_low",
        number_json(report->alpha_low), "alpha_high", number_json(report->alpha_high), "relative",
        number_json(report->relative), "width",
        report->width ? json_integer(report->width) : json_null(), "scale",
        number_json(report->width ? report->scale : (double)NAN));
    if (!root || !more || json_object_update(root, more) != 0) {
        json_decref(root);
        root = NULL;
    }
    json_decref(more);
    return root;
}

static json_t *embedding_json(const sara_adapter_report *report)
{
    json_t *widths = json_pack("[I]", (json_int_t)report->widths[0]);
    if (report->widths[1] && json_array_append_new(widths, json_integer(report->widths[1])) != 0) {
        json_decref(widths);
        widths = NULL;
    }
    return json_pack("{s:s,s:s,s:I,s:o,s:s?,s:s,s:s,s:I,s:I,s:o}", "method", report->method,
                     "layout", report->layout, "vectors", (json_int_t)report->vectors, "widths",
                     widths, "token", *report->token ? report->token : NULL, "families",
                     report->families, "dtype", report->dtype, "file_bytes",
                     (json_int_t)report->file_bytes, "tensors", (json_int_t)report->tensors,
                     "metadata", strings_json(report, false));
}

static json_t *adapter_report_json(const sara_adapter_report *report)
{
    json_t *options = strings_json(report, true), *metadata = strings_json(report, false);
    json_t *blocks = blocks_json(report);
    const char *precision = *report->base_precision ? report->base_precision : NULL;
    json_t *root = json_pack(
        "{s:s,s:s,s:s,s:s?,s:s,s:I,s:I,s:f,s:I,s:I,s:o,s:o,s:o,s:o}", "method", report->method,
        "target", report->target, "base_sha256", report->base_sha256, "base_precision", precision,
        "dtype", report->dtype, "file_bytes", (json_int_t)report->file_bytes, "position_bytes",
        (json_int_t)report->position_bytes, "bytes_per_position", bytes_per_position(report),
        "tensors", (json_int_t)report->tensors, "entries", (json_int_t)report->entries,
        "change_norm", number_json(report->change_norm), "options", options, "metadata", metadata,
        "blocks", blocks);
    return *report->layout || report->width ? add_others_json(root, report) : root;
}

/* ----------------------------------------------------------------------------------------- text */

static void print_embedding(const sara_adapter_report *report)
{
    char token[80];
    text_escape(token, sizeof(token), report->token);
    printf("method        embedding (textual inversion), in the layout of %s\n", report->layout);
    printf("vectors       %lld of width %lld", (long long)report->vectors,
           (long long)report->widths[0]);
    if (report->widths[1])
        printf(" + %lld", (long long)report->widths[1]);
    printf(", %s, %lld bytes\n", report->dtype, (long long)report->file_bytes);
    printf("families      %s\n",
           *report->families ? report->families : "no published one has such text encoders");
    if (*report->token)
        printf("token         %s\n", token);
    printf("\nIn prompts its name stands for it: generate --embedding-dir DIR\n");
}

static void print_options(const sara_adapter_report *report)
{
    char key[64], value[60];
    bool first = true;
    for (size_t i = 0; i < report->metadata_count; i++) {
        if (!adapter_is_option(report->metadata[i].key))
            continue;
        char *text = shown(report->metadata[i].value);
        text_escape(key, sizeof(key), report->metadata[i].key + 5);
        text_escape(value, sizeof(value), text ? text : report->metadata[i].value);
        free(text);
        printf("%s  %-28s %s\n", first ? "\nTrained with:\n" : "", key, value);
        first = false;
    }
}

static void print_blocks(const sara_adapter_report *report, bool has_base)
{
    double most = 0;
    for (int i = 0; i < report->block_count; i++)
        most = fmax(most, report->blocks[i].change_norm);
    printf("\nBy block:        tensors      entries   share%s\n",
           has_base ? "    change (L2)" : "");
    for (int i = 0; i < report->block_count; i++) {
        const sara_adapter_block *block = &report->blocks[i];
        printf("  %-14s %7lld %12lld %6.2f %%", block->name, (long long)block->tensors,
               (long long)block->entries, 100 * share(report, block->entries));
        if (has_base) {
            int width = most > 0 ? (int)lround(strlen(BAR) * block->change_norm / most) : 0;
            printf("  %10.4g  %.*s", block->change_norm, width, BAR);
        }
        printf("\n");
    }
    if (has_base)
        printf("\nThe change in all: %.4g (L2)\n", report->change_norm);
    else if (report->width)
        printf("\nIt changes no weights\n");
    else
        printf("\nHow far they were changed cannot be said without the base: -m DIR\n");
}

static void print_range(const char *name, double low, double high)
{
    if (low == high)
        printf("%s %g", name, low);
    else
        printf("%s %g to %g", name, low, high);
}

/* A LoRA, or an AdaptFormer. */
static void print_other_report(const sara_adapter_report *report, bool has_base, bool force)
{
    if (report->width)
        printf(
            "method        AdaptFormer: bottlenecks beside %lld feed-forwards, width %lld, scale "
            "%g\n",
            (long long)report->layers, (long long)report->width, report->scale);
    else
        printf("method        %s, in the layout of %s\n", report->method, report->layout);
    printf("layers        %lld", (long long)report->layers);
    if (report->text_layers)
        printf(", %lld of them of the text encoder", (long long)report->text_layers);
    if (report->rank_high)
        print_range("; rank", (double)report->rank_low, (double)report->rank_high);
    if (!isnan(report->alpha_low))
        print_range(", alpha", report->alpha_low, report->alpha_high);
    printf("\nvalues        %lld%s%s in %lld tensors, %lld bytes\n", (long long)report->entries,
           *report->dtype ? ", " : "", report->dtype, (long long)report->tensors,
           (long long)report->file_bytes);
    if (*report->base_sha256)
        printf("base_sha256   %s%s%s\n", report->base_sha256,
               *report->base_precision ? ", in " : "", report->base_precision);
    print_options(report);
    print_blocks(report, !isnan(report->change_norm));
    if (has_base)
        printf("%s%s",
               force ? "By force, layers that the model does not have are left out"
                     : "It fits the model",
               isnan(report->relative) ? "\n" : "");
    if (!isnan(report->relative))
        printf("; the change is %.3g of what it changes (relative L2)\n", report->relative);
}

static void print_adapter_report(const sara_adapter_report *report, bool has_base)
{
    char method[64];
    text_escape(method, sizeof(method), *report->method ? report->method : "(not said)");
    printf("method        %s, of the %s\n", method, report->target);
    printf("base_sha256   %s%s%s\n", report->base_sha256, *report->base_precision ? ", in " : "",
           report->base_precision);
    printf("values        %lld%s%s in %lld tensors\n", (long long)report->entries,
           *report->dtype ? ", " : "", report->dtype, (long long)report->tensors);
    printf("file          %lld bytes; positions take %.3f bytes an entry\n",
           (long long)report->file_bytes, bytes_per_position(report));
    print_options(report);
    print_blocks(report, has_base);
}

int inspect_adapter(const cli *c, const char *path, sara_model *base, bool force, bool json)
{
    sara_adapter_report *report = NULL;
    sara_status status = sara_adapter_inspect(c->ctx, &report, path, base, force);
    int code = 0;
    if (status != SARA_OK)
        return cli_fail_context(c, status);
    if (json)
        code = inspect_print_json(c, report->vectors ? embedding_json(report)
                                                     : adapter_report_json(report));
    else if (report->vectors)
        print_embedding(report);
    else if (*report->layout || report->width)
        print_other_report(report, base != NULL, force);
    else
        print_adapter_report(report, base != NULL);
    sara_adapter_report_free(c->ctx, report);
    return code;
}
