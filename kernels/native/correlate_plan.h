/* Which part of a problem is a chunk, and how much memory it takes. */
#ifndef CNN_CORRELATE_PLAN_H
#define CNN_CORRELATE_PLAN_H

#include "correlate.h"
#include "pack.h"

static const int64_t CHUNK_FLOPS = 16 << 20;   /* 0.1 ms or so: handing it out costs nothing */
static const int64_t LEAST_CHUNKS = 24;        /* so that threads end together */
static const int64_t WEIGHTS_STAY = 256 << 10; /* 1 MiB: more weights than this leave L2 */
static const int64_t BAND_FLOATS = 160 << 10;  /* 640 KiB: a packed band stays in L2 */

static int64_t lowest(const int64_t *values, int64_t count) {
    int64_t result = count ? values[0] : 0;
    for (int64_t i = 1; i < count; i++) result = least(result, values[i]);
    return result;
}

static int64_t highest(const int64_t *values, int64_t count) {
    int64_t result = count ? values[0] : 0;
    for (int64_t i = 1; i < count; i++) result = most(result, values[i]);
    return result;
}

static struct band make_band(const struct correlate *p, int64_t rows, int64_t images) {
    const int64_t dr = highest(p->dr, p->taps) - lowest(p->dr, p->taps);
    const int64_t first = lowest(p->ds, p->taps), ds = highest(p->ds, p->taps) - first;
    struct band d = {.step = p->step_w, .first_col = first};
    d.rows = (rows - 1) * p->step_h + dr + 1;
    d.cols = p->cols + ds / p->step_w;
    d.block = channel_block(p->channels);
    d.row_pitch = d.step * d.cols * d.block;
    d.image_pitch = d.rows * d.row_pitch;
    d.block_pitch = images * d.image_pitch;
    return d;
}

static int64_t band_floats(const struct correlate *p, int64_t rows, int64_t images) {
    const struct band d = make_band(p, rows, images);
    return ceil_div(p->channels, d.block) * d.block_pitch + 16;
}

static int64_t panels_of(const struct correlate *p) { return ceil_div(p->filters, PANEL); }

/* One band more, all about equally high, in whole units. */
static int64_t smaller_band(int64_t rows, int64_t band, int64_t unit) {
    return least(band - unit, round_to(ceil_div(rows, ceil_div(rows, band) + 1), unit));
}

/* Choose bands and chunks from the shape alone, so that bits do not depend on the threads.

   Bands are as high as the L2 cache lets them be: every band reads all weights again. */
void correlate_plan(struct correlate *p) {
    const int64_t panels = panels_of(p), grid = p->pool ? p->rows & ~1 : p->rows;
    const int64_t unit = p->pool ? 2 : 1; /* rows that stay together */
    const int64_t row_flops = 2 * p->cols * (p->taps + 1) * p->channels * p->filters;
    int64_t band = most(unit, grid);
    while (!p->fold && band > unit && band_floats(p, band, 1) > BAND_FLOATS)
        band = smaller_band(grid, band, unit);
    while (!p->fold && band > unit && band * row_flops > CHUNK_FLOPS / 4 &&
           p->images * p->groups * ceil_div(grid, band) * panels < LEAST_CHUNKS)
        band = smaller_band(grid, band, unit);
    p->band = band;
    p->bands = most(1, ceil_div(grid, band));
    p->images_per_chunk = 1;
    if (p->bands == 1 && !p->fold) {
        int64_t images = CHUNK_FLOPS / most(1, row_flops * p->rows);
        images = least(images, BAND_FLOATS / band_floats(p, p->band, 1));
        p->images_per_chunk = most(1, least(images, p->images / LEAST_CHUNKS));
    }
    const int64_t inputs = ceil_div(p->images, p->images_per_chunk) * p->bands * p->groups;
    int64_t splits = 1;
    if (inputs && inputs < LEAST_CHUNKS && !p->fold && inputs * p->band * row_flops > CHUNK_FLOPS)
        splits = least(panels, ceil_div(LEAST_CHUNKS, inputs));
    p->panels_per_chunk = ceil_div(panels, splits);
    splits = ceil_div(panels, p->panels_per_chunk);
    p->chunks = inputs * splits;
    p->panels = p->groups * panels;
    p->panel_floats = p->channels * p->taps * PANEL;
    p->shared_bands = splits > 1 ? inputs : 0;
    p->band_floats = round_up(band_floats(p, p->band, p->images_per_chunk));
    const int64_t pixels = p->fold ? p->rows * p->cols : p->pool ? 2 * p->cols : TILE;
    p->scratch_floats = round_up(4 * p->taps) + PANEL + (splits > 1 ? 0 : p->band_floats) +
                        round_up(pixels * PANEL);
}

#endif
