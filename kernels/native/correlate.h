/* The problem that `correlate` solves; kernels/native/library.py mirrors it field by field. */
#ifndef CNN_CORRELATE_H
#define CNN_CORRELATE_H

#include "simd.h"

/* Forward, and each phase of dgrad, are one problem: over a grid of outputs (i, j),

     out[i, j, f] = sum over taps t and channels c of
                    weight[f, t, c] * x[i * step_h + dr[t], j * step_w + ds[t], c]

   where x is zero, or its nearest pixel (`edge`), outside the image. */
struct correlate {
    const float *x, *w, *b, *residual, *mask;
    float *out;
    int8_t *code;       /* with `pool`: where each maximum was found, or NULL */
    float *db;          /* [chunks, filters]: sums of out over the pixels of a chunk, or NULL */
    float *packed, *inputs; /* weights and shared inputs as tiles want them, 64-byte aligned */
    const int64_t *dr, *ds, *tap; /* of each tap: offsets into x, and r * S + s in w */
    int64_t taps, filter_area;    /* taps used here; R * S */
    int64_t images, height, width, channels, groups, filters; /* channels, filters: of one group */
    int64_t x_pitch, out_pitch, residual_pitch, mask_pitch;   /* floats from pixel to pixel */
    int64_t rows, cols;                                       /* the grid */
    int64_t step_h, step_w;
    int64_t out_h, out_w, first_h, first_w, every_h, every_w; /* where the grid lies in out */
    int64_t edge, relu, pool, transposed;
    int64_t prepared; /* `packed` is so already: filters that never change */
    int64_t fold, fold_top, fold_left; /* the grid is the edge-padded image: fold it onto out */
    /* Set by correlate_plan: */
    int64_t band, bands, images_per_chunk, panels_per_chunk, chunks;
    int64_t shared_bands, band_floats; /* inputs packed once for all splits */
    int64_t panels, panel_floats, scratch_floats; /* panels: of all groups; sizes: of one */
};

#endif
