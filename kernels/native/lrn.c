/* Local response normalisation and its gradient, over the channels of one pixel at a time.

   Sums over neighbouring channels read squares from rows of scratch memory with zeros on both
   sides; a block of pixels goes through one stage before the next, so that what a stage stored is
   in the L1 cache, and no longer on its way there, when it is read at other offsets. */
#include "channels.h"
#include "power.h"
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. */
struct lrn {
    const float *x, *dy; /* dy: NULL forward */
    float *out;
    int64_t pixels, channels, x_pitch, dy_pitch, out_pitch;
    int64_t before, after; /* neighbours that count on either side, fewer than channels */
    float scale, k, exponent, slope; /* alpha / size, k, -beta, 2 alpha beta / size */
    int64_t pixels_per_block, pixels_per_chunk, chunks, scratch_floats; /* set by lrn_plan */
};

static const int64_t BLOCK_FLOATS = 2 << 10, LRN_CHUNK = 16 << 10; /* of scratch; of x */

static int64_t row_floats(const struct lrn *p) {
    return p->before + p->channels + p->after;
}

/* Choose blocks and chunks from the shape alone. */
void lrn_plan(struct lrn *p) {
    const int64_t row = row_floats(p);
    p->pixels_per_block = most(1, BLOCK_FLOATS / most(1, row));
    p->pixels_per_chunk = round_to(most(1, LRN_CHUNK / most(1, p->channels)), p->pixels_per_block);
    p->chunks = ceil_div(p->pixels, p->pixels_per_chunk);
    p->scratch_floats = 3 * (p->pixels_per_block * row + LANES); /* of lrn_block */
}

INLINE void square(const struct lrn *p, const float *x, float *squares, int64_t c,
                   const int vectors, const int64_t count) {
    (void)p;
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        const vf v = load_part(x + c + i * LANES, count);
        store_part(squares + c + i * LANES, v * v, count);
    }
}

/* sums[i] = the sum over `taps` floats from each of those at `from`. */
INLINE void window_sums(const float *from, int64_t taps, vf *sums, const int vectors) {
    UNROLL(4)
    for (int i = 0; i < vectors; i++) sums[i] = load(from + i * LANES);
    for (int64_t t = 1; t < taps; t++) {
        UNROLL(4)
        for (int i = 0; i < vectors; i++) sums[i] += load(from + t + i * LANES);
    }
}

/* out = x * d ** -beta; in the gradient dy * d ** -beta, and shares = dy * x * d ** (-beta - 1). */
INLINE void respond(const struct lrn *p, const float *squares, const float *x, const float *dy,
                    float *shares, float *out, int64_t c, const int vectors, const int64_t count) {
    vf sums[WIDE];
    window_sums(squares + c, p->before + 1 + p->after, sums, vectors);
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        const vf d = sums[i] * p->scale + p->k, value = load_part(x + c + i * LANES, count);
        const vf given = dy ? load_part(dy + c + i * LANES, count) : value;
        const vf y = given * power(d, p->exponent);
        store_part(out + c + i * LANES, y, count);
        if (dy) store_part(shares + c + i * LANES, y / d * value, count);
    }
}

/* dx = dy * d ** -beta - slope * x * the sum of shares over the mirrored window. */
INLINE void collect(const struct lrn *p, const float *shares, const float *direct, const float *x,
                    float *out, int64_t c, const int vectors, const int64_t count) {
    vf sums[WIDE];
    window_sums(shares + c, p->before + 1 + p->after, sums, vectors);
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        const vf part = load_part(x + c + i * LANES, count) * p->slope * sums[i];
        store_part(out + c + i * LANES, load(direct + c + i * LANES) - part, count);
    }
}

static void lrn_block(const struct lrn *p, int64_t from, int64_t to, float *squares) {
    const int64_t row = row_floats(p);
    float *shares = squares + p->scratch_floats / 3, *direct = shares + p->scratch_floats / 3;
    const float *x = p->x + from * p->x_pitch;
    const float *dy = p->dy ? p->dy + from * p->dy_pitch : NULL;
    float *out = p->out + from * p->out_pitch;
    for (int64_t m = 0; m < to - from; m++)
        FOR_CHANNELS(square, p, x + m * p->x_pitch, squares + m * row + p->before);
    if (!dy) {
        for (int64_t m = 0; m < to - from; m++)
            FOR_CHANNELS(respond, p, squares + m * row, x + m * p->x_pitch, NULL, NULL,
                         out + m * p->out_pitch);
        return;
    }
    for (int64_t m = 0; m < to - from; m++)
        FOR_CHANNELS(respond, p, squares + m * row, x + m * p->x_pitch, dy + m * p->dy_pitch,
                     shares + m * row + p->after, direct + m * row);
    for (int64_t m = 0; m < to - from; m++)
        FOR_CHANNELS(collect, p, shares + m * row, direct + m * row, x + m * p->x_pitch,
                     out + m * p->out_pitch);
}

/* One thread's share of a call. */
void lrn_run(const struct lrn *p, struct tickets *shared, float *scratch) {
    memset(scratch, 0, (size_t)p->scratch_floats * 4);
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        const int64_t end = least(p->pixels, (i + 1) * p->pixels_per_chunk);
        for (int64_t m = i * p->pixels_per_chunk; m < end; m += p->pixels_per_block)
            lrn_block(p, m, least(end, m + p->pixels_per_block), scratch);
    }
}
