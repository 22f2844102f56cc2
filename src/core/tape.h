/* Reverse-mode autograd, define-by-run.
 *
 * A forward pass calls ops (nn.h), which compute at once and record a node if a gradient will be
 * wanted. sara_tape_backward() runs the nodes in reverse order and gives each one's memory back.
 *
 * Lifetimes: a variable's data lives until the scope that made it has ended and the last node that
 * saved it has run backward. A scope is what a block of a model opens and closes:
 *
 *     size_t scope = sara_tape_open(tape);
 *     TRY(sara_nn_conv2d(tape, &h, x, ...));      h dies at the close unless a node saved it
 *     TRY(sara_nn_add(tape, &y, x, h));
 *     sara_tape_close(tape, scope, &y, 1);        y moves to the scope outside
 *
 * What is cheap to compute again is not kept: when no scope holds a variable whose node can remake
 * it, its data is given back, and made again before the first node that saved it runs backward.
 *
 * The sara_var structs themselves live until sara_tape_reset(). On an error nothing needs closing:
 * reset frees everything.
 */
#ifndef SARA_TAPE_H
#define SARA_TAPE_H

#include "core/core.h"

typedef struct sara_tape sara_tape;

typedef struct sara_var {
    sara_shape shape;
    float *data;         /* on the tape's device; NULL once given back */
    float *grad;         /* NULL until something was added */
    bool requires_grad;
    int holds;           /* scopes and nodes that still need data; a view's count at its base */
    int scopes;          /* of these, scopes */
    bool borrowed;       /* data belongs to the caller */
    struct sara_var *base; /* a view shares its base's data; no view itself */
    size_t maker;        /* 1 + index of the node that can make data again; 0: none */
} sara_var;

#define SARA_NODE_VARS   6 /* attention saves q, k, v, y, lse and a bias */
#define SARA_NODE_PARAMS 3
typedef struct sara_node sara_node;
/* Adds to the gradients of node->in (only where requires_grad) and of node->params (as they want),
 * given node->out->grad, which is not NULL. */
typedef sara_status (*sara_backward_fn)(sara_tape *tape, sara_node *node);
/* Computes node->out->data, to the same bits each time, from the data of node->in and node->saved
 * and from parameters. */
typedef sara_status (*sara_make_fn)(sara_tape *tape, const sara_node *node);

struct sara_node {
    const char *op;
    sara_backward_fn backward;
    sara_make_fn remake;              /* NULL: out is kept as long as it is needed */
    sara_var *in[SARA_NODE_VARS];     /* gradients go here; data is kept for remake alone */
    sara_var *saved[SARA_NODE_VARS];  /* their data is kept for backward */
    sara_param *params[SARA_NODE_PARAMS];
    sara_var *out;
    void *attributes;                 /* a copy, owned by the tape */
};

/* device NULL: sara_host_device(). */
SARA_NODISCARD sara_status sara_tape_new(sara_context *ctx, sara_tape **out, sara_device *device);
void sara_tape_free(sara_tape *tape);
/* Forgets all variables and nodes; keeps the memory for the next pass. */
void sara_tape_reset(sara_tape *tape);
sara_context *sara_tape_context(const sara_tape *tape);
sara_device *sara_tape_device(const sara_tape *tape);
/* Whether nodes are recorded; off at first. Returns what it was. */
bool sara_tape_record(sara_tape *tape, bool on);
bool sara_tape_recording(const sara_tape *tape);
/* Whether the nodes recorded from now on may remake their results; on at first. Off, everything is
 * kept, to the same gradients. */
void sara_tape_remaking(sara_tape *tape, bool on);

/* A variable of the current scope, data uninitialised. */
SARA_NODISCARD sara_status sara_tape_var(sara_tape *tape, sara_var **out, const sara_shape *shape);
/* A leaf on the caller's data in the host's memory, which must outlive the pass: where the device
 * has memory of its own, a copy. A dry device does not ask for data, and counts that copy. */
SARA_NODISCARD sara_status sara_tape_leaf(sara_tape *tape, sara_var **out, const sara_shape *shape,
                                          const float *data, bool requires_grad);
