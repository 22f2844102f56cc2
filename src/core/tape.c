#include "core/tape.h"

#include "core/pool.h"

struct sara_tape {
    sara_context *ctx;
    sara_device *device;
    bool recording;
    sara_arena arena;  /* structs of variables, attributes of nodes */
    sara_pool pool;    /* data, gradients, scratch */
    sara_var **scoped; /* variables that an open scope holds, in order of their scopes */
    size_t scoped_count, scoped_capacity;
    sara_node *nodes;
    size_t node_count, node_capacity;
};

sara_status sara_tape_new(sara_context *ctx, sara_tape **out, sara_device *device)
{
    sara_status status = sara_alloc_zero(ctx, out, 1, sizeof(**out));
    if (status != SARA_OK)
        return status;
    (*out)->ctx = ctx;
    (*out)->device = device;
    sara_arena_init(&(*out)->arena, ctx);
    sara_pool_init(&(*out)->pool, ctx);
    return SARA_OK;
}

void sara_tape_free(sara_tape *tape)
{
    if (!tape)
        return;
    sara_tape_reset(tape);
    sara_pool_free(&tape->pool);
    sara_free(tape->ctx, tape->scoped);
    sara_free(tape->ctx, tape->nodes);
    sara_free(tape->ctx, tape);
}

