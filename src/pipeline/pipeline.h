/* The pipeline layer: a whole model folder, text to image, saving. Implements sara.h's model,
 * adapter and generation functions. */
#ifndef SARA_PIPELINE_H
#define SARA_PIPELINE_H

#include "pipeline/family.h"
#include "sparse/sparse.h"

/* An adapter on a model, as pictures name it. */
typedef struct sara_model_adapter {
    char *name; /* of its file, without folder and .safetensors */
    double strength;
    size_t before[SARA_MOST_PARTS]; /* how many were on each part before it */
    const struct sara_adapter_kind *kind;
    int64_t shira_rank; /* of an adapter that a run of SHiRA has made; 0: it is none */
} sara_model_adapter;

typedef struct sara_model_part {
    sara_network *network; /* NULL: of a denoiser alone, which is the others' case */
    sara_tokenizer *tokenizer;
    char *tokenizer_path;  /* its folder; NULL: the built-in one */
    bool has_variant;      /* of a part in a folder */
    char *elsewhere;       /* a folder that is not the model's; NULL: it is the model's own */
    sara_applied *applied; /* NULL until the first adapter that changes it */
} sara_model_part;

/* Where states of prompts that are encoded ahead are beside the model, for another time. key: of
 * all that decides them but the text encoders. */
typedef struct sara_prompt_store {
    void *user;
    /* *there: out->length states are, and out has them; sara_text_states_free(), even after an
     * error. */
    sara_status (*find)(void *user, bool *there, sara_text_states *out, const char *key);
    sara_status (*keep)(void *user, const sara_text_states *states, const char *key);
} sara_prompt_store;

struct sara_model {
    sara_context *ctx;
    const sara_family *family;
    char *path;
    char *variant;              /* NULL: none */
    bool offload;               /* the denoiser's regions stay in their files */
    sara_single_file *single;   /* NULL: path is a folder */
    char *vae_path;             /* of another VAE than its own, that was asked for; NULL: none */
    sara_single_file *vae_file; /* NULL: vae_path is a folder */
    bool denoiser_only;
    sara_storage storage;         /* of the denoiser's weights */
    sara_storage encoder_storage; /* of the other parts', SARA_STORE_EXACT... or SARA_STORE_F32 */
    sara_device *device;
    sara_model_part parts[SARA_MOST_PARTS]; /* as the family's */
    sara_network *denoiser, *vae;           /* of the parts; vae NULL where denoiser_only */
    sara_scheduler_config scheduler;
    char *scheduler_class;        /* of the folder's index; NULL: it names none */
    bool has_scheduler;           /* false: it is a denoiser alone, trained as the family's are */
    json_t *scheduler_json;       /* as scheduler_config.json; NULL: none */
    bool scheduler_changed;       /* it is no longer as in the folder */
    char *scheduler_source;       /* of its config, for messages; NULL: none */
    bool zero_negative;           /* a negative prompt that is not given is states of zeros */
    int caption_length;           /* of T5, of texts that are trained on; 0: SARA_CAPTION_LENGTH */
    bool clip_untold;             /* clip_sample would be corrected for other classes alone */
    sara_base base;               /* of the denoiser as loaded; sha256 "" until sara_model_base() */
    char file_sha256[65];         /* of the single file; "" until it is wanted */
    char vae_sha256[65];          /* of vae_file; likewise */
    sara_model_adapter *adapters; /* in the order in which they were applied */
    size_t adapter_count, adapter_capacity;
    struct sara_kept_prompt *prompts; /* encoded ahead */
    size_t prompt_count, prompt_capacity;
    const sara_prompt_store *prompt_store; /* NULL: none */
    bool keeps_embeddings;                 /* files of embeddings are read once */
    struct sara_embedding_folder *embeddings; /* NULL until then */
};

/* As sara_model_load() with its denoiser alone. */
SARA_NODISCARD sara_status sara_model_load_denoiser(sara_context *ctx, sara_model **out,
                                                    const char *path,
                                                    const sara_model_options *options);
/* As sara_model_load(), or its denoiser alone, whose regions' values stay in their files:
 * sara_network_open_offloaded(). */
