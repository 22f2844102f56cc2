/* What the tests of backbones share: pictures of make_backbones.py, backbones that must open. */
#ifndef SARA_TEST_SUPPORT_EVAL_H
#define SARA_TEST_SUPPORT_EVAL_H

#include "eval/backbone.h"
#include "support/support.h"

#define EVAL_DATA SARA_TEST_GOLDEN "/../eval/data"

/* formula() of make_backbones.py; sara_image_clear() */
sara_image test_formula_image(sara_context *ctx, int width, int height);
sara_backbone *test_backbone(sara_context *ctx, const sara_backbone_kind *kind,
                             const sara_backbone_options *options);
/* One of data/models/. */
sara_backbone *test_model(sara_context *ctx, const sara_backbone_kind *kind, const char *name,
                          const char *tokenizer);
/* The recorded features "name/WIDTHxHEIGHT" are the backbone's; how many there are. */
int test_model_pictures(sara_backbone *backbone, const sara_safetensors *file, const char *name);

#endif