void sara_tape_reset(sara_tape *tape)
{
    sara_pool_give_all(&tape->pool);
    sara_arena_free(&tape->arena);
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

size_t sara_tape_peak(const sara_tape *tape)
{
    return tape->pool.peak_bytes;
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
    (*out)->holds = 1;
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

sara_status sara_tape_leaf(sara_tape *tape, sara_var **out, const sara_shape *shape, float *data,
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

sara_status sara_tape_view(sara_tape *tape, sara_var **out, sara_var *x, const sara_shape *shape)
{
    sara_shape_text from, to;
    *out = NULL;
    if (sara_shape_count(shape) != sara_shape_count(&x->shape))
        return sara_fail(tape->ctx, SARA_ERROR_INPUT, "view: shape %s cannot become %s",
                         sara_shape_format(&from, &x->shape), sara_shape_format(&to, shape));
    sara_status status = new_var(tape, out, shape);
    if (status == SARA_OK) {
        (*out)->data = x->data;
        (*out)->requires_grad = x->requires_grad;
        (*out)->base = x;
        x->holds++;
    }
    return status;
}

/* The variable whose gradient a view's gradient is. */
static sara_var *root(sara_var *var)
{
    while (var->base)
        var = var->base;
    return var;
}

static void drop(sara_tape *tape, sara_var *var)
{
    while (var && --var->holds == 0) {
        if (!var->base && !var->borrowed)
            sara_pool_give(&tape->pool, var->data);
        var->data = NULL;
        var = var->base;
    }
}

size_t sara_tape_open(sara_tape *tape)
{
    return tape->scoped_count;
}

static bool is_kept(const sara_var *var, sara_var *const *keep, int count)
{
    for (int i = 0; i < count; i++)
        if (keep[i] == var)
            return true;
    return false;
}

void sara_tape_close(sara_tape *tape, size_t scope, sara_var **keep, int count)
{
    size_t kept = scope;
    for (size_t i = scope; i < tape->scoped_count; i++) {
        sara_var *var = tape->scoped[i];
        if (is_kept(var, keep, count))
            tape->scoped[kept++] = var;
        else
            drop(tape, var);
    }
    tape->scoped_count = kept;
}

/* --------------------------------------------------------------------------------- gradients */

sara_status sara_tape_grad_fresh(sara_tape *tape, float **out, bool *fresh, sara_var *var)
{
    sara_var *owner = root(var);
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
        memset(*out, 0, (size_t)sara_shape_count(&var->shape) * sizeof(**out));
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

bool sara_tape_wants(const sara_tape *tape, sara_var *const *in, int in_count,
                     sara_param *const *params, int param_count)
{
    if (!tape->recording)
        return false;
    for (int i = 0; i < in_count; i++)
        if (in[i] && in[i]->requires_grad)
            return true;
    for (int i = 0; i < param_count; i++)
        if (params[i] && params[i]->want != SARA_GRAD_NONE)
            return true;
    return false;
}

sara_status sara_tape_add(sara_tape *tape, const sara_node *node, size_t attribute_size)
{
    void *attributes = NULL;
    sara_status status;
    TRY(sara_grow(tape->ctx, &tape->nodes, &tape->node_capacity, tape->node_count + 1,
                  sizeof(*tape->nodes)));
    TRY(sara_arena_alloc(&tape->arena, &attributes, 1, attribute_size));
    if (attribute_size)
        memcpy(attributes, node->attributes, attribute_size);
    tape->nodes[tape->node_count] = *node;
    tape->nodes[tape->node_count++].attributes = attributes;
    for (int i = 0; i < SARA_NODE_VARS; i++)
        if (node->saved[i])
            node->saved[i]->holds++;
    node->out->requires_grad = true;
done:
    return status;
}

/* Runs the nodes from the last down to `first` and takes them off the tape. */
static sara_status run_backward(sara_tape *tape, size_t first)
{
    sara_status status = SARA_OK;
    while (tape->node_count > first) {
        /* Off the tape before it runs: a checkpointed region records its nodes in this place. */
        sara_node node = tape->nodes[--tape->node_count];
        sara_var *owner = root(node.out); /* a region's result may be a view */
        if (owner->grad)
            TRY(node.backward(tape, &node));
        sara_pool_give(&tape->pool, owner->grad);
        owner->grad = NULL;
        for (int i = 0; i < SARA_NODE_VARS; i++)
            if (node.saved[i])
                drop(tape, node.saved[i]);
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
        return sara_fail(tape->ctx, SARA_ERROR_INPUT, "backward: the loss has shape %s, expected [1]",
                         sara_shape_format(&text, &loss->shape));
    TRY(sara_tape_grad(tape, &grad, loss));
    grad[0] += seed;
    bool was = sara_tape_record(tape, false);
    status = run_backward(tape, 0);
    sara_tape_record(tape, was);
done:
    return status;
}

/* ----------------------------------------------------------------------------- checkpointing */

typedef struct region {
    sara_region_fn run;
    void *argument;
    int in_count;
} region;

/* The gradient of a leaf goes to the variable it stands for. */
static void pass_on(sara_tape *tape, sara_var *in, sara_var *leaf)
{
    sara_var *owner = root(in);
    if (!leaf->grad)
        return;
    if (!owner->grad) {
        owner->grad = leaf->grad;
    } else {
        int64_t count = sara_shape_count(&in->shape);
        for (int64_t i = 0; i < count; i++)
            owner->grad[i] += leaf->grad[i];
        sara_pool_give(&tape->pool, leaf->grad);
    }
    leaf->grad = NULL;
}

static sara_status checkpoint_backward(sara_tape *tape, sara_node *node)
{
    const region *r = node->attributes;
    sara_var *leaves[SARA_NODE_VARS] = {NULL}, *out = NULL;
    size_t scope = sara_tape_open(tape), first = tape->node_count;
    sara_status status;
    for (int i = 0; i < r->in_count; i++)
        TRY(sara_tape_leaf(tape, &leaves[i], &node->in[i]->shape, node->in[i]->data,
                           node->in[i]->requires_grad));
    sara_tape_record(tape, true);
    status = r->run(tape, &out, leaves, r->argument);
    sara_tape_record(tape, false);
    if (status != SARA_OK)
        goto done;
    root(out)->grad = root(node->out)->grad;
    root(node->out)->grad = NULL;
    TRY(run_backward(tape, first));
    for (int i = 0; i < r->in_count; i++)
        pass_on(tape, node->in[i], leaves[i]);
    sara_tape_close(tape, scope, NULL, 0);
done:
    return status;
}

sara_status sara_tape_checkpoint(sara_tape *tape, sara_var **out, sara_region_fn run,
                                 sara_var *const *in, int in_count, const void *argument,
                                 size_t argument_size)
{
    sara_var *result = NULL;
    region attributes = {run, NULL, in_count};
    sara_status status;
    if (!tape->recording)
        return run(tape, out, in, argument);
    TRY(sara_arena_alloc(&tape->arena, &attributes.argument, 1, argument_size));
    if (argument_size)
        memcpy(attributes.argument, argument, argument_size);
    size_t scope = sara_tape_open(tape);
    sara_tape_record(tape, false);
    status = run(tape, &result, in, argument);
    sara_tape_record(tape, true);
    if (status != SARA_OK)
        goto done;
    sara_tape_close(tape, scope, &result, 1);
    sara_node node = {.op = "checkpoint", .backward = checkpoint_backward, .out = result,
                      .attributes = &attributes};
    for (int i = 0; i < in_count; i++)
        node.in[i] = node.saved[i] = in[i];
    TRY(sara_tape_add(tape, &node, sizeof(attributes)));
    *out = result;
done:
    return status;
}
