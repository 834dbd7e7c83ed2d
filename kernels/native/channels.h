/* How a function that works pixel by pixel covers the channels of one. */
#ifndef CNN_CHANNELS_H
#define CNN_CHANNELS_H

#include "simd.h"
#if LANES > 4
#include <immintrin.h>
#endif

enum { WIDE = 4 }; /* vectors side by side, so that additions need not wait for each other */

/* Call function(…, first channel, vectors, floats in a vector) for blocks that cover all channels.
   The last may overlap the one before: it computes the same again. */
#define FOR_CHANNELS(function, p, ...)                                                       \
    do {                                                                                     \
        const int64_t all = (p)->channels;                                                   \
        int64_t c = 0;                                                                       \
        for (; c + WIDE * LANES <= all; c += WIDE * LANES)                                   \
            function(p, __VA_ARGS__, c, WIDE, LANES);                                        \
        for (; c + LANES <= all; c += LANES) function(p, __VA_ARGS__, c, 1, LANES);          \
        if (c < all && all >= LANES) function(p, __VA_ARGS__, all - LANES, 1, LANES);        \
        else if (c < all) function(p, __VA_ARGS__, 0, 1, all);                               \
    } while (0)

/* int8 as int32. Where there is one instruction for it GCC 12 has to be told, and would else move
   one lane after the other. */
INLINE vi widen_code(vb code) {
#if LANES == 16
    return (vi)_mm512_cvtepi8_epi32((__m128i)code);
#elif LANES == 8
    return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)code));
#else
    return __builtin_convertvector(code, vi);
#endif
}

/* A vector of int8 codes, of which the first `count` are in memory, as int32. */
INLINE vi load_code(const int8_t *p, int64_t count) {
    vb code = {0};
    if (count >= LANES) code = *(const vb_anywhere *)p;
    else memcpy(&code, p, (size_t)count);
    return widen_code(code);
}

INLINE void store_code(int8_t *p, vi v, int64_t count) {
    const vb code = __builtin_convertvector(v, vb);
    if (count >= LANES) *(vb_anywhere *)p = code;
    else memcpy(p, &code, (size_t)count);
}

#endif
