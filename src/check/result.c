/* The report as JSON. */
#include "check/check.h"

#include <stdlib.h>

/* 0: micro-batches do not end with an epoch. */
static sara_status add_shapes(const sara_check *c, json_t *list, const sara_data_group *group,
                              bool is_class)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < group->order.shape_count; i++) {
        const sara_order_shape *shape = &group->order.shapes[i];
        const json_int_t batches = (shape->elements + shape->batch - 1) / shape->batch;
        json_t *one =
            json_pack("{s:i,s:i,s:I,s:I,s:I,s:b}", "width", group->shapes[i].width, "height",
                      group->shapes[i].height, "images", (json_int_t)shape->count, "in_epoch",
                      (json_int_t)shape->elements, "micro_batches", batches, "class", is_class);
        if (json_array_append_new(list, one) != 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: a report"));
    }
done:
    return status;
}

static sara_status add_check_text(const sara_check *c, json_t *object, const char *key,
                                  const char *text)
{
    json_t *value;
    sara_status status;
    TRY(sara_json_text(c->ctx, &value, text));
    if (json_object_set_new(object, key, value) != 0)
        status = sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: a report");
done:
    return status;
}

static sara_status add_check_notes(const sara_check *c, json_t *list, bool refused)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->note_count; i++) {
        const sara_check_note *note = &c->notes[i];
        if ((note->kind == SARA_CHECK_REFUSED) != refused)
            continue;
        json_t *one = json_pack("{s:n,s:s}", "path", "kind", sara_check_kind_name(note->kind));
        if (json_array_append_new(list, one) != 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: a report"));
        if (*note->path)
            TRY(add_check_text(c, one, "path", note->path));
        TRY(add_check_text(c, one, "text", note->text));
    }
done:
    return status;
}

/* Each image as it would be used. */
static sara_status add_check_images(const sara_check *c, json_t *list)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->data.count; i++) {
        const sara_data_image *image = &c->data.images[i];
        const sara_fit *fit = &image->fit;
        json_t *one = json_pack("{s:n,s:b,s:[ii],s:[ii],s:[ii],s:I,s:n,s:I}", "path", "refused",
                                image->refused, "size", image->width, image->height, "resized",
                                fit->resized_width, fit->resized_height, "bucket", fit->width,
                                fit->height, "repeats", (json_int_t)image->repeats, "caption",
                                "tokens", (json_int_t)c->looks[i].tokens[0]);
        if (json_array_append_new(list, one) != 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: a report"));
        TRY(add_check_text(c, one, "path", image->path));
        TRY(add_check_text(c, one, "caption", c->looks[i].caption));
    }
done:
    return status;
}

sara_status sara_check_json(const sara_check *c, char **out)
{
    const sara_data_group *instance = &c->data.instance, *class = &c->data.class;
    json_t *images = json_array(), *buckets = json_array(), *refused = json_array();
    json_t *warnings = json_array(), *root = NULL;
    char *text = NULL;
    sara_status status = SARA_OK;
    TRY(add_check_images(c, images));
    TRY(add_shapes(c, buckets, instance, false));
    TRY(add_shapes(c, buckets, class, true));
    TRY(add_check_notes(c, refused, true));
    TRY(add_check_notes(c, warnings, false));
    root =
        json_pack("{s:[ii],s:I,s:I,s:I,s:I,s:O,s:O,s:O,s:O,s:n}", "resolution", c->width, c->height,
                  "usable", (json_int_t)instance->count, "in_epoch",
                  (json_int_t)instance->order.elements, "class_usable", (json_int_t) class->count,
                  "class_in_epoch", (json_int_t) class->order.elements, "buckets", buckets,
                  "refused", refused, "warnings", warnings, "images", images, "page");
    if (root && c->options.page)
        TRY(add_check_text(c, root, "page", c->options.page));
    text = root ? sara_json_dump(root, JSON_INDENT(2)) : NULL;
    if (!text || sara_strdup(c->ctx, out, text) != SARA_OK)
        status = sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: a report");
done:
    free(text);
    json_decref(root);
    json_decref(images);
    json_decref(buckets);
    json_decref(refused);
    json_decref(warnings);
    return status;
}
