/* What denoisers, autoencoders and text encoders have in common: one struct that each begins with,
 * and one record for each class. */
#ifndef SARA_MODELS_NETWORK_H
#define SARA_MODELS_NETWORK_H

#include "models/config.h"

typedef struct sara_network_class sara_network_class;
typedef struct sara_single_layout sara_single_layout; /* models/single_file.h */

/* What a denoiser may be told beside the sample and its timesteps. What carries it (batches,
 * replays, the plan of memory) goes over all kinds: another is a line here and one in network.c. */
enum {
    SARA_CONDITION_STATES,   /* encoder_hidden_states [N,T,width] */
    SARA_CONDITION_POOLED,   /* pooled [N,width] */
    SARA_CONDITION_TIME_IDS, /* time_ids [N,SARA_TIME_IDS] */
    SARA_CONDITION_KINDS
};
typedef struct sara_condition_kind {
    const char *name;
    int rank; /* with the axis of samples, which is the first */
} sara_condition_kind;
extern const sara_condition_kind sara_condition_kinds[SARA_CONDITION_KINDS];

/* What SDXL's denoisers are told of a picture: its height and width before it was resized, the top
 * and left of the crop taken of it then, and the height and width that it was to have. */
#define SARA_TIME_IDS 6

typedef struct sara_denoiser_info {
    int rank; /* of the sample [N,C,...]: 4 of images */
    int in_channels, out_channels;
    int sample_height, sample_width; /* of the latents it was trained on; 0: its config has none */
    int widths[SARA_CONDITION_KINDS]; /* of each kind's last axis; 0: it takes none */
    int factor;                      /* latents' sides that are multiples of it are halved evenly */
    int unit;                        /* latents' sides are multiples of it */
    int least_side, most_side;       /* of latents; most_side 0: any */
    int levels;                      /* parts that can be recomputed in backward */
} sara_denoiser_info;

typedef struct sara_vae_info {
    int latent_channels, factor, sample_size;
    double scaling_factor, shift_factor; /* 0.18215 and 0 if missing */
} sara_vae_info;

typedef struct sara_text_info {
    int vocab_size, hidden_size, max_positions, eos_token_id; /* max_positions 0: no limit */
    int pooled_size; /* hidden_size where it has no projection */
} sara_text_info;

/* Of what makes features of pictures. */
typedef struct sara_vision_info {
    int64_t width;       /* of the features */
    int64_t side;        /* of the pictures that it was trained on */
    bool any_size;       /* it takes others too */
    sara_text_info text; /* of CLIP's other tower */
} sara_vision_info;

/* A network's own struct begins with it. */
typedef struct sara_network {
    const sara_network_class *class;
    sara_context *ctx;
    sara_device *device; /* where its parameters lie */
    sara_arena arena;    /* the layers */
    sara_params params;
    sara_weights *weights; /* its files, which stay open; NULL: drawn, or for good in memory */
    bool there;            /* the parameters' values are in memory */
    sara_param_source source; /* of theirs, while they are not */
    bool offloaded;           /* values of regions are lent to passes alone */
    /* Of a denoiser: so many levels, the largest first, are recomputed in backward; gradients are
     * the same to the bit. 0, as at first: none; more than there are: all. */
    int checkpoint_levels;
    union { /* what the class's kind has; from its config */
        sara_denoiser_info denoiser;
        sara_vae_info vae;
        sara_text_info text;
        sara_vision_info vision;
    } info;
} sara_network;

typedef struct sara_condition {
    sara_var *of[SARA_CONDITION_KINDS]; /* NULL where there is none */
} sara_condition;

/* out, sample [N,C,...]; timesteps [N] host, NULL on a dry device. */
typedef sara_status (*sara_denoiser_fn)(sara_tape *tape, sara_var **out, sara_network *denoiser,
                                        sara_var *sample, const double *timesteps,
                                        const sara_condition *condition);

/* A published size, of which networks with random values are made. */
typedef struct sara_network_shape {
    const char *name;   /* "sd15"; NULL ends a table */
    const char *config; /* as config.json */
} sara_network_shape;

