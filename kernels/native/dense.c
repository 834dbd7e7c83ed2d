/* Dense layers and both gradients, where they lie: nothing is packed or copied.

   Of few images the weights are the traffic: each is read, or written, once. Every sum runs in one
   order, however many images are here: each has the same bits. */
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. */
struct dense {
    const float *x, *w, *b, *dy, *mask; /* b, mask, db may be NULL */
    float *out, *db;
    int64_t images, features, outputs, relu, kind;
    int64_t size, chunks; /* set by dense_plan: outputs, or features of dgrad, in a chunk */
};

enum { DENSE, DENSE_DGRAD, DENSE_WGRAD };
enum { WEIGHTS_AT_ONCE = 4, PAIR = 2 * LANES };

static const int64_t DENSE_FLOATS = 128 << 10; /* 512 KiB: of images or weights, in L2 */
static const int64_t SUMS = 8 << 10;           /* 32 KiB: sums of dgrad, in L1 */
static const int64_t WGRAD_ROWS = 48;
enum { ROWS = 32 };   /* weights of a feature between two visits to its sums */
enum { STRIP = 128 }; /* images of whose features some are copied, to lie side by side */

/* Choose chunks from the shape alone. */
void dense_plan(struct dense *p) {
    const int64_t fit = round_to(DENSE_FLOATS / most(1, p->features) + 1, WEIGHTS_AT_ONCE);
    const int64_t strip = round_to(most(512, least(4096, SUMS / most(1, p->images))), 512);
    p->size = p->kind == DENSE ? fit : p->kind == DENSE_DGRAD ? strip : WGRAD_ROWS;
    p->chunks = ceil_div(p->kind == DENSE_DGRAD ? p->features : p->outputs, p->size);
}

INLINE float sum_lanes(vf v) {
    UNROLL(4)
    for (int d = LANES / 2; d > 0; d /= 2) v += shuffle(v, v, (IOTA + d) & (LANES - 1));
    return v[0];
}

/* The outputs of K rows of weights for N images: dot products, LANES sums each. */
INLINE void dots(const struct dense *p, struct lines *ahead, int64_t a_step, int64_t k, int64_t n,
                 const int K, const int N) {
    const float *w = p->w + k * p->features, *x = p->x + n * p->features;
    vf sum[WEIGHTS_AT_ONCE][6] = {0};
    for (int64_t c = 0; c < p->features; c += LANES) {
        const int64_t left = p->features - c;
        vf image[6];
        prefetch_lines(ahead, a_step);
        if (left >= LANES) {
            UNROLL(6)
            for (int i = 0; i < N; i++) image[i] = load(x + i * p->features + c);
            UNROLL(4)
            for (int j = 0; j < K; j++) {
                const vf weight = load(w + j * p->features + c);
                UNROLL(6)
                for (int i = 0; i < N; i++) sum[j][i] += weight * image[i];
            }
            continue;
        }
        UNROLL(6)
        for (int i = 0; i < N; i++) image[i] = load_part(x + i * p->features + c, left);
        UNROLL(4)
        for (int j = 0; j < K; j++) {
            const vf weight = load_part(w + j * p->features + c, left);
            UNROLL(6)
            for (int i = 0; i < N; i++) sum[j][i] += weight * image[i];
        }
    }
    UNROLL(6)
    for (int i = 0; i < N; i++) {
        UNROLL(4)
        for (int j = 0; j < K; j++) {
            const float y = sum_lanes(sum[j][i]) + (p->b ? p->b[k + j] : 0);
            p->out[(n + i) * p->outputs + k + j] = p->relu && y <= 0 ? 0 : y;
        }
    }
}

