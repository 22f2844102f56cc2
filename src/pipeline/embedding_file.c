/* Files of textual inversion, in the forms of diffusers, A1111 and kohya. */
#include "pipeline/embedding.h"

#include <math.h>

#define PLAIN "emb_params" /* A1111's and kohya's */
#define T5    "t5xxl"      /* ComfyUI's, for SD3 */

static const char *const encoder_keys[SARA_EMBEDDED_ENCODERS] = {"clip_l", "clip_g"};

/* ------------------------------------------------------------------------------------ its forms */

static bool has_keys(const sara_safetensors *file)
{
    return sara_safetensors_find(file, encoder_keys[0]) ||
           sara_safetensors_find(file, encoder_keys[1]);
}

/* The only tensor, which is named by a token; parameters' names have dots. */
static bool is_token(const sara_safetensors *file)
{
    const sara_tensor_info *only = sara_safetensors_at(file, 0);
    bool bracketed = only->name[0] == '<';
    return only->shape.rank >= 1 && only->shape.rank <= 2 && sara_dtype_is_float(only->dtype) &&
           (bracketed || !strchr(only->name, '.'));
}

bool sara_embedding_is(const sara_safetensors *file)
{
    if (sara_safetensors_metadata(file, "sara.format") || sara_safetensors_count(file) == 0)
        return false;
    return has_keys(file) || sara_safetensors_find(file, PLAIN) ||
           (sara_safetensors_count(file) == 1 && is_token(file) &&
            sara_safetensors_at(file, 0)->name[0] == '<');
}

static sara_status refuse_keys(sara_context *ctx, const sara_safetensors *file)
{
    const size_t count = sara_safetensors_count(file);
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "%s: no embedding: %zu tensor%s%s%.60s, expected " PLAIN ", or clip_l and "
                     "clip_g, or one named by its token",
                     sara_safetensors_path(file), count, count == 1 ? "" : "s",
                     count ? ", the first " : "", count ? sara_safetensors_at(file, 0)->name : "");
}

static sara_status read_form(sara_context *ctx, sara_embedding_file *out)
{
    const sara_safetensors *file = out->file;
    const size_t count = sara_safetensors_count(file);
    const bool t5 = sara_safetensors_find(file, T5) != NULL;
    size_t used = 1;
    out->form = "A1111";
    out->tensors[0] = sara_safetensors_find(file, PLAIN);
    if (!out->tensors[0] && count == 1 && !has_keys(file) && is_token(file)) {
        out->form = "diffusers";
        out->tensors[0] = sara_safetensors_at(file, 0);
        out->token = out->tensors[0]->name;
    } else if (!out->tensors[0] && has_keys(file)) {
        out->form = "clip_l, clip_g";
        out->t5 = t5;
        used = t5 ? 1 : 0;
        for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++) {
            out->tensors[i] = sara_safetensors_find(file, encoder_keys[i]);
            used += out->tensors[i] != NULL;
        }
    }
    return out->tensors[0] && used == count ? SARA_OK : refuse_keys(ctx, file);
}

/* --------------------------------------------------------------------------------------- shapes */

static int64_t vectors_of(const sara_tensor_info *info)
{
    return info->shape.rank == 1 ? 1 : info->shape.dims[0];
}

int64_t sara_embedding_width(const sara_embedding_file *file, int encoder)
{
    const sara_tensor_info *info = file->tensors[encoder];
    return info ? info->shape.dims[info->shape.rank - 1] : 0;
}

static sara_status check_embedding_shape(sara_context *ctx, const sara_embedding_file *e,
                                         int encoder)
{
    const sara_tensor_info *info = e->tensors[encoder];
    const char *path = sara_safetensors_path(e->file);
    sara_shape_text text;
    if (info->shape.rank < 1 || info->shape.rank > 2)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: tensor %.60s: shape %s, expected [width] or [vectors,width]", path,
                         info->name, sara_shape_format(&text, &info->shape));
    const int64_t count = vectors_of(info), width = sara_embedding_width(e, encoder);
    if (count < 1 || count > SARA_MOST_VECTORS || width < 1 || width > SARA_MAX_CHANNELS)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: tensor %.60s: %lld vectors of width %lld, expected 1 to %d of 1 to "
                         "%d",
                         path, info->name, (long long)count, (long long)width, SARA_MOST_VECTORS,
                         SARA_MAX_CHANNELS);
    if (count != vectors_of(e->tensors[0]))
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %lld vectors in %.60s, %lld in %.60s: as many "
                         "are expected",
                         path, (long long)vectors_of(e->tensors[0]), e->tensors[0]->name,
                         (long long)count, info->name);
    return sara_safetensors_check_dtype(e->file, info);
}

