/* 3x3 correlations of stride 1 with 2.25 times fewer multiplications: Winograd's F(2x2, 3x3).

   A tile of 2x2 outputs is A' [sum over c of (G g G') * (B' d B)] A of 4x4 inputs d, with

     B' = 1  0 -1  0      G = 1    0   0      A' = 1  1  1  0
          0  1  1  0          1/2  1/2 1/2         0  1 -1 -1
          0 -1  1  0          1/2 -1/2 1/2
          0  1  0 -1          0    0   1

   (A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). For each of
   the 16 elements the sums over channels are one matrix product, tiles x channels by channels x
   filters, done by the register tiles of the direct kernel. An output combines the pixels of its
   own window only, so a NaN goes where it would; an infinity may come out as NaN. */
#include "tickets.h"
#include "tile.h"
#include "winograd_transform.h"

static const int64_t FEW_TILES = 64 << 10;     /* 256 KiB: they stay in L2 with their products */
static const int64_t MANY_TILES = 900 << 10;   /* for filters that stream from L3 to meet */
static const int64_t FILTERS_STREAM = 3 << 19; /* 6 MiB of transformed filters */
enum { TOGETHER = 2 };                         /* panels that read an element's tiles in turn */

/* Bands, chunks and splits from the shape alone, as correlate_plan. */
void winograd_plan(struct correlate *p) {
    const int64_t panels = panels_of(p), grid = p->pool ? p->rows & ~1 : p->rows;
    const int64_t row_flops = 2 * p->cols * 4 * p->channels * p->filters;
    const int64_t streams = ELEMENTS * p->channels * p->filters > FILTERS_STREAM;
    const int64_t most_floats = streams ? MANY_TILES : FEW_TILES;
    int64_t band = most(2, round_to(grid, 2));
    while (band > 2 && transformed_floats(p, band, 1) > most_floats)
        band = smaller_band(grid, band, 2);
    p->band = band;
    p->bands = most(1, ceil_div(grid, band));
    p->images_per_chunk = 1;
    if (p->bands == 1) {
        const int64_t fit = most_floats / transformed_floats(p, band, 1);
        p->images_per_chunk = most(1, least(fit, p->images / (streams ? 1 : LEAST_CHUNKS)));
    }
    const int64_t inputs = ceil_div(p->images, p->images_per_chunk) * p->bands * p->groups;
    int64_t splits = 1;
    if (inputs && inputs < LEAST_CHUNKS && inputs * band * row_flops > CHUNK_FLOPS)
        splits = least(panels, ceil_div(LEAST_CHUNKS, inputs));
    p->panels_per_chunk = ceil_div(panels, splits);
    splits = ceil_div(panels, p->panels_per_chunk);
    p->chunks = inputs * splits;
    p->panels = p->groups * panels;
    p->panel_floats = round_up(ELEMENTS * filter_plane(p, PANEL));
    p->shared_bands = splits > 1 ? inputs : 0;
    p->band_floats = round_up(transformed_floats(p, band, p->images_per_chunk));
    const int64_t tiles = p->images_per_chunk * band / 2 * tile_cols(p);
    const struct band d = even_band(p, band, p->images_per_chunk);
    const int64_t pixels = round_up(ceil_div(p->channels, BLOCK) * d.block_pitch);
    const int64_t products = round_up(ELEMENTS * tiles * PANEL * TOGETHER);
    p->scratch_floats = 2 * PANEL + 4 * RUN * PANEL + (splits > 1 ? 0 : p->band_floats) +
                        most(pixels, products);
}

/* The finished pixels of one panel from its products [element, tile, lanes]. */
static void finish_panel(struct work *k, const struct epilogue *e, const float *products,
                         int64_t lanes, int64_t column) {
    const struct correlate *p = k->p;
    const int64_t rows = tile_rows(k), cols = tile_cols(p), width = p->groups * p->filters;
    const int64_t plane = k->images * rows * cols * lanes, relu = p->relu && !p->residual;
    const int64_t plain = !p->pool && e->count == lanes && !e->residual && !e->mask && !e->db;
    for (int64_t row = 0; row < k->images * rows; row++) {
        const int64_t image = row / rows, i = row % rows;
        for (int64_t j = 0; j < cols; j += RUN) {
            const int64_t count = least(RUN, cols - j), pixels = least(2 * count, p->cols - 2 * j);
            const float *from = products + (row * cols + j) * lanes;
            if (plain && pixels == 2 * count && 2 * i + 1 < k->rows) {
                float *out = e->out + (out_pixel(k, image, 2 * i) + 2 * j) * e->out_pitch;
                restore(from, plane, count, lanes, k->bias, relu, out, p->out_w * e->out_pitch,
                        e->out_pitch);
                continue;
            }
            restore(from, plane, count, lanes, k->bias, relu, k->sums, 2 * RUN * lanes, lanes);
            if (p->pool) {
                const int64_t some = least(count, p->out_w - j);
                const int64_t pixel =
                    ((k->image + image) * p->out_h + k->row / 2 + i) * p->out_w + j;
                pool_pair(k->sums, 2 * RUN * lanes, lanes, some, e->count,
                          e->out + pixel * e->out_pitch, e->out_pitch,
                          p->code ? p->code + pixel * width + column : NULL, width);
                continue;
            }
            for (int64_t a = 0; a < least(2, k->rows - 2 * i); a++)
                finish_row(e, k->sums + a * 2 * RUN * lanes, lanes,
                           out_pixel(k, image, 2 * i + a) + 2 * j, pixels);
        }
    }
}

