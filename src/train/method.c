#include "train/method.h"

#include "train/methods/methods.h"
#include "train/trainer.h"

static const sara_method *const methods[] = {
    &sara_method_sara,        &sara_method_full,  &sara_method_lora, &sara_method_dora,
    &sara_method_adaptformer, &sara_method_ltsft, &sara_method_shira};
#define METHOD_COUNT (sizeof(methods) / sizeof(*methods))

const sara_method *sara_method_at(size_t index)
{
    return index < METHOD_COUNT ? methods[index] : NULL;
}

const char *sara_method_result(const sara_method *method, const sara_family *family,
                               const sara_train_options *options)
{
    if (method->peft_result && options->save_as && strcmp(options->save_as, "peft") == 0)
        return method->peft_result;
    return method->result ? method->result : family->parts[0].folder;
}

const char *sara_method_result_at(const sara_method *method, size_t index)
{
    if (method->result)
        return index == 0 ? method->result : index == 1 ? method->peft_result : NULL;
    return sara_families[index] ? sara_families[index]->parts[0].folder : NULL;
}

static sara_status list_methods(sara_buffer *text, const char *also)
{
    size_t count = METHOD_COUNT + (also ? 1 : 0);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++)
        TRY(sara_buffer_put_choice(text, i < METHOD_COUNT ? methods[i]->name : also, i, count));
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

static size_t count_owners(const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        count += has_option(methods[i], name);
    return count;
}

static bool goes_with(const char *option, const sara_method *method)
{
    return has_option(method, option) || count_owners(option) == 0;
}

bool sara_train_option_goes_with(const char *option, const char *method)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (method && strcmp(methods[i]->name, method) == 0)
            return goes_with(option, methods[i]);
    return false;
}

/* Why a method without the option has none. */
static const char *why_not(const char *option)
{
    if (strcmp(option, "trainable") == 0)
        return "has no size to choose";
    if (strcmp(option, "disk_offload") == 0)
        return "trains all values";
    return strcmp(option, "track_drift") == 0 ? "changes no weight" : "has none";
}

static sara_status refuse_option(sara_context *ctx, const sara_method *method, const char *name,
                                 const char *value)
{
    sara_buffer text = {.ctx = ctx};
    size_t count = count_owners(name), index = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (has_option(methods[i], name))
            TRY(sara_buffer_put_choice(&text, methods[i]->name, index++, count));
    status = sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: goes with --method %s; %s %s", name, value,
                       text.data, method->title, why_not(name));
done:
    sara_buffer_free(&text);
    return status;
}

sara_status sara_method_check_options(sara_context *ctx, const sara_method *method,
                                      const sara_train_options *options)
{
    const sara_option_info *info;
    sara_status status = SARA_OK;
    for (size_t i = 0; (info = sara_train_option_at(i)) != NULL; i++) {
        char *value = NULL;
        if (goes_with(info->name, method))
            continue;
        TRY(sara_train_option_given(ctx, &value, options, info->name));
        status = value ? refuse_option(ctx, method, info->name, value) : SARA_OK;
        sara_free(ctx, value);
        if (status != SARA_OK)
            break;
    }
done:
    return status;
}

void sara_method_drop_options(const sara_method *method, json_t *run)
{
    const sara_option_info *info;
    for (size_t i = 0; (info = sara_train_option_at(i)) != NULL; i++)
        if (!goes_with(info->name, method))
            json_object_del(run, info->name);
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
