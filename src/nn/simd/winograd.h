/* The transforms of F(4x4,3x3) (nn/winograd.h). Interpolation points 0, +-3/4, +-3/2, infinity:
 * with these the error stays within three times that of a direct convolution; with the usual 0,
 * +-1, +-2 it is five times. a, b are the points. */
#define WINO_A  0.75f
#define WINO_B  1.5f
#define WINO_A2 0.5625f     /* a^2 */
#define WINO_B2 2.25f       /* b^2 */
#define WINO_A3 0.421875f   /* a^3 */
#define WINO_B3 3.375f      /* b^3 */
#define WINO_P  1.265625f   /* a^2 b^2 */
#define WINO_S  2.8125f     /* a^2 + b^2 */
#define WINO_NA -1.8984375f /* 2 a^2 (a^2 - b^2) */
#define WINO_NB 7.59375f    /* 2 b^2 (b^2 - a^2) */

/* Keeps the compiler from carrying 36 addresses through a loop, which it would spill. */
INLINE int64_t winograd_step(int64_t step)
{
    __asm__("" : "+r"(step));
    return step;
}

/* Six inputs in a line, at the six points. */
INLINE void winograd_input_line(vf v[6], const vf d[6])
{
    vf even_a = vfma(d[2], vset(-WINO_B2), d[4]), odd_a = vfma(d[1], vset(-WINO_B2), d[3]);
    vf even_b = vfma(d[2], vset(-WINO_A2), d[4]), odd_b = vfma(d[1], vset(-WINO_A2), d[3]);
    v[0] = vfma(d[0], vset(WINO_P), vfma(d[2], vset(-WINO_S), d[4]));
    v[1] = vfma(odd_a, vset(WINO_A), even_a);
    v[2] = vfma(odd_a, vset(-WINO_A), even_a);
    v[3] = vfma(odd_b, vset(WINO_B), even_b);
    v[4] = vfma(odd_b, vset(-WINO_B), even_b);
    v[5] = vfma(d[1], vset(WINO_P), vfma(d[3], vset(-WINO_S), d[5]));
}

/* Three taps in a line, at the six points. */
INLINE void winograd_weight_line(vf u[6], const vf g[3])
{
    vf even_a = vfma(g[2], vset(WINO_A2), g[0]) * vset(1 / WINO_NA);
    vf even_b = vfma(g[2], vset(WINO_B2), g[0]) * vset(1 / WINO_NB);
    u[0] = g[0] * vset(1 / WINO_P);
    u[1] = vfma(g[1], vset(WINO_A / WINO_NA), even_a);
    u[2] = vfma(g[1], vset(-WINO_A / WINO_NA), even_a);
    u[3] = vfma(g[1], vset(WINO_B / WINO_NB), even_b);
    u[4] = vfma(g[1], vset(-WINO_B / WINO_NB), even_b);
    u[5] = g[2];
}

/* Products at the six points back to four outputs in a line. */
INLINE void winograd_output_line(vf y[4], const vf m[6])
{
    vf even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = vfma(odd_a, vset(WINO_A), odd_b * vset(WINO_B));
    y[2] = vfma(even_a, vset(WINO_A2), even_b * vset(WINO_B2));
    y[3] = vfma(odd_a, vset(WINO_A3), vfma(odd_b, vset(WINO_B3), m[5]));
}

FN void winograd_input(float *v, int64_t step, const float *const pixels[36], int64_t count)
{
    for (int64_t c = 0; c < count; c += W) {
        int64_t next = winograd_step(step);
        vf rows[6][6], line[6];
        for (int i = 0; i < 6; i++) {
            UNROLL
            for (int j = 0; j < 6; j++)
                line[j] = vload_n(pixels[i * 6 + j] + c, count - c);
            winograd_input_line(rows[i], line);
        }
        UNROLL
        for (int j = 0; j < 6; j++) {
            vf column[6];
            UNROLL
            for (int i = 0; i < 6; i++)
                column[i] = rows[i][j];
            winograd_input_line(line, column);
            UNROLL
            for (int i = 0; i < 6; i++)
                vstore(v + (i * 6 + j) * next + c, line[i]);
        }
    }
}

FN void winograd_weights(float *u, int64_t step, int64_t u_row, const float *taps, int64_t tap,
                         int64_t taps_row, int64_t rows, int64_t count)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < count; c += W) {
            const float *from = taps + r * taps_row + c;
            float *to = u + r * u_row + c;
            int64_t next = winograd_step(step), from_next = winograd_step(tap);
            vf lines[3][6];
            UNROLL
            for (int i = 0; i < 3; i++) {
                vf g[3];
                UNROLL
                for (int j = 0; j < 3; j++)
                    g[j] = vload(from + (i * 3 + j) * from_next);
                winograd_weight_line(lines[i], g);
            }
            UNROLL
            for (int j = 0; j < 6; j++) {
                vf column[3] = {lines[0][j], lines[1][j], lines[2][j]}, line[6];
                winograd_weight_line(line, column);
                UNROLL
                for (int i = 0; i < 6; i++)
                    vstore(to + (i * 6 + j) * next, line[i]);
            }
        }
}

FN void winograd_output(float *const pixels[16], const float *m, int64_t step, const float *bias,
                        int64_t count, bool accumulate)
{
    for (int64_t c = 0; c < count; c += W) {
        int64_t next = winograd_step(step);
        vf rows[4][6], shift = bias ? vload_n(bias + c, count - c) : vset(0);
        UNROLL
        for (int j = 0; j < 6; j++) {
            vf column[6], line[4];
            UNROLL
            for (int i = 0; i < 6; i++)
                column[i] = vload(m + (i * 6 + j) * next + c);
            winograd_output_line(line, column);
            UNROLL
            for (int i = 0; i < 4; i++)
                rows[i][j] = line[i];
        }
        for (int i = 0; i < 4; i++) {
            vf line[4];
            winograd_output_line(line, rows[i]);
            for (int j = 0; j < 4; j++) {
                float *to = pixels[i * 4 + j];
                if (!to)
                    continue;
                vf y = line[j] + shift;
                if (accumulate)
                    y = y + vload_n(to + c, count - c);
                vstore_n(to + c, y, count - c);
            }
        }
    }
}
