/* manifest.json of a checkpoint. */
#include "train/checkpoint.h"
#include "train/trainer.h"

#include <stdlib.h>

#define MANIFEST_NAME    "manifest.json"
#define MANIFEST_VERSION 1

static sara_status no_memory(sara_context *ctx, const char *folder)
{
    return sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: manifest of %s", folder);
}

/* Of the object without its own "sha256", as compact JSON with sorted keys. */
static sara_status hash_object(sara_context *ctx, char out[65], const json_t *object,
                               const char *folder)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)object);
    sara_sha256 *hash = NULL;
    char *text = NULL;
    sara_status status;
    if (copy) {
        json_object_del(copy, "sha256");
        text = sara_json_dump(copy, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    }
    if (!text) {
        status = no_memory(ctx, folder);
        goto done;
    }
    TRY(sara_sha256_new(ctx, &hash));
    TRY(sara_sha256_add(hash, text, strlen(text)));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    free(text);
    json_decref(copy);
    return status;
}

static sara_status hash_file(sara_context *ctx, char out[65], const char *folder, const char *name)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, name));
    TRY(sara_sha256_file(ctx, out, path));
done:
    sara_free(ctx, path);
    return status;
}

/* ------------------------------------------------------------------------------------- writing */

static sara_status folder_has(sara_context *ctx, bool *out, const char *folder, const char *name)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, name));
    *out = sara_path_exists(path);
done:
    sara_free(ctx, path);
    return status;
}

static sara_status add_hashes(sara_context *ctx, json_t *manifest, const char *folder,
                              const sara_method *method)
{
    const char *const *names = method->files;
    json_t *files = json_object_get(manifest, "files");
    char sha256[65];
    bool other = false;
    sara_status status = SARA_OK;
    if (method->other_files)
        TRY(folder_has(ctx, &other, folder, method->other_files[0]));
    for (names = other ? method->other_files : names; *names; names++) {
        TRY(hash_file(ctx, sha256, folder, *names));
        if (json_object_set_new(files, *names, json_string(sha256)) != 0)
            TRY(no_memory(ctx, folder));
    }
    TRY(hash_object(ctx, sha256, manifest, folder));
    if (json_object_set_new(manifest, "sha256", json_string(sha256)) != 0)
        status = no_memory(ctx, folder);
done:
    return status;
}

sara_status sara_manifest_write(const trainer *t, json_t **out, const char *folder)
{
    const sara_run_state *state = &t->state;
    sara_context *ctx = t->ctx;
    sara_status status;
    json_t *manifest = json_pack(
        "{s:i,s:I,s:I,s:I,s:I,s:I,s:O,s:{}}", "version", MANIFEST_VERSION, "steps",
        (json_int_t)t->optimizer->steps, "adam_steps", (json_int_t)t->optimizer->adam_steps,
        "micro_batches", (json_int_t)state->micro_batches, "skipped", (json_int_t)state->skipped,
        "skipped_in_row", (json_int_t)state->skipped_in_row, "run", t->identity, "files");
    *out = NULL;
    if (!manifest)
        return no_memory(ctx, folder);
    TRY(add_hashes(ctx, manifest, folder, t->method));
    TRY(sara_json_save(ctx, folder, MANIFEST_NAME, manifest,
                       JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)));
    *out = manifest;
    manifest = NULL;
done:
    json_decref(manifest);
    return status;
}

/* ------------------------------------------------------------------------------------- reading */

static sara_status check_hash(sara_context *ctx, const char *folder, const char *name,
                              const char *actual, const json_t *stated)
{
    const char *expected = json_string_value(stated);
    if (expected && strcmp(expected, actual) == 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s/%s: SHA-256 is %.12s..., the manifest says %.12s%s",
                     folder, name, actual, expected ? expected : "nothing", expected ? "..." : "");
}

static sara_status check_version(sara_context *ctx, const json_t *manifest, const char *path)
{
    const sara_config config = {ctx, manifest, path};
    int64_t version;
    sara_status status;
    TRY(sara_config_int(&config, &version, "version", 0, 0, INT32_MAX));
    if (version != MANIFEST_VERSION)
        status = sara_fail(ctx, version > MANIFEST_VERSION ? SARA_ERROR_USAGE : SARA_ERROR_INPUT,
                           "%s: version %lld, this program reads version %d", path,
                           (long long)version, MANIFEST_VERSION);
done:
    return status;
}

/* All that the method has of one of its two sets, and nothing else of both. */
static sara_status check_set_of_files(sara_context *ctx, const json_t *stated, const char *folder,
                                      const sara_method *method)
{
    bool other = method->other_files && json_object_get(stated, method->other_files[0]);
    const char *const *names = other ? method->other_files : method->files;
    size_t count = 0;
    char sha256[65];
    sara_status status = SARA_OK;
    for (; names[count]; count++) {
        TRY(hash_file(ctx, sha256, folder, names[count]));
        TRY(check_hash(ctx, folder, names[count], sha256, json_object_get(stated, names[count])));
    }
    if (method->other_files && json_object_size(stated) != count)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s/%s: files: names %zu, a checkpoint with %s has %zu", folder,
                           MANIFEST_NAME, json_object_size(stated), names[0], count);
done:
    return status;
}

/* Of the run's method; a manifest that names none is of the first. */
static sara_status check_files(sara_context *ctx, const json_t *manifest, const char *folder)
{
    const json_t *run = json_object_get(manifest, "run"), *name = json_object_get(run, "method");
    const sara_method *method = sara_method_at(0);
    if (!json_is_object(run))
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s/%s: run: expected an object", folder,
                         MANIFEST_NAME);
    if (name && sara_method_find(ctx, &method, json_string_value(name), NULL) != SARA_OK)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: of the method %s, which this program does not know; a newer one "
                         "goes on from it",
                         folder, json_string_value(name) ? json_string_value(name) : "(no text)");
    return check_set_of_files(ctx, json_object_get(manifest, "files"), folder, method);
}

