/* Register tiles of wgrad: A rows of taps x B neighbouring floats of x against NV vectors of dy.

   Per pixel a tile loads NV vectors of dy and broadcasts A * B floats of x; the sums over a band's
   pixels stay in registers. Where C is small, the B floats run on over the taps of a row. */
#ifndef CNN_WGRAD_TILE_H
#define CNN_WGRAD_TILE_H

#include "simd.h"

struct outer {
    const float *x, *dy;
    int64_t images, rows, cols;
    int64_t x_image, x_row, x_step, x_tap_row; /* floats: image, row, pixel of dy; row of taps */
    int64_t dy_image, dy_row, dy_step;
    float *sums; /* [A, B, NV * LANES], rows of taps `sums_tap_row` apart */
    int64_t sums_tap_row;
    int64_t add; /* to what is there; else overwrite it */
};

typedef void outer_function(const struct outer *);

INLINE void run_outer(const struct outer *t, const int A, const int B, const int NV) {
    vf sum[TILE][2];
    UNROLL(32)
    for (int i = 0; i < A * B; i++) {
        UNROLL(2)
        for (int v = 0; v < NV; v++) sum[i][v] = (vf){0};
    }
    const int64_t x_step = t->x_step, dy_step = t->dy_step;
    for (int64_t image = 0; image < t->images; image++) {
        for (int64_t row = 0; row < t->rows; row++) {
            const float *x[3];
            UNROLL(3)
            for (int a = 0; a < A; a++)
                x[a] = t->x + image * t->x_image + row * t->x_row + a * t->x_tap_row;
            const float *dy = t->dy + image * t->dy_image + row * t->dy_row;
            ROLLED
            for (int64_t q = 0; q < t->cols; q++) {
                vf grad[2];
                UNROLL(2)
                for (int v = 0; v < NV; v++) grad[v] = load(dy + v * LANES);
                UNROLL(32)
                for (int i = 0; i < A * B; i++) {
                    const vf pixel = splat(x[i / B][i % B]);
                    UNROLL(2)
                    for (int v = 0; v < NV; v++) sum[i][v] += pixel * grad[v];
                }
                UNROLL(3)
                for (int a = 0; a < A; a++) x[a] += x_step;
                dy += dy_step;
            }
        }
    }
    float *to[3];
    UNROLL(3)
    for (int a = 0; a < A; a++) to[a] = t->sums + a * t->sums_tap_row;
    if (t->add) {
        UNROLL(32)
        for (int i = 0; i < A * B; i++) {
            UNROLL(2)
            for (int v = 0; v < NV; v++)
                sum[i][v] += load(to[i / B] + (i % B * NV + v) * LANES);
        }
    }
    UNROLL(32)
    for (int i = 0; i < A * B; i++) {
        UNROLL(2)
        for (int v = 0; v < NV; v++) store(to[i / B] + (i % B * NV + v) * LANES, sum[i][v]);
    }
}

#define DEFINE_OUTER(A, B, NV)                                                                     \
    static void outer_##A##_##B##_##NV(const struct outer *t) { run_outer(t, A, B, NV); }
#define NAME_OUTER(A, B, NV) [A][B][NV - 1] = outer_##A##_##B##_##NV,

#if TILE == 14
#define OUTERS_OF(F, NV)                                                                           \
    F(1, 1, NV) F(1, 2, NV) F(1, 3, NV) F(1, 4, NV) F(1, 5, NV) F(1, 6, NV) F(1, 7, NV)            \
    F(1, 8, NV) F(1, 9, NV) F(1, 10, NV) F(1, 11, NV) F(1, 12, NV) F(1, 13, NV) F(1, 14, NV)       \
    F(3, 1, NV) F(3, 2, NV) F(3, 3, NV) F(3, 4, NV)
#elif TILE == 6
#define OUTERS_OF(F, NV)                                                                           \
    F(1, 1, NV) F(1, 2, NV) F(1, 3, NV) F(1, 4, NV) F(1, 5, NV) F(1, 6, NV) F(3, 1, NV) F(3, 2, NV)
#endif
#define OUTERS(F) OUTERS_OF(F, 1) OUTERS_OF(F, 2)

OUTERS(DEFINE_OUTER)

static outer_function *const outers[4][TILE + 1][2] = {OUTERS(NAME_OUTER)};

#endif