/* var's data for the host to read, until the tape is reset or var's scope ends: themselves where
 * the memory is the host's, else a copy. Zeros on a dry device. */
SARA_NODISCARD sara_status sara_tape_read(sara_tape *tape, const float **out, const sara_var *var);
/* count * size bytes of the host, uninitialised, until the tape is reset: for what leaves hold. */
SARA_NODISCARD sara_status sara_tape_memory(sara_tape *tape, void *out, size_t count, size_t size);
/* The same data with another shape of as many elements; gradients pass through. */
SARA_NODISCARD sara_status sara_tape_view(sara_tape *tape, sara_var **out, sara_var *x,
                                          const sara_shape *shape);
size_t sara_tape_open(sara_tape *tape);
void sara_tape_close(sara_tape *tape, size_t scope, sara_var **keep, int count);

/* Records *node (copied, with attribute_size bytes of attributes) if recording is on and an input
 * requires a gradient or a parameter wants one; out then requires a gradient too. */
SARA_NODISCARD sara_status sara_tape_add(sara_tape *tape, const sara_node *node,
                                         size_t attribute_size);
/* var->grad, zeroed the first time. */
SARA_NODISCARD sara_status sara_tape_grad(sara_tape *tape, float **out, sara_var *var);
/* As sara_tape_grad, but *fresh tells that the memory is uninitialised and must be assigned. */
SARA_NODISCARD sara_status sara_tape_grad_fresh(sara_tape *tape, float **out, bool *fresh,
                                                sara_var *var);
/* Scratch of count floats from the tape's pool. */
SARA_NODISCARD sara_status sara_tape_scratch(sara_tape *tape, float **out, size_t count);
void sara_tape_unscratch(sara_tape *tape, float *scratch);

/* d loss / d everything. loss has one element; its gradient is seed. Gradients of leaves that
 * require one stay in var->grad until reset; those of parameters are added to param->grad. */
SARA_NODISCARD sara_status sara_tape_backward(sara_tape *tape, sara_var *loss, float seed);

/* Activation checkpointing (Chen et al. 2016): runs a region without keeping its inner variables
 * and runs it again in backward. argument_size bytes at argument are copied; what they point to
 * must outlive the backward pass. A region reads only in[] and parameters and returns a variable of
 * its own. */
typedef sara_status (*sara_region_fn)(sara_tape *tape, sara_var **out, sara_var *const *in,
                                      const void *argument);
SARA_NODISCARD sara_status sara_tape_checkpoint(sara_tape *tape, sara_var **out,
                                                sara_region_fn region, sara_var *const *in,
                                                int in_count, const void *argument,
                                                size_t argument_size);
/* The same of a region that computes with what is lent to it alone: borrow comes before it runs,
 * and before it runs again in backward; give_back when that is over, also after an error. */
typedef struct sara_region {
    sara_region_fn run;
    sara_status (*borrow)(sara_tape *tape, const void *argument); /* NULL: nothing is lent */
    void (*give_back)(sara_tape *tape, const void *argument);     /* NULL with borrow */
} sara_region;
SARA_NODISCARD sara_status sara_tape_checkpoint_lent(sara_tape *tape, sara_var **out,
                                                     const sara_region *region, sara_var *const *in,
                                                     int in_count, const void *argument,
                                                     size_t argument_size);

/* Most bytes of variables, gradients and scratch alive at once since the tape was made. */
size_t sara_tape_peak(const sara_tape *tape);
/* Most bytes of its arena that were ever in use, with the gaps between; at least the peak. */
size_t sara_tape_reached(const sara_tape *tape);
/* Of a dry tape: its memory comes piece by piece, as that of a tape for which none is reserved. */
void sara_tape_in_pieces(sara_tape *tape);
/* Takes so many bytes for the arena in one piece; what a dry tape has reached is what a pass
 * needs. */
SARA_NODISCARD sara_status sara_tape_reserve(sara_tape *tape, size_t bytes);
/* As reset, but the memory goes back to the allocator. */
void sara_tape_trim(sara_tape *tape);
/* On a dry device variables have no data: a pass counts memory and computes nothing. */
bool sara_tape_is_dry(const sara_tape *tape);

#endif
