/* Weight gradients: outer products of dy and x, summed over pixels in register tiles.

   A chunk is a run of bands (some rows of an image, of one image after the other) against some
   panels of filters, and has a partial sum of its own (its bands are one "part"). A band stays in
   the L1 cache with every tap and channel; the last stage adds the parts in order and turns them
   into KRSC. */
#include "pack.h"
#include "tickets.h"
#include "wgrad.h"
#include "wgrad_tile.h"

static const int64_t L1_FLOATS = 8 << 10;   /* 32 of 48 KiB: a band of x (one block) and of dy */
static const int64_t LEAST_PARTS = 16;       /* chunks that there should be: threads end together */
enum { NARROW = 8 };                         /* fewer channels: a tile runs over taps of a row */
static const int64_t PITCH_OF_ALIASES = 64;  /* pixels farther apart crowd a few sets of the L1 */

static int64_t blocks_of(const struct wgrad *p) { return ceil_div(p->channels, p->block); }
static int64_t filter_panels(const struct wgrad *p) { return ceil_div(p->filters, PANEL); }
static int64_t bands_of(const struct wgrad *p) { return ceil_div(p->rows, most(1, p->band)); }

static struct band wgrad_band(const struct wgrad *p, int64_t rows, int64_t images) {
    struct band d = {.step = 1, .block = p->block, .first_col = -p->left};
    d.rows = (rows - 1) * p->step_h + (p->r - 1) * p->gap_h + 1;
    d.cols = (p->cols - 1) * p->step_w + (p->s - 1) * p->gap_w + 1;
    d.row_pitch = d.cols * d.block;
    d.image_pitch = d.rows * d.row_pitch;
    d.block_pitch = images * d.image_pitch;
    return d;
}

/* Choose bands, parts and splits from the shape alone. */
void wgrad_plan(struct wgrad *p) {
    const int64_t panels = filter_panels(p);
    p->block = p->channels < NARROW ? p->channels : 16;
    const int64_t dy_row = p->cols * PANEL;
    int64_t bands = 1;
    while (bands < p->rows) {
        const int64_t rows = ceil_div(p->rows, bands);
        if (wgrad_band(p, rows, 1).image_pitch + rows * dy_row <= L1_FLOATS) break;
        bands++;
    }
    p->band = ceil_div(p->rows, bands);
    const int64_t one = wgrad_band(p, p->band, 1).image_pitch + p->band * dy_row;
    p->band_images = bands == 1 ? most(1, L1_FLOATS / one) : 1;
    const int64_t taps = p->r * p->s * p->channels;
    p->part_floats = p->groups * panels * taps * PANEL;
    const int64_t x_floats = p->images * p->height * p->width * p->channels * p->groups;
    const int64_t all = p->images * bands_of(p);
    int64_t cheapest = INT64_MAX, busiest = 0;
    for (int64_t splits = 1; splits <= panels; splits++) {
        const int64_t parts = most(1, least(all, ceil_div(LEAST_PARTS, splits * p->groups)));
        const int64_t chunks = least(LEAST_PARTS, parts * splits * p->groups);
        /* Parts are written and read again; splits pack x anew. */
        const int64_t cost = 2 * parts * p->part_floats + splits * x_floats;
        if (chunks < busiest || (chunks == busiest && cost >= cheapest)) continue;
        busiest = chunks;
        cheapest = cost;
        p->splits = splits;
        p->parts = parts;
    }
    p->part_bands = most(1, ceil_div(all, p->parts));
    p->parts = ceil_div(all, p->part_bands);
    p->band_images = least(p->band_images, p->part_bands);
    p->splits = ceil_div(panels, ceil_div(panels, p->splits));
    p->chunks = p->parts * p->groups * p->splits;
    const struct band d = wgrad_band(p, p->band, p->band_images);
    p->scratch_floats = round_up(blocks_of(p) * d.block_pitch + PANEL) +
                        round_up(most(p->band_images * p->band * dy_row, 16 * PANEL));
}

