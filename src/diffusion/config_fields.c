/* The options of scheduler_config.json as one table: key, type, place and the classes that read it.
 * A key that the class does not read is kept for a later switch, as diffusers keeps it. */
#include "diffusion/config.h"

#include <math.h>
#include <stdio.h>

enum {
    DDIM = 1 << SARA_SAMPLER_DDIM,
    DDPM = 1 << SARA_SAMPLER_DDPM,
    PNDM = 1 << SARA_SAMPLER_PNDM,
    EULER = 1 << SARA_SAMPLER_EULER,
    ANCESTRAL = 1 << SARA_SAMPLER_EULER_ANCESTRAL,
    DPMPP = 1 << SARA_SAMPLER_DPMPP_2M,
    FLOW_EULER = 1 << SARA_SAMPLER_FLOW_EULER,
    FLOW = FLOW_EULER | 1 << SARA_SAMPLER_FLOW_HEUN,
    ALPHAS = DDIM | DDPM | PNDM | EULER | ANCESTRAL | DPMPP, /* all that have betas */
    OTHER = 1 << SARA_SAMPLER_OTHER,
    BETAS = ALPHAS | OTHER,
    KARRAS = EULER | DPMPP | FLOW_EULER,
    UNKNOWN_NAME = 1000
};

/* A text value; names of one list with one number mean the same. */
typedef struct field_name {
    const char *text;
    int value;
    unsigned refused; /* the classes for which sara lacks it */
} field_name;

typedef enum field_type {
    FIELD_INT,
    FIELD_DOUBLE,
    FIELD_BOOL,
    FIELD_NAME,
    FIELD_REFUSED, /* a bool that must not be true */
    FIELD_PRESENT  /* any value; must not be there */
} field_type;

typedef struct field {
    const char *key;
    field_type type;
    size_t offset;
    unsigned kinds; /* the classes that read it */
    double low, high;
    const field_name *names;
} field;

static const field_name beta_schedules[] = {{"linear", SARA_BETAS_LINEAR, 0},
                                            {"scaled_linear", SARA_BETAS_SCALED_LINEAR, 0},
                                            {"squaredcos_cap_v2", SARA_BETAS_COSINE, 0},
                                            {"laplace", 100, BETAS},
                                            {"sigmoid", 101, BETAS},
                                            {NULL, 0, 0}};
static const field_name predictions[] = {{"epsilon", SARA_PREDICT_EPSILON, 0},
                                         {"v_prediction", SARA_PREDICT_V, 0},
                                         {"sample", SARA_PREDICT_SAMPLE, PNDM | ANCESTRAL},
                                         {"flow_prediction", SARA_PREDICT_FLOW, BETAS & ~DPMPP},
                                         {NULL, 0, 0}};
static const field_name spacings[] = {{"linspace", SARA_SPACING_LINSPACE, 0},
                                      {"leading", SARA_SPACING_LEADING, 0},
                                      {"trailing", SARA_SPACING_TRAILING, 0},
                                      {NULL, 0, 0}};
static const field_name final_sigmas[] = {
    {"zero", SARA_FINAL_ZERO, 0}, {"sigma_min", SARA_FINAL_SIGMA_MIN, 0}, {NULL, 0, 0}};
/* diffusers' DPM++ takes the solvers of its DEIS and UniPC classes for its own, so that their
 * configs can be switched to it. */
static const field_name solvers[] = {
    {"midpoint", SARA_SOLVER_MIDPOINT, 0}, {"heun", SARA_SOLVER_HEUN, 0},
    {"logrho", SARA_SOLVER_MIDPOINT, 0},   {"bh1", SARA_SOLVER_MIDPOINT, 0},
    {"bh2", SARA_SOLVER_MIDPOINT, 0},      {NULL, 0, 0}};
static const field_name algorithms[] = {
    {"dpmsolver++", 0, 0},           {"deis", 0, 0},
    {"dpmsolver", 100, DPMPP},       {"sde-dpmsolver", 101, DPMPP},
    {"sde-dpmsolver++", 102, DPMPP}, {NULL, 0, 0}};
