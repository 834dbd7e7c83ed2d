/* What a chunk of a correlation covers, whichever kernel computes it. */
#ifndef CNN_CORRELATE_WORK_H
#define CNN_CORRELATE_WORK_H

#include "correlate_plan.h"
#include "epilogue.h"

/* One chunk at work: `rows` grid rows of each of `images`, numbered through from 0. */
struct work {
    const struct correlate *p;
    struct band d;
    int64_t group, image, images, row, rows;
    int64_t *offsets, *lengths, runs;
    const float *packed;
    float *bias, *sums; /* sums: a tile, two rows to pool, or an image to fold */
    float *db;
    struct lines next; /* the input of the thread's next chunk: fetched along the way */
    int64_t lines_a_tile;
    int64_t end, next_panel; /* of this chunk; the first of the next one, or -1 */
};

/* The pixel of out that holds the first column of a grid row. */
static int64_t out_pixel(const struct work *k, int64_t image, int64_t i) {
    const struct correlate *p = k->p;
    const int64_t h = p->first_h + (k->row + i) * p->every_h;
    return ((k->image + image) * p->out_h + h) * p->out_w + p->first_w;
}

/* What happens to the sums of a panel of `count` filters, the first of them in `column` of out. */
static struct epilogue panel_epilogue(const struct work *k, int64_t column, int64_t count) {
    const struct correlate *p = k->p;
    return (struct epilogue){
        .count = count,
        .residual = p->residual ? p->residual + column : NULL,
        .mask = p->mask ? p->mask + column : NULL,
        .out = p->out + column,
        .db = k->db ? k->db + column : NULL,
        .residual_pitch = p->residual_pitch,
        .mask_pitch = p->mask_pitch,
        .out_pitch = p->out_pitch,
        .every = p->every_w,
        .relu = p->relu && p->residual,
    };
}

/* What input number `input` covers; inputs run over bands, groups and images. */
static struct work place_input(const struct correlate *p, int64_t input) {
    struct work k = {.p = p, .row = input % p->bands * p->band};
    input /= p->bands;
    k.group = input % p->groups;
    k.image = input / p->groups * p->images_per_chunk;
    k.images = least(p->images_per_chunk, p->images - k.image);
    k.rows = least(p->band, (p->pool ? p->rows & ~1 : p->rows) - k.row);
    k.d = make_band(p, k.rows, k.images);
    return k;
}

static const float *input_row(const struct work *k, int64_t image, int64_t row) {
    return k->p->x + ((k->image + image) * k->p->height + row) * k->p->width * k->p->x_pitch +
           k->group * k->p->channels;
}

static void pack_input(const struct work *k, float *to) {
    const struct correlate *p = k->p;
    const int64_t first = k->row * p->step_h + lowest(p->dr, p->taps);
    for (int64_t i = 0; i < k->images; i++)
        pack_band(&k->d, input_row(k, i, 0), p->height, p->width, p->x_pitch, p->channels, p->edge,
                  first, to + i * k->d.image_pitch);
}

/* The memory that holds an input. */
static struct lines input_lines(const struct correlate *p, int64_t input) {
    const struct work k = place_input(p, input);
    const int64_t first = k.row * p->step_h + lowest(p->dr, p->taps);
    const int64_t from = most(0, least(first, p->height - 1));
    const int64_t last = most(0, least(first + k.d.rows, p->height) - 1);
    const float *end = input_row(&k, k.images - 1, last) + (p->width - 1) * p->x_pitch;
    return (struct lines){(const char *)input_row(&k, 0, from), (const char *)(end + p->channels)};
}

#endif
