/* What is told of a dataset folder beside its images: counts and the first few names. */
#include "io/dataset_scan.h"

#define MOST_LABELS 8

static sara_dataset_note *find_note(const sara_dataset_notes *notes, const char *label)
{
    for (size_t i = 0; i < notes->count; i++)
        if (strcmp(notes->list[i].label, label) == 0)
            return &notes->list[i];
    return NULL;
}

sara_status sara_dataset_note_add(sara_dataset_scan_state *scan, sara_dataset_notes *notes,
                                  const char *label, const char *name)
{
    sara_dataset_note *note = find_note(notes, label);
    sara_status status = SARA_OK;
    notes->total++;
    if (!note && notes->count == MOST_LABELS) /* the last stands for all others */
        note = &notes->list[MOST_LABELS - 1];
    if (!note) {
        sara_dataset_note fresh = {0};
        bool last = notes->count == MOST_LABELS - 1;
        TRY(sara_arena_strdup(&scan->arena, &fresh.label, last ? "others" : label));
        TRY(sara_grow(scan->ctx, &notes->list, &notes->capacity, notes->count + 1, sizeof(fresh)));
        note = &notes->list[notes->count++];
        *note = fresh;
    }
    if (note->count < SARA_NOTED_NAMES)
        TRY(sara_arena_strdup(&scan->arena, &note->names[note->count], name));
    note->count++;
done:
    return status;
}

static sara_status append_to_note(sara_context *ctx, char **text, const char *before,
                                  const char *more)
{
    char *longer = NULL;
    sara_status status;
    TRY(sara_format(ctx, &longer, "%s%s%s", *text ? *text : "", *text ? before : "", more));
    sara_free(ctx, *text);
    *text = longer;
done:
    return status;
}

static sara_status note_text(sara_context *ctx, char **out, const sara_dataset_note *note)
{
    char *names = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < note->count && i < SARA_NOTED_NAMES; i++)
        TRY(append_to_note(ctx, &names, ", ", note->names[i]));
    TRY(sara_format(ctx, out, "%s: %zu (%s%s)", note->label, note->count, names,
                    note->count > SARA_NOTED_NAMES ? ", ..." : ""));
done:
    sara_free(ctx, names);
    return status;
}

sara_status sara_dataset_notes_text(sara_context *ctx, char **out, const sara_dataset_notes *notes)
{
    char *text = NULL, *one = NULL;
    sara_status status = SARA_OK;
    *out = NULL;
    for (size_t i = 0; i < notes->count; i++) {
        TRY(note_text(ctx, &one, &notes->list[i]));
        TRY(append_to_note(ctx, &text, "; ", one));
        sara_free(ctx, one);
        one = NULL;
    }
    if (!text)
        TRY(sara_strdup(ctx, &text, "nothing"));
    *out = text;
    text = NULL;
done:
    sara_free(ctx, text);
    sara_free(ctx, one);
    return status;
}

static sara_status tell_one_line(const sara_dataset_scan_state *scan, sara_log_level level,
                                 const char *what, const sara_dataset_notes *notes)
{
    char *text = NULL;
    sara_status status = SARA_OK;
    if (!notes->count)
        return SARA_OK;
    TRY(sara_dataset_notes_text(scan->ctx, &text, notes));
    sara_log(scan->ctx, level, "%s: %s: %s", scan->options->folder, what, text);
done:
    sara_free(scan->ctx, text);
    return status;
}

sara_status sara_dataset_tell_notes(sara_dataset_scan_state *scan)
{
    sara_status status;
    TRY(tell_one_line(scan, SARA_LOG_INFO, "images repeated in an epoch", &scan->repeats));
    TRY(tell_one_line(scan, SARA_LOG_INFO, "folders passed over", &scan->passed));
    TRY(tell_one_line(scan, SARA_LOG_WARNING, "not used", &scan->left_out));
    TRY(tell_one_line(scan, SARA_LOG_WARNING, "not used", &scan->unused));
    TRY(tell_one_line(scan, SARA_LOG_WARNING, "captions", &scan->captions));
done:
    return status;
}
