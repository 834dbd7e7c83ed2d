/* Forward convolution and dgrad: direct, without im2col, in register tiles.

   A chunk is a band of rows of an image (or a few small images) against some panels of filters. Its
   input is copied once into a padded buffer that stays in L2, so the inner loops have no borders;
   the tiles then walk over it, panel by panel. */
#include "correlate_work.h"
#include "tickets.h"
#include "tile.h"

static int64_t rows_at_once(int64_t cols) {
    for (int64_t rows = 8; rows > 1; rows /= 2)
        if (rows * cols <= TILE) return rows;
    return 1;
}

/* Run the tiles of `rows` grid rows for one panel. Sums go to y (grid rows `y_row` floats apart,
   pixels `y_pitch`), or, where there is an epilogue, through it into out. */
static void run_rows(struct work *k, struct tile *t, int64_t lanes, int64_t row, int64_t rows,
                     float *y, int64_t y_row, int64_t y_pitch, const struct epilogue *e) {
    const int64_t cols = k->p->cols, tiles = ceil_div(cols, TILE);
    const int64_t x_row = k->p->step_h * k->d.row_pitch;
    int64_t image = row / k->rows, i = row % k->rows; /* the row again, as an image and its row */
    t->y_pitch = e ? lanes : y_pitch;
    for (int64_t end = row + rows; row < end;) {
        const float *x[8];
        int64_t pixel[8], at_once = tiles == 1 ? rows_at_once(cols) : 1;
        while (at_once > end - row) at_once /= 2;
        for (int64_t a = 0; a < at_once; a++, i++) {
            if (i == k->rows) image++, i = 0;
            x[a] = k->packed + image * k->d.image_pitch + i * x_row;
            pixel[a] = e ? out_pixel(k, image, i) : 0;
        }
        for (int64_t left = tiles, col = 0; left > 0; left--) {
            const int64_t width = ceil_div(cols - col, left);
            for (int64_t a = 0; a < at_once; a++) {
                t->x[a] = x[a] + col * k->d.block;
                t->y[a] = e ? k->sums + a * width * lanes : y + a * y_row + col * y_pitch;
                if (e) prefetch_row(e, pixel[a] + col * e->every, width);
            }
            prefetch_lines(&k->next, k->lines_a_tile);
            find_tile(k->d.block, at_once, width, lanes / LANES)(t);
            for (int64_t a = 0; e && a < at_once; a++)
                finish_row(e, t->y[a], lanes, pixel[a] + col * e->every, width);
            col += width;
        }
        row += at_once;
        y += at_once * y_row;
    }
}

/* Add the gradient of an edge-padded image, k->sums, onto the pixels that it repeats. */
static void fold(struct work *k, const struct epilogue *e, int64_t lanes) {
    const struct correlate *p = k->p;
    const int64_t bottom = p->rows - p->fold_top - p->out_h;
    const int64_t right = p->cols - p->fold_left - p->out_w;
    float pixel[PANEL];
    for (int64_t h = 0; h < p->out_h; h++) {
        const int64_t top = h ? h + p->fold_top : 0;
        const int64_t last_row = h + p->fold_top + (h + 1 == p->out_h ? bottom : 0);
        for (int64_t w = 0; w < p->out_w; w++) {
            const int64_t left = w ? w + p->fold_left : 0;
            const int64_t last_col = w + p->fold_left + (w + 1 == p->out_w ? right : 0);
            memset(pixel, 0, sizeof pixel);
            for (int64_t i = top; i <= last_row; i++)
                for (int64_t j = left; j <= last_col; j++)
                    for (int64_t f = 0; f < lanes; f++)
                        pixel[f] += k->sums[(i * p->cols + j) * lanes + f];
            finish_row(e, pixel, lanes, (k->image * p->out_h + h) * p->out_w + w, 1);
        }
    }
}