static const field_name interpolations[] = {{"linear", SARA_INTERPOLATE_LINEAR, 0},
                                            {"log_linear", SARA_INTERPOLATE_LOG_LINEAR, 0},
                                            {NULL, 0, 0}};
/* fixed_small_log is the square root taken by way of the logarithm. */
static const field_name variances[] = {{"fixed_small", SARA_VARIANCE_FIXED_SMALL, 0},
                                       {"fixed_small_log", SARA_VARIANCE_FIXED_SMALL, 0},
                                       {"fixed_large", SARA_VARIANCE_FIXED_LARGE, 0},
                                       {"fixed_large_log", 100, DDPM},
                                       {"learned", 101, DDPM | DPMPP},
                                       {"learned_range", 102, DDPM | DPMPP},
                                       {NULL, 0, 0}};
static const field_name timestep_types[] = {
    {"discrete", 0, 0}, {"continuous", 100, EULER}, {NULL, 0, 0}};

#define AT(member) offsetof(sara_scheduler_config, member)
static const field fields[] = {
    {"num_train_timesteps", FIELD_INT, AT(num_train_timesteps), BETAS | FLOW, 2, 100000, NULL},
    {"beta_start", FIELD_DOUBLE, AT(beta_start), BETAS, 1e-9, 0.9999, NULL},
    {"beta_end", FIELD_DOUBLE, AT(beta_end), BETAS, 1e-9, 0.9999, NULL},
    {"beta_schedule", FIELD_NAME, AT(beta_schedule), BETAS, 0, 0, beta_schedules},
    {"trained_betas", FIELD_PRESENT, AT(stated.trained_betas), BETAS, 0, 0, NULL},
    {"prediction_type", FIELD_NAME, AT(prediction_type), BETAS, 0, 0, predictions},
    {"timestep_spacing", FIELD_NAME, AT(spacing), ALPHAS, 0, 0, spacings},
    {"steps_offset", FIELD_INT, AT(steps_offset), ALPHAS, 0, 100000, NULL},
    {"rescale_betas_zero_snr", FIELD_BOOL, AT(rescale_betas_zero_snr),
     DDIM | DDPM | EULER | ANCESTRAL | DPMPP, 0, 0, NULL},
    {"set_alpha_to_one", FIELD_BOOL, AT(set_alpha_to_one), DDIM | PNDM, 0, 0, NULL},
    {"clip_sample", FIELD_BOOL, AT(clip_sample), DDIM | DDPM, 0, 0, NULL},
    {"clip_sample_range", FIELD_DOUBLE, AT(clip_sample_range), DDIM | DDPM, 0, 1e9, NULL},
    {"thresholding", FIELD_REFUSED, AT(stated.thresholding), DDIM | DDPM | DPMPP, 0, 0, NULL},
    {"variance_type", FIELD_NAME, AT(variance_type), DDPM | DPMPP, 0, 0, variances},
    {"skip_prk_steps", FIELD_BOOL, AT(skip_prk_steps), PNDM, 0, 0, NULL},
    {"use_karras_sigmas", FIELD_BOOL, AT(stated.use_karras_sigmas), KARRAS, 0, 0, NULL},
    {"use_exponential_sigmas", FIELD_REFUSED, AT(stated.use_exponential_sigmas), KARRAS, 0, 0,
     NULL},
    {"use_beta_sigmas", FIELD_REFUSED, AT(stated.use_beta_sigmas), KARRAS, 0, 0, NULL},
    {"sigma_min", FIELD_DOUBLE, AT(sigma_min), KARRAS, 0, 1e9, NULL},
    {"sigma_max", FIELD_DOUBLE, AT(sigma_max), KARRAS, 0, 1e9, NULL},
    {"interpolation_type", FIELD_NAME, AT(interpolation_type), EULER, 0, 0, interpolations},
    {"timestep_type", FIELD_NAME, AT(stated.timestep_type), EULER, 0, 0, timestep_types},
    {"final_sigmas_type", FIELD_NAME, AT(final_sigmas_type), EULER | DPMPP, 0, 0, final_sigmas},
    {"algorithm_type", FIELD_NAME, AT(stated.algorithm_type), DPMPP, 0, 0, algorithms},
    {"solver_type", FIELD_NAME, AT(solver_type), DPMPP, 0, 0, solvers},
    {"solver_order", FIELD_INT, AT(solver_order), DPMPP, 1, 1000, NULL},
    {"lower_order_final", FIELD_BOOL, AT(lower_order_final), DPMPP, 0, 0, NULL},
    {"euler_at_final", FIELD_BOOL, AT(euler_at_final), DPMPP, 0, 0, NULL},
    {"use_lu_lambdas", FIELD_REFUSED, AT(stated.use_lu_lambdas), DPMPP, 0, 0, NULL},
    {"use_flow_sigmas", FIELD_BOOL, AT(use_flow_sigmas), DPMPP, 0, 0, NULL},
    {"flow_shift", FIELD_DOUBLE, AT(flow_shift), DPMPP, 0.01, 1000, NULL},
    {"lambda_min_clipped", FIELD_DOUBLE, AT(lambda_min_clipped), DPMPP, -INFINITY, 1e9, NULL},
    {"shift", FIELD_DOUBLE, AT(shift), FLOW, 0.01, 1000, NULL}, /* float32 rounds wildly beyond */
    {"shift_terminal", FIELD_DOUBLE, AT(stated.shift_terminal), FLOW_EULER, -1e9, 1e9, NULL},
    {"use_dynamic_shifting", FIELD_REFUSED, AT(stated.use_dynamic_shifting), DPMPP | FLOW_EULER, 0,
     0, NULL},
    {"invert_sigmas", FIELD_REFUSED, AT(stated.invert_sigmas), FLOW_EULER, 0, 0, NULL},
    {"stochastic_sampling", FIELD_REFUSED, AT(stated.stochastic_sampling), FLOW_EULER, 0, 0, NULL},
};
#undef AT
/* The first fields are all that the noise schedule and the objective need, but for the rescaling,
 * which cannot be wrong. */
