#define LANES 16
#define TILE 14
#include "correlate.c"
