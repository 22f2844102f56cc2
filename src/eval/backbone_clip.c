/* Any CLIPModel folder: pictures and texts in one space. */
#include "eval/vision.h"
#include "models/clip.h"

/* Whether the folder itself has a vocabulary. */
static sara_status has_tokenizer(sara_context *ctx, bool *out, const char *folder)
{
    static const char *const files[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    sara_status status = SARA_OK;
    *out = false;
    for (int i = 0; i < 3 && !*out; i++) {
        char *path;
        TRY(sara_path_join(ctx, &path, folder, files[i]));
        *out = sara_path_is_named(path);
        sara_free(ctx, path);
    }
done:
    return status;
}

static bool tokenizer_fits(const sara_tokenizer *tokenizer, const sara_text_info *text)
{
    return sara_tokenizer_vocab_size(tokenizer) <= text->vocab_size &&
           sara_tokenizer_length(tokenizer) <= text->max_positions;
}

/* The one given, else the folder's, else CLIP's own where it fits. Without one pictures can still
 * be measured. */
static sara_status open_tokenizer(sara_context *ctx, sara_vision *vision,
                                  const sara_backbone_options *options)
{
    const sara_text_info *text = &vision->network->info.vision.text;
    const char *folder = options->tokenizer;
    bool there = false;
    sara_status status = SARA_OK;
    if (!folder)
        TRY(has_tokenizer(ctx, &there, options->path));
    if (there)
        folder = options->path;
    if (folder)
        TRY(sara_tokenizer_load(ctx, &vision->tokenizer, folder, text->max_positions));
    else if (sara_tokenizer_has_builtin())
        TRY(sara_tokenizer_load_builtin(ctx, &vision->tokenizer, false));
    if (!vision->tokenizer || tokenizer_fits(vision->tokenizer, text))
        return SARA_OK;
    if (folder)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: the tokenizer has ids up to %d, the model's vocab_size is %d", folder,
                         sara_tokenizer_vocab_size(vision->tokenizer) - 1, text->vocab_size);
    sara_tokenizer_free(vision->tokenizer);
    vision->tokenizer = NULL;
done:
    return status;
}

static sara_status clip_open(sara_backbone *backbone, const sara_backbone_options *options)
{
    sara_vision *vision;
    sara_status status;
    TRY(sara_vision_open(backbone, &vision, &sara_clip_class, sara_clip_image_features,
                         &sara_preprocess_clip, options->path));
    vision->resize = options->resize;
    TRY(open_tokenizer(backbone->ctx, vision, options));
    TRY(sara_clip_logit_scale(vision->network, &backbone->logit_scale));
done:
    return status;
}

/* Longer texts are cut as the tokenizer cuts them. What pads a text stands after its end and does
 * not reach it. */
static sara_status clip_text(sara_backbone *backbone, float *out, const char *text)
{
    sara_vision *vision = backbone->state;
    const sara_text_info *info = &vision->network->info.vision.text;
    const float *values;
    int32_t *ids;
    sara_var *features;
    sara_status status;
    if (!vision->tokenizer)
        return sara_fail(backbone->ctx, SARA_ERROR_USAGE,
                         "clip: the folder has no tokenizer (tokenizer.json, or vocab.json and "
                         "merges.txt), and CLIP's own does not fit its vocab_size %d and "
                         "max_position_embeddings %d; --clip_tokenizer DIR names one",
                         info->vocab_size, info->max_positions);
    const int64_t count = sara_tokenizer_length(vision->tokenizer);
    TRY(sara_tape_memory(vision->tape, &ids, (size_t)count, sizeof(*ids)));
    TRY(sara_tokenizer_pad(vision->tokenizer, ids, NULL, text));
    TRY(sara_clip_text_features(vision->tape, &features, vision->network, ids, 1, count));
    TRY(sara_tape_read(vision->tape, &values, features));
    memcpy(out, values, (size_t)backbone->width * sizeof(*out));
done:
    sara_tape_reset(vision->tape);
    return status;
}

const sara_backbone_kind sara_backbone_clip = {.name = "clip",
                                               .open = clip_open,
                                               .close = sara_vision_close,
                                               .image = sara_vision_image,
                                               .text = clip_text};
