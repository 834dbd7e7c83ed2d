/* Activations and their gradients, element by element; out may be one of the inputs. */
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. */
struct pointwise {
    const float *dy, *x; /* of a gradient; forward both are x */
    const float *slopes; /* [period]: of each element, again and again from the first one on */
    float *out;
    int64_t elements, period, kind;
    float slope, low, high;
    int64_t elements_per_chunk, chunks; /* set by pointwise_plan */
};

enum { LEAK, LEAK_EACH, RELU_FORWARD, RELU_GRADIENT, CLIP, CLIP_GRADIENT };

static const int64_t POINTWISE_CHUNK = 16 << 10;

/* Choose chunks from the shape alone. `period` is a multiple of every variant's LANES. */
void pointwise_plan(struct pointwise *p) {
    p->elements_per_chunk = round_to(POINTWISE_CHUNK, p->period);
    p->chunks = ceil_div(p->elements, p->elements_per_chunk);
}

INLINE void point(const struct pointwise *p, int64_t i, int64_t slope, const int kind,
                  int64_t count) {
    const vf x = load_part(p->x + i, count), dy = load_part(p->dy + i, count);
    vf y = x;
    if (kind == LEAK) y = blend(x <= 0, dy * p->slope, dy);
    if (kind == LEAK_EACH) y = blend(x <= 0, dy * load(p->slopes + slope), dy);
    if (kind == RELU_FORWARD) y = relu(x);
    if (kind == RELU_GRADIENT) y = keep(~(x <= 0), dy);
    if (kind == CLIP) {
        y = blend(x < p->low, splat(p->low), x);
        y = blend(y > p->high, splat(p->high), y);
    }
    if (kind == CLIP_GRADIENT) y = keep(~((x <= p->low) | (x >= p->high)), dy);
    store_part(p->out + i, y, count);
}

INLINE void points(const struct pointwise *p, int64_t from, int64_t to, const int kind) {
    int64_t i = from, slope = 0;
    for (; i + LANES <= to; i += LANES) {
        point(p, i, slope, kind, LANES);
        if (kind == LEAK_EACH && (slope += LANES) == p->period) slope = 0;
    }
    if (i < to) point(p, i, slope, kind, to - i);
}

/* One thread's share of a call. */
void pointwise_run(const struct pointwise *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        const int64_t from = i * p->elements_per_chunk;
        const int64_t to = least(p->elements, from + p->elements_per_chunk);
        switch (p->kind) {
        case LEAK: points(p, from, to, LEAK); break;
        case LEAK_EACH: points(p, from, to, LEAK_EACH); break;
        case RELU_FORWARD: points(p, from, to, RELU_FORWARD); break;
        case RELU_GRADIENT: points(p, from, to, RELU_GRADIENT); break;
        case CLIP: points(p, from, to, CLIP); break;
        default: points(p, from, to, CLIP_GRADIENT);
        }
    }
}
