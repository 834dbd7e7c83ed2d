// Zeros for the border of an image batch (grid.cuh): what lies beside and below the images.
#include "grid.cuh"

constexpr int THREADS = 256;

// A thread for each channel of each position of the border; `beside` positions lie on the right of
// the rows of an image, then come whole lines below them.
template <class T>
__global__ void __launch_bounds__(THREADS) zero_border_kernel(
    T* out,  // [N, H, W, C]
    long long count, int H, int W, int C, int lines, int line, int pitch  // count: N * places * C
) {
    const long long i = blockIdx.x * (long long)THREADS + threadIdx.x;
    if (i >= count) return;
    const int columns = line - W, beside = H * columns, places = beside + (lines - H) * line;
    const int c = i % C, place = i / C % places, n = i / C / places;
    const bool below = place >= beside;
    const int h = below ? H + (place - beside) / line : place / columns;
    const int w = below ? (place - beside) % line : W + place % columns;
    out[Grid{lines, line, pitch}.place(n, h, w) + c] = narrow<T>(0.0f);
}