/* Blocks with names "down_blocks.0.", ..., so many at most; 0: it is one block, "mid_block.". A
 * network's lists come to less than SARA_MAX_BLOCKS. */
typedef struct sara_block_list {
    const char *name; /* NULL ends a table */
    int count;
} sara_block_list;

/* What a parameter is of, by a part of its name; the first that is in it decides. */
#define SARA_MAX_KINDS 24
typedef struct sara_layer_kind {
    const char *title; /* "self-attention query"; NULL ends a table, of less than SARA_MAX_KINDS */
    const char *part;
} sara_layer_kind;

struct sara_network_class {
    const char *library, *name; /* in model_index.json: "diffusers", "UNet2DConditionModel" */
    const char *key, *value;    /* what config.json calls it: "_class_name", "..." */
    const char *stem;           /* of its weight files' names */
    const char *title;          /* "U-Net", in messages */
    size_t size;                /* of the network's own struct */
    /* Its values are never all in memory: sara_network_read() leaves them in their files, and its
     * forward pass borrows what it needs, piece by piece. No adapters can be put on it. */
    bool streamed;
    SARA_NODISCARD sara_status (*read_config)(sara_network *network, const sara_model_config *file);
    /* Wants every parameter. weights: where they will be read from; NULL: they are drawn. */
    SARA_NODISCARD sara_status (*bind)(sara_network *network, sara_binder *binder,
                                       const sara_weights *weights);
    /* Makes of the values that were read those that its passes use; NULL: they are used as they
     * are in its files. */
    SARA_NODISCARD sara_status (*settle)(sara_network *network);
    /* What decides its values beside its weights, and their shapes do not tell; json_decref().
     * NULL: out of memory. */
    json_t *(*settings)(const sara_network *network);
    const sara_single_layout *single; /* NULL: single files have no names for it */
    sara_denoiser_fn forward;         /* NULL: it is no denoiser */
    const sara_network_shape *shapes; /* NULL: none are named */
    const sara_block_list *blocks;    /* as adapters are told of; NULL: none */
    /* What recomputed regions are called, which lend themselves their values: "resnets" of
     * "down_blocks.0.resnets.1."; NULL ends it. NULL: it cannot be offloaded. */
    const char *const *regions;
    const sara_layer_kind *kinds;     /* as `sara inspect --analyze` tells of; NULL: none */
};

/* A place for every block of the lists (NULL: none), in their order, then one for all others.
 * label: the block's name. */
int sara_block_place(const sara_block_list *list, const char *name, sara_name *label);
/* The number of a parameter's kind, of one that is in none the next; *title: its name. */
int sara_layer_kind_of(const sara_layer_kind *kinds, const char *name, const char **title);

/* Without its values: sara_network_read() reads them from its files, which stay open, as
 * sara_param_read() does one parameter's where the class has no settle(). A config
 * option that is not supported is refused by name and value, and what the files lack. device: where
 * the parameters will lie; it outlives the network. *out: sara_network_free(). */
SARA_NODISCARD sara_status sara_network_open(sara_device *device, sara_network **out,
                                             const sara_network_class *class,
                                             const sara_component *component, sara_storage storage);
/* Takes memory of the device for the values and reads them; nothing where they are there. Files
 * that are no longer as they were opened are SARA_ERROR_IO. */
SARA_NODISCARD sara_status sara_network_read(sara_network *network);
/* Gives that memory back, and what the device keeps of the values. Without files they stay. */
void sara_network_release(sara_network *network);
/* For passes of a streamed class: the values of all parameters whose names begin with `prefix`,
 * which is that of a block or a whole name, until they are returned. Nothing where all values are
 * there, and on a dry tape. Files that are no longer as they were opened are SARA_ERROR_IO. */
SARA_NODISCARD sara_status sara_network_lend(sara_tape *tape, sara_network *network,
                                             const char *prefix);
