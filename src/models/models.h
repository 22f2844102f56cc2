/* The models layer: networks whose parameter names are the checkpoint keys of diffusers and
 * transformers. Public inputs and outputs are NCHW, as in PyTorch; inside, channels-last. */
#ifndef SARA_MODELS_H
#define SARA_MODELS_H

#include "io/io.h"
#include "nn/nn.h"

/* ------------------------------------------------------------------------------------ storage */

/* What weights are in memory; tensors of one dimension are F32 whatever it says. */
typedef enum sara_storage {
    SARA_STORE_F32,
    SARA_STORE_F16,
    SARA_STORE_BF16,
    SARA_STORE_AUTO, /* F16 and BF16 as the file has them, else F32 */
    /* As SARA_STORE_AUTO, SARA_STORE_F16 and SARA_STORE_BF16, and what is computed of the values in
     * memory is to the bit what it is of the same values as F32. */
    SARA_STORE_EXACT,
    SARA_STORE_EXACT_F16,
    SARA_STORE_EXACT_BF16
} sara_storage;
/* "auto" or a name that sara_dtype_parse() knows; NULL: F32. what: the option's name. */
SARA_NODISCARD sara_status sara_storage_parse(sara_context *ctx, sara_storage *out,
                                              const char *name, const char *what);
sara_storage sara_storage_exact(sara_storage storage);
/* Whether any value in memory may be another than the file's. */
bool sara_params_are_rounded(const sara_params *params);
/* How all tensors of more than one dimension are stored: "fp32", "fp16" or "bf16"; "auto" where
 * they differ. */
const char *sara_storage_name(const sara_params *params);

/* ------------------------------------------------------------------------------------- module */

/* Collects what parameters a network expects, then finds them all in a file and fills the slots.
 * Missing, misshapen and extra tensors are SARA_ERROR_INPUT listing the first five of each. */
