/* The diffusion layer: noise schedules, training objectives and samplers, as diffusers has them. */
#ifndef SARA_DIFFUSION_H
#define SARA_DIFFUSION_H

#include "io/io.h"

typedef enum sara_prediction {
    SARA_PREDICT_EPSILON, SARA_PREDICT_V, SARA_PREDICT_SAMPLE, SARA_PREDICT_FLOW
} sara_prediction;
typedef enum sara_beta_schedule {
    SARA_BETAS_LINEAR, SARA_BETAS_SCALED_LINEAR, SARA_BETAS_COSINE
} sara_beta_schedule;
typedef enum sara_spacing {
    SARA_SPACING_LINSPACE, SARA_SPACING_LEADING, SARA_SPACING_TRAILING
} sara_spacing;
typedef enum sara_final_sigma { SARA_FINAL_ZERO, SARA_FINAL_SIGMA_MIN } sara_final_sigma;
typedef enum sara_solver { SARA_SOLVER_MIDPOINT, SARA_SOLVER_HEUN } sara_solver;
typedef enum sara_interpolation {
    SARA_INTERPOLATE_LINEAR, SARA_INTERPOLATE_LOG_LINEAR
} sara_interpolation;
typedef enum sara_variance { SARA_VARIANCE_FIXED_SMALL, SARA_VARIANCE_FIXED_LARGE } sara_variance;
typedef enum sara_sampler_kind {
    SARA_SAMPLER_DDIM,
    SARA_SAMPLER_DDPM,
    SARA_SAMPLER_PNDM,
    SARA_SAMPLER_EULER,
    SARA_SAMPLER_EULER_ANCESTRAL,
    SARA_SAMPLER_DPMPP_2M,
    SARA_SAMPLER_FLOW_EULER,
    SARA_SAMPLER_FLOW_HEUN,
    SARA_SAMPLER_OTHER /* a class with betas that sara has no sampler for */
} sara_sampler_kind;

/* What a file states of options that sara lacks, or that its class ignores; kept because a switch
 * to a class that reads them must obey or refuse them. Only the parser and the switch look here. */
typedef struct sara_scheduler_stated {
    uint64_t given; /* bit i: the file has the i-th key of the parser's table */
    bool use_karras_sigmas, thresholding, trained_betas, use_exponential_sigmas, use_beta_sigmas;
    bool use_lu_lambdas, use_dynamic_shifting, invert_sigmas, stochastic_sampling;
    int algorithm_type, timestep_type;
    double shift_terminal;
} sara_scheduler_stated;

/* scheduler_config.json; defaults are those of the diffusers class. */
typedef struct sara_scheduler_config {
    sara_sampler_kind kind;
    int num_train_timesteps;
    double beta_start, beta_end;
    sara_beta_schedule beta_schedule;
    sara_prediction prediction_type;
    sara_spacing spacing;
    int steps_offset;
    bool rescale_betas_zero_snr, set_alpha_to_one, clip_sample, skip_prk_steps;
    bool use_karras_sigmas; /* may be set by hand, after any switch */
    bool lower_order_final, euler_at_final;
    double clip_sample_range;
    int solver_order;   /* DPM++: 1 or 2 */
    sara_final_sigma final_sigmas_type;
    sara_solver solver_type;
    sara_interpolation interpolation_type; /* Euler */
    sara_variance variance_type;           /* DDPM */
    double sigma_min, sigma_max;           /* limits of Karras sigmas; NaN: the schedule's */
    double lambda_min_clipped;             /* DPM++; -infinity: no clipping */
    double shift;                          /* flow matching */
    bool use_flow_sigmas;                  /* DPM++ of a flow */
    double flow_shift;                     /* and its shift */
    char other_class[64];                  /* the class's name, of SARA_SAMPLER_OTHER */
    sara_scheduler_stated stated;
} sara_scheduler_config;

