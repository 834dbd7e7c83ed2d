#define LANES 4
#if defined(__aarch64__)
#define TILE 14
#else
#define TILE 6
#endif
#include "correlate.c"
#include "dense.c"
#include "dropout.c"
#include "lrn.c"
#include "norm.c"
#include "pointwise.c"
#include "pool.c"
#include "sources.c"
#include "unpool.c"
#include "wgrad.c"
#include "winograd.c"

/* The widest variant that this processor and its system run: 2 avx512, 1 avx2, 0 generic. */
int widest(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
