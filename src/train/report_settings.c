/* The settings of a run by what they are of, each group folded. */
#include "train/report.h"

#include <stdlib.h>

typedef struct report_group {
    const char *title;
    const char *const *keys; /* NULL ends them; no keys: all that are in no other group */
} report_group;

static const char *const method_keys[] = {"method",
                                          "mask",
                                          "mask_steps",
                                          "rank",
                                          "lora_alpha",
                                          "lora_targets",
                                          "save_as",
                                          "adapter_width",
                                          "adapter_scale",
                                          "ltsft_steps",
                                          "threshold",
                                          "trainable",
                                          "lambda_rank",
                                          "progressive_iter",
                                          "progressive_iter_auto",
                                          "selected",
                                          "parameters",
                                          NULL};
static const char *const data_keys[] = {"resolution",
                                        "center_crop",
                                        "random_crop",
                                        "random_flip",
                                        "color_aug",
                                        "enable_bucket",
                                        "min_bucket_reso",
                                        "max_bucket_reso",
                                        "bucket_reso_steps",
                                        "bucket_no_upscale",
                                        "caption_column",
                                        "caption_prefix",
                                        "caption_suffix",
                                        "instance_prompt",
                                        "caption_separator",
                                        "shuffle_caption",
                                        "keep_tokens",
                                        "keep_tokens_separator",
                                        "secondary_separator",
                                        "caption_dropout_rate",
                                        "caption_dropout_every_n_epochs",
                                        "caption_tag_dropout_rate",
                                        "enable_wildcard",
                                        "masked_loss",
                                        "alpha_mask",
                                        "with_prior_preservation",
                                        "class_prompt",
                                        "prior_loss_weight",
                                        "data_sha256",
                                        "tokens_sha256",
                                        NULL};
static const char *const optimiser_keys[] = {"learning_rate",
                                             "lr_scheduler",
                                             "lr_warmup_steps",
                                             "lr_num_cycles",
                                             "lr_power",
                                             "max_train_steps",
                                             "train_batch_size",
                                             "gradient_accumulation_steps",
                                             "adam_beta1",
                                             "adam_beta2",
                                             "adam_epsilon",
                                             "adam_weight_decay",
                                             "max_grad_norm",
                                             "mixed_precision",
                                             "seed",
                                             NULL};
static const char *const noise_keys[] = {"weighting_scheme", "logit_mean",           "logit_std",
                                         "mode_scale",       "precondition_outputs", NULL};
static const report_group report_groups[] = {{"Method", method_keys},
                                             {"Data", data_keys},
                                             {"Optimiser", optimiser_keys},
                                             {"Noise levels", noise_keys},
                                             {"Model", NULL}};
#define GROUP_COUNT (sizeof(report_groups) / sizeof(*report_groups))

static const report_group *group_of(const char *key)
{
    for (size_t i = 0; i < GROUP_COUNT; i++)
        for (const char *const *k = report_groups[i].keys; k && *k; k++)
            if (strcmp(*k, key) == 0)
                return &report_groups[i];
    return &report_groups[GROUP_COUNT - 1];
}

/* The group's settings as cells of two columns; texts [capacity] hold what was made: free(). */
static size_t fill_cells(sara_cell *cells, char **texts, const json_t *identity,
                         const report_group *group)
{
    const char *key;
    json_t *value;
    size_t count = 0;
    json_object_foreach((json_t *)(uintptr_t)identity, key, value)
    {
        if (json_is_null(value) || group_of(key) != group)
            continue;
        texts[count] = json_is_string(value)
                           ? NULL
                           : sara_json_dump(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        const char *text = json_is_string(value) ? json_string_value(value) : texts[count];
        cells[2 * count] = SARA_CELL_TEXT(key);
        cells[2 * count + 1] = SARA_CELL_TEXT(text ? text : "?");
        count++;
    }
    return count;
}

static sara_status put_settings_group(sara_page *page, const json_t *identity,
                                      const report_group *group)
{
    const sara_column columns[] = {{.name = "setting"}, {.name = "value"}};
    sara_table table = {.columns = columns, .column_count = 2};
    size_t size = json_object_size(identity);
    sara_cell *cells = NULL;
    char **texts = NULL;
    sara_status status;
    TRY(sara_alloc(page->ctx, &cells, 2 * size, sizeof(*cells)));
    TRY(sara_alloc_zero(page->ctx, &texts, size, sizeof(*texts)));
    table.cells = cells;
    table.row_count = fill_cells(cells, texts, identity, group);
    if (table.row_count == 0)
        goto done;
    TRY(sara_page_fold_begin(page, group->title));
    TRY(sara_page_table(page, &table));
    TRY(sara_page_fold_end(page));
done:
    for (size_t i = 0; texts && i < table.row_count; i++)
        free(texts[i]);
    sara_free(page->ctx, texts);
    sara_free(page->ctx, cells);
    return status;
}

sara_status sara_report_put_settings(sara_page *page, const json_t *identity)
{
    sara_status status;
    TRY(sara_page_heading(page, "Settings"));
    for (size_t i = 0; i < GROUP_COUNT; i++)
        TRY(put_settings_group(page, identity, &report_groups[i]));
done:
    return status;
}