/* class_name overrides the object's own _class_name (model_index.json's rules); NULL: the object's.
 * object NULL: sara's default, scaled_linear 0.00085..0.012 over 1000, epsilon, DDPM. What the
 * noise schedule needs and sara lacks is refused by name; a class or an option that only sampling
 * needs is kept for sara_scheduler_config_switch, and refused where a sampler is made. A class that
 * sara does not know must state its betas. */
SARA_NODISCARD sara_status sara_scheduler_config_parse(sara_context *ctx,
                                                       sara_scheduler_config *out,
                                                       const json_t *object, const char *source,
                                                       const char *class_name);
/* Refuses what the noise schedule or the prediction type needs and sara lacks. source: what the
 * error begins with. */
SARA_NODISCARD sara_status sara_scheduler_config_check(sara_context *ctx,
                                                       const sara_scheduler_config *config,
                                                       const char *source);
/* As above, and what sampling with the config's own class needs. */
SARA_NODISCARD sara_status sara_scheduler_config_check_sampling(
    sara_context *ctx, const sara_scheduler_config *config, const char *source);
/* Whether it is of rectified flow: a class of flows, or DPM++ by use_flow_sigmas. */
bool sara_scheduler_is_flow(const sara_scheduler_config *config);
/* As diffusers' Class.from_config(other.config): keeps the common fields, takes the class's
 * defaults for the rest. name: one of sara_sampling_methods() (stable-diffusion.cpp's spellings
 * and diffusers' class names; "euler", "heun" and "dpm++2m" of a flow are its own, the last by
 * use_flow_sigmas with the flow's shift). Errors: SARA_ERROR_USAGE with
 * the list, or SARA_ERROR_INPUT for an option of the file that the new class would have to read. */
SARA_NODISCARD sara_status sara_scheduler_config_switch(sara_context *ctx,
                                                        sara_scheduler_config *config,
                                                        const char *name);
/* Whether the object that was parsed states the key. */
bool sara_scheduler_config_states(const sara_scheduler_config *config, const char *key);
/* For samples that are latents, which lie beyond [-1,1]: no clipping, and this steps_offset, as if
 * both were stated, so that a switch keeps them. */
void sara_scheduler_config_set_latent(sara_scheduler_config *config, int steps_offset);
const char *sara_prediction_name(sara_prediction prediction);
/* Also "v", as modelspec and other trainers have it. */
SARA_NODISCARD sara_status sara_prediction_parse(sara_context *ctx, sara_prediction *out,
                                                 const char *name);
/* Whether it is of flows alone, one of sara_sampling_methods(). */
bool sara_sampling_method_is_of_flows(const char *name);
/* Sets the type by name; flow_prediction goes with the flow scheduler alone, which has no other. */
SARA_NODISCARD sara_status sara_scheduler_config_predict(sara_context *ctx,
                                                         sara_scheduler_config *config,
                                                         const char *name);

/* alphas_cumprod [num_train_timesteps], in double from float32 betas as diffusers computes them. */
SARA_NODISCARD sara_status sara_alphas_cumprod(sara_context *ctx, double **out,
                                               const sara_scheduler_config *config);

/* Of rectified flow: how noise levels are drawn, and what they weigh. */
typedef enum sara_weighting_scheme {
    SARA_WEIGHTING_LOGIT_NORMAL,
    SARA_WEIGHTING_MODE,
    SARA_WEIGHTING_SIGMA_SQRT,
    SARA_WEIGHTING_COSMAP,
    SARA_WEIGHTING_NONE
} sara_weighting_scheme;
typedef struct sara_weighting {
    sara_weighting_scheme scheme;
    double logit_mean, logit_std; /* of logit_normal */
    double mode_scale;            /* of mode */
    bool precondition_outputs;    /* the loss is that of x0, not of the velocity */
} sara_weighting;
/* "uniform" is none. source: what the error (SARA_ERROR_USAGE) begins with. */
SARA_NODISCARD sara_status sara_weighting_parse(sara_context *ctx, sara_weighting_scheme *out,
                                                const char *name, const char *source);