sara_status sara_manifest_read(sara_context *ctx, json_t **out, const char *folder)
{
    json_t *manifest = NULL;
    char *path = NULL, sha256[65];
    sara_status status;
    *out = NULL;
    TRY(sara_path_join(ctx, &path, folder, MANIFEST_NAME));
    TRY(sara_json_load(ctx, &manifest, path, false));
    TRY(check_version(ctx, manifest, path));
    TRY(hash_object(ctx, sha256, manifest, folder));
    TRY(check_hash(ctx, folder, MANIFEST_NAME, sha256, json_object_get(manifest, "sha256")));
    TRY(check_files(ctx, manifest, folder));
    *out = manifest;
    manifest = NULL;
done:
    json_decref(manifest);
    sara_free(ctx, path);
    return status;
}

/* ----------------------------------------------------------------------------------- comparing */

/* What the run has of it, and may have come of others. */
static bool is_derived(const char *key)
{
    return sara_train_option_part(key) == SARA_PART_DERIVED || strcmp(key, "selected") == 0;
}

/* What the run has of it is not as it was given. */
static bool is_resolved(const char *key)
{
    return sara_train_option_part(key) == SARA_PART_RESOLVED || is_derived(key);
}

sara_status sara_manifest_complete(sara_context *ctx, json_t *manifest)
{
    json_t *run = json_object_get(manifest, "run"), *whole = NULL, *value;
    sara_train_options defaults;
    const char *key;
    sara_status status;
    sara_train_options_init(&defaults);
    TRY(sara_train_options_json(ctx, &whole, &defaults));
    json_object_foreach(whole, key, value)
    {
        bool lacks = !is_resolved(key) && !json_object_get(run, key);
        if (lacks && json_object_set(run, key, value) != 0)
            TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: options"));
    }
done:
    json_decref(whole);
    return status;
}

static bool is_given(const char *key)
{
    return !is_resolved(key);
}

/* The number of steps may change. */
static bool is_cause(const char *key)
{
    return !is_derived(key) && strcmp(key, "max_train_steps") != 0;
}

static bool is_among(const char *const *names, const char *key)
{
    while (*names && strcmp(*names, key) != 0)
        names++;
    return *names != NULL;
}

/* An option that a run does not speak of is at its default, and differs from one that is spoken
 * of. */
static bool is_default_elsewhere(const char *key, const json_t *there)
{
    return !there && sara_train_option_part(key) == SARA_PART_CHOSEN;
}

/* The first of the keys that are of the kind and may not change whose value is another. What an
 * earlier version has not kept, and sara_manifest_complete() has no default for, is not known to
 * differ. */
static const char *find_difference(const json_t *saved, const json_t *now,
                                   bool (*is_kind)(const char *key), const char *const *changing)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)now, key, value)
    {
        const json_t *was = json_object_get(saved, key);
        const bool differs = was ? !json_equal(was, value) : is_default_elsewhere(key, was);
        if (is_kind(key) && !is_among(changing, key) && differs)
            return key;
    }
    json_object_foreach((json_t *)(uintptr_t)saved, key, value)
    {
        if (is_kind(key) && !is_among(changing, key) &&
            is_default_elsewhere(key, json_object_get(now, key)))
            return key;
    }
    return NULL;
}

/* In so many digits as tell them apart. */
static void dump_values(const json_t *was, const json_t *now, char **a, char **b)
{
    static const size_t digits[] = {JSON_REAL_PRECISION(9), JSON_REAL_PRECISION(17)};
    for (size_t i = 0; i < sizeof(digits) / sizeof(*digits); i++) {
        free(*a);
        free(*b);
        *a = was ? sara_json_dump(was, JSON_ENCODE_ANY | digits[i]) : NULL;
        *b = now ? sara_json_dump(now, JSON_ENCODE_ANY | digits[i]) : NULL;
        if (!*a || !*b || strcmp(*a, *b) != 0)
            return;
    }
}

static sara_status refuse_difference(sara_context *ctx, const sara_checkpoint *checkpoint,
                                     const json_t *now, const char *key)
{
    const json_t *was = json_object_get(json_object_get(checkpoint->manifest, "run"), key);
    char *a = NULL, *b = NULL;
    dump_values(was, json_object_get(now, key), &a, &b);
    sara_status status = sara_fail(
        ctx, SARA_ERROR_USAGE,
        "%s: the run has %s = %s, now it is %s; a resumed run keeps its options, base and data",
        checkpoint->folder, key, a ? a : "its default", b ? b : "its default");
    free(a);
    free(b);
    return status;
}

sara_status sara_checkpoint_check_options(sara_context *ctx, const sara_checkpoint *checkpoint,
                                          const json_t *options)
{
    static const char *const none[] = {NULL};
    const json_t *saved = json_object_get(checkpoint->manifest, "run");
    const char *key = find_difference(saved, options, is_given, none);
    return key ? refuse_difference(ctx, checkpoint, options, key) : SARA_OK;
}

sara_status sara_checkpoint_check_run(sara_context *ctx, const sara_checkpoint *checkpoint,
                                      const json_t *identity, const char *const *changing)
{
    const json_t *saved = json_object_get(checkpoint->manifest, "run");
    const char *key = find_difference(saved, identity, is_cause, changing);
    if (!key)
        key = find_difference(saved, identity, is_derived, changing);
    return key ? refuse_difference(ctx, checkpoint, identity, key) : SARA_OK;
}
