/* One table of the training options, for the command line, JSON files, ranges and manifests. */
#include "train/options_table.h"

#include <math.h>

#define FIELD(name) offsetof(sara_train_options, name)
#define TEXT(field, metavar, part, help)                                                           \
    {                                                                                              \
        {#field, metavar, help}, OPTION_STRING, FIELD(field), 0, 0, NAN, SARA_PART_##part          \
    }
#define NUMBER(kind, field, low, high, automatic, part, help)                                      \
    {                                                                                              \
        {#field, "N", help}, kind, FIELD(field), low, high, automatic, SARA_PART_##part            \
    }
#define SWITCH(field, part, help)                                                                  \
    {                                                                                              \
        {#field, NULL, help}, OPTION_SWITCH, FIELD(field), 0, 0, NAN, SARA_PART_##part             \
    }
#define LARGE 9007199254740992.0 /* 2^53 */
#define TINY  SARA_OPTION_TINY

const option sara_train_option_table[] = {
    TEXT(pretrained_model_name_or_path, "PATH", NO,
         "the base: a diffusers folder or a .safetensors file"),
    TEXT(unet_only, "DIR", NO, "a bare unet/ folder instead (with --replay)"),
    TEXT(variant, "NAME", NO, "weight files' variant, e.g. fp16"),
    TEXT(model_config, "DIR", NO, "for a file: a diffusers folder with its configs"),
    TEXT(tokenizer, "DIR", NO, "for a file: a tokenizer/ folder"),
    TEXT(vae, "PATH", NO, "another VAE: a diffusers folder or a .safetensors file"),
    SWITCH(use_ema_weights, NO, "of a file: the averages of its U-Net (model_ema.)"),
    TEXT(train_data_dir, "DIR", NO, "images; captions: metadata.jsonl/.csv, files, N_name/"),
    TEXT(replay, "FILE", NO, "micro-batches from a safetensors file instead of images"),
    TEXT(output_dir, "DIR", NO, "the run folder"),
    TEXT(caption_column, "NAME", GIVEN, "metadata's column of the caption (text)"),
    TEXT(caption_extension, "EXT", NO, "of caption files beside images (.txt or .caption)"),
    TEXT(caption_prefix, "TEXT", GIVEN, "put before each caption, e.g. \"ink style, \""),
    TEXT(instance_prompt, "TEXT", GIVEN, "one caption for all images"),
    NUMBER(OPTION_INT, resolution, 8, 8192, 0, GIVEN,
           "side of the images, a multiple of 8 (the model's)"),
    SWITCH(center_crop, GIVEN, "crop the centre instead of a random place"),
    SWITCH(random_flip, GIVEN, "flip images left-right at random"),
    SWITCH(cache_latents_to_disk, NO, "keep encoded images for later runs, not in memory"),
    SWITCH(cache_text_encoder_outputs_to_disk, NO, "likewise encoded captions and prompts"),
    TEXT(cache_dir, "DIR", NO, "where (.sara-cache in --train_data_dir)"),
    TEXT(method, "NAME", GIVEN, "sara, full, lora, dora, adaptformer, ltsft, shira (sara)"),
    TEXT(adapter, "FILE[:X]", NO, "train on from this adapter, at strength X (1)"),
    TEXT(mask, "NAME", GIVEN, "smallest, largest, random, gradient, lift (smallest)"),
    NUMBER(OPTION_INT, mask_steps, 1, 1000000, 0, RESOLVED,
           "micro-batches of --mask gradient (64)"),
    NUMBER(OPTION_INT, rank, 1, 65536, 0, RESOLVED, "of lora, dora, shira (4); --mask lift (128)"),
    NUMBER(OPTION_DOUBLE, lora_alpha, TINY, 1e9, 0, RESOLVED,
           "the change's scale times rank (rank)"),
    TEXT(lora_targets, "WHICH", RESOLVED,
         "layers: attention, linear, all (attention; shira: linear)"),
    TEXT(save_as, "FORMAT", RESOLVED, "the LoRA's file: kohya, peft (kohya)"),
    NUMBER(OPTION_INT, adapter_width, 1, 65536, 0, RESOLVED, "of AdaptFormer's bottleneck (64)"),
    NUMBER(OPTION_DOUBLE, adapter_scale, TINY, 1e6, NAN, RESOLVED, "of AdaptFormer's branch (0.1)"),
    NUMBER(OPTION_INT64, ltsft_steps, 1, LARGE, 0, RESOLVED,
           "of LT-SFT's first phase (half of all steps)"),
    NUMBER(OPTION_DOUBLE, threshold, TINY, 1e30, 0, DERIVED, "train the entries with |p| below it"),
    TEXT(trainable, "BUDGET", RESOLVED, "5.8%, 20M, 100%; 1, 1.0: one (5.8%, rank 4, width 64)"),
    NUMBER(OPTION_DOUBLE, learning_rate, TINY, 1e3, 0, DERIVED,
           "(sara: 1e-3 exp(-350 threshold); full: 1e-5; else 1e-4)"),
    NUMBER(OPTION_DOUBLE, lambda_rank, 0, 1e6, NAN, GIVEN, "weight of the low-rank term (5e-4)"),
    NUMBER(OPTION_INT64, max_train_steps, 1, LARGE, 0, RESOLVED, "optimiser steps (5000)"),
    NUMBER(OPTION_INT64, num_train_epochs, 1, LARGE, 0, RESOLVED, "passes over the images instead"),
    NUMBER(OPTION_INT64, progressive_iter, 0, LARGE, -1, RESOLVED,
           "reselect after so many steps; 0: never (half of all)"),
    NUMBER(OPTION_INT, train_batch_size, 1, 4096, NAN, GIVEN, "images a micro-batch (4)"),
    NUMBER(OPTION_INT, gradient_accumulation_steps, 1, 65536, NAN, GIVEN,
           "micro-batches an optimiser step (1)"),
    SWITCH(gradient_checkpointing, NO, "recompute activations: less memory, more time"),
    NUMBER(OPTION_INT, gradient_checkpointing_levels, 1, SARA_MAX_LEVELS, 0, NO,
           "recompute those of the N largest resolutions alone (all)"),
    TEXT(mixed_precision, "TYPE", GIVEN, "no; bf16: layers multiply bf16 (needs AVX512-BF16) (no)"),
    TEXT(weight_dtype, "TYPE", RESOLVED, "in memory: fp32, fp16, bf16; auto: the file's (fp32)"),
    TEXT(encoder_dtype, "TYPE", GIVEN, "likewise of text encoders and VAE (auto)"),
    TEXT(lr_scheduler, "NAME", GIVEN,
         "cosine (default), constant, constant_with_warmup, linear, cosine_with_restarts, "
         "polynomial"),
    NUMBER(OPTION_INT64, lr_warmup_steps, 0, LARGE, NAN, GIVEN, "(0)"),
    NUMBER(OPTION_INT, lr_num_cycles, 1, 1000000, NAN, GIVEN, "of cosine_with_restarts (1)"),
    NUMBER(OPTION_DOUBLE, lr_power, 0, 1000, NAN, GIVEN, "of polynomial (1.0)"),
    NUMBER(OPTION_DOUBLE, adam_beta1, 0, 0.999999999, NAN, GIVEN, "(0.9)"),
    NUMBER(OPTION_DOUBLE, adam_beta2, 0, 0.999999999, NAN, GIVEN, "(0.999)"),
    NUMBER(OPTION_DOUBLE, adam_epsilon, TINY, 1, NAN, GIVEN, "(1e-8)"),
    NUMBER(OPTION_DOUBLE, adam_weight_decay, 0, 1000, NAN, GIVEN, "(1e-2)"),
    NUMBER(OPTION_DOUBLE, max_grad_norm, 0, 1e30, NAN, GIVEN, "clip gradients; 0: never (1.0)"),
    TEXT(prediction_type, "TYPE", RESOLVED,
         "epsilon, v_prediction, sample, flow_prediction (model's)"),
    SWITCH(no_t5, RESOLVED, "of SD3: without the T5 text encoder"),
    NUMBER(OPTION_INT, max_sequence_length, 1, SARA_MOST_SEQUENCE, 0, RESOLVED,
           "of SD3: tokens of T5 of a caption (77; 256 in validation)"),
    TEXT(weighting_scheme, "NAME", RESOLVED,
         "of flows: logit_normal (default), mode, sigma_sqrt, cosmap, none"),
    NUMBER(OPTION_DOUBLE, logit_mean, -100, 100, NAN, RESOLVED, "of logit_normal (0)"),
    NUMBER(OPTION_DOUBLE, logit_std, TINY, 100, NAN, RESOLVED, "of logit_normal (1)"),
    NUMBER(OPTION_DOUBLE, mode_scale, -1, 1.75, NAN, RESOLVED, "of mode (1.29)"),
    NUMBER(OPTION_INT, precondition_outputs, 0, 1, NAN, RESOLVED,
           "of flows: 1: the loss of x0, 0: of the velocity (0)"),
    {{"validation_prompt", "TEXT", "draw it every --validation_steps; repeatable"},
     OPTION_PROMPTS,
     FIELD(validation_prompts),
     0,
     0,
     NAN,
     SARA_PART_NO},
    NUMBER(OPTION_INT64, validation_steps, 1, LARGE, NAN, NO, "(500)"),
    NUMBER(OPTION_DOUBLE, validation_guidance_scale, 0, 1000, SARA_OF_MODEL, NO,
           "(the model's: 7; SDXL: 5)"),
    SWITCH(no_prompt_weights, NO, "(a), (a:1.4), [a] in validation prompts are plain text"),
    SWITCH(long_prompt, NO, "validation prompts of any length in chunks; else cut"),
    TEXT(embedding_dir, "DIR", NO, "textual inversion: names in validation prompts are its files"),
    NUMBER(OPTION_INT64, checkpointing_steps, 1, LARGE, NAN, NO, "save to resume from (500)"),
    NUMBER(OPTION_INT, checkpoints_total_limit, 0, 1000000, NAN, NO, "keep so many; 0: all (3)"),
    TEXT(resume_from_checkpoint, "PATH", NO, "latest, or a checkpoint folder"),
    NUMBER(OPTION_UINT64, seed, 0, 18446744073709551615.0, NAN, GIVEN, "-1: drawn and told (42)"),
    NUMBER(OPTION_INT64, track_drift, 0, LARGE, NAN, NO,
           "log how small entries drift every N steps (0: never)"),
    TEXT(report_to, "WHERE", NO, "beside the log: none, tensorboard (none)"),
    TEXT(logging_dir, "DIR", NO, "TensorBoard's event files, within the run folder (logs)"),
    TEXT(profile, "FILE.json", NO, "trace of the first five steps for chrome://tracing"),
    TEXT(device, "NAME", NO, "where to compute: cpu (cpu)"),
};
const size_t sara_train_option_count =
    sizeof(sara_train_option_table) / sizeof(*sara_train_option_table);
