/* Packing: weights into panels of filters, bands of images into padded blocks of channels. */
#ifndef CNN_PACK_H
#define CNN_PACK_H

#include "correlate.h"
#include "tile.h"

/* One panel: [block of channels, tap, channel of the block, lanes], lanes beyond the filters zero.
   Lanes are PANEL, or LANES where the last panel of a group has no more filters than that. */
INLINE int64_t panel_lanes(int64_t filters_left) { return filters_left > LANES ? PANEL : LANES; }

static void pack_panel(const struct correlate *p, int64_t group, int64_t panel, float *to) {
    const int64_t first = panel * PANEL, count = least(PANEL, p->filters - first);
    const int64_t lanes = panel_lanes(count), block = channel_block(p->channels);
    if (count < lanes && !p->transposed)
        memset(to, 0, (size_t)(p->channels * p->taps * lanes) * 4);
    for (int64_t t = 0; t < p->taps; t++) {
        if (p->transposed) { /* w is [channel, tap, filter] for this problem */
            for (int64_t c = 0; c < p->channels; c++) {
                const int64_t row = (group * p->channels + c) * p->filter_area + p->tap[t];
                const int64_t c0 = c / block * block, width = least(block, p->channels - c0);
                const float *from = p->w + row * p->filters + first;
                float *line = to + (c0 * p->taps + t * width + c - c0) * lanes;
                for (int64_t f = 0; f < lanes; f += LANES)
                    store(line + f, load_part(from + f, count - f));
            }
            continue;
        }
        for (int64_t f = 0; f < count; f += LANES) { /* rows of w are read along the channels */
            const int64_t row = (group * p->filters + first + f) * p->filter_area + p->tap[t];
            const float *from = p->w + row * p->channels;
            const int64_t step = p->filter_area * p->channels, some = least(LANES, count - f);
            for (int64_t c0 = 0; c0 < p->channels; c0 += block) {
                const int64_t width = least(block, p->channels - c0);
                float *square = to + (c0 * p->taps + t * width) * lanes + f;
                int64_t c = 0;
                for (; some == LANES && c + LANES <= width; c += LANES)
                    transpose(from + c0 + c, step, square + c * lanes, lanes);
                for (; c < width; c++)
                    for (int64_t i = 0; i < some; i++)
                        square[c * lanes + i] = from[i * step + c0 + c];
            }
        }
    }
}

/* A band of one image, padded: [block of channels, row, phase, column, channel of the block], where
   phases split the columns by their remainder modulo `step`, so that neighbours on the output grid
   are neighbours here for every stride. */
struct band {
    int64_t rows, cols, step; /* cols: of one phase */
    int64_t block, row_pitch, image_pitch, block_pitch; /* channels; floats */
    int64_t first_col;
};

/* Copy `count` floats from every `from_step`-th place to every `to_step`-th, `pixels` times. */
INLINE void copy_pixels(const float *from, int64_t from_step, float *to, int64_t to_step,
                        int64_t pixels, int64_t count) {
    if (count == 16) {
        for (int64_t j = 0; j < pixels; j++) memcpy(to + j * to_step, from + j * from_step, 64);
    } else if (count == from_step && count == to_step) {
        memcpy(to, from, (size_t)(pixels * count) * 4);
    } else if (count == 3 && from_step) { /* a fourth float gives way to the next pixel's first */
        for (; pixels > 1; pixels--, to += to_step, from += from_step) memcpy(to, from, 16);
        if (pixels) memcpy(to, from, 12);
    } else {
        for (int64_t j = 0; j < pixels; j++)
            for (int64_t c = 0; c < count; c++) to[j * to_step + c] = from[j * from_step + c];
    }
}

/* Zero `pixels` pixels of `block` floats; few at a time, so no call. */
INLINE void zero_pixels(float *to, int64_t pixels, int64_t block) {
    if (block == 16)
        for (int64_t j = 0; j < pixels; j++) memset(to + j * 16, 0, 64);
    else
        for (int64_t j = 0; j < pixels * block; j++) to[j] = 0;
}

/* Pack one row of x, or zeros where `from` is NULL. */
static void pack_row(const struct band *d, const float *from, int64_t width, int64_t pitch,
                     int64_t channels, int64_t edge, float *to) {
    const int64_t block = d->block, step = d->step;
    for (int64_t phase = 0; phase < step; phase++, to += d->cols * block) {
        const int64_t first = d->first_col + phase; /* the column of x at j = 0 */
        int64_t before = most(0, -first), inside = most(0, width - first);
        if (step > 1) before = ceil_div(before, step), inside = ceil_div(inside, step);
        before = from ? least(before, d->cols) : d->cols;
        const int64_t end = most(before, least(d->cols, inside));
        float *row = to;
        for (int64_t c0 = 0; c0 < channels; c0 += block, row += d->block_pitch) {
            const int64_t count = least(block, channels - c0);
            if (from)
                copy_pixels(from + (first + before * step) * pitch + c0, step * pitch,
                            row + before * block, block, end - before, count);
            if (from && edge) {
                copy_pixels(from + c0, 0, row, block, before, count);
                copy_pixels(from + (width - 1) * pitch + c0, 0, row + end * block, block,
                            d->cols - end, count);
            } else {
                zero_pixels(row, before, block);
                zero_pixels(row + end * block, d->cols - end, block);
            }
        }
    }
}

/* Pack the rows [first_row, first_row + d->rows) of one image; `x` points at its first pixel. */
static void pack_band(const struct band *d, const float *x, int64_t height, int64_t width,
                      int64_t pitch, int64_t channels, int64_t edge, int64_t first_row,
                      float *to) {
    for (int64_t i = 0; i < d->rows; i++) {
        int64_t h = first_row + i;
        if (edge) h = most(0, least(h, height - 1));
        const float *from = h < 0 || h >= height ? NULL : x + h * width * pitch;
        pack_row(d, from, width, pitch, channels, edge, to + i * d->row_pitch);
    }
}

#endif
