/* The core layer: status, memory, arenas, strings, log, Philox RNG, threads, tensors, devices,
 * parameters and the tape. Depends on nothing but the C library and OpenMP. */
#ifndef SARA_CORE_H
#define SARA_CORE_H

#include "core/device.h"
#include "core/number.h"

#include <string.h>

/* ------------------------------------------------------------------------------------ status */

/* What holds unless the library itself is wrong, whatever it is given. Builds with sanitizers and
 * for fuzzing look (SARA_ASSERTIONS); a library in use never ends the process. */
#ifdef SARA_ASSERTIONS
#include <assert.h>
#define SARA_ASSERT(condition) assert(condition)
#else
#define SARA_ASSERT(condition) ((void)sizeof(condition))
#endif

/* Leaves with the status of a failed call; the function has a `done:` label and a `status`. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != SARA_OK)                                                                     \
            goto done;                                                                             \
    } while (0)

/* Writes the context's error line (control bytes and invalid UTF-8 escaped) and returns status. */
sara_status sara_fail(sara_context *ctx, sara_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the current error line. Returns status unchanged. */
sara_status sara_fail_in(sara_context *ctx, sara_status status, const char *prefix);
/* Copies text, escaping control bytes and invalid UTF-8 as \xNN; always terminates. */
void sara_text_escape(char *out, size_t size, const char *text);
/* SARA_ERROR_IO with strerror(errno): "path: what: No space left on device". */
sara_status sara_fail_errno(sara_context *ctx, const char *path, const char *what);
void sara_log(sara_context *ctx, sara_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sara_report_progress(sara_context *ctx, const sara_progress *progress);
/* Until the next call what reports progress is the part `index` of work in `count` equal ones, and
 * is told as such; count 0: it is all there is. */
void sara_progress_part(sara_context *ctx, int64_t index, int64_t count);
bool sara_interrupted(const sara_context *ctx);
/* The request has been met: for who returns SARA_INTERRUPTED to the caller of the library. */
void sara_interrupt_clear(sara_context *ctx);
int sara_threads(const sara_context *ctx);

/* Work on many things, by several threads at once. */
typedef struct sara_crew {
    /* On one of them, with a context of the thread's own, of one thread, whose memory is ctx's. */
    sara_status (*work)(sara_context *own, void *user, size_t index);
    /* What is logged at an index, on its thread; NULL: to ctx, one thread at a time. */
    void (*log)(sara_context *own, void *user, size_t index, const char *line);
    void *user;
    const char *phase;       /* of progress, which the calling thread tells */
    const char *interrupted; /* the error's line */
} sara_crew;
/* On all below count, in about their order, by sara_threads(ctx) threads. The first error ends it:
 * of several the one of the least index is ctx's. ctx is not to be used by `work`. */
SARA_NODISCARD sara_status sara_crew_run(sara_context *ctx, const sara_crew *crew, size_t count);

/* ------------------------------------------------------------------------------------ memory */

/* count * size bytes from the context's allocator; SARA_ERROR_MEMORY on overflow or failure.
 * *out becomes NULL for 0 bytes. Alignment 64. */
SARA_NODISCARD sara_status sara_alloc(sara_context *ctx, void *out, size_t count, size_t size);
SARA_NODISCARD sara_status sara_alloc_zero(sara_context *ctx, void *out, size_t count, size_t size);
/* Grows the array at *(void **)array to hold `needed` elements (doubling); *capacity is updated. */
SARA_NODISCARD sara_status sara_grow(sara_context *ctx, void *array, size_t *capacity,
                                     size_t needed, size_t size);
SARA_NODISCARD sara_status sara_strdup(sara_context *ctx, char **out, const char *text);
SARA_NODISCARD sara_status sara_format(sara_context *ctx, char **out, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A parameter's or a block's name; every name of the supported networks fits. */
typedef struct sara_name {
    char text[192];
} sara_name;
sara_name sara_name_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* directory + "/" + name */
SARA_NODISCARD sara_status sara_path_join(sara_context *ctx, char **out, const char *directory,
                                          const char *name);
/* sara_free(ctx, p) is public; NULL is fine. */

/* Has the C library give what was freed back to the system, where it can. */
void sara_memory_trim(void);

/* Bytes that the process may come to use in all, what it uses already included: the context's
 * limit, or what the system has available, its control group and `ulimit -v` allow; UINT64_MAX
 * where nothing says. */
uint64_t sara_memory_limit(const sara_context *ctx);
/* "12 MiB" or "3.20 GiB" into the buffer, which is returned. */
typedef struct sara_bytes_text {
    char text[32];
} sara_bytes_text;
const char *sara_bytes_format(sara_bytes_text *buffer, uint64_t bytes);
/* FNV-1a, for tables in memory. */
uint64_t sara_hash_bytes(const void *data, size_t size);

/* A text that grows: {.ctx = ctx}, then sara_buffer_free(). data ends with a NUL, and is NULL until
 * something was added. */
typedef struct sara_buffer {
    sara_context *ctx;
    char *data;
    size_t length, capacity;
} sara_buffer;
SARA_NODISCARD sara_status sara_buffer_add(sara_buffer *buffer, const char *data, size_t size);
SARA_NODISCARD sara_status sara_buffer_put(sara_buffer *buffer, const char *text);
SARA_NODISCARD sara_status sara_buffer_put_char(sara_buffer *buffer, char c);
/* One of `count` names after the other: "a, b or c". */
SARA_NODISCARD sara_status sara_buffer_put_choice(sara_buffer *buffer, const char *name,
                                                  size_t index, size_t count);
void sara_buffer_clear(sara_buffer *buffer); /* empty, "" where there is data; memory is kept */
void sara_buffer_free(sara_buffer *buffer);

/* Memory that is given back all at once. */
typedef struct sara_arena {
    sara_context *ctx;
    struct sara_arena_block *head, *spare; /* spare: kept by a reset */
} sara_arena;
void sara_arena_init(sara_arena *arena, sara_context *ctx);
SARA_NODISCARD sara_status sara_arena_alloc(sara_arena *arena, void *out, size_t count,
                                            size_t size);
SARA_NODISCARD sara_status sara_arena_strdup(sara_arena *arena, const char **out, const char *text);
void sara_arena_free(sara_arena *arena);
/* Forgets what was given out, and keeps the memory for what comes next. */
void sara_arena_reset(sara_arena *arena);
/* Makes sure that `bytes` more need no memory, the rounding up of their parts to 16 included. */
SARA_NODISCARD sara_status sara_arena_reserve(sara_arena *arena, size_t bytes);
/* Lives as long as the context; for strings of options. */
sara_arena *sara_context_arena(sara_context *ctx);

/* ----------------------------------------------------------------------------------- options */

/* A struct of the public header whose first member, `size_t size`, is the size that it had when the
 * calling program was compiled; 0: that of the first version. Members are added at the end. */
typedef struct sara_options_type {
    const char *name; /* "sara_train_options" */
    size_t size, first_size;
} sara_options_type;
/* last: the last member of the first version. */
#define SARA_OPTIONS_TYPE(type, last)                                                              \
    {                                                                                              \
#type, sizeof(type), offsetof(type, last) + sizeof(((type *)0)->last)                      \
    }
#define SARA_LARGEST_OPTIONS ((size_t)1 << 20)
/* What sara_..._options_init() does: the defaults, and the size. */
void sara_options_init(void *options, size_t size, const void *defaults,
                       const sara_options_type *type);
/* Copies what the caller's struct has over *full, which holds the defaults. SARA_ERROR_USAGE for an
 * impossible size, and for members that are set and that this library does not know. */
SARA_NODISCARD sara_status sara_options_read(sara_context *ctx, void *full,
                                             const sara_options_type *type, const void *given);
/* As much of *full as the caller's struct (NULL: none) has room for. */
void sara_sized_write(void *out, size_t out_size, const void *full, size_t full_size);

/* --------------------------------------------------------------------------------------- rng */

/* What a draw is for: counters of different purposes never meet. */
typedef enum sara_purpose {
    SARA_DRAW_LATENT = 1, /* start noise of generation */
    SARA_DRAW_SAMPLER,    /* noise of ancestral samplers */
    SARA_DRAW_NOISE,      /* training noise */
    SARA_DRAW_TIMESTEP,
    SARA_DRAW_POSTERIOR, /* the VAE's sample */
    SARA_DRAW_ORDER,     /* order of an epoch */
    SARA_DRAW_CROP,
    SARA_DRAW_FLIP,
    SARA_DRAW_RANK, /* matrix of the low-rank term */
    SARA_DRAW_TEST,
    SARA_DRAW_WEIGHT,  /* random weights */
    SARA_DRAW_STATE,   /* random text states */
    SARA_DRAW_MASK,    /* entries that are trained */
    SARA_DRAW_SUBSET,  /* pictures whose features are compared */
    SARA_DRAW_SHAPE,   /* orders of the images of each shape */
    SARA_DRAW_CAPTION, /* what becomes of captions */
    SARA_DRAW_COLOR    /* colours of images */
} sara_purpose;

/* Philox 4x32-10 (Salmon et al., SC 2011), counter-based: element i of a draw is a pure function
 * of (seed, purpose, index, i). */
void sara_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);
void sara_draw_normal(float *out, size_t count, uint64_t seed, sara_purpose purpose,
                      uint64_t index); /* N(0, 1), Box-Muller in double */
void sara_draw_uniform(float *out, size_t count, uint64_t seed, sara_purpose purpose,
                       uint64_t index); /* [0, 1) */
/* Elements first, first + 1, ... of 32 bits each; first: a multiple of 4. */
void sara_draw_bits(uint32_t *out, size_t count, uint64_t seed, sara_purpose purpose,
                    uint64_t index, uint64_t first);
uint64_t sara_draw_below(uint64_t bound, uint64_t seed, sara_purpose purpose, uint64_t index,
                         uint64_t element); /* [0, bound), unbiased */

/* ----------------------------------------------------------------------------------- tensors */

#define SARA_MAX_RANK 8

/* Storage types; arithmetic is in f32. Integers, C64 and F8_E8M0 are only copied. */
typedef enum sara_dtype {
    SARA_F64,
    SARA_F32,
    SARA_F16,
    SARA_BF16,
    SARA_I64,
    SARA_I32,
    SARA_I16,
    SARA_I8,
    SARA_U8,
    SARA_BOOL,
    SARA_U16,
    SARA_U32,
    SARA_U64,
    SARA_C64,
    SARA_F8_E5M2,
    SARA_F8_E4M3,
    SARA_F8_E8M0,
    SARA_DTYPE_COUNT
} sara_dtype;
const char *sara_dtype_name(sara_dtype dtype); /* as safetensors spells it: "F32", "BF16" */
size_t sara_dtype_size(sara_dtype dtype);
/* F32, F16 or BF16 from "fp32", "f32" or "float32" and so on; false for another name. */
bool sara_dtype_is_float(sara_dtype dtype); /* sara_convert_to_f32() reads it */
/* As what values stored so are written anew: F16 for 8-bit floats, all of which it holds and whose
 * rounding would swallow changes; else the dtype itself. */
sara_dtype sara_dtype_widened(sara_dtype dtype);
bool sara_dtype_parse(sara_dtype *out, const char *name);

typedef struct sara_shape {
    int rank;
    int64_t dims[SARA_MAX_RANK];
} sara_shape;
/* By rank. */
sara_shape sara_shape1(int64_t a);
sara_shape sara_shape2(int64_t a, int64_t b);
sara_shape sara_shape3(int64_t a, int64_t b, int64_t c);
sara_shape sara_shape4(int64_t a, int64_t b, int64_t c, int64_t d);
bool sara_shape_equal(const sara_shape *a, const sara_shape *b);
int64_t sara_shape_count(const sara_shape *shape); /* product; 1 for rank 0 */
/* out [cols][rows] of in [rows][cols], entries of `size` bytes. */
void sara_transpose(void *out, const void *in, int64_t rows, int64_t cols, size_t size);
/* "[320,4,3,3]" into the buffer, which is returned. */
typedef struct sara_shape_text {
    char text[8 * 21 + 4];
} sara_shape_text;
const char *sara_shape_format(sara_shape_text *buffer, const sara_shape *shape);

/* Row-major and contiguous; owns its data unless said otherwise. */
typedef struct sara_tensor {
    sara_dtype dtype;
    sara_shape shape;
    void *data;
} sara_tensor;
SARA_NODISCARD sara_status sara_tensor_new(sara_context *ctx, sara_tensor *out, sara_dtype dtype,
                                           const sara_shape *shape); /* uninitialised */
void sara_tensor_free(sara_context *ctx, sara_tensor *tensor);       /* data only; zeroes *tensor */

/* Conversions are exact where the target holds the value, else round to nearest even; f32 to f16
 * overflows to infinity as PyTorch does. */
float sara_f16_to_f32(uint16_t h);
uint16_t sara_f32_to_f16(float f);
float sara_bf16_to_f32(uint16_t h);
uint16_t sara_f32_to_bf16(float f);
/* count elements of a floating dtype (F64, F32, F16, BF16, F8_E4M3, F8_E5M2) to f32, and f32 to
 * F32, F16 or BF16. F8_E4M3 is OCP's, without infinities, as in torch.float8_e4m3fn. */
void sara_convert_to_f32(float *out, const void *in, sara_dtype dtype, size_t count);
void sara_convert_from_f32(void *out, sara_dtype dtype, const float *in, size_t count);

/* -------------------------------------------------------------------------------- parameters */

/* What gradient a parameter asks of the ops that use it. */
typedef enum sara_grad_kind {
    SARA_GRAD_NONE,
    SARA_GRAD_DENSE,  /* grad has the parameter's shape */
    SARA_GRAD_SAMPLED /* grad[i] belongs to the entry positions[i] */
} sara_grad_kind;

struct sara_param;

/* Where values are read from that are not in memory. */
typedef struct sara_param_source {
    /* out [entries] of the parameter's dtype */
    sara_status (*read)(const void *user, void *out, const struct sara_param *param);
    const void *user;
} sara_param_source;

typedef struct sara_param {
    const char *name;    /* the checkpoint key; owned by the set */
    sara_device *device; /* where value, positions and grad lie; NULL: in the host's memory */
    sara_tensor value;   /* F32, or F16 or BF16 if its rank is more than 1 */
    sara_dtype stored;   /* dtype in the file it came from */
    bool as_floats;      /* results are those of F32 values, to the bit, whatever the dtype */
    sara_grad_kind want;
    const uint32_t *positions; /* [selected] ascending row-major; borrowed from the selection */
    size_t selected;
    float *grad; /* backward adds to it; borrowed from whoever set want */
    /* Counts changes of value, so that what is derived from it can be cached; differs between the
     * sets of a context, as a new one may lie where a freed one lay. */
    uint64_t version;
    struct sara_branch *branch; /* what ops add beside it (nn/nn.h), borrowed; NULL: nothing */
    const sara_param_source *source; /* borrowed; NULL: it has values whenever they are asked for */
    bool away; /* its values are in memory only while they are lent; what is trained is laid over */
} sara_param;

/* The parameters of one module, ascending by name's bytes; the items never move. */
typedef struct sara_params {
    sara_param *items;
    size_t count;
    size_t buffers; /* so many items follow that are no parameters, but constants of the file */
} sara_params;
SARA_NODISCARD sara_status sara_params_new(sara_context *ctx, sara_params *out, size_t count);
/* Names and values too; the parameters' device must still be open. */
void sara_params_free(sara_context *ctx, sara_params *params);
/* Gives a parameter its value, uninitialised, in memory of the device. */
SARA_NODISCARD sara_status sara_param_alloc(sara_param *param, sara_device *device,
                                            sara_dtype dtype, const sara_shape *shape);
/* Gives the value's memory back; what its dtype and shape are stays known. */
void sara_param_release(sara_context *ctx, sara_param *param);
/* With the buffers. */
static inline size_t sara_params_all(const sara_params *params)
{
    return params->count + params->buffers;
}
sara_param *sara_params_find(const sara_params *params, const char *name); /* NULL: absent */
int64_t sara_params_entries(const sara_params *params);
/* Of their values in memory and the buffers', whether these are there or not. */
int64_t sara_params_bytes(const sara_params *params);
/* Whether value holds less than the file it came from. */
bool sara_param_is_rounded(const sara_param *param);
/* What the host reads of a parameter or a set, and may write: themselves where their memory is the
 * host's, else copies, with which they share all but the values and the device. Of values that are
 * not in memory these are read from the source. stage is as read, but a copy's values are
 * uninitialised. write gives a parameter, whose values are in memory, those of its copy; the caller
 * counts the version up. end gives copies back. */
SARA_NODISCARD sara_status sara_param_stage(sara_context *ctx, sara_param *copy,
                                            const sara_param *param);
SARA_NODISCARD sara_status sara_param_read(sara_context *ctx, sara_param *copy,
                                           const sara_param *param);
void sara_param_read_end(sara_context *ctx, sara_param *copy, const sara_param *param);
SARA_NODISCARD sara_status sara_param_write(sara_param *param, const sara_param *copy);
SARA_NODISCARD sara_status sara_params_read(sara_context *ctx, sara_params *copy,
                                            const sara_params *params);
void sara_params_read_end(sara_context *ctx, sara_params *copy, const sara_params *params);
/* The same of a part of the set, copy->count parameters from `first` on: of all where that takes no
 * copies, else of some MiB at a time, at least of one. */
SARA_NODISCARD sara_status sara_params_read_from(sara_context *ctx, sara_params *copy,
                                                 const sara_params *params, size_t first);
void sara_params_read_from_end(sara_context *ctx, sara_params *copy, const sara_params *params,
                               size_t first);
/* Of a parameter in the host's memory. Values are float32 for whoever asks, whatever their dtype.
 * set rounds to it; the caller counts the version up. */
float sara_param_get(const sara_param *param, size_t index);
void sara_param_set(sara_param *param, size_t index, float value);
/* Entries first .. first + count - 1, at most SARA_PARAM_BLOCK of them: where they lie, or
 * converted into the buffer. */
#define SARA_PARAM_BLOCK 4096
const float *sara_param_block(const sara_param *param, float buffer[SARA_PARAM_BLOCK], size_t first,
                              size_t count);
/* The size of the block at `first` of so many entries. */
static inline size_t sara_param_part(size_t entries, size_t first)
{
    return entries - first < SARA_PARAM_BLOCK ? entries - first : SARA_PARAM_BLOCK;
}

#endif
