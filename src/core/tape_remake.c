/* How long data lives, and how it comes back. */
#include "core/tape_state.h"

static void remake_release(sara_tape *tape, sara_var *owner)
{
    if (!owner->borrowed)
        sara_pool_give(&tape->pool, owner->data);
    owner->data = NULL;
}

void sara_var_leave(sara_tape *tape, sara_var *var)
{
    sara_var *owner = sara_var_root(var);
    SARA_ASSERT(owner->holds > 0 && owner->scopes > 0);
    owner->holds--;
    owner->scopes--;
    if (var != owner)
        var->data = NULL; /* a node that saved the view asks its base */
    if (owner->holds == 0 || (owner->scopes == 0 && owner->maker))
        remake_release(tape, owner);
}

static void drop_remade(sara_tape *tape, sara_var *var)
{
    sara_var *owner = sara_var_root(var);
    SARA_ASSERT(owner->holds > 0);
    if (--owner->holds == 0)
        remake_release(tape, owner);
}

void sara_node_hold(const sara_node *node)
{
    for (int i = 0; i < SARA_NODE_VARS; i++) {
        if (node->saved[i])
            sara_var_root(node->saved[i])->holds++;
        if (node->remake && node->in[i])
            sara_var_root(node->in[i])->holds++;
    }
}

void sara_node_drop(sara_tape *tape, const sara_node *node)
{
    for (int i = 0; i < SARA_NODE_VARS; i++) {
        if (node->saved[i])
            drop_remade(tape, node->saved[i]);
        if (node->remake && node->in[i])
            drop_remade(tape, node->in[i]);
    }
}

/* The node that made a variable comes before all that saved it, so it is still on the tape, and
 * what it reads is held. */
static sara_status remake_restore(sara_tape *tape, sara_var *var)
{
    sara_var *owner = sara_var_root(var);
    sara_status status = SARA_OK;
    if (!owner->data && owner->maker) {
        const sara_node *maker = &tape->nodes[owner->maker - 1];
        TRY(sara_node_restore(tape, maker));
        for (int i = 0; i < SARA_NODE_VARS; i++)
            if (maker->in[i])
                TRY(remake_restore(tape, maker->in[i]));
        TRY(sara_pool_take(&tape->pool, &owner->data, (size_t)sara_shape_count(&owner->shape)));
        TRY(maker->remake(tape, maker));
    }
    var->data = owner->data;
done:
    return status;
}

sara_status sara_node_restore(sara_tape *tape, const sara_node *node)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_NODE_VARS; i++)
        if (node->saved[i])
            TRY(remake_restore(tape, node->saved[i]));
done:
    return status;
}
