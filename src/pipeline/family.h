/* What tells the kinds of models apart: a record for each, in files family_*.c of their own, which
 * families.c lists. Nothing else knows which there are. */
#ifndef SARA_PIPELINE_FAMILY_H
#define SARA_PIPELINE_FAMILY_H

#include "diffusion/diffusion.h"
#include "models/single_file.h"

#include "sara.h"

typedef struct sara_family sara_family;
struct sara_prompt;

/* What parts are needed for. */
typedef enum sara_stage {
    SARA_STAGE_TEXT = 1,   /* encoding prompts */
    SARA_STAGE_IMAGES = 2, /* encoding images */
    SARA_STAGE_DENOISE = 4,
    SARA_STAGE_DECODE = 8
} sara_stage;

typedef struct sara_family_part {
    const char *folder; /* in the model's; it names the part's settings and metadata too */
    const sara_network_class *class;
    unsigned stages;
    const char *tokenizer; /* the folder of the one it goes with; NULL: none */
    bool second_padding;   /* the built-in tokenizer's, see sara_tokenizer_load_builtin() */
    bool t5_tokenizer;     /* it is T5's, of which none is built in */
    /* In single files; NULL: nowhere. The first with the names of a network is written. */
    const sara_single_place *places, *averages;
} sara_family_part;

/* What a text comes to, on the host. */
typedef struct sara_text_states {
    float *states; /* [length][the denoiser's width] */
    float *pooled; /* [the denoiser's width]; NULL where that is 0 */
    int64_t length;
    bool warned; /* something was told of it that encoding alone shows */
} sara_text_states;

/* Where a text that is encoded is from. */
typedef struct sara_text_source {
    const char *name; /* "negative prompt", for messages; NULL: of many, all is silent */
    bool long_prompt;
    int sequence; /* ids of T5, for families that have it; 0: SARA_SEQUENCE_LENGTH */
} sara_text_source;
#define SARA_SEQUENCE_LENGTH 256 /* in drawing */
#define SARA_MOST_SEQUENCE   512
#define SARA_CAPTION_LENGTH  77 /* in training, as in diffusers' script */

struct sara_family {
    const char *name;              /* "SD1.x" */
    const char *product;           /* "Stable Diffusion" */
    const char *pipeline;          /* the _class_name of model_index.json */
    const char *index;             /* JSON: what else that has; NULL: nothing */
    const sara_family_part *parts; /* the denoiser first */
    int part_count;
    const sara_family *without; /* the same without its last part, which may be left out; or NULL */

    /* Whether a folder with such an index, a single file, a denoiser with such a config is one of
     * these. The first family of the table for which both hold is taken. */
    bool (*is_index)(const char *class_name, const json_t *index);
    bool (*is_file)(const sara_single_file *single);
    bool (*is_denoiser)(const json_t *config);
    /* What a denoiser with such a config is that is one of these and not supported, and what to use
     * instead ("an inpainting model ...; use ..."); NULL: it is supported. NULL: all are. */
    const char *(*unsupported)(const json_t *config);
    /* Adds what the shapes of a single file's part do not tell to the config derived from them. */
    SARA_NODISCARD sara_status (*tell)(const sara_single_file *single, sara_single_part *part);
    /* What a single file predicts that does not say so, and why that is thought; NULL: noise. */
    SARA_NODISCARD sara_status (*guess)(const sara_model *model, const char **prediction,
                                        const char **reason);
    /* Tensors without content by which files say that they predict v, and that the schedule of such
     * a model's noise ends without signal; NULL: none does. */
    const char *v_marker, *zero_snr_marker;
    const char *scheduler; /* JSON: of single files and of denoisers alone */
    int v_sample_size;     /* of single files that predict v, where shapes tell it; 0: no other */
    bool zero_negative; /* as sara_model has it, of indexes without force_zeros_for_empty_prompt and
                           of single files; false: no index has it */
    /* Whether text encoders, tokenizers and denoiser fit together. */
    SARA_NODISCARD sara_status (*check_texts)(const sara_model *model);
    /* As the pipeline corrects configs of its parts that are outdated; NULL: it does not. */
    SARA_NODISCARD sara_status (*correct_scheduler)(sara_model *model, const char *source);
    void (*correct_denoiser)(sara_model *model, const sara_component *component);

