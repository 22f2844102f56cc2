/* What the tests of T5 encoders share. */
#ifndef SARA_TEST_SUPPORT_T5_H
#define SARA_TEST_SUPPORT_T5_H

#include "support_models.h"

#include "models/t5.h"

typedef struct t5_run {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
    sara_network *t5;
    int32_t *ids; /* golden's [batch][count] */
    int64_t batch, count;
} t5_run;

test_name t5_folder(void); /* the golden encoder's */
t5_run t5_open(const char *path, const char *device, sara_storage storage);
void t5_close(t5_run *r);
/* With its ids; sara_safetensors_close(). */
sara_safetensors *t5_golden(t5_run *r);
/* The states of texts from `first` on, on the host; free(). */
float *t5_run_forward(t5_run *r, int64_t first, int64_t batch);
/* None of the values is in memory. */
void t5_assert_released(const t5_run *r);

#endif
