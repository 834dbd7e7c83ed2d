/* Vectors of LANES floats in the compilers' own vector types, so one source serves every target.

   The file that is compiled sets LANES (floats in a register) and TILE (pixels that a register tile
   holds against two vectors of filters: 2 * TILE sums, 2 weights, 2 broadcasts fill it). */
#ifndef CNN_SIMD_H
#define CNN_SIMD_H

#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef float vf_anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef int8_t vb __attribute__((vector_size(LANES)));
typedef int8_t vb_anywhere __attribute__((vector_size(LANES), aligned(1), may_alias));

#define PANEL (2 * LANES) /* filters that one weight panel holds */
#define INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define UNROLL(count) _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(count) PRAGMA(GCC unroll count)
#define ROLLED PRAGMA(GCC unroll 1)
#endif

/* GCC would else keep in registers, and spill, what a later turn of a loop reads again. */
#define LOAD_AGAIN __asm__ volatile("" : : : "memory")

INLINE vf load(const float *p) { return *(const vf_anywhere *)p; }
INLINE void store(float *p, vf v) { *(vf_anywhere *)p = v; }
INLINE vf splat(float s) { return s - (vf){0}; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_to(int64_t a, int64_t unit) { return ceil_div(a, unit) * unit; }
INLINE int64_t round_up(int64_t floats) { return round_to(floats, 32); }

/* The first `count` floats at p, at most LANES, and zeros behind them. */
INLINE vf load_part(const float *p, int64_t count) {
    if (count >= LANES) return load(p);
    vf v = {0};
    memcpy(&v, p, (size_t)most(0, count) * 4);
    return v;
}

INLINE void store_part(float *p, vf v, int64_t count) {
    if (count >= LANES) store(p, v);
    else memcpy(p, &v, (size_t)most(0, count) * 4);
}

/* v where `mask` is all ones, else 0. */
INLINE vf keep(vi mask, vf v) { return (vf)((vi)v & mask); }

INLINE vf blend(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

/* max(0, v); a NaN is not <= 0 and stays. */
INLINE vf relu(vf v) { return keep(~(v <= 0), v); }

#if LANES == 16
static const vi IOTA = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
static const vi IOTA = {0, 1, 2, 3, 4, 5, 6, 7};
#else
static const vi IOTA = {0, 1, 2, 3};
#endif

/* Lanes of a (indices from 0) and b (from LANES); the indices are constants after unrolling. */
INLINE vf shuffle(vf a, vf b, vi indices) {
#if defined(__clang__)
    vf result;
    UNROLL(LANES)
    for (int i = 0; i < LANES; i++)
        result[i] = indices[i] < LANES ? a[indices[i]] : b[indices[i] - LANES];
    return result;
#else
    return __builtin_shuffle(a, b, indices);
#endif
}

/* to[j][i] = from[i][j] for LANES x LANES floats: halves of ever smaller squares change places
   (Eklundh 1972). */
INLINE void transpose(const float *from, int64_t from_step, float *to, int64_t to_step) {
    vf rows[LANES];
    UNROLL(16)
    for (int i = 0; i < LANES; i++) rows[i] = load(from + i * from_step);
    UNROLL(4)
    for (int d = 1; d < LANES; d *= 2) {
        const vi low = (IOTA & d) == 0; /* lanes that stay in the upper row */
        const vi upper = (IOTA & low) | ((IOTA - d + LANES) & ~low);
        const vi lower = ((IOTA + d) & low) | ((IOTA + LANES) & ~low);
        UNROLL(16)
        for (int i = 0; i < LANES; i++) {
            if (i & d) continue;
            const vf a = rows[i], b = rows[i + d];
            rows[i] = shuffle(a, b, upper);
            rows[i + d] = shuffle(a, b, lower);
        }
    }
    UNROLL(16)
    for (int i = 0; i < LANES; i++) store(to + i * to_step, rows[i]);
}

/* Memory that will be read soon; a few lines at a time, so that fetching it never stalls. */
struct lines {
    const char *at, *end;
};

INLINE void prefetch_lines(struct lines *l, int64_t count) {
    for (; count > 0 && l->at < l->end; count--, l->at += 64) __builtin_prefetch(l->at, 0, 2);
}

#endif