SARA_NODISCARD sara_status sara_model_load_offloaded(sara_context *ctx, sara_model **out,
                                                     const char *path,
                                                     const sara_model_options *options,
                                                     bool denoiser_only);
/* A denoiser alone, of a named shape with random weights, for timing. weight_dtype and device as
 * in sara_model_options. */
SARA_NODISCARD sara_status sara_model_new_random(sara_context *ctx, sara_model **out,
                                                 const char *shape, uint64_t seed,
                                                 const char *weight_dtype, const char *device);
/* single_scheduler.c: what a single file does not hold. The prediction type is the option's, else
 * the metadata's, else what the family's are thought to be (see docs/formats.md). Both log what
 * they chose. */
SARA_NODISCARD sara_status sara_single_scheduler(sara_model *model,
                                                 const sara_model_options *options);
SARA_NODISCARD sara_status sara_single_prediction(sara_model *model,
                                                  const sara_model_options *options);
/* Of a denoiser alone, for training: the family's. */
SARA_NODISCARD sara_status sara_model_published_scheduler(sara_model *model);
/* corrections.c: as StableDiffusionPipeline corrects the configs of its parts, with a line for each
 * value that changes. The config's JSON stays as it is. */
SARA_NODISCARD sara_status sara_model_correct_scheduler(sara_model *model, const char *source);
void sara_model_correct_denoiser(sara_model *model, const sara_component *component);
/* The line on clip_sample where only another class, of kind, has it; once. */
void sara_model_tell_clip(sara_model *model, sara_sampler_kind kind);
/* parts.c. Of a folder, finds the parts that have the variant (NULL or "": none is asked for); the
 * plain files of the others serve, which is logged. One that no part has is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_model_choose_variant(sara_model *model, const char *variant);
bool sara_model_has_part(const sara_model *model, int part);
bool sara_model_is_vae(const sara_model *model, int part);
/* Reads the values of the parts that these stages need, where they are not there. */
SARA_NODISCARD sara_status sara_model_need(sara_model *model, unsigned stages);
/* Those of a part, and of it where adapters change it: values that come into memory are no change
 * of the model. */
SARA_NODISCARD sara_status sara_model_need_part(const sara_model *model, int part);
SARA_NODISCARD sara_status sara_model_need_changed(const sara_model *model, int part);
/* Begins a part's set of adapters where it has none. base: the part's, NULL: it is not known. */
SARA_NODISCARD sara_status sara_model_begin_applied(sara_model *model, int part,
                                                    const sara_base *base);
/* SARA_ERROR_IO where the files of parts that are yet to be read for them were written to. */
SARA_NODISCARD sara_status sara_model_check_files(const sara_model *model, unsigned stages);
/* Gives back the values of the parts that none of these stages needs. */
void sara_model_give_back(sara_model *model, unsigned still_needed);
/* save_denoiser.c: a component folder, config.json and float32 weights, of the denoiser as it is
 * trained: trainables in the order of its parameters, whose own values are taken where they have no
 * masters. The folder is made, or written to as it is. */
SARA_NODISCARD sara_status sara_model_save_denoiser(sara_context *ctx, const char *to,
                                                    const sara_model *model,
                                                    const sara_trainables *trainables);
/* parts_elsewhere.c. Finds another VAE and what the single file lacks, before anything is loaded; a
 * part that is nowhere is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_model_choose_parts(sara_model *model,
                                                   const sara_model_options *options);
/* Of a text encoder that is open, from the folder, or from what a single file has instead. */
SARA_NODISCARD sara_status sara_model_load_tokenizer(sara_model *model, int index,
                                                     const sara_model_options *options);
/* Whether the VAE fits the denoiser and, where it is another, what the model's own was. */
SARA_NODISCARD sara_status sara_model_check_vae(const sara_model *model);
/* *out: sara_component_close(). */
SARA_NODISCARD sara_status sara_model_component(const sara_model *model, sara_component *out,
                                                int part);
/* Of the base's file, from which it is read again where its weights were rounded in memory or
 * adapters are on them. Computed at the first call. */
SARA_NODISCARD sara_status sara_model_base(sara_context *ctx, const sara_base **out,
                                           sara_model *model);
SARA_NODISCARD sara_status sara_model_base_sha256(sara_context *ctx, const char **out,
                                                  sara_model *model);

