/* Dropout by Philox4x32-10 (Salmon et al. 2011; `kernels/philox.py`); out may be x. */
#include "simd.h"
#include "tickets.h"

/* kernels/native/library.py mirrors this field by field. */
struct dropout {
    const float *x;
    const uint32_t *key; /* seed low, seed high, step, stream */
    float *out;
    int64_t elements, threshold;
    float share;    /* of the elements that are kept */
    int64_t chunks; /* set by dropout_plan */
};

enum { BLOCKS = 64, NUMBERS = 4 * BLOCKS }; /* four numbers a block */

static const int64_t DROPOUT_CHUNK = 32 * NUMBERS;

/* Choose chunks from the shape alone. */
void dropout_plan(struct dropout *p) { p->chunks = ceil_div(p->elements, DROPOUT_CHUNK); }

/* Blocks first … first + BLOCKS - 1 of a stream. */
static void philox(const uint32_t *key, uint64_t first, uint32_t *numbers) {
    for (uint64_t block = 0; block < BLOCKS; block++) {
        const uint64_t counter = first + block;
        uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = key[2], c3 = key[3];
        uint32_t k0 = key[0], k1 = key[1];
        UNROLL(10)
        for (int round = 0; round < 10; round++) {
            const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)b;
            c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)a;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        numbers[4 * block] = c0;
        numbers[4 * block + 1] = c1;
        numbers[4 * block + 2] = c2;
        numbers[4 * block + 3] = c3;
    }
}

/* One thread's share of a call. */
void dropout_run(const struct dropout *p, struct tickets *shared, float *scratch) {
    (void)scratch;
    const int32_t sign = INT32_MIN; /* signed comparisons of numbers less 2 ** 31 */
    const vi least_kept = (vi){0} + ((int32_t)(uint32_t)p->threshold ^ sign);
    uint32_t numbers[NUMBERS], key[4];
    memcpy(key, p->key, sizeof key);
    for (int64_t i; (i = atomic_fetch_add(&shared->first, 1)) < p->chunks;) {
        const int64_t end = least(p->elements, (i + 1) * DROPOUT_CHUNK);
        for (int64_t from = i * DROPOUT_CHUNK; from < end; from += NUMBERS) {
            philox(key, (uint64_t)from / 4, numbers);
            const int64_t count = least(NUMBERS, end - from);
            for (int64_t j = 0; j < count; j += LANES) {
                vi number;
                memcpy(&number, numbers + j, sizeof number);
                const vf kept = load_part(p->x + from + j, count - j) / p->share;
                store_part(p->out + from + j, keep((number ^ sign) >= least_kept, kept), count - j);
            }
        }
    }
}