enum { FIELD_COUNT = sizeof(fields) / sizeof(fields[0]), NOISE_FIELDS = 6 };
_Static_assert(FIELD_COUNT <= 64, "stated.given has a bit for each field");

static size_t field_size(field_type type)
{
    switch (type) {
    case FIELD_INT:
    case FIELD_NAME:
        return sizeof(int);
    case FIELD_DOUBLE:
        return sizeof(double);
    default:
        return sizeof(bool);
    }
}

/* The enumerations of the header and int are stored alike. */
_Static_assert(sizeof(sara_prediction) == sizeof(int), "names are stored as int");

static int name_value(const field_name *names, const char *text)
{
    for (; names->text; names++)
        if (strcmp(names->text, text) == 0)
            return names->value;
    return UNKNOWN_NAME;
}

static void name_list(char *out, size_t size, const field_name *names, unsigned kind)
{
    size_t used = 0;
    out[0] = 0;
    for (; names->text; names++) {
        if (names->refused & kind || used >= size)
            continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", names->text);
    }
}

/* text: as the file has it; NULL where only the number is left. */
static sara_status name_check(sara_context *ctx, const field *f, int value, const char *text,
                              const sara_scheduler_config *config, const char *source)
{
    const field_name *name = f->names;
    char list[256];
    unsigned bit = 1u << config->kind;
    while (name->text && name->value != value)
        name++;
    if (!(f->kinds & bit) || (name->text && !(name->refused & bit)))
        return SARA_OK;
    name_list(list, sizeof(list), f->names, bit);
    if (!text)
        text = name->text ? name->text : "(unknown)";
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s \"%s\", %s supports %s", source, f->key, text,
                     scheduler_class_name(config), list);
}