/* Of a network's values in its files, which need not be in memory. */
SARA_NODISCARD sara_status sara_network_base(sara_context *ctx, sara_base *out,
                                             const sara_network *network);

/* As A1111 tells models apart: the hash of a single file; of a folder the base's. */
SARA_NODISCARD sara_status sara_model_picture_hash(sara_context *ctx, const char **out,
                                                   sara_model *model);
/* Of the VAE's file; NULL where it is a folder or the model's own. */
SARA_NODISCARD sara_status sara_model_vae_hash(sara_context *ctx, const char **out,
                                               sara_model *model);
/* The same of a model that cannot keep it. */
SARA_NODISCARD sara_status sara_model_read_base(sara_context *ctx, sara_base *out,
                                                const sara_model *model);
/* Whether the file holds more than the denoiser in memory. */
bool sara_model_is_rounded(const sara_model *model);
/* SARA_ERROR_USAGE where weights of any part were rounded; purpose: " to save it". */
SARA_NODISCARD sara_status sara_model_check_exact(const sara_model *model, const char *purpose);

/* An adapter's strength, either way: beyond it only slips of the keyboard are to be expected. */
#define SARA_STRONGEST 100.0
/* SARA_ERROR_INPUT for an adapter's sara.target (NULL: it has none) that is not the family's (NULL:
 * of none). */
SARA_NODISCARD sara_status sara_family_check_target(sara_context *ctx, const char *path,
                                                    const char *target, const sara_family *family);
/* Loads an adapter of the family (NULL: of any). */
SARA_NODISCARD sara_status sara_family_read_adapter(sara_context *ctx, sara_adapter *out,
                                                    const char *path, const sara_family *family);
/* Puts an adapter's entries, read from path, on the denoiser; force as of sara_model_apply(). */
SARA_NODISCARD sara_status sara_model_apply_entries(sara_context *ctx, sara_model *model,
                                                    const sara_adapter *adapter, const char *path,
                                                    double strength, bool force);
/* SARA_ERROR_USAGE where one of the adapters on the model is no change of its weights, which are
 * about to be written. */
SARA_NODISCARD sara_status sara_model_check_weights(sara_context *ctx, const sara_model *model);
/* sara_model_apply() to the parts alone that these stages need. */
SARA_NODISCARD sara_status sara_model_apply_to(sara_context *ctx, sara_model *model,
                                               const char *adapter_path, double strength,
                                               bool force, unsigned stages);
/* The same of a prompt's after a failure, whose line stays; its own is logged. */
void sara_model_untag(sara_model *model, sara_status failed, size_t count);
/* Of all parts, whose values are read where they are not in memory. */
SARA_NODISCARD sara_status sara_model_visit_changes(const sara_model *model, sara_applied_fn fn,
                                                    void *user);
/* Takes off those that were applied after the first `count`. */
SARA_NODISCARD sara_status sara_model_truncate(sara_model *model, size_t count);
/* The file's name without its folder and .safetensors; sara_free(). */
SARA_NODISCARD sara_status sara_adapter_name(sara_context *ctx, char **out, const char *path);

/* ------------------------------------------------------------------------------------- prompts */

/* What the <lora:NAME:WEIGHT> tags of one name, in both prompts, add up to. */
typedef struct sara_lora {
    char *name, *path;
    double strength;
} sara_lora;
#define SARA_EMBEDDED_ENCODERS 2 /* CLIP's, that vectors may be for */
/* Vectors that stand in a prompt for words of it (textual inversion). */
typedef struct sara_embedding {
    char *name, *path; /* its file's: without folder and ending; with both */
    char sha256[65];   /* of the file */
    int64_t count;     /* of vectors */
    /* Of each CLIP text encoder of the model, [count][width]; NULL: there is none. */
    float *vectors[SARA_EMBEDDED_ENCODERS];
    int64_t widths[SARA_EMBEDDED_ENCODERS];
} sara_embedding;
/* A part of a prompt that has a weight of its own. */
typedef struct sara_prompt_part {
    size_t start, size; /* bytes of the prompt's text */
    double weight;
    bool is_break; /* the word BREAK, which begins a new chunk; it has no text */
    bool is_blank; /* as it was read */
    int embedding; /* 1 + which stands for the text; 0: none */
} sara_prompt_part;
/* A prompt's text without the brackets that weigh it. */
typedef struct sara_prompt {
    char *text; /* of all parts, one after the other */
    sara_prompt_part *parts;
    size_t count, capacity;
    bool weighted;           /* some weight is not 1 */
    bool has_and, has_break; /* these words are in it */
    char *note;              /* what of A1111's syntax is in it and not supported; NULL: nothing */
    sara_embedding *embeddings; /* in the order in which they first appear */
    size_t embedding_count, embedding_capacity;
} sara_prompt;
/* text: valid UTF-8; what: which prompt, for errors. breaks: the word BREAK begins a new chunk.
 * SARA_ERROR_USAGE for a weight that is no number or beyond 100, and for brackets more than 1000
 * deep. sara_prompt_free() even after an error. */
