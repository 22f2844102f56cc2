/* Bottlenecks beside the feed-forwards of transformer blocks (AdaptFormer, Chen et al. 2022) and
 * their file (docs/formats.md). */
#ifndef SARA_SPARSE_BOTTLENECK_H
#define SARA_SPARSE_BOTTLENECK_H

#include "io/io.h"
#include "nn/nn.h"
#include "sparse/sparse.h"

#define SARA_BOTTLENECK_METHOD "adaptformer" /* of the file's metadata sara.method */

/* Of each feed-forward X.ff in turn the parameters X.ff.down.bias [width], X.ff.down.weight
 * [width,channels], X.ff.up.bias [channels] and X.ff.up.weight [channels,width], float32. */
typedef struct sara_bottlenecks {
    sara_context *ctx;
    sara_params params;
    sara_branch *branches; /* [count] */
    sara_param **layers; /* [count] that carry them, while they are attached; NULL: they are not */
    size_t count;
    int64_t width;
    double scale;                /* of all branches */
    char sha256[65];             /* of those of a file: equal for equal names, values and scale */
    sara_metadata_list metadata; /* of the file that they were loaded from */
} sara_bottlenecks;

/* How large bottlenecks of a model would be: width * per_width + fixed values. */
typedef struct sara_bottleneck_size {
    size_t count; /* feed-forwards; 0: the model has none */
    int64_t per_width, fixed;
} sara_bottleneck_size;
sara_bottleneck_size sara_bottleneck_size_of(const sara_params *params);

/* *out of the next two, which is zero: sara_bottlenecks_free(), even after an error. New ones, on
 * the device of the parameters that they are made for: down uniform within 1 / sqrt(channels), by
 * the seed, and the others zero, so that they change nothing. */
SARA_NODISCARD sara_status sara_bottlenecks_new(sara_context *ctx, sara_bottlenecks *out,
                                                const sara_params *params, int64_t width,
                                                double scale, uint64_t seed);
/* A file's, in memory of the device. Whatever is not as docs/formats.md has it is
 * SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_bottlenecks_read(sara_device *device, sara_bottlenecks *out,
                                                 const sara_safetensors *file);
/* Whether a file says that it holds some. */
bool sara_bottlenecks_are(const sara_safetensors *file);
void sara_bottlenecks_free(sara_bottlenecks *bottlenecks); /* detaches */

/* SARA_ERROR_INPUT where the parameters have no such feed-forward, and for those that were made for
 * another base; NULL: whatever it was. */
SARA_NODISCARD sara_status sara_bottlenecks_check(const sara_bottlenecks *bottlenecks,
                                                  const sara_params *params, const sara_base *base);
/* Has the feed-forwards add them, checked, after those that they carry already, so many times as
 * strong. */
SARA_NODISCARD sara_status sara_bottlenecks_attach(sara_bottlenecks *bottlenecks,
                                                   const sara_params *params, double strength);
void sara_bottlenecks_detach(sara_bottlenecks *bottlenecks);
/* Makes them so many times as strong, in their values. */
SARA_NODISCARD sara_status sara_bottlenecks_multiply(sara_bottlenecks *bottlenecks, double factor);

/* Deterministic bytes. */
SARA_NODISCARD sara_status sara_bottlenecks_save(const sara_bottlenecks *bottlenecks,
                                                 const char *path, const sara_metadata *metadata,
                                                 size_t metadata_count);

/* What making and reading them shares: memory for so many, and what one of them has, whose layer is
 * the first `length` bytes of a name. */
SARA_NODISCARD sara_status sara_bottlenecks_start(sara_context *ctx, sara_bottlenecks *out,
                                                  size_t count, int64_t width, double scale);
SARA_NODISCARD sara_status sara_bottlenecks_place(sara_bottlenecks *out, size_t index,
                                                  const char *layer, size_t length,
                                                  int64_t channels, sara_device *device);

#endif
