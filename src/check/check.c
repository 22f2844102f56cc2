/* `sara data check`: a data set as training would read it, with nothing refused at the first
 * fault. */
#include "check/check.h"

#include <stdarg.h>
#include <stdlib.h>

#define USUAL_SIDE 512 /* without a model */

static const sara_options_type check_options_type =
    SARA_OPTIONS_TYPE(sara_data_check_options, page);
static const sara_data_check_options check_defaults = {.train = NULL};

void sara_data_check_options_init_sized(sara_data_check_options *options, size_t size)
{
    sara_options_init(options, size, &check_defaults, &check_options_type);
}

/* ---------------------------------------------------------------------------------------- notes */

const char *sara_check_kind_name(sara_check_kind kind)
{
    static const char *const names[] = {"refused", "caption", "tokens", "duplicate", "enlarged",
                                        "cropped", "alpha",   "mask",   "bucket"};
    return names[kind];
}

sara_status sara_check_add(sara_check *c, sara_check_kind kind, const char *path,
                           const char *format, ...)
{
    sara_check_note note = {.kind = kind, .order = c->note_count};
    char text[2048];
    va_list args;
    sara_status status;
    va_start(args, format);
    sara_print_args(text, sizeof(text), format, args);
    va_end(args);
    TRY(sara_arena_strdup(&c->strings, &note.path, path ? path : ""));
    TRY(sara_arena_strdup(&c->strings, &note.text, text));
    TRY(sara_grow(c->ctx, &c->notes, &c->note_capacity, c->note_count + 1, sizeof(note)));
    c->notes[c->note_count++] = note;
done:
    c->status = c->status == SARA_OK ? status : c->status;
    return status;
}