void sara_network_return(sara_tape *tape, sara_network *network, const char *prefix);
/* Those of the region that a parameter is of, where it is away; else nothing. A dry device forgets
 * what it would have kept of them. */
SARA_NODISCARD sara_status sara_network_lend_region(sara_tape *tape, sara_network *network,
                                                    const sara_param *of);
void sara_network_return_region(sara_tape *tape, sara_network *network, const sara_param *of);
/* As sara_network_open(), but the values of regions never come into memory but lent, from
 * sara_param.source, and its files stay open. All regions must be recomputed in backward.
 * SARA_ERROR_USAGE where the class cannot. */
SARA_NODISCARD sara_status sara_network_open_offloaded(sara_device *device, sara_network **out,
                                                       const sara_network_class *class,
                                                       const sara_component *component,
                                                       sara_storage storage);
/* Whether a parameter's values are only lent where the network is offloaded: it is of a region. */
bool sara_network_lends(const sara_network *network, const sara_param *param);
/* Bytes that its values take at most while it is used: of a streamed class those of its largest
 * piece, which is a block ("encoder.block.3.") or a parameter outside of all blocks; of one that is
 * offloaded those outside of regions and of the largest region. */
int64_t sara_network_bytes(const sara_network *network);
/* The same as if it were offloaded, or its matrices were of 16 bits. */
int64_t sara_network_bytes_as(const sara_network *network, bool offloaded, bool narrow);
/* Of values that are there, and stay for good: what is trained, or changed in place, is in no file
 * that it could be read from again. Not where it is offloaded. */
void sara_network_close_files(sara_network *network);
/* Of a folder with config.json and weights; variant NULL: the plain files. */
SARA_NODISCARD sara_status sara_network_load(sara_device *device, sara_network **out,
                                             const sara_network_class *class, const char *folder,
                                             const char *variant, sara_storage storage);
/* What its config says of it, without parameters. *out: sara_network_free(). */
SARA_NODISCARD sara_status sara_network_configure(sara_device *device, sara_network **out,
                                                  const sara_network_class *class,
                                                  const sara_component *component);
/* With random weights, for timing. */
SARA_NODISCARD sara_status sara_network_draw(sara_device *device, sara_network **out,
                                             const sara_network_class *class,
                                             const sara_component *component, uint64_t seed,
                                             sara_storage storage);
/* A config alone, of the class's shape of this name; SARA_ERROR_USAGE: there is none. *out:
 * sara_component_close(). */
SARA_NODISCARD sara_status sara_network_shape_of(sara_context *ctx, sara_component *out,
                                                 const sara_network_class *class, const char *name);
void sara_network_free(sara_network *network);
/* Whether latents may have such a side, and which they may have: "multiples of 2 up to 384". */
bool sara_denoiser_takes_side(const sara_denoiser_info *info, int64_t side);
sara_name sara_denoiser_sides(const sara_denoiser_info *info);
/* For forward passes on images: whether the sample and the conditions have the shapes that
 * info.denoiser tells of. title: the network's, in errors. */
SARA_NODISCARD sara_status sara_denoiser_check(const sara_network *denoiser, const char *title,
                                               const sara_shape *sample,
                                               const sara_condition *condition);
SARA_NODISCARD sara_status sara_denoiser_forward(sara_tape *tape, sara_var **out,
                                                 sara_network *denoiser, sara_var *sample,
                                                 const double *timesteps,
                                                 const sara_condition *condition);
/* The same from the host's arrays, F32, which outlive the pass: leaves are made of them. condition
 * [SARA_CONDITION_KINDS]: rank 0 where there is none. On a dry device their shapes are enough. */
SARA_NODISCARD sara_status sara_denoiser_predict(sara_tape *tape, sara_var **out,
                                                 sara_network *denoiser, const sara_tensor *sample,
                                                 const double *timesteps,
                                                 const sara_tensor *condition);
/* What its names in single files depend on; SARA_ERROR_INPUT where they have none for it. */
SARA_NODISCARD sara_status sara_network_ldm_shape(const sara_network *network, sara_ldm_shape *out);

#endif
