/* What happens to finished sums that a tile cannot do in registers. */
#ifndef CNN_EPILOGUE_H
#define CNN_EPILOGUE_H

#include "simd.h"

/* Residual and ReLU (forward), mask and column sums (dgrad); NULL leaves a part out. All pointers
   stand at the first filter of a panel and are indexed by pixel times pitch. */
struct epilogue {
    int64_t count; /* filters of the panel */
    const float *residual, *mask;
    float *out, *db;
    int64_t residual_pitch, mask_pitch, out_pitch;
    int64_t every; /* pixels of out between neighbours of the grid */
    int64_t relu;
};

/* Ask for what finish_row will read, before the sums are formed. */
INLINE void prefetch_row(const struct epilogue *e, int64_t pixel, int64_t cols) {
    for (int64_t j = 0; j < cols; j++) {
        const int64_t at = pixel + j * e->every;
        for (int64_t f = 0; f < e->count; f += 16) {
            if (e->residual) __builtin_prefetch(e->residual + at * e->residual_pitch + f);
            if (e->mask) __builtin_prefetch(e->mask + at * e->mask_pitch + f);
        }
    }
}

enum { RESIDUAL = 1, MASK = 2, DB = 4, RELU = 8, WHOLE = 16 };

INLINE void finish_lanes(const struct epilogue *e, const float *sums, int64_t lanes, int64_t pixel,
                         int64_t cols, int64_t f, const int parts) {
    const int64_t left = parts & WHOLE ? LANES : e->count - f;
    vf total = {0};
    for (int64_t j = 0; j < cols; j++) {
        const int64_t at = pixel + j * e->every;
        vf y = load(sums + j * lanes + f);
        if (parts & RESIDUAL) {
            const float *from = e->residual + at * e->residual_pitch + f;
            y += load_part(from, left);
        }
        if (parts & MASK) {
            const float *from = e->mask + at * e->mask_pitch + f;
            y = keep(~(load_part(from, left) <= 0), y);
        }
        if (parts & RELU) y = relu(y);
        if (parts & DB) total += y;
        store_part(e->out + at * e->out_pitch + f, y, left);
    }
    if (parts & DB) store_part(e->db + f, load_part(e->db + f, left) + total, left);
}

/* Finish `cols` pixels of sums, `lanes` floats each, into the pixels of out from `pixel` on. */
static void finish_row(const struct epilogue *e, const float *sums, int64_t lanes, int64_t pixel,
                       int64_t cols) {
    const int parts = (e->residual ? RESIDUAL : 0) | (e->mask ? MASK : 0) | (e->db ? DB : 0) |
                      (e->relu ? RELU : 0);
    for (int64_t f = 0; f < e->count; f += LANES) {
        const int whole = e->count - f >= LANES ? WHOLE : 0;
        switch (parts | whole) { /* one loop without branches for each combination */
#define CASE(PARTS)                                                                                \
    case PARTS: finish_lanes(e, sums, lanes, pixel, cols, f, PARTS); break;                        \
    case PARTS | WHOLE: finish_lanes(e, sums, lanes, pixel, cols, f, PARTS | WHOLE); break;
            CASE(0)
            CASE(MASK)
            CASE(DB)
            CASE(MASK | DB)
            CASE(RELU)
            CASE(RESIDUAL)
            CASE(RESIDUAL | RELU)
#undef CASE
        }
    }
}

/* Pool two rows of sums (`row_floats` apart, `lanes` floats a pixel) into `cols` pixels: the first
   maximum of each 2 x 2 window, a NaN before any number; code 4 where the maximum is <= 0. */
static void pool_pair(const float *sums, int64_t row_floats, int64_t lanes, int64_t cols,
                      int64_t count, float *out, int64_t out_pitch, int8_t *code,
                      int64_t code_pitch) {
    for (int64_t f = 0; f < count; f += LANES) {
        const int64_t left = count - f;
        for (int64_t j = 0; j < cols; j++) {
            const float *window = sums + 2 * j * lanes + f;
            vf best = load(window);
            vi where = {0};
            for (int32_t i = 1; i < 4; i++) {
                const vf v = load(window + i / 2 * row_floats + i % 2 * lanes);
                const vi wins = (v > best) | ((v != v) & (best == best));
                best = blend(wins, v, best);
                where = (wins & i) | (where & ~wins);
            }
            const vi dead = best <= 0;
            best = keep(~dead, best);
            where = (dead & 4) | (where & ~dead);
            const vb small = __builtin_convertvector(where, vb);
            store_part(out + j * out_pitch + f, best, left);
            if (code && left >= LANES) *(vb_anywhere *)(code + j * code_pitch + f) = small;
            else if (code) memcpy(code + j * code_pitch + f, &small, (size_t)left);
        }
    }
}

#endif
