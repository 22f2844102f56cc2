/* Scheduler classes by name: parsing a config and switching between classes. */
#include "diffusion/config.h"

#include <math.h>
#include <stdio.h>

typedef struct scheduler_class {
    const char *method; /* stable-diffusion.cpp's name where it has one */
    const char *name;   /* diffusers' class */
} scheduler_class;

static const scheduler_class classes[] = {
    [SARA_SAMPLER_DDIM] = {"ddim", "DDIMScheduler"},
    [SARA_SAMPLER_DDPM] = {"ddpm", "DDPMScheduler"},
    [SARA_SAMPLER_PNDM] = {"pndm", "PNDMScheduler"},
    [SARA_SAMPLER_EULER] = {"euler", "EulerDiscreteScheduler"},
    [SARA_SAMPLER_EULER_ANCESTRAL] = {"euler_a", "EulerAncestralDiscreteScheduler"},
    [SARA_SAMPLER_DPMPP_2M] = {"dpm++2m", "DPMSolverMultistepScheduler"},
    [SARA_SAMPLER_FLOW_EULER] = {"flow_euler", "FlowMatchEulerDiscreteScheduler"},
    [SARA_SAMPLER_FLOW_HEUN] = {"flow_heun", "FlowMatchHeunDiscreteScheduler"},
};
enum { CLASS_COUNT = sizeof(classes) / sizeof(classes[0]) };
_Static_assert((int)CLASS_COUNT == (int)SARA_SAMPLER_OTHER, "all others have no sampler");

static const char *const methods[] = {
    "ddim",
    "ddim_trailing",
    "ddpm",
    "pndm",
    "euler",
    "euler_a",
    "dpm++2m",
    "flow_euler",
    "flow_heun",
    "heun",
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    NULL,
};

const char *const *sara_sampling_methods(void)
{
    return methods;
}

const char *sara_sampler_kind_name(sara_sampler_kind kind)
{
    return kind == SARA_SAMPLER_OTHER ? "other" : classes[kind].method;
}

const char *scheduler_class_name(const sara_scheduler_config *config)
{
    return config->kind == SARA_SAMPLER_OTHER ? config->other_class : classes[config->kind].name;
}

static bool kind_is_of_flows(sara_sampler_kind kind)
{
    return kind == SARA_SAMPLER_FLOW_EULER || kind == SARA_SAMPLER_FLOW_HEUN;
}

bool sara_scheduler_is_flow(const sara_scheduler_config *config)
{
    return kind_is_of_flows(config->kind) ||
           (config->kind == SARA_SAMPLER_DPMPP_2M && config->use_flow_sigmas &&
            config->prediction_type == SARA_PREDICT_FLOW);
}

double scheduler_flow_shift(const sara_scheduler_config *config)
{
    return kind_is_of_flows(config->kind) ? config->shift : config->flow_shift;
}

bool sara_sampling_method_is_of_flows(const char *name)
{
    bool of_flows = strcmp(name, "heun") == 0;
    for (int kind = 0; kind < CLASS_COUNT && !of_flows; kind++)
        of_flows =
            kind_is_of_flows((sara_sampler_kind)kind) &&
            (strcmp(classes[kind].method, name) == 0 || strcmp(classes[kind].name, name) == 0);
    return of_flows;
}

void scheduler_defaults(sara_scheduler_config *config, sara_sampler_kind kind)
{
    bool by_sigma = kind == SARA_SAMPLER_EULER || kind == SARA_SAMPLER_EULER_ANCESTRAL ||
                    kind == SARA_SAMPLER_DPMPP_2M;
    *config = (sara_scheduler_config){
        .kind = kind,
        .num_train_timesteps = 1000,
        .beta_start = 0.0001,
        .beta_end = 0.02,
        .beta_schedule = SARA_BETAS_LINEAR,
        .prediction_type = kind_is_of_flows(kind) ? SARA_PREDICT_FLOW : SARA_PREDICT_EPSILON,
        .spacing = by_sigma ? SARA_SPACING_LINSPACE : SARA_SPACING_LEADING,
        .set_alpha_to_one = kind == SARA_SAMPLER_DDIM,
        .clip_sample = kind == SARA_SAMPLER_DDIM || kind == SARA_SAMPLER_DDPM,
        .clip_sample_range = 1.0,
        .lower_order_final = true,
        .solver_order = 2,
        .sigma_min = NAN,
        .sigma_max = NAN,
        .lambda_min_clipped = -INFINITY,
        .shift = 1.0,
        .flow_shift = 1.0,
    };
}

/* What SD1.x was trained with; given, so that it holds for every class it is switched to. */
static void stable_diffusion_config(sara_scheduler_config *config)
{
    static const char *const given[] = {"beta_start",       "beta_end",    "beta_schedule",
                                        "set_alpha_to_one", "clip_sample", "steps_offset",
                                        "skip_prk_steps"};
    scheduler_defaults(config, SARA_SAMPLER_DDPM);
    config->beta_start = 0.00085;
    config->beta_end = 0.012;
    config->beta_schedule = SARA_BETAS_SCALED_LINEAR;
    config->set_alpha_to_one = false;
    config->clip_sample = false;
    config->steps_offset = 1;
    config->skip_prk_steps = true;
    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++)
        scheduler_field_give(config, given[i]);
}

/* Other classes with betas; the families named here have none of their own. */
static bool class_may_have_betas(const char *name)
{
    static const char *const without[] = {"Flow", "EDM", "Cosine"};
    size_t length = strlen(name), end = strlen("Scheduler");
    sara_scheduler_config *config = NULL;
    if (length <= end || length >= sizeof(config->other_class) ||
        strcmp(name + length - end, "Scheduler") != 0)
        return false;
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++)
        if (strncmp(name, without[i], strlen(without[i])) == 0)
            return false;
    return true;
}

