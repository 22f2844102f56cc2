/* The table of training options: names, ranges, contradictions, JSON. */
#include "support_train.h"

#include <math.h>

static sara_status set(test_run *run, const char *name, const char *value)
{
    return sara_train_options_set(run->ctx, &run->options, name, value);
}

static void test_defaults(void **state)
{
    test_run *run = *state;
    sara_train_options o;
    sara_train_options_init(&o);
    assert_string_equal(o.caption_column, "text");
    assert_string_equal(o.lr_scheduler, "cosine");
    assert_true(o.lambda_rank == 5e-4 && o.adam_beta1 == 0.9 && o.adam_beta2 == 0.999);
    assert_true(o.adam_epsilon == 1e-8 && o.adam_weight_decay == 1e-2 && o.max_grad_norm == 1.0);
    assert_true(o.validation_guidance_scale == SARA_OF_MODEL && o.lr_power == 1.0);
    assert_true(o.train_batch_size == 4 && o.gradient_accumulation_steps == 1);
    assert_true(o.progressive_iter == -1 && o.validation_steps == 500 && o.seed == 42);
    assert_true(o.checkpointing_steps == 500 && o.checkpoints_total_limit == 3);
    assert_ok(run->ctx, sara_train_options_check(run->ctx, &run->options));
}

static void test_values(void **state)
{
    test_run *run = *state;
    sara_train_options *o = &run->options;
    assert_ok(run->ctx, set(run, "learning-rate", "2.5e-4"));
    assert_true(o->learning_rate == 2.5e-4);
    assert_ok(run->ctx, set(run, "max_train-steps", " 12"));
    assert_int_equal(o->max_train_steps, 12);
    assert_ok(run->ctx, set(run, "seed", "18446744073709551615"));
    assert_true(o->seed == UINT64_MAX && !o->draw_seed);
    assert_ok(run->ctx, set(run, "seed", " -7"));
    assert_true(o->draw_seed);
    assert_ok(run->ctx, set(run, "seed", "0"));
    assert_true(o->seed == 0 && !o->draw_seed);
    assert_ok(run->ctx, set(run, "random_flip", NULL));
    assert_ok(run->ctx, set(run, "center_crop", "true"));
    assert_true(o->random_flip && o->center_crop);
    assert_ok(run->ctx, set(run, "random_flip", "0"));
    assert_false(o->random_flip);
    assert_ok(run->ctx, set(run, "trainable", "5.8%"));
    assert_string_equal(o->trainable, "5.8%");
    assert_ok(run->ctx, set(run, "gradient_checkpointing_levels", "2"));
    assert_int_equal(o->gradient_checkpointing_levels, 2);
    assert_ok(run->ctx, set(run, "progressive_iter", "0"));
    assert_int_equal(o->progressive_iter, 0);
    assert_ok(run->ctx, sara_train_options_check(run->ctx, o));
}

/* kohya's and others' names. */
static void test_aliases(void **state)
{
    test_run *run = *state;
    sara_train_options *o = &run->options;
    assert_ok(run->ctx, set(run, "network-dim", "12"));
    assert_int_equal(o->rank, 12);
    assert_ok(run->ctx, set(run, "network_alpha", "6.5"));
    assert_true(o->lora_alpha == 6.5);
    assert_ok(run->ctx, set(run, "max-train_epochs", "3"));
    assert_int_equal(o->num_train_epochs, 3);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--rank x: expected", set(run, "network_dim", "x"));
    assert_string_equal(sara_train_option_find("network-dim")->name, "rank");
    assert_string_equal(sara_train_option_find("seed")->name, "seed");
    assert_null(sara_train_option_find("network_dimension"));
}

static void test_goes_with(void **state)
{
    (void)state;
    assert_true(sara_train_option_goes_with("seed", "full"));
    assert_true(sara_train_option_goes_with("threshold", "sara"));
    assert_false(sara_train_option_goes_with("threshold", "full"));
    assert_false(sara_train_option_goes_with("trainable", "full"));
    assert_false(sara_train_option_goes_with("lora_alpha", "sara"));
    assert_false(sara_train_option_goes_with("seed", "none"));
}