static void run_panel(struct work *k, int64_t panel) {
    const struct correlate *p = k->p;
    const int64_t first = panel * PANEL, count = least(PANEL, p->filters - first);
    const int64_t column = k->group * p->filters + first, lanes = panel_lanes(count);
    const int64_t rows = k->images * k->rows, width = p->groups * p->filters;
    for (int64_t f = 0; f < PANEL; f++) k->bias[f] = p->b && f < count ? p->b[column + f] : 0;
    struct tile t = {
        .w = p->packed + (k->group * panels_of(p) + panel) * p->panel_floats,
        .b = k->bias,
        .offsets = k->offsets,
        .lengths = k->lengths,
        .runs = k->runs,
        .channels = p->channels,
        .block_pitch = k->d.block_pitch,
        .relu = p->relu && !p->residual, /* after the residual, if there is one */
    };
    const int64_t following = panel + 1 < k->end ? panel + 1 : k->next_panel;
    if (panels_of(p) * p->panel_floats > WEIGHTS_STAY && following >= 0) {
        const float *w = p->packed + (k->group * panels_of(p) + following) * p->panel_floats;
        t.ahead = (struct lines){(const char *)w, (const char *)(w + p->panel_floats)};
        const int64_t runs = ceil_div(p->channels, k->d.block) * k->runs;
        const int64_t tiles = ceil_div(k->images * k->rows * p->cols, TILE);
        t.ahead_lines = ceil_div(p->panel_floats, 16 * runs * tiles);
    }
    const struct epilogue e = panel_epilogue(k, column, count);
    if (p->pool) {
        const int64_t sums_row = p->cols * lanes;
        for (int64_t row = 0; row < rows; row += 2) {
            run_rows(k, &t, lanes, row, 2, k->sums, sums_row, lanes, NULL);
            const int64_t image = k->image + row / k->rows, i = (k->row + row % k->rows) / 2;
            const int64_t pixel = (image * p->out_h + i) * p->out_w;
            pool_pair(k->sums, sums_row, lanes, p->out_w, count, e.out + pixel * p->out_pitch,
                      p->out_pitch, p->code ? p->code + pixel * width + column : NULL, width);
        }
    } else if (p->fold) {
        run_rows(k, &t, lanes, 0, rows, k->sums, p->cols * lanes, lanes, NULL);
        fold(k, &e, lanes);
    } else if (count == lanes && !p->residual && !p->mask && !p->db) {
        const int64_t y_row = p->every_h * p->out_w * p->out_pitch;
        for (int64_t i = 0; i < (k->rows == p->out_h ? 1 : k->images); i++) {
            const int64_t some = k->rows == p->out_h ? rows : k->rows;
            float *y = e.out + out_pixel(k, i, 0) * p->out_pitch;
            run_rows(k, &t, lanes, i * k->rows, some, y, y_row, p->every_w * p->out_pitch, NULL);
        }
    } else {
        run_rows(k, &t, lanes, 0, rows, NULL, 0, 0, &e);
    }
}

/* Where each tap begins in the packed band, and how many floats of x it takes: one of few channels
   is joined with its neighbours, so that 3 x 3 taps of 3 channels are 3 runs of 9 floats. */
static void place_taps(struct work *k) {
    const struct correlate *p = k->p;
    const int64_t top = lowest(p->dr, p->taps);
    k->runs = 0;
    for (int64_t t = 0; t < p->taps; t++) {
        const int64_t col = p->ds[t] - k->d.first_col, i = k->runs;
        const int64_t offset = (p->dr[t] - top) * k->d.row_pitch +
                               (col % k->d.step * k->d.cols + col / k->d.step) * k->d.block;
        if (i && p->channels < 4 && offset == k->offsets[i - 1] + k->lengths[i - 1]) {
            k->lengths[i - 1] += p->channels;
            continue;
        }
        k->offsets[i] = offset;
        k->lengths[i] = p->channels;
        k->runs++;
    }
}

static void run_chunk(const struct correlate *p, int64_t chunk, int64_t next, float *scratch) {
    const int64_t splits = ceil_div(panels_of(p), p->panels_per_chunk), input = chunk / splits;
    int64_t panel = chunk % splits * p->panels_per_chunk;
    const int64_t end = least(panels_of(p), panel + p->panels_per_chunk);
    struct work k = place_input(p, input);
    k.end = end;
    k.next_panel = next < p->chunks ? next % splits * p->panels_per_chunk : -1;
    k.offsets = (int64_t *)scratch;
    k.lengths = k.offsets + p->taps;
    k.bias = scratch + round_up(4 * p->taps);
    k.sums = k.bias + PANEL;
    k.db = p->db ? p->db + chunk * p->groups * p->filters : NULL;
    if (k.db) memset(k.db, 0, (size_t)(p->groups * p->filters) * 4);
    place_taps(&k);
    if (p->shared_bands) {
        k.packed = p->inputs + input * p->band_floats;
    } else {
        float *packed = scratch + p->scratch_floats - p->band_floats;
        pack_input(&k, packed);
        k.packed = packed;
        if (next < p->chunks) {
            const int64_t tiles = ceil_div(k.images * k.rows * p->cols, TILE) * (end - panel);
            k.next = input_lines(p, next);
            k.lines_a_tile = ceil_div(k.next.end - k.next.at, 64 * tiles);
        }
    }
    for (; panel < end; panel++) run_panel(&k, panel);
}

/* The filters of calls that say `prepared`. */
void correlate_pack(const struct correlate *p) {
    for (int64_t i = 0; i < p->panels; i++)
        pack_panel(p, i / panels_of(p), i % panels_of(p), p->packed + i * p->panel_floats);
}

/* One thread's share of a call: pack what all chunks read, then run chunks, while there are any. */
void correlate_run(const struct correlate *p, struct tickets *shared, float *scratch) {
    const int64_t panels = p->prepared ? 0 : p->panels, units = panels + p->shared_bands;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < units;) {
        if (i < panels) {
            pack_panel(p, i / panels_of(p), i % panels_of(p), p->packed + i * p->panel_floats);
        } else {
            const struct work k = place_input(p, i - panels);
            pack_input(&k, p->inputs + (i - panels) * p->band_floats);
        }
        atomic_fetch_add(&shared->first_done, 1);
    }
    wait_for_first(shared, units);
    int64_t chunk = atomic_fetch_add(&shared->second, 1);
    while (chunk < p->chunks) {
        const int64_t next = atomic_fetch_add(&shared->second, 1);
        run_chunk(p, chunk, next, scratch);
        chunk = next;
    }
}
