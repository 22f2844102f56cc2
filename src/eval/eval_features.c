/* Features of the pictures of an evaluation. */
#include "eval/eval.h"

#include <math.h>

static const sara_backbone_kind *const kinds[SARA_BACKBONES] = {
    &sara_backbone_clip, &sara_backbone_dino, &sara_backbone_inception};

static size_t size_of(const sara_evaluation *e, sara_eval_set set)
{
    return set == SARA_SET_REFERENCES && !e->own ? e->reference_count : e->count;
}

static sara_status make_room(const sara_evaluation *e, sara_features *out, size_t count,
                             int64_t width)
{
    *out = (sara_features){.count = (int64_t)count, .width = width};
    return sara_alloc(e->ctx, &out->values, count, (size_t)width * sizeof(*out->values));
}

static sara_status open_backbone(sara_evaluation *e, sara_eval_by by)
{
    const sara_eval_options *o = &e->options;
    const sara_backbone_options options = {.path = sara_evaluation_backbone(e, by, NULL),
                                           .tokenizer = o->clip_tokenizer,
                                           .convention =
                                               e->fid == by ? e->convention : "torch-fidelity",
                                           .resize = o->clip_resize};
    sara_status status;
    TRY(sara_backbone_open(e->ctx, &e->backbones[by], kinds[by], &options));
    int64_t width = e->backbones[by]->width;
    for (int set = 0; set < SARA_EVAL_SETS; set++)
        if (sara_evaluation_needs(e, by, set))
            TRY(make_room(e, &e->features[by][set], size_of(e, set), width));
    if (by == SARA_BY_CLIP && e->pictures[0].text)
        TRY(make_room(e, &e->texts, e->count, width));
done:
    return status;
}

sara_status sara_evaluation_open_backbones(sara_evaluation *e)
{
    sara_status status = SARA_OK;
    for (int by = 0; by < SARA_BACKBONES; by++)
        if (sara_evaluation_backbone(e, by, NULL))
            TRY(open_backbone(e, by));
done:
    return status;
}

static sara_status check_interrupted(const sara_evaluation *e)
{
    return sara_interrupted(e->ctx) ? sara_fail(e->ctx, SARA_INTERRUPTED, "interrupted") : SARA_OK;
}

/* The `index`-th picture's row of a set. */
static float *row_of(const sara_features *set, size_t index)
{
    return set->values + (int64_t)index * set->width;
}

sara_status sara_evaluation_measure_texts(sara_evaluation *e)
{
    const sara_features *texts = &e->texts;
    size_t bytes = (size_t)texts->width * sizeof(*texts->values);
    sara_status status = SARA_OK;
    for (size_t i = 0; texts->values && i < e->count; i++) {
        const char *text = e->pictures[i].text;
        TRY(check_interrupted(e));
        if (i > 0 && strcmp(text, e->pictures[i - 1].text) == 0)
            memcpy(row_of(texts, i), row_of(texts, i - 1), bytes);
        else
            TRY(sara_backbone_text(e->backbones[SARA_BY_CLIP], row_of(texts, i), text));
    }
done:
    return status;
}

sara_status sara_evaluation_measure(sara_evaluation *e, sara_eval_set set, size_t index,
                                    const sara_image *image)
{
    sara_status status = SARA_OK;
    for (int by = 0; by < SARA_BACKBONES; by++) {
        const sara_features *features = &e->features[by][set];
        if (features->values)
            TRY(sara_backbone_image(e->backbones[by], row_of(features, index), image));
    }
done:
    return status;
}

static const char *picture_file(const sara_evaluation *e, sara_eval_set set, size_t index)
{
    if (set == SARA_SET_PICTURES)
        return e->pictures[index].path;
    return set == SARA_SET_REFERENCES ? e->references[index] : e->before[index];
}

static sara_status measure_file(sara_evaluation *e, sara_eval_set set, size_t index)
{
    const sara_progress progress = {"measure", 1, 1, NAN, NAN, 0, 0};
    const char *path = picture_file(e, set, index);
    sara_image image = {0};
    sara_status status;
    TRY(check_interrupted(e));
    TRY(sara_image_read(e->ctx, &image, path));
    status = sara_evaluation_measure(e, set, index, &image);
    TRY(status == SARA_ERROR_INPUT ? sara_fail_in(e->ctx, status, path) : status);
    sara_report_progress(e->ctx, &progress);
done:
    sara_image_clear(e->ctx, &image);
    return status;
}

sara_status sara_evaluation_measure_files(sara_evaluation *e, sara_eval_set set)
{
    size_t count = size_of(e, set);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++) {
        sara_progress_part(e->ctx, (int64_t)i, (int64_t)count);
        TRY(measure_file(e, set, i));
    }
done:
    sara_progress_part(e->ctx, 0, 0);
    return status;
}