static sara_status read_name(const sara_config *in, sara_scheduler_config *config, const field *f)
{
    const char *text = NULL;
    sara_status status = sara_config_string(in, &text, f->key, NULL);
    if (status != SARA_OK)
        return status;
    int value = name_value(f->names, text);
    memcpy((char *)config + f->offset, &value, sizeof(value));
    /* What only sampling needs is refused by who samples. */
    if (value != UNKNOWN_NAME && f - fields >= NOISE_FIELDS)
        return SARA_OK;
    return name_check(in->ctx, f, value, text, config, in->source);
}

static sara_status read_field(const sara_config *in, sara_scheduler_config *config, const field *f)
{
    void *place = (char *)config + f->offset;
    sara_status status = SARA_OK;
    int64_t whole = 0;
    switch (f->type) {
    case FIELD_INT:
        status = sara_config_int(in, &whole, f->key, 0, (int64_t)f->low, (int64_t)f->high);
        if (status == SARA_OK)
            *(int *)place = (int)whole;
        break;
    case FIELD_DOUBLE:
        status = sara_config_double(in, place, f->key, 0, f->low, f->high);
        break;
    case FIELD_NAME:
        status = read_name(in, config, f);
        break;
    case FIELD_PRESENT:
        *(bool *)place = true;
        break;
    case FIELD_BOOL:
    case FIELD_REFUSED:
        status = sara_config_bool(in, place, f->key, false);
        break;
    }
    return status;
}

sara_status scheduler_fields_read(sara_context *ctx, sara_scheduler_config *config,
                                  const json_t *object, const char *source)
{
    sara_status status = SARA_OK;
    sara_config in = {ctx, object, source};
    for (int i = 0; i < FIELD_COUNT; i++) {
        const json_t *value = json_object_get(object, fields[i].key);
        if (!value || json_is_null(value))
            continue;
        TRY(read_field(&in, config, &fields[i]));
        config->stated.given |= UINT64_C(1) << i;
    }
done:
    return status;
}

void scheduler_fields_inherit(sara_scheduler_config *config, const sara_scheduler_config *from)
{
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (from->stated.given >> i & 1)
            memcpy((char *)config + fields[i].offset, (const char *)from + fields[i].offset,
                   field_size(fields[i].type));
    }
    config->stated.given = from->stated.given;
}

void scheduler_field_give(sara_scheduler_config *config, const char *key)
{
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strcmp(fields[i].key, key) == 0)
            config->stated.given |= UINT64_C(1) << i;
}

static sara_status check_field(sara_context *ctx, const sara_scheduler_config *config,
                               const field *f, const char *source)
{
    const void *place = (const char *)config + f->offset;
    const char *class_name = scheduler_class_name(config);
    if (!(f->kinds & 1u << config->kind))
        return SARA_OK;
    if (f->type == FIELD_NAME) {
        int value;
        memcpy(&value, place, sizeof(value));
        return name_check(ctx, f, value, NULL, config, source);
    }
    if (f->type == FIELD_REFUSED && *(const bool *)place)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s true, only false is supported for %s",
                         source, f->key, class_name);
    if (f->type == FIELD_PRESENT && *(const bool *)place)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %s is set, only null with beta_schedule is supported for %s", source,
                         f->key, class_name);
    return SARA_OK;
}

sara_status sara_scheduler_config_check(sara_context *ctx, const sara_scheduler_config *config,
                                        const char *source)
{
    sara_status status = SARA_OK;
    if (sara_scheduler_is_flow(config)) /* whose options are of its schedule */
        return sara_scheduler_config_check_sampling(ctx, config, source);
    for (int i = 0; i < NOISE_FIELDS; i++)
        TRY(check_field(ctx, config, &fields[i], source));
    if (config->prediction_type == SARA_PREDICT_FLOW)
        TRY(sara_fail(
            ctx, SARA_ERROR_INPUT,
            "%s: prediction_type \"flow_prediction\", %s has it with use_flow_sigmas alone", source,
            scheduler_class_name(config)));
done:
    return status;
}

