/* d ** exponent for vectors of positive numbers, to a few units in the last place. */
#ifndef CNN_POWER_H
#define CNN_POWER_H

#include "simd.h"

static const int32_t ROOT_HALF = 0x3f3504f3; /* the bits of sqrt(1/2), rounded */

/* 2 ** n for whole numbers n from -252 to 252, times v; halves of n, so that no factor overflows. */
INLINE vf scale_by_power_of_2(vf v, vi n) {
    const vi half = n >> 1;
    return v * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

/* d ** exponent = 2 ** (exponent * (e + log2 m)) for d = m * 2 ** e with sqrt(1/2) <= m < sqrt(2).
   With s = (m - 1) / (m + 1):  log2 m = 2 / ln 2 * (s + s^3 / 3 + s^5 / 5 + …), |s| < 0.172. */
INLINE vf power(vf d, float exponent) {
    const vi tiny = d < 0x1p-126f;
    const vf normal = blend(tiny, d * 0x1p24f, d);
    const vi above = (vi)normal - ROOT_HALF;
    const vf m = (vf)((above & 0x7fffff) + ROOT_HALF);
    const vf e = __builtin_convertvector((above >> 23) - (tiny & 24), vf);
    const vf s = (m - 1.0f) / (m + 1.0f), ss = s * s;
    vf log = ss * (1 / 9.0f) + 1 / 7.0f;
    log = log * ss + 1 / 5.0f;
    log = log * ss + 1 / 3.0f;
    log = (log * ss * s + s) * 2.88539008f;
    vf whole = exponent * e + exponent * log;
    whole = blend(whole < -252, splat(-252), whole);
    whole = blend(whole > 252, splat(252), whole);
    whole = (whole + 0x1.8p23f) - 0x1.8p23f; /* to the nearest whole number */
    vf r = (exponent * e - whole) + exponent * log;
    r = blend(r < -1, splat(-1), r); /* where `whole` was held: infinite or zero in any case */
    r = blend(r > 1, splat(1), r);
    vf y = r * 1.52527338e-5f + 1.54035304e-4f; /* ln(2)^k / k! from k = 7 down */
    y = y * r + 1.33335581e-3f;
    y = y * r + 9.61812911e-3f;
    y = y * r + 5.55041087e-2f;
    y = y * r + 2.40226507e-1f;
    y = y * r + 6.93147181e-1f;
    y = y * r + 1.0f;
    y = scale_by_power_of_2(y, __builtin_convertvector(whole, vi));
    const float end = exponent < 0 ? 0.0f : exponent > 0 ? __builtin_inff() : 1.0f;
    y = blend(d > 0x1.fffffep127f, splat(end), y);
    return blend(d != d, d, y);
}

#endif
