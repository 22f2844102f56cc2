/* Activation checkpointing. */
#include "core/tape_state.h"

typedef struct region {
    sara_region of;
    void *argument;
    int in_count;
} region;

/* A leaf carries on with the gradient of the variable it stands for, so that sums are taken in the
 * same order as without the region. */
static void lend(sara_var *leaf, sara_var *in)
{
    sara_var *owner = sara_var_root(in);
    leaf->grad = owner->grad;
    owner->grad = NULL;
}

static void take_back(sara_var *in, sara_var *leaf)
{
    sara_var *owner = sara_var_root(in);
    SARA_ASSERT(!owner->grad);
    owner->grad = leaf->grad;
    leaf->grad = NULL;
}

/* What stands for input i of a node. Of inputs that are views of one variable the later ones are
 * views of the first one's leaf, so that there is one gradient. */
static sara_status stand_in(sara_tape *tape, sara_var **leaves, const sara_node *node, int i)
{
    sara_var *in = node->in[i];
    for (int k = 0; k < i; k++)
        if (sara_var_root(node->in[k]) == sara_var_root(in))
            return sara_tape_view(tape, &leaves[i], leaves[k], &in->shape);
    return sara_tape_borrow(tape, &leaves[i], &in->shape, in->data, in->requires_grad);
}

static sara_status region_borrow(sara_tape *tape, const sara_region *of, const void *argument)
{
    return of->borrow ? of->borrow(tape, argument) : SARA_OK;
}

static void region_give_back(sara_tape *tape, const sara_region *of, const void *argument)
{
    if (of->give_back)
        of->give_back(tape, argument);
}

static sara_status region_run(sara_tape *tape, sara_var **out, const sara_region *of,
                              sara_var *const *in, const void *argument)
{
    sara_status status;
    TRY(region_borrow(tape, of, argument));
    status = of->run(tape, out, in, argument);
done:
    region_give_back(tape, of, argument);
    return status;
}

static sara_status checkpoint_backward(sara_tape *tape, sara_node *node)
{
    const region *r = node->attributes;
    sara_var *leaves[SARA_NODE_VARS] = {NULL}, *out = NULL;
    size_t scope = sara_tape_open(tape), first = tape->node_count;
    sara_status status;
    TRY(region_borrow(tape, &r->of, r->argument));
    for (int i = 0; i < r->in_count; i++)
        TRY(stand_in(tape, leaves, node, i));
    sara_tape_record(tape, true);
    status = r->of.run(tape, &out, leaves, r->argument);
    sara_tape_record(tape, false);
    if (status != SARA_OK)
        goto done;
    for (int i = 0; i < r->in_count; i++)
        if (!leaves[i]->base)
            lend(leaves[i], node->in[i]);
    lend(sara_var_root(out), node->out);
    TRY(sara_tape_run_backward(tape, first));
    for (int i = 0; i < r->in_count; i++)
        if (!leaves[i]->base)
            take_back(node->in[i], leaves[i]);
    sara_tape_close(tape, scope, NULL, 0);
done:
    region_give_back(tape, &r->of, r->argument);
    return status;
}

sara_status sara_tape_checkpoint(sara_tape *tape, sara_var **out, sara_region_fn run,
                                 sara_var *const *in, int in_count, const void *argument,
                                 size_t argument_size)
{
    const sara_region of = {.run = run};
    return sara_tape_checkpoint_lent(tape, out, &of, in, in_count, argument, argument_size);
}

sara_status sara_tape_checkpoint_lent(sara_tape *tape, sara_var **out, const sara_region *of,
                                      sara_var *const *in, int in_count, const void *argument,
                                      size_t argument_size)
{
    sara_var *result = NULL;
    region attributes = {*of, NULL, in_count};
    sara_status status;
    if (!tape->recording)
        return region_run(tape, out, of, in, argument);
    TRY(sara_arena_alloc(&tape->arena, &attributes.argument, 1, argument_size));
    if (argument_size)
        memcpy(attributes.argument, argument, argument_size);
    size_t scope = sara_tape_open(tape);
    sara_tape_record(tape, false);
    tape->wanted = false;
    status = region_run(tape, &result, of, in, argument);
    sara_tape_record(tape, true);
    if (status != SARA_OK)
        goto done;
    sara_tape_close(tape, scope, &result, 1);
    *out = result;
    if (!tape->wanted) /* no gradient comes from it or passes through it */
        return SARA_OK;
    sara_node node = {.op = "checkpoint", .backward = checkpoint_backward, .out = result,
                      .attributes = &attributes};
    for (int i = 0; i < in_count; i++)
        node.in[i] = node.saved[i] = in[i];
    TRY(sara_tape_push(tape, &node, sizeof(attributes)));
done:
    return status;
}