/* Of DPM++: a flow's sigmas and its prediction go together, and end at 0. */
static sara_status check_dpmpp_flow(sara_context *ctx, const sara_scheduler_config *config,
                                    const char *source)
{
    const char *prediction = sara_prediction_name(config->prediction_type);
    if (config->use_flow_sigmas != (config->prediction_type == SARA_PREDICT_FLOW))
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: use_flow_sigmas %s with prediction_type \"%s\", a flow has true with "
                         "\"flow_prediction\"",
                         source, config->use_flow_sigmas ? "true" : "false", prediction);
    if (config->use_flow_sigmas && config->final_sigmas_type != SARA_FINAL_ZERO)
        return sara_fail(
            ctx, SARA_ERROR_INPUT,
            "%s: final_sigmas_type \"sigma_min\" with use_flow_sigmas, only \"zero\" is "
            "supported",
            source);
    return SARA_OK;
}

sara_status sara_scheduler_config_check_sampling(sara_context *ctx,
                                                 const sara_scheduler_config *config,
                                                 const char *source)
{
    sara_status status = SARA_OK;
    if (config->kind == SARA_SAMPLER_OTHER)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: there is no sampler for %s", source,
                      config->other_class));
    for (int i = 0; i < FIELD_COUNT; i++)
        TRY(check_field(ctx, config, &fields[i], source));
    if (config->kind == SARA_SAMPLER_DPMPP_2M && config->solver_order > 2)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: solver_order %d, 1 and 2 are supported", source,
                      config->solver_order));
    if (config->kind == SARA_SAMPLER_DPMPP_2M)
        TRY(check_dpmpp_flow(ctx, config, source));
    if (config->kind == SARA_SAMPLER_FLOW_EULER && config->stated.shift_terminal != 0)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: shift_terminal %g, only null is supported",
                      source, config->stated.shift_terminal));
done:
    return status;
}

bool sara_scheduler_config_states(const sara_scheduler_config *config, const char *key)
{
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strcmp(fields[i].key, key) == 0)
            return config->stated.given >> i & 1;
    return false;
}

void sara_scheduler_config_set_latent(sara_scheduler_config *config, int steps_offset)
{
    config->steps_offset = steps_offset;
    config->clip_sample = false;
    scheduler_field_give(config, "steps_offset");
    scheduler_field_give(config, "clip_sample");
}

bool scheduler_has_karras(sara_sampler_kind kind)
{
    return KARRAS >> kind & 1;
}

const char *sara_prediction_name(sara_prediction prediction)
{
    const field_name *name = predictions;
    while (name->text && name->value != (int)prediction)
        name++;
    return name->text ? name->text : "(unknown)";
}

sara_status sara_prediction_parse(sara_context *ctx, sara_prediction *out, const char *name)
{
    char list[256];
    int value = strcmp(name, "v") == 0 ? SARA_PREDICT_V : name_value(predictions, name);
    if (value == UNKNOWN_NAME) {
        name_list(list, sizeof(list), predictions, 0);
        return sara_fail(ctx, SARA_ERROR_USAGE, "prediction_type \"%s\", expected one of %s, v",
                         name, list);
    }
    *out = (sara_prediction)value;
    return SARA_OK;
}

sara_status sara_scheduler_config_predict(sara_context *ctx, sara_scheduler_config *config,
                                          const char *name)
{
    sara_prediction type;
    sara_status status;
    TRY(sara_prediction_parse(ctx, &type, name));
    if ((type == SARA_PREDICT_FLOW) != sara_scheduler_is_flow(config))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "prediction_type %s does not go with the model's %s",
                         sara_prediction_name(type), scheduler_class_name(config));
    config->prediction_type = type;
done:
    return status;
}