/* Every number refuses what is no number or out of range, naming itself and the value. */
static void test_bad_numbers(void **state)
{
    static const char *const bad[] = {"nan", "NAN", "-1", "1e309", "-inf", "inf", "junk",
                                      "",    "1x",  "-",  "--1",   "0x",   "1 2", "1e-400"};
    test_run *run = *state;
    const sara_option_info *info;
    size_t numbers = 0;
    for (size_t i = 0; (info = sara_train_option_at(i)); i++) {
        if (!info->metavar || strcmp(info->metavar, "N") != 0)
            continue;
        bool is_signed = strcmp(info->name, "seed") == 0 || strcmp(info->name, "logit_mean") == 0 ||
                         strcmp(info->name, "mode_scale") == 0;
        numbers++;
        for (size_t k = 0; k < sizeof(bad) / sizeof(*bad); k++) {
            const sara_train_options before = run->options;
            if (is_signed && strcmp(bad[k], "-1") == 0)
                continue;
            const char *start = test_text(run, "--%s %s: expected", info->name, bad[k]);
            assert_refused(run->ctx, SARA_ERROR_USAGE, start, set(run, info->name, bad[k]));
            assert_memory_equal(&before, &run->options, sizeof(before));
        }
    }
    assert_int_equal(numbers, 43);
}

/* --resolution is a square's or, as in kohya, "width,height". */
static void test_sides(void **state)
{
    static const struct {
        const char *value;
        int width, height;
        const char *json;
    } good[] = {{"512", 512, 512, "512"},          {"512,768", 512, 768, "\"512,768\""},
                {"8,8192", 8, 8192, "\"8,8192\""}, {"64,64", 64, 64, "64"},
                {" 96, 32", 96, 32, "\"96,32\""},  {"640", 640, 640, "640"}};
    static const char *const bad[] = {
        "",     "junk",    "512,",  ",512",    "512,7", "8193,64", "0",
        "64,0", "64,8193", "64x32", "-8,8",    "64,-8", ",",       "8,8,8",
        "64, ", "64,32x",  "nan",   "64.5,32", "64 ,",  "1e2,64",  "64,99999999999999999999"};
    test_run *run = *state;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        json_t *json = NULL;
        int width, height;
        assert_ok(run->ctx, set(run, "resolution", good[i].value));
        sara_train_options_sides(&run->options, &width, &height);
        assert_true(width == good[i].width && height == good[i].height);
        assert_ok(run->ctx, sara_train_options_json(run->ctx, &json, &run->options));
        char *text = json_dumps(json_object_get(json, "resolution"), JSON_ENCODE_ANY);
        assert_string_equal(text, good[i].json);
        free(text);
        json_decref(json);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const sara_train_options before = run->options;
        assert_refused(run->ctx, SARA_ERROR_USAGE, "expected one whole number or two, width,height",
                       set(run, "resolution", bad[i]));
        assert_memory_equal(&before, &run->options, sizeof(before));
    }
}

static void test_ranges(void **state)
{
    static const char *const cases[][2] = {{"max_train_steps", "0"},
                                           {"num_train_epochs", "0"},
                                           {"train_batch_size", "0"},
                                           {"threshold", "0"},
                                           {"learning_rate", "0"},
                                           {"resolution", "7"},
                                           {"resolution", "8193"},
                                           {"adam_beta1", "1"},
                                           {"adam_beta2", "1.5"},
                                           {"adam_epsilon", "0"},
                                           {"lr_num_cycles", "0"},
                                           {"checkpointing_steps", "0"},
                                           {"validation_steps", "0"},
                                           {"gradient_accumulation_steps", "0"},
                                           {"train_batch_size", "2.5"},
                                           {"max_train_steps", "1e3"},
                                           {"seed", "18446744073709551616"},
                                           {"train_batch_size", "99999999999"},
                                           {"max_train_steps", "9223372036854775808"},
                                           {"random_flip", "maybe"},
                                           {"center_crop", ""}};
    test_run *run = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(run->ctx, SARA_ERROR_USAGE,
                       test_text(run, "--%s %s: expected", cases[i][0], cases[i][1]),
                       set(run, cases[i][0], cases[i][1]));
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--seed: a value is missing",
                   set(run, "seed", NULL));
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--sed: no such option", set(run, "sed", "1"));
}