const char *sara_weighting_name(sara_weighting_scheme scheme);

/* What a training step needs, DDPM's forward process or rectified flow. */
typedef struct sara_objective {
    sara_context *ctx;
    sara_prediction prediction;
    int num_train_timesteps;
    double *alphas_cumprod; /* NULL for flow */
    /* Of sara_flow_objective_new() alone: the noise levels that are drawn from, descending from 1,
     * [num_train_timesteps], and how; else NULL and nothing. */
    float *sigmas;
    sara_weighting weighting;
} sara_objective;
SARA_NODISCARD sara_status sara_objective_new(sara_context *ctx, sara_objective *out,
                                              const sara_scheduler_config *config);
/* Of a flow, as diffusers' scripts train it: logit_normal, the velocity's loss. SARA_ERROR_INPUT:
 * the scheduler is none of a flow. */
SARA_NODISCARD sara_status sara_flow_objective_new(sara_context *ctx, sara_objective *out,
                                                   const sara_scheduler_config *config);
void sara_objective_free(sara_objective *objective);
/* The timestep that a number leads to, N(0, 1) of logit_normal, else of [0, 1). */
double sara_flow_timestep(const sara_objective *objective, double drawn);
/* A pure function of seed and element. */
double sara_flow_draw_timestep(const sara_objective *objective, uint64_t seed, uint64_t element);
/* Whether samples' losses have other weights than 1, which weigh() gives, [batch]; timesteps and
 * sigmas as below. SARA_ERROR_INPUT: a weight is not finite. */
bool sara_objective_weighs(const sara_objective *objective);
SARA_NODISCARD sara_status sara_objective_weigh(const sara_objective *objective, float *weights,
                                                const double *timesteps, const float *sigmas,
                                                int64_t batch);
/* noisy and target from latents and noise, all [batch][count]; timesteps [batch], whole numbers
 * but of flow; sigmas [batch], of flow: the noise levels, NULL: timesteps / num_train_timesteps.
 * Others, and what is out of range, are SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_objective_apply(const sara_objective *objective, float *noisy,
                                                float *target, const float *latents,
                                                const float *noise, const double *timesteps,
                                                const float *sigmas, int64_t batch, int64_t count);

/* One trajectory of `steps` model evaluations or more (PNDM repeats one; DPM++ with
 * lambda_min_clipped may take fewer). Errors of new: SARA_ERROR_USAGE for steps or Karras sigmas
 * that the sampler cannot have, SARA_ERROR_INPUT where the schedule has no finite step. */
typedef struct sara_sampler sara_sampler;
SARA_NODISCARD sara_status sara_sampler_new(sara_context *ctx, sara_sampler **out,
                                            const sara_scheduler_config *config, int steps);
void sara_sampler_free(sara_sampler *sampler);
int sara_sampler_evaluations(const sara_sampler *sampler);      /* model calls in all */
double sara_sampler_timestep(const sara_sampler *sampler, int index); /* what the model is given */
double sara_sampler_init_noise_sigma(const sara_sampler *sampler);
bool sara_sampler_needs_noise(const sara_sampler *sampler);     /* ancestral, DDPM */
/* out = the model's input for sample at evaluation index; out may be sample. */
void sara_sampler_scale_input(const sara_sampler *sampler, int index, float *out,
                              const float *sample, size_t count);
/* sample [count] goes from evaluation index to the next; called in order, index 0 starts anew.
 * noise [count] where needed, else NULL. Keeps what multistep methods need of model_output; the
 * first step allocates it, the others nothing. */
SARA_NODISCARD sara_status sara_sampler_step(sara_sampler *sampler, int index, float *sample,
                                             const float *model_output, const float *noise,
                                             size_t count);
/* The canonical name of a kind: "ddim", "dpm++2m", ... */
const char *sara_sampler_kind_name(sara_sampler_kind kind);

#endif