/* K rows of weights against the images [n, end), while the rows that follow are fetched. */
INLINE void dots_of(const struct dense *p, int64_t k, int64_t n, int64_t end, const int K) {
    const int64_t following = least(K, p->outputs - k - K);
    const float *w = p->w + (k + K) * p->features;
    struct lines ahead = {(const char *)w, (const char *)(w + following * p->features)};
    const int64_t a_step = ceil_div(K * LANES, 16 * ceil_div(end - n, 6));
#if TILE == 14
    for (; n + 6 <= end; n += 6) dots(p, &ahead, a_step, k, n, K, 6);
    for (; n + 3 <= end; n += 3) dots(p, &ahead, a_step, k, n, K, 3);
#endif
    for (; n + 2 <= end; n += 2) dots(p, &ahead, a_step, k, n, K, 2);
    if (n < end) dots(p, &ahead, a_step, k, n, K, 1);
}

/* Outputs [first, last), some images after the other: as many as stay in L2. */
static void forward_chunk(const struct dense *p, int64_t first, int64_t last) {
    const int64_t some = round_to(DENSE_FLOATS / most(1, p->features) + 1, 6);
    for (int64_t n = 0; n < p->images; n += some) {
        const int64_t end = least(p->images, n + some);
        int64_t k = first;
        for (; k + WEIGHTS_AT_ONCE <= last; k += WEIGHTS_AT_ONCE)
            dots_of(p, k, n, end, WEIGHTS_AT_ONCE);
        for (; k < last; k++) dots_of(p, k, n, end, 1);
    }
}

/* Add to a pair of vectors of N images what the outputs [first, last) send back. */
INLINE void send_back(const struct dense *p, const float *w, int64_t w_step, int64_t n, int64_t c,
                      int64_t first, int64_t last, const int N, const int WHOLE) {
    const int64_t left = WHOLE ? PAIR : p->features - c;
    const float *dy = p->dy + n * p->outputs;
    float *out = p->out + n * p->features + c;
    vf sum[8][2] = {0};
    UNROLL(8)
    for (int i = 0; first && i < N; i++) {
        sum[i][0] = load_part(out + i * p->features, left);
        sum[i][1] = load_part(out + i * p->features + LANES, left - LANES);
    }
    ROLLED
    for (int64_t k = first; k < last; k++, w += w_step) {
        const vf low = load_part(w, left), high = load_part(w + LANES, left - LANES);
        UNROLL(8)
        for (int i = 0; i < N; i++) {
            const vf d = splat(dy[i * p->outputs + k]);
            sum[i][0] += d * low;
            sum[i][1] += d * high;
        }
    }
    UNROLL(8)
    for (int i = 0; i < N; i++) {
        store_part(out + i * p->features, sum[i][0], left);
        store_part(out + i * p->features + LANES, sum[i][1], left - LANES);
    }
}

INLINE void send_back_all(const struct dense *p, int64_t c, int64_t first, int64_t last,
                          const int WHOLE) {
    const float *w = p->w + first * p->features + c;
    int64_t n = 0, step = p->features;
    float near[ROWS][PAIR];
    if (WHOLE && p->images > 8) { /* rows a power of two apart would share few lines of L1 */
        for (int64_t k = first; k < last; k++, w += step) memcpy(near[k - first], w, sizeof near[0]);
        w = near[0], step = PAIR;
    }
#if TILE == 14
    for (; n + 8 <= p->images; n += 8) send_back(p, w, step, n, c, first, last, 8, WHOLE);
#endif
    for (; n + 4 <= p->images; n += 4) send_back(p, w, step, n, c, first, last, 4, WHOLE);
    for (; n + 2 <= p->images; n += 2) send_back(p, w, step, n, c, first, last, 2, WHOLE);
    if (n < p->images) send_back(p, w, step, n, c, first, last, 1, WHOLE);
}

