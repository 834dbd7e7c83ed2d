/* The transforms of Winograd's F(2x2, 3x3), from and to the layouts around it. */
#ifndef CNN_WINOGRAD_TRANSFORM_H
#define CNN_WINOGRAD_TRANSFORM_H

#include "correlate_work.h"

/* Elements of a transformed tile; channels of a block; tiles that are restored together. */
enum { ELEMENTS = 16, BLOCK = 16, RUN = 16 };

static int64_t tile_rows(const struct work *k) { return ceil_div(k->rows, 2); }
static int64_t tile_cols(const struct correlate *p) { return ceil_div(p->cols, 2); }

/* Floats of one element's matrix: a line more than it holds, or all 16 would share cache sets. */
static int64_t input_plane(const struct correlate *p, int64_t tiles) {
    return tiles * p->channels + BLOCK;
}
static int64_t filter_plane(const struct correlate *p, int64_t lanes) {
    return p->channels * lanes + BLOCK;
}

static struct band even_band(const struct correlate *p, int64_t rows, int64_t images) {
    struct correlate even = *p;
    even.cols = round_to(p->cols, 2);
    return make_band(&even, round_to(rows, 2), images);
}

static int64_t transformed_floats(const struct correlate *p, int64_t rows, int64_t images) {
    return ELEMENTS * input_plane(p, images * ceil_div(rows, 2) * tile_cols(p));
}

/* The filters of a panel, G g G': [element, channel, lanes]. */
static void transform_filters(const struct correlate *p, int64_t group, int64_t panel, float *to) {
    const int64_t first = panel * PANEL, count = least(PANEL, p->filters - first);
    const int64_t lanes = panel_lanes(count), plane = filter_plane(p, lanes);
    const int64_t step = 9 * p->channels; /* from filter to filter */
    float g[9][BLOCK][PANEL];
    for (int64_t c0 = 0; c0 < p->channels; c0 += BLOCK) {
        for (int64_t t = 0; t < 9; t++) {
            const int64_t row = p->dr[t] - lowest(p->dr, 9), col = p->ds[t] - lowest(p->ds, 9);
            float(*to_tap)[PANEL] = g[3 * row + col];
            if (p->transposed) { /* w is [channel, tap, filter] for this problem */
                const float *from =
                    p->w + ((group * p->channels + c0) * 9 + p->tap[t]) * p->filters + first;
                for (int64_t c = 0; c < BLOCK; c++, from += 9 * p->filters)
                    for (int64_t f = 0; f < lanes; f += LANES)
                        store(to_tap[c] + f, load_part(from + f, count - f));
                continue;
            }
            const float *from =
                p->w + ((group * p->filters + first) * 9 + p->tap[t]) * p->channels + c0;
            for (int64_t f = 0; f < lanes; f += LANES, from += LANES * step) {
                if (f + LANES <= count) {
                    for (int64_t c = 0; c < BLOCK; c += LANES)
                        transpose(from + c, step, to_tap[c] + f, PANEL);
                    continue;
                }
                for (int64_t c = 0; c < BLOCK; c++)
                    for (int64_t i = 0; i < LANES; i++)
                        to_tap[c][f + i] = f + i < count ? from[i * step + c] : 0;
            }
        }
        for (int64_t c = 0; c < BLOCK; c++) {
            for (int64_t f = 0; f < lanes; f += LANES) {
                float *out = to + (c0 + c) * lanes + f;
                vf rows[4][3];
                UNROLL(3)
                for (int j = 0; j < 3; j++) {
                    const vf top = load(g[j][c] + f), low = load(g[6 + j][c] + f);
                    const vf middle = load(g[3 + j][c] + f);
                    const vf outer = (top + low) * 0.5f;
                    rows[0][j] = top;
                    rows[1][j] = outer + middle * 0.5f;
                    rows[2][j] = outer - middle * 0.5f;
                    rows[3][j] = low;
                }
                UNROLL(4)
                for (int i = 0; i < 4; i++) {
                    const vf outer = (rows[i][0] + rows[i][2]) * 0.5f;
                    store(out + (4 * i + 0) * plane, rows[i][0]);
                    store(out + (4 * i + 1) * plane, outer + rows[i][1] * 0.5f);
                    store(out + (4 * i + 2) * plane, outer - rows[i][1] * 0.5f);
                    store(out + (4 * i + 3) * plane, rows[i][2]);
                }
            }
        }
    }
}