/* A program may fill the fields itself: the same ranges hold. */
static void test_fields(void **state)
{
    test_run *run = *state;
    sara_train_options *o = &run->options;
    const sara_train_options good = *o;
    o->resolution = 64;
    o->resolution_height = 64; /* is the same as 64 alone */
    json_t *json = NULL;
    assert_ok(run->ctx, sara_train_options_json(run->ctx, &json, o));
    assert_int_equal(json_integer_value(json_object_get(json, "resolution")), 64);
    json_decref(json);
    *o = good;
#define REFUSED(field, value, text)                                                                \
    do {                                                                                           \
        o->field = (value);                                                                        \
        assert_refused(run->ctx, SARA_ERROR_USAGE, (text), test_run_train(run));                   \
        *o = good;                                                                                 \
    } while (0)
    REFUSED(learning_rate, NAN, "--learning_rate nan: expected");
    REFUSED(learning_rate, -1, "--learning_rate -1: expected");
    REFUSED(resolution, 7, "--resolution 7,7: expected one whole number or two");
    REFUSED(resolution_height, 512, "--resolution 0,512: expected one whole number or two");
    REFUSED(threshold, INFINITY, "--threshold inf: expected");
    REFUSED(max_train_steps, -1, "--max_train_steps -1: expected");
    REFUSED(progressive_iter, -2, "--progressive_iter -2: expected");
    REFUSED(train_batch_size, 0, "--train_batch_size 0: expected");
    REFUSED(lambda_rank, -0.5, "--lambda_rank -0.5: expected");
    REFUSED(checkpoints_total_limit, -1, "--checkpoints_total_limit -1: expected");
    REFUSED(lr_scheduler, NULL, "--lr_scheduler: a value is missing");
    REFUSED(caption_column, NULL, "--caption_column: a value is missing");
    REFUSED(validation_prompt_count, SARA_MAX_PROMPTS + 1, "validation_prompt_count 17");
    REFUSED(validation_prompt_count, -1, "validation_prompt_count -1");
    REFUSED(validation_prompt_count, 1, "--validation_prompt 0: a value is missing");
    REFUSED(caption_prefix, "\xff", "--caption_prefix \\xff: is no valid UTF-8");
    REFUSED(mask, NULL, "--mask: a value is missing");
    REFUSED(mask, "small", "--mask small: expected smallest, largest, random, gradient or lift");
    REFUSED(lora_targets, "x", "--lora_targets x: expected attention, linear or all");
    REFUSED(save_as, "x", "--save_as x: expected kohya or peft");
    REFUSED(mask_steps, 3, "--mask_steps 3: goes with --mask gradient, not smallest");
    REFUSED(rank, 4, "--rank 4: goes with --mask lift, or with --method lora");
    REFUSED(lora_alpha, 4, "--lora_alpha 4: goes with --method lora");
    REFUSED(trainable, "200%", "200%");
    REFUSED(trainable, "junk", "junk");
    REFUSED(prediction_type, "noise", "noise");
    REFUSED(weight_dtype, "fp8", "--weight_dtype fp8: expected auto, fp32, fp16 or bf16");
    REFUSED(device, "cuda", "--device cuda: this build has cpu");
    REFUSED(device, "dry", "--device dry: this build has cpu");
    REFUSED(device, "cpu-bf16", "--device cpu-bf16: this build has cpu");
    REFUSED(output_dir, NULL, "--output_dir is missing");
    REFUSED(output_dir, "", "--output_dir is missing");
    REFUSED(unet_only, NULL, "--pretrained_model_name_or_path is missing");
    REFUSED(replay, NULL, "has no VAE or text encoder; give --replay FILE");
    REFUSED(train_data_dir, "images", "takes the place of --train_data_dir");
    REFUSED(pretrained_model_name_or_path, "base", "takes the place of --pretrained");
#undef REFUSED
}

