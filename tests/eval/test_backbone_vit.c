/* Features of DINO's and DINOv2's models equal transformers'. */
#include "support_eval.h"

#include <stdio.h>
#include <stdlib.h>

static void test_equal_to_transformers(void **state)
{
    (void)state;
    static const char *const names[] = {"vit", "dinov2", "dinov2_swiglu", "dinov2_registers"};
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/models.safetensors");
    for (int i = 0; i < 4; i++) {
        sara_backbone *dino = test_model(ctx, &sara_backbone_dino, names[i], NULL);
        assert_int_equal(dino->width, 16);
        assert_int_equal(test_model_pictures(dino, file, names[i]), 3);
        sara_backbone_close(dino);
    }
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* What is said of CLIP's pictures is not of DINO's. */
static void test_options_of_clip(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    const sara_backbone_options options = {
        .path = EVAL_DATA "/models/vit", .tokenizer = SARA_TEST_GOLDEN "/missing", .resize = 7};
    sara_safetensors *file = test_open(ctx, EVAL_DATA "/models.safetensors");
    sara_backbone *dino = test_backbone(ctx, &sara_backbone_dino, &options);
    assert_int_equal(test_model_pictures(dino, file, "vit"), 3);
    sara_backbone_close(dino);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_transformers),
        cmocka_unit_test(test_options_of_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
