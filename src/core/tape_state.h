/* The inside of a tape, for core alone. */
#ifndef SARA_CORE_TAPE_STATE_H
#define SARA_CORE_TAPE_STATE_H

#include "core/pool.h"
#include "core/tape.h"

struct sara_tape {
    sara_context *ctx;
    sara_device *device;
    bool recording, keeping; /* keeping: nothing is remade */
    bool wanted; /* by an op, since a checkpointed region that records nothing cleared it */
    sara_arena arena;  /* structs of variables, attributes of nodes */
    sara_pool pool;    /* data, gradients, scratch */
    sara_var **scoped; /* variables that an open scope holds, in order of their scopes */
    size_t scoped_count, scoped_capacity;
    sara_node *nodes;
    size_t node_count, node_capacity;
};

/* The variable that owns the data and the gradient. */
static inline sara_var *sara_var_root(sara_var *var)
{
    return var->base ? var->base : var;
}

/* A leaf on memory of the device, which must outlive the pass. */
SARA_NODISCARD sara_status sara_tape_borrow(sara_tape *tape, sara_var **out,
                                            const sara_shape *shape, float *data,
                                            bool requires_grad);

/* As sara_tape_add(), whatever requires a gradient. */
SARA_NODISCARD sara_status sara_tape_push(sara_tape *tape, const sara_node *node,
                                          size_t attribute_size);
/* Runs the nodes from the last down to `first` and takes them off the tape. */
SARA_NODISCARD sara_status sara_tape_run_backward(sara_tape *tape, size_t first);

/* tape_remake.c: nodes' holds on what they saved. */
void sara_node_hold(const sara_node *node);
void sara_node_drop(sara_tape *tape, const sara_node *node);
/* Makes the data of what the node saved if it was given back. */
SARA_NODISCARD sara_status sara_node_restore(sara_tape *tape, const sara_node *node);
/* Ends a scope's hold on a variable. */
void sara_var_leave(sara_tape *tape, sara_var *var);

#endif