static void test_contradictions(void **state)
{
    test_run *run = *state;
    sara_train_options *o = &run->options;
    o->threshold = 0.01;
    o->trainable = "5%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--threshold 0.01 and --trainable 5%: give one",
                   test_run_train(run));
    o->threshold = 0;
    o->embedding_dir = "names";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--embedding_dir names: its names stand in valid",
                   test_run_train(run));
    o->embedding_dir = NULL;
    o->mask = "largest";
    o->progressive_iter = 3;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--progressive_iter 3: --mask largest has no resel",
                   test_run_train(run));
    o->adapter = "x";
    o->trainable = NULL;
    o->progressive_iter = -1;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--adapter x: it says what is trained; leave --mask",
                   test_run_train(run));
    o->adapter = NULL;
    o->mask = "smallest";
    o->method = "full";
    o->rank = 3;
    o->trainable = "5%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--rank 3 and --trainable 5%: give one of them",
                   test_run_train(run));
    o->rank = 0;
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "; full fine-tuning has no size to choose",
                   test_run_train(run));
    o->method = "sara";
    o->trainable = NULL;
    o->max_train_steps = 3;
    o->num_train_epochs = 2;
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--max_train_steps 3 and --num_train_epochs 2: give one", test_run_train(run));
    o->max_train_steps = 0;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--num_train_epochs 2: a replay",
                   test_run_train(run));
    o->num_train_epochs = 0;
    assert_ok(run->ctx, set(run, "validation_prompt", "a cat"));
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--validation_prompt a cat: --unet-only cannot draw it", test_run_train(run));
    o->unet_only = NULL;
    o->replay = NULL;
    o->pretrained_model_name_or_path = "base";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--train_data_dir is missing", test_run_train(run));
    test_run_teardown(state);
    test_run_setup_tiny(state);
    run = *state;
    run->options.mixed_precision = "bf16";
    run->options.device = "cpu-plain";
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--mixed_precision bf16: goes with --device cpu, not cpu-plain",
                   test_run_train(run));
}

static void test_prompts(void **state)
{
    test_run *run = *state;
    for (int i = 0; i < SARA_MAX_PROMPTS; i++)
        assert_ok(run->ctx, set(run, "validation-prompt", test_text(run, "prompt %d", i)));
    assert_int_equal(run->options.validation_prompt_count, SARA_MAX_PROMPTS);
    assert_string_equal(run->options.validation_prompts[15], "prompt 15");
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--validation_prompt one more: at most 16",
                   set(run, "validation_prompt", "one more"));
}

/* These leave the result as it is, or say where the data come from. */
static const char *const free_options[] = {
    "pretrained_model_name_or_path",
    "unet_only",
    "variant",
    "model_config",
    "vae",
    "use_ema_weights",
    "tokenizer",
    "train_data_dir",
    "caption_extension",
    "replay",
    "output_dir",
    "adapter",
    "validation_prompt",
    "validation_steps",
    "validation_guidance_scale",
    "no_prompt_weights",
    "long_prompt",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "gradient_checkpointing",
    "gradient_checkpointing_levels",
    "disk_offload",
    "track_drift",
    "report_to",
    "logging_dir",
    "cache_latents_to_disk",
    "cache_text_encoder_outputs_to_disk",
    "cache_dir",
    "embedding_dir",
    "dataset_config",
    "class_data_dir",
    "num_class_images",
    "conditioning_data_dir",
    "profile",
    "device",
};

/* The JSON has all options but those that leave the result as it is. Where the data come from is
 * none of it either: their hash, captions included, stands for that. */
static void test_json(void **state)
{
    test_run *run = *state;
    const sara_option_info *info;
    json_t *json = NULL;
    size_t count = 0;
    run->options.seed = UINT64_MAX;
    run->options.caption_prefix = "ink style, ";
    run->options.keep_tokens = 2;
    assert_ok(run->ctx, sara_train_options_json(run->ctx, &json, &run->options));
    for (size_t i = 0; (info = sara_train_option_at(i)); i++) {
        bool is_free = false;
        for (size_t k = 0; k < sizeof(free_options) / sizeof(*free_options); k++)
            is_free |= strcmp(free_options[k], info->name) == 0;
        if (sara_train_option_part(info->name) == SARA_PART_CHOSEN) /* all at their defaults */
            is_free = strcmp("keep_tokens", info->name) != 0;
        if (is_free != !json_object_get(json, info->name))
            fail_msg("%s: %s the JSON", info->name, is_free ? "in" : "not in");
        count += !is_free;
    }
    assert_int_equal(json_object_size(json), count);
    assert_string_equal(json_string_value(json_object_get(json, "seed")), "18446744073709551615");
    assert_string_equal(json_string_value(json_object_get(json, "caption_prefix")), "ink style, ");
    assert_int_equal(json_integer_value(json_object_get(json, "keep_tokens")), 2);
    assert_true(json_is_null(json_object_get(json, "instance_prompt")));
    assert_true(json_is_false(json_object_get(json, "random_flip")));
    assert_true(json_real_value(json_object_get(json, "lambda_rank")) == 5e-4);
    assert_int_equal(json_integer_value(json_object_get(json, "train_batch_size")), 4);
    json_decref(json);
}

