#include "core/tape_state.h"

sara_status sara_tape_new(sara_context *ctx, sara_tape **out, sara_device *device)
{
    sara_status status = sara_alloc_zero(ctx, out, 1, sizeof(**out));
    if (status != SARA_OK)
        return status;
    (*out)->ctx = ctx;
    (*out)->device = device ? device : sara_host_device(ctx);
    sara_arena_init(&(*out)->arena, ctx);
    sara_pool_init(&(*out)->pool, (*out)->device);
    return SARA_OK;
}

void sara_tape_free(sara_tape *tape)
{
    if (!tape)
        return;
    sara_arena_free(&tape->arena);
    sara_pool_free(&tape->pool);
    sara_free(tape->ctx, tape->scoped);
    sara_free(tape->ctx, tape->nodes);
    sara_free(tape->ctx, tape);
}

void sara_tape_reset(sara_tape *tape)
{
    sara_pool_give_all(&tape->pool);
    sara_arena_reset(&tape->arena);
    tape->scoped_count = 0;
    tape->node_count = 0;
}

sara_context *sara_tape_context(const sara_tape *tape)
{
    return tape->ctx;
}

sara_device *sara_tape_device(const sara_tape *tape)
{
    return tape->device;
}

bool sara_tape_record(sara_tape *tape, bool on)
{
    bool was = tape->recording;
    tape->recording = on;
    return was;
}

bool sara_tape_recording(const sara_tape *tape)
{
    return tape->recording;
}

void sara_tape_remaking(sara_tape *tape, bool on)
{
    tape->keeping = !on;
}

size_t sara_tape_peak(const sara_tape *tape)
{
    return tape->pool.peak_bytes;
}

size_t sara_tape_reached(const sara_tape *tape)
{
    return tape->pool.reached_bytes;
}

sara_status sara_tape_reserve(sara_tape *tape, size_t bytes)
{
    return sara_pool_reserve(&tape->pool, bytes);
}

void sara_tape_in_pieces(sara_tape *tape)
{
    tape->pool.in_pieces = true;
}

void sara_tape_trim(sara_tape *tape)
{
    sara_tape_reset(tape);
    sara_arena_free(&tape->arena);
    sara_pool_trim(&tape->pool);
}

bool sara_tape_is_dry(const sara_tape *tape)
{
    return tape->device->dry;
}

/* --------------------------------------------------------------------------------- variables */

/* A variable struct that the current scope holds. */
static sara_status new_var(sara_tape *tape, sara_var **out, const sara_shape *shape)
{
    sara_status status;
    *out = NULL;
    TRY(sara_grow(tape->ctx, &tape->scoped, &tape->scoped_capacity, tape->scoped_count + 1,
                  sizeof(*tape->scoped)));
    TRY(sara_arena_alloc(&tape->arena, out, 1, sizeof(**out)));
    memset(*out, 0, sizeof(**out));
    (*out)->shape = *shape;
    (*out)->holds = (*out)->scopes = 1;
    tape->scoped[tape->scoped_count++] = *out;
done:
    return status;
}

sara_status sara_tape_var(sara_tape *tape, sara_var **out, const sara_shape *shape)
{
    sara_var *var = NULL;
    sara_status status;
    TRY(new_var(tape, &var, shape));
    TRY(sara_pool_take(&tape->pool, &var->data, (size_t)sara_shape_count(shape)));
done:
    *out = status == SARA_OK ? var : NULL;
    return status;
}

sara_status sara_tape_borrow(sara_tape *tape, sara_var **out, const sara_shape *shape, float *data,
                             bool requires_grad)
{
    sara_status status = new_var(tape, out, shape);
    if (status == SARA_OK) {
        (*out)->data = data;
        (*out)->borrowed = true;
        (*out)->requires_grad = requires_grad;
    }
    return status;
}

sara_status sara_tape_leaf(sara_tape *tape, sara_var **out, const sara_shape *shape,
                           const float *data, bool requires_grad)
{
    const sara_device *device = tape->device;
    sara_status status;
    if (device->dry ? !device->copies : sara_device_is_host(device))
        return sara_tape_borrow(tape, out, shape, (float *)(uintptr_t)data, requires_grad);
    TRY(sara_tape_var(tape, out, shape));
    (*out)->requires_grad = requires_grad;
    TRY(sara_device_copy_in(tape->device, (*out)->data, data,
                            (size_t)sara_shape_count(shape) * sizeof(*data)));
done:
    return status;
}

sara_status sara_tape_read(sara_tape *tape, const float **out, const sara_var *var)
{
    size_t count = (size_t)sara_shape_count(&var->shape);
    float *copy;
    sara_status status;
    *out = var->data;
    if (sara_device_is_host(tape->device))
        return SARA_OK;
    TRY(sara_tape_memory(tape, &copy, count, sizeof(*copy)));
    TRY(sara_device_copy_out(tape->device, copy, var->data, count * sizeof(*copy)));
    *out = copy;
done:
    return status;
}

sara_status sara_tape_memory(sara_tape *tape, void *out, size_t count, size_t size)
{
    return sara_arena_alloc(&tape->arena, out, count, size);
}

