/* Names in LoRA files. All of them come from a network's own names, diffusers' or LDM's: with dots
 * or underscores, after one of several prefixes and before one of several endings. */
#include "pipeline/lora.h"

#include <stdlib.h>

static const struct {
    const char *ending;
    sara_lora_role role;
} lora_endings[] = {
    {".lora_down.weight", SARA_LORA_DOWN}, /* kohya's, LyCORIS' */
    {".lora_up.weight", SARA_LORA_UP},
    {".lora_mid.weight", SARA_LORA_MID},
    {".alpha", SARA_LORA_ALPHA},
    {".dora_scale", SARA_LORA_MAGNITUDE},
    {".diff", SARA_LORA_DIFF},
    {".diff_b", SARA_LORA_DIFF_BIAS},
    {".w_norm", SARA_LORA_DIFF},
    {".b_norm", SARA_LORA_DIFF_BIAS},
    {".lora_linear_layer.down.weight", SARA_LORA_DOWN}, /* diffusers' */
    {".lora_linear_layer.up.weight", SARA_LORA_UP},
    {".lora.down.weight", SARA_LORA_DOWN},
    {".lora.up.weight", SARA_LORA_UP},
    {"_lora.down.weight", SARA_LORA_DOWN},
    {"_lora.up.weight", SARA_LORA_UP},
    {".lora_A.weight", SARA_LORA_DOWN}, /* PEFT's, saved by it or as its modules have them */
    {".lora_B.weight", SARA_LORA_UP},
    {".lora_magnitude_vector", SARA_LORA_MAGNITUDE},
    {".lora_A.default.weight", SARA_LORA_DOWN},
    {".lora_B.default.weight", SARA_LORA_UP},
    {".lora_magnitude_vector.weight", SARA_LORA_MAGNITUDE},
    {".lora_magnitude_vector.default.weight", SARA_LORA_MAGNITUDE},
};

/* By a part of a tensor's name. */
static const struct {
    const char *part, *what;
} lora_others[] = {
    {".hada_", "a LoHa"},
    {".lokr_", "a LoKr"},
    {".oft_", "an OFT"},
    {".boft_", "a BOFT"},
    {".on_input", "an IA3"},
    {".ia3_l", "an IA3"},
    {".a1.weight", "a GLoRA"},
    {".a2.weight", "a GLoRA"},
    {".b1.weight", "a GLoRA"},
    {".b2.weight", "a GLoRA"},
    {".vera_lambda", "a VeRA"},
    {".shira_", "a SHiRA"},
    {".lora_B.bias", "a LoRA with biases (lora_bias)"},
    {".lora_B.default.bias", "a LoRA with biases (lora_bias)"},
    {".lora_embedding_", "a LoRA of an embedding"},
    {".reshape_weight", "a LoRA that resizes weights"},
    {".set_weight", "a patch"},
    {"bundle_emb.", "an embedding"},
};

size_t sara_lora_key(const char *name, sara_lora_role *role)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof(lora_endings) / sizeof(*lora_endings); i++) {
        size_t tail = strlen(lora_endings[i].ending);
        if (length > tail && strcmp(name + length - tail, lora_endings[i].ending) == 0) {
            *role = lora_endings[i].role;
            return length - tail;
        }
    }
    return 0;
}

const char *sara_lora_other(const char *name)
{
    for (size_t i = 0; i < sizeof(lora_others) / sizeof(*lora_others); i++)
        if (strstr(name, lora_others[i].part))
            return lora_others[i].what;
    return NULL;
}

/* ---------------------------------------------------------------------------- the model's names */

static void lora_flatten(char *name)
{
    for (; *name; name++)
        if (*name == '.')
            *name = '_';
}

