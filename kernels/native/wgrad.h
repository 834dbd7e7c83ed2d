/* The problem that wgrad solves; kernels/native/library.py mirrors it field by field. */
#ifndef CNN_WGRAD_H
#define CNN_WGRAD_H

#include <stdint.h>

/* dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] *
                    x[n, p * step_h + r * gap_h - top, q * step_w + s * gap_w - left, c] */
struct wgrad {
    const float *x, *dy;
    float *out;
    float *partial; /* [parts, panel, block of channels, r, s, channel, lanes], 64-byte aligned */
    int64_t images, height, width, channels, groups, filters; /* channels, filters: of one group */
    int64_t x_pitch, dy_pitch;                                /* floats from pixel to pixel */
    int64_t rows, cols, r, s;                                 /* P, Q, R, S */
    int64_t step_h, step_w, gap_h, gap_w, top, left, edge;
    /* Set by wgrad_plan: */
    int64_t block;                        /* channels that stand together */
    int64_t band, band_images;            /* rows and images that stay in the L1 cache */
    int64_t part_bands, parts, splits;    /* bands of a partial sum; how many; of the panels */
    int64_t part_floats, scratch_floats, chunks;
};

#endif
