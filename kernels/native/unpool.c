/* The gradient of the fused ReLU and 2x2 max pool: dy where its code points, 0 elsewhere. */
#include "channels.h"
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. */
struct unpool {
    const float *dy;
    const int8_t *code;
    float *out, *db; /* db: [chunks, channels], or NULL */
    int64_t images, rows, cols, channels; /* of out */
    int64_t dy_pitch, out_pitch;
    int64_t images_per_chunk, chunks; /* set by unpool_plan */
};

static const int64_t CHUNK_PIXELS = 32 << 10; /* floats of out that a chunk writes, or one image */

/* Choose chunks from the shape alone. */
void unpool_plan(struct unpool *p) {
    const int64_t image = p->rows * p->cols * p->channels;
    p->images_per_chunk = most(1, CHUNK_PIXELS / most(1, image));
    p->chunks = ceil_div(p->images, p->images_per_chunk);
}

static void zero_run(const struct unpool *p, int64_t pixel, int64_t count) {
    for (int64_t i = pixel; i < pixel + count; i++)
        memset(p->out + i * p->out_pitch, 0, (size_t)p->channels * 4);
}

static void unpool_image(const struct unpool *p, int64_t image, float *db) {
    const int64_t half_rows = p->rows / 2, half_cols = p->cols / 2;
    for (int64_t i = 0; i < half_rows; i++) {
        const int64_t top = (image * p->rows + 2 * i) * p->cols;
        for (int64_t j = 0; j < half_cols; j++) {
            const int64_t from = (image * half_rows + i) * half_cols + j;
            for (int64_t c = 0; c < p->channels; c += LANES) {
                const int64_t left = p->channels - c;
                const float *at = p->dy + from * p->dy_pitch + c;
                const vf dy = load_part(at, left);
                const vi code = load_code(p->code + from * p->channels + c, left);
                float *to = p->out + (top + 2 * j) * p->out_pitch + c;
                for (int32_t k = 0; k < 4; k++) {
                    float *place = to + (k / 2 * p->cols + k % 2) * p->out_pitch;
                    store_part(place, keep(code == k, dy), left);
                }
                if (db) {
                    const vf sum = load_part(db + c, left);
                    store_part(db + c, sum + keep(code < 4, dy), left);
                }
            }
        }
        if (p->cols % 2) {
            zero_run(p, top + p->cols - 1, 1);
            zero_run(p, top + 2 * p->cols - 1, 1);
        }
    }
    if (p->rows % 2) zero_run(p, (image * p->rows + p->rows - 1) * p->cols, p->cols);
}

/* One thread's share of a call. */
void unpool_run(const struct unpool *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        float *db = p->db ? p->db + i * p->channels : NULL;
        if (db) memset(db, 0, (size_t)p->channels * 4);
        const int64_t end = least(p->images, (i + 1) * p->images_per_chunk);
        for (int64_t image = i * p->images_per_chunk; image < end; image++)
            unpool_image(p, image, db);
    }
}