static sara_status add_lora_name(sara_arena *arena, sara_lora_names *names, const char *layer,
                                 size_t param)
{
    sara_lora_name *item = &names->items[names->count];
    char *copy = NULL;
    sara_status status;
    TRY(sara_strdup(arena->ctx, &copy, layer));
    lora_flatten(copy);
    *item = (sara_lora_name){.param = param, .third = -1};
    TRY(sara_arena_strdup(arena, &item->text, copy));
    names->count++;
done:
    sara_free(arena->ctx, copy);
    return status;
}

/* That of single files, where three weights may lie in one tensor. */
static sara_status add_single_name(sara_arena *arena, sara_lora_names *names, const char *weight,
                                   const char *layer, size_t param, const sara_ldm_shape *ldm)
{
    sara_lora_name *item = &names->items[names->count];
    sara_name thirds[3];
    char *other = NULL;
    sara_status status;
    TRY(sara_ldm_from_diffusers(arena->ctx, &other, ldm, layer));
    if (!other)
        return SARA_OK;
    TRY(add_lora_name(arena, names, other, param));
    item->third = sara_ldm_third(ldm, thirds, weight);
    item->swapped = sara_ldm_is_swapped(ldm, weight);
done:
    sara_free(arena->ctx, other);
    return status;
}

/* Text encoders are known with text_model. before their names and without it. */
static sara_status add_text_name(sara_arena *arena, sara_lora_names *names, const char *layer,
                                 size_t param)
{
    static const char text[] = "text_model.";
    char *other = NULL;
    sara_status status;
    if (strncmp(layer, text, strlen(text)) == 0)
        TRY(sara_strdup(arena->ctx, &other, layer + strlen(text)));
    else
        TRY(sara_format(arena->ctx, &other, "%s%s", text, layer));
    TRY(add_lora_name(arena, names, other, param));
done:
    sara_free(arena->ctx, other);
    return status;
}

static int compare_lora_texts(const void *a, const void *b)
{
    return strcmp(((const sara_lora_name *)a)->text, ((const sara_lora_name *)b)->text);
}

static int compare_lora_names(const void *a, const void *b)
{
    int order = compare_lora_texts(a, b);
    return order ? order : ((const sara_lora_name *)a)->third - ((const sara_lora_name *)b)->third;
}

static sara_status make_part_names(sara_arena *arena, sara_lora_names *names,
                                   const sara_network *network, bool denoiser)
{
    sara_ldm_shape ldm;
    bool has_ldm = denoiser && network->class->single;
    char *layer = NULL;
    sara_status status;
    if (has_ldm)
        TRY(sara_network_ldm_shape(network, &ldm));
    TRY(sara_arena_alloc(arena, &names->items, 2 * network->params.count, sizeof(*names->items)));
    for (size_t i = 0; i < network->params.count; i++) {
        const char *name = network->params.items[i].name, *dot = strrchr(name, '.');
        if (!dot || strcmp(dot, ".weight") != 0)
            continue;
        TRY(sara_format(arena->ctx, &layer, "%.*s", (int)(dot - name), name));
        TRY(add_lora_name(arena, names, layer, i));
        if (!denoiser)
            TRY(add_text_name(arena, names, layer, i));
        else if (has_ldm)
            TRY(add_single_name(arena, names, name, layer, i, &ldm));
        sara_free(arena->ctx, layer);
        layer = NULL;
    }
    if (names->count > 1)
        qsort(names->items, names->count, sizeof(*names->items), compare_lora_names);
done:
    sara_free(arena->ctx, layer);
    return status;
}

sara_status sara_lora_names_make(sara_arena *arena, sara_lora_names *out, const sara_model *model)
{
    sara_status status = SARA_OK;
    memset(out, 0, SARA_MOST_PARTS * sizeof(*out));
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].network && !sara_model_is_vae(model, i))
            TRY(make_part_names(arena, &out[i], model->parts[i].network, i == 0));
done:
    return status;
}

/* --------------------------------------------------------------------------- a file's own names */