/* B' d of one column of four pixels, `row_pitch` floats apart. */
INLINE void difference(const float *from, int64_t row_pitch, vf *to) {
    const vf a = load(from), b = load(from + row_pitch);
    const vf c = load(from + 2 * row_pitch), d = load(from + 3 * row_pitch);
    to[0] = a - c;
    to[1] = b + c;
    to[2] = c - b;
    to[3] = b - d;
}

/* Tiles that one call of a register tile takes, and where in an element's matrix they stand. */
static int64_t group_of(int64_t tiles, int64_t tile, int64_t *first) {
    const int64_t groups = ceil_div(tiles, TILE), large = tiles % groups, width = tiles / groups;
    const int64_t larger = least(tile / (width + 1), large); /* groups of width + 1 come first */
    if (larger < large) {
        *first = larger * (width + 1);
        return width + 1;
    }
    *first = tile - (tile - large) % width;
    return width;
}

/* The tiles of an input, B' d B: [element, group of tiles, block of channels, tile of the group,
   channel of the block]. */
static void transform_input(struct work *k, float *pixels, float *to) {
    const struct correlate *p = k->p;
    const int64_t rows = tile_rows(k), cols = tile_cols(p), tiles = k->images * rows * cols;
    const int64_t plane = input_plane(p, tiles);
    k->d = even_band(p, k->rows, k->images);
    pack_input(k, pixels);
    for (int64_t c0 = 0; c0 < p->channels; c0 += BLOCK) {
        for (int64_t row = 0; row < k->images * rows; row++) {
            const float *from = pixels + c0 / BLOCK * k->d.block_pitch +
                                row / rows * k->d.image_pitch + 2 * (row % rows) * k->d.row_pitch;
            for (int64_t v = 0; v < BLOCK; v += LANES) {
                const float *x = from + v;
                vf d[4][4]; /* [column, element] */
                difference(x, k->d.row_pitch, d[0]);
                difference(x + BLOCK, k->d.row_pitch, d[1]);
                for (int64_t j = 0; j < cols; j++) {
                    difference(x + (2 * j + 2) * BLOCK, k->d.row_pitch, d[2]);
                    difference(x + (2 * j + 3) * BLOCK, k->d.row_pitch, d[3]);
                    int64_t first;
                    const int64_t at = row * cols + j, width = group_of(tiles, at, &first);
                    float *tile = to + first * p->channels + c0 * width + (at - first) * BLOCK + v;
                    UNROLL(4)
                    for (int i = 0; i < 4; i++) {
                        store(tile + (4 * i + 0) * plane, d[0][i] - d[2][i]);
                        store(tile + (4 * i + 1) * plane, d[1][i] + d[2][i]);
                        store(tile + (4 * i + 2) * plane, d[2][i] - d[1][i]);
                        store(tile + (4 * i + 3) * plane, d[1][i] - d[3][i]);
                        d[0][i] = d[2][i];
                        d[1][i] = d[3][i];
                    }
                }
            }
        }
    }
}

/* A' m A + bias of `count` tiles, `plane` floats from element to element, as two rows of pixels,
   `row` floats apart, `pixel` floats from one to the next. */
static void restore(const float *m, int64_t plane, int64_t count, int64_t lanes, const float *bias,
                    int64_t relu_too, float *sums, int64_t row, int64_t pixel) {
    for (int64_t f = 0; f < lanes; f += LANES) {
        const vf b = load(bias + f);
        for (int64_t j = 0; j < count; j++) {
            const float *from = m + j * lanes + f;
            vf rows[2][4];
            UNROLL(4)
            for (int i = 0; i < 4; i++) {
                const vf m0 = load(from + i * plane), m1 = load(from + (4 + i) * plane);
                const vf m2 = load(from + (8 + i) * plane), m3 = load(from + (12 + i) * plane);
                rows[0][i] = m0 + m1 + m2;
                rows[1][i] = m1 - m2 - m3;
            }
            UNROLL(2)
            for (int i = 0; i < 2; i++) {
                vf left = rows[i][0] + rows[i][1] + rows[i][2] + b;
                vf right = rows[i][1] - rows[i][2] - rows[i][3] + b;
                if (relu_too) left = relu(left), right = relu(right);
                float *to = sums + i * row + 2 * j * pixel + f;
                store(to, left);
                store(to + pixel, right);
            }
        }
    }
}

#endif