/* Options that are strings reach training as they are given. */
static void test_prediction_type(void **state)
{
    test_run *run = *state;
    sara_adapter adapter;
    assert_ok(run->ctx, set(run, "prediction_type", "v_prediction"));
    assert_ok(run->ctx, set(run, "max_train_steps", "1"));
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &adapter);
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.prediction_type"), "v_prediction");
    sara_adapter_free(&adapter);
}

/* Programs that were built with an earlier header, and with a later one. */
static void test_struct_sizes(void **state)
{
    struct {
        sara_train_options now;
        char later[8], beyond;
    } o, before;
    sara_context *ctx;
    sara_train_options read;
    (void)state;
    assert_int_equal(sara_context_new(&ctx, NULL), SARA_OK);
    memset(&o, 'x', sizeof(o));
    sara_train_options_init_sized(&o.now, sizeof(o.now) + sizeof(o.later));
    assert_int_equal(o.now.size, sizeof(o.now) + sizeof(o.later));
    assert_true(o.now.train_batch_size == 4 && o.later[0] == 0 && o.later[7] == 0);
    assert_int_equal(o.beyond, 'x');
    o.now.resolution = 64;
    assert_ok(ctx, sara_train_options_read(ctx, &read, &o.now));
    assert_true(read.size == sizeof(read) && read.resolution == 64 && read.train_batch_size == 4);
    o.later[7] = 1;
    assert_refused(ctx, SARA_ERROR_USAGE, "the others ask for what it does not have",
                   sara_train_options_read(ctx, &read, &o.now));
    o.now.size = 0;
    assert_ok(ctx, sara_train_options_read(ctx, &read, &o.now));
    o.now.size = 40;
    assert_refused(ctx, SARA_ERROR_USAGE, "sara_train_options.size is 40, expected 0 or at least",
                   sara_train_options_read(ctx, &read, &o.now));
    assert_refused(ctx, SARA_ERROR_USAGE, "earlier version, whose options lack it",
                   sara_train_options_set(ctx, &o.now, "profile", "x.json"));
    memset(&o.now.resolution_height, 'x', sizeof(o.now.resolution_height));
    o.now.size = offsetof(sara_train_options, resolution_height);
    assert_ok(ctx, sara_train_options_set(ctx, &o.now, "resolution", "32"));
    assert_refused(ctx, SARA_ERROR_USAGE, "--resolution: the calling program was built for an",
                   sara_train_options_set(ctx, &o.now, "resolution", "48,96"));
    assert_int_equal(o.now.resolution, 32);
    assert_memory_equal(&o.now.resolution_height, "xxxx", sizeof(o.now.resolution_height));
    o.now.size = sizeof(o.now);
    assert_ok(ctx, sara_train_options_set(ctx, &o.now, "profile", "x.json"));
    memset(&before, 'x', sizeof(before));
    sara_train_options_init_sized(&before.now, offsetof(sara_train_options, profile));
    assert_memory_equal(&before.now.profile, "xxxxxxxx", 8);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_defaults),
        TEST_TINY(test_values),
        TEST_TINY(test_aliases),
        TEST_TINY(test_goes_with),
        TEST_TINY(test_bad_numbers),
        TEST_TINY(test_ranges),
        TEST_TINY(test_sides),
        TEST_TINY(test_fields),
        TEST_TINY(test_contradictions),
        TEST_TINY(test_prompts),
        TEST_TINY(test_json),
        TEST_TINY(test_prediction_type),
        cmocka_unit_test(test_struct_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