/* The rows [row, row + rows) of dy of some images, one panel: packed, unless it can stay. */
static void place_dy(const struct wgrad *p, const float *dy, int64_t count, struct outer *t,
                     float *packed) {
    const int64_t lanes = panel_lanes(count);
    const int64_t image_pitch = p->rows * p->cols * p->dy_pitch;
    if (count == lanes && p->dy_pitch <= PITCH_OF_ALIASES) {
        t->dy = dy;
        t->dy_step = p->dy_pitch;
        t->dy_row = p->cols * p->dy_pitch;
        t->dy_image = image_pitch;
        return;
    }
    t->dy = packed;
    t->dy_step = lanes;
    t->dy_row = p->cols * lanes;
    t->dy_image = t->rows * t->dy_row;
    for (int64_t image = 0; image < t->images; image++) {
        const float *from = dy + image * image_pitch;
        for (int64_t i = 0; i < t->rows * p->cols; i++, from += p->dy_pitch, packed += lanes)
            for (int64_t f = 0; f < lanes; f += LANES)
                store(packed + f, load_part(from + f, count - f));
    }
}

/* The input of the thread's next band, and how many lines of it to fetch with every tile. */
struct ahead {
    struct lines x, dy;
    int64_t x_lines, dy_lines;
};

static struct ahead look_ahead(const struct wgrad *p, int64_t group, int64_t image, int64_t images,
                               int64_t row, int64_t tiles) {
    const int64_t rows = least(p->band, p->rows - row), top = row * p->step_h - p->top;
    const int64_t from = most(0, least(top, p->height - 1));
    const int64_t below = top + (rows - 1) * p->step_h + (p->r - 1) * p->gap_h;
    const int64_t last = most(0, least(below, p->height - 1)), final = image + images - 1;
    const float *x = p->x + group * p->channels, *dy = p->dy + group * p->filters;
    const float *x_end = x + ((final * p->height + last + 1) * p->width - 1) * p->x_pitch;
    const float *dy_end = dy + ((final * p->rows + row + rows) * p->cols - 1) * p->dy_pitch;
    x += (image * p->height + from) * p->width * p->x_pitch;
    dy += (image * p->rows + row) * p->cols * p->dy_pitch;
    struct ahead a = {
        .x = {(const char *)x, (const char *)(x_end + p->channels)},
        .dy = {(const char *)dy, (const char *)(dy_end + p->filters)},
    };
    a.x_lines = ceil_div(a.x.end - a.x.at, 64 * tiles);
    a.dy_lines = ceil_div(a.dy.end - a.dy.at, 64 * tiles);
    return a;
}

/* Every tap of one block of channels over the band that `t` describes. */
static void run_block(const struct wgrad *p, struct outer t, const struct band *d, int64_t count,
                      int64_t lanes, struct ahead *ahead) {
    const float *x = t.x;
    float *sums = t.sums;
    const int64_t joined = p->channels < NARROW && p->gap_w == 1 ? p->s : 1; /* taps of a run */
    const int64_t run = joined * count, tiles = ceil_div(run, TILE);
    for (int64_t r = 0; r < p->r;) {
        const int64_t at_once = 3 * run <= TILE && p->r - r >= 3 ? 3 : 1;
        for (int64_t s = 0; s < p->s; s += joined) {
            t.x = x + r * p->gap_h * d->row_pitch + s * p->gap_w * d->block;
            t.sums = sums + (r * p->s + s) * count * lanes;
            for (int64_t i = 0; i < tiles; i++) {
                const int64_t width = run / tiles + (i < run % tiles);
                prefetch_lines(&ahead->x, ahead->x_lines);
                prefetch_lines(&ahead->dy, ahead->dy_lines);
                outers[at_once][width][lanes / LANES - 1](&t);
                t.x += width;
                t.sums += width * lanes;
            }
        }
        r += at_once;
    }
}

