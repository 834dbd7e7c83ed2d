/* Register tiles of the forward kernel: A rows x B columns of pixels against NV vectors of filters.

   Per tap and channel a tile loads NV weight vectors and broadcasts A * B floats of x, each into NV
   multiply-adds: 28 per 16 loads for 14 pixels x 32 filters. Sums never leave the registers. */
#ifndef CNN_TILE_H
#define CNN_TILE_H

#include "simd.h"

struct tile {
    const float *x[8]; /* first pixel of each row, in the packed band */
    float *y[8];       /* and where its sums go */
    int64_t y_pitch;
    const float *w, *b; /* panel [block, tap, channel of the block, NV * LANES]; NV * LANES sums */
    const int64_t *offsets; /* of each run of taps, in floats */
    const int64_t *lengths; /* of each run, in floats; read where CB < 4, else a run is one tap */
    int64_t runs, channels, block_pitch, relu;
    struct lines ahead; /* weights to come: `ahead_lines` of them are fetched with every tap */
    int64_t ahead_lines;
};

typedef void tile_function(struct tile *);

INLINE void run_tile(struct tile *t, const int A, const int B, const int NV, const int CB) {
    vf sum[TILE][2];
    const float *w = t->w;
    UNROLL(32)
    for (int i = 0; i < A * B; i++) {
        UNROLL(2)
        for (int v = 0; v < NV; v++) sum[i][v] = load(t->b + v * LANES);
    }
    for (int64_t first = 0; first < t->channels; first += CB) {
        const int64_t count = least(CB, t->channels - first);
        const int64_t block = first / CB * t->block_pitch;
        for (int64_t k = 0; k < t->runs; k++) {
            const int64_t offset = block + t->offsets[k], length = CB < 4 ? t->lengths[k] : count;
            prefetch_lines(&t->ahead, t->ahead_lines);
            const float *x[8];
            UNROLL(8)
            for (int a = 0; a < A; a++) x[a] = t->x[a] + offset;
            ROLLED
            for (int64_t c = 0; c < length; c++) {
                if (CB < 4) LOAD_AGAIN;
                vf weight[2];
                UNROLL(2)
                for (int v = 0; v < NV; v++) weight[v] = load(w + v * LANES);
                UNROLL(32)
                for (int i = 0; i < A * B; i++) {
                    const vf pixel = splat(x[i / B][i % B * CB + c]);
                    UNROLL(2)
                    for (int v = 0; v < NV; v++) sum[i][v] += pixel * weight[v];
                }
                w += NV * LANES;
            }
        }
    }
    const int64_t y_pitch = t->y_pitch;
    float *y[8];
    UNROLL(8)
    for (int a = 0; a < A; a++) y[a] = t->y[a];
    if (t->relu) {
        UNROLL(32)
        for (int i = 0; i < A * B; i++) {
            UNROLL(2)
            for (int v = 0; v < NV; v++) sum[i][v] = relu(sum[i][v]);
        }
    }
    UNROLL(32)
    for (int i = 0; i < A * B; i++) {
        UNROLL(2)
        for (int v = 0; v < NV; v++) store(y[i / B] + i % B * y_pitch + v * LANES, sum[i][v]);
    }
}

#define DEFINE_TILE(A, B, NV, CB)                                                                  \
    static void tile_##A##_##B##_##NV##_##CB(struct tile *t) { run_tile(t, A, B, NV, CB); }
#define NAME_TILE(A, B, NV, CB) [A][B][NV - 1] = tile_##A##_##B##_##NV##_##CB,

#if TILE == 14
#define TILES_OF(F, NV, CB)                                                                        \
    F(1, 1, NV, CB) F(1, 2, NV, CB) F(1, 3, NV, CB) F(1, 4, NV, CB) F(1, 5, NV, CB)                \
    F(1, 6, NV, CB) F(1, 7, NV, CB) F(1, 8, NV, CB) F(1, 9, NV, CB) F(1, 10, NV, CB)               \
    F(1, 11, NV, CB) F(1, 12, NV, CB) F(1, 13, NV, CB) F(1, 14, NV, CB)                            \
    F(2, 1, NV, CB) F(2, 2, NV, CB) F(2, 3, NV, CB) F(2, 4, NV, CB) F(2, 5, NV, CB)                \
    F(2, 6, NV, CB) F(2, 7, NV, CB) F(4, 1, NV, CB) F(4, 2, NV, CB) F(4, 3, NV, CB) F(8, 1, NV, CB)
#elif TILE == 6
#define TILES_OF(F, NV, CB)                                                                        \
    F(1, 1, NV, CB) F(1, 2, NV, CB) F(1, 3, NV, CB) F(1, 4, NV, CB) F(1, 5, NV, CB)                \
    F(1, 6, NV, CB) F(2, 1, NV, CB) F(2, 2, NV, CB) F(2, 3, NV, CB) F(4, 1, NV, CB)
#endif
#define TILES(F, CB) TILES_OF(F, 1, CB) TILES_OF(F, 2, CB)

TILES(DEFINE_TILE, 1)
TILES(DEFINE_TILE, 3)
TILES(DEFINE_TILE, 4)
TILES(DEFINE_TILE, 16)

static tile_function *const tiles_1[9][TILE + 1][2] = {TILES(NAME_TILE, 1)};
static tile_function *const tiles_3[9][TILE + 1][2] = {TILES(NAME_TILE, 3)};
static tile_function *const tiles_4[9][TILE + 1][2] = {TILES(NAME_TILE, 4)};
static tile_function *const tiles_16[9][TILE + 1][2] = {TILES(NAME_TILE, 16)};

/* Channels that stand together in a packed band, so that pixels lie a constant apart. */
INLINE int64_t channel_block(int64_t channels) {
    return channels == 1 || channels == 3 ? channels : channels <= 4 ? 4 : 16;
}

INLINE tile_function *find_tile(int64_t block, int64_t rows, int64_t cols, int64_t vectors) {
    tile_function *const(*table)[TILE + 1][2] =
        block == 1 ? tiles_1 : block == 3 ? tiles_3 : block == 4 ? tiles_4 : tiles_16;
    return table[rows][cols][vectors - 1];
}

#endif
