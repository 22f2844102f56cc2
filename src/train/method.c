#include "train/method.h"

#include "train/methods/methods.h"
#include "train/trainer.h"

static const sara_method *const methods[] = {&sara_method_sara, &sara_method_full};
#define METHOD_COUNT (sizeof(methods) / sizeof(*methods))

const sara_method *sara_method_at(size_t index)
{
    return index < METHOD_COUNT ? methods[index] : NULL;
}

const char *sara_method_result(const sara_method *method, const sara_family *family)
{
    return method->result ? method->result : family->parts[0].folder;
}

const char *sara_method_result_at(const sara_method *method, size_t index)
{
    if (method->result)
        return index == 0 ? method->result : NULL;
    return sara_families[index] ? sara_families[index]->parts[0].folder : NULL;
}

/* "a, b or c" */
static sara_status list_methods(sara_buffer *text, const char *also)
{
    size_t count = METHOD_COUNT + (also ? 1 : 0);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++) {
        TRY(sara_buffer_put(text, i == 0 ? "" : i + 1 < count ? ", " : " or "));
        TRY(sara_buffer_put(text, i < METHOD_COUNT ? methods[i]->name : also));
    }
done:
    return status;
}

sara_status sara_method_find(sara_context *ctx, const sara_method **out, const char *name,
                             const char *also)
{
    sara_buffer text = {.ctx = ctx};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (name && strcmp(methods[i]->name, name) == 0) {
            *out = methods[i];
            return SARA_OK;
        }
    TRY(list_methods(&text, also));
    status = sara_fail(ctx, SARA_ERROR_USAGE, "--method %s: expected %s", name ? name : "",
                       text.data);
done:
    sara_buffer_free(&text);
    return status;
}

/* --------------------------------------------------------------------------------- its options */

static bool has_option(const sara_method *method, const char *name)
{
    for (const char *const *own = method->options; *own; own++)
        if (strcmp(*own, name) == 0)
            return true;
    return false;
}

/* The options of the other methods, one after the other; NULL past the last. */
static const char *foreign_option(const sara_method *method, size_t index, const char **owner)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        for (const char *const *option = methods[i]->options; *option; option++)
            if (!has_option(method, *option) && index-- == 0) {
                *owner = methods[i]->name;
                return *option;
            }
    return NULL;
}

sara_status sara_method_check_options(sara_context *ctx, const sara_method *method,
                                      const sara_train_options *options)
{
    const char *name, *owner = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; (name = foreign_option(method, i, &owner)) != NULL; i++) {
        char *value = NULL;
        TRY(sara_train_option_given(ctx, &value, options, name));
        if (value)
            sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: goes with --method %s", name, value, owner);
        status = value ? SARA_ERROR_USAGE : SARA_OK;
        sara_free(ctx, value);
        if (status != SARA_OK)
            break;
    }
done:
    return status;
}

void sara_method_drop_options(const sara_method *method, json_t *run)
{
    const char *name, *owner;
    for (size_t i = 0; (name = foreign_option(method, i, &owner)) != NULL; i++)
        json_object_del(run, name);
}

/* ----------------------------------------------------------------------------------- its state */

sara_status sara_method_start(trainer *t, const sara_method *method)
{
    sara_status status;
    TRY(sara_alloc_zero(t->ctx, &t->method_state, 1, method->state_size));
    t->method = method;
done:
    return status;
}

void sara_method_close(trainer *t)
{
    if (t->method && t->method->close)
        t->method->close(t);
    sara_free(t->ctx, t->method_state);
    t->method_state = NULL;
    t->method = NULL;
}