typedef struct sara_binder sara_binder;
SARA_NODISCARD sara_status sara_binder_new(sara_device *device, sara_binder **out);
void sara_binder_free(sara_binder *binder);
/* *slot is filled by match or draw; name is copied. */
SARA_NODISCARD sara_status sara_binder_want(sara_binder *binder, sara_param **slot,
                                            const sara_shape *shape, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A tensor of the file that is no parameter, such as a table of positions: one of the set's
 * buffers. In memory it is as the file has it, or in 16 bits where the weights are. */
SARA_NODISCARD sara_status sara_binder_want_buffer(sara_binder *binder, sara_param **slot,
                                                   const sara_shape *shape, const char *name);
/* A file name that is read as the name wanted (published models' text_model. prefix, old
 * attention names) where the wanted one is absent. */
SARA_NODISCARD sara_status sara_binder_alias(sara_binder *binder, const char *name,
                                             const char *file_name);
/* The wanted tensor may also be stored with this shape, which the parameter then has. */
SARA_NODISCARD sara_status sara_binder_also_shape(sara_binder *binder, const char *name,
                                                  const sara_shape *shape);
/* Extra tensors whose name ends so are not an error (position_ids). */
SARA_NODISCARD sara_status sara_binder_ignore(sara_binder *binder, const char *suffix);
/* How the weights are stored in memory; F32 unless this is called. */
void sara_binder_store(sara_binder *binder, sara_storage storage);
/* The parameters have no values yet; that these can be read is checked. Names in *params
 * are the file's own (so that saving gives the same keys). 2-D and 4-D 1x1
 * weights of equal count are not interchangeable unless sara_binder_also_shape() says so. */
SARA_NODISCARD sara_status sara_binder_match(sara_binder *binder, sara_params *params,
                                             const sara_weights *weights);
/* The values of matched parameters, into memory of their device; after an error there are none. */
SARA_NODISCARD sara_status sara_params_fill(sara_context *ctx, sara_params *params,
                                            const sara_weights *weights);
/* Random values for a set that is allocated: matrices and convolutions N(0, 1 / inputs), biases
 * N(0, 1 / length), the weights of norms 1. The same seed gives the same values whatever the number
 * of threads. */
SARA_NODISCARD sara_status sara_params_draw(sara_context *ctx, sara_params *params, uint64_t seed);
/* Instead of matching: every wanted parameter, drawn by sara_params_draw(). */
SARA_NODISCARD sara_status sara_binder_draw(sara_binder *binder, sara_params *params,
                                            uint64_t seed);
int64_t sara_binder_entries(const sara_binder *binder); /* of all wanted parameters */

/* ------------------------------------------------------------------------------------ sources */

/* A network's config, and where its weights are. */
typedef struct sara_component {
    sara_context *ctx;
    json_t *config; /* as diffusers' config.json */
    char *source;   /* of the config, for errors */
    char *path;     /* diffusers' folder, or a single file */
    const char *stem, *variant; /* in the folder; stem NULL: a single file */
    /* In a single file, and what its names depend on; NULL: they are diffusers' */
    const char *prefix;
    sara_ldm_shape shape;
    char *fault; /* why the network cannot be opened; NULL: nothing is known */
} sara_component;
/* Reads folder/config.json; stem and variant must outlive the component. */
SARA_NODISCARD sara_status sara_component_open(sara_context *ctx, sara_component *out,
                                               const char *folder, const char *stem,
                                               const char *variant);
SARA_NODISCARD sara_status sara_component_weights(const sara_component *component,
                                                  sara_weights **out);
void sara_component_close(sara_component *component);
#define SARA_DIFFUSERS_STEM    "diffusion_pytorch_model"
#define SARA_TRANSFORMERS_STEM "model"

#define SARA_MAX_LEVELS 8 /* resolutions that a network may have */

/* ---------------------------------------------------------------------------------- tokenizer */

/* transformers' CLIPTokenizer from tokenizer/: vocab.json + merges.txt, or tokenizer.json alone; or
 * its T5TokenizerFast. */
typedef struct sara_tokenizer sara_tokenizer;
/* context_length: the text encoder's max positions; tokenizer_config.json's model_max_length rules
 * where it is smaller. 0: the file's alone. */
SARA_NODISCARD sara_status sara_tokenizer_load(sara_context *ctx, sara_tokenizer **out,
                                               const char *folder, int context_length);
/* T5's, from spiece.model, or where there is none from tokenizer.json; the length is
 * tokenizer_config.json's, at most 512. A text's ids are its pieces, then </s>. */
SARA_NODISCARD sara_status sara_tokenizer_load_t5(sara_context *ctx, sara_tokenizer **out,
                                                  const char *folder);
/* CLIP's own vocabulary, of which the library holds a copy if it was there when it was built.
 * second: with SD2's padding. save writes it as a tokenizer/ folder. */
bool sara_tokenizer_has_builtin(void);
SARA_NODISCARD sara_status sara_tokenizer_load_builtin(sara_context *ctx, sara_tokenizer **out,
                                                       bool second);
SARA_NODISCARD sara_status sara_tokenizer_save_builtin(sara_context *ctx, const char *folder,
                                                       bool second);
void sara_tokenizer_free(sara_tokenizer *tokenizer);
int sara_tokenizer_length(const sara_tokenizer *tokenizer);
/* The largest id + 1: what the text encoder's vocab_size must at least be. */
int sara_tokenizer_vocab_size(const sara_tokenizer *tokenizer);
/* Whole: start, text, end, uncut and unpadded. *ids: sara_free(). text is UTF-8; invalid bytes are
 * read as U+FFFD. */
SARA_NODISCARD sara_status sara_tokenizer_encode(const sara_tokenizer *tokenizer, int32_t **ids,
                                                 size_t *count, const char *text);
/* The ids of size bytes of text, without start and end, after the *count ids that are there. */
SARA_NODISCARD sara_status sara_tokenizer_append(const sara_tokenizer *tokenizer, int32_t **ids,
                                                 size_t *count, size_t *capacity,
                                                 const char *text, size_t size);
typedef struct sara_tokenizer_marks {
    int32_t start, end, pad; /* around a text's ids; start -1: T5's has none */
    int32_t comma;           /* a word that is a comma; -1: there is none */
} sara_tokenizer_marks;
sara_tokenizer_marks sara_tokenizer_marks_of(const sara_tokenizer *tokenizer);
/* Cut and padded to `length` ids, at least 1, the end of the text among them; *cut (may be NULL):
 * ids left out. */
SARA_NODISCARD sara_status sara_tokenizer_pad_to(const sara_tokenizer *tokenizer, int32_t *ids,
                                                 size_t length, size_t *cut, const char *text);
/* The same to sara_tokenizer_length() ids. */
SARA_NODISCARD sara_status sara_tokenizer_pad(const sara_tokenizer *tokenizer, int32_t *ids,
                                              size_t *cut, const char *text);

#endif
