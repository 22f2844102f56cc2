/* What a single-file checkpoint does not hold: its scheduler and its prediction type. */
#include "pipeline/pipeline.h"

#define SD2_V_SAMPLE_SIZE 96 /* SD2's v_prediction models draw 768 pixels */

/* As in the published folders of SD1.x and SD2.x, sampled by DDIM. */
static const char published[] =
    "{\"_class_name\": \"DDIMScheduler\", \"beta_start\": 0.00085, \"beta_end\": 0.012, "
    "\"beta_schedule\": \"scaled_linear\", \"num_train_timesteps\": 1000, "
    "\"prediction_type\": \"epsilon\", \"clip_sample\": false, \"set_alpha_to_one\": false, "
    "\"steps_offset\": 1, \"timestep_spacing\": \"leading\"}";

static sara_status parse_scheduler(sara_model *model, const char *text, const char *source)
{
    sara_status status;
    TRY(sara_json_parse(model->ctx, &model->scheduler_json, text, strlen(text), source, true));
    TRY(sara_scheduler_config_parse(model->ctx, &model->scheduler, model->scheduler_json, source,
                                    NULL));
done:
    return status;
}

sara_status sara_single_scheduler(sara_model *model, const sara_model_options *options)
{
    sara_context *ctx = model->ctx;
    const char *text = sara_single_file_metadata(model->single, "sara.config.scheduler");
    char *folder = NULL, *file = NULL;
    sara_status status;
    if (options->model_config) {
        TRY(sara_path_join(ctx, &folder, options->model_config, "scheduler"));
        TRY(sara_path_join(ctx, &file, folder, "scheduler_config.json"));
        TRY(sara_json_load(ctx, &model->scheduler_json, file, true));
        TRY(sara_scheduler_config_parse(ctx, &model->scheduler, model->scheduler_json, file, NULL));
    } else {
        TRY(sara_format(ctx, &file, "%s: metadata sara.config.scheduler", model->path));
        TRY(parse_scheduler(model, text ? text : published, file));
    }
    if (!model->unet_only)
        TRY(sara_model_correct_scheduler(model, file));
    model->has_scheduler = true;
done:
    sara_free(ctx, folder);
    sara_free(ctx, file);
    return status;
}

/* ----------------------------------------------------------------------------- prediction type */

/* The mean of output - sample where the sample is 0.5 everywhere, timestep 999, and the text's
 * states are 0.5: a U-Net that predicts v at almost pure noise predicts about -x0, which lies well
 * below; one that predicts the noise returns about the sample. */
static sara_status test_forward(double *mean, const sara_model *model)
{
    sara_context *ctx = model->ctx;
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    const double timestep = 999;
    const sara_shape shape = sara_shape4(1, info->in_channels, info->factor, info->factor);
    const sara_shape state_shape = sara_shape3(1, 2, info->state_width);
    size_t count = (size_t)sara_shape_count(&shape);
    size_t states = (size_t)sara_shape_count(&state_shape);
    size_t most = count > states ? count : states;
    sara_tape *tape = NULL;
    float *halves = NULL;
    const float *values;
    sara_var *sample, *out;
    sara_condition condition = {NULL, NULL};
    sara_status status;
    TRY(sara_tape_new(ctx, &tape, model->device));
    TRY(sara_alloc(ctx, &halves, most, sizeof(*halves)));
    for (size_t i = 0; i < most; i++)
        halves[i] = 0.5f;
    sara_tape_record(tape, false);
    TRY(sara_tape_leaf(tape, &sample, &shape, halves, false));
    TRY(sara_tape_leaf(tape, &condition.encoder_hidden_states, &state_shape, halves, false));
    TRY(sara_denoiser_forward(tape, &out, model->denoiser, sample, &timestep, &condition));
    TRY(sara_tape_read(tape, &values, out));
    *mean = 0;
    for (size_t i = 0; i < count; i++)
        *mean += ((double)values[i] - 0.5) / (double)count;
done:
    sara_tape_free(tape);
    sara_free(ctx, halves);
    return status;
}

static sara_status single_choose(sara_model *model, const char *name, const char *reason)
{
    sara_status status;
    TRY(sara_scheduler_config_predict(model->ctx, &model->scheduler, name));
    name = sara_prediction_name(model->scheduler.prediction_type);
    sara_log(model->ctx, SARA_LOG_INFO, "%s: prediction type %s (%s)", model->path, name, reason);
    json_object_set_new(model->scheduler_json, "prediction_type", json_string(name));
done:
    return status;
}

static sara_status choose_by_metadata(sara_model *model, const char *name)
{
    sara_status status = single_choose(model, name, "from the file's metadata");
    char *where = NULL;
    if (status != SARA_ERROR_USAGE)
        return status;
    TRY(sara_format(model->ctx, &where, "%s: metadata modelspec.prediction_type", model->path));
    status = sara_fail_in(model->ctx, SARA_ERROR_INPUT, where);
done:
    sara_free(model->ctx, where);
    return status;
}

bool sara_model_is_second(const sara_model *model)
{
    return model->denoiser->info.denoiser.state_width == SARA_SD2_CROSS_ATTENTION;
}

static sara_status single_choose_prediction(sara_model *model, const sara_model_options *options)
{
    const char *metadata = sara_single_file_metadata(model->single, "modelspec.prediction_type");
    const char *own = sara_single_file_metadata(model->single, "sara.config.scheduler");
    double mean;
    sara_status status;
    if (options->prediction_type)
        return single_choose(model, options->prediction_type, "as asked for");
    if (options->model_config)
        return single_choose(model, sara_prediction_name(model->scheduler.prediction_type),
                             "from --model_config");
    if (own)
        return single_choose(model, sara_prediction_name(model->scheduler.prediction_type),
                             "from the file's metadata");
    if (metadata)
        return choose_by_metadata(model, metadata);
    if (!sara_model_is_second(model))
        return single_choose(model, "epsilon", "as SD1.x has it");
    TRY(test_forward(&mean, model));
    TRY(single_choose(model, mean < -1 ? "v_prediction" : "epsilon", "by a test forward"));
done:
    return status;
}

sara_status sara_single_prediction(sara_model *model, const sara_model_options *options)
{
    bool derived =
        !sara_single_file_metadata(model->single, "sara.config.unet") && !options->model_config;
    sara_status status;
    TRY(single_choose_prediction(model, options));
    if (derived && sara_model_is_second(model) &&
        model->scheduler.prediction_type == SARA_PREDICT_V) {
        sara_denoiser_info *info = &model->denoiser->info.denoiser;
        info->sample_height = info->sample_width = SD2_V_SAMPLE_SIZE;
        json_object_set_new(sara_single_file_config(model->single, SARA_MODULE_UNET),
                            "sample_size", json_integer(SD2_V_SAMPLE_SIZE));
    }
done:
    return status;
}