SARA_NODISCARD sara_status sara_prompt_parse(sara_context *ctx, sara_prompt *out, const char *text,
                                             const char *what, bool breaks);
/* All of the text is one part of weight 1. */
SARA_NODISCARD sara_status sara_prompt_literal(sara_context *ctx, sara_prompt *out,
                                               const char *text);
void sara_prompt_free(sara_context *ctx, sara_prompt *prompt);

/* A prompt's ids as the text encoder takes them. */
typedef struct sara_prompt_chunks {
    /* [count][length], each with start, end and padding; -1 is the first vector of the prompt's
     * first embedding, and so on through all of them */
    int32_t *ids;
    float *weights; /* of the ids; 1 for start, end and padding */
    size_t count, length;
    size_t cut; /* ids left out */
    size_t id_capacity, weight_capacity;
} sara_prompt_chunks;
/* Without long_prompt one chunk, cut; with it as A1111 does: where a chunk is full, what follows
 * its last comma, if that is near, goes to the next, and an embedding's vectors stay together.
 * SARA_ERROR_USAGE for more than 64 chunks.
 * sara_prompt_chunks_free() even after an error. */
SARA_NODISCARD sara_status sara_prompt_chunks_make(sara_context *ctx, sara_prompt_chunks *out,
                                                   const sara_tokenizer *tokenizer,
                                                   const sara_prompt *prompt, bool long_prompt);
/* Empty ones at the end until there are `count`. */
SARA_NODISCARD sara_status sara_prompt_chunks_extend(sara_context *ctx, sara_prompt_chunks *chunks,
                                                     const sara_tokenizer *tokenizer, size_t count);
void sara_prompt_chunks_free(sara_context *ctx, sara_prompt_chunks *chunks);

/* The prompts of a generation without their tags; loras ascending by name. */
typedef struct sara_prompts {
    sara_prompt text, negative;
    bool has_negative; /* it was given, be it empty */
    sara_lora *loras;
    size_t count, capacity;
} sara_prompts;
/* Also checks that the tags' files are there. sara_prompts_free() even after an error. */
SARA_NODISCARD sara_status sara_prompts_read(sara_context *ctx, sara_prompts *out,
                                             const sara_generate_options *options);
void sara_prompts_free(sara_context *ctx, sara_prompts *prompts);
/* Puts the tags' adapters on the parts that these stages need; sara_model_truncate() after it, even
 * after an error. */
SARA_NODISCARD sara_status sara_prompts_apply(sara_context *ctx, sara_model *model,
                                              const sara_prompts *prompts,
                                              const sara_generate_options *options,
                                              unsigned stages);
/* Logs the weights, if there are any, and what is not supported. breaks: as they were parsed. */
void sara_prompts_tell(sara_context *ctx, const sara_prompts *prompts, bool breaks);

/* prompt_embeddings.c: checks what can be said of embeddings without a model: the folder, and that
 * what prompts name as embedding:NAME is there. */
SARA_NODISCARD sara_status sara_prompts_check_embeddings(sara_context *ctx,
                                                         const sara_prompts *prompts,
                                                         const sara_generate_options *options);
/* Puts embeddings of the options' folder into the prompts where their names stand. tell: logs
 * which. */
SARA_NODISCARD sara_status sara_prompts_embed(sara_context *ctx, sara_model *model,
                                              sara_prompts *prompts,
                                              const sara_generate_options *options, bool tell);
