/* Private to the diffusion layer: scheduler classes and the table of their options. */
#ifndef SARA_DIFFUSION_CONFIG_H
#define SARA_DIFFUSION_CONFIG_H

#include "diffusion/diffusion.h"

/* Sets every field to what the class of `kind` has where a file says nothing. */
void scheduler_defaults(sara_scheduler_config *config, sara_sampler_kind kind);
/* Reads the keys that the object has and notes them in stated.given. */
sara_status scheduler_fields_read(sara_context *ctx, sara_scheduler_config *config,
                                  const json_t *object, const char *source);
/* Copies the fields that `from` was given. */
void scheduler_fields_inherit(sara_scheduler_config *config, const sara_scheduler_config *from);
/* Marks a field as given, as if a file had held its key. */
void scheduler_field_give(sara_scheduler_config *config, const char *key);

const char *scheduler_class_name(const sara_scheduler_config *config);
bool scheduler_has_karras(sara_sampler_kind kind);
double scheduler_flow_shift(const sara_scheduler_config *config); /* of a flow */

#endif