/* Features [first, last): some outputs after the other, whose weights are asked for in time. */
static void dgrad_chunk(const struct dense *p, int64_t first, int64_t last) {
    const int64_t lines = ceil_div((last - first) * 4, 64), pairs = ceil_div(last - first, PAIR);
    int64_t k = 0;
    do {
        const int64_t end = least(p->outputs, k + ROWS), next = least(ROWS, p->outputs - end);
        const int64_t a_pair = ceil_div(next * lines, pairs);
        int64_t asked = 0;
        for (int64_t c = first; c < last; c += PAIR) {
            for (int64_t i = 0; i < a_pair && asked < next * lines; i++, asked++)
                __builtin_prefetch(p->w + (end + asked / lines) * p->features + first +
                                   asked % lines * 16, 0, 2);
            if (c + PAIR <= last) send_back_all(p, c, k, end, 1);
            else send_back_all(p, c, k, end, 0);
        }
        k = end;
    } while (k < p->outputs);
    for (int64_t c = first; (p->mask || p->db) && c < last; c += LANES) {
        vf total = {0};
        for (int64_t n = 0; n < p->images; n++) {
            float *at = p->out + n * p->features + c;
            vf dx = load_part(at, last - c);
            if (p->mask) {
                dx = keep(~(load_part(p->mask + n * p->features + c, last - c) <= 0), dx);
                store_part(at, dx, last - c);
            }
            total += dx;
        }
        if (p->db) store_part(p->db + c, total, last - c);
    }
}

/* A pair of vectors of K rows of the weights' gradient: a sum over the images [first, last), x
   [image, PAIR], added to those before. */
INLINE void outer(const struct dense *p, float (*x)[PAIR], int64_t first, int64_t last, int64_t k,
                  int64_t c, const int K, const int WHOLE) {
    const int64_t left = WHOLE ? PAIR : p->features - c;
    const float *dy = p->dy + first * p->outputs + k;
    float *out = p->out + k * p->features + c;
    vf sum[12][2] = {0};
    UNROLL(12)
    for (int j = 0; first && j < K; j++) {
        sum[j][0] = load_part(out + j * p->features, left);
        sum[j][1] = load_part(out + j * p->features + LANES, left - LANES);
    }
    ROLLED
    for (int64_t n = first; n < last; n++, x++, dy += p->outputs) {
        const vf low = load(*x), high = load(*x + LANES);
        UNROLL(12)
        for (int j = 0; j < K; j++) {
            const vf d = splat(dy[j]);
            sum[j][0] += d * low;
            sum[j][1] += d * high;
        }
    }
    UNROLL(12)
    for (int j = 0; j < K; j++) {
        store_part(out + j * p->features, sum[j][0], left);
        store_part(out + j * p->features + LANES, sum[j][1], left - LANES);
    }
}

INLINE void outer_all(const struct dense *p, float (*x)[PAIR], int64_t first, int64_t last,
                      int64_t k, int64_t end, int64_t c, const int WHOLE) {
#if TILE == 14
    for (; k + 12 <= end; k += 12) outer(p, x, first, last, k, c, 12, WHOLE);
#endif
    for (; k + 4 <= end; k += 4) outer(p, x, first, last, k, c, 4, WHOLE);
    for (; k < end; k++) outer(p, x, first, last, k, c, 1, WHOLE);
}

/* Outputs [first, last): a pair of vectors of features after the other. */
static void wgrad_chunk(const struct dense *p, int64_t first, int64_t last) {
    float x[STRIP][PAIR];
    for (int64_t c = 0; c < p->features; c += PAIR) {
        int64_t n = 0;
        do {
            const int64_t end = least(p->images, n + STRIP), left = p->features - c;
            for (int64_t i = n; i < end; i++) {
                store(x[i - n], load_part(p->x + i * p->features + c, left));
                store(x[i - n] + LANES, load_part(p->x + i * p->features + c + LANES, left - LANES));
            }
            if (left >= PAIR) outer_all(p, x, n, end, first, last, c, 1);
            else outer_all(p, x, n, end, first, last, c, 0);
            n = end;
        } while (n < p->images);
    }
}

/* One thread's share of a call. */
void dense_run(const struct dense *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        const int64_t whole = p->kind == DENSE_DGRAD ? p->features : p->outputs;
        const int64_t first = i * p->size, last = least(whole, first + p->size);
        if (p->kind == DENSE) forward_chunk(p, first, last);
        else if (p->kind == DENSE_DGRAD) dgrad_chunk(p, first, last);
        else wgrad_chunk(p, first, last);
    }
}
