/* The table of the test's program. */
#include "mixer.h"
#include "pipeline/family_sd.h"

const sara_family *const sara_families[] = {&test_mixer_family, &sara_family_sd1, &sara_family_sd2,
                                            &sara_family_sd, NULL};