static sara_status class_find(sara_context *ctx, sara_sampler_kind *out, const char *name,
                              const char *source)
{
    char list[512];
    size_t used = 0;
    for (int i = 0; i < CLASS_COUNT; i++) {
        if (strcmp(classes[i].name, name) == 0) {
            *out = (sara_sampler_kind)i;
            return SARA_OK;
        }
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
                                 classes[i].name);
    }
    *out = SARA_SAMPLER_OTHER;
    if (class_may_have_betas(name))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: _class_name \"%s\", expected one of %s", source,
                     name, list);
}

/* Classes differ in the betas of a file that says nothing; diffusers always writes them. */
static sara_status check_stated_betas(sara_context *ctx, const sara_scheduler_config *config,
                                      const char *source)
{
    static const char *const keys[] = {"beta_start", "beta_end", "beta_schedule"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (!sara_scheduler_config_states(config, keys[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s states no %s, which is needed for it",
                             source, config->other_class, keys[i]);
    return SARA_OK;
}

sara_status sara_scheduler_config_parse(sara_context *ctx, sara_scheduler_config *out,
                                        const json_t *object, const char *source,
                                        const char *class_name)
{
    sara_status status = SARA_OK;
    sara_scheduler_config config;
    sara_sampler_kind kind = SARA_SAMPLER_DDPM;
    sara_config in = {ctx, object, source};
    stable_diffusion_config(&config);
    if (object) {
        if (!json_is_object(object))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: not a JSON object", source));
        if (!class_name)
            TRY(sara_config_string(&in, &class_name, "_class_name", ""));
        TRY(class_find(ctx, &kind, class_name, source));
        scheduler_defaults(&config, kind);
        if (kind == SARA_SAMPLER_OTHER)
            snprintf(config.other_class, sizeof(config.other_class), "%s", class_name);
        TRY(scheduler_fields_read(ctx, &config, object, source));
        if (kind_is_of_flows(kind)) /* whose classes have no prediction_type */
            config.prediction_type = SARA_PREDICT_FLOW;
        TRY(sara_scheduler_config_check(ctx, &config, source));
        if (kind == SARA_SAMPLER_OTHER)
            TRY(check_stated_betas(ctx, &config, source));
        config.use_karras_sigmas = config.stated.use_karras_sigmas && scheduler_has_karras(kind);
        if (config.stated.use_karras_sigmas && !config.use_karras_sigmas &&
            kind != SARA_SAMPLER_OTHER)
            sara_log(ctx, SARA_LOG_WARNING, "%s: use_karras_sigmas is ignored by %s", source,
                     classes[kind].name);
    }
    *out = config;
done:
    return status;
}

static sara_status method_unknown(sara_context *ctx, const char *name)
{
    char list[512];
    size_t used = 0;
    for (int i = 0; methods[i] && used < sizeof(list); i++)
        used +=
            (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", methods[i]);
    return sara_fail(ctx, SARA_ERROR_USAGE, "sampling method \"%s\", expected one of %s", name,
                     list);
}

/* Of a flow "euler" and "heun" are the flow's; DPM++ solves both kinds. sara has no other way from
 * one to the other. */
static sara_status method_kind(sara_context *ctx, sara_sampler_kind *out,
                               const sara_scheduler_config *config, const char *name)
{
    bool flow = sara_scheduler_is_flow(config);
    int kind = 0;
    if (strcmp(name, "ddim_trailing") == 0)
        name = classes[SARA_SAMPLER_DDIM].method;
    while (kind < CLASS_COUNT && strcmp(classes[kind].method, name) != 0 &&
           strcmp(classes[kind].name, name) != 0)
        kind++;
    if (strcmp(name, "heun") == 0)
        kind = SARA_SAMPLER_FLOW_HEUN;
    if (kind == CLASS_COUNT)
        return method_unknown(ctx, name);
    if (flow && strcmp(name, "euler") == 0)
        kind = SARA_SAMPLER_FLOW_EULER;
    *out = (sara_sampler_kind)kind;
    if (*out != SARA_SAMPLER_DPMPP_2M && flow != kind_is_of_flows(*out))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "sampling method \"%s\" does not go with the model's %s, expected %s",
                         name, scheduler_class_name(config),
                         flow ? "euler, heun or dpm++2m"
                              : "ddim, ddim_trailing, ddpm, pndm, euler, euler_a or dpm++2m");
    return SARA_OK;
}

/* The flow's shift under the name that the class has for it, and DPM++'s way of a flow. */
static void switch_flow(sara_scheduler_config *next, const sara_scheduler_config *from)
{
    next->use_flow_sigmas = true;
    next->shift = next->flow_shift = scheduler_flow_shift(from);
}

sara_status sara_scheduler_config_switch(sara_context *ctx, sara_scheduler_config *config,
                                         const char *name)
{
    sara_status status = SARA_OK;
    sara_scheduler_config next;
    sara_sampler_kind kind = config->kind;
    TRY(method_kind(ctx, &kind, config, name));
    scheduler_defaults(&next, kind);
    scheduler_fields_inherit(&next, config);
    /* What was set by hand stays, so that a class without it refuses it. */
    next.prediction_type = config->prediction_type;
    if (sara_scheduler_is_flow(config))
        switch_flow(&next, config);
    next.use_karras_sigmas =
        config->stated.use_karras_sigmas ? scheduler_has_karras(kind) : config->use_karras_sigmas;
    TRY(sara_scheduler_config_check_sampling(ctx, &next, classes[kind].name));
    if (strcmp(name, "ddim_trailing") == 0)
        next.spacing = SARA_SPACING_TRAILING;
    *config = next;
done:
    return status;
}