static int compare_notes(const void *a, const void *b)
{
    const sara_check_note *x = a, *y = b;
    const int order = strcmp(x->path, y->path);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

const sara_check_note *sara_check_notes_of(const sara_check *c, const char *path, size_t *count)
{
    size_t from = 0, to = c->note_count;
    while (from < to) { /* the first that is not before the path */
        const size_t middle = (from + to) / 2;
        if (strcmp(c->notes[middle].path, path) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    for (*count = 0; from + *count < c->note_count; ++*count)
        if (strcmp(c->notes[from + *count].path, path) != 0)
            break;
    return *count ? c->notes + from : NULL;
}

size_t sara_check_count(const sara_check *c, bool refused)
{
    size_t count = 0;
    for (size_t i = 0; i < c->note_count; i++)
        count += (c->notes[i].kind == SARA_CHECK_REFUSED) == refused;
    return count;
}

/* -------------------------------------------------------------------------------------- opening */

static void hear_refused(void *user, const char *path, const char *line)
{
    sara_check *c = user;
    const sara_status kept = sara_check_add(c, SARA_CHECK_REFUSED, path, "%s", line);
    (void)kept; /* c->status has it */
}

static sara_status hear_begun(void *user, const sara_data *data)
{
    sara_check *c = user;
    return sara_alloc_zero(c->ctx, &c->looks, data->count, sizeof(*c->looks));
}

static sara_status hear_seen(sara_context *own, void *user, const sara_data_image *image,
                             const sara_image *pixels)
{
    return sara_check_see(own, user, image, pixels);
}

static sara_status check_train_options(sara_check *c)
{
    const sara_train_options *o = c->options.train;
    sara_status status;
    if (!o || (!o->train_data_dir && !o->dataset_config))
        TRY(sara_fail(c->ctx, SARA_ERROR_USAGE,
                      "--train_data_dir is missing: name the folder of images, or --dataset_config "
                      "FILE"));
    if (o->train_data_dir && o->dataset_config)
        TRY(sara_fail(c->ctx, SARA_ERROR_USAGE,
                      "--dataset_config %s: says what is trained on; leave --train_data_dir %s out",
                      o->dataset_config, o->train_data_dir));
    TRY(sara_train_options_check_values(c->ctx, o));
    TRY(sara_train_options_check_data(c->ctx, o));
    TRY(sara_class_images_check_place(c->ctx, o));
done:
    return status;
}

/* What is looked at is not written over. */
static sara_status check_page_path(sara_check *c)
{
    const char *page = c->options.page, *config = c->train.dataset_config;
    if (page && (!*page || sara_path_is_image(page) || (config && sara_path_is_same(page, config))))
        return sara_fail(c->ctx, SARA_ERROR_USAGE, "--page %s: expected a page's name, e.g. x.html",
                         page);
    return SARA_OK;
}

/* Class images that training draws first are not there yet: those that are, are looked at. */
static sara_status leave_out_missing(sara_check *c)
{
    const char *folder = c->train.class_data_dir;
    int64_t missing;
    sara_status status;
    TRY(sara_class_images_missing(c->ctx, &missing, &c->train));
    if (!missing)
        return SARA_OK;
    sara_log(c->ctx, SARA_LOG_INFO, "%lld class images are not in %s yet: sara train draws them",
             (long long)missing, folder);
    if (missing == (c->train.num_class_images ? c->train.num_class_images : SARA_CLASS_IMAGES))
        c->train.class_data_dir = c->train.class_prompt = NULL;
done:
    return status;
}

/* Whose sizes and tokenizers count: the model's, or else what is usual. */
static sara_status open_check_model(sara_check *c)
{
    const sara_train_options *o = c->options.train;
    const sara_model_options options = sara_train_model_options(o);
    sara_status status = SARA_OK;
    if (o->pretrained_model_name_or_path) {
        TRY(sara_model_load(c->ctx, &c->model, o->pretrained_model_name_or_path, &options));
        c->model->caption_length = o->max_sequence_length;
        return sara_dataset_resolution(c->model, o, &c->width, &c->height);
    }
    sara_train_options_sides(o, &c->width, &c->height);
    if (!c->width)
        c->width = c->height = USUAL_SIDE;
    if (sara_tokenizer_has_builtin())
        TRY(sara_tokenizer_load_builtin(c->ctx, &c->tokenizer, false));
done:
    return status;
}

/* What the model refuses of sizes is a note as well. */
static sara_status check_model_sizes(sara_check *c, const sara_data *data)
{
    const sara_train_options *o = c->options.train;
    sara_status status;
    if (!c->model)
        return SARA_OK;
    status = sara_dataset_check_sizes(c->model, &c->config, data, o);
    if (status != SARA_ERROR_USAGE && status != SARA_ERROR_INPUT)
        return status;
    return sara_check_add(c, SARA_CHECK_REFUSED, o->dataset_config ? o->dataset_config : "", "%s",
                          sara_context_error(c->ctx));
}

static sara_status open_check_data(sara_check *c)
{
    const sara_train_options *o = c->options.train;
    const sara_data_listener listener = {c, hear_refused, hear_begun, hear_seen};
    const sara_data_options options = {.output_dir = o->output_dir,
                                       .dataset_config = o->dataset_config,
                                       .masked_loss = o->masked_loss,
                                       .seed = o->seed,
                                       .listener = &listener};
    sara_status status;
    TRY(sara_dataset_config(c->ctx, &c->config, o, c->width, c->height));
    TRY(check_model_sizes(c, NULL));
    TRY(sara_data_open(c->ctx, &c->data, &c->config, &options));
    TRY(c->status);
    TRY(check_model_sizes(c, &c->data));
done:
    return status;
}

static void close_check(sara_check *c)
{
    for (size_t i = 0; c->looks && i < c->data.count; i++)
        sara_free(c->ctx, c->looks[i].thumbnail);
    sara_free(c->ctx, c->looks);
    sara_free(c->ctx, c->notes);
    sara_data_free(&c->data);
    sara_data_config_free(&c->config);
    sara_tokenizer_free(c->tokenizer);
    sara_model_free(c->model);
    sara_arena_free(&c->strings);
}

sara_status sara_data_check(sara_context *ctx, char **report, const sara_data_check_options *given)
{
    sara_check c = {.ctx = ctx, .options = check_defaults};
    sara_status status;
    *report = NULL;
    sara_arena_init(&c.strings, ctx);
    TRY(sara_options_read(ctx, &c.options, &check_options_type, given));
    if (c.options.train)
        TRY(sara_train_options_read(ctx, &c.train, c.options.train));
    c.options.train = c.options.train ? &c.train : NULL;
    TRY(check_train_options(&c));
    TRY(check_page_path(&c));
    TRY(leave_out_missing(&c));
    TRY(open_check_model(&c));
    TRY(open_check_data(&c));
    TRY(sara_check_compare(&c));
    if (c.note_count)
        qsort(c.notes, c.note_count, sizeof(*c.notes), compare_notes);
    if (c.options.page)
        TRY(sara_check_page(&c));
    TRY(sara_check_json(&c, report));
done:
    close_check(&c);
    if (status == SARA_INTERRUPTED)
        sara_interrupt_clear(ctx);
    return status;
}
