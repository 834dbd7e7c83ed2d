/* Max and average pools and their gradients: every pixel of out asks the pixels of its windows.

   Whom it asks stands in two lists: pixel (i, j) asks every x pixel whose row is in row i's list and
   whose column is in column j's, in that order. Forward they are the taps of one window, padding
   left out; in a gradient, where x is dy, the windows that the pixel lies in. So each pixel of out
   is written once, from registers, and what it adds has a fixed order. */
#include "channels.h"
#include "simd.h"
#include "tickets.h"

/* kernels/native/pool.py has a dtype for it. */
struct ask {
    int32_t at, tap; /* row or column of x; its part of the tap's number */
    float share;     /* what a value counts: 1 / rows or columns in its window */
};

/* kernels/native/library.py mirrors this field by field. */
struct pool {
    const float *x;
    int8_t *code; /* of a max pool: tap of each maximum, or NULL; its gradient reads it */
    float *out;
    const struct ask *row_asks, *col_asks;
    const int64_t *row_first, *col_first; /* [rows + 1] and [cols + 1]: where each list begins */
    int64_t images, x_rows, x_cols, rows, cols, channels;
    int64_t x_pitch, out_pitch, kind;
    int64_t rows_per_chunk, chunks; /* set by pool_plan */
};

enum { MAXIMUM, MAXIMUM_GRADIENT, AVERAGE };

static const int64_t CHUNK_VALUES = 32 << 10; /* values of x that a chunk asks for */

/* Choose chunks from the shape alone. */
void pool_plan(struct pool *p) {
    const int64_t asked = p->row_first[p->rows] * p->col_first[p->cols] * p->channels;
    p->rows_per_chunk = most(1, CHUNK_VALUES / most(1, asked / most(1, p->rows)));
    p->chunks = ceil_div(p->images * p->rows, p->rows_per_chunk);
}

/* Whom one pixel of out asks. */
struct window {
    const struct ask *row, *row_end, *col, *col_end;
    int64_t x_line, out; /* first row of x's image among all; pixel of out */
    vf sum;              /* of all that a max pool has seen: NaN if any of it was */
};

INLINE int64_t x_pixel(const struct pool *p, const struct window *w, const struct ask *row) {
    return (w->x_line + row->at) * p->x_cols;
}

/* The first maximum. Only if `careful` does a NaN win, the first one, which nothing beats. */
INLINE void maximum(const struct pool *p, struct window *w, const int coded, const int careful,
                    int64_t c, const int vectors, const int64_t count) {
    vf best[WIDE], sum[WIDE] = {{0}};
    vi where[WIDE];
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        best[i] = splat(-__builtin_inff());
        where[i] = (vi){0} + (w->row->tap + w->col->tap);
    }
    for (const struct ask *row = w->row; row < w->row_end; row++) {
        const float *line = p->x + x_pixel(p, w, row) * p->x_pitch + c;
        for (const struct ask *col = w->col; col < w->col_end; col++) {
            const float *x = line + col->at * p->x_pitch;
            const int32_t tap = row->tap + col->tap;
            UNROLL(4)
            for (int i = 0; i < vectors; i++) {
                const vf v = load_part(x + i * LANES, count);
                const vi wins = careful ? ~(v <= best[i]) & (best[i] == best[i]) : v > best[i];
                best[i] = blend(wins, v, best[i]);
                if (coded) where[i] = (wins & tap) | (where[i] & ~wins);
                if (!careful) sum[i] += v;
            }
        }
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        store_part(p->out + w->out * p->out_pitch + c + i * LANES, best[i], count);
        if (coded) store_code(p->code + w->out * p->channels + c + i * LANES, where[i], count);
        if (!careful) w->sum += sum[i];
    }
}

/* The sum of dy over the windows whose code names this pixel. */
INLINE void maximum_gradient(const struct pool *p, const struct window *w, int64_t c,
                             const int vectors, const int64_t count) {
    vf total[WIDE] = {{0}};
    for (const struct ask *row = w->row; row < w->row_end; row++) {
        const int64_t line = x_pixel(p, w, row);
        for (const struct ask *col = w->col; col < w->col_end; col++) {
            const float *dy = p->x + (line + col->at) * p->x_pitch + c;
            const int8_t *code = p->code + (line + col->at) * p->channels + c;
            const int32_t tap = row->tap + col->tap;
            UNROLL(4)
            for (int i = 0; i < vectors; i++) {
                const vi named = load_code(code + i * LANES, count) == tap;
                total[i] += keep(named, load_part(dy + i * LANES, count));
            }
        }
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++)
        store_part(p->out + w->out * p->out_pitch + c + i * LANES, total[i], count);
}

/* The sum of what each value shares, first along the rows. */
INLINE void average(const struct pool *p, const struct window *w, int64_t c, const int vectors,
                    const int64_t count) {
    vf total[WIDE] = {{0}};
    for (const struct ask *row = w->row; row < w->row_end; row++) {
        const float *line = p->x + x_pixel(p, w, row) * p->x_pitch + c;
        vf part[WIDE] = {{0}};
        for (const struct ask *col = w->col; col < w->col_end; col++) {
            const float *x = line + col->at * p->x_pitch;
            UNROLL(4)
            for (int i = 0; i < vectors; i++)
                part[i] += load_part(x + i * LANES, count) * col->share;
        }
        UNROLL(4)
        for (int i = 0; i < vectors; i++) total[i] += part[i] * row->share;
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++)
        store_part(p->out + w->out * p->out_pitch + c + i * LANES, total[i], count);
}

INLINE void pool_line(const struct pool *p, struct window *w, int64_t line, const int kind,
                      const int coded, const int careful) {
    for (int64_t col = 0; col < p->cols; col++) {
        w->col = p->col_asks + p->col_first[col];
        w->col_end = p->col_asks + p->col_first[col + 1];
        w->out = line * p->cols + col;
        if (kind == MAXIMUM) FOR_CHANNELS(maximum, p, w, coded, careful);
        else if (kind == MAXIMUM_GRADIENT) FOR_CHANNELS(maximum_gradient, p, w);
        else FOR_CHANNELS(average, p, w);
    }
}

static int has_nan(vf v) {
    const vi wrong = v != v;
    int32_t any = 0;
    for (int i = 0; i < LANES; i++) any |= wrong[i];
    return any != 0;
}

/* Row `line` of out, counted through all images. */
static void pool_row(const struct pool *p, int64_t line) {
    const int64_t image = line / p->rows, row = line % p->rows;
    struct window w = {.row = p->row_asks + p->row_first[row],
                       .row_end = p->row_asks + p->row_first[row + 1],
                       .x_line = image * p->x_rows};
    if (p->kind == AVERAGE) pool_line(p, &w, line, AVERAGE, 0, 0);
    else if (p->kind == MAXIMUM_GRADIENT) pool_line(p, &w, line, MAXIMUM_GRADIENT, 0, 0);
    else if (p->code) pool_line(p, &w, line, MAXIMUM, 1, 0);
    else pool_line(p, &w, line, MAXIMUM, 0, 0);
    if (p->kind != MAXIMUM || !has_nan(w.sum)) return;
    if (p->code) pool_line(p, &w, line, MAXIMUM, 1, 1);
    else pool_line(p, &w, line, MAXIMUM, 0, 1);
}

/* One thread's share of a call. */
void pool_run(const struct pool *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        const int64_t end = least(p->images * p->rows, (i + 1) * p->rows_per_chunk);
        for (int64_t line = i * p->rows_per_chunk; line < end; line++) pool_row(p, line);
    }
}
