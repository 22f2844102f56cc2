#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#define FD_STEP 1e-5
#define FD_TOLERANCE 1e-6

static double project(test_fd_forward forward, void *problem, double *y, size_t count,
                      const double *dy)
{
    double sum = 0;
    forward(problem, y);
    for (size_t i = 0; i < count; i++)
        sum += dy[i] * y[i];
    return sum;
}

void test_fd_check(test_fd_forward forward, void *problem, size_t y_count, const double *dy,
                   const test_fd_input *inputs, int input_count)
{
    double *y = test_fd_zeros(y_count);
    for (int k = 0; k < input_count; k++) {
        const test_fd_input *input = &inputs[k];
        double error = 0, norm = 0;
        for (size_t i = 0; i < input->count; i++) {
            double kept = input->data[i];
            input->data[i] = kept + FD_STEP;
            double above = project(forward, problem, y, y_count, dy);
            input->data[i] = kept - FD_STEP;
            double below = project(forward, problem, y, y_count, dy);
            input->data[i] = kept;
            double expected = (above - below) / (2 * FD_STEP), d = input->gradient[i] - expected;
            error += d * d;
            norm += expected * expected;
        }
        assert_close(sqrt(error / (norm > 0 ? norm : 1)), FD_TOLERANCE, input->name);
    }
    free(y);
}

double *test_fd_zeros(size_t count)
{
    double *data = calloc(count ? count : 1, sizeof(*data));
    assert_non_null(data);
    return data;
}

double *test_fd_random(size_t count, uint64_t seed)
{
    double *data = test_fd_zeros(count);
    float *draws = malloc((count ? count : 1) * sizeof(*draws));
    assert_non_null(draws);
    sara_draw_normal(draws, count, seed, SARA_DRAW_TEST, 0);
    for (size_t i = 0; i < count; i++)
        data[i] = draws[i];
    free(draws);
    return data;
}
