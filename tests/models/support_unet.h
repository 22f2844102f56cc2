/* A U-Net, or another denoiser of diffusers, and what diffusers computed with it, as one step of
 * training. */
#ifndef SARA_TEST_SUPPORT_UNET_H
#define SARA_TEST_SUPPORT_UNET_H

#include "support_models.h"

#include "models/mmdit.h"
#include "models/unet.h"

#define SD1      SARA_TEST_GOLDEN "/unet_sd1"
#define SD2      SARA_TEST_GOLDEN "/unet_sd2"
#define SDXL     SARA_TEST_GOLDEN "/families/sdxl/unet"
#define MMDIT    SARA_TEST_GOLDEN "/mmdit_tiny" /* make_mmdit.py */
#define SD35     SARA_TEST_GOLDEN "/families/sd35_medium/transformer"
#define PIPELINE SARA_TEST_GOLDEN "/pipeline" /* SD1.x's shape at 18x22, 9x11 and 5x6 */

typedef struct unet_run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *unet;
    sara_params *params;
    sara_safetensors *golden;
    float *sample, *condition[SARA_CONDITION_KINDS], *target;
    double timesteps[8];
    sara_var *output, *loss;
} unet_run;

unet_run unet_run_open_stored(const char *folder, const char *device, sara_storage storage);
unet_run unet_run_open(const char *folder, const char *device); /* weights of float32 */
void unet_run_close(unet_run *r);
void unet_run_forward(unet_run *r);
void unet_run_step(unet_run *r); /* forward, loss and backward */

void unet_run_want_dense(unet_run *r);
/* A third of the parameters want nothing, the others the entries at random positions, which
 * sara_free() takes one by one. */
void unet_run_want_sampled(unet_run *r, uint32_t **positions);

double test_norm(const float *x, size_t count);
double test_distance(const float *a, const float *b, size_t count);
double unet_run_norm(const unet_run *r); /* of all dense gradients */
/* The dense gradients are diffusers': each within `relative` of its norm and `floor` of all's. */
void unet_run_check_gradients(unet_run *r, double relative, double floor);
/* A whole step of a golden model: output, loss and all gradients are diffusers'. */
void unet_run_check_model(const char *folder, const char *device, sara_storage storage, int levels);
/* One parameter: grad[i] is the dense gradient's entry positions[i]. all: unet_run_norm(). */
void test_check_sampled(sara_context *ctx, const sara_param *sampled, const float *dense,
                        double all);

#endif