/* As the model's T5 takes it: without embeddings and what they stand for. *out: sara_free(). */
SARA_NODISCARD sara_status sara_prompt_t5_text(sara_context *ctx, char **out,
                                               const sara_prompt *prompt);
/* Whether its file is one of the prompt's. */
bool sara_prompt_has_embedding(const sara_prompt *prompt, const sara_embedding *embedding);
/* From now on the model keeps the embeddings that it reads, of one folder. */
void sara_model_keep_embeddings(sara_model *model);

#define SARA_MAX_START_LATENTS 4096 /* that init_latents may hold */

/* A caller's options, of whichever version, over the defaults. */
SARA_NODISCARD sara_status sara_generate_options_read(sara_context *ctx, sara_generate_options *out,
                                                      const sara_generate_options *given);
/* As above, with the model's own where they leave it to that. */
SARA_NODISCARD sara_status sara_generate_options_settle(sara_context *ctx,
                                                        sara_generate_options *out,
                                                        const sara_generate_options *given,
                                                        const sara_model *model);
/* Whether settled options go with the model, but for its sizes. */
SARA_NODISCARD sara_status sara_generate_options_check(sara_context *ctx, const sara_model *model,
                                                       const sara_generate_options *options);
/* What the denoiser is told of a picture of this size: out[0] without the prompt where it is
 * guided, else as out[1]. */
void sara_generate_time_ids(float out[2][SARA_TIME_IDS], const sara_generate_options *options,
                            bool guided, int height, int width);
/* Whether the negative prompt is drawn with, too. */
bool sara_generate_is_guided(const sara_generate_options *options);
/* The scheduler that options and model agree on. */
SARA_NODISCARD sara_status sara_generate_scheduler(sara_context *ctx, sara_scheduler_config *out,
                                                   const sara_model *model,
                                                   const sara_generate_options *options);

void sara_text_states_free(sara_context *ctx, sara_text_states *states);
/* What a family takes of a CLIP text encoder. */
typedef struct sara_clip_use {
    int part;    /* of the model */
    int skip;    /* layers left out at the end, as of sara_clip_text_forward() */
    bool pooled; /* that of the first chunk is wanted too */
} sara_clip_use;
/* For families whose texts go through `count` CLIP text encoders, chunk by chunk. States lie side
 * by side along their width, encoder after encoder, and pooled ones likewise. Where the tokenizers
 * part a text into unlike numbers of chunks, empty ones follow the fewer. Each state is scaled by
 * its id's weight, and the mean over an encoder's chunk stays as it was, as in A1111. */
SARA_NODISCARD sara_status sara_clip_measure(sara_context *ctx, int64_t *length,
                                             const sara_model *model, const sara_clip_use *uses,
                                             int count, const sara_prompt *prompt,
                                             const sara_text_source *source);
SARA_NODISCARD sara_status sara_clip_encode(sara_context *ctx, sara_text_states *out,
                                            const sara_model *model, const sara_clip_use *uses,
                                            int count, const sara_prompt *prompt,
                                            const sara_text_source *source);

/* Whether their widths are the denoiser's (filled: or less, the rest being zeros), and whether they
 * know all ids of their tokenizers. */
SARA_NODISCARD sara_status sara_clip_check(const sara_model *model, const sara_clip_use *uses,
                                           int count, bool filled);
SARA_NODISCARD sara_status sara_clip_check_ids(const sara_model *model, int part);

/* A prompt that is encoded already, whose states are the model's. */
typedef struct sara_kept_prompt {
    sara_prompt prompt;
    bool long_prompt;
    int sequence;      /* see sara_text_source */
    char adapters[65]; /* hash of those that were on text encoders; "": none */
    sara_text_states states;
} sara_kept_prompt;

void sara_kept_prompt_free(sara_context *ctx, sara_kept_prompt *kept);

/* The states of a generation's prompts: negative prompt, prompt; or that alone. */
typedef struct sara_prompt_states {
    float *data;   /* [lengths[0] + lengths[1]][width] */
    float *pooled; /* [2][pooled_width]; NULL: none */
    int64_t lengths[2], width, pooled_width;
} sara_prompt_states;
/* Without guided the prompt alone, and lengths[1] 0. What is encoded anew is told as by
 * sara_prompt_tell_cut(). *out's arrays: sara_free(). */
