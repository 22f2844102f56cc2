#include "pipeline/family_sd.h"
#include "pipeline/family_sd3.h"

const sara_family *const sara_families[] = {&sara_family_sd1,
                                            &sara_family_sd2,
                                            &sara_family_sd,
                                            &sara_family_sdxl,
                                            &sara_family_sd3,
                                            &sara_family_sd35_medium,
                                            &sara_family_sd35_large,
                                            &sara_family_sd3_without,
                                            &sara_family_sd35_medium_without,
                                            &sara_family_sd35_large_without,
                                            NULL};
