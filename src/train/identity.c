/* What a run is: for the manifest that a resumed run must match, and for the adapter's metadata.
 * Nothing here depends on time, host or path, so that equal runs give equal files. */
#include "train/trainer.h"

#include <stdio.h>

static sara_status add_option(trainer *t, const char *name, const json_t *value)
{
    sara_metadata_list *list = &t->metadata;
    char key[96];
    snprintf(key, sizeof(key), "sara.%s", name);
    if (json_is_string(value))
        return sara_metadata_list_set(list, key, json_string_value(value));
    if (json_is_boolean(value))
        return sara_metadata_list_set(list, key, json_is_true(value) ? "true" : "false");
    if (json_is_integer(value))
        return sara_metadata_list_add(list, key, "%lld", (long long)json_integer_value(value));
    return sara_metadata_list_add(list, key, "%.17g", json_real_value(value));
}

static sara_status add_fixed(trainer *t)
{
    const sara_shape *latents = &t->source->shapes[0].latents.shape;
    const int64_t *sides = latents->dims + latents->rank - 2; /* height, width */
    int factor = t->model->vae ? t->model->vae->info.vae.factor : 8;
    bool v = t->objective.prediction == SARA_PREDICT_V;
    sara_metadata_list *list = &t->metadata;
    sara_status status;
    TRY(sara_metadata_list_set(list, "sara.format", "1"));
    TRY(sara_metadata_list_set(list, "sara.target", t->model->family->target));
    TRY(sara_metadata_list_set(list, "sara.base_sha256", t->model->base.sha256));
    TRY(sara_metadata_list_set(list, "sara.base_precision",
                               sara_precision_name(t->model->base.precision)));
    TRY(sara_metadata_list_add(list, "sara.selected", "%lld", (long long)t->selected));
    TRY(sara_metadata_list_set(list, "modelspec.sai_model_spec", "1.0.0"));
    TRY(sara_metadata_list_add(list, "modelspec.architecture", "%s/%s",
                               sara_model_architecture(t->model, v), t->method->name));
    TRY(sara_metadata_list_set(list, "modelspec.implementation", "sara"));
    TRY(sara_metadata_list_add(list, "modelspec.title", "%s adapter", t->method->title));
    TRY(sara_metadata_list_set(list, "modelspec.prediction_type",
                               sara_prediction_name(t->objective.prediction)));
    TRY(sara_metadata_list_add(list, "modelspec.resolution", "%lldx%lld",
                               (long long)sides[1] * factor, (long long)sides[0] * factor));
done:
    return status;
}

/* The options as resolved, not as given, and those alone that go with the method. */
static sara_status identity_resolve(trainer *t, json_t *object)
{
    const char *prediction = sara_prediction_name(t->objective.prediction);
    const char *weights = sara_storage_name(&t->model->denoiser->params);
    sara_method_drop_options(t->method, object);
    if (json_object_set_new(object, "learning_rate", json_real(t->learning_rate)) |
        json_object_set_new(object, "max_train_steps", json_integer(t->steps)) |
        json_object_set_new(object, "prediction_type", json_string(prediction)) |
        json_object_set_new(object, "weight_dtype", json_string(weights)))
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    json_object_del(object, "num_train_epochs");
    if (!t->options.no_t5)
        json_object_del(object, "no_t5");
    if (!t->model->family->without || t->source->is_replay)
        json_object_del(object, "max_sequence_length");
    else if (!t->options.max_sequence_length &&
             json_object_set_new(object, "max_sequence_length",
                                 json_integer(SARA_CAPTION_LENGTH)) != 0)
        return sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    sara_status status = sara_trainer_keep_weighting(t, object);
    if (status == SARA_OK && t->method->resolve)
        status = t->method->resolve(t, object);
    return status;
}

/* identity[folder of the part + ending] = value, which it takes */
static sara_status set_of_part(trainer *t, int part, const char *ending, json_t *value)
{
    const sara_name key = sara_name_of("%s%s", t->model->family->parts[part].folder, ending);
    return json_object_set_new(t->identity, key.text, value) == 0
               ? SARA_OK
               : sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options");
}

/* What turns images and captions into what is trained on. */
static sara_status add_encoders(trainer *t)
{
    const sara_model *model = t->model;
    sara_base base;
    sara_status status = SARA_OK;
    for (int i = 1; i < model->family->part_count; i++) {
        const sara_network *network = model->parts[i].network;
        TRY(sara_network_base(t->ctx, &base, network));
        TRY(set_of_part(t, i, "_sha256", json_string(base.sha256)));
        TRY(set_of_part(t, i, "_settings", network->class->settings(network)));
    }
done:
    return status;
}

/* Three of its values tell one noise schedule from others; in a few digits, as the last ones depend
 * on the machine's mathematical library. Of flows that draw from them they are the noise levels. */
static json_t *noise_settings(const sara_objective *objective)
{
    const int count = objective->num_train_timesteps, at[] = {0, count / 2, count - 1};
    const bool flow = objective->sigmas != NULL;
    json_t *values = json_array();
    int failed = !values;
    for (size_t i = 0; (flow || objective->alphas_cumprod) && i < sizeof(at) / sizeof(*at); i++) {
        char number[40];
        sara_print(number, sizeof(number), "%.6g",
                   flow ? (double)objective->sigmas[at[i]] : objective->alphas_cumprod[at[i]]);
        failed |= json_array_append_new(values, json_string(number));
    }
    if (failed) {
        json_decref(values);
        return NULL;
    }
    return json_pack("{s:i,s:o}", "num_train_timesteps", count, flow ? "sigmas" : "alphas_cumprod",
                     values);
}

/* What decides the bits beside weights, options and data, and may come from elsewhere. */
static sara_status add_settings(trainer *t)
{
    const sara_network *denoiser = t->model->denoiser;
    int failed = json_object_set_new(t->identity, "noise_settings", noise_settings(&t->objective));
    sara_status status;
    if (!t->source->is_replay)
        failed |= json_object_set_new(t->identity, "tokens_sha256",
                                      json_string(t->source->tokens_sha256));
    TRY(failed ? sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options") : SARA_OK);
    TRY(set_of_part(t, 0, "_settings", denoiser->class->settings(denoiser)));
done:
    return status;
}

sara_status sara_trainer_identify(trainer *t)
{
    const char *key;
    json_t *value;
    sara_status status;
    TRY(sara_train_options_json(t->ctx, &t->identity, &t->options));
    TRY(identity_resolve(t, t->identity));
    json_object_foreach(t->identity, key, value) if (!json_is_null(value))
        TRY(add_option(t, key, value));
    TRY(add_fixed(t));
    if (json_object_set_new(t->identity, "base_sha256", json_string(t->model->base.sha256)) ||
        json_object_set_new(t->identity, "data_sha256", json_string(t->source->sha256)) ||
        json_object_set_new(t->identity, "selected", json_integer(t->selected)) ||
        json_object_set_new(t->identity, "parameters", json_integer(t->parameters)))
        TRY(sara_fail(t->ctx, SARA_ERROR_MEMORY, "out of memory: options"));
    if (t->method->note)
        TRY(t->method->note(t, t->identity));
    if (!t->source->is_replay)
        TRY(add_encoders(t));
    TRY(add_settings(t));
done:
    return status;
}
