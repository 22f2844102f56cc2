#include "pipeline/family_sd.h"

const sara_family *const sara_families[] = {&sara_family_sd1, &sara_family_sd2, &sara_family_sd,
                                            &sara_family_sdxl, NULL};