static void run_bands(const struct wgrad *p, int64_t chunk, float *scratch) {
    const int64_t split = chunk % p->splits, group = chunk / p->splits % p->groups;
    const int64_t part = chunk / p->splits / p->groups, panels = filter_panels(p);
    const int64_t each = ceil_div(panels, p->splits), taps = p->r * p->s;
    const int64_t bands = bands_of(p), step = p->band_images;
    const int64_t first_band = part * p->part_bands;
    const int64_t last = least(p->images * bands, first_band + p->part_bands);
    for (int64_t at = first_band; at < last; at += step) {
        const int64_t image = at / bands, images = least(step, last - at);
        const int64_t row = at % bands * p->band, rows = least(p->band, p->rows - row);
        const struct band d = wgrad_band(p, rows, images);
        for (int64_t i = 0; i < images; i++) {
            const float *x = p->x + (image + i) * p->height * p->width * p->x_pitch;
            pack_band(&d, x + group * p->channels, p->height, p->width, p->x_pitch, p->channels,
                      p->edge, row * p->step_h - p->top, scratch + i * d.image_pitch);
        }
        struct ahead ahead = {.x_lines = 0};
        const int64_t next = at + step;
        if (next < last) {
            const int64_t panels_here = least(panels, (split + 1) * each) - split * each;
            const int64_t tiles = panels_here * taps * ceil_div(p->channels, TILE);
            ahead = look_ahead(p, group, next / bands, least(step, last - next),
                               next % bands * p->band, tiles);
        }
        float *packed_dy = scratch + round_up(blocks_of(p) * d.block_pitch + PANEL);
        const float *dy = p->dy + (image * p->rows + row) * p->cols * p->dy_pitch;
        for (int64_t panel = split * each; panel < least(panels, (split + 1) * each); panel++) {
            const int64_t first = panel * PANEL, count = least(PANEL, p->filters - first);
            const int64_t lanes = panel_lanes(count);
            struct outer t = {
                .images = images,
                .rows = rows,
                .cols = p->cols,
                .x_image = d.image_pitch,
                .x_row = p->step_h * d.row_pitch,
                .x_step = p->step_w * d.block,
                .x_tap_row = p->gap_h * d.row_pitch,
                .add = at > first_band,
            };
            place_dy(p, dy + group * p->filters + first, count, &t, packed_dy);
            float *sums = p->partial + part * p->part_floats +
                          (group * panels + panel) * taps * p->channels * PANEL;
            for (int64_t c = 0; c < p->channels; c += p->block) {
                const int64_t width = least(p->block, p->channels - c);
                t.x = scratch + c / p->block * d.block_pitch;
                t.sums = sums + c * taps * lanes;
                t.sums_tap_row = p->s * width * lanes;
                run_block(p, t, &d, width, lanes, &ahead);
            }
        }
    }
}

/* Add the parts of one panel and one block of channels, in order, into out. */
static void sum_parts(const struct wgrad *p, int64_t unit) {
    const int64_t blocks = blocks_of(p), panels = filter_panels(p), taps = p->r * p->s;
    const int64_t c0 = unit % blocks * p->block, width = least(p->block, p->channels - c0);
    const int64_t panel = unit / blocks % panels, group = unit / blocks / panels;
    const int64_t first = panel * PANEL, count = least(PANEL, p->filters - first);
    const int64_t lanes = panel_lanes(count);
    float total[16][PANEL];
    for (int64_t tap = 0; tap < taps; tap++) {
        const float *from = p->partial + (group * panels + panel) * taps * p->channels * PANEL +
                            (c0 * taps + tap * width) * lanes;
        for (int64_t c = 0; c < width; c++, from += lanes) {
            for (int64_t f = 0; f < lanes; f += LANES) {
                vf sum = {0};
                for (int64_t part = 0; part < p->parts; part++)
                    sum += load(from + part * p->part_floats + f);
                store(total[c] + f, sum);
            }
        }
        const int64_t step = taps * p->channels; /* from filter to filter */
        float *out = p->out + ((group * p->filters + first) * taps + tap) * p->channels + c0;
        for (int64_t f = 0; f < count; f += LANES, out += LANES * step) {
            int64_t c = 0;
            for (; f + LANES <= count && c + LANES <= width; c += LANES)
                transpose(total[c] + f, PANEL, out + c, step);
            for (; c < width; c++)
                for (int64_t i = 0; i < least(LANES, count - f); i++)
                    out[i * step + c] = total[c][f + i];
        }
    }
}

/* One thread's share of a call: chunks of images, then sums of the parts, while there are any. */
void wgrad_run(const struct wgrad *p, struct tickets *shared, float *scratch) {
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        run_bands(p, i, scratch);
        atomic_fetch_add(&shared->first_done, 1);
    }
    wait_for_first(shared, p->chunks);
    const int64_t units = p->groups * filter_panels(p) * blocks_of(p);
    for (int64_t i; (i = atomic_fetch_add(&shared->second, 1)) < units;) sum_parts(p, i);
}