/* What follows the beginning; NULL: it begins otherwise. */
static const char *lora_after(const char *text, const char *beginning)
{
    size_t length = strlen(beginning);
    return strncmp(text, beginning, length) == 0 ? text + length : NULL;
}

/* kohya's "lora_te_", "lora_te1_", "lora_te2_"; *which from 0. */
static const char *after_text_encoder(const char *layer, int *which)
{
    const char *rest = lora_after(layer, "lora_te");
    *which = 0;
    if (rest && *rest >= '1' && *rest <= '9')
        *which = *rest++ - '1';
    return rest && *rest == '_' ? rest + 1 : NULL;
}

static int nth_text_part(const sara_family *family, int which)
{
    for (int i = 1; i < family->part_count; i++)
        if ((family->parts[i].stages & SARA_STAGE_TEXT) && which-- == 0)
            return i;
    return -2;
}

const char *sara_lora_strip(const sara_family *family, int *part, const char *layer)
{
    static const char *const denoisers[] = {"lora_unet_", "lora_transformer_", "diffusion_model.",
                                            "model.diffusion_model."};
    const char *rest;
    int which;
    *part = 0;
    while ((rest = lora_after(layer, "base_model.model.")) != NULL)
        layer = rest;
    for (size_t i = 0; i < sizeof(denoisers) / sizeof(*denoisers); i++)
        if ((rest = lora_after(layer, denoisers[i])) != NULL)
            return rest;
    for (*part = 0; *part < family->part_count; ++*part) {
        rest = lora_after(layer, family->parts[*part].folder);
        if (rest && *rest == '.')
            return rest + 1;
    }
    rest = after_text_encoder(layer, &which);
    *part = rest ? nth_text_part(family, which) : -1;
    return rest ? rest : layer;
}

static const sara_lora_name *find_lora_name(const sara_lora_names *names, const char *text)
{
    const sara_lora_name key = {.text = text}, *found;
    if (names->count == 0)
        return NULL;
    found = bsearch(&key, names->items, names->count, sizeof(key), compare_lora_texts);
    while (found && found > names->items && strcmp(found[-1].text, text) == 0)
        found--;
    return found;
}

/* diffusers' attention processors call the layers otherwise than the networks. */
static sara_status try_endings(sara_context *ctx, const sara_lora_name **found,
                               const sara_lora_names *names, const char *text)
{
    static const char *const endings[][2] = {{"", ""},
                                             {"_to_out", "_to_out_0"},
                                             {"_to_q", "_q_proj"},
                                             {"_to_k", "_k_proj"},
                                             {"_to_v", "_v_proj"},
                                             {"_to_out", "_out_proj"}};
    size_t length = strlen(text);
    char *other = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings) && !*found; i++) {
        size_t tail = strlen(endings[i][0]);
        if (length < tail || strcmp(text + length - tail, endings[i][0]) != 0)
            continue;
        TRY(sara_format(ctx, &other, "%.*s%s", (int)(length - tail), text, endings[i][1]));
        *found = find_lora_name(names, other);
        sara_free(ctx, other);
        other = NULL;
    }
done:
    return status;
}

sara_status sara_lora_find(sara_context *ctx, const sara_lora_name **out, int *part,
                           const sara_family *family, const sara_lora_names *names,
                           const char *layer)
{
    static const char processor[] = "_processor";
    int wanted;
    char *text = NULL, *at;
    sara_status status;
    *out = NULL;
    TRY(sara_strdup(ctx, &text, sara_lora_strip(family, &wanted, layer)));
    lora_flatten(text);
    at = strstr(text, processor);
    if (at)
        memmove(at, at + strlen(processor), strlen(at + strlen(processor)) + 1);
    for (*part = 0; *part < family->part_count; ++*part) {
        if (wanted == -1 || wanted == *part)
            TRY(try_endings(ctx, out, &names[*part], text));
        if (*out)
            break;
    }
done:
    sara_free(ctx, text);
    return status;
}
