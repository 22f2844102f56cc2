/* LoRA files of other tools, against what diffusers draws with them: tests/golden/lora. And what is
 * no such file, or not of this model. */
#include "pipeline/lora.h"
#include "support_lora.h"

static void test_drawn(void **state)
{
    static const struct {
        const char *file, *expected;
        bool sd2;
        double strength;
    } cases[] = {{NULL, "sd1", false, 0},
                 {NULL, "sd2", true, 0},
                 {"kohya_sd1.safetensors", "kohya_sd1", false, 1},
                 {"kohya_unet.safetensors", "kohya_unet", false, 1},
                 {"kohya_ldm.safetensors", "kohya_ldm", false, 1},
                 {"kohya_sd2.safetensors", "kohya_sd2", true, 1},
                 {"lycoris.safetensors", "lycoris", false, 1},
                 {"lycoris.safetensors", "lycoris_0.6", false, 0.6},
                 {"diffusers.safetensors", "diffusers", false, 1},
                 {"diffusers_old.safetensors", "diffusers_old", false, 1},
                 {"diffusers_mid.safetensors", "diffusers_mid", false, 1},
                 {"peft", "peft", false, 1},
                 {"peft/adapter_model.safetensors", "peft", false, 1},
                 {"peft_dora", "peft_dora", false, 1}};
    test_pipe *pipe = *state;
    sara_model *models[2] = {test_lora_model(pipe, false), test_lora_model(pipe, true)};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_model *model = models[cases[i].sd2];
        if (cases[i].file)
            assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model,
                                                  test_text(pipe, TEST_LORA "/%s", cases[i].file),
                                                  cases[i].strength, false));
        test_lora_expect(pipe, model, NULL, cases[i].expected);
        assert_ok(pipe->ctx, sara_model_remove(model));
    }
    sara_model_free(models[0]);
    sara_model_free(models[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_drawn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