/* The filters of a panel, of one element. */
static const float *filters_at(const struct work *k, int64_t panel, int64_t element) {
    const struct correlate *p = k->p;
    const int64_t lanes = panel_lanes(p->filters - panel * PANEL);
    return p->packed + (k->group * panels_of(p) + panel) * p->panel_floats +
           element * filter_plane(p, lanes);
}

/* The panels [first, last) against all tiles. An element's tiles are read once for all panels. */
static void multiply_panels(struct work *k, int64_t first, int64_t last, float *products) {
    static const int64_t no_offset = 0;
    static const float zeros[PANEL] = {0};
    const struct correlate *p = k->p;
    const int64_t tiles = k->images * tile_rows(k) * tile_cols(p);
    if (!tiles) return;
    for (int64_t i = 0; i < ELEMENTS; i++) {
        for (int64_t panel = first; panel < last; panel++) {
            const int64_t lanes = panel_lanes(p->filters - panel * PANEL);
            const int64_t plane = filter_plane(p, lanes);
            struct tile t = {
                .w = filters_at(k, panel, i),
                .b = zeros,
                .offsets = &no_offset,
                .y_pitch = lanes,
                .runs = 1,
                .channels = p->channels,
            };
            const float *ahead = panel + 1 < last     ? filters_at(k, panel + 1, i)
                                 : i + 1 < ELEMENTS   ? filters_at(k, first, i + 1)
                                 : last < k->end      ? filters_at(k, last, 0)
                                 : k->next_panel >= 0 ? filters_at(k, k->next_panel, 0)
                                                      : NULL;
            if (ahead) t.ahead = (struct lines){(const char *)ahead, (const char *)(ahead + plane)};
            t.ahead_lines = ceil_div(plane * BLOCK, 16 * ceil_div(tiles, TILE) * p->channels);
            float *y = products + (panel - first) * ELEMENTS * tiles * PANEL + i * tiles * lanes;
            for (int64_t at = 0, width; at < tiles; at += width) {
                int64_t start;
                width = group_of(tiles, at, &start);
                t.x[0] = k->packed + i * input_plane(p, tiles) + at * p->channels;
                t.block_pitch = width * BLOCK;
                t.y[0] = y + at * lanes;
                prefetch_lines(&k->next, k->lines_a_tile);
                find_tile(BLOCK, 1, width, lanes / LANES)(&t);
            }
        }
    }
    for (int64_t panel = first; panel < last; panel++) {
        const int64_t count = least(PANEL, p->filters - panel * PANEL);
        const int64_t column = k->group * p->filters + panel * PANEL;
        for (int64_t f = 0; f < PANEL; f++) k->bias[f] = p->b && f < count ? p->b[column + f] : 0;
        const struct epilogue e = panel_epilogue(k, column, count);
        finish_panel(k, &e, products + (panel - first) * ELEMENTS * tiles * PANEL,
                     panel_lanes(count), column);
    }
}

static void multiply_chunk(const struct correlate *p, int64_t chunk, int64_t next, float *scratch) {
    const int64_t splits = ceil_div(panels_of(p), p->panels_per_chunk), input = chunk / splits;
    int64_t panel = chunk % splits * p->panels_per_chunk;
    const int64_t end = least(panels_of(p), panel + p->panels_per_chunk);
    struct work k = place_input(p, input);
    k.end = end;
    k.next_panel = next < p->chunks ? next % splits * p->panels_per_chunk : -1;
    k.bias = scratch;
    k.sums = k.bias + PANEL;
    k.db = p->db ? p->db + chunk * p->groups * p->filters : NULL;
    if (k.db) memset(k.db, 0, (size_t)(p->groups * p->filters) * 4);
    float *products = k.sums + 4 * RUN * PANEL;
    if (p->shared_bands) {
        k.packed = p->inputs + input * p->band_floats;
    } else {
        float *packed = products;
        products += p->band_floats;
        transform_input(&k, products, packed);
        k.packed = packed;
        if (next < p->chunks) {
            const int64_t tiles = most(1, k.images * tile_rows(&k) * tile_cols(p));
            const int64_t calls = ceil_div(tiles, TILE) * ELEMENTS * (end - panel);
            k.next = input_lines(p, next);
            k.lines_a_tile = ceil_div(k.next.end - k.next.at, 64 * calls);
        }
    }
    for (; panel < end; panel += TOGETHER)
        multiply_panels(&k, panel, least(end, panel + TOGETHER), products);
}

/* The filters of calls that say `prepared`. */
void winograd_pack(const struct correlate *p) {
    for (int64_t i = 0; i < p->panels; i++)
        transform_filters(p, i / panels_of(p), i % panels_of(p), p->packed + i * p->panel_floats);
}

/* One thread's share of a call: transform what all chunks read, then run chunks. */
void winograd_run(const struct correlate *p, struct tickets *shared, float *scratch) {
    const int64_t panels = p->prepared ? 0 : p->panels, units = panels + p->shared_bands;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < units;) {
        if (i < panels) {
            transform_filters(p, i / panels_of(p), i % panels_of(p),
                              p->packed + i * p->panel_floats);
        } else {
            struct work k = place_input(p, i - panels);
            float *pixels = scratch + PANEL + 4 * RUN * PANEL;
            transform_input(&k, pixels, p->inputs + (i - panels) * p->band_floats);
        }
        atomic_fetch_add(&shared->first_done, 1);
    }
    wait_for_first(shared, units);
    int64_t chunk = atomic_fetch_add(&shared->second, 1);
    while (chunk < p->chunks) {
        const int64_t next = atomic_fetch_add(&shared->second, 1);
        multiply_chunk(p, chunk, next, scratch);
        chunk = next;
    }
}
