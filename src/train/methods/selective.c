/* Entries at positions that are trained, and the adapter that comes of them. */
#include "train/methods/selective.h"

#include "train/checkpoint.h"
#include "train/memory.h"

#include <math.h>

/* Refuses a selection whose optimiser and the weights alone are more than there is. */
static sara_status check_room(const trainer *t, const sara_selection *selection)
{
    const sara_adapter *adapter = &selective_of(t)->start;
    uint64_t bytes = 0;
    for (size_t i = 0; i < selection->item_count; i++) {
        const sara_selected *item = &selection->items[i];
        bytes += item->count * sara_trainable_entry_bytes(item->param, true);
    }
    for (size_t i = 0; i < adapter->count; i++)
        bytes += adapter->entries[i].count * (sizeof(uint32_t) + sizeof(float));
    return sara_memory_check_trainables(t, selection->total, bytes);
}

void sara_selective_drop(trainer *t)
{
    sara_adaptation_free(selective_of(t)->adaptation);
    selective_of(t)->adaptation = NULL;
    sara_optimizer_free(t->optimizer);
    t->optimizer = NULL;
}

sara_status sara_selective_use(trainer *t, sara_selection *selection,
                               const sara_adaptation_options *options)
{
    selective *s = selective_of(t);
    sara_trainables trainables = {.ctx = t->ctx};
    sara_status status;
    TRY(check_room(t, selection));
    TRY(sara_trainables_select(t->ctx, &trainables, selection));
    TRY(sara_trainer_use(t, &trainables));
    TRY(sara_adaptation_new(t->ctx, &s->adaptation, t->optimizer, options));
done:
    sara_trainables_free(&trainables);
    return status;
}

sara_status sara_selective_settle(trainer *t)
{
    selective *s = selective_of(t);
    sara_status status = SARA_OK;
    if (s->origin.is)
        status = sara_trainables_start(&t->optimizer->trainables, &s->start, s->origin.strength);
    sara_adapter_free(&s->start);
    return status;
}

sara_status sara_selective_resumed(const trainer *t, sara_selection *out, int64_t expected)
{
    const sara_params *params = &t->model->denoiser->params;
    sara_adapter adapter = {0};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, t->checkpoint.folder, SARA_CHECKPOINT_ADAPTER));
    TRY(sara_adapter_load(t->ctx, &adapter, path));
    status = sara_adapter_check(t->ctx, &adapter, params, &t->model->base, true);
    TRY(status == SARA_OK ? status : sara_fail_in(t->ctx, status, path));
    TRY(sara_select_adapter(t->ctx, out, params, &adapter, NAN));
    if (expected && out->total != expected)
        status = sara_fail(t->ctx, SARA_ERROR_USAGE,
                           "%s: the run has selected = %lld, now it is %lld; a resumed run keeps "
                           "its options, base and data",
                           t->checkpoint.folder, (long long)out->total, (long long)expected);
done:
    if (status != SARA_OK)
        sara_selection_free(t->ctx, out);
    sara_free(t->ctx, path);
    sara_adapter_free(&adapter);
    return status;
}

size_t sara_selective_bytes(const trainer *t)
{
    return sara_adaptation_bytes(selective_of(t)->adaptation);
}

sara_status sara_selective_finish(const trainer *t)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, t->run.folder, t->method->result));
    TRY(sara_adaptation_save(selective_of(t)->adaptation, path, t->metadata.items,
                             t->metadata.count, SARA_F32));
done:
    sara_free(t->ctx, path);
    return status;
}

void sara_selective_close(trainer *t)
{
    selective *s = selective_of(t);
    sara_origin_close(t, &s->origin);
    sara_adapter_free(&s->start);
    sara_adaptation_free(s->adaptation);
}