sara_status sara_embedding_describe(sara_context *ctx, sara_embedding_file *out,
                                    sara_safetensors *file)
{
    sara_status status;
    *out = (sara_embedding_file){.file = file};
    TRY(read_form(ctx, out));
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++)
        if (out->tensors[i])
            TRY(check_embedding_shape(ctx, out, i));
    out->count = vectors_of(out->tensors[0]);
done:
    return status;
}

sara_status sara_embedding_open(sara_context *ctx, sara_embedding_file *out, const char *path)
{
    sara_safetensors *file = NULL;
    sara_status status;
    *out = (sara_embedding_file){.file = NULL};
    TRY(sara_safetensors_open(ctx, &file, path));
    TRY(sara_embedding_describe(ctx, out, file));
done:
    out->file = file;
    return status;
}

/* --------------------------------------------------------------------------------------- values */

static sara_status check_finite_vectors(sara_context *ctx, const sara_embedding_file *e,
                                        int encoder, const float *values)
{
    const int64_t width = sara_embedding_width(e, encoder);
    for (int64_t i = 0; i < e->count * width; i++)
        if (!isfinite(values[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: tensor %.60s: vector %lld, entry %lld is %g: not finite",
                             sara_safetensors_path(e->file), e->tensors[encoder]->name,
                             (long long)(i / width), (long long)(i % width), (double)values[i]);
    return SARA_OK;
}

sara_status sara_embedding_load(sara_context *ctx, sara_embedding *out,
                                const sara_embedding_file *file, const char *name)
{
    const char *path = sara_safetensors_path(file->file);
    sara_status status;
    *out = (sara_embedding){.count = file->count};
    TRY(sara_strdup(ctx, &out->name, name));
    TRY(sara_strdup(ctx, &out->path, path));
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++) {
        if (!file->tensors[i])
            continue;
        out->widths[i] = sara_embedding_width(file, i);
        TRY(sara_alloc(ctx, &out->vectors[i], (size_t)(out->count * out->widths[i]),
                       sizeof(**out->vectors)));
        TRY(sara_safetensors_read_f32(file->file, out->vectors[i], file->tensors[i]));
        TRY(check_finite_vectors(ctx, file, i, out->vectors[i]));
    }
    TRY(sara_sha256_file(ctx, out->sha256, path));
    TRY(sara_safetensors_check_unchanged(file->file)); /* so that it is the hash of these values */
done:
    return status;
}

sara_status sara_embedding_copy(sara_context *ctx, sara_embedding *out, const sara_embedding *from)
{
    sara_status status;
    *out = (sara_embedding){.count = from->count};
    memcpy(out->sha256, from->sha256, sizeof(out->sha256));
    TRY(sara_strdup(ctx, &out->name, from->name));
    TRY(sara_strdup(ctx, &out->path, from->path));
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++) {
        size_t size = (size_t)(from->count * from->widths[i]);
        if (!from->vectors[i])
            continue;
        out->widths[i] = from->widths[i];
        TRY(sara_alloc(ctx, &out->vectors[i], size, sizeof(**out->vectors)));
        memcpy(out->vectors[i], from->vectors[i], size * sizeof(**out->vectors));
    }
done:
    return status;
}

void sara_embedding_free(sara_context *ctx, sara_embedding *embedding)
{
    sara_free(ctx, embedding->name);
    sara_free(ctx, embedding->path);
    for (int i = 0; i < SARA_EMBEDDED_ENCODERS; i++)
        sara_free(ctx, embedding->vectors[i]);
    *embedding = (sara_embedding){.count = 0};
}