SARA_NODISCARD sara_status sara_prompts_encode(sara_context *ctx, sara_prompt_states *out,
                                               sara_model *model, const sara_prompts *prompts,
                                               bool guided, const sara_text_source *source);
/* How many states the options' prompt comes to. */
SARA_NODISCARD sara_status sara_prompt_length(sara_context *ctx, int64_t *length, sara_model *model,
                                              const sara_generate_options *options);
/* Of a text without weights. *out: sara_text_states_free(), even after an error. */
SARA_NODISCARD sara_status sara_model_encode_text(sara_context *ctx, sara_text_states *out,
                                                  sara_model *model, const char *text);
/* How many states that has, of any text. */
SARA_NODISCARD sara_status sara_model_text_length(sara_context *ctx, int64_t *length,
                                                  const sara_model *model);
/* prompt_cut.c: ids of T5. */
int64_t sara_text_sequence(const sara_text_source *source);
/* Ids of T5 that are taken of a text that is trained on. */
int sara_model_caption_length(const sara_model *model);
/* Logs how many ids are cut off, for CLIP or T5, in how many chunks it is encoded, and that T5 gets
 * it without weights. */
SARA_NODISCARD sara_status sara_prompt_tell_cut(sara_context *ctx, const sara_model *model,
                                                const sara_prompt *prompt,
                                                const sara_text_source *source);
/* Of a text that is trained on: ids by the CLIP tokenizer that makes most, or by T5's, and how many
 * are taken; both 0 where there is none. */
SARA_NODISCARD sara_status sara_model_count_ids(const sara_model *model, size_t *count,
                                                size_t *most, bool t5, const char *text);
/* *part: which of the model's has the tokenizer of this number. SARA_ERROR_USAGE where none has. */
SARA_NODISCARD sara_status sara_model_find_tokenizer(sara_context *ctx, int *part,
                                                     const sara_model *model, int number);
/* Adds the text's ids by each of its tokenizers. */
SARA_NODISCARD sara_status sara_model_hash_ids(const sara_model *model, sara_sha256 *hash,
                                               const char *text);
/* What sides of pictures may be. */
typedef struct sara_picture_sides {
    int unit, least, most; /* multiples of unit */
    int factor;            /* the VAE's, of which unit is a multiple */
    const char *title;     /* the denoiser's, for messages */
} sara_picture_sides;
/* Of a folder, by its configs. */
SARA_NODISCARD sara_status sara_folder_sides(sara_context *ctx, sara_picture_sides *out,
                                             const char *path);
/* SARA_ERROR_USAGE unless width and height are such sides; what: the option's name. */
SARA_NODISCARD sara_status sara_picture_sides_check(sara_context *ctx,
                                                    const sara_picture_sides *sides, int width,
                                                    int height, const char *what);
/* The same of a model's. */
SARA_NODISCARD sara_status sara_model_check_size(sara_context *ctx, const sara_model *model,
                                                 int width, int height, const char *what);
/* SARA_ERROR_USAGE where the denoiser's config does not tell the model's own size; instead: what
 * does. */
SARA_NODISCARD sara_status sara_model_check_sample_size(sara_context *ctx, const sara_model *model,
                                                        const char *instead);
/* status, of something that failed; where weights of the denoiser are not finite the error tells of
 * the first under the file's name, with the path. */
sara_status sara_model_tell_not_finite(const sara_model *model, sara_status status);
/* [-1,1] [3][height][width] to RGB, rounded as diffusers' numpy_to_pil; sara_image_clear(). */
SARA_NODISCARD sara_status sara_floats_to_image(sara_context *ctx, sara_image *out,
                                                const float *pixels, int width, int height);

/* As modelspec.architecture names it. */
const char *sara_model_architecture(const sara_model *model, bool predicts_v);
/* modelspec.prediction_type: "v" or "epsilon"; NULL where it is another or not known. */
const char *sara_model_predicts(const sara_model *model);

bool sara_text_ends_with(const char *text, const char *ending);
/* SARA_ERROR_USAGE unless the folder is new or empty. */
SARA_NODISCARD sara_status sara_check_new_folder(sara_context *ctx, const char *path);

#endif