sara_status sara_tape_view(sara_tape *tape, sara_var **out, sara_var *x, const sara_shape *shape)
{
    sara_shape_text from, to;
    *out = NULL;
    if (sara_shape_count(shape) != sara_shape_count(&x->shape))
        return sara_fail(tape->ctx, SARA_ERROR_INPUT, "view: shape %s cannot become %s",
                         sara_shape_format(&from, &x->shape), sara_shape_format(&to, shape));
    sara_status status = new_var(tape, out, shape);
    if (status == SARA_OK) {
        sara_var *owner = sara_var_root(x);
        (*out)->data = x->data;
        (*out)->requires_grad = x->requires_grad;
        (*out)->base = owner;
        owner->holds++;
        owner->scopes++;
    }
    return status;
}

size_t sara_tape_open(sara_tape *tape)
{
    return tape->scoped_count;
}

static bool tape_is_kept(const sara_var *var, sara_var *const *keep, int count)
{
    for (int i = 0; i < count; i++)
        if (keep[i] == var)
            return true;
    return false;
}

void sara_tape_close(sara_tape *tape, size_t scope, sara_var **keep, int count)
{
    size_t kept = scope;
    SARA_ASSERT(scope <= tape->scoped_count); /* scopes close from the innermost outwards */
    for (size_t i = scope; i < tape->scoped_count; i++) {
        sara_var *var = tape->scoped[i];
        if (tape_is_kept(var, keep, count))
            tape->scoped[kept++] = var;
        else
            sara_var_leave(tape, var);
    }
    tape->scoped_count = kept;
}

/* --------------------------------------------------------------------------------- gradients */

sara_status sara_tape_grad_fresh(sara_tape *tape, float **out, bool *fresh, sara_var *var)
{
    sara_var *owner = sara_var_root(var);
    sara_status status = SARA_OK;
    *fresh = !owner->grad;
    if (!owner->grad)
        status = sara_pool_take(&tape->pool, &owner->grad,
                                (size_t)sara_shape_count(&owner->shape));
    *out = owner->grad;
    return status;
}

sara_status sara_tape_grad(sara_tape *tape, float **out, sara_var *var)
{
    bool fresh;
    sara_status status = sara_tape_grad_fresh(tape, out, &fresh, var);
    if (status == SARA_OK && fresh)
        status = sara_device_fill(tape->device, *out, 0,
                                  (size_t)sara_shape_count(&var->shape) * sizeof(**out));
    return status;
}

sara_status sara_tape_scratch(sara_tape *tape, float **out, size_t count)
{
    return sara_pool_take(&tape->pool, out, count);
}

void sara_tape_unscratch(sara_tape *tape, float *scratch)
{
    sara_pool_give(&tape->pool, scratch);
}

/* ------------------------------------------------------------------------------------- nodes */

sara_status sara_tape_add(sara_tape *tape, const sara_node *node, size_t attribute_size)
{
    bool wants = false;
    for (int i = 0; i < SARA_NODE_VARS; i++)
        wants |= node->in[i] && node->in[i]->requires_grad;
    for (int i = 0; i < SARA_NODE_PARAMS; i++)
        wants |= node->params[i] && node->params[i]->want != SARA_GRAD_NONE;
    tape->wanted |= wants;
    return tape->recording && wants ? sara_tape_push(tape, node, attribute_size) : SARA_OK;
}

sara_status sara_tape_push(sara_tape *tape, const sara_node *node, size_t attribute_size)
{
    void *attributes = NULL;
    sara_status status;
    TRY(sara_grow(tape->ctx, &tape->nodes, &tape->node_capacity, tape->node_count + 1,
                  sizeof(*tape->nodes)));
    TRY(sara_arena_alloc(&tape->arena, &attributes, 1, attribute_size));
    if (attribute_size)
        memcpy(attributes, node->attributes, attribute_size);
    sara_node *added = &tape->nodes[tape->node_count++];
    *added = *node;
    added->attributes = attributes;
    if (tape->keeping)
        added->remake = NULL;
    if (added->remake)
        node->out->maker = tape->node_count;
    sara_node_hold(added);
    node->out->requires_grad = true;
done:
    return status;
}

sara_status sara_tape_run_backward(sara_tape *tape, size_t first)
{
    sara_status status = SARA_OK;
    while (tape->node_count > first) {
        /* Off the tape before it runs: a checkpointed region records its nodes in this place. */
        sara_node node = tape->nodes[--tape->node_count];
        sara_var *owner = sara_var_root(node.out); /* a region's result may be a view */
        if (owner->grad) {
            TRY(sara_node_restore(tape, &node));
            TRY(node.backward(tape, &node));
        }
        SARA_ASSERT(tape->node_count >= first); /* a region takes its own nodes off */
        sara_pool_give(&tape->pool, owner->grad);
        owner->grad = NULL;
        sara_node_drop(tape, &node);
    }
done:
    return status;
}

sara_status sara_tape_backward(sara_tape *tape, sara_var *loss, float seed)
{
    float *grad;
    sara_shape_text text;
    sara_status status;
    if (sara_shape_count(&loss->shape) != 1)
        return sara_fail(tape->ctx, SARA_ERROR_INPUT,
                         "backward: the loss has shape %s, expected [1]",
                         sara_shape_format(&text, &loss->shape));
    bool fresh;
    TRY(sara_tape_grad_fresh(tape, &grad, &fresh, loss));
    SARA_ASSERT(fresh); /* nothing can have been added to it yet */
    TRY(sara_device_copy_in(tape->device, grad, &seed, sizeof(seed)));
    bool was = sara_tape_record(tape, false);
    status = sara_tape_run_backward(tape, 0);
    sara_tape_record(tape, was);
done:
    return status;
}
