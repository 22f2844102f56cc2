/* States of texts on the disk. */
#include "train/cache_files.h"

/* The arrays in a file; returns how many there are. */
static size_t states_tensors(sara_tensor_source out[2], const sara_model *model, int64_t length,
                             const sara_text_states *states)
{
    const int *widths = model->denoiser->info.denoiser.widths;
    out[0] = (sara_tensor_source){sara_condition_kinds[SARA_CONDITION_STATES].name, SARA_F32,
                                  sara_shape2(length, widths[SARA_CONDITION_STATES]),
                                  states ? states->states : NULL};
    out[1] = (sara_tensor_source){sara_condition_kinds[SARA_CONDITION_POOLED].name, SARA_F32,
                                  sara_shape1(widths[SARA_CONDITION_POOLED]),
                                  states ? states->pooled : NULL};
    return widths[SARA_CONDITION_POOLED] ? 2 : 1;
}

sara_status sara_cache_states_find(sara_cache_files *files, bool *there, const char *name,
                                   const sara_model *model, int64_t length)
{
    sara_tensor_source tensors[2];
    size_t count = states_tensors(tensors, model, length, NULL);
    return sara_cache_files_find(files, there, name, tensors, count);
}

sara_status sara_cache_states_write(sara_cache_files *files, const char *name,
                                    const sara_model *model, const sara_text_states *states)
{
    sara_tensor_source tensors[2];
    size_t count = states_tensors(tensors, model, states->length, states);
    return sara_cache_files_write(files, name, tensors, count);
}

sara_status sara_cache_states_read(const sara_cache_files *files, const char *name,
                                   const sara_model *model, sara_text_states *states)
{
    sara_tensor_source tensors[2];
    size_t count = states_tensors(tensors, model, states->length, states);
    float **arrays[2] = {&states->states, &states->pooled};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++) {
        size_t floats = (size_t)sara_shape_count(&tensors[i].shape);
        if (!*arrays[i])
            TRY(sara_alloc(files->ctx, arrays[i], floats, sizeof(float)));
        TRY(sara_cache_files_read(files, name, tensors[i].name, *arrays[i], floats));
    }
done:
    return status;
}
