/* Vectors of LANES floats in the compilers' own vector types, so one source serves every target.

   The file that is compiled sets LANES (floats in a register) and TILE (pixels that a register tile
   holds against two vectors of filters: 2 * TILE sums + 2 weights + 2 broadcasts fit the registers).
*/
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

INLINE vf load(const float *p) { return *(const vf_anywhere *)p; }
INLINE void store(float *p, vf v) { *(vf_anywhere *)p = v; }
INLINE vf splat(float s) { return s - (vf){0}; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_up(int64_t floats) { return (floats + 31) & ~(int64_t)31; }

/* The first `count` floats at p and zeros behind them. */
INLINE vf load_part(const float *p, int64_t count) {
    vf v = {0};
    memcpy(&v, p, (size_t)most(0, least(count, LANES)) * 4);
    return v;
}

INLINE void store_part(float *p, vf v, int64_t count) {
    memcpy(p, &v, (size_t)most(0, least(count, LANES)) * 4);
}

/* v where `mask` is all ones, else 0. */
INLINE vf keep(vi mask, vf v) { return (vf)((vi)v & mask); }

INLINE vf blend(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

/* max(0, v); a NaN is not <= 0 and stays. */
INLINE vf relu(vf v) { return keep(~(v <= 0), v); }

/* Memory that will be read soon; a few lines at a time, so that fetching it never stalls. */
struct lines {
    const char *at, *end;
};

INLINE void prefetch_lines(struct lines *l, int64_t count) {
    for (; count > 0 && l->at < l->end; count--, l->at += 64) __builtin_prefetch(l->at, 0, 2);
}

#endif