    /* How many states a prompt comes to, without encoding it. */
    SARA_NODISCARD sara_status (*measure)(sara_context *ctx, int64_t *length,
                                          const sara_model *model, const struct sara_prompt *prompt,
                                          const sara_text_source *source);
    /* *out: sara_text_states_free(), even after an error. */
    SARA_NODISCARD sara_status (*encode)(sara_context *ctx, sara_text_states *out,
                                         const sara_model *model, const struct sara_prompt *prompt,
                                         const sara_text_source *source);

    /* What is trained on, and the timestep of an element of the endless sequence of epochs. */
    SARA_NODISCARD sara_status (*objective)(sara_context *ctx, sara_objective *out,
                                            const sara_scheduler_config *config);
    double (*draw_timestep)(const sara_objective *objective, uint64_t seed, uint64_t element);

    int sample_size; /* of latents, where the config has none */
    double guidance_scale;

    const char *target;          /* sara.target of adapters */
    const char *architecture[2]; /* modelspec.architecture; [1]: of models that predict v */
    const char *kohya[2];        /* ss_base_model_version; likewise */
    bool kohya_v2;               /* ss_v2 */
    bool kohya_single;           /* its names of the denoiser's layers are those of single files */
    bool lora_of_diffusers;      /* LoRA files have diffusers' layout instead of kohya's */
};

extern const sara_family *const sara_families[]; /* NULL ends it */

/* family.c. "SD1.x, SD2.x": of all; between: what stands between the last two. *out: sara_free() */
SARA_NODISCARD sara_status sara_family_names(sara_context *ctx, char **out, const char *between);
/* Of a diffusers folder. *index: its model_index.json, json_decref(). */
SARA_NODISCARD sara_status sara_family_of_folder(sara_context *ctx, const sara_family **out,
                                                 json_t **index, const char *path);
/* The family of a denoiser with this config, unless it is a kind of it that is not supported.
 * source: the config's, for errors. */
SARA_NODISCARD sara_status sara_family_take(sara_context *ctx, const sara_family **out,
                                            const sara_family *family, const json_t *config,
                                            const char *source);
/* Of a denoiser alone. source: its config's, for errors. */
SARA_NODISCARD sara_status sara_family_of_config(sara_context *ctx, const sara_family **out,
                                                 const json_t *config, const char *source);
/* Of a shape by name, with its config (sara_network_shape_of()); SARA_ERROR_USAGE naming all. */
SARA_NODISCARD sara_status sara_family_of_shape(sara_context *ctx, const sara_family **out,
                                                sara_component *component, const char *name);
/* Of an adapter's sara.target; NULL: none. */
const sara_family *sara_family_of_target(const char *target);
/* "unet or transformer"; of one family (NULL: of all). *out: sara_free() */
SARA_NODISCARD sara_status sara_family_targets(sara_context *ctx, char **out,
                                               const sara_family *family);

/* family_file.c. Whether the piece is in a name of one of the file's tensors. */
bool sara_family_file_has(const sara_single_file *single, const char *piece);
/* The parts that the file holds, with their configs; without a denoiser it is
 * SARA_ERROR_INPUT, as another architecture is, by its name. What tensors' shapes do not tell
 * (heads, ...) is from model_config (a diffusers folder, NULL: none), else from the metadata
 * sara.config.FOLDER, else as in the published models. use_ema: the denoiser is the averages
 * (model_ema.*) that LDM's training keeps. */
SARA_NODISCARD sara_status sara_family_open_file(sara_context *ctx, const sara_family **out,
                                                 sara_single_file **single, const char *path,
                                                 const char *model_config, bool use_ema);
/* A file of which the VAE alone is wanted, the family's part `part`: a whole checkpoint or a VAE,
 * under LDM's names, with their prefix or without, or diffusers'. Its config is in the metadata or
 * beside the file (config.json), else what shapes tell, with the scaling factor and the norms'
 * groups of the config `like`, else (NULL) of the published models. */
SARA_NODISCARD sara_status sara_family_open_vae(sara_context *ctx, const sara_family *family,
                                                int part, sara_single_file **single,
                                                const char *path, const json_t *like);

#endif
