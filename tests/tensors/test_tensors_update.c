/* What other programs write to the tensors or the values between steps; and that a step's bits do
 * not depend on the instruction set. */
#include "tensors/support_tensors.h"

#include <math.h>
#include <stdlib.h>

enum { WRITTEN = 3 * SARA_TENSOR_BLOCK };

typedef struct written {
    uint16_t halves[2 * WRITTEN];
    float floats[2 * WRITTEN], values[WRITTEN], moments[2 * WRITTEN];
    uint32_t positions[WRITTEN];
    int64_t marks[3];
    sara_tensor_entries item;
} written;

static void written_new(written *w, const char *dtype, size_t count)
{
    memset(w, 0, sizeof(*w));
    for (uint32_t i = 0; i < WRITTEN; i++) {
        w->positions[i] = 2 * i + 1;
        w->values[i] = (float)i * 0.37f + 0.1f;
        w->floats[2 * i + 1] = w->values[i];
        w->halves[2 * i + 1] = sara_f32_to_bf16(w->values[i]);
    }
    sara_tensors_marks(w->marks, w->values, count);
    void *data = dtype[0] == 'B' ? (void *)w->halves : (void *)w->floats;
    w->item = (sara_tensor_entries){test_view("w", dtype, data, 2 * WRITTEN),
                                    w->positions,
                                    count,
                                    w->values,
                                    w->moments,
                                    w->moments + WRITTEN,
                                    NULL,
                                    NULL,
                                    w->marks};
}

/* By the header's formula, in other words. */
static void marks_are_weighted_sums_of_bits(void **state)
{
    static written w;
    (void)state;
    written_new(&w, "F32", WRITTEN - 5);
    for (size_t block = 0; block < 3; block++) {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < SARA_TENSOR_BLOCK - (block == 2 ? 5 : 0); i++) {
            int32_t bits;
            memcpy(&bits, &w.values[block * SARA_TENSOR_BLOCK + i], sizeof(bits));
            sum += (uint64_t)bits * ((i + 1) * 2654435761u % 0x80000000u | 1);
        }
        assert_true((uint64_t)w.marks[block] == sum);
    }
}

/* The tensor's are taken where it was written, unless the block's values were; of bf16 the values
 * keep what rounding took from the tensor. */
static void what_others_write_is_followed(void **state)
{
    static const char *const dtypes[] = {"F32", "BF16"};
    static written w;
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 2; k++) {
        written_new(&w, dtypes[k], WRITTEN - 5);
        w.floats[2 * 3 + 1] = 5;
        w.halves[2 * 3 + 1] = sara_f32_to_bf16(5);
        w.floats[2 * 300 + 1] = 5;
        w.halves[2 * 300 + 1] = sara_f32_to_bf16(5);
        w.floats[2] = 5; /* no selected entry */
        w.values[301] = 9;
        assert_ok(ctx, sara_tensors_follow(ctx, &w.item, 1));
        for (size_t i = 0; i < WRITTEN; i++) {
            float expected = i == 3 ? 5 : i == 301 ? 9 : (float)i * 0.37f + 0.1f;
            assert_true(w.values[i] == expected);
        }
        const sara_adamw_options still = {0, 0.9, 0.99, 1e-8, 0, 1, 1, 1};
        assert_ok(ctx, sara_tensors_adamw(ctx, &w.item, 1, &still));
        float put = k ? sara_bf16_to_f32(w.halves[2 * 301 + 1]) : w.floats[2 * 301 + 1];
        assert_true(put == 9);
        int64_t marks[3];
        sara_tensors_marks(marks, w.values, WRITTEN - 5);
        assert_memory_equal(marks, w.marks, sizeof(marks));
    }
    sara_context_free(ctx);
}

/* Two steps between which the tensor is written to, on the instruction set that SARA_SIMD names. */
static void written_steps(written *w, sara_context *ctx, const char *dtype, const char *simd)
{
    static float gradient[WRITTEN], rank[WRITTEN];
    setenv("SARA_SIMD", simd, 1);
    written_new(w, dtype, WRITTEN - 5);
    w->item.gradient = gradient;
    w->item.rank = rank;
    for (size_t i = 0; i < WRITTEN; i++) {
        gradient[i] = sinf((float)i);
        rank[i] = 0.01f * cosf((float)i);
    }
    for (int step = 1; step <= 2; step++) {
        const sara_adamw_options options = {1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 0.7, step};
        w->floats[2 * 300 + 1] *= 2;
        w->halves[2 * 300 + 1]++;
        assert_ok(ctx, sara_tensors_adamw(ctx, &w->item, 1, &options));
    }
    unsetenv("SARA_SIMD");
}

static void wide_steps_have_the_same_bits(void **state)
{
    static const char *const dtypes[] = {"F32", "BF16"};
    static written narrow, wide;
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 2; k++) {
        written_steps(&narrow, ctx, dtypes[k], "generic");
        written_steps(&wide, ctx, dtypes[k], "");
        assert_memory_equal(narrow.values, wide.values, sizeof(wide.values));
        assert_memory_equal(narrow.moments, wide.moments, sizeof(wide.moments));
        assert_memory_equal(narrow.floats, wide.floats, sizeof(wide.floats));
        assert_memory_equal(narrow.halves, wide.halves, sizeof(wide.halves));
        assert_memory_equal(narrow.marks, wide.marks, sizeof(wide.marks));
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_weighted_sums_of_bits),
        cmocka_unit_test(what_others_write_is_followed),
        cmocka_unit_test(wide_steps_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
