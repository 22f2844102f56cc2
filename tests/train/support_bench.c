#include "support_bench.h"

#include <stdio.h>
#include <stdlib.h>

static void note(void *user, sara_log_level level, const char *line)
{
    test_bench_state *f = user;
    int step, steps;
    double seconds, loss;
    (void)level;
    if (sscanf(line, "step %d of %d: %lf s, loss %lf", &step, &steps, &seconds, &loss) != 4)
        return;
    assert_int_equal(step, f->steps + 1);
    assert_int_equal(steps, f->options.steps);
    f->losses[f->steps++] = loss;
    if (step == f->interrupt_at)
        sara_context_interrupt(f->ctx);
}

int test_bench_setup(void **state)
{
    test_bench_state *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    const sara_context_options options = {.threads = 2, .log = note, .user = f};
    assert_ok(f->ctx, sara_context_new(&f->ctx, &options));
    sara_bench_options_init(&f->options);
    f->options.shape = "tiny";
    f->options.latent = 4;
    f->options.steps = 2;
    f->folder = test_folder();
    *state = f;
    return 0;
}

int test_bench_teardown(void **state)
{
    test_bench_state *f = *state;
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

json_t *test_bench_run(test_bench_state *f)
{
    char *text = NULL;
    json_t *report = NULL;
    f->steps = 0;
    assert_ok(f->ctx, sara_bench(f->ctx, &text, &f->options));
    assert_ok(f->ctx, sara_json_parse(f->ctx, &report, text, strlen(text), "report", false));
    sara_free(f->ctx, text);
    return report;
}

double test_bench_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("%s: no number", key);
    return json_number_value(value);
}

double test_bench_number_in(const json_t *report, const char *object, const char *key)
{
    return test_bench_number(json_object_get(report, object), key);
}
