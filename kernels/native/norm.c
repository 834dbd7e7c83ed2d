/* Batch norm over the pixels of a matrix [pixels, channels], chunk by chunk.

   Statistics: each chunk sums around its own mean, while it is in cache; the caller joins the chunks
   (Chan, Golub & LeVeque 1983), so memory is read once and a mean far from zero costs no digits.
   Every sum runs over the pixels of a chunk in order. */
#include "channels.h"
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. Vectors have one number a channel. */
struct norm {
    const float *x, *dy, *mask;
    const float *mean, *scale, *shift, *slope;
    float *out, *sums; /* sums: [chunks, 2, channels] */
    int64_t pixels, channels;
    int64_t x_pitch, dy_pitch, mask_pitch, out_pitch;
    int64_t stage, relu;
    int64_t pixels_per_chunk, chunks; /* set by norm_plan */
};

enum { STATISTICS, NORMALISE, GRADIENTS, SPREAD };

static const int64_t CHUNK = 64 << 10; /* floats of one array in a chunk */

/* Choose chunks from the shape alone. */
void norm_plan(struct norm *p) {
    p->pixels_per_chunk = most(1, CHUNK / most(1, p->channels));
    p->chunks = ceil_div(p->pixels, p->pixels_per_chunk);
}

/* sums[0] = the mean of pixels from … to - 1, sums[1] = the sum of squares around it. */
INLINE void statistics(const struct norm *p, int64_t from, int64_t to, float *sums, int64_t c,
                       const int vectors, const int64_t count) {
    const vf share = splat(1.0f / (float)(to - from));
    vf mean[WIDE] = {{0}}, rest[WIDE] = {{0}}, squares[WIDE] = {{0}};
    for (int64_t m = from; m < to; m++) {
        const float *x = p->x + m * p->x_pitch + c;
        UNROLL(4)
        for (int i = 0; i < vectors; i++) mean[i] += load_part(x + i * LANES, count);
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++) mean[i] *= share;
    for (int64_t m = from; m < to; m++) {
        const float *x = p->x + m * p->x_pitch + c;
        UNROLL(4)
        for (int i = 0; i < vectors; i++) {
            const vf off = load_part(x + i * LANES, count) - mean[i];
            rest[i] += off;
            squares[i] += off * off;
        }
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++) { /* what rounding left between the mean and the true one */
        float *to_mean = sums + c + i * LANES;
        store_part(to_mean, mean[i] + rest[i] * share, count);
        store_part(to_mean + p->channels, squares[i] - rest[i] * rest[i] * share, count);
    }
}

/* out = (x - mean) * scale + shift, then max(0, .) if `relu`. */
INLINE void normalise(const struct norm *p, int64_t m, const int relu_too, int64_t c,
                      const int vectors, const int64_t count) {
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        const int64_t k = c + i * LANES;
        vf y = load_part(p->x + m * p->x_pitch + k, count) - load_part(p->mean + k, count);
        y = y * load_part(p->scale + k, count) + load_part(p->shift + k, count);
        store_part(p->out + m * p->out_pitch + k, relu_too ? relu(y) : y, count);
    }
}

INLINE vf gradient(const struct norm *p, int64_t m, int64_t k, const int masked, int64_t count) {
    const vf dy = load_part(p->dy + m * p->dy_pitch + k, count);
    if (!masked) return dy;
    return keep(~(load_part(p->mask + m * p->mask_pitch + k, count) <= 0), dy);
}

/* sums[0] = the sum of the gradient, sums[1] = the sum of it times x - mean. */
INLINE void gradients(const struct norm *p, int64_t from, int64_t to, float *sums,
                      const int masked, int64_t c, const int vectors, const int64_t count) {
    vf mean[WIDE], plain[WIDE] = {{0}}, product[WIDE] = {{0}};
    UNROLL(4)
    for (int i = 0; i < vectors; i++) mean[i] = load_part(p->mean + c + i * LANES, count);
    for (int64_t m = from; m < to; m++) {
        UNROLL(4)
        for (int i = 0; i < vectors; i++) {
            const int64_t k = c + i * LANES;
            const vf g = gradient(p, m, k, masked, count);
            plain[i] += g;
            product[i] += g * (load_part(p->x + m * p->x_pitch + k, count) - mean[i]);
        }
    }
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        store_part(sums + c + i * LANES, plain[i], count);
        store_part(sums + p->channels + c + i * LANES, product[i], count);
    }
}

/* out = (gradient - shift - (x - mean) * slope) * scale. */
INLINE void spread(const struct norm *p, int64_t m, const int masked, int64_t c,
                   const int vectors, const int64_t count) {
    UNROLL(4)
    for (int i = 0; i < vectors; i++) {
        const int64_t k = c + i * LANES;
        const vf off = load_part(p->x + m * p->x_pitch + k, count) - load_part(p->mean + k, count);
        vf g = gradient(p, m, k, masked, count) - load_part(p->shift + k, count);
        g = (g - off * load_part(p->slope + k, count)) * load_part(p->scale + k, count);
        store_part(p->out + m * p->out_pitch + k, g, count);
    }
}

static void norm_chunk(const struct norm *p, int64_t chunk) {
    const int64_t from = chunk * p->pixels_per_chunk;
    const int64_t to = least(p->pixels, from + p->pixels_per_chunk);
    float *sums = p->sums + chunk * 2 * p->channels;
    switch (p->stage) {
    case STATISTICS: FOR_CHANNELS(statistics, p, from, to, sums); break;
    case GRADIENTS:
        if (p->mask) FOR_CHANNELS(gradients, p, from, to, sums, 1);
        else FOR_CHANNELS(gradients, p, from, to, sums, 0);
        break;
    case NORMALISE:
        for (int64_t m = from; m < to; m++)
            if (p->relu) FOR_CHANNELS(normalise, p, m, 1);
            else FOR_CHANNELS(normalise, p, m, 0);
        break;
    default:
        for (int64_t m = from; m < to; m++)
            if (p->mask) FOR_CHANNELS(spread, p, m, 1);
            else FOR_CHANNELS(spread, p, m, 0);
    }
}

/* One thread's share of a stage. */
void norm_run(const struct norm *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) norm_chunk(p, i);
}
