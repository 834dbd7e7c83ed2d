#define LANES 16
#define TILE 14
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
